"""The session, with the real libtorrent: files from peers on loopback, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from annex_remote.errors import BadSetting, Cancelled, Damaged, NotEnough, Unavailable
from annex_remote.torrents.addresses import parse_allowed
from annex_remote.torrents.bencode import decode_with_spans, encode
from annex_remote.torrents.known import Extra
from annex_remote.torrents.metainfo import Metainfo, from_info, parse
from annex_remote.torrents.session import ASK_DHT, LINGER, Rules, Session, _Asking, _Joined
from annex_remote.torrents.torrent import Torrent
from annex_remote.torrents.urls import Magnet
from annex_remote.torrents.work import WorkFolder
from tests.fakes import FakeClock, Run, in_thread
from tests.servers import LibtorrentPeer, make_torrent
from tests.servers.torrents import Kind
from tests.torrents.documents import info_of
from tests.torrents.grounds import (
    HERE,
    PIECE,
    SETTINGS,
    Ground,
    Shared,
    endpoint,
    has_all,
    listening,
    threads,
    until,
)
from tests.torrents.swarm import KINDS

ALBUM = {"a.bin": 5 * PIECE // 2, "b/b.bin": 3 * PIECE + 1000, "c.bin": PIECE + 7}
"""Of v1, b begins and ends in pieces of its neighbours."""
FILM = {"": 2 << 20}
ANNOUNCEMENTS = {"udp 00000000:1A73"}
"""Where peers of the local network say that they are there (BEP 14)."""


@pytest.fixture(scope="module")
def seeder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LibtorrentPeer]:
    """A peer that has everything."""
    with LibtorrentPeer(tmp_path_factory.mktemp("seeder"), transport="tcp") as peer:
        yield peer


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    ground = Ground(tmp_path)
    yield ground
    ground.close()


def seed(seeder: LibtorrentPeer, shared: Shared, **options: Any) -> list[tuple[str, int]]:
    """Have all of it seeded, and return where that is."""
    seeder.seed(shared.torrent, shared.content, **options)
    return [endpoint(seeder.address)]


def uploaded(seeder: LibtorrentPeer, shared: Shared) -> int:
    """Return how many bytes of it the seeder gave."""
    return int(seeder.status(identity(shared))["uploaded"])


def passing(clock: FakeClock, true: Callable[[], object]) -> None:
    """Let time pass until something is true."""

    def is_true() -> object:
        clock.advance(0.2)
        return true()

    until(is_true)


def identity(shared: Shared) -> str:
    """Return what libtorrent calls it by: 20 bytes, of v2 if there is one."""
    best = shared.metainfo.v2 or shared.metainfo.v1
    assert best is not None
    return best.hex()[:40]


# Files.


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_alone(ground: Ground, seeder: LibtorrentPeer, kind: Kind) -> None:
    shared = ground.share(FILM, kind)
    assert ground.get(ground.session(), shared, peers=seed(seeder, shared)) == shared.files[""]


@pytest.mark.parametrize("kind", KINDS)
def test_one_file_of_several(ground: Ground, seeder: LibtorrentPeer, kind: Kind) -> None:
    shared = ground.share(ALBUM | {"d.bin": 40 * PIECE}, kind)
    peers = seed(seeder, shared)
    into = ground.folder / "tree"
    into.mkdir()
    assert ground.get(ground.session(), shared, "b/b.bin", peers, into="tree/got") == shared.files["b/b.bin"]
    assert os.listdir(into) == ["got"]
    assert ground.work_files <= {"lock", "resume", *(f"f{number}" for number in range(9))}
    span = shared.metainfo.span(shared.file("b/b.bin"))
    assert uploaded(seeder, shared) <= (len(span) + 1) * PIECE


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_torrent_calls_executable_is_not_made_so(
    ground: Ground, seeder: LibtorrentPeer, kind: Kind
) -> None:
    shared = ground.share(ALBUM, kind)
    folder = shared.content / shared.metainfo.name
    for name in ALBUM:
        (folder / name).chmod(0o755)
    make_torrent(folder, kind=kind, to=shared.torrent)
    shared = replace(shared, metainfo=parse(shared.torrent.read_bytes()))
    assert b"4:attr1:x" in shared.metainfo.document
    peers = seed(seeder, shared)
    session = ground.session()
    for name, data in shared.files.items():
        assert ground.get(session, shared, name, peers, into=Path(name).name) == data
    made = [path for path in ground.work.rglob("f*") if path.is_file()]
    assert len(made) >= 3
    assert [path.stat().st_mode & 0o111 for path in (*made, ground.folder / "a.bin")] == [0] * (len(made) + 1)


def test_twenty_files_at_once_are_one_torrent(ground: Ground, seeder: LibtorrentPeer) -> None:
    shared = ground.share({f"{number:02}.bin": PIECE // 3 + 1000 * number for number in range(20)})
    peers = seed(seeder, shared, upload_limit=1 << 20)
    session = ground.session()
    got: dict[str, bytes] = {}

    def get(name: str) -> None:
        got[name] = ground.get(session, shared, name, peers, into=name)

    runs = [Run(lambda name=name: get(name)) for name in shared.files]  # type: ignore[misc]
    until(lambda: len(seeder.status(identity(shared))["peers"]) == 1)
    for run in runs:
        run.join()
    assert got == shared.files
    assert len(list(ground.work.iterdir())) == 1
    assert uploaded(seeder, shared) < shared.metainfo.size + 4 * PIECE


def test_all_who_want_a_torrent_share_it(ground: Ground) -> None:
    shared = ground.share(ALBUM)
    session = ground.session()
    torrents = [session.join(shared.metainfo) for _ in range(3)]
    assert torrents[0] is torrents[1] is torrents[2]
    for torrent in torrents:
        session.leave(torrent, None)


def test_the_file_grows_along(ground: Ground, seeder: LibtorrentPeer) -> None:
    """What a slow peer has brought is in the file long before the end, and is right."""
    shared = ground.share({"": 24 * PIECE})
    peers = seed(seeder, shared, upload_limit=8 * PIECE)
    path = ground.folder / "got"
    sizes: set[int] = set()
    run = Run(lambda: ground.get(ground.session(), shared, peers=peers))
    while not run.is_over:
        if path.exists() and path.stat().st_size not in sizes:
            read = path.read_bytes()
            assert read == shared.files[""][: len(read)]
            sizes.add(len(read))
        time.sleep(0.005)
    run.join()
    assert len(sizes) >= 4
    assert path.read_bytes() == shared.files[""]


def test_pieces_from_elsewhere_are_given_to_peers(ground: Ground, seeder: LibtorrentPeer) -> None:
    shared = ground.share(FILM, "hybrid")
    session = ground.session()
    torrent = session.join(shared.metainfo)
    until(lambda: torrent.is_checked)
    pieces = range(shared.metainfo.pieces)
    for piece in pieces:
        torrent.offer(piece, shared.files[""][piece * PIECE : (piece + 1) * PIECE])
    has_all(session, torrent, pieces)
    into = ground.folder / "theirs"
    into.mkdir()
    theirs = seeder.begin(shared.torrent, into, peers=[f"127.0.0.1:{session.port()}"])
    seeder.wait(theirs)
    assert (into / shared.metainfo.name).read_bytes() == shared.files[""]
    seeder.forget(theirs)
    session.leave(torrent, None)


def test_what_is_wanted_first_comes_first(ground: Ground, seeder: LibtorrentPeer) -> None:
    """Within limits: a peer lets others have a few pieces before it is their turn."""
    shared = ground.share({"": 100 * PIECE})
    session = ground.session()
    peers = seed(seeder, shared, upload_limit=12 * PIECE)
    torrent = session.join(shared.metainfo, Extra(peers=tuple(peers)), wanted=range(100))
    until(lambda: torrent.count(0, 100) >= 12)
    assert torrent.count(16, 100) <= 5
    session.leave(torrent, None)


# Going on.


def test_it_goes_on_after_it_was_closed(ground: Ground, seeder: LibtorrentPeer) -> None:
    shared = ground.share({"a": 20 * PIECE, "b": 20 * PIECE})
    peers = seed(seeder, shared)
    first = ground.session()
    torrent = first.join(shared.metainfo, Extra(peers=tuple(peers)), wanted=range(15))
    has_all(first, torrent, range(15))
    first.leave(torrent, None)
    first.close()
    given = uploaded(seeder, shared)
    second = ground.session()
    assert ground.get(second, shared, "a", peers) == shared.files["a"]
    assert uploaded(seeder, shared) - given < 8 * PIECE


KILLED = """
import os, sys, time, threading
from pathlib import Path
from tests.torrents.grounds import Ground, has_all, endpoint
from annex_remote.torrents.known import Extra
from annex_remote.torrents.metainfo import parse
folder, torrent, peer, count = sys.argv[1:]
session = Ground(Path(folder)).session()
metainfo = parse(Path(torrent).read_bytes())
joined = session.join(metainfo, Extra(peers=(endpoint(peer),)), wanted=range(int(count)))
has_all(session, joined, range(int(count)))
work = Path(folder, "work", metainfo.id, "resume")
before = work.stat().st_mtime_ns if work.exists() else 0
deadline = time.monotonic() + 10
while (not work.exists() or work.stat().st_mtime_ns == before) and time.monotonic() < deadline:
    time.sleep(0.01)
