"""The process's one libtorrent session.

It runs while somebody needs it, on one thread that takes libtorrent's alerts and tells the torrents what happened.
An alert is dead as soon as the next ones are taken: what is of use is copied out at once.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from annex_remote.errors import BadSetting, Cancelled, Damaged, SwarmError, Unavailable
from annex_remote.torrents import library
from annex_remote.torrents.addresses import Allowed
from annex_remote.torrents.known import NOTHING_MORE, Extra, sifted
from annex_remote.torrents.metainfo import Metainfo, from_info
from annex_remote.torrents.names import printable
from annex_remote.torrents.settings import Endpoint, TorrentSettings
from annex_remote.torrents.torrent import SILENCE, Torrent, Tried
from annex_remote.torrents.urls import Magnet
from annex_remote.torrents.work import WorkFolder, sweep
from annex_remote.torrents.yielding import Yielding
from annex_remote.workers import workers

__all__ = ["Rate", "Rules", "Session", "Standing"]

log = logging.getLogger(__name__)

LINGER = 5.0
"""Seconds for which a torrent that nobody wants anything of stays: the next key may be of the same one."""

SAVE_EVERY = 1.0
"""Seconds between two times that it is noted what is there."""
SAVE_PART = 9
"""Noting takes one in so many seconds, and one more, at most: of very many pieces there is much to note."""

LOOK = 0.5
"""Seconds between looks at figures that no alert tells."""

LONELY = 10.0
"""Seconds without any peer after which µTP is tried as well, where TCP is preferred."""

ASK_DHT = 1.0
"""Seconds without any peer after which the DHT is asked once more, and twice as many each time: libtorrent does so
every quarter of an hour, and whoever asks just when it starts may find nobody yet.
"""

HURT = 5.0
"""Seconds without anything, after pieces came damaged, that are too many."""

LEAST_PAUSE, MOST_PAUSE = 5.0, 300.0
"""Seconds between two times that a torrent is added anew for peers that have left; twice as many each time."""

MENDS = 3
"""How often a torrent is added anew for that reason, at least."""

END = 3.0
"""Seconds that noting what is there may take in the end."""

Rate = Callable[[], float | None]
"""Bytes a second that hold now, None for no limit."""


@dataclass(frozen=True)
class Rules:
    """What holds for a session."""

    settings: TorrentSettings
    allowed: Allowed
    background: bool = False
    down: Rate = lambda: None
    up: Rate = lambda: None
    took: Callable[[int, int], None] = lambda down, up: None
    """Is told now and then how many bytes went down and up since it was told last."""
    learned: Callable[[Metainfo], None] = lambda metainfo: None
    """Gets the metainfo of a magnet once more when more of its v2 piece layers are known."""


@dataclass(frozen=True)
class Standing:
    """How a torrent stands: pieces that are here, peers connected, bytes given, and if more is looked at."""

    pieces: int
    peers: int
    uploaded: int
    is_checking: bool


@dataclass(eq=False)
class _Joined:
    """A torrent in the session. `users` want something of it; nobody is left at `idle`."""

    torrent: Torrent
    handle: Any
    folder: WorkFolder | None
    plain: library.Plain | None
    users: int = 1
    idle: float = 0.0
    unsaved: bool = False
    to_save: bool = False
    """True if it is to be noted what is there as soon as all of it is on the disk."""
    saving: int = 0
    """How often what is to be noted was asked for and has not come."""
    flushing: bool = False
    """True while what has come is being written to the disk."""
    flush_began: float = 0.0
    flush_after: float = 0.0
    """When the disk may be told to write again: half of the time is for reading."""
    flush_is_for_saving: bool = False
    """True if it is to be noted what is there when that is done."""
    unwritten: bool = False
    """True if something has come since that began last."""
    saved: float = 0.0
    seeds_until: float = 0.0
    seeds_to: float = 0.0
    """Bytes that are to be given back, altogether."""
    failed: bool = False
    """True if the last who wanted something did not get it: what is there stays, be it less than a piece."""
    is_stuck: bool = False
    """True if it is to be added anew."""
    woken: float = 0.0
    """When it was last added anew."""
    pause: float = 0.0
    """Seconds until it may be again."""
    mended: int = 0
    """How often it was added anew since pieces came damaged and nothing came after them."""
    done: set[int] = field(default_factory=set)
    """Pieces of what was got."""
    asking: _Asking = field(default_factory=lambda: _Asking())


@dataclass(eq=False)
class _Seeking:
    """A magnet whose metadata is looked for."""

    magnet: Magnet
    handle: Any
    tried: Tried
    began: float
    found: Metainfo | None = None
    error: SwarmError | None = None
    users: int = 1
    asking: _Asking = field(default_factory=lambda: _Asking())


class _Asking:
    """When the DHT is asked again for peers of one torrent."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._pause = ASK_DHT

    def is_due(self, now: float, peers: int) -> bool:
        """True if it is to be asked now, by somebody who has so many peers. To be called again and again."""
        if peers or self._at is None:
            self._at, self._pause = now + ASK_DHT, ASK_DHT
        if now < self._at:
            return False
        self._pause = min(MOST_PAUSE, 2 * self._pause)
        self._at = now + self._pause
        return True


