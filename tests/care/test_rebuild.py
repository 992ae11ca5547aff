from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import pytest

from annex_remote.care import made
from annex_remote.care.health import State
from annex_remote.care.plan import plan_repair
from annex_remote.errors import Denied, Full, NotEnough, Unavailable
from annex_remote.model import Store, staged_name
from annex_remote.shares.format import Tail
from annex_remote.shares.layout import SEGMENT_SIZE
from annex_remote.transfer import schedule
from annex_remote.transfer.opening import FIRST_READ, PEEK
from tests.care.vault import Power, Stepwise, Swapping, Vault, is_healthy, spoil
from tests.fakes import Corrupting, Failing, Filling, MemoryStore, Recording, Run, Slow, in_thread
from tests.shares.builder import FULL, content, upload

SEED = FULL.signing_seed
SIZES = [0, 1, 1000, SEGMENT_SIZE, 2 * SEGMENT_SIZE + 5]
THREE = 3 * SEGMENT_SIZE - 7
"""Three segments."""


def vault_of(folder: Path, size: int = THREE, sites: int | None = None) -> Vault:
    """Three of five shares."""
    return Vault.of(folder, size, sites=sites)


def refused() -> Exception:
    return Denied("not for you")


# What is made.


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("lost", [each for count in (1, 2) for each in combinations(range(5), count)])
def test_whatever_was_lost_comes_back_byte_for_byte_with_the_verify_key_alone(
    tmp_path: Path, size: int, lost: Sequence[int]
) -> None:
    vault = vault_of(tmp_path, size)
    vault.rig.forget(*lost)
    done = vault.repair()
    assert vault.is_whole()
    assert is_healthy(done)
    assert done is not None
    assert done.outcome is not None
    assert done.outcome.made == {number: len(vault.built.shares[number]) for number in lost}


@pytest.mark.parametrize(("needed", "total"), [(1, 2), (1, 1), (2, 2), (4, 6)])
def test_other_codings(tmp_path: Path, needed: int, total: int) -> None:
    vault = Vault.of(tmp_path, THREE, needed, total)
    lost = range(total - needed)
    vault.rig.forget(*lost)
    assert is_healthy(vault.repair()) == bool(lost)
    assert vault.is_whole()


def test_one_share_too_few(tmp_path: Path) -> None:
    vault = vault_of(tmp_path)
    vault.rig.forget(0, 1, 2)
    assert vault.repair() is None
    assert vault.verdict().state is State.LOST
    assert vault.is_whole([3, 4])


@pytest.mark.parametrize("size", [1000, THREE])
def test_damaged_shares_are_made_anew(tmp_path: Path, size: int) -> None:
    vault = vault_of(tmp_path, size)
    vault.damage(2, 0)
    vault.ledger.note_damaged(vault.object_id, 2, "a block")
    assert is_healthy(vault.repair())
    assert vault.is_whole()
    assert not vault.ledger.damaged()


def test_shares_that_are_cut_off(tmp_path: Path) -> None:
    vault = vault_of(tmp_path)
    for number in (1, 3):
        vault.rig.memory[number].contents[vault.rig.name(number)] = vault.built.shares[number][:-1]
    assert is_healthy(vault.repair())
    assert vault.is_whole()


@pytest.mark.parametrize("known", [True, False], ids=["known", "found"])
def test_good_blocks_of_damaged_shares_count(tmp_path: Path, known: bool) -> None:
    """One share is good, of three each has another bad block, one is lost: three are needed."""
    vault = vault_of(tmp_path)
    vault.rig.forget(4)
    for number in (1, 2, 3):
        vault.damage(number, number - 1)
        if known:
            vault.ledger.note_damaged(vault.object_id, number, "a block")
    assert is_healthy(vault.repair())
    assert vault.is_whole()


def test_damage_that_is_found_while_reading_is_mended_in_the_same_run(tmp_path: Path) -> None:
    vault = vault_of(tmp_path)
    vault.rig.forget(4)
    vault.damage(0, 1)
    vault.damage(1, 2)
    done = vault.repair()
    assert is_healthy(done)
    assert vault.is_whole()
    assert not vault.ledger.damaged()


def test_ends_that_do_not_prove_are_mended_as_well(tmp_path: Path) -> None:
    vault = vault_of(tmp_path)
    vault.rig.forget(4)
    vault.rig.memory[0].contents[vault.rig.name(0)] = spoil(vault.built.shares[0], end=True)
    assert is_healthy(vault.repair())
    assert vault.is_whole()


