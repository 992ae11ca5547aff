r"""The roster: the signed list of a grid's stores, kept on every store and cached in each clone.

What may change later does not live in git-annex's configuration of the remote, which other clones ignore
until a person verifies it again. A roster has a strictly rising serial; the highest one that proves wins.

On a store it is sealed with a key derived from the verify key, so that a store does not learn where the
others are, and everybody who holds any capability can read it. Form, all of it bytes::

    "swarmroster1\n"  signature (64)  nonce (24)  XChaCha20-Poly1305(JSON)

The signature is Ed25519 over the context line and the JSON text.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from blake3 import blake3

from annex_remote.capability import Capability
from annex_remote.errors import BadSetting, Damaged
from annex_remote.limits import MAX_CONNECTIONS, parse_limit
from annex_remote.model import MAX_SHARES, Coding
from annex_remote.settings import FirstStore, check_store_name
from annex_remote.shares.crypto import Cipher, derive

__all__ = [
    "ACTIVE",
    "FAR_COST",
    "GONE",
    "MAX_SIZE",
    "NEAR_COST",
    "RETIRED",
    "WAITING",
    "Roster",
    "StoreEntry",
    "first_roster",
    "grid_id",
    "is_marker",
    "marker_name",
    "marker_number",
    "open_roster",
    "roster_name",
    "roster_serial",
    "seal_roster",
]

ACTIVE = "active"
RETIRED = "retired"
"""Takes no new shares; those that it keeps are read, counted and removed as before."""
GONE = "gone"
"""Lost: it is not asked any more."""
WAITING = "waiting"
"""Not made yet, as nobody has logged in there: it has nothing, and is not asked."""
STATES = (ACTIVE, RETIRED, GONE, WAITING)
NEAR_COST = 100
FAR_COST = 200
"""What reading costs that crosses a network: a disk comes first."""
MAX_SIZE = 1 << 20
"""Bytes of a roster at most; 256 stores with long addresses take a tenth of it."""

_NUMBER = re.compile(r"(0|[1-9][0-9]{0,9})\Z")
_MAGIC = b"swarmroster1\n"
_SIGNED = b"git-annex-remote-swarm v1 roster\n"


@dataclass(frozen=True, slots=True)
class StoreEntry:
    """A store in the roster. `numbers` are its share numbers for life; a store that is gone keeps its line."""

    name: str
    address: str
    numbers: tuple[int, ...]
    cost: int = NEAR_COST
    """Relative cost of reading: the cheapest are read first, as with git-annex's own costs."""
    zone: str = ""
    """Stores of one zone may fail together; empty is a zone of its own."""
    state: str = ACTIVE
    limit: str = ""
    """Bytes a second, each way on its own, as `limits.Limit` says it; empty for none."""
    connections: int = 0
    """Requests that it gets at once, at most; 0 for as many as the program thinks right."""
    max_bytes: int = 0
    """Bytes that this grid keeps there, at most; 0 for as many as it takes."""
    price: int = 0
    """Money for each GiB that is read, in `limits.PRICE_UNIT`."""


