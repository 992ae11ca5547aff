"""Coding an object anew: at any moment it can be read, whatever happens in between."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from annex_remote.care.health import Ground
from annex_remote.care.rebuild import beside
from annex_remote.care.recode import Recode
from annex_remote.errors import Full, NotEnough, Unavailable
from annex_remote.model import Coding, OpenAt, Store
from annex_remote.shares.layout import SEGMENT_SIZE
from annex_remote.transfer.fetch import Fetching
from annex_remote.transfer.presence import is_present
from annex_remote.transfer.sites import Notes, Site
from tests.fakes import Around, Failing
from tests.shares import builder
from tests.transfer.rig import Rig

OLD, NEW = Coding(3, 4, 5), Coding(2, 3, 5)
DATA = builder.content(SEGMENT_SIZE + 77)


class Cut:
    """After so many changes of stores nothing can be changed any more: as if the process had been killed."""

    def __init__(self, after: int) -> None:
        self._lock = threading.Lock()
        self.left = after
        self.changes = 0

    def pass_(self) -> None:
        with self._lock:
            self.changes += 1
            self.left -= 1
            if self.left < 0:
                raise Unavailable("cut off")


class CutOff(Around):
    def __init__(self, store: Store, cut: Cut) -> None:
        super().__init__(store)
        self._cut = cut

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        self._cut.pass_()
        self.store.put(name, size, open_at, fresh=fresh)

    def delete(self, name: str) -> None:
        self._cut.pass_()
        self.store.delete(name)


def grid(folder: Path, data: bytes = DATA, stores: int = 5) -> Rig:
    """A grid in which the object is stored as `OLD` has it."""
    rig = Rig.of(folder, OLD.needed, OLD.happy, OLD.total, sites=stores)
    rig.plant(builder.upload(data, OLD.needed, range(OLD.total), rig.cipher, annex_key=rig.key))
    return rig


def recode(rig: Rig, sites: Sequence[Site] | None = None) -> bool:
    sites = rig.sites if sites is None else sites
    fetching = Fetching(rig.stall, rig.notes, rig.cancelled)
    full = builder.FULL
    return Recode(
        rig.object_id,
        sites,
        Ground(sites, NEW),
        full.verify_key,
        full.signing_seed,
        fetching,
        folder=str(rig.folder),
    ).run()


def readable(rig: Rig) -> bytes:
    """What a clone reads that knows that objects are coded anew: shares, and what is put beside them."""
    target = rig.folder / "back"
    target.unlink(missing_ok=True)
    sites = rig.sites
    download = replace(rig.download(target), sites=[*sites, *map(beside, sites)])
    download.run()
    return target.read_bytes()


@pytest.mark.parametrize("size", [0, 1, 1000, SEGMENT_SIZE, 3 * SEGMENT_SIZE + 5])
def test_what_comes_of_it(tmp_path: Path, size: int) -> None:
    data = builder.content(size)
    rig = grid(tmp_path, data)
    assert recode(rig)
    assert rig.held == builder.upload(data, NEW.needed, range(NEW.total), rig.cipher, annex_key=rig.key).shares
    assert rig.readable() == data
    assert not recode(rig)
    assert rig.notes.lines == []


def test_killed_at_any_moment(tmp_path: Path) -> None:
    whole = builder.upload(DATA, NEW.needed, range(NEW.total), grid(tmp_path).cipher)
    most = Cut(10_000)
    rig = grid(tmp_path)
    recode(rig, [replace(site, store=CutOff(site.store, most)) for site in rig.sites])
    assert most.changes >= 3 * NEW.total
    for after in range(most.changes):
        rig = grid(tmp_path)
        cut = Cut(after)
        sites = [replace(site, store=CutOff(site.store, cut)) for site in rig.sites]
        with suppress(NotEnough):
            recode(rig, sites)
        assert readable(rig) == DATA, f"after {after} changes"
        assert is_present(
            [*rig.sites, *map(beside, rig.sites)],
            rig.object_id,
            builder.FULL.verify_key,
            coding=NEW,
            stall=rig.stall,
            notes=Notes(),
        )
        recode(rig)
        assert rig.held == whole.shares, f"after {after} changes"


def test_a_store_that_is_full_leaves_all_as_it_was(tmp_path: Path) -> None:
    rig = grid(tmp_path)
    before = rig.held
    rig.break_store(3, lambda store: Failing(store, lambda: Full("no room"), ["put"]))
    with pytest.raises(NotEnough, match="it stays as it is: store3: no room"):
        recode(rig)
    assert rig.held == before
    assert all(".n" not in name for memory in rig.memory for name in memory.contents)


def test_without_some_of_its_shares(tmp_path: Path) -> None:
    rig = grid(tmp_path)
    for number in (0, 4):
        rig.forget(number)
    assert recode(rig)
    assert len(rig.held) == NEW.total
    assert rig.readable() == DATA


def test_what_cannot_be_rebuilt_is_left_alone(tmp_path: Path) -> None:
    rig = grid(tmp_path)
    for number in (0, 2, 4):
        rig.forget(number)
    before = rig.held
    with pytest.raises(NotEnough, match="2 shares found"):
        recode(rig)
    assert rig.held == before


def test_shares_on_stores_that_are_not_chosen_go_last(tmp_path: Path) -> None:
    rig = grid(tmp_path, stores=6)
    sites = [replace(site, takes_shares=site.number != 1) for site in rig.sites]
    assert recode(rig, sites)
    assert set(rig.held) == {0, 2, 3, 4, 5}
    assert rig.readable() == DATA
