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
from dataclasses import dataclass
from functools import partial

from blake3 import blake3

from annex_remote.errors import Cancelled, Damaged, NotEnough, Unavailable
from annex_remote.shares.codec import SegmentCodec
from annex_remote.shares.crypto import Cipher, ObjectKeys
from annex_remote.shares.layout import SEGMENT_SIZE
from annex_remote.transfer.opening import OpenShare
from annex_remote.transfer.pipeline import CORES, in_order
from annex_remote.transfer.plan import FetchPlan, Request
from annex_remote.transfer.presence import GRACE, Look, Sighting
from annex_remote.transfer.sites import TICK, Clock, Notes, Site, explain, shares
from annex_remote.workers import workers

__all__ = ["Download"]

WINDOW = 4
"""Segments in one request to a share: 4 MiB of plaintext."""

AHEAD = 4 * WINDOW
"""Segments that may be under way or wait to be written: bounds the memory of a download."""

LATE = 5.0
"""Seconds after which a store that has still not answered is reported."""


@dataclass
class Download:
    """One object to fetch; `run` does it. `progress` gets the bytes that are in the file, proved."""

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

    def run(self) -> None:
        """Fetch the object into `path`, going on from what is there.

        Raises `NotEnough` if no `needed` shares that belong together can be read, naming stores and causes.
        What is in the file then is proved, and the next run goes on from it. What is missing or damaged but
        did not prevent the download is in `notes`.
        """
        object_id = ObjectKeys(self.read_secret, self.annex_key, Cipher.NONE).object_id
        look = Look(
            self.sites,
            object_id,
            self.verify_key,
            needed=self.needed,
            stall=self.stall,
            with_hashes=True,
            clock=self.clock,
        )
        group = look.wait(_decodable, grace=GRACE, cancelled=self.cancelled).decodable()
        if not group:
            raise self._not_enough(look.sighting)
        try:
            _Fetch(self, group, look).run()
        except NotEnough as error:
            look.late(LATE).note(self.notes)
            raise NotEnough("; ".join([str(error), *self.notes.lines])) from error
        look.late(LATE).note(self.notes)

    def _not_enough(self, sighting: Sighting) -> NotEnough:
        causes = Notes()
        sighting.note(causes)
        found = f"{shares(len(sighting.shares))} found, {self.needed} are needed"
        return NotEnough("; ".join([found, *causes.lines]))


def _decodable(sighting: Sighting) -> bool:
    return bool(sighting.decodable())


