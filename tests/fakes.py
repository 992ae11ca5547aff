"""Stores that behave, well or badly, a clock that stands still until told otherwise, and threads that are joined.

`MemoryStore` is the reference for `model.Store`. Everything else is a store around a store, with one fault each.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice
from typing import TypeVar

from annex_remote.errors import Damaged, Exists, Full, NotFound, Unavailable
from annex_remote.model import ByteStream, OpenAt, Store, check_name
from annex_remote.stores.wrappers import Around

__all__ = [
    "VERBS",
    "WAIT",
    "Around",
    "Corrupting",
    "Failing",
    "FakeClock",
    "Filling",
    "Flaky",
    "Hanging",
    "Lying",
    "MemoryStore",
    "Recording",
    "Resuming",
    "Run",
    "Slow",
    "in_thread",
    "wait_for",
]

WAIT = 30.0
"""Seconds that nothing in a test takes; a wait that runs out is a failure."""

VERBS = frozenset({"put", "read", "stat", "age", "delete", "list", "space"})

Piece = bytes | memoryview

T = TypeVar("T")


def wait_for(event: threading.Event) -> None:
    """Wait until `event` is set; fails the test if that never happens."""
    assert event.wait(WAIT), f"nothing happened for {WAIT:g} seconds"


class Run:
    """A piece of work on a thread of its own, which is joined within `WAIT` seconds or fails the test."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 # raised where it is joined
            self._error = error

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def join(self) -> None:
        """Wait for the end of the work; raises what it raised."""
        self._thread.join(WAIT)
        assert self.is_over, f"not done after {WAIT:g} seconds"
        if self._error is not None:
            raise self._error


def in_thread(work: Callable[[], T]) -> T:
    """Do `work` with a bound on how long it may take."""
    results: list[T] = []
    Run(lambda: results.append(work())).join()
    return results[0]


class FakeClock:
    """A `Clock` that goes on only when it is told to."""

    def __init__(self, now: float = 1000.0) -> None:
        self._lock = threading.Lock()
        self._now = now

    def __call__(self) -> float:
        with self._lock:
            return self._now

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._now += seconds


class Pieces:
    """A `ByteStream` of what an iterable yields."""

    def __init__(self, size: int, pieces: Iterable[bytes]) -> None:
        self.size = size
        self._pieces = iter(pieces)

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def __enter__(self) -> Pieces:
        return self

    def __exit__(self, *args: object) -> None:
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()


class MemoryStore:
    """Keeps everything in `contents`, and in `times` when it was put; reads come in pieces of `piece` bytes.

    What a test has put into `contents` by itself has no age, unless it sets a time as well.
    """

    def __init__(self, piece: int = 100_000, clock: Callable[[], float] = time.time) -> None:
        self.contents: dict[str, bytes] = {}
        self.times: dict[str, float] = {}
        self._piece = piece
        self._clock = clock
        self._lock = threading.Lock()

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        check_name(name)
        data = bytearray()
        for piece in open_at(0):
            data += piece
            if len(data) > size:
                break
        if len(data) != size:
            raise Damaged(f"the source does not have the {size} bytes announced")
        with self._lock:
            if fresh and name in self.contents:
                raise Exists(f"{name} is here already")
            self.contents[name] = bytes(data)
            self.times[name] = self._clock()

    def read(self, name: str, start: int = 0, length: int | None = None) -> ByteStream:
        with self._lock:
            data = self.contents.get(check_name(name))
        if data is None:
            raise NotFound(f"{name} is not here")
        end = len(data) if length is None else min(len(data), start + length)
        return Pieces(len(data), (data[at : min(end, at + self._piece)] for at in range(start, end, self._piece)))

    def stat(self, name: str) -> int | None:
        with self._lock:
            data = self.contents.get(check_name(name))
        return None if data is None else len(data)

    def age(self, name: str) -> float | None:
        with self._lock:
            if check_name(name) not in self.contents:
                raise NotFound(f"{name} is not here")
            put = self.times.get(name)
        return None if put is None else max(0.0, self._clock() - put)

    def delete(self, name: str) -> None:
        with self._lock:
            self.contents.pop(check_name(name), None)
            self.times.pop(name, None)

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        with self._lock:
            found = [(name, len(data)) for name, data in self.contents.items() if name.startswith(prefix)]
        for name, size in sorted(found):
            try:
                yield check_name(name), size
            except Damaged:
                continue

    def space(self) -> int | None:
        return None

    def close(self) -> None:
        """Nothing to let go of."""


