"""One torrent as those who want something of it see it: which pieces are here, and what is wanted.

Twenty keys of one torrent share it. Nothing here knows libtorrent; `session` tells what happens.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from annex_remote.errors import SwarmError, Unavailable
from annex_remote.torrents.metainfo import Metainfo
from annex_remote.torrents.urls import shown
from annex_remote.torrents.wanting import NEAR, forward

__all__ = ["SILENCE", "Handle", "Torrent", "Tried", "some_of"]

MOST_SHOWN = 8
"""Trackers, and web seeds, that a message names."""

SILENCE = 10.0
"""Seconds without anything from peers after which the user is told what is waited for."""

LEAST = 16 << 10
"""Bytes that peers have to bring to be taken for alive: a block. One that trickles is as good as none."""

READ_TIME = 60.0
"""Seconds that reading a piece back from this machine's disk may take."""


class Handle(Protocol):
    """What a torrent asks of the session. None of it waits."""

    def prioritise(self, changes: list[tuple[int, int]]) -> None:
        """Set priorities of pieces."""

    def wake(self) -> None:
        """See to it that peers come back, now that something is wanted again."""

    def read(self, piece: int) -> None:
        """Have a piece read: `Torrent.was_read` gets it."""

    def add(self, piece: int, data: bytes) -> None:
        """Give a piece that came from elsewhere."""

    def check_again(self) -> None:
        """Have all that is there hashed again."""


@dataclass
class Tried:
    """What was tried to find peers, and what came of it: for the message if nothing did."""

    trackers: dict[str, str] = field(default_factory=dict)
    web_seeds: dict[str, str] = field(default_factory=dict)
    peers: int = 0
    """Most that were connected at one time."""
    known: int = 0
    """Most that were known of."""
    seeds: int = 0
    dht: str = ""
    refused: set[str] = field(default_factory=set)
    """Hosts that were not asked, since their addresses are private ones."""
    bad: int = 0
    """Pieces that did not prove."""

    def in_words(self) -> str:
        """Return it as the second half of a sentence."""
        parts = []
        if self.peers or self.bad:
            parts.append(f"{_peers(max(1, self.peers))} connected, {self.seeds} with all of it")
        elif self.known:
            parts.append(f"none of {_peers(self.known)} could be connected to")
        else:
            parts.append("no peers were found")
        trackers = [f"tracker {shown(url)}: {said}" for url, said in self.trackers.items()]
        seeds = [f"web seed {shown(url)}: {said}" for url, said in self.web_seeds.items()]
        parts += some_of(trackers, MOST_SHOWN, "more trackers") + some_of(seeds, MOST_SHOWN, "more web seeds")
        if self.bad:
            parts.append(f"pieces that came damaged: {self.bad}")
        if self.refused:
            parts.append(
                f"{', '.join(sorted(self.refused)[:5])} not asked, as annex.security.allowed-ip-addresses does "
                "not allow it"
            )
        if self.dht:
            parts.append(self.dht)
        return "; ".join(parts)


def _peers(count: int) -> str:
    return "1 peer" if count == 1 else f"{count} peers"


def some_of(words: list[str], most: int, rest: str = "more") -> list[str]:
    """Return the first of `words`, and how many others there are."""
    others = len(words) - most
    return words if others <= 0 else [*words[:most], f"{others} {rest}"]


