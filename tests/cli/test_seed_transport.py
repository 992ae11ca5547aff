"""A server of torrents that is started without a terminal, as a service is."""

from __future__ import annotations

import pytest

from tests.cli.test_seed import contents, fetched, laptop, registered, seeding, session
from tests.servers import LibtorrentPeer
from tests.sessions.session import Repository

__all__ = ["laptop", "session"]


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
