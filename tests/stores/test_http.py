"""The HTTP client that network stores share, against servers that say anything, at any time, or nothing."""

from __future__ import annotations

import gzip
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from annex_remote.errors import BadSetting, Busy, Damaged, Denied, Full, NotFound, StoreError, Unavailable
from annex_remote.stores import http
from annex_remote.stores.http import Auth, Client, failure, retry_after
from tests.fakes import Run
from tests.proxy import Fault, Listener, Proxy, Request, Scripted, reset
from tests.servers import Account, Certificates, WebServer, apache_dav, make_certificates, nginx_dav, rclone_dav
from tests.servers.certificates import Certificate
from tests.servers.ports import HOST, Port
from tests.stores.test_contract import ERRORS, RANGES, breaking, giving

DATA = os.urandom(300_000)
LARGE = 32 << 20
"""More than the system takes in for a server that does not read."""
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def client() -> Iterator[Callable[..., Client]]:
    """Makes clients, which are closed at the end; their patience is a second unless it is given."""
    made: list[Client] = []

    def make(url: str, auth: Auth | None = None, **options: object) -> Client:
        made.append(Client(url, auth, **{"patience": 1.0, **options}))  # type: ignore[arg-type] # by name
        return made[-1]

    yield make
    for each in made:
        each.close()


MakeClient = Callable[..., Client]
DAV_SERVERS: tuple[Callable[..., WebServer], ...] = (nginx_dav, apache_dav)


