"""A connection to a server's SFTP, for many threads.

A request is sent at once and returns a `Reply`, which is waited for when it suits: so any number are on the way at
a time. What the server refuses is raised as `Refusal`; when the connection fails, all replies raise its error.
"""

from __future__ import annotations

import copy
import itertools
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, NoReturn, TypeVar

from annex_remote.errors import Denied, StoreError, SwarmError, Unavailable
from annex_remote.stores.sftp_packets import AtEnd, Attributes, Code, Kind, Refusal, expect, string, u32, u64
from annex_remote.stores.ssh import Tunnel
from annex_remote.workers import workers

__all__ = ["Line", "Reply", "Session"]

_PROTOCOL = 3
_READ_IT, _WRITE_IT_ANEW = 0x01, 0x02 | 0x08 | 0x20

_POSIX_RENAME = b"posix-rename@openssh.com"
_FSYNC = b"fsync@openssh.com"
_STATVFS = b"statvfs@openssh.com"
_LIMITS = b"limits@openssh.com"

_HEADER = struct.Struct(">IBI")
"""Length of what follows, kind, number of the request."""

_LONGEST = 1 << 20
"""Bytes of a packet; OpenSSH's have 256 KiB at most."""
_SURE = 32 << 10
"""Bytes that every server reads or writes at once."""
_MOST = 64 << 10
"""Bytes that are asked for at once where the server says that it can; more is no faster, and others would wait."""

_LOCKED = 300.0
"""Seconds for which a server that does not let us in is not asked again."""

T = TypeVar("T")


class Reply(Generic[T]):
    """What the server will answer to a request."""

    __slots__ = ("_arrived", "_body", "_decode", "_kind", "_session")

    def __init__(self, session: Session, decode: Callable[[int, bytearray], T]) -> None:
        self._session = session
        self._decode = decode
        self._arrived = threading.Event()
        self._kind: int | None = None
        self._body = bytearray()

    def wait(self) -> T:
        """Return what was asked for; raises `Refusal`, or the `StoreError` that the connection failed by."""
        self._session.wait_for(self._arrived)
        if self._kind is None:
            self._session.raise_failure()
        try:
            return self._decode(self._kind, self._body)
        except struct.error as error:
            raise Unavailable("the server sent an answer that cannot be read") from error

    def arrive(self, kind: int, body: bytearray) -> None:
        self._kind, self._body = kind, body
        self._arrived.set()

    def fail(self) -> None:
        self._arrived.set()


