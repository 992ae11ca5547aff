"""Storing an object on stores that do well, fail, fill, hang, are slow, or start again."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annex_remote.capability import Capability
from annex_remote.errors import (
    BadSetting,
    Busy,
    Cancelled,
    Damaged,
    Denied,
    Full,
    NoCapability,
    NotEnough,
    StoreError,
    Unavailable,
)
from annex_remote.model import ByteStream, Coding, OpenAt, ShareName, Store
from annex_remote.shares.crypto import Cipher
from annex_remote.shares.format import Tail
from annex_remote.shares.layout import SEGMENT_SIZE
from annex_remote.transfer.pipeline import CORES
from annex_remote.transfer.sealing import PATIENCE, WINDOW_BYTES
from tests.fakes import (
    VERBS,
    Around,
    Failing,
    FakeClock,
    Filling,
    Flaky,
    Hanging,
    Recording,
    Resuming,
    Run,
    Slow,
    wait_for,
)
from tests.shares import builder
from tests.shares.builder import FULL, content, prove
from tests.transfer.rig import STALL, WORM, Rig

SEGMENT = SEGMENT_SIZE
SIZES = [0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, 5 * SEGMENT // 2]
DATA = content(5 * SEGMENT // 2)


def built(rig: Rig, data: bytes, numbers: list[int] | None = None) -> builder.Upload:
    """What an upload must come to, to the byte."""
    everyone = list(range(rig.coding.total)) if numbers is None else numbers
    return builder.upload(data, rig.coding.needed, everyone, rig.cipher, annex_key=rig.key)


def assert_sound(rig: Rig) -> None:
    """Whatever became of an upload: a share that is on a store is whole, and is what it says."""
    for number, share in rig.held.items():
        proved = prove(ShareName(rig.object_id, number), share, FULL.verify_key)
        assert None not in proved.blocks, f"share {number} was stored with blocks that do not prove"


class Finishing(Around):
    """Says in `done` that a put is over, however it ended."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.done = threading.Event()

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        try:
            self.store.put(name, size, open_at, fresh=fresh)
        finally:
            self.done.set()


# All is well.


@pytest.mark.parametrize("cipher", Cipher)
@pytest.mark.parametrize("size", SIZES)
def test_every_store_gets_its_share(rig: Rig, size: int, cipher: Cipher) -> None:
    rig.cipher = cipher
    rig.store(content(size))
    assert rig.held == built(rig, content(size)).shares
    assert rig.notes.lines == []
    assert rig.readable([1, 3]) == content(size)


@settings(max_examples=40)
@given(st.integers(1, 8), st.integers(0, 6), st.integers(0, 4000), st.randoms(use_true_random=False))
def test_any_coding_and_size(tmp_path_factory: pytest.TempPathFactory, needed: int, more: int, size: int, chance):  # type: ignore[no-untyped-def]
    total = needed + more
    rig = Rig.of(tmp_path_factory.getbasetemp(), needed, chance.randint(needed, total), total)
    rig.store(content(size))
    assert rig.held == built(rig, content(size)).shares
    assert rig.present()


def test_as_many_stores_as_there_can_be(tmp_path: Path) -> None:
    rig = Rig.of(tmp_path, 100, 200, 256)
    rig.store(content(100_000))
    assert rig.held == built(rig, content(100_000)).shares
    assert rig.fetch() == content(100_000)


