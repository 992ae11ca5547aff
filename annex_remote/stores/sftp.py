"""A folder on an SSH server as a store. Address ``sftp://[user@]host[:port]/absolute/path``, or ``/~/below/home``.

`host` may be an alias of the user's ``~/.ssh/config``: the connection is made by their own `ssh`.
"""

from __future__ import annotations

import posixpath
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from operator import itemgetter
from typing import TypeVar
from urllib.parse import urlsplit

from annex_remote.errors import BadSetting, Damaged, Denied, Exists, Full, NotFound, StoreError, Unavailable
from annex_remote.model import Access, OpenAt, check_name
from annex_remote.stores.address import Place, parse_place
from annex_remote.stores.parts import LEFTOVER_AGE, is_folder_name, is_part_name, missing_space, part_name
from annex_remote.stores.sftp_packets import Attributes, Code, Refusal
from annex_remote.stores.sftp_session import Line, Reply, Session
from annex_remote.stores.ssh import tunnel
from annex_remote.stores.times import elapsed

__all__ = ["SftpStore", "check", "open_store"]

_PART = b".part"
"""The folder where files are written before they get their name."""

_WINDOW = 2 << 20
"""Bytes that are on the way at a time for one file: what ssh itself lets through before it wants to hear of it."""
_FIRST_WINDOW = 256 << 10
"""Bytes that a reader asks for at first: who wants no more does not get it."""
_LEAST = 8 << 10
"""Bytes that the smallest request counts for."""

_SYNC_BYTES = 32 << 20
"""Bytes after which what is written is forced to the disk: a slow disk then shows its pace while it writes, and
does not owe minutes of it at the end, when it would be taken for stalled."""

_FOLDERS = 32
"""Folders that are listed at a time."""
_CLEARINGS = 8
"""Times that a name is cleared for a file, where renaming does not replace and others may be doing the same."""
_MARGIN = 1 << 20
"""Bytes by which a file system may be short of what it says is free."""

_ABSENT = {Code.NO_SUCH_FILE, Code.NO_SUCH_PATH}
_DENIED = {Code.PERMISSION_DENIED, Code.WRITE_PROTECT}
_FULL = {Code.NO_SPACE, Code.QUOTA_EXCEEDED}
_CUT = {Code.NO_CONNECTION, Code.CONNECTION_LOST}

T = TypeVar("T")


def check(address: str) -> str:
    """Return the address in its one form; raises `BadSetting`."""
    return str(_place(address))


def _place(address: str) -> Place:
    place = parse_place(address, user=True, default_port=22)
    if place.host.startswith("-"):
        raise BadSetting(f"{str(place)!r}: no host begins with '-'")
    # Host NAS and Host nas are two in ~/.ssh/config.
    return replace(place, host=urlsplit(address).netloc.rpartition("@")[2][: len(place.host)])


def open_store(address: str, access: Access) -> SftpStore:
    """Open the folder at `address`, without asking anybody; see `annex_remote.stores.open_store`."""
    return SftpStore(_place(address), access)


