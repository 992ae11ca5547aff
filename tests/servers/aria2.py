"""aria2: what git-annex's own source of torrents is made of. It knows v1 only."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from tests.servers.available import found
from tests.servers.ports import Port
from tests.servers.process import ServerError
from tests.servers.torrents import PATIENCE, Peer

_LOOK_AGAIN = 0.02
_CONFIGURATION = """\
enable-rpc=true
rpc-listen-all=false
rpc-listen-port={port}
rpc-secret={secret}
rpc-save-upload-metadata=false
listen-port={peers}
interface={host}
disable-ipv6=true
enable-dht=false
enable-dht6=false
bt-enable-lpd=false
enable-peer-exchange=false
file-allocation=none
seed-ratio=0.0
async-dns=false
no-netrc=true
console-log-level=notice
summary-interval=0
show-console-readout=false
bt-tracker-interval=1
"""


class Aria2(Peer):
    """aria2c, told what to do over its RPC, which is at `port`.

    It listens at `address` only while it has a torrent, and finds peers by HTTP trackers alone: without a DHT it
    speaks to none over UDP. To a tracker it says of a magnet's torrent that it has all of it.
    """

    program = "aria2"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._peers = Port()
        self._secret = secrets.token_hex(16)
        self._begun: dict[str, str] = {}

    @property
    def address(self) -> str:
        return f"{self.host}:{self._peers.number}"

    def prepare(self) -> list[str]:
        file = self.folder / "aria2.conf"
        file.touch(0o600)
        text = _CONFIGURATION.format(port=self.port, secret=self._secret, peers=self._peers.number, host=self.host)
        file.write_text(text, encoding="utf-8")
        return [found("aria2c"), f"--conf-path={file}", f"--dir={self.folder}"]

    def close(self) -> None:
        super().close()
        self._peers.release()

    def ready(self) -> bool:
        try:
            self._call("getVersion")
        except requests.ConnectionError:
            return False
        return True

    def seed(self, torrent: Path, content: Path) -> str:
        gid = self._add(torrent, content, {"check-integrity": "true"})
        self._until(lambda: self._status(gid).get("seeder") == "true", gid, PATIENCE)
        return str(self._status(gid)["infoHash"])

    def begin(self, source: Path | str, into: Path) -> str:
        gid = self._add(source, into, {"seed-time": "0"})
        torrent = str(self._status(gid)["infoHash"])
        self._begun[torrent] = gid
        return torrent

    def wait(self, torrent: str, *, timeout: float = PATIENCE) -> None:
        gid = self._begun[torrent]
        self._until(lambda: self._is_complete(gid), gid, timeout)

    def _add(self, source: Path | str, folder: Path, options: dict[str, str]) -> str:
        options = options | {"dir": str(folder)}
        if isinstance(source, Path):
            document = base64.b64encode(source.read_bytes()).decode()
            gid: str = self._call("addTorrent", document, [], options)
        else:
            gid = self._call("addUri", [source], options)
        return gid

    def _is_complete(self, gid: str) -> bool:
        status = self._status(gid)
        # A magnet is complete when the torrent is there, which goes on under another name.
        if followers := status.get("followedBy"):
            return self._is_complete(followers[0])
        return bool(status["status"] == "complete" and int(status["totalLength"]))

    def _status(self, gid: str) -> dict[str, Any]:
        status: dict[str, Any] = self._call("tellStatus", gid)
        if status["status"] == "error":
            raise ServerError(f"{self!r}: {status}; see {self.log}")
        return status

    def _until(self, done: Callable[[], bool], gid: str, within: float) -> None:
        deadline = time.monotonic() + within
        while not done():
            if time.monotonic() > deadline:
                raise ServerError(f"{self!r} did not get there within {within:.0f} s: {self._status(gid)}")
            time.sleep(_LOOK_AGAIN)

    def _call(self, method: str, *arguments: object) -> Any:
        asked = {
            "jsonrpc": "2.0",
            "id": "",
            "method": f"aria2.{method}",
            "params": [f"token:{self._secret}", *arguments],
        }
        with requests.Session() as session:
            session.trust_env = False
            answer = session.post(f"http://{self.host}:{self.port}/jsonrpc", json=asked, timeout=30)
        said = answer.json()
        if "error" in said:
            raise ServerError(f"{self!r} could not {method}: {said['error']['message']}")
        return said["result"]
