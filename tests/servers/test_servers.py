"""The servers themselves: each starts, answers, ends, starts again at its port, and does what it is there for."""

from __future__ import annotations

import hashlib
import os
import re
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests import servers
from tests.servers import (
    Account,
    Certificate,
    Certificates,
    Keys,
    S3Server,
    Server,
    ServerError,
    Sshd,
    available,
    ports,
)
from tests.servers.ports import HOST, Port
from tests.servers.s3 import signed_request
from tests.servers.ssh import ALIAS

DAV = ["nginx_dav", "apache_dav", "wsgidav", "rclone_dav"]
S3 = ["moto", "s3rver", "rgw"]
PEERS = ["Aria2", "Transmission", "WebTorrent", "LibtorrentPeer", "DhtNodes"]
TRACKERS = ["BitTorrentTracker", "OpenTracker"]
ALL = [*DAV, "nginx_static", *S3, "sshd", *PEERS, *TRACKERS]
WAIT = 30
MINIMUM = 5 << 20
"""Bytes that S3 wants of every part but the last."""


def make(name: str, folder: Path, **options: object) -> Any:
    return getattr(servers, name)(folder / "server", **options)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return servers.make_certificates(tmp_path_factory.mktemp("certificates"))


def answers(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=WAIT).close()
    except ConnectionRefusedError:
        return False
    return True


# Starting and ending


@pytest.mark.parametrize("name", ALL)
def test_starts_ends_and_starts_again_at_its_port(name: str, tmp_path: Path) -> None:
    server: Server
    with make(name, tmp_path) as server:
        port, first = server.port, server.pid
        assert server.running
        assert answers(port)
        server.stop()
        assert not server.running
        assert not answers(port)
        server.stop()
        server.start()
        assert (server.port, server.pid != first) == (port, True)
        assert answers(port)
        server.kill()
        assert not answers(port)
        server.start()
        assert answers(port)
    assert not server.running
    assert not answers(port)


@pytest.mark.parametrize("name", ALL)
def test_several_of_a_kind_run_side_by_side(name: str, tmp_path: Path) -> None:
    one: Server
    other: Server
    with make(name, tmp_path / "one") as one, make(name, tmp_path / "other") as other:
        assert one.port != other.port
        one.stop()
        assert not answers(one.port)
        assert answers(other.port)


