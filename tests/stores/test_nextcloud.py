"""Large shares in chunks, at a server that keeps the rules of Nextcloud's chunked upload, version 2."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import unquote, urlsplit

import pytest

from annex_remote.errors import Busy, Denied, Exists, Full, NotFound, StoreError, Unavailable
from annex_remote.stores import nextcloud
from annex_remote.stores.http import Client
from annex_remote.stores.nextcloud import Chunking
from annex_remote.stores.webdav import WebDavStore
from tests.fakes import WAIT
from tests.proxy import Fault, Proxy, Request, Scripted
from tests.servers.ports import HOST
from tests.stores.test_contract import ERRORS, breaking, giving, keep, listed, read
from tests.stores.test_http import answer

NAME = "ab/ab" + "2" * 30 + ".0"
DATA = os.urandom(3_500)
LARGE, CHUNK = 2_000, 1_000
FILES = "/remote.php/dav/files/me"
UPLOADS = "/remote.php/dav/uploads/me"
ROOT = f"{FILES}/my%20annex"


class Cloud(Scripted):
    """A Nextcloud with the files of one user, and with chunks that may be small.

    What a client does against the rules is a 4xx, and is kept in `complaints`.
    """

    def __init__(self) -> None:
        self.capabilities: object = {"ocs": {"data": {"capabilities": {"dav": {"chunking": "1.0"}}}}}
        self.files: dict[str, bytes | None] = {FILES: None}
        """Paths, to what files have in them; None for folders."""
        self.uploads: dict[str, tuple[str, dict[int, bytes]]] = {}
        """Folders of chunks, to their destinations and to the chunks by their numbers."""
        self.sent: list[int] = []
        """Sizes of all chunks that came."""
        self.complaints: list[str] = []
        self.room = 1 << 40
        self.looks: int | None = None
        """If given, who stands in front of it has no patience: the chunks are put together at the look after so
        many at their folder."""
        self.comes_to_nothing = False
        self.release_move: threading.Event | None = None
        """If given, the answer to a move of chunks waits for it."""
        super().__init__(self._say, keeps=True)

    def _say(self, request: Request, body: bytes) -> bytes:
        with self._lock:
            path = unquote(urlsplit(request.target).path).rstrip("/")
            if path.startswith(UPLOADS):
                status = self._upload(request, path, body)
            elif path == "/ocs/v2.php/cloud/capabilities":
                asked = request.headers["OCS-APIRequest"] == "true" and request.target.endswith("?format=json")
                return answer(200 if asked else 412, json.dumps(self.capabilities).encode())
            elif request.method == "PROPFIND":
                return self._find(path)
            elif request.method in ("GET", "HEAD") and isinstance(there := self.files.get(path), bytes):
                said = answer(200, there)
                return said if request.method == "GET" else said[: len(said) - len(there)]
            else:
                status = self._file(request, path, body)
        if self.release_move is not None and request.method == "MOVE" and path.endswith("/.file"):
            assert self.release_move.wait(WAIT)
        return answer(status)

    def _refuse(self, status: int, why: str) -> int:
        self.complaints.append(why)
        return status

    def _destination(self, request: Request) -> str:
        url = urlsplit(request.headers["Destination"] or "")
        return unquote(url.path) if url.netloc == request.headers["Host"] else ""

    def _file(self, request: Request, path: str, body: bytes) -> int:
        target = self._destination(request) if request.method == "MOVE" else path
        parent, _, name = target.rpartition("/")
        if re.search(r"\.(part|filepart)\Z", name):
            return self._refuse(400, "a reserved name")
        if request.method in ("MKCOL", "PUT", "MOVE") and parent not in self.files:
            return 409
        if request.method in ("MOVE", "DELETE", "HEAD", "GET") and path not in self.files:
            return 404
        if request.method == "MKCOL":
            if path in self.files:
                return 405
            self.files[path] = None
        elif request.method == "PUT":
            if len(body) > self.room:
                return 507
            self.files[path] = body
        elif request.method == "MOVE":
            self.files[target] = self.files.pop(path)
        elif request.method == "DELETE":
            del self.files[path]
            return 204
        return 201

    def _find(self, path: str) -> bytes:
        if path not in self.files:
            return answer(404)
        said = [path, *(each for each in self.files if each.rpartition("/")[0] == path)]
        return answer(207, b"<multistatus xmlns='DAV:'>" + b"".join(map(self._told, said)) + b"</multistatus>")

    def _told(self, path: str) -> bytes:
        there = self.files[path]
        kind = "<resourcetype><collection/></resourcetype>" if there is None else "<resourcetype/>"
        length = "" if there is None else f"<getcontentlength>{len(there)}</getcontentlength>"
        props = f"{kind}{length}<quota-available-bytes>-3</quota-available-bytes>"
        status = "<status>HTTP/1.1 200 OK</status>"
        said = f"<response><href>{path}</href><propstat><prop>{props}</prop>{status}</propstat></response>"
        return said.encode()

    def _upload(self, request: Request, path: str, body: bytes) -> int:
        folder, _, name = path.removeprefix(f"{UPLOADS}/").partition("/")
        destination = self._destination(request)
        if request.method == "MKCOL" and not name:
            if not destination.startswith(f"{FILES}/") or destination.rpartition("/")[0] not in self.files:
                return self._refuse(409, "no destination")
            self.uploads[folder] = destination, {}
            return 201
        if request.method == "PROPFIND" and self.looks is not None:
            self.looks -= 1
            if self.looks < 0:
                self._put_together(folder)
        if folder not in self.uploads:
            return 404
        if request.method == "PROPFIND":
            return 207
        if request.method == "DELETE" and not name:
            del self.uploads[folder]
            return 204
        wanted, chunks = self.uploads[folder]
        total = request.headers["OC-Total-Length"] or ""
        if destination != wanted or not total.isdigit():
            return self._refuse(412, "another destination, or no length")
        if request.method == "PUT":
            if not name.isdigit() or not 1 <= int(name) <= 10_000:
                return self._refuse(400, "no number")
            if sum(map(len, chunks.values())) + len(body) > self.room:
                return 507
            chunks[int(name)] = body
            self.sent.append(len(body))
            return 201
        if request.method == "MOVE" and request.headers["Overwrite"] == "F" and wanted in self.files:
            return 412
        return self._move(folder, chunks, int(total)) if request.method == "MOVE" and name == ".file" else 405

    def _move(self, folder: str, chunks: dict[int, bytes], total: int) -> int:
        sizes = [len(chunks[number]) for number in sorted(chunks)]
        if sum(sizes) != total:
            return self._refuse(400, "the chunks do not sum up")
        if len(set(sizes[:-1])) > 1 or min(sizes[:-1], default=0) < max(sizes):
            return self._refuse(400, "chunks of several sizes")
        if self.looks is not None:
            return 504
        return self._put_together(folder)

    def _put_together(self, folder: str) -> int:
        destination, chunks = self.uploads.pop(folder, ("", {}))
        if not chunks or self.comes_to_nothing:
            return 404
        self.files[destination] = b"".join(chunks[number] for number in sorted(chunks))
        return 201

    def moves(self) -> int:
        """Return how often chunks were to be put together."""
        return sum(request.method == "MOVE" and "/uploads/" in request.target for request in self.requests)


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with Cloud() as server:
        yield server
        assert server.complaints == []


@pytest.fixture
def proxy(cloud: Cloud) -> Iterator[Proxy]:
    with Proxy(HOST, cloud.port) as between:
        yield between


class Pauses:
    """A sleep that takes no time, and does what it is told to."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.then: Callable[[], object] = lambda: None

    def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.then()


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


