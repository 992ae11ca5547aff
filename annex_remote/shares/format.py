"""A share's bytes: blocks, block hashes, then the tail: header, table, signature, footer (docs/format.md).

Parsing is strict: what parses re-serialises to the same bytes, and nothing is used before it is proved.
All integers are big-endian.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from blake3 import blake3

from annex_remote.errors import Damaged
from annex_remote.model import MAX_SHARES
from annex_remote.shares.crypto import KEY_NAME_MAX, SEALED_NAME_OVERHEAD, Cipher, object_id_bytes
from annex_remote.shares.layout import HASH_SIZE, SEGMENT_SIZE, Layout

__all__ = [
    "FOOTER_SIZE",
    "KEY_NAME_MAX",
    "MAX_TABLE",
    "TABLE_ENTRY",
    "TAIL_MAX",
    "Header",
    "Tail",
    "block_hash",
    "parse_footer",
    "share_length",
    "share_root",
    "sign",
    "tail_length",
]

VERSION = 1
MAGIC = b"swarmshare"
SIGNATURE_SIZE = 64

_HEADER = struct.Struct(">BBHIQ20s32sH")
_ENTRY = struct.Struct(">B32s")
_COUNT = struct.Struct(">H")
_FOOTER = struct.Struct(">10sHI")
FOOTER_SIZE = _FOOTER.size
TABLE_ENTRY = _ENTRY.size
"""Bytes of a share's signed table for each share that it has."""
MAX_TABLE = MAX_SHARES
TAIL_MAX = _HEADER.size + KEY_NAME_MAX + _COUNT.size + MAX_SHARES * _ENTRY.size + SIGNATURE_SIZE + FOOTER_SIZE
_SIGNED = b"git-annex-remote-swarm v1 share\n"
_ROOT = "git-annex-remote-swarm v1 share root"


@dataclass(frozen=True, slots=True)
class Header:
    """What all shares of one upload have in common; equal headers are what makes shares belong together.

    `object_id` is 32 characters of base32, `content_id` 32 bytes (keyed hash over size and all nonces),
    `size` the plaintext's bytes, `sealed_name` the annex key's name sealed with the read secret.
    """

    cipher: Cipher
    needed: int
    size: int
    object_id: str
    content_id: bytes
    sealed_name: bytes

    @property
    def layout(self) -> Layout:
        return Layout(self.size, self.needed, self.cipher.overhead)

    def is_recoded(self, other: Header) -> bool:
        """True if `other` is that of the same content under the same key, coded by another number of shares."""
        return self.needed != other.needed and replace(self, needed=other.needed) == other

    def pack(self) -> bytes:
        fixed = _HEADER.pack(
            VERSION,
            self.cipher.value,
            self.needed,
            SEGMENT_SIZE,
            self.size,
            object_id_bytes(self.object_id),
            self.content_id,
            len(self.sealed_name),
        )
        return fixed + self.sealed_name

    @classmethod
    def parse(cls, data: bytes) -> tuple[Header, int]:
        """Return the header at the start of `data` and its length; raises `Damaged` saying what is wrong."""
        if len(data) < _HEADER.size:
            raise Damaged("a share's header is cut short")
        version, cipher, needed, segment, size, object_id, content_id, name_length = _HEADER.unpack_from(data)
        if version != VERSION:
            raise Damaged(f"a share of format version {version}: this program reads version {VERSION}")
        if cipher not in {known.value for known in Cipher}:
            raise Damaged(f"a share with cipher number {cipher}, which this program does not know")
        if not 1 <= needed <= MAX_SHARES:
            raise Damaged(f"a share's header says needed={needed}, which is out of range")
        if segment != SEGMENT_SIZE:
            raise Damaged(f"a share's header says segments of {segment} bytes, not {SEGMENT_SIZE}")
        if size >= 1 << 63:
            raise Damaged(f"a share's header says an object of {size} bytes, which is out of range")
        end = _HEADER.size + name_length
        if name_length > KEY_NAME_MAX or len(data) < end:
            raise Damaged(f"a share's header says a key name of {name_length} bytes, which is out of range")
        name = bytes(data[_HEADER.size : end])
        text_id = base64.b32encode(object_id).decode().lower()
        return cls(Cipher(cipher), needed, size, text_id, content_id, name), end


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a share: header, table of the upload's share roots, signature, and its own number.

    `roots` maps each share number of the upload to the root over that share's block hashes.
    """

    header: Header
    roots: Mapping[int, bytes]
    signature: bytes
    number: int

    def pack(self) -> bytes:
        body = _signed_part(self.header, self.roots) + self.signature
        return body + _FOOTER.pack(MAGIC, self.number, len(body) + FOOTER_SIZE)

    @property
    def share_size(self) -> int:
        """Bytes of the whole share that this tail ends."""
        layout = self.header.layout
        return layout.data_length + layout.hashes_length + tail_length(self.header, len(self.roots))

    @classmethod
    def parse(cls, data: bytes, share_size: int) -> Tail:
        """Read the tail that `data` (the last bytes of a share, or all of it) ends with.

        `share_size` is the size of the whole share in bytes. Raises `Damaged`. What is returned is well
        formed; `verify` proves it.
        """
        number, length = parse_footer(data)
        if len(data) < length:
            raise Damaged("a share's tail is cut short")
        tail = bytes(data[len(data) - length :])
        header, at = Header.parse(tail)
        if len(tail) < at + _COUNT.size:
            raise Damaged("a share's table is cut short")
        (count,) = _COUNT.unpack_from(tail, at)
        at += _COUNT.size
        end = at + count * _ENTRY.size
        if not 1 <= count <= MAX_SHARES or len(tail) != end + SIGNATURE_SIZE + FOOTER_SIZE:
            raise Damaged(f"a share's table of {count} entries does not fit its length")
        entries = [(entry[0], entry[1]) for entry in _ENTRY.iter_unpack(tail[at:end])]
        numbers = [entry[0] for entry in entries]
        if numbers != sorted(set(numbers)):
            raise Damaged("a share's table is out of order or has a number twice")
        if number not in numbers:
            raise Damaged(f"a share says that it is number {number}, which its table does not have")
        parsed = cls(header, dict(entries), tail[end : end + SIGNATURE_SIZE], number)
        if parsed.share_size != share_size:
            raise Damaged(f"a share has {share_size} bytes, its header says {parsed.share_size}")
        return parsed

    def verify(self, verify_key: bytes) -> None:
        """Prove header and table with the grid's verify key; raises `Damaged`."""
        if not _is_signed(verify_key, _signed_part(self.header, self.roots), self.signature):
            raise Damaged("a share is not signed by this grid")

    def check_hashes(self, hashes: bytes) -> None:
        """Prove the share's block hashes against its root in the signed table; raises `Damaged`."""
        if share_root(self.number, hashes) != self.roots[self.number]:
            raise Damaged(f"the block hashes of share {self.number} do not match their root")