@dataclass(frozen=True)
class Roster:
    """The stores of the grid `grid` (its id), in the order in which they came."""

    grid: str
    serial: int
    coding: Coding
    cipher: Cipher
    stores: tuple[StoreEntry, ...]
    earlier: tuple[int, ...] = ()
    """What `needed` was before, as long as there may be objects that are coded so."""

    def __post_init__(self) -> None:
        numbers = [number for store in self.stores for number in store.numbers]
        names = [store.name for store in self.stores]
        if len(set(numbers)) != len(numbers) or not all(0 <= number < MAX_SHARES for number in numbers):
            raise Damaged("a roster gives a share number twice, or one out of range")
        if len(set(names)) != len(names):
            raise Damaged("a roster names a store twice")
        addresses = [store.address for store in self.stores if store.state != GONE]
        if len(set(addresses)) != len(addresses):
            raise Damaged("a roster has two stores at one address")
        if not all(store.numbers and store.state in STATES for store in self.stores):
            raise Damaged("a roster has a store without a number, or in an unknown state")
        if not all(1 <= needed <= MAX_SHARES for needed in self.earlier) or self.coding.needed in self.earlier:
            raise Damaged("a roster says that objects were coded in a way that cannot be")

    @cached_property
    def readable(self) -> tuple[StoreEntry, ...]:
        """The stores that may have shares."""
        return tuple(store for store in self.stores if store.state in (ACTIVE, RETIRED))

    @property
    def least_needed(self) -> int:
        """How many shares rebuild an object at least, whatever it was coded by."""
        return min(self.coding.needed, *self.earlier, MAX_SHARES)

    @cached_property
    def active(self) -> tuple[StoreEntry, ...]:
        """The stores that take new shares."""
        return tuple(store for store in self.stores if store.state == ACTIVE)

    def entry(self, name: str) -> StoreEntry:
        """Return the store with `name`; raises `BadSetting` naming those that there are."""
        for store in self.stores:
            if store.name == name:
                return store
        known = ", ".join(store.name for store in self.active)
        raise BadSetting(f"there is no store {name} in this grid; its stores are {known}")

    def survivable(self) -> int:
        """How many stores, whichever they are, can be lost with every full upload still readable."""
        counts = sorted((len(store.numbers) for store in self.active), reverse=True)
        left = min(self.coding.total, sum(counts))
        lost = 0
        for count in counts:
            left -= count
            if left < self.coding.needed:
                break
            lost += 1
        return lost

    def survives_in_words(self) -> str:
        """Say `survivable` after "the loss of"."""
        count = self.survivable()
        return ("no store", "any one store")[count] if count < 2 else f"any {count} stores"

    def with_added(self, first: FirstStore, cost: int = NEAR_COST, zone: str = "", **more: Any) -> Roster:
        """Return the next roster, with one more store and numbers that were never given out before.

        `more` are further fields of `StoreEntry`.
        """
        for store in self.stores:
            if store.state != GONE and store.address == first.address:
                raise BadSetting(f"{first.address} is already the store {store.name}")
        if any(store.name == first.name for store in self.stores):
            raise BadSetting(f"the name {first.name} is taken in this grid, now or in its past: choose another")
        taken = [number for store in self.stores for number in store.numbers]
        start = max(taken, default=-1) + 1
        if start + first.shares > MAX_SHARES:
            raise BadSetting(f"a grid has {MAX_SHARES} share numbers in its life: there are none left")
        numbers = tuple(range(start, start + first.shares))
        entry = StoreEntry(check_store_name(first.name), first.address, numbers, cost, zone, **more)
        return replace(self, serial=self.serial + 1, stores=(*self.stores, entry))

    def with_changed(self, name: str, **changes: Any) -> Roster:
        """Return the next roster, with the store `name` changed in the given fields."""
        entry = replace(self.entry(name), **changes)
        stores = tuple(entry if store.name == name else store for store in self.stores)
        return replace(self, serial=self.serial + 1, stores=stores)

    def with_coding(self, coding: Coding) -> Roster:
        """Return the next roster, by which objects are coded otherwise; what is stored stays as it is.

        Raises `BadSetting` if the stores could not keep so many shares.
        """
        able = sum(len(store.numbers) for store in self.active)
        if coding.total > able:
            raise BadSetting(f"total={coding.total}, but the stores together can keep {able}: add stores first")
        was = {*self.earlier, self.coding.needed} - {coding.needed}
        return replace(self, serial=self.serial + 1, coding=coding, earlier=tuple(sorted(was)))

    def with_all_coded(self) -> Roster:
        """Return the next roster, after all objects were coded by its coding."""
        return replace(self, serial=self.serial + 1, earlier=())

    def with_state(self, names: Collection[str], state: str) -> Roster:
        """Return this roster, with its serial, and these stores in `state`."""
        stores = tuple(replace(store, state=state) if store.name in names else store for store in self.stores)
        return replace(self, stores=stores)

    def with_removed(self, name: str, *, gone: bool = False, force: bool = False) -> Roster:
        """Return the next roster, in which the store `name` is retired, or `gone`.

        Raises `BadSetting` if uploads could not succeed any more; and, unless forced, if with this store so
        many shares are gone that what was stored on all of them cannot be rebuilt.
        """
        entry = self.entry(name)
        if entry.state == WAITING:  # it never had anything, so its numbers are not lost with it
            others = tuple(store for store in self.stores if store.name != name)
            return replace(self, serial=self.serial + 1, stores=others)
        if entry.state == GONE or (entry.state == RETIRED and not gone):
            raise BadSetting(f"the store {name} is {entry.state} already")
        left = sum(len(store.numbers) for store in self.active if store.name != name)
        if left < self.coding.happy:
            raise BadSetting(
                f"without {name} the grid can keep {left} shares of an object, and an upload takes "
                f"{self.coding.happy} (happy) to succeed: add another store first"
            )
        lost = len(entry.numbers) + sum(len(store.numbers) for store in self.stores if store.state == GONE)
        if gone and not force and lost > self.coding.total - self.coding.needed:
            raise BadSetting(
                f"with {name}, {lost} share numbers are gone, and {self.coding} objects bear the loss of "
                f"{self.coding.total - self.coding.needed}: what was stored on all of these stores, and not "
                "stored again since, is lost (--force if that is known)"
            )
        return self.with_changed(name, state=GONE if gone else RETIRED)


