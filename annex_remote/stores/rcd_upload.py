"""An upload through the rclone daemon: it fetches from a source of ours on loopback, which serves that one object.

So it knows the length from the start, which some of its remotes need, and keeps no copy on disk, as it would of
what is sent to it.
"""

from __future__ import annotations

import secrets
import selectors
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from itertools import chain
from typing import Any

from annex_remote.errors import Damaged, Unavailable
from annex_remote.model import OpenAt
from annex_remote.stores.rcd import LOOPBACK, PIECE, Daemon, has_come, parse, rclone

__all__ = ["upload", "whole"]

_TICK = 5.0
"""Seconds after which a look is taken at the daemon, while an upload goes no further on our side."""

_SOMETHING = 64 << 10
"""Bytes that the daemon does not write for its answers to us alone."""

Pieces = Iterable[bytes | memoryview]


def upload(parameters: dict[str, Any], pieces: Pieces, size: int, patience: float) -> None:
    """Have the daemon fetch `pieces`, `size` bytes, and store them where `parameters` say.

    What `pieces` raise passes through, and then the daemon has never had all bytes. Raises `RefusedError`, and
    `Unavailable` if nothing gets further for `patience` seconds.
    """
    daemon, line = rclone.connect(patience)
    try:
        _Upload(daemon, line, patience).run(parameters, pieces, size)
    finally:
        line.close()


class _Upload:
    """An upload under way: the daemon answers when it has stored what it fetched."""

    def __init__(self, daemon: Daemon, line: HTTPConnection, patience: float) -> None:
        self._daemon = daemon
        self._line = line
        self._patience = patience
        self._tick = min(_TICK, patience / 4)
        self._written = daemon.written()
        self._moved = time.monotonic()
        """When something got further last."""

    def run(self, parameters: dict[str, Any], pieces: Pieces, size: int) -> None:
        try:
            fetching = self._begin(parameters)
            if fetching is not None:
                with fetching:
                    self._serve(fetching, iter(pieces), size)
            while not has_come(self._line.sock, self._tick):
                self._check_patience()
        except BaseException:
            # When a source breaks off, the daemon removes what came. If it does not answer, what it does ends with
            # the connection.
            has_come(self._line.sock, self._tick)
            raise
        try:
            answer = self._line.getresponse()
            parse(answer.status, answer.read())
        except (OSError, HTTPException) as error:
            raise self._daemon.cut(error, self._patience) from error

    def _begin(self, parameters: dict[str, Any]) -> socket.socket | None:
        """Return the connection on which the daemon fetches; None if it answers without."""
        with socket.create_server((LOOPBACK, 0)) as listener:
            # Others on this machine see the port: only the daemon knows the path.
            path = f"/{secrets.token_hex(16)}"
            url = f"http://{LOOPBACK}:{listener.getsockname()[1]}{path}"
            try:
                self._daemon.send(self._line, "operations/copyurl", parameters | {"url": url})
                return self._wait_for_fetch(listener, f"GET {path} HTTP/1.".encode())
            except (OSError, HTTPException) as error:
                raise self._daemon.cut(error, self._patience) from error

    def _wait_for_fetch(self, listener: socket.socket, wanted: bytes) -> socket.socket | None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._line.sock, selectors.EVENT_READ)
            selector.register(listener, selectors.EVENT_READ)
            callers: list[socket.socket] = []
            try:
                while True:
                    ready = [key.fileobj for key, _ in selector.select(self._tick)]
                    if not ready:
                        self._check_patience()
                    for each in ready:
                        if each is self._line.sock:
                            return None
                        if each is listener:
                            callers.append(listener.accept()[0])
                            selector.register(callers[-1], selectors.EVENT_READ)
                            continue
                        caller = next(caller for caller in callers if caller is each)
                        callers.remove(caller)
                        selector.unregister(caller)
                        with suppress(ConnectionError):
                            if caller.recv(PIECE).startswith(wanted):
                                return caller
                        caller.close()
            finally:
                for caller in callers:
                    caller.close()

    def _serve(self, fetching: socket.socket, pieces: Iterator[bytes | memoryview], size: int) -> None:
        """Send the pieces, until all are sent or the daemon hangs up."""
        fetching.settimeout(self._tick)
        first = next(pieces, b"")  # before the head, which is all that there is to send of nothing
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n".encode()
        for piece in chain((head, first), pieces):
            view = memoryview(piece)
            while view:
                try:
                    view = view[fetching.send(view[:PIECE]) :]
                    self._moved = time.monotonic()
                except TimeoutError:
                    self._check_patience()
                except OSError:
                    return  # it says why in its answer

    def _check_patience(self) -> None:
        """Raise `Unavailable` if the daemon gets no further with what it has taken, of which it may hold much.

        It does not tell how much of it has left it; so it is enough that it writes anything at all. If that is for
        others, it has a limit of its own, of five minutes, for a connection on which nothing moves.
        """
        written = self._daemon.written()
        if written >= self._written + _SOMETHING:
            self._written, self._moved = written, time.monotonic()
        if time.monotonic() - self._moved >= self._patience:
            raise Unavailable(f"rclone got no further for {self._patience:g} seconds")


def whole(open_at: OpenAt, size: int, before_last: Callable[[], object] = lambda: None) -> Pieces:
    """Yield a source's bytes, the last of them only when it has ended as it should; raises `Damaged`.

    `before_last` is called before those, and before nothing if nothing is all.
    """
    left = size
    last = b""
    for piece in open_at(0):
        if len(piece) > left:
            raise Damaged(f"the source gave more bytes than the {size} announced")
        left -= len(piece)
        if left:
            yield piece
        elif piece:
            last = bytes(piece)  # the source may use its buffer again
    if left:
        raise Damaged(f"the source gave fewer bytes than the {size} announced")
    before_last()
    yield last
