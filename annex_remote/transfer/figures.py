"""How stores have answered so far: what a download is planned by, and what the next one starts from.

Time is passed in; the one thing that is not pure is a lock, as the jobs of a process share what they learn.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["BULK", "LEAST_OVERDUE", "Book", "Figures", "Rate", "Spread", "forecast"]

BULK = 128 << 10
"""Bytes from which on a request tells about a store's rate; smaller ones tell about its latency only."""

_SHORTEST = 1e-4
_STEP = 1.3
_BUCKETS = 60
"""A latency is kept as one of so many classes, each `_STEP` times the one before: 0.1 ms to ten minutes."""

_FORGETS = 0.97
"""What an observation counts for when the next one comes: the last thirty or so decide."""

SETTLED = 3.0
"""Observations that it takes for a latency to count as known."""

RATE_MEMORY = 2.0
"""Seconds of traffic that a rate is taken over."""

HALF_LIFE = 7 * 86400.0
"""Seconds in which what is kept from earlier runs loses half of its weight."""

LEAST_OVERDUE = 0.3
"""Seconds in which no answer is overdue."""

FIRST_BREAK = 30.0
LONGEST_BREAK = 600.0
"""Seconds for which a store that stood still is asked last: at first, and after failing again and again."""


class Spread:
    """Latencies in seconds, in classes that grow geometrically; old ones fade. Any quantile can be asked for."""

    def __init__(self) -> None:
        self._counts = [0.0] * _BUCKETS
        self._total = 0.0
        self._unit = 1.0
        """What one observation counts now: growing it is the same as letting all others fade."""
        self._quantiles: dict[float, float | None] = {}
        """Those that were asked for since the last observation."""

    def add(self, seconds: float) -> None:
        self._quantiles.clear()
        place = math.log(max(seconds, _SHORTEST) / _SHORTEST, _STEP)
        self._unit /= _FORGETS
        self._counts[min(_BUCKETS - 1, int(place))] += self._unit
        self._total += self._unit
        if self._unit > 1e9:
            self._counts = [count / self._unit for count in self._counts]
            self._total, self._unit = sum(self._counts), 1.0

    @property
    def weight(self) -> float:
        """How many observations this is worth, by today's measure."""
        return self._total / self._unit

    def quantile(self, part: float) -> float | None:
        """Return the latency that `part` of the observations do not exceed; None without any."""
        if part not in self._quantiles:
            self._quantiles[part] = self._quantile(part)
        return self._quantiles[part]

    def _quantile(self, part: float) -> float | None:
        if not self._total:
            return None
        left, found = part * self._total, 0
        for place, count in enumerate(self._counts):
            if count:  # rounding must not lead past the last one that was seen
                left, found = left - count, place
                if left <= 0:
                    break
        return float(_SHORTEST * _STEP ** (found + 0.5))

    def dump(self, scale: float = 1.0) -> list[float]:
        return [round(count / self._unit * scale, 3) for count in self._counts]

    @classmethod
    def load(cls, counts: Iterable[float], scale: float = 1.0) -> Spread:
        spread = cls()
        kept = [float(count) * scale for count in counts][:_BUCKETS]
        if any(not 0 <= count < 1e6 for count in kept):
            raise ValueError("counts of latencies are out of range")
        spread._counts = kept + [0.0] * (_BUCKETS - len(kept))
        spread._total = sum(kept)
        return spread


class Rate:
    """Bytes a second, over the last seconds in which there was something to wait for."""

    def __init__(self, rate: float | None = None) -> None:
        self._seconds = 0.25 if rate else 0.0
        self._bytes = rate * self._seconds if rate else 0.0

    def add(self, count: int, seconds: float) -> None:
        """Take in `count` bytes that came in `seconds` more."""
        keep = math.exp(-seconds / RATE_MEMORY)
        self._bytes = self._bytes * keep + count
        self._seconds = self._seconds * keep + seconds

    @property
    def value(self) -> float | None:
        return self._bytes / self._seconds if self._seconds > 0.005 and self._bytes else None


@dataclass(frozen=True, slots=True)
class Figures:
    """What is known of one store at one moment."""

    first_byte: float | None = None
    """Seconds to the first byte of an answer, the median."""
    late: float | None = None
    """Seconds in which 95 of 100 answers begin."""
    down: float | None = None
    up: float | None = None
    """Bytes a second, of all requests together, read and put."""
    owed: int = 0
    """Bytes that were asked for, by any job, and have not come."""
    settled: bool = False
    """True if the latency was seen often enough to count on it."""
    resting: bool = False
    """True for a store that stands still, or did a short while ago: it is asked when others do not do."""


@dataclass
class _Question:
    store: str
    size: int
    asked: float
    left: int
    heard: bool = False
    counts: bool = False
    """True once the store's rate has been told from it."""


@dataclass
class _Record:
    first_byte: Spread = field(default_factory=Spread)
    down: Rate = field(default_factory=Rate)
    up: Rate = field(default_factory=Rate)
    open: dict[Hashable, _Question] = field(default_factory=dict)
    """Questions that are not over."""
    moved: float = 0.0
    """The time up to which `down` is counted."""
    rests_until: float = -math.inf
    failures: int = 0

    @property
    def flows(self) -> bool:
        """True while an answer to something large is coming: waiting for its first byte tells no rate."""
        return any(each.heard and each.size >= BULK for each in self.open.values())


