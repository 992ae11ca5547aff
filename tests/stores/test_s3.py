"""S3: what the contract does not say, on moto and Ceph's gateway, and on a front before them that fails."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annex_remote.errors import (
    BadSetting,
    Busy,
    Cancelled,
    Damaged,
    Denied,
    Exists,
    Full,
    NotFound,
    StoreError,
    SwarmError,
    Unavailable,
)
from annex_remote.model import Access, Login, OpenAt
from annex_remote.stores import open_store as open_any
from annex_remote.stores.s3 import SMALL, S3Store, check
from annex_remote.stores.s3_address import read_address
from annex_remote.stores.s3_uploads import ABANDONED, PART_SIZE, plan_parts
from annex_remote.stores.wrappers import Retrying
from tests.servers import make_certificates, moto, rgw, s3rver
from tests.servers.s3 import S3Server
from tests.stores.s3_front import Forward, Front, Reply, Request, Rule, always, error, flipping, forwarding, once

NAME = "ab/ab" + "2" * 30 + ".0"
OTHER = "ab/ab" + "2" * 30 + ".01"
MIB = 1 << 20
PART = 5 * MIB
"""The smallest that servers take."""
DATA = os.urandom(2 * PART + 1234)
"""Three parts."""
MIDDLE = os.urandom(2 * MIB)
"""Too much for memory, too little for parts."""
MANY = 1 << 20


# The servers.


@pytest.fixture(scope="module", params=[moto, rgw], ids=["moto", "rgw"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with request.param(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with rgw(tmp_path_factory.mktemp("rgw")) as running:
        yield running


@dataclass
class Place:
    """A bucket on a server with a front before it; stores of it are closed at the end."""

    server: S3Server
    front: Front
    bucket: str
    stack: ExitStack

    def store(self, *, secret: str | None = None, options: str = "", **more: Any) -> S3Store:
        return self.at(f"s3://{self.front.host}/{self.bucket}/annex?http=yes{options}", secret=secret, **more)

    def at(self, address: str, *, secret: str | None = None, **more: Any) -> S3Store:
        keys = self.server.keys
        login = Login(keys.access_key, secret or keys.secret_key)
        _, bucket = read_address(address)
        store = S3Store(bucket, Access(login, 20.0), **({"part_size": PART} | more))
        self.stack.callback(store.close)
        return store

    @property
    def uploads(self) -> list[str]:
        """Ids of the unfinished uploads."""
        text = self.server.request("GET", f"/{self.bucket}", {"uploads": ""}).text
        return re.findall(r"<UploadId>(.*?)</UploadId>", text)


def place_on(server: S3Server) -> Iterator[Place]:
    bucket = server.create_bucket(f"bucket-{secrets.token_hex(8)}")
    with ExitStack() as stack:
        yield Place(server, stack.enter_context(Front(server)), bucket, stack)


@pytest.fixture
def place(server: S3Server) -> Iterator[Place]:
    yield from place_on(server)


@pytest.fixture
def strict(ceph: S3Server) -> Iterator[Place]:
    yield from place_on(ceph)


@pytest.fixture
def front() -> Iterator[Front]:
    with Front() as alone:
        yield alone


@pytest.fixture(autouse=True)
def _no_keys_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def lone(front: Front, **more: Any) -> S3Store:
    _, bucket = read_address(f"s3://{front.host}/bucket?http=yes")
    return S3Store(bucket, Access(Login("an-id", "the-secret"), 5.0), **more)


def giving(data: bytes, offsets: list[int] | None = None, piece: int = 100_000) -> OpenAt:
    def open_at(offset: int) -> Iterator[bytes]:
        if offsets is not None:
            offsets.append(offset)
        for at in range(offset, len(data), piece):
            yield data[at : at + piece]

    return open_at


def keep(store: S3Store, data: bytes, name: str = NAME, *, fresh: bool = False) -> None:
    store.put(name, len(data), giving(data), fresh=fresh)


def read(store: S3Store, name: str = NAME) -> bytes:
    with store.read(name) as stream:
        return b"".join(stream)


VERBS: dict[str, Callable[[S3Store], object]] = {
    "put": lambda store: keep(store, b"data"),
    "read": read,
    "stat": lambda store: store.stat(NAME),
    "age": lambda store: store.age(NAME),
    "delete": lambda store: store.delete(NAME),
    "list": lambda store: list(store.list()),
}


# Addresses.


@pytest.mark.parametrize(
    ("address", "origin", "path", "prefix"),
    [
        ("s3://host:9000/bucket", "https://host:9000", "/bucket", ""),
        ("s3://host/bucket/", "https://host", "/bucket", ""),
        ("s3://host:443/my.bucket/a/b", "https://host", "/my.bucket", "a/b/"),
        ("s3://host:80/bucket/a?http=yes", "http://host", "/bucket", "a/"),
        ("s3://[::1]:9000/bucket", "https://[::1]:9000", "/bucket", ""),
        ("s3://host/bucket?style=host&region=x-1", "https://bucket.host", "", ""),
        ("s3://s3.amazonaws.com/bucket", "https://bucket.s3.amazonaws.com", "", ""),
        ("s3://s3.eu-west-1.amazonaws.com/b-1/x", "https://b-1.s3.eu-west-1.amazonaws.com", "", "x/"),
        ("s3://s3.cn-north-1.amazonaws.com.cn/b-1", "https://b-1.s3.cn-north-1.amazonaws.com.cn", "", ""),
        ("s3://s3.eu-west-1.amazonaws.com/a.bucket", "https://s3.eu-west-1.amazonaws.com", "/a.bucket", ""),
        ("s3://s3.amazonaws.com/bucket?style=path", "https://s3.amazonaws.com", "/bucket", ""),
    ],
)
def test_what_an_address_means(address: str, origin: str, path: str, prefix: str) -> None:
    _, bucket = read_address(address)
    assert (bucket.origin, bucket.path, bucket.prefix) == (origin, path, prefix)
    assert read_address(check(address))[1] == bucket
    assert check(check(address)) == check(address)


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("s3.amazonaws.com", "us-east-1"),
        ("s3.eu-west-1.amazonaws.com", "eu-west-1"),
        ("s3-eu-west-1.amazonaws.com", "eu-west-1"),
        ("s3.dualstack.eu-west-1.amazonaws.com", "eu-west-1"),
        ("s3.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("s3.eu-central-003.backblazeb2.com", "eu-central-003"),
        ("s3.wasabisys.com", "us-east-1"),
        ("s3.eu-central-2.wasabisys.com", "eu-central-2"),
        ("s3.fr-par.scw.cloud", "fr-par"),
        ("s3.gra.io.cloud.ovh.net", "gra"),
        ("0123abc.r2.cloudflarestorage.com", "auto"),
        ("0123abc.eu.r2.cloudflarestorage.com", "auto"),
        ("s3.example.org", "us-east-1"),
        ("localhost", "us-east-1"),
    ],
)
def test_the_region_is_known_by_the_endpoint(host: str, region: str) -> None:
    assert read_address(f"s3://{host}/bucket")[1].region == region
    assert read_address(f"s3://{host}/bucket?region=other-2")[1].region == "other-2"


def test_an_address_has_one_form() -> None:
    assert check("s3://Host:443//bucket/a//b/") == "s3://host/bucket/a/b"
    assert check("s3://host:80/bucket?http=yes&class=GLACIER_IR") == "s3://host/bucket?class=GLACIER_IR&http=yes"


@pytest.mark.parametrize(
    "address",
    [
        *("s3://host", "s3://host/", "s3:///bucket", "s3:host/bucket", "s3://host/ab", "s3://host/Bucket"),
        *(
            "s3://host/buck_et",
            "s3://host/-bucket",
            "s3://host/bucket-",
            "s3://host/buc..ket",
            "s3://host/buc.-ket",
        ),
        *("s3://host/" + "a" * 64, "s3://host/10.0.0.1", "s3://host/.bucket", "s3://host/bucket."),
        *("s3://host/bucket?style=virtual", "s3://host/bucket?http=no", "s3://host/bucket?region=a/b"),
        *("s3://host/bucket?class=A%20B", "s3://host/bucket?ca=relative", "s3://host/bucket?ca=/a&http=yes"),
        *("s3://host/bucket?other=1", "s3://host/bucket?region=", "s3://host/bucket/../x", "s3://host:x/bucket"),
        *("s3://an-id:the-secret@host/bucket", "s3://the-secret@host/bucket"),
    ],
)
def test_an_address_that_cannot_be_is_refused(address: str) -> None:
    with pytest.raises(BadSetting) as raised:
        check(address)
    assert "the-secret" not in str(raised.value)


def test_opening_asks_nobody() -> None:
    open_any("s3://127.0.0.1:1/bucket/annex").close()


# Parts.


@given(st.integers(1, 60 << 40), st.sampled_from([PART, PART_SIZE]))
def test_parts_are_few_and_alike(size: int, part_size: int) -> None:
    parts = plan_parts(size, part_size)
    assert [part.number for part in parts] == list(range(1, len(parts) + 1))
    assert len(parts) <= 10_000
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == size
    assert len({part.size for part in parts[:-1]}) <= 1
    assert all(part.size >= part_size for part in parts[:-1])
    assert 0 < parts[-1].size <= parts[0].size
    assert [part.is_last for part in parts] == [False] * (len(parts) - 1) + [True]


def test_a_large_object_goes_in_parts_of_one_reading(place: Place) -> None:
    offsets: list[int] = []
    store = place.store()
    store.put(NAME, len(DATA), giving(DATA, offsets))
    assert offsets == [0]
    assert [kind for kind in place.front.kinds if "part" in kind] == ["PUT part 1", "PUT part 2", "PUT part 3"]
    assert read(store) == DATA
    assert place.uploads == []
    with store.read(NAME, PART - 1, 2) as stream:
        assert (stream.size, b"".join(stream)) == (len(DATA), DATA[PART - 1 : PART + 1])


def test_what_is_smaller_goes_in_one_request(place: Place) -> None:
    store = place.store()
    for data in (b"", b"few", DATA[:SMALL], MIDDLE):
        keep(store, data)
        assert read(store) == data
    assert [kind for kind in place.front.kinds if kind.startswith(("PUT", "POST"))] == ["PUT"] * 4
    sent = [request.headers for request in place.front.seen if request.method == "PUT"]
    assert ["content-md5" in headers for headers in sent] == [True, True, True, False]
    assert sent[3]["x-amz-content-sha256"] == "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"


@pytest.mark.parametrize("size", [len(DATA) - 1, len(DATA) + 1, 2 * PART, 2 * PART + 1])
def test_a_source_of_another_size_leaves_no_upload(place: Place, size: int) -> None:
    store = place.store()
    keep(store, b"old")
    with pytest.raises(Damaged):
        store.put(NAME, size, giving(DATA))
    assert place.uploads == []
    assert read(store) == b"old"


def failing(data: bytes, given: int, error: BaseException) -> OpenAt:
    def open_at(offset: int) -> Iterator[bytes]:
        for at in range(offset, given, 100_000):
            yield data[at : min(at + 100_000, given)]
        raise error

    return open_at


@pytest.mark.parametrize("given", [0, PART + 5, 2 * PART, len(DATA)])
def test_a_source_that_fails_leaves_no_upload(place: Place, given: int) -> None:
    failure = OSError(5, "the file cannot be read")
    with pytest.raises(OSError, match="cannot be read") as raised:
        place.store().put(NAME, len(DATA), failing(DATA, given, failure))
    assert raised.value is failure
    assert place.uploads == []
    assert place.store().stat(NAME) is None


def test_a_bucket_that_the_host_names(strict: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody here knows names of hosts like this one, so the front is the proxy that does."""
    monkeypatch.setenv("http_proxy", f"http://{strict.front.host}")
    monkeypatch.setenv("no_proxy", "")
    host = f"{strict.bucket}.localhost:{strict.server.port}"
    strict.front.rule = lambda request, forward: forward(
        replace(request, path=request.path.removeprefix(f"http://{host}"))
    )
    store = strict.at(f"s3://localhost:{strict.server.port}/{strict.bucket}/annex?http=yes&style=host")
    for data in (b"few", MIDDLE, DATA):
        keep(store, data)
        assert read(store) == data
        assert store.stat(NAME) == len(data)
    assert list(store.list()) == [(NAME, len(DATA))]
    assert {request.headers["host"] for request in strict.front.seen} == {host}
    assert strict.server.request("HEAD", f"/{strict.bucket}/annex/{NAME}").status_code == 200
    store.delete(NAME)
    assert store.stat(NAME) is None


