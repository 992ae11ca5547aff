"""A directory as a store: a USB disk, a NAS mount, any mounted file system. Address ``dir:/absolute/path``."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

from annex_remote.errors import BadSetting, Damaged, Denied, Exists, Full, NotFound, StoreError, Unavailable
from annex_remote.model import OpenAt, check_name
from annex_remote.stores.parts import LEFTOVER_AGE, is_folder_name, is_part_name, part_name
from annex_remote.stores.times import elapsed

__all__ = ["DirectoryStore", "check", "open_store"]

_PART = ".part"
"""The folder, on the same file system as all shares, where files are written before they get their name."""

_PIECE = 1 << 20

_SYNC_BYTES = 32 << 20
"""Bytes after which what is written is forced to the disk: a slow disk then shows its pace while it writes, and
does not owe minutes of it at the end, when it would be taken for stalled."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_ABSENT = {errno.ENOENT, errno.ENOTDIR}


def check(address: str) -> str:
    """Return the address with its path normalised; raises `BadSetting` if it is not absolute."""
    path = _path(address)
    if os.path.exists(path) and not os.path.isdir(path):
        raise BadSetting(f"{address!r} is a file, not a directory")
    return f"dir:{path}"


def _path(address: str) -> str:
    path = address.removeprefix("dir:")
    if not os.path.isabs(path):
        raise BadSetting(f"{address!r}: the path of a directory store is absolute, such as dir:/media/usb/annex")
    return os.path.normpath(path)


def open_store(address: str, marker: str | None) -> DirectoryStore:
    """Open the directory at `address`; see `annex_remote.stores.open_store`."""
    # Without a look at the file system: on a dead network mount that would wait for ever, and nobody asked yet.
    return DirectoryStore(_path(address), marker)