def first_roster(
    verify_key: bytes,
    coding: Coding,
    cipher: Cipher,
    stores: Iterable[FirstStore],
    cost: Callable[[str], int] = lambda _: NEAR_COST,
) -> Roster:
    """Return the roster with serial 1; numbers are given out in the order of `stores`.

    `cost` tells what reading from an address costs.
    """
    roster = Roster(grid_id(verify_key), 0, coding, cipher, ())
    for store in stores:
        roster = roster.with_added(store, cost(store.address))
    return replace(roster, serial=1)


def grid_id(verify_key: bytes) -> str:
    """Return the grid's id (32 characters of base32): in the names of its own documents on a store."""
    return base64.b32encode(derive("grid id", verify_key)[:20]).decode().lower()


def roster_name(grid: str, serial: int) -> str:
    """Return the name of the roster with `serial` on a store. Each serial has its own."""
    return f"{grid[:2]}/{grid}.r{serial}"


def roster_serial(grid: str, name: str) -> int | None:
    """Return the serial that `name` from a listing says, or None if it is no roster of this grid."""
    return _number_after(f"{grid[:2]}/{grid}.r", name)


def marker_name(grid: str, entry: StoreEntry) -> str:
    """Return the name of the marker that tells a store from an empty mount point and from another store."""
    return f"{grid[:2]}/{grid}.s{entry.numbers[0]}"


def is_marker(name: str) -> bool:
    """True if `name` is the name of a marker of any grid: share numbers are digits alone."""
    suffix = name.rpartition(".")[2]
    return suffix.startswith("s") and suffix[1:].isascii() and suffix[1:].isdigit()


def marker_number(grid: str, name: str) -> int | None:
    """Return the first share number of the store whose marker is called `name`, None if it is no marker."""
    return _number_after(f"{grid[:2]}/{grid}.s", name)


def _number_after(start: str, name: str) -> int | None:
    """Return the number that `name` has after `start`, None if it has not that form: one name, one number."""
    text = name.removeprefix(start)
    return int(text) if text != name and _NUMBER.match(text) else None


def seal_roster(roster: Roster, capability: Capability) -> bytes:
    """Sign and seal; raises `NoCapability` unless the capability is full.

    Raises `Damaged` for a roster that would be refused when it is opened.
    """
    from nacl.bindings import (
        crypto_aead_xchacha20poly1305_ietf_encrypt,
        crypto_sign,
        crypto_sign_seed_keypair,
    )

    text = _to_json(roster)
    _, secret = crypto_sign_seed_keypair(capability.signing_seed)
    signature = crypto_sign(_SIGNED + text, secret)[:64]
    key = derive("roster seal", capability.verify_key)
    nonce = blake3(signature, key=key).digest(24)
    sealed: bytes = _MAGIC + signature + nonce
    sealed += crypto_aead_xchacha20poly1305_ietf_encrypt(text, _MAGIC, nonce, key)
    _from_json(text, roster.grid)  # what no clone could read must never become the newest
    return sealed