def answer(status: int = 200, body: bytes = b"", **headers: str) -> bytes:
    """Return an answer; an underscore in a header's name stands for a dash."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = "\r\n".join([f"HTTP/1.1 {status} Said", *lines, f"Content-Length: {len(body)}", "", ""])
    return head.encode("latin-1") + body


def always(said: bytes) -> Callable[[Request, bytes], bytes]:
    return lambda _request, _body: said


def zeros(size: int) -> Callable[[int], Iterator[bytes]]:
    def open_at(offset: int) -> Iterator[bytes]:
        for at in range(offset, size, 1 << 20):
            yield bytes(min(1 << 20, size - at))

    return open_at


def put(client: Client, size: int = LARGE, path: str = "/x") -> int:
    return client.send("PUT", path, "writing", size, zeros(size)).status


def texts(error: BaseException | None) -> str:
    """Return what an error and all that led to it say."""
    said = []
    while error is not None:
        said.append(f"{error} {error!r}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(said)


# What statuses mean.

STATUSES: list[tuple[int, type[StoreError]]] = [
    (400, Unavailable),
    (401, Denied),
    (403, Denied),
    (404, NotFound),
    (405, Denied),
    (407, Denied),
    (410, Unavailable),
    (412, Unavailable),
    (413, Full),
    (423, Busy),
    (429, Busy),
    (500, Unavailable),
    (502, Unavailable),
    (503, Busy),
    (507, Full),
    (599, Unavailable),
]


@pytest.mark.parametrize(("status", "kind"), STATUSES)
def test_every_status_has_its_error(client: MakeClient, status: int, kind: type[StoreError]) -> None:
    with Scripted(always(answer(status, b"no")), keeps=True) as server:
        asked = client(server.url)
        for ask in (
            lambda: asked.ask("GET", "/x", "asking"),
            lambda: asked.send("PUT", "/x", "asking", 3, giving(b"abc")),
            lambda: asked.read("/x", "asking"),
            lambda: asked.size("/y", "asking") if status != 404 else asked.ask("GET", "/x", "asking"),
        ):
            with pytest.raises(StoreError, match=rf"^asking: 127.0.0.1:\d+ .*{status}") as raised:
                ask()
            assert type(raised.value) is kind
            assert getattr(raised.value, "passing", None) in (None, status >= 500)
            assert getattr(raised.value, "wants_login", None) in (None, status == 401)
        assert server.connections <= 2  # an answer to HEAD that has a body spoils its connection


def test_a_server_that_asks_to_wait_is_heard(client: MakeClient) -> None:
    soon = formatdate(time.time() + 100, usegmt=True)
    for said, low, high in (
        ("7", 7.0, 7.0),
        (" 0 ", 0.0, 0.0),
        (soon, 90.0, 101.0),
        (formatdate(0, usegmt=True), 0, 0),
    ):
        with Scripted(always(answer(503, Retry_After=said))) as server, pytest.raises(Busy) as raised:
            client(server.url).ask("GET", "/x", "asking")
        assert raised.value.retry_after is not None
        assert low <= raised.value.retry_after <= high


@given(
    st.text(alphabet=st.characters(max_codepoint=255)) | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ .*")
)
def test_whatever_a_server_asks_for_is_read_or_not(text: str) -> None:
    seconds = retry_after({"Retry-After": text})
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize("text", ["²", "-1", "1.5", "9" * 5000, "Mon, 99 Foo 2000 00:00:00 GMT", "soon", ""])
def test_what_is_no_time_is_no_time(text: str) -> None:
    assert retry_after({"Retry-After": text}) is None


# How old something is.

NOW = "Sun, 06 Nov 2022 08:49:37 GMT"
AGES: dict[str, tuple[dict[str, str], float | None]] = {
    "an-hour": ({"Date": NOW, "Last-Modified": "Sun, 06 Nov 2022 07:49:37 GMT"}, 3600.0),
    "a-year": ({"Date": NOW, "Last-Modified": "Sat, 06 Nov 2021 08:49:37 GMT"}, 365 * 86400.0),
    "new": ({"Date": NOW, "Last-Modified": NOW}, 0.0),
    "future": ({"Date": NOW, "Last-Modified": "Mon, 07 Nov 2022 08:49:37 GMT"}, 0.0),
    "form-of-rfc-850": ({"Date": NOW, "Last-Modified": "Sunday, 06-Nov-22 07:49:37 GMT"}, 3600.0),
    "form-of-asctime": ({"Date": NOW, "Last-Modified": "Sun Nov  6 07:49:37 2022"}, 3600.0),
    "both-by-asctime": ({"Date": "Sun Nov  6 08:49:37 2022", "Last-Modified": "Sun Nov  6 07:49:37 2022"}, 3600.0),
    "past-a-cache": ({"Date": NOW, "Last-Modified": "Sun, 06 Nov 2022 07:49:37 GMT", "Age": "0"}, 3600.0),
    "out-of-a-cache": ({"Date": NOW, "Last-Modified": "Sun, 06 Nov 2022 07:49:37 GMT", "Age": "7"}, None),
    "odd-cache": ({"Date": NOW, "Last-Modified": "Sun, 06 Nov 2022 07:49:37 GMT", "Age": "old"}, None),
    "nothing": ({}, None),
    "no-last-modified": ({"Date": NOW}, None),
    "no-date": ({"Last-Modified": NOW}, None),
    "garbage": ({"Date": NOW, "Last-Modified": "yesterday"}, None),
    "garbage-for-now": ({"Date": "today", "Last-Modified": NOW}, None),
    "seconds": ({"Date": NOW, "Last-Modified": "1667720977"}, None),
    "another-form": ({"Date": NOW, "Last-Modified": "2022-11-06T07:49:37Z"}, None),
    "no-such-day": ({"Date": NOW, "Last-Modified": "Sun, 99 Nov 2021 07:49:37 GMT"}, None),
    "1970": ({"Date": NOW, "Last-Modified": "Fri, 02 Jan 1970 00:00:00 GMT"}, None),
    "1980": ({"Date": NOW, "Last-Modified": "Tue, 01 Jan 1980 00:00:00 GMT"}, None),
    "2000": ({"Date": NOW, "Last-Modified": "Sat, 01 Jan 2000 00:00:00 GMT"}, None),
    "nobody-has-a-clock": ({"Date": "Thu, 01 Jan 1970 00:00:09 GMT", "Last-Modified": NOW}, 0.0),
}


def dated(headers: dict[str, str], kind: str = "application/octet-stream") -> bytes:
    return answer(200, b"", Content_Type=kind, **headers)


@pytest.mark.parametrize("which", AGES)
def test_an_age_is_told_by_one_answer(client: MakeClient, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    """Wherever we are, and whatever our clock says."""
    headers, age = AGES[which]
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    try:
        with Scripted(always(dated(headers))) as server:
            assert client(server.url).age("/x", "looking") == age
            assert [request.method for request in server.requests] == ["HEAD"]
    finally:
        monkeypatch.undo()
        time.tzset()


def test_what_is_not_there_has_no_age(client: MakeClient) -> None:
    with Scripted(always(answer(404))) as server, pytest.raises(NotFound):
        client(server.url).age("/x", "looking")


def test_a_page_in_the_place_of_a_share_has_no_age(client: MakeClient) -> None:
    """That of a hotel that wants to be paid first is years old."""
    headers, _ = AGES["a-year"]
    with (
        Scripted(always(dated(headers, "text/html"))) as server,
        pytest.raises(Unavailable, match="web page"),
    ):
        client(server.url).age("/x", "looking")


# What goes wrong on the way.

BROKEN: dict[str, tuple[bytes, str, bool]] = {
    "nothing": (b"", "connection was cut", True),
    "half-a-word": (b"HTT", "not HTTP", True),
    "another-protocol": (b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP", True),
    "what-we-say-ourselves": (b"invalid path: /etc/shadow\r\n\r\n", "not HTTP", True),
    "long-header": (b"HTTP/1.1 200 OK\r\nX: " + bytes(70_000), "not HTTP", True),
    "many-headers": (b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 200 + b"\r\n", "not HTTP", True),
    "status-99": (b"HTTP/1.1 99 OK\r\n\r\n", "not HTTP", True),
    "two-lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "cut", True),
    "too-short": (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab", "cut", True),
    "no-chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "cut", True),
    "half-a-chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "cut", True),
    "no-gzip": (answer(200, b"ab", Content_Encoding="gzip"), "cut", True),
}


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("how", BROKEN)
def test_an_answer_that_is_none(client: MakeClient, certificates: Certificates, how: str, *, tls: bool) -> None:
    said, words, passing = BROKEN[how]
    with Scripted(always(said), certificates.good if tls else None) as server:
        asked = client(server.url, ca=str(certificates.good.authority) if tls else "")
        with pytest.raises(Unavailable, match=words) as raised:
            asked.ask("GET", "/x", "asking")
        assert raised.value.passing is passing


def test_a_reset_is_a_cut(client: MakeClient, certificates: Certificates) -> None:
    class Resetting(Listener):
        def serve(self, connection: socket.socket) -> None:
            Request.read_from(connection.makefile("rb"))
            connection.sendall(self.said)
            reset(connection)

        said = b""

    for tls in (False, True):
        for said in (b"", EMPTY[:20], b"HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n\r\nab"):
            with Resetting(certificates.good if tls else None) as server:
                server.said = said
                asked = client(server.url, ca=str(certificates.good.authority) if tls else "")
                # A head that is cut off looks like one that says little.
                words = "cut|does not say how long"
                with pytest.raises(Unavailable, match=words) as raised, asked.read("/x", "reading") as stream:
                    list(stream)
                assert raised.value.passing


def test_nobody_there(client: MakeClient) -> None:
    port = Port()
    try:
        with pytest.raises(Unavailable, match=f"asking: {HOST}:{port.number}: connection refused") as raised:
            client(f"http://{HOST}:{port.number}").ask("GET", "/x", "asking")
    finally:
        port.release()
    assert not raised.value.passing


def test_no_such_name(client: MakeClient) -> None:
    with pytest.raises(Unavailable, match=r"does-not-exist\.invalid: its name cannot be looked up") as raised:
        client("http://does-not-exist.invalid").ask("GET", "/x", "asking")
    assert not raised.value.passing


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".invalid", "..", "a:99999"])
def test_a_host_that_cannot_be(client: MakeClient, host: str) -> None:
    with pytest.raises(Unavailable, match="cannot be used") as raised:
        client(f"http://{host}").ask("GET", "/x", "asking")
    assert not raised.value.passing


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_does_not_take_connections(client: MakeClient, scheme: str) -> None:
    with socket.socket() as listening:
        listening.bind((HOST, 0))
        listening.listen(0)
        waiting = [socket.socket() for _ in range(4)]  # more than it keeps waiting: the next are not answered
        try:
            for each in waiting:
                each.setblocking(False)
                each.connect_ex(listening.getsockname())
            with pytest.raises(Unavailable, match=r"no answer in 0\.2 seconds"):
                client(f"{scheme}://{HOST}:{listening.getsockname()[1]}", patience=0.2).ask("GET", "/x", "asking")
        finally:
            for each in waiting:
                each.close()


class Silent(Listener):
    """Says `said` as soon as it has heard something, and nothing more."""

    said = b""

    def serve(self, connection: socket.socket) -> None:
        connection.recv(1)
        connection.sendall(self.said)
        self.hang()


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"])
def test_a_server_that_falls_silent(client: MakeClient, said: bytes) -> None:
    with Silent() as server:
        server.said = said
        asked = client(server.url, patience=0.3)
        for ask in (
            lambda: asked.ask("GET", "/x", "asking"),
            lambda: put(asked),
            lambda: b"".join(asked.read("/x", "reading")),
        ):
            with pytest.raises(Unavailable, match=r"no answer in 0\.3 seconds") as raised:
                ask()
            assert not raised.value.passing


def test_a_handshake_that_hangs(client: MakeClient) -> None:
    with Silent() as server, pytest.raises(Unavailable, match=r"no answer in 0\.3 seconds"):
        client(server.url.replace("http:", "https:"), patience=0.3).ask("GET", "/x", "asking")


def test_a_handshake_that_is_cut(client: MakeClient) -> None:
    class Leaving(Listener):
        def serve(self, connection: socket.socket) -> None:
            connection.recv(1 << 16)

    with Leaving() as server, pytest.raises(Unavailable, match="cut") as raised:
        client(server.url.replace("http:", "https:")).ask("GET", "/x", "asking")
    assert raised.value.passing


# Certificates.


@pytest.mark.parametrize(
    ("which", "words"),
    [("wrong_name", "not valid for '127.0.0.1'"), ("expired", "expired"), ("stranger", "local issuer")],
)
def test_a_certificate_that_is_not_right(
    client: MakeClient, certificates: Certificates, which: str, words: str
) -> None:
    with Scripted(always(EMPTY), getattr(certificates, which)) as server:
        with pytest.raises(Unavailable, match=f"its certificate is not trusted: .*{words}") as raised:
            client(server.url, ca=str(certificates.good.authority)).ask("GET", "/x", "asking")
        assert not raised.value.passing
        assert server.requests == []


def test_the_authorities_of_the_system_do_not_know_ours(client: MakeClient, certificates: Certificates) -> None:
    with Scripted(always(EMPTY), certificates.good) as server:
        with pytest.raises(Unavailable, match="not trusted"):
            client(server.url).ask("GET", "/x", "asking")
        assert client(server.url, ca=str(certificates.good.authority)).ask("GET", "/x", "asking").status == 200


def test_no_tls_where_there_should_be(client: MakeClient) -> None:
    with Scripted(always(EMPTY)) as server, pytest.raises(Unavailable):
        client(server.url.replace("http:", "https:")).ask("GET", "/x", "asking")


def test_files_of_certificates_that_are_not_there(client: MakeClient) -> None:
    for options in ({"ca": "/nowhere/ca.pem"}, {"certificate": "/nowhere/own.pem"}):
        with pytest.raises(BadSetting, match=r"/nowhere/\w+\.pem"):
            client("https://127.0.0.1:1", **options).ask("GET", "/x", "asking")


# Sending.


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_a_server_that_takes_its_time_is_waited_for(
    client: MakeClient, certificates: Certificates, monkeypatch: pytest.MonkeyPatch, *, tls: bool
) -> None:
    """What is sent has as many seconds as any answer, however few connecting has; on an old connection too."""
    monkeypatch.setattr(http, "CONNECT", 0.2)

    class Pausing(Listener):
        def serve(self, connection: socket.socket) -> None:
            with connection.makefile("rb") as reader:
                while (request := Request.read_from(reader)) is not None:
                    self.release.wait(0.6)
                    reader.read(request.length)
                    connection.sendall(EMPTY)

    with Pausing(certificates.good if tls else None) as server:
        sending = client(server.url, patience=20.0, ca=str(certificates.good.authority) if tls else "")
        assert [put(sending), put(sending)] == [200, 200]
        assert server.connections == 1


class Early(Listener):
    """Answers when it has seen the head of a request; leaves at once, or `lingers` until nothing more comes."""

    lingers = False

    def serve(self, connection: socket.socket) -> None:
        Request.read_from(connection.makefile("rb"))
        connection.sendall(answer(507))
        if self.lingers:
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 20):
                pass


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_an_answer_that_comes_before_all_is_sent(
    client: MakeClient, certificates: Certificates, *, tls: bool
) -> None:
    with Early(certificates.good if tls else None) as server:
        sending = client(server.url, patience=20.0, ca=str(certificates.good.authority) if tls else "")
        for _ in range(5):
            # The answer may be lost with the connection, which is then worth another attempt.
            with pytest.raises((Full, Unavailable)) as raised:
                put(sending)
            assert getattr(raised.value, "passing", True)
        server.lingers = True
        for _ in range(2):
            with pytest.raises(Full):
                put(sending)


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_early_answers_of_real_servers(
    client: MakeClient, certificates: Certificates, tmp_path: Path, *, tls: bool
) -> None:
    certificate = certificates.good if tls else None
    ca = str(certificates.good.authority) if tls else ""
    for number, make in enumerate(DAV_SERVERS):
        with make(tmp_path / f"small{number}", certificate=certificate, max_body=1 << 20) as server:
            for _ in range(2):
                with pytest.raises(Full):
                    put(client(server.url, ca=ca))
    for number, make in enumerate((*DAV_SERVERS, rclone_dav)):
        with make(tmp_path / f"closed{number}", certificate=certificate, account=Account()) as server:
            for _ in range(2):
                with pytest.raises(Denied) as raised:
                    put(client(server.url, ca=ca, patience=20.0))
                assert raised.value.wants_login


@pytest.mark.parametrize(
    "error",
    [*ERRORS, BrokenPipeError(32, "of the source"), ConnectionResetError(104, "of the source"), TimeoutError()],
    ids=lambda error: type(error).__name__,
)
def test_errors_of_the_source_are_not_the_servers(client: MakeClient, error: BaseException) -> None:
    with Scripted(always(EMPTY)) as server:
        sending = client(server.url, patience=30.0)
        began = time.monotonic()
        for given_bytes in (0, 1, 200_000):
            with pytest.raises(type(error)) as raised:
                sending.send("PUT", "/x", "writing", 300_000, breaking(DATA[:given_bytes], error))
            assert raised.value is error
        assert time.monotonic() - began < 15
        assert sending.ask("GET", "/x", "asking").status == 200


def test_a_source_of_another_size(client: MakeClient) -> None:
    with Scripted(always(EMPTY), keeps=True) as server:
        sending = client(server.url)
        for announced in (0, 1, 299_999, 300_001):
            with pytest.raises(Damaged):
                sending.send("PUT", "/x", "writing", announced, giving(DATA))
        assert server.requests == []
        for announced, start in ((0, 5), (1, 0), (299_999, 1), (100_000, 100_000)):
            sending.send("PUT", "/x", "writing", announced, giving(DATA), start=start, is_part=True)


def test_parts_are_what_is_between(client: MakeClient) -> None:
    bodies: list[bytes] = []

    def taking(_: Request, body: bytes) -> bytes:
        bodies.append(body)
        return EMPTY

    with Scripted(taking, keeps=True) as server:
        sending = client(server.url)
        for start, size in ((0, 100), (100, 200_000), (299_999, 1), (300_000, 0), (65_536, 65_536)):
            sending.send("PUT", "/x", "writing", size, giving(DATA), start=start, is_part=True)
            assert bodies.pop() == DATA[start : start + size]
        sending.send("PUT", "/x", "writing", len(DATA), giving(DATA, piece=1_000_000))
        assert bodies == [DATA]
        assert server.connections == 1


class Guest(Auth):
    """Says who it is when it was asked to, once."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Guest {self.asked} secret"
        return request

    def challenged(self, response: requests.Response) -> bool:
        self.asked += 1
        return self.asked == 1


