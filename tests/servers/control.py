"""Servers that are programs of ours around somebody's library: what they are to do is told them on a socket."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

from tests.servers.process import Server, ServerError

SOCKET = "control"
_GRACE = 10.0


class Controlled(Server):
    """A server that listens on the unix socket `control` in its folder too: a line of JSON in, one out."""

    def ask(self, what: str, *, timeout: float = 30, **arguments: object) -> Any:
        """Have it do `what`, and return what it answers; raise ServerError with its words if it could not.

        `timeout` is in seconds; what takes a time of its own bounds that itself, and a little sooner.
        """
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(timeout + _GRACE)
            self._connect(line)
            line.sendall(json.dumps({"what": what} | arguments).encode() + b"\n")
            with line.makefile("rb") as lines:
                said = lines.readline()
        if not said:
            raise ServerError(f"{self!r} hung up when told to {what}; see {self.log}")
        answer = json.loads(said)
        if "error" in answer:
            raise ServerError(f"{self!r} could not {what}: {answer['error']}")
        return answer.get("answer")

    def ready(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as line:
                self._connect(line)
        except OSError:
            return False
        return super().ready()

    def _connect(self, line: socket.socket) -> None:
        # The path of a unix socket may have 107 bytes only, and folders of tests are deep.
        folder = os.open(self.folder, os.O_PATH)
        try:
            line.connect(f"/proc/self/fd/{folder}/{SOCKET}")
        finally:
            os.close(folder)

    def make_way(self) -> None:
        """Take the socket of the last run away."""
        (self.folder / SOCKET).unlink(missing_ok=True)