MakeStore = Callable[..., WebDavStore]


@pytest.fixture
def opened(pauses: Pauses) -> Iterator[MakeStore]:
    made: list[WebDavStore] = []

    def make(url: str, root: str = ROOT, patience: float = 10.0) -> WebDavStore:
        client = Client(url, patience=patience)
        chunking = Chunking(client, root, large=LARGE, chunk=CHUNK, sleep=pauses)
        made.append(WebDavStore(client, root, chunking))
        return made[-1]

    yield make
    for each in made:
        each.close()


def kept(cloud: Cloud, name: str = NAME) -> bytes | None:
    return cloud.files.get(f"{FILES}/my annex/{name}")


def test_a_large_share_goes_in_chunks(cloud: Cloud, opened: MakeStore) -> None:
    store = opened(cloud.url)
    for size in (3_500, 3_000, 2_000, 2_001):
        offsets: list[int] = []

        def open_at(offset: int, size: int = size, offsets: list[int] = offsets) -> Iterable[bytes | memoryview]:
            offsets.append(offset)
            return giving(DATA[:size])(offset)

        cloud.sent.clear()
        store.put(NAME, size, open_at)
        assert read(store, NAME) == kept(cloud) == DATA[:size]
        assert cloud.sent == [min(CHUNK, size - at) for at in range(0, size, CHUNK)]
        assert offsets == list(range(0, size, CHUNK))
        assert cloud.uploads == {}
    assert listed(store) == [(NAME, 2_001)]
    assert sum("/ocs/" in request.target for request in cloud.requests) == 1
    names = {request.target.rpartition("/")[2] for request in cloud.requests if "/uploads/" in request.target}
    assert {"00001", "00002", "00003", "00004", ".file"} < names


