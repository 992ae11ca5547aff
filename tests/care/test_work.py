from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from annex_remote.care.health import Ground, State
from annex_remote.care.plan import Census, Job, plan_rebalance, plan_repair
from annex_remote.care.survey import Stray
from annex_remote.care.work import in_parallel
from annex_remote.errors import Cancelled, Denied, Unavailable
from annex_remote.model import Coding
from annex_remote.shares.layout import SEGMENT_SIZE
from tests.care.vault import Power, Vault, is_healthy, spoil
from tests.fakes import Corrupting, Failing, Hanging, Recording, Run, in_thread, wait_for
from tests.shares.builder import FULL, content, upload
from tests.transfer.rig import Rig

SEED = FULL.signing_seed
SIZE = 2 * SEGMENT_SIZE - 7


def never() -> threading.Event:
    return threading.Event()


# Many at once.


def test_everything_is_done_and_what_fails_is_told() -> None:
    def work(item: int) -> int:
        if item == 3:
            raise Denied("not this one")
        return item * item

    results = in_thread(lambda: list(in_parallel(work, range(10), 4, never())))
    assert sorted(each.item for each in results) == list(range(10))
    assert {each.item: each.value for each in results} == {n: None if n == 3 else n * n for n in range(10)}
    assert [each.item for each in results if isinstance(each.error, Denied)] == [3]


def test_one_at_a_time_keeps_the_order_and_nothing_is_nothing() -> None:
    assert [each.item for each in in_parallel(lambda item: item, [3, 1, 2], 1, never())] == [3, 1, 2]
    assert list(in_parallel(lambda item: item, [], 4, never())) == []


def test_nothing_more_is_begun_when_nobody_takes_the_results() -> None:
    begun: list[int] = []
    go = [threading.Event() for _ in range(10)]

    def work(item: int) -> int:
        begun.append(item)
        wait_for(go[item])
        return item

    results = in_parallel(work, range(10), 2, never())
    go[0].set()
    assert in_thread(lambda: next(results)).item == 0
    results.close()  # type: ignore[attr-defined] # a generator
    for each in go:
        each.set()
    assert set(begun) <= {0, 1, 2}


def test_it_can_be_called_off_while_all_hang(end: threading.Event) -> None:
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(Cancelled):
        in_thread(lambda: list(in_parallel(lambda _: end.wait(), range(3), 2, cancelled)))


# Moves.


def retiring(folder: Path) -> Vault:
    """The last store is retired, and there is a new one; the tables do not have its number."""
    vault = Vault.of(folder, SIZE, sites=6)
    vault.rig.retired = {4}
    return vault


def test_what_moves_is_proved_where_it_goes_before_it_goes_where_it_was(tmp_path: Path) -> None:
    vault = retiring(tmp_path)
    order: list[tuple[str, str]] = []
    for number in (4, 5):
        recording = Recording(vault.rig.memory[number])
        recording.calls = order
        vault.rig.break_store(number, lambda _, recording=recording: recording)  # type: ignore[misc]
    done = vault.rebalance(SEED)
    assert is_healthy(done)
    assert done is not None
    assert done.dropped == (f"store4: {vault.rig.name(4)}",)
    new = vault.rig.name(5)
    assert order.index(("put", new)) < order.index(("read", new)) < order.index(("delete", vault.rig.name(4)))
    last_read = max(index for index, call in enumerate(order) if call == ("read", new))
    assert last_read < order.index(("delete", vault.rig.name(4)))
    assert set(vault.rig.held) == {0, 1, 2, 3, 5}
    assert vault.rig.readable([1, 3, 5]) == content(SIZE)
    assert vault.rebalance(SEED) is None


@pytest.mark.parametrize(
    "broken",
    [
        lambda store: Failing(store, lambda: Denied("read-only"), {"put"}),
        lambda store: Corrupting(store, [-20]),
        lambda store: Corrupting(store, [0]),
    ],
    ids=["does not take it", "damages its end", "damages a block"],
)
def test_nothing_goes_whose_successor_did_not_prove(tmp_path: Path, broken: Callable[..., Failing]) -> None:
    vault = retiring(tmp_path)
    vault.rig.break_store(5, broken)
    done = vault.rebalance(SEED)
    assert done is not None
    assert done.dropped == ()
    assert "nothing of it was removed, as shares are still missing" in done.notes
    assert vault.rig.share(4) == vault.built.shares[4]


def test_a_plan_that_would_leave_less_is_not_carried_out(tmp_path: Path) -> None:
    """It was made from what was known before."""
    vault = Vault.of(tmp_path, SIZE)
    census = vault.census()
    job = Job(vault.object_id, census.verdict(vault.object_id), (), (4,))
    [done] = vault.do(lambda _: [job], census=census)
    assert done.dropped == ()
    assert done.notes == ("nothing of it was removed: without it the object would bear less",)
    assert vault.is_whole()


