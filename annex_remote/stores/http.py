"""The HTTP client that the network stores share: one pool of connections for all threads, one table of meanings.

Every wait has a bound, TLS is always verified, and a redirect to another place is followed for reading only and
without credentials. What requests and urllib3 raise is translated here and nowhere else.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException, IncompleteRead
from urllib.parse import quote, urljoin, urlsplit

import requests
import urllib3
from requests.auth import AuthBase

from annex_remote.errors import (
    BadSetting,
    Busy,
    Denied,
    Full,
    NotFound,
    StoreError,
    SwarmError,
    Unavailable,
)
from annex_remote.model import ByteStream, OpenAt
from annex_remote.stores.http_wire import Adapter, Body, SourceFailedError, prepared
from annex_remote.stores.numbers import whole_number
from annex_remote.stores.times import age_by_headers, read_date

__all__ = ["Answer", "Auth", "Client", "failure", "retry_after"]

CONNECT = 10.0
"""Seconds that a server has to take a connection."""

_READ = 256 << 10
_MOST = 64 << 20
"""Bytes of an answer that is not a share, at most."""
_DRAIN = 64 << 10
"""Bytes that are rather read to their end than thrown away with their connection."""
_HOPS = 5
_SAFE_METHODS = frozenset({"GET", "HEAD", "PROPFIND", "OPTIONS"})
_CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,18})-([0-9]{1,18})|\*)/([0-9]{1,18})\Z")


@dataclass(frozen=True, slots=True)
class Answer:
    """A server's answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    host: str
    method: str


