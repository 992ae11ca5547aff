"""What a store through rclone alone has to stand: the daemon's life, and remotes that answer in all ways."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from nacl.secret import SecretBox

from annex_remote.errors import (
    BadSetting,
    Busy,
    Damaged,
    Denied,
    Full,
    NotFound,
    StoreError,
    SwarmError,
    Unavailable,
)
from annex_remote.model import Access, Store
from annex_remote.stores import check_address, rcd
from annex_remote.stores.parts import LEFTOVER_AGE
from annex_remote.stores.rclone import open_store
from tests.fakes import WAIT, Run, wait_for
from tests.servers import nginx_dav, require, sshd
from tests.stores.test_contract import Halfway, assert_absent, giving, keep, read

NAME = "ab/ab" + "2" * 30 + ".0"
DATA = os.urandom(300_000)

Configure = Callable[..., Path]


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """Write a configuration of rclone with the remote `it`, and have a daemon of its own for the test."""
    require("rclone")
    rcd.rclone.end()

    def write(*lines: str, **more: str) -> Path:
        file = tmp_path / "rclone.conf"
        remotes = {"it": "\n".join(lines), **more}
        file.write_text("".join(f"[{name}]\n{text}\n" for name, text in remotes.items()), encoding="utf-8")
        monkeypatch.setenv("RCLONE_CONFIG", str(file))
        return file

    yield write
    rcd.rclone.end()


@pytest.fixture
def local(configure: Configure, tmp_path: Path) -> Store:
    """A store in the folder `store`, through rclone."""
    configure("type = local")
    return opened(f"it:{tmp_path}/store")


def opened(place: str, patience: float = 30.0) -> Store:
    return open_store(f"rclone:{place}", Access(patience=patience))


def daemon() -> int:
    """Return the process id of our daemon."""
    return int(rcd.rclone.ask("core/pid", {}, WAIT)["pid"])


def wait_for_end(pid: int) -> None:
    """Wait until a process, whosever child it is, is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], WAIT)[0], f"process {pid} is still there"
    finally:
        os.close(descriptor)


def until(what: Callable[[], object]) -> None:
    """Wait until another process has done something."""
    deadline = time.monotonic() + WAIT
    while not what():
        assert time.monotonic() < deadline, f"nothing happened for {WAIT:g} seconds"
        time.sleep(0.001)


def parts(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "incoming").glob("*"))


# Addresses.


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("gdrive:annex", "gdrive:annex"),
        ("gdrive:", "gdrive:"),
        ("gdrive:a//b/", "gdrive:a/b"),
        ("nas:/srv/annex/", "nas:/srv/annex"),
        ("nas:/", "nas:/"),
        ("My.Box_2+x@y-z:a b:c,d=e", "My.Box_2+x@y-z:a b:c,d=e"),
        ("two words:x", "two words:x"),
        ("größe:ä", "größe:ä"),
    ],
)
def test_an_address_has_one_form(given: str, kept: str) -> None:
    assert check_address(f"rclone:{given}") == f"rclone:{kept}"
    assert check_address(f"rclone:{kept}") == f"rclone:{kept}"


@pytest.mark.parametrize(
    "given",
    [
        *("", "gdrive", ":", ":annex", "/mnt/annex", "-x:annex", " x:annex", "x :annex", "a/b:annex", "a\n:annex"),
        *("gdrive:../annex", "gdrive:a/./b", "gdrive:a/..", "gdrive:.", "gdrive:a\nb", "gdrive:a\0", "gdrive:a]b"),
        ":webdav,url='https://u:hunter2@host/',pass=hunter2:annex",
        "dav,pass=hunter2:annex",
        "dav=hunter2:annex",
        "https://u:hunter2@host/annex",
    ],
)
def test_an_address_that_is_none_is_refused(given: str) -> None:
    with pytest.raises(BadSetting) as refused:
        check_address(f"rclone:{given}")
    assert "hunter2" not in str(refused.value)


# The daemon.


def test_without_rclone_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rcd.rclone.end()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="rclone is not installed"):
        opened("it:").stat(NAME)


