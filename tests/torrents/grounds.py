"""Torrents on disk, sessions of the real libtorrent that end with the test, and how a file is got with them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

from annex_remote.torrents.addresses import Allowed, parse_allowed
from annex_remote.torrents.gather import Gathering, Part
from annex_remote.torrents.known import Extra
from annex_remote.torrents.metainfo import Metainfo, TorrentFile, parse
from annex_remote.torrents.session import Rules, Session
from annex_remote.torrents.settings import Endpoint, TorrentSettings
from annex_remote.torrents.torrent import Torrent
from tests.fakes import WAIT
from tests.servers import make_torrent
from tests.servers.torrents import PIECE, Kind
from tests.torrents.swarm import noise

__all__ = ["HERE", "PIECE", "SETTINGS", "Ground", "Shared", "endpoint", "has_all", "listening", "threads", "until"]

SETTINGS = TorrentSettings(transport="foreground", listen=(("127.0.0.1", 0),), dht=False, timeout=20.0)
"""On this machine only, and nobody is looked for."""
HERE = parse_allowed("127.0.0.0/8")

_numbers = count()


@dataclass(frozen=True)
class Shared:
    """Content, and its torrent: `content` is what a peer is told to seed."""

    metainfo: Metainfo
    torrent: Path
    content: Path
    files: Mapping[str, bytes]

    def file(self, name: str) -> TorrentFile:
        [file] = [file for file in self.metainfo.files if "/".join(file.path) in (name, self.metainfo.name)]
        return file


@dataclass
class Ground:
    """What a test has below its folder."""

    folder: Path
    sessions: list[Session] = field(default_factory=list)

    @property
    def work(self) -> Path:
        """Where torrents are fetched into."""
        return self.folder / "work"

    def share(
        self, files: Mapping[str, int], kind: Kind = "v1", *, piece_length: int = PIECE, private: bool = False
    ) -> Shared:
        """Return a torrent that no other test has; with one file called "", it is that file alone."""
        name = f"T{next(_numbers)}-{os.getpid()}"
        content = self.folder / "content"
        contents = {}
        for file, size in files.items():
            path = content / name / file if file else content / name
            path.parent.mkdir(parents=True, exist_ok=True)
            contents[file] = noise(f"{name}/{file}", size)
            path.write_bytes(contents[file])
        to = self.folder / f"{name}.torrent"
        make_torrent(content / name, kind=kind, piece_length=piece_length, private=private, to=to)
        return Shared(parse(to.read_bytes()), to, content, contents)

    def session(
        self,
        settings: TorrentSettings = SETTINGS,
        allowed: Allowed = HERE,
        *,
        clock: Callable[[], float] = time.monotonic,
        rules: Rules | None = None,
        **changes: object,
    ) -> Session:
        made = replace(rules or Rules(settings, allowed), settings=replace(settings, **changes))  # type: ignore[arg-type]
        session = Session(str(self.work), made, clock)
        self.sessions.append(session)
        return session

    def close(self) -> None:
        for session in self.sessions:
            session.close()

    def get(
        self,
        session: Session,
        shared: Shared,
        name: str = "",
        peers: Iterable[Endpoint] = (),
        *,
        into: str = "got",
        cancelled: threading.Event | None = None,
    ) -> bytes:
        """Return a file of a torrent, got as a key is."""
        path = self.folder / into
        file = shared.file(name)
        gathering = Gathering(
            str(path),
            timeout=SETTINGS.timeout,
            progress=lambda _: None,
            cancelled=cancelled or threading.Event(),
            changed=session.changed,
        )
        gathering.expect(1)
        span = shared.metainfo.span(file)
        torrent = session.join(shared.metainfo, Extra(peers=tuple(peers)), wanted=span)
        gathering.add(Part(torrent, file))
        done = False
        try:
            done = gathering.run()
        finally:
            for part in gathering.end():
                session.leave(part.torrent, span if done else None)
        return path.read_bytes()

    @property
    def work_files(self) -> set[str]:
        """Names of all that is in the work folder, without the folder of each torrent."""
        return {path.name for path in self.work.rglob("*") if path.is_symlink() or not path.is_dir()}


def endpoint(address: str) -> Endpoint:
    host, _, port = address.rpartition(":")
    return host, int(port)


def until(true: Callable[[], object]) -> None:
    """Return when something is true of which nobody is told."""
    deadline = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < deadline, "never"
        time.sleep(0.01)


def has_all(session: Session, torrent: Torrent, pieces: Iterable[int]) -> None:
    """Return when the pieces are there."""
    with session.changed:
        assert session.changed.wait_for(lambda: all(map(torrent.has, pieces)), WAIT)


def threads() -> int:
    """Return how many threads this process has, libtorrent's as well."""
    return len(os.listdir("/proc/self/task"))


def listening() -> set[str]:
    """Return where this process takes connections and datagrams, as /proc has it: "0100007F:1AE1"."""
    inodes = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/self/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            is_open = table.startswith("udp") or fields[3] == "0A"
            if fields[9] in inodes and is_open and not fields[1].endswith(":0000"):
                found.add(f"{table} {fields[1]}")
    return found
