"""`torrent register`: annexed files that are here get a torrent as a source; nothing of it is fetched."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from annex_remote.annexed import files_below, places_of, record_urls, urls_recorded
from annex_remote.errors import BadSetting, Unavailable
from annex_remote.torrents.metainfo import Metainfo, TorrentFile
from annex_remote.torrents.register import Candidate, Fate, Match, match
from annex_remote.torrents.source import SCHEME
from annex_remote.torrents.urls import Magnet, TorrentUrl, recorded, torrent_url

__all__ = ["Outcome", "Registration"]


@dataclass
class Outcome:
    """What became of one file of the torrent. `added` are the URLs that its keys did not have, by key."""

    match: Match
    added: dict[str, list[str]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    @property
    def state(self) -> str:
        """``registered``, ``already``, ``failed``, ``empty``, ``no_match`` or ``unproved``."""
        if self.match.fate is Fate.PROVED:
            return "failed" if self.errors else "registered" if self.added else "already"
        return {Fate.EMPTY: "empty", Fate.ABSENT: "no_match", Fate.UNPROVED: "unproved"}[self.match.fate]

    @property
    def is_well(self) -> bool:
        return self.state in ("registered", "already", "empty")


@dataclass
class Registration:
    """A torrent and the candidates for its files: content that is here and has the size of one of them.

    `place` is the http, https or file URL of its .torrent, None for a magnet.
    """

    remote: str
    metainfo: Metainfo
    place: str | None
    candidates: list[Candidate] = field(default_factory=list)
    among: str = "that is here"
    """Which annexed files are looked at, in words."""
    heard: Callable[[int], None] = lambda _: None
    """Told how many bytes have been read since the last time."""

    def look(self, folder: str | None) -> None:
        """Find candidates below `folder`, None for the whole work tree; raises `SwarmError`."""
        if folder is not None and not os.path.lexists(folder):
            raise BadSetting(f"{folder} is not there")
        if folder is not None:
            self.among = f"that is here below {folder}" if os.path.isdir(folder) else f"called {folder}"
        names: dict[str, list[str]] = {}
        for key, file in files_below(folder):
            names.setdefault(key, []).append(file)
        wanted = {file.size for file in self.metainfo.files}
        for key, place in places_of(names).items():
            try:
                size = os.stat(place).st_size
            except OSError:
                continue  # it went just now
            if size in wanted:
                self.candidates.append(Candidate(key, tuple(names[key]), size, place))

    @property
    def bytes_to_read(self) -> int:
        """About as many as `prove` reads."""
        return sum(candidate.size for candidate in self.candidates)

    def prove(self) -> list[Outcome]:
        """Return what of the torrent is here, and which of its URLs are not recorded yet."""
        outcomes = [Outcome(each) for each in match(self.metainfo, self.candidates, self._read, self.among)]
        keys = {one.key for outcome in outcomes for one in outcome.match.candidates}
        known = urls_recorded(keys) if keys else {}
        there = {key for key, _ in files_below(None, self.remote)} if keys else set()
        for outcome in outcomes:
            wanted = self.urls_of(outcome.match.file)
            for one in outcome.match.candidates:
                had = [found for url in known.get(one.key, []) if (found := torrent_url(url)) is not None]
                new = [url for url in wanted if one.key not in there or not self._is_among(url, had)]
                if new:
                    outcome.added[one.key] = new
        return outcomes

    def record(self, outcomes: Sequence[Outcome]) -> None:
        """Have git-annex record the URLs that are to be added; what fails is noted in the outcomes."""
        pairs = [
            (outcome, key, url) for outcome in outcomes for key, urls in outcome.added.items() for url in urls
        ]
        if not pairs:
            return
        answers = record_urls(self.remote, [(key, url) for _, key, url in pairs])
        for (outcome, _, _), why in zip(pairs, answers, strict=True):
            if why and why not in outcome.errors:
                outcome.errors.append(why)

    def urls_of(self, file: TorrentFile) -> list[str]:
        """Return what is recorded for a file: where the .torrent is on the web, and the magnet.

        The magnet of a private torrent is of no use: if it is on no web server, it is the path of its .torrent
        that is recorded. Raises `BadSetting` for one that was had by a magnet.
        """
        choice = None if len(self.metainfo.files) == 1 else file.number
        urls = []
        if self.place is not None and (self.metainfo.private or not self.place.startswith("file:")):
            urls.append(recorded(self.place, choice))
        if not self.metainfo.private:
            urls.append(SCHEME + self.metainfo.magnet(choice))
        if not urls:
            raise BadSetting("a private torrent cannot be had by its magnet: give its .torrent file, or its URL")
        if any(torrent_url(url) is None for url in urls):
            raise BadSetting(
                "of a private torrent, the path of its file is recorded, and that is known for one by its ending: "
                "give it a name that ends in .torrent"
            )
        return urls

    def _is_among(self, url: str, had: Iterable[TorrentUrl]) -> bool:
        """True if one of the URLs that a key has leads to the same file of the same torrent."""
        wanted = torrent_url(url)
        assert wanted is not None
        return any(self._number(wanted) == self._number(one) and _is_same(wanted, one) for one in had)

    def _number(self, url: TorrentUrl) -> int | None:
        try:
            return self.metainfo.pick(url.choice).number
        except BadSetting:
            return None

    def _read(self, candidate: Candidate, offset: int, size: int) -> bytes:
        try:
            with open(candidate.place, "rb", buffering=0) as file:
                file.seek(offset)
                data = _all_of(file.read, size)
        except OSError as error:
            raise Unavailable(f"{candidate.place}: {error.strerror}") from error
        if len(data) != size:
            raise Unavailable(f"{candidate.place} is shorter than it was")
        self.heard(size)
        return data


def _all_of(read: Callable[[int], bytes | None], size: int) -> bytes:
    """Return `size` bytes, or what there is: one call of read(2) brings 2 GiB at most."""
    parts = []
    while size and (part := read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _is_same(one: TorrentUrl, other: TorrentUrl) -> bool:
    if one.magnet is None or other.magnet is None:
        return one.magnet is other.magnet and one.place == other.place
    return _hashes(one.magnet) & _hashes(other.magnet) != set()


def _hashes(magnet: Magnet) -> set[bytes]:
    return {each for each in (magnet.v1, magnet.v2) if each is not None}
