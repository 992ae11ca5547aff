"""The one place where threads are started: daemon threads, kept for reuse.

A store may hang in a system call for ever, and then nothing can join its thread. So whoever starts work here
bounds its own waiting and abandons what does not come back; the threads are daemons, and do not keep the
program from ending.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

__all__ = ["Workers", "workers"]

_IDLE_SECONDS = 5.0


class Workers:
    """An unbounded pool of daemon threads; a thread that is idle for some seconds ends."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._idle = 0
        """Threads that wait for work, less those for which some is on its way."""

    def start(self, work: Callable[[], None]) -> None:
        """Run `work` on a thread of its own, now. `work` handles its own exceptions. Raises `RuntimeError`."""
        with self._lock:
            is_spare = self._idle > 0
            self._idle -= is_spare
        if is_spare:
            self._work.put(work)
        else:
            threading.Thread(target=self._serve, args=(work,), name=self._name, daemon=True).start()

    def _serve(self, work: Callable[[], None]) -> None:
        while True:
            work()
            del work  # lets go of buffers while this thread is idle
            with self._lock:
                self._idle += 1
            try:
                work = self._work.get(timeout=_IDLE_SECONDS)
            except Empty:
                with self._lock:
                    if self._idle:
                        self._idle -= 1
                        return
                work = self._work.get()  # it is on its way


workers = Workers("swarm-worker")
"""The process's pool."""
