"""Torrents as a special remote has them: URLs in, what is behind them out, and where a key can be had.

A torrent is known by its metainfo, wherever that came from: a .torrent on the web or on the disk, or peers that
were asked by a magnet link. What was had once is remembered, so that the source outlives the page.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

from annex_remote.errors import BadSetting, Cancelled, Damaged, NotFound, SwarmError, Unavailable
from annex_remote.protocol.handler import UrlContents, UrlFile
from annex_remote.torrents.addresses import Allowed
from annex_remote.torrents.both import Either
from annex_remote.torrents.cache import Cache
from annex_remote.torrents.gather import AGAIN, Gathering, Part
from annex_remote.torrents.known import Extra
from annex_remote.torrents.metainfo import Metainfo, TorrentFile, parse
from annex_remote.torrents.names import printable
from annex_remote.torrents.session import Rate, Rules, Session
from annex_remote.torrents.settings import TorrentSettings
from annex_remote.torrents.torrent import Torrent
from annex_remote.torrents.urls import Magnet, TorrentUrl, recorded, shown
from annex_remote.torrents.work import room_missing
from annex_remote.workers import workers

__all__ = ["TorrentSource", "is_in_background"]

WEB_TIME = 60.0
"""Seconds that a web server has to give a .torrent, at most."""

GIVEN_UP = 600.0
"""Seconds for which a torrent counts as one of which nothing comes."""

HEAD_START = 3.0
"""Seconds that a page gets to bring a magnet's metadata before peers are asked as well."""

MOST_PAGES = 2
"""Pages that a magnet's metadata is looked for at."""

MOST_NAMED = 8
"""Trackers, and web seeds, that are recorded with each file of a torrent of several."""

SCHEME = "swarm:"


def is_in_background(transport: str) -> bool:
    """True if other traffic is to be given way to: by the setting, or because nobody sits at a terminal."""
    if transport != "auto":
        return transport == "background"
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return True
    return False


