"""Limits of bytes a second: one bucket for all that shares a limit, and the store that keeps to it."""

from __future__ import annotations

import logging
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from annex_remote.limits import Limit
from annex_remote.model import ByteStream, OpenAt, Store
from annex_remote.stores.state import SharedFile
from annex_remote.stores.wrappers import Around, AroundStream

__all__ = ["Bucket", "Rate", "Throttled", "paced", "rate_now"]

log = logging.getLogger(__name__)

BURST = 0.1
"""Seconds of its rate that a bucket which was not used for a while gives away at once."""

STEP = 0.02
"""Seconds of the rate that pass at once, at most: so that of a dozen who share a bucket each waits a quarter of a
second, and whoever looks on sees all of them move."""

AHEAD = 10.0
"""Seconds by which the next byte may be due in the future. A number that says more is from before the machine was
started, or of who knows what; some hundred who wait in one bucket are less."""

Rate = Callable[[], float | None]
"""The bytes a second that hold now; None for no limit. Asked all the time: it may change."""

_NUMBER = struct.Struct("<d")


def rate_now(limit: Limit, local: Callable[[], time.struct_time] = time.localtime) -> Rate:
    """Return what tells the rate of `limit` by the local time of day."""

    def rate() -> float | None:
        now = local()
        return limit.rate_at(now.tm_hour * 60 + now.tm_min)

    return rate


class Bucket:
    """Lets `rate` bytes a second pass, to whoever asks, in the order of asking; thread safe.

    Keeps one number, when the next byte is due (the generic cell rate algorithm, ITU-T I.371), rather than a level
    that somebody has to fill. The number is in `shared`, for all processes that share the limit: their clocks are
    the same (`CLOCK_MONOTONIC` is the system's). Where that file cannot be used, each process keeps its own.
    """

    def __init__(
        self,
        rate: float | Rate,
        shared: SharedFile | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.rate: Rate = rate if callable(rate) else lambda: rate
        self._shared = shared
        self._clock = clock
        self.sleep = sleep
        self._lock = threading.Lock()
        self._due = clock() - BURST

    def reserve(self, count: int, rate: float | None) -> float:
        """Let `count` bytes in, and return the seconds after which they may pass.

        `rate` is what `self.rate()` said when `count` was chosen: with another one, they may be far too many.
        """
        if rate is None:
            return 0.0
        with self._lock:
            if self._shared is not None:
                try:
                    self._shared.change(lambda kept: self._advance(kept, count / rate))
                    return self._due - self._clock()
                except BlockingIOError:
                    log.debug("%s: another process holds it; this one goes by its own number", self._shared.path)
                except OSError as error:
                    log.warning("a limit holds for this process alone: %s: %s", self._shared.path, error)
                    self._shared = None
            self._advance(b"", count / rate)
            return self._due - self._clock()

    def _advance(self, kept: bytes, seconds: float) -> bytes:
        now = self._clock()
        due = _NUMBER.unpack(kept)[0] if len(kept) == _NUMBER.size else self._due
        if not due <= now + AHEAD:  # nor if it is no number
            due = now
        self._due = max(due, now - BURST) + seconds
        return _NUMBER.pack(self._due)


def paced(buckets: Sequence[Bucket], pieces: Iterable[bytes | memoryview]) -> Iterator[memoryview]:
    """Pass pieces on as all of `buckets` let, cut so that none holds up others for long."""
    for piece in pieces:
        view = memoryview(piece)
        while view:
            rates = [bucket.rate() for bucket in buckets]
            lowest = min((rate for rate in rates if rate is not None), default=None)
            step = len(view) if lowest is None else max(1, int(lowest * STEP))
            part, view = view[:step], view[step:]
            # In all of them at once: who waits in one after the other passes more slowly than the slowest lets.
            wait = max(bucket.reserve(len(part), rate) for bucket, rate in zip(buckets, rates, strict=True))
            if wait > 0:
                buckets[0].sleep(wait)
            yield part


class Throttled(Around):
    """Puts no faster than all of `up` let pass, and reads no faster than all of `down`.

    Several stores may share a bucket, and so may both ways. Only what is put and read counts: looking, deleting
    and listing are small.
    """

    def __init__(self, store: Store, up: Sequence[Bucket] = (), down: Sequence[Bucket] = ()) -> None:
        super().__init__(store)
        self._up = up
        self._down = down

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        up = self._up
        self.store.put(name, size, (lambda at: paced(up, open_at(at))) if up else open_at, fresh=fresh)

    def read(self, name: str, start: int = 0, length: int | None = None) -> ByteStream:
        stream = self.store.read(name, start, length)
        return _ThrottledStream(stream, self._down) if self._down else stream


class _ThrottledStream(AroundStream):
    def __init__(self, stream: ByteStream, buckets: Sequence[Bucket]) -> None:
        super().__init__(stream)
        self._buckets = buckets

    def __iter__(self) -> Iterator[bytes]:
        # What has come has come: waiting before it is passed on keeps the next from being asked for.
        return map(bytes, paced(self._buckets, self._stream))
