"""A gate that lets a bounded number in at once, first come, first served."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from annex_remote.errors import Cancelled

__all__ = ["TICK", "Gate"]

TICK = 0.25
"""Seconds between looks at the clock while waiting: bounds how late a stall or a cancellation is noticed."""


class Gate:
    """At most `limit` are inside at once; who waits comes in the order in which they came. Thread safe.

    Nobody may wait for another gate, or for other work, while inside, unless that goes on without this one.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._inside = 0
        self._waiting: deque[threading.Event] = deque()
        """One for each that waits, set when its place is free: the place of who leaves is theirs at once."""

    def enter(self, cancelled: threading.Event | None = None) -> None:
        """Wait for a place inside; raises `Cancelled`, and takes none, when `cancelled` is set meanwhile."""
        with self._lock:
            if self._inside < self.limit:
                self._inside += 1
                return
            turn = threading.Event()
            self._waiting.append(turn)
        while not turn.wait(TICK):
            if cancelled is not None and cancelled.is_set():
                self._give_up(turn)
                raise Cancelled("the work was called off")

    def _give_up(self, turn: threading.Event) -> None:
        with self._lock:
            if not turn.is_set():
                self._waiting.remove(turn)
                return
        self.leave()  # the place came in this very moment

    def leave(self) -> None:
        """Give a place back, once for each `enter`."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._inside -= 1

    @contextmanager
    def pass_(self, cancelled: threading.Event | None = None) -> Iterator[Callable[[], None]]:
        """Be inside during a `with`. What it gives leaves before its end, if somebody calls it.

        That may be another thread, which does not wait any longer for what hangs inside, and more than once.
        """
        self.enter(cancelled)
        inside = threading.Lock()

        def leave() -> None:
            if inside.acquire(blocking=False):
                self.leave()

        try:
            yield leave
        finally:
            leave()
