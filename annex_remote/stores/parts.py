"""What stores share that write under another name first: how that is called, and when it is a left-over."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from contextlib import suppress

from annex_remote.errors import StoreError

__all__ = ["LEFTOVER_AGE", "is_folder_name", "is_part_name", "missing_space", "part_name"]

LEFTOVER_AGE = 86400.0
"""Seconds after which what a killed writer left behind is removed."""

_PART = re.compile(r"[a-z2-7]{32}\.[a-z0-9]{1,12}\.[0-9a-f]{16}\Z")
_FOLDER = re.compile(r"[a-z2-7]{2}\Z")


def part_name(name: str) -> str:
    """Return a name that nothing has for what is to become `name` when it is whole; neither has a folder in it."""
    return f"{name.rpartition('/')[2]}.{secrets.token_hex(8)}"


def is_part_name(name: str) -> bool:
    """True for what `part_name` makes: nobody else's files have such names, so that they may be removed."""
    return bool(_PART.match(name))


def is_folder_name(name: str) -> bool:
    """True for the folders that our names are in."""
    return bool(_FOLDER.match(name))


def missing_space(space: Callable[[], int | None], size: int) -> int | None:
    """Return how many bytes are free if they are known to be fewer than `size`, else None.

    For servers that say no more of a full disk than that something went wrong. `space` is `Store.space`.
    """
    with suppress(StoreError):
        free = space()
        if free is not None and free < size:
            return free
    return None
