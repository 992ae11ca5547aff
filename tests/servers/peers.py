"""Peers by libtorrent in processes of their own, and a DHT: for what no other peer here can do (v2, lies)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from tests.servers.control import Controlled
from tests.servers.ports import HOST
from tests.servers.torrents import PATIENCE, Peer

_PROGRAM = Path(__file__).with_name("libtorrent_peer.py")


class LibtorrentPeer(Controlled, Peer):
    """libtorrent, for v1, v2 and hybrid torrents.

    transport: what it takes and makes connections by; "both" tries μTP first.
    dht: the nodes to enter the DHT by; without any it takes no part.
    host: its address, one below 127; libtorrent at its defaults keeps one connection to each address only.
    unchecked: it seeds whatever is in the folder, and says that it is the torrent's, as a peer that lies.
    lsd: it tells its network of torrents (BEP 14), and hears who else has them.
    """

    program = "libtorrent"

    def __init__(
        self,
        folder: Path,
        *,
        transport: Literal["tcp", "utp", "both"] = "both",
        encryption: Literal["none", "allowed", "forced"] = "allowed",
        dht: Iterable[str] = (),
        host: str = HOST,
        unchecked: bool = False,
        lsd: bool = False,
    ) -> None:
        super().__init__(folder)
        self.host = host
        self._options = {
            "transport": transport,
            "encryption": encryption,
            "dht": list(dht) or None,
            "unchecked": unchecked,
            "lsd": lsd,
        }

    def prepare(self) -> list[str]:
        self.make_way()
        return _command(address=self.address, **self._options)

    def seed(self, torrent: Path, content: Path, *, upload_limit: int = 0) -> str:
        """Offer it, to all together no faster than `upload_limit` in bytes a second; 0 is for none."""
        answer: str = self.ask("seed", torrent=str(torrent), content=str(content), upload_limit=upload_limit)
        return answer

    def begin(self, source: Path | str, into: Path, *, peers: Iterable[str] = (), download_limit: int = 0) -> str:
        """Connect to `peers` too, and take no more than `download_limit` in bytes a second; 0 is for none."""
        answer: str = self.ask(
            "begin", source=str(source), into=str(into), peers=list(peers), download_limit=download_limit
        )
        return answer

    def wait(self, torrent: str, *, timeout: float = PATIENCE) -> None:
        self.ask("wait", timeout=timeout, torrent=torrent, within=timeout)

    def connect(self, torrent: str, peer: str) -> None:
        """Make a connection to `peer` ("127.0.0.1:6881"), which may want what we have."""
        self.ask("connect", torrent=torrent, peer=peer)

    def status(self, torrent: str) -> dict[str, Any]:
        """Return `state`, bytes `done`, `uploaded`, `downloaded`; `peers` with `address`, `utp`, `client`."""
        answer: dict[str, Any] = self.ask("status", torrent=torrent)
        return answer

    def forget(self, torrent: str) -> None:
        """Leave a torrent: neither seed nor fetch it any more."""
        self.ask("forget", torrent=torrent)


class DhtNodes(Controlled):
    """A DHT of some nodes, each at an address of its own below 127. A client is to be told of all `nodes`."""

    program = "libtorrent"

    def __init__(self, folder: Path, count: int = 3) -> None:
        super().__init__(folder)
        self.nodes = [f"127.0.0.{1 + number}:{self.port}" for number in range(count)]

    def prepare(self) -> list[str]:
        self.make_way()
        return _command(nodes=self.nodes)

    def start(self) -> None:
        """Return when the nodes know one another."""
        super().start()
        self.ask("acquainted", timeout=PATIENCE, within=PATIENCE)

    def announced(self, torrent: str, *, timeout: float = PATIENCE) -> list[str]:
        """Return who ("127.0.0.1:6881") has told all nodes that it has `torrent`, once there is somebody.

        From then on one look into the DHT finds it. `torrent` is the info-hash in hex, of v2 its first 20 bytes.
        """
        answer: list[str] = self.ask("announced", timeout=timeout, torrent=torrent, within=timeout)
        return answer


def _command(**settings: object) -> list[str]:
    # -I: what lies beside the program is not importable by it.
    return [sys.executable, "-I", str(_PROGRAM), json.dumps(settings)]
