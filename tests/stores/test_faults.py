"""What a network does to a store: every store that speaks HTTP, behind a proxy that misbehaves."""

from __future__ import annotations

import logging
import os
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from email.utils import formatdate
from itertools import count

import pytest

from annex_remote.errors import Busy, Denied, Full, NotFound, StoreError, Unavailable
from annex_remote.model import Access, Login, Store
from annex_remote.stores import open_store, s3, web, webdav
from annex_remote.stores.s3_address import read_address
from annex_remote.stores.wrappers import Retrying
from tests.proxy import Fault, Proxy
from tests.servers import (
    Account,
    Certificate,
    Certificates,
    S3Server,
    WebServer,
    apache_dav,
    make_certificates,
    moto,
    nginx_dav,
    nginx_static,
)
from tests.servers.ports import HOST, Port
from tests.stores.test_contract import NAME, OTHER, keep, read

DATA = os.urandom(1_500_000)
"""More than S3 sends in one piece."""
BEFORE = DATA[:300_000]
SHORT = 0.4
"""Seconds of patience where a server falls silent."""
SOON = 20.0
"""Seconds after which everything is over, also on a busy machine."""
ACCOUNT = Account()

OPEN: dict[str, Callable[[str, Access], Store]] = {
    "dav": webdav.open_store,
    "s3": s3.open_store,
    "web": web.open_store,
}
METHODS = {
    "dav": {
        "put": ["PUT", "MOVE", "HEAD", "MKCOL"],
        "read": ["GET"],
        "stat": ["HEAD"],
        "age": ["HEAD"],
        "delete": ["DELETE"],
        "list": ["PROPFIND"],
        "space": ["PROPFIND"],
    },
    "s3": {
        "put": ["PUT"],
        "read": ["GET"],
        "stat": ["HEAD"],
        "age": ["HEAD"],
        "delete": ["DELETE"],
        "list": ["GET"],
    },
    "web": {"read": ["GET"], "stat": ["HEAD"], "age": ["HEAD"], "list": ["GET"]},
}
"""What each kind of store asks a server for, by verb."""

ASK: dict[str, Callable[[Store], object]] = {
    "put": lambda store: keep(store, NAME, DATA),
    "read": lambda store: read(store, NAME),
    "stat": lambda store: store.stat(NAME),
    "age": lambda store: (age := store.age(NAME)) is not None and age < 600,
    "delete": lambda store: store.delete(NAME),
    "list": lambda store: sorted(store.list()),
    "space": lambda store: store.space(),
}


def address(kind: str, host: str, port: int, folder: str, certificate: Certificate | None = None) -> str:
    """Return the address of a folder at a server of this kind."""
    place = f"{host}:{port}/{'bucket-1/' if kind == 's3' else ''}{folder}"
    ca = f"ca={certificate.authority}" if certificate else ""
    if kind == "s3":
        return f"s3://{place}?{ca or 'http=yes'}&region=us-east-1"
    schemes = {"dav": ("dav", "davs"), "web": ("http", "https")}[kind]
    return f"{schemes[bool(certificate)]}://{place}?{ca}"


class Served:
    """A server of this kind that behaves, and whom it lets in."""

    def __init__(self, kind: str, server: WebServer | S3Server) -> None:
        self.kind = kind
        self.server = server
        self.login = Login(ACCOUNT.user, ACCOUNT.password)
        if isinstance(server, S3Server):
            self.login = Login(server.keys.access_key, server.keys.secret_key)
        pair = f"{self.login.user}:{self.login.password}".encode()
        self.secrets = [self.login.password, b64encode(pair).decode(), "Signature=", "response=", "Credential="]

    def filler(self, folder: str) -> Store:
        """Return a store that puts what is in a folder of the server."""
        if isinstance(self.server, WebServer) and self.kind == "web":
            return open_store(f"dir:{self.server.root}/{folder}")
        return self.open(self.server.host, self.server.port, folder)

    def open(
        self, host: str, port: int, folder: str, certificate: Certificate | None = None, patience: float = SOON
    ) -> Store:
        return OPEN[self.kind](address(self.kind, host, port, folder, certificate), Access(self.login, patience))


