"""A grid as one clone sees it: its roster, its stores, and what this clone may do.

The roster is looked for on the stores, and the newest one that proves is kept in the git directory, so that
a clone that has seen a store once knows where it is.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from annex_remote.capability import Capability
from annex_remote.errors import BadSetting, Damaged, Denied, NoCapability, NotFound, SwarmError, Unavailable
from annex_remote.limits import DEFAULT_CONNECTIONS, PRICE_UNIT, Limit
from annex_remote.model import Access, Login, Store
from annex_remote.overrides import Overrides, read_overrides
from annex_remote.records import KeptBook
from annex_remote.roster import (
    ACTIVE,
    FAR_COST,
    MAX_SIZE,
    NEAR_COST,
    Roster,
    StoreEntry,
    first_roster,
    grid_id,
    is_marker,
    marker_name,
    open_roster,
    roster_name,
    roster_serial,
    seal_roster,
)
from annex_remote.settings import Settings
from annex_remote.stores import is_far, is_read_only, open_store
from annex_remote.stores.stack import Stack
from annex_remote.stores.state import state_path
from annex_remote.transfer.figures import Book
from annex_remote.transfer.gate import Gate
from annex_remote.transfer.sites import Notes, Site, ask_all, explain
from annex_remote.transfer.trace import Trace

if TYPE_CHECKING:
    from annex_remote.transfer.download import Aside, Download

__all__ = [
    "Found",
    "Grid",
    "Logins",
    "StoreOpener",
    "create_stores",
    "newest_roster",
    "read_roster",
    "usual_cost",
    "wants_login",
]

log = logging.getLogger(__name__)

ROSTER_WAIT = 5.0
"""Seconds that a store has to show its roster: it is a small thing, and other stores have it too."""

ROSTERS_READ = 16
"""Rosters that are read from one store at most, the newest first: more than that are not ours."""

REFRESH = 60.0
"""Seconds for which what the stores showed is taken for the newest."""

StoreOpener = Callable[[str, str | None, Access], Store]

Logins = Callable[[str], Login | None]
"""Tells the login of a store by its name, None where none is known; may raise `BadSetting`."""


def usual_cost(address: str) -> int:
    """Return what reading from a store at `address` costs, as long as nobody has said otherwise."""
    return FAR_COST if is_far(address) else NEAR_COST


def _nobody(_: str) -> Login | None:
    return None


@dataclass(frozen=True, slots=True)
class Found:
    """A roster as a store has it: the document and its sealed bytes."""

    roster: Roster
    sealed: bytes

    @property
    def rank(self) -> tuple[int, bytes]:
        """The highest serial wins; two of one serial (two clones at once) are told apart by their bytes."""
        return self.roster.serial, self.sealed


class Grid:
    """Thread safe. `verify_key` proves everything that comes from a store; `capability` may be None.

    `cache` is the file that keeps the newest roster, None for none. `overrides` is what this clone sees otherwise
    than the roster and the settings say. `found` is a roster that was read already. `logins` is asked whenever a
    store is used: what it says may change.
    """

    def __init__(
        self,
        settings: Settings,
        verify_key: bytes,
        capability: Capability | None,
        *,
        cache: str | None = None,
        overrides: Overrides | None = None,
        found: Found | None = None,
        logins: Logins = _nobody,
        opener: StoreOpener = open_store,
    ) -> None:
        self.settings = settings
        self.verify_key = verify_key
        self.capability = capability
        self.id = grid_id(verify_key)
        self._cache = cache
        self._overrides = overrides or Overrides()
        up, down = self._overrides.upload_limit, self._overrides.download_limit
        self.upload_limit = settings.upload_limit if up is None else up
        self.download_limit = settings.download_limit if down is None else down
        """What holds here for all stores together."""
        self._figures: KeptBook | None = None
        self._stack = Stack(
            self.id,
            settings.stall,
            up=self.upload_limit,
            down=self.download_limit,
        )
        self._logins = logins
        self._opener = opener
        self._lock = threading.Lock()
        self._refreshing = threading.Lock()
        """Held while the stores are asked: jobs that start together ask once."""
        self._stores: dict[tuple[object, ...], Store] = {}
        self._gates: dict[tuple[str, int], Gate] = {}
        self._sealed: bytes | None = None
        self._looked_at: float | None = None
        self._roster = self._from_cache() or first_roster(
            verify_key, settings.coding, settings.cipher, settings.stores, usual_cost
        )
        if found is not None:
            self._take_up(found)

    @classmethod
    def configured(
        cls,
        settings: Settings,
        capability: Capability | None,
        *,
        git_dir: str,
        name: str | None,
        cache: str,
        logins: Logins,
    ) -> Grid:
        """Return the grid of the remote `name` as it is set up in the repository at `git_dir`.

        Raises `BadSetting` if the remote was never made, or git's configuration says what cannot be.
        """
        if settings.verify_key is None:
            raise BadSetting("this remote has no verify-key: it was not made by git annex initremote")
        overrides = read_overrides(git_dir, name)
        return cls(settings, settings.verify_key, capability, cache=cache, overrides=overrides, logins=logins)

    @property
    def roster(self) -> Roster:
        return self._roster

    @property
    def is_known(self) -> bool:
        """True if the roster was seen, rather than made from the first stores of the settings."""
        return self._sealed is not None

    def require_known(self) -> None:
        """Raise `Unavailable` while the roster is not known: nothing is said about stores that are guessed."""
        if not self.is_known:
            first = ", ".join(f"{entry.name}={self.address(entry)}" for entry in self.roster.active)
            raise Unavailable(
                f"the list of this remote's stores is not known here, and none of the first ones shows it: {first}"
            )

    def local(self, entry: StoreEntry) -> StoreEntry:
        """Return the store as this clone sees it, with what git's configuration says instead."""
        return self._overrides.of(entry)

    def address(self, entry: StoreEntry) -> str:
        """Return where this clone finds the store."""
        return self.local(entry).address

    def store(self, entry: StoreEntry) -> Store:
        """Return the open store of an entry; raises `BadSetting` if its address cannot be used here."""
        here = self.local(entry)
        access = self._access(entry)
        place = here.name, here.address, here.limit, here.max_bytes, marker_name(self.id, entry), access
        with self._lock:
            if place not in self._stores:
                opened = self._opener(here.address, marker_name(self.id, entry), access)
                self._stores[place] = self._stack.around(opened, here)
            return self._stores[place]

    def login(self, name: str) -> Login | None:
        """Return the login of the store `name`, None if none is known; raises `BadSetting`."""
        return self._logins(name)

    def use_login(self, name: str, login: Login) -> None:
        """Use `login` for the store `name` from now on."""
        before = self._logins
        self._logins = lambda each: login if each == name else before(each)

    def slow_down(self, limit: Limit) -> None:
        """Let no more through than `limit`, each way, besides all other limits: for work that has time."""
        with self._lock:
            self._stores.clear()
            self._stack = Stack(
                self.id, self.settings.stall, up=self.upload_limit, down=self.download_limit, also=limit
            )

    def _access(self, entry: StoreEntry) -> Access:
        return Access(self.login(entry.name), self.settings.stall)

    def sites(self) -> list[Site]:
        """Return the place of every share number that a store may keep a share of."""
        return [
            Site(
                number,
                here.name,
                self._store_or_reason(entry),
                here.cost,
                here.zone,
                here.state == ACTIVE,
                price=here.price / PRICE_UNIT,
                connections=here.connections or DEFAULT_CONNECTIONS,
                gate=self._gate(here.name, here.connections or DEFAULT_CONNECTIONS),
            )
            for entry in self.roster.readable
            for here in [self.local(entry)]
            for number in here.numbers
        ]

    def download(
        self,
        annex_key: str,
        path: str,
        read_secret: bytes,
        *,
        notes: Notes,
        progress: Callable[[int], None],
        cancelled: threading.Event,
        trace: Trace | None = None,
        aside: Aside | None = None,
    ) -> Download:
        """Return what fetches an object into `path`; see `Download` for the arguments, and for what they do."""
        from annex_remote.transfer.download import Download

        return Download(
            annex_key=annex_key,
            path=path,
            read_secret=read_secret,
            verify_key=self.verify_key,
            needed=self.roster.coding.needed,
            sites=self.reading_sites(),
            stall=self.settings.stall,
            notes=notes,
            progress=progress,
            cancelled=cancelled,
            book=self.book,
            trace=trace or Trace(),
            aside=aside,
        )

    def reading_sites(self) -> list[Site]:
        """Return where shares may be read: as long as objects are coded anew, beside the others as well."""
        sites = self.sites()
        return sites + [site.beside for site in sites if self.roster.earlier]

    def _gate(self, name: str, connections: int) -> Gate:
        """Return the one gate to a store, for all work of this process."""
        with self._lock:
            return self._gates.setdefault((name, connections), Gate(connections))

    def _store_or_reason(self, entry: StoreEntry) -> Store:
        try:
            return self.store(entry)
        except SwarmError as error:
            return _Unusable(error)

    @property
    def book(self) -> Book:
        """How the stores have answered so far, to this clone or another one of this user on this machine."""
        return self._kept_book().book

    def keep_book(self) -> None:
        """Keep what the book has learned for the next process; never raises, and does it once a second at most."""
        self._kept_book().keep()

    def _kept_book(self) -> KeptBook:
        with self._lock:
            if self._figures is None:
                self._figures = KeptBook(state_path("figures", self.id))
            return self._figures

    # The roster.

    def look_for_roster(self, notes: Notes, *, by_name: bool = False) -> bool:
        """Ask the stores for their rosters and take up the newest; True if it is newer than what was known.

        Rosters that do not prove, and stores that have an old one, are in `notes`; stores with an old one or
        none are given the newest. With `by_name`, one that has the known one's serial and size is not read.
        """
        self._looked_at = time.monotonic()
        before = (self._roster.serial, self._sealed or b"")
        entries = {entry.name: entry for entry in self.roster.readable}
        found: dict[str, Found | None] = {}
        for answer in ask_all(
            {name: partial(self._fetch, entries[name], by_name) for name in entries}, ROSTER_WAIT
        ):
            if answer.value is None:
                log.debug("%s: no roster: %s", answer.asked, explain(answer.error))
                if wants_login(answer.error):
                    login = f"wants a login: git-annex-remote-swarm login REMOTE {answer.asked}"
                    notes.add(answer.asked, login, lasting=True)
                continue
            found[answer.asked], refused = answer.value
            if refused is not None:
                notes.add(answer.asked, f"a roster is refused: {refused}", lasting=True)
        newest = max((each for each in found.values() if each), key=lambda each: each.rank, default=None)
        if newest is not None and newest.rank > before:
            self._take_up(newest)
        self._hand_out(found, notes)
        return self._roster.serial > before[0]

    def refresh(self, notes: Notes, max_age: float = REFRESH) -> bool:
        """As `look_for_roster`, unless that was done in the last `max_age` seconds: then do nothing."""
        with self._refreshing:
            if self._looked_at is not None and time.monotonic() - self._looked_at < max_age:
                return False
            return self.look_for_roster(notes, by_name=True)

    def _fetch(self, entry: StoreEntry, by_name: bool) -> tuple[Found | None, Damaged | None]:
        """Return the newest roster on a store that proves, and why a newer one was refused."""
        # Before a roster is known, which of the first stores has which number, and so its marker, is not either.
        store = (
            self.store(entry) if self.is_known else self._opener(self.address(entry), None, self._access(entry))
        )
        # Its marker is among them as well, and is then not asked for before something is put there.
        listed = {
            serial: size
            for name, size in store.list(f"{self.id[:2]}/{self.id}.")
            if (serial := roster_serial(self.id, name)) is not None
        }
        newest, size = max(listed.items(), default=(None, 0))
        if by_name and self._sealed and (newest, size) == (self._roster.serial, len(self._sealed)):
            return Found(self._roster, self._sealed), None
        return newest_roster(store, self.verify_key, listed)

    def _take_up(self, found: Found) -> None:
        self._roster, self._sealed = found.roster, found.sealed
        if self._cache is None or self._is_older_than_kept(found):
            return
        part = f"{self._cache}.{os.getpid()}.part"
        try:
            os.makedirs(os.path.dirname(self._cache), exist_ok=True)
            with open(part, "wb") as file:
                file.write(found.sealed)
            os.replace(part, self._cache)
        except OSError as error:
            log.debug("the roster could not be kept in %s: %s", self._cache, error)

    def _is_older_than_kept(self, found: Found) -> bool:
        """True if another process has kept a newer roster meanwhile."""
        kept = self._read_cache()
        return kept is not None and kept.rank > found.rank

    def _from_cache(self) -> Roster | None:
        kept = self._read_cache()
        if kept is None:
            return None
        self._sealed = kept.sealed
        return kept.roster

    def _read_cache(self) -> Found | None:
        if self._cache is None:
            return None
        try:
            with open(self._cache, "rb") as file:
                sealed = file.read(MAX_SIZE + 1)
            return Found(open_roster(sealed, self.verify_key), sealed)
        except (OSError, Damaged) as error:
            log.debug("no roster is kept in %s: %s", self._cache, error)
            return None

    def _hand_out(self, found: Mapping[str, Found | None], notes: Notes) -> None:
        """Bring the stores that answered up to date: a copy of what is signed needs no capability."""
        if self._sealed is None:
            return
        serial, sealed = self._roster.serial, self._sealed
        behind = {}
        for entry in self._roster.readable:
            each = found.get(entry.name)
            if entry.name not in found or (each and each.rank >= (serial, sealed)):
                continue
            if each is not None and each.roster.serial == serial:
                twice = f"had another roster {serial}: two clones changed the stores at once, see stores"
                notes.add(entry.name, twice, lasting=True)
            elif each is not None:
                old = f"had roster {each.roster.serial}, the newest is {serial}"
                notes.add(entry.name, old, lasting=True)
            behind[entry.name] = partial(self._give, entry, serial, sealed)
        for answer in ask_all(behind, ROSTER_WAIT):
            if answer.error is not None:
                log.debug("%s: the roster could not be put there: %s", answer.asked, explain(answer.error))

    def _give(self, entry: StoreEntry, serial: int, sealed: bytes) -> None:
        store = self.store(entry)
        store.put(roster_name(self.id, serial), len(sealed), lambda at: [sealed[at:]])
        # The one before stays: whoever looks just now may have its name from a listing.
        for name, _ in list(store.list(f"{self.id[:2]}/{self.id}.r")):
            old = roster_serial(self.id, name)
            if old is not None and old < serial - 1:
                store.delete(name)

    def change(self, roster: Roster, *, force: bool = False, asked: bool = False) -> dict[str, Exception]:
        """Sign a next roster and put it on its stores; return the stores that could not take it.

        More than half of the stores must take it, so that of two clones that change the stores at once, or
        while they see different halves of them, one is told; `force` does without, for a grid in ruins. Raises
        `NoCapability` without the full capability, and `Unavailable`, the latter before anything is signed if
        the stores that have the present roster are too few; `asked`: `check_changeable` was called already.
        """
        if self.capability is None:
            raise NoCapability("this clone has no capability: set SWARM_CAPABILITY to the full one and try again")
        if self.is_known and not force and not asked:
            self.check_changeable()
        sealed = seal_roster(roster, self.capability)
        gifts = {entry.name: partial(self._give, entry, roster.serial, sealed) for entry in roster.readable}
        failed = {answer.asked: answer.error for answer in ask_all(gifts, self.settings.stall) if answer.error}
        if not force or len(failed) == len(gifts):
            _require_most(failed, len(gifts))
        self._take_up(Found(roster, sealed))
        return failed

    def check_changeable(self) -> None:
        """Raise `Unavailable` if too few stores can be reached for a change of the roster."""
        looks = {entry.name: partial(self.see, entry) for entry in self.roster.readable}
        absent = {answer.asked: answer.error for answer in ask_all(looks, ROSTER_WAIT) if answer.error}
        _require_most(absent, len(looks))

    def readable(self, names: Sequence[str]) -> list[StoreEntry]:
        """Return the stores with `names`, or all that may have shares; raises `BadSetting` for any other."""
        entries = [self.roster.entry(name) for name in dict.fromkeys(names)] or list(self.roster.readable)
        for entry in entries:
            if entry not in self.roster.readable:
                raise BadSetting(f"the store {entry.name} is {entry.state}: it is not asked for anything")
        return entries

    def see(self, entry: StoreEntry) -> None:
        """Raise unless the store answers, and is what it is meant to be."""
        self.store(entry).stat(marker_name(self.id, entry))