print("there", flush=True)
time.sleep(60)
"""


def killed(ground: Ground, shared: Shared, peer: str, count: int) -> None:
    """Have a process fetch some pieces, and kill it."""
    command = [sys.executable, "-c", KILLED, str(ground.folder), str(shared.torrent), peer, str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=with_path()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        process.send_signal(signal.SIGKILL)


def with_path() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def test_it_goes_on_after_a_process_was_killed(ground: Ground, seeder: LibtorrentPeer) -> None:
    shared = ground.share({"": 40 * PIECE})
    peers = seed(seeder, shared)
    killed(ground, shared, seeder.address, 25)
    given = uploaded(seeder, shared)
    assert ground.get(ground.session(), shared, peers=peers) == shared.files[""]
    assert uploaded(seeder, shared) - given < 40 * PIECE - 10 * PIECE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padded", [False, True])
def test_what_was_written_and_not_noted_is_there(
    ground: Ground, seeder: LibtorrentPeer, kind: Kind, padded: bool
) -> None:
    """As a kill leaves it: what came last is in the files, and the notes do not tell of it."""
    size = 20 * PIECE - 100
    shared = ground.share({"a": 100, "b": size} if padded else {"": size}, kind)
    file = shared.file("b" if padded else "")
    content = shared.files["b" if padded else ""]
    pieces = list(shared.metainfo.span(file))
    first = ground.session()
    torrent = first.join(shared.metainfo, Extra(peers=tuple(seed(seeder, shared))), wanted=pieces[:5])
    has_all(first, torrent, pieces[:5])
    first.leave(torrent, None)
    first.close()
    [there] = [path for path in (ground.work / shared.metainfo.id).glob("f*") if path.stat().st_size > 100]
    offset = pieces[0] * PIECE - file.offset
    with there.open("r+b") as out:
        for number in (6, 7, 9, len(pieces) - 1):
            start = offset + number * PIECE
            out.seek(start)
            out.write(content[start : start + PIECE])
        out.seek(offset + 7 * PIECE + 100)
        out.write(b"damage")
    second = ground.session()
    again = second.join(shared.metainfo)
    until(lambda: again.is_checked)
    has = {number for number, piece in enumerate(pieces) if again.has(piece)}
    assert has - set(range(6)) == {6, 9, len(pieces) - 1}
    assert has >= set(range(5))
    second.leave(again, None)


def test_the_hashes_of_pieces_are_learned_from_peers(ground: Ground, seeder: LibtorrentPeer) -> None:
    """A magnet brings none: without them what is there could not be proved the next time."""
    shared = ground.share({"a": 5 * PIECE, "b": 3 * PIECE}, "v2")
    learned: list[Metainfo] = []
    session = ground.session(rules=Rules(SETTINGS, HERE, learned=learned.append))
    info, _ = decode_with_spans(info_of(shared.metainfo.document))
    tracker = "http://127.0.0.1:9/announce"
    bare = parse(encode({b"announce": tracker.encode(), b"info": info}))
    assert not bare.has_layers
    torrent = session.join(bare, Extra(peers=tuple(seed(seeder, shared))), wanted=range(8))
    until(lambda: learned)
    until(lambda: torrent.metainfo.has_layers)
    assert learned[-1] == torrent.metainfo
    assert (torrent.metainfo.id, torrent.metainfo.trackers) == (shared.metainfo.id, ((tracker,),))
    assert torrent.metainfo.proves(1, shared.files["a"][PIECE : 2 * PIECE])
    session.leave(torrent, None)


class Disk:
    """A handle, and a session, of libtorrent's in which nothing happens by itself."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def flush_cache(self) -> None:
        self.asked.append("flush")

    def save_resume_data(self, _: object) -> None:
        self.asked.append("save")

    def add_torrent(self, _: object) -> Disk:
        return Disk()

    def remove_torrent(self, _: object) -> None:
        pass


