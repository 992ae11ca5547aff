"""What this machine remembers of a grid's shares: when each was proved last, which are damaged, which runs go on.

Kept in an SQLite file in the user's state directory, shared by all processes. Losing it loses dates, and nothing
else: what is damaged is found again by reading it.
"""

from __future__ import annotations

import base64
import logging
import os
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

__all__ = ["Ledger"]

log = logging.getLogger(__name__)

_TABLES = """
create table if not exists proved (object blob, number integer, at integer, primary key (object, number))
    without rowid;
create table if not exists damaged
    (object blob, number integer, at integer, why text, primary key (object, number)) without rowid;
create table if not exists runs (what text primary key, began integer) without rowid;
"""

PATIENCE = 10.0
"""Seconds that one process waits for another one to let go of the file."""

PAUSE = 1.0
"""Seconds between two times that what was noted is written."""

Share = tuple[str, int]
"""Object id and number."""


class Ledger:
    """Notes about shares, in the file `path`. Thread safe; never raises for what is wrong with the file.

    Times are in seconds since 1970. What is noted is written once a second, and by `flush`.
    """

    def __init__(self, path: str, date: Callable[[], float] = time.time) -> None:
        self.path = path
        self._date = date
        self._lock = threading.RLock()
        self._base: sqlite3.Connection | None = None
        self._written = 0.0

    # Notes.

    def note_proved(self, object_id: str, number: int) -> None:
        """All blocks of a share were proved just now."""
        with self._using() as base:
            base.execute("replace into proved values (?, ?, ?)", (_packed(object_id), number, int(self._date())))
            base.execute("delete from damaged where object = ? and number = ?", (_packed(object_id), number))

    def note_damaged(self, object_id: str, number: int, why: str) -> None:
        """A share was seen to be damaged, or missing its blocks."""
        with self._using() as base:
            values = _packed(object_id), number, int(self._date()), why
            base.execute("replace into damaged values (?, ?, ?, ?)", values)
            base.execute("delete from proved where object = ? and number = ?", values[:2])

    def forget(self, object_id: str, number: int) -> None:
        """A share is not there any more, or another one is in its place."""
        with self._using() as base:
            for table in ("proved", "damaged"):
                base.execute(f"delete from {table} where object = ? and number = ?", (_packed(object_id), number))  # noqa: S608 # one of two words

    # What was noted.

    def damaged(self) -> dict[str, dict[int, str]]:
        """Return the shares that are known to be damaged, and why: by object, then by number."""
        found: dict[str, dict[int, str]] = defaultdict(dict)
        with self._using() as base:
            for packed, number, why in base.execute("select object, number, why from damaged"):
                found[_unpacked(packed)][number] = why
        return found

    def proved(self, since: float) -> Iterator[Share]:
        """Yield the shares that were proved since then."""
        with self._using() as base:
            rows = base.execute("select object, number from proved where at >= ?", (int(since),)).fetchall()
        for packed, number in rows:
            yield _unpacked(packed), number

    def proved_before(self, until: float) -> Iterator[Share]:
        """Yield the shares whose last proof is older than that."""
        with self._using() as base:
            rows = base.execute("select object, number from proved where at < ?", (int(until),)).fetchall()
        for packed, number in rows:
            yield _unpacked(packed), number

    # Runs that may be stopped.

    def begin(self, what: str) -> tuple[float, bool]:
        """Return when the run `what` began, and whether it did so before: it goes on then, and else begins now."""
        now = float(int(self._date()))
        with self._using() as base:
            for (began,) in base.execute("select began from runs where what = ?", (what,)):
                return float(began), True
            base.execute("insert into runs values (?, ?)", (what, int(now)))
        self.flush()
        return now, False

    def end(self, what: str) -> None:
        """The run `what` has come to its end."""
        with self._using() as base:
            base.execute("delete from runs where what = ?", (what,))
        self.flush()

    def forget_objects(self, kept: Callable[[str], bool]) -> None:
        """Forget shares of objects that are not `kept` any more."""
        with self._using() as base:
            for table in ("proved", "damaged"):
                ids = base.execute(f"select distinct object from {table}").fetchall()  # noqa: S608 # one of two words
                gone = [(packed,) for (packed,) in ids if not kept(_unpacked(packed))]
                base.executemany(f"delete from {table} where object = ?", gone)  # noqa: S608

    def flush(self) -> None:
        """Write what was noted."""
        with self._lock, suppress(sqlite3.Error):
            if self._base is not None:
                self._base.commit()
                self._written = time.monotonic()

    def close(self) -> None:
        """Write what was noted, and let go of the file."""
        with self._lock:
            self.flush()
            if self._base is not None:
                self._base.close()
                self._base = None

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        """Give the open base; what fails is left out, as if nothing were known, and told to the log."""
        with self._lock:
            if self._base is None:
                self._base = self._open()
            try:
                yield self._base
                if time.monotonic() - self._written > PAUSE:
                    self.flush()
            except sqlite3.Error as error:
                log.debug("%s cannot be used, and is left alone: %s", self.path, error)
                with suppress(sqlite3.Error):
                    self._base.rollback()

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect(self.path)
        except (sqlite3.DatabaseError, OSError) as error:
            log.debug("%s is not what it should be, and is begun anew: %s", self.path, error)
        with suppress(OSError):
            os.replace(self.path, f"{self.path}.damaged")
        try:
            return self._connect(self.path)
        except (sqlite3.DatabaseError, OSError) as error:
            log.debug("%s cannot be made: what is noted is kept for this process alone: %s", self.path, error)
            return self._connect(":memory:")

    @staticmethod
    def _connect(path: str) -> sqlite3.Connection:
        if path != ":memory:":
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        base = sqlite3.connect(path, timeout=PATIENCE, check_same_thread=False)
        try:
            base.execute("pragma journal_mode = wal")
            base.execute("pragma synchronous = normal")
            base.executescript(_TABLES)
            base.execute("select count(*) from runs").fetchone()
        except sqlite3.Error:
            base.close()
            raise
        return base


def _packed(object_id: str) -> bytes:
    return base64.b32decode(object_id.upper())


def _unpacked(packed: bytes) -> str:
    return base64.b32encode(packed).decode().lower()


def counted(shares: Iterable[Share], there: Callable[[str, int], bool]) -> int:
    """Return how many of `shares` are there."""
    return sum(there(object_id, number) for object_id, number in shares)
