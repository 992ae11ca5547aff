"""A second reader of the share format, written from docs/format.md alone.

It shares no code with the package and is made to be read next to the document: whole shares in memory, one
function for each section, no care for speed beyond what tests need. It reads and rebuilds, it does not store.
"""

from __future__ import annotations

import base64
import functools
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from blake3 import blake3
from nacl import bindings
from nacl.exceptions import BadSignatureError, CryptoError
from nacl.signing import SigningKey, VerifyKey

SEGMENT = 1048576
MAGIC = b"swarmshare"
SIGNED = b"git-annex-remote-swarm v1 share\n"

HEADER = struct.Struct(">BBHIQ20s32sH")
FOOTER = struct.Struct(">10sHI")
ENTRY = struct.Struct(">B32s")
SIGNATURE = 64
LONGEST_NAME = 4096
LONGEST_TAIL = 12696


class Refused(Exception):
    """Bytes that the document refuses; `rule` is its name for why."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


class NotEnough(Exception):
    """Fewer than `needed` proved blocks of a segment."""


# Notation


def plain_hash(data: bytes) -> bytes:
    return blake3(data).digest()


def keyed(key: bytes, data: bytes, length: int = 32) -> bytes:
    return blake3(data, key=key).digest(length=length)


def derive(purpose: str, material: bytes) -> bytes:
    return blake3(material, derive_key_context=f"git-annex-remote-swarm v1 {purpose}").digest()


def base32(data: bytes) -> str:
    return base64.b32encode(data).decode("ascii").rstrip("=").lower()


# Secrets and capabilities


@dataclass(frozen=True)
class Capability:
    kind: str
    verify_key: bytes
    read_secret: bytes | None = None
    signing_seed: bytes | None = None


SECRETS = {"full": 64, "read": 64, "verify": 32}
CHECKSUM = 5


def print_capability(kind: str, secrets: bytes) -> str:
    checksum = derive("capability", kind.encode("ascii") + secrets)[:CHECKSUM]
    return f"swarm-{kind}-{base32(secrets + checksum)}"


def parse_capability(word: str) -> Capability:
    word = word.strip()
    if not word.isascii():
        raise Refused("capability")
    word = word.lower()
    match = re.fullmatch(r"swarm-(full|read|verify)-([a-z2-7]+)", word)
    if match is None:
        raise Refused("capability")
    kind, text = match.groups()
    length = SECRETS[kind]
    if len(text) != -(-(length + CHECKSUM) * 8 // 5):
        raise Refused("capability")
    secrets = base64.b32decode(text.upper() + "=" * (-len(text) % 8))[:length]
    if print_capability(kind, secrets) != word:
        raise Refused("capability")
    if kind == "full":
        return Capability(kind, bytes(SigningKey(secrets[32:]).verify_key), secrets[:32], secrets[32:])
    if kind == "read":
        return Capability(kind, secrets[32:], secrets[:32])
    return Capability(kind, secrets)


# Keys


@dataclass(frozen=True)
class Cipher:
    number: int
    name: str
    nonce: int
    tag: int

    @property
    def overhead(self) -> int:
        return self.nonce + self.tag


CIPHERS = {
    0: Cipher(0, "none", 32, 0),
    1: Cipher(1, "aegis256", 32, 32),
    2: Cipher(2, "xchacha20poly1305", 24, 16),
}


def object_root(read_secret: bytes, key: bytes) -> bytes:
    return keyed(derive("object key", read_secret), key)


def segment_nonce_key(read_secret: bytes, key: bytes) -> bytes:
    return derive("segment nonce", object_root(read_secret, key))


def segment_seal_key(read_secret: bytes, key: bytes, cipher: Cipher) -> bytes:
    return derive(f"segment seal {cipher.name}", object_root(read_secret, key))


def content_id_key(read_secret: bytes, key: bytes) -> bytes:
    return derive("content id", object_root(read_secret, key))


# Names


def make_object_id(read_secret: bytes, key: bytes) -> bytes:
    return keyed(derive("object id", read_secret), key, 20)


def share_name(object_id: bytes, number: int) -> str:
    text = base32(object_id)
    return f"{text[:2]}/{text}.{number}"


def parse_name(name: str) -> tuple[bytes, int]:
    match = re.fullmatch(r"[a-z2-7]{2}/([a-z2-7]{32})\.([0-9]{1,3})", name)
    if match is None:
        raise Refused("name")
    object_id, number = base64.b32decode(match[1].upper()), int(match[2])
    if number > 255 or share_name(object_id, number) != name:
        raise Refused("name")
    return object_id, number


# Sealing


def place(index: int, last: bool) -> bytes:
    return struct.pack(">QB", index, last)


def open_segment(cipher: Cipher, seal_key: bytes, index: int, last: bool, sealed: bytes) -> bytes:
    nonce, text = sealed[: cipher.nonce], sealed[cipher.nonce :]
    if cipher.name == "none":
        if plain_hash(text) != nonce:
            raise Refused("segment")
        return text
    decrypt = {
        "aegis256": bindings.crypto_aead_aegis256_decrypt,
        "xchacha20poly1305": bindings.crypto_aead_xchacha20poly1305_ietf_decrypt,
    }[cipher.name]
    try:
        return decrypt(text, place(index, last), nonce, seal_key)
    except CryptoError:
        raise Refused("segment") from None


def make_content_id(read_secret: bytes, key: bytes, size: int, nonces: Iterable[bytes]) -> bytes:
    return keyed(content_id_key(read_secret, key), struct.pack(">Q", size) + b"".join(nonces))


def open_name(read_secret: bytes, object_id: bytes, sealed_name: bytes) -> bytes:
    if len(sealed_name) < 24 + 16:
        raise Refused("key name")
    try:
        return bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
            sealed_name[24:], object_id, sealed_name[:24], derive("key name", read_secret)
        )
    except CryptoError:
        raise Refused("key name") from None


# Erasure coding


def _powers() -> list[int]:
    powers = [1]
    while len(powers) < 255:
        double = powers[-1] << 1
        powers.append(double ^ 0x11D if double > 255 else double)
    return powers


POWER = _powers()
LOG = {element: exponent for exponent, element in enumerate(POWER)}


def point(number: int) -> int:
    return POWER[number - 1] if number else 0


@functools.cache
def times(factor: int) -> bytes:
    """What `factor` makes of each byte, for bytes.translate."""
    if factor == 0:
        return bytes(256)
    return bytes([0] + [POWER[(LOG[factor] + LOG[byte]) % 255] for byte in range(1, 256)])


@functools.lru_cache(maxsize=1024)
def weights(known: tuple[int, ...], wanted: int) -> tuple[int, ...]:
    """How much of each known block is in the wanted one: the Lagrange polynomials at its point."""
    at = point(wanted)
    points = [point(number) for number in known]
    if at in points:
        return tuple(int(one == at) for one in points)
    whole = sum(LOG[at ^ one] for one in points)
    result = []
    for one in points:
        below = LOG[at ^ one] + sum(LOG[one ^ other] for other in points if other != one)
        result.append(POWER[(whole - below) % 255])
    return tuple(result)


def interpolate(blocks: Mapping[int, bytes], wanted: int) -> bytes:
    """The wanted block, of exactly `needed` blocks under their numbers."""
    if wanted in blocks:
        return blocks[wanted]
    known = tuple(sorted(blocks))
    total = 0
    for number, weight in zip(known, weights(known, wanted), strict=True):
        total ^= int.from_bytes(blocks[number].translate(times(weight)), "little")
    return total.to_bytes(len(blocks[known[0]]), "little")


def decode(blocks: Mapping[int, bytes], length: int) -> bytes:
    """The sealed segment of `length` bytes, of exactly `needed` blocks under their numbers."""
    return b"".join(interpolate(blocks, number) for number in range(len(blocks)))[:length]


# Layout


@dataclass(frozen=True)
class Layout:
    size: int
    needed: int
    overhead: int

    @property
    def segments(self) -> int:
        return -(-self.size // SEGMENT)

    def is_last(self, index: int) -> bool:
        return index == self.segments - 1

    def sealed_length(self, index: int) -> int:
        plain = self.size - index * SEGMENT if self.is_last(index) else SEGMENT
        return plain + self.overhead

    def block_length(self, index: int) -> int:
        return -(-self.sealed_length(index) // self.needed)

    def block_offset(self, index: int) -> int:
        return index * -(-(SEGMENT + self.overhead) // self.needed)

    @property
    def blocks(self) -> int:
        if self.segments == 0:
            return 0
        return self.block_offset(self.segments - 1) + self.block_length(self.segments - 1)

    @property
    def tail_offset(self) -> int:
        return self.blocks + 32 * self.segments


@dataclass(frozen=True)
class Header:
    raw: bytes
    cipher: Cipher
    needed: int
    size: int
    object_id: bytes
    content_id: bytes
    sealed_name: bytes

    @property
    def layout(self) -> Layout:
        return Layout(self.size, self.needed, self.cipher.overhead)


@dataclass(frozen=True)
class Share:
    """A share that passed every rule but `block`."""

    number: int
    header: Header
    table: bytes
    roots: Mapping[int, bytes]
    signature: bytes
    hashes: Sequence[bytes]
    data: bytes

    def block(self, index: int) -> bytes:
        layout = self.header.layout
        start = layout.block_offset(index)
        block = self.data[start : start + layout.block_length(index)]
        if plain_hash(block) != self.hashes[index]:
            raise Refused("block")
        return block


# Proofs


def make_root(number: int, hashes: Iterable[bytes]) -> bytes:
    return derive("share root", struct.pack(">H", number) + b"".join(hashes))


def make_footer(number: int, tail_length: int) -> bytes:
    return FOOTER.pack(MAGIC, number, tail_length)


# Reading


def _read_header(tail: bytes) -> Header:
    version, cipher, needed, segment, size, object_id, content_id, name_length = HEADER.unpack_from(tail)
    if version != 1:
        raise Refused("version")
    if cipher not in CIPHERS:
        raise Refused("cipher")
    if not 1 <= needed <= 256:
        raise Refused("needed")
    if segment != SEGMENT:
        raise Refused("segment size")
    if size >= 2**63:
        raise Refused("size")
    end = HEADER.size + name_length
    if name_length > LONGEST_NAME or end > len(tail):
        raise Refused("name length")
    return Header(tail[:end], CIPHERS[cipher], needed, size, object_id, content_id, tail[HEADER.size : end])


def _read_table(tail: bytes, start: int) -> tuple[bytes, dict[int, bytes]]:
    if start + 2 > len(tail):
        raise Refused("table")
    (entries,) = struct.unpack_from(">H", tail, start)
    end = start + 2 + ENTRY.size * entries
    if not 1 <= entries <= 256 or end + SIGNATURE + FOOTER.size != len(tail):
        raise Refused("table")
    table = tail[start:end]
    rows: list[tuple[int, bytes]] = list(ENTRY.iter_unpack(table[2:]))
    numbers = [number for number, _ in rows]
    if numbers != sorted(set(numbers)):
        raise Refused("order")
    return table, dict(rows)


def open_share(name: str, data: bytes, verify_key: bytes) -> Share:
    """The share that was read from `name`, with all that does not take the read secret proved."""
    if len(data) < FOOTER.size:
        raise Refused("footer")
    magic, number, tail_length = FOOTER.unpack(data[-FOOTER.size :])
    if magic != MAGIC or number > 255:
        raise Refused("footer")
    if not HEADER.size + FOOTER.size < tail_length <= LONGEST_TAIL:
        raise Refused("footer")
    if tail_length > len(data):
        raise Refused("tail")
    tail = data[-tail_length:]

    header = _read_header(tail)
    table, roots = _read_table(tail, len(header.raw))
    if number not in roots:
        raise Refused("own number")
    layout = header.layout
    if len(data) != layout.tail_offset + tail_length:
        raise Refused("share size")
    if (header.object_id, number) != parse_name(name):
        raise Refused("name")

    signature = tail[-FOOTER.size - SIGNATURE : -FOOTER.size]
    try:
        VerifyKey(verify_key).verify(SIGNED + header.raw + table, signature)
    except BadSignatureError:
        raise Refused("signature") from None
    hashes = [data[start : start + 32] for start in range(layout.blocks, layout.tail_offset, 32)]
    if make_root(number, hashes) != roots[number]:
        raise Refused("hashes")
    return Share(number, header, table, roots, signature, hashes, data)


def proved_blocks(shares: Iterable[Share], index: int) -> dict[int, bytes]:
    """Exactly `needed` proved blocks of a segment, from shares of one group."""
    blocks: dict[int, bytes] = {}
    for share in sorted(shares, key=lambda share: share.number):
        if len(blocks) == share.header.needed:
            break
        try:
            blocks.setdefault(share.number, share.block(index))
        except Refused:
            continue
        if len(blocks) == share.header.needed:
            return blocks
    raise NotEnough(f"segment {index}")


def choose_group(shares: Iterable[Share]) -> list[Share]:
    """One group of the shares, each number once."""
    groups: dict[bytes, dict[int, Share]] = {}
    for share in shares:
        groups.setdefault(share.header.raw, {}).setdefault(share.number, share)

    def preference(raw: bytes) -> tuple[bool, int, bytes]:
        group = groups[raw]
        needed = next(iter(group.values())).header.needed
        return len(group) >= needed, len(group), raw

    return list(groups[max(groups, key=preference)].values()) if groups else []


def read_object(shares: Sequence[Share], read_secret: bytes, key: bytes) -> bytes:
    """The content of the key, from opened shares of its object id."""
    if len({share.header.raw for share in shares}) > 1:
        raise Refused("group")
    if not shares:
        raise NotEnough("no shares")
    header = shares[0].header
    if len({share.number for share in shares}) < header.needed:
        raise NotEnough(f"fewer than {header.needed} shares")
    if open_name(read_secret, make_object_id(read_secret, key), header.sealed_name) != key:
        raise Refused("key name")

    layout = header.layout
    seal_key = segment_seal_key(read_secret, key, header.cipher)
    nonces, plain = [], []
    for index in range(layout.segments):
        sealed = decode(proved_blocks(shares, index), layout.sealed_length(index))
        plain.append(open_segment(header.cipher, seal_key, index, layout.is_last(index), sealed))
        nonces.append(sealed[: header.cipher.nonce])
    if make_content_id(read_secret, key, header.size, nonces) != header.content_id:
        raise Refused("content id")
    return b"".join(plain)


# More shares, and lost ones


def rebuild(shares: Sequence[Share], number: int) -> bytes:
    """A lost share, of shares of its group, without any secret; the first table that has it is taken."""
    donor = next(share for share in shares if number in share.roots)
    blocks = [interpolate(proved_blocks(shares, i), number) for i in range(donor.header.layout.segments)]
    hashes = [plain_hash(block) for block in blocks]
    if make_root(number, hashes) != donor.roots[number]:
        raise Refused("hashes")
    tail = donor.header.raw + donor.table + donor.signature
    return b"".join([*blocks, *hashes, tail, make_footer(number, len(tail) + FOOTER.size)])