class Book:
    """The figures of all stores of a grid, by name; thread safe. `now` is in seconds that only rise."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: dict[str, _Record] = {}
        self._questions: dict[Hashable, _Question] = {}

    def of(self, store: str, now: float) -> Figures:
        """Return what is known of a store."""
        with self._lock:
            record = self._records.get(store)
            if record is None:
                return Figures()
            self._count(record, 0, now)
            late = record.first_byte.quantile(0.95)
            silent = now - min((each.asked for each in record.open.values() if not each.heard), default=now)
            return Figures(
                first_byte=record.first_byte.quantile(0.5),
                late=late,
                down=record.down.value,
                up=record.up.value,
                owed=sum(each.left for each in record.open.values()),
                settled=record.first_byte.weight >= SETTLED,
                resting=now < record.rests_until or silent > max(LEAST_OVERDUE, 2 * (late or 0.0)),
            )

    def asked(self, question: Hashable, store: str, size: int, now: float) -> None:
        """A question is on its way to `store`; about `size` bytes will answer it."""
        with self._lock:
            record = self._record(store)
            record.open[question] = self._questions[question] = _Question(store, size, now, size)

    def came(self, question: Hashable, count: int, now: float) -> None:
        """`count` bytes of the answer have come, the first of them if this was not said before."""
        with self._lock:
            state = self._questions.get(question)
            if state is None:
                return
            record = self._records[state.store]
            if state.size >= BULK:
                state.counts = state.counts or record.flows
                self._count(record, count, now)
                record.moved = now
            state.left = max(0, state.left - count)
            if not state.heard:
                self._heard(record, state, now)

    def over(self, question: Hashable, now: float, *, failed: bool = False) -> None:
        """Nothing more will come; with `failed`, not because all was said."""
        with self._lock:
            state = self._questions.pop(question, None)
            if state is None:
                return
            record = self._records[state.store]
            self._count(record, 0, now)
            del record.open[question]
            if state.size >= BULK and state.heard and not state.counts:
                # It came in one piece, or stopped after that: too low a rate, but better than none.
                record.down.add(state.size - state.left, now - state.asked)
            if not state.heard and not failed:
                self._heard(record, state, now)

    @staticmethod
    def _heard(record: _Record, state: _Question, now: float) -> None:
        state.heard = True
        record.first_byte.add(now - state.asked)
        record.failures = 0
        record.rests_until = -math.inf

    def sent(self, store: str, count: int, seconds: float) -> None:
        """A share of `count` bytes was put in `seconds`."""
        with self._lock:
            if count >= BULK and seconds > 0:
                self._record(store).up.add(count, seconds)

    def stood_still(self, store: str, now: float) -> None:
        """A store brought nothing for as long as it was given: others are asked before it for a while."""
        with self._lock:
            record = self._record(store)
            rest = min(LONGEST_BREAK, FIRST_BREAK * 2**record.failures)
            record.failures = min(record.failures + 1, 10)
            record.rests_until = now + rest

    def _record(self, store: str) -> _Record:
        return self._records.setdefault(store, _Record())

    @staticmethod
    def _count(record: _Record, count: int, now: float) -> None:
        """Take time into account in which something large was coming."""
        if record.flows:
            record.down.add(count, max(0.0, now - record.moved))
            record.moved = now

    # From one run to the next.

    def dump(self, at: float) -> dict[str, Any]:
        """Return what is to be kept, as JSON has it; `at` is the time of day, in seconds since 1970."""
        with self._lock:
            return {
                name: {
                    "at": round(at),
                    "first_byte": record.first_byte.dump(),
                    "down": record.down.value,
                    "up": record.up.value,
                }
                for name, record in self._records.items()
            }

    def load(self, kept: Mapping[str, Any], at: float) -> None:
        """Take in what was kept; raises `ValueError`, `TypeError` or `KeyError` for anything else."""
        records = {}
        for name, document in kept.items():
            age = max(0.0, at - float(document["at"]))
            scale = 0.5 ** (age / HALF_LIFE)
            down, up = (_kept_rate(document[way]) for way in ("down", "up"))
            records[str(name)] = _Record(Spread.load(document["first_byte"], scale), Rate(down), Rate(up))
        with self._lock:
            self._records = {**records, **self._records}


def _kept_rate(value: float | None) -> float | None:
    if value is not None and not 0 < float(value) < 1e15:
        raise ValueError("a rate is out of range")
    return None if value is None else float(value)


def forecast(rates: Iterable[float], needed: int) -> float:
    """Return the most plaintext a second that stores of these rates give, with `needed` blocks to a segment.

    No store can give more than one block of each segment: the answer is the greatest T for which the sum of
    min(rate, T / needed) over all stores is at least T.
    """
    ordered = sorted(rates, reverse=True)
    # However many of the fastest give their one block, the others have to give the rest.
    return min(sum(ordered[capped:]) * needed / (needed - capped) for capped in range(needed))
