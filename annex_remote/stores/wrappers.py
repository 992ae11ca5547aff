"""What is done around a store, whatever its kind: each a store around a store."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from annex_remote.errors import Busy, NotFound, Unavailable
from annex_remote.limits import MAX_CONNECTIONS
from annex_remote.model import ByteStream, OpenAt, Store

__all__ = ["Around", "AroundStream", "Marked", "Measured", "Rates", "Retrying", "Watched"]


T = TypeVar("T")


class Around:
    """A store around a store that changes nothing: the wrappers say only what they do otherwise."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        self.store.put(name, size, open_at, fresh=fresh)

    def read(self, name: str, start: int = 0, length: int | None = None) -> ByteStream:
        return self.store.read(name, start, length)

    def stat(self, name: str) -> int | None:
        return self.store.stat(name)

    def age(self, name: str) -> float | None:
        return self.store.age(name)

    def delete(self, name: str) -> None:
        self.store.delete(name)

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        return self.store.list(prefix)

    def space(self) -> int | None:
        return self.store.space()

    def close(self) -> None:
        self.store.close()


class AroundStream:
    """A stream around a stream."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self.size = stream.size

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream)

    def __enter__(self) -> ByteStream:
        self._stream.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.__exit__(*error)


CROWD = 2 * MAX_CONNECTIONS  # what may be asked of a store at once is no crowd, nor are two transfers of it
CROWD_WAIT = 2.0
"""A store that owes this many answers, the oldest for so many seconds, gets no more: each takes a thread."""


class Watched(Around):
    """Does not ask a store that owes an answer for `stall` seconds already.

    A file system or server that hangs would otherwise take a thread, and `stall` seconds, of every object in
    turn. It is asked again as soon as it has answered.
    """

    def __init__(self, store: Store, stall: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(store)
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

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        # How long this takes is between the store and whoever feeds it: the transfer has its own clock.
        with self._asking():
            pass
        self.store.put(name, size, open_at, fresh=fresh)

    def read(self, name: str, start: int = 0, length: int | None = None) -> ByteStream:
        with self._asking():
            return _WatchedStream(self, self.store.read(name, start, length))

    def stat(self, name: str) -> int | None:
        with self._asking():
            return self.store.stat(name)

    def age(self, name: str) -> float | None:
        with self._asking():
            return self.store.age(name)

    def delete(self, name: str) -> None:
        with self._asking():
            self.store.delete(name)

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        # Each name is an answer: a large store may be listed for longer than `stall`, and is not silent.
        items = iter(self.store.list(prefix))
        while (item := self.next_of(items)) is not None:
            yield item

    def space(self) -> int | None:
        with self._asking():
            return self.store.space()

    def next_of(self, answers: Iterator[T]) -> T | None:
        """Take the next of what a store gives in pieces, None at its end."""
        with self._asking():
            return next(answers, None)


class _WatchedStream(AroundStream):
    def __init__(self, watched: Watched, stream: ByteStream) -> None:
        super().__init__(stream)
        self._watched = watched

    def __iter__(self) -> Iterator[bytes]:
        pieces = iter(self._stream)
        while (piece := self._watched.next_of(pieces)) is not None:
            yield piece


MARKER_AGE = 60.0
"""Seconds for which a store that has shown its marker is taken to be the right one."""


class Marked(Around):
    """Believes "it is not here", and puts something there, only where the store's `marker` is.

    What a server shows may be the empty mount point of a disk, or somebody else's folder.
    """

    def __init__(self, store: Store, marker: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(store)
        self._marker = marker
        self._clock = clock
        self._seen: float | None = None

    def _check(self) -> None:
        if self._seen is not None and self._clock() - self._seen < MARKER_AGE:
            return
        if self.store.stat(self._marker) is None:
            self._seen = None
            raise Unavailable(
                "it does not have this store's marker: something else is there, or nothing (an unmounted disk)"
            )
        self._seen = self._clock()

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        self._check()
        self.store.put(name, size, open_at, fresh=fresh)

    def read(self, name: str, start: int = 0, length: int | None = None) -> ByteStream:
        try:
            return self.store.read(name, start, length)
        except NotFound:
            self._check()
            raise

    def stat(self, name: str) -> int | None:
        size = self.store.stat(name)
        if name == self._marker:  # asked by those who want to know whether it is the right place
            self._seen = None if size is None else self._clock()
        if size is None:
            self._check()
        return size

    def age(self, name: str) -> float | None:
        try:
            return self.store.age(name)
        except NotFound:
            self._check()
            raise

    def delete(self, name: str) -> None:
        self._check()
        self.store.delete(name)

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        anything = False
        for item in self.store.list(prefix):
            anything = True
            if item[0] == self._marker:
                self._seen = self._clock()
            yield item
        if not anything:
            self._check()


ATTEMPTS = 4
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 8.0


class Retrying(Around):
    """Asks again, a few times, after failures that pass: a connection cut, an internal error, "come later".

    Waits longer each time, by chance a little more or less, so that many who failed together do not come back
    together; and as long as the store asks for, unless that is longer than `LONGEST_PAUSE` seconds: then its
    answer is passed on. What is put is read from its source anew; a stream that breaks goes on where it was.
    """

    def __init__(
        self,
        store: Store,
        *,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(store)
        self._sleep = sleep
        self._chance = chance

    def _again(self, ask: Callable[[], T]) -> T:
        failures = 0
        while True:
            try:
                return ask()
            except (Busy, Unavailable) as error:
                failures += 1
                self.pause(error, failures)

    def pause(self, error: Busy | Unavailable, failures: int) -> None:
        """Wait after the failure number `failures` in a row, or raise it if asking again is of no use."""
        wait = FIRST_PAUSE * 2 ** (failures - 1) * (0.5 + self._chance())
        if isinstance(error, Busy):
            wait = max(wait, error.retry_after or 0.0)
        elif not error.passing:
            raise error
        if failures >= ATTEMPTS or wait > LONGEST_PAUSE:
            raise error
        self._sleep(wait)

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        self._again(lambda: self.store.put(name, size, open_at, fresh=fresh))

    def read(self, name: str, start: int = 0, length: int | None = None) -> ByteStream:
        return _ResumingStream(self, name, start, length)

    def open(self, name: str, start: int, length: int | None) -> ByteStream:
        """Open a stream of the store itself, which breaks when it breaks."""
        return self._again(lambda: self.store.read(name, start, length))

    def stat(self, name: str) -> int | None:
        return self._again(lambda: self.store.stat(name))

    def age(self, name: str) -> float | None:
        return self._again(lambda: self.store.age(name))

    def delete(self, name: str) -> None:
        self._again(lambda: self.store.delete(name))

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        seen: set[str] = set()
        failures = 0
        while True:
            try:
                for name, size in self.store.list(prefix):
                    if name not in seen:
                        failures = 0  # it is getting on
                        seen.add(name)
                        yield name, size
                return
            except (Busy, Unavailable) as error:
                failures += 1
                self.pause(error, failures)

    def space(self) -> int | None:
        return self._again(self.store.space)


class _ResumingStream(AroundStream):
    def __init__(self, retrying: Retrying, name: str, start: int, length: int | None) -> None:
        super().__init__(retrying.open(name, start, length))
        self._retrying = retrying
        self._name = name
        self._at = start
        self._left = max(0, self.size - start if length is None else min(length, self.size - start))

    def __iter__(self) -> Iterator[bytes]:
        failures = 0
        while self._left:
            try:
                for piece in self._stream:
                    failures = 0
                    self._at += len(piece)
                    self._left -= len(piece)
                    yield piece
                return
            except (Busy, Unavailable) as error:
                failures += 1
                self._retrying.pause(error, failures)
            # Left when the next is there: whoever has this one in a `with` leaves what is there in the end.
            broken, self._stream = self._stream, self._retrying.open(self._name, self._at, self._left)
            broken.__exit__(None, None, None)
            if self._stream.size != self.size:
                raise Unavailable("what was read has changed meanwhile")


@dataclass(frozen=True, slots=True)
class Rates:
    """What was seen of a store: seconds to the first byte of the last read, and bytes a second."""

    first_byte: float | None = None
    down: float | None = None
    up: float | None = None


class Measured(Around):
    """Sees how long reading and putting take; `rates` has what came of the last of each."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(store)
        self._clock = clock
        self.rates = Rates()

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        began = self._clock()
        self.store.put(name, size, open_at, fresh=fresh)
        self.rates = replace(self.rates, up=_rate(size, self._clock() - began))

    def read(self, name: str, start: int = 0, length: int | None = None) -> ByteStream:
        began = self._clock()
        return _MeasuredStream(self, self.store.read(name, start, length), began)

    def pieces(self, stream: ByteStream, began: float) -> Iterator[bytes]:
        """Pass the pieces of a stream on, and note how they came."""
        first: float | None = None
        count = 0
        for piece in stream:
            if first is None:
                first = self._clock() - began
            count += len(piece)
            yield piece
        if first is not None:
            self.rates = replace(self.rates, first_byte=first, down=_rate(count, self._clock() - began))


class _MeasuredStream(AroundStream):
    def __init__(self, measured: Measured, stream: ByteStream, began: float) -> None:
        super().__init__(stream)
        self._measured = measured
        self._began = began

    def __iter__(self) -> Iterator[bytes]:
        return self._measured.pieces(self._stream, self._began)


def _rate(count: int, seconds: float) -> float | None:
    return count / seconds if seconds > 0 else None
