"""Two who work on one object at the same time, each by what the stores said before: nothing is lost."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from annex_remote.care.health import Ground, State
from annex_remote.care.ledger import Ledger
from annex_remote.care.made import beside
from annex_remote.care.plan import Census, Job, plan_rebalance, plan_repair
from annex_remote.care.recode import Recode
from annex_remote.care.survey import take_survey
from annex_remote.care.work import Work
from annex_remote.errors import NotEnough, SwarmError
from annex_remote.model import Coding, OpenAt, Store
from annex_remote.roster import grid_id
from annex_remote.transfer.fetch import Fetching
from annex_remote.transfer.sites import Site
from tests.fakes import Around, Run, in_thread, wait_for
from tests.shares import builder
from tests.transfer.rig import Rig

FULL = builder.FULL
OLD, NEW = Coding(3, 4, 5), Coding(4, 4, 5)
DATA = builder.content(100_000)


class Held(Around):
    """Lets nothing take the place of a share before `go`; what is put beside it passes."""

    def __init__(self, store: Store, go: threading.Event, reached: threading.Event) -> None:
        super().__init__(store)
        self._go, self._reached = go, reached

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        if ".n" not in name:
            self._reached.set()
            wait_for(self._go)
        self.store.put(name, size, open_at, fresh=fresh)


def stored(folder: Path, coding: Coding = OLD, sites: int = 5) -> Rig:
    rig = Rig.of(folder, coding.needed, coding.happy, coding.total, sites=sites)
    rig.key = "SHA256E-s100000--" + "a" * 64
    rig.plant(builder.upload(DATA, coding.needed, range(coding.total), rig.cipher, annex_key=rig.key))
    return rig


def recoding(rig: Rig, sites: Sequence[Site] | None = None, free: dict[str, int] | None = None) -> Recode:
    sites = rig.sites if sites is None else sites
    fetching = Fetching(rig.stall, rig.notes, rig.cancelled)
    ground = Ground(sites, NEW, (OLD.needed,))
    return Recode(
        rig.object_id,
        sites,
        ground,
        FULL.verify_key,
        FULL.signing_seed,
        fetching,
        free=free or {},
        folder=str(rig.folder),
    )


def census(rig: Rig, coding: Coding, earlier: tuple[int, ...] = (), retired: Collection[int] = ()) -> Census:
    sites = [replace(site, takes_shares=site.number not in retired) for site in rig.sites]
    cancelled = threading.Event()
    survey = in_thread(lambda: take_survey(sites, grid_id(FULL.verify_key), stall=10, cancelled=cancelled))
    return Census(survey, Ground(sites, coding, earlier), rig.cipher, {rig.object_id: rig.key}, {})


def work(rig: Rig, seen: Census, jobs: Sequence[Job], name: str = "ledger") -> list[tuple[State, tuple[str, ...]]]:
    ledger = Ledger(str(rig.folder / name))
    doing = Work(seen, FULL.verify_key, FULL.signing_seed, ledger, 10, threading.Event())
    return in_thread(lambda: [(done.verdict.state, done.notes) for done in doing.run(jobs)])


def read_back(rig: Rig) -> bytes:
    path = rig.folder / "back"
    replace(rig.download(path), sites=[*rig.sites, *map(beside, rig.sites)]).run()
    return path.read_bytes()


@pytest.mark.parametrize("named", [True, False])
def test_a_repair_while_an_object_is_coded_anew(tmp_path: Path, named: bool) -> None:
    rig = stored(tmp_path)
    go, reached = threading.Event(), threading.Event()
    sites = [
        replace(site, store=Held(site.store, go, reached)) if site.number >= 2 else site for site in rig.sites
    ]
    new = builder.upload(DATA, NEW.needed, range(NEW.total), rig.cipher, annex_key=rig.key).shares
    run = Run(recoding(rig, sites).run)
    wait_for(reached)
    while rig.share(0) != new[0] or rig.share(1) != new[1]:
        pass  # these two take their places
    seen = census(rig, NEW, (OLD.needed,))
    seen.names = seen.names if named else {}
    assert plan_repair(seen) == []
    verdict = seen.verdict(rig.object_id)
    forced = Job(rig.object_id, verdict, None, verdict.bad)  # as planned by who saw nothing of it
    work(rig, seen, [forced])
    go.set()
    run.join()
    assert rig.held == new
    assert read_back(rig) == DATA


def test_two_who_code_it_anew_come_to_the_same_places(tmp_path: Path) -> None:
    rig = stored(tmp_path, sites=10)
    one = recoding(rig, free={f"store{number}": 1 << 40 for number in range(5)})
    other = recoding(rig, free={f"store{number}": 1 << 40 for number in range(5, 10)})
    in_thread(one.run)
    in_thread(other.run)
    assert len(rig.held) == NEW.total
    assert read_back(rig) == DATA


def test_what_lies_beside_stays_if_shares_changed_meanwhile(tmp_path: Path) -> None:
    rig = stored(tmp_path)
    old = rig.held

    class Undone(Around):
        """Somebody puts the old share back as soon as the new one was proved."""

        def delete(self, name: str) -> None:
            raise AssertionError("nothing is to be removed")

        def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
            self.store.put(name, size, open_at, fresh=fresh)

    sites = [replace(site, store=Undone(site.store)) for site in rig.sites]
    work_ = recoding(rig, sites)
    put = work_._put

    def put_and_undo(made: object, targets: Sequence[Site]) -> dict[Site, Exception]:
        failed = put(made, targets)  # type: ignore[arg-type]
        if not targets[0].staged:
            for number in (0, 1):
                rig.memory[number].contents[rig.name(number)] = old[number]
        return failed

    work_._put = put_and_undo  # type: ignore[method-assign]
    with pytest.raises(NotEnough, match="changed meanwhile on store0 store1"):
        in_thread(work_.run)
    assert read_back(rig) == DATA
    in_thread(recoding(rig).run)
    assert rig.readable() == DATA


def test_an_upload_leaves_what_is_coded_anew(tmp_path: Path) -> None:
    rig = stored(tmp_path)
    new = builder.upload(DATA, NEW.needed, range(NEW.total), rig.cipher, annex_key=rig.key).shares
    rig.plant(builder.upload(DATA, NEW.needed, range(NEW.total), rig.cipher, annex_key=rig.key), [0, 1])
    rig.coding = NEW
    with pytest.raises(SwarmError, match="coded anew"):
        rig.store(DATA)
    assert rig.share(0) == new[0]
    assert rig.share(1) == new[1]


@pytest.mark.parametrize(
    ("coding", "sites", "first", "second"),
    [
        (Coding(3, 3, 3), 4, [0], [1]),
        (Coding(3, 3, 3), 5, [0], [1]),
        (Coding(3, 3, 4), 6, [0, 1], [2, 3]),
        (Coding(2, 2, 3), 6, [0, 1], [2]),
        (Coding(3, 3, 4), 5, [0], [1]),
        (Coding(2, 2, 3), 5, [0, 1], [1, 2]),
    ],
)
def test_two_stores_are_emptied_by_what_was_seen_before(
    tmp_path: Path, coding: Coding, sites: int, first: list[int], second: list[int]
) -> None:
    rig = stored(tmp_path, coding, sites)
    seen = [census(rig, coding, retired=each) for each in (first, second)]
    plans = [
        plan_rebalance(each, free={}, most={}, only_from=[f"store{number}" for number in retired])
        for each, retired in zip(seen, (first, second), strict=True)
    ]
    for index in range(2):
        work(rig, seen[index], plans[index], f"ledger{index}")
    assert len(rig.held) >= coding.needed
    assert read_back(rig) == DATA