def test_progress_is_plaintext_that_happy_stores_have(rig: Rig) -> None:
    data = content(7 * SEGMENT // 2)
    rig.store(data)
    assert rig.progress == sorted(rig.progress)
    assert rig.progress[-1] == len(data)
    assert all(done % SEGMENT == 0 for done in rig.progress[:-1])


def test_progress_waits_for_happy_stores(rig: Rig) -> None:
    """Two stores take everything, two take nothing: with three happy, nothing is safe yet."""
    release = threading.Event()
    for number in (2, 3):
        rig.break_store(number, lambda store: Slow(store, release, ["put"]))
    quick = [Finishing(store) for store in rig.stores[:2]]
    rig.stores[:2] = quick
    run = Run(rig.upload(rig.source(DATA)).run)
    for store in quick:
        wait_for(store.done)
    assert set(rig.progress) <= {0}
    release.set()
    run.join()
    assert rig.progress[-1] == len(DATA)


# A store fails.

ERRORS: list[Callable[[], Exception]] = [
    lambda: Unavailable("the disk is gone"),
    lambda: Denied("not allowed"),
    lambda: Full("no room"),
    lambda: Busy("later", 5.0),
    lambda: OSError(5, "an error that the store did not translate"),
    lambda: ValueError("a mistake in the store"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error()).__name__)
@pytest.mark.parametrize("after", [0, 1, 700_000, 1_310_900])
def test_one_store_may_fail(rig: Rig, error: Callable[[], Exception], after: int) -> None:
    rig.break_store(1, lambda store: Failing(store, error, ["put"], after=after))
    rig.store(DATA)
    assert sorted(rig.held) == [0, 2, 3]
    [note] = rig.notes.lines
    assert note.startswith("store1: share 1 was not stored: ")
    assert error().args[-1] in note or isinstance(error(), Busy)
    whole = built(rig, DATA).shares
    assert all(share == whole[number] for number, share in rig.held.items())


def test_the_share_that_failed_can_be_repaired_without_the_signing_key(rig: Rig) -> None:
    """Its root is in the signed table of the others."""
    rig.break_store(3, lambda store: Failing(store, ERRORS[0]))
    rig.store(DATA)
    assert sorted(rig.held) == [0, 1, 2]
    for share in rig.held.values():
        assert sorted(Tail.parse(share, len(share)).roots) == [0, 1, 2, 3]


class Mute(Around):
    """Does not tell how much room it has."""

    def space(self) -> int | None:
        return None


def test_a_full_store_is_left_with_nothing_and_named(rig: Rig) -> None:
    rig.break_store(0, lambda store: Mute(Filling(store, room=SEGMENT)))
    rig.store(DATA)
    assert rig.held.keys() == {1, 2, 3}
    assert rig.notes.lines == ["store0: share 0 was not stored: no room is left"]


def test_fewer_than_happy_is_a_failure_that_names_stores_and_causes(rig: Rig) -> None:
    rig.break_store(0, lambda store: Failing(store, lambda: Full("no room"), ["put"], after=5))
    rig.break_store(2, lambda store: Failing(store, lambda: Denied("not allowed"), ["put"]))
    with pytest.raises(NotEnough) as raised:
        rig.store(DATA)
    begin, *causes = re.split(": (?=store)|; ", str(raised.value))
    assert re.match(r"2 shares? .*\b3 \(happy\)", begin)
    assert sorted(causes) == ["store0: no room", "store2: not allowed"]
    assert len(DATA) not in rig.progress
    assert_sound(rig)
    rig.mend()
    rig.store(DATA)
    assert rig.held == built(rig, DATA).shares


def test_fewer_than_needed_are_not_there(rig: Rig) -> None:
    for number in (0, 1, 2):
        rig.break_store(number, lambda store: Failing(store, lambda: Full("no room"), ["put"]))
    with pytest.raises(NotEnough):
        rig.store(DATA)
    rig.mend()
    assert rig.present() is False


def test_nothing_is_sent_that_could_not_be_enough(rig: Rig) -> None:
    for number in (0, 1):
        rig.break_store(number, lambda store: Failing(store, lambda: Unavailable("gone")))
    others = [Recording(store) for store in rig.stores[2:]]
    rig.stores[2:] = others
    with pytest.raises(NotEnough, match=r"\b2 .*\b3 .* store0: gone; store1: gone"):
        rig.store(DATA)
    assert [store.names("put") for store in others] == [[], []]


# A store hangs.


@pytest.mark.parametrize("after", [0, 1, 600_000, 1_310_000])
def test_a_store_that_hangs_in_a_put_is_given_up(rig: Rig, end: threading.Event, after: int) -> None:
    rig.stall = STALL
    rig.break_store(2, lambda store: Hanging(store, end, ["put"], after=after))
    rig.store(DATA)
    assert rig.held.keys() == {0, 1, 3}
    assert rig.notes.lines == ["store2: share 2 was not stored: no progress for 0.3 seconds"]
    assert_sound(rig)


def test_a_store_that_hangs_at_everything_is_given_up(rig: Rig, end: threading.Event) -> None:
    rig.stall = STALL
    rig.break_store(2, lambda store: Hanging(store, end))
    rig.store(DATA)
    assert rig.held.keys() == {0, 1, 3}
    [note] = rig.notes.lines
    assert note.startswith("store2: share 2 was not stored: no answer in")


def test_all_stores_hang(rig: Rig, end: threading.Event) -> None:
    rig.stall = STALL
    for number in range(4):
        rig.break_store(number, lambda store: Hanging(store, end, ["put"], after=100))
    with pytest.raises(NotEnough, match=r"\b0 .*\b3 .*: no progress for 0.3 seconds"):
        rig.store(content(30 * SEGMENT))
    assert rig.held == {}


def test_a_hanging_store_answers_after_the_end_and_harms_nobody(rig: Rig) -> None:
    rig.stall = STALL
    release = threading.Event()
    slow = Finishing(Slow(rig.stores[1], release, ["put"], after=100))
    rig.stores[1] = slow
    rig.store(DATA)
    before = rig.held
    release.set()
    wait_for(slow.done)
    assert rig.held == before
    assert rig.held.keys() == {0, 2, 3}


# A store is slow.


def many_small_windows(folder: Path) -> Rig:
    """Eight shares of the size of the object: the window has room for two segments."""
    rig = Rig.of(folder, 1, 2, 8)
    assert max(2, WINDOW_BYTES // (8 * SEGMENT)) == 2
    return rig


def test_a_slow_store_gets_a_pass_of_its_own(tmp_path: Path) -> None:
    """The others are done while it still has its first block in hand."""
    rig = many_small_windows(tmp_path)
    data = content(6 * SEGMENT + 5)
    release = threading.Event()
    slow = Slow(rig.stores[5], release, ["put"], after=1)
    quick = [Finishing(store) for store in rig.stores]
    rig.stores = [*quick[:5], slow, *quick[6:]]
    run = Run(rig.upload(rig.source(data)).run)
    wait_for(slow.reached)
    for number in (0, 1, 2, 3, 4, 6, 7):
        wait_for(quick[number].done)
    assert not run.is_over
    assert rig.held.keys() == {0, 1, 2, 3, 4, 6, 7}
    release.set()
    run.join()
    assert rig.held == built(rig, data).shares


class Metering(Around):
    """Notes when which byte was taken; `reached` says that `mark` bytes were, `beyond` that more were."""

    def __init__(self, store: Store, clock: FakeClock, mark: int) -> None:
        super().__init__(store)
        self.reached, self.beyond = threading.Event(), threading.Event()
        self.taken: dict[float, int] = {}
        self._clock = clock
        self._mark = mark

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        def metered(offset: int) -> Iterator[bytes | memoryview]:
            total = 0
            for piece in open_at(offset):
                total += len(piece)
                self.taken[self._clock()] = total
                if total >= self._mark:
                    self.reached.set()
                if total > self._mark:
                    self.beyond.set()
                yield piece

        self.store.put(name, size, metered, fresh=fresh)


def test_the_window_is_bounded_while_a_slow_store_is_waited_for(tmp_path: Path) -> None:
    """On a clock that stands still nobody is let go of, and nobody gets further than the window."""
    rig = many_small_windows(tmp_path)
    data = content(6 * SEGMENT)
    clock = FakeClock()
    release = threading.Event()
    window = 2 * rig.data_length(SEGMENT)
    slow = Slow(rig.stores[0], release, ["put"], after=1)
    metered = [Metering(store, clock, window) for store in rig.stores[1:]]
    rig.stores = [slow, *metered]
    run = Run(rig.upload(rig.source(data), clock).run)
    for store in metered:
        wait_for(store.reached)
    assert not any(store.beyond.wait(0.05) for store in metered)
    clock.advance(PATIENCE)
    for store in metered:
        wait_for(store.beyond)
    release.set()
    run.join()
    assert [store.taken[1000.0] for store in metered] == [window] * 7
    assert rig.held == built(rig, data).shares


def test_stores_that_are_all_slow_are_waited_for(rig: Rig) -> None:
    """Each stops once for longer than the pass is patient, and none is given up for it."""
    rig.stall = 5.0
    clock = FakeClock()
    release = threading.Event()
    slow = [
        Slow(store, release, ["put"], after=100_000 * (1 + number), clock=clock, step=1.0)
        for number, store in enumerate(rig.stores)
    ]
    rig.stores = list(slow)
    run = Run(rig.upload(rig.source(DATA), clock).run)
    for store in slow:
        wait_for(store.reached)
    release.set()
    run.join()
    assert rig.held == built(rig, DATA).shares
    assert rig.notes.lines == []


# A store starts again.

BLOCK = (SEGMENT + 64) // 2
ENDS = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 5 * BLOCK // 2 - 500, 1_311_000, 10_000_000]


@pytest.mark.parametrize("breaks_after", ENDS)
def test_a_store_that_goes_on_where_it_was_cut_off_gets_its_share(rig: Rig, breaks_after: int) -> None:
    for back in (0, 1, BLOCK, breaks_after):
        if back > breaks_after:
            continue
        resuming = [Resuming(store, breaks_after, breaks_after - back) for store in rig.memory[:2]]
        rig.stores = [*resuming, *rig.memory[2:]]
        rig.store(DATA)
        assert rig.held == built(rig, DATA).shares
        assert [store.offsets[0] for store in resuming] == [0, 0]
        assert [len(store.offsets) for store in resuming] == [2, 2]
        for store in rig.memory:
            store.contents.clear()


def test_every_store_starts_again_somewhere(tmp_path: Path) -> None:
    rig = Rig.of(tmp_path, 3, 5, 7)
    sizes = [(number * 400_000, number * 150_000) for number in range(7)]
    rig.stores = [Resuming(store, *size) for store, size in zip(rig.memory, sizes, strict=True)]
    data = content(9 * SEGMENT + 99)
    rig.store(data)
    assert rig.held == built(rig, data).shares


@settings(max_examples=25)
@given(st.integers(0, 3 * SEGMENT), st.integers(0, 3 * SEGMENT), st.integers(0, 3 * SEGMENT))
def test_any_offset(tmp_path_factory: pytest.TempPathFactory, size: int, one: int, other: int) -> None:
    rig = Rig.of(tmp_path_factory.getbasetemp(), 2, 3, 3)
    rig.break_store(1, lambda store: Resuming(store, max(one, other), min(one, other)))
    rig.store(content(size))
    assert rig.held == built(rig, content(size)).shares


# More stores than shares.


def chosen_by(rig: Rig, data: bytes) -> list[int]:
    rig.store(data)
    numbers = sorted(rig.held)
    for store in rig.memory:
        store.contents.clear()
    rig.mend()
    return numbers


def test_only_as_many_as_wanted_are_stored(tmp_path: Path) -> None:
    rig = Rig.of(tmp_path, 2, 3, 4, sites=7)
    numbers = chosen_by(rig, DATA)
    assert len(numbers) == 4
    rig.store(DATA)
    assert sorted(rig.held) == numbers
    assert rig.held == built(rig, DATA, numbers).shares


@pytest.mark.parametrize("after", [0, 700_000])
def test_a_spare_takes_over_for_a_store_that_fails(tmp_path: Path, after: int) -> None:
    rig = Rig.of(tmp_path, 2, 3, 4, sites=7)
    broken = chosen_by(rig, DATA)[1]
    rig.break_store(broken, lambda store: Failing(store, lambda: Full("no room"), ["put"], after=after))
    rig.store(DATA)
    assert len(rig.held) == 4
    assert broken not in rig.held
    assert_sound(rig)
    assert rig.readable() == DATA
    assert rig.progress[-1] == len(DATA)


def test_a_spare_takes_over_for_a_store_that_hangs(tmp_path: Path, end: threading.Event) -> None:
    rig = Rig.of(tmp_path, 2, 4, 4, sites=5)
    rig.stall = STALL
    broken = chosen_by(rig, DATA)[3]
    rig.stall = STALL
    rig.break_store(broken, lambda store: Hanging(store, end))
    rig.store(DATA)
    assert rig.held.keys() == set(range(5)) - {broken}
    assert rig.readable() == DATA


def test_spares_that_fail_too_are_no_help(tmp_path: Path) -> None:
    rig = Rig.of(tmp_path, 2, 3, 4, sites=7)
    for number in range(5):
        rig.break_store(number, lambda store: Failing(store, lambda: Denied("not allowed"), ["put"]))
    with pytest.raises(NotEnough, match=r"\b2 .*\b3 .* store[0-4]: not allowed; "):
        rig.store(DATA)
    rig.mend()
    for number in range(4):
        rig.break_store(number, lambda store: Failing(store, lambda: Denied("not allowed"), ["put"]))
    rig.store(DATA)
    assert rig.held.keys() == {4, 5, 6}
    assert rig.readable() == DATA


def test_stores_that_say_they_are_full_are_the_last(tmp_path: Path) -> None:
    rig = Rig.of(tmp_path, 2, 3, 4, sites=7)
    for number in (1, 2, 5):
        rig.break_store(number, lambda store: Filling(store, room=1000))
    recordings = [Recording(store) for store in rig.stores]
    rig.stores = list(recordings)
    rig.store(DATA)
    assert rig.held.keys() == {0, 3, 4, 6}
    assert [recordings[number].names("put") for number in (1, 2, 5)] == [[], [], []]


# What is there already.


def test_shares_that_are_there_are_not_sent_again(rig: Rig) -> None:
    rig.store(DATA)
    before = rig.held
    recordings = [Recording(store) for store in rig.memory]
    rig.stores = list(recordings)
    rig.store(DATA)
    assert [store.names("put") + store.names("delete") for store in recordings] == [[]] * 4
    rig.forget(2)
    rig.store(DATA)
    assert [len(store.names("put")) for store in recordings] == [0, 0, 1, 0]
    assert rig.held == before
    assert rig.progress[-1] == len(DATA)


@pytest.mark.parametrize("size", [SEGMENT + 1, 5 * SEGMENT // 2])
def test_an_upload_that_was_cut_off_goes_on(rig: Rig, size: int) -> None:
    rig.plant(built(rig, content(size)), [1])
    recording = Recording(rig.stores[1])
    rig.stores[1] = recording
    rig.store(content(size))
    assert rig.held == built(rig, content(size)).shares
    assert recording.names("put") == []


def test_a_damaged_share_is_replaced(rig: Rig) -> None:
    rig.store(DATA)
    before = rig.held
    rig.memory[0].contents[rig.name(0)] = before[0][:-1] + b"?"
    rig.memory[1].contents[rig.name(1)] = b""
    rig.store(DATA)
    assert rig.held == before


def test_a_share_on_a_store_that_cannot_be_asked_is_missed_but_stays(rig: Rig) -> None:
    rig.store(DATA)
    before = rig.held
    rig.break_store(3, lambda store: Failing(store, lambda: Unavailable("away")))
    rig.store(DATA)
    assert rig.notes.lines == ["store3: share 3 was not stored: away"]
    assert rig.held == before


def test_other_content_under_the_key_is_removed_first(rig: Rig) -> None:
    rig.key = WORM
    rig.store(DATA)
    calls: list[tuple[str, int]] = []

    class Ordered(Around):
        def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
            calls.append(("put", int(name[-1])))
            super().put(name, size, open_at, fresh=fresh)

        def delete(self, name: str) -> None:
            super().delete(name)
            calls.append(("delete", int(name[-1])))

    rig.stores = [Ordered(store) for store in rig.memory]
    rig.store(DATA[:-1] + b"!")
    assert sorted(calls[:4]) == [("delete", number) for number in range(4)]
    assert sorted(calls[4:]) == [("put", number) for number in range(4)]
    assert rig.held == built(rig, DATA[:-1] + b"!").shares


def test_other_content_under_a_hash_is_a_damage_that_a_person_has_to_look_at(rig: Rig) -> None:
    """One of the two is not what the key says; which, nobody here knows: neither is removed."""
    rig.store(DATA)
    before = rig.held
    with pytest.raises(Damaged, match="other content"):
        rig.store(b"other content")
    assert rig.held == before
    rig.forget(1, 2, 3)  # what is left cannot be rebuilt, and is in the way
    rig.store(b"other content")
    assert rig.held == built(rig, b"other content").shares


def test_other_content_that_cannot_be_removed_is_not_mixed(rig: Rig) -> None:
    rig.key = WORM
    rig.store(DATA)
    before = rig.held
    for number in (1, 2):
        rig.break_store(number, lambda store: Failing(store, lambda: Denied("not allowed"), ["delete"]))
    recordings = [Recording(store) for store in rig.stores]
    rig.stores = list(recordings)
    with pytest.raises(Unavailable, match=r"other content .* store1: not allowed; store2: not allowed"):
        rig.store(b"other content")
    assert [store.names("put") for store in recordings] == [[]] * 4
    assert rig.held == {number: before[number] for number in (1, 2)}


def test_one_old_share_that_stays_is_no_object(rig: Rig) -> None:
    rig.key = WORM
    rig.store(DATA)
    rig.break_store(1, lambda store: Failing(store, lambda: Denied("not allowed"), ["delete", "put"]))
    rig.store(b"other content")
    assert rig.notes.lines == ["store1: share 1 was not stored: not allowed"]
    assert rig.fetch() == b"other content"


def test_another_writer_that_comes_between_is_noticed(rig: Rig) -> None:
    """Two of our shares are replaced while we still send others: fewer than happy are ours in the end."""
    rig.key = WORM
    theirs = built(rig, b"their content")

    class Overtaken(Around):
        def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
            super().put(name, size, open_at, fresh=fresh)
            rig.plant(theirs, [int(name[-1])])

    for number in (0, 3):
        rig.break_store(number, Overtaken)
    with pytest.raises(NotEnough, match="another upload under the same key replaced this share"):
        rig.store(b"our content")
    rig.mend()
    for store in rig.memory[:1]:
        store.contents.clear()
    rig.stores[1] = Overtaken(rig.memory[1])
    rig.store(b"our content, again")
    assert len(rig.held) == 4
    [note] = rig.notes.lines
    assert note == "store1: share 1 was not stored: another upload under the same key replaced this share"
    assert rig.fetch() == b"our content, again"


# Stores that are retired: they are read and cleared, and take nothing new.


def test_a_retired_store_gets_no_share(tmp_path: Path) -> None:
    rig = Rig.of(tmp_path, 2, 3, 3, sites=5)
    rig.retired = {0, 2}
    recordings = [Recording(store) for store in rig.stores]
    rig.stores = list(recordings)
    rig.store(DATA)
    assert rig.held.keys() == {1, 3, 4}
    assert rig.fetch() == DATA
    assert recordings[0].names("put") + recordings[2].names("put") == []


def test_shares_on_retired_stores_do_not_count_as_stored(tmp_path: Path) -> None:
    rig = Rig.of(tmp_path, 2, 3, 3, sites=5)
    rig.plant(built(rig, DATA, [0, 1, 2]))
    rig.retired = {0, 2}
    rig.store(DATA)
    assert rig.held.keys() == {0, 1, 2, 3, 4}
    assert_sound(rig)
    assert rig.fetch() == DATA
    assert rig.present()


def test_other_content_is_removed_from_retired_stores_too(tmp_path: Path) -> None:
    rig = Rig.of(tmp_path, 2, 3, 3, sites=5)
    rig.key = WORM
    rig.plant(built(rig, DATA, [0, 1, 2]))
    rig.retired = {0, 2}
    rig.store(b"other content")
    assert rig.held.keys() == {1, 3, 4}
    assert rig.fetch() == b"other content"


def test_retired_stores_are_not_missed(tmp_path: Path) -> None:
    rig = Rig.of(tmp_path, 2, 3, 3, sites=5)
    rig.retired = {0, 2}
    for number in rig.retired:
        rig.break_store(number, lambda store: Failing(store, lambda: Unavailable("away")))
    rig.store(DATA)
    assert rig.held.keys() == {1, 3, 4}
    assert rig.notes.lines == []
    rig.break_store(1, lambda store: Failing(store, lambda: Unavailable("away")))
    with pytest.raises(NotEnough, match="store1: away"):
        rig.store(DATA + b"!")


# The file changes.


class Paused:
    """An upload that stops with its pass part-way through the file: store 0 does not take its first block.

    The clock stands still, so that nobody is let go of. `unread` is an offset that the pass has not reached.
    """

    def __init__(self, folder: Path, others: Callable[[Store], Store] = Around) -> None:
        self.rig = Rig.of(folder, 1, 1, 2)
        window = WINDOW_BYTES // (2 * SEGMENT)
        self.segments = window + CORES + 6
        self.unread = (self.segments - 2) * SEGMENT
        self.path = folder / "source"
        with self.path.open("wb") as file:
            file.truncate(self.segments * SEGMENT)
        self.clock = FakeClock()
        self.release = threading.Event()
        self.slow = Slow(self.rig.stores[0], self.release, ["put"], after=1)
        self.finishing = [Finishing(self.slow), Finishing(others(self.rig.stores[1]))]
        self.rig.stores = list(self.finishing)
        self.run = Run(self.rig.upload(self.path, self.clock).run)
        wait_for(self.slow.reached)

    def end(self) -> None:
        self.release.set()
        try:
            self.run.join()
        finally:
            for store in self.finishing:
                wait_for(store.done)
            assert_sound(self.rig)


def test_a_file_that_is_cut_short_is_not_stored(tmp_path: Path) -> None:
    paused = Paused(tmp_path)
    os.truncate(paused.path, paused.unread)
    with pytest.raises(Damaged, match="the file became shorter while it was read"):
        paused.end()
    assert paused.rig.held == {}


def test_a_file_that_grows_is_not_stored(tmp_path: Path) -> None:
    paused = Paused(tmp_path)
    with paused.path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(Damaged, match="the file became longer while it was read"):
        paused.end()
    assert paused.rig.held == {}


def test_a_file_that_changes_before_it_is_read_is_stored_as_it_was_read(tmp_path: Path) -> None:
    paused = Paused(tmp_path)
    with paused.path.open("r+b") as file:
        file.seek(paused.unread)
        file.write(b"changed")
    paused.end()
    assert paused.rig.fetch() == paused.path.read_bytes()


def test_a_file_that_changes_between_two_readings_is_not_stored_twofold(tmp_path: Path) -> None:
    """Store 1 has lost its connection and reads the file by itself, ahead of the pass; then the rest changes."""
    ahead = threading.Event()

    class Ahead(Resuming):
        def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
            def watched(offset: int) -> Iterator[bytes | memoryview]:
                taken = 0
                for piece in open_at(offset):
                    taken += len(piece)
                    yield piece
                    if taken > size - 3 * SEGMENT // 2:  # all but the last segment
                        ahead.set()

            super().put(name, size, watched, fresh=fresh)

    paused = Paused(tmp_path, lambda store: Ahead(store, 1, 0))
    wait_for(ahead)
    with paused.path.open("r+b") as file:
        file.seek(paused.unread)
        file.write(b"changed")
    try:
        paused.end()
    except (Damaged, NotEnough):
        return
    assert paused.rig.fetch() == paused.path.read_bytes()


def test_a_slow_store_that_reads_a_changed_file_does_not_get_its_share(tmp_path: Path) -> None:
    rig = many_small_windows(tmp_path)
    data = content(6 * SEGMENT)
    release = threading.Event()
    slow = Slow(rig.stores[5], release, ["put"], after=1)
    quick = [Finishing(store) for store in rig.stores]
    rig.stores = [*quick[:5], slow, *quick[6:]]
    path = rig.source(data)
    run = Run(rig.upload(path).run)
    for number in (0, 1, 2, 3, 4, 6, 7):
        wait_for(quick[number].done)
    with path.open("r+b") as file:
        file.seek(4 * SEGMENT)
        file.write(b"changed")
    release.set()
    run.join()
    assert rig.held.keys() == {0, 1, 2, 3, 4, 6, 7}
    [note] = rig.notes.lines
    assert note.startswith("store5: share 5 was not stored: ")
    assert note.endswith("the file changed while it was read")
    assert rig.fetch() == data


def test_a_file_that_changes_before_a_spare_gets_its_share_does_not_end_as_a_mix(tmp_path: Path) -> None:
    """A store fails with its last byte, the file changes, and a spare store is sent to from the changed file."""
    rig = Rig.of(tmp_path, 3, 4, 4, sites=8)
    data = content(100_000)
    numbers = chosen_by(rig, data)
    path = rig.source(data)
    changed = bytes(reversed(data))

    def fails() -> Exception:
        path.write_bytes(changed)
        return Unavailable("gone")

    size = len(built(rig, data, numbers).shares[numbers[0]])
    for number in numbers[:2]:
        rig.break_store(number, lambda store: Failing(store, fails, ["put"], after=size - 1))
    try:
        Run(rig.upload(path).run).join()
    except (Damaged, NotEnough):
        return
    headers = {Tail.parse(share, len(share)).header for share in rig.held.values()}
    assert len(headers) == 1, "shares of two contents were counted together"


def test_a_file_that_changes_while_kept_shares_are_looked_at_does_not_end_as_a_mix(tmp_path: Path) -> None:
    rig = Rig.of(tmp_path, 3, 4, 4, sites=5)
    data = content(100_000)
    numbers = chosen_by(rig, data)
    rig.plant(built(rig, data, numbers), numbers[:2])
    rig.memory[numbers[2]].contents[rig.name(numbers[2])] = b"no share"
    path = rig.source(data)

    class Changing(Around):
        def delete(self, name: str) -> None:
            path.write_bytes(bytes(reversed(data)))
            super().delete(name)

    rig.stores = [Changing(store) for store in rig.stores]
    try:
        Run(rig.upload(path).run).join()
    except (Damaged, NotEnough):
        return
    headers = {Tail.parse(share, len(share)).header for share in rig.held.values()}
    assert len(headers) == 1, "shares of two contents were counted together"


def test_a_file_that_cannot_be_read_is_no_fault_of_the_stores(rig: Rig) -> None:
    with pytest.raises(FileNotFoundError):
        Run(rig.upload(rig.folder / "nowhere").run).join()
    with pytest.raises(IsADirectoryError):
        Run(rig.upload(rig.folder).run).join()
    assert rig.held == {}


# Called off.


def test_an_upload_that_is_called_off_stops(rig: Rig) -> None:
    release = threading.Event()
    slow = [Slow(store, release, ["put"], after=1) for store in rig.stores]
    finishing = [Finishing(store) for store in slow]
    rig.stores = list(finishing)
    run = Run(rig.upload(rig.source(DATA)).run)
    for store in slow:
        wait_for(store.reached)
    rig.cancelled.set()
    with pytest.raises(Cancelled):
        run.join()  # before the stores let go
    release.set()
    for each in finishing:
        wait_for(each.done)
    assert rig.held == {}
    assert len(DATA) not in rig.progress


def test_an_upload_that_is_called_off_before_it_begins_sends_nothing(rig: Rig, end: threading.Event) -> None:
    recordings = [Recording(store) for store in rig.stores]
    rig.stores = [*recordings[:3], Hanging(recordings[3], end, VERBS)]
    run = Run(rig.upload(rig.source(DATA)).run)
    rig.cancelled.set()
    with pytest.raises(Cancelled):
        run.join()
    assert [store.names("put") for store in recordings] == [[]] * 4


# What cannot be.


def test_a_capability_that_cannot_store_is_refused(rig: Rig) -> None:
    upload = rig.upload(rig.source(DATA))
    for kind in ("read", "verify"):
        upload.capability = FULL.attenuate(kind)
        with pytest.raises(NoCapability):
            upload.run()
    assert rig.held == {}


def test_a_key_name_that_is_too_long_is_refused(rig: Rig) -> None:
    rig.key = "WORM-s3--" + "x" * 4100
    with pytest.raises(BadSetting, match="too long to"):
        rig.store(DATA)


def test_a_capability_of_another_grid_sees_nothing_of_this_one(rig: Rig) -> None:
    rig.store(DATA)
    upload = rig.upload(rig.source(DATA))
    other = Capability("full", FULL.read_secret + bytes(32))
    upload.capability = other
    Run(upload.run).join()
    for number, share in rig.held.items():
        prove(ShareName(rig.object_id, number), share, other.verify_key)


def test_a_store_that_fails_a_few_times_does_not_lose_what_others_have(rig: Rig) -> None:
    """Uploads are tried again by git-annex: each goes on from the last."""
    rig.coding = Coding(2, 4, 4)
    rig.break_store(1, lambda store: Flaky(store, lambda: Unavailable("a cable"), 2, ["put"]))
    recordings = [Recording(store) for store in rig.stores]
    rig.stores = list(recordings)
    for _ in range(2):
        with pytest.raises(NotEnough, match=r"\b3 .*\b4 .*: store1: a cable"):
            rig.store(DATA)
    rig.store(DATA)
    assert [len(store.names("put")) for store in recordings] == [1, 3, 1, 1]
    assert rig.held == built(rig, DATA).shares


def test_what_an_impatient_store_does_not_take_is_its_own_loss(rig: Rig) -> None:
    class Impatient(Around):
        """Opens the source, takes nothing, and says why."""

        def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
            iter(open_at(0))
            raise Denied("a name that this store does not like")

        def read(self, name: str, start: int = 0, length: int | None = None) -> ByteStream:
            return self.store.read(name, start, length)

    rig.break_store(1, Impatient)
    rig.store(DATA)
    assert rig.held.keys() == {0, 2, 3}
    assert isinstance(Denied("x"), StoreError)
