"""Carrying out what was planned: several objects at once, each made whole before anything of it goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from annex_remote.care.health import Verdict
from annex_remote.care.ledger import Ledger
from annex_remote.care.made import ends_now
from annex_remote.care.plan import Census, Job
from annex_remote.care.rebuild import Outcome, Rebuild, Tally
from annex_remote.errors import Cancelled
from annex_remote.model import ShareName
from annex_remote.transfer.fetch import Fetching
from annex_remote.transfer.figures import Book
from annex_remote.transfer.opening import largest_group
from annex_remote.transfer.sites import TICK, Clock, GatedAsking, Notes, Site, explain
from annex_remote.transfer.trace import Trace
from annex_remote.workers import workers

__all__ = ["AT_ONCE", "Done", "Work", "in_parallel"]

AT_ONCE = 4
"""Objects that are worked on at once: small ones wait for their stores most of the time."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class _Result(Generic[T, R]):
    item: T
    value: R | None = None
    error: Exception | None = None


def in_parallel(
    work: Callable[[T], R], items: Sequence[T], at_once: int, cancelled: threading.Event
) -> Iterator[_Result[T, R]]:
    """Yield what comes of `work` for each of `items`, as it comes; they are begun in their order.

    When the caller closes this, nothing more is begun. Raises `Cancelled`.
    """
    waiting = iter(items)
    results: SimpleQueue[_Result[T, R]] = SimpleQueue()
    lock = threading.Lock()
    over = threading.Event()

    def go_on() -> None:
        while not over.is_set():
            with lock:
                try:
                    item = next(waiting)
                except StopIteration:
                    return
            try:
                results.put(_Result(item, work(item)))
            except Exception as error:  # noqa: BLE001 # handed to whoever asked
                results.put(_Result(item, error=error))

    left = len(items)
    try:
        for _ in range(min(at_once, len(items))):
            workers.start(go_on)
        while left:
            if cancelled.is_set():
                raise Cancelled("the work was called off")
            try:
                result = results.get(timeout=TICK)
            except Empty:
                continue
            left -= 1
            yield result
    finally:
        over.set()


@dataclass(frozen=True)
class Done:
    """What came of a job: the object as it is now, by all that is known."""

    job: Job
    verdict: Verdict
    outcome: Outcome | None = None
    dropped: tuple[str, ...] = ()
    """What was removed, as "store: name"."""
    error: Exception | None = None
    """Why nothing came of it."""
    notes: tuple[str, ...] = ()
    """What did not succeed, a line each."""


