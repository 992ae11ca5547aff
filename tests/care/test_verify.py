from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annex_remote.care.verify import MOST_NAMED, Proof, Task, prove_share, prove_shares, slice_of
from annex_remote.errors import Cancelled, Damaged, Denied, NotFound, Unavailable
from annex_remote.model import Store
from annex_remote.shares.layout import SEGMENT_SIZE
from annex_remote.transfer.gate import Gate
from annex_remote.transfer.sites import Site
from tests.care.vault import spoil
from tests.fakes import Failing, FakeClock, Hanging, Lying, MemoryStore, Recording, Slow, in_thread, wait_for
from tests.shares.builder import FULL, content, upload
from tests.shares.builder import Upload as Built

SIZE = 3 * SEGMENT_SIZE - 7
BUILT = upload(content(SIZE), 3, range(5))
SMALL = upload(content(1000), 3, range(5))
EMPTY = upload(b"", 3, range(5))
OBJECT = BUILT.header.object_id
KEYS = [f"WORM-s1000-m{index}--file" for index in range(8)]
MANY = [upload(content(1000), 3, range(5), annex_key=key) for key in KEYS]


def memory_of(*built: Built, number: int = 0) -> MemoryStore:
    store = MemoryStore()
    for each in built:
        store.contents[str(each.name(number))] = each.shares[number]
    return store


def task_of(built: Built, number: int = 0) -> Task:
    return Task(built.header.object_id, number, len(built.shares[number]))


def quietly(_: int) -> None:
    """Take no notice."""


def prove(store: Store, built: Built = BUILT, number: int = 0) -> Proof:
    site = Site(number, "nas", store)
    return prove_share(site, task_of(built, number), FULL.verify_key, 3, quietly)


# One share.


@pytest.mark.parametrize("built", [EMPTY, SMALL, BUILT], ids=["empty", "small", "large"])
@pytest.mark.parametrize("number", [0, 4])
def test_a_good_share(built: Built, number: int) -> None:
    recording = Recording(memory_of(built, number=number))
    proof = prove(recording, built, number)
    assert (proof.is_good, proof.is_damaged, str(proof), proof.store) == (True, False, "good", "nas")
    assert proof.tail is not None
    assert proof.tail.header == built.header
    assert proof.read == recording.given


def test_bad_blocks_are_named() -> None:
    store = memory_of(BUILT)
    store.contents[str(BUILT.name(0))] = spoil(BUILT.shares[0], [0, 2])
    proof = prove(store)
    assert (proof.bad, proof.is_good, proof.is_damaged) == ((0, 2), False, True)
    assert str(proof) == "2 of its blocks damaged: segments 0, 2"
    assert proof.tail is not None


def test_the_bad_block_of_a_small_share_is_found() -> None:
    store = memory_of(SMALL)
    store.contents[str(SMALL.name(0))] = spoil(SMALL.shares[0], [0])
    assert prove(store, SMALL).bad == (0,)


def test_not_all_of_very_many_bad_blocks_are_named() -> None:
    proof = Proof(task_of(BUILT), "nas", bad=tuple(range(100)))
    assert str(proof).startswith("100 of its blocks damaged: segments 0, 1, 2")
    assert str(proof).endswith(f"19 and {100 - MOST_NAMED} more")


@given(st.data())
def test_any_bit_that_is_flipped_is_noticed(data: st.DataObject) -> None:
    share = bytearray(SMALL.shares[3])
    at = data.draw(st.integers(0, len(share) - 1))
    share[at] ^= 1 << data.draw(st.integers(0, 7))
    store = MemoryStore()
    store.contents[str(SMALL.name(3))] = bytes(share)
    assert prove(store, SMALL, 3).is_damaged


@pytest.mark.parametrize("cut", [1, 16, 17, 1000, len(BUILT.shares[0]) - 1, len(BUILT.shares[0])])
def test_a_share_that_is_cut_off_is_damaged(cut: int) -> None:
    store = memory_of(BUILT)
    store.contents[str(BUILT.name(0))] = BUILT.shares[0][: len(BUILT.shares[0]) - cut]
    proof = prove(store)
    assert isinstance(proof.error, Damaged)
    assert proof.is_damaged
    assert not proof.is_good