def test_who_is_asked_sends_it_all_once_more(client: MakeClient) -> None:
    bodies: list[bytes] = []
    opened: list[int] = []

    def open_at(offset: int) -> Iterator[bytes | memoryview]:
        opened.append(offset)
        return iter(giving(DATA)(offset))

    def asking(request: Request, body: bytes) -> bytes:
        bodies.append(body)
        return EMPTY if request.headers["Authorization"] == "Guest 1 secret" else answer(401, b"who?")

    with Scripted(asking, keeps=True) as server:
        sent = client(server.url, Guest()).send("PUT", "/x", "writing", len(DATA), open_at)
        assert sent.status == 200
        assert bodies == [DATA, DATA]
        assert opened == [0, 0]
        assert server.connections == 1
    with Scripted(always(answer(401)), keeps=True) as server:
        with pytest.raises(Denied, match="user and password") as raised:
            client(server.url, Guest()).ask("GET", "/x", "asking")
        assert raised.value.wants_login
        assert len(server.requests) == 2
        assert "secret" not in texts(raised.value)


# Reading.


def test_ranges(client: MakeClient, tmp_path: Path) -> None:
    for number, make in enumerate(DAV_SERVERS):
        with make(tmp_path / str(number)) as server:
            for data in (DATA, b""):
                (server.root / "x").write_bytes(data)
                reading = client(server.url)
                for start, length in RANGES:
                    with reading.read("/x", "reading", start, length) as stream:
                        assert stream.size == len(data)
                        assert b"".join(stream) == data[start:][:length]
                assert reading.size("/x", "looking") == len(data)


