"""The special remote: git-annex's requests in, engine calls, replies out.

What takes time to import is imported when it is first needed: git-annex starts this program for almost
every command, and the user waits for it.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from annex_remote.errors import BadSetting, NoCapability, SwarmError, Unavailable
from annex_remote.protocol.jobs import Job
from annex_remote.protocol.messages import Availability
from annex_remote.settings import SETTINGS, Settings, read_settings
from annex_remote.stores import is_far

if TYPE_CHECKING:
    from annex_remote.capability import Capability
    from annex_remote.grid import Grid
    from annex_remote.model import Login
    from annex_remote.protocol.handler import UrlContents, UrlFile
    from annex_remote.records import KeptTrace
    from annex_remote.roster import Roster
    from annex_remote.torrents.source import TorrentSource
    from annex_remote.torrents.urls import TorrentUrl
    from annex_remote.transfer.download import Aside
    from annex_remote.transfer.sites import Notes, Site

__all__ = ["SwarmRemote"]

QUICK = 2.0
"""Seconds that a store has to answer where git-annex wants something to show, not something proved."""

MOST_TORRENTS = 16
"""Torrents of one key that are used."""

PROGRESS_INTERVAL = 0.1
"""Seconds between two PROGRESS messages of a transfer."""

NEAR_COST = 175
"""git-annex's "semi-expensive": a local disk, and a little arithmetic."""
FAR_COST = 200
"""git-annex's "expensive": it takes a network to get enough shares."""


