"""A server before an S3 server, which sees each request whole, and does something else where it is told to."""

from __future__ import annotations

import http.client
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.servers.s3 import S3Server

__all__ = ["Forward", "Front", "Reply", "Request", "Rule", "always", "error", "flipping", "forwarding", "once"]


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes = field(repr=False, default=b"")

    @property
    def kind(self) -> str:
        """What it asks, in a word or two."""
        for mark in ("uploads", "uploadId=", "list-type=2"):
            if mark in self.path:
                number = re.search(r"partNumber=(\d+)", self.path)
                return f"{self.method} {mark.rstrip('=')}" if not number else f"{self.method} part {number[1]}"
        return self.method


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


Forward = Callable[[Request], Reply]
Rule = Callable[[Request, Forward], Reply | None]
"""Answers a request, mostly by forwarding it; None cuts the connection."""


def error(status: int, code: str, more: str = "", **headers: str) -> Reply:
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>secret words</Message>{more}</Error>"
    return Reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, text.encode())


def forwarding(request: Request, forward: Forward) -> Reply:
    """Change nothing."""
    return forward(request)


class Front:
    """Stands before `server`, or before nothing; `rule` says what becomes of a request."""

    def __init__(self, server: S3Server | None = None) -> None:
        self.rule: Rule = forwarding
        self.seen: list[Request] = []
        self._server = server
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                request = Request(self.command, self.path, dict(self.headers.items()), body)
                front.seen.append(replace(request, body=b""))
                reply = front.rule(request, front._forward)
                if reply is None:
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                headers = {"Content-Length": str(len(reply.body))} | reply.headers
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if request.method != "HEAD":
                    self.wfile.write(reply.body)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815

            def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
                pass

        self._listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._listener.daemon_threads = True
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._listener.server_port}"

    @property
    def kinds(self) -> list[str]:
        return [request.kind for request in self.seen]

    def _forward(self, request: Request) -> Reply:
        assert self._server is not None
        connection = http.client.HTTPConnection(self._server.host, self._server.port, timeout=30)
        try:
            connection.request(request.method, request.path, request.body, request.headers)
            response = connection.getresponse()
            body = response.read()
            own = ("connection", "transfer-encoding", "date", "server")
            headers = {name: value for name, value in response.getheaders() if name.lower() not in own}
            return Reply(response.status, headers, body)
        finally:
            connection.close()

    def __enter__(self) -> Front:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown()
        self._listener.server_close()
        self._thread.join()


def once(kind: str, reply: Reply | None, *, after: bool = False) -> Rule:
    """Answer the first request of a kind by `reply`; with `after`, it is carried out all the same."""
    left = [reply]

    def rule(request: Request, forward: Forward) -> Reply | None:
        if request.kind == kind and left:
            if after:
                forward(request)
            return left.pop()
        return forward(request)

    return rule


def always(reply: Reply | None) -> Rule:
    return lambda request, forward: reply


def flipping(kind: str, at: int) -> Rule:
    """Damage one byte of the body of every request of a kind."""

    def rule(request: Request, forward: Forward) -> Reply:
        if request.kind != kind:
            return forward(request)
        body = bytearray(request.body)
        body[at] ^= 1
        return forward(replace(request, body=bytes(body)))

    return rule
