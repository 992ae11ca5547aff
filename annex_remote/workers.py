"""The one place where threads are started: daemon threads, kept for reuse.

A store may hang in a system call for ever, and then nothing can join its thread. So whoever starts work here
bounds its own waiting and abandons what does not come back; the threads are daemons, and do not keep the
program from ending.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

__all__ = ["Workers", "workers"]

_IDLE_SECONDS = 5.0


class Workers:
    """An unbounded pool of daemon threads; a thread that is idle for some seconds ends."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._ready = threading.Condition()
        self._work: deque[Callable[[], None]] = deque()
        self._idle = 0

    def start(self, work: Callable[[], None]) -> None:
        """Run `work` on a thread of its own, now. `work` handles its own exceptions. Raises `RuntimeError`."""
        with self._ready:
            self._work.append(work)
            if len(self._work) <= self._idle:
                self._ready.notify()
                return
        try:
            threading.Thread(target=self._serve, name=self._name, daemon=True).start()
        except RuntimeError:  # the system has no thread left for us
            with self._ready:
                if work not in self._work:
                    return  # a thread that came free has taken it
                self._work.remove(work)
            raise

    def _serve(self) -> None:
        while True:
            with self._ready:
                if not self._work:
                    self._idle += 1
                    self._ready.wait_for(lambda: self._work, _IDLE_SECONDS)
                    self._idle -= 1
                if not self._work:
                    return
                work = self._work.popleft()
            work()
            del work  # lets go of buffers while this thread is idle


workers = Workers("swarm-worker")
"""The process's pool."""