class SftpStore:
    """Keeps each name as a file under a folder; see `model.Store` for the contract."""

    def __init__(self, place: Place, access: Access) -> None:
        def connect() -> Session:
            with tunnel(place, access.login, access.patience) as opened:
                return Session(opened, access.patience)

        self._where = f"{place.netloc}:{place.path or '/'}"
        self._root = _root(place.path)
        # What is put has a connection of its own: on a slow line, a question would wait behind megabytes.
        self._asking = Line(connect)
        self._putting = Line(connect)
        self._publishing = threading.Lock()
        self._swept = False
        self._there: set[bytes] = set()
        """Folders that are known to be there."""
        self._made: list[bytes] = []
        """Folders that were made by this object, in their order."""

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        target = self._path(name)
        with self._translated(f"writing {name}"):
            session = self._putting.session()
            for folder in (self._root, self._join(_PART), posixpath.dirname(target)):
                self._make_folder(session, folder)
            self._sweep(session)
            part = self._new_part(target)
            # Asked before the share is sent, and heard after it: that costs no time.
            looked = session.lstat(target) if fresh else None
            try:
                self._write(session, part, size, open_at)
                if looked is None:
                    self._publish(session, part, target)
                else:
                    self._publish_new(session, part, target, looked)
            except BaseException as error:
                with suppress(Refusal, StoreError):
                    session.remove(part).wait()
                if isinstance(error, Refusal):
                    self._there.clear()  # one of them may have gone away
                    if self._is_full(session, error, size):
                        raise Full(self._text(f"writing {name}", error)) from error
                raise

    def _write(self, session: Session, part: bytes, size: int, open_at: OpenAt) -> None:
        handle = session.create(part).wait()
        try:
            _write_all(session, handle, size, open_at)
            synced, looked = session.sync(handle), session.fstat(handle)
            if synced:
                synced.wait()
            stored = _regular_size(looked.wait())
        except BaseException:
            with suppress(StoreError):
                session.close_handle(handle)
            raise
        session.close_handle(handle).wait()
        if stored != size:
            raise Unavailable(f"{self._where} took {size} bytes, and has {stored} of them", passing=True)

    def _publish(self, session: Session, part: bytes, target: bytes) -> None:
        if not session.replaces:
            with self._publishing:
                for _ in range(_CLEARINGS):
                    if self._is_published(session, part, target):
                        return
        session.rename(part, target).wait()

    def _publish_new(self, session: Session, part: bytes, target: bytes, looked: Reply[Attributes]) -> None:
        """Give a file its name if nothing has it, raise `Exists` else; `looked` is what was asked of it before.

        OpenSSH's server, and what follows the draft, refuse by themselves to rename to a name that is taken, but
        some replace what has it: hence the look.
        """
        exists = Exists(f"{target.decode()} in {self._where} is there already")
        if _unless_absent(looked) is not None:
            raise exists
        try:
            session.rename(part, target, replace=False).wait()
        except Refusal as refusal:
            if _unless_absent(session.lstat(target)) is not None:
                raise exists from refusal
            raise

    def _is_published(self, session: Session, part: bytes, target: bytes) -> bool:
        """Try to do in steps what is not to be had in one; what has the name is put aside, and back if need be."""
        try:
            session.rename(part, target).wait()
            return True
        except Refusal as refusal:
            if refusal.code in _ABSENT | _DENIED:
                raise
        aside = self._new_part(target)
        with suppress(Refusal):
            session.rename(target, aside).wait()
            try:
                session.rename(part, target).wait()
            except Refusal:
                session.rename(aside, target).wait()
            else:
                session.remove(aside).wait()
                return True
        return False

    def read(self, name: str, start: int = 0, length: int | None = None) -> SftpRange:
        path = self._path(name)
        doing = f"reading {name}"
        with self._translated(doing):
            session = self._asking.session()
            try:
                handle = session.open(path).wait()
            except Refusal as refusal:
                if refusal.code in _ABSENT:
                    raise NotFound(self._text(doing, refusal)) from refusal
                raise
            try:
                return SftpRange(session, handle, start, length, lambda refusal: self._error(doing, refusal))
            except BaseException:
                with suppress(StoreError):
                    session.close_handle(handle)
                raise

    def stat(self, name: str) -> int | None:
        path = self._path(name)
        with self._translated(f"looking at {name}"):
            found = _unless_absent(self._asking.session().stat(path))
            return None if found is None else _regular_size(found)

    def age(self, name: str) -> float | None:
        path, doing = self._path(name), f"looking at {name}"
        with self._translated(doing):
            found = _unless_absent(self._asking.session().stat(path))
        if found is None:
            raise NotFound(f"{doing} in {self._where}: it is not there")
        _regular_size(found)
        return None if found.modified is None else elapsed(found.modified, time.time())

    def delete(self, name: str) -> None:
        path = self._path(name)
        with self._translated(f"removing {name}"):
            _unless_absent(self._asking.session().remove(path))

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        with self._translated("listing"):
            session = self._asking.session()
            folders = [prefix[:2]] if len(prefix) >= 2 else self._folders(session)
            folders = [folder for folder in folders if is_folder_name(folder)]
            for first in range(0, len(folders), _FOLDERS):
                some = [self._join(folder.encode()) for folder in folders[first : first + _FOLDERS]]
                for folder, entry, attributes in sorted(_list_folders(session, some), key=itemgetter(0, 1)):
                    name = f"{posixpath.basename(folder).decode()}/{entry.decode(errors='replace')}"
                    with suppress(Damaged):
                        if name.startswith(prefix) and check_name(name) and attributes.is_file:
                            yield name, _regular_size(attributes)

    def _folders(self, session: Session) -> Sequence[str]:
        return sorted(name.decode(errors="replace") for _, name, _ in _list_folders(session, [self._root]))

    def space(self) -> int | None:
        with self._translated("asking for free space"):
            return self._space(self._asking.session())

    def _space(self, session: Session) -> int | None:
        asked = session.space(self._root)
        return None if asked is None else _unless_absent(asked)

    def close(self) -> None:
        """Where a store was being made and came to nothing, leave no empty folder behind."""
        session = self._putting.current
        if session is not None and self._root in self._made:
            with suppress(StoreError):
                for reply in [session.remove_folder(folder) for folder in reversed(self._made)]:
                    with suppress(Refusal):  # not empty: it came to something
                        reply.wait()
        self._asking.close()
        self._putting.close()

    def _path(self, name: str) -> bytes:
        return self._join(check_name(name).encode())

    def _join(self, *names: bytes) -> bytes:
        return posixpath.join(self._root, *names)

    def _new_part(self, target: bytes) -> bytes:
        return self._join(_PART, part_name(target.decode()).encode())

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except Refusal as refusal:
            raise self._error(doing, refusal) from refusal

    def _error(self, doing: str, refusal: Refusal) -> StoreError:
        text = self._text(doing, refusal)
        if refusal.code in _DENIED:
            return Denied(text)
        if refusal.code in _FULL:
            return Full(text)
        # A folder or a handle that went away is no news about a share.
        return Unavailable(text, passing=refusal.code in _CUT | _ABSENT)

    def _text(self, doing: str, refusal: Refusal) -> str:
        return f"{doing} in {self._where}: {refusal}"

    def _is_full(self, session: Session, refusal: Refusal, size: int) -> bool:
        """Tell whether that is why; OpenSSH's server has one code for all errors that it has no other one for."""
        if refusal.code != Code.FAILURE:
            return False

        def space() -> int | None:
            with self._translated("asking for free space"):
                return self._space(session)

        return missing_space(space, size + _MARGIN) is not None

    def _make_folder(self, session: Session, folder: bytes) -> None:
        if folder in self._there or folder in (b"", b"/", b"."):
            return
        if not self._is_folder(session, folder):
            self._make_folder(session, posixpath.dirname(folder))
            try:
                session.make_folder(folder).wait()
                self._made.append(folder)
            except Refusal:  # another was faster?
                if not self._is_folder(session, folder):
                    raise
        self._there.add(folder)

    def _is_folder(self, session: Session, folder: bytes) -> bool:
        """Tell whether there is one; raises `Unavailable` if there is something else."""
        is_ours = posixpath.dirname(folder) == self._root
        found = _unless_absent((session.lstat if is_ours else session.stat)(folder))
        if found is None:
            return False
        if not found.is_folder:
            # A link would lead our files, and the sweeping of old ones, to somebody else's place.
            what = "a symbolic link" if found.is_link else "no folder"
            raise Unavailable(f"{folder.decode(errors='replace')!r} in {self._where} is {what}")
        return True

    def _sweep(self, session: Session) -> None:
        """Once a process, remove what writers that were killed long ago left behind."""
        if self._swept:
            return
        self._swept = True
        before = time.time() - LEFTOVER_AGE
        with suppress(Refusal):  # housekeeping: nothing that fails here is in the way of a share
            old = [
                self._join(_PART, name)
                # Ours alone: by their form, and never through a link that somebody put there.
                for _, name, attributes in _list_folders(session, [self._join(_PART)])
                if is_part_name(name.decode(errors="replace"))
                and attributes.is_file
                and (attributes.modified or before) < before
            ]
            for reply in [session.remove(path) for path in old]:
                reply.wait()