WRONG: dict[str, bytes] = {
    "other-start": answer(206, b"abc", Content_Range="bytes 4-6/10"),
    "other-stop": answer(206, b"abc", Content_Range="bytes 5-7/10"),
    "too-short": answer(206, b"a", Content_Range="bytes 5-5/10"),
    "unknown-size": answer(206, b"ab", Content_Range="bytes 5-6/*"),
    "no-range": answer(206, b"ab"),
    "several": answer(206, b"ab", Content_Type="multipart/byteranges; boundary=b"),
    "backwards": answer(206, b"", Content_Range="bytes 5-6/3"),
    "numbers": answer(206, b"ab", Content_Range=f"bytes 5-6/{'9' * 5000}"),
    "superscript": answer(206, b"ab", Content_Range="bytes 5-6/²"),
    "everything": answer(200, b"0123456789"),
    "refused": answer(416, b"", Content_Range="bytes */10"),
    "packed": answer(206, b"ab", Content_Range="bytes 5-6/10", Content_Encoding="gzip"),
    "a-page": answer(206, b"ab", Content_Range="bytes 5-6/10", Content_Type="text/html; charset=utf-8"),
    "no-length": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "strange-length": b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n",
    "nothing": answer(204),
    "not-changed": answer(304),
}


@pytest.mark.parametrize("how", WRONG)
def test_a_range_that_is_not_what_was_asked_for(client: MakeClient, how: str) -> None:
    with Scripted(always(WRONG[how])) as server, pytest.raises(Unavailable) as raised:
        client(server.url).read("/x", "reading", 5, 2)
    assert raised.value.passing is how.endswith("length")


