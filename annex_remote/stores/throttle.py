"""Limits of bytes a second: one bucket for all that shares a limit, and the store that keeps to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator

from annex_remote.model import ByteStream, OpenAt, Store
from annex_remote.stores.wrappers import Around, AroundStream

__all__ = ["Bucket", "Throttled"]

BURST = 0.1
"""Seconds of its rate that a bucket which was not used for a while gives away at once."""


class Bucket:
    """Lets `rate` bytes a second pass, to whoever asks, in the order of asking; thread safe.

    Keeps one number, when the next byte is due (the generic cell rate algorithm, ITU-T I.371), rather than a level
    that somebody has to fill.
    """

    def __init__(
        self,
        rate: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        assert rate > 0, "no limit is no bucket"
        self.rate = rate
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._due = clock() - BURST

    def take(self, count: int) -> None:
        """Return when `count` bytes may have passed."""
        with self._lock:
            now = self._clock()
            self._due = max(self._due, now - BURST) + count / self.rate
            wait = self._due - now
        if wait > 0:
            self._sleep(wait)

    def paced(self, pieces: Iterable[bytes | memoryview]) -> Iterator[memoryview]:
        """Pass pieces on at the rate, cut so that none holds up others for long."""
        step = max(1, int(self.rate * BURST))
        for piece in pieces:
            view = memoryview(piece)
            for at in range(0, len(view), step):
                part = view[at : at + step]
                self.take(len(part))
                yield part


class Throttled(Around):
    """Puts no faster than `up` lets pass, and reads no faster than `down`; None is no limit.

    Several stores may share a bucket, and so may both ways.
    """

    def __init__(self, store: Store, up: Bucket | None = None, down: Bucket | None = None) -> None:
        super().__init__(store)
        self._up = up
        self._down = down

    def put(self, name: str, size: int, open_at: OpenAt) -> None:
        up = self._up
        self._store.put(name, size, open_at if up is None else lambda offset: up.paced(open_at(offset)))

    def read(self, name: str, start: int = 0, length: int | None = None) -> ByteStream:
        stream = self._store.read(name, start, length)
        return stream if self._down is None else _ThrottledStream(stream, self._down)


class _ThrottledStream(AroundStream):
    def __init__(self, stream: ByteStream, bucket: Bucket) -> None:
        super().__init__(stream)
        self._bucket = bucket

    def __iter__(self) -> Iterator[bytes]:
        # What has come has come: waiting before it is passed on keeps the next from being asked for.
        for piece in self._stream:
            self._bucket.take(len(piece))
            yield piece
