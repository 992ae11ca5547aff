"""One ``rclone rcd`` for all rclone stores of this process: started when first needed, spoken to on loopback.

It is a child of ours, with no proxy, redirect or certificate before it; it tells what went wrong in words, not by
its status; and while it takes an upload from us (`rcd_upload`), both ends have to be watched. So it is not spoken
to by the client that serves the network stores.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import selectors
import shutil
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import quote

from annex_remote.errors import Unavailable
from annex_remote.stores.numbers import whole_number
from annex_remote.workers import workers

__all__ = ["LOOPBACK", "PIECE", "Body", "Daemon", "Rclone", "RefusedError", "has_come", "parse", "rclone"]

LOOPBACK = "127.0.0.1"
_USER = "swarm"
_START = 10.0
"""Seconds in which the daemon has to answer after its start."""
_IDLE = 32
"""Connections to the daemon that are kept."""
PIECE = 256 << 10
_ENDING = 1.0
"""Seconds in which it shows whether a daemon that hung up has ended."""
_MOST = 300
"""Characters of what the daemon says that are shown."""

_KEEPER = """
"$@" &
rclone=$!
exec 2>&-
while read -r _; do :; done
kill "$rclone"
(sleep 5; kill -9 "$rclone") &
wait "$rclone"
kill $!
"""
"""Runs the daemon, and ends it at the end of its own input, which comes when we end, however we do.

PR_SET_PDEATHSIG would not do: it fires when the thread that started the daemon ends, and ours are short-lived.
"""

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})--?[0-9]{1,18}/([0-9]{1,18})\Z")  # "0--1" for nothing of nothing
_TIME = re.compile(r"\A[\d/]+ [\d:]+ ")
_WRITTEN = re.compile(r"^wchar: (\d+)$", re.MULTILINE)
_SERVING = re.compile(rb"Serving remote control on http://127\.0\.0\.1:(\d+)/")

_UNWANTED = re.compile(
    # How the daemon is reached, and what it says;
    r"RCLONE_(RC(_\w+)?|LOG_\w+|SYSLOG\w*|USE_JSON_LOG|QUIET|VERBOSE|PROGRESS|STATS\w*|DUMP\w*|"
    # what makes it ask somebody, do nothing, or spare, hide or keep what has a name already;
    r"INTERACTIVE|DRY_RUN|IMMUTABLE|UPDATE|SIZE_ONLY|IGNORE_\w+|NO_CHECK_DEST|BACKUP_DIR|SUFFIX\w*|COMPARE_DEST|"
    r"COPY_DEST|MAX_(AGE|SIZE|DEPTH|TRANSFER|DURATION)|MIN_(AGE|SIZE)|FILES_FROM\w*|NAME_TRANSFORM|"
    r"((HASH|METADATA)_)?(FILTER|INCLUDE|EXCLUDE)\w*)\Z|"
    # and what breaks S3 in rclone 1.60.
    r"AWS_CA_BUNDLE\Z"
)
"""Variables of the user's environment that the daemon does not get."""


_URL = re.compile(r"\b([a-z][a-z0-9+.-]*://)(?:[^\s/\"']*@)?([^\s/?#\"']+)[^\s\"']*", re.IGNORECASE)
_SECRET = re.compile(
    r"((?:pass|token|secret|key|sig|cred|auth)\w*[\"']?\s*(?:=|\"\s*:|:\s*\")\s*[\"']?|\b(?:bearer|basic) )"
    r"[^\s,;&\"']+",
    re.IGNORECASE,
)
"""What of words is shown, and what is not: of a URL, which may have a password or a signature, only the host."""


class RefusedError(Exception):
    """The daemon answered that it could not, and why: its `words`, without secrets.

    The `status` is 404 for what is not there, 500 for most other things, and 0 where it does not tell.
    """

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.words = words


