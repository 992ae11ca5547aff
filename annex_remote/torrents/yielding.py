"""Giving way when something is fetched in the background: pure, a look at a time.

How fast a peer sends is up to the peer: its LEDBAT, if it has any, goes by a target of its own, and what it sends
is in the queue of our line before we see it. But we may read it more slowly, and then it has to wait. So what
shows that packets queue, longer round trips than there were (RFC 6817), makes us read less, and quickly; when they
are short again, more, and slowly.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["FLOOR", "Yielding"]

TARGET = 0.015
"""Seconds by which round trips may be longer than the shortest that was seen."""

FLOOR = 32 << 10
"""Bytes a second that are always read: who is to see that the line is free again has to use it a little."""

LESS, MORE, STEP = 0.6, 1.05, 8 << 10
"""What a rate is multiplied by when packets queue, and when they do not; and the bytes a second added then."""

FORGET = 600.0
"""Seconds after which the shortest round trip is looked for anew: ways change."""


class Yielding:
    """What may be read, by round trips of peers. `look` is called again and again."""

    def __init__(self) -> None:
        self._limit: float | None = None
        self._shortest: dict[object, float] = {}
        """By peer."""
        self._before: dict[object, float] = {}
        """The same of the time before."""
        self._began: float | None = None
        self._was_late = False
        """True if they were longer at the last look: once says nothing, as on a busy machine."""

    def look(self, now: float, rate: float, trips: Mapping[object, float]) -> int:
        """Return how many bytes a second may be read from now on, 0 for no limit.

        `rate` is what is read now, in bytes a second; `trips` are the round trips of those who send, in seconds.
        """
        if self._began is None or now - self._began > FORGET:
            self._began, self._before, self._shortest = now, self._shortest, {}
        late = []
        for peer, trip in trips.items():
            recent = self._shortest[peer] = min(trip, self._shortest.get(peer, trip))
            late.append(trip - min(recent, self._before.get(peer, recent)))
        if not late:
            return int(self._limit or 0)
        is_late = min(late) > TARGET  # of all of them: so it is our own line
        if is_late and self._was_late:
            self._limit = max(FLOOR, LESS * (rate if self._limit is None else min(rate, self._limit)))
        elif not is_late and self._limit is not None:
            self._limit = MORE * self._limit + STEP
            if self._limit > 4 * max(rate, 1 << 20):
                self._limit = None
        self._was_late = is_late
        return int(self._limit or 0)