def test_what_went_away_since_it_was_listed_is_made_as_well(tmp_path: Path) -> None:
    vault = vault_of(tmp_path)
    vault.rig.forget(4)
    census = vault.census()
    vault.rig.forget(0)
    [done] = vault.do(plan_repair, census=census)
    assert vault.is_whole()
    assert is_healthy(done)


def test_what_went_away_and_cannot_be_made_is_not_said_to_be_there(tmp_path: Path) -> None:
    vault = vault_of(tmp_path)
    vault.rig.forget(4)
    vault.rig.break_store(0, lambda store: Failing(store, refused, {"put"}))
    census = vault.census()
    vault.rig.forget(0)
    [done] = vault.do(plan_repair, census=census)
    assert done.verdict.good == (1, 2, 3, 4)
    assert done.outcome is not None
    assert done.outcome.absent == (0,)
    assert done.outcome.deficit == 1


def test_too_many_bad_blocks_of_one_segment_are_told_and_remembered(tmp_path: Path) -> None:
    vault = vault_of(tmp_path)
    vault.rig.forget(4)
    for number in (0, 1):
        vault.damage(number, 1)
    before = vault.everything()
    done = vault.repair()
    assert done is not None
    assert isinstance(done.error, NotEnough)
    assert vault.everything() == before
    assert set(vault.ledger.damaged()[vault.object_id]) == {0, 1}
    assert done.verdict.state is State.UNKNOWN
    assert done.verdict.bad == (0, 1)


def test_what_depends_on_a_store_that_does_not_answer_is_not_said_to_be_lost(tmp_path: Path) -> None:
    vault = vault_of(tmp_path)
    vault.rig.forget(3, 4)
    vault.rig.break_store(0, lambda store: Failing(store, lambda: Unavailable("gone fishing"), {"read"}))
    done = vault.repair()
    assert done is not None
    assert isinstance(done.error, Unavailable)
    assert "gone fishing" in str(done.error)


# What nobody has made before.


def test_shares_that_no_table_has_take_the_signing_key(tmp_path: Path) -> None:
    vault = vault_of(tmp_path, sites=6)
    vault.rig.retired = {4}
    vault.rig.forget(4)
    without = vault.repair()
    assert without is not None
    assert "take the full capability" in " ".join(without.notes)
    assert vault.is_whole([0, 1, 2, 3])
    assert is_healthy(vault.repair(SEED))
    assert set(vault.rig.held) == {0, 1, 2, 3, 5}
    assert vault.rig.readable([3, 4 + 1, 0]) == content(THREE)
    tail = Tail.parse(vault.rig.held[5], len(vault.rig.held[5]))
    tail.verify(FULL.verify_key)
    assert set(tail.roots) == {0, 1, 2, 3, 4, 5}


def test_shares_are_made_again_by_the_table_that_they_had(tmp_path: Path) -> None:
    """A table that was signed later is longer, and has the others as well."""
    vault = vault_of(tmp_path, sites=6)
    vault.rig.retired = {4}
    vault.rig.forget(4)
    vault.repair(SEED)
    vault.rig.forget(0, 1)
    assert is_healthy(vault.repair())
    assert {number: vault.rig.held[number] for number in range(4)} == {
        number: vault.built.shares[number] for number in range(4)
    }


# Other content.


@pytest.mark.parametrize("minority", [(3, 4), (0, 1), (4,), (0,)])
def test_shares_of_other_content_are_replaced(tmp_path: Path, minority: Sequence[int]) -> None:
    """Whoever answers first: the content that has the most shares counts."""
    vault = Vault.of(tmp_path, THREE, needed=2, total=5)
    other = upload(bytes(THREE), 2, range(5))
    vault.rig.plant(other, minority)
    missing = next(number for number in range(5) if number not in minority)
    if len(minority) < 2:
        vault.rig.forget(missing)
    for number in minority:
        vault.ledger.note_damaged(vault.object_id, number, "it belongs to other content")
    assert is_healthy(vault.repair())
    assert vault.is_whole()


def test_other_content_that_nobody_knows_of_is_found_when_it_is_met(tmp_path: Path) -> None:
    vault = vault_of(tmp_path)
    vault.rig.plant(upload(bytes(THREE), 3, range(5)), [0])
    vault.rig.forget(4)
    assert is_healthy(vault.repair())
    assert vault.is_whole()