def test_a_remote_that_is_not_configured_is_named(configure: Configure, tmp_path: Path) -> None:
    configure("type = local")
    for work in VERBS.values():
        with pytest.raises(Unavailable, match=r"'that'.*`rclone config`"):
            work(opened("that:x"))
    assert opened(f"it:{tmp_path}").stat(NAME) is None


def test_a_remote_may_be_configured_by_the_environment(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure("type = local")
    monkeypatch.setenv("RCLONE_CONFIG_OTHER_TYPE", "local")
    store = opened(f"other:{tmp_path}/store")
    keep(store, NAME, DATA)
    assert read(store, NAME) == DATA


def encrypted(text: str, password: str) -> str:
    """Encrypt a configuration as rclone does."""
    key = hashlib.sha256(f"[{password}][rclone-config]".encode()).digest()
    return "RCLONE_ENCRYPT_V0:\n" + base64.b64encode(SecretBox(key).encrypt(text.encode())).decode() + "\n"


def test_an_encrypted_configuration_is_not_asked_about(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = configure("type = local")
    file.write_text(encrypted(file.read_text(), "sesame"))
    store = opened(f"it:{tmp_path}/store")
    monkeypatch.delenv("RCLONE_CONFIG_PASS", raising=False)
    with pytest.raises(Unavailable, match=r"encrypted: .*RCLONE_CONFIG_PASS"):
        store.stat(NAME)
    monkeypatch.setenv("RCLONE_CONFIG_PASS", "wrong")
    with pytest.raises(Unavailable, match="encrypted"):
        store.stat(NAME)
    monkeypatch.setenv("RCLONE_CONFIG_PASS", "sesame")
    keep(store, NAME, DATA)
    assert read(store, NAME) == DATA


def test_a_configuration_that_is_none_is_reported(configure: Configure, tmp_path: Path) -> None:
    configure().write_text("this is\n[[not one\n")
    with pytest.raises(Unavailable, match=r"rclone does not start: .*rclone\.conf"):
        opened(f"it:{tmp_path}").stat(NAME)


def test_a_folder_of_this_machine_begins_with_a_slash(configure: Configure) -> None:
    configure("type = local")
    with pytest.raises(Unavailable, match="slash"):
        opened("it:annex").stat(NAME)


def test_one_daemon_serves_all_stores(local: Store, configure: Configure, tmp_path: Path) -> None:
    local.stat(NAME)
    first = daemon()
    configure("type = local", other="type = local")  # rclone reads its configuration again when it has changed
    other = opened(f"other:{tmp_path}/other")
    for run in [Run(lambda: keep(other, NAME, DATA)), Run(lambda: keep(local, NAME, DATA))]:
        run.join()
    local.close()
    assert read(other, NAME) == DATA
    assert daemon() == first


DYING = """
import signal, sys, threading
from annex_remote.model import Access
from annex_remote.stores.rcd import rclone
from annex_remote.stores.rclone import open_store

store = open_store(sys.argv[1], Access())
short_lived = threading.Thread(target=lambda: store.stat("ab/ab" + "2" * 30 + ".0"))
short_lived.start()
short_lived.join()
signal.signal(signal.SIGINT, signal.SIG_IGN)
print(rclone.ask("core/pid", {}, 30)["pid"], flush=True)
for line in sys.stdin:
    print(rclone.ask("core/pid", {}, 30)["pid"], flush=True)
"""


@contextmanager
def dying(address: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a process that has a daemon, whose process id it says whenever it is given a line."""
    with subprocess.Popen(
        [sys.executable, "-c", DYING, address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout
        yield process, int(process.stdout.readline())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, None], ids=["killed", "terminated", "at the end"])
def test_the_daemon_ends_with_us(configure: Configure, tmp_path: Path, how: signal.Signals | None) -> None:
    configure("type = local")
    with dying(f"rclone:it:{tmp_path}") as (process, pid):
        keeper = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        assert keeper != process.pid
        if how is None:
            assert process.stdin
            process.stdin.close()
        else:
            process.send_signal(how)
        wait_for_end(pid)
        wait_for_end(keeper)


def test_an_interruption_is_for_us_and_not_for_the_daemon(configure: Configure, tmp_path: Path) -> None:
    """Ctrl-C goes to all processes of the terminal; we may have to tidy up before we end."""
    configure("type = local")
    with dying(f"rclone:it:{tmp_path}") as (process, pid):
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate("\n", timeout=WAIT)[0] == f"{pid}\n"
    wait_for_end(pid)


def test_after_the_daemon_was_killed_another_takes_its_place(local: Store) -> None:
    keep(local, NAME, DATA)
    for _ in range(3):
        before = daemon()
        os.kill(before, signal.SIGKILL)
        wait_for_end(before)
        assert read(local, NAME) == DATA
        assert daemon() != before


def test_a_put_whose_daemon_is_killed_leaves_nothing(local: Store, tmp_path: Path) -> None:
    def fatal(offset: int) -> Iterator[bytes]:
        yield DATA[offset : len(DATA) // 2]
        until(lambda: parts(tmp_path / "store"))
        os.kill(daemon(), signal.SIGKILL)
        yield DATA[max(offset, len(DATA) // 2) :]

    with pytest.raises(Unavailable) as raised:
        local.put(NAME, len(DATA), fatal)
    assert raised.value.passing
    assert_absent(local, NAME)
    assert parts(tmp_path / "store") == []
    keep(local, NAME, DATA)
    assert read(local, NAME) == DATA


def test_a_source_that_fails_leaves_nothing_at_all(local: Store, tmp_path: Path) -> None:
    def failing(offset: int) -> Iterator[bytes]:
        yield DATA[offset:]
        raise EOFError

    for _ in range(20):
        with pytest.raises(EOFError):
            local.put(NAME, len(DATA) + 1, failing)
        assert parts(tmp_path / "store") == []


def test_what_the_user_told_rclone_for_other_work_does_not_matter(
    local: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "RCLONE_DRY_RUN": "true",
        "RCLONE_EXCLUDE": "*",
        "RCLONE_MAX_SIZE": "10",
        "RCLONE_IMMUTABLE": "true",
        "RCLONE_IGNORE_EXISTING": "true",
        "RCLONE_SUFFIX": ".old",
        "RCLONE_RC_ADDR": "127.0.0.1:1",
        "RCLONE_RC_PASS": "theirs",
        "RCLONE_LOG_FILE": str(tmp_path / "log"),
        "RCLONE_LOG_LEVEL": "ERROR",
        "RCLONE_HTTP_PROXY": "http://127.0.0.1:1",
        "http_proxy": "http://127.0.0.1:1",
    }.items():
        monkeypatch.setenv(name, value)
    keep(local, NAME, b"before")
    keep(local, NAME, DATA)
    assert read(local, NAME) == DATA
    assert list(local.list()) == [(NAME, len(DATA))]
    local.delete(NAME)
    assert_absent(local, NAME)


def test_nobody_else_gets_at_what_is_stored(local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others on the machine may come before the daemon to the port where the source is."""
    strangers: list[socket.socket] = []

    def create(*arguments: Any) -> socket.socket:
        listener = real(*arguments)
        for asks in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"POST /"):
            strangers.append(socket.create_connection(listener.getsockname()))
            strangers[-1].sendall(asks)
        strangers[0].shutdown(socket.SHUT_WR)
        return listener

    real = socket.create_server
    monkeypatch.setattr(socket, "create_server", create)
    keep(local, NAME, DATA)
    assert read(local, NAME) == DATA
    for stranger in strangers:
        with stranger:
            stranger.settimeout(WAIT)
            with suppress(ConnectionResetError):
                assert stranger.recv(100) == b""
    assert strangers


# Secrets.


def test_the_password_of_the_daemon_is_on_no_command_line(local: Store) -> None:
    seen: list[bytes] = []

    def looking(offset: int) -> Iterator[bytes]:
        yield DATA[offset:1000]
        seen.extend(line for path in Path("/proc").glob("[0-9]*/cmdline") for line in [content(path)] if line)
        yield DATA[max(1000, offset) :]

    local.put(NAME, len(DATA), looking)
    environment = Path(f"/proc/{daemon()}/environ").read_bytes().split(b"\0")
    (password,) = [line.partition(b"=")[2] for line in environment if line.startswith(b"RCLONE_RC_PASS=")]
    assert len(password) >= 32
    assert any(b"rcd" in line.split(b"\0") for line in seen)
    assert not [line for line in seen if password in line or b"http://127.0.0.1:" in line]


def content(path: Path) -> bytes:
    with suppress(OSError):
        return path.read_bytes()
    return b""


def test_without_the_password_the_daemon_says_nothing(local: Store) -> None:
    local.stat(NAME)
    (port,) = {
        int(line.split()[1].rpartition(":")[2], 16)
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and f"socket:[{line.split()[9]}]" in open_files(daemon())
    }
    with socket.create_connection(("127.0.0.1", port), WAIT) as connection:
        connection.sendall(b"POST /core/pid HTTP/1.0\r\nContent-Length: 0\r\n\r\n")
        assert b" 401 " in connection.recv(1000)


def open_files(pid: int) -> set[str]:
    return {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()}


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ('Put "https://u:hunter2@h:8/hunter2/x?sig=hunter2#hunter2": EOF', 'Put "https://h:8": EOF'),
        ("a sftp://u:hunter@2@host/hunter2 b\n c", "a sftp://host b c"),
        ("x password=hunter2, y", "x password=***, y"),
        ('{"access_token": "hunter2", "x": 1}', '{"access_token": "***", "x": 1}'),
        ("Authorization: Bearer hunter2", "Authorization: Bearer ***"),
        ("invalid token: it has expired", "invalid token: it has expired"),
        ("y" * 301, "y" * 300 + "..."),
    ],
)
def test_of_what_rclone_says_no_secret_is_shown(words: str, shown: str) -> None:
    with pytest.raises(rcd.RefusedError) as refused:
        rcd.parse(500, json.dumps({"error": words}).encode())
    assert refused.value.words == str(refused.value) == shown


