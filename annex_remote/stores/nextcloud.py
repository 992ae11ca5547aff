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

from annex_remote.errors import Busy, Denied, Exists, NotFound, StoreError, SwarmError, Unavailable
from annex_remote.model import OpenAt
from annex_remote.stores.http import Client, failure

__all__ = ["Chunking"]

LARGE = 100 << 20
"""Bytes from which on a share is sent in chunks."""
CHUNK = 64 << 20
"""Bytes of a chunk; Nextcloud takes 5 MB to 5 GB, and 10,000 of them."""
_CHUNKS = 10_000
_FILES = re.compile(r"(?P<server>.*)/remote\.php/dav/files/(?P<user>[^/]+)(?:/.*)?\Z")
_UNSURE = (202, 408, 502, 504, 522, 524)
"""Answers of whoever stands in front of the server and has waited long enough, or of a server that goes on."""
_POLLS = 60
_POLL = 5.0
"""Putting the chunks together may take longer than a proxy waits: we look so often, every so many seconds."""
_DOUBTS = 5
"""Looks that show neither chunks nor share, or are not answered, before it has come to nothing."""


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
        except Denied as error:
            if error.wants_login:
                raise
            return False
        except (NotFound, ValueError, KeyError, TypeError):
            return False

    def put(self, target: str, size: int, open_at: OpenAt, doing: str, *, fresh: bool = False) -> None:
        """Send a share in chunks and have it put together at `target`, a quoted path; see `model.Store.put`."""
        assert self._place is not None
        folder = (
            f"{self._place['server']}/remote.php/dav/uploads/{self._place['user']}/swarm-{secrets.token_hex(16)}"
        )
        headers = {"Destination": self._client.origin + target, "OC-Total-Length": str(size)}
        try:
            self._client.ask("MKCOL", folder, doing, headers=headers, ok=(201,))
            length = max(self._chunk, -(-size // _CHUNKS))
            for number, start in enumerate(range(0, size, length), 1):
                self._client.send(
                    "PUT",
                    f"{folder}/{number:05}",
                    doing,
                    min(length, size - start),
                    open_at,
                    start=start,
                    is_part=start + length < size,
                    headers=headers,
                )
            doubt = self._assemble(folder, headers | ({"Overwrite": "F"} if fresh else {}), doing)
        except BaseException:
            with suppress(SwarmError):
                self._client.ask("DELETE", folder, "tidying up", headers=headers, ok=(200, 204, 404))
            raise
        if doubt is not None:
            self._wait(folder, target, size, doing, doubt)

    def _assemble(self, folder: str, headers: dict[str, str], doing: str) -> StoreError | None:
        """Have the chunks put together; return why nobody knows whether they are, None if they are."""
        try:
            answer = self._client.ask("MOVE", f"{folder}/.file", doing, headers=headers, ok=range(200, 600))
        except Unavailable as error:
            return error
        if answer.status in (200, 201, 204):
            return None
        if answer.status in _UNSURE:
            return failure(answer, doing)
        if answer.status == 412 and "Overwrite" in headers:
            with suppress(NotFound):
                self._client.size(headers["Destination"].removeprefix(self._client.origin), doing)
                raise Exists(f"{doing}: {self._client.host} has it already")
        raise failure(answer, doing)

    def _wait(self, folder: str, target: str, size: int, doing: str, doubt: StoreError) -> None:
        """Wait for a share to be put together; raises `Unavailable` if it is not.

        The server may be at it still: a second MOVE would be in its way, and so would removing the chunks, which
        it does itself after a day. They go last: as long as they are there, `target` has what was there before.
        """
        doubts = 0
        for _ in range(_POLLS):
            self._sleep(_POLL)
            try:
                if self._is_there(folder, doing):
                    continue
                if self._client.size(target, doing) == size:
                    return
                doubts += 1
            except (NotFound, Unavailable):
                doubts += 1
            except Busy:
                continue
            if doubts == _DOUBTS:
                break
        raise Unavailable(
            f"{doing}: {self._client.host} has not put together what it was sent: its log may say why"
        ) from doubt

    def _is_there(self, folder: str, doing: str) -> bool:
        try:
            self._client.ask("PROPFIND", folder, doing, headers={"Depth": "0"}, ok=(207,))
        except NotFound:
            return False
        return True
