"""The folders that torrents are fetched into: one for each torrent and process, below the git directory.

Nothing in such a folder has a name from a torrent: files are called by their numbers. A folder belongs to whoever
holds the lock on it; what a killed process left is taken over by the next one that fetches the same torrent.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from contextlib import suppress

from annex_remote.errors import Unavailable

__all__ = ["WorkFolder", "room_missing", "sweep"]

LEFT_OVER = 30 * 86400.0
"""Seconds after which nobody is expected to go on with what was left."""

_LOCK = "lock"
_RESUME = "resume"
_MOST = 64


class WorkFolder:
    """One torrent's folder, locked. `path` is absolute."""

    def __init__(self, path: str, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def claim(cls, parent: str, name: str) -> WorkFolder:
        """Return a folder for the torrent `name` that no other process has; raises `Unavailable`."""
        for number in range(_MOST):
            path = os.path.join(parent, name if number == 0 else f"{name}.{number}")
            try:
                lock = _locked(path)
            except OSError as error:
                raise Unavailable(f"{path}: {error.strerror}") from error
            if lock is not None:
                return cls(path, lock)
        raise Unavailable(f"{parent}: {_MOST} processes fetch one torrent already")

    def resume_data(self) -> bytes | None:
        """Return what `keep` was last given, None if there is nothing."""
        try:
            with open(os.path.join(self.path, _RESUME), "rb") as file:
                return file.read()
        except OSError:
            return None

    def keep(self, resume_data: bytes) -> None:
        """Keep what it takes to go on; failing to do so costs a look at all that is there, and no more."""
        part = os.path.join(self.path, f"{_RESUME}.part")
        with suppress(OSError):
            with open(part, "wb") as file:
                file.write(resume_data)
            os.replace(part, os.path.join(self.path, _RESUME))

    def release(self, *, remove: bool) -> None:
        """Give the folder back, and what is in it up if it is to be removed."""
        if remove:
            # Under another name first: who claims the folder meanwhile is to have one of his own.
            gone = f"{self.path}.gone.{os.getpid()}.{time.monotonic_ns()}"
            with suppress(OSError):
                os.rename(self.path, gone)
                shutil.rmtree(gone, ignore_errors=True)
        os.close(self._lock)


def room_missing(parent: str, name: str, path: str, size: int) -> int:
    """Return how many bytes there are too few, on the disk of `parent`, for a file of a torrent; 0 if it has room.

    What is fetched is there twice until it is whole: in the folder `name`, and at `path`. What is there already is
    taken to be of the file. A disk that does not tell has room.
    """
    try:
        free = shutil.disk_usage(parent).free
    except OSError:
        return 0
    here = beside = 0
    with suppress(OSError):
        here = min(size, os.path.getsize(path))
    with suppress(OSError), os.scandir(os.path.join(parent, name)) as entries:
        beside = sum(512 * entry.stat(follow_symlinks=False).st_blocks for entry in entries)
    left = size - here  # only that is fetched
    return max(0, 2 * left - min(left, beside) - free)


def _locked(path: str) -> int | None:
    """Make a folder if it is not there, and lock it; None if somebody else has it."""
    while True:
        try:
            with suppress(FileExistsError):  # what is there by now may be removed by now
                os.makedirs(path, mode=0o700)
            lock = os.open(os.path.join(path, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            if os.path.islink(path):
                raise  # one that leads nowhere
            continue  # it was removed just now
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), os.stat(os.path.join(path, _LOCK))):
                return lock
        except BlockingIOError:
            os.close(lock)
            return None
        except FileNotFoundError:
            pass
        os.close(lock)  # this is not the lock that others see


def sweep(parent: str, now: float | None = None) -> None:
    """Remove folders that nobody has gone on with for a month."""
    now = time.time() if now is None else now
    with suppress(OSError):
        for entry in list(os.scandir(parent)):
            if not entry.is_dir(follow_symlinks=False):
                continue
            newest = max((each.stat(follow_symlinks=False).st_mtime for each in os.scandir(entry)), default=0.0)
            if now - max(newest, entry.stat().st_mtime) > LEFT_OVER:
                lock = _locked(entry.path)
                if lock is not None:
                    WorkFolder(entry.path, lock).release(remove=True)