class _Fetch:
    """The driver of one download: starts the requests of a `FetchPlan` on threads and writes what they bring."""

    def __init__(self, download: Download, group: Sequence[OpenShare], look: Look) -> None:
        self._download = download
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
        self._moved: dict[Request, float] = {}
        """Requests under way, to when they last brought something."""
        self._damaged: Counter[int] = Counter()
        """Share number to how many of its blocks did not prove."""
        self._failure: Exception | None = None

    def run(self) -> None:
        """Write the object; if a part that was there before was wrong, write it again from the start."""
        descriptor = os.open(self._download.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            first, hasher = self._prefix(descriptor)
            self._write_from(descriptor, first, hasher)
            if hasher.digest() != self._header.content_id and first:
                hasher = self._codec.keys.content_hasher(self._layout.size)
                self._write_from(descriptor, 0, hasher)
            if hasher.digest() != self._header.content_id:
                raise Damaged("the shares decode to other content than their signed header says")
        finally:
            os.close(descriptor)
            with self._lock:
                self._moved.clear()  # nobody waits for the requests that are still under way
            for number, count in self._damaged.items():
                self._note(number, f"{count} of its blocks damaged")

    def _prefix(self, descriptor: int) -> tuple[int, blake3]:
        """Return how many whole segments are in the file, and a content hasher that has taken them in.

        Whether they are the right ones is known at the end, from the content id: no share needs to be read
        to find out.
        """
        size = os.fstat(descriptor).st_size
        hasher = self._codec.keys.content_hasher(self._layout.size)
        if size > self._layout.size:
            return 0, hasher
        segments = self._layout.segments if size == self._layout.size else size // SEGMENT_SIZE

        def nonce(index: int) -> bytes:
            data = os.pread(descriptor, self._layout.plain_length(index), index * SEGMENT_SIZE)
            return self._codec.keys.nonce(index, self._layout.is_last(index), data)

        for piece in in_order(nonce, range(segments), CORES + 1 if segments > 1 else 1):
            hasher.update(piece)
        return segments, hasher

    def _write_from(self, descriptor: int, first: int, hasher: blake3) -> None:
        """Fetch and write all segments from `first` on, feeding their nonces to `hasher`."""
        os.ftruncate(descriptor, min(os.fstat(descriptor).st_size, first * SEGMENT_SIZE, self._layout.size))
        os.lseek(descriptor, 0, os.SEEK_END)
        self._plan = self._new_plan(first)
        for index in range(first, self._layout.segments):
            nonce, data = self._next(index)
            hasher.update(nonce)
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            self._download.progress(index * SEGMENT_SIZE + len(data))

    def _new_plan(self, first: int) -> FetchPlan:
        by_cost = sorted(self._shares.values(), key=lambda share: (share.site.cost, share.site.number))
        numbers = [share.site.number for share in by_cost]
        return FetchPlan(self._layout.needed, numbers, first, self._layout.segments, WINDOW)

    # On the thread that writes.

    def _next(self, index: int) -> tuple[bytes, bytes]:
        """Return nonce and plaintext of segment `index`, keeping `AHEAD` segments under way meanwhile."""
        while True:
            with self._lock:
                if index in self._ready:
                    return self._ready.pop(index)
                if self._failure is not None:
                    raise self._failure
                self._give_up_stalled()
                started = self._start_requests(index + AHEAD)
                if not started:
                    self._changed.wait(TICK)
            if self._download.cancelled.is_set():
                raise Cancelled("the download was called off")
            for request in started:
                workers.start(partial(self._fetch, request))

    def _start_requests(self, horizon: int) -> list[Request]:
        for share in self._look.late().shares:
            number = share.site.number
            if number not in self._shares and share.header == self._header:
                self._shares[number] = share
                self._plan.add_share(number)
        try:
            requests = self._plan.requests(horizon)
        except NotEnough:
            if self._look.is_over:
                raise
            return []  # a share that has not answered yet may still help
        now = self._download.clock()
        self._moved.update(dict.fromkeys(requests, now))
        return requests

    def _give_up_stalled(self) -> None:
        stall = self._download.stall
        oldest = self._download.clock() - stall
        for request in [request for request, moved in self._moved.items() if moved < oldest]:
            self._drop(request, Unavailable(f"no progress for {stall:g} seconds"))

    def _drop(self, request: Request, error: Exception) -> None:
        self._moved.pop(request, None)
        self._plan.failed(request)
        self._note(request.number, explain(error))

    def _note(self, number: int, text: str) -> None:
        self._download.notes.add(self._shares[number].site.name, f"share {number}: {text}")

    # On the threads of the requests.

    def _fetch(self, request: Request) -> None:
        try:
            for index, block in self._shares[request.number].blocks(request.first, request.count):
                if not self._take(request, index, block):
                    return
            with self._lock:
                self._moved.pop(request, None)
        except Exception as error:  # noqa: BLE001 # becomes the share's failure
            with self._lock:
                if request in self._moved:
                    self._drop(request, error)
                self._changed.notify()

    def _take(self, request: Request, index: int, block: memoryview | None) -> bool:
        """Take in one block; False if nobody waits for this request any more."""
        with self._lock:
            if request not in self._moved or self._download.cancelled.is_set():
                return False
            self._moved[request] = self._download.clock()
            if block is None:
                self._damaged[request.number] += 1
                self._plan.bad(request, index)
                self._changed.notify()
                return True
            if self._plan.is_open(index):
                self._blocks.setdefault(index, {})[request.number] = block
            if not self._plan.good(request, index):
                return True
            blocks = self._blocks.pop(index)
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
        return True
