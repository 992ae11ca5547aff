"""Other peers: files come from each of them, go to each of them, and are found by trackers and the DHT."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import get_args
from urllib.parse import parse_qs, quote, urlsplit

import libtorrent as lt
import pytest

from annex_remote.torrents.metainfo import parse
from tests.servers import (
    Aria2,
    BitTorrentTracker,
    DhtNodes,
    LibtorrentPeer,
    OpenTracker,
    Peer,
    ToldTracker,
    Tracker,
    Transmission,
    WebTorrent,
    magnet_of,
)
from tests.servers.torrents import Kind
from tests.sessions.session import Repository, Session
from tests.sessions.sharing import ALBUM, Shared, downloader, forget_metainfo, getting, left_over

SIZE = 2 << 20
PEERS = (Aria2, Transmission, WebTorrent, LibtorrentPeer)


@pytest.fixture
def laptop(session: Session) -> Repository:
    return downloader(session)


@pytest.fixture
def tracker(session: Session) -> Iterator[BitTorrentTracker]:
    with BitTorrentTracker(session.folder / "tracker", interval=1) as tracker:
        yield tracker


@pytest.mark.parametrize("kind", PEERS, ids=lambda kind: kind.__name__)
def test_a_file_comes_from(
    kind: type[Peer], session: Session, shared: Shared, laptop: Repository, tracker: BitTorrentTracker
) -> None:
    film = shared.file("film.bin", SIZE)
    torrent = shared.torrent(film, trackers=[tracker.announce])
    with kind(session.folder / "peer") as peer:
        tracker.wait_for(peer.seed(torrent, shared.folder), seeds=1)
        laptop.run(f"git annex addurl --raw-except=vault '{magnet_of(torrent)}'")
        assert laptop.read("film.bin") == film.read_bytes()
        if kind is not Transmission:  # it takes nobody a second time who has just left
            forget_metainfo(session)
            magnet = magnet_of(torrent, peers=[peer.address], trackers=False)
            laptop.run(f"git annex addurl --raw-except=vault '{magnet}' --file again")
            assert laptop.read("again") == film.read_bytes()
    assert left_over(laptop) == []


def write_padding(torrent: Path, folder: Path) -> None:
    """Make the files of a hybrid torrent that are padding: for those who do not know them, they are files."""
    about = lt.load_torrent_buffer(torrent.read_bytes()).ti
    assert about is not None
    layout = about.layout()
    for index in range(layout.num_files()):
        if layout.file_flags(index) & 1:
            path = Path(layout.file_path(index, str(folder.parent)))
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(bytes(layout.file_size(index)))


@pytest.mark.parametrize(
    ("kind", "of"),
    [(Aria2, "v1"), (Transmission, "v1"), (WebTorrent, "v1"), (WebTorrent, "hybrid"), (LibtorrentPeer, "hybrid")],
    ids=lambda each: each if isinstance(each, str) else each.__name__,
)
def test_an_album_comes_from(
    kind: type[Peer],
    of: Kind,
    session: Session,
    shared: Shared,
    laptop: Repository,
    tracker: BitTorrentTracker,
) -> None:
    """Transmission (3.00) refuses hybrid torrents; aria2 (1.36) takes them, but nobody who asks for one."""
    album = shared.album()
    torrent = shared.torrent(album, of, trackers=[tracker.announce])
    write_padding(torrent, album)
    with kind(session.folder / "peer") as peer:
        tracker.wait_for(peer.seed(torrent, shared.folder), seeds=1)
        laptop.run(f"git annex addurl --fast --raw-except=vault 'file://{quote(str(torrent))}' --prefix=x/")
        laptop.run("git annex get x")
        [folder] = (laptop.path / "x").iterdir()
        got = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert got == {name.replace(" ", "_").replace("/", "_"): (album / name).read_bytes() for name in ALBUM}
    assert left_over(laptop) == []


def test_files_go_to_all_others(
    session: Session, shared: Shared, laptop: Repository, tracker: BitTorrentTracker
) -> None:
    """Each of them is told of a torrent of its own, which git-annex's repository alone has."""
    film = shared.file("film.bin", SIZE)
    torrents = {
        kind.__name__: shared.torrent(
            film,
            trackers=[tracker.announce],
            piece_length=(16 << 10) << number,
            to=shared.folder / f"{kind.__name__}.torrent",
        )
        for number, kind in enumerate(PEERS)
    }
    with LibtorrentPeer(session.folder / "peer") as peer:
        for name, torrent in torrents.items():
            tracker.wait_for(peer.seed(torrent, shared.folder), seeds=1)
            laptop.run(f"git annex addurl --fast --raw-except=vault file://{torrent} --file {name}")
        with ExitStack() as stack:
            begun: list[tuple[Peer, str, Path]] = []

            def begin(kind: type[Peer]) -> None:
                other = stack.enter_context(kind(session.folder / kind.__name__))
                into = session.folder / f"to {kind.__name__}"
                into.mkdir()
                begun.append((other, other.begin(torrents[kind.__name__], into), into))

            begin(
                Transmission
            )  # it connects to nobody here, so git-annex's side has to be told of it at its start
            tracker.wait_for(begun[0][1], leeches=1)
            stack.enter_context(getting(laptop, *torrents))
            peer.stop()
            for kind in PEERS:
                if kind is not Transmission:
                    begin(kind)
            for other, identity, into in begun:
                other.wait(identity)
                assert (into / "film.bin").read_bytes() == film.read_bytes()
    assert left_over(laptop) == []


