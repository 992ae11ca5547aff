"""What one clone sees otherwise than the grid does: ``git config remote.NAME.swarm-…``."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from annex_remote.errors import BadSetting
from annex_remote.limits import Limit, parse_connections, parse_limit, parse_price, parse_size
from annex_remote.roster import StoreEntry
from annex_remote.settings import TORRENT_SETTINGS

__all__ = ["MAX_COST", "Overrides", "read_overrides"]

MAX_COST = 100_000

PATIENCE = 30.0
"""Seconds that git gets to tell its configuration."""


@dataclass(frozen=True)
class Overrides:
    """`stores` has fields of `StoreEntry` by the store's name. A limit that is None is the remote's own."""

    stores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    download_limit: Limit | None = None
    upload_limit: Limit | None = None
    torrents: Mapping[str, str] = field(default_factory=dict)
    """The settings of the torrent source that are otherwise here, as text."""

    def of(self, entry: StoreEntry) -> StoreEntry:
        """Return the store as this clone sees it."""
        return replace(entry, **self.stores.get(entry.name, {}))


def _cost(key: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 7 and int(text) <= MAX_COST):
        raise BadSetting(f"{key}={text} is not a whole number from 0 to {MAX_COST}")
    return int(text)


_STORE_FIELDS: dict[str, tuple[str, Callable[[str, str], object]]] = {
    "store": ("address", lambda _, text: text),
    "limit": ("limit", lambda key, text: str(parse_limit(key, text))),
    "connections": ("connections", parse_connections),
    "max-bytes": ("max_bytes", parse_size),
    "cost": ("cost", _cost),
    "price": ("price", parse_price),
}
"""The word in ``swarm-WORD-STORE``, to the field of the store and how the text is read."""


def read_overrides(git_dir: str, remote_name: str | None) -> Overrides:
    """Read them from git's configuration; raises `BadSetting` with the key that cannot be, or if git fails."""
    if not remote_name:
        return Overrides()
    prefix = f"remote.{remote_name}.swarm-"
    stores: dict[str, dict[str, object]] = {}
    limits: dict[str, Limit] = {}
    torrents: dict[str, str] = {}
    for item in _listed(git_dir).split("\0"):
        key, _, value = item.partition("\n")
        # git folds the case of the last part of a key; the section's name keeps it.
        if not key.startswith(prefix) or not value.strip():
            continue
        what = key.removeprefix(prefix)
        if what in ("download-limit", "upload-limit"):
            limits[what.replace("-", "_")] = parse_limit(key, value)
            continue
        if what in TORRENT_SETTINGS:
            torrents[what] = value
            continue
        for word, (name, parse) in _STORE_FIELDS.items():
            store = what.removeprefix(f"{word}-")
            if store != what:
                stores.setdefault(store, {})[name] = parse(key, value)
    return Overrides(stores, torrents=torrents, **limits)


def _listed(git_dir: str) -> str:
    """Return git's configuration; raises `BadSetting`, as a limit that is not seen would not hold."""
    try:
        listing = subprocess.run(
            ["git", "--git-dir", git_dir, "config", "--null", "--list"],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            check=False,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        why = f"no answer in {PATIENCE:g} seconds"
    except OSError as error:
        why = str(error.strerror)
    else:
        if listing.returncode == 0:
            return listing.stdout.decode("utf-8", "surrogateescape")
        lines = listing.stderr.decode("utf-8", "replace").strip().splitlines()
        why = lines[-1] if lines else f"it ended with {listing.returncode}"
    raise BadSetting(
        f"what this clone sets for the remote and its stores cannot be read (git config --list): {why}"
    )
