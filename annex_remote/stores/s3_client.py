"""A bucket to be asked: every request signed, in the bucket's region, and what an answer means."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import quote

import requests

from annex_remote.errors import Denied, NotFound, StoreError, Unavailable
from annex_remote.model import Access, ByteStream, Login, OpenAt, check_name
from annex_remote.stores.aws_keys import find_keys
from annex_remote.stores.http import Answer, Auth, Client
from annex_remote.stores.numbers import whole_number
from annex_remote.stores.s3_address import Bucket
from annex_remote.stores.s3_answers import LISTINGS, BadSignature, Entry, WrongRegion, meaning, read_page
from annex_remote.stores.sigv4 import IN_CHUNKS, PLAIN, UNSIGNED, Keys, Signer, length_in_chunks

__all__ = ["BucketClient", "Signature"]

_SENDABLE = re.compile(r"[!-~]*\Z")
_PAYLOAD = "x-amz-content-sha256"
_SIGNED = ("x-amz-", "content-md5")
"""How the headers begin that are signed, besides the host."""

T = TypeVar("T")


class Signature(Auth):
    """Signs each request as it goes out, by the keys of `login` or else by those that are found elsewhere."""

    def __init__(self, login: Login | None, region: str, clock: Callable[[], float]) -> None:
        self.region = region
        self._login = login
        self._clock = clock
        self._lock = threading.Lock()
        self._looked = False
        self._keys: Keys | None = None

    def keys(self) -> Keys | None:
        """Return the keys, None if there are none anywhere; raises `Denied` for some that cannot be used."""
        with self._lock:
            if not self._looked:
                keys = Keys(self._login.user, self._login.password) if self._login else find_keys()
                if keys and not (_SENDABLE.match(keys.id) and _SENDABLE.match(keys.token)):
                    raise Denied("the access key id for S3 has blanks or other odd characters", wants_login=True)
                self._keys, self._looked = keys, True
            return self._keys

    def forget(self) -> None:
        """Look for the keys anew when they are needed next: whoever renews them may have done so."""
        with self._lock:
            self._looked = False

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        keys = self.keys()
        if keys is None:
            return request
        body: Any = request.body or b""
        given = {name: value for name, value in request.headers.items() if name.lower().startswith(_SIGNED)}
        # What is not here yet would have to be made twice to be signed as a whole.
        payload = hashlib.sha256(body).hexdigest() if isinstance(body, bytes) else given.get(_PAYLOAD, UNSIGNED)
        signer = Signer(keys, self.region, datetime.fromtimestamp(self._clock(), UTC))
        headers = signer.headers(request.method or "", request.url or "", given, payload)
        request.headers.update(headers)
        if payload == IN_CHUNKS:
            request.body = _InChunks(body, signer, headers)  # type: ignore[assignment] # any iterable will do
            request.headers["Content-Length"] = str(len(request.body))  # type: ignore[arg-type]
        return request


class _InChunks:
    """A body, each chunk of which is signed."""

    def __init__(self, body: Any, signer: Signer, headers: Mapping[str, str]) -> None:
        self._body = body
        self._signer = signer
        self._headers = headers

    def __len__(self) -> int:
        return length_in_chunks(len(self._body))

    def __iter__(self) -> Iterator[bytes]:
        return self._signer.chunks(self._body, self._headers)


class BucketClient:
    """Speaks to one bucket; thread safe. `doing` begins the text of an error.

    All of it may raise what `Client.ask` and `meaning` do.
    """

    def __init__(self, bucket: Bucket, access: Access, clock: Callable[[], float]) -> None:
        self.bucket = bucket
        self._signature = Signature(access.login, bucket.region, clock)
        self._client = Client(
            bucket.origin, self._signature, patience=access.patience, ca=bucket.ca, meaning=self._meaning
        )
        self._clock = clock
        self._seen = False
        """True once the bucket has shown that it is there: only then a 404 to HEAD says something of an object."""

    def ask(
        self,
        method: str,
        name: str,
        doing: str,
        query: Mapping[str, str] | None = None,
        *,
        ok: Collection[int] = (200,),
        headers: Mapping[str, str] | None = None,
        data: bytes = b"",
    ) -> Answer:
        """Ask something of the object `name`, or of the bucket if that is empty."""
        path = self._path(name, query)
        return self._in_its_region(
            lambda: self._client.ask(method, path, doing, ok=ok, headers=headers, data=data)
        )

    def send(
        self,
        name: str,
        doing: str,
        size: int,
        open_at: OpenAt,
        query: Mapping[str, str] | None = None,
        *,
        start: int = 0,
        is_part: bool = False,
        headers: Mapping[str, str] | None = None,
        in_chunks: bool = False,
    ) -> Answer:
        """Put bytes of a source as they come; see `Client.send`.

        With `in_chunks`, they are signed as they go, so that the server can refuse what is not as it was sent.
        """
        path = self._path(name, query)
        given = dict(headers or {})
        if in_chunks:
            given |= {_PAYLOAD: IN_CHUNKS, "x-amz-decoded-content-length": str(size)}
        try:
            return self._in_its_region(
                lambda: self._client.send(
                    "PUT", path, doing, size, open_at, start=start, is_part=is_part, headers=given
                )
            )
        except BadSignature as error:
            if not in_chunks:
                raise
            self._look(doing)  # is it the keys?
            raise Unavailable(f"{doing}: what arrived is not what was sent", passing=True) from error

    def read(self, name: str, doing: str, start: int, length: int | None) -> ByteStream:
        """Open bytes of an object; see `Client.read`. Raises `NotFound` only where absence is proved."""
        path = self._path(name, None)
        try:
            return self._in_its_region(lambda: self._client.read(path, doing, start, length))
        except NotFound:
            if not self._seen:  # it was a HEAD that was answered
                self._look(doing)
            raise

    def head(self, name: str, doing: str) -> Answer:
        """Ask about an object without its content. Raises `NotFound` only where absence is proved."""
        answer = self.ask("HEAD", name, doing, ok=(200, 400, 403, 404))
        if answer.status == 200:
            return answer
        if answer.status != 404 or not self._seen:
            region = self._signature.region
            self._look(doing)
            if self._signature.region != region:  # that was it
                return self.head(name, doing)
        raise self._meaning(answer, doing)

    def size(self, name: str, doing: str) -> int:
        """Return the size of an object in bytes; see `head`."""
        length = whole_number(self.head(name, doing).headers.get("Content-Length", ""))
        if length is None:
            raise Unavailable(f"{doing}: {self._client.host} does not say how long it is")
        return length

    def delete(self, name: str, doing: str) -> None:
        """Remove an object; raises `NotFound` if the server makes a difference of that."""
        self.ask("DELETE", name, doing, ok=(200, 202, 204))

    def listing(self, kind: str, doing: str, query: Mapping[str, str], name: str = "") -> Iterator[Entry]:
        """Yield the entries of all pages of a listing of `kind`, see `LISTINGS`."""
        following: dict[str, str] = {}
        while True:
            answer = self.ask("GET", name, doing, LISTINGS[kind].query | dict(query) | following)
            entries, further = read_page(answer, kind, doing)
            self._seen = True
            yield from entries
            if further is None:
                return
            if further == following:
                raise Unavailable(f"{doing}: {self._client.host} lists the same over and over")
            following = further

    def check_keys(self, doing: str) -> None:
        """Raise `Denied` if there are no keys: what is public can be read without, no more."""
        if self._signature.keys() is None:
            raise Denied(
                f"{doing}: there are no keys for S3, and only reading can do without: give an access key id and a "
                f"secret key",
                wants_login=True,
            )

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def _path(self, name: str, query: Mapping[str, str] | None) -> str:
        path = self.bucket.path or "/"
        if name:
            path = f"{self.bucket.path}/{quote(self.bucket.prefix + check_name(name), safe='/' + PLAIN)}"
        if not query:
            return path
        # Not left to requests, which would write a blank as '+'.
        pairs = (f"{quote(key, safe=PLAIN)}={quote(value, safe=PLAIN)}" for key, value in query.items())
        return f"{path}?{'&'.join(pairs)}"

    def _look(self, doing: str) -> None:
        """Raise what is wrong if the bucket is not there, or does not let us in: an answer to HEAD cannot say."""
        query = {"max-keys": "1", "prefix": self.bucket.prefix}
        for _ in self.listing("ListBucket", f"{doing} (by listing the bucket)", query):
            return

    def _in_its_region(self, ask: Callable[[], T]) -> T:
        """Ask, and once more if the server says that the bucket is in another region than we took it to be."""
        try:
            return ask()
        except WrongRegion as wrong:
            self._signature.region = wrong.region
        return ask()

    def _meaning(self, answer: Answer, doing: str) -> StoreError:
        error = meaning(answer, doing, self._clock())
        if isinstance(error, NotFound) and answer.method != "HEAD":
            self._seen = True  # it has said that it is the object which is not there
        if isinstance(error, Denied) and self._signature.keys() is None:
            return Denied(f"{error}; there are no keys for S3 here", wants_login=True)
        if isinstance(error, Denied) and error.wants_login:
            self._signature.forget()
        return error
