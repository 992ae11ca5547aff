"""Serving annexed content to peers where it lies: what is to be served, and how that stands. Nothing is written.

What is to be served is decided by a pure function, from what is here and what is recorded; `Serving` sees to it
that a session serves that, and no more. Content that has changed, or has gone, makes another offer of a torrent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from annex_remote.errors import BadSetting, SwarmError, Unavailable
from annex_remote.torrents.known import Extra
from annex_remote.torrents.metainfo import Metainfo
from annex_remote.torrents.names import printable
from annex_remote.torrents.session import Standing
from annex_remote.torrents.torrent import Torrent
from annex_remote.torrents.urls import TorrentUrl, torrent_url

__all__ = ["Change", "Figures", "Held", "Offer", "Plan", "Serving", "Shares", "plan"]


@dataclass(frozen=True)
class Held:
    """Content that is here: its key, where it is and its bytes; `stamp` is another one when it was changed."""

    key: str
    place: str
    size: int
    stamp: tuple[int, ...] = ()


@dataclass(frozen=True)
class Offer:
    """A torrent as it is to be served: `held` is parallel to its files, None for those that are not here."""

    metainfo: Metainfo = field(compare=False)
    held: tuple[Held | None, ...]
    trackers: frozenset[str]

    @property
    def here(self) -> int:
        """How many files are here."""
        return sum(held is not None for held in self.held)

    @property
    def of(self) -> int:
        """How many files there are to be served; empty ones need nobody."""
        return sum(file.size > 0 for file in self.metainfo.files)

    @property
    def places(self) -> list[str | None]:
        return [held.place if held is not None else None for held in self.held]


@dataclass
class Plan:
    """What is to be served, by torrent; the torrents of which it is not known what is in them; what is wrong.

    `unknown` is by the URL without its fragment, `wrong` has sentences by key and URL.
    """

    offers: dict[str, Offer] = field(default_factory=dict)
    unknown: dict[str, TorrentUrl] = field(default_factory=dict)
    wrong: dict[tuple[str, str], str] = field(default_factory=dict)


def plan(
    held: Iterable[Held], urls: Mapping[str, Sequence[str]], known: Callable[[TorrentUrl], Metainfo | None]
) -> Plan:
    """Decide what is to be served of what is here. `urls` are recorded, by key; some are no torrents."""
    made = Plan()
    metainfos: dict[str, Metainfo] = {}
    places: dict[str, dict[int, Held]] = {}
    trackers: dict[str, set[str]] = {}
    for one in held:
        for text in urls.get(one.key, ()):
            url = torrent_url(text)
            metainfo = known(url) if url is not None else None
            if url is None:
                continue
            if metainfo is None:
                made.unknown.setdefault(url.place, url)
                continue
            try:
                file = metainfo.pick(url.choice)
            except BadSetting as error:
                made.wrong[one.key, text] = str(error)
                continue
            if file.size != one.size:
                made.wrong[one.key, text] = (
                    f"file {file.number} of the torrent has {file.size:,} bytes, and the content {one.size:,}"
                )
            elif file.size:
                metainfos.setdefault(metainfo.id, metainfo)
                places.setdefault(metainfo.id, {}).setdefault(file.number, one)
                if url.magnet is not None and not metainfo.private:
                    trackers.setdefault(metainfo.id, set()).update(url.magnet.trackers)
    for id_, metainfo in metainfos.items():
        here = tuple(places[id_].get(file.number) for file in metainfo.files)
        made.offers[id_] = Offer(metainfo, here, frozenset(trackers.get(id_, ())))
    return made


class Shares(Protocol):
    """What serving takes of a session."""

    def join(self, metainfo: Metainfo, extra: Extra, *, in_place: Sequence[str | None]) -> Torrent:
        """Serve a torrent from where its files are."""

    def drop(self, torrent: Torrent) -> None:
        """Serve it no more."""

    def standing(self, torrent: Torrent) -> Standing | None:
        """Return how it stands."""


@dataclass(frozen=True)
class Change:
    """What has become of an offer: ``offered``, ``withdrawn``, ``failed`` or ``damaged``, and why."""

    what: str
    offer: Offer
    why: str = ""


@dataclass(frozen=True)
class Figures:
    """How all stands: `given` are bytes since the beginning."""

    torrents: int
    files: int
    peers: int
    given: int
    checking: int
    """Torrents that are still being looked at."""


NOTHING_YET = Standing(pieces=0, peers=0, uploaded=0, is_checking=True)


@dataclass
class _Served:
    offer: Offer
    torrent: Torrent
    standing: Standing = NOTHING_YET
    seen: int = -1
    """How many pieces it had at the last look."""
    judged: int = -1
    """How many pieces it had when it was last judged."""

    @property
    def is_settled(self) -> bool:
        """True if it is known what of it is here, and nothing is being hashed."""
        return self.torrent.is_checked and not self.standing.is_checking


class Serving:
    """Keeps a session at what is offered. Not thread safe."""

    def __init__(self, session: Shares) -> None:
        self._session = session
        self._served: dict[str, _Served] = {}
        self._failed: dict[str, Offer] = {}
        self._given = 0
        """Bytes that were given of torrents that are served no more."""

    def update(self, offers: Mapping[str, Offer]) -> list[Change]:
        """Serve `offers` from now on, and nothing else; return what that changes."""
        changes = []
        for id_, served in list(self._served.items()):
            if offers.get(id_) != served.offer:
                self._drop(id_)
                if id_ not in offers:
                    changes.append(Change("withdrawn", served.offer))
        for id_, offer in offers.items():
            if id_ not in self._served:
                changes += self._join(id_, offer)
        self._failed = {id_: offer for id_, offer in self._failed.items() if id_ in offers}
        return changes

    def _join(self, id_: str, offer: Offer) -> list[Change]:
        extra = Extra(trackers=tuple(sorted(offer.trackers)))
        try:
            torrent = self._session.join(offer.metainfo, extra, in_place=offer.places)
        except SwarmError as error:
            return self._fail(id_, offer, str(error))
        self._served[id_] = _Served(offer, torrent)
        self._failed.pop(id_, None)
        return [Change("offered", offer)]

    def _fail(self, id_: str, offer: Offer, why: str) -> list[Change]:
        """Note what failed, to be tried again at the next update; it is told once."""
        was_told = self._failed.get(id_) == offer
        self._failed[id_] = offer
        return [] if was_told else [Change("failed", offer, why)]

    def _drop(self, id_: str) -> None:
        served = self._served.pop(id_)
        standing = self._session.standing(served.torrent) or served.standing
        self._given += standing.uploaded
        self._session.drop(served.torrent)

    def look(self) -> list[Change]:
        """See how all stands; return what turns out to be wrong with it."""
        changes = []
        for id_, served in list(self._served.items()):
            served.standing = self._session.standing(served.torrent) or served.standing
            try:
                served.torrent.check()
            except Unavailable as error:  # a file went, or a disk fails
                self._drop(id_)
                changes += self._fail(id_, served.offer, str(error))
                continue
            pieces = served.standing.pieces
            was, served.seen = served.seen, pieces
            if not served.is_settled or pieces == served.judged or pieces != was:
                continue
            all_of_them = served.offer.metainfo.pieces
            if pieces == all_of_them or served.torrent.count(0, all_of_them) == pieces:  # it has heard of all
                served.judged = pieces
                changes += self._judged(served)
        return changes

    def _judged(self, served: _Served) -> list[Change]:
        """Return what of the files that are here is not what the torrent has."""
        offer, metainfo = served.offer, served.offer.metainfo
        if served.standing.pieces == metainfo.pieces:
            return []
        absent = {
            piece
            for file, held in zip(metainfo.files, offer.held, strict=True)
            if held is None
            for piece in metainfo.span(file)
        }
        damaged = []
        for file, held in zip(metainfo.files, offer.held, strict=True):
            own = [piece for piece in metainfo.span(file) if held is not None and piece not in absent]
            bad = sum(not served.torrent.has(piece) for piece in own)
            if bad:
                name = printable("/".join(file.path))
                damaged.append(f"{name}: {bad:,} of {len(own):,} pieces are not the torrent's")
        return [Change("damaged", offer, "; ".join(damaged))] if damaged else []

    def figures(self) -> Figures:
        """Return how all stood at the last look."""
        standings = [served.standing for served in self._served.values()]
        return Figures(
            len(standings),
            sum(served.offer.here for served in self._served.values()),
            sum(standing.peers for standing in standings),
            self._given + sum(standing.uploaded for standing in standings),
            sum(standing.is_checking for standing in standings),
        )
