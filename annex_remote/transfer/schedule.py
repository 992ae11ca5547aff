"""Which blocks to ask which share for, and when to ask another one as well.

Pure: observations and the time in, requests out; no thread, no clock, no store in it. Every observation may be
followed by `Schedule.plan`, the one function that decides what is asked next.

A block goes to the shares that are expected to bring it first, from what is known of their stores (list scheduling
by earliest completion time; Graham 1966). What is not asked for yet is decided again each time, so work moves
to whoever turns out to be faster. A request that is overdue gets another one beside it, of another share, and the
blocks that come first win (Dean and Barroso, "The Tail at Scale", 2013).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from annex_remote.errors import NotEnough
from annex_remote.transfer.figures import LEAST_OVERDUE, Figures

__all__ = ["AHEAD", "MAX_WINDOW", "MIN_WINDOW", "USUAL_FIRST_BYTE", "Request", "Schedule", "Source"]

MIN_WINDOW = 2
MAX_WINDOW = 8
"""Segments in one request to a share: as many as it takes for the wait for its first byte to matter little."""

LEAST_REQUEST = 0.005
"""Seconds that a request should take at least: starting one takes time here as well."""

AHEAD = 32
"""Segments that may be under way or wait to be written: bounds the memory of a download."""

SLACK = 0.02
"""Seconds that make no difference: whoever brings a block in less is as good as any other."""

BUSY_WINDOW, BUSY_AHEAD, BUSY_SLACK = 4, 16, 0.05
"""The same for a machine that cannot keep up with its stores.

Then requests are larger, what is under way stays in the processor's cache, and decoding is to be avoided.
"""

SYSTEMATIC = 0.9
"""What the time of a primary block counts for: decoding from others takes time as well."""

GLANCE = 0.05
"""Seconds between looks at who is overdue."""

HEDGE_PART = 0.05
"""The part of an object's bytes that may be asked for twice because somebody is overdue."""

LOST = 1.0
"""Seconds of silence after which a request is done again, whatever has been asked for twice already."""

MOST_EXTRAS = 2
"""Shares that may be asked for a block beside the `needed` ones."""

PROBE_EVERY = 100
"""Of so many blocks one is asked of a share that none of them was asked of, to see whether it should be."""

STRIKES = 3
FIRST_REST = 0.5
"""A share whose requests fail rests for so many seconds, then twice as many; the third failure was the last."""

USUAL_RATE = 100e6
USUAL_FIRST_BYTE = 0.05
"""What is expected of a store that nothing is known of, in bytes a second and in seconds."""


