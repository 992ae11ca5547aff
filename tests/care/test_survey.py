from __future__ import annotations

import base64
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annex_remote.care.survey import Stray, Survey, look_at, take_survey
from annex_remote.errors import Cancelled, Denied, Unavailable
from annex_remote.model import Store, staged_name
from annex_remote.roster import StoreEntry, marker_name, roster_name
from annex_remote.transfer.sites import Site
from tests.care.vault import GRID
from tests.fakes import Around, Failing, FakeClock, Hanging, MemoryStore, Recording, Run, in_thread, wait_for


def id_of(index: int) -> str:
    return base64.b32encode(index.to_bytes(20, "big")).decode().lower()


A, B, C = id_of(1), id_of(2), id_of(3)


def name(object_id: str, suffix: object) -> str:
    return f"{object_id[:2]}/{object_id}.{suffix}"


@dataclass
class Stores:
    """`store0`, `store1`, ...: each keeps the number that it is called by, `store0` number 9 as well."""

    count: int = 4
    clock: FakeClock = field(default_factory=FakeClock)
    cancelled: threading.Event = field(default_factory=threading.Event)
    counted: list[tuple[str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.memory = [MemoryStore() for _ in range(self.count)]
        self.stores: list[Store] = list(self.memory)

    @property
    def sites(self) -> list[Site]:
        sites = [Site(number, f"store{number}", store) for number, store in enumerate(self.stores)]
        return [*sites, Site(9, "store0", self.stores[0])]

    def has(self, store: int, *names: str, size: int = 100) -> None:
        for each in names:
            self.memory[store].contents[each] = bytes(size)

    def survey(self, stall: float = 10.0) -> Survey:
        return in_thread(
            lambda: take_survey(
                self.sites,
                GRID,
                stall=stall,
                cancelled=self.cancelled,
                clock=self.clock,
                heard=lambda store, count: self.counted.append((store, count)),
            )
        )


# What is taken in.


def test_what_the_stores_have() -> None:
    stores = Stores()
    stores.has(0, name(A, 0), name(A, 9), name(B, 0))
    stores.has(1, name(A, 1), size=200)
    survey = stores.survey()
    assert survey.shares(A) == {0: 100, 1: 200, 9: 100}
    assert survey.shares(B) == {0: 100}
    assert survey.shares(C) == {}
    assert (len(survey), list(survey), A in survey, C in survey) == (2, [A, B], True, False)
    assert survey.used() == {"store0": (3, 300), "store1": (1, 200), "store2": (0, 0), "store3": (0, 0)}
    assert survey.failed == {}
    assert survey.silent({}) == set()


def test_each_store_is_listed_once_and_asked_nothing_else() -> None:
    stores = Stores()
    recordings = [Recording(store) for store in stores.memory]
    stores.stores = list(recordings)
    for index in range(2000):
        stores.has(index % 4, name(id_of(index), index % 4))
    assert len(stores.survey()) == 2000
    assert [each.calls for each in recordings] == [[("list", "")]] * 4
    assert sorted(stores.counted)[-1] == ("store3", 500)
    assert {store for store, _ in stores.counted} == {"store0", "store1", "store2", "store3"}


def test_shares_that_are_not_their_stores_are_strays() -> None:
    stores = Stores()
    stores.has(1, name(A, 0), name(A, 200), staged_name(A, 2))
    survey = stores.survey()
    assert survey.shares(A) == {}
    assert A in survey
    assert survey.strays == {
        A: [
            Stray("store1", name(A, 0), 100),
            Stray("store1", name(A, 200), 100),
            Stray("store1", staged_name(A, 2), 100),
        ]
    }


def test_shares_beside_their_place_are_told_apart() -> None:
    stores = Stores()
    stores.has(1, name(A, 1), staged_name(A, 1))
    stores.has(2, staged_name(A, 2))
    survey = stores.survey()
    assert survey.shares(A) == {1: 100}
    assert survey.staged == {A: {1: 100, 2: 100}}
    assert not survey.strays


@pytest.mark.parametrize("suffix", ["r1", "s0", "01", "256", "999", "n256", "n01", "nn1", "n", "tmp", "0x1", "1n"])
def test_what_is_no_share_is_nobodys_business(suffix: str) -> None:
    stores = Stores()
    stores.has(1, name(A, suffix))
    survey = stores.survey()
    assert (len(survey), dict(survey.strays), dict(survey.staged)) == (0, {}, {})


def test_the_grids_own_documents_are_no_objects() -> None:
    stores = Stores()
    stores.has(1, roster_name(GRID, 3), marker_name(GRID, StoreEntry("store1", "dir:/x", (1,))), name(GRID, 1))
    assert len(stores.survey()) == 0


def test_objects_that_ought_to_be_there_are_known_without_a_share() -> None:
    survey = Survey(Stores().sites)
    survey.know([B, A])
    survey.add(A, 1, 5)
    assert list(survey) == [A, B]
    assert survey.shares(B) == {}
    survey.discard(A, 1)
    survey.discard(B, 3)
    survey.discard(C, 3)
    assert (survey.shares(A), list(survey)) == ({}, [A, B])


def test_a_stray_that_was_tidied_is_the_one_of_its_store() -> None:
    survey = Survey(Stores().sites)
    survey.strays[A] = [Stray("store1", name(A, 0), 1), Stray("store2", name(A, 0), 1)]
    survey.tidied(A, "store1", name(A, 0))
    assert survey.strays[A] == [Stray("store2", name(A, 0), 1)]
    survey.tidied(A, "store2", name(A, 0))
    survey.tidied(B, "store2", name(B, 0))
    assert survey.strays == {}


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([0, 1, 2, 3, 9]), st.integers(0, 9) | st.none())))
def test_a_survey_is_what_was_added_last(said: list[tuple[int, int, int | None]]) -> None:
    survey = Survey(Stores().sites)
    model: dict[str, dict[int, int]] = {}
    for index, number, size in said:
        if size is None:
            survey.discard(id_of(index), number)
            model.get(id_of(index), {}).pop(number, None)
        else:
            survey.add(id_of(index), number, size)
            model.setdefault(id_of(index), {})[number] = size
    assert list(survey) == sorted(model)
    assert {each: survey.shares(each) for each in survey} == model


