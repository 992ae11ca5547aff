"""A download beside another source of the same content, which works from the end, has islands, lies or fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annex_remote.errors import Cancelled, Denied, NotEnough
from annex_remote.shares.layout import SEGMENT_SIZE
from annex_remote.transfer.download import LEAST_BESIDE, Download
from annex_remote.transfer.schedule import AHEAD
from tests.fakes import Failing, FakeClock, Recording, Run, Slow, wait_for
from tests.shares.builder import Upload, content, upload
from tests.transfer.rig import KEY, Rig

SEGMENT = SEGMENT_SIZE
SEGMENTS = 5
BIG = content((SEGMENTS - 1) * SEGMENT + 1000)
OTHER = bytes(byte ^ 1 for byte in BIG)


@dataclass
class FakeAside:
    """Has `there`, segments of `data`; those in `unreadable` are not to be had after all.

    `comes` adds to what is there, when a segment has been offered; `taken` and `offered` are segments as well.
    """

    there: set[int] = field(default_factory=set)
    data: bytes = BIG
    unreadable: Collection[int] = ()
    comes: dict[int, set[int]] = field(default_factory=dict)
    is_whole: bool = False
    taken: list[int] = field(default_factory=list)
    offered: list[int] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    coming: set[int] = field(default_factory=set)
    free: threading.Event = field(default_factory=threading.Event)
    """Set when it writes nothing any more."""
    reached: threading.Event = field(default_factory=threading.Event)
    waits: bool = False
    beyond: int = 0

    def take_over(self) -> None:
        self.reached.set()
        if self.waits:
            wait_for(self.free)
        if self.is_whole:
            raise Cancelled("the file is there already")

    def has(self, start: int, end: int, coming: int) -> bool:
        index, rest = divmod(start, SEGMENT)
        assert rest == 0
        assert end == min(start + SEGMENT, len(BIG))
        self.asked.append(index)
        self.coming.add(coming)
        return index in self.there

    def take(self, start: int, end: int) -> bytes | None:
        index = start // SEGMENT
        assert index in self.there, "it was not said to be there"
        if index in self.unreadable:
            return None
        self.taken.append(index)
        return self.data[start:end]

    def offer(self, start: int, data: bytes | memoryview) -> None:
        index = start // SEGMENT
        assert bytes(data) == BIG[start : start + SEGMENT]
        self.offered.append(index)
        self.there |= self.comes.get(index, set())


@cache
def built() -> Upload:
    """Return the shares of the object, two of four."""
    return upload(BIG, 2, range(4), annex_key=KEY)


@pytest.fixture
def recordings(rig: Rig) -> list[Recording]:
    """Shares of the object on all stores, and how much of them is read."""
    rig.plant(built())
    recordings = [Recording(store) for store in rig.stores]
    rig.stores = list(recordings)
    return recordings


def download(
    rig: Rig, aside: FakeAside, name: str = "fetched", clock: Callable[[], float] | None = None
) -> Download:
    made = rig.download(rig.folder / name, clock)
    made.aside = aside
    return made


def fetch(rig: Rig, aside: FakeAside, name: str = "fetched") -> bytes:
    Run(download(rig, aside, name).run).join()
    return (rig.folder / name).read_bytes()


def is_read(recordings: list[Recording]) -> int:
    return sum(recording.given for recording in recordings)


# Who brings what.


@pytest.mark.usefixtures("recordings")
def test_one_that_has_nothing_is_offered_everything(rig: Rig) -> None:
    aside = FakeAside()
    assert fetch(rig, aside) == BIG
    assert (aside.taken, aside.offered) == ([], list(range(SEGMENTS)))
    assert rig.progress == [*range(SEGMENT, len(BIG), SEGMENT), len(BIG)]


@pytest.mark.usefixtures("recordings")
def test_one_that_has_the_end_is_met(rig: Rig) -> None:
    aside = FakeAside(set(range(3, SEGMENTS)))
    made = download(rig, aside)
    Run(made.run).join()
    assert not made.rewritten
    assert (rig.folder / "fetched").read_bytes() == BIG
    assert (aside.taken, aside.offered) == ([3, 4], [0, 1, 2])


def test_of_one_that_has_all_nothing_is_fetched(rig: Rig, recordings: list[Recording]) -> None:
    aside = FakeAside(set(range(SEGMENTS)))
    assert fetch(rig, aside) == BIG
    assert (aside.taken, aside.offered) == (list(range(SEGMENTS)), [])
    assert is_read(recordings) < SEGMENT / 2  # the ends of shares


@settings(max_examples=30)
@given(st.sets(st.integers(0, SEGMENTS - 1)), st.sets(st.integers(0, SEGMENTS - 1)), st.integers(0, len(BIG)))
def test_islands(
    tmp_path_factory: pytest.TempPathFactory, there: set[int], unreadable: set[int], begun: int
) -> None:
    """Whatever it has, and whatever is in the file before: each segment comes from one of both, in order."""
    rig = Rig.of(tmp_path_factory.mktemp("rig"), 2, 3, 4)
    rig.plant(built())
    (rig.folder / "fetched").write_bytes(BIG[:begun])
    aside = FakeAside(set(there), unreadable=unreadable)
    assert fetch(rig, aside) == BIG
    first = SEGMENTS if begun == len(BIG) else begun // SEGMENT
    assert aside.taken == [index for index in range(first, SEGMENTS) if index in there - unreadable]
    assert aside.offered == [index for index in range(first, SEGMENTS) if index not in there - unreadable]


@pytest.mark.usefixtures("recordings")
def test_it_is_met_wherever_it_is_by_then(rig: Rig) -> None:
    aside = FakeAside(comes={0: {4}, 1: {3}})
    assert fetch(rig, aside) == BIG
    assert (aside.taken, aside.offered) == ([3, 4], [0, 1, 2])


def test_one_that_comes_to_help_while_shares_stand_still(rig: Rig) -> None:
    rig.plant(built())
    release = threading.Event()
    slow = [Slow(store, release, {"read"}, after=200_000) for store in rig.stores]
    rig.stores = list(slow)
    aside = FakeAside()
    run = Run(download(rig, aside).run)
    wait_for(slow[0].reached)
    aside.there = set(range(SEGMENTS))
    run.join()
    assert (rig.folder / "fetched").read_bytes() == BIG
    release.set()


# One that is no good.


@settings(max_examples=10)
@given(st.sets(st.integers(0, SEGMENTS - 1), min_size=1), st.integers(0, 3 * SEGMENT))
def test_of_one_that_lies_nothing_stays(
    tmp_path_factory: pytest.TempPathFactory, there: set[int], begun: int
) -> None:
    rig = Rig.of(tmp_path_factory.mktemp("rig"), 2, 3, 4)
    rig.plant(built())
    (rig.folder / "fetched").write_bytes(BIG[:begun])
    aside = FakeAside(set(there), OTHER)
    assert fetch(rig, aside) == BIG
    assert max(rig.progress) == len(BIG)


@pytest.mark.usefixtures("recordings")
def test_a_file_that_one_that_lies_has_begun_is_written_anew(rig: Rig) -> None:
    (rig.folder / "fetched").write_bytes(OTHER[: 2 * SEGMENT])
    made = download(rig, FakeAside(set(range(2, SEGMENTS)), OTHER))
    Run(made.run).join()
    assert (rig.folder / "fetched").read_bytes() == BIG
    assert made.rewritten  # whoever read the file meanwhile has read something else


@pytest.mark.usefixtures("recordings")
def test_what_is_unreadable_there_comes_from_shares(rig: Rig) -> None:
    aside = FakeAside(set(range(SEGMENTS)), unreadable={2, 4})
    assert fetch(rig, aside) == BIG
    assert (aside.taken, aside.offered) == ([0, 1, 3], [2, 4])


def test_shares_that_fail_leave_what_is_proved(rig: Rig) -> None:
    rig.plant(built())
    aside = FakeAside({0, 1, 3})
    rig.stores = [Failing(store, lambda: Denied("gone"), {"read"}, after=200_000) for store in rig.stores]
    with pytest.raises(NotEnough):
        fetch(rig, aside)
    left = (rig.folder / "fetched").read_bytes()
    assert len(left) >= 2 * SEGMENT
    assert left == BIG[: len(left)]
    rig.mend()
    assert fetch(rig, FakeAside()) == BIG


def test_that_nothing_is_stored_is_said_in_short(rig: Rig) -> None:
    with pytest.raises(NotEnough, match=r"^none are stored$"):
        fetch(rig, FakeAside())
    rig.plant(built(), [1])
    with pytest.raises(NotEnough, match="1 share found, 2 are needed"):
        fetch(rig, FakeAside())


# Who writes.


@pytest.mark.usefixtures("recordings")
def test_nothing_is_written_before_it_is_taken_over(rig: Rig) -> None:
    path = rig.folder / "fetched"
    aside = FakeAside(waits=True)
    run = Run(download(rig, aside).run)
    wait_for(aside.reached)
    path.write_bytes(BIG[: SEGMENT + 5])  # the other one is still at it
    assert rig.progress == []
    aside.free.set()
    run.join()
    assert path.read_bytes() == BIG
    assert aside.offered == list(range(1, SEGMENTS))


@pytest.mark.usefixtures("recordings")
def test_what_is_whole_is_left_alone(rig: Rig) -> None:
    with pytest.raises(Cancelled):
        fetch(rig, FakeAside(is_whole=True))
    assert not (rig.folder / "fetched").exists()


def test_nothing_is_taken_over_for_nothing(rig: Rig) -> None:
    """As long as no shares are there, the other one writes."""
    aside = FakeAside()
    with pytest.raises(NotEnough):
        fetch(rig, aside)
    assert not aside.reached.is_set()


def test_it_can_be_called_off(rig: Rig) -> None:
    rig.plant(built())
    release = threading.Event()
    slow = [Slow(store, release, {"read"}, after=200_000) for store in rig.stores]
    rig.stores = list(slow)
    run = Run(download(rig, FakeAside()).run)
    wait_for(slow[0].reached)
    rig.cancelled.set()
    with pytest.raises(Cancelled):
        run.join()
    release.set()


# What is told.


@pytest.mark.usefixtures("recordings")
@pytest.mark.parametrize("beyond", [1, 3 * SEGMENT, 100 * SEGMENT])
def test_progress_counts_what_is_behind_and_never_too_much(rig: Rig, beyond: int) -> None:
    aside = FakeAside({3, 4}, beyond=beyond)
    assert fetch(rig, aside) == BIG
    assert rig.progress[0] == min(SEGMENT + beyond, len(BIG))
    assert rig.progress[-1] == max(rig.progress) == len(BIG)


@pytest.mark.usefixtures("recordings")
def test_it_is_told_what_is_coming(rig: Rig) -> None:
    """Shares go ahead by as much as they bring in a moment, between bounds."""
    aside = FakeAside()
    Run(download(rig, aside, clock=FakeClock()).run).join()  # all comes in no time
    assert min(aside.coming) == LEAST_BESIDE * SEGMENT
    assert max(aside.coming) == AHEAD * SEGMENT


def test_slow_shares_are_not_far_ahead(rig: Rig) -> None:
    rig.plant(built())
    release = threading.Event()
    release.set()
    clock = FakeClock()
    rig.stall = 1e6
    rig.stores = [Slow(store, release, {"read"}, after=1, clock=clock, step=100.0) for store in rig.stores]
    aside = FakeAside()
    Run(download(rig, aside, clock=clock).run).join()
    assert aside.coming == {LEAST_BESIDE * SEGMENT}


def test_an_empty_object(tmp_path: Path) -> None:
    rig = Rig.of(tmp_path, 2, 3, 4)
    rig.plant(upload(b"", 2, range(4), rig.cipher, annex_key=rig.key))
    made = rig.download(rig.folder / "fetched")

    class Nothing(FakeAside):
        def has(self, start: int, end: int, coming: int) -> bool:
            return False

        def offer(self, start: int, data: bytes | memoryview) -> None:
            assert (start, bytes(data)) == (0, b"")

    made.aside = Nothing()
    Run(made.run).join()
    assert (rig.folder / "fetched").read_bytes() == b""
