"""A GET for `web`, over connections that go to allowed addresses only, through all redirects.

The address is checked that is connected to, not one that the name had before: so it does not help to answer the
second question about a name otherwise than the first (DNS rebinding). It is checked before the connection is made,
which alone would tell which ports are open, and once more when it stands, before anything is sent.

A proxy of the environment has to be allowed in the same way. What is behind it is its own affair, as it is for
git-annex; only URLs that name an address which is not allowed are not given to it. git-annex does without a proxy
that is not allowed; here that is an error, as the proxy may be there to hide who asks.
"""

from __future__ import annotations

import socket
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from requests.utils import get_auth_from_url, requote_uri, select_proxy, urldefragauth
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from annex_remote.errors import BadSetting, Denied, NotFound, SwarmError, Unavailable
from annex_remote.stores.http import Answer, Client, failure
from annex_remote.stores.http_wire import prepared
from annex_remote.stores.numbers import whole_number
from annex_remote.torrents.addresses import SETTING, Allowed
from annex_remote.torrents.metainfo import MAX_SIZE
from annex_remote.torrents.urls import shown

if TYPE_CHECKING:
    from annex_remote.torrents.web import Document, Halt

__all__ = ["fill"]

HOPS = 10
"""Redirects that are followed, at most."""
CONNECT = 10.0
"""Seconds that an address has to take a connection."""
SILENCE = 30.0
"""Seconds that a server may say nothing."""
_PIECE = 64 << 10


def fill(document: Document, url: str, allowed: Allowed, halt: Halt) -> None:
    """Have what is at `url` in `document`; raises as `web.fetch_document`, but for its time."""
    session = requests.Session()  # nothing is sent through it: it knows the environment, and about redirects
    doing = document.doing
    try:
        login = _login(url)
    except ValueError:  # quotes it
        raise BadSetting(f"{doing}: this is no URL") from None
    for _ in range(HOPS + 1):
        url = urldefragauth(url)  # what follows does not know the login
        with (
            closing(_Adapter(allowed, halt, doing)) as adapter,
            closing(_send(adapter, session, url, login, doing)) as response,
        ):
            target = _target(session, response, url, doing)
            if target is None:
                _check(response, url, doing)
                _read(response, url, document)
                return
        if session.should_strip_auth(url, target):  # type: ignore[no-untyped-call] # it has no types
            login = None
        url = target
        doing = f"{document.doing}, from where we are sent on to {shown(url)}"
    raise Unavailable(f"{document.doing}: it sends us on and on")


def _login(url: str) -> HTTPBasicAuth | None:
    user, password = get_auth_from_url(url)
    return HTTPBasicAuth(user.encode(), password.encode()) if user or password else None


def _send(
    adapter: _Adapter, session: requests.Session, url: str, login: HTTPBasicAuth | None, doing: str
) -> requests.Response:
    try:
        found = session.merge_environment_settings(url, {}, True, None, None)
        proxy = select_proxy(url, found["proxies"])
        if proxy:
            adapter.check_proxied(proxy, url)
        request = prepared("GET", url, None, None, b"")
        if login is not None:
            login(request)
        return adapter.send(
            request,
            stream=True,
            timeout=(CONNECT, SILENCE),
            verify=found["verify"] or True,
            proxies=found["proxies"],
        )
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise _translated(error, url, doing) from None


def _translated(error: Exception, url: str, doing: str) -> SwarmError:
    """Return what an error of the connection means, which is not to be its cause: it quotes URLs and passkeys."""
    return Client(_origin(url), patience=SILENCE).translate(error, doing)


def _origin(url: str) -> str:
    return "://".join(urlsplit(shown(url))[:2])


def _target(session: requests.Session, response: requests.Response, url: str, doing: str) -> str | None:
    """Return where an answer sends us on to, None if it does not."""
    try:
        location = session.get_redirect_target(response)
        if location is None:
            return None
        target = urljoin(url, requote_uri(location))
        there = urlsplit(target)
        is_place = bool(there.hostname) and there.port != 0
    except ValueError:  # quotes it
        raise Unavailable(f"{doing}: it sends us on to no address") from None
    if there.scheme == "magnet":
        raise Unavailable(f"{doing}: it sends us on to a magnet link: take that instead")
    if there.scheme not in ("http", "https") or not is_place:
        raise Unavailable(f"{doing}: it sends us on to {shown(target)}, which is not followed")
    if there.scheme == "http" and urlsplit(url).scheme == "https":
        raise Unavailable(f"{doing}: it sends us on to {shown(target)}, which is not encrypted: refused")
    return target


def _check(response: requests.Response, url: str, doing: str) -> None:
    """Raise what a status means that is not 200."""
    if response.status_code == 410:
        raise NotFound(f"{doing}: it was there once, and was taken away (410)")
    if response.status_code != 200:
        answer = Answer(response.status_code, response.headers, b"", urlsplit(_origin(url)).netloc, "GET")
        raise failure(answer, doing)


