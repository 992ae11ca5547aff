"""Throw-away certificates: the right one, one for another host, one that has expired, one nobody vouches for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from tests.servers.available import require
from tests.servers.ports import HOST

if TYPE_CHECKING:
    import trustme

ELSEWHERE = "elsewhere.example"


@dataclass(frozen=True)
class Certificate:
    """Files (PEM) that a server shows, and the file of the authority that a client is told to trust."""

    chain: Path
    key: Path
    authority: Path


@dataclass(frozen=True)
class Certificates:
    """What one authority signed; only `stranger` is of another one, while its `authority` is the first."""

    good: Certificate
    wrong_name: Certificate
    expired: Certificate
    stranger: Certificate


def make_certificates(folder: Path) -> Certificates:
    """Write an authority and the certificates of servers into `folder`."""
    require("certificates")
    # It brings `cryptography`, which takes its time; only who asks for certificates waits for it.
    import trustme

    folder.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA()
    authority_file = folder / "authority.pem"
    authority.cert_pem.write_to_path(authority_file)

    def write(name: str, leaf: trustme.LeafCert) -> Certificate:
        certificate = Certificate(folder / f"{name}.pem", folder / f"{name}.key", authority_file)
        certificate.chain.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(certificate.key)
        return certificate

    now = datetime.now(UTC)
    month_ago, yesterday = now - timedelta(days=30), now - timedelta(days=1)
    past = authority.issue_cert(HOST, "localhost", not_before=month_ago, not_after=yesterday)
    return Certificates(
        good=write("good", authority.issue_cert(HOST, "localhost")),
        wrong_name=write("wrong-name", authority.issue_cert(ELSEWHERE)),
        expired=write("expired", past),
        stranger=write("stranger", trustme.CA().issue_cert(HOST, "localhost")),
    )