@dataclass(frozen=True, slots=True)
class Source:
    """A share that can be read: its number, and what is to be known of its store."""

    number: int
    store: str
    cost: float = 100.0
    """Relative: a store of twice the cost is used where it is more than twice as fast."""
    price: float = 0.0
    """Money for each byte that is read: stores without a price come first, whatever their speed."""
    connections: int = 8
    """Requests that the store may have at once, of all jobs together."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """Blocks of `count` segments from `first`, to be asked of the share `number`. Compared by identity."""

    number: int
    first: int
    count: int
    why: str = ""
    """Empty; "again" for what failed; "hedge" beside a request that is overdue; "probe" of a share nobody uses."""

    @property
    def end(self) -> int:
        return self.first + self.count


@dataclass
class _Open:
    """A request under way."""

    owes: set[int]
    """Segments whose block has not come."""
    began: float | None = None
    """When it was sent: it may wait for a connection before that."""
    heard: float | None = None
    """When it last brought bytes."""
    count: int = 0
    """Bytes that came."""


@dataclass
class _Share:
    source: Source
    overdue: bool = False
    """True while it has a request that is overdue: it is not asked for more."""
    strikes: int = 0
    rests_until: float = -math.inf
    dead: bool = False
    open: int = 0
    """Its requests under way."""
    asked_at: int = 0
    """How many blocks had been asked for, of all shares, when this one was asked last."""


@dataclass
class _Segment:
    asked: set[int] = field(default_factory=set)
    """Shares that were asked and may still answer, or have delivered."""
    have: set[int] = field(default_factory=set)
    bad: set[int] = field(default_factory=set)
    """Shares whose block of this segment does not prove."""
    extras: int = 0
    """How many of `asked` are beside others that are overdue, and do not count."""
    again: bool = False

    def missing(self, needed: int) -> int:
        """Return how many shares are to be asked still."""
        return needed - (len(self.asked) - self.extras)


class Schedule:
    """Sees to it that every segment of [first, end) gets `needed` proved blocks from distinct shares.

    `block` is the size of a block in bytes, `figures` tells what is known of a store at a time.
    """

    def __init__(
        self,
        needed: int,
        first: int,
        end: int,
        block: int,
        sources: Iterable[Source],
        figures: Callable[[str, float], Figures],
    ) -> None:
        self._needed = needed
        self._next = first
        self._end = end
        self._block = block
        self._figures = figures
        self._shares: dict[int, _Share] = {}
        self._segments: dict[int, _Segment] = {}
        """Segments that are wanted and not complete, in order."""
        self._short: set[int] = set()
        """Those of them for which fewer than `needed` shares have been asked, extras not counted."""
        self._open: dict[Request, _Open] = {}
        self._asked_blocks = 0
        self._extra_blocks = 0
        self._budget = max(2.0 * MAX_WINDOW, HEDGE_PART * (end - first) * needed)
        """Blocks that may be asked for twice."""
        self._probed_at = 0
        self.window = MIN_WINDOW
        """Segments in the requests that are made now."""
        self._ahead = AHEAD
        self.most_ahead = AHEAD
        """To be set to less where what is under way may turn out not to be wanted."""
        self._looks_at = -math.inf
        """When it is to be seen again who is overdue, if nothing else is to be decided."""
        self.is_busy = False
        """To be set while this machine, rather than its stores, is what a download waits for."""
        for source in sources:
            self.add(source)

    # What is known.

    @property
    def usable(self) -> list[int]:
        """The numbers of the shares that have not failed for good."""
        return [number for number, share in self._shares.items() if not share.dead]

    @property
    def under_way(self) -> list[Request]:
        """The requests that are not over."""
        return list(self._open)

    @property
    def extra_blocks(self) -> int:
        """Blocks that were asked for beside those that are needed because somebody was overdue."""
        return self._extra_blocks

    def is_open(self, segment: int) -> bool:
        """True if blocks of `segment` are still wanted."""
        return segment in self._segments

    def wants(self, request: Request) -> bool:
        """True if anything that the request still owes is wanted."""
        state = self._open.get(request)
        return state is not None and any(segment in self._segments for segment in state.owes)

    def owes(self, request: Request) -> bool:
        """True if blocks of the request have not come."""
        state = self._open.get(request)
        return state is not None and bool(state.owes)

    # Observations.

    def add(self, source: Source) -> None:
        """Take in a share, at the start or because it answered late."""
        self._shares.setdefault(source.number, _Share(source))

    def began(self, request: Request, now: float) -> None:
        """The request is sent; until now it has waited for a connection."""
        if request in self._open:
            self._open[request].began = now

    def heard(self, request: Request, count: int, now: float) -> None:
        """`count` bytes have come."""
        state = self._open.get(request)
        if state is None:
            return
        state.heard = now
        state.count += count
        self._shares[request.number].overdue = False

    def good(self, request: Request, segment: int) -> bool:
        """Record a proved block; True exactly once for a segment, when its `needed`-th block has come."""
        self._settle(request, segment)
        self._shares[request.number].strikes = 0
        state = self._segments.get(segment)
        if state is None:
            return False
        state.asked.add(request.number)
        state.have.add(request.number)
        if len(state.have) < self._needed:
            return False
        del self._segments[segment]
        self._short.discard(segment)
        return True

    def bad(self, request: Request, segment: int) -> None:
        """Record a block that does not prove: another share is asked for it, and this one for the rest."""
        self._settle(request, segment)
        if segment in self._segments:
            self._segments[segment].bad.add(request.number)
            self._unask(request.number, segment)

    def over(self, request: Request) -> None:
        """The request has ended by itself, or was ended because nobody wants the rest."""
        self._close(request)

    def failed(self, request: Request, now: float, *, for_good: bool = False) -> None:
        """The request failed or was given up: what it owes is asked of others.

        Its share rests for a while, longer each time; after three failures in a row, or if this one is
        `for_good`, it is not asked any more.
        """
        share = self._shares[request.number]
        if now >= share.rests_until:  # requests that fail together are one failure
            share.strikes += 1
            share.rests_until = now + FIRST_REST * 2 ** (share.strikes - 1)
        share.dead = share.dead or for_good or share.strikes >= STRIKES
        self._close(request)

    def _settle(self, request: Request, segment: int) -> None:
        state = self._open.get(request)
        if state is not None:
            state.owes.discard(segment)

    def _close(self, request: Request) -> None:
        state = self._open.pop(request, None)
        if state is None:
            return
        share = self._shares[request.number]
        share.open -= 1
        share.overdue = False
        for segment in state.owes:
            self._unask(request.number, segment)

    def _unask(self, number: int, segment: int) -> None:
        state = self._segments.get(segment)
        if state is None or number in state.have:
            return
        if any(number == other.number and segment in open_.owes for other, open_ in self._open.items()):
            return
        state.asked.discard(number)
        state.extras = max(0, state.extras - 1)  # whoever was asked beside it takes its place
        state.again = True
        if state.missing(self._needed) > 0:
            self._short.add(segment)

    # Decisions.

    def plan(self, written: int, now: float) -> list[Request]:
        """Return the requests to start now, when all segments before `written` have been taken away.

        Raises `NotEnough` if a segment cannot get `needed` good blocks any more.
        """
        ahead = min(self._ahead, max(self.most_ahead, 2 * self.window))
        self._open_until(min(written + ahead, self._end))
        if not self._short and (not self._open or now < self._looks_at):
            return []
        self._looks_at = now + GLANCE
        for segment in sorted(self._short):  # before anything is asked: what is refused starts nothing
            self._check(segment)
        stores = {share.source.store for share in self._shares.values()}
        known = {store: self._figures(store, now) for store in stores}
        market = _Market(self._shares, known, self._block, self._needed, now, busy=self.is_busy)
        self.window, self._ahead = market.window, market.ahead
        # Who is overdue is known before the others are asked for more.
        requests = self._hedge(market, now)
        requests += self._fill(market, now)
        requests += [] if self.is_busy else self._probe(now)
        return requests

    def _open_until(self, end: int) -> None:
        """Take up the segments before `end`, a window at a time: requests for less would not be worth it."""
        while self._next < end and (self._next + self.window <= end or end == self._end):
            for segment in range(self._next, min(end, self._next + self.window)):
                self._segments[segment] = _Segment()
                self._short.add(segment)
            self._next = min(end, self._next + self.window)

    def _check(self, segment: int) -> None:
        state = self._segments[segment]
        there = len(state.asked) + len(self._free(state))
        if there < self._needed:
            raise NotEnough(f"segment {segment} can be read from {there} shares, {self._needed} are needed")

    def _free(self, state: _Segment) -> list[_Share]:
        """Return the shares that can be asked for a segment and have not been."""
        return [
            share
            for number, share in self._shares.items()
            if not share.dead and number not in state.asked and number not in state.bad
        ]

    def _fill(self, market: _Market, now: float) -> list[Request]:
        """Ask for what is not asked for yet, of the shares that will bring it first."""
        made: list[Request] = []
        for run in self._runs():
            state = self._segments[run[0]]
            chosen = market.best(self._free(state), len(run))[: state.missing(self._needed)]
            for share in chosen:
                if market.has_room(share) and now >= share.rests_until:
                    made.append(self._ask(share, run, "again" if state.again else ""))
                market.reserve(share, len(run))
            if market.is_full:
                break
        return made

    def _runs(self) -> Iterable[list[int]]:
        """Yield what is short in runs of neighbours that the same shares have been asked for, oldest first."""
        run: list[int] = []
        for segment in sorted(self._short):
            if run and (segment != run[-1] + 1 or len(run) >= self.window or not self._alike(run[0], segment)):
                yield run
                run = []
            run.append(segment)
        if run:
            yield run

    def _alike(self, one: int, other: int) -> bool:
        first, second = self._segments[one], self._segments[other]
        return (first.asked, first.bad, first.extras, first.again) == (
            second.asked,
            second.bad,
            second.extras,
            second.again,
        )

    def _ask(self, share: _Share, run: list[int], why: str) -> Request:
        request = Request(share.source.number, run[0], len(run), why)
        self._open[request] = _Open(set(run))
        share.open += 1
        self._asked_blocks += len(run)
        share.asked_at = self._asked_blocks
        for segment in run:
            state = self._segments[segment]
            state.asked.add(request.number)
            if state.missing(self._needed) <= 0:
                self._short.discard(segment)
        return request

    def _hedge(self, market: _Market, now: float) -> list[Request]:
        """Ask other shares for what requests still owe that are overdue, or much slower than others would be."""
        made: list[Request] = []
        most = min(MOST_EXTRAS, len(self.usable) - self._needed)
        late: set[Request] = set()
        waits: Counter[int] = Counter()
        """Segment to how many requests that are overdue owe it."""
        for request, state in self._open.items():
            share = self._shares[request.number]
            if market.is_overdue(share, state) and self.wants(request):
                share.overdue = True
                late.add(request)
                waits.update(state.owes)
        for request, state in list(self._open.items()):
            owed = [segment for segment in sorted(state.owes) if segment in self._segments]
            share, overdue = self._shares[request.number], request in late
            lost = now - (state.heard or state.began or now) >= LOST
            for run in self._owed_runs(owed, most, waits):
                other = self._another(market, run, now)
                if other is None or not (overdue or market.takes_longer(share, state, other, len(run))):
                    continue
                if self._extra_blocks + len(run) > self._budget and not lost:
                    continue
                self._extra_blocks += len(run)
                for segment in run:
                    self._segments[segment].extras += 1
                made.append(self._ask(other, run, "hedge"))
                market.reserve(other, len(run))
        return made

    def _another(self, market: _Market, run: list[int], now: float) -> _Share | None:
        """Return the share that would bring the blocks of `run` first, of those that are not asked for them."""
        segment = self._segments[run[0]]
        free = [share for share in self._free(segment) if now >= share.rests_until and market.has_room(share)]
        return next(iter(market.best(free, len(run))), None)

    def _owed_runs(self, owed: list[int], most: int, waits: Counter[int]) -> Iterable[list[int]]:
        """Yield neighbours that the same shares have been asked for, and that may be asked for once more.

        That is done once for each request that is overdue, and again if the one beside it comes to nothing.
        """
        run: list[int] = []
        for segment in owed:
            if self._segments[segment].extras >= min(most, max(1, waits[segment])):
                continue
            if run and (segment != run[-1] + 1 or len(run) >= MAX_WINDOW or not self._alike(run[0], segment)):
                yield run
                run = []
            run.append(segment)
        if run:
            yield run

    def _probe(self, now: float) -> list[Request]:
        """Ask the share that was left out longest for one block, now and then: its store may have become fast."""
        if self._asked_blocks - self._probed_at < PROBE_EVERY or not self._segments:
            return []
        segment = max(self._segments)
        idle = [
            share
            for share in self._free(self._segments[segment])
            if share.asked_at <= self._probed_at
            and not share.open
            and not share.source.price
            and now >= share.rests_until
        ]
        made = [self._ask(share, [segment], "probe") for share in sorted(idle, key=lambda each: each.asked_at)[:1]]
        self._probed_at = self._asked_blocks
        return made


class _Market:
    """What the shares can be expected to do at one moment, and what has been promised to them since."""

    def __init__(
        self,
        shares: dict[int, _Share],
        known: dict[str, Figures],
        block: int,
        needed: int,
        now: float,
        *,
        busy: bool,
    ) -> None:
        self._known = known
        self._block = block
        self._needed = needed
        self._now = now
        usable = [share for share in shares.values() if not share.dead]
        stores = {share.source.store for share in usable}
        rates = sorted((rate for store in stores if (rate := known[store].down)), reverse=True)
        self._usual_rate = rates[0] if rates else USUAL_RATE
        waits = sorted(wait for store in stores if (wait := known[store].first_byte))
        self._usual_wait = waits[len(waits) // 2] if waits else USUAL_FIRST_BYTE
        self._cheapest = min((share.source.cost for share in usable), default=1.0) or 1.0
        self._backlog: dict[str, int] = {store: known[store].owed for store in stores}
        self._open: dict[str, int] = defaultdict(int)
        self._most: dict[str, int] = {}
        for share in usable:
            self._open[share.source.store] += share.open
            self._most[share.source.store] = share.source.connections
        # A request should take about twice as long as the wait for its first byte, for most of those in use.
        fits = sorted(
            max(LEAST_REQUEST, 2 * self._wait(store)) * self._rate(store) / block
            for store in sorted(stores, key=self._rate, reverse=True)[:needed]
        )
        middle = fits[len(fits) // 2] if fits else MIN_WINDOW
        self.window = max(MIN_WINDOW, min(MAX_WINDOW, math.ceil(middle)))
        self.slack, self.ahead = SLACK, AHEAD
        if busy:
            self.slack, self.window = BUSY_SLACK, max(BUSY_WINDOW, self.window)
            self.ahead = max(BUSY_AHEAD, 3 * self.window)

    def _rate(self, store: str) -> float:
        return self._known[store].down or self._usual_rate

    def _wait(self, store: str) -> float:
        return self._known[store].first_byte or self._usual_wait

    def expected(self, share: _Share, segments: int) -> float:
        """Seconds until the share has brought blocks of so many segments, after all that its store owes."""
        store = share.source.store
        return self._wait(store) + (self._backlog[store] + segments * self._block) / self._rate(store)

    def best(self, shares: Iterable[_Share], segments: int) -> list[_Share]:
        """Return `shares` with those first that are to be asked first."""

        def rank(share: _Share) -> tuple[bool, float, float, int]:
            source = share.source
            seconds = max(self.slack, self.expected(share, segments)) * source.cost / self._cheapest
            if source.number < self._needed:
                seconds *= SYSTEMATIC
            put_off = share.overdue or self._known[source.store].resting or self._now < share.rests_until
            return put_off, source.price, seconds, source.number

        return sorted(shares, key=rank)

    def has_room(self, share: _Share) -> bool:
        """True if the store may have one more request of this download."""
        return not share.overdue and self._open[share.source.store] < self._depth(share.source.store)

    def _depth(self, store: str) -> int:
        """Requests that keep a store busy: while one is on its way, another brings bytes."""
        if self._known[store].down is None:
            return 1  # it may be slow, and what it is asked for is waited for
        request = self.window * self._block / self._rate(store)
        return min(self._most[store], 2 + math.floor(self._wait(store) / request))

    def reserve(self, share: _Share, segments: int) -> None:
        """Count on the share for blocks of so many segments."""
        self._backlog[share.source.store] += segments * self._block
        self._open[share.source.store] += 1

    @property
    def is_full(self) -> bool:
        """True if no store takes a request any more."""
        return all(self._open[store] >= self._depth(store) for store in self._most)

    def is_overdue(self, share: _Share, state: _Open) -> bool:
        """True if a request has brought nothing for so long that something must be wrong with it."""
        if state.began is None:  # others wait there as well, and whether they get anything tells
            return self._known[share.source.store].resting
        if state.heard is None:
            late = max(LEAST_OVERDUE, self._known[share.source.store].late or 0.0, 1.5 * self._usual_wait)
            return self._now - state.began > late
        # Whoever brings a block at a time is silent in between. What counts is the pace until it fell silent:
        # the store's rate falls while nothing comes, and by that nobody would ever be overdue.
        pace = state.count / max(state.heard - state.began, 1e-3)
        return self._now - state.heard > max(LEAST_OVERDUE, 3 * self._block / pace)

    def takes_longer(self, share: _Share, state: _Open, other: _Share, segments: int) -> bool:
        """True if `other`, asked now, is done long before the store of `share` has brought what it owes.

        Its rate is that of some seconds; a request that has gone on for a while has a pace of its own.
        """
        store = share.source.store
        left = self._known[store].owed / self._rate(store)
        if state.began is not None and state.count and self._now - state.began > LEAST_OVERDUE:
            left = max(left, len(state.owes) * self._block * (self._now - state.began) / state.count)
        return left > 2 * self.expected(other, segments) + LEAST_OVERDUE
