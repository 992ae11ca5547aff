"""Downloads in virtual time: stores that behave as they are told, and a driver that does what `Download` does.

The decisions are those of the program, `Schedule` and `Book`; only threads, stores and the clock are played. What
must hold in every download, whatever the stores do, is asserted while it runs.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from annex_remote.errors import NotEnough
from annex_remote.transfer.fetch import PULSE
from annex_remote.transfer.figures import Book
from annex_remote.transfer.schedule import AHEAD, Request, Schedule, Source

__all__ = ["BLOCK", "MB", "NEEDED", "SEGMENT", "Outcome", "Stock", "simulate"]

MB = 1e6
NEEDED = 4
SEGMENT = 1 << 20
BLOCK = SEGMENT // NEEDED
PIECE = 64 << 10
"""Bytes that a store brings at a time."""

LONGEST = 100.0
"""How many times as long as usual an answer takes at the most."""

PATIENCE = 3600.0
"""Seconds of virtual time after which a download counts as one that never ends."""


@dataclass(frozen=True)
class Stock:
    """A store and how it behaves. Times are in seconds after `start` of the download."""

    rate: float = 20 * MB
    """Bytes a second, of all its requests together."""
    steps: tuple[tuple[float, float], ...] = ()
    """(time, rate from then on), in order; a rate of 0 is a store that hangs."""
    latency: float = 0.02
    tail: float = 0.0
    """Exponent of a Pareto distribution by which latencies are stretched; 0 for none."""
    first_window: int = 0
    """Bytes in the first round trip of a request, doubled in each that follows (slow start); 0 for no limit."""
    down: tuple[tuple[float, float], ...] = ()
    """Spans of time in which all requests fail."""
    hangs_after: int | None = None
    """Bytes after which nothing comes any more."""
    gone: bool = False
    """True for a store that refuses every request for good."""
    damaged: float = 0.0
    """The part of its blocks that do not prove: the same ones each time."""
    opens: float = 0.0
    """When its shares are known to be there."""
    shares: int = 1
    cost: float = 100.0
    connections: int = 8

    def rate_at(self, at: float) -> float:
        return next((rate for since, rate in reversed(self.steps) if at >= since), self.rate)

    def is_down(self, at: float) -> bool:
        return any(begin <= at < end for begin, end in self.down)


@dataclass
class Outcome:
    """What came of a download."""

    seconds: float = 0.0
    fetched: Counter[str] = field(default_factory=Counter)
    """Store to the bytes that it brought, wanted or not."""
    hedged: int = 0
    """Blocks that were asked for beside others."""
    lost: int = 0
    """Those of them that were beside a request silent for so long that no budget counts."""
    held: int = 0
    """The most segments that were under way, or decoded and not written, at once."""
    completed: Counter[int] = field(default_factory=Counter)
    pause: float = 0.0
    """The longest time between two segments that were written, the first one not counted."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Why blocks were asked for, counted."""
    asked: list[tuple[float, Request]] = field(default_factory=list)


@dataclass
class _Flight:
    """A request as its thread sees it; `known` is False once the driver does not wait for it."""

    request: Request
    store: _Served
    known: bool = True
    moved: float | None = None
    inside: bool = False
    """It has one of the store's connections."""
    answered: float | None = None
    sent: int = 0

    def ready(self, first_window: int, round_trip: float) -> float:
        """When the next piece can come, as far as slow start goes."""
        assert self.answered is not None
        trips, window = 0, first_window
        while first_window and window < self.sent + PIECE:
            trips, window = trips + 1, 2 * window + first_window
        return self.answered + trips * round_trip


@dataclass
class _Served:
    """A store at work: its requests take turns, a piece each."""

    name: str
    stock: Stock
    chance: random.Random
    numbers: list[int] = field(default_factory=list)
    turns: deque[_Flight] = field(default_factory=deque)
    waiting: deque[_Flight] = field(default_factory=deque)
    """Requests without a connection."""
    begun: list[_Flight] = field(default_factory=list)
    """Requests with a connection."""
    inside: int = 0
    busy: bool = False
    brought: int = 0
    bad: dict[tuple[int, int], bool] = field(default_factory=dict)

    def damages(self, number: int, segment: int) -> bool:
        return self.bad.setdefault((number, segment), self.chance.random() < self.stock.damaged)


