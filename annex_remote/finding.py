"""Finding a grid again: places are asked what they have of it, and it takes no more than its verify key.

Its stores may be mounted elsewhere than the roster says: their markers tell which is which.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from annex_remote.capability import Capability
from annex_remote.credentials import environment_login
from annex_remote.errors import BadSetting, Damaged, SwarmError
from annex_remote.grid import Found, Grid, Logins, StoreOpener, newest_roster, wants_login
from annex_remote.model import Access, Store
from annex_remote.overrides import Overrides
from annex_remote.roster import GONE, RETIRED, Roster, grid_id, marker_number, roster_serial
from annex_remote.settings import DEFAULT_STALL, FirstStore, Settings
from annex_remote.stores import check_address, open_store
from annex_remote.transfer.sites import ask_all, explain

__all__ = ["WAIT", "Finding", "Place", "Reopened", "Shown", "read_places", "reopen", "whereabouts"]

WAIT = 60.0
"""Seconds that a place gets to show what it has of a grid, besides what it may be silent for."""

_NAMED = re.compile(r"([a-z0-9][a-z0-9-]{0,31})=(.*)\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a store of the grid may be. Its `name` in the grid, if it is known, tells its login."""

    address: str
    name: str = ""

    def __str__(self) -> str:
        return self.name or self.address


@dataclass(frozen=True, slots=True)
class Shown:
    """What a place has of the grid's own documents."""

    numbers: tuple[int, ...] = ()
    """First share numbers of the stores whose markers are there; several say that nobody knows which it is."""
    newest: Found | None = None
    refused: SwarmError | None = None
    """Why a roster there, or a newer one, is not believed, or could not be read."""
    any: bool = False
    """True if there is anything at all."""


@dataclass
class Finding:
    """What was found so far; `ask` asks more places, `ask_all_known` all that it leads to.

    `wait` bounds what a place takes to answer, in seconds, `stall` its silence.
    """

    verify_key: bytes
    logins: Logins
    stall: float
    wait: float
    opener: StoreOpener = open_store
    shown: dict[Place, Shown] = field(default_factory=dict)
    """In the order in which they were asked; places that answered."""
    failed: dict[Place, Exception] = field(default_factory=dict)
    """Places that could not be asked."""
    newest: Found | None = None

    def ask(self, places: Iterable[Place]) -> None:
        """Ask places, all at once."""
        places = list(dict.fromkeys(places))
        answers = {
            answer.asked: answer
            for answer in ask_all({place: partial(self._look, place) for place in places}, self.wait)
        }
        for place in places:
            shown, error = answers[place].value, answers[place].error
            if shown is None:
                assert error is not None
                self.failed[place] = error
                continue
            self.failed.pop(place, None)
            self.shown[place] = shown
            found = shown.newest
            if found is not None and (self.newest is None or found.rank > self.newest.rank):
                self.newest = found

    def ask_all_known(self, places: Sequence[Place]) -> None:
        """Ask places, and the stores of the newest roster that were not seen there, until none is newer."""
        self.ask(places)
        asked = set(places)
        while self.newest is not None:
            roster = self.newest.roster
            seen = whereabouts(roster, self.shown)
            done = {place.address for place in asked}
            silent = {place.address for place in self.failed}
            more = [
                place
                for entry in roster.readable
                for place in [Place(entry.address, entry.name)]
                if place not in asked and entry.name not in seen
                # With a login, one that did not answer without may do so.
                if entry.address not in done or (entry.address in silent and self.logins(entry.name))
            ]
            if not more:
                return
            asked.update(more)
            self.ask(more)

    def _look(self, place: Place) -> Shown:
        grid = grid_id(self.verify_key)
        login = self.logins(place.name) if place.name else None
        # Which marker is to be there is not known: so nothing is said about a place that is not mounted.
        store = self.opener(place.address, None, Access(login, self.stall))
        try:
            names = [name for name, _ in store.list(f"{grid[:2]}/{grid}.")]
            numbers = [number for name in names if (number := marker_number(grid, name)) is not None]
            serials = [serial for name in names if (serial := roster_serial(grid, name)) is not None]
            newest, refused = self._newest(store, serials)
        finally:
            store.close()
        return Shown(tuple(sorted(numbers)), newest, refused, bool(names))

    def _newest(self, store: Store, serials: Sequence[int]) -> tuple[Found | None, SwarmError | None]:
        try:
            return newest_roster(store, self.verify_key, serials)
        except SwarmError as error:  # that there is something of the grid is known all the same
            return None, error


def whereabouts(roster: Roster, shown: Mapping[Place, Shown], *, several: bool = False) -> dict[str, list[str]]:
    """Return the addresses at which each store of the roster showed its marker, by name; the first come first.

    A place with several markers is several stores in one folder, or a mistake. It tells nothing, unless `several`
    says that this does not matter: shares are told apart by their numbers.
    """
    by_number = {entry.numbers[0]: entry.name for entry in roster.stores}
    found: dict[str, list[str]] = {}
    for place, each in shown.items():
        for number in each.numbers if several or len(each.numbers) == 1 else ():
            addresses = found.setdefault(by_number[number], []) if number in by_number else [place.address]
            if place.address not in addresses:
                addresses.append(place.address)
    return found


