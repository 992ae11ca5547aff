"""What the shared client sends, and the connections that it goes over."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from annex_remote.errors import Damaged
from annex_remote.model import OpenAt

__all__ = ["Adapter", "Body", "SourceFailedError", "prepared"]

_CONNECTIONS = 32
"""Idle connections that are kept; more are opened when more threads ask at once."""
_PLACES = 8
"""Servers that one client speaks to: its own, and those to which that one sends us on."""
PIECE = 64 << 10
"""Bytes that are handed to the system at once: each has `patience` seconds to go out."""


class SourceFailedError(Exception):
    """Carries an error of what is being sent past those who would take it for one of the connection."""

    def __init__(self, error: BaseException) -> None:
        super().__init__("the source failed")
        self.error = error


class Body:
    """What is sent: a source's bytes, counted, in pieces small enough for a slow line; may be sent again."""

    def __init__(self, open_at: OpenAt, start: int, size: int, is_part: bool) -> None:
        self._open_at = open_at
        self._start = start
        self._size = size
        self._is_part = is_part

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes | memoryview]:
        try:
            yield from self._pieces()
        except GeneratorExit:
            raise
        except BaseException as error:
            raise SourceFailedError(error) from error

    def check_empty(self) -> None:
        """Raise `Damaged` if a source of which nothing was announced gives something."""
        if not self._is_part and any(map(len, self._open_at(self._start))):
            raise Damaged("the source gave more bytes than the 0 announced")

    def _pieces(self) -> Iterator[bytes | memoryview]:
        left = self._size
        pieces = iter(self._open_at(self._start))
        for piece in pieces:
            if len(piece) >= left:
                # The last byte makes it whole for the server: it goes only when the source has proved right.
                yield from _cut(self._last(piece, left, pieces))
                return
            left -= len(piece)
            yield from _cut(piece)
        raise Damaged(f"the source gave fewer bytes than the {self._start + self._size} announced")

    def _last(
        self, piece: bytes | memoryview, left: int, pieces: Iterator[bytes | memoryview]
    ) -> bytes | memoryview:
        if self._is_part:
            return piece[:left]
        kept = bytes(piece)  # the source may use its buffer again
        if len(kept) > left or any(map(len, pieces)):
            raise Damaged(f"the source gave more bytes than the {self._start + self._size} announced")
        return kept


def _cut(piece: bytes | memoryview) -> Iterator[memoryview]:
    view = memoryview(piece)
    for at in range(0, len(view), PIECE):
        yield view[at : at + PIECE]


_ALWAYS = {"User-Agent": "git-annex-remote-swarm", "Accept": "*/*", "Accept-Encoding": "identity"}


def prepared(
    method: str, url: str, params: Mapping[str, str] | None, headers: Mapping[str, str] | None, data: bytes | Body
) -> requests.PreparedRequest:
    """Return a request that says what is given, and nothing else: no cookies, no login.

    A `requests.Session` would put one together from as many places as there are, which takes longer than all the
    rest of a small request. Raises `ValueError` for a URL or headers that cannot be.
    """
    request = requests.PreparedRequest()
    request.method = method
    request.prepare_url(url, params)
    request.prepare_headers({**_ALWAYS, **(headers or {})})
    if data or method not in ("GET", "HEAD"):
        request.headers["Content-Length"] = str(len(data))
    request.body = data or None  # type: ignore[assignment] # requests takes any iterable with a length
    return request


def _patient(kind: type[Any], patience: float) -> type[Any]:
    """Return a kind of connection that has `patience` seconds to take each piece that is sent.

    urllib3 would give it as many as for connecting.
    """

    class Patient(kind):  # type: ignore[misc] # one of two classes
        def send(self, data: Any) -> None:
            if self.sock is None:
                self.connect()
            self.sock.settimeout(patience)
            try:
                super().send(data)
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
                # Without TLS it would be this one, upon which urllib3 looks whether there is an answer already.
                raise BrokenPipeError(errno.EPIPE, "the server has left") from error

        def getresponse(self) -> Any:
            # Some servers (Ceph's) send the head of an answer by itself, and the rest when that is acknowledged:
            # for which Linux would take its time, 40 ms.
            if hasattr(socket, "TCP_QUICKACK"):
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            return super().getresponse()

    return Patient


class Adapter(HTTPAdapter):
    """Connections for many threads, none of which is asked twice."""

    def __init__(self, patience: float) -> None:
        self._pools = {
            "http": type("Pool", (HTTPConnectionPool,), {"ConnectionCls": _patient(HTTPConnection, patience)}),
            "https": type("Pool", (HTTPSConnectionPool,), {"ConnectionCls": _patient(HTTPSConnection, patience)}),
        }
        self._known: dict[tuple[object, ...], Any] = {}
        super().__init__(pool_connections=2 * _PLACES, pool_maxsize=_CONNECTIONS, max_retries=0)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> Any:
        """Return the pool for a request: looked for once a place, as that takes as long as half of the sending."""
        place = (*(request.url or "").split("/", 3)[:3], verify, cert)
        pool = self._known.get(place)
        if pool is None:
            pool = super().get_connection_with_tls_context(request, verify, proxies, cert)
            if (
                len(self._known) < _PLACES
            ):  # more than there are to a client, unless a server sends us far and wide
                self._known[place] = pool
        return pool

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        """Return an answer with what is used of it; cookies, and the rest that requests looks for, are not."""
        response = requests.Response()
        response.status_code = resp.status
        response.headers = CaseInsensitiveDict(resp.headers)
        response.raw = resp
        response.request = req
        return response

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*arguments, **options)
        manager.pool_classes_by_scheme = self._pools
        return manager