def parse_footer(data: bytes) -> tuple[int, int]:
    """Return (share number, length of the tail in bytes) from a share's last 16 bytes; raises `Damaged`."""
    if len(data) < FOOTER_SIZE:
        raise Damaged("a share is cut short")
    magic, number, length = _FOOTER.unpack(data[-FOOTER_SIZE:])
    if magic != MAGIC:
        raise Damaged("this is not a share, or its end is missing")
    if number >= MAX_SHARES:
        raise Damaged(f"a share says that it is number {number}, which is out of range")
    if not _HEADER.size + FOOTER_SIZE < length <= TAIL_MAX:
        raise Damaged(f"a share says that its tail has {length} bytes, which is out of range")
    return number, length


def tail_length(header: Header, entries: int) -> int:
    """Return the bytes of a tail whose table has `entries` entries; known before anything is sealed."""
    fixed = _HEADER.size + len(header.sealed_name) + _COUNT.size
    return fixed + entries * _ENTRY.size + SIGNATURE_SIZE + FOOTER_SIZE


def share_length(layout: Layout, key_length: int, entries: int) -> int:
    """Return the bytes of a share of an object whose key's name has `key_length`, with a table of `entries`."""
    name = key_length + SEALED_NAME_OVERHEAD
    fixed = _HEADER.size + name + _COUNT.size + SIGNATURE_SIZE + FOOTER_SIZE
    return layout.data_length + layout.hashes_length + fixed + entries * TABLE_ENTRY


def share_root(number: int, hashes: bytes) -> bytes:
    """Return the root over a share's block hashes, bound to the share's number."""
    hasher = blake3(derive_key_context=_ROOT)
    hasher.update(struct.pack(">H", number))
    hasher.update(hashes)
    return hasher.digest()


def block_hash(block: bytes | memoryview) -> bytes:
    """Return the hash that stands for a block: plain BLAKE3, 32 bytes."""
    return blake3(block).digest(HASH_SIZE)


def sign(header: Header, roots: Mapping[int, bytes], signing_seed: bytes) -> bytes:
    """Return the Ed25519 signature (64 bytes) over header and table."""
    from nacl.bindings import crypto_sign, crypto_sign_seed_keypair

    _, secret = crypto_sign_seed_keypair(signing_seed)
    return crypto_sign(_SIGNED + _signed_part(header, roots), secret)[:SIGNATURE_SIZE]


def _signed_part(header: Header, roots: Mapping[int, bytes]) -> bytes:
    table = b"".join(_ENTRY.pack(number, roots[number]) for number in sorted(roots))
    return header.pack() + _COUNT.pack(len(roots)) + table


@lru_cache(maxsize=64)
def _is_signed(verify_key: bytes, signed_part: bytes, signature: bytes) -> bool:
    """Cached, because all shares of an upload carry the same header, table and signature."""
    from nacl.bindings import crypto_sign_open
    from nacl.exceptions import BadSignatureError

    try:
        crypto_sign_open(signature + _SIGNED + signed_part, verify_key)
    except (BadSignatureError, ValueError):
        return False
    return True