class TorrentSource:
    """Thread safe. `folder` is where torrents are fetched into; `down` and `up` tell the rates that hold."""

    def __init__(
        self,
        settings: TorrentSettings,
        allowed: Allowed,
        folder: str,
        *,
        down: Rate = lambda: None,
        up: Rate = lambda: None,
        took: Callable[[int, int], None] = lambda down, up: None,
        cache: Cache | None = None,
    ) -> None:
        self.settings = settings
        self._folder = os.path.abspath(folder)
        self._allowed = allowed
        self._cache = cache or Cache()
        self._lock = threading.Lock()
        self._given_up: dict[str, float] = {}
        """When it was that nothing came of a torrent for too long, by its id."""
        self._session = Session(
            folder,
            Rules(
                settings,
                allowed,
                is_in_background(settings.transport),
                down,
                up,
                took,
                learned=self._cache.keep,
            ),
        )

    @property
    def session(self) -> Session:
        return self._session

    def close(self) -> None:
        self._session.close()

    # What is behind a URL.

    def check_url(
        self, url: TorrentUrl, cancelled: threading.Event, tell: Callable[[str], None] = lambda text: None
    ) -> UrlContents | Sequence[UrlFile]:
        """Return the one file that is meant, or all files with URLs of their own; raises `SwarmError`."""
        from annex_remote.torrents.names import safe_name, safe_paths

        metainfo = self.metainfo(url, cancelled, fresh=True, tell=tell)
        if url.choice is not None or len(metainfo.files) == 1:
            file = metainfo.pick(url.choice)
            return UrlContents(file.size, safe_name(file.path[-1]))
        if ":" not in url.url:  # git-annex makes a folder's name of a URL, and this is none
            path = os.path.abspath(url.place)
            raise BadSetting(
                f"this torrent has {len(metainfo.files)} files: add it as file://{path}, or one of them as "
                f"{url.place}#1"
            )
        return [
            UrlFile(_source_of(url, metainfo, file.number), file.size, "/".join(path))
            for file, path in zip(metainfo.files, safe_paths(metainfo.files, blanks=False), strict=True)
        ]

    def metainfo(
        self,
        url: TorrentUrl,
        cancelled: threading.Event,
        *,
        fresh: bool = False,
        tell: Callable[[str], None] = lambda text: None,
    ) -> Metainfo:
        """Return the metainfo: what was kept, else what can be had. With `fresh`, a .torrent is fetched again.

        `tell` gets what is waited for, if that takes long.
        """
        if url.magnet is not None:
            return self._of_magnet(url.magnet, cancelled, tell)
        kept = None if fresh else self._cache.by_url(url.place)
        return kept or self._fetched(url, cancelled)

    def known(self, url: TorrentUrl) -> Metainfo | None:
        """Return the metainfo if it was kept, or is a file of this machine: asks nobody else."""
        if url.magnet is not None:
            return self._cache.get(url.magnet.id)
        if urlsplit(url.place).scheme in ("http", "https"):
            return self._cache.by_url(url.place)
        with suppress(SwarmError):
            return self._fetched(url, threading.Event())
        return None

    def _fetched(self, url: TorrentUrl, cancelled: threading.Event) -> Metainfo:
        from annex_remote.torrents.web import fetch_document

        timeout = min(WEB_TIME, self.settings.timeout)
        document = fetch_document(url.place, self._allowed, timeout=timeout, cancelled=cancelled)
        try:
            metainfo = parse(document)
        except Damaged as error:
            raise Damaged(f"{shown(url.place)}: {error}") from error
        self._cache.keep(metainfo, url.place)
        return metainfo

    def _of_magnet(self, magnet: Magnet, cancelled: threading.Event, tell: Callable[[str], None]) -> Metainfo:
        kept = self._cache.get(magnet.id)
        if kept is not None and _is_meant(magnet, kept):
            return kept
        page = _Page(lambda: self._from_page(magnet, cancelled), cancelled)
        if magnet.sources:
            page.start()
            page.ended.wait(HEAD_START)
        if page.found is not None:
            return page.found
        timeout = self.settings.timeout
        try:
            metainfo = self._session.metadata(
                magnet,
                Extra(trackers=_in_turn(magnet.trackers), peers=magnet.peers),
                timeout=min(AGAIN, timeout) if self._is_given_up(magnet.id) else timeout,
                cancelled=page.stop,
                user=f"'{printable(magnet.name)}'" if magnet.name else f"the magnet {magnet.id}",
                tell=tell,
            )
        except Cancelled:
            if page.found is None:
                raise
            return page.found
        except Unavailable as error:
            self._give_up(magnet.id)
            if not page.why:
                raise
            raise Unavailable(f"{error}; {page.why}") from error
        self._cache.keep(metainfo)
        return metainfo

    def _from_page(self, magnet: Magnet, cancelled: threading.Event) -> Metainfo:
        """Return the metainfo from where the magnet says that there is a .torrent; raises `SwarmError`."""
        error: SwarmError = NotFound("there is none")
        for place in magnet.sources[:MOST_PAGES]:
            try:
                metainfo = self._fetched(TorrentUrl(place, place, None, None), cancelled)
            except SwarmError as raised:
                error = raised
                continue
            if _is_meant(magnet, metainfo):
                return metainfo
            error = Damaged(f"{shown(place)} is another torrent by now")
        raise error

    def _is_given_up(self, id: str) -> bool:  # noqa: A002 - as everywhere
        """True if nothing came of a torrent for too long just now: other keys of it need not wait for as long."""
        with self._lock:
            return time.monotonic() - self._given_up.get(id, -GIVEN_UP) < GIVEN_UP

    def _give_up(self, id: str) -> None:  # noqa: A002 - as everywhere
        with self._lock:
            self._given_up[id] = time.monotonic()

    # Fetching.

    def gather(
        self,
        urls: Sequence[TorrentUrl],
        path: str,
        size: int | None,
        *,
        mix: bool,
        progress: Callable[[int], None],
        cancelled: threading.Event,
        tell: Callable[[str], None] = lambda text: None,
    ) -> Gathering:
        """Return what gets a key of `size` bytes from the torrents at `urls`, which are being joined meanwhile.

        With `mix`, something else proves the whole in the end, and several torrents may each bring a part.
        Every call is followed by `finish`.
        """
        gathering = Gathering(
            path,
            timeout=self.settings.timeout,
            mix=mix,
            progress=progress,
            cancelled=cancelled,
            changed=self._session.changed,
            tell=tell,
        )
        gathering.expect(len(urls))
        for url in urls:
            workers.start(lambda url=url: self._join(url, gathering, size, cancelled))  # type: ignore[misc]
        return gathering

    def finish(self, gathering: Gathering, *, done: bool) -> None:
        """Want nothing of the torrents any more; they are shared for a while if the settings say so."""
        for part in gathering.end(whole=done):
            self._session.leave(part.torrent, part.span if done else None)
            if gathering.gave_up and not done:
                self._give_up(part.metainfo.id)
            elif gathering.has_used(part):
                with self._lock:
                    self._given_up.pop(part.metainfo.id, None)

    def _join(self, url: TorrentUrl, gathering: Gathering, size: int | None, cancelled: threading.Event) -> None:
        try:
            metainfo = self.metainfo(url, cancelled, tell=gathering.tell)
            file = metainfo.pick(url.choice)
            if size is not None and file.size != size:
                raise Damaged(
                    f"file {file.number} of the torrent {metainfo.title} has {file.size} bytes, not {size}"
                )
            if not file.size:
                part = Part(Torrent(metainfo, self._session.changed, time.monotonic), file)
            else:
                extra = self._extra(url, metainfo)
                self._require_room(metainfo, file, gathering.path)
                wanted = metainfo.span(file)
                with suppress(OSError):  # what is in git-annex's file already is most likely right
                    there = min(os.path.getsize(gathering.path), file.size)
                    wanted = range((file.offset + there) // metainfo.piece_length, wanted.stop)
                torrent = self._session.join(metainfo, extra, wanted=wanted)
                part = Part(torrent, file, is_doubtful=self._is_given_up(metainfo.id))
        except SwarmError as error:
            gathering.cannot(str(error))
        except Exception as error:  # noqa: BLE001 - told where it is waited for
            gathering.cannot(f"internal error: {type(error).__name__}: {error}")
        else:
            if not gathering.add(part):
                self._session.leave(part.torrent, part.span if gathering.is_whole else ())

    def _require_room(self, metainfo: Metainfo, file: TorrentFile, path: str) -> None:
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        missing = room_missing(self._folder, metainfo.id, path, file.size)
        if missing:
            raise Unavailable(
                f"torrent {metainfo.title}: {missing:,} bytes too few are free in {self._folder}: until a file is "
                "whole, what came of it is there twice"
            )

    def _extra(self, url: TorrentUrl, metainfo: Metainfo) -> Extra:
        trackers = [tracker for tier in metainfo.trackers for tracker in tier]
        magnet = url.magnet
        if magnet is not None and not metainfo.private:
            trackers += magnet.trackers
        page = url.place if magnet is None else next(iter(magnet.sources), "")
        origin = urlsplit(page).hostname
        return Extra(
            trackers=_in_turn(trackers, origin),
            web_seeds=(*(magnet.web_seeds if magnet else ()), *self.settings.webseeds),
            peers=magnet.peers if magnet and not metainfo.private else (),
        )

    # What git-annex is told.

    def magnets_to_keep(self, urls: Sequence[TorrentUrl]) -> list[str]:
        """Return the magnets of those of `urls` that are .torrent files, which may vanish: those not there yet."""
        there = {url.magnet.id for url in urls if url.magnet is not None}
        keep: dict[str, str] = {}
        for url in urls:
            metainfo = self.known(url) if url.magnet is None else None
            if metainfo is None or metainfo.private or metainfo.id in there:
                continue
            with suppress(BadSetting):
                file = metainfo.pick(url.choice)
                choice = None if len(metainfo.files) == 1 else file.number
                keep[metainfo.id] = SCHEME + metainfo.magnet(choice)
        return list(keep.values())

    def in_words(self, urls: Sequence[TorrentUrl]) -> list[str]:
        """Return for each torrent what it is, and which of its files: for people."""
        return list(dict.fromkeys(self._in_words(url) for url in urls))

    def _in_words(self, url: TorrentUrl) -> str:
        metainfo = self.known(url)
        if metainfo is None:
            name = (printable(url.magnet.name) or url.magnet.id) if url.magnet else shown(url.place)
            return f"torrent {name}" + (f", file {printable(str(url.choice))}" if url.choice is not None else "")
        words = f"torrent {metainfo.title} ({metainfo.id})"
        with suppress(BadSetting):
            file = metainfo.pick(url.choice)
            if len(metainfo.files) > 1:
                words += f", file {file.number}: {printable('/'.join(file.path))}"
        return words

    def is_trusted(self, urls: Sequence[TorrentUrl], size: int | None, cancelled: threading.Event) -> bool:
        """True if one of `urls` is a torrent that has a file of this size; raises what is wrong with the last."""
        error: SwarmError = NotFound("no torrent is recorded")
        for url in urls:
            try:
                file: TorrentFile = self.metainfo(url, cancelled).pick(url.choice)
            except Cancelled:
                raise
            except SwarmError as raised:
                error = raised
                continue
            if size is None or file.size == size:
                return True
            error = Damaged(f"the torrent's file has {file.size} bytes, not {size}")
        raise Unavailable(str(error)) from error


class _Page:
    """A look at where a .torrent is said to be, while peers are asked as well: `stop` ends that."""

    def __init__(self, look: Callable[[], Metainfo], cancelled: threading.Event) -> None:
        self._look = look
        self.stop = Either(cancelled)
        self.ended = threading.Event()
        self.found: Metainfo | None = None
        self.why = ""

    def start(self) -> None:
        workers.start(self._run)

    def _run(self) -> None:
        try:
            self.found = self._look()
            self.stop.set()
        except Exception as error:  # noqa: BLE001 - told if peers do not have it either
            self.why = str(error)
        finally:
            self.ended.set()


def _source_of(url: TorrentUrl, metainfo: Metainfo, number: int) -> str:
    """Return what is recorded as the source of a file of several.

    It has our own scheme, so that whatever git-annex does with it later comes here. It is a magnet that knows its
    page: it outlives that, and never is another torrent's that came to be there.
    """
    if metainfo.private or url.magnet is not None:
        return recorded(url.place, number)
    source = url.place if urlsplit(url.place).scheme in ("http", "https") else None
    return SCHEME + metainfo.magnet(number, source=source, most=MOST_NAMED)


def _is_meant(magnet: Magnet, metainfo: Metainfo) -> bool:
    return all(
        wanted is None or wanted == there for wanted, there in ((magnet.v1, metainfo.v1), (magnet.v2, metainfo.v2))
    )


def _in_turn(trackers: Iterable[str], origin: str | None = None) -> tuple[str, ...]:
    """Return trackers: those on the host `origin`, then those that are near, then the others."""

    def far(url: str) -> int:
        host = urlsplit(url).hostname or ""
        if origin is not None and host == origin:
            return 0
        return 1 if _is_near(host) else 2

    return tuple(sorted(dict.fromkeys(trackers), key=far))


def _is_near(host: str) -> bool:
    try:
        return not ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith((".local", ".lan", ".home.arpa"))
