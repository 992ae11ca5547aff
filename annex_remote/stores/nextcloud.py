"""Large uploads to Nextcloud in chunks, version 2: a proxy or PHP in front of it may refuse large bodies.

https://docs.nextcloud.com/server/latest/developer_manual/client_apis/WebDAV/chunking.html
"""

from __future__ import annotations

import json
import re
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count

from annex_remote.errors import NotFound, SwarmError, Unavailable
from annex_remote.model import OpenAt
from annex_remote.stores.http import Client

__all__ = ["Chunking"]

LARGE = 100 << 20
"""Bytes from which on a share is sent in chunks."""
CHUNK = 64 << 20
"""Bytes of a chunk; Nextcloud takes 5 MB to 5 GB, and 10,000 of them."""
_CHUNKS = 10_000
_FILES = re.compile(r"(?P<server>.*)/remote\.php/dav/files/(?P<user>[^/]+)(?:/.*)?\Z")
_POLLS = 60
_POLL = 5.0
"""Putting the chunks together may take longer than a proxy waits: the file is looked for so often, every so many
seconds."""


class Chunking:
    """Chunked uploads below `root`, where the server has them; thread safe."""

    def __init__(
        self,
        client: Client,
        root: str,
        *,
        large: int = LARGE,
        chunk: int = CHUNK,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._place = _FILES.match(root)
        self._large = large
        self._chunk = chunk
        self._sleep = sleep
        self._lock = threading.Lock()
        self._offered: bool | None = None

    def suits(self, size: int, doing: str) -> bool:
        """True if the server offers chunks, and `size` is large enough for them."""
        if self._place is None or size < self._large:
            return False
        with self._lock:
            if self._offered is None:
                self._offered = self._ask(self._place["server"], doing)
            return self._offered

    def _ask(self, server: str, doing: str) -> bool:
        try:
            answer = self._client.ask(
                "GET",
                f"{server}/ocs/v2.php/cloud/capabilities",
                doing,
                params={"format": "json"},
                headers={"OCS-APIRequest": "true"},
            )
            capabilities = json.loads(answer.body)["ocs"]["data"]["capabilities"]
            return str(capabilities["dav"]["chunking"]) == "1.0"
        except (NotFound, ValueError, KeyError, TypeError):
            return False

    def put(self, target: str, size: int, open_at: OpenAt, doing: str) -> None:
        """Send a share in chunks and have it put together at `target`, a quoted path."""
        assert self._place is not None
        folder = (
            f"{self._place['server']}/remote.php/dav/uploads/{self._place['user']}/swarm-{secrets.token_hex(16)}"
        )
        headers = {"Destination": self._client.origin + target, "OC-Total-Length": str(size)}
        self._client.ask("MKCOL", folder, doing, headers=headers, ok=(201,))
        try:
            length = max(self._chunk, -(-size // _CHUNKS))
            for number in count(1):
                start = (number - 1) * length
                last = start + length >= size
                self._client.send(
                    "PUT",
                    f"{folder}/{number:05}",
                    doing,
                    min(length, size - start),
                    open_at,
                    start=start,
                    is_part=not last,
                    headers=headers,
                )
                if last:
                    break
            self._assemble(folder, target, size, headers, doing)
        except BaseException:
            with suppress(SwarmError):
                self._client.ask("DELETE", folder, "tidying up", ok=(200, 204, 404))
            raise

    def _assemble(self, folder: str, target: str, size: int, headers: dict[str, str], doing: str) -> None:
        try:
            self._client.ask("MOVE", f"{folder}/.file", doing, headers=headers, ok=(201, 204))
            return
        except Unavailable as error:
            failed = error
        # The server may be at it still, and a second MOVE would find the chunks gone.
        for _ in range(_POLLS):
            with suppress(NotFound, Unavailable):
                if self._client.size(target, doing) == size:
                    return
            try:
                self._client.ask("PROPFIND", folder, doing, headers={"Depth": "0"}, ok=(207,))
            except NotFound:
                pass  # the chunks are gone, so it has come, or comes in a moment
            except Unavailable:
                pass
            self._sleep(_POLL)
        raise failed