@pytest.fixture
def saver(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Session, Any, Disk]]:
    """A session with a torrent that pieces come of."""
    session, disk = ground.session(clock=FakeClock()), Disk()
    metainfo = ground.share({"": 5 * PIECE}).metainfo
    folder = WorkFolder.claim(str(ground.work), metainfo.id)
    torrent = Torrent(metainfo, session.changed, session._clock)
    joined = _Joined(torrent, disk, folder, None)
    session._session = disk
    session._joined[metainfo.id] = joined
    monkeypatch.setattr("annex_remote.torrents.library.resume_data_of", lambda _: b"notes")
    torrent.checked()
    yield session, joined, disk
    session._session = None
    folder.release(remove=True)


def test_notes_are_made_while_pieces_come(saver: tuple[Session, Any, Disk]) -> None:
    session, joined, disk = saver
    came = SimpleNamespace(piece_index=1)
    session._piece_finished(joined, came)
    session._flush_all()
    session._piece_finished(joined, came)
    session._save(joined)
    assert disk.asked == ["flush"]
    session._flushed(joined, None)  # it began before what is to be noted had come
    assert disk.asked == ["flush", "flush"]
    session._piece_finished(joined, came)
    session._flushed(joined, None)
    assert disk.asked == ["flush", "flush", "save"]
    session._saved(joined, SimpleNamespace(params=None))
    assert joined.folder.resume_data() == b"notes"
    session._flush_all()
    assert disk.asked[3:] == ["flush"]


