"""How fast a store is, by a throw-away object that is put, read, removed; and what transfers will make of it."""

from __future__ import annotations

import os
import secrets
import threading
import time
from base64 import b32encode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from annex_remote.errors import Cancelled, Damaged, Denied, NotEnough, SwarmError
from annex_remote.limits import Limit
from annex_remote.model import Coding, Store
from annex_remote.transfer.figures import Book, Figures, forecast
from annex_remote.transfer.schedule import AHEAD, Schedule, Source
from annex_remote.transfer.sites import Clock, Site, ask_all

__all__ = ["Outlook", "Speed", "SpeedTest", "outlook"]

LOOKS = 5
"""Small reads; the latency is their median, as the first one may open a connection."""

SMALL = 4096
READERS = 4
"""Reads at once, at most."""

LEAST_SECONDS = 0.25
MOST_ROUNDS = 8
"""What is read is read again until it took so long, or was read so often: a short time says little."""

WAIT = 600.0
"""Seconds after which reads are given up whose store does not do so itself."""

_PIECE = 256 << 10


@dataclass
class Speed:
    """What was measured: latency in seconds, rates in bytes a second, free space in bytes; None if not known."""

    errors: dict[str, str] = field(default_factory=dict)
    """By what was done: write, latency, read, space, delete."""
    notes: list[str] = field(default_factory=list)
    latency: float | None = None
    up: float | None = None
    down: float | None = None
    free: int | None = None

    @property
    def passed(self) -> bool:
        """True if nothing failed."""
        return not self.errors

    def as_json(self) -> dict[str, Any]:
        """Return the members of a JSON object that tells all of it."""
        return {
            "ok": self.passed,
            "latency": self.latency,
            "down": self.down,
            "up": self.up,
            "free": self.free,
            "errors": self.errors,
            "notes": self.notes,
        }