class Session:
    """One connection to a server's SFTP; thread safe. `patience` is in seconds.

    A server that owes answers and sends nothing for so long has failed; so has one that takes nothing for so long.
    """

    def __init__(self, tunnel: Tunnel, patience: float) -> None:
        self._tunnel = tunnel
        self._patience = patience
        self._sending = threading.Lock()
        self._lock = threading.Lock()
        self._numbers = itertools.count(_PROTOCOL + 1)
        self._failure: StoreError | None = None
        self._heard = time.monotonic()
        """When bytes came last."""
        # A greeting has its version where other answers have the number of their request.
        greeting = Reply(self, _greeting)
        self._pending: dict[int, Reply[Any]] = {_PROTOCOL: greeting}
        self._is_open = False
        workers.start(self._listen)
        self._send(_HEADER.pack(5, Kind.INIT, _PROTOCOL))
        self._extensions = greeting.wait()
        self._is_open = True
        self.read_size, self.write_size = self._limits()
        """Bytes that the server reads and writes at once."""

    @property
    def failed(self) -> bool:
        """True if nothing more comes through it."""
        return self._failure is not None

    def close(self) -> None:
        """End the connection; whoever waits for a reply hears that it was closed."""
        self._fail(Unavailable(f"the connection to {self._tunnel.host} was closed", passing=True))

    # Requests. Paths are bytes; what has no slash in front is below the home directory.

    def open(self, path: bytes) -> Reply[bytes]:
        """Ask for a handle that reads a file."""
        return self._ask(_handle, Kind.OPEN, string(path), u32(_READ_IT), u32(0))

    def create(self, path: bytes) -> Reply[bytes]:
        """Ask for a handle that writes a file which is not there yet."""
        return self._ask(_handle, Kind.OPEN, string(path), u32(_WRITE_IT_ANEW), u32(0))

    def close_handle(self, handle: bytes) -> Reply[None]:
        return self._ask(_done, Kind.CLOSE, string(handle))

    def read(self, handle: bytes, start: int, length: int) -> Reply[bytes]:
        """Ask for up to `length` bytes: one at least, none at the end of the file."""
        return self._ask(_data, Kind.READ, string(handle), u64(start), u32(length))

    def write(self, handle: bytes, start: int, data: memoryview) -> Reply[None]:
        return self._ask(_done, Kind.WRITE, string(handle), u64(start), u32(len(data)), payload=data)

    def stat(self, path: bytes) -> Reply[Attributes]:
        return self._ask(_attributes, Kind.STAT, string(path))

    def lstat(self, path: bytes) -> Reply[Attributes]:
        return self._ask(_attributes, Kind.LSTAT, string(path))

    def fstat(self, handle: bytes) -> Reply[Attributes]:
        return self._ask(_attributes, Kind.FSTAT, string(handle))

    def open_folder(self, path: bytes) -> Reply[bytes]:
        return self._ask(_handle, Kind.OPENDIR, string(path))

    def read_folder(self, handle: bytes) -> Reply[list[tuple[bytes, Attributes]]]:
        """Ask for some more of what is in a folder; links are told as links. Nothing at the end."""
        return self._ask(_entries, Kind.READDIR, string(handle))

    def make_folder(self, path: bytes) -> Reply[None]:
        return self._ask(_done, Kind.MKDIR, string(path), u32(0))

    def remove(self, path: bytes) -> Reply[None]:
        return self._ask(_done, Kind.REMOVE, string(path))

    def remove_folder(self, path: bytes) -> Reply[None]:
        return self._ask(_done, Kind.RMDIR, string(path))

    @property
    def replaces(self) -> bool:
        """True if a rename replaces what is there, in one step."""
        return _POSIX_RENAME in self._extensions

    def rename(self, old: bytes, new: bytes, *, replace: bool = True) -> Reply[None]:
        """Ask to give a file another name.

        If something has it, that is refused, unless the server `replaces` and is to `replace` it. Some servers
        replace it all the same.
        """
        if replace and self.replaces:
            return self._extended(_done, _POSIX_RENAME, string(old), string(new))
        return self._ask(_done, Kind.RENAME, string(old), string(new))

    def sync(self, handle: bytes) -> Reply[None] | None:
        """Ask to force a file to the disk; None if the server cannot be asked to."""
        return self._extended(_done_if_possible, _FSYNC, string(handle)) if _FSYNC in self._extensions else None

    def space(self, path: bytes) -> Reply[int | None] | None:
        """Ask for the free bytes of a file system; None if the server cannot be asked, or cannot tell."""
        return self._extended(_free, _STATVFS, string(path)) if _STATVFS in self._extensions else None

    def _limits(self) -> tuple[int, int]:
        if _LIMITS in self._extensions:
            with suppress(Refusal):
                read, write = self._extended(_sizes, _LIMITS).wait()
                return min(read or _SURE, _MOST), min(write or _SURE, _MOST)
        return _SURE, _SURE

    # The machinery.

    def wait_for(self, event: threading.Event) -> None:
        """Wait for an event that an answer brings about, as long as answers come."""
        until = time.monotonic() + self._patience
        while not event.wait(until - time.monotonic()):
            until = max(until, self._heard + self._patience)
            if until <= time.monotonic():
                self._fail(self._silent())

    def raise_failure(self) -> NoReturn:
        """Raise what the connection failed by; each who asks gets an error of its own."""
        assert self._failure is not None
        raise copy.copy(self._failure) from self._failure

    def _silent(self) -> StoreError:
        return Unavailable(f"{self._tunnel.host} has not answered for {self._patience:g} seconds")

    def _extended(self, decode: Callable[[int, bytearray], T], name: bytes, *fields: bytes) -> Reply[T]:
        return self._ask(decode, Kind.EXTENDED, string(name), *fields)

    def _ask(
        self,
        decode: Callable[[int, bytearray], T],
        kind: Kind,
        *fields: bytes,
        payload: memoryview | None = None,
    ) -> Reply[T]:
        reply = Reply(self, decode)
        with self._lock:
            if self._failure is not None:
                self.raise_failure()
            number = next(self._numbers) & 0xFFFFFFFF
            self._pending[number] = reply
        body = b"".join(fields)
        length = 5 + len(body) + (len(payload) if payload else 0)
        self._send(_HEADER.pack(length, kind, number) + body, payload)
        return reply

    def _send(self, head: bytes, payload: memoryview | None = None) -> None:
        parts = [memoryview(head), payload] if payload else [memoryview(head)]
        with self._sending:
            try:
                while parts:
                    sent = self._tunnel.sending.sendmsg(parts)
                    while parts and sent >= len(parts[0]):
                        sent -= len(parts.pop(0))
                    if parts:
                        parts[0] = parts[0][sent:]
            except TimeoutError:
                self._fail(self._silent())
            except OSError:
                self._fail(self._tunnel.why(was_open=self._is_open))
            except BaseException:  # half a packet may be out
                self.close()
                raise
        if self._failure is not None:
            self.raise_failure()

    def _fail(self, error: StoreError) -> None:
        with self._lock:
            if self._failure is None:
                self._failure = error
            pending, self._pending = self._pending, {}
        for reply in pending.values():
            reply.fail()
        self._tunnel.close()

    def _listen(self) -> None:
        """Hand out answers until there are no more."""
        try:
            while True:
                length, kind, number = _HEADER.unpack(self._receive(_HEADER.size))
                if not 5 <= length <= _LONGEST or (kind == Kind.VERSION) == self._is_open:
                    self._fail(self._strange(_HEADER.pack(length, kind, number)))
                    break
                body = self._receive(length - 5)
                with self._lock:
                    reply = self._pending.pop(number, None)
                if reply is None:
                    self._fail(Unavailable(f"{self._tunnel.host} answers what was not asked, or speaks no SFTP 3"))
                    break
                reply.arrive(kind, body)
                del reply, body  # lets go of what may be large while it waits
        except (EOFError, OSError):
            self._fail(self._tunnel.why(was_open=self._is_open))
        self._tunnel.receiving.close()
        with self._sending:  # so that nobody is just using a descriptor that may soon be another's
            self._tunnel.sending.close()

    def _receive(self, count: int) -> bytearray:
        buffer = bytearray(count)
        rest = memoryview(buffer)
        while rest:
            got = self._tunnel.receiving.readinto1(rest)
            if not got:
                raise EOFError
            self._heard = time.monotonic()
            rest = rest[got:]
        return buffer

    def _strange(self, head: bytes) -> StoreError:
        shown = "".join(filter(str.isprintable, head.decode("ascii", "replace")))
        return Unavailable(
            f"what {self._tunnel.host} sends is not SFTP (it begins with {shown!r}): does a start-up file of the "
            "shell there, such as .bashrc, print something?"
        )