class SwarmRemote:
    """Implements `protocol.handler.Handler` for one grid."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._grid: Grid | None = None
        self._settings: Settings | None = None
        self._capability: Capability | None = None
        self._unusable: SwarmError | None = None
        self._cache = ""
        self._kept: KeptTrace | None = None
        self._git_dir = ""
        self._name: str | None = None
        self._logins: dict[str, Login] = {}
        self._config: dict[str, str] = {}
        self._torrents: TorrentSource | None = None
        self._distrusted: set[str] = set()
        """Keys that have a torrent with other content."""
        self._learned: Roster | None = None
        """The roster for whose stores git-annex was asked for logins."""

    def list_configs(self) -> Sequence[tuple[str, str]]:
        return [(setting.name, setting.description) for setting in SETTINGS]

    def initremote(self, job: Job) -> None:
        from annex_remote.founding import initialise
        from annex_remote.settings import TORRENT_SETTINGS
        from annex_remote.torrents.settings import read_torrent_settings

        read_torrent_settings({name: job.get_config(name) for name in TORRENT_SETTINGS})  # before anything is made
        initialise(job)

    def prepare(self, job: Job) -> None:
        """Take in the configuration, and let transfers say what is wrong with it.

        A failure here would break `git annex addurl` for every URL.
        """
        from annex_remote.credentials import creds_capability, environment_capability, keep_capability

        self._git_dir = os.path.abspath(job.get_git_dir())
        self._name = job.get_git_remote_name()
        uuid = job.get_uuid()
        self._cache = os.path.join(self._git_dir, "annex", "swarm", f"{uuid}.roster")
        config = {setting.name: job.get_config(setting.name) for setting in SETTINGS}
        self._config = config
        try:
            self._settings = read_settings(config)
            kept, given = creds_capability(job), environment_capability()
            verify_key = self._settings.verify_key
            self._capability = next(
                (each for each in (given, kept) if each and each.verify_key == verify_key), None
            )
            if self._capability is None and (kept or given):
                raise BadSetting("the capability here is that of another grid than this remote's")
            if self._capability is given and given and not kept:
                keep_capability(job, given)
        except SwarmError as error:
            self._unusable = error
        asker = os.environ.get("SWARM_CONSULT")
        if asker:
            from annex_remote.consult import Consulted, hand_over

            with suppress(SwarmError):  # whoever asked sees the configuration, and what is wrong with it
                self.grid(job)
            # These are git-annex's own: whether objects are stored under the names of their keys.
            config |= {name: job.get_config(name) for name in ("encryption", "chunk")}
            told = Consulted(config, self._capability, self._git_dir, self._cache, self._name, dict(self._logins))
            with suppress(OSError):  # whoever asked is gone; that is no reason to fail
                hand_over(asker, uuid, told)

    # What transfers need.

    def grid(self, job: Job) -> Grid:
        """Return the grid; raises `BadSetting` if the configuration cannot be used."""
        grid = self._opened_grid()
        self._learn_logins(job, grid)
        return grid

    def _learn_logins(self, job: Job, grid: Grid) -> None:
        """Ask git-annex for the logins of the stores of a roster that it was not asked about before."""
        roster = grid.roster
        if roster is self._learned:
            return
        from annex_remote.credentials import store_logins

        with self._lock:
            if roster is self._learned:  # another job was here first
                return
            addresses = {entry.name: grid.address(entry) for entry in roster.readable}
            self._logins = store_logins(job, {name: each for name, each in addresses.items() if is_far(each)})
            self._learned = roster

    def _opened_grid(self) -> Grid:
        with self._lock:
            if self._grid is None:
                if self._unusable is not None or self._settings is None:
                    raise self._unusable or BadSetting("the remote was not prepared")
                from annex_remote import allocator
                from annex_remote.grid import Grid

                allocator.settle()
                self._grid = Grid.configured(
                    self._settings,
                    self._capability,
                    git_dir=self._git_dir,
                    name=self._name,
                    cache=self._cache,
                    logins=lambda name: self._logins.get(name),
                )
            return self._grid

    def _seen_grid(self, job: Job) -> Grid:
        """Return the grid after its roster has been looked for, if none was ever seen."""
        grid = self.grid(job)
        if not grid.is_known:
            self._refresh(job, tell=False)
        return grid

    def _readable(self, job: Job) -> tuple[Grid, Capability]:
        grid = self.grid(job)
        if grid.capability is None:
            raise NoCapability(
                "this clone does not have the remote's capability: set SWARM_CAPABILITY to the one that "
                "`git-annex-remote-swarm capability REMOTE` prints elsewhere, and run: "
                f"git annex enableremote {self._name or 'REMOTE'}"
            )
        self._seen_grid(job).require_known()
        return grid, grid.capability

    def _refresh(self, job: Job, *, tell: bool = True) -> bool:
        """See whether the stores have a newer roster, and tell the user what is odd about theirs."""
        from annex_remote.transfer.sites import Notes

        notes = Notes()
        grid = self.grid(job)
        newer = grid.refresh(notes)
        self._learn_logins(job, grid)
        if tell:
            _tell(job, "roster", notes)
        return newer

    @staticmethod
    def _object_id(capability: Capability, key: str) -> str:
        from annex_remote.shares.crypto import object_id_of

        return object_id_of(capability.read_secret, key)

    # Transfers.

    def store(self, job: Job, key: str, path: str) -> None:
        from annex_remote.errors import NotEnough
        from annex_remote.shares.crypto import ObjectKeys
        from annex_remote.transfer.sites import Notes
        from annex_remote.transfer.upload import Upload

        grid, capability = self._readable(job)
        _ = capability.signing_seed  # said before anything is read: this clone may not store
        self._refresh(job)
        notes = Notes()
        upload = Upload(
            annex_key=key,
            path=path,
            keys=ObjectKeys(capability.read_secret, key, grid.roster.cipher),
            capability=capability,
            coding=grid.roster.coding,
            sites=grid.sites(),
            stall=grid.settings.stall,
            notes=notes,
            progress=_Progress(job, _size_of(key)),
            cancelled=job.cancelled,
        )
        try:
            with _reading_files():
                upload.run()
        except NotEnough as error:
            raise NotEnough(f"{error}{self._waiting_in_words(grid)}") from error
        _tell(job, "stored, but not everywhere", notes)

    def _waiting_in_words(self, grid: Grid) -> str:
        """Say which stores wait for a login, at the end of a sentence about those that are too few."""
        from annex_remote.roster import WAITING

        name = self._name or "REMOTE"
        waiting = [entry.name for entry in grid.roster.stores if entry.state == WAITING]
        return "".join(f"; {each} waits for: git-annex-remote-swarm login {name} {each}" for each in waiting)

    def retrieve(self, job: Job, key: str, path: str) -> None:
        from annex_remote.errors import NotEnough
        from annex_remote.transfer.sites import Notes

        notes = Notes()
        urls = self._torrents_of(job, key) if key not in self._distrusted else ()
        if not urls:
            try:
                self._download_again(job, key, path, notes)
            except NotEnough as error:
                if not self._recorded(job, key) or self.torrents().settings.enabled:
                    raise
                name = self._name or "REMOTE"
                raise NotEnough(
                    f"{error}; a torrent is recorded for it, and torrents are switched off here (torrents=no): "
                    f"git -c remote.{name}.swarm-torrents=yes annex get FILE"
                ) from error
        elif not self._fetch_from_both(job, key, path, urls, notes):
            return
        if self._settings is not None and self._settings.repair_on_read and self._is_to_repair(job, key, notes):
            self._repair(job, key, notes)
        else:
            _tell(job, "whole, but a repair of its shares is due", notes)

    def _download_again(
        self,
        job: Job,
        key: str,
        path: str,
        notes: Notes,
        *,
        aside: Aside | None = None,
        cancelled: threading.Event | None = None,
    ) -> bool:
        """Download from shares, once more if the grid turns out to have changed; see `Download.rewritten`."""
        from annex_remote.errors import NotEnough

        try:
            return self._download(job, key, path, notes, aside=aside, cancelled=cancelled)
        except NotEnough:
            if not self._refresh(job):
                raise
            notes.clear()
            return self._download(job, key, path, notes, aside=aside, cancelled=cancelled)

    def _fetch_from_both(self, job: Job, key: str, path: str, urls: Sequence[TorrentUrl], notes: Notes) -> bool:
        """Get a key from its torrents, and from shares if there are any; True if it was shares that ended it."""
        from annex_remote.errors import Damaged, NoneStored
        from annex_remote.torrents.both import Either, fetch_from_both, may_be_of
        from annex_remote.transfer.keys import content_is_fixed

        torrents = self.torrents()
        stop = Either(job.cancelled)
        size = _size_of(key)
        gathering = torrents.gather(
            urls[:MOST_TORRENTS],
            path,
            size,
            mix=content_is_fixed(key),
            progress=_Progress(job, size),
            cancelled=stop,
            tell=job.info,
        )
        shares = {"rewritten": False, "missing": False}

        def from_shares() -> None:
            try:
                shares["rewritten"] = self._download_again(job, key, path, notes, aside=gathering, cancelled=stop)
            except NoneStored:
                shares["missing"] = True
                raise

        done = False
        try:
            with _reading_files():
                by_shares = fetch_from_both(gathering, from_shares, stop)
                if by_shares:
                    spoiled = gathering.is_spoiled or (shares["rewritten"] and gathering.is_used)
                else:
                    # If it is not known that there are none, they may have something else, and must not be
                    # removed because of what a torrent has, as `git annex fsck --from` does.
                    spoiled = not shares["missing"] and not may_be_of(key, path)
            done = True
        finally:
            torrents.finish(gathering, done=done)
        if spoiled:
            # git-annex hashes a file while it grows, so it cannot be put right any more. It tries again at once.
            self._distrusted.add(key)
            raise Damaged("; ".join(gathering.wrong) or "a torrent of this key has other content than the shares")
        for text in [*gathering.wrong, *gathering.failures] if by_shares else gathering.wrong:
            job.info(text)
        if self._is_kept(key):
            self._keep_magnets(job, key, urls)
        return by_shares

    def _is_to_repair(self, job: Job, key: str, notes: Notes) -> bool:
        """True if something of an object is known to be wrong, now or from before."""
        from annex_remote.caring import is_known_to_be_damaged

        grid, capability = self._readable(job)
        return bool(notes.lines) or is_known_to_be_damaged(grid, self._object_id(capability, key))

    def _repair(self, job: Job, key: str, notes: Notes) -> None:
        """Make the shares again that a download found missing or damaged, as far as this clone can."""
        from annex_remote.caring import Care, repair_object

        grid, capability = self._readable(job)
        care = Care(grid, capability, cancelled=job.cancelled)
        made = repair_object(care, key, os.path.join(self._git_dir, "annex", "tmp"), notes)
        if made:
            job.info(f"repaired: {'; '.join(made)}")
        _tell(job, "whole, but a repair of its shares is due", notes)

    def _download(
        self,
        job: Job,
        key: str,
        path: str,
        notes: Notes,
        *,
        aside: Aside | None,
        cancelled: threading.Event | None,
    ) -> bool:
        from annex_remote.transfer.trace import Trace

        grid, capability = self._readable(job)
        trace = Trace()
        download = grid.download(
            key,
            path,
            capability.read_secret,
            notes=notes,
            progress=_Progress(job, _size_of(key)),
            cancelled=cancelled or job.cancelled,
            trace=trace,
            aside=aside,
        )
        try:
            with _reading_files():
                download.run()
            return download.rewritten
        finally:
            self._last_download().keep(trace)
            grid.keep_book()
            if download.damaged:
                from annex_remote.caring import remember_damage

                remember_damage(grid, self._object_id(capability, key), download.damaged)

    def _last_download(self) -> KeptTrace:
        from annex_remote.records import KeptTrace, trace_path

        with self._lock:
            if self._kept is None:
                self._kept = KeptTrace(trace_path(self._cache))
            return self._kept

    def check_present(self, job: Job, key: str) -> bool:
        doubt: SwarmError | None = None
        try:
            if self._is_stored(job, key):
                return True
        except SwarmError as error:
            doubt = error
        urls = self._torrents_of(job, key)
        if urls:
            self._keep_magnets(job, key, urls)
            torrents = self.torrents()
            if torrents.settings.trust and torrents.is_trusted(urls, _size_of(key), job.cancelled):
                return True
        if doubt is not None:
            raise doubt
        if not urls:
            return False
        name = self._name or "REMOTE"
        raise Unavailable(
            f"no shares of it are stored; only a torrent has it, which does not count as a copy "
            f"({'; '.join(torrents.in_words(urls))}). To store shares as well: "
            f"git -c remote.{name}.swarm-torrents=no annex copy --to {name} FILE"
        )

    def _is_stored(self, job: Job, key: str) -> bool:
        try:
            present = self._is_present(job, key)
        except Unavailable:
            if not self._refresh(job):
                raise
            return self._is_present(job, key)
        # A grid that changed elsewhere may keep the object on stores that this clone has not heard of.
        return present or (self._refresh(job) and self._is_present(job, key))

    def _is_present(self, job: Job, key: str) -> bool:
        from annex_remote.transfer.presence import is_present
        from annex_remote.transfer.sites import Notes

        grid, capability = self._readable(job)
        notes = Notes()
        present = is_present(
            grid.reading_sites(),
            self._object_id(capability, key),
            grid.verify_key,
            coding=grid.roster.coding,
            least_needed=grid.roster.least_needed,
            stall=grid.settings.stall,
            notes=notes,
        )
        _tell(job, "there, but a repair of its shares is due", notes)
        return present

    def remove(self, job: Job, key: str) -> None:
        from annex_remote.transfer.presence import remove_object
        from annex_remote.transfer.sites import Notes

        grid, capability = self._readable(job)
        _ = capability.signing_seed  # who may not store may not remove
        self._refresh(job)
        notes = Notes()
        remove_object(
            grid.reading_sites(),
            self._object_id(capability, key),
            needed=grid.roster.least_needed,
            stall=grid.settings.stall,
            notes=notes,
        )
        _tell(job, "removed, but not everywhere", notes)
        for url in self._torrents_of(job, key):
            job.set_uri_missing(key, url.url)
            job.set_url_missing(key, url.url)

    # What git-annex shows.

    def cost(self, job: Job) -> int | None:
        settings = self._settings
        if settings is None:
            return None
        near = sum(store.shares for store in settings.stores if not is_far(store.address))
        return NEAR_COST if near >= settings.coding.needed else FAR_COST

    def ordered(self, job: Job) -> bool:
        return True

    def availability(self, job: Job) -> Availability:
        grid = self._seen_grid(job)
        reach = self._reach(grid)
        there = [entry for entry in grid.roster.readable if not reach[entry.name]]
        needed = grid.roster.coding.needed
        if sum(len(entry.numbers) for entry in there if is_far(grid.address(entry))) >= needed:
            return Availability.GLOBAL
        return (
            Availability.LOCAL
            if sum(len(entry.numbers) for entry in there) >= needed
            else Availability.UNAVAILABLE
        )

    def _reach(self, grid: Grid) -> dict[str, Exception | None]:
        """Return each store's name with what is wrong with it, None if it answered in time."""
        from functools import partial

        from annex_remote.transfer.sites import ask_all

        entries = {entry.name: entry for entry in grid.roster.readable}
        questions = {name: partial(grid.see, entry) for name, entry in entries.items()}
        answers = {answer.asked: answer.error for answer in ask_all(questions, QUICK)}
        return {name: answers[name] for name in entries}

    def whereis(self, job: Job, key: str) -> str | None:
        urls = self._torrents_of(job, key)
        if not urls:
            return self._shares_in_words(job, key)
        self._keep_magnets(job, key, urls)
        try:
            shares = [self._shares_in_words(job, key)]
        except SwarmError:
            shares = []  # torrents can be had without
        return "; ".join([*shares, *self.torrents().in_words(urls)])

    def _shares_in_words(self, job: Job, key: str) -> str:
        from functools import partial

        from annex_remote.transfer.sites import ask_all

        grid, capability = self._readable(job)
        object_id = self._object_id(capability, key)
        questions = {site: partial(site.store.stat, site.name_of(object_id)) for site in grid.sites()}
        answers = {answer.asked: answer for answer in ask_all(questions, QUICK)}
        has = [_place(site) for site in questions if answers[site].value is not None]
        unknown = [_place(site) for site in questions if answers[site].error is not None]
        text = f"{len(has)} shares ({grid.roster.coding.needed} needed) named {object_id[:2]}/{object_id}.N"
        if has:
            text += f" on {' '.join(has)}"
        if unknown:
            text += f"; not known of {' '.join(unknown)}"
        return text

    def get_info(self, job: Job) -> Sequence[tuple[str, str]]:
        from annex_remote.roster import ACTIVE, WAITING

        try:
            grid = self._seen_grid(job)
        except SwarmError as error:  # transfers fail with it as well
            return [("cannot be used", str(error))]
        roster = grid.roster
        reach = self._reach(grid)
        stores = [
            (
                f"store {entry.name}",
                f"{grid.address(entry)} ({_shares(entry.numbers)}): {reach[entry.name] or 'there'}"
                + ("" if entry.state == ACTIVE else f" ({entry.state})"),
            )
            for entry in roster.readable
        ]
        stores += [
            (
                f"store {entry.name}",
                f"{grid.address(entry)}: waits for git-annex-remote-swarm login "
                f"{self._name or 'REMOTE'} {entry.name}",
            )
            for entry in roster.stores
            if entry.state == WAITING
        ]
        there = sum(not error for error in reach.values())
        return [
            (
                "coding",
                f"{roster.coding.needed} of {roster.coding.total} shares rebuild (happy {roster.coding.happy})",
            ),
            ("survives", f"the loss of {roster.survives_in_words()}"),
            ("cipher", roster.cipher.setting),
            ("capability", grid.capability.kind if grid.capability else "none here"),
            ("roster serial", str(roster.serial) if grid.is_known else "not seen yet"),
            ("stores there", f"{there} of {len(reach)}"),
            *stores,
        ]

    # Torrents.

    def torrents(self) -> TorrentSource:
        """Return where torrents are had from; raises `BadSetting` if that is set up wrongly here."""
        with self._lock:
            if self._torrents is None:
                from annex_remote.torrenting import open_source

                self._torrents = open_source(self._config, self._git_dir, self._name)
            return self._torrents

    def _torrents_of(self, job: Job, key: str) -> Sequence[TorrentUrl]:
        """Return the torrents that are recorded for a key; none where they are switched off."""
        urls = self._recorded(job, key)
        return urls if urls and self.torrents().settings.enabled else ()

    @staticmethod
    def _recorded(job: Job, key: str) -> Sequence[TorrentUrl]:
        from annex_remote.torrents.urls import torrent_url

        urls = {(url.place, url.choice): url for url in map(torrent_url, job.get_urls(key)) if url is not None}
        return list(urls.values())

    def _is_kept(self, key: str) -> bool:
        """False for what may be the name of a key for the time of one `git annex addurl` alone."""
        if not key.startswith(("URL-", "VURL-")):
            return True
        from annex_remote.annexed import has_urls

        return has_urls(self._git_dir, key)

    def _keep_magnets(self, job: Job, key: str, urls: Sequence[TorrentUrl]) -> None:
        """Record magnets beside .torrent files, which may vanish from the web."""
        for magnet in self.torrents().magnets_to_keep(urls):
            job.set_uri_present(key, magnet)

    def claim_url(self, job: Job, url: str) -> bool:
        from annex_remote.torrents.urls import torrent_url

        return torrent_url(url) is not None and self.torrents().settings.enabled

    def check_url(self, job: Job, url: str) -> UrlContents | Sequence[UrlFile]:
        from annex_remote.torrents.urls import torrent_url

        parsed = torrent_url(url)
        if parsed is None:
            raise BadSetting("this remote takes torrents and magnet links, and no other URLs")
        if job.get_config("encryption") not in ("", "none"):
            raise BadSetting(
                "git-annex encrypts what it keeps in this remote, and asks for it under other names, so it cannot "
                "get torrents from it; a remote with encryption=none can: shares are encrypted all the same"
            )
        return self.torrents().check_url(parsed, job.cancelled, job.info)


