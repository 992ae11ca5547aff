"""Fetching a key from torrents: proved pieces in, written in order at the end of a file that only grows.

git-annex hashes a file while it grows (see `transfer.download`), so nothing is written out of order here either.
Pieces come in any order; libtorrent keeps them in a folder of its own until it is their turn.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from annex_remote.errors import Cancelled, Damaged, NotEnough, SwarmError
from annex_remote.torrents.metainfo import Metainfo, TorrentFile
from annex_remote.torrents.torrent import SILENCE, Torrent, some_of
from annex_remote.torrents.wanting import NEAR, backward, forward

__all__ = ["Gathering", "Part"]

PULSE = 0.1
"""Seconds between looks at whether anybody has called it off, while nothing happens."""

PLAN_EVERY = 0.2
"""Seconds between two decisions on what to ask peers for."""
PLAN_PART = 10
"""Deciding takes one in so many seconds at most."""

STILL = 2.0
"""Seconds without anything after which all are looked at: peers may have others."""

AHEAD = 32 << 20
"""Bytes that are read back from the disk before it is their turn."""

AGAIN = 10.0
"""Seconds without a byte, if there were none for long just before, when another key of the torrent was wanted."""

MOST_NAMED = 3
"""Torrents, and reasons, that one message names."""

Clock = Callable[[], float]


@dataclass(eq=False)
class Part:
    """A torrent that has the content of a key, and which of its files that is."""

    torrent: Torrent
    file: TorrentFile
    is_doubtful: bool = False
    """True if nothing came of the torrent for as long as may be, just before."""

    @property
    def metainfo(self) -> Metainfo:
        return self.torrent.metainfo

    @cached_property
    def span(self) -> range:
        return self.metainfo.span(self.file)

    def piece_at(self, position: int) -> int:
        return (self.file.offset + position) // self.metainfo.piece_length

    def bounds(self, piece: int) -> tuple[int, int]:
        """Return from where to where in the file the bytes of a piece are."""
        start = piece * self.metainfo.piece_length - self.file.offset
        return max(0, start), min(self.file.size, start + self.metainfo.piece_length)

    def is_inside(self, piece: int) -> bool:
        """True if a piece is proved by this file's bytes alone."""
        start = piece * self.metainfo.piece_length - self.file.offset
        if start < 0:
            return False
        return self.metainfo.v2 is not None or start + self.metainfo.piece_size(piece) <= self.file.size

    def cut(self, piece: int, data: bytes) -> memoryview:
        """Return those of a piece's bytes that are of the file."""
        start, end = self.bounds(piece)
        skip = start + self.file.offset - piece * self.metainfo.piece_length
        return memoryview(data)[skip : skip + end - start]

    def has(self, start: int, end: int) -> bool:
        """True if the torrent has all bytes of the file from `start` to `end`."""
        pieces = range(self.piece_at(start), self.piece_at(end - 1) + 1)
        return not self.torrent.has_failed and all(map(self.torrent.has, pieces))

    def read(self, start: int, end: int) -> bytes:
        """Return bytes that are there; raises `SwarmError` if they cannot be read after all."""
        pieces = range(self.piece_at(start), self.piece_at(end - 1) + 1)
        for piece in pieces:
            self.torrent.begin_read(piece)
        whole = b"".join(
            self.cut(piece, data) for piece, data in zip(pieces, _all_read(self.torrent, pieces), strict=True)
        )
        first = self.bounds(pieces[0])[0]
        return whole[start - first : end - first]