class Daemon:
    """A running ``rclone rcd``. Raises `Unavailable` if it cannot be started."""

    def __init__(self) -> None:
        program = shutil.which("rclone")
        if program is None:
            raise Unavailable("rclone is not installed here, or not on PATH: this store is reached through it")
        password = secrets.token_hex(24)
        self._login = "Basic " + base64.b64encode(f"{_USER}:{password}".encode()).decode()
        self._said: deque[bytes] = deque(maxlen=10)
        self._settled = threading.Event()
        self._ended = threading.Event()
        self._is_ending = False
        self._port = 0
        self._pid = 0
        self._idle: deque[HTTPConnection] = deque()
        try:
            self._process = subprocess.Popen(
                ["sh", "-c", _KEEPER, "rclone-keeper", program, *_arguments()],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=_environment(password),
                start_new_session=True,  # Ctrl-C is for us: we may still want to remove something
            )
        except OSError as error:
            raise Unavailable(f"rclone cannot be started: {error.strerror or error}", passing=True) from error
        try:
            workers.start(self._attend)
            self._greet()
        except BaseException:
            self.end()
            raise

    @property
    def is_gone(self) -> bool:
        return self._ended.is_set()

    def _attend(self) -> None:
        """Hear what the daemon says, until it ends."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said.append(line)
            if found := _SERVING.search(line):
                self._port = int(found[1])
                self._settled.set()
        self._ended.set()
        self._settled.set()
        self._process.stderr.close()
        self.end()
        self._process.wait()

    def end(self) -> None:
        """Let the keeper end the daemon, and let go of the connections that nobody uses."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._is_ending = True
        while self._idle:
            with suppress(IndexError):  # another thread was faster
                self._idle.pop().close()

    def _greet(self) -> None:
        """Wait until the daemon answers; it reads its configuration when it is first asked."""
        if not self._settled.wait(_START):
            raise Unavailable(f"rclone did not start in {_START:g} seconds", passing=True)
        try:
            if not self.is_gone:
                self.ask(self.connect(_START), "config/listremotes", {}, _START)
                self._pid = self.ask(self.connect(_START), "core/pid", {}, _START)["pid"]
                return
        except OSError:
            self._ended.wait(_ENDING)
        except Unavailable:
            pass
        except RefusedError as error:
            raise Unavailable(_why(error.words)) from error
        said = b"".join(self._said).decode(errors="replace").splitlines()
        raise Unavailable(_why(_scrubbed(_TIME.sub("", said[-1])) if said else "it says nothing"))

    def written(self) -> int:
        """Return how many bytes the daemon has written, to anybody; 0 if that cannot be known."""
        try:
            found = _WRITTEN.search(Path(f"/proc/{self._pid}/io").read_text(encoding="ascii"))
            return int(found[1]) if found else 0
        except OSError:  # not Linux, or it has ended
            pass
        with suppress(Unavailable, RefusedError, OSError):
            return int(self.ask(self.connect(_START), "core/stats", {}, _START).get("bytes", 0))
        return 0

    def connect(self, patience: float) -> HTTPConnection:
        """Return a connection on which nothing has been asked; raises OSError."""
        while self._idle:
            with suppress(IndexError):  # another thread was faster
                line = self._idle.pop()
                if not has_come(line.sock, 0):
                    line.sock.settimeout(patience)
                    return line
                line.close()
        line = HTTPConnection(LOOPBACK, self._port, timeout=patience)
        line.connect()
        return line

    def keep(self, line: HTTPConnection, answer: HTTPResponse) -> None:
        """Take back a connection, if all of its answer was read."""
        if answer.isclosed() and line.sock and not self._is_ending and len(self._idle) < _IDLE:
            self._idle.append(line)
        else:
            line.close()

    def send(self, line: HTTPConnection, command: str, parameters: dict[str, Any]) -> None:
        headers = {"Authorization": self._login, "Content-Type": "application/json"}
        line.request("POST", f"/{command}", json.dumps(parameters).encode(), headers)

    def fetch(self, line: HTTPConnection, path: str, start: int, length: int | None) -> HTTPResponse:
        headers = {"Authorization": self._login}
        if start or length is not None:
            headers["Range"] = f"bytes={start}-{'' if length is None else start + length - 1}"
        line.request("GET", quote(path), headers=headers)
        return line.getresponse()

    def ask(
        self, line: HTTPConnection, command: str, parameters: dict[str, Any], patience: float
    ) -> dict[str, Any]:
        """Give a command and return the answer; raises `RefusedError`, `Unavailable`."""
        try:
            self.send(line, command, parameters)
            answer = line.getresponse()
            body = answer.read()
        except (OSError, HTTPException) as error:
            line.close()
            raise self.cut(error, patience) from error
        except BaseException:
            line.close()
            raise
        self.keep(line, answer)
        return parse(answer.status, body)

    def cut(self, error: Exception, patience: float) -> Unavailable:
        """Return what an error of the connection to the daemon means."""
        if isinstance(error, TimeoutError):
            return Unavailable(f"rclone did not answer in {patience:g} seconds")
        # If it has ended, that is known before anybody asks it again.
        self._ended.wait(_ENDING)
        return Unavailable("rclone ended, or was ended, before it had answered", passing=True)


class Body:
    """Bytes of an object as the daemon sends them, as `model.ByteStream`: `left` of them, to the answer's end."""

    def __init__(
        self, daemon: Daemon, line: HTTPConnection, answer: HTTPResponse, size: int, left: int, patience: float
    ) -> None:
        self.size = size
        self._daemon = daemon
        self._line: HTTPConnection | None = line
        self._answer = answer
        self._left = left
        self._patience = patience

    def __iter__(self) -> Iterator[bytes]:
        while self._left:
            try:
                piece = self._answer.read(min(PIECE, self._left))
            except (OSError, HTTPException, ValueError) as error:
                raise self._daemon.cut(error, self._patience) from error
            if not piece:
                raise Unavailable("rclone was cut off while it read: ask again", passing=True)
            self._left -= len(piece)
            yield piece

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *_: object) -> None:
        line, self._line = self._line, None
        if line is not None:
            self._daemon.keep(line, self._answer)


