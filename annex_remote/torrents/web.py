"""Fetches a .torrent from a web server, or reads it from a file; bounded in size and time, called off when asked.

What may hang, be it a name that is looked up, a server or a disk, does so on a working thread, and whoever asked
does not wait for it any longer than was said.
"""

from __future__ import annotations

import os
import re
import socket
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from urllib.parse import unquote_to_bytes, urlsplit

from annex_remote.errors import BadSetting, Cancelled, Damaged, Denied, NotFound, SwarmError, Unavailable
from annex_remote.torrents.addresses import Allowed
from annex_remote.torrents.metainfo import MAX_SIZE
from annex_remote.torrents.urls import shown
from annex_remote.workers import workers

__all__ = ["Document", "Halt", "fetch_document"]

_POLL = 0.1
"""Seconds after which it is looked whether the fetch was called off."""
_PIECE = 1 << 20
_BLANKS = b"\xef\xbb\xbf \t\r\n"
_HEAD = 512
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


def fetch_document(place: str, allowed: Allowed, *, timeout: float, cancelled: threading.Event) -> bytes:
    """Return the bytes that are at `place`: an http, https or file URL, or a path; at most `MAX_SIZE`.

    Only `allowed` addresses are connected to, wherever names and redirects lead. A login in the URL goes to its
    own server alone; there are no cookies, and ~/.netrc is not read: the URL of a torrent may be anybody's, and
    does not get what was not meant for it.

    Raises `NotFound`, `Denied` (also for addresses that are not allowed), `Busy`, `Unavailable` (also after
    `timeout` seconds), `Damaged` for what cannot be a torrent (a web page, nothing, too much), `BadSetting` for a
    place that cannot be, and `Cancelled` soon after `cancelled` is set.
    """
    document = Document(f"fetching {shown(place)}")
    halt = Halt()
    fill = _filling(place, document, allowed, halt)
    outcome: SimpleQueue[BaseException | None] = SimpleQueue()

    def work() -> None:
        try:
            fill()
        except BaseException as error:  # noqa: BLE001 - whoever asked gets it, whatever it is
            outcome.put(error)
        else:
            outcome.put(None)

    if cancelled.is_set():
        raise Cancelled(f"{document.doing}: called off")
    deadline = time.monotonic() + timeout
    workers.start(work)
    try:
        while True:
            left = deadline - time.monotonic()
            try:
                failed = outcome.get(timeout=max(0.0, min(left, _POLL)))
                break
            except Empty:
                pass
            if cancelled.is_set():
                raise Cancelled(f"{document.doing}: called off")
            if left <= 0:
                raise Unavailable(f"{document.doing}: it was not there after {timeout:g} seconds", passing=True)
    finally:
        halt.stop()
    if failed is not None:
        raise failed
    return document.whole()


class Document:
    """A .torrent as it comes in. `doing` begins the text of errors."""

    def __init__(self, doing: str) -> None:
        self.doing = doing
        self.is_called_page = False
        """True if who sends it says that it is HTML: so some servers call whatever they do not know."""
        self._data = bytearray()
        self._has_head = False

    @property
    def room(self) -> int:
        """How many bytes may still come."""
        return MAX_SIZE - len(self._data)

    def add(self, piece: bytes) -> None:
        """Take what follows; raises `Damaged` as soon as it is too much, or begins as no torrent does."""
        if len(piece) > self.room:
            raise self.too_long()
        self._data += piece
        if not self._has_head:
            head = bytes(self._data[:_HEAD]).lstrip(_BLANKS)
            self._has_head = bool(head)
            if head.startswith(b"<") or (self.is_called_page and head and not head.startswith(b"d")):
                raise Damaged(f"{self.doing}: it is a web page, not a torrent: is a login wanted there?")

    def too_long(self) -> Damaged:
        """Return the error for more than there may be."""
        return Damaged(f"{self.doing}: it is longer than the {MAX_SIZE >> 20} MiB that a torrent file may have")

    def whole(self) -> bytes:
        """Return all of it; raises `Damaged` if it is nothing."""
        if not self._data:
            raise Damaged(f"{self.doing}: it is empty")
        return bytes(self._data)


class Halt:
    """Ends a fetch from another thread: its connection is cut, and none is made any more. Thread safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_stopped = False
        self._held: socket.socket | None = None

    def check(self) -> None:
        """Raise `Cancelled` after `stop`."""
        if self._is_stopped:
            raise Cancelled("the fetch was given up")

    def hold(self, connection: socket.socket) -> None:
        """Have `connection`, which replaces the one before, end with the fetch; raises as `check`."""
        copy = connection.dup()  # TLS takes the descriptor of the original over
        with self._lock:
            before, self._held = self._held, copy
            is_stopped = self._is_stopped
        _cut(before)
        if is_stopped:
            self.stop()
        self.check()

    def stop(self) -> None:
        """End it; may be called again."""
        with self._lock:
            self._is_stopped = True
            held, self._held = self._held, None
        _cut(held)


def _cut(connection: socket.socket | None) -> None:
    if connection is not None:
        with connection, suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)  # wakes who waits for it


def _filling(place: str, document: Document, allowed: Allowed, halt: Halt) -> Callable[[], None]:
    """Return what fills the document; raises `BadSetting` for a place that cannot be."""
    scheme = _SCHEME.match(place)
    if scheme is None:
        return partial(_read_file, place, document)
    match scheme[1].lower():
        case "http" | "https":
            from annex_remote.torrents.http_get import fill  # requests takes its time, and a path needs none of it

            return partial(fill, document, place, allowed, halt)
        case "file":
            return partial(_read_file, _path(place, document.doing), document)
    raise BadSetting(f"{document.doing}: only http, https and file URLs and paths can be fetched")


def _path(url: str, doing: str) -> bytes:
    """Return the path of a file URL (RFC 8089); raises `BadSetting` for one of another machine."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise BadSetting(f"{doing}: this is no file URL") from None
    if parts.netloc.lower() not in ("", "localhost"):
        raise BadSetting(f"{doing}: a file URL names a file of this machine, and this one names another machine")
    if not parts.path.startswith("/"):
        raise BadSetting(f"{doing}: a file URL has a whole path, as in file:///home/me/x.torrent")
    return unquote_to_bytes(parts.path)


def _read_file(path: str | bytes, document: Document) -> None:
    """Read a regular file, and nothing else: a pipe would never end, and of a device even opening may do things.

    A path that is not whole is one from where we are, as git-annex stays in the directory that the user is in.
    """
    try:
        if stat.S_ISREG(os.stat(path).st_mode):
            # It may have become another kind by now, which is not waited for when it is opened.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            try:
                if stat.S_ISREG(os.fstat(descriptor).st_mode):
                    while piece := os.read(descriptor, _PIECE):
                        document.add(piece)
                    return
            finally:
                os.close(descriptor)
        raise BadSetting(f"{document.doing}: it is no regular file")
    except ValueError as error:
        raise BadSetting(f"{document.doing}: no file has such a name") from error
    except OSError as error:
        raise _of_file(error, document.doing) from error


def _of_file(error: OSError, doing: str) -> SwarmError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return NotFound(f"{doing}: there is no such file")
    if isinstance(error, PermissionError):
        return Denied(f"{doing}: it may not be read: {error.strerror}")
    return Unavailable(f"{doing}: {error.strerror or 'it cannot be read'}")
