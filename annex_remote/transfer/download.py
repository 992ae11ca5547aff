"""Fetching an object: shares in, proved plaintext out, in order, at the end of a file that only grows.

git-annex hashes a file while it grows, so nothing is written out of order, pre-allocated or rewritten, except
where a part that was there before turns out to be wrong.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from blake3 import blake3

from annex_remote.errors import Damaged, NoneStored, NotEnough
from annex_remote.shares.codec import SegmentCodec
from annex_remote.shares.crypto import Cipher, ObjectKeys
from annex_remote.shares.layout import SEGMENT_SIZE
from annex_remote.transfer.fetch import Fetch, Fetching
from annex_remote.transfer.figures import LEAST_OVERDUE, Book
from annex_remote.transfer.keys import content_is_fixed
from annex_remote.transfer.opening import OpenShare
from annex_remote.transfer.pipeline import CORES, in_order
from annex_remote.transfer.presence import GRACE, Look, Sighting, best_first
from annex_remote.transfer.schedule import AHEAD
from annex_remote.transfer.sites import Clock, Notes, Site, explain, shares
from annex_remote.transfer.trace import Trace

__all__ = ["Aside", "Download"]

LATE = 5.0
"""Seconds after which a store that has still not answered is reported."""

BESIDE_AHEAD = 1.0
"""Seconds that requests are ahead at most where there is another source: when both meet, these are in vain."""
LEAST_BESIDE = 12
"""Segments, likewise, at least: with fewer, stores that are slow do not all take part."""


class Aside(Protocol):
    """Another source of an object's content, which works from the end while shares bring it from the front."""

    def take_over(self) -> None:
        """Wait until the other one writes nothing into the file any more; raises `Cancelled` if it is whole."""

    def has(self, start: int, end: int, coming: int) -> bool:
        """True if the other one has the bytes from `start` to `end`. Asked all the time.

        So many bytes from `start` on are `coming` from shares soon, and nobody else need fetch them.
        """

    def take(self, start: int, end: int) -> bytes | None:
        """Return these bytes, proved, or None if they are not there after all."""

    def offer(self, start: int, data: bytes | memoryview) -> None:
        """Give the other one bytes that shares brought."""

    @property
    def beyond(self) -> int:
        """How many bytes it has behind those that it was asked for last."""


