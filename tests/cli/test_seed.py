"""`torrent seed` as it is typed: peers fetch what is annexed from where it lies, and nothing there changes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

from annex_remote.cli.sources import _tell_start
from annex_remote.errors import Unavailable
from annex_remote.limits import parse_limit
from annex_remote.torrenting import open_source
from annex_remote.torrents.metainfo import Metainfo, parse
from annex_remote.torrents.seed import Figures
from annex_remote.torrents.settings import read_torrent_settings
from tests.fakes import WAIT
from tests.servers import Aria2, LibtorrentPeer, Peer, ToldTracker, Transmission, WebTorrent
from tests.sessions.session import Repository, Session, wait_for
from tests.sessions.sharing import downloader, forget_metainfo

SWARM = "git-annex-remote-swarm torrent"
FILES = {"film/one.bin": 700_001, "film/two.bin": 300_002, "film/sub/three.bin": 200_003}


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    session = Session(tmp_path)
    yield session
    session.close()


@pytest.fixture
def laptop(session: Session) -> Repository:
    laptop = downloader(session)
    laptop.add(**FILES)
    return laptop


def registered(laptop: Repository, options: str = "") -> Path:
    """Make the torrent of `film`, register all of it, and return its file."""
    torrent = laptop.session.folder / "film.torrent"
    laptop.run(f"{SWARM} create film -o {torrent} --piece-length 32KiB --force {options}")
    laptop.run(f"{SWARM} register vault {torrent}")
    return torrent


class Seeder:
    """The command while it runs, and what it has said."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._lines: SimpleQueue[str] = SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)

    def line(self) -> str:
        return self._lines.get(timeout=WAIT)

    def hear(self, kind: str) -> dict[str, Any]:
        """Return the next line of a type; fails the test if there is none."""
        while True:
            try:
                said: dict[str, Any] = json.loads(self._lines.get(timeout=WAIT))
            except Empty:
                raise AssertionError(f"nothing was said of the type {kind}") from None
            if said["type"] == kind:
                return said

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it as its user does; fails the test if that is no success."""
        self.process.send_signal(how)
        assert self.process.wait(WAIT) == 0, self.process.stderr.read() if self.process.stderr else ""


@contextmanager
def seeding(
    laptop: Repository, options: str = "--listen 127.0.0.1:0", *, json: str = "--json"
) -> Iterator[Seeder]:
    seeder = Seeder(laptop.start(f"{SWARM} seed vault {json} {options}"))
    try:
        yield seeder
    finally:
        seeder.process.kill()
        seeder.process.communicate()


def state_of(folder: Path) -> dict[str, object]:
    """Return all that could show that something was written below a folder."""
    found: dict[str, object] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        about = path.lstat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path)] = (about.st_mode, about.st_mtime_ns, about.st_size, about.st_ino, digest)
    return found


def fetched(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def contents(laptop: Repository) -> dict[str, bytes]:
    return {name: laptop.read(name) for name in FILES}


@pytest.mark.parametrize(
    ("kind", "how"), [("v1", signal.SIGTERM), ("v2", signal.SIGINT), ("hybrid", signal.SIGHUP)]
)
def test_a_peer_fetches_from_objects_that_stay_as_they_are(
    laptop: Repository, kind: str, how: signal.Signals
) -> None:
    torrent = registered(laptop, f"--{kind}")
    objects = laptop.path / ".git/annex/objects"
    before = state_of(objects)
    assert {path.stat().st_mode & 0o777 for path in objects.glob("*/*/*/*")} == {0o444}
    assert {path.stat().st_mode & 0o777 for path in objects.glob("*/*/*")} == {0o555}
    with seeding(laptop) as seeder, LibtorrentPeer(laptop.session.folder / "peer") as peer:
        offered = seeder.hear("offered")
        assert (offered["name"], offered["files"], offered["of"]) == ("film", 3, 3)
        started = seeder.hear("started")
        assert (started["torrents"], started["files"], started["looked_for"]) == (1, 3, 0)
        into = laptop.session.folder / "into"
        into.mkdir()
        peer.wait(peer.begin(torrent, into, peers=[f"127.0.0.1:{started['port']}"]))
        assert fetched(into) == contents(laptop)
        seeder.end(how)
        assert seeder.hear("stopped")["given"] >= sum(FILES.values())
    assert state_of(objects) == before
    assert list((laptop.path / ".git/annex/swarm/torrents").iterdir()) == []


def test_what_is_here_of_a_torrent_is_served_without_the_rest(laptop: Repository) -> None:
    torrent = registered(laptop, "--v1")
    metainfo = parse(torrent.read_bytes())
    laptop.run("git annex unlock --quiet film/sub/three.bin")
    laptop.run("git annex drop --quiet --force film/two.bin")
    [gone] = [file for file in metainfo.files if file.path == ("two.bin",)]
    lost = sum(metainfo.piece_size(piece) for piece in metainfo.span(gone))
    with seeding(laptop) as seeder, LibtorrentPeer(laptop.session.folder / "peer") as peer:
        assert seeder.hear("offered")["files"] == 2
        port = seeder.hear("started")["port"]
        into = laptop.session.folder / "into"
        into.mkdir()
        identity = peer.begin(torrent, into, peers=[f"127.0.0.1:{port}"])
        rest = metainfo.size - lost
        wait_for(lambda: peer.status(identity)["done"] >= rest, "all that is here", WAIT)
        assert peer.status(identity)["done"] == rest
        seeder.end()


def test_content_that_is_not_the_torrents_is_not_given(laptop: Repository) -> None:
    torrent = registered(laptop, "--v2")
    metainfo = parse(torrent.read_bytes())
    [path] = [path for path in (laptop.path / ".git/annex/objects").glob("*/*/*/*") if "s700001-" in path.name]
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[100_000] ^= 1
    path.write_bytes(data)
    path.chmod(0o444)
    with seeding(laptop) as seeder, LibtorrentPeer(laptop.session.folder / "peer") as peer:
        port = seeder.hear("started")["port"]
        into = laptop.session.folder / "into"
        into.mkdir()
        identity = peer.begin(torrent, into, peers=[f"127.0.0.1:{port}"])
        said = seeder.hear("damaged")
        assert said["error"] == "one.bin: 1 of 22 pieces are not the torrent's"
        wait_for(lambda: peer.status(identity)["done"] >= _content(metainfo) - (32 << 10), "the rest", WAIT)
        assert peer.status(identity)["done"] == _content(metainfo) - (32 << 10)
        seeder.end()


def _content(metainfo: Metainfo) -> int:
    return sum(file.size for file in metainfo.files)


@pytest.mark.parametrize("program", [Aria2, Transmission, WebTorrent])
def test_programs_of_others_fetch_from_it(laptop: Repository, program: type[Peer]) -> None:
    """A tracker tells of both; Transmission connects to nobody on this machine."""
    with program(laptop.session.folder / "peer") as peer, ToldTracker([peer.address]) as tracker:
        torrent = registered(laptop, f"--v1 --tracker {tracker.announce}")
        into = laptop.session.folder / "into"
        into.mkdir()
        identity = peer.begin(torrent, into) if program is Transmission else ""
        with seeding(laptop) as seeder:
            tracker.told.append(f"127.0.0.1:{seeder.hear('started')['port']}")
            peer.wait(identity or peer.begin(torrent, into))
            assert fetched(into).items() >= contents(laptop).items()
            seeder.end()


def test_what_is_in_a_torrent_is_fetched_from_peers_where_it_is_not_known(laptop: Repository) -> None:
    with LibtorrentPeer(laptop.session.folder / "peer") as peer, ToldTracker([peer.address]) as tracker:
        torrent = registered(laptop, f"--tracker {tracker.announce}")
        forget_metainfo(laptop.session)
        content = laptop.session.folder / "content"
        content.mkdir()
        (content / "film").symlink_to(laptop.path / "film")
        peer.seed(torrent, content)
        with seeding(laptop) as seeder:
            assert seeder.hear("started")["torrents"] == 0
            assert seeder.hear("offered")["files"] == 3
            seeder.end()


def test_another_clone_gets_what_was_registered_from_the_one_that_seeds(laptop: Repository) -> None:
    """No shares are stored, and the clones see nothing of one another but the torrent."""
    with ToldTracker() as tracker:
        registered(laptop, f"--tracker {tracker.announce}")
        files = contents(laptop)
        desk = laptop.session.clone(laptop, "desk")
        desk.enableremote({"SWARM_CAPABILITY": laptop.capability()})
        desk.run("git remote remove origin")
        with seeding(laptop) as seeder:
            tracker.told.append(f"127.0.0.1:{seeder.hear('started')['port']}")
            desk.run("git annex get -J3 film", env={"XDG_CACHE_HOME": str(laptop.session.folder / "cache")})
            assert contents(desk) == files
            seeder.end()
    assert laptop.session.shares("usb", "nas", "attic") == []


def test_it_says_what_would_be_served(laptop: Repository) -> None:
    registered(laptop)
    laptop.run("git annex drop --quiet --force film/two.bin")
    assert laptop.run(f"{SWARM} seed vault --dry-run").out == "film would be served, 2 of its 3 files\n"
    forget_metainfo(laptop.session)
    said = laptop.run(f"{SWARM} seed vault --dry-run")
    assert "&dn=film is not served, as it is not known what is in it: it would be looked for" in said.err


def test_mistakes_are_told_in_one_line(laptop: Repository) -> None:
    nothing = (
        "nothing that is here has a torrent as a source: git-annex-remote-swarm torrent register vault x.torrent"
    )
    for words, sentence in (
        ("", nothing),
        ("--dry-run", nothing),
        ("--listen here", "listen: here is not HOST:PORT"),
        ("--upload-limit fast", "--upload-limit: 'fast' is not bytes a second"),
    ):
        said = laptop.run(f"{SWARM} seed vault {words}", fails=True)
        assert (said.status, said.out) == (1, ""), str(said)
        assert sentence in said.err, str(said)
        assert said.err.count("\n") == 1, str(said)
    registered(laptop)
    said = laptop.run(f"{SWARM} seed vault --listen 192.0.2.1:0", fails=True)
    assert "none of this machine's addresses is at 192.0.2.1:0, so that no port could be listened at" in said.err
    assert (said.status, said.out, said.err.count("\n")) == (1, "", 1)
    laptop.run("git config remote.vault.swarm-torrents no")
    assert "torrents are switched off for vault" in laptop.run(f"{SWARM} seed vault", fails=True).err


def test_a_port_that_is_taken_is_an_error_before_anything_is_served(laptop: Repository) -> None:
    registered(laptop)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for listen in (f"127.0.0.1:{port}", f"0.0.0.0:{port}", f"'127.0.0.1:0 127.0.0.1:{port}'"):
            said = laptop.run(f"{SWARM} seed vault --listen {listen}", fails=True)
            assert (said.status, said.out) == (1, ""), str(said)
            assert f"listen: port {port} is taken, so that peers cannot be listened to at" in said.err, str(said)
            assert "choose another one with --listen ADDRESS:PORT, where port 0 is any that is free" in said.err
            assert said.err.count("\n") == 1, str(said)
        laptop.run(f"git config remote.vault.swarm-listen 127.0.0.1:{port}")
        assert f"port {port} is taken" in laptop.run(f"{SWARM} seed vault", fails=True).err
    with seeding(laptop, "") as seeder:
        assert seeder.hear("started")["port"] == port
        assert f"port {port} is taken" in laptop.run(f"{SWARM} seed vault", fails=True).err
        seeder.end()


@pytest.mark.parametrize(("port", "listen"), [(5001, "127.0.0.1:5000"), (0, "127.0.0.1:5000"), (0, "127.0.0.1:0")])
def test_a_port_that_is_taken_meanwhile_is_an_error_too(port: int, listen: str) -> None:
    settings = read_torrent_settings({"listen": listen})
    source = SimpleNamespace(session=SimpleNamespace(port=lambda: port), settings=settings)
    seeding = SimpleNamespace(looked_for=0)
    with pytest.raises(Unavailable, match="somebody has taken it just now"):
        _tell_start(Figures(1, 1, 0, 0, 0), seeding, source, as_json=True)  # type: ignore[arg-type]
    source.session.port = lambda: 5000
    _tell_start(Figures(1, 1, 0, 0, 0), seeding, source, as_json=True)  # type: ignore[arg-type]


def test_torrents_of_one_name_are_told_apart(laptop: Repository) -> None:
    one = parse(registered(laptop, "--v1").read_bytes())
    assert laptop.run(f"{SWARM} seed vault --dry-run").out == "film would be served\n"
    other = parse(registered(laptop, "--v2").read_bytes())
    laptop.run(f"{SWARM} create film/one.bin -o ../other.torrent")
    laptop.run(f"{SWARM} register vault ../other.torrent")
    said = laptop.run(f"{SWARM} seed vault --dry-run").out.splitlines()
    assert sorted(said) == sorted(
        [*(f"film ({each.id[:8]}) would be served" for each in (one, other)), "one.bin would be served"]
    )
    with seeding(laptop, json="") as seeder:
        lines = {seeder.line() for _ in range(3)}
        seeder.end()
    assert lines == {line.replace("would be", "is") + "\n" for line in said}


def test_the_limit_of_this_once_holds_instead_of_those_that_are_set(laptop: Repository) -> None:
    laptop.run("git config remote.vault.swarm-upload-limit 5KiB/s")
    git_dir = os.fspath(laptop.path / ".git")
    for limit, rate in ((None, 5 << 10), ("7KiB/s", 7 << 10), ("none", None)):
        once = parse_limit("--upload-limit", limit) if limit is not None else None
        source = open_source({"upload-limit": "6KiB/s"}, git_dir, "vault", upload_limit=once)
        assert source.session._rules.up() == rate


def test_peers_get_no_more_than_the_limit(laptop: Repository) -> None:
    """Two of them together, as the limit is of all that goes out."""
    torrent = registered(laptop)
    rate, enough = 200 << 10, 900_000
    with (
        seeding(laptop, "--listen 127.0.0.1:0 --upload-limit 200KiB/s") as seeder,
        LibtorrentPeer(laptop.session.folder / "one") as one,
        LibtorrentPeer(laptop.session.folder / "other", host="127.0.0.9") as other,
    ):
        address = f"127.0.0.1:{seeder.hear('started')['port']}"
        began = time.monotonic()
        begun: list[tuple[LibtorrentPeer, str]] = []
        for peer in (one, other):
            into = peer.folder / "into"
            into.mkdir()
            begun.append((peer, peer.begin(torrent, into, peers=[address])))
        wait_for(lambda: sum(peer.status(id_)["downloaded"] for peer, id_ in begun) > enough, "most of it", 60)
        assert time.monotonic() - began > enough / rate / 2
        seeder.end()


@pytest.mark.parametrize("transport", ["auto", "background"])
def test_peers_that_know_tcp_only_are_served_unless_it_is_in_the_background(
    laptop: Repository,
    transport: str,
) -> None:
    torrent = registered(laptop, "--v1")
    laptop.run(f"git config remote.vault.swarm-transport {transport}")
    into = laptop.session.folder / "into"
    into.mkdir()
    with (
        seeding(laptop) as seeder,
        LibtorrentPeer(laptop.session.folder / "peer", transport="tcp" if transport == "auto" else "utp") as peer,
    ):
        started = seeder.hear("started")
        peer.wait(peer.begin(torrent, into, peers=[f"127.0.0.1:{started['port']}"]))
        assert fetched(into) == contents(laptop)
        seeder.end()
        assert seeder.process.stderr is not None
        assert ("only peers that know µTP" in seeder.process.stderr.read()) is (transport == "background")