# Going on with what was cut off.


def cut_off(place: Place, name: str = NAME) -> None:
    """Have the connection cut in the last part of an upload."""
    place.front.rule = once("PUT part 3", None)
    with pytest.raises(Unavailable) as raised:
        keep(place.store(), DATA, name)
    assert raised.value.passing
    assert len(place.uploads) == 1
    assert place.store().stat(name) is None
    place.front.seen.clear()


def test_an_upload_that_was_cut_off_is_gone_on_with(place: Place) -> None:
    cut_off(place)
    offsets: list[int] = []
    place.store().put(NAME, len(DATA), giving(DATA, offsets))
    assert [kind for kind in place.front.kinds if kind.startswith(("PUT", "POST"))] == [
        "PUT part 3",
        "POST uploadId",
    ]
    assert offsets == [0]
    assert place.uploads == []
    assert read(place.store()) == DATA


def test_a_part_that_would_be_another_now_is_sent_again(place: Place) -> None:
    cut_off(place)
    changed = DATA[:PART] + b"?" + DATA[PART + 1 :]
    keep(place.store(), changed)
    assert [kind for kind in place.front.kinds if "part" in kind] == ["PUT part 2", "PUT part 3"]
    assert read(place.store()) == changed


@pytest.mark.parametrize("size", [len(DATA) - 1, 1, PART + 1])
def test_a_source_of_another_size_is_found_out_when_an_upload_goes_on(place: Place, size: int) -> None:
    cut_off(place)
    with pytest.raises(Damaged):
        place.store().put(NAME, len(DATA), giving(DATA[:size]))
    assert place.uploads == []
    assert place.store().stat(NAME) is None


