"""Shares published on web servers: what their index pages say, and what they do not say."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from annex_remote.errors import BadSetting, Damaged, Denied, NotFound, StoreError, Unavailable
from annex_remote.model import Access, Login
from annex_remote.stores import check_address, open_store
from annex_remote.stores.web import WebStore
from annex_remote.stores.web import open_store as open_web
from tests.proxy import Request, Scripted
from tests.servers import Account, WebServer, apache_dav, make_certificates, nginx_static
from tests.servers.available import found
from tests.servers.ports import HOST
from tests.stores.kinds import MARKER
from tests.stores.test_contract import DATA, NAME, OTHER, PREFIXES, STRANGERS, VERBS, keep, read

ACCESS = Access(patience=5.0)
OWN = {NAME: 1, OTHER: 300, "ab/ab" + "2" * 30 + ".r17": 0, "22/22" + "z" * 30 + ".0": 70_000, MARKER: 6}


# Addresses.

FORMS = {
    "http://Example.ORG:80/annex/": "http://example.org/annex",
    "https://example.org:443": "https://example.org",
    "http://example.org:443/a b": "http://example.org:443/a%20b",
    "https://example.org/a?ca=/etc/my.pem": "https://example.org/a?ca=/etc/my.pem",
}


@pytest.mark.parametrize("address", FORMS)
def test_the_one_form_of_an_address(address: str) -> None:
    assert check_address(address) == FORMS[address]


@pytest.mark.parametrize(
    "address",
    [
        "http://me@h/a",
        "https://me:hidden@h/a",
        "http://h/a?ca=/etc/my.pem",
        "https://h/a?ca=my.pem",
        "https://h/a?region=x",
        "https://h/../a",
        "https:h",
        "https://",
    ],
)
def test_addresses_that_are_refused(address: str) -> None:
    with pytest.raises(BadSetting) as raised:
        check_address(address)
    assert "hidden" not in str(raised.value)


# Servers that list their folders.


class RcloneHttp(WebServer):
    program = "rclone"

    def prepare(self) -> list[str]:
        where = f"{self.host}:{self.port}"
        return [found("rclone"), "serve", "http", str(self.root), "--addr", where, "--config", os.devnull]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def python_http(root: Path) -> Iterator[str]:
    """Serve `root` as `python -m http.server` does: without ranges."""
    with ThreadingHTTPServer((HOST, 0), partial(_Quiet, directory=str(root))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://{HOST}:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def serving(make: Callable[..., WebServer] | None, folder: Path) -> Iterator[tuple[str, Path]]:
    """Serve a folder by a server of this kind, None for Python's; give its address and itself."""
    if make is None:
        (folder / "root").mkdir(parents=True)
        with python_http(folder / "root") as url:
            yield f"{url}/a%20b's", folder / "root" / "a b's"
    else:
        with make(folder) as server:
            yield f"{server.url}/a%20b's", server.root / "a b's"


LISTING: dict[str, Callable[..., WebServer] | None] = {
    "nginx": nginx_static,
    "apache": apache_dav,
    "rclone": RcloneHttp,
    "python": None,
}


@pytest.mark.parametrize("kind", LISTING)
def test_servers_that_list_their_folders(kind: str, tmp_path: Path) -> None:
    with serving(LISTING[kind], tmp_path / "web") as (url, root):
        for name, size in OWN.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(DATA[:size])
        for name in STRANGERS:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(b"not of this grid")
        (root / "ac" / ("ac" + "2" * 30 + ".0")).mkdir(parents=True)  # a folder with the name of a share
        (root / "dd").mkdir()
        store = open_store(url, MARKER, ACCESS)
        try:
            for prefix in [*PREFIXES, "d", "dd", "dd/", MARKER[:5]]:
                assert sorted(store.list(prefix)) == sorted(
                    item for item in OWN.items() if item[0].startswith(prefix)
                )
            for name, size in OWN.items():
                assert store.stat(name) == size
                assert read(store, name) == DATA[:size]
            for absent in ("ab/ab" + "7" * 30 + ".0", "ee/ee" + "7" * 30 + ".0"):
                assert store.stat(absent) is None
                with pytest.raises(NotFound):
                    read(store, absent)
            assert store.space() is None
        finally:
            store.close()


def test_a_server_without_ranges_can_be_read_whole(tmp_path: Path) -> None:
    with serving(None, tmp_path / "web") as (url, root):
        (root / NAME).parent.mkdir(parents=True)
        (root / NAME).write_bytes(DATA)
        store = open_web(url, ACCESS)
        try:
            assert read(store, NAME) == DATA
            assert read(store, NAME, 0, 100) == DATA[:100]
            with pytest.raises(Unavailable, match="does not serve ranges"):
                read(store, NAME, 1, 100)
        finally:
            store.close()


