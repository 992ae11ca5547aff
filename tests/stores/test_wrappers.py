"""`Retrying`, `Marked` and `Measured`: stores around a store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from annex_remote.errors import (
    Busy,
    Cancelled,
    Damaged,
    Denied,
    Exists,
    Full,
    NotFound,
    StoreError,
    SwarmError,
    Unavailable,
)
from annex_remote.model import ByteStream, OpenAt, Store
from annex_remote.stores.wrappers import ATTEMPTS, LONGEST_PAUSE, MARKER_AGE, Marked, Measured, Rates, Retrying
from tests.fakes import VERBS, Around, Failing, FakeClock, Flaky, MemoryStore, Recording, Slow
from tests.stores.kinds import MARKER
from tests.stores.test_contract import DATA, NAME, OTHER, RANGES, breaking, giving, keep, read

ASK: dict[str, Callable[[Store], object]] = {
    "put": lambda store: keep(store, NAME, DATA),
    "read": lambda store: read(store, NAME),
    "stat": lambda store: store.stat(NAME),
    "age": lambda store: store.age(NAME),
    "delete": lambda store: store.delete(NAME),
    "list": lambda store: list(store.list()),
    "space": lambda store: store.space(),
}
assert ASK.keys() == VERBS


def passing() -> Unavailable:
    return Unavailable("cut", passing=True)


def full() -> MemoryStore:
    store = MemoryStore(clock=FakeClock())
    keep(store, NAME, DATA)
    return store


class Pauses:
    """Notes how long a `Retrying` would have slept; `chance` is in the middle."""

    def __init__(self, store: Store, chance: float = 0.5) -> None:
        self.slept: list[float] = []
        self.store = Retrying(store, sleep=self.slept.append, chance=lambda: chance)


# Retrying.


@pytest.mark.parametrize("verb", sorted(VERBS))
@pytest.mark.parametrize("times", [1, ATTEMPTS - 1])
def test_what_passes_is_survived(verb: str, times: int) -> None:
    for error in (passing, lambda: Busy("later"), lambda: Busy("later", 0.0)):
        pauses = Pauses(Flaky(full(), error, times, [verb]))
        assert ASK[verb](pauses.store) == ASK[verb](full())
        assert len(pauses.slept) == times
        assert all(earlier < later for earlier, later in pairwise(pauses.slept))


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_what_does_not_pass_is_asked_so_often_and_no_more(verb: str) -> None:
    errors: list[StoreError] = []

    def error() -> StoreError:
        errors.append(passing())
        return errors[-1]

    pauses = Pauses(Failing(full(), error, [verb]))
    with pytest.raises(Unavailable) as raised:
        ASK[verb](pauses.store)
    assert raised.value is errors[-1]
    assert len(errors) == ATTEMPTS
    assert len(pauses.slept) == ATTEMPTS - 1


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_what_will_not_pass_is_not_asked_again(verb: str) -> None:
    kinds: list[Callable[[], SwarmError]] = [
        lambda: Unavailable("silent"),
        lambda: Denied("no"),
        lambda: NotFound("nothing"),
        lambda: Full("no room"),
        lambda: Damaged("damaged"),
        lambda: Cancelled("over"),
        lambda: Busy("much later", LONGEST_PAUSE + 1),
        lambda: Busy("never", float("inf")),
    ]
    for error in kinds:
        pauses = Pauses(Flaky(full(), error, 1, [verb]))
        with pytest.raises(type(error())):
            ASK[verb](pauses.store)
        assert pauses.slept == []


def test_a_store_that_asks_for_time_gets_it() -> None:
    pauses = Pauses(Flaky(full(), lambda: Busy("later", 5.0), 2, ["stat"]))
    pauses.store.stat(NAME)
    assert pauses.slept == [5.0, 5.0]


def test_nobody_comes_back_at_the_same_time() -> None:
    waits = []
    for chance in (0.0, 0.5, 0.999):
        pauses = Pauses(Flaky(full(), passing, 3, ["stat"]), chance)
        pauses.store.stat(NAME)
        waits.append(pauses.slept)
    for earlier, later in pairwise(waits):
        assert all(first < second for first, second in zip(earlier, later, strict=True))
    assert sum(waits[-1]) < LONGEST_PAUSE


def test_what_is_put_again_is_read_again() -> None:
    opened: list[int] = []

    def open_at(offset: int) -> Iterator[bytes | memoryview]:
        opened.append(offset)
        return iter(giving(DATA)(offset))

    memory = MemoryStore()
    store = Pauses(Flaky(memory, passing, 2, ["put"], after=100_000)).store
    store.put(NAME, len(DATA), open_at)
    assert memory.contents == {NAME: DATA}
    assert opened == [0, 0, 0]


def test_a_source_that_fails_is_not_read_again() -> None:
    error = OSError(5, "cannot be read")
    pauses = Pauses(MemoryStore())
    with pytest.raises(OSError, match="cannot be read") as raised:
        pauses.store.put(NAME, len(DATA), breaking(DATA[:10], error))
    assert raised.value is error
    assert pauses.slept == []


def test_who_puts_again_what_must_be_new_may_meet_his_own() -> None:
    class Mute(Around):
        def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
            super().put(name, size, open_at, fresh=fresh)
            raise passing()

    memory = MemoryStore()
    with pytest.raises(Exists):
        Pauses(Mute(memory)).store.put(NAME, len(DATA), giving(DATA), fresh=True)
    assert memory.contents == {NAME: DATA}


class Breaking(Around):
    """Its streams break after `after` bytes each; counts those that are open, and refuses the first `refusals`."""

    def __init__(self, store: Store, after: int, error: Callable[[], Exception] = passing) -> None:
        super().__init__(store)
        self._after = after
        self._error = error
        self.open = 0
        self.opened: list[tuple[int, int | None]] = []
        self.refusals: list[Exception] = []
        """What the next reads raise, once the first stream is open."""

    def read(self, name: str, start: int = 0, length: int | None = None) -> ByteStream:
        if self.opened and self.refusals:
            raise self.refusals.pop(0)
        self.opened.append((start, length))
        self.open += 1
        return _BreakingStream(self, super().read(name, start, length))

    def pieces(self, stream: ByteStream) -> Iterator[bytes]:
        left = self._after
        for piece in stream:
            if len(piece) > left:
                if left:
                    yield piece[:left]
                raise self._error()
            left -= len(piece)
            yield piece


class _BreakingStream:
    def __init__(self, store: Breaking, stream: ByteStream) -> None:
        self._store = store
        self._stream = stream
        self._left = False
        self.size = stream.size

    def __iter__(self) -> Iterator[bytes]:
        return self._store.pieces(self._stream)

    def __enter__(self) -> ByteStream:
        return self

    def __exit__(self, *error: object) -> None:
        assert not self._left, "left twice"
        self._left = True
        self._store.open -= 1
        self._stream.__exit__(*error)


def test_a_stream_that_breaks_goes_on_where_it_was() -> None:
    for start, length in RANGES:
        breaking_store = Breaking(full(), 20_011)
        pauses = Pauses(breaking_store)
        with pauses.store.read(NAME, start, length) as stream:
            assert stream.size == len(DATA)
            assert b"".join(stream) == DATA[start:][:length]
        assert breaking_store.open == 0
        asked = [at for at, _ in breaking_store.opened]
        assert asked == sorted(set(asked))


def test_a_stream_that_goes_on_may_break_any_number_of_times() -> None:
    breaking_store = Breaking(full(), 1_000)
    pauses = Pauses(breaking_store)
    assert read(pauses.store, NAME) == DATA
    assert len(pauses.slept) == 299
    assert set(pauses.slept) == {pauses.slept[0]}  # each time the first failure after some bytes


@pytest.mark.parametrize("error", [passing(), Busy("later")], ids=["cut", "busy"])
def test_a_stream_that_does_not_go_on_ends(error: Exception) -> None:
    breaking_store = Breaking(full(), 0, lambda: error)
    pauses = Pauses(breaking_store)
    with pytest.raises(type(error)):
        read(pauses.store, NAME)
    assert len(breaking_store.opened) == ATTEMPTS
    assert breaking_store.open == 0


@pytest.mark.parametrize("error", [NotFound("deleted"), Denied("no"), Unavailable("silent")])
def test_a_stream_that_cannot_be_opened_again_is_left_once(error: Exception) -> None:
    breaking_store = Breaking(full(), 1_000)
    breaking_store.refusals = [passing(), error]
    pauses = Pauses(breaking_store)
    with pytest.raises(type(error)):
        read(pauses.store, NAME)
    assert breaking_store.open == 0


def test_what_changed_meanwhile_is_not_mixed() -> None:
    memory = full()
    with Pauses(Breaking(memory, 1_000)).store.read(NAME) as stream:
        pieces = iter(stream)
        got = next(pieces)
        keep(memory, NAME, DATA[::-1] + b"more")
        with pytest.raises(Unavailable, match="changed"):
            list(pieces)
    assert got == DATA[: len(got)]


def test_a_stream_that_nobody_reads_is_left() -> None:
    breaking_store = Breaking(full(), 10)
    with Retrying(breaking_store).read(NAME):
        assert breaking_store.open == 1
    assert breaking_store.open == 0


def test_a_list_that_breaks_begins_anew() -> None:
    class Half(Around):
        broken = False

        def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
            for item in super().list(prefix):
                yield item
                if not self.broken:
                    self.broken = True
                    raise passing()

    memory = full()
    keep(memory, OTHER, b"other")
    assert list(Pauses(Half(memory)).store.list()) == list(memory.list())


# Marked.


class Marking:
    """A marked store with a clock, over one that notes what it is asked."""

    def __init__(self, *, has_marker: bool = True) -> None:
        self.clock = FakeClock()
        self.memory = MemoryStore()
        if has_marker:
            keep(self.memory, MARKER, b"marker")
        self.recording = Recording(self.memory)
        self.store = Marked(self.recording, MARKER, self.clock)

    def asked_for_the_marker(self) -> int:
        return self.recording.calls.count(("stat", MARKER))


def test_absence_is_believed_where_the_marker_is() -> None:
    marking = Marking()
    for _ in range(3):
        assert marking.store.stat(NAME) is None
        with pytest.raises(NotFound):
            read(marking.store, NAME)
        with pytest.raises(NotFound):
            marking.store.age(NAME)
        assert list(marking.store.list("ab")) == []
    marking.store.delete(NAME)
    keep(marking.store, NAME, DATA)
    assert read(marking.store, NAME) == DATA
    assert marking.asked_for_the_marker() == 1


@pytest.mark.parametrize("verb", sorted(VERBS - {"space"}))
def test_absence_is_not_believed_where_it_is_not(verb: str) -> None:
    marking = Marking(has_marker=False)
    for _ in range(2):
        with pytest.raises(Unavailable, match="marker"):
            ASK[verb](marking.store)
    assert marking.memory.contents == {}
    assert marking.asked_for_the_marker() == 2
    assert not [call for call in marking.recording.calls if call[0] in ("put", "delete")]


def test_what_is_there_needs_no_marker() -> None:
    marking = Marking(has_marker=False)
    keep(marking.memory, NAME, DATA)
    assert marking.store.stat(NAME) == len(DATA)
    assert read(marking.store, NAME) == DATA
    assert marking.store.age(NAME) is not None
    assert list(marking.store.list()) == [(NAME, len(DATA))]
    assert marking.asked_for_the_marker() == 0


def test_the_marker_is_looked_for_again_after_a_while() -> None:
    marking = Marking()
    assert marking.store.stat(NAME) is None
    del marking.memory.contents[MARKER]
    marking.clock.advance(MARKER_AGE - 1)
    assert marking.store.stat(NAME) is None
    marking.clock.advance(1)
    with pytest.raises(Unavailable):
        marking.store.stat(NAME)
    keep(marking.memory, MARKER, b"marker")
    assert marking.store.stat(NAME) is None


def test_who_asks_for_the_marker_is_told_the_truth() -> None:
    marking = Marking()
    assert marking.store.stat(MARKER) == 6
    assert marking.store.stat(NAME) is None
    assert marking.asked_for_the_marker() == 1
    del marking.memory.contents[MARKER]
    with pytest.raises(Unavailable, match="marker"):
        marking.store.stat(MARKER)
    with pytest.raises(Unavailable, match="marker"):
        keep(marking.store, NAME, DATA)


@pytest.mark.parametrize("verb", sorted(VERBS - {"space"}))
def test_doubt_about_the_marker_is_doubt(verb: str) -> None:
    memory = MemoryStore()
    for error in (passing(), Denied("no"), Busy("later")):
        failing = Failing(memory, lambda error=error: error, ["stat"])  # type: ignore[misc]
        with pytest.raises(type(error)) as raised:
            ASK[verb](Marked(failing, MARKER))
        assert raised.value is error
    assert memory.contents == {}


# Measured.


def test_rates_are_those_of_the_last_transfers() -> None:
    clock, released = FakeClock(), threading.Event()
    released.set()
    measured = Measured(Slow(full(), released, ["put", "read"], after=1_000, clock=clock, step=2.0), clock)
    assert measured.rates == Rates()
    keep(measured, OTHER, DATA[:200_000])
    assert measured.rates == Rates(up=100_000.0)
    assert read(measured, NAME) == DATA
    assert measured.rates == Rates(first_byte=0.0, down=150_000.0, up=100_000.0)
    assert read(measured, OTHER, 100_000) == DATA[100_000:200_000]
    assert measured.rates.down == 50_000.0


def test_the_first_byte_counts_from_the_asking() -> None:
    clock = FakeClock()

    class Late(Around):
        def read(self, name: str, start: int = 0, length: int | None = None) -> ByteStream:
            clock.advance(3.0)
            return super().read(name, start, length)

    measured = Measured(Late(full()), clock)
    with measured.read(NAME) as stream:
        clock.advance(4.0)
        list(stream)
    assert measured.rates.first_byte == 7.0


def test_what_came_to_nothing_is_no_rate() -> None:
    clock = FakeClock()
    measured = Measured(Failing(full(), passing, ["put", "read"], after=10), clock)
    for ask in (ASK["put"], ASK["read"]):
        with pytest.raises(Unavailable):
            ask(measured)
    whole = Measured(full(), clock)
    with whole.read(NAME) as stream:
        next(iter(stream))
    with whole.read(NAME, 0, 0) as stream:
        clock.advance(1.0)
        assert list(stream) == []
    assert measured.rates == whole.rates == Rates()


def test_a_clock_that_stands_still_is_no_speed() -> None:
    measured = Measured(full(), FakeClock())
    keep(measured, OTHER, DATA)
    assert read(measured, NAME) == DATA
    assert measured.rates == Rates(first_byte=0.0)


# All of them.


@pytest.mark.parametrize("wrap", [Retrying, lambda store: Marked(store, MARKER), Measured], ids=lambda wrap: "")
def test_everything_is_passed_on(wrap: Callable[[Store], Store]) -> None:
    closed: list[bool] = []

    class Closing(Around):
        def close(self) -> None:
            closed.append(True)

        def space(self) -> int | None:
            return 17

    store = wrap(Closing(full()))
    assert store.stat(NAME) == len(DATA)
    assert read(store, NAME, 5, 10) == DATA[5:15]
    assert store.age(NAME) == 0.0
    assert list(store.list("ab")) == [(NAME, len(DATA))]
    assert store.space() == 17
    store.close()
    assert closed == [True]
