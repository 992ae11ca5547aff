"""The driver of a download: carries out what a `Schedule` decides, and gives an object segment after segment."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from annex_remote.errors import Busy, Cancelled, NotEnough, Unavailable
from annex_remote.transfer.figures import LEAST_OVERDUE, Book, Figures
from annex_remote.transfer.opening import OpenShare
from annex_remote.transfer.pipeline import CORES
from annex_remote.transfer.presence import Look
from annex_remote.transfer.schedule import AHEAD, Request, Schedule, Source
from annex_remote.transfer.sites import Clock, Notes, explain
from annex_remote.transfer.trace import Line, Trace
from annex_remote.workers import workers

__all__ = ["Fetch", "Fetching"]

BUSY = min(1.0, 0.7 * CORES)
"""Processor seconds a second from which on this program keeps the machine busy: its threads share a lock."""

PULSE = 0.1
"""Seconds between looks at who is overdue, while nothing happens."""

T = TypeVar("T")


@dataclass
class Fetching:
    """What goes for all that is fetched for one piece of work."""

    stall: float
    """Seconds without a byte after which a store is given up."""
    notes: Notes
    cancelled: threading.Event
    clock: Clock = time.monotonic
    book: Book = field(default_factory=Book)
    """Knows how the stores have answered so far, and learns from this."""
    trace: Trace = field(default_factory=Trace)
    """Gets what happens."""


@dataclass
class _Flight:
    """A request under way."""

    share: OpenShare
    line: Line
    moved: float | None = None
    """When it last brought something, or was sent; None while it waits for its turn."""
    leave: Callable[[], None] | None = None
    """Lets the next one take its turn, if this one hangs."""


class Fetch(Generic[T]):
    """Gives the segments of one object, in order, as what `make` returns for a segment and its proved blocks.

    `group` are shares that belong together, `needed` of them at least; `look` may bring others. `make` is called
    on many threads, and gets `needed` blocks or more, by share number. After `close` nothing waits for any
    request.
    """

    def __init__(
        self,
        group: Sequence[OpenShare],
        look: Look,
        make: Callable[[int, Mapping[int, memoryview]], T],
        fetching: Fetching,
    ) -> None:
        self._make = make
        self._fetching = fetching
        self._clock = fetching.clock
        self._book = fetching.book
        self._trace = fetching.trace
        self._look = look
        self.shares = {share.site.number: share for share in group}
        """By number; all that belong to the object and were seen so far."""
        self._header = group[0].header
        self._layout = self._header.layout
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._blocks: dict[int, dict[int, memoryview]] = {}
        """Segment to its proved blocks by share number, until something is made of them."""
        self._ready: dict[int, T] = {}
        """Segment to what was made of it, until it is taken."""
        self._flights: dict[Request, _Flight] = {}
        self.damaged: Counter[int] = Counter()
        """Share number to how many of its blocks did not prove."""
        self._errors: dict[int, Exception] = {}
        """Share number to how its last request failed, unless it has brought something since."""
        self._over = threading.Event()
        """Set when nobody waits for any request any more."""
        self._failure: Exception | None = None
        self._plan_at = 0.0
        """When it is to be decided again what to ask for."""
        self._planned_for = 0
        """The segment that was to be taken when it was last decided."""
        self._busy_from = time.process_time(), time.monotonic()
        """Processor time, and the time, when it was last seen how busy this program is."""
        self.most_ahead = AHEAD
        """Segments that may be under way at most."""
        self._trace.size, self._trace.needed = self._layout.size, self._layout.needed

    def segments(self, first: int = 0, until: Callable[[int], bool] | None = None) -> Iterator[T]:
        """Yield what is made of all segments from `first` on; what was under way before is given up.

        With `until`, the last one is that before the first for which it is true; it is asked all the time. Raises
        `NotEnough`, `Cancelled`, and what `make` raises.
        """
        with self._lock:
            self._forget()
            self._schedule = Schedule(
                self._layout.needed,
                first,
                self._layout.segments,
                self._layout.block_length(0),
                [_source(share) for share in self.shares.values()],
                self._figures,
            )
            self._plan_at = 0.0
        for index in range(first, self._layout.segments):
            made = self._next(index, until)
            if made is None:
                return
            yield made

    def close(self) -> None:
        """Wait for nothing any more, and note what is wrong with shares.

        A failure that asking again has mended is none of that.
        """
        self._over.set()
        with self._lock:
            self._forget()
            for number, error in self._errors.items():
                self._note(number, explain(error))
            for number, count in self.damaged.items():
                self._note(number, f"{count} of its blocks damaged")

    def _forget(self) -> None:
        for request in list(self._flights):
            self._land(request, "not wanted")  # nobody waits for what is still under way
        self._blocks.clear()
        self._ready.clear()

    def _figures(self, store: str, now: float) -> Figures:
        return self._book.of(store, now)

    # On the thread that takes the segments.

    def _next(self, index: int, until: Callable[[int], bool] | None) -> T | None:
        """Return what is made of segment `index`, keeping others under way meanwhile; None if it is not wanted."""
        while True:
            if until is not None and until(index):
                return None
            with self._lock:
                if self._failure is not None:
                    raise self._failure
                started = self._plan(index)
                if index in self._ready and not started:
                    return self._ready.pop(index)
                if not started:
                    self._changed.wait(PULSE)
            if self._fetching.cancelled.is_set():
                raise Cancelled("the download was called off")
            for request in started:
                if self.shares[request.number].has(request.end):
                    self._carry_out(request, nullcontext(_nothing))  # nothing is to be waited for
                else:
                    turn = self.shares[request.number].site.gate.pass_(self._over)
                    workers.start(partial(self._carry_out, request, turn))

    def _plan(self, index: int) -> list[Request]:
        """Decide what to ask for, if something has happened since that was last decided, or nothing for long."""
        now = self._clock()
        if now < self._plan_at and index - self._planned_for < self._schedule.window:
            return []
        self._plan_at, self._planned_for = now + PULSE, index
        is_over = self._look.is_over
        for share in self._look.late().shares:
            if share.site.number not in self.shares and share.header == self._header:
                self.shares[share.site.number] = share
                self._schedule.add(_source(share))
        self._give_up_stalled(now)
        self._see_how_busy()
        self._schedule.most_ahead = self.most_ahead
        try:
            requests = self._schedule.plan(index, now)
        except NotEnough:
            if is_over:
                raise
            self._look.ask_rest()
            return []  # a share that has not answered yet may still help
        for request in requests:
            share = self.shares[request.number]
            line = self._trace.ask(share.site.name, request.number, request.first, request.count, request.why)
            self._flights[request] = _Flight(share, line)
        return requests

    def _see_how_busy(self) -> None:
        used, then = self._busy_from
        now = time.monotonic()
        if now - then >= PULSE:
            self._busy_from = time.process_time(), now
            self._schedule.is_busy = self._busy_from[0] - used > BUSY * (now - then)

    def _give_up_stalled(self, now: float) -> None:
        stall = self._fetching.stall
        for request, flight in list(self._flights.items()):
            quiet = 0.0 if flight.moved is None else now - flight.moved
            if quiet > min(LEAST_OVERDUE, stall / 3):
                self._look.ask_rest()  # others may have to help
            if quiet > stall:
                self._book.stood_still(flight.share.site.name, now)
                self._drop(request, Unavailable(f"no progress for {stall:g} seconds"), for_good=True)

    def _drop(self, request: Request, error: Exception, *, for_good: bool) -> None:
        self._land(request, explain(error), failed=True)
        self._schedule.failed(request, self._clock(), for_good=for_good)
        self._errors[request.number] = error
        self._look.ask_rest()
        self._plan_at = 0.0

    def _land(self, request: Request, how: str, *, failed: bool = False) -> None:
        """Wait for a request no longer: it is over, or what comes of it is of no use."""
        flight = self._flights.pop(request)
        if flight.leave is not None:
            flight.leave()  # whoever hangs does not hold up others
        flight.line.how, flight.line.ended = how, self._trace.now()
        self._book.over(request, self._clock(), failed=failed or how != "done")

    def _note(self, number: int, text: str) -> None:
        self._fetching.notes.add(self.shares[number].site.name, f"share {number}: {text}")

    # On the threads of the requests.

    def _carry_out(self, request: Request, turn: AbstractContextManager[Callable[[], None]]) -> None:
        try:
            with turn as leave:
                if self._begun(request, leave):
                    self._read(request)
        except Exception as error:  # noqa: BLE001 # becomes the share's failure
            with self._lock:
                if request in self._flights:
                    self._drop(request, error, for_good=not isinstance(error, Busy | Unavailable))
                self._changed.notify()

    def _read(self, request: Request) -> None:
        share = self.shares[request.number]
        for index, block in share.blocks(request.first, request.count, partial(self._heard, request)):
            if not self._take(request, index, block):
                break
        with self._lock:
            if request in self._flights:
                self._land(request, "not wanted" if self._schedule.owes(request) else "done")
                self._schedule.over(request)
                self._plan_at = 0.0
                self._changed.notify()

    def _begun(self, request: Request, leave: Callable[[], None]) -> bool:
        """Note that the request is sent now; False if nobody waits for it any more."""
        share = self.shares[request.number]
        with self._lock:
            flight = self._flights.get(request)
            if flight is None:
                return False
            if not self._schedule.wants(request):  # others have brought it while this one waited for its turn
                self._land(request, "not wanted")
                self._schedule.over(request)
                return False
            flight.moved = now = self._clock()
            flight.leave = leave
            flight.line.began = self._trace.now()
            if not share.has(request.end):
                self._book.asked(request, share.site.name, request.count * self._layout.block_length(0), now)
            self._schedule.began(request, now)
        return True

    def _heard(self, request: Request, count: int) -> None:
        with self._lock:
            flight = self._flights.get(request)
            if flight is None:
                return
            flight.moved = now = self._clock()
            if flight.line.heard is None:
                flight.line.heard = self._trace.now()
            flight.line.bytes += count
            self._book.came(request, count, now)
            self._schedule.heard(request, count, now)

    def _take(self, request: Request, index: int, block: memoryview | None) -> bool:
        """Take in one block; False if nobody waits for the rest of this request any more."""
        with self._lock:
            flight = self._flights.get(request)
            if flight is None or self._fetching.cancelled.is_set():
                return False
            if block is None:
                self.damaged[request.number] += 1
                flight.line.bad += 1
                self._schedule.bad(request, index)
                self._plan_at = 0.0
                self._changed.notify()
                return True
            self._errors.pop(request.number, None)
            if self._schedule.is_open(index):
                self._blocks.setdefault(index, {})[request.number] = block
            if not self._schedule.good(request, index):
                return self._schedule.wants(request)
            blocks = self._blocks.pop(index)
            wanted = self._schedule.wants(request)
        try:
            made = self._make(index, blocks)
        except Exception as error:  # noqa: BLE001 # raised where the segments are taken
            # The segment is settled, so nobody would ask again. As for `Damaged`: all its blocks are what was
            # signed, and whoever signed them sealed something else.
            with self._lock:
                self._failure = error
                self._changed.notify()
            return False
        with self._lock:
            self._ready[index] = made
            self._changed.notify()
        return wanted


def _nothing() -> None:
    """Stands for leaving a gate where there was none."""


def _source(share: OpenShare) -> Source:
    site = share.site
    return Source(site.number, site.name, site.cost, site.price, site.connections)