# Stores that fail.


class Breaking(Around):
    """Lists so many names, and then does what `how` does."""

    def __init__(self, store: Store, after: int, how: Callable[[], None]) -> None:
        super().__init__(store)
        self._after = after
        self._how = how

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        for index, item in enumerate(self.store.list(prefix)):
            if index == self._after:
                self._how()
            yield item


def break_off() -> None:
    raise Unavailable("the connection was cut")


@pytest.mark.parametrize("after", [0, 1, 511, 512, 513, 1400])
def test_what_a_store_said_before_it_broke_off_counts(after: int) -> None:
    stores = Stores()
    for index in range(1500):
        stores.has(1, name(id_of(index), 1))
        stores.has(2, name(id_of(index), 2))
    stores.stores[1] = Breaking(stores.memory[1], after, break_off)
    survey = stores.survey()
    assert {store: str(error) for store, error in survey.failed.items()} == {"store1": "the connection was cut"}
    assert survey.used()["store1"] == (after, 100 * after)
    assert survey.used()["store2"] == (1500, 150_000)
    first, *_, last = sorted(map(id_of, range(1500)))
    assert survey.silent(survey.shares(last)) == {1}, "it may have it all the same"
    assert survey.silent(survey.shares(first)) == (set() if after else {1})


def test_a_store_that_refuses_is_told() -> None:
    stores = Stores()
    stores.has(1, name(A, 1))
    stores.stores[0] = Failing(stores.memory[0], lambda: Denied("not for you"))
    survey = stores.survey()
    assert set(survey.failed) == {"store0"}
    assert survey.shares(A) == {1: 100}
    assert survey.silent(survey.shares(A)) == {0, 9}, "all its numbers"


def test_a_library_that_breaks_is_told_as_well() -> None:
    def fail() -> Exception:
        return ValueError("what")

    stores = Stores()
    stores.stores[0] = Failing(stores.memory[0], fail)
    assert isinstance(stores.survey().failed["store0"], ValueError)


@pytest.mark.parametrize("after", [0, 1, 700])
def test_a_store_that_hangs_delays_nobody_beyond_the_stall(after: int, end: threading.Event) -> None:
    stores = Stores()
    for index in range(1500):
        stores.has(1, name(id_of(index), 1))
        stores.has(2, name(id_of(index), 2))

    def hang() -> None:
        end.wait(60)

    stores.stores[1] = Breaking(stores.memory[1], after, hang)
    survey = in_thread(lambda: take_survey(stores.sites, GRID, stall=5.0, cancelled=stores.cancelled))
    assert set(survey.failed) == {"store1"}
    assert isinstance(survey.failed["store1"], Unavailable)
    assert survey.used()["store1"][0] == after, "what it said until then counts"
    assert survey.used()["store2"][0] == 1500


