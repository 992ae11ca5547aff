"""How much a store has room for: its own word, remembered for a minute, and what a grid may keep there at most."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from annex_remote.errors import Full, SwarmError
from annex_remote.model import OpenAt, Store
from annex_remote.stores.state import SharedFile
from annex_remote.stores.wrappers import Around
from annex_remote.workers import workers

__all__ = ["Quota"]

log = logging.getLogger(__name__)

SPACE_AGE = 60.0
"""Seconds for which what a store says of its free space is believed, less what is put there meanwhile."""

COUNT_AGE = 86400.0
"""Seconds after which what is kept there is counted anew: other clones and machines put and delete as well."""

DOUBT_AGE = 600.0
"""Before a store is called full, its count is made anew if it is older than so many seconds."""

COUNT_PAUSE = 60.0
"""Seconds after which a count that failed is tried again."""

_Change = Callable[["_Count | None"], "_Count | None"]


@dataclass(frozen=True, slots=True)
class _Count:
    """The bytes that are kept on a store, and when that was counted, in seconds since 1970."""

    used: int
    counted: float

    def more(self, size: int) -> _Count:
        return replace(self, used=max(0, self.used + size))

    def is_younger(self, age: float, now: float) -> bool:
        return 0 <= now - self.counted < age  # a date in the future says nothing

    def pack(self) -> bytes:
        return json.dumps({"used": self.used, "counted": self.counted}).encode()

    @classmethod
    def parse(cls, text: bytes) -> _Count | None:
        try:
            document = json.loads(text)
            used, counted = document["used"], document["counted"]
        except (ValueError, TypeError, KeyError):
            return None
        good = type(used) is int and used >= 0 and type(counted) is float
        return cls(used, counted) if good else None


class Quota(Around):
    """Remembers the free space of a store; with `max_bytes`, lets no more than that be kept there. Thread safe.

    With `max_bytes`, what is there is listed once a day at most, and `shared` keeps the sum for all processes of
    this user; without, nothing is listed. The listing goes on behind the back (`start`), and nobody waits for it
    longer than `patience` seconds, as a large store takes hours: until there is a first count, everything may be
    put that is not too much by itself. What other clones put there meanwhile, and what several processes put at
    the same moment, is seen at the next count. Names that begin with `exempt` may always be put: a grid's own
    small documents, as its list of stores must get to full stores, too.
    """

    def __init__(
        self,
        store: Store,
        max_bytes: int = 0,
        shared: SharedFile | None = None,
        *,
        exempt: str = "/",  # no name begins with this
        patience: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
        date: Callable[[], float] = time.time,
        start: Callable[[Callable[[], None]], None] = workers.start,
    ) -> None:
        super().__init__(store)
        self._max_bytes = max_bytes
        self._shared = shared
        self._exempt = exempt
        self._patience = patience
        self._clock = clock
        self._date = date
        self._start = start
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        """Held while the store is listed, by whoever lists it."""
        self._count_failed: float | None = None
        self._free: int | None = None
        self._asked: float | None = None
        self._put_since = 0
        """Bytes put since the store was asked for its free space."""
        self._coming = 0
        """Bytes that are being put."""
        self._listed_past = 0
        """Bytes put since a listing began: it may have them or not, and with too many nothing overflows."""
        self._count: _Count | None = None
        self._unwritten: list[_Change] = []
        """What `shared` could not be told as another process held it; it is told with the next change."""

    def space(self) -> int | None:
        free = self._remembered_space()
        if not self._max_bytes:
            return free
        used = self._used(COUNT_AGE)
        if used is None:
            used = self._used_after_counting()
        if used is None:
            return free
        with self._lock:
            left = max(0, self._max_bytes - used - self._coming)
        return left if free is None else min(free, left)

    def _remembered_space(self) -> int | None:
        with self._lock:
            if self._asked is not None and self._clock() - self._asked < SPACE_AGE:
                return None if self._free is None else max(0, self._free - self._put_since)
        asked = self._clock()
        free = self.store.space()
        with self._lock:
            self._free, self._asked, self._put_since = free, asked, 0
        return free

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        counts = bool(self._max_bytes) and not name.startswith(self._exempt)
        if counts:
            self._reserve(size)
        with self._lock:
            self._put_since += size
        stored = False
        try:
            self.store.put(name, size, open_at, fresh=fresh)
            stored = True
        finally:
            with self._lock:
                self._put_since = max(0, self._put_since - (0 if stored else size))
                self._coming -= size if counts else 0
                if counts and stored:
                    self._listed_past += size
                    self._change(lambda count: count and count.more(size))

    def _reserve(self, size: int) -> None:
        """Take `size` bytes of what is left; raises `Full`."""
        for age in (COUNT_AGE, DOUBT_AGE):
            used = self._used(age) or 0
            if age == DOUBT_AGE:
                used = self._used_after_counting() or 0
            with self._lock:
                # A put that has just ended is not among those that come any more, and may not have been in `used`.
                taken = max(used, self._count.used if self._count else 0) + self._coming
                if taken + size <= self._max_bytes:
                    self._coming += size
                    return
        raise Full(
            f"{taken:,} of the {self._max_bytes:,} bytes that may be kept there (max-bytes) are taken, and "
            f"{size:,} more do not fit"
        )

    def delete(self, name: str) -> None:
        counts = bool(self._max_bytes) and not name.startswith(self._exempt)
        size = self.store.stat(name) if counts else None
        self.store.delete(name)
        if size is not None:
            freed = size
            with self._lock:
                self._change(lambda count: count and count.more(-freed))

    # What is kept there.

    def _used(self, age: float) -> int | None:
        """Return the bytes that are kept there, None if they were not counted yet.

        A count that is older than `age` seconds is made anew behind the back, and used meanwhile: listing a large
        store takes longer than whoever asks has patience.
        """
        with self._lock:
            count = self._change()
        if count is None or not count.is_younger(age, self._date()):
            self._count_behind()
        return None if count is None else count.used

    def _used_after_counting(self) -> int | None:
        """As `_used`, after the count that is under way, if that does not take too long."""
        if self._counting.acquire(timeout=self._patience):
            self._counting.release()
        with self._lock:
            count = self._change()
        return None if count is None else count.used

    def _count_behind(self) -> None:
        failed = self._count_failed
        if failed is not None and self._clock() - failed < COUNT_PAUSE:
            return
        if not self._counting.acquire(blocking=False):
            return
        try:
            self._start(self._count_quietly)
        except RuntimeError:  # no thread to be had: then later
            self._counting.release()

    def _count_quietly(self) -> None:
        try:
            with self._lock:
                self._listed_past = 0
            began = self._date()
            listed = sum(size for _, size in self.store.list())
            with self._lock:
                new = _Count(listed + self._listed_past, began)
                self._change(lambda _: new)
            self._count_failed = None
        except SwarmError as error:
            self._count_failed = self._clock()
            log.warning("what is kept on a store could not be counted, for its max-bytes: %s", error)
        finally:
            self._counting.release()

    def _change(self, change: _Change | None = None) -> _Count | None:
        """Change the count, for all processes if that is possible, and return what it is now. `_lock` is held."""
        changes = [change] if change else []
        made: list[_Count | None] = []

        def write(text: bytes) -> bytes:
            made.append(_changed(_Count.parse(text), [*self._unwritten, *changes]))
            return made[0].pack() if made[0] else b""

        if self._shared is not None:
            try:
                self._shared.change(write)
                self._unwritten.clear()
            except BlockingIOError:
                log.debug("%s: another process holds it; this one goes by its own count", self._shared.path)
                self._unwritten += changes
            except OSError as error:
                log.warning("the count of a store holds for this process alone: %s", error)
                self._shared = None
        self._count = made[0] if made else _changed(self._count, changes)
        return self._count


def _changed(count: _Count | None, changes: Iterable[_Change]) -> _Count | None:
    for change in changes:
        count = change(count)
    return count