def test_an_upload_of_other_parts_is_left_alone(place: Place) -> None:
    cut_off(place)
    [left] = place.uploads
    longer = DATA + b"more"
    place.store(part_size=PART + 1).put(NAME, len(longer), giving(longer))
    assert read(place.store()) == longer
    assert place.uploads == [left]


def test_an_upload_of_another_name_is_left_alone(place: Place) -> None:
    assert OTHER.startswith(NAME)
    cut_off(place, OTHER)
    keep(place.store(), DATA)
    assert len(place.uploads) == 1
    assert read(place.store()) == DATA


def test_two_puts_at_once_have_an_upload_each(place: Place) -> None:
    store = place.store()
    other = DATA[::-1]

    def open_at(offset: int) -> Iterator[bytes]:
        yield DATA[offset : PART + 5]
        keep(store, other)
        assert read(store) == other
        yield DATA[max(offset, PART + 5) :]

    store.put(NAME, len(DATA), open_at)
    assert read(store) == DATA
    assert place.uploads == []


@pytest.mark.parametrize("error", [Cancelled("called off"), Unavailable("the store that is copied from is away")])
def test_what_may_go_on_later_is_kept(place: Place, error: SwarmError) -> None:
    with pytest.raises(type(error)) as raised:
        place.store().put(NAME, len(DATA), failing(DATA, PART + 5, error))
    assert raised.value is error
    assert len(place.uploads) == 1
    place.front.seen.clear()
    keep(place.store(), DATA)
    assert "PUT part 1" not in place.front.kinds
    assert read(place.store()) == DATA


def test_a_server_that_lists_no_uploads_gets_it_all_again(place: Place) -> None:
    cut_off(place)
    place.front.rule = lambda request, forward: (
        error(501, "NotImplemented") if request.kind == "GET uploads" else forward(request)
    )
    keep(place.store(), DATA)
    assert [kind for kind in place.front.kinds if "part" in kind] == ["PUT part 1", "PUT part 2", "PUT part 3"]
    assert read(place.store()) == DATA


def test_a_failure_that_passes_does_not_cost_what_was_sent(place: Place) -> None:
    cut_off(place)
    place.store().list()
    store = place.store()
    store.put(NAME, 1, giving(b"x"))  # so that it is not the sweep that fails
    lists = iter(range(MANY))
    place.front.rule = lambda request, forward: (
        error(500, "InternalError") if request.kind == "GET uploads" and next(lists) == 1 else forward(request)
    )
    with pytest.raises(Unavailable) as raised:
        keep(store, DATA)
    assert raised.value.passing
    assert not [kind for kind in place.front.kinds if "part" in kind]


# The end of an upload.


@pytest.mark.parametrize("code", ["InternalError", "SomethingNew"])
def test_a_failure_with_status_200_is_a_failure(place: Place, code: str) -> None:
    store = place.store()
    failure = error(200, code)
    place.front.rule = once("POST uploadId", replace(failure, body=b"\n  \n" + failure.body))
    with pytest.raises(Unavailable) as raised:
        keep(store, DATA)
    assert raised.value.passing
    assert code in str(raised.value)
    assert store.stat(NAME) is None
    place.front.seen.clear()
    keep(store, DATA)
    assert not [kind for kind in place.front.kinds if "part" in kind]
    assert read(store) == DATA