def test_the_larger_content_is_not_replaced_because_the_smaller_one_was_seen_first(tmp_path: Path) -> None:
    vault = Vault.of(tmp_path, THREE, needed=2, total=6)
    vault.rig.plant(upload(bytes(THREE), 2, range(6)), [0, 2])
    vault.rig.forget(5)
    release = threading.Event()
    for number in (3, 4):  # one of the larger and both of the smaller are seen long before
        vault.rig.break_store(number, lambda store: Slow(store, release, {"read"}))
    threading.Timer(0.3, release.set).start()
    assert is_healthy(vault.repair())
    assert vault.is_whole()


# Stores that fail.


@pytest.mark.parametrize("error", [Full("full"), Denied("read-only"), Unavailable("off")], ids=lambda e: str(e))
def test_what_a_store_does_not_take_goes_to_a_spare_one(tmp_path: Path, error: Exception) -> None:
    vault = vault_of(tmp_path, sites=6)
    vault.rig.forget(4)
    vault.rig.break_store(4, lambda store: Failing(store, lambda: error, {"put"}))
    done = vault.repair(SEED)
    assert done is not None
    assert done.verdict.state is State.HEALTHY
    assert done.notes == (f"store4: share 4 was not written: {error}",)
    assert set(vault.rig.held) == {0, 1, 2, 3, 5}
    assert vault.rig.readable() == content(THREE)


def test_a_store_that_says_that_it_has_no_room_is_not_tried(tmp_path: Path) -> None:
    vault = vault_of(tmp_path, sites=6)
    vault.rig.forget(4)
    recording = Recording(vault.rig.memory[4])
    vault.rig.break_store(4, lambda _: recording)
    done = vault.repair(SEED, free={"store4": 10})
    assert not recording.names("put")
    assert set(vault.rig.held) == {0, 1, 2, 3, 5}
    assert done is not None
    assert done.verdict.state is State.HEALTHY


def test_without_a_spare_the_deficit_is_told_with_its_reason(tmp_path: Path) -> None:
    vault = vault_of(tmp_path)
    vault.rig.forget(3, 4)
    vault.rig.break_store(4, lambda store: Filling(store, 10))
    done = vault.repair(SEED)
    assert done is not None
    assert done.outcome is not None
    assert (done.verdict.state, done.outcome.deficit) == (State.DEGRADED, 1)
    assert done.notes[0] == "store4: share 4 was not written: no room is left"
    assert set(vault.rig.held) == {0, 1, 2, 3}


def test_a_store_that_hangs_is_given_up(tmp_path: Path) -> None:
    release = threading.Event()
    vault = vault_of(tmp_path)
    vault.rig.stall = 0.3
    vault.rig.forget(3, 4)
    vault.rig.break_store(4, lambda store: Slow(store, release, {"put"}))
    done = vault.repair()
    release.set()
    assert done is not None
    assert done.verdict.good == (0, 1, 2, 3)
    assert "store4: share 4 was not written: no answer in 0.3 seconds" in done.notes


# What is written is read back.


@pytest.mark.parametrize(
    "how",
    [
        lambda store: Corrupting(store, [-20]),
        lambda store: Corrupting(store, [0]),
        lambda store: Corrupting(store, [SEGMENT_SIZE - 100]),
    ],
    ids=["end", "first block", "last block"],
)
def test_what_reads_back_otherwise_does_not_count(tmp_path: Path, how: Callable[[Store], Store]) -> None:
    vault = vault_of(tmp_path)
    vault.rig.forget(4)
    vault.rig.break_store(4, how)
    done = vault.repair()
    assert done is not None
    assert done.outcome is not None
    assert done.outcome.made == {}
    assert done.outcome.deficit == 1
    assert done.verdict.state is State.DEGRADED
    assert len(done.notes) >= 1


def test_what_reads_back_as_other_content_does_not_count(tmp_path: Path) -> None:
    vault = vault_of(tmp_path)
    vault.rig.forget(4)
    other = upload(bytes(THREE), 3, range(5))
    vault.rig.break_store(4, lambda store: Swapping(store, {vault.rig.name(4): other.shares[4]}))
    done = vault.repair()
    assert done is not None
    assert done.outcome is not None
    assert done.outcome.made == {}
    assert "belongs to other content" in done.notes[0]


