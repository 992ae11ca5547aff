"""Uploads where stores fail early, have too little room, or take long to publish."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from annex_remote.errors import Denied, Full, NotEnough, Unavailable
from annex_remote.model import OpenAt, Store
from annex_remote.shares.format import Tail
from annex_remote.shares.layout import SEGMENT_SIZE
from annex_remote.transfer.sealing import PUBLISHING
from annex_remote.transfer.sites import Site
from tests.fakes import WAIT, Around, Failing, FakeClock, Filling, Hanging, Recording, Run, Slow, wait_for
from tests.shares.builder import content
from tests.transfer.rig import Rig
from tests.transfer.test_upload import Finishing, assert_sound, built, chosen_by

SEGMENT = SEGMENT_SIZE
DATA = content(5 * SEGMENT // 2)

# A spare store begins while the others are under way.


@pytest.mark.parametrize("after", [0, 1, 700_000])
def test_a_spare_begins_before_the_file_is_read(tmp_path: Path, after: int) -> None:
    """The others do not go on before the spare store has its share, all but the signed end."""
    rig = Rig.of(tmp_path, 2, 4, 4, sites=5)
    numbers = chosen_by(rig, DATA)
    [spare] = set(range(5)) - set(numbers)
    data = content(12 * SEGMENT)
    begun = threading.Event()

    class Begun(Around):
        def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
            def noted(offset: int):  # type: ignore[no-untyped-def]
                for piece in open_at(offset):
                    begun.set()
                    yield piece

            self.store.put(name, size, noted, fresh=fresh)

    broken = numbers[0]
    rig.break_store(broken, lambda store: Failing(store, lambda: Denied("not allowed"), ["put"], after=after))
    rig.break_store(spare, Begun)
    for number in numbers[1:]:
        rig.break_store(number, lambda store: Slow(store, begun, ["put"], after=SEGMENT))
    rig.store(data)
    assert rig.held.keys() == set(range(5)) - {broken}
    assert_sound(rig)
    assert rig.readable([spare, numbers[1]]) == data
    sizes = {len(share) for share in rig.held.values()}
    assert len(sizes) == 1
    table = Tail.parse(rig.held[spare], len(rig.held[spare])).roots
    assert sorted(table) == sorted(rig.held)


def test_a_spare_of_a_spare(tmp_path: Path) -> None:
    rig = Rig.of(tmp_path, 2, 4, 4, sites=7)
    numbers = chosen_by(rig, DATA)
    spares = set(range(7)) - set(numbers)
    seen: list[int] = []

    class Counted(Around):
        """The first two spares fail, whichever they are."""

        def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
            seen.append(int(name[-1]))
            if len(seen) < 3:
                raise Full("no room")
            self.store.put(name, size, open_at, fresh=fresh)

    rig.break_store(numbers[2], lambda store: Failing(store, lambda: Unavailable("gone"), ["put"], after=9))
    for number in spares:
        rig.break_store(number, Counted)
    rig.store(DATA)
    assert sorted(seen) == sorted(spares)
    assert rig.held.keys() == {*numbers, seen[2]} - {numbers[2]}
    assert_sound(rig)
    assert rig.readable() == DATA


def test_a_spare_store_that_has_the_beginning_already(tmp_path: Path) -> None:
    """It goes on in the middle, with what it kept from an earlier try."""
    rig = Rig.of(tmp_path, 2, 4, 4, sites=5)
    numbers = chosen_by(rig, DATA)
    [spare] = set(range(5)) - set(numbers)
    whole = built(rig, DATA, sorted({*numbers, spare} - {numbers[1]})).shares[spare]

    class Kept(Around):
        def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
            self.store.put(name, size, lambda offset: [whole[:800_000], *open_at(800_000)], fresh=fresh)

    rig.break_store(spare, Kept)
    rig.break_store(numbers[1], lambda store: Failing(store, lambda: Full("no room"), ["put"]))
    rig.store(DATA)
    assert rig.held[spare] == whole
    assert_sound(rig)


def test_nobody_reads_on_for_stores_that_have_all_failed(rig: Rig) -> None:
    path = rig.folder / "source"
    with path.open("wb") as file:
        file.truncate(400 * SEGMENT)
    for number in range(4):
        rig.break_store(number, lambda store: Failing(store, lambda: Full("no room"), ["put"]))
    upload = rig.upload(path)
    with pytest.raises(NotEnough, match=r"0 shares stored, 3 .*: store0: no room; store1"):
        Run(upload.run).join()
    assert len(rig.progress) < 300


# Room.


def test_a_store_without_room_is_not_sent_anything(rig: Rig) -> None:
    rig.break_store(1, lambda store: Filling(store, room=1_000_000))
    recording = Recording(rig.stores[1])
    rig.stores[1] = recording
    rig.store(DATA)
    assert rig.held.keys() == {0, 2, 3}
    assert rig.notes.lines == [
        "store1: share 1 was not stored: has 1 MB left, by its free space or max-bytes; the share takes 1.31 MB"
    ]
    assert recording.names("put") == []


def test_too_many_without_room_are_an_early_failure(rig: Rig) -> None:
    for number in (1, 2):
        rig.break_store(number, lambda store: Filling(store, room=900))
    with pytest.raises(
        NotEnough, match=r"2 shares could be .*; nothing was changed: store1: has 900 bytes left, by"
    ):
        rig.store(DATA)
    assert rig.held == {}


def test_the_shares_of_one_store_need_room_together(rig: Rig) -> None:
    one = Filling(rig.memory[0], room=2_000_000)
    upload = rig.upload(rig.source(DATA))
    upload.sites = [
        Site(0, "one", one),
        Site(1, "one", one),
        Site(2, "two", rig.memory[2]),
        Site(3, "three", rig.memory[3]),
    ]
    Run(upload.run).join()
    assert rig.held.keys() == {0, 2, 3}
    assert rig.notes.lines == [
        "one: share 1 was not stored: has 2 MB left, by its free space or max-bytes; 2 shares take 2.62 MB"
    ]


def test_a_share_that_is_there_needs_no_room(rig: Rig) -> None:
    rig.plant(built(rig, DATA), [1])
    rig.break_store(1, lambda store: Filling(store, room=0))
    rig.store(DATA)
    assert rig.held == built(rig, DATA).shares
    assert rig.notes.lines == []


def test_a_damaged_share_makes_room_for_its_successor(rig: Rig) -> None:
    class Tight(Around):
        def space(self) -> int | None:
            return 10

    rig.memory[1].contents[rig.name(1)] = b"no share"
    rig.break_store(1, Tight)
    rig.store(DATA)
    assert rig.held == built(rig, DATA).shares


def test_progress_does_not_go_back_when_a_spare_begins(tmp_path: Path) -> None:
    rig = Rig.of(tmp_path, 1, 2, 2, sites=3)
    data = content(14 * SEGMENT)
    numbers = chosen_by(rig, DATA)
    rig.break_store(numbers[0], lambda store: Failing(store, lambda: Full("no room"), ["put"], after=11 * SEGMENT))
    rig.store(data)
    assert rig.readable() == data
    assert rig.progress == sorted(rig.progress)
    assert rig.progress[-1] == len(data)


def test_a_store_that_does_not_say_how_much_room_it_has_gets_its_share(rig: Rig, end: threading.Event) -> None:
    rig.break_store(0, lambda store: Failing(store, lambda: Unavailable("ask somebody else"), ["space"]))
    rig.break_store(1, lambda store: Hanging(store, end, ["space"]))
    rig.store(DATA)
    assert rig.held == built(rig, DATA).shares


# A server that puts a share together when it has all of it.


class Publishing(Around):
    """Takes all, and is not done before `release`."""

    def __init__(self, store: Store, release: threading.Event) -> None:
        super().__init__(store)
        self.reached = threading.Event()
        self._release = release

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        self.store.put(name, size, open_at, fresh=fresh)
        self.reached.set()
        wait_for(self._release)


def test_a_store_that_has_all_is_given_time_to_publish_it(rig: Rig) -> None:
    clock, release = FakeClock(), threading.Event()
    publishing = Publishing(rig.stores[2], release)
    others = [Finishing(store) for store in rig.stores]
    rig.stores = [*others[:2], publishing, others[3]]
    turns = threading.Semaphore(0)
    upload = rig.upload(rig.source(DATA), clock)
    upload.progress = lambda done: turns.release()
    run = Run(upload.run)
    wait_for(publishing.reached)
    for store in (others[0], others[1], others[3]):
        wait_for(store.done)
    clock.advance(PUBLISHING - 1)
    while turns.acquire(blocking=False):
        pass
    for _ in range(3):  # the clock has been looked at since
        assert turns.acquire(timeout=WAIT)
    assert not run.is_over
    release.set()
    run.join()
    assert rig.held == built(rig, DATA).shares
    assert rig.notes.lines == []


def test_a_store_that_never_publishes_is_given_up(rig: Rig) -> None:
    clock, release = FakeClock(), threading.Event()
    publishing = Publishing(rig.stores[2], release)
    rig.stores[2] = publishing
    run = Run(rig.upload(rig.source(DATA), clock).run)
    wait_for(publishing.reached)
    clock.advance(PUBLISHING + 1)
    run.join()
    release.set()
    [note] = rig.notes.lines
    assert note == "store2: share 2 was not stored: it took all, and did not finish within 60 seconds"
