"""Signatures: AWS's own examples, and what botocore makes of the same requests."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from annex_remote.stores.sigv4 import CHUNK, IN_CHUNKS, PLAIN, UNSIGNED, Keys, Signer, length_in_chunks

KEYS = Keys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
NOW = datetime(2013, 5, 24, tzinfo=UTC)
SIGNER = Signer(KEYS, "us-east-1", NOW)
HOST = "https://examplebucket.s3.amazonaws.com"
NOTHING = hashlib.sha256(b"").hexdigest()

# https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
PUBLISHED = {
    "get": (
        ("GET", f"{HOST}/test.txt", {"Range": "bytes=0-9"}, NOTHING),
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
    ),
    "put": (
        (
            "PUT",
            f"{HOST}/test$file.text",
            {"Date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"},
            hashlib.sha256(b"Welcome to Amazon S3.").hexdigest(),
        ),
        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
    ),
    "lifecycle": (
        ("GET", f"{HOST}/?lifecycle", {}, NOTHING),
        "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
    ),
    "list": (
        ("GET", f"{HOST}/?max-keys=2&prefix=J", {}, NOTHING),
        "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
    ),
}


@pytest.mark.parametrize("which", PUBLISHED)
def test_published_examples(which: str) -> None:
    (method, url, headers, payload), signature = PUBLISHED[which]
    signed = SIGNER.headers(method, url, headers, payload)
    assert signed["authorization"].endswith(f", Signature={signature}")
    assert signed["authorization"].startswith(
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, SignedHeaders="
    )
    assert signed["x-amz-date"] == "20130524T000000Z"


def test_published_example_of_chunks() -> None:
    """https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html."""
    given = {
        "x-amz-storage-class": "REDUCED_REDUNDANCY",
        "Content-Encoding": "aws-chunked",
        "x-amz-decoded-content-length": "66560",
        "Content-Length": "66824",
    }
    url = "https://s3.amazonaws.com/examplebucket/chunkObject.txt"
    headers = SIGNER.headers("PUT", url, given, IN_CHUNKS)
    assert headers["authorization"][-64:] == "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
    assert list(SIGNER.chunks([b"a" * 66560], headers)) == [
        b"10000;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648\r\n"
        + b"a" * 65536
        + b"\r\n",
        b"400;chunk-signature=0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497\r\n"
        + b"a" * 1024
        + b"\r\n",
        b"0;chunk-signature=b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9\r\n\r\n",
    ]
    assert length_in_chunks(66560) == 66824


@given(st.lists(st.integers(0, 3 * CHUNK), max_size=5))
@example([CHUNK])
@example([])
def test_chunks_are_the_same_however_a_body_comes(lengths: list[int]) -> None:
    headers = SIGNER.headers("PUT", f"{HOST}/a", {}, IN_CHUNKS)
    pieces = [bytes([index]) * length for index, length in enumerate(lengths)]
    chunks = b"".join(SIGNER.chunks(map(memoryview, pieces), headers))
    assert chunks == b"".join(SIGNER.chunks([b"".join(pieces)], headers))
    assert len(chunks) == length_in_chunks(sum(lengths))


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=12)
NAMES = st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyz-"), min_size=1, max_size=12)


@given(
    method=st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD"]),
    path=TEXTS,
    query=st.dictionaries(NAMES, TEXTS, max_size=4),
    headers=st.dictionaries(
        NAMES.map(lambda name: f"x-amz-{name}"), st.text(st.sampled_from("aZ09 /+;=-"), max_size=12), max_size=3
    ),
    body=st.none() | st.binary(max_size=20),
    token=st.sampled_from(["", "a/token+of=ours"]),
    port=st.sampled_from(["", ":9000"]),
)
def test_botocore_signs_alike(
    method: str,
    path: str,
    query: dict[str, str],
    headers: dict[str, str],
    body: bytes | None,
    token: str,
    port: str,
) -> None:
    auth = pytest.importorskip("botocore.auth")
    request_of = pytest.importorskip("botocore.awsrequest").AWSRequest
    credentials = pytest.importorskip("botocore.credentials").Credentials(KEYS.id, KEYS.secret, token or None)
    payload = UNSIGNED if body is None else hashlib.sha256(body).hexdigest()
    pairs = [f"{quote(name, safe=PLAIN)}={quote(value, safe=PLAIN)}" for name, value in query.items()]
    url = f"https://s3.example.org{port}/{quote(path, safe='/' + PLAIN)}" + (
        f"?{'&'.join(pairs)}" if pairs else ""
    )
    ours = Signer(Keys(KEYS.id, KEYS.secret, token), "eu-west-1", NOW).headers(method, url, headers, payload)

    request = request_of(
        method, url, headers=headers | {"X-Amz-Content-SHA256": payload, "X-Amz-Date": ours["x-amz-date"]}
    )
    request.context.update(timestamp=ours["x-amz-date"], payload_signing_enabled=True)
    if token:
        request.headers["X-Amz-Security-Token"] = token
    signer = auth.S3SigV4Auth(credentials, "s3", "eu-west-1")
    canonical = signer.canonical_request(request)
    theirs = signer.signature(signer.string_to_sign(request, canonical), request)
    assert ours["authorization"].endswith(f"Signature={theirs}")


def test_keys_show_no_secret() -> None:
    keys = Keys("an-id", "the-secret", "the-token")
    assert "an-id" in repr(keys)
    assert "the-" not in f"{keys!r} {keys} {Signer(keys, 'r', NOW)!r}"
