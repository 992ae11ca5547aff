"""What is done around a store, whatever its kind: each a store around a store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from annex_remote.errors import Unavailable
from annex_remote.model import ByteStream, OpenAt, Store

__all__ = ["Watched"]


CROWD = 32
CROWD_WAIT = 2.0
"""A store that owes this many answers, the oldest for so many seconds, gets no more: each takes a thread."""


class Watched:
    """Does not ask a store that owes an answer for `stall` seconds already.

    A file system or server that hangs would otherwise take a thread, and `stall` seconds, of every object in
    turn. It is asked again as soon as it has answered.
    """

    def __init__(self, store: Store, stall: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._stall = stall
        self._clock = clock
        self._lock = threading.Lock()
        self._owed: dict[object, float] = {}
        """Questions under way, to when they were asked."""

    @contextmanager
    def _asking(self) -> Iterator[None]:
        now, question = self._clock(), object()
        with self._lock:
            waited = now - min(self._owed.values(), default=now)
            crowded = len(self._owed) >= CROWD and waited >= CROWD_WAIT
            if waited >= self._stall or crowded:
                raise Unavailable(f"it has not answered for {waited:.0f} seconds")
            self._owed[question] = now
        try:
            yield
        finally:
            with self._lock:
                del self._owed[question]

    def put(self, name: str, size: int, open_at: OpenAt) -> None:
        # How long this takes is between the store and whoever feeds it: the transfer has its own clock.
        with self._asking():
            pass
        self._store.put(name, size, open_at)

    def read(self, name: str, start: int = 0, length: int | None = None) -> ByteStream:
        with self._asking():
            return _WatchedStream(self, self._store.read(name, start, length))

    def stat(self, name: str) -> int | None:
        with self._asking():
            return self._store.stat(name)

    def delete(self, name: str) -> None:
        with self._asking():
            self._store.delete(name)

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        with self._asking():
            return iter(list(self._store.list(prefix)))

    def space(self) -> int | None:
        with self._asking():
            return self._store.space()

    def close(self) -> None:
        self._store.close()

    def next_piece(self, pieces: Iterator[bytes]) -> bytes | None:
        """Take the next piece of a stream, None at its end."""
        with self._asking():
            return next(pieces, None)


class _WatchedStream:
    def __init__(self, watched: Watched, stream: ByteStream) -> None:
        self._watched = watched
        self._stream = stream
        self.size = stream.size

    def __iter__(self) -> Iterator[bytes]:
        pieces = iter(self._stream)
        while (piece := self._watched.next_piece(pieces)) is not None:
            yield piece

    def __enter__(self) -> ByteStream:
        self._stream.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.__exit__(*error)
