"""`torrent seed`: what is annexed here and has a torrent is served to peers, for as long as it is let run."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from annex_remote.annexed import keys_here, places_of, urls_recorded
from annex_remote.errors import BadSetting, Cancelled, SwarmError
from annex_remote.torrents.metainfo import Metainfo
from annex_remote.torrents.names import printable
from annex_remote.torrents.seed import Change, Figures, Held, Plan, Serving, plan
from annex_remote.torrents.settings import Endpoint
from annex_remote.torrents.source import TorrentSource
from annex_remote.torrents.urls import TorrentUrl, torrent_url
from annex_remote.workers import workers

__all__ = ["Annexed", "News", "Seeding", "alike", "require_ports", "what_is_annexed"]

LOOK_EVERY = 600.0
"""Seconds between two looks at what is here: new content comes, and some is dropped."""
AT_ONCE = 8
"""Torrents whose metainfo is looked for at the same time."""


@dataclass(frozen=True)
class Annexed:
    """What is here, and the URLs that are recorded, by key."""

    held: list[Held]
    urls: dict[str, list[str]]


def what_is_annexed() -> Annexed:
    """Return all content of this repository that has a torrent, by what git-annex knows; raises `SwarmError`."""
    recorded = urls_recorded(keys_here())
    urls = {key: [url for url in each if torrent_url(url) is not None] for key, each in recorded.items()}
    urls = {key: each for key, each in urls.items() if each}
    held = []
    for key, place in places_of(urls).items():
        try:
            about = os.stat(place)
        except OSError:
            continue  # it was dropped just now
        stamp = (about.st_size, about.st_mtime_ns, about.st_ino, about.st_dev)
        held.append(Held(key, place, about.st_size, stamp))
    return Annexed(held, urls)


def require_ports(listen: Sequence[Endpoint]) -> None:
    """Raise `BadSetting` unless it can be listened at each of these addresses and ports that this machine has.

    libtorrent takes another port in silence where one is taken, and whoever forwards that one serves nobody.
    """
    missing = []
    for host, port in listen:
        try:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                _bind(host, port, kind)
        except OSError as error:
            at = f"{f'[{host}]' if ':' in host else host}:{port}"
            if error.errno == errno.EADDRINUSE:
                raise BadSetting(
                    f"listen: port {port} is taken, so that peers cannot be listened to at {at}: end what has it "
                    "(another seed, a git annex get?), or choose another one with --listen ADDRESS:PORT, where "
                    "port 0 is any that is free"
                ) from error
            if error.errno == errno.EACCES:
                raise BadSetting(
                    f"listen: port {port} is not for this user, so that peers cannot be listened to at {at}: "
                    "choose one above 1023 with --listen ADDRESS:PORT, where port 0 is any that is free"
                ) from error
            missing.append(at)
    if missing and len(missing) == len(listen):
        raise BadSetting(
            f"listen: none of this machine's addresses is at {', '.join(missing)}, so that no port could be "
            "listened at: choose one with --listen ADDRESS:PORT; 0.0.0.0 and [::] are all of them"
        )


def _bind(host: str, port: int, kind: int) -> None:
    """Take a port as libtorrent does, and let go of it; raises `OSError`."""
    family = socket.AF_INET6 if ip_address(host).version == 6 else socket.AF_INET
    with socket.socket(family, kind) as probe:
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:  # what has just been closed there takes no port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        if kind == socket.SOCK_STREAM:
            probe.listen(1)


def alike(made: Plan) -> set[str]:
    """Return the names, as they are shown, that several of the torrents have that are to be served."""
    names = Counter(printable(offer.metainfo.name) for offer in made.offers.values())
    return {name for name, count in names.items() if count > 1}


@dataclass
class News:
    """What has happened since the last time. `unknown` and `wrong` name what is new among these, with why."""

    changes: list[Change] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)
    wrong: dict[tuple[str, str], str] = field(default_factory=dict)
    alike: set[str] = field(default_factory=set)
    """Names that several torrents have, or had."""


class Seeding:
    """Serves the content of a repository. `look` says what is annexed; it is asked again every ten minutes."""

    def __init__(
        self,
        source: TorrentSource,
        look: Callable[[], Annexed] = what_is_annexed,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._look = look
        self._clock = clock
        self._serving = Serving(source.session)
        self._annexed = Annexed([], {})
        self._next = clock()
        self._lock = threading.Lock()
        self._known: dict[str, Metainfo] = {}
        self._failed: dict[str, str] = {}
        """Why what is in a torrent could not be learned, since the last look."""
        self._told: set[object] = set()
        self._alike: set[str] = set()
        self._queue: list[TorrentUrl] = []
        self._asking: set[str] = set()
        self._cancelled = threading.Event()
        self.stirred = threading.Event()
        """Set when there is something to do before the time."""

    @property
    def looked_for(self) -> int:
        """How many torrents are being looked for of which it is not known what is in them."""
        with self._lock:
            return len(self._asking) + len(self._queue)

    def step(self) -> News:
        """Do what is due, and return what happened; raises `SwarmError` if git-annex cannot be asked."""
        news = News(alike=self._alike)
        is_due = self._clock() >= self._next
        if is_due or self.stirred.is_set():
            self.stirred.clear()
            if is_due:
                self._next = self._clock() + LOOK_EVERY
                self._annexed = self._look()
                with self._lock:
                    self._failed.clear()
            made = plan(self._annexed.held, self._annexed.urls, self._metainfo)
            self._ask(made)
            self._alike |= alike(made)
            news.changes = self._serving.update(made.offers)
            with self._lock:
                failed = dict(self._failed)
            news.unknown = {place: why for place, why in failed.items() if self._is_new(("unknown", place))}
            news.wrong = {each: why for each, why in made.wrong.items() if self._is_new(("wrong", each))}
        news.changes += self._serving.look()
        return news

    def _is_new(self, what: object) -> bool:
        is_new = what not in self._told
        self._told.add(what)
        return is_new

    def figures(self) -> Figures:
        """Return how all stood at the last step."""
        return self._serving.figures()

    def close(self) -> None:
        """Look for nothing any more, but at the figures once; the source is closed by whoever opened it."""
        self._cancelled.set()
        self._serving.look()

    # What is in torrents.

    def _metainfo(self, url: TorrentUrl) -> Metainfo | None:
        known = self._known.get(url.place)
        if known is None:
            known = self._source.known(url)
            if known is not None:
                self._known[url.place] = known
        return known

    def _ask(self, made: Plan) -> None:
        """Look for what is in the torrents of which that is not known, a few at a time."""
        with self._lock:
            waiting = {url.place for url in self._queue}
            for place, url in made.unknown.items():
                if place not in self._asking | waiting and place not in self._failed:
                    self._queue.append(url)
            while self._queue and len(self._asking) < AT_ONCE:
                url = self._queue.pop(0)
                self._asking.add(url.place)
                workers.start(lambda url=url: self._learn(url))  # type: ignore[misc]

    def _learn(self, url: TorrentUrl) -> None:
        why = ""
        try:
            self._known[url.place] = self._source.metainfo(url, self._cancelled)
        except Cancelled:
            return
        except SwarmError as error:
            why = str(error)
        except Exception as error:  # noqa: BLE001 - told as the others are
            why = f"internal error: {type(error).__name__}: {error}"
        with self._lock:
            self._asking.discard(url.place)
            if why:
                self._failed[url.place] = why
        self.stirred.set()
