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
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import Any

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

MOST_UNWRITTEN = 10_000
"""Notes that are kept if the file cannot be written now; older ones are left out."""

_DAMAGED_FILE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_IN_USE = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

PAUSE = 1.0
"""Seconds between two times that what was noted is written."""

LASTS = 7 * 86400
"""Seconds for which a run that was stopped may go on."""

Share = tuple[str, int]
"""Object id and number."""


class Ledger:
    """Notes about shares, in the file `path`. Thread safe; never raises for what is wrong with the file.

    Times are in seconds since 1970. What is noted is written once a second, and by `flush`: until then it is held
    here, so that nobody else has to wait for the file.
    """

    def __init__(
        self, path: str, date: Callable[[], float] = time.time, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.path = path
        self._date = date
        self._clock = clock
        self._lock = threading.RLock()
        self._base: sqlite3.Connection | None = None
        self._unwritten: deque[tuple[str, tuple[object, ...]]] = deque(maxlen=MOST_UNWRITTEN)
        self._written = clock()

    # Notes.

    def note_proved(self, object_id: str, number: int) -> None:
        """All blocks of a share were proved just now."""
        share = _packed(object_id), number
        self._note("replace into proved values (?, ?, ?)", *share, int(self._date()))
        self._note("delete from damaged where object = ? and number = ?", *share)

    def note_damaged(self, object_id: str, number: int, why: str) -> None:
        """A share was seen to be damaged, or missing its blocks."""
        share = _packed(object_id), number
        self._note("replace into damaged values (?, ?, ?, ?)", *share, int(self._date()), why)
        self._note("delete from proved where object = ? and number = ?", *share)

    def forget(self, object_id: str, number: int) -> None:
        """A share is not there any more, or another one is in its place."""
        share = _packed(object_id), number
        self._note("delete from proved where object = ? and number = ?", *share)
        self._note("delete from damaged where object = ? and number = ?", *share)

    def _note(self, statement: str, *values: object) -> None:
        with self._lock:
            self._unwritten.append((statement, values))
            if self._clock() - self._written >= PAUSE:
                self.flush()

    # What was noted.

    def damaged(self) -> dict[str, dict[int, str]]:
        """Return the shares that are known to be damaged, and why: by object, then by number."""
        found: dict[str, dict[int, str]] = defaultdict(dict)
        for packed, number, why in self._found("select object, number, why from damaged"):
            found[_unpacked(packed)][number] = why
        return found

    def proved(self, since: float) -> Iterator[Share]:
        """Yield the shares that were proved since then."""
        for packed, number in self._found("select object, number from proved where at >= ?", int(since)):
            yield _unpacked(packed), number

    def proved_before(self, until: float) -> Iterator[Share]:
        """Yield the shares whose last proof is older than that."""
        for packed, number in self._found("select object, number from proved where at < ?", int(until)):
            yield _unpacked(packed), number

    # Runs that may be stopped.

    def begin(self, what: str) -> tuple[float, bool]:
        """Return when the run `what` began, and whether it did so before: it goes on then, and else begins now.

        One that began longer ago than `LASTS` begins anew: what it has proved may not be so any more.
        """
        now = int(self._date())
        for (began,) in self._found("select began from runs where what = ?", what):
            if 0 <= now - began <= LASTS:
                return float(began), True
        self._note("replace into runs values (?, ?)", what, now)
        self.flush()
        return float(now), False

    def end(self, what: str) -> None:
        """The run `what` has come to its end."""
        self._note("delete from runs where what = ?", what)
        self.flush()

    def forget_objects(self, kept: Callable[[str], bool]) -> None:
        """Forget shares of objects that are not `kept` any more."""
        ids = self._found("select object from proved union select object from damaged")
        gone = [packed for (packed,) in ids if not kept(_unpacked(packed))]
        statements = ("delete from proved where object = ?", "delete from damaged where object = ?")
        with self._lock:
            self._do([(statement, (packed,)) for packed in gone for statement in statements])

    def flush(self) -> None:
        """Write what was noted."""
        with self._lock:
            self._written = self._clock()
            if self._do(self._unwritten):
                self._unwritten.clear()

    def close(self) -> None:
        """Write what was noted, and let go of the file."""
        with self._lock:
            self.flush()
            if self._base is not None:
                self._base.close()
                self._base = None

    # The file.

    def _do(self, statements: Collection[tuple[str, tuple[object, ...]]]) -> bool:
        """Carry out statements, all of them or none; True if that was possible."""
        if not statements:
            return True

        def write(base: sqlite3.Connection) -> None:
            base.execute("begin immediate")
            for statement, values in statements:
                base.execute(statement, values)
            base.execute("commit")

        return self._try(write)

    def _found(self, query: str, *values: object) -> list[Any]:
        """Return the rows that a query finds, with all that was noted before; none if the file cannot be read."""
        rows: list[Any] = []
        with self._lock:
            self.flush()
            self._try(lambda base: rows.extend(base.execute(query, values).fetchall()))
        return rows

    def _try(self, work: Callable[[sqlite3.Connection], None]) -> bool:
        """Work with the open base; a file that turns out to be damaged is begun anew, and then it is done."""
        for _ in range(2):
            if self._base is None:
                self._base = self._open()
            try:
                work(self._base)
                return True
            except sqlite3.Error as error:
                log.debug("%s cannot be used now: %s", self.path, error)
                with suppress(sqlite3.Error):
                    self._base.rollback()
                if not _is(error, _DAMAGED_FILE):
                    return False
                self._base.close()
                self._base = None
                self._put_aside()
        return False

    def _open(self) -> sqlite3.Connection:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return _connected(self.path)
            except (sqlite3.Error, OSError) as error:
                log.debug("%s cannot be opened: %s", self.path, error)
                if _is(error, _DAMAGED_FILE):
                    self._put_aside()
                elif not _is(error, _IN_USE):  # a folder of somebody else, say
                    break
                # SQLite does not wait by itself for who makes the file just now.
                if time.monotonic() >= until:
                    break
                time.sleep(PAUSE / 100)
        return _connected(":memory:")

    def _put_aside(self) -> None:
        """A damaged file is begun anew; what stands beside it goes with it."""
        for end in ("", "-wal", "-shm"):
            with suppress(OSError):
                os.replace(self.path + end, f"{self.path}.damaged{end}")


def _is(error: Exception, codes: Collection[int]) -> bool:
    """True if SQLite says one of these."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in codes


def _connected(path: str) -> sqlite3.Connection:
    if path != ":memory:":
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    base = sqlite3.connect(path, timeout=PATIENCE, check_same_thread=False, isolation_level=None)
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
