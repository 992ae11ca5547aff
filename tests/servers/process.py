"""A server in its own process, with everything that is its own in one folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Self

from tests.servers.available import require
from tests.servers.ports import HOST, Port

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_PATIENCE = 60.0
_LOOK_AGAIN = 0.01


class ServerError(Exception):
    """A server did not start, or did not go on running; the text has the end of its log."""


class Server(ABC):
    """A server on a port of its own: ready when start() returns, gone when stop() returns.

    It can be started again, on the same port and with the same files. It ends with the process that made it,
    however that ends. As a context manager it is started, and at the end stopped and its port given back.
    """

    program: ClassVar[str]
    """Its name in `available.missing()`."""

    host = HOST

    def __init__(self, folder: Path) -> None:
        require(self.program)
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.log = folder / "server.log"
        self._port = Port()
        self._supervisor: subprocess.Popen[str] | None = None
        self._pid: int | None = None

    @property
    def port(self) -> int:
        return self._port.number

    @property
    def pid(self) -> int:
        """The process that listens, or the first of those; there is none while the server is down."""
        assert self._pid is not None, f"{self!r} is not running"
        return self._pid

    @property
    def running(self) -> bool:
        return self._supervisor is not None and self._supervisor.poll() is None

    def start(self) -> None:
        """Start it, and return when it takes connections; raise ServerError when it does not come to that."""
        assert not self.running, f"{self!r} is running"
        self.stop()
        command = self.prepare()
        with self.log.open("ab") as log:
            self._supervisor = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_SUPERVISOR), str(os.getpid()), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=self.folder,
                env=os.environ | self.environment(),
                start_new_session=True,
            )
        assert self._supervisor.stdout is not None
        said = self._supervisor.stdout.readline()
        if not said:
            raise self._failure("could not be run")
        self._pid = int(said)
        deadline = time.monotonic() + _PATIENCE
        while not self.ready():
            if not self.running:
                raise self._failure("ended at once")
            if time.monotonic() > deadline:
                raise self._failure(f"did not answer within {_PATIENCE:.0f} s")
            time.sleep(_LOOK_AGAIN)

    def stop(self) -> None:
        """End it, and wait for that; nothing happens when it is down already."""
        if self._supervisor is None:
            return
        supervisor, self._supervisor, self._pid = self._supervisor, None, None
        try:
            # Closes its standard input, which is the signal, and waits.
            supervisor.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            supervisor.kill()
            supervisor.communicate()
            raise ServerError(f"{self!r} did not end within {_PATIENCE:.0f} s") from None

    def kill(self) -> None:
        """End it without a chance to tidy up, as a crash of the machine does."""
        if self.running:
            os.kill(self.pid, signal.SIGKILL)
        self.stop()

    def close(self) -> None:
        """Stop it and give its port back: it cannot be started again."""
        self.stop()
        self._port.release()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.program} at {self.host}:{self.port}>"

    @abstractmethod
    def prepare(self) -> list[str]:
        """Write what it reads, and return what runs it in the foreground; the working directory is its folder."""

    def environment(self) -> dict[str, str]:
        """Return what is to be added to its environment."""
        return {}

    def ready(self) -> bool:
        """Return whether it takes connections."""
        try:
            socket.create_connection((self.host, self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def _failure(self, what: str) -> ServerError:
        self.stop()
        said = self.log.read_text(encoding="utf-8", errors="replace")[-4000:]
        return ServerError(f"{self!r} {what}; {self.log} ends:\n{said}")