def _place(site: Site) -> str:
    return f"{site.name}({site.number})"


def _shares(numbers: Sequence[int]) -> str:
    return ("share " if len(numbers) == 1 else "shares ") + ", ".join(map(str, numbers))


@contextmanager
def _reading_files() -> Iterator[None]:
    """Say in words what is wrong with git-annex's own file: the disk is full, it cannot be read."""
    try:
        yield
    except OSError as error:
        raise SwarmError(f"{error.filename or 'the local file'}: {error.strerror or error}") from error


def _size_of(key: str) -> int | None:
    """Return the size in bytes that a key's name tells, if it does: ``BACKEND-s123--name``."""
    found = re.match(r"[A-Z0-9_]+-s([0-9]+)-", key)
    return int(found[1]) if found else None


class _Progress:
    """Passes progress on some times a second: enough for git-annex's display and its stall detection.

    The end is always passed on, where the `total` is known.
    """

    def __init__(self, job: Job, total: int | None) -> None:
        self._job = job
        self._total = total
        self._next = 0.0

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now >= self._next or done == self._total:
            self._next = now + PROGRESS_INTERVAL
            self._job.progress(done)


def _tell(job: Job, what: str, notes: Notes) -> None:
    """Tell the user in one line: git-annex surrounds each INFO with white space."""
    if notes.lines:
        job.info(f"{what}: {'; '.join(notes.lines)}")
