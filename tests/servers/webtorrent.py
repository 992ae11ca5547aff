"""WebTorrent, which lives in JavaScript: a peer of v1 only."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tests.servers.available import WEBTORRENT, found
from tests.servers.control import Controlled
from tests.servers.torrents import PATIENCE, Peer

_PROGRAM = Path(__file__).with_name("webtorrent.mjs")


class WebTorrent(Controlled, Peer):
    """WebTorrent over TCP; it finds peers by trackers, and by what it is told."""

    program = "webtorrent"

    def prepare(self) -> list[str]:
        self.make_way()
        return [found("node"), str(_PROGRAM), str(WEBTORRENT), self.host, str(self.port)]

    def seed(self, torrent: Path, content: Path) -> str:
        return str(self.ask("seed", torrent=str(torrent), content=str(content)))

    def begin(self, source: Path | str, into: Path, *, peers: Iterable[str] = ()) -> str:
        """Begin to fetch from those that trackers name, and from `peers`, which it connects to."""
        return str(self.ask("begin", source=str(source), into=str(into), peers=list(peers)))

    def wait(self, torrent: str, *, timeout: float = PATIENCE) -> None:
        """Return when it is there; from then on this peer has nothing to do with it any more."""
        self.ask("wait", torrent=torrent, timeout=timeout)

    def connect(self, torrent: str, peer: str) -> None:
        """Make a connection to `peer` ("127.0.0.1:6881"), which may want what we have."""
        self.ask("connect", torrent=torrent, peer=peer)