def test_a_whole_that_is_none(client: MakeClient) -> None:
    for said in (
        answer(206, b"ab", Content_Range="bytes 0-1/10"),
        answer(416),
        answer(200, gzip.compress(b"ab"), Content_Encoding="gzip"),
        answer(200, b"<html>Pay for your room</html>", Content_Type="text/html"),
    ):
        with Scripted(always(said)) as server, pytest.raises(Unavailable):
            client(server.url).read("/x", "reading")


@pytest.mark.parametrize("length", ["", "²", "-1", "9" * 5000, "abc", "1, 1"])
def test_a_size_that_is_not_said_is_not_made_up(client: MakeClient, length: str) -> None:
    """A HEAD may leave it out; then a GET is asked."""
    said = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n" if length else "HTTP/1.1 200 OK\r\n\r\n"
    for get, size in ((answer(200, b"12345"), 5), (EMPTY, 0), (said.encode("latin-1"), None), (answer(416), None)):

        def answering(request: Request, _: bytes, get: bytes = get) -> bytes:
            return said.encode("latin-1") if request.method == "HEAD" else get

        with Scripted(answering, keeps=True) as server:
            if size is not None:
                assert client(server.url).size("/x", "looking") == size
            else:
                with pytest.raises(Unavailable):
                    client(server.url).size("/x", "looking")


def test_the_size_of_what_is_packed_is_not_its_size(client: MakeClient) -> None:
    for said in (answer(200, Content_Encoding="gzip"), answer(200, Content_Type="text/html")):
        head = said.replace(b"Content-Length: 0", b"Content-Length: 7")
        with Scripted(always(head)) as server, pytest.raises(Unavailable):
            client(server.url).size("/x", "looking")


