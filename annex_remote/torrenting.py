"""A remote's torrent source as one clone sees it: settings, limits, addresses that are allowed."""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping
from dataclasses import replace

from annex_remote.limits import MIN_RATE, Limit, parse_limit
from annex_remote.overrides import read_overrides
from annex_remote.roster import grid_id
from annex_remote.settings import TORRENT_SETTINGS
from annex_remote.stores.state import SharedFile, state_path
from annex_remote.stores.throttle import Bucket, rate_now
from annex_remote.torrents.addresses import read_allowed
from annex_remote.torrents.settings import TorrentSettings, read_torrent_settings
from annex_remote.torrents.source import TorrentSource

__all__ = ["open_source", "torrent_settings"]

BEHIND = 1.0
"""Seconds that a bucket may be behind because of torrents alone: what comes is counted twice a second."""


def torrent_settings(config: Mapping[str, str], git_dir: str, name: str | None) -> TorrentSettings:
    """Return the settings that hold in this clone; raises `BadSetting`."""
    here = read_overrides(git_dir, name).torrents
    return read_torrent_settings({each: here.get(each, config.get(each, "")) for each in TORRENT_SETTINGS})


def open_source(
    config: Mapping[str, str],
    git_dir: str,
    name: str | None,
    *,
    upload_limit: Limit | None = None,
    **changes: object,
) -> TorrentSource:
    """Return the torrent source of the remote `name`; `upload_limit` and `changes` of settings hold this once.

    Raises `BadSetting` if one of its settings cannot be.
    """
    overrides = read_overrides(git_dir, name)
    settings = torrent_settings(config, git_dir, name)
    try:
        grid = grid_id(bytes.fromhex(config.get("verify-key", "")))
    except ValueError:
        grid = "unknown"  # whatever is wrong with the grid, torrents can be had
    down = _Shared(grid, "download", _limit("download-limit", overrides.download_limit, config))
    up_limit = overrides.upload_limit if upload_limit is None else upload_limit
    up = _Shared(grid, "upload", _limit("upload-limit", up_limit, config))

    def took(downloaded: int, uploaded: int) -> None:
        down.took(downloaded)
        up.took(uploaded)

    source = TorrentSource(
        replace(settings, **changes),  # type: ignore[arg-type]
        read_allowed(git_dir),
        os.path.join(git_dir, "annex", "swarm", "torrents"),
        down=down.rate,
        up=up.rate,
        took=took,
    )
    # What is there of a torrent that is not done is noted, and what is done is cleaned up.
    atexit.register(source.close)
    return source


def _limit(name: str, here: Limit | None, config: Mapping[str, str]) -> Limit:
    return parse_limit(name, config.get(name, "")) if here is None else here


class _Shared:
    """A limit that torrents keep together with all else that takes from the same bucket: shares, other processes.

    Peers cannot be told to wait, byte by byte. So what has come is taken from the bucket afterwards, which makes
    shares wait; and while the bucket is behind, less is let come.
    """

    def __init__(self, grid: str, name: str, limit: Limit) -> None:
        shared = None if limit.is_none else SharedFile(state_path("limits", f"{grid}.{name}"))
        self._bucket = Bucket(rate_now(limit), shared)
        self._behind = 0.0

    def took(self, count: int) -> None:
        """Take in that so many bytes have passed."""
        if count:
            self._behind = self._bucket.reserve(count, self._bucket.rate())

    def rate(self) -> float | None:
        """Return the bytes a second that torrents may have now, None for no limit."""
        rate = self._bucket.rate()
        if rate is None or self._behind <= BEHIND:
            return rate
        return max(MIN_RATE, rate * BEHIND / self._behind)
