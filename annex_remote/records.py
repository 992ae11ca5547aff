"""What stays of transfers: the last download of a clone, and how the stores of a grid answered on this machine.

Both help, and nothing depends on them: what cannot be read or written is left out.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from annex_remote.errors import BadSetting, Damaged
from annex_remote.transfer.figures import Book
from annex_remote.transfer.trace import Trace

__all__ = ["KeptBook", "KeptTrace", "trace_path"]

log = logging.getLogger(__name__)

PAUSE = 1.0
"""Seconds between two times that something is kept: there may be hundreds of small objects a second."""

_MOST_FIGURES = 1 << 20
_MOST_TRACE = 64 << 20


def trace_path(cache: str) -> str:
    """Return where a clone keeps its last download, by where it keeps the roster."""
    return f"{cache.removesuffix('.roster')}.trace"


def _put(path: str, text: str) -> None:
    """Put `text` in the place of a file, for this user alone; whole or not at all. Raises `OSError`."""
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    descriptor, part = tempfile.mkstemp(prefix=f"{os.path.basename(path)}.", suffix=".part", dir=folder)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(part)
        raise


def _get(path: str, most: int) -> str:
    """Return what is in a file; raises `OSError`, or `ValueError` for what nobody here wrote."""
    with open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError("too large")
    return data.decode()


class KeptTrace:
    """The last download, in the file `path`. Thread safe."""

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: float | None = None

    def keep(self, trace: Trace) -> None:
        """Keep a download that is over; of short ones that went well, one a second. Never raises."""
        with self._lock:
            now = self._clock()
            if trace.outcome == "done":
                if trace.seconds <= PAUSE and self._kept is not None and now - self._kept < PAUSE:
                    return
                self._kept = now
            try:
                _put(self.path, trace.dump())
            except (OSError, ValueError) as error:
                log.debug("the download could not be recorded in %s: %s", self.path, error)

    def load(self) -> Trace:
        """Return the last download; raises `BadSetting` if there is none, `Damaged` if it cannot be read."""
        try:
            return Trace.load(_get(self.path, _MOST_TRACE))
        except FileNotFoundError as error:
            raise BadSetting("no download is recorded in this clone yet: name a key or a file to fetch") from error
        except (OSError, ValueError, Damaged) as error:
            raise Damaged(f"the record of the last download, {self.path}, cannot be read: {error}") from error


class KeptBook:
    """The figures of a grid's stores, in the file `path`, shared by all clones of a user on this machine.

    Of two processes that keep theirs at once, the last one wins: figures are only a start. Thread safe.
    """

    def __init__(
        self, path: str, clock: Callable[[], float] = time.monotonic, date: Callable[[], float] = time.time
    ) -> None:
        self.path = path
        self.book = Book()
        self._clock = clock
        self._date = date
        self._lock = threading.Lock()
        self._kept: float | None = None
        self._load()

    def _load(self) -> None:
        try:
            kept = json.loads(_get(self.path, _MOST_FIGURES))
            self.book.load(kept["stores"], self._date())
        except FileNotFoundError:
            return
        # Whatever is in the file: JSON nested too deeply, numbers without end, a list in the place of an object.
        except (
            OSError,
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ) as error:
            log.debug("the figures in %s are not used: %s", self.path, error)

    def keep(self) -> None:
        """Keep the figures, if that was not done within the last second. Never raises."""
        with self._lock:
            now = self._clock()
            if self._kept is not None and now - self._kept < PAUSE:
                return
            self._kept = now
            try:
                _put(self.path, json.dumps({"stores": self.book.dump(self._date())}))
            except OSError as error:
                log.debug("the figures could not be kept in %s: %s", self.path, error)