def test_a_slow_line_is_not_a_silent_one(client: MakeClient, tmp_path: Path) -> None:
    """A stream gives what has come, so that whoever reads sees it go on; an answer has to come to an end."""
    with nginx_dav(tmp_path / "dav") as server, Proxy(server.host, server.port) as proxy:
        (server.root / "x").write_bytes(DATA[:12])
        proxy.misbehave(Fault(drip=0.1))
        asked = client(proxy.url, patience=0.5)
        with asked.read("/x", "reading") as stream:
            pieces = list(stream)
        assert b"".join(pieces) == DATA[:12]
        assert len(pieces) >= 6
        with pytest.raises(Unavailable, match="too long"):
            asked.ask("GET", "/x", "asking")
        assert proxy.given < 24


def test_an_answer_without_end(client: MakeClient) -> None:
    class Endless(Listener):
        head = b""
        taken = 0

        def serve(self, connection: socket.socket) -> None:
            Request.read_from(connection.makefile("rb"))
            connection.sendall(self.head)
            while True:
                connection.sendall(bytes(1 << 20))
                self.taken += 1 << 20

    ends = (1 << 40, "far more than it was asked for"), (None, "far more than it was asked for")
    for length, words in ends:
        with Endless() as server:
            server.head = (
                b"HTTP/1.1 200 OK\r\n" + (f"Content-Length: {length}\r\n" if length else "").encode() + b"\r\n"
            )
            with pytest.raises(Unavailable, match=words):
                client(server.url, patience=30.0).ask("GET", "/x", "asking")
    with Endless() as server:
        server.head = b"HTTP/1.1 302 Away\r\nLocation: /y\r\n\r\n"
        with pytest.raises(Unavailable, match="on and on"):
            client(server.url, patience=30.0).ask("GET", "/x", "asking")
        assert server.taken < 100 << 20


def test_a_bomb(client: MakeClient) -> None:
    bomb = gzip.compress(bytes(80 << 20))
    with (
        Scripted(always(answer(200, bomb, Content_Encoding="gzip"))) as server,
        pytest.raises(Unavailable, match="far more"),
    ):
        client(server.url, patience=30.0).ask("GET", "/x", "asking")


def test_packed_answers_are_unpacked(client: MakeClient) -> None:
    with Scripted(always(answer(207, gzip.compress(b"<a/>"), Content_Encoding="gzip"))) as server:
        assert client(server.url).ask("PROPFIND", "/x", "asking", ok=(207,)).body == b"<a/>"
        assert server.requests[0].headers["Accept-Encoding"] == "identity"


# Being sent elsewhere.


def moved(location: str, status: int = 302) -> bytes:
    return answer(status, b"it has moved", Location=location)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_reading_follows_and_leaves_the_login_behind(client: MakeClient, status: int) -> None:
    with Scripted(always(answer(200, DATA)), keeps=True) as there:
        for method in ("GET", "PROPFIND"):
            with Scripted(always(moved(f"{there.url}/y?signed=1", status)), keeps=True) as here:
                asked = client(here.url, Guest())
                assert asked.ask(method, "/x", "asking").body == DATA
                assert asked.read("/x", "reading", 0, 100).size == len(DATA)
                assert here.requests[0].headers["Authorization"] == "Guest 0 secret"
        assert {request.target for request in there.requests} == {"/y?signed=1"}
        assert not [request for request in there.requests if "Authorization" in request.headers]
        assert not [request for request in there.requests if "secret" in str(request.headers)]


def test_the_same_server_still_knows_us(client: MakeClient) -> None:
    def moving(request: Request, _: bytes) -> bytes:
        return moved("y/") if request.target == "/a/x" else answer(200, b"here")

    with Scripted(moving, keeps=True) as server:
        assert client(server.url, Guest()).ask("GET", "/a/x", "asking").body == b"here"
        assert [request.target for request in server.requests] == ["/a/x", "/a/y/"]
        assert server.requests[1].headers["Authorization"]
        assert server.connections == 1


def test_another_server_that_wants_a_login_does_not_get_ours(client: MakeClient) -> None:
    with Scripted(always(answer(401))) as there, Scripted(always(moved(f"{there.url}/y"))) as here:
        with pytest.raises(Denied, match=f"sends us on to {there.url}, which wants a login.*change the address"):
            client(here.url, Guest()).ask("GET", "/x", "asking")
        assert len(there.requests) == 1


def test_what_changes_something_is_not_sent_elsewhere(client: MakeClient) -> None:
    with Scripted(always(EMPTY)) as there:
        for location, words in ((f"{there.url}/y", f"sends us on to {there.url}"), ("/y", "has moved it to /y:")):
            with Scripted(always(moved(location, 307))) as here:
                for method in ("PUT", "DELETE", "MOVE", "MKCOL", "POST"):
                    with pytest.raises(Unavailable, match=words):
                        client(here.url).ask(method, "/x", "asking")
        assert there.requests == []


def test_from_tls_nobody_is_sent_on_to_plain_text(client: MakeClient, certificates: Certificates) -> None:
    with (
        Scripted(always(EMPTY)) as there,
        Scripted(always(moved(f"{there.url}/y")), certificates.good) as here,
        pytest.raises(Unavailable, match="not encrypted: refused"),
    ):
        client(here.url, ca=str(certificates.good.authority)).ask("GET", "/x", "asking")
    assert there.requests == []


NOWHERE = [
    "/x",
    "http://[::1",
    "http://a:b/c",
    "http:///y",
    "ftp://elsewhere/y",
    "//\x1b[31m/y",
    "file:///etc/passwd",
    "http://u:hidden@",
]