OWNER = """
import pathlib, sys, time
from tests import servers
with getattr(servers, sys.argv[1])(pathlib.Path(sys.argv[2])) as server:
    print(server.port, server._supervisor.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("name", ALL)
def test_ends_with_the_process_that_made_it(name: str, tmp_path: Path) -> None:
    make(name, tmp_path).close()  # skips what cannot be run here
    command = [sys.executable, "-c", OWNER, name, str(tmp_path / "server")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=available.CHECKOUT) as owner:
        assert owner.stdout is not None
        try:
            port, supervisor = map(int, owner.stdout.readline().split())
            last_to_go = os.pidfd_open(supervisor)
        finally:
            owner.kill()
    try:
        assert select.select([last_to_go], [], [], WAIT)[0], "its supervisor still runs"
    finally:
        os.close(last_to_go)
    assert not answers(port)


@pytest.mark.parametrize("name", ["nginx_dav", "apache_dav"])
def test_ends_with_its_supervisor(name: str, tmp_path: Path) -> None:
    server: Server
    with make(name, tmp_path) as server:
        ended = os.pidfd_open(server.pid)
        assert server._supervisor is not None
        server._supervisor.kill()
        assert select.select([ended], [], [], WAIT)[0]
        os.close(ended)


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    server = servers.nginx_dav(tmp_path / "server", certificate=Certificate(tmp_path, tmp_path, tmp_path))
    with pytest.raises(ServerError, match="PEM"), server:
        pass
    assert not server.running


def test_a_port_is_held_until_it_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Port()
    monkeypatch.setattr(ports, "_RANGE", [held.number])
    with pytest.raises(OSError, match="no free port"):
        Port()
    held.release()
    held.release()
    again = Port()
    assert again.number == held.number
    again.release()


def test_a_port_on_which_somebody_listens_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((HOST, 0)) as listening:
        monkeypatch.setattr(ports, "_RANGE", [listening.getsockname()[1]])
        with pytest.raises(OSError, match="no free port"):
            Port()


@pytest.mark.parametrize(("ci", "outcome"), [("", "Skipped"), ("true", "Failed")])
def test_a_server_that_is_missing_fails_in_ci_only(ci: str, outcome: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(available, "missing", lambda: {"rgw": "there is no program radosgw"})
    with pytest.raises(
        BaseException, match=r"NOT TESTED: rgw .* no program radosgw.* contrib/servers/install"
    ) as seen:
        available.require("rgw")
    assert seen.typename == outcome


# WebDAV and the plain web


@pytest.mark.parametrize("name", DAV)
@pytest.mark.parametrize("account", [None, Account()], ids=["open", "account"])
def test_webdav(name: str, account: Account | None, tmp_path: Path) -> None:
    with make(name, tmp_path, account=account) as server, server.session() as session:
        assert session.request("MKCOL", f"{server.url}/d/").status_code == 201
        assert session.put(f"{server.url}/d/a", data=b"first").status_code == 201
        assert (server.root / "d" / "a").read_bytes() == b"first"
        (server.root / "d" / "a").write_bytes(b"by the back door")
        assert session.get(f"{server.url}/d/a", headers={"Range": "bytes=3-5"}).content == b"the"
        (server.root / "d" / "planted").write_bytes(b"planted")
        listing = session.request("PROPFIND", f"{server.url}/d/", headers={"Depth": "1"})
        assert listing.status_code == 207
        assert set(re.findall(r"<(?:\w+:)?href>([^<]*)<", listing.text)) >= {"/d/a", "/d/planted"}
        to = {"Destination": f"{server.url}/d/b", "Overwrite": "T"}
        assert session.request("MOVE", f"{server.url}/d/a", headers=to).status_code in (201, 204)
        assert session.delete(f"{server.url}/d/planted").status_code == 204
        assert [place.name for place in (server.root / "d").iterdir()] == ["b"]
        nobody = requests.get(f"{server.url}/d/b", timeout=WAIT)
        assert nobody.status_code == (401 if account else 200)


def test_digest(tmp_path: Path) -> None:
    with servers.apache_dav(tmp_path / "server", account=Account(), digest=True) as server:
        refused = requests.get(server.url, timeout=WAIT)
        assert (refused.status_code, refused.headers["WWW-Authenticate"][:7]) == (401, "Digest ")
        with server.session() as session:
            assert session.put(f"{server.url}/a", data=b"x").status_code == 201


@pytest.mark.parametrize("name", ["nginx_dav", "apache_dav"])
def test_a_body_too_large_is_refused(name: str, tmp_path: Path) -> None:
    with make(name, tmp_path, max_body=1000) as server, server.session() as session:
        assert session.put(f"{server.url}/fits", data=bytes(1000)).status_code == 201
        assert session.put(f"{server.url}/large", data=bytes(1001)).status_code == 413


def test_nginx_makes_parents_only_when_told(tmp_path: Path) -> None:
    with servers.nginx_dav(tmp_path / "one") as server, server.session() as session:
        assert session.put(f"{server.url}/d/a", data=b"x").status_code == 500
    with servers.nginx_dav(tmp_path / "other", makes_parents=True) as server, server.session() as session:
        assert session.put(f"{server.url}/d/a", data=b"x").status_code == 201


@pytest.mark.parametrize("account", [None, Account()], ids=["open", "account"])
def test_static_files(account: Account | None, tmp_path: Path) -> None:
    with servers.nginx_static(tmp_path / "server", account=account) as server, server.session() as session:
        (server.root / "a").write_bytes(b"0123456789")
        assert session.get(f"{server.url}/a", headers={"Range": "bytes=-3"}).content == b"789"
        assert 'href="a"' in session.get(f"{server.url}/").text
        assert session.put(f"{server.url}/b", data=b"x").status_code in (403, 405)
        assert session.delete(f"{server.url}/a").status_code in (403, 405)
        assert requests.get(f"{server.url}/a", timeout=WAIT).status_code == (401 if account else 200)


# TLS


@pytest.mark.parametrize("name", [*DAV, "nginx_static", *S3])
def test_tls(name: str, certificates: Certificates, tmp_path: Path) -> None:
    with make(name, tmp_path, certificate=certificates.good) as server:
        assert server.url.startswith("https:")
        trusted = requests.get(server.url, verify=str(certificates.good.authority), timeout=WAIT)
        assert trusted.status_code < 500
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(server.url, timeout=WAIT)


@pytest.mark.parametrize(
    ("which", "why"),
    [
        ("wrong_name", "not valid for '127.0.0.1'"),
        ("expired", "certificate has expired"),
        ("stranger", "unable to get local issuer|self-signed|signature failure"),
    ],
)
def test_bad_certificates(which: str, why: str, certificates: Certificates, tmp_path: Path) -> None:
    certificate: Certificate = getattr(certificates, which)
    with (
        servers.nginx_static(tmp_path / "server", certificate=certificate) as server,
        server.session() as session,
        pytest.raises(requests.exceptions.SSLError, match=why),
    ):
        session.get(server.url)


# S3


@pytest.fixture(params=S3)
def s3(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[S3Server]:
    with make(request.param, tmp_path) as server:
        server.create_bucket("bucket")
        yield server


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[S3Server]:
    with servers.rgw(tmp_path / "server") as server:
        server.create_bucket("bucket")
        yield server


def code(response: requests.Response) -> str:
    """What S3 calls the error, or the status of what is none."""
    found = re.search("<Code>(.*?)</Code>", response.text)
    return found[1] if found else str(response.status_code)


def test_s3(s3: S3Server) -> None:
    name = "/bucket/d/a b+ü"
    assert s3.request("PUT", name, body=b"0123456789").status_code == 200
    assert s3.request("GET", name, headers={"Range": "bytes=2-4"}).content == b"234"
    assert "<Size>10</Size>" in s3.request("GET", "/bucket", {"list-type": "2", "prefix": "d/"}).text
    assert s3.request("DELETE", name).status_code == 204
    assert code(s3.request("GET", name)) == "NoSuchKey"


def test_s3_in_parts(s3: S3Server) -> None:
    parts = [b"a" * MINIMUM, b"b"]
    upload = begin(s3)
    tags = [send_part(s3, upload, number, part).headers["ETag"] for number, part in enumerate(parts, start=1)]
    assert code(complete(s3, upload, list(enumerate(tags, start=1)))) == "200"
    assert s3.request("GET", "/bucket/parts").content == b"".join(parts)


def begin(server: S3Server) -> str:
    found = re.search("<UploadId>(.*?)</UploadId>", server.request("POST", "/bucket/parts", {"uploads": ""}).text)
    assert found
    return found[1]


def send_part(server: S3Server, upload: str, number: int, body: bytes) -> requests.Response:
    query = {"partNumber": str(number), "uploadId": upload}
    return server.request("PUT", "/bucket/parts", query, body)


def complete(server: S3Server, upload: str, parts: list[tuple[int, str]]) -> requests.Response:
    listed = "".join(f"<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>" for number, tag in parts)
    body = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()
    return server.request("POST", "/bucket/parts", {"uploadId": upload}, body)


def test_rgw_checks_signatures(strict: S3Server) -> None:
    def code_with(keys: Keys) -> str:
        return code(signed_request(strict, keys, "GET", "/bucket", {}, b"", {}))

    assert code_with(strict.keys) == "200"
    assert code_with(Keys(strict.keys.access_key, "wrong")) == "SignatureDoesNotMatch"
    assert code_with(Keys("NOBODY", strict.keys.secret_key)) == "InvalidAccessKeyId"
    assert code(requests.get(f"{strict.url}/bucket", timeout=WAIT)) == "AccessDenied"


def test_rgw_checks_hashes(strict: S3Server) -> None:
    wrong = {"Content-MD5": "1B2M2Y8AsgTpgAmY7PhCfg=="}
    assert code(strict.request("PUT", "/bucket/a", body=b"x", headers=wrong)) == "BadDigest"
    other = hashlib.sha256(b"other").hexdigest()
    damaged = signed_request(strict, strict.keys, "PUT", "/bucket/a", {}, b"x", {}, sha256=other)
    assert code(damaged) == "XAmzContentSHA256Mismatch"
    assert code(strict.request("GET", "/bucket/a")) == "NoSuchKey"


def test_rgw_enforces_the_rules_of_parts(strict: S3Server) -> None:
    upload = begin(strict)
    tags = [send_part(strict, upload, number, b"small").headers["ETag"] for number in (1, 2)]
    assert code(complete(strict, upload, [(1, tags[0]), (2, tags[1])])) == "EntityTooSmall"
    tags[0] = send_part(strict, upload, 1, bytes(MINIMUM)).headers["ETag"]
    assert code(complete(strict, upload, [(1, tags[1]), (2, tags[1])])) == "InvalidPart"
    assert code(complete(strict, upload, [(1, tags[0])])) == "InvalidPart"
    assert code(complete(strict, upload, [])) == "MalformedXML"
    assert code(send_part(strict, "unknown", 1, b"x")) == "NoSuchUpload"
    assert strict.request("DELETE", "/bucket/parts", {"uploadId": upload}).status_code == 204
    assert code(send_part(strict, upload, 1, b"x")) == "NoSuchUpload"
    assert code(strict.request("GET", "/bucket/parts")) == "NoSuchKey"


def test_rgw_has_users_and_quotas(tmp_path: Path) -> None:
    with servers.rgw(tmp_path / "server") as server:
        server.create_bucket("bucket")
        guest = Keys("GUEST", "guest/secret")
        server.add_user("guest", guest)
        assert code(signed_request(server, guest, "GET", "/bucket", {}, b"", {})) == "AccessDenied"
        server.limit_space(1 << 20)
        assert code(server.request("PUT", "/bucket/fits", body=bytes(1 << 19))) == "200"
        assert code(server.request("PUT", "/bucket/large", body=bytes(1 << 20))) == "QuotaExceeded"
        server.remove_keys(server.keys)
        assert code(server.request("GET", "/bucket")) == "InvalidAccessKeyId"


def test_rgw_keeps_what_it_has_when_the_gateway_ends(strict: S3Server) -> None:
    strict.request("PUT", "/bucket/a", body=b"kept")
    strict.kill()
    strict.start()
    assert strict.request("GET", "/bucket/a").content == b"kept"


# SFTP


def sftp(server: Sshd, commands: str) -> subprocess.CompletedProcess[str]:
    return run(server, ["sftp", "-b", "-", ALIAS], commands)


def run(server: Sshd, command: list[str], given: str = "") -> subprocess.CompletedProcess[str]:
    environment = os.environ | server.client.environment
    return subprocess.run(command, input=given, capture_output=True, text=True, env=environment, timeout=WAIT)


SFTP_HELLO = bytes([0, 0, 0, 5, 1, 0, 0, 0, 3])
SFTP_VERSION = 2


@pytest.mark.parametrize("kind", ["internal", "external"])
@pytest.mark.parametrize("shell", [False, True], ids=["sftp-only", "shell"])
def test_sftp(kind: str, shell: bool, tmp_path: Path) -> None:
    with make("sshd", tmp_path, sftp=kind, shell=shell) as server:
        (server.root / "planted").write_bytes(b"planted")
        (tmp_path / "mine").write_bytes(b"mine")
        done = sftp(server, f"get planted {tmp_path}/got\nput {tmp_path}/mine put\nls {server.root}\n")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "got").read_bytes() == b"planted"
        assert (server.root / "put").read_bytes() == b"mine"
        assert f"{server.root}/planted" in done.stdout
        assert ("by shell" in run(server, ["ssh", ALIAS, "echo by shell"]).stdout) == shell


def test_ssh_host_keys(tmp_path: Path) -> None:
    with servers.sshd(tmp_path / "server") as server:
        server.change_host_key(known=False)
        server.stop()
        server.start()
        assert "HOST IDENTIFICATION HAS CHANGED" in sftp(server, "pwd\n").stderr
        server.forget_host_key()
        assert "No ED25519 host key is known" in sftp(server, "pwd\n").stderr
        server.change_host_key(known=True)
        server.stop()
        server.start()
        assert sftp(server, "pwd\n").returncode == 0


def test_ssh_sessions_end_with_the_server(tmp_path: Path) -> None:
    with servers.sshd(tmp_path / "server") as server:
        environment = os.environ | server.client.environment
        command = ["ssh", ALIAS, "-s", "sftp"]
        # Its standard input stays open: only the server can end it.
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        ) as session:
            assert session.stdin is not None
            assert session.stdout is not None
            session.stdin.write(SFTP_HELLO)
            session.stdin.flush()
            assert session.stdout.read(5)[4] == SFTP_VERSION
            server.stop()
            assert session.wait(WAIT) == 255