def test_without_the_signing_key_nothing_moves_to_a_number_that_no_table_has(tmp_path: Path) -> None:
    vault = retiring(tmp_path)
    done = vault.rebalance()
    assert done is not None
    assert done.dropped == ()
    assert vault.is_whole()


def test_a_share_without_a_successor_goes_only_if_the_others_prove_to_be_there(tmp_path: Path) -> None:
    vault = retiring(tmp_path)
    six = upload(content(SIZE), 3, range(6))
    vault.rig.plant(six)
    first = vault.rig.name(0)
    vault.rig.memory[0].contents[first] = spoil(six.shares[0], end=True)
    done = vault.rebalance(SEED)
    assert done is not None
    assert done.dropped == ()
    assert done.notes == ("nothing of it was removed: the shares that were to be left could not be read",)
    vault.rig.plant(upload(bytes(SIZE), 3, range(6)), [0])
    done = vault.rebalance(SEED)
    assert done is not None
    assert done.dropped == (), "what is there is of other content"
    vault.rig.plant(six)
    done = vault.rebalance(SEED)
    assert is_healthy(done)
    assert set(vault.rig.held) == {0, 1, 2, 3, 5}
    assert vault.tally.written == 0


def test_whenever_a_move_is_killed_nothing_is_lost_and_the_next_run_makes_it_whole(tmp_path: Path) -> None:
    after, was_off = 0, True
    while was_off:
        after += 1
        folder = tmp_path / str(after)
        folder.mkdir()
        vault = retiring(folder)
        power = Power(after)
        for number in range(6):
            vault.rig.break_store(number, power.around)
        census = vault.census()
        power.begin()
        vault.do(moves, SEED, census=census)
        was_off = power.is_off
        assert len(vault.rig.held) >= 5
        vault.rig.mend()
        if was_off:
            vault.rebalance(SEED)
        assert set(vault.rig.held) == {0, 1, 2, 3, 5}
        assert vault.rig.readable() == content(SIZE)
    assert after > 10


def moves(census: Census) -> list[Job]:
    return plan_rebalance(census, free={}, most={})


# What is damaged and not wanted any more.


def test_a_damaged_share_on_a_retired_store_goes_when_the_object_is_whole(tmp_path: Path) -> None:
    vault = retiring(tmp_path)
    vault.damage(4, 0)
    vault.ledger.note_damaged(vault.object_id, 4, "a block")
    assert is_healthy(vault.repair(SEED))
    assert set(vault.rig.held) == {0, 1, 2, 3, 5}
    assert not vault.ledger.damaged()


def test_a_damaged_share_on_a_retired_store_goes_with_a_rebalance_too(tmp_path: Path) -> None:
    vault = retiring(tmp_path)
    vault.rig.plant(upload(content(SIZE), 3, range(6)))
    vault.damage(4, 0)
    vault.ledger.note_damaged(vault.object_id, 4, "a block")
    assert is_healthy(vault.rebalance(SEED))
    assert set(vault.rig.held) == {0, 1, 2, 3, 5}


def test_a_damaged_share_stays_as_long_as_others_are_not_known_to_be_there(tmp_path: Path) -> None:
    """It may have blocks that nobody else has."""
    vault = Vault.of(tmp_path, SIZE, sites=6)
    vault.rig.plant(upload(content(SIZE), 3, range(6)))
    vault.damage(5, 0)
    vault.ledger.note_damaged(vault.object_id, 5, "a block")
    vault.rig.break_store(4, lambda store: Failing(store, lambda: Unavailable("off")))
    done = vault.repair()
    assert done is not None
    assert done.dropped == ()
    assert 5 in vault.rig.held
    vault.rig.mend()
    done = vault.repair()
    assert is_healthy(done)
    assert 5 not in vault.rig.held


# Strays.


def strayed(folder: Path) -> Vault:
    """Shares under numbers that are not their stores'."""
    vault = Vault.of(folder, SIZE)
    for store in (1, 2):
        vault.rig.memory[store].contents[vault.rig.name(0)] = vault.built.shares[0]
    return vault


def test_strays_go_when_the_object_is_whole(tmp_path: Path) -> None:
    vault = strayed(tmp_path)
    done = vault.repair()
    assert is_healthy(done)
    assert done is not None
    assert done.dropped == (f"store1: {vault.rig.name(0)}", f"store2: {vault.rig.name(0)}")
    assert vault.is_whole()
    assert len(vault.everything()) == 5
    assert vault.repair() is None