class Asking(Scripted):
    """Asks who is there for a certificate, and notes whether one was shown."""

    def __init__(self, said: bytes, certificate: Certificate) -> None:
        # It says that it closes each connection: whoever sends on one in that very moment would be cut off.
        super().__init__(always(said.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)), certificate)
        assert self._tls is not None
        self._tls.verify_mode = ssl.CERT_OPTIONAL
        self._tls.load_verify_locations(certificate.authority)
        self.shown: list[bool] = []

    def serve(self, connection: socket.socket) -> None:
        assert isinstance(connection, ssl.SSLSocket)
        connection.do_handshake()
        self.shown.append(bool(connection.getpeercert()))
        super().serve(connection)


def test_our_certificate_is_not_shown_elsewhere(
    client: MakeClient, certificates: Certificates, tmp_path: Path
) -> None:
    good = certificates.good
    own = tmp_path / "own.pem"
    own.write_bytes(good.chain.read_bytes() + good.key.read_bytes())
    with Asking(answer(200, DATA), good) as there, Asking(moved(f"{there.url}/y"), good) as here:
        for url in (there.url, here.url):
            asked = client(url, ca=str(good.authority), certificate=str(own))
            assert asked.ask("GET", "/x", "asking").body == DATA
            assert asked.read("/x", "reading", 0, 100).size == len(DATA)
        assert here.shown == [True, True]
        assert there.shown == [True, True, False, False]


@pytest.mark.parametrize("location", NOWHERE)
def test_being_sent_nowhere(client: MakeClient, location: str) -> None:
    with Scripted(always(moved(location)), keeps=True) as server:
        asks: tuple[Callable[[Client], object], ...] = (
            lambda asked: asked.ask("GET", "/x", "asking"),
            lambda asked: asked.ask("PUT", "/x", "asking"),
            lambda asked: asked.read("/x", "asking"),
        )
        for ask in asks:
            with pytest.raises(Unavailable) as raised:
                ask(client(server.url))
            assert "\x1b" not in str(raised.value)
            assert "hidden" not in str(raised.value)
        assert len(server.requests) <= 12


# Connections.


def test_a_connection_is_used_again(client: MakeClient, tmp_path: Path) -> None:
    with nginx_dav(tmp_path / "dav") as server, Proxy(server.host, server.port) as proxy:
        asked = client(proxy.url)
        for _ in range(3):
            asked.send("PUT", "/x", "writing", len(DATA), giving(DATA))
            asked.send("PUT", "/empty", "writing", 0, giving(b""))
            assert asked.size("/x", "looking") == len(DATA)
            for start, length in RANGES:
                with asked.read("/x", "reading", start, length) as stream:
                    assert b"".join(stream) == DATA[start:][:length]
            with pytest.raises(NotFound):
                asked.read("/y", "reading")
            with pytest.raises(NotFound):
                asked.size("/y", "looking")
            with pytest.raises(Damaged):
                asked.send("PUT", "/z", "writing", 5, giving(b"123456"))
        # A put that comes to nothing costs its connection, and that is all.
        assert proxy.connections == 3


def test_a_stream_that_is_left_early_does_not_spoil_what_follows(client: MakeClient, tmp_path: Path) -> None:
    with nginx_dav(tmp_path / "dav") as server:
        (server.root / "x").write_bytes(DATA * 10)
        asked = client(server.url)
        for _ in range(5):
            with asked.read("/x", "reading") as stream:
                next(iter(stream))
            with asked.read("/x", "reading"):
                pass
            assert asked.size("/x", "looking") == len(DATA) * 10


def test_a_stream_that_was_left_gives_no_more(client: MakeClient, tmp_path: Path) -> None:
    with nginx_dav(tmp_path / "dav") as server:
        (server.root / "x").write_bytes(DATA)
        with client(server.url).read("/x", "reading") as stream:
            pass
        with pytest.raises(Unavailable):
            list(stream)


def test_more_than_was_announced_is_not_the_next_answer(client: MakeClient, tmp_path: Path) -> None:
    with nginx_dav(tmp_path / "dav") as server, Proxy(server.host, server.port) as proxy:
        (server.root / "x").write_bytes(answer(200, b"forged") * 100)
        proxy.misbehave(Fault(longer=-1000), methods=["GET"], times=1)
        asked = client(proxy.url)
        with asked.read("/x", "reading") as stream:
            list(stream)
        for _ in range(3):
            assert asked.size("/x", "looking") == len(answer(200, b"forged")) * 100


def test_a_server_that_was_started_again(client: MakeClient, tmp_path: Path) -> None:
    with nginx_dav(tmp_path / "dav") as server:
        (server.root / "x").write_bytes(DATA)
        asked = client(server.url)
        assert asked.size("/x", "looking") == len(DATA)
        server.stop()
        with pytest.raises(Unavailable, match="refused"):
            asked.size("/x", "looking")
        server.start()
        assert asked.size("/x", "looking") == len(DATA)