def test_a_slow_store_is_not_silent() -> None:
    """It takes nine seconds for each name, and ten would be too long."""
    stores = Stores()
    for index in range(20):
        stores.has(1, name(id_of(index), 1))

    class Slowly(Around):
        def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
            for item in self.store.list(prefix):
                stores.clock.advance(9.0)
                yield item

    stores.stores = [stores.memory[0], Slowly(stores.memory[1]), *stores.memory[2:]]
    survey = stores.survey()
    assert survey.used()["store1"][0] == 20
    assert "store1" not in survey.failed


def test_what_a_store_says_when_it_was_given_up_does_not_come_in(end: threading.Event) -> None:
    stores = Stores()
    for index in range(1500):
        stores.has(1, name(id_of(index), 1))
    go_on, reached, over = threading.Event(), threading.Event(), threading.Event()

    class Waking(Around):
        def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
            for index, item in enumerate(self.store.list(prefix)):
                if index == 600:
                    reached.set()
                    wait_for(go_on)
                yield item
            over.set()  # not reached: nobody takes the rest

    stores.stores[1] = Waking(stores.memory[1])
    found: list[Survey] = []
    run = Run(lambda: found.append(stores.survey()))
    wait_for(reached)
    stores.clock.advance(11.0)
    run.join()
    go_on.set()
    [survey] = found
    assert survey.used()["store1"][0] == 600
    assert not over.is_set()


def test_it_can_be_called_off(end: threading.Event) -> None:
    stores = Stores()
    hanging = Hanging(stores.memory[1], end)
    stores.stores[1] = hanging
    run = Run(stores.survey)
    wait_for(hanging.reached)
    stores.cancelled.set()
    with pytest.raises(Cancelled):
        run.join()


# Memory.


def test_an_object_takes_few_bytes() -> None:
    sites = [Site(number, f"store{number}", MemoryStore()) for number in range(5)]

    def fill(count: int) -> int:
        tracemalloc.start()
        try:
            survey = Survey(sites)
            for index in range(count):
                object_id = id_of(index)
                for number in range(5):
                    survey.add(object_id, number, 1_000_000)
            used, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        return used

    small, large = fill(5000), fill(20_000)
    assert large < 20_000 * 350
    assert large < 5 * small, "linear"


# Single objects.


def look(stores: Stores, *object_ids: str, stall: float = 10.0) -> Survey:
    return in_thread(lambda: look_at(stores.sites, object_ids, stall=stall, cancelled=stores.cancelled))


def test_few_objects_are_asked_for_one_by_one() -> None:
    stores = Stores()
    stores.has(0, name(A, 0), name(A, 9))
    stores.has(1, name(A, 1), name(C, 1))
    recording = Recording(stores.memory[1])
    stores.stores[1] = recording
    survey = look(stores, A, B)
    assert list(survey) == [A, B]
    assert survey.shares(A) == {0: 100, 1: 100, 9: 100}
    assert survey.shares(B) == {}
    assert survey.failed == {}
    assert recording.calls == [("stat", name(A, 1)), ("stat", name(B, 1))]


def test_a_store_that_refuses_is_not_asked_for_the_next_object() -> None:
    stores = Stores()
    stores.has(1, name(A, 1), name(B, 1))
    recording = Recording(Failing(stores.memory[1], lambda: Denied("no")))
    stores.stores[1] = recording
    survey = look(stores, A, B)
    assert set(survey.failed) == {"store1"}
    assert survey.silent(survey.shares(B)) == {1}
    assert len(recording.calls) == 1


def test_a_store_that_hangs_is_waited_for_once(end: threading.Event) -> None:
    stores = Stores()
    stores.has(2, name(A, 2))
    hanging = Recording(Hanging(stores.memory[1], end))
    stores.stores[1] = hanging
    survey = look(stores, A, B, C, stall=0.2)
    assert set(survey.failed) == {"store1"}
    assert survey.shares(A) == {2: 100}
    assert len(hanging.calls) == 1


def test_looking_can_be_called_off() -> None:
    stores = Stores()
    stores.cancelled.set()
    with pytest.raises(Cancelled):
        look(stores, A)
