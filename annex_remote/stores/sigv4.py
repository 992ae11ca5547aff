"""AWS Signature Version 4, as S3 takes it: nothing but arithmetic.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from urllib.parse import quote, unquote_to_bytes, urlsplit

__all__ = ["CHUNK", "IN_CHUNKS", "PLAIN", "UNSIGNED", "Keys", "Signer", "length_in_chunks"]

PLAIN = "-_.~"
"""Characters, besides letters and digits, that stand as they are in a URL to be signed; in its path also '/'."""

UNSIGNED = "UNSIGNED-PAYLOAD"
"""Stands for the SHA-256 of a body whose content is not signed."""

IN_CHUNKS = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
"""Stands for the SHA-256 of a body that comes in chunks, each with its signature."""

CHUNK = 64 << 10
"""Bytes of a body that are signed together."""

_ALGORITHM = "AWS4-HMAC-SHA256"
_NOTHING = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class Keys:
    """What an S3 server knows us by; `secret` is never sent, and only `id` is ever shown."""

    id: str
    secret: str = field(repr=False)
    token: str = field(default="", repr=False)
    """Of a session that ends: goes with temporary keys."""


@dataclass(frozen=True)
class Signer:
    """Signs requests to a region of S3, made at `now` (in UTC)."""

    keys: Keys
    region: str
    now: datetime
    _stamp: str = field(init=False, repr=False)
    _scope: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        stamp = self.now.strftime("%Y%m%dT%H%M%SZ")
        object.__setattr__(self, "_stamp", stamp)
        object.__setattr__(self, "_scope", f"{stamp[:8]}/{self.region}/s3/aws4_request")

    def headers(self, method: str, url: str, headers: Mapping[str, str], payload: str) -> dict[str, str]:
        """Return the headers that make a request one of ours: those given, which are all signed, and more.

        `url` is quoted, a blank in its query as %20; `payload` is the body's SHA-256 in small hexadecimal digits,
        or one of the words that stand for it.
        """
        parts = urlsplit(url)
        signed = {name.lower(): " ".join(value.split()) for name, value in headers.items()}
        signed |= {"host": parts.netloc, "x-amz-content-sha256": payload, "x-amz-date": self._stamp}
        if self.keys.token:
            signed["x-amz-security-token"] = self.keys.token
        names = ";".join(sorted(signed))
        lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
        path = _quoted(parts.path or "/", "/")
        canonical = "\n".join([method, path, _query(parts.query), lines, names, payload])
        signature = self._sign(_ALGORITHM, _sha256(canonical.encode()))
        credential = f"Credential={self.keys.id}/{self._scope}"
        return {
            **signed,
            "authorization": f"{_ALGORITHM} {credential}, SignedHeaders={names}, Signature={signature}",
        }

    def chunks(self, body: Iterable[bytes | memoryview], headers: Mapping[str, str]) -> Iterator[bytes]:
        """Yield a body as it is sent if the signed `headers` have announced it to be `IN_CHUNKS`."""
        signature = headers["authorization"][-64:]
        for data in _regular(body):
            signature = self._sign(f"{_ALGORITHM}-PAYLOAD", signature, _NOTHING, _sha256(data))
            yield b"%x;chunk-signature=%b\r\n%b\r\n" % (len(data), signature.encode(), data)

    def _sign(self, what: str, *lines: str) -> str:
        text = "\n".join([what, self._stamp, self._scope, *lines])
        return hmac.digest(_key(self.keys.secret, self._scope), text.encode(), "sha256").hex()


@lru_cache(maxsize=16)
def _key(secret: str, scope: str) -> bytes:
    """Return the key that signs for a day in a region."""
    key = f"AWS4{secret}".encode()
    for word in scope.split("/"):
        key = hmac.digest(key, word.encode(), "sha256")
    return key


def length_in_chunks(size: int) -> int:
    """Return how many bytes `Signer.chunks` makes of a body of `size` bytes."""
    whole, rest = divmod(size, CHUNK)
    return whole * _framed(CHUNK) + (_framed(rest) if rest else 0) + _framed(0)


def _framed(size: int) -> int:
    return len(f"{size:x};chunk-signature=\r\n\r\n") + 64 + size


def _regular(body: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """Yield a body in chunks of `CHUNK` bytes, the rest, and an empty one that is the end."""
    buffer = bytearray()
    for piece in body:
        buffer += piece
        while len(buffer) >= CHUNK:
            yield bytes(buffer[:CHUNK])
            del buffer[:CHUNK]
    if buffer:
        yield bytes(buffer)
    yield b""


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _query(query: str) -> str:
    """Return a query in canonical form: every value has its '=', and what is the same is written the same."""
    given = [each.partition("=") for each in query.split("&") if each]
    pairs = sorted((_quoted(name), _quoted(value)) for name, _, value in given)
    return "&".join(f"{name}={value}" for name, value in pairs)


def _quoted(text: str, also: str = "") -> str:
    return quote(unquote_to_bytes(text), safe=PLAIN + also)
