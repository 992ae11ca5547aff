"""What the shared client sends, and the connections that it goes over."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from annex_remote.errors import Damaged
from annex_remote.model import OpenAt

__all__ = ["Adapter", "Body", "Session", "SourceFailedError"]

_CONNECTIONS = 32
"""Idle connections that are kept; more are opened when more threads ask at once."""
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


class Session(requests.Session):
    """Leaves redirects to `Client`: what requests does about them reads their whole answers into memory."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        return None


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
        super().__init__(pool_connections=4, pool_maxsize=_CONNECTIONS, max_retries=0)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*arguments, **options)
        manager.pool_classes_by_scheme = self._pools
        return manager