# Pages.


def page(*links: str) -> bytes:
    return f"<html><body>{' '.join(links)}</body></html>".encode()


def answer(status: int, body: bytes = b"", kind: str = "text/html") -> bytes:
    head = f"HTTP/1.1 {status} Said\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Site:
    """A web store whose server answers with `pages`, and with `rest` to all else; names in `files` are there."""

    def __init__(
        self, pages: dict[str, bytes], rest: bytes = answer(404), files: dict[str, int] | None = None
    ) -> None:
        self._pages = {path: answer(200, body) for path, body in pages.items()}
        self._rest = rest
        self._files = OWN if files is None else files
        self.server = Scripted(self._answer, keeps=True)
        self.store: WebStore = open_web(f"{self.server.url}/s", ACCESS)

    def _answer(self, request: Request, _: bytes) -> bytes:
        size = self._files.get(request.target.removeprefix("/s/"))
        if size is not None:
            head = answer(200, kind="application/octet-stream")
            return head.replace(b"Length: 0", b"Length: %d" % size)  # to HEAD: without a body
        return self._pages.get(request.target, self._rest)

    def listed(self, prefix: str = "") -> list[tuple[str, int]]:
        return list(self.store.list(prefix))

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()
        self.server.close()


SHARE = NAME.removeprefix("ab/")

LINKS = [
    f'<a href="{SHARE}">',
    f"<A HREF='{SHARE}' >",
    f"<a class=x href={SHARE}>",
    f'<a href="./{SHARE}">',
    f'<a href="/s/ab/{SHARE}">',
    f'<a href="../ab/{SHARE}">',
    f'<a href="{SHARE.replace("2", "%32", 1)}">',
    f'<a href="{SHARE.replace("2", "&#50;", 1)}">',
    f'<a href="{SHARE}"><img></a><a href="{SHARE}">',
    f'<a>x</a><a href><a href="http://[bad"><a href="{SHARE}">',
]


@pytest.mark.parametrize("link", LINKS)
def test_links_to_a_share(link: str) -> None:
    with Site({"/s/": page('<a href="ab/">'), "/s/ab/": page('<a href="../">', link)}) as site:
        assert site.listed() == [(NAME, 1)]
        assert site.listed("ab") == [(NAME, 1)]


OTHER_LINKS = [
    f'<a href="http://elsewhere.example/s/ab/{SHARE}">',
    f'<a href="//elsewhere.example/s/ab/{SHARE}">',
    f'<a href="https://127.0.0.1/s/ab/{SHARE}">',
    f'<a href="/ab/{SHARE}">',
    f'<a href="../{SHARE}">',
    f'<a href="x/{SHARE}">',
    f'<a href="{SHARE}/">',
    f'<a href="{SHARE}?C=N;O=D">',
    f'<a href="{SHARE}#top">',
    f'<a href="{SHARE.upper()}">',
    f'<a href="..%2fab%2f{SHARE}">',
    f'<a href="javascript:{SHARE}">',
    f'<!-- <a href="{SHARE}"> -->',
    SHARE,
]


@pytest.mark.parametrize("link", OTHER_LINKS)
def test_links_to_something_else(link: str) -> None:
    other = f'<a href="{OTHER.removeprefix("ab/")}">'
    with Site({"/s/": page('<a href="ab/">'), "/s/ab/": page(link, other)}) as site:
        assert site.listed("ab") == [(OTHER, 300)]


def test_what_is_gone_since_the_page_was_made_is_not_listed() -> None:
    with Site({"/s/": page('<a href="ab/">'), "/s/ab/": page(LINKS[0])}, files={}) as site:
        assert site.listed() == []


def test_a_folder_that_is_not_there_is_empty_where_others_are_listed() -> None:
    with Site({"/s/": page('<a href="ab/"> <a href="ac/">'), "/s/ab/": page(LINKS[0]), "/s/ac/": page()}) as site:
        for prefix in ("zz", "zz/zz", "z", "ac", "ab/zz"):
            assert site.listed(prefix) == []
        asked = len(site.server.requests)
        assert site.listed("zy") == []
        assert len(site.server.requests) == asked + 1  # it is known by now to list its folders


SILENT_SITES: dict[str, tuple[dict[str, bytes], bytes]] = {
    "folders-are-404": ({}, answer(404)),
    "folders-are-403": ({}, answer(403)),
    "every-folder-is-the-front-page": (
        {},
        answer(200, page('<a href="/about">', '<a href="en/">', '<a href="de/">')),
    ),
    "the-root-is-the-front-page": ({"/s/": page('<a href="en/">', '<a href="de/">')}, answer(404)),
    "other-things-are-listed": (
        {"/s/": page('<a href="readme">'), "/s/ab/": page('<a href="readme">')},
        answer(404),
    ),
    "no-links": ({"/s/": b"", "/s/ab/": b""}, answer(404)),
    "not-text": ({"/s/": bytes(range(256)) * 9}, answer(404)),
}


