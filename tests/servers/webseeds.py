"""Web seeds (BEP 19) that are no good. A good one is `nginx_static`, with the content below its `root`."""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.servers.nginx import Nginx
from tests.servers.own_web import OwnWeb, send

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_LIES = bytes(byte ^ 0xFF for byte in range(256))


def nginx_without_ranges(folder: Path) -> Nginx:
    """nginx that answers who asks for a part with the whole file."""
    return Nginx(folder, location="max_ranges 0;")


class LyingSeed(OwnWeb):
    """Has all files below `root`, and says other bytes than theirs: none is right."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        status, headers, body = _part(self.root, request)
        send(request, status, body.translate(_LIES), headers)


class DyingSeed(OwnWeb):
    """Has all files below `root`, and is gone in the middle of an answer, when it has sent `life` bytes."""

    def __init__(self, root: Path, life: int) -> None:
        super().__init__()
        self.root = root
        self._life = life
        self._lock = threading.Lock()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        status, headers, body = _part(self.root, request)
        with self._lock:
            may_send = min(self._life, len(body))
            self._life -= may_send
        if may_send == len(body):
            send(request, status, body, headers)
        else:
            send(request, status, body[:may_send], headers | {"Content-Length": str(len(body))})
            request.wfile.flush()
            self.die()


def _part(root: Path, request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
    """Return the status, the headers and the bytes that are right for a request."""
    file = root / unquote(urlsplit(request.path).path).lstrip("/")
    if not file.is_file():
        return 404, {}, b""
    content = file.read_bytes()
    wanted = _RANGE.fullmatch(request.headers.get("Range", ""))
    if wanted is None:
        return 200, {}, content
    begin, end = int(wanted[1]), int(wanted[2] or len(content) - 1)
    part = content[begin : end + 1]
    return 206, {"Content-Range": f"bytes {begin}-{begin + len(part) - 1}/{len(content)}"}, part
