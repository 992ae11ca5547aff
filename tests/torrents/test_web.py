from __future__ import annotations

import gzip
import os
import socket
import threading
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from annex_remote.errors import (
    BadSetting,
    Busy,
    Cancelled,
    Damaged,
    Denied,
    NotFound,
    StoreError,
    SwarmError,
    Unavailable,
)
from annex_remote.torrents import http_get, web
from annex_remote.torrents.addresses import SETTING, parse_allowed
from annex_remote.torrents.metainfo import MAX_SIZE
from annex_remote.torrents.web import fetch_document
from tests.fakes import WAIT, Run, wait_for
from tests.proxy import Fault, Listener, Proxy, Request, Scripted
from tests.servers import Account, Certificates, make_certificates, nginx_static
from tests.servers.ports import HOST

TORRENT = b"d8:announce27:http://tracker.example/abcd4:infod4:name1:xee"
PASSKEY = "0123456789abcdef0123456789abcdef"
HERE = parse_allowed(HOST)
NOWHERE = parse_allowed("")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def fetch(place: str, allowed: str = HOST, *, timeout: float = WAIT) -> bytes:
    return fetch_document(place, parse_allowed(allowed), timeout=timeout, cancelled=threading.Event())


def answer(status: int = 200, body: bytes = TORRENT, **headers: str) -> bytes:
    """Return an answer; an underscore in a header's name stands for a dash."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named.setdefault("Content-Length", str(len(body)))
    lines = [f"HTTP/1.1 {status} Said", *(f"{name}: {value}" for name, value in named.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def always(said: bytes) -> Callable[[Request, bytes], bytes]:
    return lambda _request, _body: said


def texts(error: BaseException | None) -> str:
    """Return what an error and all that led to it say."""
    said = []
    while error is not None:
        said.append(f"{error} {error!r}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(said)


class Streaming(Listener):
    """Reads the head of a request, sends `head`, and then `piece` for ever, with a pause after each."""

    def __init__(self, head: bytes, piece: bytes, pause: float = 0.0, certificate: Any = None) -> None:
        self._head, self._piece, self._pause = head, piece, pause
        self.left = threading.Event()
        """Set when the other side has gone."""
        super().__init__(certificate)

    def serve(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as reader:
            Request.read_from(reader)
        try:
            connection.sendall(self._head)
            while not self.release.wait(self._pause):
                connection.sendall(self._piece)
        except OSError:
            self.left.set()


class Silent(Listener):
    """Takes connections and says nothing."""

    def __init__(self) -> None:
        self.asked, self.left = threading.Event(), threading.Event()
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        while connection.recv(1 << 16):
            self.asked.set()
        self.left.set()


# Real servers.


def test_a_torrent_of_a_real_server(tmp_path: Path) -> None:
    with nginx_static(tmp_path / "web") as server:
        (server.root / "a b.torrent").write_bytes(TORRENT)
        assert fetch(f"{server.url}/a%20b.torrent") == TORRENT
        assert fetch(f"{server.url.upper()}/a%20b.torrent?passkey={PASSKEY}") == TORRENT
        with pytest.raises(NotFound, match="404"):
            fetch(f"{server.url}/other.torrent")
        with pytest.raises(Damaged, match="web page, not a torrent"):
            fetch(f"{server.url}/")


def test_a_real_server_with_tls(
    tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    with nginx_static(tmp_path / "web", certificate=certificates.good) as server:
        (server.root / "x.torrent").write_bytes(TORRENT)
        with pytest.raises(Unavailable, match="certificate is not trusted"):
            fetch(f"{server.url}/x.torrent")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates.good.authority))
        assert fetch(f"{server.url}/x.torrent") == TORRENT
        assert fetch(f"https://localhost:{server.port}/x.torrent") == TORRENT
        with pytest.raises(Denied, match=SETTING):
            fetch(f"{server.url}/x.torrent", "")


def test_a_real_server_with_a_login(tmp_path: Path) -> None:
    account = Account("üte", "p@ss:wörd/")
    with nginx_static(tmp_path / "web", account=account) as server:
        (server.root / "x.torrent").write_bytes(TORRENT)
        place = f"{HOST}:{server.port}/x.torrent"
        assert fetch(f"http://%C3%BCte:p%40ss%3Aw%C3%B6rd%2F@{place}") == TORRENT
        for login in ("", "ute:hidden@"):
            with pytest.raises(Denied, match="wants user and password") as raised:
                fetch(f"http://{login}{place}")
            assert raised.value.wants_login
            assert "hidden" not in texts(raised.value)


# Addresses.


@pytest.mark.parametrize(
    "host", [HOST, "localhost", "127.1", "2130706433", "0x7f000001", "[::ffff:127.0.0.1]", "0.0.0.0"]
)
def test_loopback_is_refused_before_anything_is_sent(host: str) -> None:
    with Scripted(always(answer())) as server:
        with pytest.raises(Denied, match=rf"not public: refused, unless git config {SETTING}") as raised:
            fetch(f"http://{host}:{server.port}/x.torrent", "")
        assert not raised.value.wants_login
        with pytest.raises(Denied, match="not public"):
            fetch(f"http://{host}:{server.port}/x.torrent", f"[{HOST}]:1 [::1]:1 10.0.0.0/8")
        assert server.connections == 0
        assert fetch(f"http://{host}:{server.port}/x.torrent", "all") == TORRENT


def test_a_port_may_be_allowed_alone() -> None:
    with Scripted(always(answer())) as server:
        assert fetch(f"{server.url}/x.torrent", f"[{HOST}]:{server.port}") == TORRENT


def test_where_the_connection_leads_counts() -> None:
    # To connect to 0.0.0.0 is to connect to 127.0.0.1.
    with Scripted(always(answer())) as server:
        with pytest.raises(Denied, match=r"at 127\.0\.0\.1"):
            fetch(f"http://0.0.0.0:{server.port}/x.torrent", "0.0.0.0")
        assert server.requests == []


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, list[list[str]]], None]:
    """A name server: `name` has the first of `answers` when it is asked first, and so on; the last one stays."""
    real = socket.getaddrinfo

    def name_is(name: str, answers: list[list[str]]) -> None:
        def look_up(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
            if host != name:
                return real(host, port, *arguments, **options)
            now = answers.pop(0) if len(answers) > 1 else answers[0]
            return [found for each in now for found in real(each, port, *arguments, **options)]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    return name_is


def test_a_name_that_changes_its_address(named: Callable[[str, list[list[str]]], None]) -> None:
    with Scripted(always(answer(302, b"", Location="/y.torrent"))) as server:
        named("torrents.example", [[HOST], ["127.0.0.2"]])
        with pytest.raises(Denied, match=r"at 127\.0\.0\.2"):
            fetch(f"http://torrents.example:{server.port}/x.torrent")
        assert [request.target for request in server.requests] == ["/x.torrent"]


def test_of_a_name_with_several_addresses_the_allowed_ones_are_asked(
    named: Callable[[str, list[list[str]]], None],
) -> None:
    with Scripted(always(answer())) as server, Silent() as closed:
        closed.close()
        named("torrents.example", [["10.0.0.1", "127.0.0.3", HOST]])
        assert fetch(f"http://torrents.example:{server.port}/x.torrent", f"{HOST} 127.0.0.3") == TORRENT
        with pytest.raises(Unavailable, match="its server: Connection refused"):
            fetch(f"http://torrents.example:{closed.port}/x.torrent")


def test_a_name_that_nobody_knows() -> None:
    with pytest.raises(Unavailable, match="name of its server cannot be looked up"):
        fetch("http://torrents.invalid/x.torrent")
    with pytest.raises(Unavailable, match="fetching"):
        fetch(f"http://{'a' * 70}.invalid/x.torrent")


# Redirects.


def hops(count: int, status: int = 302) -> Callable[[Request, bytes], bytes]:
    def say(request: Request, _: bytes) -> bytes:
        at = int(request.target.strip("/"))
        return answer(status, b"", Location=f"/{at + 1}") if at < count else answer()

    return say


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(status: int) -> None:
    with Scripted(hops(3, status)) as server:
        assert fetch(f"{server.url}/0") == TORRENT


def test_redirects_are_counted() -> None:
    with Scripted(hops(11)) as server:
        assert fetch(f"{server.url}/1") == TORRENT
        with pytest.raises(Unavailable, match="on and on"):
            fetch(f"{server.url}/0")
        assert len(server.requests) == 11 + 11


def test_a_redirect_has_its_address_checked() -> None:
    with (
        Scripted(always(answer())) as inner,
        Scripted(always(answer(302, b"", Location=f"http://localhost:{inner.port}/admin"))) as server,
    ):
        with pytest.raises(Denied, match=r"sent on to http://localhost:.*not public"):
            fetch(f"{server.url}/x.torrent", f"[{HOST}]:{server.port}")
        assert inner.connections == 0
        assert fetch(f"{server.url}/x.torrent", HOST) == TORRENT


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("file:///etc/passwd", r"to file:///etc/passwd, which is not followed"),
        ("ftp://example.org/x.torrent", "which is not followed"),
        ("javascript:alert(1)", "which is not followed"),
        (f"magnet:?xt=urn:btih:{PASSKEY}00000000&tr=http://t/{PASSKEY}", "to a magnet link: take that instead"),
        ("http://[bad/x.torrent", "no address"),
        ("http://h:99999/x.torrent", "no address"),
        ("http://:80/x.torrent", "which is not followed"),
        ("\xff\xfe", "no address"),
    ],
)
def test_redirects_that_are_not_followed(location: str, said: str) -> None:
    with Scripted(always(answer(302, b"", Location=location))) as server:
        with pytest.raises(Unavailable, match=said) as raised:
            fetch(f"{server.url}/x.torrent", "all")
        assert PASSKEY not in texts(raised.value)


def test_a_redirect_to_nowhere() -> None:
    with Scripted(always(answer(302, b""))) as server, pytest.raises(Unavailable, match="302"):
        fetch(f"{server.url}/x.torrent")


def test_a_redirect_does_not_leave_tls(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates.good.authority))
    with (
        Scripted(always(answer())) as plain,
        Scripted(always(answer(302, b"", Location=f"{plain.url}/x")), certificates.good) as secret,
        Scripted(always(answer(302, b"", Location=f"{secret.url}/x"))) as server,
    ):
        with pytest.raises(Unavailable, match="not encrypted: refused"):
            fetch(f"{server.url}/x.torrent")
        assert len(secret.requests) == 1
        assert plain.connections == 0


def test_what_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_text(f"machine {HOST} login me password hidden\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    said = [answer(302, b"", Location="/y", Set_Cookie="a=b; Path=/"), answer()]
    with Scripted(lambda _request, _body: said.pop(0)) as server:
        fetch(f"{server.url}/x.torrent")
    for request in server.requests:
        assert request.method == "GET"
        assert dict(request.headers) == {
            "Host": f"{HOST}:{server.port}",
            "User-Agent": "git-annex-remote-swarm",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
        }


def test_a_login_goes_to_its_own_server_only() -> None:
    with Scripted(always(answer())) as other:
        there = {"/1": "/2", "/2": f"http://you:too@localhost:{other.port}/3"}

        def say(request: Request, _: bytes) -> bytes:
            return answer(302, b"", Location=there[request.target])

        with Scripted(say) as server:
            assert fetch(f"http://me:hidden@{HOST}:{server.port}/1") == TORRENT
            assert [request.headers["Authorization"] for request in server.requests] == [
                "Basic bWU6aGlkZGVu",
                "Basic bWU6aGlkZGVu",
            ]
            assert [request.headers["Authorization"] for request in other.requests] == [None]


# What comes.


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (204, Unavailable),
        (304, Unavailable),
        (400, Unavailable),
        (401, Denied),
        (403, Denied),
        (404, NotFound),
        (410, NotFound),
        (418, Unavailable),
        (429, Busy),
        (500, Unavailable),
        (502, Unavailable),
        (503, Busy),
    ],
)
def test_the_meaning_of_a_status(status: int, kind: type[StoreError]) -> None:
    body = b"" if status in (204, 304) else b"<html>why</html>"
    with Scripted(always(answer(status, body, Content_Type="text/html"))) as server:
        with pytest.raises(kind, match=str(status)) as raised:
            fetch(f"http://me:hidden@{HOST}:{server.port}/{PASSKEY}/x.torrent?k={PASSKEY}")
        assert type(raised.value) is kind
        assert f"http://{HOST}:{server.port}/…/x.torrent" in str(raised.value)
        assert getattr(raised.value, "passing", False) is (status in (500, 502))
        assert not {"hidden", PASSKEY} & set(texts(raised.value).replace("/", " ").split())


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"<!DOCTYPE html><p>no", "application/x-bittorrent"),
        (b"\xef\xbb\xbf\r\n <html>", "application/octet-stream"),
        (b"Please log in", "text/html"),
        (b"{}", "Text/HTML; charset=utf-8"),
    ],
)
def test_a_web_page_is_said_to_be_one(body: bytes, content_type: str) -> None:
    said = answer(200, body, Content_Type=content_type)
    with Scripted(always(said)) as server, pytest.raises(Damaged, match="web page, not a torrent"):
        fetch(f"{server.url}/x.torrent")


def test_a_torrent_that_is_called_a_web_page_is_none() -> None:
    with Scripted(always(answer(200, TORRENT, Content_Type="text/html"))) as server:
        assert fetch(f"{server.url}/x.torrent") == TORRENT


def test_nothing_is_no_torrent() -> None:
    with Scripted(always(answer(200, b""))) as server, pytest.raises(Damaged, match="empty"):
        fetch(f"{server.url}/x.torrent")


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def test_a_body_in_chunks() -> None:
    said = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(TORRENT[:9]) + chunked(TORRENT[9:])
    with Scripted(always(said + b"0\r\n\r\n")) as server:
        assert fetch(f"{server.url}/x.torrent") == TORRENT
    with Scripted(always(said)) as server, pytest.raises(Unavailable, match="cut"):
        fetch(f"{server.url}/x.torrent")


def test_a_body_that_ends_with_the_connection() -> None:
    with Scripted(always(b"HTTP/1.0 200 OK\r\n\r\n" + TORRENT)) as server:
        assert fetch(f"{server.url}/x.torrent") == TORRENT


@pytest.mark.parametrize("fault", [Fault(cut_answer=0), Fault(cut_answer=10), Fault(longer=1, cut_answer=100)])
def test_a_connection_that_is_cut(tmp_path: Path, fault: Fault) -> None:
    with nginx_static(tmp_path / "web") as server, Proxy(server.host, server.port) as front:
        (server.root / "x.torrent").write_bytes(TORRENT)
        front.misbehave(fault)
        with pytest.raises(Unavailable, match="cut") as raised:
            fetch(f"{front.url}/x.torrent")
        assert raised.value.passing


def test_what_is_not_http() -> None:
    said = b"220 welcome to our mail server\r\n"
    with Scripted(always(said)) as server, pytest.raises(Unavailable, match="not HTTP"):
        fetch(f"{server.url}/x.torrent")


def test_a_body_that_is_said_to_be_too_long_is_not_read() -> None:
    head = answer(200, b"", Content_Length=str(MAX_SIZE + 1))
    with Streaming(head, b"d", pause=WAIT) as server, pytest.raises(Damaged, match="longer than the 64 MiB"):
        fetch(f"{server.url}/x.torrent")


@pytest.mark.parametrize(
    "head", [b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"]
)
def test_an_endless_body(head: bytes) -> None:
    piece = b"d" * (1 << 20)
    with Streaming(head, chunked(piece) if b"chunked" in head else piece) as server:
        with pytest.raises(Damaged, match="longer than the 64 MiB"):
            fetch(f"{server.url}/x.torrent")
        wait_for(server.left)


def test_the_longest_there_may_be() -> None:
    with Scripted(always(answer(200, b"d" * MAX_SIZE))) as server:
        assert len(fetch(f"{server.url}/x.torrent")) == MAX_SIZE


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", " GZIP", "deflate"])
def test_a_packed_body(encoding: str) -> None:
    packed = zlib.compress(TORRENT) if encoding == "deflate" else gzip.compress(TORRENT)
    with Scripted(always(answer(200, packed, Content_Encoding=encoding))) as server:
        assert fetch(f"{server.url}/x.torrent") == TORRENT


def test_a_packed_torrent_that_comes_bit_by_bit_and_is_called_a_web_page() -> None:
    packed = gzip.compress(TORRENT)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
    head += b"Content-Type: text/html\r\nContent-Encoding: gzip\r\n\r\n"
    body = b"".join(chunked(packed[at : at + 1]) for at in range(len(packed)))
    with Scripted(always(head + body + b"0\r\n\r\n")) as server:
        assert fetch(f"{server.url}/x.torrent") == TORRENT


@pytest.mark.parametrize(
    ("encoding", "body", "said"),
    [
        ("gzip", gzip.compress(TORRENT)[:-9], "cannot be unpacked"),
        ("gzip", TORRENT, "cannot be unpacked"),
        ("gzip, gzip", gzip.compress(gzip.compress(TORRENT)), "not asked for"),
        ("br", TORRENT, "not asked for"),
    ],
    ids=["cut", "not packed", "twice", "another way"],  # what gzip makes has the time in it
)
def test_a_packed_body_that_is_of_no_use(encoding: str, body: bytes, said: str) -> None:
    packed = answer(200, body, Content_Encoding=encoding)
    with Scripted(always(packed)) as server, pytest.raises(Unavailable, match=said):
        fetch(f"{server.url}/x.torrent")


def bomb() -> tuple[bytes, bytes]:
    """Return how 4 GiB begin when they are packed, and 1 MiB of what follows."""
    packer = zlib.compressobj(9, wbits=31)
    return packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH), packer.compress(
        b"d" * (1 << 20)
    ) + packer.flush(zlib.Z_FULL_FLUSH)


def test_a_bomb() -> None:
    begin, more = bomb()
    with Scripted(always(answer(200, begin + more * 4096, Content_Encoding="gzip"))) as server:
        tracemalloc.start()
        try:
            with pytest.raises(Damaged, match="longer than the 64 MiB"):
                fetch(f"{server.url}/x.torrent")
            assert tracemalloc.get_traced_memory()[1] < 4 * MAX_SIZE
        finally:
            tracemalloc.stop()


def test_packed_data_that_come_to_nothing() -> None:
    empty = b"\x00\x00\x00\xff\xff" * 100_000  # stored blocks without content
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"")[:10]
    with Streaming(head, empty) as server, pytest.raises(Damaged, match="longer than the 64 MiB"):
        fetch(f"{server.url}/x.torrent")


# Time.


def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_get, "CONNECT", 9 * WAIT)  # so it is not that which ends it
    with Silent() as server:
        for scheme in ("http", "https"):
            server.left.clear()
            with pytest.raises(Unavailable, match=r"not there after 0\.3 seconds") as raised:
                fetch(f"{scheme}://{HOST}:{server.port}/x.torrent", timeout=0.3)
            assert raised.value.passing
            wait_for(server.left)


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\nX-Long: ", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"]
)
def test_a_server_that_drips(head: bytes) -> None:
    piece = head if b"100" in head else b"d"
    with Streaming(head, piece, pause=0.01) as server:
        with pytest.raises(Unavailable, match=r"not there after 0\.3 seconds"):
            fetch(f"{server.url}/x.torrent", timeout=0.3)
        wait_for(server.left)


def test_a_server_whose_tls_is_cut_off_too(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates.good.authority))
    with Streaming(b"HTTP/1.1 200 OK\r\n\r\n", b"d", pause=0.01, certificate=certificates.good) as server:
        with pytest.raises(Unavailable, match="not there after"):
            fetch(f"{server.url}/x.torrent", timeout=0.5)
        wait_for(server.left)


def test_a_name_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    real = socket.getaddrinfo

    def look_up(_: Any, *arguments: Any, **options: Any) -> Any:
        wait_for(answered)
        return real(HOST, *arguments, **options)

    class Started:
        def start(self, work: Callable[[], None]) -> None:
            self.run = Run(work)

    started = Started()
    monkeypatch.setattr(web, "workers", started)
    with Scripted(always(answer())) as server:
        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        try:
            with pytest.raises(Unavailable, match="not there after"):
                fetch(f"http://torrents.example:{server.port}/x.torrent", timeout=0.2)
        finally:
            answered.set()
        started.run.join()
        assert server.connections == 0  # it answered too late


def test_a_machine_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_get, "CONNECT", 0.2)
    with socket.create_server((HOST, 0), backlog=0) as full, ExitStack() as waiting:
        for _ in range(4):  # nobody takes them, and then no more are answered
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        with pytest.raises(Unavailable, match=r"its server does not answer in 0\.2 seconds"):
            fetch(f"http://{HOST}:{full.getsockname()[1]}/x.torrent")


def test_a_connection_that_is_made_too_late_is_cut() -> None:
    halt = web.Halt()
    halt.stop()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(Cancelled):
            halt.hold(ours)
        assert theirs.recv(1) == b""
    with pytest.raises(Cancelled):
        halt.check()


def test_it_is_called_off_at_once() -> None:
    cancelled = threading.Event()
    with Silent() as server:
        run = Run(lambda: fetch_document(f"{server.url}/x.torrent", HERE, timeout=9 * WAIT, cancelled=cancelled))
        wait_for(server.asked)
        cancelled.set()
        with pytest.raises(Cancelled):
            run.join()
        wait_for(server.left)


def test_what_was_called_off_before_does_not_begin() -> None:
    cancelled = threading.Event()
    cancelled.set()
    with Scripted(always(answer())) as server:
        with pytest.raises(Cancelled):
            fetch_document(f"{server.url}/x.torrent", HERE, timeout=WAIT, cancelled=cancelled)
        assert server.connections == 0


# Proxies.


@pytest.fixture
def behind(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def set_proxy(address: str) -> None:
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, address)

    return set_proxy


def test_a_proxy_has_to_be_allowed(behind: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    with Scripted(always(answer())) as proxy, Scripted(always(answer(200, b"d6:direct0:e"))) as server:
        behind(proxy.url.replace("http://", "http://me:hidden@"))
        for scheme in ("http", "https"):
            with pytest.raises(Denied, match=rf"its proxy is at {HOST}, which is not public") as raised:
                fetch(f"{scheme}://torrents.example/x.torrent", "")
            assert "hidden" not in texts(raised.value)
        assert proxy.connections == 0
        assert fetch("http://torrents.example/x.torrent") == TORRENT
        assert [request.target for request in proxy.requests] == ["http://torrents.example/x.torrent"]
        monkeypatch.setenv("no_proxy", HOST)
        assert fetch(f"{server.url}/x.torrent") == b"d6:direct0:e"


@pytest.mark.parametrize(
    "host", ["192.168.1.1", "10.1", "0x0a000001", "[fd00::1]", "[::ffff:10.0.0.1]", "localhost", "a.LOCALHOST."]
)
def test_a_proxy_is_not_asked_for_what_is_not_allowed(host: str, behind: Callable[[str], None]) -> None:
    with Scripted(always(answer())) as proxy:
        behind(proxy.url)
        for scheme in ("http", "https"):
            with pytest.raises(Denied, match=r"it is at .* which is not public"):
                fetch(f"{scheme}://{host}/x.torrent", f"[{HOST}]:{proxy.port}")
        assert proxy.connections == 0


def test_a_proxy_is_not_led_astray_by_a_redirect(behind: Callable[[str], None]) -> None:
    with Scripted(always(answer(302, b"", Location="http://192.168.1.1/reboot"))) as proxy:
        behind(proxy.url)
        with pytest.raises(Denied, match=r"at 192\.168\.1\.1"):
            fetch("http://torrents.example/x.torrent")
        assert len(proxy.requests) == 1


def test_tls_through_a_proxy(behind: Callable[[str], None]) -> None:
    with Scripted(always(b"HTTP/1.1 403 Forbidden\r\n\r\n")) as proxy:
        behind(proxy.url)
        with pytest.raises(Unavailable, match="proxy to it"):
            fetch(f"https://torrents.example/{PASSKEY}/x.torrent")
        assert [(request.method, request.target) for request in proxy.requests] == [
            ("CONNECT", "torrents.example:443")
        ]


@pytest.mark.parametrize("address", ["socks5://me:hidden@127.0.0.1:1", "socks5h://127.0.0.1:1", "foo://hidden"])
def test_other_kinds_of_proxies_are_not_used(address: str, behind: Callable[[str], None]) -> None:
    behind(address)
    with pytest.raises(BadSetting, match="only http and https proxies") as raised:
        fetch("http://torrents.example/x.torrent", "all")
    assert "hidden" not in texts(raised.value)


@pytest.mark.parametrize("address", ["http://me:hidden@[bad", "http://me:hidden@h:99999", "me:hidden@a..b"])
def test_a_proxy_that_cannot_be(address: str, behind: Callable[[str], None]) -> None:
    behind(address)
    with pytest.raises(Unavailable, match="prox") as raised:
        fetch("http://torrents.example/x.torrent", "all")
    assert "hidden" not in texts(raised.value)


# URLs that cannot be.


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("magnet:?xt=urn:btih:" + "0" * 40, BadSetting),
        ("ftp://example.org/x.torrent", BadSetting),
        ("swarm:http://example.org/x.torrent", BadSetting),
        ("http://me:hidden@[bad/x.torrent", BadSetting),
        ("http:///x.torrent", Unavailable),
        ("http://me:hidden@h:99999/x.torrent", Unavailable),
        ("http://*.example/x.torrent", Unavailable),
    ],
)
def test_places_that_cannot_be(place: str, kind: type[SwarmError]) -> None:
    with pytest.raises(kind) as raised:
        fetch(place, "all")
    assert "hidden" not in texts(raised.value)


# Files.


def test_a_file_by_its_path_or_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a b#1?.torrent"
    path.write_bytes(TORRENT)
    (tmp_path / "link.torrent").symlink_to(path)
    (tmp_path / "1:b.torrent").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    quoted = f"{tmp_path}/a%20b%231%3F.torrent"
    for place in (
        str(path),
        "a b#1?.torrent",
        "./link.torrent",
        "1:b.torrent",
        f"file://{quoted}",
        f"file://localhost{quoted}",
        f"file:{quoted}",
        f"FILE://LocalHost{quoted}?x=y",
    ):
        assert fetch(place, "") == TORRENT, place


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff.torrent"
    with open(name, "wb") as file:
        file.write(TORRENT)
    assert fetch(f"file://{tmp_path}/%FF.torrent") == TORRENT
    assert fetch(os.fsdecode(name)) == TORRENT


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


@pytest.mark.parametrize(
    "make",
    [_pipe, _socket, Path.mkdir, lambda path: path.symlink_to("/dev/zero")],
    ids=["pipe", "socket", "folder", "device"],
)
def test_only_files_are_read(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path has to be short
    make(Path("x.torrent"))
    with pytest.raises(BadSetting, match="no regular file"):
        fetch("x.torrent")


def test_a_file_that_becomes_a_pipe_while_it_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.torrent"
    path.write_bytes(TORRENT)
    real = os.stat

    def look(what: Any, *arguments: Any, **options: Any) -> os.stat_result:
        seen = real(what, *arguments, **options)
        if what == str(path):
            path.unlink()
            os.mkfifo(path)
        return seen

    monkeypatch.setattr(os, "stat", look)
    with pytest.raises(BadSetting, match="no regular file"):
        fetch(str(path))


@pytest.mark.parametrize(
    ("place", "kind", "said"),
    [
        ("nowhere/x.torrent", NotFound, "no such file"),
        ("file:///nowhere/x.torrent", NotFound, "no such file"),
        ("file.txt/x.torrent", NotFound, "no such file"),
        ("loop.torrent", Unavailable, "symbolic links"),
        ("a\0.torrent", BadSetting, "no file has such a name"),
        ("file:///a%00.torrent", BadSetting, "no file has such a name"),
        ("a" * 300 + ".torrent", Unavailable, "too long"),
        ("file:x.torrent", BadSetting, "whole path"),
        ("file://example.org/x.torrent", BadSetting, "another machine"),
        (f"file://{HOST}/x.torrent", BadSetting, "another machine"),
        ("file://me:hidden@localhost/x.torrent", BadSetting, "another machine"),
        ("file://[bad/x.torrent", BadSetting, "no file URL"),
    ],
)
def test_files_that_are_not_there(
    place: str, kind: type[SwarmError], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file.txt").touch()
    Path("loop.torrent").symlink_to("loop.torrent")
    with pytest.raises(kind, match=said) as raised:
        fetch(place)
    assert "hidden" not in texts(raised.value)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # root may read anything: so the system's answer is played.
    def refuse(*_: Any) -> int:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "x.torrent").write_bytes(TORRENT)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(Denied, match="Permission denied"):
        fetch(str(tmp_path / "x.torrent"))


def test_files_that_are_no_torrents(tmp_path: Path) -> None:
    path = tmp_path / "x.torrent"
    with path.open("wb") as file:
        file.truncate(MAX_SIZE + 1)
    with pytest.raises(Damaged, match="longer than the 64 MiB"):
        fetch(str(path))
    path.write_bytes(b"<html>")
    with pytest.raises(Damaged, match="web page"):
        fetch(str(path))
    path.write_bytes(b"")
    with pytest.raises(Damaged, match="empty"):
        fetch(str(path))
