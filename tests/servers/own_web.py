"""A small web server of ours, for answers that no good server gives."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from abc import ABC, abstractmethod
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from tests.servers.certificates import Certificate
from tests.servers.ports import HOST, Port

_PATIENCE = 30
_LOOK_AGAIN = 0.02


class OwnWeb(ABC):
    """A web server on threads of this process, at `url`; `asked` has path and query of each request, in order.

    As a context manager it is started, and at the end stopped, with all connections that it has.
    """

    def __init__(self, *, certificate: Certificate | None = None) -> None:
        self.asked: list[str] = []
        self.ended = threading.Event()
        self._certificate = certificate
        self._port = Port()
        self._connections: set[socket.socket] = set()
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"{'https' if self._certificate else 'http'}://{HOST}:{self._port.number}"

    @abstractmethod
    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one GET; what hangs there is to end with `ended`."""

    def die(self) -> None:
        """Hang up on everybody, and take no connection any more."""
        self.ended.set()
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        server.server_close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        web = self

        class Request(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = _PATIENCE

            def setup(self) -> None:
                super().setup()
                web._connections.add(self.connection)

            def finish(self) -> None:
                web._connections.discard(self.connection)
                with contextlib.suppress(OSError):
                    super().finish()

            def do_GET(self) -> None:
                web.asked.append(self.path)
                try:
                    web.answer(self)
                except OSError:
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self._server = _Server((HOST, self._port.number), Request)
        if self._certificate is not None:
            tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            tls.load_cert_chain(self._certificate.chain, self._certificate.key)
            # Hands are shaken with the first read, on the thread of the connection: who hangs is nobody else's.
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        threading.Thread(target=self._server.serve_forever, args=(_LOOK_AGAIN,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.die()
        self._port.release()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """Whoever hangs up on us is no error of ours."""


def send(request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    """Send a whole answer."""
    request.send_response(status)
    for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)