class Torrent:
    """Thread safe. `changed` is notified whenever anything has happened to any torrent of the session."""

    def __init__(self, metainfo: Metainfo, changed: threading.Condition, clock: Callable[[], float]) -> None:
        self.metainfo = metainfo
        self.changed = changed
        self.tried = Tried()
        self.moved = clock()
        """When something last came from peers."""
        self.uploaded = 0
        self.downloaded = 0
        self._before = 0, 0
        """Bytes that went both ways before the torrent was added anew."""
        self._counted = 0
        """What of it was taken for a sign of life."""
        self._clock = clock
        self._handle: Handle | None = None
        self._have = bytearray(metainfo.pieces)
        self._checked = False
        """True when what was there before has been told; what comes later was proved just before."""
        self._doubtful: set[int] = set()
        """Pieces that were there before, by notes of a process that may have been killed."""
        self.is_hashed = False
        """True if whatever is told to be there was hashed by this process: nothing is known from notes."""
        self._wants: dict[object, Mapping[int, int]] = {}
        self._set: dict[int, int] = {}
        """The priorities that the session was told and that are not 0."""
        self._reads: dict[int, bytes | SwarmError | None] = {}
        """Pieces that are being read (None), were read, or could not be."""
        self._waiting: dict[int, int] = {}
        """How many wait for each of them."""
        self._error: str = ""

    # For who wants something.

    def has(self, piece: int) -> bool:
        return bool(self._have[piece])

    def count(self, first: int, stop: int) -> int:
        """Return how many pieces from `first` to `stop` are here."""
        return self._have.count(1, first, stop)

    def want(self, user: object, wanted: Mapping[int, int]) -> None:
        """Say what `user` wants from now on: pieces, with priorities from 1 to 6."""
        with self.changed:
            self._wants.pop(self, None)
            if wanted:
                self._wants[user] = wanted
            else:
                self._wants.pop(user, None)
            self._tell_wants()

    def want_nothing(self) -> None:
        """Take back all that was said to be wanted."""
        with self.changed:
            self._wants.clear()
            self._tell_wants()

    def begin_with(self, pieces: Sequence[int]) -> None:
        """Want pieces in this order until somebody says what he wants: peers leave whoever wants nothing."""
        with self.changed:
            self._wants[self] = forward(pieces[:NEAR], self.has, self.metainfo.piece_length)
            self._tell_wants()

    @property
    def is_checked(self) -> bool:
        """True if it is known what of it was there when it was joined."""
        return self._checked

    @property
    def priorities(self) -> dict[int, int]:
        """What is wanted now."""
        return self._set

    def _tell_wants(self) -> None:
        merged: dict[int, int] = {}
        for wanted in self._wants.values():
            for piece, priority in wanted.items():
                if not self._have[piece]:
                    merged[piece] = max(priority, merged.get(piece, 0))
        changes = [(piece, priority) for piece, priority in merged.items() if self._set.get(piece) != priority]
        changes += [(piece, 0) for piece in self._set if piece not in merged and not self._have[piece]]
        was_idle, self._set = not self._set, merged
        if self._handle is None or not changes:
            return
        self._handle.prioritise(changes)
        if was_idle:
            self._handle.wake()

    @property
    def has_failed(self) -> bool:
        """True if `check` raises."""
        return bool(self._error)

    def check(self) -> None:
        """Raise `Unavailable` if the torrent has failed on this machine: no space, a disk that fails."""
        if self._error:
            raise Unavailable(self._error)

    def begin_read(self, piece: int) -> None:
        """Have a piece read; every call is followed by one of `read`."""
        with self.changed:
            self._waiting[piece] = self._waiting.get(piece, 0) + 1
            if piece in self._reads:
                return
            self._reads[piece] = None
            if self._handle is not None:
                self._handle.read(piece)
            else:
                self._not_read("is fetched no more")

    def read(self, piece: int) -> bytes:
        """Return a piece that `begin_read` was called for, proved. Raises `Unavailable` if it cannot be had."""
        with self.changed:
            self.changed.wait_for(lambda: self._reads.get(piece) is not None or self._error, READ_TIME)
            data = self._reads.get(piece)
            self._waiting[piece] -= 1
            if not self._waiting[piece]:
                del self._waiting[piece]
                self._reads.pop(piece, None)
        self.check()
        if data is None:
            raise Unavailable(f"a piece of {self.metainfo.title} could not be read back in {READ_TIME:g} seconds")
        if isinstance(data, SwarmError):
            raise data
        if piece not in self._doubtful or (self.metainfo.can_prove(piece) and self.metainfo.proves(piece, data)):
            return data
        with self.changed:
            if self._checked:
                self._checked, self.is_hashed = False, True
                self._have[:] = bytes(len(self._have))
                self._doubtful.clear()
                self._set.clear()
                if self._handle is not None:
                    self._handle.check_again()
        raise Unavailable(f"a piece of {self.metainfo.title} does not prove, as it is on this machine's disk")

    def offer(self, piece: int, data: bytes) -> None:
        """Give a proved piece that came from elsewhere."""
        with self.changed:
            if not self._have[piece] and self._handle is not None:
                self._handle.add(piece, data)

    # For the session, which holds `changed` meanwhile.

    def attach(self, handle: Handle) -> None:
        """Go on with `handle`, which was told `priorities` already."""
        self._handle = handle

    def detach(self) -> None:
        self._handle = None
        self._not_read("is fetched no more")

    def finished(self, piece: int) -> None:
        self._have[piece] = 1
        if not (self._checked or self.is_hashed):
            self._doubtful.add(piece)
        self.moved = self._clock()

    def tell(self, pieces: Sequence[bool]) -> None:
        """Take in which pieces are there: of very many, some may not have been told one by one.

        And what came while the torrent was added anew may be lost.
        """
        for piece, is_there in enumerate(pieces[: len(self._have)]):
            if is_there and not self._have[piece]:
                self.finished(piece)
            elif self._have[piece] and not is_there:
                self._have[piece] = 0

    def checked(self) -> None:
        """Take in that all has been told that was there before."""
        self._checked = True
        self._set = {}  # what is said meanwhile may be lost
        self._tell_wants()

    def lost(self, piece: int) -> None:
        self.tried.bad += 1

    def was_read(self, piece: int, data: bytes | SwarmError) -> None:
        if piece in self._waiting:
            self._reads[piece] = data

    def begun_anew(self) -> None:
        """Take in that what was being read will not be told any more; it is to be asked for again.

        From here on, bytes are counted from 0. Where pieces came damaged, only those beyond as many as came before
        are a sign of life: who sends them is banned, and is let in again.
        """
        self._not_read("was begun anew")
        last = self.downloaded - self._before[0]
        self._before = self.downloaded, self.uploaded
        self._counted = self.downloaded + (last if self.tried.bad else 0)

    def _not_read(self, why: str) -> None:
        for piece, data in self._reads.items():
            if data is None:
                self._reads[piece] = Unavailable(f"{self.metainfo.title} {why}")

    def failed(self, text: str) -> None:
        self._error = text

    def came(self, downloaded: int, uploaded: int) -> None:
        """Take in the bytes that went both ways since the torrent was added, or added anew."""
        self.downloaded, self.uploaded = self._before[0] + downloaded, self._before[1] + uploaded
        if self.downloaded - self._counted >= LEAST:
            self._counted = self.downloaded
            self.moved = self._clock()
