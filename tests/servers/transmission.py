"""Transmission, as its daemon. Debian's 3.00 knows v1 only."""

from __future__ import annotations

import base64
import json
import secrets
import time
from pathlib import Path
from typing import Any

import requests

from tests.servers.available import found
from tests.servers.ports import Port
from tests.servers.process import ServerError
from tests.servers.torrents import PATIENCE, Peer

_LOOK_AGAIN = 0.02
_SESSION = "X-Transmission-Session-Id"
_USER = "swarm"
_SEEDING = 6


class Transmission(Peer):
    """transmission-daemon, told what to do over its RPC.

    It never connects to a peer at 127.…, whoever names it: the other side has to. Whom it serves, and from whom it
    takes, it decides every ten seconds only, so that nothing goes quickly with it.

    utp: whether it takes and makes μTP connections too. upload_limit: in bytes a second, in whole kB; 0 for none.
    encryption: "preferred" is its default.
    """

    program = "transmission"

    def __init__(
        self, folder: Path, *, utp: bool = True, upload_limit: int = 0, encryption: str = "preferred"
    ) -> None:
        super().__init__(folder)
        self._control = Port()
        self._password = secrets.token_hex(16)
        self._session = ""
        self._settings = {
            "utp-enabled": utp,
            "speed-limit-up": upload_limit // 1000,
            "speed-limit-up-enabled": upload_limit > 0,
            "encryption": {"tolerated": 0, "preferred": 1, "required": 2}[encryption],
        }

    def prepare(self) -> list[str]:
        settings = self._settings | {
            "bind-address-ipv4": self.host,
            "bind-address-ipv6": "::1",
            "peer-port": self.port,
            "peer-port-random-on-start": False,
            "dht-enabled": False,
            "lpd-enabled": False,
            "pex-enabled": False,
            "port-forwarding-enabled": False,
            "rpc-bind-address": self.host,
            "rpc-port": self._control.number,
            "rpc-authentication-required": True,
            "rpc-username": _USER,
            "rpc-password": self._password,
            "rpc-whitelist-enabled": False,
            "rpc-host-whitelist-enabled": False,
            "preallocation": 0,
            "rename-partial-files": False,
            "ratio-limit-enabled": False,
            "prefetch-enabled": False,
        }
        file = self.folder / "settings.json"
        file.touch(0o600)
        file.write_text(json.dumps(settings), encoding="utf-8")
        return [found("transmission-daemon"), "--foreground", "--config-dir", str(self.folder)]

    def close(self) -> None:
        super().close()
        self._control.release()

    def ready(self) -> bool:
        try:
            self._call("session-get")
        except requests.ConnectionError:
            return False
        return super().ready()

    def seed(self, torrent: Path, content: Path) -> str:
        identity = self._add(torrent, content)
        self.wait(identity)
        return identity

    def begin(self, source: Path | str, into: Path) -> str:
        return self._add(source, into)

    def wait(self, torrent: str, *, timeout: float = PATIENCE) -> None:
        deadline = time.monotonic() + timeout
        while not _is_whole(status := self._status(torrent)):
            if time.monotonic() > deadline:
                raise ServerError(f"{self!r} did not get there within {timeout:.0f} s: {status}")
            time.sleep(_LOOK_AGAIN)

    def _add(self, source: Path | str, folder: Path) -> str:
        given: dict[str, str]
        if isinstance(source, Path):
            given = {"metainfo": base64.b64encode(source.read_bytes()).decode()}
        else:
            given = {"filename": source}
        said = self._call("torrent-add", **given, **{"download-dir": str(folder), "paused": False})
        if "torrent-added" not in said:
            raise ServerError(f"{self!r} has it already: {said}")
        return str(said["torrent-added"]["hashString"])

    def _status(self, torrent: str) -> dict[str, Any]:
        fields = ["status", "leftUntilDone", "totalSize", "errorString", "percentDone", "peers", "trackerStats"]
        status: dict[str, Any] = self._call("torrent-get", ids=[torrent], fields=fields)["torrents"][0]
        return status

    def _call(self, method: str, **arguments: object) -> dict[str, Any]:
        for _ in range(2):
            with requests.Session() as session:
                session.trust_env = False
                answer = session.post(
                    f"http://{self.host}:{self._control.number}/transmission/rpc",
                    json={"method": method, "arguments": arguments},
                    headers={_SESSION: self._session},
                    auth=(_USER, self._password),
                    timeout=30,
                )
            # The first request of a run is refused, and told what to say from then on.
            if answer.status_code != requests.codes.conflict:
                break
            self._session = answer.headers[_SESSION]
        answer.raise_for_status()
        said = answer.json()
        if said["result"] != "success":
            raise ServerError(f"{self!r} could not {method}: {said['result']}")
        found_out: dict[str, Any] = said["arguments"]
        return found_out


def _is_whole(status: dict[str, Any]) -> bool:
    # A magnet whose metadata are not there yet has nothing left to fetch either.
    return bool(status["status"] == _SEEDING and status["leftUntilDone"] == 0 and status["totalSize"])
