"""Logging in to a store: the login is tried, the store made if it has waited for it, and git-annex keeps it."""

from __future__ import annotations

from annex_remote.consult import give_login
from annex_remote.errors import BadSetting, Denied, StoreError
from annex_remote.grid import Grid, create_stores
from annex_remote.model import Access, Login
from annex_remote.roster import ACTIVE, GONE, WAITING, StoreEntry, marker_name
from annex_remote.stores import open_store
from annex_remote.transfer.sites import explain

__all__ = ["log_in", "login_words"]

_WORDS = {
    "s3": ("Access key id", "Secret access key"),
    "dav": ("User", "Password (an app password, where the service has them)"),
    "davs": ("User", "Password (an app password, where the service has them)"),
    "sftp": ("User", "Password"),
    "http": ("User", "Password"),
    "https": ("User", "Password"),
}


def login_words(address: str) -> tuple[str, str]:
    """Return what the two parts of a login are called at `address`; raises `BadSetting` if it takes none."""
    scheme = address.partition(":")[0]
    if scheme not in _WORDS:
        where = "is rclone's own matter: rclone config" if scheme == "rclone" else "is not needed"
        raise BadSetting(f"{address}: a login {where}")
    return _WORDS[scheme]


def log_in(grid: Grid, entry: StoreEntry, login: Login, remote: str, *, check: bool = True) -> str:
    """Try `login` at a store, make the store if it is `WAITING`, and keep the login; return what was done.

    Raises `Denied` if the store refuses it, `StoreError` if it cannot be asked, and then nothing has changed.
    """
    if entry.state == GONE:
        raise BadSetting(f"the store {entry.name} is gone")
    done = f"{entry.name}: git-annex keeps the login"
    if entry.state == WAITING:
        if grid.capability is None or not grid.capability.can_write:
            raise BadSetting(f"{entry.name} is not made yet, and that takes a clone with the full capability")
        left_out = create_stores(grid.id, [entry], lambda _: login)
        assert not left_out, "a store with a login does not wait for one"
        give_login(remote, entry.name, grid.address(entry), login)
        roster = grid.roster.with_changed(entry.name, state=ACTIVE)
        grid.use_login(entry.name, login)
        failed = grid.change(roster)
        behind = "".join(f"; {name} does not have the new list of stores yet" for name in failed)
        return f"{done}, and it is used from now on (roster {roster.serial}){behind}"
    if check:
        _try(grid, entry, login)
    give_login(remote, entry.name, grid.address(entry), login)
    return done


def _try(grid: Grid, entry: StoreEntry, login: Login) -> None:
    """Raise if the store does not take the login, or does not show its marker to it."""
    store = open_store(grid.address(entry), marker_name(grid.id, entry), Access(login, grid.settings.stall))
    try:
        store.stat(marker_name(grid.id, entry))
    except Denied as error:
        raise Denied(f"{entry.name} does not take this login: {explain(error)}") from error
    except StoreError as error:
        raise type(error)(
            f"{entry.name} could not be tried (--no-check keeps the login): {explain(error)}"
        ) from error
    finally:
        store.close()
