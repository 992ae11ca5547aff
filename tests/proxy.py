"""A proxy on loopback, in front of a real server, that misbehaves as it is told to.

    with Proxy(server.host, server.port) as proxy:
        proxy.misbehave(Fault(cut_answer=1000), methods=["GET"], times=1)
        ...                                   # what is asked at proxy.url
        assert proxy.requests == [("GET", "/a", 200)]

`Listener` is what it stands on, and `Scripted` a server of which a test writes every byte.
"""

from __future__ import annotations

import re
import socket
import ssl
import struct
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPConnection, HTTPException, parse_headers
from io import BufferedReader
from typing import Self

from tests.fakes import WAIT
from tests.servers.certificates import Certificate
from tests.servers.ports import HOST

__all__ = ["Fault", "Listener", "Proxy", "Request", "Scripted", "reset"]

_PIECE = 64 << 10
_OWN_HEADERS = frozenset({"connection", "content-length", "expect", "keep-alive", "transfer-encoding"})


class Listener(ABC):
    """Takes connections on a port of its own, each on a thread of its own, and ends all of them at its end."""

    def __init__(self, certificate: Certificate | None = None) -> None:
        self._tls: ssl.SSLContext | None = None
        if certificate is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificate.chain, certificate.key)
        self._listening = socket.create_server((HOST, 0), backlog=64)
        self.port: int = self._listening.getsockname()[1]
        self.url = f"{'https' if self._tls else 'http'}://{HOST}:{self.port}"
        self.connections = 0
        """How many were taken so far."""
        self.release = threading.Event()
        """Ends everything that hangs."""
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @abstractmethod
    def serve(self, connection: socket.socket) -> None:
        """Do what is to be done with a connection; it is closed afterwards, and an `OSError` is the end of it."""

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            with self._lock:
                self.connections += 1
                self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            if self._tls is None:
                self._serve_open(connection)
            else:
                with self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as secret:
                    self._serve_open(secret)

    def _serve_open(self, connection: socket.socket) -> None:
        with self._lock:
            if self._listening.fileno() < 0:
                return
            self._open.add(connection)
        try:
            self.serve(connection)
        finally:
            with self._lock:
                self._open.discard(connection)

    def hang(self) -> None:
        """Return when `release` is set."""
        self.release.wait(4 * WAIT)

    def close(self) -> None:
        self.release.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes who waits for a connection
        self._threads[0].join(WAIT)
        with self._lock:
            self._listening.close()
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(WAIT)
            assert not thread.is_alive(), "a connection was not left"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def reset(connection: socket.socket) -> None:
    """Have `connection` end with a reset, as when the machine at its other end was started anew."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@dataclass(frozen=True)
class Request:
    """The head of a request; its body has `length` bytes and is still to be read."""

    method: str
    target: str
    headers: Message
    length: int

    @classmethod
    def read_from(cls, reader: BufferedReader) -> Request | None:
        """Read a head, None at the end of the connection; a body in chunks is not for this proxy."""
        words = reader.readline().split()
        if len(words) != 3 or not words[2].startswith(b"HTTP/"):
            return None
        headers = parse_headers(reader)
        assert "Transfer-Encoding" not in headers, "a body of unknown length was sent"
        return cls(words[0].decode(), words[1].decode(), headers, int(headers.get("Content-Length", "0")))


class Scripted(Listener):
    """Answers each request, when all of it has come, with the bytes that `answer` makes of it and its body.

    The connection is closed after the answer, unless it `keeps` them.
    """

    def __init__(
        self,
        answer: Callable[[Request, bytes], bytes],
        certificate: Certificate | None = None,
        *,
        keeps: bool = False,
    ) -> None:
        self._answer = answer
        self._keeps = keeps
        self.requests: list[Request] = []
        super().__init__(certificate)

    def serve(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as reader:
            while (request := Request.read_from(reader)) is not None:
                body = reader.read(request.length)
                if len(body) < request.length:
                    return
                with self._lock:
                    self.requests.append(request)
                connection.sendall(self._answer(request, body))
                if not self._keeps:
                    return


@dataclass(frozen=True)
class Fault:
    """What goes wrong with a request or with its answer; nothing does, unless it is said here."""

    status: int | None = None
    """Answer with this, and with `headers`, when the request has been read; the server does not hear of it."""
    headers: Mapping[str, str] = field(default_factory=dict)
    early: bool = False
    """Answer with `status` before the request's body has been read, and close the connection."""
    cut_request: int | None = None
    """Close the connections on both sides when so many bytes of the request's body have been passed on."""
    hang_request: int | None = None
    """Pass on no more than so many bytes of the request's body before `Proxy.release` is set."""
    cut_answer: int | None = None
    """Close the connection after so many bytes of the answer's body; 0: before its head."""
    hang_answer: int | None = None
    """Answer with no more than so many bytes of body before `Proxy.release` is set; 0: not even with a head."""
    resets: bool = False
    """What is cut ends with a reset."""
    longer: int = 0
    """Announce so many bytes more than the answer's body has, or fewer if it is below zero."""
    no_range: bool = False
    """Answer with everything to who asks for a range."""
    drip: float = 0.0
    """Answer byte by byte, with so many seconds after each."""
    stale: bool = False
    """Answer as the same request was answered before."""


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""