def test_a_large_share_does_not_replace_what_it_must_not(cloud: Cloud, opened: MakeStore) -> None:
    store = opened(cloud.url)
    keep(store, NAME, DATA[:3_500], fresh=True)
    cloud.sent.clear()
    with pytest.raises(Exists):
        keep(store, NAME, DATA[:3_000], fresh=True)
    assert cloud.sent == []
    store.delete(NAME)

    def source(offset: int) -> Iterable[bytes | memoryview]:
        cloud.files[f"{FILES}/my annex/{NAME}"] = b"by somebody else"
        return giving(DATA[:3_000])(offset)

    with pytest.raises(Exists):
        store.put(NAME, 3_000, source, fresh=True)
    assert kept(cloud) == b"by somebody else"
    assert cloud.uploads == {}


def test_a_small_share_goes_as_it_is(cloud: Cloud, opened: MakeStore) -> None:
    store = opened(cloud.url)
    keep(store, NAME, DATA[:1_999])
    assert kept(cloud) == DATA[:1_999]
    assert not [each for each in cloud.requests if "/ocs/" in each.target or "/uploads/" in each.target]


def test_more_chunks_than_there_are_numbers_are_larger(
    cloud: Cloud, opened: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nextcloud, "_CHUNKS", 3)
    keep(opened(cloud.url), NAME, DATA)
    assert cloud.sent == [1_167, 1_167, 1_166]
    assert kept(cloud) == DATA


@pytest.mark.parametrize(
    "said",
    [{}, [], None, "1.0", {"ocs": None}, {"ocs": {"data": {"capabilities": {"dav": {"chunking": "0"}}}}}],
    ids=str,
)
def test_a_server_without_chunks(cloud: Cloud, opened: MakeStore, said: object) -> None:
    cloud.capabilities = said
    store = opened(cloud.url)
    for _ in range(2):
        keep(store, NAME, DATA)
    assert kept(cloud) == DATA
    assert cloud.sent == []
    assert sum("/ocs/" in request.target for request in cloud.requests) == 1


@pytest.mark.parametrize("status", [403, 404, 405])
def test_a_server_that_does_not_say(cloud: Cloud, proxy: Proxy, opened: MakeStore, status: int) -> None:
    proxy.misbehave(Fault(status=status), path="/ocs/")
    keep(opened(proxy.url), NAME, DATA)
    assert kept(cloud) == DATA
    assert cloud.sent == []