@pytest.mark.parametrize("other", [False, True], ids=["the same", "other content"])
def test_somebody_else_may_be_faster(tmp_path: Path, other: bool) -> None:
    """What is there already is not overwritten, and counts if it proves to be what was to be made."""
    vault = vault_of(tmp_path)
    vault.rig.forget(4)
    census = vault.census()
    theirs = upload(bytes(THREE), 3, range(5)) if other else vault.built
    # It is there only when it is to be written: until then the store does not show it.
    late = _Late(vault.rig.memory[4], vault.rig.name(4), theirs.shares[4])
    vault.rig.break_store(4, lambda _: late)
    census = vault.census()
    [done] = vault.do(plan_repair, census=census)
    assert done.outcome is not None
    assert set(done.outcome.made) == (set() if other else {4})
    assert vault.rig.share(4) == theirs.shares[4]


class _Late(Recording):
    """Gets something just before the first put of anything."""

    def __init__(self, store: MemoryStore, name: str, share: bytes) -> None:
        super().__init__(store)
        self._memory, self._name, self._share = store, name, share

    def put(self, name, size, open_at, *, fresh=False):  # type: ignore[no-untyped-def]
        self._memory.contents.setdefault(self._name, self._share)
        super().put(name, size, open_at, fresh=fresh)


def test_two_repairs_at_once_do_no_harm(tmp_path: Path) -> None:
    vault = vault_of(tmp_path)
    vault.rig.forget(4)
    vault.damage(0, 1)
    vault.ledger.note_damaged(vault.object_id, 0, "a block")
    first, second = vault.census(), vault.census()
    runs = [
        Run(lambda census=census: list(vault.work(census).run(plan_repair(census))))  # type: ignore[misc]
        for census in (first, second)
    ]
    for run in runs:
        run.join()
    assert vault.is_whole()
    assert first.verdict(vault.object_id).state is State.HEALTHY
    assert second.verdict(vault.object_id).state is State.HEALTHY


# Nothing goes before its successor is proved.


def precious(folder: Path, size: int = THREE) -> Vault:
    """Of two good shares and three damaged ones, all blocks are needed."""
    vault = vault_of(folder, size)
    for number in (2, 3, 4):
        vault.damage(number, *({0, 1, 2} - {number - 2}))
        vault.ledger.note_damaged(vault.object_id, number, "blocks")
    assert vault.is_decodable(3)
    return vault


def test_the_last_good_blocks_are_replaced_when_the_new_ones_are_safe_beside_them(tmp_path: Path) -> None:
    vault = precious(tmp_path)
    recording = Recording(vault.rig.memory[3])
    vault.rig.break_store(3, lambda _: recording)
    assert is_healthy(vault.repair())
    assert vault.is_whole()
    staged, name = staged_name(vault.object_id, 3), vault.rig.name(3)
    calls = [call for call in recording.calls if call[0] != "list"]
    order = [calls.index(("put", staged)), calls.index(("read", staged)), calls.index(("put", name))]
    assert order == sorted(order)
    assert calls.index(("delete", staged)) == len(calls) - 1
    assert calls[-2] == ("read", name), "proved, before what is beside it goes"


def test_a_share_that_is_damaged_and_not_precious_is_replaced_in_one_step(tmp_path: Path) -> None:
    vault = vault_of(tmp_path)
    vault.damage(3, 0)
    vault.ledger.note_damaged(vault.object_id, 3, "a block")
    recording = Recording(vault.rig.memory[3])
    vault.rig.break_store(3, lambda _: recording)
    assert is_healthy(vault.repair())
    assert recording.names("put") == [vault.rig.name(3)]
    assert not recording.names("delete")


def lost_two(folder: Path) -> Vault:
    vault = vault_of(folder)
    vault.rig.forget(0, 4)
    return vault


def damaged_two(folder: Path) -> Vault:
    vault = vault_of(folder)
    for number in (0, 4):
        vault.damage(number, 1)
        vault.ledger.note_damaged(vault.object_id, number, "a block")
    return vault