class Auth(AuthBase):
    """Who we are to a server; this one is nobody. Subclasses sign each request as it goes out."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request

    def answered(self, response: requests.Response) -> None:
        """Take in any answer."""

    def challenged(self, response: requests.Response) -> bool:
        """Take in a 401; True if the request is worth sending once more, signed otherwise than before."""
        return False


class Client:
    """Speaks to one server, ``scheme://host[:port]``; thread safe.

    `patience` is in seconds: how long a server may keep silent, or not take what is sent. `ca` is a file with the
    certificates to trust instead of the usual ones, `certificate` one with our own certificate and key. `meaning`
    tells the error of an answer that is no success, `failure` if it is None.
    """

    def __init__(
        self,
        origin: str,
        auth: Auth | None = None,
        *,
        patience: float = 30.0,
        ca: str = "",
        certificate: str = "",
        meaning: Callable[[Answer, str], StoreError] | None = None,
    ) -> None:
        self.origin = origin
        self.host = urlsplit(origin).netloc
        self._auth = auth or Auth()
        self._meaning = meaning or failure
        self._patience = patience
        self._timeout = (min(CONNECT, patience), patience)
        self._adapter = Adapter(patience)
        # Proxies and certificates of the environment are looked up once. What requests would look up for each
        # request is left out: a ~/.netrc would replace our own signatures.
        found = requests.Session().merge_environment_settings(origin, {}, True, ca or True, certificate or None)
        self._proxies = dict(found["proxies"] or {})
        self._verify, self._certificate = found["verify"] or True, found["cert"]

    def ask(
        self,
        method: str,
        path: str,
        doing: str,
        *,
        ok: Collection[int] = (200,),
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        data: bytes = b"",
    ) -> Answer:
        """Ask and return the whole answer. `path` is quoted, `doing` begins the text of an error.

        Raises what `meaning` makes of a status that is not in `ok`, `Unavailable` when no answer comes.
        """
        with self._open(method, path, doing, params, headers, data) as response:
            answer = self._read(response, doing)
        if answer.status not in ok:
            raise self._meaning(answer, doing)
        return answer

    def send(
        self,
        method: str,
        path: str,
        doing: str,
        size: int,
        open_at: OpenAt,
        *,
        start: int = 0,
        is_part: bool = False,
        ok: Collection[int] = (200, 201, 204),
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send `size` bytes of a source from `start` on, as they come; return the answer.

        What the source raises passes through. Raises `Damaged` if it has fewer bytes than that, or more, unless
        `is_part` says that it goes on; and as `ask`.
        """
        body = Body(open_at, start, size, is_part)
        if not size:  # requests would announce nothing, and send it in chunks
            body.check_empty()
        try:
            with self._open(method, path, doing, params, headers, body if size else b"") as response:
                answer = self._read(response, doing)
        except SourceFailedError as failed:
            raise failed.error from None
        if answer.status not in ok:
            raise self._meaning(answer, doing)
        return answer

    def read(
        self,
        path: str,
        doing: str,
        start: int = 0,
        length: int | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> ByteStream:
        """Open bytes [start, start + length) of what is at `path`, clipped to its end; see `model.Store.read`."""
        if length == 0:
            return _Bytes(self.size(path, doing, headers=headers), b"")
        asked = dict(headers or {})
        if start or length is not None:
            asked["Range"] = f"bytes={start}-{'' if length is None else start + length - 1}"
        response = self._open("GET", path, doing, None, asked, b"")
        try:
            total, left = self._range(response, path, doing, start, length, headers)
            if left <= 0:
                self._read_rest(response)
                return _Bytes(total, b"")
            return _Stream(self, response, doing, total, left)
        except BaseException:
            response.close()
            raise

    def size(self, path: str, doing: str, *, headers: Mapping[str, str] | None = None) -> int:
        """Return the size in bytes of what is at `path`; raises `NotFound`, and as `ask`."""
        answer = self.ask("HEAD", path, doing, headers=headers)
        self._check_untouched(answer.headers, doing)
        length = whole_number(answer.headers.get("Content-Length", ""))
        if length is None:
            # Apache leaves it out for empty files, others for what they make up as they go: a GET tells.
            with self.read(path, doing, headers=headers) as stream:
                return stream.size
        return length

    def age(self, path: str, doing: str, *, headers: Mapping[str, str] | None = None) -> float | None:
        """Return the age of what is at `path`, see `model.Store.age`; raises `NotFound`, and as `ask`."""
        answer = self.ask("HEAD", path, doing, headers=headers)
        self._check_untouched(answer.headers, doing)
        return age_by_headers(answer.headers)

    def close(self) -> None:
        """Let go of the connections."""
        self._adapter.close()

    def _range(
        self,
        response: requests.Response,
        path: str,
        doing: str,
        start: int,
        length: int | None,
        headers: Mapping[str, str] | None,
    ) -> tuple[int, int]:
        """Return the total size, and how many bytes of the answer are wanted."""
        content_range = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        if response.status_code == 416 and (start or length is not None):  # begins behind the end: of what?
            total = int(content_range[3]) if content_range else self.size(path, doing, headers=headers)
            if start < total:
                raise Unavailable(f"{doing}: {self.host} refuses a range that there is")
            return total, 0
        if response.status_code not in (200, 206):
            raise self._meaning(self._read(response, doing), doing)
        self._check_untouched(response.headers, doing)
        if response.status_code == 206:
            if not content_range or content_range[1] is None or int(content_range[1]) != start:
                raise Unavailable(f"{doing}: {self.host} answered with another range than was asked for")
            total = int(content_range[3])
            left = total - start if length is None else min(length, total - start)
            if int(content_range[2]) - start + 1 != left:
                raise Unavailable(f"{doing}: {self.host} answered with another range than was asked for")
            return total, left
        announced = whole_number(response.headers.get("Content-Length", ""))
        if announced is None:  # the rest of the head may be cut off: nothing tells where it ends
            raise Unavailable(f"{doing}: {self.host} does not say how long it is", passing=True)
        total = announced
        if start and start < total:
            raise Unavailable(f"{doing}: {self.host} does not serve ranges")
        return total, max(0, total - start if length is None else min(length, total - start))

    def _check_untouched(self, headers: Mapping[str, str], doing: str) -> None:
        """Raise `Unavailable` if what comes cannot be the bytes that were stored."""
        if headers.get("Content-Encoding", "identity").lower() != "identity":
            raise Unavailable(f"{doing}: {self.host} sends it compressed, which was not asked for")
        if headers.get("Content-Type", "").lower().startswith("text/html"):
            # The login page of a hotel's network, or of a site that answers everything with its front page.
            raise Unavailable(f"{doing}: {self.host} sends a web page in its place")

    def _open(
        self,
        method: str,
        path: str,
        doing: str,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
        data: bytes | Body,
    ) -> requests.Response:
        """Send a request, and follow what the answer leads to; return the last answer, its body not yet read."""
        url, auth, shown = self.origin + path, self._auth, self.origin
        for _ in range(_HOPS):
            response = self._send(method, url, doing, params, headers, data, auth)
            if response.status_code == 401 and auth.challenged(response):
                self._read_rest(response)
                response = self._send(method, url, doing, params, headers, data, auth)
            if response.status_code == 401 and auth is not self._auth:
                self._read_rest(response)
                raise Denied(
                    f"{doing}: {self.host} sends us on to {shown}, which wants a login, and ours is not for it: "
                    "if it is the same server, change the address"
                )
            location = response.headers.get("Location", "")
            if response.status_code not in (301, 302, 303, 307, 308) or not location:
                return response
            self._read_rest(response)
            try:
                target = urljoin(url, location)
                there = urlsplit(target)
            except ValueError as error:
                raise Unavailable(f"{doing}: {self.host} sends us on to no address") from error
            shown = quote(f"{there.scheme}://{there.netloc.rpartition('@')[2]}", safe=":/[]")
            if f"{there.scheme}://{there.netloc}" != self.origin:
                if method not in _SAFE_METHODS or there.scheme not in ("http", "https"):
                    raise Unavailable(
                        f"{doing}: {self.host} sends us on to {shown}: if that is right, change the address"
                    )
                if url.startswith("https:") and there.scheme == "http":
                    raise Unavailable(
                        f"{doing}: {self.host} sends us on to {shown}, which is not encrypted: refused"
                    )
                auth = Auth()  # whoever is there does not learn who we are here, nor sees our certificate
            elif method not in _SAFE_METHODS:
                raise Unavailable(
                    f"{doing}: {self.host} has moved it to {quote(there.path, safe='/%')}: change the address"
                )
            url, params = target, None
        raise Unavailable(f"{doing}: {self.host} sends us on and on")

    def _send(
        self,
        method: str,
        url: str,
        doing: str,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
        data: bytes | Body,
        auth: Auth,
    ) -> requests.Response:
        try:
            request = auth(prepared(method, url, params, headers, data))
            response = self._adapter.send(
                request,
                stream=True,
                timeout=self._timeout,
                verify=self._verify,
                cert=self._certificate if auth is self._auth else None,
                proxies=self._proxies,
            )
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            # A ValueError quotes what it does not like: a header with a login, a proxy's address with a password.
            raise self.translate(error, doing) from (None if isinstance(error, ValueError) else error)
        auth.answered(response)
        return response

    def _read(self, response: requests.Response, doing: str) -> Answer:
        """Read an answer that is no share; a server that trickles it is not waited for."""
        deadline = time.monotonic() + 2 * self._patience
        body = bytearray()
        try:
            # Gzip and the like are undone: some proxies pack answers that nobody asked them to.
            while piece := response.raw.read1(_READ, decode_content=True):
                body += piece
                if len(body) > _MOST:
                    raise Unavailable(f"{doing}: {self.host} answers far more than it was asked for")
                if time.monotonic() > deadline:
                    raise Unavailable(f"{doing}: {self.host} takes too long for its answer")
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            response.close()
            raise self.translate(error, doing) from error
        except BaseException:
            response.close()
            raise
        method = response.request.method or ""
        return Answer(response.status_code, response.headers, bytes(body), self.host, method)

    def _read_rest(self, response: requests.Response) -> None:
        """Read what is left of an answer that nobody wants, if it is little: its connection can then be kept."""
        length = whole_number(response.headers.get("Content-Length", ""))
        if length is not None and length < _DRAIN:
            response.raw.drain_conn()
        response.close()

    def translate(self, error: Exception, doing: str) -> SwarmError:
        """Return what an error of the connection means."""
        cause = _root(error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = f"its certificate is not trusted: {cause.verify_message}"
        elif isinstance(cause, ssl.SSLError) and not isinstance(cause, _CUT):
            why = f"TLS failed: {cause.reason or cause}"
        elif isinstance(error, requests.exceptions.ProxyError):
            why = "the proxy to it is not there, or does not let us through"
        elif isinstance(cause, socket.gaierror):
            why = "its name cannot be looked up"
        elif isinstance(cause, TimeoutError):
            connecting = isinstance(error, requests.ConnectTimeout)
            why = f"no answer in {self._timeout[0 if connecting else 1]:g} seconds"
        elif isinstance(cause, ConnectionRefusedError):
            why = "connection refused"
        elif isinstance(cause, ValueError):
            why = "its address, the login for it or the proxy to it cannot be used as it is given"
        elif isinstance(cause, OSError) and "invalid path:" in str(cause):
            return BadSetting(f"{doing}: a file with certificates is not there: {cause}")
        elif isinstance(cause, OSError) and cause.errno is not None and not isinstance(cause, _CUT):
            why = cause.strerror or "the network failed"
        else:
            # "Not HTTP" passes as well: it may be the rest of an answer that was longer than it said.
            is_strange = isinstance(cause, HTTPException) and not isinstance(cause, OSError | IncompleteRead)
            why = "what it answers is not HTTP" if is_strange else "the connection was cut"
            return Unavailable(f"{doing}: {self.host}: {why}", passing=True)
        return Unavailable(f"{doing}: {self.host}: {why}")


_CUT = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)


def _root(error: BaseException) -> BaseException:
    """Return the innermost error: requests and urllib3 wrap what the system said several times over."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        inner = [each for each in (getattr(error, "reason", None), *error.args) if isinstance(each, BaseException)]
        following = inner[0] if inner else error.__cause__
        if following is None:
            break
        error = following
    return error


_MEANINGS: dict[int, tuple[type[StoreError], str]] = {
    400: (Unavailable, "does not understand the request"),
    401: (Denied, "wants user and password, or other ones"),
    403: (Denied, "forbids it"),
    404: (NotFound, "does not have it"),
    405: (Denied, "does not allow it"),
    407: (Denied, "is behind a proxy that wants a password"),
    409: (Unavailable, "says that something is in the way"),
    413: (Full, "takes nothing of this size"),
    423: (Busy, "has it locked"),
    425: (Busy, "asks us to come later"),
    429: (Busy, "asks us to slow down"),
    503: (Busy, "is overloaded or being serviced"),
    507: (Full, "has no space left"),
    509: (Busy, "has used up its traffic"),
}
"""What a status says, for all kinds of stores: the error, and words for it."""


def failure(answer: Answer, doing: str) -> StoreError:
    """Return the error that an answer's status means; only 404 is `NotFound`."""
    kind, words = _MEANINGS.get(answer.status, (Unavailable, "failed"))
    text = f"{doing}: {answer.host} {words} ({answer.status} to {answer.method})"
    if kind is Busy:
        return Busy(text, retry_after(answer.headers))
    if kind is Denied:
        return Denied(text, wants_login=answer.status == 401)
    if kind is Unavailable:
        passing = answer.status == 408 or (answer.status >= 500 and answer.status not in (501, 505))
        return Unavailable(text, passing=passing)
    return kind(text)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that the header Retry-After asks for (RFC 9110, 10.2.3), None if it does not say."""
    text = headers.get("Retry-After", "").strip()
    seconds = whole_number(text)
    if seconds is not None:
        return float(seconds)
    until = read_date(text)
    return None if until is None else max(0.0, until - time.time())


class _Bytes:
    """A `ByteStream` of bytes that are here already."""

    def __init__(self, size: int, data: bytes) -> None:
        self.size = size
        self._data = data

    def __iter__(self) -> Iterator[bytes]:
        return iter([self._data] if self._data else [])

    def __enter__(self) -> ByteStream:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""


class _Stream:
    """A `ByteStream` of an answer's body: `left` bytes of it are wanted."""

    def __init__(self, client: Client, response: requests.Response, doing: str, size: int, left: int) -> None:
        self.size = size
        self._client = client
        self._response = response
        self._doing = doing
        self._left = left

    def __iter__(self) -> Iterator[bytes]:
        while self._left:
            try:
                # What has come, and not as much as could: a slow line is not a silent one.
                piece = self._response.raw.read1(min(_READ, self._left), decode_content=False)
            except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
                raise self._client.translate(error, self._doing) from error
            if not piece:
                raise Unavailable(f"{self._doing}: {self._client.host}: the connection was cut", passing=True)
            self._left -= len(piece)
            yield piece

    def __enter__(self) -> ByteStream:
        return self

    def __exit__(self, *_: object) -> None:
        # At its end, the connection has gone back to the pool by itself, and closing does nothing.
        self._response.close()