class Gathering:
    """Gets one key's content, of `size` bytes, out of torrents, into the file at `path`.

    Torrents may be added while it is under way. `progress` gets the proved bytes that are there, in the file or
    beside it. `timeout` is in seconds without a byte from any torrent.
    """

    def __init__(
        self,
        path: str,
        *,
        timeout: float,
        mix: bool = True,
        progress: Callable[[int], None],
        cancelled: threading.Event,
        changed: threading.Condition,
        clock: Clock = time.monotonic,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.path = path
        self._timeout = timeout
        self._mix = mix
        self._progress = progress
        self._cancelled = cancelled
        self._changed = changed
        self._clock = clock
        self.tell = tell
        self._told = False
        self._parts: list[Part] = []
        self._others: list[Part] = []
        """Torrents that may have other content; the next one has its turn if nothing came of those before it."""
        self._joined: list[Part] = []
        """All that were added, also of a torrent that is there already, or has turned out to be of no use."""
        self._expected = 0
        self._began = clock()
        self._planned = 0.0
        self._position = 0
        self._looked = 0.0
        self._ahead = 0
        """Up to where bytes were there, if those that were there had no gap between them."""
        self._taken = 0
        """Where the bytes end that were taken last."""
        self._head: int | None = None
        """A piece before the position that is to be seen nevertheless."""
        self._coming = 0
        """Bytes from the position on that somebody else brings soon."""
        self._stop = False
        """True if somebody else is to write now."""
        self._running = False
        self.failures: list[str] = []
        """What came of torrents that cannot be used, in words."""
        self.wrong: list[str] = []
        """Torrents that have other content than shares do, in words."""
        self._offerings: dict[Part, _Offering] = {}
        self._used: set[Part] = set()
        """Torrents whose bytes are in the file."""
        self.is_spoiled = False
        """True if bytes of one that turned out to be of something else are, or were."""
        self._over = False
        self.is_whole = False
        """True if the key is here, wherever it came from."""
        self.gave_up = False
        """True if nothing came of the torrents for too long."""

    # What others say.

    def expect(self, count: int) -> None:
        """Say that so many torrents may still be added; each is followed by `add` or `cannot`."""
        with self._changed:
            self._expected += count

    def add(self, part: Part) -> bool:
        """Take in a torrent; False if it is not needed any more."""
        with self._changed:
            self._expected -= 1
            if self._over:
                return False
            self._joined.append(part)
            if any(other.torrent is part.torrent for other in self._parts):
                pass  # a page and a magnet may be of one torrent
            elif not self._parts or self._may_join(part):
                self._parts.append(part)
            else:
                self._others.append(part)
            self._planned = 0.0
            self._began = self._clock()
            self._changed.notify_all()
            return True

    def _may_join(self, part: Part) -> bool:
        """True if bytes of `part` may stand beside others': they are the same, or all is proved later."""
        first = self._parts[0].file
        same = part.file.root is not None and part.file.root == first.root
        return part.file.size == first.size and (self._mix or same)

    def cannot(self, text: str) -> None:
        with self._changed:
            self._expected -= 1
            self.failures.append(text)
            self._changed.notify_all()

    @property
    def parts(self) -> Sequence[Part]:
        return self._parts

    @property
    def is_used(self) -> bool:
        """True if bytes of any torrent were written."""
        return bool(self._used)

    def has_used(self, part: Part) -> bool:
        """True if bytes of this torrent were written."""
        return part in self._used

    @property
    def is_hopeless(self) -> bool:
        """True if no torrent is there, and none is expected."""
        return not self._parts and self._expected <= 0

    # Alone.

    def run(self) -> bool:
        """Write the file, going on from what is there; False if somebody else has taken over meanwhile.

        Raises `NotEnough` when nothing came for `timeout` seconds, saying what was tried.
        """
        with self._changed:
            if self._stop:
                return False
            self._running = True
        over = True  # what is no `SwarmError` ends it for shares as well
        try:
            over = self._run()
            return over
        except SwarmError:
            over = False
            raise
        finally:
            with self._changed:
                self._running = False
                self._over = over
                self._changed.notify_all()

    def _run(self) -> bool:
        while not self._parts:
            if not self._wait():
                return False
            if self.is_hopeless:
                raise NotEnough("; ".join(self.failures) or "no torrent has it")
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            part = self._parts[0]
            self._position = _proved(part, descriptor, self._progress)
            if not self._check_head(part, descriptor):
                return False
            os.ftruncate(descriptor, self._position)
            os.lseek(descriptor, self._position, os.SEEK_SET)
            return self._write(descriptor)
        finally:
            os.close(descriptor)

    def _check_head(self, part: Part, descriptor: int) -> bool:
        """Fetch the first piece if it is of another file as well, and begin anew if other bytes are there.

        False if somebody else is to write.
        """
        head = part.span[0] if part.span else 0
        if not self._position or part.is_inside(head):
            return True
        end = part.bounds(head)[1]
        self._head = head
        try:
            while (data := self._read(0, end)) is None:
                self._plan(forward)
                if not self._wait():
                    return False
        finally:
            self._head = None
        if data != os.pread(descriptor, end, 0):
            self._position = 0
        return True

    def _write(self, descriptor: int) -> bool:
        while self._position < self._parts[0].file.size:  # another torrent may have its turn meanwhile
            self._plan(forward)
            part = self._has_next()
            if part is None:
                if not self._wait():
                    return False
                continue
            before = self._position
            for data in self._flow(part):
                self._used.add(part)
                view = data
                while view:
                    view = view[os.write(descriptor, view) :]
                self._position += len(data)
                self._progress(self._position + self._beyond())
                self._plan(forward)
                if self._stop or self._cancelled.is_set():
                    break
            # What cannot be read is not asked for again at once.
            if self._stop or ((self._position == before or self._cancelled.is_set()) and not self._wait()):
                return False
        self._progress(self._position)
        return True

    def _flow(self, part: Part) -> Iterator[memoryview]:
        """Yield bytes from the position on, as long as `part` has them; reads ahead."""
        begun: deque[int] = deque()
        torrent = part.torrent
        piece = part.piece_at(self._position)
        most = max(1, AHEAD // part.metainfo.piece_length)
        try:
            while True:
                while len(begun) < most and piece < part.span.stop and torrent.has(piece):
                    torrent.begin_read(piece)
                    begun.append(piece)
                    piece += 1
                if not begun:
                    return
                reading = begun.popleft()
                try:
                    data = torrent.read(reading)
                except SwarmError:
                    return  # it is looked for again
                start, _ = part.bounds(reading)
                yield part.cut(reading, data)[self._position - start :]
        finally:
            for reading in begun:
                with suppress(SwarmError):
                    torrent.read(reading)

    def _has_next(self) -> Part | None:
        for part in self._parts:
            if part.has(self._position, self._position + 1):
                return part
        return None

    def _wait(self) -> bool:
        """Wait until something has happened; False if somebody else is to write.

        Raises `Cancelled`, and `NotEnough` when nothing has come for too long.
        """
        if self._cancelled.is_set():
            raise Cancelled("the download was called off")
        with self._changed:
            if self._stop:
                return False
            self._changed.wait(PULSE)
        self.check()
        return not self._stop

    def check(self) -> None:
        """Raise `NotEnough` if nothing has come from any torrent for too long, or all have failed."""
        failed = []
        for part in self._parts:
            try:
                part.torrent.check()
            except SwarmError as error:
                failed.append(str(error))
        if failed and len(failed) == len(self._parts):
            if self._next_has_its_turn(failed):
                return
            raise NotEnough("; ".join([*failed, *self.failures]))
        if not self._parts:
            return
        moved = max(self._began, *(part.torrent.moved for part in self._parts))
        silence = self._clock() - moved
        timeout = min(AGAIN, self._timeout) if all(part.is_doubtful for part in self._parts) else self._timeout
        if silence > timeout and self._expected <= 0:
            tried = self._tried()
            if self._next_has_its_turn(tried):
                return
            self.gave_up = True
            nor = f" (nor for {self._timeout:g} just before)" if timeout < self._timeout else ""
            why = "; ".join(tried + some_of(self.failures, MOST_NAMED))
            raise NotEnough(f"nothing came from peers for {timeout:g} seconds{nor}; {why}")
        if silence > SILENCE and timeout > 2 * SILENCE and not self._told:
            self._told = True
            self.tell(
                f"nothing has come from peers for {SILENCE:g} seconds, and {timeout:g} are waited for: "
                f"{'; '.join(self._tried())}"
            )

    def _tried(self) -> list[str]:
        """Return what was tried with which torrents, those together with which it went alike."""
        alike: dict[str, dict[str, None]] = {}
        for part in self._parts:
            alike.setdefault(part.torrent.tried.in_words(), {})[part.metainfo.title] = None
        words = [
            f"torrent{'' if len(titles) == 1 else 's'} {', '.join(some_of(list(titles), MOST_NAMED))}: {why}"
            for why, titles in alike.items()
        ]
        return some_of(words, MOST_NAMED)

    def _next_has_its_turn(self, why: Sequence[str]) -> bool:
        """Use the next of the other torrents, if there is one, and nothing stands in the file."""
        with self._changed:
            if not self._others or self._used or self._position:
                return False
            self.failures += why
            for part in self._parts:
                part.torrent.want(self, {})
            self._parts = [self._others.pop(0)]
            self._began, self._planned = self._clock(), 0.0
            return True

    def _plan(self, order: Callable[[Sequence[int], Callable[[int], bool], int], dict[int, int]]) -> None:
        """Say what is wanted, if that was not done just now.

        What is missing is shared out anew each time, in runs of one length. The first torrent that has brought
        something goes forward, or from the end of its run if the front comes from elsewhere; each other one goes
        backward, so that two are never near one another before all is asked for.
        """
        now = self._clock()
        if now - self._planned < PLAN_EVERY:
            return
        self._planned = now
        count = len(self._parts)
        for index, part in enumerate(sorted(self._parts, key=lambda part: not part.torrent.downloaded)):
            first = part.piece_at(self._position) if self._position < part.file.size else part.span.stop
            pieces = range(first, part.span.stop)
            if self._coming:
                rest = range(min(part.piece_at(self._position + self._coming), part.span.stop), part.span.stop)
                pieces = rest if any(not part.torrent.has(piece) for piece in rest) else pieces
            has = self._anywhere(part)
            run: Sequence[int] = pieces
            if count > 1:
                missing = [piece for piece in pieces if not has(piece)]
                run = missing[len(missing) * index // count : len(missing) * (index + 1) // count] or missing
            elif order is forward and now - part.torrent.moved < STILL:
                run = list(islice((piece for piece in pieces if not has(piece)), NEAR))
            wanted = (order if index == 0 else backward)(run, has, part.metainfo.piece_length)
            if self._head is not None and part is self._parts[0]:
                wanted[self._head] = 6
            part.torrent.want(self, wanted)
        self._planned += (PLAN_PART - 1) * (self._clock() - now)

    def _anywhere(self, part: Part) -> Callable[[int], bool]:
        """Return what tells whether any torrent has the bytes of a piece of `part`."""
        others = [other for other in self._parts if other is not part]
        if not others:
            return part.torrent.has

        def has(piece: int) -> bool:
            if part.torrent.has(piece):
                return True
            start, end = part.bounds(piece)
            return any(other.has(start, end) for other in others)

        return has

    def _beyond(self) -> int:
        """Return the bytes behind the position that are there already, as of a moment ago."""
        now = self._clock()
        if now - self._looked >= PLAN_EVERY:
            self._looked, self._ahead = now, self._position + self._count_beyond()
        return max(0, self._ahead - self._position)

    def _count_beyond(self) -> int:
        part = self._parts[0]
        first = part.piece_at(self._position) if self._position < part.file.size else part.span.stop
        if first >= part.span.stop:
            return 0
        count = part.torrent.count(first, part.span.stop)
        return min(count * part.metainfo.piece_length, part.file.size - self._position)

    # Beside shares that come from the front (`transfer.download.Aside`).

    def take_over(self) -> None:
        """Stop writing: somebody else goes on from what is in the file. Returns when that is so.

        Raises `Cancelled` if the file is whole already, or this was called off.
        """
        with self._changed:
            self._stop = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._running)
            if self._over or self._cancelled.is_set():
                raise Cancelled("the file is there already")

    def give_back(self) -> None:
        """Let `run` write again."""
        with self._changed:
            self._stop, self._coming = False, 0
            self._began = self._clock()
            self._planned = 0.0

    def end(self, *, whole: bool = False) -> list[Part]:
        """Return all that were added; none is taken in any more. `whole`: the key is here."""
        with self._changed:
            self._over, self.is_whole = True, whole
            for part in self._joined:
                part.torrent.want(self, {})
            return list(self._joined)

    def has(self, start: int, end: int, coming: int) -> bool:
        """True if the bytes from `start` to `end` are there; also decides what to ask peers for next.

        `coming` bytes from `start` on come from shares soon: peers are asked for them last.
        """
        self._position, self._coming = start, coming
        if not self._parts:
            return False
        self._plan(backward)
        if start != self._taken:
            # To leave shares alone for a little costs more than it brings: what is under way there is lost.
            end = min(self._parts[0].file.size, start + max(2 * coming, end - start))
        return any(part.has(start, end) for part in self._parts)

    def take(self, start: int, end: int) -> bytes | None:
        """Return proved bytes of the content, None if they are not there."""
        data = self._read(start, end)
        if data is not None:
            self._taken = end
        return data

    def _read(self, start: int, end: int) -> bytes | None:
        for part in self._parts:
            if part.has(start, end):
                with suppress(SwarmError):
                    data = part.read(start, end)
                    self._used.add(part)
                    return data
        return None

    def offer(self, start: int, data: bytes | memoryview) -> None:
        """Take in proved bytes that came from shares, in order.

        A torrent that says that they are others is given up.
        """
        for part in list(self._parts):
            try:
                self._offerings.setdefault(part, _Offering(part)).take(start, data)
            except Damaged as error:
                self.wrong.append(str(error))
                self._parts.remove(part)
                part.torrent.want(self, {})
                self.is_spoiled |= part in self._used

    @property
    def beyond(self) -> int:
        """Bytes that are there behind those that were asked for last."""
        return self._beyond() if self._parts else 0


def _all_read(torrent: Torrent, pieces: Iterable[int]) -> Iterator[bytes]:
    """Yield pieces that were begun to be read; all are taken, whatever happens."""
    error: SwarmError | None = None
    for piece in pieces:
        try:
            data = torrent.read(piece)
        except SwarmError as raised:
            error = raised
        else:
            if error is None:
                yield data
    if error is not None:
        raise error


def _proved(part: Part, descriptor: int, progress: Callable[[int], None]) -> int:
    """Return how many bytes at the beginning of the file are the torrent's.

    A piece that has bytes of the file before as well is proved by nothing that is here; it counts with the next
    one, and is looked at once it has come.
    """
    size = min(os.fstat(descriptor).st_size, part.file.size)
    proved = 0
    for piece in part.span:
        start, end = part.bounds(piece)
        if end > size:
            break
        if part.is_inside(piece):
            try:
                if not part.metainfo.proves(piece, os.pread(descriptor, end - start, start)):
                    break
            except ValueError:  # no hash is known
                break
            proved = end
            progress(proved)
    return proved


class _Offering:
    """Makes pieces for one torrent of bytes that come from elsewhere, in order."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._at = 0
        """Where in the file the kept bytes begin."""
        self._kept = bytearray()
        self._agrees = False
        """True if a piece was compared: of those that the torrent has by itself, one is enough."""

    def take(self, start: int, data: bytes | memoryview) -> None:
        """Take in bytes; raises `Damaged` if the torrent says that they are others."""
        if start != self._at + len(self._kept):
            self._at, self._kept = start, bytearray()
        self._kept += data
        while self._kept:
            piece = self._part.piece_at(self._at)
            begin, end = self._part.bounds(piece)
            length = min(end - self._at, len(self._kept))
            if self._at == begin and self._at + length < end:
                return  # the rest is still to come
            if self._at == begin and self._part.is_inside(piece):
                self._give(piece, bytes(self._kept[:length]))
            del self._kept[:length]
            self._at += length

    def _give(self, piece: int, data: bytes) -> None:
        torrent, metainfo = self._part.torrent, self._part.metainfo
        if torrent.has(piece) and self._agrees:
            return
        if metainfo.has_layers and not metainfo.proves(piece, data):
            raise Damaged(f"the torrent {metainfo.title} has other content than the shares")
        self._agrees = True
        torrent.offer(piece, data + bytes(metainfo.piece_size(piece) - len(data)))
