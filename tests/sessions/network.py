"""A grid over five kinds of stores, all on loopback, each served by a program that nobody here wrote."""

from __future__ import annotations

import os
import shlex
from contextlib import ExitStack
from pathlib import Path

from tests.servers import Account, Server, apache_dav, moto, require, sshd
from tests.sessions.session import PARAMETERS, Output, Repository, Session

__all__ = ["Network"]

ACCOUNT = Account("ute", "correct horse: battery")


class Network:
    """Servers by the names of their stores, and what a user of them has in the environment."""

    def __init__(self, session: Session, stack: ExitStack) -> None:
        folder = session.folder / "servers"
        self.session = session
        self.servers: dict[str, Server] = {}
        require("rclone")
        cloud = stack.enter_context(apache_dav(_made(folder / "cloud"), account=ACCOUNT))
        bucket = stack.enter_context(moto(_made(folder / "bucket")))
        nas = stack.enter_context(sshd(_made(folder / "nas"), sftp="external"))
        self.servers.update(cloud=cloud, bucket=bucket, nas=nas)
        bucket.create_bucket("photos")
        drive = _made(folder / "drive")
        (session.home / "rclone.conf").write_text("[drive]\ntype = local\n")
        self.addresses = {
            "usb": f"dir:{session.folder}/usb",
            "cloud": f"dav://{cloud.host}:{cloud.port}/annex",
            "bucket": f"s3://{bucket.host}:{bucket.port}/photos/annex?http=yes",
            "nas": nas.url + "/annex",
            "drive": f"rclone:drive:{drive}",
        }
        self.secrets = [ACCOUNT.password, bucket.keys.secret_key]
        self.logins = {
            "SWARM_STORE_CLOUD_USER": ACCOUNT.user,
            "SWARM_STORE_CLOUD_PASSWORD": ACCOUNT.password,
            "SWARM_STORE_BUCKET_USER": bucket.keys.access_key,
            "SWARM_STORE_BUCKET_PASSWORD": bucket.keys.secret_key,
        }
        # HOME stays the session's: OpenSSH is told of its files by the programs that come first in PATH.
        session.environment["PATH"] = f"{nas.client.programs}{os.pathsep}{session.environment['PATH']}"
        session.environment["RCLONE_CONFIG"] = str(session.home / "rclone.conf")
        session.environment["SSH_AUTH_SOCK"] = ""

    def stores(self, *names: str) -> str:
        """Return the parameter `stores=` for all of them, or those named, quoted for a command line."""
        places = " ".join(f"{name}={self.addresses[name]}" for name in names or self.addresses)
        return shlex.quote(f"stores={places}")

    def initremote(self, repository: Repository, *names: str, parameters: str = PARAMETERS) -> Output:
        """Make the remote `vault` over them, with all logins in the environment, which git-annex then keeps."""
        return repository.run(f"git annex initremote vault {parameters} {self.stores(*names)}", env=self.logins)

    def stop(self, *names: str) -> None:
        for name in names:
            self.servers[name].kill()

    def start(self, *names: str) -> None:
        for name in names:
            self.servers[name].start()


def _made(path: Path) -> Path:
    path.mkdir(parents=True)
    return path