def test_an_answer_that_got_lost_is_no_failure(place: Place) -> None:
    store = place.store()
    place.front.rule = once("POST uploadId", None, after=True)
    keep(store, DATA)
    assert read(store) == DATA


def test_another_process_may_be_faster(place: Place) -> None:
    def rule(request: Request, forward: Forward) -> Reply:
        if request.kind == "POST uploadId":
            forward(request)
        return forward(request)

    place.front.rule = rule
    keep(place.store(), DATA)
    assert read(place.store()) == DATA


def test_an_upload_that_another_process_gave_up_is_a_passing_failure(place: Place) -> None:
    def rule(request: Request, forward: Forward) -> Reply:
        if request.kind == "PUT part 3":
            for upload in place.uploads:
                place.server.request("DELETE", f"/{place.bucket}/annex/{NAME}", {"uploadId": upload})
        return forward(request)

    place.front.rule = rule
    with pytest.raises(Unavailable) as raised:
        keep(place.store(), DATA)
    assert raised.value.passing
    place.front.rule = forwarding
    keep(place.store(), DATA)
    assert read(place.store()) == DATA


def test_another_size_than_was_sent_is_a_failure(place: Place) -> None:
    def rule(request: Request, forward: Forward) -> Reply:
        reply = forward(request)
        if request.method == "HEAD":
            return replace(reply, headers=reply.headers | {"Content-Length": "7"})
        return reply

    place.front.rule = rule
    with pytest.raises(Unavailable, match="another size"):
        keep(place.store(), DATA)


# Sweeping.


def test_uploads_that_nobody_goes_on_with_are_swept_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off(place)
    stranger = f"/{place.bucket}/annex/README"
    assert place.server.request("POST", stranger, {"uploads": ""}).status_code == 200
    [old] = set(place.uploads) - {strangers_upload(place)}
    keep(place.store(), DATA, OTHER)
    assert old in place.uploads, "not a week old"

    monkeypatch.setattr("annex_remote.stores.s3_uploads.ABANDONED", -ABANDONED)
    store = place.store()
    keep(store, DATA, OTHER)
    assert place.uploads == [strangers_upload(place)]
    place.front.seen.clear()
    keep(store, DATA, OTHER)
    assert place.front.kinds.count("GET uploads") == 1, "it is swept once; the other listing is for going on"


def strangers_upload(place: Place) -> str:
    query = {"uploads": "", "prefix": "annex/README"}
    [found] = re.findall(
        r"<UploadId>(.*?)</UploadId>", place.server.request("GET", f"/{place.bucket}", query).text
    )
    return str(found)


def test_an_upload_that_has_just_begun_is_not_swept(strict: Place) -> None:
    ours = f"/{strict.bucket}/annex/{NAME}"
    assert strict.server.request("POST", ours, {"uploads": ""}).status_code == 200
    keep(strict.store(), DATA, OTHER)
    assert len(strict.uploads) == 1


def test_an_old_upload_with_a_new_part_is_not_swept(place: Place) -> None:
    cut_off(place)

    def rule(request: Request, forward: Forward) -> Reply:
        reply = forward(request)
        if request.kind != "GET uploads":
            return reply
        old = re.sub(
            rb"<Initiated>.*?</Initiated>", b"<Initiated>2001-01-01T00:00:00.000Z</Initiated>", reply.body
        )
        return replace(reply, body=old, headers={})

    place.front.rule = rule
    keep(place.store(), DATA, OTHER)
    assert len(place.uploads) == 1


# Damage on its way.


@pytest.mark.parametrize("before", [None, b"old"], ids=["new", "replacing"])
@pytest.mark.parametrize(
    ("data", "kind"),
    [(b"few bytes" * 9, "PUT"), (DATA[:SMALL], "PUT"), (MIDDLE, "PUT"), (DATA, "PUT part 2")],
    ids=["few", "small", "middle", "parts"],
)
def test_a_strict_server_stores_nothing_damaged(
    strict: Place, data: bytes, kind: str, before: bytes | None
) -> None:
    store = strict.store()
    if before is not None:
        keep(store, before)
    strict.front.rule = flipping(kind, 70)
    with pytest.raises(Unavailable) as raised:
        keep(store, data)
    assert raised.value.passing
    assert (store.stat(NAME) and read(store)) == before
    strict.front.rule = forwarding
    keep(store, data)
    assert read(store) == data


@pytest.mark.parametrize(
    ("data", "kind"),
    [(b"few bytes" * 12, "PUT"), (MIDDLE, "PUT"), (DATA, "PUT part 2")],
    ids=["few", "middle", "parts"],
)
def test_a_server_that_checks_nothing_keeps_nothing_damaged(place: Place, data: bytes, kind: str) -> None:
    store = place.store()
    place.front.rule = flipping(kind, 100)
    with pytest.raises(Unavailable) as raised:
        keep(store, data)
    assert raised.value.passing
    assert store.stat(NAME) is None


def test_an_etag_that_is_no_md5_proves_nothing(place: Place) -> None:
    def rule(request: Request, forward: Forward) -> Reply:
        reply = forward(request)
        if request.method == "PUT" and request.kind == "PUT":
            kms = {"x-amz-server-side-encryption": "aws:kms", "ETag": '"0123456789abcdef0123456789abcdef"'}
            return replace(reply, headers={**reply.headers, **kms})
        return reply

    place.front.rule = rule
    store = place.store()
    for data in (b"few", MIDDLE):
        keep(store, data)
        assert read(store) == data
    assert place.front.kinds.count("HEAD") == 2, "its size is compared instead"


def test_a_server_that_knows_nothing_of_chunks_gets_none(tmp_path: Path) -> None:
    with s3rver(tmp_path / "server") as lenient:
        for place in place_on(lenient):
            store = place.store()
            with pytest.raises(Unavailable) as raised:
                keep(store, MIDDLE)
            assert raised.value.passing
            assert store.stat(NAME) is None
            keep(store, MIDDLE)
            assert read(store) == MIDDLE
            keep(store, DATA)
            assert read(store) == DATA


