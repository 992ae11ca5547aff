"""Torrents as a source of files, typed in as users do; those who have them are as they should be."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import get_args
from urllib.parse import quote

import pytest

from annex_remote.torrents.metainfo import parse
from tests.servers import (
    BitTorrentTracker,
    DhtNodes,
    LibtorrentPeer,
    ServerError,
    ToldTracker,
    magnet_of,
    nginx_static,
)
from tests.servers.nginx import Nginx
from tests.servers.torrents import Kind
from tests.sessions.session import Repository, Session
from tests.sessions.sharing import ALBUM, STORES, Shared, downloader, forget_metainfo, getting, left_over

SIZE = 3 << 20


@pytest.fixture
def laptop(session: Session) -> Repository:
    return downloader(session)


@pytest.fixture
def tracker(peer: LibtorrentPeer) -> Iterator[ToldTracker]:
    """A tracker that tells of `peer`, whatever it is asked."""
    with ToldTracker([peer.address]) as tracker:
        yield tracker


@pytest.fixture
def web(session: Session) -> Iterator[Nginx]:
    with nginx_static(session.folder / "web") as web:
        yield web


def files_of(repository: Repository) -> set[str]:
    """Return the paths of annexed files in the work tree."""
    return {
        str(path.relative_to(repository.path))
        for path in repository.path.rglob("*")
        if path.is_symlink() and ".git" not in path.parts
    }


def test_magnets_of_all_kinds(shared: Shared, laptop: Repository, peer: LibtorrentPeer) -> None:
    film = shared.file("a film.bin", SIZE)
    for kind in get_args(Kind):
        torrent = shared.torrent(film, kind)
        peer.seed(torrent, shared.folder)
        magnet = magnet_of(torrent, peers=[peer.address])
        said = laptop.run(f"git annex addurl --raw-except=vault '{magnet}' --file {kind}.bin")
        assert "(from vault)" in said
        assert laptop.read(f"{kind}.bin") == film.read_bytes()
        assert left_over(laptop) == []
    laptop.run(f"git annex addurl 'swarm:{magnet}'")
    assert laptop.read("a_film.bin") == film.read_bytes()


def test_torrents_from_the_web_and_from_the_disk(
    session: Session, shared: Shared, laptop: Repository, peer: LibtorrentPeer, tracker: ToldTracker, web: Nginx
) -> None:
    film = shared.file("a film.bin", SIZE)
    torrent = shared.torrent(film, trackers=[tracker.announce], to=web.root / "x.torrent")
    peer.seed(torrent, shared.folder)
    shutil.copy(torrent, session.folder / "x.torrent")
    (laptop.path / "below").mkdir()
    for number, command in enumerate(
        (
            f"git annex addurl --raw-except=vault {web.url}/x.torrent",
            f"git annex addurl --raw-except=vault '{web.url}/x.torrent?a=b'",
            f"git annex addurl --raw-except=vault file://{session.folder}/x.torrent",
            "git annex addurl --raw-except=vault ../../x.torrent",
            f"git annex addurl swarm:{web.url}/x%2Etorrent",
            f"git annex addurl --raw-except=vault swarm:{web.url}/x.torrent",
            f"git annex addurl swarm:file://{session.folder}/x%2Etorrent",
        )
    ):
        session.run(f"{command} --file {number}", cwd=laptop.path / "below")
        assert laptop.read(f"below/{number}") == film.read_bytes()
    assert left_over(laptop) == []
    said = laptop.run("git annex whereis below/0")
    assert f"torrent a film.bin ({peer.seed(torrent, shared.folder)})" in said


@pytest.mark.parametrize("how", ["get", "whereis"])
def test_a_url_for_later(
    how: str,
    session: Session,
    shared: Shared,
    laptop: Repository,
    peer: LibtorrentPeer,
    tracker: ToldTracker,
    web: Nginx,
) -> None:
    """What outlives the web page that a torrent was on, and the memory of it on this machine."""
    film = shared.file("a film.bin", SIZE)
    torrent = shared.torrent(film, trackers=[tracker.announce], to=web.root / "x.torrent")
    identity = peer.seed(torrent, shared.folder)
    said = laptop.run(f"git annex addurl --fast --raw-except=vault {web.url}/x.torrent")
    assert "(to a_film.bin)" in said
    assert not laptop.has("a_film.bin")
    magnet = f"swarm:magnet:?xt=urn:btih:{identity}&dn=a%20film.bin&tr="
    if how == "get":
        laptop.run("git annex get a_film.bin")
        assert laptop.read("a_film.bin") == film.read_bytes()
        assert magnet in laptop.run("git grep -h . git-annex -- *.web")
        laptop.run("git annex drop --force a_film.bin")
    else:
        assert f"vault: {magnet}" in laptop.run("git annex whereis a_film.bin")

    web.stop()
    forget_metainfo(session)
    laptop.run("git annex get a_film.bin")
    assert laptop.read("a_film.bin") == film.read_bytes()
    assert left_over(laptop) == []


def test_a_private_torrent(
    session: Session, shared: Shared, laptop: Repository, peer: LibtorrentPeer, web: Nginx
) -> None:
    """Nobody but its own tracker is told of it: not the DHT, and not who else is named in a magnet of it."""
    film, song = shared.file("film.bin", SIZE), shared.file("song.bin", SIZE)
    passkey = "0123456789abcdef0123456789abcdef"
    with (
        DhtNodes(session.folder / "dht") as dht,
        ToldTracker([peer.address]) as own,
        ToldTracker() as other,
    ):
        torrent = shared.torrent(
            film, private=True, trackers=[f"{own.announce}?passkey={passkey}"], to=web.root / "x.torrent"
        )
        identity = peer.seed(torrent, shared.folder)
        laptop.run(f"git annex addurl --raw-except=vault {web.url}/x.torrent?passkey={passkey}")
        assert laptop.read("film.bin") == film.read_bytes()
        magnet = f"magnet:?xt=urn:btih:{identity}&tr={quote(other.announce, safe='')}"
        said = [laptop.run(f"git annex addurl --raw-except=vault '{magnet}' --file again")]
        said += [laptop.run("git annex drop --force film.bin"), laptop.run("git annex get film.bin")]
        assert laptop.read("film.bin") == film.read_bytes()
        said += [laptop.run("git annex whereis --json film.bin")]
        assert f"torrent film.bin ({identity})" in said[-1]
        assert "swarm:magnet:" not in said[-1]
        assert own.asked
        assert all(passkey in path for path in own.asked)
        assert other.asked == []

        public = shared.torrent(song, trackers=[own.announce])
        known = peer.seed(public, shared.folder)
        laptop.run(f"git annex addurl --fast --raw-except=vault 'file://{quote(str(public))}'")
        laptop.run("git annex drop --force film.bin")
        laptop.run(f"git config remote.vault.swarm-dht '{' '.join(dht.nodes)}'")
        with getting(laptop, "film.bin", "song.bin"):
            assert len(dht.announced(known)) == 1
        with pytest.raises(ServerError, match="the nodes heard of"):
            dht.announced(identity, timeout=0)

        laptop.run("git annex drop --force film.bin")
        peer.stop()
        laptop.run("git config remote.vault.swarm-torrent-timeout 1")
        said += [laptop.run("git annex get film.bin", fails=True)]
        assert "it is private, so only its trackers were asked" in said[-1]
        assert "told of 1 peer" in said[-1]
        forget_metainfo(session)
        web.stop()
        said += [laptop.run("git annex get film.bin", fails=True)]
        assert f"fetching {web.url}/x.torrent: " in said[-1]
    assert not any(passkey in each for each in said)


def test_a_feed(
    shared: Shared, laptop: Repository, peer: LibtorrentPeer, tracker: ToldTracker, web: Nginx
) -> None:
    film, album = shared.file("film.bin", SIZE), shared.album()
    peer.seed(shared.torrent(film, trackers=[tracker.announce], to=web.root / "film.torrent"), shared.folder)
    peer.seed(shared.torrent(album, trackers=[tracker.announce], to=web.root / "album.torrent"), shared.folder)
    items = "".join(
        f'<item><title>{title}</title><guid>{title}</guid><enclosure url="{web.url}/{path}" length="1" '
        'type="application/x-bittorrent"/></item>'
        for title, path in (("Film", "film.torrent"), ("Song", "album.torrent#3"), ("Album", "album.torrent"))
    )
    (web.root / "feed.rss").write_text(
        f'<rss version="2.0"><channel><title>News</title><link>{web.url}</link>{items}</channel></rss>'
    )
    laptop.run(f"git annex importfeed --raw-except=vault {web.url}/feed.rss")
    assert laptop.read("News/Film.torrent") == film.read_bytes()
    assert laptop.read("News/Song.torrent_3") == (album / "sub dir/c.bin").read_bytes()
    assert laptop.read("News/Album.torrent/z.iso") == (album / "z.iso").read_bytes()
    added = files_of(laptop)
    assert "addurl" not in laptop.run(f"git annex importfeed --raw-except=vault {web.url}/feed.rss")
    assert files_of(laptop) == added
    assert left_over(laptop) == []


def test_an_album(
    session: Session, shared: Shared, laptop: Repository, peer: LibtorrentPeer, tracker: ToldTracker, web: Nginx
) -> None:
    album = shared.album()
    torrent = shared.torrent(album, trackers=[tracker.announce], to=web.root / "x.torrent")
    identity = peer.seed(torrent, shared.folder)
    url = f"{web.url}/x.torrent"
    laptop.run(f"git annex addurl --raw-except=vault {url} --prefix=flat/")
    laptop.run(f"git annex addurl --raw-except=vault --preserve-filename {url} --prefix=deep/")
    flat, deep = "flat/127.0.0.1_x.torrent", "deep/127.0.0.1_x.torrent"
    assert files_of(laptop) == {
        *(f"{flat}/{name.replace(' ', '_').replace('/', '_')}" for name in ALBUM),
        *(f"{deep}/{name.replace(' ', '_')}" for name in ALBUM),
    }
    for name in ALBUM:
        assert laptop.read(f"{deep}/{name.replace(' ', '_')}") == (album / name).read_bytes()
        assert laptop.read(f"{flat}/{name.replace(' ', '_').replace('/', '_')}") == (album / name).read_bytes()
    # The URL that is recorded is not one that git-annex's own remote of torrents claims.
    laptop.run(f"git annex drop --force {deep}")
    assert f"{identity}), file 3: sub dir/c.bin" in laptop.run(f"git annex whereis {deep}/sub_dir/c.bin")
    assert f"vault: swarm:magnet:?xt=urn:btih:{identity}&" in laptop.run(f"git annex whereis {deep}/sub_dir/c.bin")
    laptop.run(f"git annex get {deep}")
    assert laptop.read(f"{deep}/sub_dir/c.bin") == (album / "sub dir/c.bin").read_bytes()
    assert left_over(laptop) == []

    # Somebody else needs the page only while peers do not tell, and peers only when the page is gone.
    laptop.run("git commit -qm album")
    clone = session.clone(laptop, "clone")
    clone.enableremote()
    peer.forget(identity)
    forget_metainfo(session)
    [third] = {
        line for line in clone.run("git grep -h . origin/git-annex -- *.web").out.splitlines() if "#3" in line
    }
    url = shlex.quote(third.partition(" :")[2])
    assert "sub dir/c.bin" in clone.run(f"git-annex-remote-swarm torrent show {url}")
    peer.seed(torrent, shared.folder)
    web.stop()
    forget_metainfo(session)
    clone.run(f"git annex get {flat}")
    assert clone.read(f"{flat}/sub_dir_c.bin") == (album / "sub dir/c.bin").read_bytes()


def test_one_file_of_an_album(shared: Shared, laptop: Repository, peer: LibtorrentPeer) -> None:
    album = shared.album()
    torrent = shared.torrent(album)
    peer.seed(torrent, shared.folder)
    magnet = magnet_of(torrent, peers=[peer.address])
    laptop.run(f"git annex addurl --raw-except=vault '{magnet}#3' --file 'by number'")
    laptop.run(f"git annex addurl 'swarm:{magnet}#sub%20dir/c.bin' --file 'by name'")
    for name in ("by number", "by name"):
        assert laptop.read(name) == (album / "sub dir/c.bin").read_bytes()
    said = laptop.run(f"git annex addurl --raw-except=vault '{magnet}#9'", fails=True)
    assert "z.iso" in said  # it says what there is

    # Two at once, called as they are in the torrent, blanks and all.
    lines = (
        f"{magnet}#3 my album/sub dir/c.bin\n{magnet}#a%20b.txt my album/a b.txt\n{magnet}#empty my album/empty\n"
    )
    said = laptop.attempt("git annex addurl --batch --with-files --raw-except=vault", typed=lines)
    assert said.status == 0, str(said)
    for name in ("sub dir/c.bin", "a b.txt", "empty"):
        assert laptop.read(f"my album/{name}") == (album / name).read_bytes()
    assert left_over(laptop) == []


def test_a_torrent_is_no_copy(shared: Shared, laptop: Repository, peer: LibtorrentPeer) -> None:
    album = shared.album()
    torrent = shared.torrent(album)
    peer.seed(torrent, shared.folder)
    magnet = magnet_of(torrent, peers=[peer.address])
    laptop.run(f"git annex addurl 'swarm:{magnet}#3' --file song")
    content = laptop.read("song")
    assert "Could not verify the existence of the 1 necessary copy" in laptop.run(
        "git annex drop song", fails=True
    )
    assert laptop.has("song")
    assert laptop.is_present("song") is None
    said = laptop.run("git annex fsck --from vault --fast song", fails=True).plain
    assert "only a torrent has it, which does not count as a copy" in said
    assert "file 3: sub dir/c.bin" in said
    assert "git -c remote.vault.swarm-torrents=no annex copy --to vault FILE" in said
    laptop.run("git annex fsck song")
    for command in ("check vault", "status vault", "repair vault", "check vault song"):
        told = laptop.attempt(f"git-annex-remote-swarm {command}")
        assert told.status == 3, told
        assert "0 healthy, 1 only in torrents" in told.plain
        assert "git -c remote.vault.swarm-torrents=no annex copy --to vault FILE" in told.plain
    assert "no share is stored; torrent an album" in told.plain

    laptop.run("git config remote.vault.swarm-torrent-trust yes")
    assert "0 healthy, 1 only in torrents" in laptop.run("git-annex-remote-swarm check vault")
    assert laptop.is_present("song") is True
    laptop.run("git annex drop song")
    laptop.run("git annex fsck --from vault song")
    laptop.run("git annex get song")
    assert laptop.read("song") == content

    laptop.run("git config --unset remote.vault.swarm-torrent-trust")
    laptop.run("git annex drop --force song")
    switched_off = "git -c remote.vault.swarm-torrents=no"
    said = laptop.run(f"{switched_off} annex get song", fails=True).plain
    assert "a torrent is recorded for it, and torrents are switched off here" in said
    assert "1 lost" in laptop.attempt(f"{switched_off} annex-remote-swarm check vault").plain
    laptop.run("git annex get song")
    laptop.run("git annex drop --from vault song")
    where = laptop.run("git annex whereis song")
    assert "vault" not in where
    assert "magnet" not in where
    assert laptop.is_present("song") is False  # not even unknown: no torrent is recorded any more
    laptop.run("git annex drop --force song")
    assert "No other repository is known" in laptop.run("git annex get song", fails=True)


def test_shares_and_a_torrent(session: Session, shared: Shared, laptop: Repository, peer: LibtorrentPeer) -> None:
    film = shared.file("film.bin", 2 * SIZE)
    torrent = shared.torrent(film, "v2")
    peer.seed(torrent, shared.folder)
    laptop.run(f"git annex addurl --fast --raw-except=vault '{magnet_of(torrent, peers=[peer.address])}'")
    laptop.run("git annex get film.bin")
    # What is here may be stored as shares, though a torrent has it as well.
    assert "only a torrent has it" in laptop.run("git annex copy --to vault film.bin", fails=True)
    laptop.run("git -c remote.vault.swarm-torrents=no annex copy --to vault film.bin")
    assert len(session.shares(*STORES)) == 3
    said = laptop.run("git annex whereis film.bin")
    assert "3 shares (2 needed)" in said
    assert "torrent film.bin (" in said

    def get(*, fails: bool = False) -> str:
        laptop.run(
            "git annex drop film.bin" if laptop.is_present("film.bin") else "git annex drop --force film.bin"
        )
        got = laptop.run("git annex get film.bin", fails=fails)
        if not fails:
            assert laptop.read("film.bin") == film.read_bytes()
            assert left_over(laptop) == []
        return got.plain

    get()
    peer.stop()
    get()
    peer.start()
    peer.seed(torrent, shared.folder)
    session.unplug("usb", "nas")
    get()
    peer.stop()
    laptop.run("git config remote.vault.swarm-torrent-timeout 1")
    why = get(fails=True)
    assert "from torrents: nothing came from peers for 1 seconds" in why
    assert "from shares: 1 share found, 2 are needed" in why
    session.plug("usb", "nas")
    laptop.run("git annex get film.bin")
    laptop.run("git annex drop --from vault film.bin")
    assert session.shares(*STORES) == []
    assert "vault" not in laptop.run("git annex whereis film.bin")


def test_a_torrent_of_something_else(
    session: Session, shared: Shared, laptop: Repository, peer: LibtorrentPeer
) -> None:
    content = laptop.add(film=SIZE)["film"]
    laptop.run("git annex copy --to vault film")

    def register(torrent: Path) -> None:
        peer.seed(torrent, shared.folder)
        magnet = f"swarm:{magnet_of(torrent, peers=[peer.address])}"
        laptop.run(f"git annex registerurl --remote=vault {laptop.key('film')} '{magnet}'")

    def get_without_shares() -> str:
        laptop.run("git annex drop film")
        session.unplug("usb", "nas")
        said = laptop.run("git annex get film", fails=True)
        assert not laptop.has("film")
        session.plug("usb", "nas")
        return said.plain

    register(shared.torrent(shared.file("other size", SIZE + 1)))
    assert f"file 1 of the torrent other size has {SIZE + 1} bytes, not {SIZE}" in get_without_shares()
    laptop.run("git annex get film")
    assert laptop.read("film") == content

    kinds: tuple[Kind, ...] = ("v1", "v2")
    for kind in kinds:
        register(shared.torrent(shared.file("same size", SIZE), kind))
        get_without_shares()
        said = laptop.run("git annex get film")
        assert laptop.read("film") == content
        assert "has other content than the shares" in said
    assert left_over(laptop) == []


def test_torrents_without_a_store_or_a_capability(
    session: Session, shared: Shared, laptop: Repository, peer: LibtorrentPeer, web: Nginx
) -> None:
    film = shared.file("film.bin", SIZE)
    torrent = shared.torrent(film)
    peer.seed(torrent, shared.folder)
    magnet = magnet_of(torrent, peers=[peer.address])
    session.unplug(*STORES)
    clone = session.clone(laptop, "clone")
    clone.enableremote()
    for repository in (laptop, clone):
        repository.run(f"git annex addurl --raw-except=vault '{magnet}'")
        assert repository.read("film.bin") == film.read_bytes()
        repository.run("git annex drop --force film.bin")
        repository.run("git annex get film.bin")
        assert repository.read("film.bin") == film.read_bytes()
        assert "torrent film.bin (" in repository.run("git annex whereis film.bin")
        assert left_over(repository) == []
    (web.root / "page").write_text("a page")
    clone.run(f"git annex addurl --file page {web.url}/page")
    assert clone.read("page") == b"a page"


def test_addresses_that_are_not_public_are_left_alone(
    session: Session, shared: Shared, peer: LibtorrentPeer, tracker: ToldTracker, web: Nginx
) -> None:
    laptop = downloader(session, "torrent-timeout=1", allowed="")
    film = shared.file("film.bin", SIZE)
    shutil.copy(film, web.root)
    with BitTorrentTracker(session.folder / "tracker", "udp") as udp:
        torrent = shared.torrent(
            film,
            trackers=[tracker.announce, udp.announce],
            web_seeds=[f"{web.url}/film.bin"],
            to=web.root / "x.torrent",
        )
        said = laptop.run(f"git annex addurl --raw-except=vault {web.url}/x.torrent", fails=True)
        assert "127.0.0.1, which is not public: refused, unless git config annex.security.allowed-ip" in said
        identity = peer.seed(torrent, shared.folder)
        udp.wait_for(identity, seeds=1)
        known = len(tracker.asked)
        magnet = shlex.quote(magnet_of(torrent, peers=[peer.address]))
        assert "127.0.0.1 not asked" in laptop.run(f"git annex addurl --raw-except=vault {magnet}", fails=True)
        said = laptop.run(f"git annex addurl --raw-except=vault file://{torrent}", fails=True)
        assert "127.0.0.1 not asked, as annex.security.allowed-ip-addresses does not allow it" in said
        # Names are looked up by libtorrent.
        named = [each.replace("127.0.0.1", "localhost") for each in (tracker.announce, udp.announce, web.url)]
        other = shared.torrent(film, "v2", trackers=named[:2], web_seeds=[f"{named[2]}/film.bin"])
        add = f"git annex addurl --raw-except=vault 'file://{quote(str(other))}'"
        assert "nothing came from peers" in laptop.run(add, fails=True)
        assert udp.peers(identity) == (1, 0)
        assert udp.peers(parse(other.read_bytes()).id[:40]) == (0, 0)
    assert len(tracker.asked) == known
    assert (web.folder / "access.log").read_text() == ""
    laptop.run("git config annex.security.allowed-ip-addresses 127.0.0.0/8")
    laptop.run(f"git annex addurl --raw-except=vault {magnet}")
    assert laptop.read("film.bin") == film.read_bytes()