class Rclone:
    """The daemon of this process, whichever it is at the moment: after its end another is started. Thread safe.

    Waits `patience` seconds for an answer, or for one byte more. Everything raises `RefusedError` for what the
    daemon says no to, and `Unavailable` if it does not answer or cannot be started.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._daemon: Daemon | None = None

    def ask(self, command: str, parameters: dict[str, Any], patience: float) -> dict[str, Any]:
        """Give a command and return its answer."""
        daemon, line = self.connect(patience)
        return daemon.ask(line, command, parameters, patience)

    def read(self, path: str, start: int, length: int | None, patience: float) -> Body:
        """Open a part of an object, which has at least one byte, at ``/[remote:folder]/name``.

        Raises `Unavailable` if it is another part that comes.
        """
        daemon, line = self.connect(patience)
        try:
            answer = daemon.fetch(line, path, start, length)
            if answer.status not in (200, 206):
                parse(answer.status, answer.read())
            size, left = _extent(answer, start, length)
            return Body(daemon, line, answer, size, left, patience)
        except (OSError, HTTPException) as error:
            line.close()
            raise daemon.cut(error, patience) from error
        except BaseException:
            line.close()
            raise

    def end(self) -> None:
        """End the daemon, if it runs; who asks next starts another."""
        with self._lock:
            daemon, self._daemon = self._daemon, None
        if daemon is not None:
            daemon.end()

    def connect(self, patience: float) -> tuple[Daemon, HTTPConnection]:
        """Return the daemon, and a connection to it on which nothing has been asked."""
        for _ in range(2):
            with self._lock:
                if self._daemon is None or self._daemon.is_gone:
                    self._daemon = Daemon()
                daemon = self._daemon
            try:
                return daemon, daemon.connect(patience)
            except ConnectionRefusedError:  # it ended a moment ago
                daemon.end()
                with self._lock:
                    if self._daemon is daemon:
                        self._daemon = None
            except OSError as error:
                raise daemon.cut(error, patience) from error
        raise Unavailable("rclone ends as soon as it is started", passing=True)


rclone = Rclone()
"""The one of this process."""


def _why(said: str) -> str:
    """Return why the daemon does not start, in words for the user."""
    if "decrypt" in said:
        return (
            "rclone's configuration is encrypted: put its password into RCLONE_CONFIG_PASS, or a command that "
            "prints it into RCLONE_PASSWORD_COMMAND"
        )
    return f"rclone does not start: {said}"


def _extent(answer: HTTPResponse, start: int, length: int | None) -> tuple[int, int]:
    """Return the size of the whole and of the part that comes; raises `Unavailable` if that is another one."""
    announced = whole_number(answer.getheader("Content-Length", ""))
    size = -1 if announced is None else announced
    first = 0
    if answer.status == 206:
        found = _CONTENT_RANGE.match(answer.getheader("Content-Range", ""))
        first, size = (int(found[1]), int(found[2])) if found else (-1, -1)
    if first == start >= size >= 0:
        return size, 0  # the rest of such an answer makes no sense
    left = size - start if length is None else min(length, size - start)
    if size < 0 or first != start or announced != left:
        raise Unavailable("rclone answered with another part than was asked for")
    return size, left


def parse(status: int, body: bytes) -> dict[str, Any]:
    """Return the daemon's answer; raises `RefusedError` if it is a no."""
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        # It says 404, in plain text, when it cannot open what is there.
        raise RefusedError(0, f"something is wrong ({status})")
    if status != 200:
        raise RefusedError(status, _scrubbed(str(answer.get("error", ""))))
    return answer


def _scrubbed(words: str) -> str:
    """Return rclone's words in one line, without what may be secret."""
    shown = _SECRET.sub(r"\1***", _URL.sub(r"\1\2", " ".join(words.split())))
    return shown if len(shown) <= _MOST else f"{shown[:_MOST]}..."


def has_come(connection: socket.socket, seconds: float) -> bool:
    """Wait for something to read, or the other's end."""
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        return bool(selector.select(seconds))


def _arguments() -> list[str]:
    # An answer, or an object, may take more than the hour that is allowed to it otherwise.
    long = ["--rc-server-read-timeout", "9000h", "--rc-server-write-timeout", "9000h"]
    return ["rcd", "--rc-addr", f"{LOOPBACK}:0", "--rc-serve", *long]


def _environment(password: str) -> dict[str, str]:
    """Return the user's environment, without what would have the daemon do something else than we ask for."""
    environment = {name: value for name, value in os.environ.items() if not _UNWANTED.match(name)}
    if proxy := environment.pop("RCLONE_HTTP_PROXY", ""):  # would be asked for our own source as well
        environment |= {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy}
    environment.setdefault("RCLONE_CONTIMEOUT", "10s")
    # Whoever uses a store asks again by himself; but a part of a large upload is sent again only by rclone.
    environment.setdefault("RCLONE_LOW_LEVEL_RETRIES", "3")
    return environment | {"RCLONE_ASK_PASSWORD": "false", "RCLONE_RC_USER": _USER, "RCLONE_RC_PASS": password}
