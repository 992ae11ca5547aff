"""S3: what all such servers have in common, and moto, which speaks it but believes every signature."""

from __future__ import annotations

import hashlib
import hmac
import sys
import urllib.parse
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import requests

from tests.servers.available import S3RVER, found
from tests.servers.certificates import Certificate
from tests.servers.process import Server


@dataclass(frozen=True)
class Keys:
    """What an S3 server knows a client by."""

    access_key: str
    secret_key: str = field(repr=False)


class S3Server(Server):
    """An S3 server at `url`, with buckets addressed by path; `create_bucket` before anything is put."""

    region: ClassVar[str] = "us-east-1"
    keys: Keys
    certificate: Certificate | None = None

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"{'https' if self.certificate else 'http'}://{self.host}:{self.port}"

    def create_bucket(self, name: str) -> str:
        """Make an empty bucket, and return its name."""
        self.request("PUT", f"/{name}").raise_for_status()
        return name

    def request(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
    ) -> requests.Response:
        """Send one signed request, as the administrator who looks in by the back door."""
        return signed_request(self, self.keys, method, path, query or {}, body, headers or {})


def signed_request(
    server: S3Server,
    keys: Keys,
    method: str,
    path: str,
    query: dict[str, str],
    body: bytes,
    headers: dict[str, str],
    *,
    sha256: str | None = None,
) -> requests.Response:
    """Send one request with an AWS Signature Version 4 by `keys`, apart from what the project signs by.

    `sha256` is said of the body instead of the truth.
    """
    now = datetime.now(UTC)
    content = sha256 or hashlib.sha256(body).hexdigest()
    signed = {"host": f"{server.host}:{server.port}"} | {name.lower(): value for name, value in headers.items()}
    signed |= {"x-amz-content-sha256": content, "x-amz-date": f"{now:%Y%m%dT%H%M%SZ}"}
    path = urllib.parse.quote(path)
    encoded = "&".join(
        f"{urllib.parse.quote(name, safe='')}={urllib.parse.quote(value, safe='')}"
        for name, value in sorted(query.items())
    )
    names = ";".join(sorted(signed))
    lines = "".join(f"{name}:{signed[name].strip()}\n" for name in sorted(signed))
    canonical = "\n".join([method, path, encoded, lines, names, content])
    scope = f"{now:%Y%m%d}/{server.region}/s3/aws4_request"
    to_sign = "\n".join(
        ["AWS4-HMAC-SHA256", signed["x-amz-date"], scope, hashlib.sha256(canonical.encode()).hexdigest()]
    )
    key = b"AWS4" + keys.secret_key.encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    signed["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={keys.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    url = f"{server.url}{path}" + (f"?{encoded}" if encoded else "")
    with requests.Session() as session:
        session.trust_env = False
        if server.certificate:
            session.verify = str(server.certificate.authority)
        return session.request(method, url, data=body, headers=signed, timeout=60, allow_redirects=False)


class Moto(S3Server):
    """moto: S3 for the protocol only; it checks neither signatures nor hashes. What it has is gone at a stop."""

    program = "moto"

    def __init__(self, folder: Path, *, certificate: Certificate | None = None) -> None:
        super().__init__(folder)
        self.keys = Keys("swarm-access", "swarm-secret")
        self.certificate = certificate

    def prepare(self) -> list[str]:
        tls = ["-c", str(self.certificate.chain), "-k", str(self.certificate.key)] if self.certificate else []
        return [sys.executable, "-m", "moto.server", "-H", self.host, "-p", str(self.port), *tls]


class S3rver(S3Server):
    """s3rver: keeps objects as files below `root`; it wants a known access key, and believes every signature."""

    program = "s3rver"

    def __init__(self, folder: Path, *, certificate: Certificate | None = None) -> None:
        super().__init__(folder)
        self.keys = Keys("S3RVER", "S3RVER")
        self.certificate = certificate
        self.root = folder / "root"
        self.root.mkdir(exist_ok=True)

    def prepare(self) -> list[str]:
        certificate = self.certificate
        tls = ["--cert", str(certificate.chain), "--key", str(certificate.key)] if certificate else []
        return [
            *(found("node"), str(S3RVER / "bin" / "s3rver.js"), "--directory", str(self.root)),
            *("--address", self.host, "--port", str(self.port), *tls),
        ]


moto = Moto
s3rver = S3rver