def test_many_threads_share_a_client(client: MakeClient, tmp_path: Path) -> None:
    with nginx_dav(tmp_path / "dav") as server, Proxy(server.host, server.port) as proxy:
        shared = client(proxy.url, patience=30.0)

        def work(which: int) -> None:
            data = bytes([which]) * (1000 * which + 1)
            for turn in range(8):
                path = f"/{which}-{turn}"
                shared.send("PUT", path, "writing", len(data), giving(data))
                with shared.read(path, "reading", which) as stream:
                    assert b"".join(stream) == data[which:]
                with pytest.raises(NotFound):
                    shared.size(f"{path}-not", "looking")

        for run in [Run(lambda which=which: work(which)) for which in range(32)]:  # type: ignore[misc]
            run.join()
        assert proxy.connections <= 32


# The environment.


def test_a_netrc_does_not_speak_for_us(
    client: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("default login me password hidden\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with Scripted(always(EMPTY)) as server:
        client(server.url).ask("GET", "/x", "asking")
        client(server.url, Guest()).ask("GET", "/x", "asking")
        assert [request.headers["Authorization"] for request in server.requests] == [None, "Guest 0 secret"]


def test_cookies_are_not_brought_back(client: MakeClient) -> None:
    with Scripted(always(answer(200, Set_Cookie="who=you; Path=/")), keeps=True) as server:
        asked = client(server.url)
        for _ in range(2):
            asked.ask("GET", "/x", "asking")
        assert [request.headers["Cookie"] for request in server.requests] == [None, None]


def test_a_bundle_of_the_environment_is_used_where_none_is_named(
    client: MakeClient, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Scripted(always(EMPTY), certificates.good) as server:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates.good.authority))
        assert client(server.url).ask("GET", "/x", "asking").status == 200
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
        assert client(server.url, ca=str(certificates.good.authority)).ask("GET", "/x", "asking").status == 200


@pytest.fixture
def behind(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def set_proxy(address: str) -> None:
        for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, address)

    return set_proxy


def test_a_proxy_of_the_environment_is_used(
    client: MakeClient, behind: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Scripted(always(answer(200, b"through"))) as proxy, Scripted(always(answer(200, b"straight"))) as server:
        behind(proxy.url.replace("http://", "http://me:hidden@"))
        assert client("http://store.invalid").ask("GET", "/x", "asking").body == b"through"
        assert proxy.requests[0].target == "http://store.invalid/x"
        monkeypatch.setenv("no_proxy", HOST)
        assert client(server.url).ask("GET", "/x", "asking").body == b"straight"


def test_sending_through_a_proxy_has_its_time_too(
    client: MakeClient, behind: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "CONNECT", 0.2)

    class Pausing(Scripted):
        def serve(self, connection: socket.socket) -> None:
            self.release.wait(0.6)
            super().serve(connection)

    with Pausing(always(EMPTY)) as proxy:
        behind(proxy.url)
        assert put(client("http://store.invalid", patience=20.0)) == 200


@pytest.mark.parametrize("status", [403, 407, 502])
def test_a_proxy_that_refuses(client: MakeClient, behind: Callable[[str], None], status: int) -> None:
    with Scripted(always(answer(status))) as proxy:
        behind(proxy.url.replace("http://", "http://me:hidden@"))
        with pytest.raises(Unavailable, match="proxy to it") as raised:
            client("https://store.invalid").ask("GET", "/x", "asking")
        assert "hidden" not in texts(raised.value)
        with pytest.raises(Unavailable if status == 502 else Denied) as other:
            client("http://store.invalid").ask("GET", "/x", "asking")
        assert "hidden" not in texts(other.value)


@pytest.mark.parametrize(
    "address",
    [
        "http://me:hidden@127.0.0.1:1",
        "http://me:hidden@[bad",
        "me:hidden@127.0.0.1:1",
        "socks5://me:hidden@127.0.0.1:1",
        "foo://me:hidden@127.0.0.1:1",
        "http://me:hidden@a..b",
        "http://me:hidden@h:99999",
    ],
)
def test_a_proxy_that_cannot_be(client: MakeClient, behind: Callable[[str], None], address: str) -> None:
    behind(address)
    for scheme in ("http", "https"):
        with pytest.raises(Unavailable, match="prox") as raised:
            client(f"{scheme}://store.invalid").ask("GET", "/x", "asking")
        assert not raised.value.passing
        assert "hidden" not in texts(raised.value)


def test_headers_that_cannot_be_sent(client: MakeClient) -> None:
    class Odd(Auth):
        said = ""

        def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
            request.headers["Authorization"] = self.said
            return request

    odd = Odd()
    with Scripted(always(EMPTY)) as server:
        for odd.said in ("Odd Łukasz", "Odd Lukasz\nX-Other: 1"):
            with pytest.raises(Unavailable, match=r"the login for it .* cannot be used") as raised:
                client(server.url, odd).ask("GET", "/x", "asking")
            assert not raised.value.passing
            assert "ukasz" not in texts(raised.value)
        assert server.requests == []


def test_a_failure_has_words_for_users() -> None:
    said = http.Answer(429, {"Retry-After": "3"}, b"", "cloud.example.org", "PUT")
    error = failure(said, "writing ab")
    assert str(error) == "writing ab: cloud.example.org asks us to slow down (429 to PUT)"
    assert isinstance(error, Busy)
    assert error.retry_after == 3.0