def test_a_server_that_cannot_say_just_now_is_asked_again(cloud: Cloud, proxy: Proxy, opened: MakeStore) -> None:
    store = opened(proxy.url)
    for status, kind in ((401, Denied), (429, Busy), (500, Unavailable)):
        proxy.misbehave(Fault(status=status), path="/ocs/", times=1)
        with pytest.raises(kind):
            keep(store, NAME, DATA)
    keep(store, NAME, DATA)
    assert cloud.sent == [1_000, 1_000, 1_000, 500]


@pytest.mark.parametrize("root", ["", "/annex", "/remote.php/webdav/annex", "/dav/files/me"])
def test_other_places_are_not_asked(root: str) -> None:
    client = Client("http://127.0.0.1:1")
    assert not Chunking(client, root).suits(1 << 40, "writing")
    client.close()


# Failures in the middle.

WHERE = {
    "folder": (["MKCOL"], "/uploads/", 0),
    "first": (["PUT"], "/uploads/", 0),
    "second": (["PUT"], "/uploads/", 1),
    "last": (["PUT"], "/uploads/", 3),
}
FAULTS: list[tuple[Fault, type[StoreError]]] = [
    (Fault(status=500), Unavailable),
    (Fault(status=507), Full),
    (Fault(status=413), Full),
    (Fault(status=423, headers={"Retry-After": "7"}), Busy),
    (Fault(status=403), Denied),
    (Fault(status=404), Unavailable),
    (Fault(status=409), Unavailable),
    (Fault(cut_request=100), Unavailable),
    (Fault(cut_answer=0), Unavailable),
]


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize(("fault", "kind"), FAULTS)
def test_what_fails_leaves_nothing(
    cloud: Cloud, proxy: Proxy, opened: MakeStore, where: str, fault: Fault, kind: type[StoreError]
) -> None:
    methods, path, skip = WHERE[where]
    store = opened(proxy.url)
    for before in (None, b"before"):
        if before is not None:
            keep(store, NAME, before)
        proxy.misbehave(fault, methods=methods, path=path, skip=skip, times=1)
        with pytest.raises(kind) as raised:
            keep(store, NAME, DATA)
        assert type(raised.value) is kind
        assert cloud.uploads == {}
        assert kept(cloud) == before
    keep(store, NAME, DATA)
    assert kept(cloud) == DATA


@pytest.mark.parametrize(
    "error",
    [*ERRORS, NotFound("of the source"), Unavailable("of the source")],
    ids=lambda error: type(error).__name__,
)
def test_what_the_source_raises_passes_through(cloud: Cloud, opened: MakeStore, error: BaseException) -> None:
    store = opened(cloud.url)
    for given in (0, 500, 1_500, 3_499, 3_500):
        with pytest.raises(type(error)) as raised:
            store.put(NAME, len(DATA), breaking(DATA[:given], error))
        assert raised.value is error
        assert cloud.uploads == {}
        assert kept(cloud) is None


def test_no_room(cloud: Cloud, opened: MakeStore) -> None:
    cloud.room = 2_500
    with pytest.raises(Full):
        keep(opened(cloud.url), NAME, DATA)
    assert cloud.uploads == {}


# Putting the chunks together.


@pytest.mark.parametrize("looks", [0, 1, 7])
@pytest.mark.parametrize("before", [None, b"before", b"x" * 3_500], ids=["new", "other", "same-size"])
def test_a_move_that_outlasts_who_waits_is_looked_at(
    cloud: Cloud, opened: MakeStore, pauses: Pauses, looks: int, before: bytes | None
) -> None:
    """What has the right size and was there before is not taken for the new one."""
    store = opened(cloud.url)
    if before is not None:
        keep(opened(cloud.url), NAME, before)
    cloud.looks = looks
    moves = cloud.moves()
    keep(store, NAME, DATA)
    assert kept(cloud) == DATA
    assert cloud.moves() == moves + 1
    assert pauses.slept == [5.0] * (looks + 1)


