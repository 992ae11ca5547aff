"""Small objects: sent without a look."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from annex_remote.errors import Damaged, Denied, Full, NotEnough, Unavailable
from annex_remote.model import OpenAt
from annex_remote.shares.layout import SEGMENT_SIZE
from tests.fakes import Around, Failing, Hanging, Recording, Slow
from tests.shares.builder import content
from tests.transfer.rig import STALL, WORM, Rig
from tests.transfer.test_upload import built, chosen_by

SMALL = content(10 << 10)


def recorded(rig: Rig) -> list[Recording]:
    recordings = [Recording(store) for store in rig.stores]
    rig.stores = list(recordings)
    return recordings


@pytest.mark.parametrize("size", [0, 1, 10 << 10, SEGMENT_SIZE])
def test_one_request_for_each_share(rig: Rig, size: int) -> None:
    recordings = recorded(rig)
    rig.store(content(size))
    assert [store.calls for store in recordings] == [[("put", rig.name(number))] for number in range(4)]
    assert rig.held == built(rig, content(size)).shares


@pytest.mark.parametrize(("key", "size"), [(WORM, 10), (None, SEGMENT_SIZE + 1)])
def test_others_are_looked_for_first(rig: Rig, key: str | None, size: int) -> None:
    rig.key = key or rig.key
    recordings = recorded(rig)
    rig.store(content(size))
    assert [store.calls[0][0] for store in recordings] != ["put"] * 4
    assert all(store.names("read") for store in recordings)


def test_what_is_there_is_kept(rig: Rig) -> None:
    whole = built(rig, SMALL)
    rig.plant(whole, [1, 2])
    there = rig.memory[1].contents[rig.name(1)]
    recordings = recorded(rig)
    rig.store(SMALL)
    assert rig.held == whole.shares
    assert rig.memory[1].contents[rig.name(1)] is there
    assert [len(store.names("put")) for store in recordings] == [1, 1, 1, 1]
    assert [store.names("delete") for store in recordings] == [[]] * 4
    assert rig.notes.lines == []


def test_what_is_there_counts_on_stores_that_are_full(rig: Rig) -> None:
    rig.plant(built(rig, SMALL))
    for number in range(4):
        rig.break_store(number, lambda store: Failing(store, lambda: Full("no room"), ["put"]))
    rig.store(SMALL)
    assert rig.notes.lines == []


def test_what_is_damaged_is_replaced(rig: Rig) -> None:
    rig.memory[3].contents[rig.name(3)] = b"no share"
    rig.store(SMALL)
    assert rig.held == built(rig, SMALL).shares


def test_a_share_that_was_put_just_now_counts_though_its_store_cannot_be_asked(rig: Rig) -> None:
    rig.plant(built(rig, SMALL), [1])
    rig.break_store(0, lambda store: Failing(store, lambda: Unavailable("writes only"), ["read", "stat"]))
    rig.break_store(2, lambda store: Failing(store, lambda: Denied("not allowed"), ["put"]))
    recordings = recorded(rig)
    rig.store(SMALL)
    assert rig.held.keys() == {0, 1, 3}
    assert rig.notes.lines == ["store2: share 2 was not stored: not allowed"]
    assert [len(store.names("put")) for store in recordings] == [1, 1, 1, 1]


def test_a_share_whose_answer_was_lost_counts_when_it_is_seen(rig: Rig) -> None:
    class Cut(Around):
        def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
            super().put(name, size, open_at, fresh=fresh)
            raise Unavailable("the connection was cut")

    rig.plant(built(rig, SMALL), [1])
    rig.break_store(0, Cut)
    rig.break_store(2, lambda store: Failing(store, lambda: Denied("not allowed"), ["put"]))
    rig.store(SMALL)
    assert rig.held.keys() == {0, 1, 3}


def test_a_spare_takes_over_at_once(tmp_path: Path) -> None:
    rig = Rig.of(tmp_path, 2, 4, 4, sites=6)
    numbers = chosen_by(rig, SMALL)
    rig.break_store(numbers[0], lambda store: Failing(store, lambda: Full("no room"), ["put"]))
    recordings = recorded(rig)
    rig.store(SMALL)
    assert len(rig.held) == 4
    assert numbers[0] not in rig.held
    assert rig.readable() == SMALL
    assert sum(len(store.calls) for store in recordings) == 5


def test_what_an_upload_that_failed_has_stored_is_used_by_the_next(rig: Rig) -> None:
    for number in (0, 2):
        rig.break_store(number, lambda store: Failing(store, lambda: Unavailable("gone"), ["put"]))
    with pytest.raises(NotEnough) as raised:
        rig.store(SMALL)
    assert str(raised.value) == "2 shares stored, 3 (happy) are needed: store0: gone; store2: gone"
    # They stay: another clone that stores the same object just now may have counted them.
    assert rig.held.keys() == {1, 3}
    rig.mend()
    recordings = recorded(rig)
    rig.store(SMALL)
    assert rig.held == built(rig, SMALL).shares
    assert all(not store.names("delete") for store in recordings)


def test_a_damaged_file_leaves_nothing_beside_what_is_good(rig: Rig) -> None:
    rig.store(SMALL)
    rig.forget(3)
    before = rig.held
    with pytest.raises(Damaged, match="other content"):
        rig.store(SMALL[:-1] + b"?")
    assert rig.held == before


def test_a_store_that_hangs_is_given_up(rig: Rig, end: threading.Event) -> None:
    rig.stall = STALL
    rig.break_store(2, lambda store: Hanging(store, end, ["put"]))
    rig.store(SMALL)
    assert rig.held.keys() == {0, 1, 3}
    assert rig.notes.lines == ["store2: share 2 was not stored: no answer in 0.3 seconds"]


def test_too_few_stores_are_not_asked_at_all(rig: Rig) -> None:
    rig.retired = {1, 2}
    recordings = recorded(rig)
    with pytest.raises(NotEnough, match=r"2 shares could be stored now, 3 .*; nothing was changed"):
        rig.store(SMALL)
    assert [store.calls for store in recordings] == [[]] * 4


def test_a_slow_store_is_waited_for(rig: Rig) -> None:
    release = threading.Event()
    release.set()
    rig.break_store(1, lambda store: Slow(store, release, ["put"]))
    rig.store(SMALL)
    assert rig.held == built(rig, SMALL).shares
