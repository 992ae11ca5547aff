"""Torrents whose bytes come at a known rate: what comes from where, and what is seen of it meanwhile."""

from __future__ import annotations

import json

import pytest

from tests.servers import LibtorrentPeer, magnet_of
from tests.sessions.session import Repository, Session
from tests.sessions.sharing import STORES, Shared, downloader, left_over

MIB = 1 << 20


@pytest.fixture
def laptop(session: Session) -> Repository:
    return downloader(session)


def test_a_get_uses_shares_and_peers_at_once(shared: Shared, laptop: Repository, peer: LibtorrentPeer) -> None:
    """Alone the peer would take eight seconds, and the stores as long: none of them is to bring all of it."""
    size = 32 * MIB
    film = shared.file("film.bin", size)
    torrent = shared.torrent(film)
    identity = peer.seed(torrent, shared.folder)
    laptop.run(f"git annex addurl --raw-except=vault '{magnet_of(torrent, peers=[peer.address])}'")
    laptop.run("git -c remote.vault.swarm-torrents=no annex copy --to vault film.bin")
    laptop.run("git annex drop film.bin")
    peer.forget(identity)
    peer.seed(torrent, shared.folder, upload_limit=4 * MIB)
    for store in STORES:
        laptop.run(f"git config remote.vault.swarm-limit-{store} 1400KiB/s")
    laptop.run("git annex get film.bin")
    assert laptop.read("film.bin") == film.read_bytes()
    from_peer = peer.status(identity)["uploaded"]
    [trace] = laptop.run("git-annex-remote-swarm trace vault --json").json
    # Of whatever shares there are, as many bytes are needed as the content has.
    from_shares = sum(line["bytes"] for line in trace["lines"])
    assert size // 8 < from_peer < size * 7 // 8
    assert size // 8 < from_shares < size * 7 // 8
    assert left_over(laptop) == []


def test_progress_is_seen_while_bytes_come(shared: Shared, laptop: Repository, peer: LibtorrentPeer) -> None:
    size = 4 * MIB
    film = shared.file("film.bin", size)
    torrent = shared.torrent(film)
    peer.seed(torrent, shared.folder, upload_limit=MIB)
    laptop.run(f"git annex addurl --fast --raw-except=vault '{magnet_of(torrent, peers=[peer.address])}'")
    said = laptop.run("git annex get --json --json-progress film.bin").out
    assert laptop.read("film.bin") == film.read_bytes()
    lines = [json.loads(line) for line in said.splitlines()]
    steps = [line for line in lines if "byte-progress" in line]
    assert {line["total-size"] for line in steps} == {size}
    counts = [line["byte-progress"] for line in steps]
    assert counts == sorted(counts)
    between = {count for count in counts if 0 < count < size}
    assert len(between) >= 4
    assert lines[-1]["success"]