@pytest.mark.parametrize(
    "share",
    [
        BUILT.shares[1],
        MANY[0].shares[0],
        b"\0" + BUILT.shares[0],
        BUILT.shares[0] + b"\0",
        b"<html>Not here</html>",
    ],
    ids=["another number", "another object", "longer before", "longer after", "no share"],
)
def test_what_is_not_the_share_that_its_name_says_is_damaged(share: bytes) -> None:
    store = MemoryStore()
    store.contents[str(BUILT.name(0))] = share
    assert prove(store).is_damaged


def test_a_share_of_another_grid_is_damaged() -> None:
    store = memory_of(BUILT)
    stranger = prove_share(Site(0, "nas", store), task_of(BUILT), bytes(32), 3, quietly)
    assert stranger.is_damaged
    assert "not signed by this grid" in str(stranger)


@pytest.mark.parametrize("lie", [{"more": 1}, {"more": -1}, {"missing": 1}, {"more": 1 << 40}])
@pytest.mark.parametrize("built", [SMALL, BUILT], ids=["small", "large"])
def test_a_store_that_lies_about_sizes_has_no_good_share(lie: dict[str, int], built: Built) -> None:
    proof = prove(Lying(memory_of(built), **lie), built)
    assert not proof.is_good
    assert proof.is_damaged


def test_what_is_not_there_is_not_damaged() -> None:
    proof = prove(MemoryStore())
    assert isinstance(proof.error, NotFound)
    assert (proof.is_good, proof.is_damaged) == (False, False)


@pytest.mark.parametrize("after", [0, 100_000])
@pytest.mark.parametrize("error", [Denied("no"), Unavailable("cut"), OSError("what"), KeyError("odd")], ids=repr)
def test_what_could_not_be_read_is_unknown(error: Exception, after: int) -> None:
    proof = prove(Failing(memory_of(BUILT), lambda: error, {"read"}, after=after))
    assert proof.error is error
    assert (proof.is_good, proof.is_damaged) == (False, False)
    if isinstance(error, KeyError):
        assert str(proof) == "KeyError: 'odd'"


# All shares.


class Farm:
    """Stores `store0` to `store4` with the shares of `built`."""

    def __init__(self, built: Sequence[Built] = MANY, connections: int = 8) -> None:
        self.built = built
        self.memory = [memory_of(*built, number=number) for number in range(5)]
        self.stores: list[Store] = list(self.memory)
        self.clock = FakeClock()
        self.cancelled = threading.Event()
        self.connections = connections

    @property
    def sites(self) -> list[Site]:
        return [
            Site(number, f"store{number}", store, connections=self.connections)
            for number, store in enumerate(self.stores)
        ]

    @property
    def tasks(self) -> list[Task]:
        return [task_of(each, number) for each in self.built for number in range(5)]

    def prove(self, **more: Any) -> Iterator[Proof]:
        return prove_shares(
            self.sites,
            self.tasks,
            FULL.verify_key,
            3,
            **{"stall": 10.0, "cancelled": self.cancelled, "clock": self.clock, **more},
        )


def test_each_share_is_proved_once() -> None:
    farm = Farm()
    recordings = [Recording(store) for store in farm.memory]
    farm.stores = list(recordings)
    heard: list[int] = []
    proofs = in_thread(lambda: list(farm.prove(heard=heard.append)))
    assert sorted((each.task.object_id, each.task.number) for each in proofs) == sorted(
        (task.object_id, task.number) for task in farm.tasks
    )
    assert all(proof.is_good and proof.store == f"store{proof.task.number}" for proof in proofs)
    assert sum(heard) == sum(each.given for each in recordings) == sum(proof.read for proof in proofs)


def test_nothing_to_prove() -> None:
    assert list(prove_shares([], [], FULL.verify_key, 3, stall=1.0, cancelled=threading.Event())) == []


def test_bad_blocks_are_told_by_share_and_store() -> None:
    farm = Farm([BUILT])
    for number, segments in {1: [0], 3: [1, 2]}.items():
        farm.memory[number].contents[str(BUILT.name(number))] = spoil(BUILT.shares[number], segments)
    proofs = in_thread(lambda: list(farm.prove()))
    bad = {(proof.store, proof.task.number): proof.bad for proof in proofs if not proof.is_good}
    assert bad == {("store1", 1): (0,), ("store3", 3): (1, 2)}


