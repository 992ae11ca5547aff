"""A remote's torrent source as one clone sees it: settings, limits, addresses that are allowed."""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping
from dataclasses import replace

from annex_remote.limits import Limit, parse_limit
from annex_remote.overrides import read_overrides
from annex_remote.settings import TORRENT_SETTINGS
from annex_remote.stores.throttle import Rate, rate_now
from annex_remote.torrents.addresses import read_allowed
from annex_remote.torrents.settings import TorrentSettings, read_torrent_settings
from annex_remote.torrents.source import TorrentSource

__all__ = ["open_source", "torrent_settings"]


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
    source = TorrentSource(
        replace(settings, **changes),  # type: ignore[arg-type]
        read_allowed(git_dir),
        os.path.join(git_dir, "annex", "swarm", "torrents"),
        down=_rate("download-limit", overrides.download_limit, config),
        up=_rate("upload-limit", overrides.upload_limit if upload_limit is None else upload_limit, config),
    )
    # What is there of a torrent that is not done is noted, and what is done is cleaned up.
    atexit.register(source.close)
    return source


def _rate(name: str, here: Limit | None, config: Mapping[str, str]) -> Rate:
    return rate_now(parse_limit(name, config.get(name, "")) if here is None else here)