def test_over_tls_nothing_is_signed_twice(tmp_path: Path) -> None:
    certificate = make_certificates(tmp_path / "tls").good
    with rgw(tmp_path / "server", certificate=certificate) as secure:
        for place in place_on(secure):
            ca = f"ca={certificate.authority}"
            store = place.at(f"s3://{secure.host}:{secure.port}/{place.bucket}/annex?{ca}")
            for data in (b"", b"few", MIDDLE, DATA):
                keep(store, data)
                assert read(store) == data
            with pytest.raises(Unavailable, match="not trusted"):
                place.at(f"s3://{secure.host}:{secure.port}/{place.bucket}").stat(NAME)


# Regions.


def says_region(status: int, answer: Reply) -> Rule:
    def rule(request: Request, forward: Forward) -> Reply:
        if "/eu-north-7/s3/" in request.headers["authorization"]:
            return forward(request)
        return answer if request.method != "HEAD" else replace(answer, body=b"")

    return rule


REGIONS = {
    "malformed": error(400, "AuthorizationHeaderMalformed", "<Region>eu-north-7</Region>"),
    "redirect": error(301, "PermanentRedirect", "<Endpoint>b.s3.x</Endpoint>", x_amz_bucket_region="eu-north-7"),
}


@pytest.mark.parametrize("which", REGIONS)
def test_a_server_corrects_the_region_once(front: Front, which: str) -> None:
    held: dict[str, bytes] = {}

    def s3(request: Request, _: Forward) -> Reply:
        if "list-type" in request.path:
            return Reply(200, {}, b"<ListBucketResult/>")
        if request.method == "PUT":
            held[request.path] = request.body
            return Reply(200)
        return Reply(200, {}, held[request.path]) if request.path in held else error(404, "NoSuchKey")

    corrects = says_region(0, REGIONS[which])
    front.rule = lambda request, _: corrects(request, lambda request: s3(request, _))
    for verb in VERBS.values():
        store = lone(front)
        front.seen.clear()
        verb(store)
        first = len(front.seen)
        verb(store)
        assert len(front.seen) > first
        wrong = [request for request in front.seen if "eu-north-7" not in request.headers["authorization"]]
        assert len(wrong) == (2 if wrong[0].method == "HEAD" and which == "malformed" else 1)
        store.close()


def test_a_region_that_does_not_help_is_said(front: Front) -> None:
    front.rule = always(REGIONS["redirect"])
    store = lone(front)
    with pytest.raises(Unavailable, match=r"is in eu-north-7 \(its endpoint is b.s3.x\)") as raised:
        list(store.list())
    assert not raised.value.passing
    assert len(front.seen) == 2


# Storage class.


def test_the_storage_class_is_sent(place: Place) -> None:
    store = place.store(options="&class=STANDARD")
    for data in (b"few", MIDDLE, DATA):
        keep(store, data)
        assert read(store) == data
    classes = {request.kind: request.headers.get("x-amz-storage-class") for request in place.front.seen}
    assert classes["PUT"] == classes["POST uploads"] == "STANDARD"
    assert classes["PUT part 1"] is classes["POST uploadId"] is classes["GET"] is None


def test_a_storage_class_that_is_not_known_is_said(place: Place) -> None:
    with pytest.raises(Unavailable, match="InvalidStorageClass" if isinstance(place.server, moto) else "Argument"):
        keep(place.store(options="&class=NO_SUCH"), b"few")


# Keys.


def test_keys_of_the_home_directory_are_used(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys = place.server.keys
    folder = tmp_path / "home" / ".aws"
    folder.mkdir(parents=True)
    text = f"[default]\naws_access_key_id={keys.access_key}\naws_secret_access_key={keys.secret_key}\n"
    (folder / "credentials").write_text(text, encoding="utf-8")
    store = open_any(f"s3://{place.front.host}/{place.bucket}?http=yes")
    store.put(NAME, 3, giving(b"few"))
    assert store.stat(NAME) == 3
    store.close()


def test_without_keys_what_is_public_can_be_read(strict: Place) -> None:
    place = strict
    keep(place.store(), b"public")
    policy = (
        '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":["s3:GetObject",'
        f'"s3:ListBucket"],"Resource":["arn:aws:s3:::{place.bucket}","arn:aws:s3:::{place.bucket}/*"]}}]}}'
    )
    place.server.request("PUT", f"/{place.bucket}", {"policy": ""}, policy.encode()).raise_for_status()
    _, bucket = read_address(f"s3://{place.front.host}/{place.bucket}/annex?http=yes")
    store = S3Store(bucket, Access())
    assert read(store) == b"public"
    assert store.stat(NAME) == 6
    assert store.stat(OTHER) is None
    assert list(store.list()) == [(NAME, 6)]
    for verb in ("put", "delete"):
        with pytest.raises(Denied, match="there are no keys for S3") as raised:
            VERBS[verb](store)
        assert raised.value.wants_login
    assert not any("authorization" in request.headers for request in place.front.seen[1:])
    assert {request.method for request in place.front.seen[1:]} == {"GET", "HEAD"}
    store.close()


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("put", "delete")])
def test_what_is_not_public_asks_for_keys(strict: Place, verb: str) -> None:
    _, bucket = read_address(f"s3://{strict.front.host}/{strict.bucket}?http=yes")
    with pytest.raises(Denied, match="there are no keys for S3 here") as raised:
        VERBS[verb](S3Store(bucket, Access()))
    assert raised.value.wants_login