def test_strays_stay_where_anything_is_missing_or_silent(tmp_path: Path) -> None:
    vault = strayed(tmp_path)
    vault.rig.forget(4)
    vault.rig.break_store(4, lambda store: Failing(store, lambda: Denied("no"), {"put"}))
    done = vault.repair()
    assert done is not None
    assert done.dropped == ()
    vault.rig.mend()
    vault.rig.break_store(4, lambda store: Failing(store, lambda: Unavailable("off")))
    done = vault.repair()
    assert done is not None
    assert done.dropped == ()
    assert vault.rig.name(0) in vault.rig.memory[1].contents


def test_a_stray_that_cannot_be_removed_is_told_and_the_other_goes(tmp_path: Path) -> None:
    vault = strayed(tmp_path)
    vault.rig.break_store(1, lambda store: Failing(store, lambda: Denied("read-only"), {"delete"}))
    census = vault.census()
    [done] = vault.do(plan_repair, census=census)
    assert done.dropped == (f"store2: {vault.rig.name(0)}",)
    assert done.notes == (f"store1: {vault.rig.name(0)} could not be removed: read-only",)
    assert [each.store for each in census.survey.strays[vault.object_id]] == ["store1"]


def test_a_store_that_hangs_when_something_is_to_be_removed_holds_up_nobody_for_ever(
    tmp_path: Path, end: threading.Event
) -> None:
    vault = strayed(tmp_path)
    vault.rig.stall = 0.3
    vault.rig.break_store(1, lambda store: Hanging(store, end, {"delete"}))
    done = vault.repair()
    assert done is not None
    assert "no answer in 0.3 seconds" in " ".join(done.notes)
    assert done.dropped == (f"store2: {vault.rig.name(0)}",)


def test_a_stray_of_a_store_that_is_gone_is_nobodys(tmp_path: Path) -> None:
    vault = Vault.of(tmp_path, SIZE)
    census = vault.census()
    stray = Stray("nowhere", vault.rig.name(0), 1)
    job = Job(vault.object_id, census.verdict(vault.object_id), (), (), (stray,))
    [done] = vault.do(lambda _: [job], census=census)
    assert (done.dropped, done.error) == ((), None)


# Several objects.


def test_all_objects_are_made_whole_and_each_is_told_of(tmp_path: Path) -> None:
    vaults = []
    memory = None
    for index in range(6):
        folder = tmp_path / str(index)
        folder.mkdir()
        vault = Vault.of(folder, 1000)
        vault.rig.key = f"WORM-s1000-m{index}--file"
        vault.built = upload(content(1000), 3, range(5), annex_key=vault.rig.key)
        vault.rig.memory = memory or vault.rig.memory
        if memory is None:
            for store in vault.rig.memory:
                store.contents.clear()
        memory = vault.rig.memory
        vault.rig.mend()
        vault.rig.plant(vault.built)
        vault.rig.forget(*range(index % 3))
        vaults.append(vault)
    first = vaults[0]
    first.named = False
    done = first.do(plan_repair)
    assert sorted(each.job.object_id for each in done) == sorted(
        each.object_id for index, each in enumerate(vaults) if index % 3
    )
    assert all(is_healthy(each) for each in done)
    assert all(vault.is_whole() for vault in vaults)
    census = first.census()
    assert len(census.survey) == 6
    assert all(verdict.state is State.HEALTHY for _, verdict in census)


def test_it_can_be_called_off(tmp_path: Path, end: threading.Event) -> None:
    vault = Vault.of(tmp_path, SIZE)
    vault.rig.forget(4)
    hanging = Hanging(vault.rig.memory[4], end, {"put"})
    vault.rig.break_store(4, lambda _: hanging)
    run = Run(lambda: vault.do(plan_repair))
    wait_for(hanging.reached)
    vault.cancelled.set()
    with pytest.raises(Cancelled):
        run.join()
    assert vault.is_whole([0, 1, 2, 3])


def test_what_cannot_be_done_is_told_with_what_is_known(tmp_path: Path) -> None:
    vault = Vault.of(tmp_path, SIZE)
    census = vault.census()
    job = Job("a" * 32, census.verdict("a" * 32), None)
    [done] = vault.do(lambda _: [job], census=census)
    assert done.error is not None
    assert done.verdict.state is State.LOST


def test_unread_shares_are_not_counted_twice(tmp_path: Path) -> None:
    vault = Vault.of(tmp_path, SIZE)
    vault.rig.forget(4)
    vault.rig.break_store(0, lambda store: Failing(store, lambda: Unavailable("off"), {"read"}))
    census = vault.census()
    census.unread[vault.object_id] = {0}
    [done] = vault.do(plan_repair, census=census)
    assert done.outcome is not None
    assert set(done.outcome.made) == {4}
    assert vault.is_whole()


def test_the_ground_says_what_is_whole() -> None:
    ground = Ground(Rig.of(Path(), 3, 3, 5, sites=4).sites, Coding(3, 3, 5))
    assert ground.is_whole([0, 1, 2, 3], 3), "as far as these stores go"
    assert not ground.is_whole([0, 1, 2], 3)
