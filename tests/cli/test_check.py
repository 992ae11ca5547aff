"""Proving shares in parts: a run that is stopped goes on, and one that was stopped long ago begins anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from annex_remote.care.ledger import Ledger
from annex_remote.care.verify import Proof, Task
from annex_remote.caring import DAY, Care, Sample
from annex_remote.cli.check import verify_shares
from annex_remote.cli.keeping import Deadline
from tests.care.test_caring import KEYS, World
from tests.fakes import in_thread
from tests.shares.builder import FULL

ALL = 5 * len(KEYS)


@dataclass
class Noting(Care):
    """Notes in `asked` which shares are to be proved, in their order."""

    asked: list[tuple[str, int]] = field(default_factory=list)

    def prove(self, tasks: Iterable[Task], heard: Callable[[int], None]) -> Iterable[Proof]:
        tasks = list(tasks)
        self.asked = [(task.object_id, task.number) for task in tasks]
        return super().prove(tasks, heard)


def verify(world: World, most: int | None = None) -> tuple[list[tuple[str, int]], set[tuple[str, int]], str]:
    """Return which shares were to be proved, which were, and what is said if that was not all."""
    care = Noting(world.grid(), FULL, ledger=Ledger(str(world.folder / "ledger"), world.date), date=world.date)
    care.name_all(KEYS)
    census = in_thread(lambda: care.census(care.survey()))
    _, unfinished = in_thread(lambda: verify_shares(care, census, Sample(), Deadline(None), most, None, True))
    proved = set(care.notes.proved(world.date()))
    care.notes.close()
    return care.asked, proved, unfinished


def test_a_run_goes_on_within_a_week_and_begins_anew_after_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    share = len(world.built[KEYS[0]].shares[0])
    asked, proved, unfinished = verify(world, most=10 * share)
    assert (len(asked), len(proved), unfinished != "") == (ALL, 10, True)
    world.date.advance(6 * DAY)
    asked, more, _ = verify(world, most=5 * share)
    assert (len(asked), len(more), set(asked) & proved) == (ALL - 10, 5, set())
    world.date.advance(2 * DAY)
    asked, _, unfinished = verify(world)
    assert (len(asked), unfinished) == (ALL, "")
    # What was not reached before comes first.
    assert set(asked[ALL - 15 :]) == proved | more