def test_a_torrent_that_is_added_anew_is_written_and_noted_on(saver: tuple[Session, Any, Disk]) -> None:
    session, joined, disk = saver
    session._piece_finished(joined, SimpleNamespace(piece_index=1))
    joined.is_stuck = True
    session._save(joined)
    session._flushed(joined, None)
    session._piece_finished(joined, SimpleNamespace(piece_index=2))
    session._flush_all()
    assert joined.flushing  # and nobody will tell when that is done
    session._saved(joined, SimpleNamespace(params=SimpleNamespace(piece_priorities=[])))
    assert joined.handle is not disk
    session._save(joined)
    session._flushed(joined, None)
    assert joined.handle.asked == ["flush", "save"]


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_what_was_damaged_meanwhile_is_fetched_again(ground: Ground, seeder: LibtorrentPeer, kind: Kind) -> None:
    shared = ground.share({"": 40 * PIECE}, kind)
    peers = seed(seeder, shared)
    killed(ground, shared, seeder.address, 25)
    with (ground.work / shared.metainfo.id / "f0").open("r+b") as file:
        file.seek(7 * PIECE + 100)
        file.write(b"damage")
    assert ground.get(ground.session(), shared, peers=peers) == shared.files[""]


@pytest.mark.parametrize("damage", [b"", b"d3:fooi1ee", b"garbage", os.urandom(1000)])
def test_notes_that_are_no_good_are_passed_over(ground: Ground, seeder: LibtorrentPeer, damage: bytes) -> None:
    shared = ground.share({"": 10 * PIECE})
    folder = ground.work / shared.metainfo.id
    folder.mkdir(parents=True)
    (folder / "resume").write_bytes(damage)
    (folder / "f0").write_bytes(shared.files[""][: 5 * PIECE])
    assert ground.get(ground.session(), shared, peers=seed(seeder, shared)) == shared.files[""]


def test_the_folder_goes_when_all_is_got(ground: Ground, seeder: LibtorrentPeer) -> None:
    clock = FakeClock()
    shared = ground.share(ALBUM)
    session = ground.session(clock=clock)
    assert ground.get(session, shared, "a.bin", seed(seeder, shared)) == shared.files["a.bin"]
    assert ground.work_files
    clock.advance(LINGER + 1)
    passing(clock, lambda: not list(ground.work.iterdir()))


def test_what_somebody_has_begun_stays_when_another_is_done(ground: Ground, seeder: LibtorrentPeer) -> None:
    clock = FakeClock()
    shared = ground.share({"a.bin": 4 * PIECE, "b.bin": 4 * PIECE})
    peers = seed(seeder, shared)
    session = ground.session(clock=clock)
    torrent = session.join(shared.metainfo, Extra(peers=tuple(peers)), wanted=range(4, 6))
    has_all(session, torrent, range(4, 6))
    session.leave(torrent, None)
    assert ground.get(session, shared, "a.bin", peers) == shared.files["a.bin"]
    passing(clock, lambda: not session.port())
    session.close()
    again = ground.session()
    torrent = again.join(shared.metainfo)
    has_all(again, torrent, range(4, 6))
    again.leave(torrent, None)


def test_peers_come_back_when_something_is_wanted_again(ground: Ground, seeder: LibtorrentPeer) -> None:
    """Those who have all leave whoever wants nothing, and libtorrent does not call them back."""
    shared = ground.share(ALBUM)
    session = ground.session()
    torrent = session.join(shared.metainfo, Extra(peers=tuple(seed(seeder, shared))))
    until(lambda: torrent.tried.known)
    looked = session._looked
    until(lambda: session._looked > looked + 1.0)
    assert seeder.status(identity(shared))["peers"] == []
    assert ground.get(session, shared, "a.bin") == shared.files["a.bin"]
    session.leave(torrent, None)


# Magnets.


def magnets(metainfo: Metainfo) -> list[Magnet]:
    """Return the magnet of a torrent, and those by either hash."""
    found = [Magnet(metainfo.v1, metainfo.v2), Magnet(metainfo.v1, None), Magnet(None, metainfo.v2)]
    return list(dict.fromkeys(magnet for magnet in found if magnet.v1 or magnet.v2))


@pytest.mark.parametrize("kind", KINDS)
def test_metadata_comes_from_peers(ground: Ground, seeder: LibtorrentPeer, kind: Kind) -> None:
    shared = ground.share(ALBUM, kind)
    peers = tuple(seed(seeder, shared))
    for magnet in magnets(shared.metainfo):
        session = ground.session()
        found = session.metadata(magnet, Extra(peers=peers), timeout=20, cancelled=threading.Event())
        assert (found.v1, found.v2, found.files) == (
            shared.metainfo.v1,
            shared.metainfo.v2,
            shared.metainfo.files,
        )
        session.close()
    assert ground.work_files == set()