def simulate(
    stocks: Sequence[Stock],
    segments: int = 256,
    *,
    needed: int = NEEDED,
    first: int = 0,
    block: int = BLOCK,
    book: Book | None = None,
    start: float = 1000.0,
    stall: float = 10.0,
    uplink: float | None = None,
    writing: float = 0.0,
    seed: int = 0,
) -> Outcome:
    """Download segments [first, first + segments) of an object, and return how that went.

    Share numbers go round the stores: one each, then the second ones. `uplink` is in bytes a second and shared by
    all stores, `writing` is what the file takes for a segment, in seconds. Raises `NotEnough` as the program does.
    """
    return _Simulation(
        stocks, segments, needed, first, block, book or Book(), start, stall, uplink, writing, seed
    ).run()


class _Simulation:
    def __init__(
        self,
        stocks: Sequence[Stock],
        segments: int,
        needed: int,
        first: int,
        block: int,
        book: Book,
        start: float,
        stall: float,
        uplink: float | None,
        writing: float,
        seed: int,
    ) -> None:
        self.needed, self.block, self.book, self.stall, self.uplink, self.writing = (
            needed, block, book, stall, uplink, writing
        )  # fmt: skip
        self.start = self.now = start
        self.index, self.first, self.end = first, first, first + segments
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0
        self.stores = [
            _Served(f"store{place}", stock, random.Random(f"{seed} {place}")) for place, stock in enumerate(stocks)
        ]
        self.of: dict[int, _Served] = {}
        number = 0
        for turn in range(max(stock.shares for stock in stocks)):
            for store in self.stores:
                if turn < store.stock.shares:
                    store.numbers.append(number)
                    self.of[number] = store
                    number += 1
        self.schedule = Schedule(needed, first, self.end, block, self.sources_at(0.0), book.of)
        self.late = {store.stock.opens for store in self.stores if store.stock.opens > 0}
        """When more shares will be known; until then it is not certain that there are too few."""
        self.flights: dict[Request, _Flight] = {}
        self.ready: set[int] = set()
        self.plan_at = start
        self.planned_for = first
        self.writes = False
        self.wrote_at: float | None = None
        self.outcome = Outcome()
        # What the referee knows.
        self.good: dict[int, set[int]] = {}
        self.damaged: set[tuple[int, int]] = set()

    def sources_at(self, opens: float) -> list[Source]:
        return [
            Source(number, store.name, store.stock.cost, connections=store.stock.connections)
            for number, store in sorted(self.of.items())
            if store.stock.opens == opens
        ]

    def at(self, when: float, event: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.events, (when, self.count, event))

    def run(self) -> Outcome:
        for opens in sorted(self.late):
            self.at(self.start + opens, partial(self.opened, opens))
        for store in self.stores:
            for begin, _ in store.stock.down:
                self.at(self.start + begin, partial(self.went_down, store))
        self.go_on()
        while self.index < self.end:
            assert self.events, "nothing will ever happen"
            self.now, _, event = heapq.heappop(self.events)
            assert self.now - self.start < PATIENCE, "the download does not end"
            event()
        self.outcome.seconds = self.now - self.start
        for flight in list(self.flights.values()):
            self.land(flight, failed=True)
        assert self.schedule.plan(self.end, self.now) == []
        assert self.outcome.completed == Counter(range(self.first, self.end)), "each segment exactly once"
        return self.outcome

    # The thread that writes.

    def go_on(self) -> None:
        """Plan, start and write until there is something to wait for."""
        while not self.writes and self.index < self.end:
            for request in self.plan():
                self.enter(self.flights[request])
            self.outcome.held = max(self.outcome.held, len(self.touched() | self.ready))
            if self.index not in self.ready:
                return
            self.writes = True
            if self.writing:
                self.at(self.now + self.writing, self.written)
            else:
                self.written(more=False)

    def written(self, *, more: bool = True) -> None:
        self.writes = False
        self.ready.discard(self.index)
        if self.wrote_at is not None:
            self.outcome.pause = max(self.outcome.pause, self.now - self.wrote_at)
        self.wrote_at = self.now
        self.index += 1
        if more:
            self.go_on()

    def plan(self) -> list[Request]:
        if self.now < self.plan_at and self.index - self.planned_for < self.schedule.window:
            return []
        self.plan_at, self.planned_for = self.now + PULSE, self.index
        self.at(self.plan_at, self.go_on)
        for flight in list(self.flights.values()):
            if flight.moved is not None and self.now - flight.moved > self.stall:
                self.leave(flight)
                self.book.stood_still(flight.store.name, self.now)
                self.drop(flight, for_good=True)
        silent = {request for request, flight in self.flights.items() if self.silence(flight) >= 1.0}
        try:
            requests = self.schedule.plan(self.index, self.now)
        except NotEnough:
            if not self.late:
                raise
            return []
        for request in requests:
            self.referee(request, silent)
            self.flights[request] = _Flight(request, self.of[request.number])
        return requests

    def silence(self, flight: _Flight) -> float:
        return 0.0 if flight.moved is None else self.now - flight.moved

    def touched(self) -> set[int]:
        """Segments that requests under way owe and that are wanted."""
        return {
            segment
            for request in self.flights
            for segment in range(request.first, request.end)
            if self.schedule.is_open(segment)
        }

    def referee(self, request: Request, silent: Iterable[Request]) -> None:
        """Assert what must hold of each request, whatever has happened."""
        self.outcome.asked.append((self.now - self.start, request))
        self.outcome.reasons[request.why] += request.count
        assert request.number in self.of
        for segment in range(request.first, request.end):
            assert self.index <= segment < min(self.end, self.index + AHEAD), "too far ahead"
            assert self.outcome.completed[segment] == 0, "asked for though it is complete"
            assert (request.number, segment) not in self.damaged, "asked again for a block that does not prove"
            assert request.number not in self.good.get(segment, ()), "asked again for a block that has come"
            for other, flight in self.flights.items():
                late = other.number == request.number and other.first <= segment < other.end
                assert not late or segment < other.first + flight.sent // self.block, (
                    "asked while it may still come"
                )
        if request.why == "hedge":
            self.outcome.hedged += request.count
            asked = range(request.first, request.end)
            if any(other.first < request.end and request.first < other.end for other in silent):
                self.outcome.lost += len(asked)

    def drop(self, flight: _Flight, *, for_good: bool) -> None:
        self.land(flight, failed=True)
        self.schedule.failed(flight.request, self.now, for_good=for_good)
        self.plan_at = self.now

    def land(self, flight: _Flight, *, failed: bool = False) -> None:
        flight.known = False
        del self.flights[flight.request]
        self.book.over(flight.request, self.now, failed=failed)

    def opened(self, opens: float) -> None:
        self.late.remove(opens)
        for source in self.sources_at(opens):
            self.schedule.add(source)
        self.go_on()

    # The threads of the requests.

    def enter(self, flight: _Flight) -> None:
        store = flight.store
        if store.inside < store.stock.connections:
            self.begin(flight)
        else:
            store.waiting.append(flight)

    def begin(self, flight: _Flight) -> None:
        if not flight.known:
            return
        store = flight.store
        flight.inside = True
        store.inside += 1
        store.begun.append(flight)
        flight.moved = self.now
        self.book.asked(flight.request, store.name, flight.request.count * self.block, self.now)
        self.schedule.began(flight.request, self.now)
        latency = store.stock.latency
        if store.stock.tail:
            latency *= min(LONGEST, store.chance.paretovariate(store.stock.tail))
        self.at(self.now + latency, partial(self.answer, flight))

    def leave(self, flight: _Flight) -> None:
        """Give the connection back, once."""
        if not flight.inside:
            return
        flight.inside = False
        store = flight.store
        store.inside -= 1
        store.begun.remove(flight)
        while store.waiting and store.inside < store.stock.connections:
            self.begin(store.waiting.popleft())

    def answer(self, flight: _Flight) -> None:
        store = flight.store
        if not flight.inside:
            return
        if store.stock.gone or store.stock.is_down(self.now - self.start):
            self.fail(flight)
            return
        flight.answered = self.now
        store.turns.append(flight)
        self.serve(store)

    def went_down(self, store: _Served) -> None:
        for flight in list(store.begun):
            if flight.answered is not None:
                self.fail(flight)

    def fail(self, flight: _Flight) -> None:
        if flight in flight.store.turns:
            flight.store.turns.remove(flight)
        flight.answered = None
        self.leave(flight)
        if flight.known:
            self.drop(flight, for_good=flight.store.stock.gone)
        self.go_on()

    def serve(self, store: _Served) -> None:
        """Bring the next piece, if there is one to bring and the store is free."""
        if store.busy or not store.turns:
            return
        at, stock = self.now - self.start, store.stock
        if stock.hangs_after is not None and store.brought >= stock.hangs_after:
            return
        wake = [flight.ready(stock.first_window, stock.latency) for flight in store.turns]
        rate = self.rate(store)
        if not rate:
            wake = [self.start + since + 1e-6 for since, _ in stock.steps if since > at]
        elif min(wake) <= self.now:
            flight = store.turns[next(place for place, ready in enumerate(wake) if ready <= self.now)]
            store.turns.remove(flight)
            store.busy = True
            size = min(PIECE, self.block - flight.sent % self.block)
            self.at(self.now + size / rate, partial(self.piece, flight, size))
            return
        if wake:
            self.at(min(wake), partial(self.serve, store))

    def rate(self, store: _Served) -> float:
        """What a store gives now: if the uplink is narrow, nobody has more than others who want more."""
        at = self.now - self.start
        wanted = store.stock.rate_at(at)
        if self.uplink is None:
            return wanted
        left, rates = (
            self.uplink,
            sorted(each.stock.rate_at(at) for each in self.stores if each.turns or each.busy),
        )
        for place, rate in enumerate(rates):
            fair = left / (len(rates) - place)
            if rate >= fair:
                return min(wanted, fair)
            left -= rate
        return wanted

    def piece(self, flight: _Flight, size: int) -> None:
        store = flight.store
        store.busy = False
        if not flight.inside and flight.answered is None:  # it failed while this was on its way
            self.serve(store)
            return
        store.brought += size
        self.outcome.fetched[store.name] += size
        flight.sent += size
        if flight.known:
            flight.moved = self.now
            self.book.came(flight.request, size, self.now)
            self.schedule.heard(flight.request, size, self.now)
        goes_on = True
        if flight.sent % self.block == 0:
            goes_on = self.take(flight, flight.request.first + flight.sent // self.block - 1)
        if goes_on and flight.sent < flight.request.count * self.block:
            store.turns.append(flight)
        else:
            self.done(flight)
        self.serve(store)

    def take(self, flight: _Flight, segment: int) -> bool:
        """Take in one block; False if nobody waits for the rest."""
        if not flight.known:
            return False
        request = flight.request
        if flight.store.damages(request.number, segment):
            self.damaged.add((request.number, segment))
            self.schedule.bad(request, segment)
            self.plan_at = self.now
            self.at(self.now, self.go_on)
            return True
        have = self.good.setdefault(segment, set())
        assert request.number not in have
        have.add(request.number)
        before = self.outcome.completed[segment]
        assert self.schedule.is_open(segment) == (not before)
        if self.schedule.good(request, segment):
            assert len(have) == self.needed, "as many blocks as needed"
            self.outcome.completed[segment] += 1
            self.ready.add(segment)
            self.at(self.now, self.go_on)
        return self.schedule.wants(request)

    def done(self, flight: _Flight) -> None:
        self.leave(flight)
        if flight.known:
            self.land(flight, failed=self.schedule.owes(flight.request))
            self.schedule.over(flight.request)
            self.plan_at = self.now
            self.at(self.now, self.go_on)
