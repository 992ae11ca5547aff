"""Ceph's RADOS Gateway: S3 that checks signatures, hashes and the rules of multipart uploads for real.

Behind it is the smallest cluster there is, one monitor and one object daemon that keeps everything in memory.
"""

from __future__ import annotations

import subprocess
import uuid
from pathlib import Path

from tests.servers.available import found
from tests.servers.certificates import Certificate
from tests.servers.process import Server
from tests.servers.s3 import Keys, S3Server

_USER = "swarm"
_CONFIGURATION = """\
[global]
fsid = {identity}
mon host = [v2:{host}:{port}]
public addr = {host}
cluster addr = {host}
ms bind msgr1 = false
keyring = {folder}/keyring
mon data = {folder}/monitor
osd data = {folder}/objects
run dir = {folder}
crash dir = {folder}
rgw data = {folder}
admin socket =
pid file =
log file =
log to stderr = true
osd objectstore = memstore
memstore device bytes = {space}
# One copy is enough, and one daemon has to hold all pools.
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
# Each new pool waits for this; a second, else.
paxos propose interval = 0.02
paxos min wait = 0.01
rgw dns name = localhost
rgw thread pool size = 64
"""


class _Monitor(Server):
    """What knows the cluster."""

    program = "rgw"

    def __init__(self, folder: Path, space: int) -> None:
        super().__init__(folder)
        self.configuration = folder / "ceph.conf"
        self._space = space

    def prepare(self) -> list[str]:
        monitor = [found("ceph-mon"), "-c", str(self.configuration), "--id", "a"]
        if not self.configuration.exists():
            identity = str(uuid.uuid4())
            text = _CONFIGURATION.format(
                identity=identity, host=self.host, port=self.port, folder=self.folder, space=self._space
            )
            self.configuration.write_text(text, encoding="utf-8")
            keyring, members = str(self.folder / "keyring"), str(self.folder / "members")
            _run("ceph-authtool", "--create-keyring", keyring)
            for name, monitors in {"mon.": "*", "client.admin": "*", "osd.0": "profile osd"}.items():
                allowed = ("--cap", "mon", f"allow {monitors}", "--cap", "osd", "allow *")
                _run("ceph-authtool", keyring, "--gen-key", "--name", name, *allowed)
            address = f"[v2:{self.host}:{self.port}]"
            _run("monmaptool", "--create", "--fsid", identity, "--addv", "a", address, members)
            (self.folder / "monitor").mkdir()
            _run(*monitor, "--mkfs", "--monmap", members, "--keyring", keyring)
        return [*monitor, "--foreground"]


class _ObjectDaemon(Server):
    """What keeps the objects. It finds ports by itself, and whoever wants it waits for it."""

    program = "rgw"

    def __init__(self, folder: Path, configuration: Path) -> None:
        super().__init__(folder)
        self._configuration = str(configuration)

    def prepare(self) -> list[str]:
        identity = str(uuid.uuid4())
        _run("ceph", "-c", self._configuration, "osd", "new", identity)
        daemon = [found("ceph-osd"), "-c", self._configuration, "--id", "0"]
        (self.folder / "objects").mkdir()
        _run(*daemon, "--mkfs", "--osd-uuid", identity)
        return [*daemon, "--foreground"]

    def ready(self) -> bool:
        return True


class Rgw(S3Server):
    """A gateway with a cluster of its own, which takes `space` bytes of memory at most.

    stop() and kill() end the gateway; the cluster, and with it what was put, stays until close().
    """

    program = "rgw"

    def __init__(self, folder: Path, *, certificate: Certificate | None = None, space: int = 8 << 30) -> None:
        super().__init__(folder)
        self.keys = Keys("SWARMACCESS", "swarm/secret+key")
        self.certificate = certificate
        self._monitor = _Monitor(folder, space)
        self._objects = _ObjectDaemon(folder, self._monitor.configuration)

    def start(self) -> None:
        if not self._monitor.running:
            self._monitor.start()
            self._objects.start()
            self.add_user(_USER, self.keys)
        super().start()

    def close(self) -> None:
        super().close()
        self._objects.close()
        self._monitor.close()

    def prepare(self) -> list[str]:
        frontend = f"beast endpoint={self.host}:{self.port}"
        if self.certificate:
            chain, key = self.certificate.chain, self.certificate.key
            frontend = f"beast ssl_endpoint={self.host}:{self.port} ssl_certificate={chain} ssl_private_key={key}"
        return [
            *(found("radosgw"), "-c", str(self._monitor.configuration), "--name", "client.admin"),
            *("--no-mon-config", "--foreground", f"--rgw-frontends={frontend}"),
        ]

    def add_user(self, name: str, keys: Keys) -> None:
        """Let another user in, who has no access to the buckets of this one."""
        secret = ("--access-key", keys.access_key, "--secret-key", keys.secret_key)
        self._administer("user", "create", "--uid", name, "--display-name", name, *secret)

    def remove_keys(self, keys: Keys) -> None:
        """Take keys back, as an expired credential is."""
        self._administer("key", "rm", "--uid", _USER, "--access-key", keys.access_key)

    def limit_space(self, size: int) -> None:
        """Let the user hold `size` bytes in all; what is more is refused with QuotaExceeded."""
        of_the_user = ("--quota-scope", "user", "--uid", _USER)
        self._administer("quota", "set", *of_the_user, "--max-size", str(size))
        self._administer("quota", "enable", *of_the_user)

    def _administer(self, *arguments: str) -> None:
        _run("radosgw-admin", "-c", str(self._monitor.configuration), "--no-mon-config", *arguments)


def _run(program: str, *arguments: str) -> None:
    subprocess.run(
        [found(program), *arguments], check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=60
    )


rgw = Rgw