@pytest.mark.parametrize("how", SILENT_SITES)
def test_a_server_that_does_not_list_is_not_empty(how: str) -> None:
    """Its shares are there for who knows their names."""
    pages, rest = SILENT_SITES[how]
    for prefix in ("", "a", "ab", "ab/ab", "zz", NAME):
        with Site(pages, rest) as site:
            assert site.store.stat(NAME) == 1
            with pytest.raises(Unavailable, match="does not list its folders"):
                site.listed(prefix)


def test_a_page_that_breaks_off_is_no_list() -> None:
    for body in (b"<html><body>" + LINKS[0].encode(), b"", b"</html>" + bytes(500)):
        with Scripted(lambda _request, _body, body=body: b"HTTP/1.0 200 OK\r\n\r\n" + body) as server:  # type: ignore[misc]
            store = open_web(f"{server.url}/s", ACCESS)
            with pytest.raises(Unavailable, match="breaks off") as raised:
                list(store.list("ab"))
            assert raised.value.passing
            store.close()


@pytest.mark.parametrize("status", [401, 410, 429, 500, 503])
def test_a_server_that_is_in_trouble_is_not_empty(status: int) -> None:
    for prefix in ("", "ab", "zz"):
        pages = {"/s/": page('<a href="ab/">')} if prefix else {}
        with Site(pages, answer(status)) as site, pytest.raises(StoreError, match=f"{status} to GET") as raised:
            site.listed(prefix)
        assert not isinstance(raised.value, NotFound)


# What it does not do.


def test_nothing_is_written_or_removed() -> None:
    with Site({}) as site:
        with pytest.raises(Denied, match="read only") as raised:
            keep(site.store, NAME, DATA)
        assert not raised.value.wants_login
        with pytest.raises(Denied, match="read only"):
            site.store.delete(NAME)
        assert site.server.requests == []


@pytest.mark.parametrize("verb", VERBS)
def test_odd_names_are_refused(verb: str) -> None:
    with Site({}) as site:
        for name in ("../ab/ab" + "2" * 30 + ".0", "", "ab/", "ab/ab" + "2" * 30 + ".0?x"):
            with pytest.raises(Damaged):
                VERBS[verb](site.store, name)
        assert site.server.requests == []


def test_a_page_in_place_of_a_share() -> None:
    """Of a hotel that wants to be paid first, or of a site that has one for everything."""
    with Site({}, answer(200, page("Welcome")), files={}) as site:
        for ask in (site.store.stat, site.store.age, site.store.read):
            with pytest.raises(Unavailable, match="web page"):
                ask(NAME)


# Logins and certificates.


def test_a_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    account = Account()
    with nginx_static(tmp_path / "web", account=account) as server:
        (server.root / NAME).parent.mkdir(parents=True)
        (server.root / NAME).write_bytes(DATA)

        def asked(login: Login | None) -> bytes:
            store = open_web(server.url, Access(login, 5.0))
            try:
                assert store.stat(NAME) == len(DATA)
                assert list(store.list()) == [(NAME, len(DATA))]
                return read(store, NAME)
            finally:
                store.close()

        assert asked(Login(account.user, account.password)) == DATA
        for login in (None, Login(account.user, "hunter2"), Login("hunter2", account.password)):
            with pytest.raises(Denied) as raised:
                asked(login)
            assert raised.value.wants_login
            assert "hunter2" not in str(raised.value)
            assert account.password not in str(raised.value)
        store = open_web(server.url, ACCESS)
        for ask in (lambda: list(store.list()), lambda: list(store.list("ab")), lambda: read(store, NAME)):
            with pytest.raises(Denied) as raised:
                ask()
            assert raised.value.wants_login
        store.close()
        (tmp_path / "netrc").write_text(f'machine {HOST} login {account.user} password "{account.password}"\n')
        (tmp_path / "netrc").chmod(0o600)
        assert asked(None) == DATA


def test_a_certificate_of_ones_own(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path / "tls")
    with nginx_static(tmp_path / "web", certificate=certificates.good) as server:
        (server.root / NAME).parent.mkdir(parents=True)
        (server.root / NAME).write_bytes(DATA)
        trusting = open_web(f"{server.url}?ca={certificates.good.authority}", ACCESS)
        assert read(trusting, NAME) == DATA
        trusting.close()
        other = open_web(server.url, ACCESS)
        with pytest.raises(Unavailable, match="certificate is not trusted"):
            read(other, NAME)
        other.close()
