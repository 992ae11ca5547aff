"""A grid under care: what the commands that check, repair and tidy share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from annex_remote.capability import Capability
from annex_remote.care.garbage import items_of
from annex_remote.care.health import Ground, State
from annex_remote.care.ledger import Ledger
from annex_remote.care.plan import Census, plan_repair
from annex_remote.care.rebuild import Tally, beside
from annex_remote.care.survey import Survey, look_at, take_survey
from annex_remote.care.verify import Proof, Task, prove_shares, slice_of
from annex_remote.care.work import Work, in_parallel
from annex_remote.errors import BadSetting, NotFound, SwarmError
from annex_remote.grid import Grid
from annex_remote.limits import parse_size
from annex_remote.roster import ACTIVE
from annex_remote.shares.crypto import object_id_of, open_key_name
from annex_remote.stores.state import state_path
from annex_remote.transfer.keys import is_of_git
from annex_remote.transfer.opening import open_share
from annex_remote.transfer.sites import GatedAsking, Notes, Site, ask_all, explain

__all__ = [
    "AT_ONCE",
    "Care",
    "Sample",
    "is_known_to_be_damaged",
    "parse_sample",
    "remember_damage",
    "repair_object",
]

FEW = 64
"""Objects up to which stores are asked for each of them, instead of being listed."""

AT_ONCE = 16
"""Objects that are asked about at once: each waits for its stores most of the time."""

DAY = 86400.0


@dataclass(frozen=True)
class Sample:
    """A part of all shares: the turn of the day out of so many parts, or so many bytes a day."""

    parts: int = 1
    daily: int = 0
    """Bytes; with it, `parts` follows from how much there is."""

    def parts_of(self, total: int) -> int:
        """Return in how many parts so many bytes are cut."""
        return max(1, -(-total // self.daily)) if self.daily else self.parts


def parse_sample(text: str) -> Sample:
    """Read ``5%``, ``1/7`` or ``10GiB``; raises `BadSetting`."""
    if text.endswith("%"):
        try:
            percent = float(text[:-1])
        except ValueError:
            percent = 0.0
        if not 0.001 <= percent <= 100:
            raise BadSetting(f"--sample {text}: a percentage is from 0.001% to 100%")
        return Sample(parts=max(1, round(100 / percent)))
    one, slash, parts = text.partition("/")
    if slash:
        if one.strip() != "1" or not parts.isdecimal() or not 1 <= int(parts) <= 100_000:
            raise BadSetting(f"--sample {text}: a part is written 1/30")
        return Sample(parts=int(parts))
    daily = 0 if text.isdecimal() else parse_size("--sample", text)
    if not daily:
        raise BadSetting(f"--sample {text}: write 5%, 1/30, or a size with its unit, such as 10GiB")
    return Sample(daily=daily)


@dataclass
class Care:
    """What is done for the stores of one grid. `names` tells the annex keys of objects, as far as they are known.

    `only` are objects that somebody asked about, None for all.
    """

    grid: Grid
    capability: Capability | None
    names: Mapping[str, str] = field(default_factory=dict)
    only: Collection[str] | None = None
    ledger: Ledger | None = None
    date: Callable[[], float] = time.time
    cancelled: threading.Event = field(default_factory=threading.Event)
    sites: Sequence[Site] = ()
    """The grid's, unless these are given."""
    torrents_of: Callable[[Sequence[str]], Mapping[str, str]] = lambda keys: {}
    """Returns those of `keys` that torrents are recorded for, and which, in words."""
    trusts_torrents: bool = False
    """True if one that is recorded counts as a copy."""

    def __post_init__(self) -> None:
        self.sites = self.sites or self.grid.sites()
        self.ground = Ground(self.sites, self.grid.roster.coding, self.grid.roster.earlier)
        self.ledger = self.ledger or Ledger(state_path("ledger", self.grid.id), self.date)

    @property
    def notes(self) -> Ledger:
        """What this machine remembers."""
        assert self.ledger is not None
        return self.ledger

    @property
    def seed(self) -> bytes | None:
        """The signing seed, where this clone has it."""
        capability = self.capability
        return capability.signing_seed if capability is not None and capability.can_write else None

    def name_all(self, keys: Iterable[str]) -> None:
        """Take in keys of which it is known that they ought to be there; raises `NoCapability`."""
        assert self.capability is not None
        secret = self.capability.read_secret
        self.names = {object_id_of(secret, key): key for key in keys}

    def survey(self, heard: Callable[[str, int], None] = lambda store, count: None) -> Survey:
        """Ask the stores what they have. Raises `Cancelled`."""
        stall = self.grid.settings.stall
        if self.only is not None and len(self.only) <= FEW:
            return look_at(
                [*self.sites, *(beside(site) for site in self.sites if self.ground.earlier)],
                self.only,
                stall=stall,
                cancelled=self.cancelled,
            )
        survey = take_survey(self.sites, self.grid.id, stall=stall, cancelled=self.cancelled, heard=heard)
        survey.know(self.names)
        return survey

    def census(self, survey: Survey) -> Census:
        """Return all objects with what is known of them."""
        return Census(
            survey, self.ground, self.grid.roster.cipher, self.names, self.notes.damaged(), only=self.only
        )

    def look_closer(self, census: Census) -> None:
        """Find out what is behind objects of which too few shares are left: see below. Raises `SwarmError`."""
        if not census.names:
            return
        # Once for both: to judge all of very many objects takes long.
        incomplete = {each: verdict.state for each, verdict in census if verdict.left < 0}
        lost = {
            each: census.names[each]
            for each, state in incomplete.items()
            if state in (State.LOST, State.TORRENT) and each in census.names
        }
        self._name_incomplete(census, [each for each in incomplete if census.is_nameless(each)])
        found = self.torrents_of(list(lost.values())) if lost else {}
        census.torrents = {each: found[key] for each, key in lost.items() if key in found}

    def _name_incomplete(self, census: Census, unnamed: Sequence[str]) -> None:
        """Read the names of objects that git-annex does not list, and of which too few shares are left.

        These are left over by removals, as a rule; but git-annex does not list the parts of a pushed repository
        either, and of these nothing may be lost unnoticed. Their names are in the ends of their shares; where no
        share tells it, it is not known what is left over. Raises `Cancelled`.
        """
        if self.capability is None or not self.capability.can_read:
            return
        found = {}
        for object_id, key in self.read_names(census.survey, unnamed):
            if key is not None and is_of_git(key):
                found[object_id] = key
            elif key is not None:
                census.unwanted.add(object_id)
        census.names = {**census.names, **found}

    def read_names(self, survey: Survey, object_ids: Sequence[str]) -> Iterator[tuple[str, str | None]]:
        """Yield the keys of objects, as far as anything that there is of them tells it; several at once.

        Raises `Cancelled`.
        """
        for result in in_parallel(partial(self._read_name, survey), object_ids, AT_ONCE, self.cancelled):
            if result.error is not None:
                raise result.error
            yield result.item, result.value

    def _read_name(self, survey: Survey, object_id: str) -> str | None:
        stores = {site.name: site for site in self.sites}
        own, beside = items_of(survey, object_id)
        sites = [item.site(stores) for item in (*own, *beside)]
        for site in sorted(sites, key=lambda each: (each.price, each.cost, each.number)):
            question = {site: partial(self._open_name, site, object_id)}
            for answer in GatedAsking(question, self.cancelled).answers(self.grid.settings.stall):
                if answer.value is not None:
                    return answer.value
        return None

    def _open_name(self, site: Site, object_id: str) -> str:
        """Return the key whose share this is; raises `Damaged` if it does not prove, and what the store raises."""
        assert self.capability is not None
        share = open_share(
            site, object_id, self.grid.verify_key, needed=self.ground.coding.needed, with_hashes=False
        )
        return open_key_name(self.capability.read_secret, object_id, share.header.sealed_name)

    # Verifying.

    def tasks(self, census: Census) -> list[Task]:
        """Return all shares that may be proved."""
        survey = census.survey
        return [
            Task(object_id, number, size)
            for object_id in survey
            if self.only is None or object_id in self.only
            for number, size in survey.shares(object_id).items()
        ]

    def todays(self, tasks: Sequence[Task], sample: Sample) -> tuple[list[Task], str]:
        """Return the shares whose turn it is today, and what that run is called."""
        parts = sample.parts_of(sum(task.size for task in tasks))
        if parts == 1:
            return list(tasks), "verify all"
        turn = int(self.date() // DAY) % parts
        late = set(self.notes.proved_before(self.date() - (parts + 1) * DAY))
        chosen = slice_of(tasks, parts, turn, lambda task: (task.object_id, task.number) in late)
        return chosen, f"verify {turn} of {parts}"

    def prove(self, tasks: Iterable[Task], heard: Callable[[int], None]) -> Iterable[Proof]:
        """Prove shares, as it comes; see `prove_shares`."""
        return prove_shares(
            self.sites,
            tasks,
            self.grid.verify_key,
            self.ground.coding.needed,
            stall=self.grid.settings.stall,
            cancelled=self.cancelled,
            heard=heard,
        )

    def take_in(self, census: Census, proof: Proof) -> None:
        """Let census and ledger know what came of reading a share."""
        object_id, number = proof.task.object_id, proof.task.number
        if proof.is_good and proof.tail is not None:
            census.mend(object_id, number)
            census.headers.setdefault(object_id, {})[number] = proof.tail.header
            self.notes.note_proved(object_id, number)
        elif proof.is_damaged:
            self.notes.note_damaged(object_id, number, str(proof))
            census.note_damaged(object_id, number, str(proof))
        elif isinstance(proof.error, NotFound):
            census.survey.discard(object_id, number)
            self.notes.forget(object_id, number)
        else:
            census.unread.setdefault(object_id, set()).add(number)

    # Repairing.

    def work(self, census: Census, tally: Tally, folder: str | None) -> Work:
        """Return what does jobs for the objects of `census`."""
        return Work(
            census,
            self.grid.verify_key,
            self.seed,
            self.notes,
            self.grid.settings.stall,
            self.cancelled,
            book=self.grid.book,
            tally=tally,
            free=self.free(),
            folder=folder,
        )

    def free(self) -> dict[str, int]:
        """Return what the stores that take shares have room for, as far as they can tell."""
        stores = {site.name: site.store for site in self.sites if site.takes_shares}
        answers = ask_all({name: store.space for name, store in stores.items()}, self.grid.settings.stall)
        return {answer.asked: answer.value for answer in answers if answer.value is not None}

    def most(self) -> dict[str, int]:
        """Return how many bytes stores may keep at most, where that is bounded."""
        entries = [self.grid.local(entry) for entry in self.grid.roster.stores if entry.state == ACTIVE]
        return {entry.name: entry.max_bytes for entry in entries if entry.max_bytes}

    def reach(self) -> dict[str, tuple[float, Exception | None]]:
        """Return how long each store took to answer, in seconds, and what is wrong with it."""
        entries = {entry.name: entry for entry in self.grid.roster.readable}

        def see(name: str) -> float:
            began = time.monotonic()
            self.grid.see(entries[name])
            return time.monotonic() - began

        questions = {name: partial(see, name) for name in entries}
        answers = {answer.asked: answer for answer in ask_all(questions, self.grid.settings.stall)}
        return {name: (answers[name].value or 0.0, answers[name].error) for name in entries}


def remember_damage(grid: Grid, object_id: str, damaged: Mapping[int, str]) -> None:
    """Note that shares were seen to be damaged, so that check and repair know it without reading them."""
    ledger = Ledger(state_path("ledger", grid.id))
    for number, why in damaged.items():
        ledger.note_damaged(object_id, number, why)
    ledger.close()


def is_known_to_be_damaged(grid: Grid, object_id: str) -> bool:
    """True if this machine has seen damaged shares of an object, and not that they are good again."""
    ledger = Ledger(state_path("ledger", grid.id))
    try:
        return bool(ledger.damaged().get(object_id))
    finally:
        ledger.close()


def repair_object(care: Care, key: str, folder: str, notes: Notes) -> list[str]:
    """Repair the object of a key; return what was made, and leave in `notes` only what is still wrong.

    Never raises for what could not be done.
    """
    care.name_all([key])
    care.only = set(care.names)
    made = []
    try:
        census = care.census(care.survey())
        for done in care.work(census, Tally(), folder).run(plan_repair(census)):
            numbers = sorted(done.outcome.made) if done.outcome else []
            made += [f"share {number} on {census.survey.sites[number].name}" for number in numbers]
            if done.verdict.state is State.HEALTHY:
                notes.clear()
            elif done.error is not None or done.notes:
                notes.add("repair", explain(done.error) if done.error else "; ".join(done.notes))
    except SwarmError as error:
        notes.add("repair", explain(error))
    finally:
        care.notes.close()
    return made