@pytest.mark.parametrize("kind", KINDS)
def test_whoever_had_the_metadata_is_asked_for_the_rest(
    ground: Ground, seeder: LibtorrentPeer, kind: Kind
) -> None:
    shared = ground.share(ALBUM, kind)
    peers = tuple(seed(seeder, shared))
    session = ground.session()
    magnet = magnets(shared.metainfo)[0]
    found = session.metadata(magnet, Extra(peers=peers), timeout=20, cancelled=threading.Event())
    bare = Shared(found, shared.torrent, shared.content, shared.files)
    assert ground.get(session, bare, "b/b.bin") == shared.files["b/b.bin"]


def test_a_v2_torrent_without_layers_goes_on_after_it_was_closed(ground: Ground, seeder: LibtorrentPeer) -> None:
    shared = ground.share({"a": 20 * PIECE, "b": 20 * PIECE}, "v2")
    peers = seed(seeder, shared)
    bare = from_info(info_of(shared.metainfo.document), Magnet(None, shared.metainfo.v2))
    shared = Shared(bare, shared.torrent, shared.content, shared.files)
    first = ground.session()
    torrent = first.join(bare, Extra(peers=tuple(peers)), wanted=range(15))
    has_all(first, torrent, range(15))
    first.leave(torrent, None)
    first.close()
    given = uploaded(seeder, shared)
    assert ground.get(ground.session(), shared, "a", peers) == shared.files["a"]
    assert uploaded(seeder, shared) - given < 8 * PIECE


