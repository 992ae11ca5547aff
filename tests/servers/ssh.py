"""OpenSSH's sshd with one of its sftp servers, for the user who runs the tests, and what its clients need."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.servers.available import SFTP_SERVER, found
from tests.servers.process import Server

ALIAS = "swarm-test"
_SERVER_CONFIGURATION = """\
Port {port}
ListenAddress {host}
HostKey "{host_key}"
PidFile "{folder}/sshd.pid"
AuthorizedKeysFile "{folder}/authorized_keys"
StrictModes no
UsePAM no
UseDNS no
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowTcpForwarding no
X11Forwarding no
PrintMotd no
PrintLastLog no
MaxStartups 100:30:200
MaxSessions 64
Subsystem sftp {sftp} -d "{root}"
{forced}
"""
_CLIENT_CONFIGURATION = """\
Host {alias} {host} localhost
    HostName {host}
    Port {port}
    User {user}
    IdentityFile "{key}"
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile "{known_hosts}"
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    BatchMode yes
"""


@dataclass(frozen=True)
class SshClient:
    """A client's files, laid out in a home directory of their own.

    OpenSSH looks for the home in the account, not in HOME: so `environment` has a PATH on which `ssh`, `sftp`
    and `scp` are those of the machine with `-F configuration`.
    """

    home: Path
    user: str

    @property
    def configuration(self) -> Path:
        """What `ssh -F` takes; it knows the server by `ALIAS`, 127.0.0.1 and localhost."""
        return self.home / ".ssh" / "config"

    @property
    def known_hosts(self) -> Path:
        return self.home / ".ssh" / "known_hosts"

    @property
    def key(self) -> Path:
        """The private key (ed25519, without a passphrase) that the server takes."""
        return self.home / ".ssh" / "id_ed25519"

    @property
    def programs(self) -> Path:
        return self.home / "bin"

    @property
    def environment(self) -> dict[str, str]:
        """What to set for a client; an agent of the user is hidden from it."""
        path = os.pathsep.join([str(self.programs), os.environ.get("PATH", os.defpath)])
        return {"HOME": str(self.home), "PATH": path, "SSH_AUTH_SOCK": ""}


class Sshd(Server):
    """sshd that serves SFTP; a client begins in `root`, and all else of the machine is there by absolute paths.

    `sftp` says whether sshd does it itself or runs the `sftp-server` program. Without `shell`, nothing but SFTP
    is to be had, as at many hosters.
    """

    program = "sshd"

    def __init__(
        self, folder: Path, *, sftp: Literal["internal", "external"] = "internal", shell: bool = False
    ) -> None:
        assert " " not in str(folder), f"a blank in {folder} would divide a command"
        super().__init__(folder)
        self.root = folder / "root"
        self.root.mkdir(exist_ok=True)
        self.client = SshClient(folder / "home", pwd.getpwuid(os.getuid()).pw_name)
        self._sftp = "internal-sftp" if sftp == "internal" else str(SFTP_SERVER)
        self._shell = shell
        self._host_key = folder / "host_key"
        self._write_client()
        self.change_host_key(known=True)

    @property
    def url(self) -> str:
        """The address of `root`, absolute."""
        return f"sftp://{self.client.user}@{self.host}:{self.port}{self.root}"

    def prepare(self) -> list[str]:
        if os.getuid() == 0:
            # sshd locks up in it the part of itself that meets strangers; Debian's service makes it at its start.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        text = _SERVER_CONFIGURATION.format(
            host=self.host,
            port=self.port,
            host_key=self._host_key,
            folder=self.folder,
            root=self.root,
            sftp=self._sftp,
            # sshd itself takes these words apart at blanks, and knows no quotes here.
            forced="" if self._shell else f"ForceCommand {self._sftp} -d {self.root}",
        )
        file = self.folder / "sshd_config"
        file.write_text(text, encoding="utf-8")
        return [found("sshd"), "-D", "-e", "-f", str(file)]

    def ready(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=1) as connection:
                return connection.recv(8).startswith(b"SSH-")
        except OSError:
            return False

    def change_host_key(self, *, known: bool) -> None:
        """Take a new host key from the next start on; the client is told of it, or still knows the old one."""
        _make_key(self._host_key)
        if known:
            public = self._host_key.with_suffix(".pub").read_text(encoding="utf-8")
            kind, key = public.split()[:2]
            line = f"[{self.host}]:{self.port} {kind} {key}\n"
            self.client.known_hosts.write_text(line, encoding="utf-8")

    def forget_host_key(self) -> None:
        """Leave the client without any host that it knows."""
        self.client.known_hosts.write_text("", encoding="utf-8")

    def _write_client(self) -> None:
        client = self.client
        client.key.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        _make_key(client.key)
        (self.folder / "authorized_keys").write_bytes(client.key.with_suffix(".pub").read_bytes())
        text = _CLIENT_CONFIGURATION.format(
            alias=ALIAS,
            host=self.host,
            port=self.port,
            user=client.user,
            key=client.key,
            known_hosts=client.known_hosts,
        )
        client.configuration.write_text(text, encoding="utf-8")
        client.configuration.chmod(0o600)
        client.programs.mkdir(exist_ok=True)
        for name in ("ssh", "sftp", "scp"):
            script = client.programs / name
            script.write_text(
                f'#!/bin/sh\nexec {found(name)} -F "{client.configuration}" "$@"\n', encoding="utf-8"
            )
            script.chmod(0o755)


def _make_key(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_suffix(".pub").unlink(missing_ok=True)
    make = [found("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", "swarm-test", "-f", str(path)]
    subprocess.run(make, check=True, stdin=subprocess.DEVNULL)


sshd = Sshd