# Remotes.


class Dav(ThreadingHTTPServer):
    """A WebDAV server that has one object and answers as it is told, by method."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.answers: dict[str, Callable[[_Answer], None] | int] = {}
        self.asked: list[str] = []
        self.size: int | None = len(DATA)
        self.free: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hunter2"

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are no news."""


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: Dav

    def _answer(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        answer = self.server.answers.get(self.command, self.server.answers.get("*", 0))
        if callable(answer):
            answer(self)
            return
        self.take()
        if answer:
            self.say(answer, b"<html>no</html>")
        else:
            self._answer_well()

    def _answer_well(self) -> None:
        if self.command == "PROPFIND":
            name = Path(self.path).name
            if "quota" in self.body.decode():
                self.say(207, propfind(self.path, f"<D:quota-available-bytes>{self.server.free}</>"))
            elif "." not in name or self.server.size is None:
                self.say(404, b"")
            else:
                self.say(207, propfind(self.path, f"<D:getcontentlength>{self.server.size}</>"))
        elif self.command == "GET":
            self.say(200, DATA)
        else:
            self.say(201, b"")

    def take(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def say(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Not to be heard."""

    do_GET = do_HEAD = do_POST = do_PUT = do_PROPFIND = do_MKCOL = do_MOVE = do_DELETE = _answer  # noqa: N815


def propfind(path: str, prop: str) -> bytes:
    prop = re.sub(r"<(\S+?)>([^<]*|<.*>)</>", r"<\1>\2</\1>", prop)
    return (
        '<?xml version="1.0"?><D:multistatus xmlns:D="DAV:"><D:response>'
        f"<D:href>{path}</D:href><D:propstat><D:prop>{prop}</D:prop><D:status>HTTP/1.1 200 OK</D:status>"
        "</D:propstat></D:response></D:multistatus>"
    ).encode()


@pytest.fixture
def dav(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dav]:
    monkeypatch.setenv("RCLONE_LOW_LEVEL_RETRIES", "1")  # it waits up to two seconds before each
    with Dav() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        configure("type = webdav", f"url = {server.url}", "vendor = other")
        yield server
        server.shutdown()
        thread.join(WAIT)


VERBS: dict[str, Callable[[Store], object]] = {
    "put": lambda store: keep(store, NAME, DATA),
    "read": lambda store: read(store, NAME),
    "read a range": lambda store: read(store, NAME, 5, 10),
    "read nothing": lambda store: read(store, NAME, 0, 0),
    "stat": lambda store: store.stat(NAME),
    "age": lambda store: store.age(NAME),
    "delete": lambda store: store.delete(NAME),
    "list": lambda store: list(store.list()),
    "list a folder": lambda store: list(store.list("ab/ab")),
    "space": lambda store: store.space(),
}

KINDS: dict[int, type[StoreError]] = {
    401: Denied,
    403: Denied,
    429: Busy,
    500: Unavailable,
    502: Unavailable,
    503: Unavailable,
    507: Full,
}


@pytest.mark.parametrize("status", KINDS)
def test_an_error_never_looks_like_absence(dav: Dav, status: int) -> None:
    store = opened("it:hunter2")
    dav.answers["*"] = status
    for verb, work in VERBS.items():
        with pytest.raises(StoreError) as raised:
            work(store)
        assert type(raised.value) is KINDS[status], verb
        assert getattr(raised.value, "passing", status >= 500) is (status >= 500), verb
        assert "hunter2" not in "".join(traceback.format_exception(raised.value)), verb
    dav.answers.clear()
    assert store.stat(NAME) == len(DATA)


@pytest.mark.parametrize("status", KINDS)
def test_an_error_about_one_object_never_looks_like_absence(dav: Dav, status: int) -> None:
    """rclone then has a look at its folder, if it is not told to want no folder, and finds nothing."""

    def fail(answer: _Answer) -> None:
        answer.take()
        if answer.path.endswith(NAME):
            answer.say(status, b"")
        else:
            answer.say(207, propfind(answer.path.rpartition("/")[0], "<D:resourcetype><D:collection/></>"))

    dav.answers["PROPFIND"] = fail
    store = opened("it:annex")
    for verb in ("stat", "age", "read", "read nothing", "delete"):
        with pytest.raises(KINDS[status]):
            VERBS[verb](store)


@pytest.mark.parametrize("status", [404, 429, 500])
def test_what_is_there_and_cannot_be_opened_is_not_absent(dav: Dav, status: int) -> None:
    """rclone's daemon then says 404, whatever the server said."""
    dav.answers["GET"] = status
    store = opened("it:annex")
    for start, length in ((0, None), (5, None), (5, 10)):
        with pytest.raises(Unavailable) as raised:
            read(store, NAME, start, length)
        assert raised.value.passing
    assert read(store, NAME, len(DATA)) == b""
    dav.size = None
    with pytest.raises(NotFound):
        read(store, NAME)


@pytest.mark.parametrize(
    ("said", "age"),
    [
        (lambda: formatdate(time.time() - 7200, usegmt=True), 7200.0),
        (lambda: formatdate(time.time() + 7200, usegmt=True), 0.0),
        (lambda: formatdate(86400, usegmt=True), None),
        (lambda: "yesterday", None),
        (None, None),
    ],
    ids=["past", "future", "1970", "garbage", "nothing"],
)
def test_when_something_was_put_as_far_as_it_is_told(
    dav: Dav, said: Callable[[], str] | None, age: float | None
) -> None:
    def look(answer: _Answer) -> None:
        answer.take()
        date = f"<D:getlastmodified>{said()}</>" if said else ""
        about = (
            f"<D:getcontentlength>{len(DATA)}</>{date}"
            if answer.path.endswith(NAME)
            else "<D:resourcetype><D:collection/></>"
        )
        answer.say(207, propfind(answer.path, about))

    dav.answers["PROPFIND"] = look
    found = opened("it:annex").age(NAME)
    assert found == (None if age is None else pytest.approx(age, abs=60))


@pytest.mark.parametrize(
    "item",
    [
        {},
        {"ModTime": None},
        {"ModTime": "2024-01-01T00:00:00"},  # where?
        {"ModTime": "0001-01-01T00:00:00Z"},
        {"ModTime": "2024-13-01T00:00:00Z"},
        {"ModTime": 1704067200},
        [],
    ],
    ids=str,
)
def test_a_time_that_cannot_be_read_is_none(local: Store, monkeypatch: pytest.MonkeyPatch, item: object) -> None:
    keep(local, NAME, DATA)
    monkeypatch.setattr(rcd.rclone, "ask", lambda *_: {"item": item})
    assert local.age(NAME) is None


def test_a_read_that_is_cut_is_no_whole(dav: Dav) -> None:
    def cut(answer: _Answer) -> None:
        answer.send_response(200)
        answer.send_header("Content-Length", str(len(DATA)))
        answer.end_headers()
        answer.wfile.write(DATA[:100_000])
        answer.wfile.flush()
        answer.connection.shutdown(socket.SHUT_RDWR)

    dav.answers["GET"] = cut
    with opened("it:annex").read(NAME) as stream, pytest.raises(Unavailable) as raised:
        list(stream)
    assert raised.value.passing


def test_a_server_that_is_gone_is_unavailable(dav: Dav) -> None:
    store = opened("it:annex")
    assert store.stat(NAME) == len(DATA)
    dav.shutdown()
    dav.server_close()
    dav.answers["*"] = lambda answer: setattr(answer, "close_connection", True)
    for verb in ("put", "read", "stat", "age", "delete", "list"):
        with pytest.raises(Unavailable) as raised:
            VERBS[verb](store)
        assert "hunter2" not in str(raised.value), verb


def test_a_full_server_that_does_not_say_so_is_full(dav: Dav) -> None:
    dav.answers["PUT"] = 500
    store = opened("it:annex")
    dav.free = len(DATA)
    with pytest.raises(Unavailable):
        keep(store, NAME, DATA)
    dav.free = len(DATA) - 1
    with pytest.raises(Full):
        keep(store, NAME, DATA)


def test_a_server_that_keeps_less_than_it_took_is_found_out(dav: Dav) -> None:
    dav.size = len(DATA) - 1
    with pytest.raises(Unavailable, match=r"299999 bytes of 300000|src 300000 vs dst.* 299999") as raised:
        keep(opened("it:annex"), NAME, DATA)
    assert raised.value.passing
    assert not [asked for asked in dav.asked if asked.startswith("MOVE")]


def test_a_server_may_show_a_little_late_what_it_has(dav: Dav) -> None:
    late = iter([False, True, True])  # rclone itself looks first

    def look(answer: _Answer) -> None:
        answer.take()
        if NAME[3:] in answer.path and next(late, False):
            answer.say(404, b"")
        else:
            answer._answer_well()

    dav.answers["PROPFIND"] = look
    keep(opened("it:annex"), NAME, DATA)
    assert next(late, None) is None
    assert [asked for asked in dav.asked if asked.startswith("MOVE")]


def test_a_server_that_says_nothing_is_given_up(dav: Dav) -> None:
    """And rclone is made to give up as well: the server sees the end of the connection."""
    hung_up = threading.Event()

    def silent(answer: _Answer) -> None:
        answer.take()
        if not answer.rfile.read(1):
            hung_up.set()

    dav.answers["PUT"] = silent
    before = time.monotonic()
    with pytest.raises(Unavailable, match=r"no further for 1\.5 seconds"):
        keep(opened("it:annex", patience=1.5), NAME, DATA)
    assert time.monotonic() - before < WAIT / 2
    wait_for(hung_up)
    assert not [asked for asked in dav.asked if asked.startswith("MOVE")]

    release = threading.Event()
    dav.answers = {"PROPFIND": lambda _: wait_for(release)}
    with pytest.raises(Unavailable, match=r"did not answer in 1\.5 seconds"):
        opened("it:annex", patience=1.5).stat(NAME)
    release.set()


def test_a_server_that_takes_nothing_more_is_given_up(dav: Dav) -> None:
    release = threading.Event()
    dav.answers["PUT"] = lambda _: wait_for(release)
    data = DATA * 200  # more than fits between us and it
    with pytest.raises(Unavailable, match="no further"):
        keep(opened("it:annex", patience=1.5), NAME, data)
    release.set()


def test_a_slow_server_is_not_given_up(dav: Dav) -> None:
    """As long as it takes something: what has left us is not all with it yet."""
    patience, times = 2.0, 6

    def slow(answer: _Answer) -> None:
        size = int(answer.headers["Content-Length"])
        for _ in range(times):
            time.sleep(patience / 4)
            answer.rfile.read(size // times)
        answer.rfile.read(size % times)
        answer.say(201, b"")

    dav.answers["PUT"] = slow
    data = DATA * 200
    dav.size = len(data)
    keep(opened("it:annex", patience), NAME, data)


def test_a_slow_server_is_not_given_up_when_rclone_has_everything(
    dav: Dav, configure: Configure, tmp_path: Path
) -> None:
    """To S3, rclone sends parts at once, each from its memory: nothing of our source is left to be taken."""
    patience, times, data = 2.0, 6, DATA * 120  # parts do not fit between rclone and it
    sizes: list[int] = []

    def take_slowly(answer: _Answer) -> None:
        size = int(answer.headers["Content-Length"])
        body = answer.rfile.read(size % times)
        for _ in range(times):
            time.sleep(patience / 4)
            body += answer.rfile.read(size // times)
        sizes.append(size)
        answer.say(200, b"", ETag=f'"{hashlib.md5(body).hexdigest()}"')

    def begin_or_end(answer: _Answer) -> None:
        answer.take()
        end = f"<CompleteMultipartUploadResult><ETag>{'0' * 32}-3</ETag></CompleteMultipartUploadResult>"
        begin = "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
        answer.say(200, (begin if answer.path.endswith("uploads=") else end).encode())

    def look(answer: _Answer) -> None:
        if sum(sizes) == len(data):
            answer.say(200, b"", **{"Content-Length": str(len(data))})
        else:
            answer.say(404, b"")

    dav.answers = {"PUT": take_slowly, "POST": begin_or_end, "HEAD": look}
    dav.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    configure(
        *("type = s3", "provider = Other", f"endpoint = {dav.url}", "access_key_id = a", "secret_access_key = b"),
        *("upload_cutoff = 16Mi", "chunk_size = 16Mi", "upload_concurrency = 3", "no_check_bucket = true"),
    )
    keep(opened("it:bucket/annex", patience), NAME, data)
    assert sorted(sizes) == [len(data) - (32 << 20), 16 << 20, 16 << 20]


def test_a_source_may_take_longer_than_a_server(dav: Dav) -> None:
    def slow(offset: int) -> Iterator[bytes]:
        yield DATA[offset:1000]
        time.sleep(2.5)
        yield DATA[max(1000, offset) :]

    opened("it:annex", patience=1.5).put(NAME, len(DATA), slow)


LOCAL_KINDS = {
    "local": ("type = local", "it:{}"),
    "alias": ("type = alias\nremote = {}", "it:"),
    "combine": ("type = combine\nupstreams = x={}", "it:x"),  # rclone removes what is there before it renames
}


def in_a_folder(kind: str, configure: Configure, folder: Path) -> Store:
    lines, address = LOCAL_KINDS[kind]
    configure(lines.format(folder))
    return opened(address.format(folder))


def test_the_same_size_is_not_the_same(configure: Configure, tmp_path: Path) -> None:
    """A damaged share is put again: with nothing but sizes to go by, rclone would take what is there for it."""
    with nginx_dav(tmp_path / "nginx") as server:
        configure("type = webdav", f"url = {server.url}", "vendor = other")
        store = opened("it:annex")
        for data in (DATA, DATA[::-1], DATA):
            keep(store, NAME, data)
            assert read(store, NAME) == data


@pytest.mark.parametrize("kind", LOCAL_KINDS)
def test_what_is_replaced_is_never_absent(configure: Configure, tmp_path: Path, kind: str) -> None:
    store = in_a_folder(kind, configure, tmp_path)
    keep(store, NAME, DATA)

    def replace() -> None:
        for turn in range(40):
            keep(store, NAME, DATA[turn:])

    replacing = Run(replace)
    while not replacing.is_over:
        assert kind == "combine" or (tmp_path / NAME).exists()
        assert store.stat(NAME)
        assert [name for name, _ in store.list("ab")] == [NAME]
        got = read(store, NAME)
        assert got == DATA[-len(got) :]
    replacing.join()


@pytest.mark.parametrize("place", ["it:annex", "before:annex"])
def test_a_server_that_renames_is_not_told_to_remove_first(dav: Dav, configure: Configure, place: str) -> None:
    configure("type = webdav", f"url = {dav.url}", "vendor = other", before="type = alias\nremote = it:")
    store = opened(place)
    assert store.stat(NAME) == len(DATA)
    keep(store, NAME, DATA)
    assert [asked for asked in dav.asked if asked.startswith("MOVE")]
    assert not [asked for asked in dav.asked if asked.startswith("DELETE")]


def test_how_far_the_daemon_is_can_be_seen(local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    local.stat(NAME)
    running, line = rcd.rclone.connect(WAIT)
    line.close()
    for pid in (daemon(), 0):  # for 0, nothing is to be learned from the system
        monkeypatch.setattr(running, "_pid", pid)
        before = running.written()
        keep(local, NAME, DATA)
        assert running.written() >= before + len(DATA)


def test_two_puts_of_one_name_do_not_meet(configure: Configure, tmp_path: Path) -> None:
    configure("type = local")
    store = opened(f"it:{tmp_path}")
    source = Halfway(DATA)
    put = Run(lambda: store.put(NAME, len(DATA), source))
    wait_for(source.reached)
    keep(store, NAME, b"other")
    assert read(store, NAME) == b"other"
    assert len(parts(tmp_path)) == 1
    source.release.set()
    put.join()
    assert read(store, NAME) == DATA
    assert parts(tmp_path) == []


def test_what_a_killed_upload_left_is_removed_a_day_later(local: Store, tmp_path: Path) -> None:
    folder = tmp_path / "store" / "incoming"
    folder.mkdir(parents=True)
    old = time.time() - LEFTOVER_AGE - 60
    ours = NAME[3:] + ".0123456789abcdef"
    for name, when in {ours: old, ours[:-1] + "e": old + 120, "theirs": old, ours + ".x": old}.items():
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (when, when))
    keep(local, NAME, DATA)
    assert parts(tmp_path / "store") == sorted(["theirs", ours[:-1] + "e", ours + ".x"])


def test_sftp_leaves_the_users_configuration_alone(configure: Configure, tmp_path: Path) -> None:
    """rclone would log in to a shell to find out what programs there are, and write that down."""
    with sshd(tmp_path / "sshd", shell=True) as server:
        client = server.client
        file = configure(
            *("type = sftp", f"host = {server.host}", f"port = {server.port}", f"user = {client.user}"),
            *(f"key_file = {client.key}", f"known_hosts_file = {client.known_hosts}"),
        )
        before = file.read_text()
        store = opened(f"it:{server.root}/annex")
        keep(store, NAME, DATA)
        keep(store, NAME, DATA[1:])
        assert read(store, NAME, 5, 10) == DATA[6:16]
        assert file.read_text() == before


def test_odd_paths_are_found_again(configure: Configure, tmp_path: Path) -> None:
    configure("type = local")
    root = tmp_path / "a%20b #?&[c;ä+'\""
    store = opened(f"it:{root}")
    keep(store, NAME, DATA)
    assert (root / NAME).read_bytes() == DATA
    assert read(store, NAME, 5, 10) == DATA[5:15]
    assert list(store.list("ab")) == [(NAME, len(DATA))]
    with pytest.raises(Damaged):
        store.put(NAME, 5, giving(DATA))
    assert isinstance(store.space(), int)
    store.delete(NAME)
    with suppress(SwarmError):
        assert_absent(store, NAME)
