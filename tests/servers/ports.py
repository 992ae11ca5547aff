"""A port of one's own, for as long as it is held: also while nothing listens on it."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import struct
import tempfile
from pathlib import Path

HOST = "127.0.0.1"
# Below what Linux gives to outgoing connections, so that none of them sits on the port of a server that is down.
_RANGE = range(20_000, 32_000)


class Port:
    """A free port of the loopback, locked against every other process that takes its ports here."""

    def __init__(self) -> None:
        descriptor = os.open(_lock_file(), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._descriptor: int | None = descriptor
        for number in random.sample(_RANGE, len(_RANGE)):
            if _set_lock(descriptor, fcntl.F_WRLCK, number):
                if _is_free(number):
                    self.number = number
                    return
                _set_lock(descriptor, fcntl.F_UNLCK, number)
        self.release()
        raise OSError(f"no free port on {HOST} between {_RANGE[0]} and {_RANGE[-1]}")

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _lock_file() -> Path:
    return Path(tempfile.gettempdir(), f"swarm-test-ports-{os.getuid()}")


def _set_lock(descriptor: int, kind: int, number: int) -> bool:
    """Lock or unlock one byte, which stands for a port; return False where somebody else holds it.

    The lock is that of the descriptor, not of the process: two servers of one test exclude one another too.
    """
    # struct flock: kind, whence, start, length, pid
    asked = struct.pack("hhqqi", kind, os.SEEK_SET, number, 1, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, asked)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_free(number: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, number))
        except OSError:
            return False
    return True