def read_places(words: Sequence[str]) -> list[Place]:
    """Read ``ADDRESS``, or ``NAME=ADDRESS`` where a login is needed; raises `BadSetting`."""
    places = []
    for word in words:
        named = _NAMED.match(word)
        name, address = (named[1], named[2]) if named else ("", word)
        places.append(Place(check_address(address), name))
    return places


@dataclass
class Reopened:
    """A grid that was found again, and what a person should know of that, a line each."""

    grid: Grid
    notes: list[str]


def reopen(
    capability: Capability,
    places: Sequence[Place],
    *,
    to_read: bool = False,
    logins: Logins = environment_login,
    stall: float = DEFAULT_STALL,
    opener: StoreOpener = open_store,
) -> Reopened:
    """Find the newest roster of the capability's grid, and its stores wherever their markers are.

    `to_read` is for who only reads: then a store that is gone by the roster is one all the same if one of `places`
    is that store, and several may be in one place. Nothing is put on any store. Raises `BadSetting` if no roster
    is found.
    """
    finding = Finding(capability.verify_key, logins, stall, WAIT + stall, opener)
    finding.ask_all_known(places)
    if finding.newest is None:
        raise BadSetting(_not_found(finding, places))
    roster = finding.newest.roster
    where = whereabouts(roster, finding.shown, several=to_read)
    notes = _said_of(finding, places, where, to_read)
    gone = {entry.name for entry in roster.stores if entry.state == GONE and entry.name in where}
    if to_read:
        roster, refused = _taken_back(roster, {name: where[name][0] for name in gone})
        notes += [
            f"{name} is gone by the list of stores, and is read all the same" for name in sorted(gone - refused)
        ]
        notes += [
            f"{name} is gone by the list of stores, and is where another store is to be: it is read if it is "
            "mounted elsewhere, and that address is given"
            for name in sorted(refused)
        ]
    moved = {name: {"address": addresses[0]} for name, addresses in where.items()}
    settings = Settings(
        stores=tuple(FirstStore(entry.name, entry.address, len(entry.numbers)) for entry in roster.readable),
        coding=roster.coding,
        cipher=roster.cipher,
        stall=stall,
        verify_key=capability.verify_key,
    )
    grid = Grid(
        settings,
        capability.verify_key,
        capability,
        overrides=Overrides(moved),
        found=replace(finding.newest, roster=roster),
        logins=logins,
        opener=opener,
    )
    return Reopened(grid, notes)


def _taken_back(roster: Roster, addresses: dict[str, str]) -> tuple[Roster, set[str]]:
    """Return the roster with stores that are gone as ones that are read; and those with whom it cannot be."""
    refused = set()
    for name, address in addresses.items():
        entries = [
            replace(entry, state=RETIRED, address=address) if entry.name == name else entry
            for entry in roster.stores
        ]
        try:
            roster = replace(roster, stores=tuple(entries))
        except Damaged:  # another store has this address by the roster
            refused.add(name)
    return roster, refused


def _not_found(finding: Finding, places: Sequence[Place]) -> str:
    words = []
    for place in places:
        if place in finding.failed:
            error = finding.failed[place]
            hint = "" if place.name or not wants_login(error) else "; write NAME=ADDRESS for a login: see --help"
            words.append(f"{place}: {explain(error)}{hint}")
            continue
        shown = finding.shown[place]
        nothing = "it has a grid's marker only" if shown.any else "nothing of this grid is there"
        words.append(f"{place}: {explain(shown.refused) if shown.refused else nothing}")
    return (
        "no list of stores of this capability's grid was found: it may be the capability of another grid, or "
        f"these may be the wrong places, or not mounted: {'; '.join(words)}"
    )


def _said_of(finding: Finding, places: Sequence[Place], where: dict[str, list[str]], several: bool) -> list[str]:
    """Return what is odd about the places that a person has named."""
    notes = []
    for place in dict.fromkeys(places):
        if place in finding.failed:
            if place.address not in {each.address for each in finding.shown}:
                notes.append(f"{place}: {explain(finding.failed[place])}")
            continue
        shown = finding.shown[place]
        if shown.refused is not None:
            notes.append(f"{place}: a list of stores is refused: {explain(shown.refused)}")
        if len(shown.numbers) > 1 and not several:
            notes.append(f"{place}: it has the markers of several stores, so it is not clear which one it is")
        elif not shown.numbers:
            what = "no marker, so it is not clear which store it is" if shown.any else "nothing of this grid"
            notes.append(f"{place}: it has {what}")
    for name, addresses in where.items():
        if len(addresses) > 1:
            notes.append(f"{name}: it is at {' and at '.join(addresses)}; the first one is used")
    return notes