@dataclass
class Work:
    """Does jobs for the objects of a census; `run` yields what came of each.

    `seed` is the signing seed, None without the full capability. `ledger` remembers what is seen.
    """

    census: Census
    verify_key: bytes
    seed: bytes | None
    ledger: Ledger
    stall: float
    cancelled: threading.Event
    book: Book = field(default_factory=Book)
    tally: Tally = field(default_factory=Tally)
    clock: Clock = time.monotonic
    free: Mapping[str, int] = field(default_factory=dict)
    folder: str | None = None
    at_once: int = AT_ONCE

    def run(self, jobs: Sequence[Job]) -> Iterator[Done]:
        """Do `jobs` in their order, several at once. Raises `Cancelled`."""
        self._sites = {number: self.tally.around(site) for number, site in self.census.survey.sites.items()}
        self._lock = threading.Lock()
        for result in in_parallel(self._do, jobs, self.at_once, self.cancelled):
            if isinstance(result.error, Cancelled):
                raise result.error
            if result.value is not None:
                yield result.value
            else:
                yield Done(result.item, self.census.verdict(result.item.object_id), error=result.error)

    def _do(self, job: Job) -> Done:
        outcome: Outcome | None = None
        notes: list[str] = []
        if job.add is None or job.add:
            outcome = self._rebuild(job)
            notes += self._failures(outcome)
        dropped, failed = self._drop(job, outcome)
        with self._lock:
            verdict = self.census.verdict(job.object_id)
        return Done(job, verdict, outcome, tuple(dropped), None, (*notes, *failed))

    def _rebuild(self, job: Job) -> Outcome:
        verdict = job.verdict
        with self._lock:
            there = self.census.survey.shares(job.object_id)
            staged = tuple(self.census.survey.staged.get(job.object_id, ()))
        rebuild = Rebuild(
            job.object_id,
            list(self._sites.values()),
            self.census.ground,
            self.verify_key,
            self.seed,
            {number: size for number, size in there.items() if number in verdict.good},
            self._fetching(),
            spoilt=verdict.bad,
            silent=verdict.silent,
            staged=staged,
            wanted=job.add,
            free=self.free,
            folder=self.folder,
            needed=verdict.needed,
        )
        try:
            return rebuild.run()
        finally:
            self._take_in(job, rebuild.outcome)

    def _fetching(self) -> Fetching:
        return Fetching(self.stall, Notes(), self.cancelled, self.clock, self.book, Trace())

    def _take_in(self, job: Job, outcome: Outcome) -> None:
        """Let census and ledger know what was seen and made, also where nothing came of it."""
        object_id = outcome.object_id
        with self._lock:
            for number in outcome.absent:
                self.census.survey.discard(object_id, number)
                self._mend(object_id, number)
            for number, size in outcome.made.items():
                self.census.survey.add(object_id, number, size)
                self._mend(object_id, number)
            for number, why in outcome.damaged.items():
                if number not in job.verdict.bad:
                    self._damage(object_id, number, why)

    def _mend(self, object_id: str, number: int) -> None:
        self.ledger.forget(object_id, number)
        self.census.mend(object_id, number)

    def _damage(self, object_id: str, number: int, why: str) -> None:
        if number in self.census.survey.shares(object_id):
            self.ledger.note_damaged(object_id, number, why)
            self.census.note_damaged(object_id, number, why)

    def _failures(self, outcome: Outcome) -> list[str]:
        lines = [
            f"{self._sites[number].name}: share {number} was not written: {explain(error)}"
            for number, error in sorted(outcome.failed.items())
        ]
        return lines + ([outcome.why] if outcome.deficit and outcome.why else [])

    # What is not wanted where it is. It goes last, and only where nothing is missing then.

    def _drop(self, job: Job, outcome: Outcome | None) -> tuple[list[str], list[str]]:
        made = set(outcome.made) if outcome else set()
        numbers = [number for number in job.drop if number not in made]
        if not (numbers or job.strays):
            return [], []
        if outcome is not None and outcome.deficit:
            return [], ["nothing of it was removed, as shares are still missing"]
        why = self._why_not(job, numbers)
        if why:
            return [], [f"nothing of it was removed: {why}"]
        dropped, failed = [], []
        targets = [(self._sites[number], str(ShareName(job.object_id, number)), number) for number in numbers]
        by_store = {site.name: site for site in self._sites.values()}
        targets += [(by_store[stray.store], stray.name, -1) for stray in job.strays if stray.store in by_store]
        for site, name, number in targets:
            error = self._delete(site, name)
            if error is not None:
                failed.append(f"{site.name}: {name} could not be removed: {explain(error)}")
                continue
            dropped.append(f"{site.name}: {name}")
            with self._lock:
                if number >= 0:
                    self.census.survey.discard(job.object_id, number)
                    self._mend(job.object_id, number)
                else:
                    self.census.survey.tidied(job.object_id, site.name, name)
        return dropped, failed

    def _delete(self, site: Site, name: str) -> Exception | None:
        """Remove something; return why it could not be, also if the store hangs."""
        asking: GatedAsking[None] = self._asking({site: partial(site.store.delete, name)})
        return next(iter(asking.answers(self.stall))).error

    def _asking(self, questions: Mapping[Site, Callable[[], R]]) -> GatedAsking[R]:
        return GatedAsking(questions, self.cancelled, self.clock)

    def _why_not(self, job: Job, numbers: Sequence[int]) -> str:
        """Return why shares must not be removed; empty if they may."""
        with self._lock:
            verdict = self.census.verdict(job.object_id)
        ground, needed = self.census.ground, verdict.needed
        going = [number for number in numbers if number in verdict.good]
        left = {number for number in verdict.good if number not in going}
        if verdict.left < 0:
            return "it is not known to be safe without it"
        # What was good before is not to bear less afterwards, but for what a retired store gave to it.
        wanted = max(0, min(ground.margin(job.verdict.good, needed), ground.best(needed)))
        if ground.margin(left, needed) < wanted:
            return "without it the object would bear less"
        # By all that is known the others do without it. They have to prove now that they are there: others work on
        # the same stores.
        proved = self._proved(job.object_id, left)
        if ground.margin(proved, needed) < wanted:
            return "the shares that were to be left could not be read"
        if len(going) < len(numbers) + len(job.strays) and not ground.is_whole(proved, needed):
            return "not all of its other shares are known to be there"
        return ""

    def _proved(self, object_id: str, numbers: Collection[int]) -> set[int]:
        """Return those of `numbers` whose share is there now and belongs to the others, by its end."""
        found = ends_now(
            object_id,
            [self._sites[number] for number in numbers],
            self.verify_key,
            stall=self.stall,
            cancelled=self.cancelled,
            clock=self.clock,
        )
        return {share.site.number for share in largest_group(found.values())}