@pytest.mark.parametrize("status", [202, 408, 502, 504, 524])
def test_answers_of_who_stands_in_front(
    cloud: Cloud, proxy: Proxy, opened: MakeStore, pauses: Pauses, status: int
) -> None:
    proxy.misbehave(Fault(status=status), methods=["MOVE"], path="/uploads/")
    pauses.then = lambda: cloud._put_together(next(iter(cloud.uploads)))
    keep(opened(proxy.url), NAME, DATA)
    assert kept(cloud) == DATA
    assert proxy.count("MOVE") == 1


def test_a_move_whose_answer_is_lost(cloud: Cloud, proxy: Proxy, opened: MakeStore, pauses: Pauses) -> None:
    proxy.misbehave(Fault(cut_answer=0), methods=["MOVE"], path="/uploads/")
    keep(opened(proxy.url), NAME, DATA)
    assert kept(cloud) == DATA
    assert len(pauses.slept) == cloud.moves() == 1


def test_a_move_that_outlasts_our_patience(cloud: Cloud, opened: MakeStore, pauses: Pauses) -> None:
    cloud.release_move = threading.Event()
    pauses.then = cloud.release_move.set
    keep(opened(cloud.url, patience=0.5), NAME, DATA)
    assert kept(cloud) == DATA
    assert len(pauses.slept) == cloud.moves() == 1


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(status=400), Unavailable),
        (Fault(status=403), Denied),
        (Fault(status=404), Unavailable),
        (Fault(status=423), Busy),
        (Fault(status=500), Unavailable),
        (Fault(status=507), Full),
    ],
)
def test_a_move_that_is_refused(
    cloud: Cloud, proxy: Proxy, opened: MakeStore, pauses: Pauses, fault: Fault, kind: type[StoreError]
) -> None:
    proxy.misbehave(fault, methods=["MOVE"], path="/uploads/")
    with pytest.raises(kind):
        keep(opened(proxy.url), NAME, DATA)
    assert cloud.uploads == {}
    assert kept(cloud) is None
    assert pauses.slept == []


def test_a_move_that_never_ends_is_not_waited_for_without_end(
    cloud: Cloud, opened: MakeStore, pauses: Pauses
) -> None:
    """And its chunks are left alone: the server may be at it still."""
    cloud.looks = 1 << 30
    store = opened(cloud.url)
    with pytest.raises(Unavailable, match="has not put together what it was sent") as raised:
        keep(store, NAME, DATA)
    assert not raised.value.passing
    assert sum(pauses.slept) == 300.0
    assert len(cloud.uploads) == cloud.moves() == 1


def test_chunks_that_are_gone_without_a_share(cloud: Cloud, opened: MakeStore, pauses: Pauses) -> None:
    cloud.looks, cloud.comes_to_nothing = 2, True
    for before in (None, b"before"):
        if before is not None:
            keep(opened(cloud.url), NAME, before)
        pauses.slept.clear()
        with pytest.raises(Unavailable, match="has not put together"):
            keep(opened(cloud.url), NAME, DATA)
        assert len(pauses.slept) < 10
        assert kept(cloud) == before
    assert cloud.moves() == 2


def test_a_server_that_goes_away_while_it_is_looked_at(
    cloud: Cloud, proxy: Proxy, opened: MakeStore, pauses: Pauses
) -> None:
    proxy.misbehave(Fault(status=504), methods=["MOVE"], path="/uploads/")
    proxy.misbehave(Fault(cut_answer=0), methods=["PROPFIND"], path="/uploads/")
    with pytest.raises(Unavailable, match="has not put together"):
        keep(opened(proxy.url), NAME, DATA)
    assert len(pauses.slept) == 5
    proxy.behave()
    cloud.uploads.clear()
    proxy.misbehave(Fault(status=504), methods=["MOVE"], path="/uploads/")
    proxy.misbehave(Fault(status=503), methods=["PROPFIND"], path="/uploads/", times=20)
    pauses.then = lambda: cloud._put_together(next(iter(cloud.uploads), ""))
    keep(opened(proxy.url), NAME, DATA)
    assert kept(cloud) == DATA
