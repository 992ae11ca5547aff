"""Run a command for as long as it is wanted, and leave nothing of it behind.

    supervisor.py PARENT COMMAND...

It is wanted while the process PARENT lives and keeps our standard input open. The first line of standard output
is the pid of the command. Whatever the command started is ended too, daemons with sessions of their own included:
orphans become children of this process, and it does not leave before the last is gone.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PATIENCE = 3
"""Seconds between asking the command to end and ending it."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    parent, *arguments = sys.argv[1:]
    if os.getppid() != int(parent):
        sys.exit("whoever started this is gone")
    # The parent's death is seen by its pid too: a child that it forked may hold the other end of standard input.
    watched = [sys.stdin.fileno(), os.pidfd_open(int(parent))]
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # Its output goes where our errors go: into the log of the server. Standard output is the starter's.
    with subprocess.Popen(
        arguments, stdin=subprocess.DEVNULL, stdout=sys.stderr, preexec_fn=_end_with_the_supervisor
    ) as command:
        ended = os.pidfd_open(command.pid)
        print(command.pid, flush=True)
        select.select([*watched, ended], [], [])
        command.terminate()
        if not select.select([ended], [], [], PATIENCE)[0]:
            command.kill()
        command.wait()
    _end_orphans()


def _end_with_the_supervisor() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _end_orphans() -> None:
    while True:
        for pid in _children():
            os.kill(pid, signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            return


def _children() -> Iterator[int]:
    """Yield those processes whose parent we are."""
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = place.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            yield int(place.parent.name)


if __name__ == "__main__":
    main()