def open_roster(data: bytes, verify_key: bytes) -> Roster:
    """Open and prove a roster; raises `Damaged` if it is not this grid's, not signed, or not well formed."""
    from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt, crypto_sign_open
    from nacl.exceptions import CryptoError

    start = len(_MAGIC)
    if not data.startswith(_MAGIC) or len(data) > MAX_SIZE:
        raise Damaged("not a roster that this program reads")
    signature, nonce, sealed = data[start : start + 64], data[start + 64 : start + 88], data[start + 88 :]
    try:
        key = derive("roster seal", verify_key)
        text = crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, _MAGIC, nonce, key)
        crypto_sign_open(signature + _SIGNED + text, verify_key)
    except (CryptoError, ValueError) as error:
        raise Damaged("a roster that is not signed by this grid") from error
    return _from_json(text, grid_id(verify_key))


def _to_json(roster: Roster) -> bytes:
    document = {
        "grid": roster.grid,
        "serial": roster.serial,
        "coding": asdict(roster.coding),
        "cipher": roster.cipher.setting,
        "stores": [_store_document(store) for store in roster.stores],
    }
    if roster.earlier:
        document["earlier"] = list(roster.earlier)
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


_LATER: dict[str, Any] = {"limit": "", "connections": 0, "max_bytes": 0, "price": 0}
"""Fields that rosters did not always have, with what they are where they are left out: so they are left out
wherever they are that, and what was sealed before has the same bytes as ever."""


def _store_document(store: StoreEntry) -> dict[str, Any]:
    return {name: value for name, value in asdict(store).items() if name not in _LATER or value != _LATER[name]}


def _entry(document: dict[str, Any]) -> StoreEntry:
    """Read one store; whoever may sign may still be wrong. Raises `TypeError` and `BadSetting`."""
    entry = StoreEntry(**{**document, "numbers": tuple(document["numbers"])})
    check_store_name(entry.name)
    words = (entry.address, entry.zone, entry.state, entry.limit)
    if not all(isinstance(word, str) and word.isprintable() for word in words):
        raise TypeError(f"the words of the store {entry.name} are not printable text")
    amounts = (entry.connections, entry.max_bytes, entry.price)
    if not all(type(number) is int for number in (*entry.numbers, entry.cost, *amounts)):
        raise TypeError(f"the numbers of the store {entry.name} are not whole numbers")
    if min(amounts) < 0 or entry.connections > MAX_CONNECTIONS:
        raise ValueError(f"the limits of the store {entry.name} are out of range")
    if str(parse_limit("limit", entry.limit)) != entry.limit:
        raise ValueError(f"the limit of the store {entry.name} is not in its one form")
    return entry


def _from_json(text: bytes, grid: str) -> Roster:
    try:
        document = json.loads(text)
        stores = tuple(_entry(store) for store in document["stores"])
        if type(document["serial"]) is not int or document["serial"] < 1:
            raise TypeError("serial is not a whole number")
        if any(type(number) is not int for number in document["coding"].values()):
            raise TypeError("the coding is not in whole numbers")
        roster = Roster(
            grid=document["grid"],
            serial=document["serial"],
            coding=Coding(**document["coding"]),
            cipher=Cipher.from_setting(document["cipher"]),
            stores=stores,
            earlier=tuple(document.get("earlier", ())),
        )
        if any(type(number) is not int for number in roster.earlier):
            raise TypeError("what needed was is not in whole numbers")
    except (ValueError, TypeError, KeyError, AttributeError, BadSetting) as error:
        raise Damaged(f"a signed roster that this program cannot read: {error}") from error
    if roster.grid != grid or _to_json(roster) != text:
        raise Damaged("a signed roster that is not of this grid, or not in its one form")
    return roster