@pytest.mark.parametrize("protocol", ["http", "udp"])
@pytest.mark.parametrize("kind", [BitTorrentTracker, OpenTracker], ids=lambda kind: kind.__name__)
def test_a_tracker_tells_of_peers(
    kind: type[BitTorrentTracker | OpenTracker],
    protocol: str,
    session: Session,
    shared: Shared,
    laptop: Repository,
) -> None:
    film = shared.file("film.bin", SIZE)
    tracker: Tracker
    with (
        kind(session.folder / "tracker", protocol) as tracker,  # type: ignore[arg-type]
        LibtorrentPeer(session.folder / "peer") as peer,
    ):
        kinds: tuple[Kind, ...] = ("v1", "v2") if protocol == "http" else ("v1", "hybrid")
        for number, of in enumerate(kinds):
            torrent = shared.torrent(film, of, trackers=["udp://127.0.0.1:9", tracker.announce])
            metainfo = parse(torrent.read_bytes())
            identities = [each.hex()[:40] for each in (metainfo.v1, metainfo.v2) if each]
            if isinstance(tracker, OpenTracker):
                for identity in identities:
                    tracker.allow(identity)
            peer.seed(torrent, shared.folder)
            for identity in identities:
                tracker.wait_for(identity, seeds=1)
            laptop.run(f"git annex addurl --raw-except=vault '{magnet_of(torrent)}' --file {number}")
            assert laptop.read(str(number)) == film.read_bytes()
    assert left_over(laptop) == []


@pytest.mark.parametrize("kind", get_args(Kind))
def test_the_dht_alone_tells_of_peers(kind: Kind, session: Session, shared: Shared, laptop: Repository) -> None:
    """Of a hybrid one it tells by either hash; magnets have nothing but hashes."""
    film = shared.file("film.bin", SIZE)
    torrent = shared.torrent(film, kind)
    hashes = parse(torrent.read_bytes())
    topics = [f"xt=urn:btih:{hashes.v1.hex()}"] if hashes.v1 else []
    topics += [f"xt=urn:btmh:1220{hashes.v2.hex()}"] if hashes.v2 else []
    with (
        DhtNodes(session.folder / "dht") as dht,
        LibtorrentPeer(session.folder / "peer", dht=dht.nodes) as peer,
    ):
        laptop.run(f"git config remote.vault.swarm-dht '{' '.join(dht.nodes)}'")
        peer.seed(torrent, shared.folder)
        for each in (hashes.v1, hashes.v2):
            if each:
                assert dht.announced(each.hex()[:40]) == [peer.address]
        for number, magnet in enumerate(sorted({*topics, "&".join(topics)})):
            laptop.run(f"git annex addurl --raw-except=vault 'magnet:?{magnet}' --file {number}")
            assert laptop.read(str(number)) == film.read_bytes()
            forget_metainfo(session)
    assert left_over(laptop) == []