def test_all_who_look_for_a_magnet_find_it_together(ground: Ground, seeder: LibtorrentPeer) -> None:
    """By the same hash, and by both hashes of one torrent, which libtorrent takes for two that conflict."""
    shared = ground.share(ALBUM, "hybrid")
    session = ground.session()
    found: list[Metainfo] = []

    def look(magnet: Magnet, *peers: tuple[str, int]) -> None:
        found.append(session.metadata(magnet, Extra(peers=peers), timeout=20, cancelled=threading.Event()))

    both, v1, v2 = magnets(shared.metainfo)
    peers = seed(seeder, shared)
    runs = [Run(lambda magnet=magnet: look(magnet)) for magnet in (v2, v1, v1)]  # type: ignore[misc]
    until(lambda: sum(seeking.users for seeking in session._seeking.values()) == 3)
    runs.append(Run(lambda: look(v2, *peers)))
    runs.append(Run(lambda: look(v1, *peers)))
    for run in runs:
        run.join()
    assert {metainfo.id for metainfo in found} == {shared.metainfo.id}
    assert len(found) == 5
    assert session.metadata(both, Extra(peers=tuple(peers)), timeout=20, cancelled=threading.Event()).v2
    bare = Shared(found[0], shared.torrent, shared.content, shared.files)
    assert ground.get(session, bare, "a.bin", peers) == shared.files["a.bin"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_magnet_whose_torrent_came_from_elsewhere_is_found(
    ground: Ground, seeder: LibtorrentPeer, kind: Kind
) -> None:
    """As where a key has a page and a magnet of one torrent: libtorrent would take both for one."""
    shared = ground.share(ALBUM, kind)
    session = ground.session()
    for magnet in magnets(shared.metainfo):
        found: list[Metainfo] = []
        run = Run(
            lambda magnet=magnet, found=found: found.append(  # type: ignore[misc]
                session.metadata(magnet, Extra(), timeout=20, cancelled=threading.Event())
            )
        )
        until(lambda: session._seeking)
        assert ground.get(session, shared, "b/b.bin", seed(seeder, shared)) == shared.files["b/b.bin"]
        run.join()
        assert found[0].id == shared.metainfo.id
        asked = session.metadata(magnet, Extra(), timeout=20, cancelled=threading.Event())  # while it is here
        assert asked is shared.metainfo
        session.close()


def test_a_magnet_of_two_torrents_is_refused(ground: Ground) -> None:
    shared, other = ground.share(ALBUM, "hybrid"), ground.share(ALBUM, "v2")
    session = ground.session()
    run = Run(
        lambda: session.metadata(
            Magnet(shared.metainfo.v1, other.metainfo.v2), Extra(), timeout=20, cancelled=threading.Event()
        )
    )
    until(lambda: session._seeking)
    torrent = session.join(shared.metainfo)
    with pytest.raises(Damaged, match="names the hashes of two torrents"):
        run.join()
    session.leave(torrent, None)


def test_nobody_has_the_metadata(ground: Ground) -> None:
    clock = FakeClock()
    session = ground.session(clock=clock)
    magnet = Magnet(bytes([1] * 20), None)
    run = Run(lambda: session.metadata(magnet, Extra(), timeout=60, cancelled=threading.Event(), user="'x.iso'"))
    until(lambda: session._seeking)
    clock.advance(59)
    assert not run.is_over
    clock.advance(2)
    with pytest.raises(
        Unavailable,
        match=r"^nobody had the metadata of 'x.iso' within 60 seconds: no peers were found; the DHT is off; a "
        r"private torrent cannot be had by its magnet, only by its \.torrent file$",
    ):
        run.join()
    assert session._seeking == {}


def test_the_dht_is_asked_again_when_there_is_nobody(ground: Ground) -> None:
    """Without that libtorrent asks every quarter of an hour, and its first question may come too early."""
    clock, wanted = FakeClock(), bytes([2] * 20)  # of no other test: they find one another
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as node:
        node.bind(("127.0.0.1", 0))
        node.settimeout(0.1)
        asked: set[bytes] = set()

        def listen(seconds: float) -> None:
            """Be a node that does not answer, and note what it is asked, each question once."""
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                with suppress(TimeoutError):
                    said = node.recv(2000)
                    if b"9:get_peers" in said and wanted in said:
                        asked.add(said.partition(b"1:t")[2])

        session = ground.session(clock=clock, dht=True, nodes=(("127.0.0.1", node.getsockname()[1]),))
        cancelled = threading.Event()
        run = Run(lambda: session.metadata(Magnet(wanted, None), Extra(), timeout=600, cancelled=cancelled))
        until(lambda: session._seeking)
        listen(2)
        for _ in range(2):
            before = len(asked)
            for _ in range(100):
                clock.advance(ASK_DHT / 10)
                listen(0.2)
                if len(asked) > before:
                    break
            assert len(asked) > before
        cancelled.set()
        with pytest.raises(Cancelled):
            run.join()


def test_when_the_dht_is_asked() -> None:
    asking = _Asking()
    assert [now for now in range(100) if asking.is_due(now, peers=0)] == [1, 3, 7, 15, 31, 63]
    assert not asking.is_due(1_000, peers=1)
    assert [now for now in range(1_000, 1_020) if asking.is_due(now, peers=0)] == [1_001, 1_003, 1_007, 1_015]


def test_looking_for_a_magnet_is_called_off(ground: Ground) -> None:
    session, cancelled = ground.session(), threading.Event()
    run = Run(lambda: session.metadata(Magnet(bytes([3] * 20), None), Extra(), timeout=600, cancelled=cancelled))
    until(lambda: session._seeking)
    cancelled.set()
    with pytest.raises(Cancelled):
        run.join()


def test_a_magnet_of_nothing_is_refused(ground: Ground) -> None:
    with pytest.raises(BadSetting, match="is refused by libtorrent"):
        ground.session().metadata(Magnet(bytes(20), None), Extra(), timeout=60, cancelled=threading.Event())


# Giving back.


def test_by_default_nothing_is_given_for_long(ground: Ground, seeder: LibtorrentPeer) -> None:
    clock = FakeClock()
    shared = ground.share(ALBUM)
    session = ground.session(clock=clock)
    ground.get(session, shared, "a.bin", seed(seeder, shared))
    torrent = session.join(shared.metainfo)
    session.leave(torrent, [])
    assert session.standing(torrent) is not None
    clock.advance(LINGER - 1)
    assert session.standing(torrent) is not None
    passing(clock, lambda: session.standing(torrent) is None)


def test_it_is_shared_for_a_time(ground: Ground, seeder: LibtorrentPeer) -> None:
    clock = FakeClock()
    shared = ground.share(FILM)
    session = ground.session(clock=clock, seed_time=100.0)
    ground.get(session, shared, "", seed(seeder, shared))
    seeder.forget(identity(shared))
    clock.advance(50)
    into = ground.folder / "theirs"
    into.mkdir()
    theirs = seeder.begin(shared.torrent, into, peers=[f"127.0.0.1:{session.port()}"])
    seeder.wait(theirs)
    assert (into / shared.metainfo.name).read_bytes() == shared.files[""]
    seeder.forget(theirs)
    assert session.port()
    clock.advance(51)
    passing(clock, lambda: not list(ground.work.iterdir()))


def test_it_is_shared_until_as_much_was_given(ground: Ground, seeder: LibtorrentPeer) -> None:
    clock = FakeClock()
    shared = ground.share(FILM)
    session = ground.session(clock=clock, seed_ratio=0.9)
    ground.get(session, shared, "", seed(seeder, shared))
    seeder.forget(identity(shared))
    for _ in range(5):
        looked = session._looked
        clock.advance(1000)
        until(lambda looked=looked: session._looked > looked)  # type: ignore[misc]
    assert ground.work_files
    into = ground.folder / "theirs"
    into.mkdir()
    theirs = seeder.begin(shared.torrent, into, peers=[f"127.0.0.1:{session.port()}"])
    seeder.wait(theirs)
    passing(clock, lambda: not list(ground.work.iterdir()))
    seeder.forget(theirs)


# How it is connected.


def test_nobody_can_connect_where_nothing_listens(ground: Ground, seeder: LibtorrentPeer) -> None:
    before = listening()
    shared = ground.share(FILM)
    session = ground.session(listen=())
    torrent = session.join(shared.metainfo)
    assert session.port() == 0
    assert listening() == before
    assert ground.get(session, shared, peers=seed(seeder, shared)) == shared.files[""]
    assert listening() == before
    session.leave(torrent, None)


def test_it_listens_while_it_is_needed(ground: Ground) -> None:
    before, clock = listening(), FakeClock()
    session = ground.session(clock=clock)
    assert (session.port(), listening()) == (0, before)
    count = threads()
    torrent = session.join(ground.share(FILM).metainfo)
    ours = {f"{kind} 0100007F:{session.port():04X}" for kind in ("tcp", "udp")}
    until(lambda: listening() - before - ANNOUNCEMENTS == ours)
    assert threads() > count
    session.leave(torrent, None)
    for _ in range(2):  # nobody wants the torrent; there is no torrent
        clock.advance(LINGER + 1)
        until(lambda: not session._joined)
    until(lambda: listening() == before)
    until(lambda: threads() <= count + 2)  # of our own workers, some wait for what is next
    assert session.port() == 0


@pytest.mark.parametrize("transport", ["foreground", "background"])
def test_transports(ground: Ground, transport: str, tmp_path: Path) -> None:
    with LibtorrentPeer(tmp_path / "peer", transport="both") as peer:
        shared = ground.share({"": 40 * PIECE})
        peers = seed(peer, shared, upload_limit=4 * PIECE)
        session = ground.session(rules=Rules(SETTINGS, HERE, background=transport == "background"))
        torrent = session.join(shared.metainfo, Extra(peers=tuple(peers)), wanted=range(40))
        until(lambda: torrent.downloaded)
        [there] = peer.status(identity(shared))["peers"]
        assert there["utp"] is (transport == "background")
        session.close()  # while the peer is there: to end a connection by μTP takes both


def test_nothing_comes_in_the_background_of_who_speaks_tcp_alone(ground: Ground, seeder: LibtorrentPeer) -> None:
    shared = ground.share({"": PIECE})
    peers = seed(seeder, shared)
    session = ground.session(rules=Rules(SETTINGS, HERE, background=True))
    torrent = session.join(shared.metainfo, Extra(peers=tuple(peers)), wanted=[0])
    looked = session._looked
    until(lambda: session._looked > looked + 1.5)
    assert not torrent.has(0)
    assert seeder.status(identity(shared))["peers"] == []
    session.leave(torrent, None)


def test_nobody_is_asked_at_an_address_that_is_not_allowed(ground: Ground, seeder: LibtorrentPeer) -> None:
    shared = ground.share({"": PIECE})
    [peer] = seed(seeder, shared)
    session = ground.session(allowed=parse_allowed("127.0.0.2"))
    torrent = session.join(shared.metainfo, Extra(peers=(peer,)), wanted=[0])
    looked = session._looked
    until(lambda: session._looked > looked + 1.0)
    assert not torrent.has(0)
    assert "127.0.0.1 not asked, as annex.security.allowed-ip-addresses" in torrent.tried.in_words()
    session.leave(torrent, None)


def test_what_comes_keeps_to_a_limit(ground: Ground, seeder: LibtorrentPeer) -> None:
    limit, took = [4 * PIECE], [0]

    def note(down: int, _: int) -> None:
        took[0] += down

    shared = ground.share({"": 200 * PIECE})
    peers = seed(seeder, shared)
    rules = Rules(SETTINGS, HERE, down=lambda: float(limit[0]), took=note)
    session = ground.session(rules=rules)
    torrent = session.join(shared.metainfo, Extra(peers=tuple(peers)), wanted=range(200))
    began = time.monotonic()
    until(lambda: torrent.downloaded >= 6 * PIECE)
    assert torrent.downloaded <= 2 * limit[0] * (time.monotonic() - began + 1)
    assert torrent.count(0, 200) < 100
    limit[0] = 0  # none, from the next look on
    has_all(session, torrent, range(200))
    until(lambda: took[0] >= 200 * PIECE)
    session.leave(torrent, None)


def test_what_is_given_keeps_to_a_limit(ground: Ground, seeder: LibtorrentPeer) -> None:
    shared = ground.share({"": 100 * PIECE})
    rules = Rules(SETTINGS, HERE, up=lambda: 4.0 * PIECE)
    session = ground.session(rules=rules, seed_time=100.0)
    ground.get(session, shared, "", seed(seeder, shared))
    seeder.forget(identity(shared))
    into = ground.folder / "theirs"
    into.mkdir()
    began = time.monotonic()
    theirs = seeder.begin(shared.torrent, into, peers=[f"127.0.0.1:{session.port()}"])
    until(lambda: seeder.status(theirs)["downloaded"] >= 6 * PIECE)
    assert seeder.status(theirs)["downloaded"] <= 2 * 4 * PIECE * (time.monotonic() - began + 1)
    seeder.forget(theirs)


# What goes wrong.


FULL = """
import json, resource, sys
from pathlib import Path
from tests.torrents.grounds import Ground, Shared, endpoint
from annex_remote.errors import SwarmError
from annex_remote.torrents.metainfo import parse
folder, torrent, peer, most = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), int(most)))
ground = Ground(Path(folder))
metainfo = parse(Path(torrent).read_bytes())
try:
    ground.get(ground.session(), Shared(metainfo, Path(), Path(), {}), "", [endpoint(peer)])
except SwarmError as error:
    print(json.dumps([type(error).__name__, str(error)]))
ground.close()
"""


def test_a_disk_that_takes_no_more_is_said(ground: Ground, seeder: LibtorrentPeer) -> None:
    shared = ground.share({"": 40 * PIECE})
    seed(seeder, shared)
    command = [
        sys.executable,
        "-c",
        FULL,
        str(ground.folder),
        str(shared.torrent),
        seeder.address,
        str(20 * PIECE),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, env=with_path(), check=False, timeout=60)
    assert ran.stderr == ""
    kind, said = json.loads(ran.stdout)
    assert kind == NotEnough.__name__
    assert said.endswith("/f0: File too large")


def test_a_peer_that_lies_does_no_harm(ground: Ground, seeder: LibtorrentPeer, tmp_path: Path) -> None:
    shared = ground.share({"": 10 * PIECE})
    lies = tmp_path / "lies"
    lies.mkdir()
    (lies / shared.metainfo.name).write_bytes(bytes(10 * PIECE))
    with LibtorrentPeer(tmp_path / "liar", transport="tcp", host="127.0.0.9", unchecked=True) as liar:
        liar.seed(shared.torrent, lies)
        session = ground.session()
        torrent = session.join(shared.metainfo, Extra(peers=(endpoint(liar.address),)), wanted=range(10))
        until(lambda: torrent.tried.bad)
        assert not any(map(torrent.has, range(10)))
        assert "came damaged" in torrent.tried.in_words()
        assert ground.get(session, shared, peers=seed(seeder, shared)) == shared.files[""]
        session.leave(torrent, None)


def test_two_processes_at_once_have_two_folders(ground: Ground, seeder: LibtorrentPeer) -> None:
    """Two sessions of one process stand for them."""
    shared = ground.share({"": 16 * PIECE})
    peers = seed(seeder, shared, upload_limit=16 * PIECE)
    sessions = [ground.session(), ground.session()]
    runs = [
        Run(lambda number=number, each=each: ground.get(each, shared, peers=peers, into=str(number)))  # type: ignore[misc]
        for number, each in enumerate(sessions)
    ]
    until(lambda: len(list(ground.work.glob("*"))) == 2)
    for run in runs:
        run.join()
    assert (ground.folder / "0").read_bytes() == (ground.folder / "1").read_bytes() == shared.files[""]


def test_closing_is_quick_and_may_be_done_again(ground: Ground, seeder: LibtorrentPeer) -> None:
    shared = ground.share({"": 100 * PIECE})
    session = ground.session()
    peers = seed(seeder, shared, upload_limit=8 * PIECE)
    torrent = session.join(shared.metainfo, Extra(peers=tuple(peers)), wanted=range(100))
    until(lambda: torrent.count(0, 100))
    count = threads()
    in_thread(session.close)
    in_thread(session.close)
    assert session.port() == 0
    until(lambda: threads() < count)
    torrent.want("somebody", {5: 1})  # whoever is late does no harm
    session.leave(torrent, None)
    assert (ground.work / shared.metainfo.id / "resume").stat().st_size


def test_it_can_be_used_again_after_it_was_closed(ground: Ground, seeder: LibtorrentPeer) -> None:
    shared = ground.share(ALBUM)
    peers = seed(seeder, shared)
    session = ground.session()
    assert ground.get(session, shared, "a.bin", peers) == shared.files["a.bin"]
    session.close()
    assert ground.get(session, shared, "c.bin", peers, into="other") == shared.files["c.bin"]


def test_whoever_reads_when_it_is_closed_is_told(ground: Ground) -> None:
    session: Session = ground.session()
    shared = ground.share(FILM)
    torrent = session.join(shared.metainfo)
    until(lambda: torrent.is_checked)
    torrent.offer(0, shared.files[""][:PIECE])
    has_all(session, torrent, [0])
    session.close()
    torrent.begin_read(0)
    with pytest.raises(Unavailable):
        in_thread(lambda: torrent.read(0))
