"""Torrents whose peers and web seeds are no good, or not there; and fetches that are broken off."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import get_args
from urllib.parse import quote

import pytest

from tests.servers import (
    DyingSeed,
    LibtorrentPeer,
    LyingSeed,
    ToldTracker,
    magnet_of,
    nginx_static,
    nginx_without_ranges,
)
from tests.servers.nginx import Nginx
from tests.servers.torrents import PIECE, Kind
from tests.sessions.session import Repository, Session, wait_for
from tests.sessions.sharing import Shared, downloader, left_over

SIZE = 3 << 20
MORE_THAN_AT_ONCE = 17 << 20
"""Bytes; libtorrent asks a web seed for 16 MiB in one request."""


@pytest.fixture
def laptop(session: Session) -> Repository:
    return downloader(session)


@pytest.fixture
def web(session: Session) -> Iterator[Nginx]:
    with nginx_static(session.folder / "web") as web:
        yield web


def hurry(laptop: Repository) -> None:
    """Let it give up soon."""
    laptop.run("git config remote.vault.swarm-torrent-timeout 2")


def add(laptop: Repository, torrent: Path, name: str, *, fails: bool = False) -> str:
    """Add the file of a torrent that lies here, and return what was said of it."""
    url = f"file://{quote(str(torrent))}"
    said = laptop.run(f"git annex addurl --raw-except=vault '{url}' --file '{name}'", fails=fails)
    assert laptop.has(name) != fails
    return said.plain


# Web seeds.


def test_web_seeds(shared: Shared, laptop: Repository, web: Nginx) -> None:
    film, album = shared.file("a film.bin", SIZE), shared.album()
    shutil.copytree(shared.folder, web.root, dirs_exist_ok=True)
    for kind in get_args(Kind):
        add(laptop, shared.torrent(film, kind, web_seeds=[f"{web.url}/a%20film.bin"]), kind)
        assert laptop.read(kind) == film.read_bytes()
    one = shared.torrent(album, web_seeds=[f"{web.url}/"])
    laptop.run(f"git annex addurl --raw-except=vault 'file://{quote(str(one))}#3' --file song")
    assert laptop.read("song") == (album / "sub dir/c.bin").read_bytes()

    # Those of the setting, for torrents that have none of their own.
    laptop.run(f"git config remote.vault.swarm-webseeds '{web.url}/not-here/ {web.url}/'")
    add(laptop, shared.torrent(film, piece_length=16 << 10), "same film")
    other = shared.torrent(album, piece_length=16 << 10)
    laptop.run(f"git annex addurl --raw-except=vault 'file://{quote(str(other))}#3' --file 'same song'")
    assert laptop.read("same film") == film.read_bytes()
    assert laptop.read("same song") == (album / "sub dir/c.bin").read_bytes()
    assert left_over(laptop) == []


def test_a_web_seed_that_dies(shared: Shared, laptop: Repository, peer: LibtorrentPeer, web: Nginx) -> None:
    film = shared.file("film.bin", SIZE)
    torrent = shared.torrent(film)
    with DyingSeed(shared.folder, life=SIZE // 3) as dying:
        laptop.run(f"git config remote.vault.swarm-webseeds {dying.url}/film.bin")
        hurry(laptop)
        said = add(laptop, torrent, "film", fails=True)
        assert "nothing came from peers for 2 seconds" in said
        assert f"web seed {dying.url}/film.bin: " in said
    # What it brought is there still, and the rest comes from elsewhere.
    shutil.copy(film, web.root)
    laptop.run(f"git config remote.vault.swarm-webseeds {web.url}/film.bin")
    add(laptop, torrent, "film")
    assert laptop.read("film") == film.read_bytes()
    with DyingSeed(shared.folder, life=SIZE // 3) as dying:
        laptop.run(f"git config remote.vault.swarm-webseeds {dying.url}/film.bin")
        peer.seed(torrent, shared.folder)
        magnet = magnet_of(torrent, peers=[peer.address])
        laptop.run(f"git annex addurl --raw-except=vault '{magnet}' --file again")
        assert laptop.read("again") == film.read_bytes()
    assert left_over(laptop) == []


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_a_web_seed_that_lies(
    kind: Kind, shared: Shared, laptop: Repository, peer: LibtorrentPeer, web: Nginx
) -> None:
    film = shared.file("film.bin", SIZE)
    torrent = shared.torrent(film, kind)
    shutil.copy(film, web.root)
    with LyingSeed(shared.folder) as lying:
        lie, truth = f"{lying.url}/film.bin", f"{web.url}/film.bin"
        laptop.run(f"git config remote.vault.swarm-webseeds '{lie} {truth}'")
        add(laptop, torrent, "beside a web seed")
        assert laptop.read("beside a web seed") == film.read_bytes()

        laptop.run(f"git config remote.vault.swarm-webseeds {lie}")
        peer.seed(torrent, shared.folder)
        magnet = magnet_of(torrent, peers=[peer.address])
        laptop.run(f"git annex addurl --raw-except=vault '{magnet}' --file 'beside a peer'")
        assert laptop.read("beside a peer") == film.read_bytes()
        assert left_over(laptop) == []

        hurry(laptop)
        said = add(laptop, torrent, "alone", fails=True)
        assert f"web seed {lie}: " in said
        assert "pieces that came damaged: " in said


def test_a_web_seed_that_ignores_ranges(
    session: Session, shared: Shared, laptop: Repository, peer: LibtorrentPeer
) -> None:
    film = shared.file("film.bin", MORE_THAN_AT_ONCE)
    with nginx_without_ranges(session.folder / "whole") as whole:
        shutil.copy(film, whole.root)
        torrent = shared.torrent(film, web_seeds=[f"{whole.url}/film.bin"], piece_length=1 << 20)
        hurry(laptop)
        said = add(laptop, torrent, "film", fails=True)
        assert "nothing came from peers for 2 seconds" in said
        assert f"web seed {whole.url}/film.bin" in said
        laptop.run("git config remote.vault.swarm-torrent-timeout 20")
        peer.seed(torrent, shared.folder)
        laptop.run(f"git annex addurl --raw-except=vault '{magnet_of(torrent, peers=[peer.address])}' --file film")
        assert laptop.read("film") == film.read_bytes()
    assert left_over(laptop) == []


# Peers.


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_a_peer_that_sends_garbage(
    kind: Kind, session: Session, shared: Shared, laptop: Repository, peer: LibtorrentPeer
) -> None:
    film = shared.file("film.bin", SIZE)
    torrent = shared.torrent(film, kind)
    lies = session.folder / "lies"
    lies.mkdir()
    (lies / "film.bin").write_bytes(bytes(SIZE))
    with LibtorrentPeer(session.folder / "liar", transport="tcp", unchecked=True, host="127.0.0.9") as liar:
        liar.seed(torrent, lies)
        peer.seed(torrent, shared.folder)
        magnet = magnet_of(torrent, peers=[liar.address, peer.address])
        laptop.run(f"git annex addurl --raw-except=vault '{magnet}' --file film")
        assert laptop.read("film") == film.read_bytes()
        assert left_over(laptop) == []
        peer.stop()
        hurry(laptop)
        magnet = magnet_of(torrent, peers=[liar.address])
        said = laptop.run(f"git annex addurl --raw-except=vault '{magnet}' --file alone", fails=True).plain
        assert "pieces that came damaged: " in said
        assert "1 peer connected" in said


def test_nobody_is_there(session: Session, shared: Shared, laptop: Repository) -> None:
    """What was tried is said, and no passkey."""
    film = shared.file("film.bin", SIZE)
    passkey = "0123456789abcdef0123456789abcdef"
    hurry(laptop)
    with (
        ToldTracker(failure=f"unregistered torrent {passkey[:3]}") as refusing,
        ToldTracker(hangs=True) as hanging,
    ):
        trackers = [
            f"{refusing.announce}?passkey={passkey}",
            f"{hanging.announce}/{passkey}",
            f"udp://127.0.0.1:9/{passkey}/announce",
        ]
        torrent = shared.torrent(film, trackers=trackers)
        said = add(laptop, torrent, "film", fails=True)
        assert "torrent film.bin: no peers were found" in said
        assert f"tracker {refusing.url}/announce: unregistered torrent 012" in said
        assert f"tracker {hanging.url}/…/…: has not answered" in said
        assert "tracker udp://127.0.0.1:9/…/announce: " in said
        assert "the DHT is off" in said
        assert "from shares: none are stored" in said
        assert passkey not in said

        magnet = f"swarm:magnet:?xt=urn:btih:{1:040x}&x.pe=127.0.0.1:9" + "".join(
            f"&tr={quote(tracker, safe='')}" for tracker in trackers
        )
        said = laptop.run(f"git annex addurl '{magnet}'", fails=True).err  # what is typed is shown by git-annex
        assert f"nobody had the metadata of the magnet {1:040x} within 2 seconds" in said
        assert "none of 1 peer could be connected to" in said
        assert "unregistered torrent" in said
        assert passkey not in said
    assert left_over(laptop) == []


# Broken off.


def break_off(session: Session, number: signal.Signals) -> None:
    for pid in session.processes("git-annex"):
        os.kill(pid, number)
    wait_for(lambda: not session.processes("git-annex"), "the end of all that was started", 30)


@pytest.mark.parametrize(
    ("kind", "number"),
    [*((kind, signal.SIGKILL) for kind in get_args(Kind)), ("v2", signal.SIGINT)],
    ids=str,
)
def test_a_get_that_is_broken_off(
    kind: Kind, number: signal.Signals, session: Session, shared: Shared, laptop: Repository, peer: LibtorrentPeer
) -> None:
    """What was proved is not fetched again; what came in the last second may be, and pieces that are not whole."""
    size, rate = 6 * SIZE, 2 << 20
    film = shared.file("film.bin", size)
    torrent = shared.torrent(film, kind)
    identity = peer.seed(torrent, shared.folder, upload_limit=rate)
    laptop.run(f"git annex addurl --fast --raw-except=vault '{magnet_of(torrent, peers=[peer.address])}'")
    process = laptop.start("git annex get film.bin")
    wait_for(lambda: peer.status(identity)["uploaded"] > size // 2, "half of it", 60)
    assert process.poll() is None
    break_off(session, number)
    process.communicate()
    assert not laptop.has("film.bin")
    first = peer.status(identity)["uploaded"]
    assert first < size
    peer.forget(identity)
    peer.seed(torrent, shared.folder)
    laptop.run("git annex get film.bin")
    assert laptop.read("film.bin") == film.read_bytes()
    again = first + peer.status(identity)["uploaded"] - size
    # It sends in bursts of half a second, the last of which may not have been read.
    slack = rate if number == signal.SIGKILL else rate // 2
    assert again < slack + 8 * PIECE, f"{first} bytes were sent, and {again} of them again"
    assert left_over(laptop) == []


def test_nothing_is_written_elsewhere(
    session: Session, shared: Shared, laptop: Repository, peer: LibtorrentPeer
) -> None:
    album = shared.album()
    torrent = shared.torrent(album)
    peer.seed(torrent, shared.folder)

    def there() -> set[str]:
        return {str(path) for path in session.folder.rglob("*")}

    before = there()
    laptop.run(f"git annex addurl --fast 'swarm:{magnet_of(torrent, peers=[peer.address])}#3' --file song")
    laptop.run("git annex get song")
    own = [session.home / each / "git-annex-remote-swarm" for each in (".cache", ".local/state")]
    expected = (f"{laptop.path}/.git/", f"{laptop.path}/song", *map(str, own))
    above = {str(parent) for path in own for parent in path.parents}
    assert [path for path in there() - before - above if not path.startswith(expected)] == []