@dataclass
class Download:
    """One object to fetch; `run` does it. `progress` gets the bytes that are in the file, proved.

    `book` knows how the stores have answered so far, and learns from this; `trace` gets what happens. With
    `aside`, only what that one has not is fetched.
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
    aside: Aside | None = None
    damaged: dict[int, str] = field(default_factory=dict, init=False)
    """Shares that were seen to be damaged, by number, and how."""
    rewritten: bool = field(default=False, init=False)
    """True if something else was in the file, and whoever read it while it grew has read that."""

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

    @property
    def fetching(self) -> Fetching:
        """What a `Fetch` of this goes by."""
        return Fetching(self.stall, self.notes, self.cancelled, self.clock, self.book, self.trace)

    def _run(self) -> None:
        try:
            self._try(self.sites)
        except NotEnough:
            # A program that was killed may have left shares beside their places.
            if any(site.staged for site in self.sites):
                raise
            self._try([*self.sites, *(site.beside for site in self.sites)])

    def _try(self, sites: Sequence[Site]) -> None:
        look = self._look(sites)
        try:
            self._rebuild(look)
        finally:
            look.abandon()
            bad = look.sighting.damaged.items()
            self.damaged |= {site.number: str(error) for site, error in bad if not site.staged}

    def _rebuild(self, look: Look) -> None:
        group = look.wait(_decodable, grace=GRACE, cancelled=self.cancelled).decodable()
        if not group:
            raise self._not_enough(look.sighting)
        if group[0].header.layout.segments > 1:
            look.ask_rest()
        if self.aside is not None:
            self.aside.take_over()
        try:
            _Writing(self, group, look).run()
        except NotEnough as error:
            look.late(LATE).note(self.notes)
            raise NotEnough("; ".join([str(error), *self.notes.lines])) from error
        look.late(LATE).note(self.notes)

    def _look(self, sites: Sequence[Site]) -> Look:
        """Open shares: as many as it takes, of the stores that answer best, and one more if that is not known.

        Under a key that may have several contents all stores are asked, as the content with most shares counts.
        """
        sites, known = best_first(sites, self.book, self.clock())
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
        if self.aside is not None and len(sighting.absent) == sighting.sites:
            return NoneStored("none are stored")  # the usual thing where there are other sources
        causes = Notes()
        sighting.note(causes)
        found = f"{shares(len(sighting.shares))} found, {self.needed} are needed"
        return NotEnough("; ".join([found, *causes.lines]))


def _decodable(sighting: Sighting) -> bool:
    return bool(sighting.decodable())


class _Writing:
    """Writes what a `Fetch` brings to the end of the file, going on from what is there."""

    def __init__(self, download: Download, group: Sequence[OpenShare], look: Look) -> None:
        self._download = download
        self._trace = download.trace
        self._aside = download.aside
        self._began = download.clock()
        self._brought = 0
        """Segments that shares have brought."""
        self._header = group[0].header
        self._layout = self._header.layout
        keys = ObjectKeys(download.read_secret, download.annex_key, self._header.cipher)
        self._codec = SegmentCodec(keys, self._layout)
        self._fetch = Fetch(group, look, self._codec.decode, download.fetching)
        if self._aside is not None:
            self._fetch.most_ahead = LEAST_BESIDE

    def run(self) -> None:
        """Write the object; if a part that was there before was wrong, write it again from the start."""
        descriptor = os.open(self._download.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if not self._go_on(descriptor) and not self._begin(descriptor):
                raise Damaged("the shares decode to other content than their signed header says")
        finally:
            os.close(descriptor)
            self._fetch.close()
            self._download.damaged |= {
                number: f"{count} of its blocks damaged"
                for number, count in self._fetch.damaged.items()
                if not self._fetch.shares[number].site.staged
            }

    def _begin(self, descriptor: int) -> bool:
        """Write the object from the start; if what came from aside was not of it, once more without."""
        self._download.rewritten = self._trace.resumed > 0
        self._trace.resumed = 0
        if self._write_from(descriptor, 0, self._hasher()):
            return True
        if self._aside is None:
            return False
        self._aside = None
        self._download.rewritten = True
        return self._write_from(descriptor, 0, self._hasher())

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
        index, unreadable = first, -1
        while index < layout.segments:
            is_aside = index >= begin and index != unreadable and self._is_aside(index)
            taken = self._take_aside(index) if is_aside else None
            if taken is not None:
                hasher.update(self._codec.keys.nonce(index, layout.is_last(index), taken))
                self._append(descriptor, index, taken)
                index += 1
                continue
            if is_aside:
                unreadable = index
            for nonce, data in self._fetch.segments(index, self._until_aside(begin, unreadable)):
                if index < begin and nonce != there:
                    return False
                hasher.update(nonce)
                if index >= begin:
                    self._append(descriptor, index, data)
                    self._came(index, data)
                index += 1
        return bool(hasher.digest() == self._header.content_id)

    def _append(self, descriptor: int, index: int, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        done = index * SEGMENT_SIZE + len(data)
        self._trace.wrote(done)
        beyond = self._aside.beyond if self._aside is not None else 0
        self._download.progress(min(done + beyond, self._layout.size))

    def _came(self, index: int, data: bytes | memoryview) -> None:
        """Let the other source have a segment, and see how far to be ahead of it."""
        if self._aside is None:
            return
        self._aside.offer(index * SEGMENT_SIZE, data)
        self._brought += 1
        rate = self._brought / max(0.001, self._download.clock() - self._began)
        self._fetch.most_ahead = max(LEAST_BESIDE, min(AHEAD, math.ceil(rate * BESIDE_AHEAD)))

    def _is_aside(self, index: int) -> bool:
        start = index * SEGMENT_SIZE
        end, coming = start + self._layout.plain_length(index), self._fetch.most_ahead * SEGMENT_SIZE
        return self._aside is not None and self._aside.has(start, end, coming)

    def _take_aside(self, index: int) -> bytes | None:
        start = index * SEGMENT_SIZE
        assert self._aside is not None
        return self._aside.take(start, start + self._layout.plain_length(index))

    def _until_aside(self, begin: int, unreadable: int) -> Callable[[int], bool] | None:
        """Return what tells whether a segment need not be fetched.

        Those before `begin` have to be, and the unreadable one, whatever is said of them.
        """
        if self._aside is None:
            return None
        return lambda index: index >= begin and index != unreadable and self._is_aside(index)
