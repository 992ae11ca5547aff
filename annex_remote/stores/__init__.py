"""The stores: one module a kind, one line each in the table below."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

from annex_remote.capability import shown_word
from annex_remote.errors import BadSetting
from annex_remote.model import Access, Store

__all__ = ["check_address", "is_far", "is_read_only", "open_store"]


class _Kind(NamedTuple):
    """The module that serves a scheme, whether its stores are reached over a network, and only read.

    A module has ``check(address) -> str``, which returns the address in its one form or raises `BadSetting`; and
    ``open_store(address, access) -> Store`` if it is far, ``open_store(address, marker) -> Store`` if it is not.
    Neither asks the store anything.
    """

    module: str
    is_far: bool = True
    is_read_only: bool = False


_KINDS = {
    "dir": _Kind("directory", is_far=False),
    "dav": _Kind("webdav"),
    "davs": _Kind("webdav"),
    "s3": _Kind("s3"),
    "sftp": _Kind("sftp"),
    "rclone": _Kind("rclone"),
    "http": _Kind("web", is_read_only=True),
    "https": _Kind("web", is_read_only=True),
}


def check_address(address: str) -> str:
    """Return `address` in its one form, changing nothing and asking nobody; raises `BadSetting`."""
    checked: str = _module(_kind(address)).check(address)
    return checked


def is_far(address: str) -> bool:
    """True if the store is reached over a network."""
    kind = _KINDS.get(address.partition(":")[0])
    return kind is None or kind.is_far


def is_read_only(address: str) -> bool:
    """True if nothing can ever be put at `address`; raises `BadSetting`."""
    return _kind(address).is_read_only


def open_store(address: str, marker: str | None = None, access: Access | None = None) -> Store:
    """Open the store at `address`, with every wrapper that its kind needs; asks nobody.

    With `marker`, the name of something that this store of this grid must have, a store that may be the empty
    mount point of another place answers `Unavailable` where the marker is not. Without, it is being made: its
    place is created when something is put there first.
    """
    kind = _kind(address)
    if not kind.is_far:
        near: Store = _module(kind).open_store(address, marker)
        return near
    from annex_remote.stores.wrappers import Marked, Retrying

    store = Retrying(_module(kind).open_store(address, access or Access()))
    return store if marker is None else Marked(store, marker)


def _kind(address: str) -> _Kind:
    scheme, colon, _ = address.partition(":")
    if not colon or scheme not in _KINDS:
        known = ", ".join(f"{kind}:" for kind in _KINDS)
        shown = address.rpartition("@")[2]  # what stands before it may be a password
        raise BadSetting(f"{shown_word(shown)} is not the address of a store: it begins with one of {known}")
    return _KINDS[scheme]


def _module(kind: _Kind) -> Any:
    return import_module(f"{__name__}.{kind.module}")