class Recording(Around):
    """Notes every call in `calls`, as (verb, name), and how many bytes puts took and reads gave."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.calls: list[tuple[str, str]] = []
        self.taken = 0
        self.given = 0

    def names(self, verb: str) -> list[str]:
        return [name for called, name in self.calls if called == verb]

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        self.calls.append(("put", name))

        def counted(offset: int) -> Iterator[Piece]:
            for piece in open_at(offset):
                self.taken += len(piece)
                yield piece

        self.store.put(name, size, counted, fresh=fresh)

    def read(self, name: str, start: int = 0, length: int | None = None) -> ByteStream:
        self.calls.append(("read", name))
        stream = self.store.read(name, start, length)
        return Pieces(stream.size, self._counted(stream))

    def _counted(self, stream: ByteStream) -> Iterator[bytes]:
        with stream:
            for piece in stream:
                self.given += len(piece)
                yield piece

    def stat(self, name: str) -> int | None:
        self.calls.append(("stat", name))
        return self.store.stat(name)

    def age(self, name: str) -> float | None:
        self.calls.append(("age", name))
        return self.store.age(name)

    def delete(self, name: str) -> None:
        self.calls.append(("delete", name))
        self.store.delete(name)

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        self.calls.append(("list", prefix))
        return self.store.list(prefix)

    def space(self) -> int | None:
        self.calls.append(("space", ""))
        return self.store.space()


class _Trouble(Around):
    """Does `_strike` when one of `verbs` is used: a put or a read when `after` bytes of it have passed."""

    def __init__(self, store: Store, verbs: Collection[str] = VERBS, after: int = 0) -> None:
        super().__init__(store)
        self._verbs = frozenset(verbs)
        self._after = after

    def _strike(self) -> None:
        raise NotImplementedError

    def _meet(self, verb: str) -> None:
        if verb in self._verbs:
            self._strike()

    def _through(self, pieces: Iterable[bytes | memoryview]) -> Iterator[bytes]:
        passed = 0
        for piece in pieces:
            left = self._after - passed
            if 0 <= left < len(piece):
                if left:
                    yield bytes(piece[:left])
                self._strike()
                yield bytes(piece[left:])
            else:
                yield bytes(piece)
            passed += len(piece)

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        if "put" not in self._verbs:
            self.store.put(name, size, open_at, fresh=fresh)
        else:
            self.store.put(name, size, lambda offset: self._through(open_at(offset)), fresh=fresh)

    def read(self, name: str, start: int = 0, length: int | None = None) -> ByteStream:
        if "read" not in self._verbs:
            return self.store.read(name, start, length)
        if self._after == 0:
            self._strike()
        stream = self.store.read(name, start, length)
        return Pieces(stream.size, self._reading(stream))

    def _reading(self, stream: ByteStream) -> Iterator[bytes]:
        with stream:
            yield from self._through(stream) if self._after else stream

    def stat(self, name: str) -> int | None:
        self._meet("stat")
        return self.store.stat(name)

    def age(self, name: str) -> float | None:
        self._meet("age")
        return self.store.age(name)

    def delete(self, name: str) -> None:
        self._meet("delete")
        self.store.delete(name)

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        self._meet("list")
        yield from self.store.list(prefix)

    def space(self) -> int | None:
        self._meet("space")
        return self.store.space()


class Slow(_Trouble):
    """Stops at every strike until `release` is set, and moves `clock` by `step` seconds if there is one.

    `reached` says that it has stopped.
    """

    def __init__(
        self,
        store: Store,
        release: threading.Event,
        verbs: Collection[str] = VERBS,
        *,
        after: int = 0,
        clock: FakeClock | None = None,
        step: float = 0.0,
    ) -> None:
        super().__init__(store, verbs, after)
        self.reached = threading.Event()
        self._release = release
        self._clock = clock
        self._step = step

    def _strike(self) -> None:
        if self._clock is not None:
            self._clock.advance(self._step)
        self.reached.set()
        wait_for(self._release)


class Hanging(_Trouble):
    """Does not answer until `end`, which is the end of the test; then it is `Unavailable`."""

    def __init__(
        self, store: Store, end: threading.Event, verbs: Collection[str] = VERBS, *, after: int = 0
    ) -> None:
        super().__init__(store, verbs, after)
        self.reached = threading.Event()
        self._end = end

    def _strike(self) -> None:
        self.reached.set()
        self._end.wait(4 * WAIT)
        raise Unavailable("hung until the test was over")


class Failing(_Trouble):
    """Raises what `error` makes."""

    def __init__(
        self,
        store: Store,
        error: Callable[[], Exception],
        verbs: Collection[str] = VERBS,
        *,
        after: int = 0,
    ) -> None:
        super().__init__(store, verbs, after)
        self._error = error

    def _strike(self) -> None:
        raise self._error()


class Flaky(Failing):
    """Raises what `error` makes the first `times` times, and is well from then on."""

    def __init__(
        self,
        store: Store,
        error: Callable[[], Exception],
        times: int,
        verbs: Collection[str] = VERBS,
        *,
        after: int = 0,
    ) -> None:
        super().__init__(store, error, verbs, after=after)
        self._left = times
        self._lock = threading.Lock()

    def _strike(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left < 0:
                return
        super()._strike()


class Corrupting(Around):
    """Flips a bit of each byte that stands at an offset in `where`; below zero counts from the end."""

    def __init__(self, store: Store, where: Collection[int], mask: int = 1) -> None:
        super().__init__(store)
        self._where = where
        self._mask = mask

    def read(self, name: str, start: int = 0, length: int | None = None) -> ByteStream:
        stream = self.store.read(name, start, length)
        return Pieces(stream.size, self._flipped(stream, start))

    def _flipped(self, stream: ByteStream, at: int) -> Iterator[bytes]:
        offsets = sorted({offset if offset >= 0 else stream.size + offset for offset in self._where})
        with stream:
            for piece in stream:
                flipped = bytearray(piece)
                for offset in offsets:
                    if at <= offset < at + len(piece):
                        flipped[offset - at] ^= self._mask
                yield bytes(flipped)
                at += len(piece)


class Filling(Around):
    """Has room for `room` bytes, taken up by every byte that is sent and never given back; then it is `Full`."""

    def __init__(self, store: Store, room: int) -> None:
        super().__init__(store)
        self._room = room
        self._lock = threading.Lock()

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        def metered(offset: int) -> Iterator[Piece]:
            for piece in open_at(offset):
                with self._lock:
                    if len(piece) > self._room:
                        raise Full("no room is left")
                    self._room -= len(piece)
                yield piece

        self.store.put(name, size, metered, fresh=fresh)

    def space(self) -> int | None:
        return self._room


class Lying(Around):
    """Says sizes that are `more` bytes too large, and leaves out the last `missing` bytes of a read."""

    def __init__(self, store: Store, *, more: int = 0, missing: int = 0) -> None:
        super().__init__(store)
        self._more = more
        self._missing = missing

    def read(self, name: str, start: int = 0, length: int | None = None) -> ByteStream:
        stream = self.store.read(name, start, length)
        return Pieces(stream.size + self._more, self._shortened(stream))

    def _shortened(self, stream: ByteStream) -> Iterator[bytes]:
        with stream:
            data = b"".join(stream)
        yield data[: max(0, len(data) - self._missing)]

    def stat(self, name: str) -> int | None:
        size = self.store.stat(name)
        return None if size is None else size + self._more

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        return ((name, size + self._more) for name, size in self.store.list(prefix))


class Resuming(Around):
    """Loses its connection after `breaks_after` bytes of every put, and goes on from `goes_on_at`."""

    def __init__(self, store: Store, breaks_after: int, goes_on_at: int) -> None:
        assert goes_on_at <= breaks_after
        super().__init__(store)
        self._breaks_after = breaks_after
        self._goes_on_at = goes_on_at
        self.offsets: list[int] = []
        """Where the source was opened, in order."""

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        def opened(offset: int) -> Iterator[Piece]:
            self.offsets.append(offset)
            return iter(open_at(offset))

        def twice(offset: int) -> Iterator[Piece]:
            if offset:
                yield from opened(offset)
                return
            taken = bytearray()
            source = opened(0)
            while len(taken) < self._breaks_after:
                piece = list(islice(source, 1))
                if not piece:
                    break
                taken += piece[0]
            yield bytes(taken[: self._goes_on_at])
            yield from opened(min(self._goes_on_at, len(taken)))

        self.store.put(name, size, twice, fresh=fresh)