@pytest.mark.parametrize("begin", [lost_two, damaged_two, precious])
@pytest.mark.parametrize("stepwise", [False, True], ids=["atomic", "stepwise"])
def test_whenever_it_is_killed_nothing_is_lost_and_the_next_run_makes_it_whole(
    tmp_path: Path, begin: Callable[[Path], Vault], stepwise: bool
) -> None:
    after, was_off = 0, True
    while was_off:
        after += 1
        folder = tmp_path / str(after)
        folder.mkdir()
        vault = begin(folder)
        rig = vault.rig
        power = Power(after)
        for number in range(5):
            if stepwise:
                rig.break_store(number, lambda store, power=power: Stepwise(store, power))  # type: ignore[misc]
            rig.break_store(number, power.around)
        census = vault.census()
        power.begin()
        vault.do(plan_repair, census=census)
        was_off = power.is_off
        assert vault.is_decodable(3), f"killed at {after}"
        rig.mend()
        if was_off:
            vault.repair()
            vault.repair()  # what lay beside its place is only told apart when it is looked at again
        assert vault.is_whole(), f"killed at {after}"
    assert after > 10


# Traffic and memory.


@pytest.mark.parametrize("lost", [(4,), (0,), (0, 1), (1, 3), (3, 4)])
def test_an_object_is_read_once_whatever_is_missing(tmp_path: Path, lost: Sequence[int]) -> None:
    size = 12 * SEGMENT_SIZE
    vault = vault_of(tmp_path, size)
    vault.rig.forget(*lost)
    sources = [number for number in range(5) if number not in lost]
    recordings = {number: Recording(vault.rig.memory[number]) for number in range(5)}
    vault.rig.stores = [recordings[number] for number in range(5)]
    assert is_healthy(vault.repair())
    ends = 4 * (FIRST_READ + PEEK + 32 * 13)
    assert sum(recordings[number].given for number in sources) <= 1.05 * size + ends
    assert all(not recordings[number].names("put") for number in sources)
    assert all(recordings[number].taken == len(vault.built.shares[number]) for number in lost)
    block = vault.built.header.layout.block_length(0)
    for number in lost:
        assert recordings[number].given <= 5 * block + FIRST_READ + PEEK + 32 * 13, "some blocks are read back"
    assert vault.tally.read == sum(each.given for each in recordings.values())
    assert vault.tally.written == sum(each.taken for each in recordings.values())


def test_nothing_more_than_ends_is_read_where_nothing_can_be_made(tmp_path: Path) -> None:
    vault = vault_of(tmp_path, sites=6)
    vault.rig.retired = {4}
    vault.rig.forget(4)
    vault.repair(None)
    assert vault.tally.read <= 3 * (FIRST_READ + PEEK + 200)


def test_large_shares_wait_in_files_without_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "tmp"
    monkeypatch.setattr(made, "IN_MEMORY", 100_000)
    vault = vault_of(tmp_path)
    vault.folder = str(folder)
    vault.rig.forget(4)
    done = vault.repair()
    assert done is not None
    assert isinstance(done.error, FileNotFoundError)
    folder.mkdir()
    assert is_healthy(vault.repair())
    assert vault.is_whole()
    assert list(folder.iterdir()) == []


def test_small_shares_take_no_files(tmp_path: Path) -> None:
    vault = vault_of(tmp_path, 1000)
    vault.folder = str(tmp_path / "not there")
    vault.rig.forget(4)
    assert is_healthy(vault.repair())


def test_no_more_than_a_window_of_an_object_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made, "IN_MEMORY", 100_000)
    monkeypatch.setattr(schedule, "AHEAD", 4)
    monkeypatch.setattr(schedule, "BUSY_AHEAD", 4)
    monkeypatch.setattr(schedule, "MAX_WINDOW", 2)
    monkeypatch.setattr(schedule, "BUSY_WINDOW", 1)
    size = 40 * SEGMENT_SIZE
    vault = Vault.of(tmp_path, size, needed=2, total=3)
    vault.folder = str(tmp_path)
    vault.rig.forget(2)
    vault.rig.break_store(2, lambda store: _Swallowing(store))
    census = vault.census()
    tracemalloc.start()
    try:
        vault.do(plan_repair, census=census)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * SEGMENT_SIZE


class _Swallowing(Recording):
    """Takes what is put, and keeps nothing."""

    def put(self, name, size, open_at, *, fresh=False):  # type: ignore[no-untyped-def]
        for piece in open_at(0):
            self.taken += len(piece)


def test_rounds_are_bounded(tmp_path: Path) -> None:
    """A share that turns out to be damaged each time it was made anew."""
    vault = vault_of(tmp_path)
    vault.rig.forget(4)
    vault.rig.break_store(0, lambda store: Corrupting(store, [5]))
    done = in_thread(vault.repair)
    assert done is not None
    assert done.verdict.good == (1, 2, 3, 4)
    assert done.verdict.bad == (0,)
    assert "store0" in done.notes[0]
