"""Years of a grid in virtual time: stores fail, rot and go away; the real planners and the real code care for it.

What is known to be true is read from the memory of the stores, past all faults. So every word that is said of an
object can be held against it.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from annex_remote.care.health import Ground, State
from annex_remote.care.ledger import Ledger
from annex_remote.care.plan import Census, plan_rebalance, plan_repair
from annex_remote.care.rebuild import Tally
from annex_remote.care.survey import take_survey
from annex_remote.care.verify import Task, prove_share, prove_shares, slice_of
from annex_remote.care.work import Work
from annex_remote.errors import NotFound, Unavailable
from annex_remote.model import Coding, ShareName
from annex_remote.shares.crypto import Cipher
from annex_remote.shares.layout import SEGMENT_SIZE
from annex_remote.transfer.sites import Site
from tests.fakes import Failing, MemoryStore
from tests.shares import builder

DAY = 86400.0
GRID = "a" * 32
STALL = 30.0


@dataclass
class Chances:
    """How often things happen: for each store and day."""

    outage: float = 0.02
    """A store goes away, for one to ten days."""
    loss: float = 0.0006
    """A store is lost for good, and an empty one takes its place after some days."""
    rot: float = 0.02
    """A share of it is damaged silently: a byte flips, or it is cut short."""
    vanish: float = 0.01
    """A share of it vanishes."""
    full: float = 0.005
    """It takes nothing for one to ten days."""


@dataclass
class Years:
    """A grid of `stores` stores with `count` objects, and what became of it."""

    seed: int
    folder: Path
    coding: Coding = field(default_factory=lambda: Coding(3, 4, 5))
    stores: int = 6
    count: int = 12
    chances: Chances = field(default_factory=Chances)
    repaired_every: int = 7
    verified_in: int = 15
    """Days in which all shares are proved, a part each day."""

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)  # nothing secret
        self.now = 1_700_000_000.0
        self.memory = [MemoryStore(clock=lambda: self.now) for _ in range(self.stores)]
        self.away: dict[int, int] = {}
        """Store to how many more days it is away."""
        self.full: dict[int, int] = {}
        self.ledger = Ledger(str(self.folder / "ledger"), lambda: self.now)
        self.tally = Tally()
        self.least: dict[str, int] = {}
        """The fewest good shares that an object ever had."""
        self.events: Counter[str] = Counter()
        self.said: Counter[State] = Counter()
        self.object_ids: list[str] = []
        self.stored = 0
        for index in range(self.count):
            size = self.chance.choice([0, 1, 3000, 20_000, SEGMENT_SIZE + 5])
            upload = builder.upload(
                self.chance.randbytes(size),
                self.coding.needed,
                range(self.coding.total),
                annex_key=f"SHA256E-s{size}--{index:064x}",
            )
            self.object_ids.append(upload.header.object_id)
            self.stored += sum(map(len, upload.shares.values()))
            for number, share in upload.shares.items():
                self.memory[number].contents[str(upload.name(number))] = share

    # What is so.

    def sites(self) -> list[Site]:
        """The stores as they are seen today."""

        def store(number: int) -> object:
            memory = self.memory[number]
            if number in self.away:
                return Failing(memory, lambda: Unavailable("it is away"))
            if number in self.full:
                return Failing(memory, lambda: Unavailable("it takes nothing"), ["put"])
            return memory

        return [Site(number, f"store{number}", store(number)) for number in range(self.stores)]  # type: ignore[arg-type]

    def truly_good(self, object_id: str) -> list[int]:
        """The shares that are there and prove, whether their store is away now or not."""
        good = []
        for number, memory in enumerate(self.memory):
            name = str(ShareName(object_id, number))
            if name not in memory.contents:
                continue
            site = Site(number, f"store{number}", memory)
            task = Task(object_id, number, len(memory.contents[name]))
            if prove_share(site, task, builder.FULL.verify_key, self.coding.needed, lambda _: None).is_good:
                good.append(number)
        return good

    def _watch(self) -> None:
        for object_id in self.object_ids:
            good = len(self.truly_good(object_id))
            self.least[object_id] = min(self.least.get(object_id, good), good)

    # A day.

    def _happen(self) -> None:
        for left in (self.away, self.full):
            for number in list(left):
                left[number] -= 1
                if left[number] <= 0:
                    del left[number]
        for number, memory in enumerate(self.memory):
            dice, chances = self.chance.random, self.chances
            if dice() < chances.outage:
                self.away[number] = self.chance.randint(1, 10)
                self.events["outages"] += 1
            if dice() < chances.full:
                self.full[number] = self.chance.randint(1, 10)
            if dice() < chances.loss:
                memory.contents.clear()
                self.away[number] = self.chance.randint(1, 5)
                self.events["lost stores"] += 1
            names = sorted(memory.contents)
            if names and dice() < chances.vanish:
                del memory.contents[self.chance.choice(names)]
                self.events["vanished shares"] += 1
            names = sorted(memory.contents)
            if names and dice() < chances.rot:
                name = self.chance.choice(names)
                data = bytearray(memory.contents[name])
                if dice() < 0.2:
                    del data[self.chance.randrange(len(data)) :]
                else:
                    data[self.chance.randrange(len(data))] ^= 1 << self.chance.randrange(8)
                memory.contents[name] = bytes(data)
                self.events["damaged shares"] += 1

    def census(self) -> Census:
        """What is known today."""
        sites = self.sites()
        survey = take_survey(sites, GRID, stall=STALL, cancelled=threading.Event())
        survey.know(self.object_ids)
        ground = Ground(sites, self.coding)
        return Census(survey, ground, Cipher.AEGIS256, damaged=self.ledger.damaged())

    def verify(self, census: Census, tasks: list[Task]) -> set[str]:
        """Prove shares; return the objects all of whose listed shares were."""
        proved: Counter[str] = Counter()
        proofs = prove_shares(
            census.survey.sites.values(),
            tasks,
            builder.FULL.verify_key,
            self.coding.needed,
            stall=STALL,
            cancelled=threading.Event(),
        )
        for proof in proofs:
            object_id, number = proof.task.object_id, proof.task.number
            if proof.is_good:
                proved[object_id] += 1
                self.ledger.note_proved(object_id, number)
            elif proof.is_damaged:
                census.note_damaged(object_id, number, str(proof))
                self.ledger.note_damaged(object_id, number, str(proof))
            elif isinstance(proof.error, NotFound):
                census.survey.discard(object_id, number)
        return {each for each in self.object_ids if proved[each] == len(census.survey.shares(each))}

    def tasks(self, census: Census) -> list[Task]:
        return [
            Task(object_id, number, size)
            for object_id in census.survey
            for number, size in census.survey.shares(object_id).items()
        ]

    def care(self, day: int) -> None:
        """What a cron job does: a part is proved each day, and now and then everything is repaired."""
        census = self.census()
        tasks = self.tasks(census)
        self.verify(census, slice_of(tasks, self.verified_in, day, lambda task: False))
        for _, verdict in census:
            self.said[verdict.state] += 1
        if day % self.repaired_every == 0:
            before = {each: len(self.truly_good(each)) for each in self.object_ids}
            self._repair(census)
            for object_id, count in before.items():
                after = len(self.truly_good(object_id))
                # A spare may have taken over; nothing that was good goes unless something is in its place.
                assert after >= min(count, self.coding.total), (
                    f"a repair made {object_id} worse: {count} to {after}"
                )

    def _repair(self, census: Census) -> None:
        for is_repair in (True, False):
            jobs = plan_repair(census) if is_repair else plan_rebalance(census, free={}, most={})
            work = Work(
                census,
                builder.FULL.verify_key,
                builder.FULL.signing_seed,
                self.ledger,
                STALL,
                threading.Event(),
                tally=self.tally,
                folder=str(self.folder),
                at_once=1,
            )
            for done in work.run(jobs):
                object_id = done.job.object_id
                good = self.truly_good(object_id)
                made = done.outcome.made if done.outcome else {}
                assert set(made) <= set(good), (
                    f"{sorted(made)} of {object_id} were said to be written, good are {good}"
                )
                self.events["repairs"] += 1

    def audit(self) -> None:
        """Prove everything that can be reached, and hold every word against what is so."""
        census = self.census()
        fully = self.verify(census, self.tasks(census))
        for object_id, verdict in census:
            good = self.truly_good(object_id)
            truth = replace_silent(census, object_id, good)
            if verdict.state is State.HEALTHY:
                assert object_id in fully
                assert len(good) >= self.coding.total, f"{object_id} is called healthy, and has {good}"
            if verdict.state is State.LOST:
                assert len(good) < self.coding.needed, f"{object_id} is called lost, and has {good}"
            assert verdict.left <= truth, f"{object_id} is said to bear {verdict.left}, and bears {truth}"

    def run(self, days: int) -> Iterator[int]:
        """Let so many days pass; yields each when it is over."""
        self._watch()
        for day in range(days):
            self.now += DAY
            self._happen()
            self._watch()
            self.care(day)
            if day % 30 == 29:
                self.audit()
            yield day
        self.away.clear()
        self.full.clear()
        for _ in range(3):
            census = self.census()
            self.verify(census, self.tasks(census))
            self._repair(census)
        self.audit()
        self.ledger.close()

    def end(self) -> None:
        """Hold the end against the whole: nothing is lost that could have been kept."""
        for object_id in self.object_ids:
            good = len(self.truly_good(object_id))
            if self.least[object_id] >= self.coding.needed:
                assert good >= self.coding.total, f"{object_id} could be rebuilt all the time, and has {good}"


def replace_silent(census: Census, object_id: str, good: list[int]) -> int:
    """How many places an object bears the loss of, by what is so."""
    return census.ground.margin(good, census.verdict(object_id).needed)
