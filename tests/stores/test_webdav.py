"""What only WebDAV has: servers that cannot move, quotas, leftovers, and answers in XML of every kind."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from email.utils import formatdate
from pathlib import Path
from urllib.parse import unquote

import pytest

from annex_remote.errors import BadSetting, Busy, Damaged, Denied, Exists, Full, NotFound, StoreError, Unavailable
from annex_remote.model import Access, Login
from annex_remote.stores import webdav
from annex_remote.stores.webdav import WebDavStore, check
from tests.fakes import WAIT, Run
from tests.proxy import Fault, Proxy, Request, Scripted
from tests.servers import (
    Account,
    Certificates,
    WebServer,
    apache_dav,
    make_certificates,
    nginx_dav,
    rclone_dav,
    wsgidav,
)
from tests.servers.ports import HOST
from tests.stores.test_contract import breaking, giving, keep, listed, read
from tests.stores.test_http import answer, texts

NAME = "ab/ab" + "2" * 30 + ".0"
OTHER = "ab/ab" + "3" * 30 + ".12"
DATA = os.urandom(300_000)
SERVERS: tuple[Callable[..., WebServer], ...] = (nginx_dav, apache_dav, wsgidav, rclone_dav)

MakeStore = Callable[..., WebDavStore]


@pytest.fixture
def opened() -> Iterator[MakeStore]:
    """Opens stores, as they are without wrappers, at the URL of a server."""
    made: list[WebDavStore] = []

    def make(url: str, path: str = "/annex", login: Login | None = None, patience: float = 10.0) -> WebDavStore:
        made.append(webdav.open_store(url.replace("http", "dav", 1) + path, Access(login, patience)))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[WebServer]:
    with nginx_dav(tmp_path / "nginx") as server:
        yield server


@pytest.fixture
def proxy(nginx: WebServer) -> Iterator[Proxy]:
    with Proxy(nginx.host, nginx.port) as between:
        yield between


def files(server: WebServer, root: str = "annex") -> list[str]:
    there = server.root / root
    return sorted(str(path.relative_to(there)) for path in there.rglob("*") if path.is_file())


# Addresses.


@pytest.mark.parametrize(
    ("given", "one_form"),
    [
        ("dav://nas", "dav://nas"),
        ("dav://NAS:80/", "dav://nas"),
        ("davs://nas:443/a//b/", "davs://nas/a/b"),
        ("davs://nas:80/a b/ü", "davs://nas:80/a%20b/%C3%BC"),
        ("davs://nas/%61%25?ca=/etc/my%20ca.pem", "davs://nas/a%25?ca=/etc/my+ca.pem"),
    ],
)
def test_addresses_have_one_form(given: str, one_form: str) -> None:
    assert check(given) == check(one_form) == one_form


@pytest.mark.parametrize(
    "address", ["dav://", "davs://me:hidden@nas/a", "davs://me@nas", "dav://nas/?x=1", "dav:nas"]
)
def test_addresses_that_cannot_be(address: str) -> None:
    with pytest.raises(BadSetting) as raised:
        check(address)
    assert "hidden" not in texts(raised.value)


@pytest.mark.parametrize("make", SERVERS)
@pytest.mark.parametrize("path", ["", "/a/b/c", "/with blank/ü", "/100%25 (a+b)/~x;y,z'!$@", "/ab"])
def test_any_place_on_any_server(
    opened: MakeStore, tmp_path: Path, make: Callable[..., WebServer], path: str
) -> None:
    with make(tmp_path / "dav") as server:
        store = opened(server.url, path)
        assert listed(store) == []
        assert store.stat(NAME) is None
        for data in (DATA, b"", b"again"):
            keep(store, NAME, data)
            assert listed(store) == [(NAME, len(data))]
            assert read(store, NAME) == data
            assert (server.root / unquote(path).strip("/") / NAME).read_bytes() == data
        assert store.space() is None or make is not nginx_dav
        store.delete(NAME)
        assert files(server, unquote(path).strip("/")) == []


@pytest.mark.parametrize("make", SERVERS)
def test_folders_that_somebody_takes_away_are_made_again(
    opened: MakeStore, tmp_path: Path, make: Callable[..., WebServer]
) -> None:
    with make(tmp_path / "dav") as server:
        store = opened(server.url)
        keep(store, NAME, DATA)
        for gone in ("annex", "annex/incoming", "annex/ab"):
            shutil.rmtree(server.root / gone)
            with suppress(Unavailable):  # and never NotFound: it is no word about the share
                keep(store, NAME, DATA)
            keep(store, NAME, DATA)
            assert read(store, NAME) == DATA
            assert files(server) == [NAME]


# Publishing.


@pytest.mark.parametrize("status", [405, 501])
def test_a_server_that_cannot_move_is_asked_once(
    opened: MakeStore, nginx: WebServer, proxy: Proxy, status: int
) -> None:
    proxy.misbehave(Fault(status=status), methods=["MOVE"])
    store = opened(proxy.url)
    for name in (NAME, OTHER, NAME):
        keep(store, name, DATA)
        assert read(store, name) == DATA
    assert files(nginx) == sorted([NAME, OTHER])
    assert proxy.count("MOVE") == 1
    assert proxy.count("PUT") == 4


@pytest.fixture
def open_server(tmp_path: Path) -> Iterator[tuple[WebServer, Proxy]]:
    """A server that shows what is being sent, and cannot move."""
    with wsgidav(tmp_path / "dav") as server, Proxy(server.host, server.port) as between:
        between.misbehave(Fault(status=405), methods=["MOVE"])
        yield server, between


def test_what_is_sent_to_its_name_and_breaks_off_is_removed(
    opened: MakeStore, open_server: tuple[WebServer, Proxy]
) -> None:
    server, proxy = open_server
    store = opened(proxy.url)
    keep(store, OTHER, DATA)
    looking = opened(server.url)
    for error in (KeyboardInterrupt(), OSError(5, "of the source"), Unavailable("of the source")):

        def breaks_off(_: int, error: BaseException = error) -> Iterator[bytes]:
            yield DATA[:200_000]
            deadline = time.monotonic() + WAIT
            while looking.stat(NAME) is None:
                assert time.monotonic() < deadline
            raise error

        with pytest.raises(type(error)) as raised:
            store.put(NAME, len(DATA), breaks_off)
        assert raised.value is error
        assert store.stat(NAME) is None
        assert files(server) == [OTHER]
    assert read(store, OTHER) == DATA


@pytest.mark.parametrize("status", [403, 413, 423, 429, 500, 507])
def test_a_refusal_does_not_cost_what_was_there(
    opened: MakeStore, open_server: tuple[WebServer, Proxy], status: int
) -> None:
    """Where a share is sent to its name directly, that is where the last good one is."""
    server, proxy = open_server
    store = opened(proxy.url)
    keep(store, NAME, b"what was there")
    proxy.misbehave(Fault(status=status), methods=["PUT"], times=1)
    with pytest.raises(StoreError):
        keep(store, NAME, DATA)
    assert files(server) == [NAME]
    assert read(store, NAME) == b"what was there"
    keep(store, NAME, DATA)
    proxy.misbehave(Fault(cut_answer=0), methods=["PUT"], times=1)
    with pytest.raises(Unavailable):  # it arrived whole, and nobody said so
        keep(store, NAME, DATA)
    assert read(store, NAME) == DATA


MOVES: list[tuple[int, type[StoreError], int]] = [
    (400, Unavailable, 1),
    (401, Denied, 1),
    (403, Denied, 8),
    (404, Unavailable, 8),
    (409, Unavailable, 8),
    (413, Full, 1),
    (423, Busy, 8),
    (429, Busy, 1),
    (500, Unavailable, 8),
    (503, Busy, 1),
    (507, Full, 1),
]


@pytest.mark.parametrize(("status", "kind", "times"), MOVES)
def test_a_move_that_fails(
    opened: MakeStore, nginx: WebServer, proxy: Proxy, status: int, kind: type[StoreError], times: int
) -> None:
    """Nothing changes, nothing is left, and who has no time or no space is not asked at once again."""
    store = opened(proxy.url)
    keep(store, NAME, b"what was there")
    proxy.misbehave(Fault(status=status, headers={"Retry-After": "7"}), methods=["MOVE"])
    before = proxy.count("MOVE")
    with pytest.raises(kind) as raised:
        keep(store, NAME, DATA)
    assert type(raised.value) is kind
    assert getattr(raised.value, "retry_after", 7.0) == 7.0
    assert proxy.count("MOVE") == before + times
    assert proxy.count("PUT") == 2
    assert files(nginx) == [NAME]
    assert read(store, NAME) == b"what was there"


@pytest.mark.parametrize(
    "fault",
    [Fault(hang_answer=0), Fault(cut_answer=0), Fault(status=502), Fault(status=504)],
    ids=["silent", "cut", "502", "504"],
)
def test_a_move_that_is_not_answered_is_left_alone(
    opened: MakeStore, nginx: WebServer, proxy: Proxy, fault: Fault
) -> None:
    """It may be under way: who takes the file away now may have neither the old nor the new one."""
    store = opened(proxy.url, patience=0.5 if fault.hang_answer == 0 else 10.0)
    keep(store, NAME, b"what was there")
    proxy.misbehave(fault, methods=["MOVE"])
    with pytest.raises(Unavailable) as raised:
        keep(store, NAME, DATA)
    assert raised.value.passing == (fault.hang_answer is None)
    assert proxy.count("DELETE") == 0
    assert proxy.count("MOVE") <= 2  # what hangs is not counted
    # The proxy has passed on what it did not answer itself.
    assert (read(store, NAME) == DATA) == (fault.status is None)
    assert len(files(nginx)) == (1 if fault.status is None else 2)


PUTS: list[tuple[Fault, type[StoreError]]] = [
    (Fault(status=400), Unavailable),
    (Fault(status=401), Denied),
    (Fault(status=403), Denied),
    (Fault(status=404), Unavailable),
    (Fault(status=409), Unavailable),
    (Fault(status=413), Full),
    (Fault(status=423, headers={"Retry-After": "7"}), Busy),
    (Fault(status=429, headers={"Retry-After": "7"}), Busy),
    (Fault(status=500), Unavailable),
    (Fault(status=507), Full),
    (Fault(cut_request=1000), Unavailable),
    (Fault(cut_answer=0), Unavailable),
]


@pytest.mark.parametrize(("fault", "kind"), PUTS)
def test_a_put_that_fails(
    opened: MakeStore, nginx: WebServer, proxy: Proxy, fault: Fault, kind: type[StoreError]
) -> None:
    store = opened(proxy.url)
    keep(store, NAME, b"what was there")
    proxy.misbehave(fault, methods=["PUT"])
    with pytest.raises(kind, match=rf"^writing {NAME}: 127.0.0.1") as raised:
        keep(store, NAME, DATA)
    assert type(raised.value) is kind
    assert getattr(raised.value, "retry_after", 7.0) == 7.0
    assert proxy.count("PUT") == 2
    assert files(nginx) == [NAME]
    assert read(store, NAME) == b"what was there"


def test_a_size_that_is_shown_wrongly_is_not_published(opened: MakeStore, nginx: WebServer, proxy: Proxy) -> None:
    store = opened(proxy.url)
    proxy.misbehave(Fault(status=200, headers={"Content-Length": "7"}), methods=["HEAD"])
    with pytest.raises(Unavailable, match="took 300000 bytes, and shows 7") as raised:
        keep(store, NAME, DATA)
    assert raised.value.passing
    assert files(nginx) == []


def test_many_threads_at_a_server_that_cannot_move(opened: MakeStore, nginx: WebServer, proxy: Proxy) -> None:
    proxy.misbehave(Fault(status=405), methods=["MOVE"])
    store = opened(proxy.url, patience=30.0)
    names = [f"ab/ab{'2' * 30}.{number}" for number in range(16)]
    barrier = threading.Barrier(len(names))

    def work(name: str) -> None:
        barrier.wait(30)
        keep(store, name, DATA)

    for run in [Run(lambda name=name: work(name)) for name in names]:  # type: ignore[misc]
        run.join()
    assert files(nginx) == sorted(names)


@pytest.mark.parametrize("status", [405, 501])
def test_a_fresh_put_where_nothing_can_be_moved(
    opened: MakeStore, nginx: WebServer, proxy: Proxy, status: int
) -> None:
    proxy.misbehave(Fault(status=status), methods=["MOVE"])
    store = opened(proxy.url)
    keep(store, NAME, DATA, fresh=True)
    for _ in range(2):
        with pytest.raises(Exists, match="has it already"):
            keep(store, NAME, b"other", fresh=True)
        assert read(store, NAME) == DATA
        assert files(nginx) == [NAME]


def test_a_fresh_put_that_fails_for_another_reason(opened: MakeStore, nginx: WebServer, proxy: Proxy) -> None:
    proxy.misbehave(Fault(status=412), methods=["MOVE"])
    with pytest.raises(Unavailable, match="412 to MOVE"):
        keep(opened(proxy.url), NAME, DATA, fresh=True)
    assert files(nginx) == []


def test_a_fresh_put_leaves_no_part(opened: MakeStore, nginx: WebServer) -> None:
    store = opened(nginx.url)
    keep(store, NAME, DATA, fresh=True)
    with pytest.raises(Exists, match="has it already"):
        keep(store, NAME, b"other", fresh=True)
    assert files(nginx) == [NAME]


# Leftovers.


def test_old_leftovers_of_our_own_are_removed_once(opened: MakeStore, nginx: WebServer, proxy: Proxy) -> None:
    incoming = nginx.root / "annex" / "incoming"
    own = "ab" + "2" * 30 + ".0.0123456789abcdef"
    strange = ["README", own + ".txt", own[:-1], own[1:], own.upper(), "ab" + "2" * 30 + ".0", f".{own}"]
    now = time.time()

    def plant() -> None:
        for name, age in (*((name, 10 * 86_400) for name in (own, *strange)), (own[:-1] + "0", 86_000)):
            (incoming / name).write_bytes(b"x")
            os.utime(incoming / name, (now - age, now - age))

    (incoming / (own[:-1] + "1")).mkdir(parents=True)
    os.utime(incoming / (own[:-1] + "1"), (now - 10 * 86_400,) * 2)
    plant()
    store = opened(proxy.url)
    keep(store, NAME, DATA)
    stays = sorted([*strange, own[:-1] + "0", own[:-1] + "1"])
    assert sorted(os.listdir(incoming)) == stays
    assert proxy.count("DELETE") == 1
    plant()
    keep(store, NAME, DATA)
    assert sorted(os.listdir(incoming)) == sorted([own, *stays])


def test_a_sweep_that_fails_does_not_stop_a_put(opened: MakeStore, nginx: WebServer, proxy: Proxy) -> None:
    for fault in (Fault(status=500), Fault(status=403), Fault(cut_answer=0), Fault(cut_answer=50)):
        proxy.misbehave(fault, methods=["PROPFIND"])
        keep(opened(proxy.url), NAME, DATA)
        proxy.behave()


class Dav(Scripted):
    """Answers each method as it is told to; what is put is taken, and what is looked at has its size."""

    def __init__(self, **said: bytes) -> None:
        self.said = said
        self.size = 0
        super().__init__(self._say, keeps=True)

    def _say(self, request: Request, body: bytes) -> bytes:
        if request.method == "PUT":
            self.size = len(body)
        usual = {"HEAD": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % self.size, "PROPFIND": answer(404)}
        return self.said.get(request.method, usual.get(request.method, answer(201)))

    def count(self, method: str) -> int:
        return sum(request.method == method for request in self.requests)


def multistatus(*responses: str) -> bytes:
    text = (
        f'<?xml version="1.0" encoding="utf-8"?><D:multistatus xmlns:D="DAV:">{"".join(responses)}</D:multistatus>'
    )
    return text.encode()


def told(href: str, size: object = None, *, folder: bool = False, modified: str = "", quota: str = "") -> str:
    kind = "<D:collection/>" if folder else ""
    props = f"<D:resourcetype>{kind}</D:resourcetype><D:getlastmodified>{modified}</D:getlastmodified>"
    props += "" if size is None else f"<D:getcontentlength>{size}</D:getcontentlength>"
    props += f"<D:quota-available-bytes>{quota}</D:quota-available-bytes>" if quota else ""
    ok = "<D:status>HTTP/1.1 200 OK</D:status>"
    return f"<D:response><D:href>{href}</D:href><D:propstat><D:prop>{props}</D:prop>{ok}</D:propstat></D:response>"


YEAR = 365 * 86_400
NOW = time.time()
CLOCKS: dict[str, tuple[float | None, str, int]] = {
    "without-a-clock": (0.0, formatdate(0, usegmt=True), 0),  # it has just been switched on
    "of-last-year": (NOW - YEAR, formatdate(NOW - YEAR, usegmt=True), 0),
    "of-next-year": (NOW, formatdate(NOW + YEAR, usegmt=True), 0),
    "none": (NOW, "", 0),
    "no-date": (NOW, "yesterday", 0),
    "no-day": (NOW, "Mon, 99 Foo 20000 99:99:99 GMT", 0),
    "not-said": (None, formatdate(0, usegmt=True), 0),
    "old": (NOW - YEAR, formatdate(NOW - YEAR - 90_000, usegmt=True), 1),
}


@pytest.mark.parametrize("which", CLOCKS)
def test_the_age_of_leftovers_is_by_the_servers_clock(opened: MakeStore, which: str) -> None:
    clock, modified, removed = CLOCKS[which]
    part = told(f"/annex/incoming/ab{'2' * 30}.0.0123456789abcdef", 1, modified=modified)
    date = {} if clock is None else {"Date": formatdate(clock, usegmt=True)}
    with Dav(PROPFIND=answer(207, multistatus(told("/annex/incoming/", folder=True), part), **date)) as server:
        keep(opened(server.url), NAME, DATA)
        assert server.count("DELETE") == removed


# Free space.


@pytest.mark.parametrize(
    ("quota", "space"),
    [
        ("0", 0),
        ("1000", 1000),
        (" 1000\n", 1000),
        ("-1", None),
        ("-3", None),
        ("", None),
        ("1.5e9", None),
        ("²", None),
        ("unlimited", None),
        ("9" * 5_000, None),
        ("18446744073709551615", None),
    ],
)
def test_space_is_the_quota(opened: MakeStore, quota: str, space: int | None) -> None:
    with Dav(PROPFIND=answer(207, multistatus(told("/annex/", folder=True, quota=quota)))) as server:
        assert opened(server.url).space() == space


def test_a_full_server_that_has_no_word_for_it(opened: MakeStore) -> None:
    """Its quota tells: otherwise what failed would be tried again, or taken for a server that is ill."""
    for quota, kind in (("299999", Full), ("300000", Unavailable), ("-1", Unavailable)):
        found = answer(207, multistatus(told("/annex/", folder=True, quota=quota)))
        for fault in (Fault(status=500), Fault(cut_answer=0), Fault(cut_request=1000)):
            with Dav(PROPFIND=found) as server, Proxy(HOST, server.port) as between:
                between.misbehave(fault, methods=["PUT"])
                with pytest.raises(kind) as raised:
                    keep(opened(between.url), NAME, DATA)
                assert type(raised.value) is kind
                assert between.count("PUT") == 1
            if kind is Full:
                assert "has 299999 bytes left, and 300000 are needed" in str(raised.value)


@pytest.mark.parametrize("error", [Unavailable("of the source", passing=True), NotFound("of the source")])
def test_what_the_source_says_is_not_of_the_server(opened: MakeStore, error: StoreError) -> None:
    found = answer(207, multistatus(told("/annex/", folder=True, quota="1")))
    with Dav(PROPFIND=found) as server:
        with pytest.raises(type(error)) as raised:
            opened(server.url).put(NAME, len(DATA), breaking(DATA[:1000], error))
        assert raised.value is error


# What comes as XML.

FOUND = f"ab{'2' * 30}.0"
HREFS = [
    ("/annex/", "/annex/ab/", f"/annex/ab/{FOUND}"),
    ("/annex", "/annex/ab", f"/annex/ab/{FOUND}"),
    (
        "http://inside:8080/srv/dav/annex/",
        "http://inside:8080/srv/dav/annex/ab/",
        f"http://inside:8080/ab/{FOUND}",
    ),
    ("//annex/", "//ab/", f"//ab/{FOUND}"),
    ("\n /annex/ \n", "\n /annex/ab/ \n", f"\n /annex/ab/{FOUND} \n"),
    ("/annex/?x=/", "/annex/%61b/?x=/", f"/annex/ab/{FOUND.replace('.', '%2E')}?x=/y"),
    ("annex/", "ab/", FOUND),
    ("/%FF/", "/%FF/ab/", f"/%FF/ab/{FOUND}"),
    ("http://[bad/", "http://[bad/ab/", f"http://[bad/ab/{FOUND}"),
]


@pytest.mark.parametrize("hrefs", HREFS, ids=lambda hrefs: str(hrefs[1]).strip())
def test_names_in_any_form(opened: MakeStore, hrefs: tuple[str, str, str]) -> None:
    root, folder, file = hrefs

    class Listing(Dav):
        def _say(self, request: Request, body: bytes) -> bytes:
            if request.target == "/annex/":
                return answer(207, multistatus(told(root, folder=True), told(folder, folder=True)))
            return answer(207, multistatus(told(folder, folder=True), told(file, 17)))

    with Listing() as server:
        assert listed(opened(server.url)) == [(NAME, 17)]
        assert [request.target for request in server.requests] == ["/annex/", "/annex/ab/"]


def test_properties_that_are_said_one_by_one(opened: MakeStore) -> None:
    ok, no = "<s:status>HTTP/1.1 200</s:status>", "<s:status>HTTP/1.1 404 Not Found</s:status>"
    body = (
        "<s:multistatus xmlns:s='DAV:' xmlns:x='other'><s:response><s:href>/annex/ab/</s:href>"
        f"<s:propstat><s:prop><s:resourcetype><s:collection/></s:resourcetype></s:prop>{ok}</s:propstat></s:response>"
        f"<s:response><s:href>/annex/ab/{FOUND}</s:href>"
        f"<s:propstat><s:prop><s:resourcetype/><x:getcontentlength>1</x:getcontentlength></s:prop>{ok}</s:propstat>"
        f"<s:propstat><s:prop><s:getcontentlength>2</s:getcontentlength></s:prop>{no}</s:propstat>"
        f"<s:propstat><s:prop><s:getcontentlength>17</s:getcontentlength></s:prop>{ok}</s:propstat>"
        "</s:response></s:multistatus>"
    )
    with Dav(PROPFIND=answer(207, body.encode())) as server:
        assert listed(opened(server.url), "ab/") == [(NAME, 17)]


def test_a_share_whose_size_is_not_listed_is_looked_at(opened: MakeStore) -> None:
    for said in (None, "", "-5", "²", "9" * 5_000):
        with Dav(PROPFIND=answer(207, multistatus(told("/annex/ab/", folder=True), told(FOUND, said)))) as server:
            server.size = 23
            assert listed(opened(server.url), "ab/") == [(NAME, 23)]


BOMB = b"".join(b'<!ENTITY e%d "%s">' % (number, b"&e%d;" % (number - 1) * 20) for number in range(1, 9))
NONSENSE: dict[str, bytes] = {
    "nothing": b"",
    "text": b"hello",
    "page": b"<html><body>Log in</body></html>",
    "broken-off": multistatus(told("/annex/", folder=True))[:-20],
    "two": multistatus() * 2,
    "no-namespace": b"<multistatus/>",
    "other-encoding": b'<?xml version="1.0" encoding="nonsense"?><multistatus xmlns="DAV:"/>',
    "not-utf-8": b"<multistatus xmlns='DAV:'>\xff</multistatus>",
    "doctype": b'<!DOCTYPE x [<!ENTITY e "ab">]>' + multistatus(told("/annex/&e;/", folder=True))[38:],
    "file": b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>' + multistatus(told("/annex/&e;"))[38:],
    "bomb": b'<!DOCTYPE x [<!ENTITY e0 "ha">' + BOMB + b"]>" + multistatus(told("/annex/&e8;/", folder=True))[38:],
    "hidden-doctype": "<!DOCTYPE x [<!ENTITY e 'ab'>]><multistatus xmlns='DAV:'>&e;</multistatus>".encode(
        "utf-16"
    ),
    "cut-list": multistatus(
        told("/annex/", folder=True),
        "<D:response><D:href>/annex/</D:href><D:status>HTTP/1.1 507 Too many</D:status></D:response>",
    ),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_what_is_not_webdav_says_nothing_about_shares(opened: MakeStore, what: str) -> None:
    with Dav(PROPFIND=answer(207, NONSENSE[what]), HEAD=b"HTTP/1.1 200 OK\r\n\r\n") as server:
        store = opened(server.url)
        for ask in (lambda: listed(store), lambda: listed(store, "ab/"), store.space):
            with pytest.raises(Unavailable, match="answered with something that is not WebDAV") as raised:
                ask()
            assert raised.value.passing


def test_members_that_are_not_for_us_do_not_spoil_a_list(opened: MakeStore) -> None:
    forbidden = "<D:response><D:href>/annex/ab/x</D:href><D:status>HTTP/1.1 403 Forbidden</D:status></D:response>"
    found = multistatus(told("/annex/ab/", folder=True), forbidden, told(FOUND, 17))
    with Dav(PROPFIND=answer(207, found)) as server:
        assert listed(opened(server.url), "ab/") == [(NAME, 17)]


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Type: text/html\r\nContent-Length: 1234",  # of a hotel's network, before one has paid
        b"Content-Length: \xb2",
        b"Content-Length: 12\r\nContent-Encoding: gzip",
        b"X: y",
    ],
)
def test_a_size_is_believed_of_a_share_only(opened: MakeStore, head: bytes) -> None:
    said = b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n"
    page, silent = answer(200, b"<html/>", Content_Type="text/html"), answer(207, multistatus(told("/x")))
    for found, words in ((page, "failed"), (silent, "does not say how long it is")):
        with Dav(HEAD=said, PROPFIND=found) as server, pytest.raises(Unavailable, match=words):
            opened(server.url).stat(NAME)
    with Dav(HEAD=said, PROPFIND=answer(207, multistatus(told("/x", 17)))) as server:
        assert opened(server.url).stat(NAME) == 17
    with Dav(HEAD=said, PROPFIND=answer(207, multistatus(told("/x", folder=True)))) as server:
        assert opened(server.url).stat(NAME) is None


@pytest.mark.parametrize("status", [400, 401, 403, 405, 410, 429, 500, 502, 503, 507])
def test_only_404_is_absence(opened: MakeStore, status: int) -> None:
    with Dav(HEAD=answer(status), PROPFIND=answer(status), GET=answer(status), DELETE=answer(status)) as server:
        store = opened(server.url)
        verbs: tuple[Callable[[], object], ...] = (
            lambda: store.stat(NAME),
            lambda: store.age(NAME),
            lambda: listed(store),
            lambda: listed(store, "ab/"),
            lambda: read(store, NAME),
            lambda: store.delete(NAME),
        )
        for verb in verbs:
            with pytest.raises(StoreError) as raised:
                verb()
            assert not isinstance(raised.value, NotFound)


def test_what_goes_while_it_is_opened_is_asked_for_once_more(
    opened: MakeStore, nginx: WebServer, proxy: Proxy
) -> None:
    """Apache forbids a file that somebody replaces or removes between its looking and its opening."""
    store = opened(proxy.url)
    proxy.misbehave(Fault(status=403), methods=["GET", "HEAD"], times=1)
    assert store.stat(NAME) is None
    keep(store, NAME, DATA)
    proxy.misbehave(Fault(status=403), methods=["GET", "HEAD"], times=1)
    assert read(store, NAME) == DATA
    proxy.misbehave(Fault(status=403), methods=["GET", "HEAD"])
    for ask in (lambda: read(store, NAME), lambda: store.stat(NAME), lambda: store.age(NAME)):
        before = len(proxy.requests)
        with pytest.raises(Denied):
            ask()
        assert len(proxy.requests) == before + 2


# Logins and certificates.


def test_a_wrong_login_costs_few_requests_and_no_secret(opened: MakeStore, tmp_path: Path) -> None:
    account = Account("ute", "right")
    with ExitStack() as stack:
        for server in (
            nginx_dav(tmp_path / "nginx", account=account),
            apache_dav(tmp_path / "digest", account=account, digest=True),
            apache_dav(tmp_path / "basic", account=account),
        ):
            stack.enter_context(server)
            between = stack.enter_context(Proxy(server.host, server.port))
            store = opened(between.url, login=Login("ute", "hidden"))
            with pytest.raises(Denied, match="wants user and password") as raised:
                keep(store, NAME, DATA)
            assert raised.value.wants_login
            assert len(between.requests) == 2
            assert between.count("PUT") == 0
            assert "hidden" not in f"{texts(raised.value)} {store!r} {vars(store)!r}"
            keep(opened(between.url, login=Login("ute", "right")), NAME, DATA)


def test_a_share_is_not_sent_to_be_asked_who_we_are(opened: MakeStore, tmp_path: Path) -> None:
    with (
        apache_dav(tmp_path / "dav", account=Account("ute", "a b:c"), digest=True) as server,
        Proxy(server.host, server.port) as between,
    ):
        store = opened(between.url, login=Login("ute", "a b:c"))
        for name in (NAME, OTHER):
            keep(store, name, DATA)
        assert between.count("PUT") == 2
        assert between.taken < 2 * len(DATA) + 10_000


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize("which", ["good", "wrong_name", "expired", "stranger"])
def test_certificates(opened: MakeStore, certificates: Certificates, tmp_path: Path, which: str) -> None:
    with nginx_dav(tmp_path / "dav", certificate=getattr(certificates, which), account=Account()) as server:
        login = Login(Account().user, Account().password)
        trusting = opened(server.url, f"/annex?ca={certificates.good.authority}", login)
        if which == "good":
            keep(trusting, NAME, DATA)
            assert read(trusting, NAME) == DATA
        else:
            with pytest.raises(Unavailable, match="certificate is not trusted"):
                keep(trusting, NAME, DATA)
            assert files(server, "") == []
        with pytest.raises(Unavailable, match="certificate is not trusted"):
            opened(server.url, login=login).stat(NAME)


def test_a_source_of_another_size_leaves_nothing(opened: MakeStore, nginx: WebServer) -> None:
    store = opened(nginx.url)
    for announced in (0, 299_999, 300_001):
        with pytest.raises(Damaged):
            store.put(NAME, announced, giving(DATA))
        assert files(nginx) == []


@pytest.mark.parametrize("make", [nginx_dav, apache_dav])
def test_behind_a_proxy_that_ends_tls(
    opened: MakeStore, certificates: Certificates, tmp_path: Path, make: Callable[[Path], WebServer]
) -> None:
    """The server does not know its own address as its users know it, and is asked to move to that."""
    with make(tmp_path / "dav") as server, Proxy(server.host, server.port, certificates.good) as front:
        store = opened(front.url, f"/annex?ca={certificates.good.authority}")
        for data in (DATA, b"short"):
            keep(store, NAME, data)
            assert read(store, NAME) == data
        assert front.count("PUT") == 2