class DirectoryStore:
    """Keeps each name as a file under `root`; see `model.Store` for the contract.

    With `marker` (a name that must be there), an unmounted disk's empty mount point is `Unavailable` rather
    than an empty store, and is never filled.
    """

    def __init__(self, root: str, marker: str | None = None) -> None:
        self.root = root
        self.marker = marker
        self._swept = False
        self._made: list[str] = []
        """Folders that were made by this object, in their order."""

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        target = os.path.join(self.root, check_name(name))
        self._check_marker()
        try:
            self._make_folder(os.path.dirname(target))
            self._make_folder(os.path.join(self.root, _PART))
            self._sweep()
            self._write(target, size, open_at, fresh)
        except _SourceFailedError as failure:
            raise failure.error from failure
        except OSError as error:
            translated = self._translate(error, f"writing {name}")
            if isinstance(translated, NotFound):  # its folder went away: no news about a share
                translated = Unavailable(str(translated))
            raise translated from error

    def _write(self, target: str, size: int, open_at: OpenAt, fresh: bool) -> None:
        part = os.path.join(self.root, _PART, part_name(target))
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            try:
                _write_all(descriptor, size, open_at)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            # The marker again: a disk may have been unmounted while its share was on the way.
            self._check_marker()
            (_rename_to_new if fresh else os.rename)(part, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(part)
            raise
        _sync_folder(os.path.dirname(target))

    def read(self, name: str, start: int = 0, length: int | None = None) -> FileRange:
        path = os.path.join(self.root, check_name(name))
        try:
            # Without O_NONBLOCK, opening a FIFO that somebody put there would wait for ever.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                return FileRange(descriptor, start, length)
            except BaseException:
                os.close(descriptor)
                raise
        except OSError as error:
            raise self._translate(error, f"reading {name}") from error

    def stat(self, name: str) -> int | None:
        try:
            return _regular_size(os.stat(os.path.join(self.root, check_name(name))))
        except OSError as error:
            translated = self._translate(error, f"looking at {name}")
            if isinstance(translated, NotFound):
                return None
            raise translated from error

    def age(self, name: str) -> float | None:
        try:
            status = os.stat(os.path.join(self.root, check_name(name)))
            _regular_size(status)
        except OSError as error:
            raise self._translate(error, f"looking at {name}") from error
        return elapsed(status.st_mtime, time.time())

    def delete(self, name: str) -> None:
        path = os.path.join(self.root, check_name(name))
        try:
            os.unlink(path)
            _sync_folder(os.path.dirname(path))
        except OSError as error:
            translated = self._translate(error, f"removing {name}")
            if not isinstance(translated, NotFound):
                raise translated from error

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        self._check_marker()
        try:
            folders = [prefix[:2]] if len(prefix) >= 2 else self._folders()
            for folder in folders:
                if is_folder_name(folder):
                    yield from self._list_folder(folder, prefix)
        except OSError as error:
            raise self._translate(error, "listing") from error

    def _folders(self) -> Sequence[str]:
        try:
            return sorted(os.listdir(self.root))
        except FileNotFoundError:
            return []  # a store that is being made; one with a marker was asked for it before

    def _list_folder(self, folder: str, prefix: str) -> Iterator[tuple[str, int]]:
        try:
            entries = sorted(os.scandir(os.path.join(self.root, folder)), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            name = f"{folder}/{entry.name}"
            # A file that vanishes between listing and stat, or is not ours, is not in the list.
            with suppress(Damaged, FileNotFoundError):
                if name.startswith(prefix) and check_name(name) and entry.is_file(follow_symlinks=False):
                    yield name, entry.stat(follow_symlinks=False).st_size

    def space(self) -> int | None:
        self._check_marker()
        try:
            figures = os.statvfs(self.root)
        except OSError as error:
            raise self._translate(error, "asking for free space") from error
        return figures.f_bavail * figures.f_frsize

    def close(self) -> None:
        """Where a store was being made and came to nothing, leave no empty folder behind."""
        if self.marker is None:
            for folder in reversed(self._made):
                with suppress(OSError):  # not empty: it came to something
                    os.rmdir(folder)

    def _check_marker(self) -> None:
        """Raise `Unavailable` unless this is the store that it is meant to be."""
        if self.marker is None:
            return
        try:
            os.stat(os.path.join(self.root, self.marker))
        except OSError as error:
            if error.errno in _ABSENT:
                raise Unavailable(
                    f"{self.root} does not have this store's marker: is its disk mounted?"
                ) from error
            raise self._translate(error, "looking for the store's marker") from error

    def _translate(self, error: OSError, doing: str) -> StoreError:
        what = f"{doing} in {self.root}: {error.strerror or error}"
        if error.errno in _ABSENT:
            try:
                self._check_marker()
            except StoreError as unavailable:
                return unavailable
            return NotFound(what)
        if error.errno in _FULL:
            return Full(what)
        if error.errno in _DENIED:
            return Denied(what)
        return Unavailable(what)

    def _make_folder(self, folder: str) -> None:
        if folder.startswith(self.root + os.sep) and os.path.islink(folder):
            # A link would lead our files, and the sweeping of old ones, to somebody else's place.
            raise OSError(errno.ELOOP, f"{folder} is a symbolic link")
        if os.path.isdir(folder):
            return
        if self.marker is None:
            # The store is being made. With a marker, its own directory is never made anew under an absent mount.
            self._make_folder(os.path.dirname(folder))
        with suppress(FileExistsError):
            os.mkdir(folder)
            self._made.append(folder)
        _sync_folder(os.path.dirname(folder))

    def _sweep(self) -> None:
        """Once a process, remove what writers that were killed long ago left behind."""
        if self._swept:
            return
        self._swept = True
        before = time.time() - LEFTOVER_AGE
        for entry in os.scandir(os.path.join(self.root, _PART)):
            with suppress(OSError):  # housekeeping: nothing that fails here is in the way of a share
                status = entry.stat(follow_symlinks=False)
                # Ours alone: by their form, and never through a link that somebody put there.
                if is_part_name(entry.name) and stat.S_ISREG(status.st_mode) and status.st_mtime < before:
                    os.unlink(entry.path)


class FileRange:
    """Part of an open file, as `model.ByteStream`; closes the descriptor when its `with` ends."""

    def __init__(self, descriptor: int, start: int, length: int | None) -> None:
        self._descriptor = descriptor
        self.size = _regular_size(os.fstat(descriptor))
        self._at = start
        self._end = self.size if length is None else min(self.size, start + length)

    def __iter__(self) -> Iterator[bytes]:
        while self._at < self._end:
            try:
                piece = os.pread(self._descriptor, min(_PIECE, self._end - self._at), self._at)
            except OSError as error:
                raise Unavailable(f"reading failed: {error.strerror or error}") from error
            if not piece:
                raise Damaged(f"a file of {self.size} bytes ended at {self._at} while it was read")
            self._at += len(piece)
            yield piece

    def __enter__(self) -> FileRange:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _regular_size(status: os.stat_result) -> int:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "what stands there is not a file")
    return status.st_size


class _SourceFailedError(Exception):
    """Carries an error of what is being stored past the translation of the store's own errors."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def _from_source(open_at: OpenAt) -> Iterator[bytes | memoryview]:
    try:
        yield from open_at(0)
    except OSError as error:
        raise _SourceFailedError(error) from error


def _write_all(descriptor: int, size: int, open_at: OpenAt) -> None:
    written = synced = 0
    for piece in _from_source(open_at):
        written += len(piece)
        if written > size:
            break
        if written - synced > _SYNC_BYTES:
            os.fdatasync(descriptor)
            synced = written
        view = memoryview(piece)
        while view:
            view = view[os.write(descriptor, view) :]
    if written != size:
        raise Damaged(f"the source gave {'more' if written > size else 'fewer'} bytes than the {size} announced")


def _rename_to_new(part: str, target: str) -> None:
    """Rename a file unless something has the name already; raises `Exists` then."""
    try:
        os.link(part, target)
    except OSError as error:
        if error.errno == errno.EEXIST or os.path.lexists(target):
            raise Exists(f"{target} is there already") from error
        # There are no links (FAT, some network mounts), or something is wrong that renaming will tell as well.
        os.rename(part, target)
    else:
        with suppress(OSError):  # it is swept one day
            os.unlink(part)


def _sync_folder(folder: str) -> None:
    """Make names in `folder` durable; file systems that cannot (some network mounts) say EINVAL."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
