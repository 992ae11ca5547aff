"""Fetching an object: shares in, proved plaintext out, in order, at the end of a file that only grows.

git-annex hashes a file while it grows, so nothing is written out of order, pre-allocated or rewritten, except
where a part that was there before turns out to be wrong.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial

from blake3 import blake3

from annex_remote.errors import Busy, Cancelled, Damaged, NotEnough, Unavailable
from annex_remote.shares.codec import SegmentCodec
from annex_remote.shares.crypto import Cipher, ObjectKeys
from annex_remote.shares.layout import SEGMENT_SIZE
from annex_remote.transfer.figures import LEAST_OVERDUE, Book, Figures
from annex_remote.transfer.keys import content_is_fixed
from annex_remote.transfer.opening import OpenShare
from annex_remote.transfer.pipeline import CORES, in_order
from annex_remote.transfer.presence import GRACE, Look, Sighting
from annex_remote.transfer.schedule import USUAL_FIRST_BYTE, Request, Schedule, Source
from annex_remote.transfer.sites import Clock, Notes, Site, explain, shares
from annex_remote.transfer.trace import Line, Trace
from annex_remote.workers import workers

__all__ = ["Download"]

LATE = 5.0
"""Seconds after which a store that has still not answered is reported."""

BUSY = min(1.0, 0.7 * CORES)
"""Processor seconds a second from which on this program keeps the machine busy: its threads share a lock."""

PULSE = 0.1
"""Seconds between looks at who is overdue, while nothing happens."""


@dataclass
class Download:
    """One object to fetch; `run` does it. `progress` gets the bytes that are in the file, proved.

    `book` knows how the stores have answered so far, and learns from this; `trace` gets what happens.
    """

    annex_key: str
    path: str
    read_secret: bytes
    verify_key: bytes
    needed: int
    """The grid's; an object's own header has the last word."""
    sites: Sequence[Site]
    stall: float
    notes: Notes
    progress: Callable[[int], None]
    cancelled: threading.Event
    clock: Clock = time.monotonic
    book: Book = field(default_factory=Book)
    trace: Trace = field(default_factory=Trace)

    def run(self) -> None:
        """Fetch the object into `path`, going on from what is there.

        Raises `NotEnough` if no `needed` shares that belong together can be read, naming stores and causes.
        What is in the file then is proved, and the next run goes on from it. What is missing or damaged but
        did not prevent the download is in `notes`.
        """
        self.trace.key, self.trace.at = self.annex_key, time.time()
        try:
            self._run()
        except BaseException as error:
            self.trace.end(explain(error) if isinstance(error, Exception) else type(error).__name__)
            raise
        self.trace.end("done")

    def _run(self) -> None:
        look = self._look()
        try:
            self._rebuild(look)
        finally:
            look.abandon()

    def _rebuild(self, look: Look) -> None:
        group = look.wait(_decodable, grace=GRACE, cancelled=self.cancelled).decodable()
        if not group:
            raise self._not_enough(look.sighting)
        if group[0].header.layout.segments > 1:
            look.ask_rest()
        try:
            _Fetch(self, group, look).run()
        except NotEnough as error:
            look.late(LATE).note(self.notes)
            raise NotEnough("; ".join([str(error), *self.notes.lines])) from error
        look.late(LATE).note(self.notes)

    def _look(self) -> Look:
        """Open shares: as many as it takes, of the stores that answer best, and one more if that is not known.

        Under a key that may have several contents all stores are asked, as the content with most shares counts.
        """
        now = self.clock()
        known = {site.name: self.book.of(site.name, now) for site in self.sites}

        def rank(site: Site) -> tuple[bool, float, float, int]:
            figures = known[site.name]
            return figures.resting, site.price, (figures.first_byte or USUAL_FIRST_BYTE) * site.cost, site.number

        sites = sorted(self.sites, key=rank)
        asked = [known[site.name] for site in sites[: self.needed]]
        certain = all(figures.settled and not figures.resting for figures in asked)
        return Look(
            sites,
            ObjectKeys(self.read_secret, self.annex_key, Cipher.NONE).object_id,
            self.verify_key,
            needed=self.needed,
            stall=self.stall,
            with_hashes=True,
            at_first=self.needed + (not certain) if content_is_fixed(self.annex_key) else None,
            patience=min(self.stall / 3, max([LEAST_OVERDUE, *(figures.late or 0.0 for figures in asked)])),
            book=self.book,
            trace=self.trace,
            clock=self.clock,
        )

    def _not_enough(self, sighting: Sighting) -> NotEnough:
        causes = Notes()
        sighting.note(causes)
        found = f"{shares(len(sighting.shares))} found, {self.needed} are needed"
        return NotEnough("; ".join([found, *causes.lines]))


def _decodable(sighting: Sighting) -> bool:
    return bool(sighting.decodable())


@dataclass
class _Flight:
    """A request under way."""

    share: OpenShare
    line: Line
    moved: float | None = None
    """When it last brought something, or was sent; None while it waits for its turn."""
    leave: Callable[[], None] | None = None
    """Lets the next one take its turn, if this one hangs."""


class _Fetch:
    """The driver of one download: carries out what a `Schedule` decides, and writes what comes of it."""

    def __init__(self, download: Download, group: Sequence[OpenShare], look: Look) -> None:
        self._download = download
        self._clock = download.clock
        self._book = download.book
        self._trace = download.trace
        self._look = look
        self._shares = {share.site.number: share for share in group}
        header = group[0].header
        self._layout = header.layout
        self._header = header
        keys = ObjectKeys(download.read_secret, download.annex_key, header.cipher)
        self._codec = SegmentCodec(keys, self._layout)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._blocks: dict[int, dict[int, memoryview]] = {}
        """Segment to its proved blocks by share number, until it is decoded."""
        self._ready: dict[int, tuple[bytes, bytes]] = {}
        """Segment to nonce and plaintext, until it is written."""
        self._flights: dict[Request, _Flight] = {}
        self._damaged: Counter[int] = Counter()
        """Share number to how many of its blocks did not prove."""
        self._errors: dict[int, Exception] = {}
        """Share number to how its last request failed, unless it has brought something since."""
        self._over = threading.Event()
        """Set when nobody waits for any request any more."""
        self._failure: Exception | None = None
        self._plan_at = 0.0
        """When it is to be decided again what to ask for."""
        self._planned_for = 0
        """The segment that was to be written when it was last decided."""
        self._busy_from = time.process_time(), time.monotonic()
        """Processor time, and the time, when it was last seen how busy this program is."""
        self._trace.size, self._trace.needed = self._layout.size, self._layout.needed

    def run(self) -> None:
        """Write the object; if a part that was there before was wrong, write it again from the start."""
        descriptor = os.open(self._download.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if not self._go_on(descriptor):
                self._trace.resumed = 0
                if not self._write_from(descriptor, 0, self._hasher()):
                    raise Damaged("the shares decode to other content than their signed header says")
        finally:
            os.close(descriptor)
            self._over.set()
            with self._lock:
                for request in list(self._flights):
                    self._land(request, "not wanted")  # nobody waits for what is still under way
                self._blocks.clear()
                self._ready.clear()
                self._take_stock()

    def _take_stock(self) -> None:
        """Note what is wrong with shares; a failure that asking again has mended is none of that."""
        for number, error in self._errors.items():
            self._note(number, explain(error))
        for number, count in self._damaged.items():
            self._note(number, f"{count} of its blocks damaged")

    def _hasher(self) -> blake3:
        return self._codec.keys.content_hasher(self._layout.size)

    def _go_on(self, descriptor: int) -> bool:
        """Go on from the whole segments that are in the file; False if they were not those of this object.

        The last of them is fetched as well, and tells at once whether the file is another one's; any other
        difference shows at the end, from the content id.
        """
        nonces = self._prefix(descriptor)
        if not nonces:
            return False
        hasher = self._hasher()
        self._trace.resumed = min(len(nonces) * SEGMENT_SIZE, self._layout.size)
        if len(nonces) == self._layout.segments:
            for nonce in nonces:
                hasher.update(nonce)
            return bool(hasher.digest() == self._header.content_id)
        for nonce in nonces[:-1]:
            hasher.update(nonce)
        return self._write_from(descriptor, len(nonces) - 1, hasher, nonces[-1])

    def _prefix(self, descriptor: int) -> list[bytes]:
        """Return the nonces of the whole segments that are in the file."""
        size = os.fstat(descriptor).st_size
        if size > self._layout.size:
            return []
        segments = self._layout.segments if size == self._layout.size else size // SEGMENT_SIZE

        def nonce(index: int) -> bytes:
            data = os.pread(descriptor, self._layout.plain_length(index), index * SEGMENT_SIZE)
            return self._codec.keys.nonce(index, self._layout.is_last(index), data)

        return list(in_order(nonce, range(segments), CORES + 1 if segments > 1 else 1))

    def _write_from(self, descriptor: int, first: int, hasher: blake3, there: bytes | None = None) -> bool:
        """Fetch and write all segments from `first` on; True if the content id is right in the end.

        `hasher` has taken in the nonces of the segments before. If `there` is the nonce of the segment `first` as
        it is in the file, that one is compared, and not written again.
        """
        layout = self._layout
        begin = first + (there is not None)
        os.ftruncate(descriptor, min(os.fstat(descriptor).st_size, begin * SEGMENT_SIZE, layout.size))
        os.lseek(descriptor, 0, os.SEEK_END)
        self._begin(first)
        for index in range(first, layout.segments):
            nonce, data = self._next(index)
            if index < begin and nonce != there:
                return False
            hasher.update(nonce)
            if index < begin:
                continue
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            done = index * SEGMENT_SIZE + len(data)
            self._trace.wrote(done)
            self._download.progress(done)
        return bool(hasher.digest() == self._header.content_id)

    def _begin(self, first: int) -> None:
        with self._lock:
            for request in list(self._flights):
                self._land(request, "not wanted")
            self._blocks.clear()
            self._ready.clear()
            self._schedule = Schedule(
                self._layout.needed,
                first,
                self._layout.segments,
                self._layout.block_length(0),
                [_source(share) for share in self._shares.values()],
                self._figures,
            )
            self._plan_at = 0.0

    def _figures(self, store: str, now: float) -> Figures:
        return self._book.of(store, now)

    # On the thread that writes.

    def _next(self, index: int) -> tuple[bytes, bytes]:
        """Return nonce and plaintext of segment `index`, keeping others under way meanwhile."""
        while True:
            with self._lock:
                if self._failure is not None:
                    raise self._failure
                started = self._plan(index)
                if index in self._ready and not started:
                    return self._ready.pop(index)
                if not started:
                    self._changed.wait(PULSE)
            if self._download.cancelled.is_set():
                raise Cancelled("the download was called off")
            for request in started:
                if self._shares[request.number].has(request.end):
                    self._carry_out(request, nullcontext(_nothing))  # nothing is to be waited for
                else:
                    turn = self._shares[request.number].site.gate.pass_(self._over)
                    workers.start(partial(self._carry_out, request, turn))

    def _plan(self, index: int) -> list[Request]:
        """Decide what to ask for, if something has happened since that was last decided, or nothing for long."""
        now = self._clock()
        if now < self._plan_at and index - self._planned_for < self._schedule.window:
            return []
        self._plan_at, self._planned_for = now + PULSE, index
        is_over = self._look.is_over
        for share in self._look.late().shares:
            if share.site.number not in self._shares and share.header == self._header:
                self._shares[share.site.number] = share
                self._schedule.add(_source(share))
        self._give_up_stalled(now)
        self._see_how_busy()
        try:
            requests = self._schedule.plan(index, now)
        except NotEnough:
            if is_over:
                raise
            self._look.ask_rest()
            return []  # a share that has not answered yet may still help
        for request in requests:
            share = self._shares[request.number]
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
        stall = self._download.stall
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
        self._download.notes.add(self._shares[number].site.name, f"share {number}: {text}")

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
        share = self._shares[request.number]
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
        share = self._shares[request.number]
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
            if flight is None or self._download.cancelled.is_set():
                return False
            if block is None:
                self._damaged[request.number] += 1
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
            decoded = self._codec.decode(index, blocks)
        except Exception as error:  # noqa: BLE001 # raised where the object is written
            # The segment is settled, so nobody would ask again. As for `Damaged`: all its blocks are what was
            # signed, and whoever signed them sealed something else.
            with self._lock:
                self._failure = error
                self._changed.notify()
            return False
        with self._lock:
            self._ready[index] = decoded
            self._changed.notify()
        return wanted


def _nothing() -> None:
    """Stands for leaving a gate where there was none."""


def _source(share: OpenShare) -> Source:
    site = share.site
    return Source(site.number, site.name, site.cost, site.price, site.connections)