@dataclass
class _Rule:
    fault: Fault
    methods: Collection[str]
    path: str
    skip: int
    times: int | None

    def applies(self, request: Request) -> bool:
        """True if the fault strikes this request; counts the requests that it could have struck."""
        if (self.methods and request.method not in self.methods) or not re.search(self.path, request.target):
            return False
        self.skip -= 1
        if self.skip >= 0 or self.times == 0:
            return False
        if self.times is not None:
            self.times -= 1
        return True


class Proxy(Listener):
    """Passes every request on to the server at `host` and `port`, which speaks plain HTTP.

    The server sees the Host header of the client. `certificate` is what the proxy itself shows.
    """

    def __init__(self, host: str, port: int, certificate: Certificate | None = None) -> None:
        self._server = host, port
        self._rules: list[_Rule] = []
        self._before: dict[tuple[str, str, str], _Answer] = {}
        self.requests: list[tuple[str, str, int]] = []
        """Method, target and status of every request; 0 where the connection was cut before an answer."""
        self.taken = 0
        """Bytes of the bodies of all requests."""
        self.given = 0
        """Bytes of the bodies of all answers."""
        super().__init__(certificate)

    def misbehave(
        self,
        fault: Fault,
        *,
        methods: Collection[str] = (),
        path: str = "",
        skip: int = 0,
        times: int | None = None,
    ) -> None:
        """Let `fault` strike requests of these methods (none: any) in whose target the expression `path` is found.

        The first `skip` of them are spared, and no more than `times` are struck. The first fault that
        applies to a request is the only one that strikes it.
        """
        with self._lock:
            self._rules.append(_Rule(fault, methods, path, skip, times))

    def behave(self) -> None:
        """Do nothing wrong from now on, with new requests."""
        with self._lock:
            self._rules.clear()

    def count(self, method: str) -> int:
        """Return how many requests of this method came."""
        with self._lock:
            return sum(request[0] == method for request in self.requests)

    def serve(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as reader:
            while (request := Request.read_from(reader)) is not None:
                with self._lock:
                    fault = next((rule.fault for rule in self._rules if rule.applies(request)), Fault())
                if fault.resets:
                    reset(connection)
                if not self._exchange(connection, reader, request, fault):
                    return

    def _exchange(self, connection: socket.socket, reader: BufferedReader, request: Request, fault: Fault) -> bool:
        """Serve one request; False if the connection has to be closed then."""
        if request.headers.get("Expect"):
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        answer = self._find(reader, request, fault)
        if fault.hang_answer == 0:
            self.hang()
        with self._lock:
            self.requests.append((request.method, request.target, answer.status if answer else 0))
        if answer is None or fault.cut_answer == 0:
            return False
        self._give(connection, request, answer, fault)
        return not fault.early and fault.cut_answer is None and fault.longer <= 0

    def _find(self, reader: BufferedReader, request: Request, fault: Fault) -> _Answer | None:
        """Return the answer to a request, None if it is cut before there is one."""
        key = (request.method, request.target, request.headers.get("Depth", ""))
        answer: _Answer | None
        if fault.status is not None:
            if not fault.early:
                self._take(reader.read1, lambda _: None, request.length)
            answer = _Answer(fault.status, list(fault.headers.items()))
        elif fault.stale and key in self._before:
            self._take(reader.read1, lambda _: None, request.length)
            answer = self._before[key]
        else:
            answer = self._ask(reader, request, fault)
            if answer is not None:
                self._before[key] = answer
        return answer

    def _ask(self, reader: BufferedReader, request: Request, fault: Fault) -> _Answer | None:
        """Ask the server, passing the body on as it comes."""
        server = HTTPConnection(*self._server, timeout=4 * WAIT)
        try:
            server.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
            left_out = _OWN_HEADERS - {"content-length"} | ({"range"} if fault.no_range else set())
            for name, value in request.headers.items():
                if name.lower() not in left_out:
                    server.putheader(name, value)
            server.putheader("Connection", "close")
            server.endheaders()
            if not self._pass_body(reader, server.send, request.length, fault):
                return None
            answer = server.getresponse()
            headers = [item for item in answer.getheaders() if _is_passed(item[0], request.method)]
            return _Answer(answer.status, headers, answer.read())
        except (HTTPException, OSError):
            return None  # the server has cut it: so do we
        finally:
            server.close()

    def _pass_body(
        self, reader: BufferedReader, send: Callable[[bytes], object], length: int, fault: Fault
    ) -> bool:
        """Pass the body of a request on; False if that is where it ends."""
        stop = fault.cut_request if fault.cut_request is not None else fault.hang_request
        left = length - self._take(reader.read1, send, length if stop is None else min(stop, length))
        if fault.cut_request is not None:
            return False
        if fault.hang_request is not None:
            self.hang()
        return self._take(reader.read1, send, left) == left

    def _take(self, read: Callable[[int], bytes], send: Callable[[bytes], object], count: int) -> int:
        """Pass `count` bytes on, or as many as come; return how many that were."""
        left = count
        while left and (piece := read(min(left, _PIECE))):
            left -= len(piece)
            with self._lock:
                self.taken += len(piece)
            send(piece)
        return count - left

    def _give(self, connection: socket.socket, request: Request, answer: _Answer, fault: Fault) -> None:
        """Send an answer, or as much of it as the fault lets through."""
        head = [f"HTTP/1.1 {answer.status} Said", *(f"{name}: {value}" for name, value in answer.headers)]
        if request.method != "HEAD" and answer.status not in (204, 304):
            head.append(f"Content-Length: {len(answer.body) + fault.longer}")
        connection.sendall("\r\n".join([*head, "", ""]).encode("latin-1"))
        stop = fault.cut_answer if fault.cut_answer is not None else fault.hang_answer
        self._send(connection, answer.body[:stop], fault)
        if fault.hang_answer is not None:
            self.hang()
            self._send(connection, answer.body[stop:], fault)

    def _send(self, connection: socket.socket, data: bytes, fault: Fault) -> None:
        size = 1 if fault.drip else _PIECE
        for at in range(0, len(data), size):
            piece = data[at : at + size]
            connection.sendall(piece)
            with self._lock:
                self.given += len(piece)
            if fault.drip and self.release.wait(fault.drip):
                return


def _is_passed(header: str, method: str) -> bool:
    """True if an answer's header is the server's and not about the connection to it."""
    return header.lower() not in _OWN_HEADERS or (method == "HEAD" and header.lower() == "content-length")
