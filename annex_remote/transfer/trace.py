"""What happened in a download: every request to a store, when it was sent, answered and over, and how it ended."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from annex_remote.errors import Damaged

__all__ = ["Line", "Trace"]

MOST_LINES = 20_000
"""Requests that are kept: about those of 20 GiB."""

SAMPLE = 0.02
MOST_SAMPLES = 4096
"""Seconds between two notes of how much is written, and how many are kept: then every other one goes."""

_VERSION = 1


@dataclass
class Line:
    """One request. Times are in seconds since the download began; None for what has not happened."""

    store: str
    number: int
    first: int
    count: int
    """Blocks of `count` segments from `first`; a count of 0 is the opening of the share."""
    why: str
    """Empty, "open", "again", "hedge" or "probe", as in `schedule.Request`."""
    asked: float
    began: float | None = None
    """When it had a connection and was sent."""
    heard: float | None = None
    """When its first byte came."""
    ended: float | None = None
    bytes: int = 0
    bad: int = 0
    """Blocks that did not prove."""
    how: str = ""
    """Empty while it is under way; "done"; "not wanted" when others were first; else why it failed."""


@dataclass
class Trace:
    """The requests of one download, in the order in which they were asked, and how the file grew."""

    key: str = ""
    size: int = 0
    needed: int = 0
    resumed: int = 0
    """Bytes that were in the file before."""
    at: float = 0.0
    """When it began, in seconds since 1970."""
    seconds: float = 0.0
    outcome: str = ""
    """Empty while it goes on; "done", or what went wrong."""
    lines: list[Line] = field(default_factory=list)
    written: list[tuple[float, int]] = field(default_factory=list)
    """Seconds since the beginning, and bytes in the file."""
    clock: Callable[[], float] = field(default=time.monotonic, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._began = self.clock()
        self._sample = SAMPLE

    def now(self) -> float:
        """Seconds since the download began."""
        return self.clock() - self._began

    def ask(self, store: str, number: int, first: int, count: int, why: str) -> Line:
        """Note a request; whoever carries it out writes into the line."""
        line = Line(store, number, first, count, why, self.now())
        if len(self.lines) < MOST_LINES:
            self.lines.append(line)
        return line

    def wrote(self, done: int) -> None:
        """Note how much is in the file."""
        now = self.now()
        if not self.written or now - self.written[-1][0] >= self._sample or done == self.size:
            self.written.append((now, done))
        if len(self.written) > MOST_SAMPLES:
            self.written, self._sample = self.written[::2], 2 * self._sample

    def end(self, outcome: str) -> None:
        """Note how the download ended; requests that are under way end with it."""
        self.seconds = self.now()
        self.outcome = outcome
        for line in self.lines:
            if line.ended is None:
                line.ended, line.how = self.seconds, line.how or "not wanted"

    # Kept in a file, for whoever wants to look at it later.

    def dump(self) -> str:
        """Return this as JSON."""
        document = {name: getattr(self, name) for name in _PLAIN}
        document |= {"version": _VERSION, "written": self.written, "lines": [vars(line) for line in self.lines]}
        return json.dumps(document)

    @classmethod
    def load(cls, text: str) -> Trace:
        """Read what `dump` wrote; raises `Damaged` for anything else."""
        try:
            document: dict[str, Any] = json.loads(text)
            if document["version"] != _VERSION:
                raise ValueError("another version")
            trace = cls(**{name: document[name] for name in _PLAIN})
            trace.lines = [Line(**line) for line in document["lines"]]
            trace.written = [(float(at), int(done)) for at, done in document["written"]]
        except (ValueError, TypeError, KeyError) as error:
            raise Damaged(f"not the record of a download: {error}") from error
        return trace


_PLAIN = ("key", "size", "needed", "resumed", "at", "seconds", "outcome")
