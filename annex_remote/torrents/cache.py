"""Metainfo that was fetched once, in the user's cache folder: by info-hash, and by the URL it came from.

Everything here can be had again, so nothing is told when it cannot be kept or read, except in the debug log.
Several processes may use it at once: what is written gets its name when it is whole, and what is read has to prove
itself, as the info-hash is its name.

A URL of a torrent may have a passkey in it, so its file has a hash for a name; what is in torrents may be no less
secret, so all is for this user alone. Files of this machine are not looked up here: they are as quickly read, may
have changed, and a path means another file elsewhere.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from annex_remote.errors import Damaged
from annex_remote.torrents.metainfo import MAX_SIZE, Metainfo, parse

__all__ = ["MOST_BYTES", "MOST_ENTRIES", "Cache"]

log = logging.getLogger(__name__)

MOST_BYTES = 256 << 20
MOST_ENTRIES = 2_000
"""Torrents that are kept at most, the last ones that were used; and twice as many ways to find them."""

_ENTRY = ".torrent"
_WAY = ".place"
_PART = ".part"
_LEFT_OVER = 3600.0
"""Seconds after which nobody is still writing a file."""
_ID = re.compile(r"(?:[0-9a-f]{40}|[0-9a-f]{64})\Z")
_REMOTE = re.compile(r"(?:https?|magnet):", re.IGNORECASE)


class Cache:
    """A folder with ``<id>.torrent``, and ``<SHA-256 of a URL>.place`` with the id that is there. Thread safe.

    `folder` is the user's if it is None; it is made when something is kept. The bounds are what is kept at most.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        most_bytes: int = MOST_BYTES,
        most_entries: int = MOST_ENTRIES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._given = folder
        self._most_bytes = most_bytes
        self._most_entries = most_entries
        self._clock = clock

    def get(self, id: str) -> Metainfo | None:  # noqa: A002 - what it is called everywhere
        """Return the metainfo with this info-hash in hex, v1 or v2, None if it is not here."""
        if not _ID.match(id):
            return None
        return self._entry(id) or self._behind(_v2_way(id))

    def by_url(self, place: str) -> Metainfo | None:
        """Return what was kept for an http, https or magnet URL, None if nothing was."""
        return self._behind(place)

    def keep(self, metainfo: Metainfo, place: str | None = None) -> None:
        """Keep it, also under the URL it came from, and let go of what was not used for longest. Never raises."""
        kept = self._entry(metainfo.id)
        try:
            # What came from a magnet may have fewer hashes than what is here.
            if kept is None or metainfo.has_layers >= kept.has_layers:
                self._write(metainfo.id + _ENTRY, metainfo.document)
            if metainfo.v1 and metainfo.v2:
                self._write(_way(_v2_way(metainfo.v2.hex())), metainfo.id.encode())
            if place is not None and _REMOTE.match(place):
                self._write(_way(place), metainfo.id.encode())
            self._trim()
        except OSError as error:
            log.debug("a torrent could not be kept: %s", error)

    def _entry(self, id: str) -> Metainfo | None:  # noqa: A002 - as for `get`
        document = self._read(id + _ENTRY, MAX_SIZE)
        if document is None:
            return None
        try:
            metainfo = parse(document)
        except Damaged as damaged:
            log.debug("%s in the cache is removed: %s", id, damaged)
        else:
            if metainfo.id == id:
                return metainfo
            log.debug("%s in the cache is removed: it is %s", id, metainfo.id)
        self._remove(id + _ENTRY)
        return None

    def _behind(self, place: str) -> Metainfo | None:
        """Return what a file tells the way to; one that leads nowhere is removed."""
        name = _way(place)
        data = self._read(name, 64)
        if data is None:
            return None
        id = data.decode("ascii", "replace")  # noqa: A001 - as for `get`
        metainfo = self._entry(id) if _ID.match(id) else None
        if metainfo is None:
            self._remove(name)
        return metainfo

    @cached_property
    def _folder(self) -> Path:
        """The folder; raises `OSError` if the user has no home."""
        if self._given is not None:
            return self._given
        from platformdirs import user_cache_dir  # takes longer to import than most commands take

        folder = Path(user_cache_dir("git-annex-remote-swarm"), "torrents")
        if not folder.is_absolute():
            raise OSError("this user has no home")
        return folder

    def _read(self, name: str, most: int) -> bytes | None:
        """Return what is in a file, one byte more than `most` at most, and note that it was used; or None."""
        try:
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(self._folder / name, flags)
            try:
                with open(descriptor, "rb", closefd=False) as file:
                    data = file.read(most + 1)
                with suppress(OSError):  # it may be read only
                    os.utime(descriptor)
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            return None
        except OSError as error:
            log.debug("%s in the cache is not used: %s", name, error)
            return None
        return data

    def _write(self, name: str, data: bytes) -> None:
        """Put `data` in the place of a file, whole or not at all. Raises `OSError`.

        Not brought to the disk: what a power cut makes of it does not prove, and is fetched again.
        """
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        descriptor, part = tempfile.mkstemp(prefix=".", suffix=_PART, dir=self._folder)  # for this user alone
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
            os.replace(part, self._folder / name)
        except BaseException:
            with suppress(OSError):
                os.unlink(part)
            raise

    def _remove(self, name: str) -> None:
        with suppress(OSError):
            os.unlink(self._folder / name)

    def _trim(self) -> None:
        """Remove what is too much, least recently used first, and what killed writers left. Raises `OSError`."""
        entries: list[tuple[int, str, int]] = []
        ways: list[tuple[int, str, int]] = []
        with os.scandir(self._folder) as found:
            for file in found:
                try:
                    status = file.stat(follow_symlinks=False)
                except OSError:  # another process was faster
                    continue
                seen = (status.st_mtime_ns, file.name, status.st_size)
                if file.name.endswith(_ENTRY):
                    entries.append(seen)
                elif file.name.endswith(_WAY):
                    ways.append(seen)
                elif file.name.endswith(_PART) and status.st_mtime < self._clock() - _LEFT_OVER:
                    self._remove(file.name)
        left, count = sum(size for *_, size in entries), len(entries)
        for _, name, size in sorted(entries):
            if left <= self._most_bytes and count <= self._most_entries:
                break
            self._remove(name)
            left, count = left - size, count - 1
        for _, name, _ in sorted(ways)[: max(0, len(ways) - 2 * self._most_entries)]:
            self._remove(name)


def _way(place: str) -> str:
    return hashlib.sha256(place.encode("utf-8", "surrogatepass")).hexdigest() + _WAY


def _v2_way(id: str) -> str:  # noqa: A002 - as for `get`
    """Return what stands in for the URL of a hybrid torrent, which is kept under its v1 hash, by its v2 hash."""
    return f"urn:btmh:1220{id}"
