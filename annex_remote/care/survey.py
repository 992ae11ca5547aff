"""What the stores say that they have: each is listed once, all at once, and what they say is kept small."""

from __future__ import annotations

import threading
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from annex_remote.errors import Cancelled, Damaged, NotFound
from annex_remote.model import ShareName, staged_number
from annex_remote.transfer.sites import Clock, GatedAsking, Site, ask_all

__all__ = ["Stray", "Survey", "look_at", "take_survey"]

_ABSENT = -1
_BATCH = 512
"""Names that are taken in at once: between them, others have their turn."""


@dataclass(frozen=True, slots=True)
class Stray:
    """Something of an object under a name at which nobody looks for it: a share that is not this store's."""

    store: str
    name: str
    size: int


class Survey:
    """Which shares there are, by object and number, with their sizes in bytes. `sites` are all of the grid's.

    An entry takes some forty bytes: the sizes stand in one array for each number, the objects in one table.
    """

    def __init__(self, sites: Iterable[Site]) -> None:
        self.sites = {site.number: site for site in sites}
        self.failed: dict[str, Exception] = {}
        """Stores whose list did not come to its end, and why: they may have anything."""
        self.strays: dict[str, list[Stray]] = defaultdict(list)
        """By object."""
        self.staged: dict[str, dict[int, int]] = defaultdict(dict)
        """Shares of an object that is being coded anew, by number, with their sizes."""
        self._rows: dict[str, int] = {}
        self._sizes = {number: array("q") for number in self.sites}

    def add(self, object_id: str, number: int, size: int) -> None:
        """Take in the share `number` of an object."""
        row = self._rows.setdefault(object_id, len(self._rows))
        sizes = self._sizes[number]
        if row >= len(sizes):
            sizes.extend([_ABSENT] * (row + 1 - len(sizes)))
        sizes[row] = size

    def know(self, object_ids: Iterable[str]) -> None:
        """Take in objects that there ought to be, whether anybody has a share of them or not."""
        for object_id in object_ids:
            self._rows.setdefault(object_id, len(self._rows))

    def discard(self, object_id: str, number: int) -> None:
        """A share is there no more."""
        row = self._rows.get(object_id)
        if row is not None and row < len(self._sizes[number]):
            self._sizes[number][row] = _ABSENT

    def tidied(self, object_id: str, store: str, name: str) -> None:
        """A stray is there no more."""
        left = [each for each in self.strays.pop(object_id, []) if (each.store, each.name) != (store, name)]
        if left:
            self.strays[object_id] = left

    def shares(self, object_id: str) -> dict[int, int]:
        """Return the sizes of the shares of an object, by number."""
        row = self._rows.get(object_id)
        if row is None:
            return {}
        found = ((number, sizes[row]) for number, sizes in self._sizes.items() if row < len(sizes))
        return {number: size for number, size in found if size != _ABSENT}

    def silent(self, shares: Mapping[int, int]) -> set[int]:
        """Return the numbers of which nothing is known, of an object that has `shares`."""
        if not self.failed:
            return set()
        return {number for number, site in self.sites.items() if site.name in self.failed and number not in shares}

    def __iter__(self) -> Iterator[str]:
        """Yield all objects, in the order of their ids: it is always the same."""
        return iter(sorted(self._rows))

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, object_id: object) -> bool:
        return object_id in self._rows

    def used(self) -> dict[str, tuple[int, int]]:
        """Return how many shares each store has, and how many bytes they are."""
        totals = {site.name: (0, 0) for site in self.sites.values()}
        for number, sizes in self._sizes.items():
            name = self.sites[number].name
            there = [size for size in sizes if size != _ABSENT]
            count, size = totals[name]
            totals[name] = count + len(there), size + sum(there)
        return totals


def take_survey(
    sites: Sequence[Site],
    grid_id: str,
    *,
    stall: float,
    cancelled: threading.Event,
    clock: Clock = time.monotonic,
    heard: Callable[[str, int], None] = lambda store, count: None,
) -> Survey:
    """List every store once, all at the same time.

    One that refuses, or that brings nothing for `stall` seconds, is in `Survey.failed` and holds up nobody; what
    it said until then counts. `heard` gets a store's name and how many names it has given so far. Raises
    `Cancelled`.
    """
    survey = Survey(sites)
    lock = threading.Lock()
    own = f"{grid_id[:2]}/{grid_id}."
    by_store: dict[str, Site] = {}
    for site in sites:
        by_store.setdefault(site.name, site)
    asking: GatedAsking[None] = GatedAsking({}, cancelled, clock)
    heard_of: dict[str, list[tuple[str, int]]] = {name: [] for name in by_store}
    """What each store has said, as far as it was not taken in yet."""

    def take(store: str) -> None:
        with lock:
            if store in survey.failed:
                raise Cancelled("the store was given up")
            settle(store)

    def settle(store: str) -> None:
        for name, size in heard_of[store]:
            if not name.startswith(own):
                _take_in(survey, store, name, size)
        heard_of[store].clear()

    def list_store(site: Site) -> None:
        batch = heard_of[site.name]
        count = 0
        for item in site.store.list():
            asking.moved(site)
            batch.append(item)
            count += 1
            if len(batch) >= _BATCH:
                take(site.name)
                heard(site.name, count)
        take(site.name)
        heard(site.name, count)

    asking.add({site: partial(list_store, site) for site in by_store.values()})
    for answer in asking.answers(stall):
        if answer.error is not None:
            with lock:
                survey.failed[answer.asked.name] = answer.error
                settle(answer.asked.name)
    return survey


def _take_in(survey: Survey, store: str, name: str, size: int) -> None:
    staged = staged_number(name)
    try:
        number = ShareName.parse(name).number if staged is None else staged
    except Damaged:
        return  # no share: nobody asked for it
    object_id = name[3:].partition(".")[0]
    site = survey.sites.get(number)
    if site is None or site.name != store:
        survey.know([object_id])
        survey.strays[object_id].append(Stray(store, name, size))
    elif staged is not None:
        survey.know([object_id])
        survey.staged[object_id][number] = size
    else:
        survey.add(object_id, number, size)


def look_at(
    sites: Sequence[Site],
    object_ids: Iterable[str],
    *,
    stall: float,
    cancelled: threading.Event,
) -> Survey:
    """Ask for single objects only, share by share, instead of listing everything. Raises `Cancelled`."""
    survey = Survey([site for site in sites if not site.staged])
    survey.know(object_ids)
    for object_id in survey:
        if cancelled.is_set():
            raise Cancelled("the work was called off")
        questions = {
            site: partial(site.store.stat, site.name_of(object_id))
            for site in sites
            if site.name not in survey.failed
        }
        for answer in ask_all(questions, stall):
            if answer.value is not None and answer.asked.staged:
                survey.staged[object_id][answer.asked.number] = answer.value
            elif answer.value is not None:
                survey.add(object_id, answer.asked.number, answer.value)
            elif answer.error is not None and not isinstance(answer.error, NotFound):
                survey.failed[answer.asked.name] = answer.error
    return survey
