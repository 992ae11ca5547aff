"""What the servers that speak HTTP have in common."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

import requests
from requests.auth import AuthBase, HTTPBasicAuth

from tests.servers.certificates import Certificate
from tests.servers.process import Server


@dataclass(frozen=True)
class Account:
    """Whom a server lets in."""

    user: str = "ute"
    password: str = "correct horse:battery"  # a colon, because only the first one of `user:password` divides


class WebServer(Server):
    """A server of the files below `root`, at `url`."""

    def __init__(
        self, folder: Path, *, account: Account | None = None, certificate: Certificate | None = None
    ) -> None:
        super().__init__(folder)
        self.root = folder / "root"
        self.root.mkdir(exist_ok=True)
        self.account = account
        self.certificate = certificate

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"{'https' if self.certificate else 'http'}://{self.host}:{self.port}"

    @property
    def auth(self) -> AuthBase | None:
        """The account as `requests` takes it."""
        return HTTPBasicAuth(self.account.user, self.account.password) if self.account else None

    def session(self) -> requests.Session:
        """Return a session that has the account and trusts the certificate."""
        session = requests.Session()
        session.trust_env = False
        session.auth = self.auth
        if self.certificate:
            session.verify = str(self.certificate.authority)
        return session


def password_file(path: Path, account: Account) -> Path:
    """Write `account` as nginx and Apache read it for Basic authentication."""
    digest = hashlib.sha1(account.password.encode(), usedforsecurity=False).digest()
    path.write_text(f"{account.user}:{{SHA}}{base64.b64encode(digest).decode()}\n", encoding="utf-8")
    return path
