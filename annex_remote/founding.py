"""Making a grid at `git annex initremote`, and taking part in one at `enableremote`."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from urllib.parse import urlsplit

from annex_remote.capability import Capability
from annex_remote.credentials import (
    ENVIRONMENT,
    address_variable,
    creds_capability,
    creds_login,
    environment_capability,
    environment_login,
    keep_capability,
    keep_login,
    login_variables,
    store_logins,
)
from annex_remote.errors import BadSetting, Denied
from annex_remote.finding import WAIT, Finding, Place, whereabouts
from annex_remote.grid import Grid, Logins, create_stores, usual_cost
from annex_remote.protocol.jobs import Job
from annex_remote.roster import WAITING, StoreEntry, first_roster, grid_id
from annex_remote.settings import Settings, check_places, read_settings
from annex_remote.shares.crypto import Cipher
from annex_remote.stores import check_address, is_far
from annex_remote.transfer.sites import Notes, explain, shares

__all__ = ["initialise"]

_WAY_IN = (
    "stores= only says where the grid began; its stores are listed, added and moved with: "
    "git-annex-remote-swarm stores REMOTE"
)


def initialise(job: Job) -> None:
    """Do INITREMOTE: found a new grid, or take part in the one that is configured.

    Raises `BadSetting` with one sentence; nothing is saved then, on the stores or in the configuration.
    """
    settings = _checked(read_settings(job.get_config))
    if job.get_config("cipher") in {cipher.setting for cipher in Cipher}:
        raise BadSetting("cipher= is git-annex's own; the cipher of the shares is share-cipher=")
    given = environment_capability()
    if settings.verify_key is not None:
        _join(job, settings, settings.verify_key, given)
        return
    capability = given or Capability.generate()
    if not capability.can_write:
        raise BadSetting(f"{ENVIRONMENT} holds a {capability}: it takes the full one to make a remote")
    if given is not None:
        if _found_again(job, settings, capability):
            return
        job.info(
            f"none of these stores shows a grid of the capability in {ENVIRONMENT}: a new one is made. If one was "
            "to be found, the stores were not mounted: remove this remote, mount them, and try again"
        )
    _found(job, settings, capability)


def _checked(settings: Settings) -> Settings:
    """Bring addresses into their one form, in which two that are the same place look the same."""
    stores = tuple(replace(store, address=check_address(store.address)) for store in settings.stores)
    check_places(stores)
    return replace(settings, stores=stores)


def _found(job: Job, settings: Settings, capability: Capability) -> None:
    verify_key = capability.verify_key
    full = first_roster(verify_key, settings.coding, settings.cipher, settings.stores, usual_cost)
    logins = _logins(job, settings)
    waiting = create_stores(grid_id(verify_key), full.active, logins)
    _require_some(waiting, full.active)
    roster = full.with_state(waiting, WAITING)
    grid = Grid(settings, verify_key, capability, logins=logins)
    # Forced: a grid that is just being made has no other clone that could see other stores than this one.
    for name, error in grid.change(roster, force=True).items():
        job.info(f"{name}: could not take the roster: {error}")
    _save(job, grid, capability)
    job.info(
        f"shares: {settings.coding}, {settings.cipher.setting}: survives the loss of {full.survives_in_words()}"
    )
    for name in waiting:
        job.info(f"{name} is not used before you log in there: git-annex-remote-swarm login REMOTE {name}")
    ready = sum(len(entry.numbers) for entry in roster.active)
    if ready < settings.coding.happy:
        job.info(
            f"nothing can be stored before that: {shares(ready)} could be, and {settings.coding.happy} (happy) "
            "are needed"
        )
    for place, names in _sharing_a_place(roster.active):
        job.info(f"{', '.join(names)} are on one {place}: what destroys it destroys them together")
    job.info(
        "The capability of this remote is kept by git-annex. Without it nothing that is stored can "
        "be read again: print it with `git-annex-remote-swarm capability REMOTE`, and keep a copy on paper or "
        "in a password manager."
    )


def _logins(job: Job, settings: Settings) -> Logins:
    """Return who tells the logins of the first stores, and of others as far as the environment has them."""
    known = store_logins(job, {store.name: store.address for store in settings.stores if is_far(store.address)})
    return lambda name: known.get(name) or environment_login(name)


def _require_some(waiting: Mapping[str, Denied], entries: Iterable[StoreEntry]) -> None:
    """Raise `BadSetting` if all stores wait for a login: then there is no place for the list of stores."""
    if all(entry.name in waiting for entry in entries):
        first = next(iter(waiting))
        raise BadSetting(
            f"stores: all of them want a login ({waiting[first]}); give at least one its own in the environment, "
            f"such as {' and '.join(login_variables(first))}, and try again; the others may follow with "
            "git-annex-remote-swarm login REMOTE NAME"
        )


def _sharing_a_place(entries: Iterable[StoreEntry]) -> list[tuple[str, list[str]]]:
    """Return the names of stores that are in one place, and what kind of place it is."""
    groups: dict[tuple[str, object], list[str]] = defaultdict(list)
    for entry in entries:
        if entry.address.startswith("dir:"):
            place: tuple[str, object] = "file system", os.stat(entry.address.removeprefix("dir:")).st_dev
        elif "://" in entry.address:
            place = "server", urlsplit(entry.address).hostname
        else:
            continue
        groups[place].append(entry.name)
    return [(place, names) for (place, _), names in groups.items() if len(names) > 1]


def _found_again(job: Job, settings: Settings, capability: Capability) -> bool:
    """Take up a grid that is on the stores already: its repository was lost, or this is another repository.

    The stores may be named in another order or mounted elsewhere than before: their markers tell which is
    which. Raises `BadSetting` if there are traces of the grid, but no roster that proves.
    """
    logins = _logins(job, settings)
    places = [Place(first.address, first.name) for first in settings.stores]
    finding = Finding(capability.verify_key, logins, settings.stall, WAIT + settings.stall)
    finding.ask(places)
    for place, error in finding.failed.items():
        job.info(f"{place}: {explain(error)}")
    newest = finding.newest
    if not any(shown.any for shown in finding.shown.values()):
        return False
    if newest is None:
        raise BadSetting(
            "these stores belong to a grid of this capability, but none has a roster that proves: "
            "name all its stores"
        )
    grid = Grid(settings, capability.verify_key, capability, found=newest, logins=logins)
    roster = grid.roster
    addresses = whereabouts(roster, finding.shown)
    for entry in roster.readable:
        shown = addresses.get(entry.name, [])
        if len(shown) == 1 and shown != [entry.address]:
            [address] = shown
            # Not changed by itself: for the other clones it may well be where it was.
            job.info(
                f"{entry.name} is at {address} here, and at {entry.address} for others. For this clone: "
                f"git config remote.REMOTE.swarm-store-{entry.name} {address}; for all clones: "
                f"git-annex-remote-swarm stores REMOTE set {entry.name} --address {address}"
            )
    _save(job, grid, capability)
    job.info(
        f"these stores hold a grid of this capability, {roster.coding} over "
        f"{' '.join(entry.name for entry in roster.active)}: it is taken up again, as it is"
    )
    return True


def _save(job: Job, grid: Grid, capability: Capability) -> None:
    """Write down what never changes, so that later changes of defaults or of `stores` do not change it."""
    coding = grid.roster.coding
    settled = replace(grid.settings, coding=coding, cipher=grid.roster.cipher)
    job.set_config("needed", str(coding.needed))
    job.set_config("happy", str(coding.happy))
    job.set_config("total", str(coding.total))
    job.set_config("share-cipher", grid.roster.cipher.setting)
    job.set_config("verify-key", grid.verify_key.hex())
    job.set_config("grid", settled.made_with())
    keep_capability(job, capability)
    _keep_logins(job, grid)


def _keep_logins(job: Job, grid: Grid) -> None:
    """Hand the logins that are in the environment to git-annex, for the next time.

    Also those that it has already, where it is to embed them: that may be new.
    """
    embed = _embeds(job)
    addresses = {store.name: store.address for store in grid.settings.stores}
    addresses |= {entry.name: entry.address for entry in grid.roster.stores}
    for name, usual in sorted(addresses.items()):
        address = os.environ.get(address_variable(name), "") or usual
        login = environment_login(name)
        if login is None and embed and is_far(address):
            login = creds_login(job, name, address)
        if login is not None:
            keep_login(job, name, address, login)


def _embeds(job: Job) -> bool:
    return job.get_config("embedcreds") == "yes"


def _join(job: Job, settings: Settings, verify_key: bytes, given: Capability | None) -> None:
    if given is not None and given.verify_key != verify_key:
        raise BadSetting(f"{ENVIRONMENT} holds the capability of another grid than this remote's")
    kept = creds_capability(job)
    if kept is not None and kept.verify_key != verify_key:
        raise BadSetting("git-annex keeps the capability of another grid for this remote")
    # The stronger one is kept: a read capability in the environment does not take the full one away.
    capability = max((each for each in (kept, given) if each), key=_strength, default=None)
    grid = Grid(settings, verify_key, capability, logins=_logins(job, settings))
    notes = Notes()
    grid.look_for_roster(notes)
    # Offline, the names that the grid was made with are all that is known; online, the roster's too.
    names = settings.first_names | {entry.name for entry in grid.roster.stores if grid.is_known}
    strange = [store.name for store in settings.stores if store.name not in names]
    if names and strange:
        raise BadSetting(f"stores: {', '.join(strange)} is no store of this grid; {_WAY_IN}")
    if capability is None:
        job.info(
            f"no capability is kept here: to read and store, set {ENVIRONMENT} to the one that "
            "`git-annex-remote-swarm capability REMOTE` prints elsewhere, and enable this remote again"
        )
    elif capability is not kept or _embeds(job):
        keep_capability(job, capability)
    _keep_logins(job, grid)
    for line in notes.lines:
        job.info(line)


def _strength(capability: Capability) -> tuple[bool, bool]:
    return capability.can_write, capability.can_read
