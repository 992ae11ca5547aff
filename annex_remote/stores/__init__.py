"""The stores: one module a kind, one line each in the table below."""

from __future__ import annotations

from importlib import import_module

from annex_remote.errors import BadSetting
from annex_remote.model import Store

__all__ = ["check_address", "open_store"]

_KINDS = {
    "dir": "directory",
}
"""Scheme of an address to the module that serves it. A module has `check(address) -> str`, which returns the
address in its one form or raises `BadSetting`, and `open_store(address, marker) -> Store`."""


def check_address(address: str) -> str:
    """Return `address` in its one form, changing nothing; raises `BadSetting`."""
    checked: str = _module(address).check(address)
    return checked


def open_store(address: str, marker: str | None = None) -> Store:
    """Open the store at `address`.

    With `marker`, the name of something that this store of this grid must have, a store that may be the empty
    mount point of another place (a directory) answers `Unavailable` where the marker is not. Without, it is
    being made: its place is created when something is put there first.
    """
    store: Store = _module(address).open_store(address, marker)
    return store


def _module(address: str):  # type: ignore[no-untyped-def] # a module, whose functions the table describes
    scheme, colon, _ = address.partition(":")
    if not colon or scheme not in _KINDS:
        known = ", ".join(f"{kind}:" for kind in _KINDS)
        raise BadSetting(f"{address!r} is not the address of a store: it begins with one of {known}")
    return import_module(f"{__name__}.{_KINDS[scheme]}")
