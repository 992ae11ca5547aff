"""`Watched`: a store that owes an answer is not asked again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from annex_remote.errors import NotFound, Unavailable
from annex_remote.limits import MAX_CONNECTIONS
from annex_remote.model import Store
from annex_remote.stores.wrappers import ATTEMPTS, CROWD, CROWD_WAIT, Retrying, Watched
from tests.fakes import VERBS, WAIT, Around, Failing, FakeClock, MemoryStore, Recording, Run, Slow, wait_for
from tests.stores.test_contract import DATA, NAME, keep, read

ASK: dict[str, Callable[[Store], object]] = {
    "put": lambda store: keep(store, NAME, DATA),
    "read": lambda store: read(store, NAME),
    "stat": lambda store: store.stat(NAME),
    "age": lambda store: store.age(NAME),
    "delete": lambda store: store.delete(NAME),
    "list": lambda store: list(store.list()),
    "space": lambda store: store.space(),
}


class Stuck:
    """A watched store of which one verb hangs until it is released; a thread is in there already."""

    def __init__(self, verb: str, after: int = 0) -> None:
        self.clock = FakeClock()
        self.recording = Recording(MemoryStore())
        keep(self.recording, NAME, DATA)
        self.recording.calls.clear()
        self.release = threading.Event()
        self.slow = Slow(self.recording, self.release, verbs=[verb], after=after)
        self.store = Watched(self.slow, 30.0, self.clock)
        self.answer = Run(lambda: ASK[verb](self.store))
        wait_for(self.slow.reached)

    def __enter__(self) -> Stuck:
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()


@pytest.mark.parametrize("verb", sorted(VERBS - {"put"}))
def test_a_store_that_owes_an_answer_is_not_asked(verb: str) -> None:
    with Stuck(verb) as stuck:
        others = [ask for name, ask in ASK.items() if name != verb]
        stuck.clock.advance(29.0)
        for ask in others:
            ask(stuck.store)
        keep(stuck.recording, NAME, DATA)
        stuck.clock.advance(1.0)
        stuck.recording.calls.clear()
        for ask in ASK.values():
            with pytest.raises(Unavailable, match="not answered for 30 seconds"):
                ask(stuck.store)
        assert stuck.recording.calls == []
        stuck.release.set()
        stuck.answer.join()
        for ask in others:
            ask(stuck.store)


def test_a_stream_that_stops_is_an_answer_owed() -> None:
    with Stuck("read", after=150_000) as stuck:
        stuck.clock.advance(30.0)
        with pytest.raises(Unavailable):
            stuck.store.stat(NAME)
        stuck.release.set()
        stuck.answer.join()
        assert stuck.store.stat(NAME) == len(DATA)


def test_a_stream_that_nobody_reads_owes_nothing() -> None:
    clock = FakeClock()
    store = Watched(MemoryStore(), 30.0, clock)
    keep(store, NAME, DATA)
    with store.read(NAME) as stream:
        pieces = iter(stream)
        first = next(pieces)
        clock.advance(1000.0)
        assert store.stat(NAME) == len(DATA)
        assert first + b"".join(pieces) == DATA


NAMES = [f"ab/ab{'2' * 29}{letter}.1" for letter in "abcd"]


class Listing(Around):
    """Takes `pace` seconds for each name, and calls `between` before it is given out."""

    def __init__(self, store: Store, clock: FakeClock, pace: float, between: Callable[[], object]) -> None:
        super().__init__(store)
        self._clock = clock
        self._pace = pace
        self._between = between

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        for item in self.store.list(prefix):
            self._clock.advance(self._pace)
            self._between()
            yield item


def test_a_long_listing_that_gets_on_is_no_silence() -> None:
    clock = FakeClock()
    memory = MemoryStore()
    for name in NAMES:
        keep(memory, name, DATA)
    stats: list[int | None] = []
    lists = Listing(memory, clock, 20.0, lambda: stats.append(watched.stat(NAMES[0])))
    watched = Watched(Retrying(lists), 30.0, clock)
    assert [name for name, _ in watched.list()] == NAMES
    assert stats == [len(DATA)] * 4
    assert [name for name, _ in Watched(Retrying(memory), 30.0, clock).list(NAMES[1])] == NAMES[1:2]


def test_a_listing_that_nobody_reads_owes_nothing() -> None:
    clock = FakeClock()
    watched = Watched(MemoryStore(), 30.0, clock)
    for name in NAMES:
        keep(watched, name, DATA)
    names = watched.list()
    assert next(names) == (NAMES[0], len(DATA))
    clock.advance(1000.0)
    assert watched.stat(NAMES[0]) == len(DATA)
    assert [name for name, _ in names] == NAMES[1:]


def test_a_listing_that_breaks_goes_on_where_it_was() -> None:
    memory = MemoryStore()
    for name in NAMES:
        keep(memory, name, DATA)
    breaks = [1, 2, 2, 3, 3, 3]

    class Breaking(Around):
        def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
            after = breaks.pop(0) if breaks else 9
            for index, item in enumerate(self.store.list(prefix)):
                if index == after:
                    raise Unavailable("cut", passing=True)
                yield item

    store = Retrying(Breaking(memory), sleep=lambda _: None)
    assert [name for name, _ in store.list()] == NAMES
    breaks[:] = [2] * 100
    with pytest.raises(Unavailable, match="cut"):
        list(store.list())
    assert len(breaks) == 100 - ATTEMPTS


def test_as_many_as_a_store_may_be_asked_at_once_are_no_crowd() -> None:
    assert CROWD >= 2 * MAX_CONNECTIONS


def test_a_put_that_waits_for_its_source_owes_nothing() -> None:
    with Stuck("put", after=100) as stuck:
        stuck.clock.advance(1000.0)
        assert stuck.store.stat(NAME) == len(DATA)
        keep(stuck.store, NAME[:-1] + "1", b"other")


def test_an_error_is_an_answer() -> None:
    clock = FakeClock()
    store = Watched(Failing(MemoryStore(), lambda: Unavailable("gone")), 30.0, clock)
    for ask in ASK.values():
        with pytest.raises(Unavailable, match="gone"):
            ask(store)
    clock.advance(1000.0)
    with pytest.raises(Unavailable, match="gone"):
        store.stat(NAME)
    with pytest.raises(NotFound):
        read(Watched(MemoryStore(), 30.0, clock), NAME)


def test_a_store_that_hangs_does_not_take_a_thread_for_every_question() -> None:
    inside, release = threading.Barrier(CROWD + 1), threading.Event()

    class Crowded(Around):
        def stat(self, name: str) -> int | None:
            inside.wait(WAIT)
            wait_for(release)
            return super().stat(name)

    clock = FakeClock()
    store = Watched(Crowded(MemoryStore()), 30.0, clock)
    crowd = [Run(lambda: store.stat(NAME)) for _ in range(CROWD)]
    inside.wait(WAIT)
    clock.advance(CROWD_WAIT / 2)
    store.delete(NAME)  # they may just be many
    clock.advance(CROWD_WAIT / 2)
    for ask in ASK.values():
        with pytest.raises(Unavailable):
            ask(store)
    release.set()
    for run in crowd:
        run.join()
    store.delete(NAME)