KINDS = ["dav-nginx", "dav-apache", "s3-moto", "web-nginx"]
_folders = (f"folder{number}" for number in count())


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Served]]:
    """Gives the server of a kind, which is started when the first test asks for it."""
    started: dict[str, Served] = {}

    def served(kind: str) -> Served:
        if kind not in started:
            folder = tmp_path_factory.mktemp("servers") / kind
            server: WebServer | S3Server
            if kind == "s3-moto":
                server = stack.enter_context(moto(folder))
                server.create_bucket("bucket-1")
            elif kind == "dav-apache":
                server = stack.enter_context(apache_dav(folder, account=ACCOUNT, digest=True))
            else:
                make = nginx_static if kind == "web-nginx" else nginx_dav
                server = stack.enter_context(make(folder, account=ACCOUNT))
            started[kind] = Served(kind.partition("-")[0], server)
        return started[kind]

    with ExitStack() as stack:
        yield served


class Scene:
    """A folder where `NAME` and `OTHER` are `BEFORE`: a store reaches it by the proxy, another goes straight."""

    def __init__(
        self, served: Served, stack: ExitStack, patience: float = SOON, certificate: Certificate | None = None
    ) -> None:
        server, folder = served.server, next(_folders)
        self.kind = served.kind
        self.proxy = stack.enter_context(Proxy(server.host, server.port, certificate))
        self.store = served.open(HOST, self.proxy.port, folder, certificate, patience)
        self.straight = served.open(server.host, server.port, folder)
        filler = served.filler(folder)
        for store in (self.store, self.straight, filler):
            stack.callback(store.close)
        for name in (NAME, OTHER):
            keep(filler, name, BEFORE)
        self.slept: list[float] = []
        self.retrying = Retrying(self.store, sleep=self.slept.append, chance=lambda: 0.5)

    def contents(self) -> dict[str, bytes]:
        """Return all that is to be seen there; it is the same for every verb that can see."""
        listed = dict(self.straight.list())
        for name in (NAME, OTHER):
            assert self.straight.stat(name) == listed.get(name)
        found = {name: read(self.straight, name) for name in listed}
        assert {name: len(data) for name, data in found.items()} == listed
        return found


@pytest.fixture
def scene(servers: Callable[[str], Served]) -> Iterator[Callable[..., Scene]]:
    with ExitStack() as stack:
        yield lambda kind, **options: Scene(servers(kind), stack, **options)