class Line:
    """A connection for all threads: made when the first asks for it, and anew after it broke.

    `connect` raises a `SwarmError` if it cannot; then all who waited for it hear the same. Where we are `Denied`,
    all do for some minutes: servers lock out who fails to log in again and again.
    """

    def __init__(self, connect: Callable[[], Session]) -> None:
        self._connect = connect
        self._connecting = threading.Lock()
        self._session: Session | None = None
        self._failure: SwarmError | None = None
        self._failed_until = 0.0
        self._closed = False

    @property
    def current(self) -> Session | None:
        """The connection, if there is one that works."""
        session = self._session
        return None if session is None or session.failed else session

    def session(self) -> Session:
        """Return the connection, which may have to be made."""
        came = time.monotonic()
        with self._connecting:
            session = self.current
            if session is not None:
                return session
            if self._closed:
                raise Unavailable("the store was closed")
            if self._failure is not None and came < self._failed_until:
                raise copy.copy(self._failure) from self._failure
            try:
                session = self._session = self._connect()
            except SwarmError as error:
                self._failure = error
                self._failed_until = time.monotonic() + (_LOCKED if isinstance(error, Denied) else 0)
                raise
            if self._closed:
                session.close()
            return session

    def close(self) -> None:
        """End the connection, and every one that is just being made."""
        self._closed = True
        if self._session is not None:
            self._session.close()


# What answers are made into.


def _greeting(kind: int, body: bytearray) -> frozenset[bytes]:
    fields = expect(Kind.VERSION, kind, body)
    names = []
    while not fields.at_end:
        names.append(fields.string())
        fields.string()
    return frozenset(names)


def _done(kind: int, body: bytearray) -> None:
    expect(Kind.STATUS, kind, body)


def _done_if_possible(kind: int, body: bytearray) -> None:
    try:
        _done(kind, body)
    except Refusal as refusal:  # some servers announce more than they can
        if refusal.code != Code.UNSUPPORTED:
            raise


def _handle(kind: int, body: bytearray) -> bytes:
    return expect(Kind.HANDLE, kind, body).string()


def _attributes(kind: int, body: bytearray) -> Attributes:
    return expect(Kind.ATTRS, kind, body).attributes()


def _data(kind: int, body: bytearray) -> bytes:
    try:
        return expect(Kind.DATA, kind, body).string()
    except AtEnd:
        return b""


def _entries(kind: int, body: bytearray) -> list[tuple[bytes, Attributes]]:
    try:
        fields = expect(Kind.NAME, kind, body)
    except AtEnd:
        return []
    entries = []
    for _ in range(fields.u32()):
        name = fields.string()
        fields.string()  # the same for people to read
        entries.append((name, fields.attributes()))
    return entries


def _sizes(kind: int, body: bytearray) -> tuple[int, int]:
    fields = expect(Kind.EXTENDED_REPLY, kind, body)
    fields.u64()  # of a packet
    return fields.u64(), fields.u64()


def _free(kind: int, body: bytearray) -> int | None:
    try:
        fields = expect(Kind.EXTENDED_REPLY, kind, body)
    except Refusal as refusal:
        if refusal.code != Code.UNSUPPORTED:
            raise
        return None
    _, unit, _, _, available = [fields.u64() for _ in range(5)]
    return unit * available
