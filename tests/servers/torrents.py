"""Torrents for tests, made by libtorrent, and what BitTorrent peers of all kinds have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from tests.servers.process import Server

Kind = Literal["v1", "v2", "hybrid"]
PIECE = 64 << 10
PATIENCE = 30
"""Seconds that what has to come may take."""


def make_torrent(
    path: Path,
    *,
    kind: Kind = "v1",
    trackers: Iterable[str] = (),
    web_seeds: Iterable[str] = (),
    private: bool = False,
    piece_length: int = PIECE,
    to: Path | None = None,
) -> Path:
    """Make the torrent of a file or a folder, and return its file: `to`, or `path` with .torrent behind its name.

    Each tracker is a tier of its own. The same content makes the same torrent.
    """
    import libtorrent as lt

    flags = {"v1": lt.create_torrent.v1_only, "v2": lt.create_torrent.v2_only, "hybrid": 0}[kind]
    entries = sorted(lt.list_files(str(path), flags=0), key=lambda entry: str(entry.filename))
    torrent = lt.create_torrent(entries, piece_length, flags)
    torrent.set_creation_date(0)
    torrent.set_priv(private)
    for tier, tracker in enumerate(trackers):
        torrent.add_tracker(tracker, tier)
    for seed in web_seeds:
        torrent.add_url_seed(seed)
    lt.set_piece_hashes(torrent, str(path.parent))
    to = to or path.with_name(path.name + ".torrent")
    to.write_bytes(lt.bencode(torrent.generate()))
    return to


def magnet_of(torrent: Path, *, peers: Iterable[str] = (), trackers: bool = True) -> str:
    """Return the magnet of a torrent, with its trackers and the addresses of `peers` ("127.0.0.1:6881") in it."""
    import libtorrent as lt

    about = lt.load_torrent_buffer(torrent.read_bytes())
    if not trackers:
        about.trackers = []
    return str(lt.make_magnet_uri(about)) + "".join(f"&x.pe={peer}" for peer in peers)


class Peer(Server):
    """A BitTorrent peer that takes connections of others at `address`, and finds nobody but by what it is told.

    What it has been told to seed or to fetch is forgotten when it stops.
    """

    @property
    def address(self) -> str:
        """Where other peers reach it, as `x.pe` of a magnet has it."""
        return f"{self.host}:{self.port}"

    @abstractmethod
    def seed(self, torrent: Path, content: Path) -> str:
        """Offer what lies in the folder `content`; return the info-hash in hex when it is checked and offered."""

    @abstractmethod
    def begin(self, source: Path | str, into: Path) -> str:
        """Begin to fetch a torrent or a magnet into the folder `into`, and return the info-hash in hex."""

    @abstractmethod
    def wait(self, torrent: str, *, timeout: float = PATIENCE) -> None:
        """Return when all of what was begun is there; raise ServerError if it is not within `timeout` seconds."""

    def fetch(self, source: Path | str, into: Path, *, timeout: float = PATIENCE) -> str:
        """Begin, and wait; return the info-hash in hex."""
        torrent = self.begin(source, into)
        self.wait(torrent, timeout=timeout)
        return torrent