@pytest.mark.parametrize("verb", VERBS)
def test_keys_that_are_not_accepted(strict: Place, verb: str) -> None:
    with pytest.raises(Denied, match="secret key does not belong") as raised:
        VERBS[verb](strict.store(secret="not/the+secret"))
    assert raised.value.wants_login
    unknown = Login("NOBODY", "not/the+secret")
    _, bucket = read_address(f"s3://{strict.front.host}/{strict.bucket}?http=yes")
    with pytest.raises(Denied, match="does not know this access key id") as raised:
        VERBS[verb](S3Store(bucket, Access(unknown)))
    assert raised.value.wants_login


def test_a_large_put_with_a_wrong_secret_is_no_damage(strict: Place) -> None:
    with pytest.raises(Denied, match="secret key does not belong"):
        keep(strict.store(secret="not/the+secret"), MIDDLE)


def test_keys_that_are_taken_back_meanwhile(place: Place) -> None:
    store = place.store()
    assert store.stat(NAME) is None
    refusal = error(403, "InvalidAccessKeyId")
    place.front.rule = lambda request, _: replace(refusal, body=b"") if request.method == "HEAD" else refusal
    with pytest.raises(Denied, match="does not know this access key id"):
        store.stat(NAME)


def test_keys_with_odd_characters_are_not_sent(front: Front) -> None:
    _, bucket = read_address(f"s3://{front.host}/bucket?http=yes")
    with pytest.raises(Denied, match="odd characters") as raised:
        S3Store(bucket, Access(Login("AK\r\nX-Evil: yes", "the-secret"))).stat(NAME)
    assert raised.value.wants_login
    assert front.seen == []


def test_renewed_keys_are_taken_up(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "OLD")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    _, bucket = read_address(f"s3://{front.host}/bucket?http=yes")
    store = S3Store(bucket, Access())
    front.rule = lambda request, _: (
        error(400, "ExpiredToken") if "=OLD/" in request.headers["authorization"] else Reply(200)
    )
    with pytest.raises(Denied, match="have expired"):
        store.stat(NAME)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "NEW")
    assert store.stat(NAME) == 0


def test_a_session_token_is_sent_and_signed(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a/token")
    _, bucket = read_address(f"s3://{front.host}/bucket?http=yes")
    front.rule = always(Reply(200))
    assert S3Store(bucket, Access()).stat(NAME) == 0
    headers = front.seen[0].headers
    assert headers["x-amz-security-token"] == "a/token"
    assert "x-amz-security-token" in headers["authorization"]


# What goes wrong, and how it is said.


def ahead(seconds: float) -> Callable[[], float]:
    return lambda: time.time() + seconds


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3600 * 5, "5 hours ahead of"), (-86400 * 9, "9 days behind"), (-30 * 60, "30 minutes behind")],
)
@pytest.mark.parametrize("verb", VERBS)
def test_a_clock_that_is_wrong_is_said(strict: Place, verb: str, seconds: float, words: str) -> None:
    with pytest.raises(Denied, match=f"ours is {words}") as raised:
        VERBS[verb](strict.store(clock=ahead(seconds)))
    assert not raised.value.wants_login


@pytest.mark.parametrize("verb", VERBS)
def test_a_bucket_that_is_not_there_is_no_absence(server: S3Server, place: Place, verb: str) -> None:
    store = place.at(f"s3://{place.front.host}/no-such-bucket-here/annex?http=yes")
    with pytest.raises(Unavailable, match="does not have this bucket") as raised:
        VERBS[verb](store)
    assert not raised.value.passing


def test_a_bucket_that_is_there_is_looked_at_once(place: Place) -> None:
    store = place.store()
    for _ in range(3):
        assert store.stat(NAME) is None
    assert place.front.kinds == ["HEAD", "GET list-type=2", "HEAD", "HEAD"]
    store = place.store()
    for _ in range(2):
        with pytest.raises(NotFound):
            read(store)
    assert store.stat(NAME) is None
    assert place.front.kinds[4:] == ["GET", "GET", "HEAD"]


@pytest.mark.parametrize(
    "reply", [Reply(404, {}, b"<html>nothing here</html>"), Reply(200, {}, b"<html>hi</html>")]
)
@pytest.mark.parametrize("verb", ["stat", "list"])
def test_any_other_server_has_no_absence(front: Front, verb: str, reply: Reply) -> None:
    front.rule = lambda request, _: Reply(404) if request.method == "HEAD" else reply
    with pytest.raises(Unavailable, match="does not answer as an S3 server"):
        VERBS[verb](lone(front))


def test_any_other_server_has_no_absence_to_reading_either(front: Front) -> None:
    front.rule = always(Reply(404, {}, b"<html>nothing here</html>"))
    for length in (None, 0):
        with pytest.raises(Unavailable, match="does not answer as an S3 server"):
            lone(front).read(NAME, 0, length)
    with pytest.raises(Unavailable, match="does not answer as an S3 server"):
        lone(front).delete(NAME)


FAILURES: list[tuple[Reply, type[StoreError], str, dict[str, object]]] = [
    (error(503, "SlowDown", Retry_After="7"), Busy, "slow down", {"retry_after": 7.0}),
    (error(503, "ServiceUnavailable"), Busy, "overloaded", {"retry_after": None}),
    (error(429, "TooManyRequests"), Busy, "slow down", {"retry_after": None}),
    (error(400, "RequestLimitExceeded"), Busy, "slow down", {}),
    (Reply(503, {"Retry-After": "3"}), Busy, "503", {"retry_after": 3.0}),
    (error(403, "QuotaExceeded"), Full, "quota", {}),
    (error(400, "EntityTooLarge"), Full, "of this size", {}),
    (error(507, "XMinioStorageFull"), Full, "no space", {}),
    (error(403, "AccessDenied"), Denied, "forbids", {"wants_login": False}),
    (error(400, "ExpiredToken"), Denied, "expired", {"wants_login": True}),
    (error(500, "InternalError"), Unavailable, "InternalError", {"passing": True}),
    (error(400, "BadDigest"), Unavailable, "than was sent", {"passing": True}),
    (error(403, "InvalidObjectState"), Unavailable, "archive", {"passing": False}),
    (error(501, "NotImplemented"), Unavailable, "cannot do this", {"passing": False}),
    (Reply(502, {}, b"<html>bad gateway</html>"), Unavailable, "502", {"passing": True}),
    (error(418, "SomethingNew"), Unavailable, "418", {"passing": False}),
]


