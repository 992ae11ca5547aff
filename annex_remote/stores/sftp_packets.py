"""What is in the packets of SFTP, version 3 (draft-ietf-secsh-filexfer-02), with extensions of OpenSSH."""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass
from enum import IntEnum

__all__ = ["AtEnd", "Attributes", "Code", "Fields", "Kind", "Refusal", "expect", "string", "u32", "u64"]

_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
u32, u64 = _U32.pack, _U64.pack


class Kind(IntEnum):
    """What a packet is."""

    INIT = 1
    VERSION = 2
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    LSTAT = 7
    FSTAT = 8
    OPENDIR = 11
    READDIR = 12
    REMOVE = 13
    MKDIR = 14
    RMDIR = 15
    STAT = 17
    RENAME = 18
    STATUS = 101
    HANDLE = 102
    DATA = 103
    NAME = 104
    ATTRS = 105
    EXTENDED = 200
    EXTENDED_REPLY = 201


class Code(IntEnum):
    """What a STATUS says; those from `NO_SUCH_PATH` on are of later versions, and used by some servers anyhow."""

    OK = 0
    EOF = 1
    NO_SUCH_FILE = 2
    PERMISSION_DENIED = 3
    FAILURE = 4
    NO_CONNECTION = 6
    CONNECTION_LOST = 7
    UNSUPPORTED = 8
    NO_SUCH_PATH = 10
    WRITE_PROTECT = 12
    NO_SPACE = 14
    QUOTA_EXCEEDED = 15


class Refusal(Exception):
    """The server answered, and did not do it: a `Code`, or another number, and its own words."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words or f"error {code}")
        self.code = code


class AtEnd(Refusal):
    """There is no more of it."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a server tells of a file, as far as it does: size in bytes, time in seconds since 1970."""

    size: int | None = None
    mode: int | None = None
    modified: int | None = None

    @property
    def is_file(self) -> bool:
        return self.mode is None or stat.S_ISREG(self.mode)

    @property
    def is_folder(self) -> bool:
        return self.mode is None or stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        return self.mode is not None and stat.S_ISLNK(self.mode)


def string(value: bytes) -> bytes:
    """Return bytes as they stand in a packet."""
    return u32(len(value)) + value


class Fields:
    """Reads what is in a packet, in order; raises `struct.error` where it ends too early."""

    def __init__(self, body: bytearray) -> None:
        self._body = body
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._at >= len(self._body)

    def u32(self) -> int:
        self._at += 4
        number: int = _U32.unpack_from(self._body, self._at - 4)[0]
        return number

    def u64(self) -> int:
        self._at += 8
        number: int = _U64.unpack_from(self._body, self._at - 8)[0]
        return number

    def string(self) -> bytes:
        length = self.u32()
        self._at += length
        if self._at > len(self._body):
            raise struct.error("a string goes beyond the end of its packet")
        return bytes(memoryview(self._body)[self._at - length : self._at])

    def attributes(self) -> Attributes:
        flags = self.u32()
        size = self.u64() if flags & 1 else None
        if flags & 2:  # owner and group
            self.u64()
        mode = self.u32() if flags & 4 else None
        if flags & 8:  # read, written
            self.u32()
        modified = self.u32() if flags & 8 else None
        if flags & 0x80000000:
            for _ in range(self.u32()):
                self.string()
                self.string()
        return Attributes(size, mode, modified)


def expect(wanted: Kind, kind: int, body: bytearray) -> Fields:
    """Return the fields of an answer of the kind `wanted`; a STATUS that is wanted has to be OK.

    Raises `AtEnd` or another `Refusal` where the server refuses, `struct.error` where it answers something else.
    """
    fields = Fields(body)
    if kind != Kind.STATUS:
        if kind != wanted:
            raise struct.error(f"an answer of kind {kind} where {wanted.name} was to come")
        return fields
    code = fields.u32()
    if code == Code.OK and wanted == Kind.STATUS:
        return fields
    words = "" if fields.at_end else fields.string().decode(errors="replace")
    raise (AtEnd if code == Code.EOF else Refusal)(code, "".join(filter(str.isprintable, words))[:200])