class Session:
    """Thread safe. `folder` is where torrents are fetched into; it is made when it is needed."""

    def __init__(self, folder: str, rules: Rules, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = os.path.abspath(folder)
        self._rules = rules
        self._clock = clock
        self.changed = threading.Condition(threading.RLock())
        """Notified whenever anything has happened."""
        self._session: Any = None
        self._joined: dict[str, _Joined] = {}
        self._preparing: set[str] = set()
        """Torrents that somebody is about to add."""
        self._seeking: dict[str, _Seeking] = {}
        self._of_handle: dict[Any, _Joined | _Seeking] = {}
        """What libtorrent's handles stand for."""
        self._met: dict[str, list[Endpoint]] = {}
        """Peers that were met while a magnet's metadata was fetched, by the torrent's id."""
        self._looked = 0.0
        self._rates: tuple[int, int] = (0, 0)
        self._yielding = Yielding()
        self._most = 0
        """Bytes a second that may come so that others have the line, 0 for no limit."""
        self._utp = rules.background
        self._ended = threading.Event()

    # For who wants something of a torrent.

    def join(
        self,
        metainfo: Metainfo,
        extra: Extra = NOTHING_MORE,
        *,
        wanted: Sequence[int] = (),
        in_place: Sequence[str | None] = (),
    ) -> Torrent:
        """Return the torrent, shared with all others who want something of it; every call is followed by `leave`.

        `wanted` are the pieces to begin with.

        With `in_place`, the paths of its files (None for those that are not here), it is served from there, and
        nothing is ever fetched or written. Raises `Unavailable`, `Damaged`, and `BadSetting` where there is no
        libtorrent.
        """
        name = metainfo.id
        with self.changed:
            while name in self._preparing:
                self.changed.wait()
            joined = self._joined.get(name)
            if joined is not None:
                joined.users += 1
                more = sifted(extra, self._rules.allowed, joined.torrent.tried)
                self._add_sources(joined.handle, more)
                for url in more.web_seeds:
                    joined.torrent.tried.web_seeds.setdefault(url, "was asked")
                joined.torrent.begin_with(wanted)
                return joined.torrent
            self._preparing.add(name)
        folder = None
        try:
            # What is there may have to be read: meanwhile others go on.
            folder = None if in_place else WorkFolder.claim(self._folder, name)
            torrent = Torrent(metainfo, self.changed, self._clock)
            known = self._of(metainfo, extra, torrent.tried)
            params = self._params(torrent, known, folder, in_place)
            with self.changed:
                return self._add(torrent, params, known, folder, wanted)
        except BaseException:
            if folder is not None:
                folder.release(remove=False)
            raise
        finally:
            with self.changed:
                self._preparing.discard(name)
                self.changed.notify_all()

    def _add(
        self, torrent: Torrent, params: Any, known: Extra, folder: WorkFolder | None, wanted: Sequence[int]
    ) -> Torrent:
        session = self._running()
        self._settle(torrent.metainfo)
        torrent.begin_with(wanted)
        plain = None
        if folder is not None:
            params.piece_priorities = _priorities(torrent)
            plain = library.Plain(params, folder.path)
            plain.make(torrent.priorities)
        handle = session.add_torrent(params)
        joined = self._joined[torrent.metainfo.id] = _Joined(torrent, handle, folder, plain)
        self._of_handle[handle] = joined
        torrent.tried.dht = self._dht_in_words(torrent.metainfo)
        torrent.tried.web_seeds = dict.fromkeys(known.web_seeds, "was asked")
        torrent.attach(_Handle(self, joined))
        self._add_sources(handle, Extra(peers=known.peers))
        return torrent

    def leave(self, torrent: Torrent, done: Sequence[int] | None) -> None:
        """Want nothing of `torrent` any more; `done` are the pieces that were got, None if that failed."""
        with self.changed:
            joined = self._joined.get(torrent.metainfo.id)
            if joined is None or joined.torrent is not torrent:
                return
            now = self._clock()
            joined.users -= 1
            joined.idle = now
            if not joined.users:
                torrent.want_nothing()
            if done is None:
                joined.failed = True
                if torrent.has_failed and not joined.users:
                    self._remove(joined)  # whoever wants it next begins with one that has not
                return
            joined.done.update(done)
            joined.failed = False
            settings = self._rules.settings
            if settings.seed_time:
                joined.seeds_until = max(joined.seeds_until, now + settings.seed_time)
            if settings.seed_ratio:
                joined.seeds_to = settings.seed_ratio * len(joined.done) * torrent.metainfo.piece_length

    def metadata(
        self,
        magnet: Magnet,
        extra: Extra,
        *,
        timeout: float,
        cancelled: threading.Event,
        user: str = "the magnet",
        tell: Callable[[str], None] = lambda text: None,
    ) -> Metainfo:
        """Return what peers have of a magnet's metadata; raises `Unavailable` after `timeout` seconds without.

        `tell` is told what was tried when it takes long.
        """
        name = (magnet.v1 or magnet.v2 or b"").hex()
        until = self._clock() + timeout
        told = until if timeout <= 2 * SILENCE else self._clock() + SILENCE
        with self.changed:
            for joined in self._joined.values():
                if _is_one(magnet, joined.torrent.metainfo):
                    return joined.torrent.metainfo
            seeking = self._seeking.get(name)
            if seeking is None:
                seeking = self._seek(name, magnet, extra)
            else:
                seeking.users += 1
                self._add_sources(seeking.handle, sifted(extra, self._rules.allowed, seeking.tried))
            try:
                while seeking.found is None and seeking.error is None:
                    if cancelled.is_set():
                        raise Cancelled("looking for a magnet's metadata was called off")
                    if self._clock() >= until:
                        self._look(self._clock())
                        raise Unavailable(
                            f"nobody had the metadata of {user} within {timeout:g} seconds: "
                            f"{seeking.tried.in_words()}; a private torrent cannot be had by its magnet, only by "
                            "its .torrent file"
                        )
                    if self._clock() >= told:
                        told = until
                        text = f"looking for the metadata of {user}, for {timeout:g} seconds"
                        text += f": {seeking.tried.in_words()}"
                        workers.start(partial(tell, text))  # whoever is told may be slow, and this is locked
                    self.changed.wait(min(0.1, max(0.0, until - self._clock())))
            finally:
                seeking.users -= 1
                if not seeking.users:
                    self._stop_seeking(name, seeking)
        if seeking.error is not None:
            raise seeking.error
        assert seeking.found is not None
        return seeking.found

    def drop(self, torrent: Torrent) -> None:
        """Remove `torrent` at once, whoever else wants it: for what is served in place, and has changed."""
        with self.changed:
            joined = self._joined.get(torrent.metainfo.id)
            if joined is not None and joined.torrent is torrent:
                self._remove(joined)

    def standing(self, torrent: Torrent) -> Standing | None:
        """Return how `torrent` stands now, None if it is not here any more."""
        with self.changed:
            joined = self._joined.get(torrent.metainfo.id)
            if joined is None or joined.torrent is not torrent:
                return None
            status = joined.handle.status()
        checking = library.is_checking(status)
        return Standing(status.num_pieces, status.num_peers, status.total_payload_upload, checking)

    def port(self) -> int:
        """Return the port that peers can connect to, 0 for none."""
        with self.changed:
            return int(self._session.listen_port()) if self._session is not None else 0

    def close(self) -> None:
        """End the session, after what is there of torrents has been noted: in a few seconds at most."""
        with self.changed:
            if self._session is None:
                return
            until = self._clock() + END
            for joined in self._joined.values():
                self._save(joined)
            while any(joined.saving for joined in self._joined.values()) and self._clock() < until:
                self.changed.wait(0.1)
            for joined in list(self._joined.values()):
                self._remove(joined)
            self._end()
        self._ended.wait(END)

    # The session.

    def _running(self) -> Any:
        """Return libtorrent's session, started if it was not."""
        if self._session is None:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            sweep(self._folder)
            rules = self._rules
            session = library.start_session(rules.settings, rules.allowed, background=rules.background)
            self._session = session
            self._rates, self._utp = (0, 0), self._rules.background
            self._keep_rates()
            self._ended.clear()
            box = [session]
            workers.start(lambda: self._serve(box))
        return self._session

    def _dht_in_words(self, metainfo: Metainfo | None = None) -> str:
        words = (
            "the DHT and the local network were asked as well" if self._rules.settings.dht else "the DHT is off"
        )
        if metainfo is not None and metainfo.private:
            words = "it is private, so only its trackers were asked"
        if self._rules.background:
            words += "; peers were spoken to by µTP alone, which not all know, as it is in the background "
            words += "(transport=foreground takes TCP)"
        return words

    def _params(
        self, torrent: Torrent, extra: Extra, folder: WorkFolder | None, in_place: Sequence[str | None]
    ) -> Any:
        kept = folder.resume_data() if folder is not None else None
        torrent.is_hashed = folder is not None and kept is None
        params = library.torrent_params(torrent.metainfo, kept)
        library.dress(params, torrent.metainfo, folder.path if folder is not None else None, in_place)
        if folder is not None:
            self._learn(torrent, params)
            library.take_in(params, torrent.metainfo, folder.path)
        params.trackers = list(extra.trackers)
        params.tracker_tiers = list(range(len(params.trackers)))
        params.url_seeds = list(extra.web_seeds)
        params.peers = list(extra.peers)
        return params

    def _of(self, metainfo: Metainfo, extra: Extra, tried: Tried) -> Extra:
        """Return all that is known of where a torrent can be had."""
        trackers = tuple(url for tier in metainfo.trackers for url in tier)
        met = () if metainfo.private else (*extra.peers, *self._met.pop(metainfo.id, []))
        known = Extra((*extra.trackers, *trackers), (*metainfo.web_seeds, *extra.web_seeds), met)
        return sifted(known, self._rules.allowed, tried)

    def _add_sources(self, handle: Any, extra: Extra) -> None:
        for tier, url in enumerate(extra.trackers):
            handle.add_tracker({"url": url, "tier": tier})
        for url in extra.web_seeds:
            handle.add_url_seed(url)
        for peer in extra.peers:
            handle.connect_peer(peer)

    def _seek(self, name: str, magnet: Magnet, extra: Extra) -> _Seeking:
        session = self._running()
        params = library.magnet_params(magnet)
        tried = Tried(dht=self._dht_in_words())
        given = Extra((*extra.trackers, *magnet.trackers), (), (*magnet.peers, *extra.peers))
        known = sifted(given, self._rules.allowed, tried)
        params.trackers = list(known.trackers)
        params.tracker_tiers = list(range(len(params.trackers)))
        params.peers = list(known.peers)
        try:
            handle = session.add_torrent(params)
        except RuntimeError as error:  # as for a hash of zeros
            raise BadSetting(f"the magnet {magnet.id} is refused by libtorrent: {error}") from error
        seeking = self._seeking[name] = _Seeking(magnet, handle, tried, self._clock())
        self._of_handle[seeking.handle] = seeking
        self._add_sources(seeking.handle, Extra(peers=known.peers))
        return seeking

    def _stop_seeking(self, name: str, seeking: _Seeking) -> None:
        if self._seeking.get(name) is not seeking:
            return
        del self._seeking[name]
        self._of_handle.pop(seeking.handle, None)
        if self._session is not None:
            with suppress(RuntimeError):  # libtorrent has given it up by itself, as that of another magnet
                if seeking.found is not None:
                    self._met[seeking.found.id] = [peer.ip for peer in seeking.handle.get_peer_info()][:50]
                self._session.remove_torrent(seeking.handle)

    def _settle(self, metainfo: Metainfo) -> None:
        """Give a torrent to all who look for a magnet of it: libtorrent takes no torrent twice."""
        for name, seeking in list(self._seeking.items()):
            if _is_one(seeking.magnet, metainfo):
                seeking.found = metainfo
                self._stop_seeking(name, seeking)
            elif _is_one(seeking.magnet, metainfo, whole=False):
                seeking.error = Damaged("the magnet names the hashes of two torrents")
                self._stop_seeking(name, seeking)
        self.changed.notify_all()

    # On the thread that takes the alerts.

    def _serve(self, box: list[Any]) -> None:
        session = box.pop()  # nobody else is to keep it from ending
        idle = self._clock()
        while True:
            session.wait_for_alert(100)
            alerts = session.pop_alerts()
            with self.changed:
                if self._session is not session:
                    break
                for alert in alerts:
                    _safely(partial(self._take, alert))
                now = self._clock()
                _safely(self._flush_all)
                if now - self._looked >= LOOK:
                    _safely(partial(self._look, now))
                    _safely(self._keep_rates)
                if alerts:
                    self.changed.notify_all()
                if self._joined or self._seeking:
                    idle = now
                elif now - idle > LINGER:
                    self._end()
                    break
            del alerts
        del session  # libtorrent waits here until its threads have ended
        self._ended.set()

    def _end(self) -> None:
        self._session = None

    def _take(self, alert: Any) -> None:
        kind = type(alert).__name__
        if kind == "alerts_dropped_alert":  # there were too many at once
            for joined in self._joined.values():
                joined.torrent.tell(library.pieces_there(joined.handle))
        of_torrent, of_magnet = _OF_TORRENTS.get(kind), _OF_MAGNETS.get(kind)
        if of_torrent is None and of_magnet is None:
            return
        of = self._of_handle.get(alert.handle)
        if isinstance(of, _Joined) and of_torrent is not None:
            of_torrent(self, of, alert)
        elif isinstance(of, _Seeking) and of_magnet is not None:
            of_magnet(self, of, alert)

    def _piece_finished(self, joined: _Joined, alert: Any) -> None:
        joined.torrent.finished(alert.piece_index)
        joined.unsaved = joined.unwritten = True

    def _checked(self, joined: _Joined, alert: Any) -> None:
        joined.torrent.tell(library.pieces_there(joined.handle))
        joined.torrent.checked()

    def _hash_failed(self, joined: _Joined, alert: Any) -> None:
        joined.torrent.lost(alert.piece_index)

    def _read_piece(self, joined: _Joined, alert: Any) -> None:
        buffer = alert.buffer
        if buffer is None or alert.error.value():
            said = alert.error.message()
            joined.torrent.was_read(alert.piece, Unavailable(f"a piece could not be read back: {said}"))
        else:
            joined.torrent.was_read(alert.piece, bytes(buffer))

    def _file_error(self, joined: _Joined, alert: Any) -> None:
        joined.torrent.failed(
            f"{alert.filename() if callable(alert.filename) else alert.filename}: {alert.error.message()}"
        )

    def _torrent_error(self, joined: _Joined, alert: Any) -> None:
        joined.torrent.failed(f"{joined.torrent.metainfo.title}: {alert.error.message()}")

    def _flushed(self, joined: _Joined, alert: Any) -> None:
        if not joined.flushing:
            return  # libtorrent does it by itself, too
        joined.flushing = False
        now = self._clock()
        joined.flush_after = now + now - joined.flush_began
        if joined.flush_is_for_saving:
            # What came meanwhile and is not written, it leaves out of the note by itself.
            joined.to_save = joined.flush_is_for_saving = False
            joined.handle.save_resume_data(library.all_that_is_there())
        elif joined.to_save:
            self._flush(joined)

    def _saved(self, joined: _Joined, alert: Any) -> None:
        params, began = alert.params, self._clock()
        self._learn(joined.torrent, params)
        if joined.folder is not None:
            joined.folder.keep(library.resume_data_of(params))
        now = self._clock()
        joined.saving, joined.saved = joined.saving - 1, now + SAVE_PART * (now - began)
        if joined.is_stuck and not joined.saving:
            joined.is_stuck, joined.flushing, joined.unwritten = False, False, True
            params.piece_priorities = _priorities(joined.torrent)
            if joined.mended and (seeds := list(joined.torrent.tried.web_seeds)):
                params.url_seeds = [seeds[joined.mended % len(seeds)]]  # so that it is clear which of them lies
            self._of_handle.pop(joined.handle, None)
            self._session.remove_torrent(joined.handle)
            try:
                joined.handle = self._session.add_torrent(params)
            except RuntimeError as error:
                joined.torrent.failed(f"{joined.torrent.metainfo.title}: {error}")
                self._forget(joined)
                return
            self._of_handle[joined.handle] = joined
            joined.torrent.begun_anew()

    def _learn(self, torrent: Torrent, params: Any) -> None:
        """Take in the hashes of pieces that peers told: without them nothing could be proved the next time."""
        if torrent.metainfo.has_layers:
            return
        found = library.with_layers(params, torrent.metainfo)
        if found is not None and found.layers > torrent.metainfo.layers:
            torrent.metainfo = found
            self._rules.learned(found)

    def _not_saved(self, joined: _Joined, alert: Any) -> None:
        joined.saving -= 1
        joined.is_stuck = False  # it is looked at again

    def _metadata(self, seeking: _Seeking, alert: Any) -> None:
        # Two magnets of one hybrid torrent, by either hash: libtorrent finds that out, and stops both.
        is_conflict = type(alert).__name__ == "torrent_conflict_alert"
        about = alert.metadata if is_conflict else seeking.handle.torrent_file()
        if about is None:
            return  # this one is to be stopped
        try:
            self._settle(from_info(bytes(about.info_section()), seeking.magnet))
        except SwarmError as error:
            seeking.error = error

    def _tracker_error(self, of: _Joined | _Seeking, alert: Any) -> None:
        said = alert.failure_reason() or alert.error.message()
        _tried(of).trackers[alert.tracker_url()] = printable(" ".join(said.split())[:200])

    def _tracker_reply(self, of: _Joined | _Seeking, alert: Any) -> None:
        peers = alert.num_peers
        _tried(of).trackers[alert.tracker_url()] = f"told of {peers} {'peer' if peers == 1 else 'peers'}"

    def _tracker_announce(self, of: _Joined | _Seeking, alert: Any) -> None:
        _tried(of).trackers.setdefault(alert.tracker_url(), "has not answered")

    def _url_seed(self, joined: _Joined, alert: Any) -> None:
        said = alert.error_message() or alert.error.message()
        joined.torrent.tried.web_seeds[alert.server_url()] = printable(" ".join(said.split())[:200])

    # From time to time.

    def _look(self, now: float) -> None:
        self._looked = now
        lonely = False
        down = up = 0
        for joined in list(self._joined.values()):
            status = joined.handle.status()
            _see_peers(joined.torrent.tried, status)
            torrent = joined.torrent
            before = torrent.downloaded, torrent.uploaded
            torrent.came(status.total_payload_download, status.total_payload_upload)
            # Of a torrent that was added anew, they begin from 0 again.
            down, up = down + max(0, torrent.downloaded - before[0]), up + max(0, torrent.uploaded - before[1])
            if torrent.priorities:
                self.wake(joined, is_hurt=bool(torrent.tried.bad) and now - torrent.moved > HURT)
                if not torrent.metainfo.private:
                    self._ask_dht(joined, now, status.num_peers)
            lonely |= bool(joined.users) and not status.num_peers and now - joined.torrent.moved > LONELY
            if joined.unsaved and not joined.saving and now - joined.saved >= SAVE_EVERY:
                self._save(joined)
            if not joined.users and self._is_over(joined, now) and not joined.saving:
                self._remove(joined)
        for seeking in self._seeking.values():
            status = seeking.handle.status()
            _see_peers(seeking.tried, status)
            lonely |= not status.num_peers and now - seeking.began > LONELY
            self._ask_dht(seeking, now, status.num_peers)
        self._rules.took(down, up)
        if self._rules.background:
            self._give_way(now)
        if lonely and not self._utp:
            self._utp = True
            self._session.apply_settings({"enable_outgoing_utp": True})

    def _ask_dht(self, of: _Joined | _Seeking, now: float, peers: int) -> None:
        if self._rules.settings.dht and of.asking.is_due(now, peers):
            of.handle.force_dht_announce()

    def _is_over(self, joined: _Joined, now: float) -> bool:
        if now < joined.seeds_until or joined.torrent.uploaded < joined.seeds_to:
            return False
        return now - joined.idle > LINGER

    def _save(self, joined: _Joined) -> None:
        if joined.folder is not None and joined.unsaved and not joined.to_save:
            joined.unsaved, joined.to_save, joined.saving = False, True, joined.saving + 1
            joined.unwritten = True
            self._flush(joined)  # what is not on the disk is not noted

    def _flush_all(self) -> None:
        now = self._clock()
        for joined in self._joined.values():
            if now >= joined.flush_after:
                self._flush(joined)

    def _flush(self, joined: _Joined) -> None:
        """Have what has come written, to where a kill does not take it back, unless that is under way."""
        if joined.unwritten and not joined.flushing and joined.folder is not None:
            joined.unwritten, joined.flushing = False, True
            joined.flush_began, joined.flush_is_for_saving = self._clock(), joined.to_save
            joined.handle.flush_cache()

    def _remove(self, joined: _Joined) -> None:
        self._session.remove_torrent(joined.handle)
        self._forget(joined)

    def _forget(self, joined: _Joined) -> None:
        torrent = joined.torrent
        del self._joined[torrent.metainfo.id]
        torrent.detach()
        self.changed.notify_all()
        self._of_handle.pop(joined.handle, None)
        if joined.folder is not None:
            # What somebody else left there half-way is not to be lost with what is done.
            rest = any(torrent.has(piece) for piece in range(torrent.metainfo.pieces) if piece not in joined.done)
            half = joined.failed and (torrent.downloaded or not torrent.is_checked)
            joined.folder.release(remove=not (joined.users or rest or half))

    def wake(self, joined: _Joined, *, is_hurt: bool = False) -> None:
        """Add a torrent anew if all its peers have left, or if it is hurt.

        Seeds leave whoever wants nothing, and libtorrent (2.1) does not consider them again, unless it has heard
        of another peer, which is no seed, meanwhile. Where somebody sends what is wrong, it bans honest web seeds
        too, if a piece was had of both; and it may wait for ever for a piece that it fetches a second time.
        """
        status = joined.handle.status()
        if joined.is_stuck or joined.folder is None:
            return
        now = self._clock()
        if status.num_peers:
            joined.pause = 0.0
        is_left = status.list_peers and not status.num_peers and not status.connect_candidates
        # Peers that are known and dead are nothing unusual, and each time its trackers are told.
        is_left = is_left and now >= joined.woken + joined.pause
        is_hurt = is_hurt and joined.mended < max(MENDS, len(joined.torrent.tried.web_seeds))
        if is_left or is_hurt:
            joined.mended += is_hurt
            joined.woken, joined.pause = now, min(MOST_PAUSE, 2 * joined.pause or LEAST_PAUSE)
            joined.is_stuck = joined.unsaved = True
            self._save(joined)

    def _give_way(self, now: float) -> None:
        rate, trips = 0.0, dict[object, float]()
        for joined in self._joined.values():
            if joined.torrent.priorities:
                came, of_peers = library.round_trips(joined.handle)
                rate += came
                trips |= {(joined.torrent.metainfo.id, peer): trip for peer, trip in of_peers.items()}
        self._most = self._yielding.look(now, rate, trips)

    def _keep_rates(self) -> None:
        down = [int(rate) for rate in (self._rules.down(), self._most) if rate]
        rates = (min(down, default=0), int(self._rules.up() or 0))
        if rates != self._rates:
            self._rates = rates
            self._session.apply_settings({"download_rate_limit": rates[0], "upload_rate_limit": rates[1]})


_OF_BOTH: dict[str, Callable[[Session, Any, Any], None]] = {
    "tracker_error_alert": Session._tracker_error,
    "tracker_reply_alert": Session._tracker_reply,
    "tracker_announce_alert": Session._tracker_announce,
}
_OF_TORRENTS = _OF_BOTH | {
    "piece_finished_alert": Session._piece_finished,
    "torrent_checked_alert": Session._checked,
    "hash_failed_alert": Session._hash_failed,
    "read_piece_alert": Session._read_piece,
    "file_error_alert": Session._file_error,
    "torrent_error_alert": Session._torrent_error,
    "cache_flushed_alert": Session._flushed,
    "save_resume_data_alert": Session._saved,
    "save_resume_data_failed_alert": Session._not_saved,
    "url_seed_alert": Session._url_seed,
}
_OF_MAGNETS = _OF_BOTH | {
    "metadata_received_alert": Session._metadata,
    "torrent_conflict_alert": Session._metadata,
}
"""What is done about which alert."""


class _Handle:
    """What a `Torrent` may ask of a session."""

    def __init__(self, session: Session, joined: _Joined) -> None:
        self._session = session
        self._joined = joined

    def prioritise(self, changes: list[tuple[int, int]]) -> None:
        self._make_plain(piece for piece, priority in changes if priority)
        self._joined.handle.prioritize_pieces(changes)

    def wake(self) -> None:
        self._session.wake(self._joined)

    def read(self, piece: int) -> None:
        self._joined.handle.read_piece(piece)

    def add(self, piece: int, data: bytes) -> None:
        if not self._joined.torrent.is_checked:
            return  # libtorrent takes it, and forgets it when it has looked at what is there
        self._make_plain([piece])
        self._joined.handle.add_piece(piece, data, 0)

    def check_again(self) -> None:
        self._joined.handle.force_recheck()

    def _make_plain(self, pieces: Iterable[int]) -> None:
        if self._joined.plain is not None:
            self._joined.plain.make(pieces)


def _priorities(torrent: Torrent) -> list[int]:
    priorities = [0] * torrent.metainfo.pieces
    for piece, priority in torrent.priorities.items():
        priorities[piece] = priority
    return priorities


def _is_one(magnet: Magnet, metainfo: Metainfo, *, whole: bool = True) -> bool:
    """True if a magnet is of a torrent: if all of its hashes are, or one of them is where that is enough."""
    pairs = ((magnet.v1, metainfo.v1), (magnet.v2, metainfo.v2))
    return (all if whole else any)(named == there for named, there in pairs if named is not None)


def _safely(work: Callable[[], None]) -> None:
    """Do what must not end the thread that does it."""
    try:
        work()
    except Exception:
        log.exception("libtorrent, or what it told")


def _see_peers(tried: Tried, status: Any) -> None:
    tried.peers = max(tried.peers, status.num_peers)
    tried.seeds = max(tried.seeds, status.num_seeds)
    tried.known = max(tried.known, status.list_peers)


def _tried(of: _Joined | _Seeking) -> Tried:
    return of.torrent.tried if isinstance(of, _Joined) else of.tried