class SftpRange:
    """Part of an open file, as `model.ByteStream`; closes the handle when its `with` ends.

    Asks ahead of what is taken from it: little at first, soon up to `_WINDOW` bytes.
    """

    def __init__(
        self,
        session: Session,
        handle: bytes,
        start: int,
        length: int | None,
        error: Callable[[Refusal], StoreError],
    ) -> None:
        self._session = session
        self._handle = handle
        self._error = error
        self._piece = session.read_size
        self._window = _FIRST_WINDOW
        self._asked: deque[tuple[int, Reply[bytes]]] = deque()
        """What comes next, in order, with its length."""
        self._at = self._next = start
        self._end = start + (_FIRST_WINDOW if length is None else length)
        looked = session.fstat(handle)
        self._ask()  # without waiting for the size: a round trip less
        self.size = _regular_size(looked.wait())
        self._end = self.size if length is None else min(self.size, start + length)

    def _ask(self) -> None:
        while self._next < min(self._end, self._at + self._window):
            self._asked.append(self._read(self._next, min(self._piece, self._end - self._next)))
            self._next += self._asked[-1][0]

    def _read(self, start: int, length: int) -> tuple[int, Reply[bytes]]:
        return length, self._session.read(self._handle, start, length)

    def __iter__(self) -> Iterator[bytes]:
        while self._at < self._end:
            self._ask()
            length, reply = self._asked.popleft()
            length = min(length, self._end - self._at)
            try:
                data = reply.wait()[:length]
            except Refusal as refusal:
                raise self._error(refusal) from refusal
            if not data:
                raise Damaged(f"a file of {self.size} bytes ended at {self._at} while it was read")
            self._at += len(data)
            if len(data) < length:  # not all servers give as much at once as they are asked for
                self._piece = max(len(data), _LEAST)
                self._asked.appendleft(self._read(self._at, length - len(data)))
            self._window = min(2 * self._window, _WINDOW)
            yield data

    def __enter__(self) -> SftpRange:
        return self

    def __exit__(self, *_: object) -> None:
        self._asked.clear()
        with suppress(StoreError):
            self._session.close_handle(self._handle)