def _require_most(failed: Mapping[str, Exception], count: int) -> None:
    if 2 * (count - len(failed)) <= count:
        causes = "; ".join(f"{name}: {explain(error)}" for name, error in failed.items())
        raise Unavailable(
            f"the list of stores is changed where more than half of them take the new one, and {len(failed)} of "
            f"{count} cannot (--force if they are lost): {causes}"
        )


def wants_login(error: Exception | None) -> bool:
    """True if a store refused because it does not know who we are."""
    return isinstance(error, Denied) and error.wants_login


class _Unusable:
    """Stands for a store that cannot be opened here: every verb raises the reason."""

    def __init__(self, error: SwarmError) -> None:
        self._error = error

    def _refuse(self, *_: object, **__: object) -> Any:
        raise self._error

    put = read = stat = age = delete = list = space = _refuse

    def close(self) -> None:
        """Nothing was opened."""


def read_roster(store: Store, verify_key: bytes, serial: int) -> Found:
    """Read and prove the roster with `serial`; raises `NotFound`, `Damaged`, and what the store raises."""
    with store.read(roster_name(grid_id(verify_key), serial), 0, MAX_SIZE + 1) as stream:
        sealed = b"".join(stream)
    roster = open_roster(sealed, verify_key)
    if roster.serial != serial:
        raise Damaged(f"a roster with serial {roster.serial} stands under the name of serial {serial}")
    return Found(roster, sealed)


