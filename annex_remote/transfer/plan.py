"""Which blocks to ask which share for. Pure: events in, requests out; no thread, no clock, no store in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from annex_remote.errors import NotEnough

__all__ = ["FetchPlan", "Request"]


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """Blocks of `count` segments from `first`, to be asked of the share `number`. Compared by identity."""

    number: int
    first: int
    count: int


class FetchPlan:
    """Sees to it that every segment gets `needed` proved blocks from distinct shares.

    Shares are used in the order of `numbers`: the cheapest first. A share that fails is not asked again; a
    block that does not prove is asked of another share, and its share goes on serving the rest.
    """

    def __init__(self, needed: int, numbers: Sequence[int], first: int, end: int, window: int) -> None:
        self._needed = needed
        self._numbers = list(numbers)
        self._next = first
        self._end = end
        self._window = window
        self._dead: set[int] = set()
        self._bad: dict[int, set[int]] = defaultdict(set)
        """Segment to the shares whose block of it is bad."""
        self._have: dict[int, set[int]] = {}
        self._asked: dict[int, set[int]] = {}
        """Segment to the shares that have been asked, or have delivered; only segments not yet complete."""
        self._short: set[int] = set()
        """Segments that fewer than `needed` shares have been asked for."""
        self._open: dict[Request, set[int]] = {}
        """Requests under way, to the segments that they still owe."""

    @property
    def usable(self) -> list[int]:
        return [number for number in self._numbers if number not in self._dead]

    def add_share(self, number: int) -> None:
        """Take in a share that answered late: it is a spare for those that fail."""
        if number not in self._numbers:
            self._numbers.append(number)

    def requests(self, horizon: int) -> list[Request]:
        """Return the requests to start now, so that all segments before `horizon` are under way.

        Raises `NotEnough` if a segment cannot get `needed` good blocks any more.
        """
        while self._next < min(horizon, self._end):
            stop = min(self._next + self._window, self._end)
            for segment in range(self._next, stop):
                self._have[segment] = set()
                self._asked[segment] = set()
                self._short.add(segment)
            self._next = stop
        # All are chosen before any is recorded: what is refused now may be possible when a share comes late.
        chosen = {segment: self._choose(segment) for segment in sorted(self._short)}
        wanted: dict[int, list[int]] = defaultdict(list)
        for segment, numbers in chosen.items():
            self._asked[segment].update(numbers)
            for number in numbers:
                wanted[number].append(segment)
        self._short.clear()
        return [request for number, segments in wanted.items() for request in self._join(number, segments)]

    def _choose(self, segment: int) -> list[int]:
        asked, bad = self._asked[segment], self._bad[segment]
        missing = self._needed - len(asked)
        free = [number for number in self.usable if number not in asked and number not in bad]
        if len(free) < missing:
            raise NotEnough(
                f"segment {segment} can be read from {len(asked) + len(free)} shares, {self._needed} are needed"
            )
        return free[:missing]

    def _join(self, number: int, segments: Iterable[int]) -> list[Request]:
        runs: list[list[int]] = []
        for segment in segments:
            if runs and segment == runs[-1][-1] + 1 and len(runs[-1]) < self._window:
                runs[-1].append(segment)
            else:
                runs.append([segment])
        made = [Request(number, run[0], len(run)) for run in runs]
        self._open.update({request: set(range(request.first, request.first + request.count)) for request in made})
        return made

    def is_open(self, segment: int) -> bool:
        """True if blocks of `segment` are still wanted."""
        return segment in self._asked

    def good(self, request: Request, segment: int) -> bool:
        """Record a proved block; True exactly once for a segment, when its `needed`-th block has come."""
        self._settle(request, segment)
        have = self._have.get(segment)
        if have is None:
            return False
        have.add(request.number)
        if len(have) < self._needed:
            return False
        del self._have[segment], self._asked[segment]
        self._short.discard(segment)
        return True

    def bad(self, request: Request, segment: int) -> None:
        """Record a block that does not prove: another share is asked for it."""
        self._settle(request, segment)
        self._bad[segment].add(request.number)
        self._unask(request.number, segment)

    def failed(self, request: Request) -> None:
        """Record that a request failed or was given up: its share is out, what it owes is asked of others."""
        self._dead.add(request.number)
        for segment in self._open.pop(request, set()):
            self._unask(request.number, segment)

    def _settle(self, request: Request, segment: int) -> None:
        owed = self._open.get(request)
        if owed is not None:
            owed.discard(segment)
            if not owed:
                del self._open[request]

    def _unask(self, number: int, segment: int) -> None:
        if segment in self._asked:
            self._asked[segment].discard(number)
            self._short.add(segment)
