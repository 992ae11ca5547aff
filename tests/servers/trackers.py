"""Trackers, which tell peers of one another."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from abc import abstractmethod
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import requests

from tests.servers.available import BITTORRENT_TRACKER, found
from tests.servers.certificates import Certificate
from tests.servers.own_web import OwnWeb, send
from tests.servers.process import Server, ServerError
from tests.servers.torrents import PATIENCE

_PROGRAM = Path(__file__).with_name("tracker.mjs")
_LIST = "allowed"
_LOOK_AGAIN = 0.02


class Tracker(Server):
    """A tracker: `announce` is its URL, as it stands in torrents. Its knowledge is gone when it stops."""

    @property
    @abstractmethod
    def announce(self) -> str:
        """Its URL, as it stands in torrents."""

    def peers(self, torrent: str) -> tuple[int, int]:
        """Return how many announced that they have the torrent (its info-hash), and how many that they want it."""
        answer = self._get("scrape", torrent, "")
        counts = [re.search(name + rb"i(\d+)e", answer) for name in (b"8:complete", b"10:incomplete")]
        seeds, leeches = (int(count[1]) if count else 0 for count in counts)
        return seeds, leeches

    def wait_for(self, torrent: str, *, seeds: int = 0, leeches: int = 0, timeout: float = PATIENCE) -> None:
        """Return when so many have announced that they have it, and that they want it; else raise ServerError."""
        deadline = time.monotonic() + timeout
        while (known := self.peers(torrent))[0] < seeds or known[1] < leeches:
            if time.monotonic() > deadline:
                raise ServerError(f"{self!r} knows of {known[0]} who have {torrent} and {known[1]} who want it")
            time.sleep(_LOOK_AGAIN)

    def _get(self, what: str, torrent: str, others: str) -> bytes:
        with requests.Session() as session:
            session.trust_env = False
            url = f"http://{self.host}:{self.port}/{what}?info_hash={quote(bytes.fromhex(torrent))}{others}"
            return session.get(url, timeout=PATIENCE).content


class BitTorrentTracker(Tracker):
    """bittorrent-tracker, from npm: for all torrents. Clients are to come again after `interval` seconds."""

    program = "bittorrent-tracker"

    def __init__(self, folder: Path, kind: Literal["http", "udp"] = "http", *, interval: int = 5) -> None:
        super().__init__(folder)
        self._kind = kind
        self._interval = interval

    @property
    def announce(self) -> str:
        return f"{self._kind}://{self.host}:{self.port}" + ("/announce" if self._kind == "http" else "")

    def prepare(self) -> list[str]:
        arguments = (str(BITTORRENT_TRACKER), self.host, str(self.port), str(self._interval))
        return [found("node"), str(_PROGRAM), *arguments]


class OpenTracker(Tracker):
    """opentracker. Debian's is for listed torrents only, as private trackers are: it refuses what is not allowed.

    Clients are to come again after half an hour.
    """

    program = "opentracker"

    def __init__(self, folder: Path, kind: Literal["http", "udp"] = "http") -> None:
        super().__init__(folder)
        self._kind = kind
        self._allowed: list[str] = []

    @property
    def announce(self) -> str:
        return f"{self._kind}://{self.host}:{self.port}/announce"

    def allow(self, torrent: str) -> None:
        """Let a torrent in from now on, by its info-hash in hex (of v2, the first 20 bytes)."""
        self._allowed.append(torrent)
        self._write_list()
        if not self.running:
            return
        os.kill(self.pid, signal.SIGHUP)
        deadline = time.monotonic() + PATIENCE
        while b"failure reason" in self._get(
            "announce", torrent, "&peer_id=" + "-" * 20 + "&port=1&event=stopped"
        ):
            if time.monotonic() > deadline:
                raise ServerError(f"{self!r} does not let {torrent} in")
            time.sleep(_LOOK_AGAIN)

    def prepare(self) -> list[str]:
        self._write_list()
        configuration = self.folder / "opentracker.conf"
        # It does not run as root; root's becomes this user, with its folder as the root directory.
        lines = [
            f"listen.tcp_udp {self.host}:{self.port}",
            f"access.whitelist {_LIST}",
            f"tracker.rootdir {self.folder}",
            "tracker.user nobody",
        ]
        self.folder.chmod(0o755)
        configuration.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return [found("opentracker"), "-f", str(configuration)]

    def _write_list(self) -> None:
        file = self.folder / _LIST
        file.write_text("".join(f"{torrent}\n" for torrent in self._allowed), encoding="utf-8")
        file.chmod(0o644)


class ToldTracker(OwnWeb):
    """A tracker over HTTP that tells all the same: these peers ("127.0.0.1:6881"), or a failure; or it hangs.

    It asks to be asked again each second. `passkey` is a part of its URL, as at private trackers.
    """

    def __init__(
        self,
        peers: Iterable[str] = (),
        *,
        failure: str = "",
        hangs: bool = False,
        passkey: str = "",
        certificate: Certificate | None = None,
    ) -> None:
        super().__init__(certificate=certificate)
        self.told = list(peers)
        self._failure = failure.encode()
        self._hangs = hangs
        self._passkey = passkey

    @property
    def announce(self) -> str:
        """Its URL, as it stands in torrents."""
        return f"{self.url}/{self._passkey}{'/' if self._passkey else ''}announce"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        if self._hangs:
            self.ended.wait()
            return
        peers = b"".join(_compact(peer) for peer in self.told)
        said = b"8:intervali1e12:min intervali1e5:peers%d:%b" % (len(peers), peers)
        if self._failure:
            said = b"14:failure reason%d:%b" % (len(self._failure), self._failure)
        send(request, 200, b"d" + said + b"e")


def _compact(peer: str) -> bytes:
    """Return an address as BEP 23 has it."""
    host, _, port = peer.rpartition(":")
    return socket.inet_aton(host) + int(port).to_bytes(2, "big")