def tells_itself() -> bool:
    """Return whether what is sent to a group of this machine's loopback arrives there (BEP 14 has this group)."""
    group = "239.192.152.143"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.settimeout(5)
            sock.bind((group, 0))
            here = socket.inet_aton("127.0.0.1")
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + here)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, here)
            sock.sendto(b"hello", sock.getsockname())
            return sock.recv(5) == b"hello"
        except OSError:
            return False


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_the_local_network_alone_tells_of_peers(
    kind: Kind, session: Session, shared: Shared, laptop: Repository
) -> None:
    if not tells_itself():
        pytest.skip("nothing can be said to a group on this machine's loopback")
    film = shared.file("film.bin", SIZE)
    torrent = shared.torrent(film, kind)
    with LibtorrentPeer(session.folder / "peer", lsd=True) as peer:
        peer.seed(torrent, shared.folder)
        laptop.run(f"git annex addurl --raw-except=vault '{magnet_of(torrent)}' --file film")
        assert laptop.read("film") == film.read_bytes()
    assert left_over(laptop) == []


def test_in_the_background(session: Session, shared: Shared, laptop: Repository) -> None:
    """By µTP alone; who knows TCP only is out of reach, and that is said."""
    film = shared.file("film.bin", SIZE)
    torrent = shared.torrent(film)
    laptop.run("git config remote.vault.swarm-transport background")
    with LibtorrentPeer(session.folder / "peer", transport="utp") as peer:
        peer.seed(torrent, shared.folder)
        laptop.run(f"git annex addurl --raw-except=vault '{magnet_of(torrent, peers=[peer.address])}'")
        assert laptop.read("film.bin") == film.read_bytes()
        laptop.run("git annex drop --force film.bin")
    laptop.run("git config remote.vault.swarm-torrent-timeout 2")
    with LibtorrentPeer(session.folder / "other", transport="tcp") as peer:
        peer.seed(torrent, shared.folder)
        forget_metainfo(session)
        add = f"git annex addurl --raw-except=vault '{magnet_of(torrent, peers=[peer.address])}' --file other"
        said = laptop.run(add, fails=True).plain
        assert "peers were spoken to by µTP alone" in said
        assert "transport=foreground takes TCP" in said


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_fifty_files_are_one_torrent(kind: Kind, session: Session, shared: Shared, laptop: Repository) -> None:
    names = [f"{number:02}.bin" for number in range(50)]
    contents = {name: shared.file(f"many/{name}", 60_000 + 1_000 * int(name[:2])).read_bytes() for name in names}
    with LibtorrentPeer(session.folder / "peer", transport="tcp") as peer, ToldTracker([peer.address]) as tracker:
        torrent = shared.torrent(shared.folder / "many", kind, trackers=[tracker.announce])
        identity = peer.seed(torrent, shared.folder)
        laptop.run(f"git annex addurl --fast --raw-except=vault '{magnet_of(torrent)}' --prefix=x/")
        [folder] = (laptop.path / "x").iterdir()
        before, asked = peer.status(identity)["uploaded"], len(tracker.asked)
        laptop.run("git annex get -J8 x")
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == contents
        total = sum(map(len, contents.values()))
        uploaded = peer.status(identity)["uploaded"] - before
        # Each file by itself would be 1.7 times as much; a little is lost when a peer leaves.
        assert total <= uploaded <= total * 1.15
        # One session, and it joined once.
        said = [parse_qs(urlsplit(path).query) for path in tracker.asked[asked:]]
        assert len({one["peer_id"][0] for one in said}) == 1
        assert [one["event"][0] for one in said if "event" in one].count("started") == 1
    assert left_over(laptop) == []
