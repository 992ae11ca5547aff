"""Collecting what nobody wants: the stores are listed first, and git-annex is asked after that.

So whatever was stored and recorded meanwhile is on the keep-list. Right before something goes, git-annex and the
stores are asked again. What is taken away in part is taken away wholly by the next run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from annex_remote.care.garbage import (
    Item,
    KeepList,
    Knowledge,
    Leftover,
    Plan,
    Why,
    chunks_of,
    left_over,
    parent_of,
    too_young,
)
from annex_remote.care.survey import Survey
from annex_remote.care.work import in_parallel
from annex_remote.caring import AT_ONCE, Care
from annex_remote.errors import NotFound
from annex_remote.shares.crypto import object_id_of
from annex_remote.transfer.keys import is_of_git
from annex_remote.transfer.sites import Answer, Clock, GatedAsking, Site

__all__ = ["Collecting", "Gone"]

T = TypeVar("T")
R = TypeVar("R")

ANEW, ANEW_AFTER = 60.0, 1000
"""After how many seconds, and after how many objects, git-annex is asked again what is wanted."""

Keys = Callable[[], Iterable[str]]
Heard = Callable[[str, int], None]
"""Gets what is counted, and how far that is."""


def _nobody(_: str, __: int) -> None:
    """Take no notice of how far it is."""


@dataclass(frozen=True)
class Gone:
    """What came of one object that was to go."""

    what: Leftover
    removed: tuple[Item, ...] = ()
    failed: Mapping[Item, Exception] = field(default_factory=dict)
    kept: Why | None = None
    """Why nothing of it was removed after all."""


class _Wanted:
    """What somebody wants by now, by what `ask` says: it is asked anew every so often. Thread safe."""

    def __init__(self, ask: Callable[[], set[str]], clock: Clock) -> None:
        self._ask = ask
        self._clock = clock
        self._lock = threading.Lock()
        self._anew()

    def _anew(self) -> None:
        began = self._clock()
        self._keys = self._ask()
        self._at, self._used = began, 0

    def by_now(self) -> set[str]:
        """Return the keys, for one more object; raises what asking raises, and then again for every other one."""
        with self._lock:
            if self._used >= ANEW_AFTER or self._clock() - self._at >= ANEW:
                self._anew()
            self._used += 1
            return self._keys


@dataclass
class Collecting:
    """Finds what is left over, and takes it away.

    `wanted` asks git-annex for all keys that somebody may want, `known` for all that it has ever heard of,
    `copied` for those of which there is a copy anywhere; each may raise `SwarmError`. `grace` is in seconds.
    `chunk` is into how many bytes git-annex cuts what it stores, if it does that: only to save reading. With
    `strangers`, keys that nobody has heard of are not wanted either.
    """

    care: Care
    wanted: Keys
    known: Keys
    copied: Keys
    grace: float
    chunk: int = 0
    strangers: bool = False
    clock: Clock = time.monotonic

    def __post_init__(self) -> None:
        self._stores: dict[str, Site] = {}
        for site in self.care.sites:
            self._stores.setdefault(site.name, site)
        assert self.care.capability is not None
        self._secret = self.care.capability.read_secret

    # What is to go.

    def look(self, heard: Heard = _nobody, moved: Heard = _nobody) -> Plan:
        """List the stores, ask git-annex, and sort out what may go; nothing is changed.

        `heard` gets a store's name and how many names it has given so far, `moved` what is being done and for how
        many objects it is done. Raises `SwarmError`.
        """
        survey = self.care.survey(heard)
        keep = self._keep_list()
        self.care.names = dict(keep.objects)
        read = self._read_names(survey, keep, moved)
        knows = self._knowledge({parent_of(key) for key in read.values() if not keep.wants(key)})
        # The names of what a git repository is stored as are known now as well.
        self.care.names = {**keep.objects, **{each: key for each, key in read.items() if keep.wants(key)}}
        census = self.care.census(survey)
        found, kept = left_over(census, keep, read, knows, strangers=self.strangers)
        beside = [stray for strays in survey.strays.values() for stray in strays]
        size = sum(total for _, total in survey.used().values()) + sum(stray.size for stray in beside)
        plan = Plan(
            len(keep.keys),
            len(survey),
            size + sum(sum(staged.values()) for staged in survey.staged.values()),
            of_git=sum(map(is_of_git, read.values())),
            kept=kept,
            failed=dict(survey.failed),
        )
        for each, why in self._with_ages(found, moved):
            if not each.items:
                continue  # somebody else has taken it away
            if why is not None:
                plan.kept.append((each, why))
            else:
                plan.go.append(each)
        return plan

    def _keep_list(self) -> KeepList:
        keys = frozenset(self.wanted())
        objects = {object_id_of(self._secret, key): key for key in keys}
        for key in keys if self.chunk else ():
            objects |= {object_id_of(self._secret, each): each for each in chunks_of(key, self.chunk)}
        return KeepList(keys, objects)

    def _knowledge(self, keys: Collection[str]) -> Knowledge:
        """Ask git-annex what it knows of `keys`."""
        if not keys:
            return Knowledge()
        return Knowledge(
            {key for key in self.known() if key in keys}, {key for key in self.copied() if key in keys}
        )

    def _read_names(self, survey: Survey, keep: KeepList, moved: Heard) -> dict[str, str]:
        """Return the keys of objects that are not on the list, as far as one of their shares tells it."""
        unknown = [object_id for object_id in survey if object_id not in keep.objects]
        found = {}
        for count, (object_id, key) in enumerate(self.care.read_names(survey, unknown), 1):
            if key is not None:
                found[object_id] = key
            moved("reading names", count)
        return found

    def _with_ages(self, found: Sequence[Leftover], moved: Heard) -> Iterator[tuple[Leftover, Why | None]]:
        """Yield what may go with why it stays after all, by its age; what has vanished meanwhile is left out."""
        for count, (_, aged) in enumerate(self._in_parallel(self._with_age, found), 1):
            assert aged is not None
            yield aged
            moved("asking for ages", count)

    def _with_age(self, each: Leftover) -> tuple[Leftover, Why | None]:
        if not self.grace:  # whatever its age is, it is old enough
            return each, None
        items = {item.site(self._stores): item for item in each.items}
        ages: dict[Item, float | None] = {}
        for answer in self._ask({site: partial(site.store.age, item.name) for site, item in items.items()}):
            if not isinstance(answer.error, NotFound):
                ages[items[answer.asked]] = answer.value
        there = tuple(item for item in each.items if item in ages)
        return replace(each, items=there), too_young(ages.values(), self.grace)

    # Taking it away.

    def collect(self, plan: Plan) -> Iterator[Gone]:
        """Take away what a plan says, and yield what came of it, object by object.

        Raises `NoCapability` without the full capability, and `SwarmError` if git-annex cannot be asked again: it
        is before anything goes, and every so often. Nothing more goes then. `Cancelled` may come later.
        """
        assert self.care.capability is not None
        _ = self.care.capability.signing_seed  # who may not store may not remove
        wanted = _Wanted(partial(self._still_wanted, plan), self.clock)
        for _, gone in self._in_parallel(partial(self._remove, plan, wanted), plan.go):
            assert gone is not None
            yield gone
        self.care.notes.flush()

    def _still_wanted(self, plan: Plan) -> set[str]:
        """Return the keys of a plan that somebody wants by now: it may be long ago that it was made."""
        keys = {parent_of(each.key) for each in plan.go if each.key is not None}
        return {key for key in self.wanted() if key in keys} if keys else keys

    def _remove(self, plan: Plan, wanted: _Wanted, each: Leftover) -> Gone:
        if each.key is not None and parent_of(each.key) in wanted.by_now():
            return Gone(each, kept=Why.WANTED)
        if self._has_grown(plan, each):
            return Gone(each, kept=Why.CHANGED)
        there, young = self._with_age(each)  # what was put again meanwhile is as young as that
        if young is not None:
            return Gone(each, kept=young)
        removed: list[Item] = []
        failed: dict[Item, Exception] = {}
        for item in there.items:
            site = item.site(self._stores)
            for answer in self._ask({site: partial(site.store.delete, item.name)}):
                if answer.error is not None:
                    failed[item] = answer.error
                    continue
                removed.append(item)
                if site in self.care.sites:  # a share where it belongs, rather than a stray
                    self.care.notes.forget(each.object_id, site.number)
        return Gone(each, tuple(removed), failed)

    def _has_grown(self, plan: Plan, each: Leftover) -> bool:
        """True if shares have come of what nobody wanted."""
        listed = {item.name for item in each.items}
        questions = {
            site: partial(site.store.stat, site.name_of(each.object_id))
            for site in self.care.sites
            if site.name not in plan.failed and site.name_of(each.object_id) not in listed
        }
        sizes = [answer.value for answer in self._ask(questions)]
        return any(size is not None for size in sizes)

    def _ask(self, questions: Mapping[Site, Callable[[], T]]) -> Iterator[Answer[Site, T]]:
        """Ask stores, each by its gate; who is silent for too long has failed."""
        return GatedAsking(questions, self.care.cancelled).answers(self.care.grid.settings.stall)

    def _in_parallel(self, work: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[T, R | None]]:
        """Yield each of `items`, several at once, with what comes of `work`, which does not fail.

        Raises `Cancelled`.
        """
        for result in in_parallel(work, items, AT_ONCE, self.care.cancelled):
            if result.error is not None:
                raise result.error
            yield result.item, result.value