@pytest.mark.parametrize("verb", ["put", "read", "list", "delete"])
@pytest.mark.parametrize("index", range(len(FAILURES)))
def test_codes_decide_what_an_error_is(front: Front, verb: str, index: int) -> None:
    reply, kind, words, fields = FAILURES[index]
    front.rule = always(reply)
    with pytest.raises(kind, match=words) as raised:
        VERBS[verb](lone(front))
    assert {name: getattr(raised.value, name) for name in fields} == fields
    assert "secret" not in str(raised.value)


def test_a_quota_that_is_used_up(tmp_path: Path) -> None:
    with rgw(tmp_path / "server") as server:
        server.limit_space(PART)
        for place in place_on(server):
            store = place.store()
            for data in (DATA, MIDDLE, DATA[:SMALL]):
                with pytest.raises(Full, match="quota"):
                    fill(store, data)
            assert place.uploads == []


def fill(store: S3Store, data: bytes) -> None:
    for number in range(30):  # the gateway counts a little late
        keep(store, data, f"{NAME[:-1]}{number}")


LISTING = b"""<?xml version="1.0"?><!DOCTYPE ListBucketResult [<!ENTITY a "b">]>
<ListBucketResult><Contents><Key>&a;</Key><Size>1</Size></Contents></ListBucketResult>"""

PAGE = b"<ListBucketResult><IsTruncated>true</IsTruncated>%s</ListBucketResult>"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (LISTING, "does not answer as an S3 server"),
        (b"<ListBucketResult>", "does not answer as an S3 server"),
        (b"", "does not answer as an S3 server"),
        (b"<SomethingElse/>", "does not answer as an S3 server"),
        (PAGE % b"", "does not say how"),
        (PAGE % b"<NextContinuationToken>same</NextContinuationToken>", "over and over"),
    ],
)
def test_a_listing_that_cannot_be_is_refused(front: Front, body: bytes, words: str) -> None:
    front.rule = always(Reply(200, {}, body))
    with pytest.raises(Unavailable, match=words):
        list(lone(front).list())


def test_a_listing_of_many_pages(place: Place) -> None:
    names = [f"ab/ab{'2' * 30}.{number}" for number in range(7)]
    store = place.at(f"s3://{place.front.host}/{place.bucket}/a%20b+c/%C3%A4%25?http=yes")
    for name in names:
        keep(store, name.encode(), name)
    place.store().put(NAME, 1, giving(b"x"))
    if isinstance(place.server, moto):  # does not look at signatures
        place.front.rule = lambda request, forward: forward(
            replace(request, path=request.path.replace("list-type=2", "list-type=2&max-keys=3"))
        )
    assert sorted(store.list()) == [(name, len(name)) for name in names]
    assert list(store.list("ab/ab" + "2" * 30 + ".3")) == [(names[3], len(names[3]))]
    if isinstance(place.server, moto):
        assert place.front.kinds.count("GET list-type=2") == 4


# Secrets.


def test_no_secret_is_ever_shown(strict: Place, front: Front) -> None:
    secret, wrong = strict.server.keys.secret_key, "not/the+secret"
    texts = [repr(strict.store()), repr(strict.store(secret=wrong))]
    for verb in VERBS.values():
        for store in (strict.store(secret=wrong), strict.store(clock=ahead(99999))):
            with pytest.raises(SwarmError) as raised:
                verb(store)
            error: BaseException | None = raised.value
            while error is not None:
                texts += [str(error), repr(error)]
                error = error.__cause__ or error.__context__
    signatures = {request.headers["authorization"][-64:] for request in strict.front.seen}
    assert len(signatures) > 5
    for text in texts:
        assert secret not in text
        assert wrong not in text
        assert not any(signature in text for signature in signatures)
    assert all(secret not in f"{request}" for request in strict.front.seen)


# How old it is.

MD5 = "0123456789abcdef" * 2
DAY = 86400.0


def told(seconds: float, etag: str = MD5) -> Reply:
    """An answer about an object that was put so many seconds before."""
    return Reply(200, {"ETag": f'"{etag}"', "Last-Modified": formatdate(time.time() - seconds, usegmt=True)})


@pytest.mark.parametrize("etag", [f"{MD5}-2", "something-else", ""])
def test_what_was_sent_in_parts_is_dated_by_its_beginning(front: Front, etag: str) -> None:
    """So at Amazon; its upload may have been cut off, gone on with, and ended a moment ago."""
    for days, age in ((1, 0), (13, 0), (15, 1), (100, 86)):
        front.rule = always(told(days * DAY, etag))
        assert lone(front).age(NAME) == pytest.approx(age * DAY, abs=60)
        front.rule = always(told(days * DAY))
        assert lone(front).age(NAME) == pytest.approx(days * DAY, abs=60)


def test_what_was_put_in_parts_is_not_taken_for_old(place: Place) -> None:
    store = place.store()
    keep(store, DATA)
    assert store.age(NAME) == 0.0


@pytest.mark.parametrize(("days", "parts"), [(6, 1), (8, 3)])
def test_an_upload_of_more_than_a_week_ago_is_not_gone_on_with(place: Place, days: int, parts: int) -> None:
    cut_off(place)

    def rule(request: Request, forward: Forward) -> Reply:
        reply = forward(request)
        if request.kind != "GET uploads":
            return reply
        date = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(time.time() - days * DAY)).encode()
        said = rb"<Initiated>%s</Initiated>" % date
        return replace(reply, body=re.sub(rb"<Initiated>.*?</Initiated>", said, reply.body), headers={})

    place.front.rule = rule
    keep(place.store(), DATA)
    assert sum("PUT part" in kind for kind in place.front.kinds) == parts