def texts(error: BaseException | None) -> str:
    """Return what an error and all that led to it say."""
    said = []
    while error is not None:
        said.append(f"{error} {error!r}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(said)


# Everything that may go wrong, at every point where it may.


@dataclass(frozen=True)
class Trouble:
    """A fault, and the error that has to come of it."""

    fault: Fault
    error: type[StoreError]
    passes: bool | None = False
    """True if it is worth another attempt, None if stores may differ about that."""
    verbs: Sequence[str] = tuple(ASK)
    methods: Sequence[str] = ("PUT", "GET", "HEAD", "DELETE", "PROPFIND", "MOVE")
    """What it strikes; making a folder may fail, where it is there already."""
    reaches: bool = False
    """True if the server may have done what it was asked to."""


TROUBLES = {
    "cut-while-sending": Trouble(Fault(cut_request=100_000), Unavailable, True, ["put"], ["PUT"]),
    "reset-while-sending": Trouble(Fault(cut_request=100_000, resets=True), Unavailable, True, ["put"], ["PUT"]),
    "silent-while-sending": Trouble(Fault(hang_request=100_000), Unavailable, False, ["put"], ["PUT"]),
    "silent-from-the-start": Trouble(Fault(hang_request=0), Unavailable, False, ["put"], ["PUT"]),
    "cut-at-the-start": Trouble(Fault(cut_request=0), Unavailable, True, ["put"], ["PUT"]),
    "cut-before-the-answer": Trouble(Fault(cut_answer=0), Unavailable, True, reaches=True),
    "reset-before-the-answer": Trouble(Fault(cut_answer=0, resets=True), Unavailable, True, reaches=True),
    "silent-before-the-answer": Trouble(Fault(hang_answer=0), Unavailable, reaches=True),
    "cut-in-the-answer": Trouble(Fault(cut_answer=50), Unavailable, True, ["read", "list", "space"]),
    "silent-in-the-answer": Trouble(Fault(hang_answer=50), Unavailable, False, ["read", "list", "space"]),
    "shorter-than-announced": Trouble(Fault(longer=99), Unavailable, True, ["read", "list", "space"]),
    "longer-than-announced": Trouble(Fault(longer=-99), Unavailable, None, ["list", "space"]),
    "asked-to-wait": Trouble(Fault(429, {"Retry-After": "7"}), Busy, True),
    "asked-to-wait-until": Trouble(Fault(503, {"Retry-After": formatdate(0, usegmt=True)}), Busy, True),
    "asked-to-wait-for-long": Trouble(Fault(503, {"Retry-After": "3600"}), Busy),
    "asked-early": Trouble(Fault(503, early=True), Busy, True, ["put"], ["PUT"]),
    "broken": Trouble(Fault(500), Unavailable, True),
    "broken-behind-a-gateway": Trouble(Fault(504), Unavailable, True),
    "full": Trouble(Fault(507), Full),
    "full-early": Trouble(Fault(507, early=True), Full, False, ["put"], ["PUT"]),
    "not-let-in": Trouble(Fault(401), Denied),
    "not-allowed": Trouble(Fault(403), Denied),
}


def strokes(kind: str, trouble: Trouble) -> Iterator[tuple[str, str]]:
    """Yield verbs of this kind of store, each with a method of its requests that the trouble strikes."""
    for verb, methods in METHODS[kind].items():
        for method in methods:
            if verb in trouble.verbs and method in trouble.methods:
                yield verb, method


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", TROUBLES)
def test_trouble_ends_in_its_error_and_changes_nothing(
    servers: Callable[[str], Served],
    scene: Callable[..., Scene],
    caplog: pytest.LogCaptureFixture,
    kind: str,
    which: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    trouble, served = TROUBLES[which], servers(kind)
    for verb, method in strokes(served.kind, trouble):
        here = scene(kind, patience=SHORT if which.startswith("silent") else SOON)
        here.store.stat(NAME)  # it knows by now who we are, and how we say so
        here.proxy.misbehave(trouble.fault, methods=[method])
        began = time.monotonic()
        is_no_list = kind == "web-nginx" and verb == "list" and which == "not-allowed"
        with pytest.raises(Unavailable if is_no_list else trouble.error) as raised:
            ASK[verb](here.store)
        assert time.monotonic() - began < SOON
        error = raised.value
        assert type(error) is not NotFound
        if isinstance(error, Unavailable) and trouble.passes is not None:
            assert error.passing is trouble.passes, f"{verb} {method}: {error}"
        if isinstance(error, Busy) and "Retry-After" in trouble.fault.headers:
            assert error.retry_after == {"7": 7.0, "3600": 3600.0}.get(trouble.fault.headers["Retry-After"], 0.0)
        if isinstance(error, Denied):
            assert error.wants_login is (trouble.fault.status == 401)
        for secret in served.secrets:
            assert secret not in texts(error)
            assert secret not in caplog.text
        found = here.contents()
        assert found.get(OTHER) == BEFORE
        allowed: list[bytes | None] = [BEFORE]
        if trouble.reaches and verb in ("put", "delete"):
            allowed.append(DATA if verb == "put" else None)
        assert found.get(NAME) in allowed, f"{verb} {method}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", [which for which, trouble in TROUBLES.items() if trouble.passes])
def test_trouble_that_passes_is_survived(
    servers: Callable[[str], Served], scene: Callable[..., Scene], kind: str, which: str
) -> None:
    trouble = TROUBLES[which]
    for verb, method in strokes(servers(kind).kind, trouble):
        if verb == "read" and trouble.fault.longer:
            continue  # it was promised more than there is, and that is not forgotten
        here = scene(kind)
        here.store.stat(NAME)
        here.proxy.misbehave(trouble.fault, methods=[method], times=1)
        expected = ASK[verb](here.straight) if verb not in ("put", "delete") else None
        assert ASK[verb](here.retrying) == expected, f"{verb} {method}"
        assert len(here.slept) <= 1
        if trouble.fault.headers.get("Retry-After") == "7" and here.slept:
            assert here.slept == [7.0]
        after = {"put": DATA, "delete": None}.get(verb, BEFORE)
        assert here.contents().get(NAME) == after


# Streams.


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_goes_on_where_it_broke(scene: Callable[..., Scene], kind: str) -> None:
    for start, length in ((0, None), (100_001, None), (7, 250_000)):
        here = scene(kind)
        here.store.stat(NAME)
        given = here.proxy.given
        for cut_answer in (60_000, 90_000, 1):
            here.proxy.misbehave(Fault(cut_answer=cut_answer), methods=["GET"], times=1)
        assert read(here.retrying, NAME, start, length) == BEFORE[start:][:length]
        assert len(here.slept) == 3
        assert here.proxy.given - given <= len(BEFORE[start:][:length]) + 10_000  # nothing came twice


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_leaves_out_ranges(scene: Callable[..., Scene], kind: str) -> None:
    here = scene(kind)
    here.proxy.misbehave(Fault(no_range=True), methods=["GET"])
    assert read(here.store, NAME) == BEFORE
    assert read(here.store, NAME, 0, 1_000) == BEFORE[:1_000]
    for start, length in ((1, None), (299_999, 1), (100_000, 5)):
        with pytest.raises(Unavailable, match="does not serve ranges"):
            read(here.store, NAME, start, length)
    assert here.store.stat(NAME) == len(BEFORE)


@pytest.mark.parametrize("kind", KINDS)
def test_what_drips(scene: Callable[..., Scene], kind: str) -> None:
    """A share that comes slowly comes; a list that comes slowly is given up."""
    here = scene(kind, patience=SHORT)
    here.store.stat(NAME)
    here.proxy.misbehave(Fault(drip=0.02))
    assert read(here.store, NAME, 1_000, 30) == BEFORE[1_000:1_030]
    began = time.monotonic()
    with pytest.raises(Unavailable, match="too long"):
        list(here.store.list())
    assert time.monotonic() - began < SOON


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_is_too_long_does_not_spoil_the_next(scene: Callable[..., Scene], kind: str) -> None:
    here = scene(kind)
    here.proxy.misbehave(Fault(longer=-5_000), methods=["GET"], path=NAME, times=3)
    for _ in range(3):
        read(here.store, NAME)
        assert here.store.stat(NAME) == len(BEFORE)
        assert sorted(here.store.list()) == [(NAME, len(BEFORE)), (OTHER, len(BEFORE))]
    assert read(here.store, NAME) == BEFORE


@pytest.mark.parametrize("kind", ["dav-nginx", "dav-apache", "s3-moto"])
def test_a_list_that_is_stale_hides_nothing_from_the_other_verbs(scene: Callable[..., Scene], kind: str) -> None:
    here = scene(kind)
    third = NAME[:-1] + "7"
    before = sorted(here.store.list())
    is_dav = kind.startswith("dav")
    here.proxy.misbehave(
        Fault(stale=True), methods=["PROPFIND" if is_dav else "GET"], path="" if is_dav else "list-type"
    )
    keep(here.store, third, DATA)
    here.store.delete(OTHER)
    assert sorted(here.store.list()) == before
    assert here.store.stat(third) == len(DATA)
    assert read(here.store, third) == DATA
    assert here.store.stat(OTHER) is None
    with pytest.raises(NotFound):
        read(here.store, OTHER)
    here.proxy.behave()
    assert sorted(here.store.list()) == [(NAME, len(BEFORE)), (third, len(DATA))]


# Large puts to S3, in parts.


def test_an_upload_that_breaks_goes_on(servers: Callable[[str], Served], scene: Callable[..., Scene]) -> None:
    here, served = scene("s3-moto"), servers("s3-moto")
    part = 5 << 20
    data = os.urandom(2 * part + 1000)
    _, bucket = read_address(address("s3", HOST, here.proxy.port, "parts"))
    store = s3.S3Store(bucket, Access(served.login, SOON), part_size=part)
    straight = served.open(served.server.host, served.server.port, "parts")
    try:
        here.proxy.misbehave(Fault(cut_request=1_000_000), methods=["PUT"], path="partNumber=2", times=1)
        with pytest.raises(Unavailable) as raised:
            keep(store, NAME, data)
        assert raised.value.passing
        assert straight.stat(NAME) is None
        assert list(straight.list()) == []
        taken = here.proxy.taken
        here.proxy.misbehave(Fault(500), methods=["PUT"], path="partNumber=3", times=1)
        here.proxy.misbehave(Fault(cut_answer=0), methods=["POST"], path="uploadId", times=1)
        slept: list[float] = []
        keep(Retrying(store, sleep=slept.append), NAME, data)
        assert 1 <= len(slept) <= 2
        assert read(straight, NAME) == data
        assert here.proxy.taken - taken < 2 * part  # the first part was there already
    finally:
        store.close()
        straight.close()


# Who cannot be reached, or is not who it should be.


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_right_certificate(scene: Callable[..., Scene], certificates: Certificates, kind: str) -> None:
    here = scene(kind, certificate=certificates.good)
    # Behind the proxy a server takes itself to be without TLS, and refuses to move anything to https.
    for verb in METHODS[here.kind].keys() - ({"put"} if here.kind == "dav" else set()) - {"delete"}:
        ASK[verb](here.store)
    assert here.proxy.requests


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", ["wrong_name", "expired", "stranger"])
def test_a_certificate_that_is_not_right(
    servers: Callable[[str], Served],
    scene: Callable[..., Scene],
    certificates: Certificates,
    kind: str,
    which: str,
) -> None:
    here = scene(kind, certificate=getattr(certificates, which))
    for verb in METHODS[here.kind]:
        with pytest.raises(Unavailable, match="its certificate is not trusted") as raised:
            ASK[verb](here.store)
        assert not raised.value.passing
        assert not [secret for secret in servers(kind).secrets if secret in texts(raised.value)]
    assert here.proxy.requests == []
    assert here.contents() == {NAME: BEFORE, OTHER: BEFORE}


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_there(servers: Callable[[str], Served], kind: str) -> None:
    served, port = servers(kind), Port()
    try:
        for host, words in ((HOST, "connection refused"), ("does-not-exist.invalid", "cannot be looked up")):
            store = served.open(host, port.number, "folder")
            for verb in METHODS[served.kind]:
                with pytest.raises(Unavailable, match=words) as raised:
                    ASK[verb](store)
                assert not raised.value.passing
                assert not [secret for secret in served.secrets if secret in texts(raised.value)]
            store.close()
    finally:
        port.release()


@pytest.mark.parametrize("kind", ["dav-nginx", "dav-apache", "web-nginx"])
def test_a_wrong_login(servers: Callable[[str], Served], scene: Callable[..., Scene], kind: str) -> None:
    here, served = scene(kind), servers(kind)
    for login in (Login(ACCOUNT.user, "hunter2"), Login("hunter2", ACCOUNT.password), None):
        where = address(here.kind, HOST, here.proxy.port, "folder0")
        store = OPEN[here.kind](where, Access(login, SOON))
        for verb in METHODS[here.kind]:
            with pytest.raises(Denied) as raised:
                ASK[verb](store)
            assert raised.value.wants_login
            for secret in (*served.secrets, "hunter2", b64encode(f"{ACCOUNT.user}:hunter2".encode()).decode()):
                assert secret not in texts(raised.value)
        store.close()
