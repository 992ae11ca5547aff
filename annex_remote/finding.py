"""Finding a grid again: places are asked what they have of it, and it takes no more than its verify key.

Its stores may be mounted elsewhere than the roster says: their markers tell which is which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from annex_remote.errors import SwarmError
from annex_remote.grid import Found, Logins, StoreOpener, newest_roster
from annex_remote.model import Access, Store
from annex_remote.roster import Roster, grid_id, marker_number, roster_serial
from annex_remote.stores import open_store
from annex_remote.transfer.sites import ask_all

__all__ = ["Finding", "Place", "Shown", "whereabouts"]


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
            fitting = {place.address for place in self.shown}
            more = [
                place
                for entry in roster.readable
                for place in [Place(entry.address, entry.name)]
                if place not in asked and entry.name not in seen and entry.address not in fitting
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


def whereabouts(roster: Roster, shown: Mapping[Place, Shown]) -> dict[str, list[str]]:
    """Return the addresses at which each store of the roster showed its marker, by name; the first come first.

    A place that has several markers is several stores in one folder, or a mistake: it tells nothing.
    """
    by_number = {entry.numbers[0]: entry.name for entry in roster.stores}
    found: dict[str, list[str]] = {}
    for place, each in shown.items():
        if len(each.numbers) == 1 and each.numbers[0] in by_number:
            addresses = found.setdefault(by_number[each.numbers[0]], [])
            if place.address not in addresses:
                addresses.append(place.address)
    return found