def _root(path: str) -> bytes:
    """Return the folder as SFTP names it: what has no slash in front is below the home directory."""
    if path == "/~" or path.startswith("/~/"):
        return path[3:].encode() or b"."
    return path.encode() or b"/"


def _regular_size(found: Attributes) -> int:
    if not found.is_file or found.size is None:
        raise Unavailable("what stands there is not a file")
    return found.size


def _unless_absent(reply: Reply[T]) -> T | None:
    """Wait for the answer; None if it is that the thing is not there."""
    try:
        return reply.wait()
    except Refusal as refusal:
        if refusal.code in _ABSENT:
            return None
        raise


def _write_all(session: Session, handle: bytes, size: int, open_at: OpenAt) -> None:
    asked: deque[tuple[int, Reply[None]]] = deque()
    at = synced = on_the_way = 0
    for piece in open_at(0):
        rest = memoryview(piece).cast("B")
        if at + len(rest) > size:
            raise Damaged(f"the source gave more bytes than the {size} announced")
        while rest:
            some, rest = rest[: session.write_size], rest[session.write_size :]
            while on_the_way >= _WINDOW:
                length, reply = asked.popleft()
                reply.wait()
                on_the_way -= length
            asked.append((max(len(some), _LEAST), session.write(handle, at, some)))
            on_the_way += asked[-1][0]
            at += len(some)
        if at - synced >= _SYNC_BYTES and (reply_to_sync := session.sync(handle)):
            asked.append((0, reply_to_sync))
            synced = at
    for _, reply in asked:
        reply.wait()
    if at != size:
        raise Damaged(f"the source gave fewer bytes than the {size} announced")


def _list_folders(session: Session, folders: Sequence[bytes]) -> Iterator[tuple[bytes, bytes, Attributes]]:
    """Yield the entries of all that are there, with their folders; asks for all of them at a time."""
    opened: dict[bytes, bytes] = {}
    refused: list[Refusal] = []
    try:
        for folder, opening in [(folder, session.open_folder(folder)) for folder in folders]:
            try:
                handle = _unless_absent(opening)
            except Refusal as refusal:
                refused.append(refusal)
            else:
                if handle is not None:
                    opened[folder] = handle
        if refused:
            raise refused[0]
        rest = dict(opened)
        while rest:
            for folder, reading in [(folder, session.read_folder(handle)) for folder, handle in rest.items()]:
                entries = reading.wait()
                if not entries:
                    del rest[folder]
                for name, attributes in entries:
                    yield folder, name, attributes
    finally:
        with suppress(StoreError):
            for handle in opened.values():
                session.close_handle(handle)