def test_a_length_that_is_no_number(front: Front) -> None:
    for length in ("\u00b2", "", "1e3"):
        front.rule = always(Reply(200, {"Content-Length": length}))
        with pytest.raises(Unavailable, match="does not say how long"):
            lone(front).stat(NAME)


# What must not be there yet.


def is_conditional(request: Request) -> bool:
    return any(name.lower() == "if-none-match" for name in request.headers)


def test_a_fresh_put_is_one_request_when_the_server_has_shown_that_it_heeds(place: Place) -> None:
    store, names = place.store(), [f"{OTHER}{number}" for number in range(3)]
    keep(store, b"first", fresh=True)
    assert place.front.kinds[0] == "HEAD"
    assert place.front.kinds[-2:] == ["PUT", "PUT"]
    place.front.seen.clear()
    for name, data in zip(names, (b"", b"few", MIDDLE), strict=True):
        keep(store, data, name, fresh=True)
        with pytest.raises(Exists, match="has it already"):
            keep(store, data + b"!", name, fresh=True)
        assert read(store, name) == data
    assert [kind for kind in place.front.kinds if kind != "GET"] == ["PUT"] * 6
    assert read(store) == b"first"


def test_a_server_that_heeds_shows_it_by_a_refusal(place: Place) -> None:
    keep(place.store(), b"before")
    store = place.store()
    with pytest.raises(Exists):
        keep(store, b"ours", fresh=True)  # by the look
    place.front.seen.clear()
    place.front.rule = once("HEAD", Reply(404))
    with pytest.raises(Exists):
        keep(store, b"ours", fresh=True)  # by the condition
    place.front.rule = forwarding
    place.front.seen.clear()
    with pytest.raises(Exists):
        keep(store, b"ours", fresh=True)
    assert place.front.kinds == ["PUT"]
    assert read(store) == b"before"


def without_condition(request: Request) -> dict[str, str]:
    return {name: value for name, value in request.headers.items() if name.lower() != "if-none-match"}


def ignoring(request: Request, forward: Forward) -> Reply | None:
    """Be a server that knows no conditions, and says nothing of that."""
    return forward(replace(request, headers=without_condition(request)))


def refusing(reply: Reply) -> Rule:
    return lambda request, forward: reply if is_conditional(request) else forward(request)


UNCONDITIONAL = {
    "ignored": ignoring,
    "not-implemented": refusing(error(501, "NotImplemented")),
    "invalid": refusing(error(400, "InvalidArgument")),
    "wordless": refusing(Reply(501)),
}


@pytest.mark.parametrize("rule", UNCONDITIONAL.values(), ids=UNCONDITIONAL)
@pytest.mark.parametrize("first", [b"first", MIDDLE], ids=["small", "middle"])
def test_a_server_that_knows_no_conditions_is_looked_at(place: Place, rule: Rule, first: bytes) -> None:
    place.front.rule = rule
    store = place.store()
    keep(store, first, fresh=True)
    for name in (OTHER, NAME + "2"):
        keep(store, b"few", name, fresh=True)
    place.front.seen.clear()
    keep(store, b"few", NAME + "3", fresh=True)
    assert place.front.kinds == ["HEAD", "PUT"]
    for name, data in ((NAME, first), (OTHER, b"few")):
        with pytest.raises(Exists, match="is there already"):
            keep(store, b"other", name, fresh=True)
        assert read(store, name) == data


def test_what_goes_in_parts_is_looked_for_before(place: Place) -> None:
    store = place.store()
    keep(store, DATA, fresh=True)
    assert read(store) == DATA
    assert [is_conditional(request) for request in place.front.seen if request.kind == "POST uploadId"] == [True]
    place.front.seen.clear()
    with pytest.raises(Exists):
        keep(store, DATA[::-1], fresh=True)
    assert place.front.kinds == ["HEAD"]
    assert read(store) == DATA


def test_what_comes_before_the_parts_are_together_stays(place: Place) -> None:
    place.front.rule = once("POST uploadId", error(412, "PreconditionFailed"))
    with pytest.raises(Exists):
        keep(place.store(), DATA, fresh=True)
    assert place.uploads == []
    assert place.store().stat(NAME) is None


@pytest.mark.parametrize("reply", [error(501, "NotImplemented"), error(400, "InvalidRequest")])
def test_parts_come_together_where_no_conditions_are_known(place: Place, reply: Reply) -> None:
    place.front.rule = refusing(reply)
    store = place.store()
    keep(store, DATA, fresh=True)
    assert read(store) == DATA
    assert place.uploads == []


def test_what_a_refusal_of_a_fresh_put_means(front: Front) -> None:
    def saying(reply: Reply) -> StoreError:
        front.rule = lambda request, _: (
            Reply(404) if request.method == "HEAD" else EMPTY if in_list(request) else reply
        )
        with pytest.raises(StoreError) as raised:
            keep(lone(front), b"few", fresh=True)
        return raised.value

    assert isinstance(saying(error(412, "PreconditionFailed")), Exists)
    assert isinstance(saying(Reply(412)), Exists)
    busy = saying(error(409, "ConditionalRequestConflict"))
    assert isinstance(busy, Unavailable)
    assert busy.passing
    assert isinstance(saying(error(403, "AccessDenied")), Denied)


def in_list(request: Request) -> bool:
    return "list-type" in request.path


EMPTY = Reply(200, {}, b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")


def test_who_asks_again_may_meet_his_own(place: Place) -> None:
    place.front.rule = once("PUT", None, after=True)
    store = Retrying(place.store(), sleep=lambda _: None)
    with pytest.raises(Exists):
        store.put(NAME, 3, giving(b"few"), fresh=True)
    assert read(place.store()) == b"few"