def newest_roster(store: Store, verify_key: bytes, serials: Iterable[int]) -> tuple[Found | None, Damaged | None]:
    """Return the newest roster of those that a store lists that proves, and why a newer one was refused."""
    refused: Damaged | None = None
    for serial in sorted(serials, reverse=True)[:ROSTERS_READ]:
        try:
            return read_roster(store, verify_key, serial), refused
        except Damaged as error:
            refused = refused or error
        except NotFound:  # another clone has tidied it away just now
            continue
    return None, refused


def create_stores(
    grid_identity: str,
    entries: Sequence[StoreEntry],
    logins: Logins = _nobody,
    opener: StoreOpener = open_store,
) -> dict[str, Denied]:
    """Make a marker on each store, which proves that it can be written and read back.

    Returns the stores that were left out, as they want a login and none is known. Raises `BadSetting` naming the
    first store that cannot be used; then the markers that were made are gone.
    """
    opened: list[Store] = []
    made: list[tuple[Store, str]] = []
    waiting: dict[str, Denied] = {}
    try:
        for entry in entries:
            login, name = logins(entry.name), marker_name(grid_identity, entry)
            if is_read_only(entry.address):
                raise BadSetting(
                    f"stores: {entry.name}={entry.address} can only be read: name the place where it is written; "
                    f"who reads there sets git config remote.REMOTE.swarm-store-{entry.name} {entry.address}"
                )
            store = opener(entry.address, None, Access(login))
            opened.append(store)
            text = f"git-annex-remote-swarm: store {entry.name} of grid {grid_identity}\n".encode()
            try:
                _refuse_other_grid(store, grid_identity)
                if store.stat(name) is None:
                    made.append((store, name))
                store.put(name, len(text), lambda at, text=text: [text[at:]])  # type: ignore[misc]
                with store.read(name) as stream:
                    if b"".join(stream) != text:
                        raise Damaged("what was written reads back differently")
            except SwarmError as error:
                if login is None and isinstance(error, Denied) and error.wants_login:
                    waiting[entry.name] = error
                    continue
                raise BadSetting(f"stores: {entry.name}={entry.address} cannot be used: {error}") from error
    except BadSetting:
        for store, name in made:
            with suppress(SwarmError):
                store.delete(name)
        raise
    finally:
        for store in opened:
            store.close()
    return waiting


def _refuse_other_grid(store: Store, grid_identity: str) -> None:
    """Raise `Denied` if another grid lives there: two are told apart, but a person who mixes them up is not."""
    for name, _ in store.list():
        if is_marker(name) and not name.startswith(f"{grid_identity[:2]}/{grid_identity}."):
            raise Denied(
                "it holds the shares of another grid already: name a place of its own for a new one, or set "
                "SWARM_CAPABILITY to that grid's capability to take part in it"
            )