def test_a_store_that_hangs_is_given_up_and_holds_up_nobody(end: threading.Event) -> None:
    farm = Farm()
    hanging = Hanging(farm.memory[2], end, {"read"})
    farm.stores[2] = hanging
    running = farm.prove()
    others = [in_thread(lambda: next(running)) for _ in range(4 * len(MANY))]
    assert all(proof.is_good and proof.store != "store2" for proof in others)
    farm.clock.advance(11.0)
    rest = in_thread(lambda: list(running))
    assert len(rest) == len(MANY)
    assert {proof.store for proof in rest} == {"store2"}
    assert all(isinstance(proof.error, Unavailable) and not proof.is_damaged for proof in rest)
    gate = farm.sites[2].gate
    assert gate.limit == 8


def test_a_store_that_hangs_is_given_up_while_others_go_on(end: threading.Event) -> None:
    """However many shares the others bring, one after the other."""
    farm = Farm()
    farm.stores[2] = Hanging(farm.memory[2], end, {"read"})
    release = threading.Event()
    slow = Slow(farm.memory[0], release, {"read"})
    farm.stores[0] = slow
    running = farm.prove()
    for _ in range(3 * len(MANY)):
        assert in_thread(lambda: next(running)).is_good
    wait_for(slow.reached)
    farm.clock.advance(9.0)
    release.set()  # the slow one moves, the other one does not
    seen = [in_thread(lambda: next(running)) for _ in range(4)]
    assert {proof.store for proof in seen} == {"store0"}
    farm.clock.advance(2.0)
    rest = in_thread(lambda: list(running))
    assert {proof.store: proof.is_good for proof in rest} == {"store0": True, "store2": False}


def test_a_store_that_hangs_is_given_up_although_there_is_always_something_to_take(end: threading.Event) -> None:
    farm = Farm()
    hanging = Hanging(farm.memory[2], end, {"read"})

    class Ticking(Recording):
        def read(self, name: str, start: int = 0, length: int | None = None) -> Any:
            wait_for(hanging.reached)
            farm.clock.advance(3.0)
            return super().read(name, start, length)

    farm.stores[0], farm.stores[2] = Ticking(farm.memory[0]), hanging
    sites = [farm.sites[0], replace(farm.sites[2], connections=1)]
    tasks = [task for task in farm.tasks if task.number in (0, 2)]
    running = prove_shares(
        sites, tasks, FULL.verify_key, 3, stall=10.0, cancelled=farm.cancelled, clock=farm.clock
    )
    stores = [proof.store for proof in in_thread(lambda: list(running))]
    assert stores.index("store2") < len(MANY) - 1, "before all of the others were told"


def test_one_read_that_hangs_does_not_stop_the_others_of_its_store(end: threading.Event) -> None:
    farm = Farm(connections=2)
    farm.clock = FakeClock()
    first = str(MANY[0].name(2))

    class OneHangs(Recording):
        def read(self, name: str, start: int = 0, length: int | None = None) -> Any:
            if name == first:
                end.wait(60)
            else:
                farm.clock.advance(3.0)  # all the others together take longer than `stall`
            return super().read(name, start, length)

    farm.stores[2] = OneHangs(farm.memory[2])
    tasks = [task for task in farm.tasks if task.number == 2]
    running = prove_shares(
        farm.sites, tasks, FULL.verify_key, 3, stall=10.0, cancelled=farm.cancelled, clock=farm.clock
    )
    proofs = [in_thread(lambda: next(running)) for _ in range(len(MANY) - 1)]
    assert all(proof.is_good for proof in proofs)
    farm.clock.advance(11.0)
    [last] = in_thread(lambda: list(running))
    assert (str(last.task.object_id), last.is_good) == (MANY[0].header.object_id, False)
    assert isinstance(last.error, Unavailable)


def test_others_may_use_a_store_that_was_given_up(end: threading.Event) -> None:
    farm = Farm(connections=1)
    farm.stores[2] = Hanging(farm.memory[2], end, {"read"})
    sites = farm.sites
    running = prove_shares(
        sites, farm.tasks, FULL.verify_key, 3, stall=10.0, cancelled=farm.cancelled, clock=farm.clock
    )
    for _ in range(4 * len(MANY)):
        in_thread(lambda: next(running))
    farm.clock.advance(11.0)
    in_thread(lambda: list(running))
    in_thread(lambda: sites[2].gate.enter())


