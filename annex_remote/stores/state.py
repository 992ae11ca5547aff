"""Small files that all processes of one user on one machine share, each changed under a lock."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable

__all__ = ["SharedFile", "state_path"]

PAUSE = 0.001
"""Seconds between two tries for the lock; who has it, has it for a few microseconds."""

_MOST = 4096


def state_path(kind: str, name: str) -> str:
    """Return where `name` is kept, among others of its `kind`.

    Not among the runtime files, which one and the same user has in different places, with a session and without.
    A home may be on several machines, so the machine is in the name.
    """
    from platformdirs import user_state_dir  # takes longer to import than most commands take

    return os.path.join(user_state_dir("git-annex-remote-swarm"), kind, f"{name}.{os.uname().nodename}")


class SharedFile:
    """A file of some bytes. It is opened for every use, so it may be removed, and come again, at any time."""

    def __init__(self, path: str, *, patience: float = 0.1, sleep: Callable[[float], None] = time.sleep) -> None:
        self.path = path
        self._tries = max(1, int(patience / PAUSE))
        self._sleep = sleep

    def change(self, change: Callable[[bytes], bytes]) -> None:
        """Put what `change` makes of the content, empty at first, in its place.

        Raises `OSError` if the file cannot be used; also, then without having called `change`, if another
        process has it for longer than `patience` seconds: one that was stopped in the middle must not stop all.
        """
        descriptor = self._open()
        try:
            self._lock(descriptor)
            new = change(os.pread(descriptor, _MOST, 0))
            os.pwrite(descriptor, new, 0)
            os.ftruncate(descriptor, len(new))
        finally:
            os.close(descriptor)  # lets go of the lock

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(self.path, flags, 0o600)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            return os.open(self.path, flags, 0o600)

    def _lock(self, descriptor: int) -> None:
        for left in reversed(range(self._tries)):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if not left:
                    raise
                self._sleep(PAUSE)