class SpeedTest:
    """Measures one store with `size` bytes of noise; `book` learns from it what a transfer would have learned.

    `marker` is something small that is there: what cannot be written is measured by that. At most `connections`
    reads are made at once. `tell` gets a word about what is done now.
    """

    def __init__(
        self,
        name: str,
        opened: Callable[[], Store],
        size: int,
        book: Book,
        *,
        marker: str,
        connections: int = READERS,
        cancelled: threading.Event,
        tell: Callable[[str], None] = lambda _: None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._name = name
        self._opened = opened
        self._data = os.urandom(size)
        self._book = book
        self._marker = marker
        self._readers = max(1, min(READERS, connections))
        self._cancelled = cancelled
        self._tell = tell
        self._clock = clock
        identity = b32encode(secrets.token_bytes(20)).decode().lower()
        self._object = f"{identity[:2]}/{identity}.test"
        self._speed = Speed()

    def run(self) -> Speed:
        """Return what was measured; what was written is gone then. Raises `Cancelled`, and nothing else."""
        speed = self._speed
        try:
            store = self._opened()
        except SwarmError as error:
            return Speed(errors={"write": str(error)})
        written = False
        try:
            written = self._step("write", partial(self._write, store))
            if written:
                self._step("latency", partial(self._look, store, self._object))
                self._step("read", partial(self._read, store))
            elif speed.passed:
                self._step("latency", partial(self._look, store, self._marker))
            self._step("space", partial(self._space, store))
        finally:
            self._delete(store, written)
        return speed

    def _step(self, step: str, work: Callable[[], bool]) -> bool:
        self._tell(step)
        if self._cancelled.is_set():
            raise Cancelled("the test was called off")
        try:
            return work()
        except Cancelled:
            raise
        except SwarmError as error:
            self._speed.errors[step] = str(error)
            return False

    def _write(self, store: Store) -> bool:
        data = memoryview(self._data)

        def open_at(start: int) -> Iterator[memoryview]:
            for at in range(start, len(data), _PIECE):
                if self._cancelled.is_set():
                    raise Cancelled("the test was called off")
                yield data[at : at + _PIECE]

        began = self._clock()
        try:
            store.put(self._object, len(data), open_at)
        except Denied as error:
            if error.wants_login:
                raise
            self._speed.notes.append("it can be read at most: of its rates nothing is known")
            return False
        seconds = self._clock() - began
        self._speed.up = len(data) / seconds if seconds > 0 else None
        self._book.sent(self._name, len(data), seconds)
        return True

    def _look(self, store: Store, name: str) -> bool:
        took = [self._timed_read(store, name, 0, SMALL)[1] for _ in range(LOOKS)]
        self._speed.latency = sorted(took)[LOOKS // 2]
        return True

    def _read(self, store: Store) -> bool:
        part = -(-len(self._data) // self._readers)
        starts = range(0, len(self._data), part)
        count, spent, seconds = 0, 0.0, 0.0
        for _ in range(MOST_ROUNDS):
            began = self._clock()
            questions = {at: partial(self._timed_read, store, self._object, at, part) for at in starts}
            for answer in ask_all(questions, WAIT, self._clock):
                if answer.error is not None:
                    raise answer.error
                if answer.value is None or answer.value[0] != self._data[answer.asked : answer.asked + part]:
                    raise Damaged("what was written reads back differently")
            count += len(self._data)
            took = self._clock() - began
            # A download asks ahead: the wait for the first byte takes nothing from its rate.
            seconds += max(took - (self._speed.latency or 0.0), took / 2)
            spent += took
            if spent >= LEAST_SECONDS:
                break
        self._speed.down = count / seconds if seconds > 0 else None
        return True

    def _timed_read(self, store: Store, name: str, start: int, length: int) -> tuple[bytes, float]:
        """Return a part of an object, and the seconds to its first byte."""
        question, began = object(), self._clock()
        data, heard = bytearray(), None
        self._book.asked(question, self._name, length, began)
        good = False
        try:
            with store.read(name, start, length) as stream:
                for piece in stream:
                    now = self._clock()
                    heard = now if heard is None else heard
                    self._book.came(question, len(piece), now)
                    data += piece
                    if self._cancelled.is_set():
                        raise Cancelled("the test was called off")
            good = True
        finally:
            self._book.over(question, self._clock(), failed=not good)
        return bytes(data), (self._clock() if heard is None else heard) - began

    def _space(self, store: Store) -> bool:
        self._speed.free = store.space()
        return True

    def _delete(self, store: Store, written: bool) -> None:
        """Remove what was written, or may have been."""
        self._tell("delete")
        try:
            store.delete(self._object)
        except SwarmError as error:
            if written:
                self._speed.errors["delete"] = f"{self._object} could not be removed: {error}"


@dataclass(frozen=True)
class Outlook:
    """What transfers can be expected to do, in bytes of files a second; None where too little is known."""

    get: float | None = None
    carried: Mapping[str, float] = field(default_factory=dict)
    """The part of a get that each store carries, those that carry most first."""
    put_happy: float | None = None
    """Until `happy` shares are stored."""
    put: float | None = None
    """Until all are."""
    slowest: str = ""
    """The store that a put waits for last."""
    window: int | None = None
    """Segments in a request, at first."""
    unknown: Sequence[str] = ()
    """Stores whose rates are not known."""

    def as_json(self) -> dict[str, Any]:
        """Return the members of a JSON object that tells all of it."""
        return {
            "get": self.get,
            "carried": dict(self.carried),
            "put_happy": self.put_happy,
            "put": self.put,
            "slowest": self.slowest or None,
            "window": self.window,
            "unknown": list(self.unknown),
        }


def outlook(
    sites: Sequence[Site],
    known: Mapping[str, Figures],
    coding: Coding,
    block: int,
    *,
    up: Limit,
    down: Limit,
    minute: int,
) -> Outlook:
    """Return what the engine will make of stores with these figures.

    `block` is the size of a block in bytes, `up` and `down` are the limits of all stores together, `minute` the
    local time of day. Pure.
    """
    unknown = [name for name in dict.fromkeys(site.name for site in sites) if known[name].down is None]
    seen = Outlook(unknown=unknown)
    seen = _of_get(seen, sites, known, coding.needed, down.rate_at(minute))
    seen = _of_put(seen, sites, known, coding, up.rate_at(minute))
    sources = [_source(site) for site in sites]
    schedule = Schedule(coding.needed, 0, AHEAD, block, sources, lambda store, _: known[store])
    try:
        schedule.plan(AHEAD, 0.0)
    except NotEnough:
        return seen
    return replace(seen, window=schedule.window)


def _source(site: Site) -> Source:
    return Source(site.number, site.name, site.cost, site.price, site.connections)


def _of_get(
    seen: Outlook, sites: Sequence[Site], known: Mapping[str, Figures], needed: int, limit: int | None
) -> Outlook:
    rates = _by_site(sites, known, lambda figures: figures.down)
    if len(rates) < needed:
        return seen
    # Whoever costs money is asked for what those without a price cannot give.
    dearest = sorted(site.price for site in rates)[needed - 1]
    rates = {site: rate for site, rate in rates.items() if site.price <= dearest}
    most = forecast(rates.values(), needed)
    parts: Counter[str] = Counter()
    for site, rate in rates.items():
        parts[site.name] += min(rate, most / needed) / most  # type: ignore[assignment] # a sum of parts, not a count
    carried = {name: part for name, part in parts.most_common() if part > 0.005}
    return replace(seen, get=most if limit is None else min(most, limit), carried=carried)


def _of_put(
    seen: Outlook, sites: Sequence[Site], known: Mapping[str, Figures], coding: Coding, limit: int | None
) -> Outlook:
    rates = _by_site([site for site in sites if site.takes_shares], known, lambda figures: figures.up)
    # With more places than shares the hash of each object chooses: here the worst that it can choose.
    chosen = sorted(rates.items(), key=lambda item: item[1])[: coding.total]
    if len(chosen) < coding.happy:
        return seen
    cap = float("inf") if limit is None else limit * coding.needed / len(chosen)
    whole, happy = (min(cap, coding.needed * chosen[at][1]) for at in (0, len(chosen) - coding.happy))
    return replace(
        seen,
        put=whole if len(chosen) == coding.total else None,
        put_happy=happy,
        slowest=chosen[0][0].name,
    )


def _by_site(
    sites: Sequence[Site], known: Mapping[str, Figures], rate: Callable[[Figures], float | None]
) -> dict[Site, float]:
    """Return the rate of each site whose store's is known; the sites of a store share it."""
    count = Counter(site.name for site in sites)
    rates = {site: rate(known[site.name]) for site in sites}
    return {site: each / count[site.name] for site, each in rates.items() if each}