def test_what_refuses_is_unknown_and_what_is_gone_is_gone() -> None:
    farm = Farm()
    farm.stores[0] = Failing(farm.memory[0], lambda: Denied("no"), {"read"})
    farm.memory[1].contents.clear()
    proofs = in_thread(lambda: list(farm.prove()))
    assert {(proof.store, type(proof.error)) for proof in proofs if not proof.is_good} == {
        ("store0", Denied),
        ("store1", NotFound),
    }
    assert not any(proof.is_damaged for proof in proofs)


def test_no_more_is_asked_for_when_the_caller_closes_it() -> None:
    farm = Farm([BUILT])
    release = threading.Event()
    slow = Slow(farm.memory[0], release, {"read"}, after=10)
    recording = Recording(slow)
    farm.stores = [recording, *farm.stores[1:]]
    sites = [replace(site, connections=1, gate=Gate(1)) for site in farm.sites]
    running = prove_shares(
        sites, farm.tasks, FULL.verify_key, 3, stall=10.0, cancelled=farm.cancelled, clock=farm.clock
    )
    in_thread(lambda: next(running))
    wait_for(slow.reached)
    running.close()  # type: ignore[attr-defined] # a generator
    begun = len(recording.calls)
    release.set()
    in_thread(lambda: sites[0].gate.enter())
    assert len(recording.calls) == begun == 1


def test_it_can_be_called_off(end: threading.Event) -> None:
    farm = Farm()
    farm.stores[0] = Hanging(farm.memory[0], end, {"read"})
    running = farm.prove()
    in_thread(lambda: next(running))
    farm.cancelled.set()
    with pytest.raises(Cancelled):
        in_thread(lambda: list(running))


def test_a_store_gets_no_more_at_once_than_it_may() -> None:
    farm = Farm(connections=2)
    inside, most, lock = 0, 0, threading.Lock()

    class Counting(Recording):
        def read(self, name: str, start: int = 0, length: int | None = None) -> Any:
            nonlocal inside, most
            with lock:
                inside += 1
                most = max(most, inside)
            try:
                return super().read(name, start, length)
            finally:
                with lock:
                    inside -= 1

    farm.stores = [Counting(farm.memory[0]), *farm.stores[1:]]
    in_thread(lambda: list(farm.prove()))
    assert most <= 2


# The turn of the day.


@st.composite
def rows(draw: st.DrawFn) -> list[Task]:
    sizes = draw(st.lists(st.integers(1, 1000), max_size=40))
    return [Task(f"{index % 7}" * 32, index, size) for index, size in enumerate(sizes)]


def never(_: Task) -> bool:
    return False


@given(rows(), st.integers(1, 12))
def test_the_parts_are_everything_once_and_equal_up_to_a_share(tasks: list[Task], parts: int) -> None:
    slices = [slice_of(tasks, parts, turn, never) for turn in range(parts)]
    together = [task for each in slices for task in each]
    assert sorted(together, key=lambda task: task.number) == tasks
    total, largest = sum(task.size for task in tasks), max((task.size for task in tasks), default=0)
    for each in slices:
        assert abs(sum(task.size for task in each) - total / parts) <= largest


@given(rows(), st.integers(1, 12), st.integers(0, 100))
def test_the_part_is_the_same_whoever_asks(tasks: list[Task], parts: int, turn: int) -> None:
    chosen = slice_of(tasks, parts, turn, never)
    assert slice_of(tasks[::-1], parts, turn + parts, never) == chosen or parts == 1


@given(rows(), st.integers(2, 12))
def test_what_is_overdue_comes_along_once(tasks: list[Task], parts: int) -> None:
    late = {task for task in tasks if task.number % 3 == 0}
    for turn in range(parts):
        chosen = slice_of(tasks, parts, turn, late.__contains__)
        assert len(chosen) == len(set(chosen))
        assert set(chosen) == late | set(slice_of(tasks, parts, turn, never))


def test_all_at_once() -> None:
    tasks = [Task("b" * 32, 0, 10), Task("a" * 32, 1, 10)]
    assert slice_of(tasks, 1, 5, never) == tasks