def _read(response: requests.Response, url: str, document: Document) -> None:
    document.is_called_page = response.headers.get("Content-Type", "").lower().startswith("text/html")
    length = whole_number(response.headers.get("Content-Length", ""))
    if length is not None and length > MAX_SIZE:
        raise document.too_long()
    unpacked = _unpacking(response.headers.get("Content-Encoding", ""), document)
    try:
        for piece in unpacked(_pieces(response, document)):
            document.add(piece)
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise _translated(error, url, document.doing) from None


def _pieces(response: requests.Response, document: Document) -> Iterator[bytes]:
    """Yield an answer's body as it comes over the wire."""
    taken = 0
    while piece := response.raw.read1(_PIECE, decode_content=False):
        taken += len(piece)
        if taken > MAX_SIZE:  # packed data may be endless, and come to nothing
            raise document.too_long()
        yield piece


def _unpacking(encoding: str, document: Document) -> Callable[[Iterator[bytes]], Iterator[bytes]]:
    """Return what undoes a Content-Encoding: none was asked for, but some servers pack whatever they send."""
    words = encoding.lower().strip()
    if words in ("", "identity"):
        return lambda pieces: pieces
    if words not in ("gzip", "x-gzip", "deflate"):
        raise Unavailable(f"{document.doing}: it comes packed in a way that was not asked for")
    return lambda pieces: _inflated(pieces, document)


def _inflated(pieces: Iterator[bytes], document: Document) -> Iterator[bytes]:
    """Yield what is packed in `pieces`, never more at once than there may be: 64 KiB unpack to 64 MiB."""
    unpack = zlib.decompressobj(zlib.MAX_WBITS | 32)  # tells the two apart by itself
    try:
        for piece in pieces:
            yield unpack.decompress(piece, document.room + 1)
            if unpack.eof:
                return
    except zlib.error:
        pass
    raise Unavailable(f"{document.doing}: it comes packed, and cannot be unpacked", passing=True)


class _Adapter(HTTPAdapter):
    """Connections for one request, to `allowed` addresses; the only one is held by `halt`."""

    def __init__(self, allowed: Allowed, halt: Halt, doing: str) -> None:
        self._allowed = allowed
        self._halt = halt
        self._doing = doing
        self._pools = {
            "http": type("Pool", (HTTPConnectionPool,), {"ConnectionCls": self._checked(HTTPConnection)}),
            "https": type("Pool", (HTTPSConnectionPool,), {"ConnectionCls": self._checked(HTTPSConnection)}),
        }
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*arguments, **options)
        manager.pool_classes_by_scheme = self._pools
        return manager

    def check_proxied(self, proxy: str, url: str) -> None:
        """Raise for a kind of proxy whose connections are not made here, and for a URL that is not for any."""
        scheme, is_url, _ = proxy.partition("://")
        if is_url and scheme.lower() not in ("http", "https"):
            raise BadSetting(
                f"{self._doing}: only http and https proxies can be used, and the environment has another"
            )
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        if host == "localhost" or host.endswith(".localhost"):
            host = "127.0.0.1"
        try:
            # Nothing is looked up: addresses in all their spellings, 127.1 and 0x7f000001 among them.
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except OSError:
            return
        for *_, address in found:
            self._check(str(address[0]), port, "it")

    def _check(self, address: str, port: int, whose: str) -> None:
        if not self._allowed.permits(address, port):
            raise self._refusal(address, whose)

    def _refusal(self, address: str, whose: str) -> Denied:
        return Denied(
            f"{self._doing}: {whose} is at {address}, which is not public: "
            f"refused, unless git config {SETTING} allows it"
        )

    def _checked(self, kind: type[Any]) -> type[Any]:
        """Return a kind of connection that is made by `_connect`."""
        connect = self._connect

        class Checked(kind):  # type: ignore[misc] # one of two classes
            def _new_conn(self) -> socket.socket:
                return connect(self._dns_host, self.port, "its server" if self.proxy is None else "its proxy")

        return Checked

    def _connect(self, host: str, port: int, whose: str) -> socket.socket:
        """Connect to the first allowed address of a host that takes it.

        Raises `Denied` if there is none, `Unavailable`, and `Cancelled`.
        """
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise Unavailable(f"{self._doing}: the name of {whose} cannot be looked up") from error
        failed: SwarmError | None = None
        for family, kind, protocol, _, address in found:
            self._halt.check()
            if not self._allowed.permits(str(address[0]), port):
                failed = failed or self._refusal(str(address[0]), whose)
                continue
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(CONNECT)
                connection.connect(address)
                self._check(connection.getpeername()[0], port, whose)  # 0.0.0.0 leads to 127.0.0.1
                self._halt.hold(connection)
                return connection
            except TimeoutError:
                failed = Unavailable(
                    f"{self._doing}: {whose} does not answer in {CONNECT:g} seconds", passing=True
                )
            except OSError as error:
                failed = Unavailable(f"{self._doing}: {whose}: {error.strerror or 'no connection'}", passing=True)
            except SwarmError as error:
                failed = error
            connection.close()
        raise failed or Unavailable(f"{self._doing}: the name of {whose} has no address")
