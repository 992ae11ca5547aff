"""BitTorrent peers, trackers and web seeds: who gets what from whom. What is shared is 2 MiB."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import libtorrent as lt
import pytest
import requests

from tests import servers
from tests.servers import (
    BitTorrentTracker,
    DhtNodes,
    DyingSeed,
    LibtorrentPeer,
    LyingSeed,
    OpenTracker,
    Peer,
    ServerError,
    ToldTracker,
    Tracker,
    Transmission,
    magnet_of,
    make_torrent,
    nginx_static,
    nginx_without_ranges,
)
from tests.servers.ports import HOST
from tests.servers.torrents import PIECE, Kind

SIZE = 2 << 20
WAIT = 60
A_WHILE = 1.0
"""Seconds for what will not happen."""
PEERS = ["Aria2", "Transmission", "WebTorrent", "LibtorrentPeer"]


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """A folder with one file to be shared."""
    folder = tmp_path / "content"
    folder.mkdir()
    (folder / "a b.bin").write_bytes(random.Random(1).randbytes(SIZE))
    return folder


@pytest.fixture
def into(tmp_path: Path) -> Path:
    folder = tmp_path / "into"
    folder.mkdir()
    return folder


@pytest.fixture
def leecher(tmp_path: Path) -> Iterator[LibtorrentPeer]:
    with LibtorrentPeer(tmp_path / "leecher") as peer:
        yield peer


@pytest.fixture
def seeder(tmp_path: Path) -> Iterator[LibtorrentPeer]:
    with LibtorrentPeer(tmp_path / "seeder") as peer:
        yield peer


def share(content: Path, *, kind: Kind = "v1", trackers: list[str] | None = None) -> Path:
    return make_torrent(
        content / "a b.bin", kind=kind, trackers=trackers or [], to=content.with_suffix(".torrent")
    )


def same(content: Path, into: Path) -> bool:
    return (into / "a b.bin").read_bytes() == (content / "a b.bin").read_bytes()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# Peers


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_seeds(name: str, content: Path, into: Path, leecher: LibtorrentPeer, tmp_path: Path) -> None:
    peer: Peer
    with BitTorrentTracker(tmp_path / "tracker") as tracker, getattr(servers, name)(tmp_path / "peer") as peer:
        torrent = share(content, trackers=[tracker.announce])
        tracker.wait_for(peer.seed(torrent, content), seeds=1)
        leecher.fetch(magnet_of(torrent), into, timeout=WAIT)
    assert same(content, into)


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("magnet", [False, True], ids=["torrent", "magnet"])
def test_a_peer_fetches(
    name: str, magnet: bool, content: Path, into: Path, seeder: LibtorrentPeer, tmp_path: Path
) -> None:
    peer: Peer
    with BitTorrentTracker(tmp_path / "tracker") as tracker, getattr(servers, name)(tmp_path / "peer") as peer:
        torrent = share(content, trackers=[tracker.announce])
        identity = seeder.seed(torrent, content)
        tracker.wait_for(identity, seeds=1)
        assert peer.begin(magnet_of(torrent) if magnet else torrent, into) == identity
        if isinstance(peer, Transmission):
            seeder.connect(identity, peer.address)
        peer.wait(identity, timeout=WAIT)
    assert same(content, into)


@pytest.mark.parametrize("kind", ["v1", "v2", "hybrid"])
@pytest.mark.parametrize("transport", ["tcp", "utp"])
def test_libtorrent_speaks_it_all(
    kind: Kind,
    transport: Literal["tcp", "utp"],
    content: Path,
    into: Path,
    leecher: LibtorrentPeer,
    tmp_path: Path,
) -> None:
    with LibtorrentPeer(tmp_path / "seeder", transport=transport) as seeder:
        torrent = share(content, kind=kind)
        hashes = lt.load_torrent_buffer(torrent.read_bytes()).info_hashes
        assert (hashes.has_v1(), hashes.has_v2()) == (kind != "v2", kind != "v1")
        seeder.seed(torrent, content)
        leecher.fetch(magnet_of(torrent, peers=[seeder.address]), into)
    assert same(content, into)


def test_libtorrent_seeds_no_faster_than_it_is_told(
    content: Path, into: Path, leecher: LibtorrentPeer, seeder: LibtorrentPeer
) -> None:
    torrent = share(content)
    seeder.seed(torrent, content, upload_limit=20_000)
    identity = leecher.begin(torrent, into, peers=[seeder.address])
    until(lambda: leecher.status(identity)["downloaded"] > 0)
    with pytest.raises(ServerError, match=r"could not wait.*downloading"):
        leecher.wait(identity, timeout=A_WHILE)
    [peer] = leecher.status(identity)["peers"]
    assert (peer["address"], peer["client"][:10]) == (seeder.address, "libtorrent")
    leecher.forget(identity)
    with pytest.raises(ServerError, match="there is no torrent"):
        leecher.status(identity)


@pytest.mark.parametrize("transport", ["tcp", "utp"])
@pytest.mark.parametrize("chooses", ["seeder", "leecher"])
def test_libtorrent_keeps_to_its_transport(
    transport: Literal["tcp", "utp"], chooses: str, content: Path, into: Path, tmp_path: Path
) -> None:
    with (
        LibtorrentPeer(tmp_path / "seeder", transport=transport if chooses == "seeder" else "both") as seeder,
        LibtorrentPeer(tmp_path / "leecher", transport=transport if chooses == "leecher" else "both") as leecher,
    ):
        torrent = share(content)
        seeder.seed(torrent, content, upload_limit=20_000)
        identity = leecher.begin(torrent, into, peers=[seeder.address])
        until(lambda: leecher.status(identity)["downloaded"] > 0)
        assert [peer["utp"] for peer in leecher.status(identity)["peers"]] == [transport == "utp"]


def test_libtorrent_at_another_address(content: Path, into: Path, leecher: LibtorrentPeer, tmp_path: Path) -> None:
    with LibtorrentPeer(tmp_path / "seeder", host="127.0.0.9") as seeder:
        torrent = share(content)
        identity = leecher.begin(torrent, into)
        seeder.connect(seeder.seed(torrent, content, upload_limit=20_000), leecher.address)
        until(lambda: leecher.status(identity)["downloaded"] > 0)
        [peer] = leecher.status(identity)["peers"]
        assert peer["address"].partition(":")[0] == "127.0.0.9"


def test_libtorrent_keeps_to_its_encryption(content: Path, into: Path, tmp_path: Path) -> None:
    with (
        LibtorrentPeer(tmp_path / "seeder", encryption="forced") as seeder,
        LibtorrentPeer(tmp_path / "leecher", encryption="forced") as leecher,
        LibtorrentPeer(tmp_path / "other", encryption="none") as other,
    ):
        torrent = share(content)
        seeder.seed(torrent, content)
        with pytest.raises(ServerError, match="could not wait"):
            other.wait(other.begin(torrent, into, peers=[seeder.address]), timeout=A_WHILE)
        other.stop()
        leecher.wait(leecher.begin(torrent, into, peers=[seeder.address]))
    assert same(content, into)


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_a_peer_that_lies(kind: Kind, content: Path, into: Path, leecher: LibtorrentPeer, tmp_path: Path) -> None:
    torrent = share(content, kind=kind)
    lies = tmp_path / "lies"
    lies.mkdir()
    (lies / "a b.bin").write_bytes(bytes(SIZE))
    with LibtorrentPeer(tmp_path / "liar", unchecked=True) as liar:
        liar.seed(torrent, lies)
        identity = leecher.begin(torrent, into, peers=[liar.address])
        until(lambda: leecher.status(identity)["downloaded"] >= PIECE)
        with pytest.raises(ServerError, match="could not wait"):
            leecher.wait(identity, timeout=A_WHILE)
        with LibtorrentPeer(tmp_path / "seeder") as seeder:
            seeder.seed(torrent, content)
            leecher.connect(identity, seeder.address)
            leecher.wait(identity)
    assert same(content, into)


def test_a_peer_seeds_only_what_is_right(content: Path, seeder: LibtorrentPeer) -> None:
    torrent = share(content)
    (content / "a b.bin").write_bytes(bytes(SIZE))
    with pytest.raises(ServerError, match="is not what"):
        seeder.seed(torrent, content)


@pytest.mark.parametrize("utp", [False, True])
def test_transmission_with_and_without_utp(
    utp: bool, content: Path, into: Path, leecher: LibtorrentPeer, tmp_path: Path
) -> None:
    with Transmission(tmp_path / "peer", utp=utp) as peer:
        torrent = share(content)
        peer.seed(torrent, content)
        identity = leecher.begin(torrent, into, peers=[peer.address])
        until(lambda: "Transmission" in str(leecher.status(identity)["peers"]))
        assert [other["utp"] for other in leecher.status(identity)["peers"]] == [utp]


# Who tells of peers


@pytest.mark.parametrize("kind", ["http", "udp"])
@pytest.mark.parametrize("name", ["BitTorrentTracker", "OpenTracker"])
def test_a_tracker_tells_of_peers(
    name: str,
    kind: str,
    content: Path,
    into: Path,
    leecher: LibtorrentPeer,
    seeder: LibtorrentPeer,
    tmp_path: Path,
) -> None:
    tracker: Tracker
    with getattr(servers, name)(tmp_path / "tracker", kind) as tracker:
        assert tracker.announce.startswith(f"{kind}://{HOST}:{tracker.port}")
        torrent = share(content, trackers=[tracker.announce])
        identity = str(lt.load_torrent_buffer(torrent.read_bytes()).info_hashes.v1)
        if isinstance(tracker, OpenTracker):
            tracker.allow(identity)
        assert tracker.peers(identity) == (0, 0)
        assert seeder.seed(torrent, content) == identity
        tracker.wait_for(identity, seeds=1)
        leecher.fetch(magnet_of(torrent), into)
        tracker.wait_for(identity, seeds=2)
    assert same(content, into)


def test_opentracker_refuses_what_it_was_not_told_of(
    content: Path, seeder: LibtorrentPeer, tmp_path: Path
) -> None:
    with OpenTracker(tmp_path / "tracker") as tracker:
        identity = seeder.seed(share(content, trackers=[tracker.announce]), content)
        with pytest.raises(ServerError, match=f"0 who have {identity}"):
            tracker.wait_for(identity, seeds=1, timeout=A_WHILE)
        asked = {"info_hash": "x" * 20, "peer_id": "-" * 20, "port": "1"}
        assert "not authorized" in requests.get(tracker.announce, asked, timeout=WAIT).text


def test_a_told_tracker_tells_what_it_was_told(
    content: Path, into: Path, leecher: LibtorrentPeer, seeder: LibtorrentPeer
) -> None:
    seeder.seed(share(content), content)
    with ToldTracker([seeder.address], passkey="0123456789abcdef") as tracker:
        leecher.fetch(share(content, trackers=[tracker.announce]), into)
        assert tracker.asked[0].startswith("/0123456789abcdef/announce?info_hash=")
    assert same(content, into)


def test_a_told_tracker_that_refuses_or_hangs(content: Path, into: Path, leecher: LibtorrentPeer) -> None:
    with ToldTracker(failure="unregistered torrent") as refusing, ToldTracker(hangs=True) as hanging:
        identity = leecher.begin(share(content, trackers=[refusing.announce, hanging.announce]), into)
        until(lambda: bool(refusing.asked and hanging.asked))
        with pytest.raises(requests.Timeout):
            requests.get(hanging.announce, timeout=A_WHILE)
        with pytest.raises(ServerError, match="unregistered torrent"):
            leecher.wait(identity, timeout=A_WHILE)


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_a_dht_tells_of_peers(kind: Kind, content: Path, into: Path, tmp_path: Path) -> None:
    with (
        DhtNodes(tmp_path / "dht") as dht,
        LibtorrentPeer(tmp_path / "seeder", dht=dht.nodes) as seeder,
        LibtorrentPeer(tmp_path / "leecher", dht=dht.nodes) as leecher,
    ):
        torrent = share(content, kind=kind)
        identity = seeder.seed(torrent, content)
        assert dht.announced(identity[:40]) == [seeder.address]
        leecher.fetch(magnet_of(torrent), into)
    assert same(content, into)


# Web seeds


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_a_web_seed(kind: Kind, content: Path, into: Path, leecher: LibtorrentPeer, tmp_path: Path) -> None:
    with nginx_static(tmp_path / "web") as web:
        (web.root / "a b.bin").write_bytes((content / "a b.bin").read_bytes())
        leecher.fetch(make_torrent(content / "a b.bin", kind=kind, web_seeds=[f"{web.url}/a%20b.bin"]), into)
    assert same(content, into)


@pytest.mark.parametrize(("size", "is_of_use"), [(1 << 20, True), (17 << 20, False)])
def test_a_web_seed_without_ranges(
    size: int, is_of_use: bool, into: Path, leecher: LibtorrentPeer, tmp_path: Path
) -> None:
    with nginx_without_ranges(tmp_path / "web") as web:
        (web.root / "a").write_bytes(random.Random(1).randbytes(size))
        answer = requests.get(f"{web.url}/a", headers={"Range": "bytes=0-9"}, timeout=WAIT)
        assert (answer.status_code, len(answer.content)) == (200, size)
        identity = leecher.begin(make_torrent(web.root / "a", web_seeds=[f"{web.url}/a"]), into)
        if is_of_use:  # libtorrent asks for 16 MiB at once, which is all there is
            leecher.wait(identity)
        else:
            with pytest.raises(ServerError, match="could not wait"):
                leecher.wait(identity, timeout=A_WHILE)


def test_a_web_seed_that_lies(content: Path, into: Path, leecher: LibtorrentPeer) -> None:
    with LyingSeed(content) as web:
        identity = leecher.begin(make_torrent(content / "a b.bin", web_seeds=[f"{web.url}/a%20b.bin"]), into)
        until(lambda: bool(web.asked))
        with pytest.raises(ServerError, match="could not wait"):
            leecher.wait(identity, timeout=A_WHILE)


def test_a_web_seed_that_dies(content: Path, into: Path, leecher: LibtorrentPeer, seeder: LibtorrentPeer) -> None:
    with DyingSeed(content, life=SIZE // 3) as web:
        torrent = make_torrent(content / "a b.bin", web_seeds=[f"{web.url}/a%20b.bin"])
        identity = leecher.begin(torrent, into)
        until(lambda: leecher.status(identity)["done"] >= SIZE // 4)
        with pytest.raises(requests.ConnectionError):
            requests.get(web.url, timeout=WAIT)
        with pytest.raises(ServerError, match="could not wait"):
            leecher.wait(identity, timeout=A_WHILE)
        seeder.seed(torrent, content)
        leecher.connect(identity, seeder.address)
        leecher.wait(identity)
    assert same(content, into)


# Torrents


def test_the_same_content_makes_the_same_torrent(tmp_path: Path) -> None:
    for name in ("one", "other"):
        folder = tmp_path / name / "folder"
        (folder / "d").mkdir(parents=True)
        for file in ("b", "a", "d/c") if name == "one" else ("d/c", "a", "b"):
            (folder / file).write_bytes(file.encode() * 50_000)
    made = [
        make_torrent(tmp_path / name / "folder", private=True, piece_length=1 << 15) for name in ("one", "other")
    ]
    assert made[0] == tmp_path / "one" / "folder.torrent"
    assert made[0].read_bytes() == made[1].read_bytes()
    about = lt.load_torrent_buffer(made[0].read_bytes()).ti
    assert about is not None
    assert (about.num_files(), about.piece_length(), about.priv()) == (3, 1 << 15, True)
