"""Whole shares in memory: an uploader and a strict reader without stores, for tests and for the vectors.

The reader follows docs/format.md rule by rule, so that a refusal says which step refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from blake3 import blake3

from annex_remote.capability import Capability
from annex_remote.errors import Damaged
from annex_remote.model import ShareName
from annex_remote.shares.codec import SegmentCodec
from annex_remote.shares.crypto import Cipher, ObjectKeys, object_id_of, open_key_name, seal_key_name
from annex_remote.shares.format import Header, Tail, block_hash, share_root, sign
from annex_remote.shares.layout import HASH_SIZE, SEGMENT_SIZE, Layout

FULL = Capability("full", bytes(range(64)))
KEY = "SHA256E-s3--ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad.txt"


class Refused(Exception):
    """A share was refused: `step` is the step of docs/format.md that refused it."""

    def __init__(self, step: str, why: str) -> None:
        super().__init__(f"{step}: {why}")
        self.step = step
        self.why = why


@dataclass(frozen=True)
class Upload:
    header: Header
    roots: dict[int, bytes]
    signature: bytes
    shares: dict[int, bytes]

    def name(self, number: int) -> ShareName:
        return ShareName(self.header.object_id, number)


@lru_cache(maxsize=8)
def content(size: int) -> bytes:
    """Return the content that all vectors use: BLAKE3's extendable output over a fixed label."""
    return blake3(b"git-annex-remote-swarm test vector").digest(size)


def upload(
    plaintext: bytes,
    needed: int,
    numbers: Sequence[int],
    cipher: Cipher = Cipher.AEGIS256,
    *,
    capability: Capability = FULL,
    annex_key: str = KEY,
) -> Upload:
    """Return all shares of `plaintext` with `numbers`, made in one pass as an uploader makes them."""
    keys = ObjectKeys(capability.read_secret, annex_key, cipher)
    layout = Layout(len(plaintext), needed, cipher.overhead)
    codec = SegmentCodec(keys, layout)
    hasher = keys.content_hasher(len(plaintext))
    data: dict[int, list[bytes]] = {number: [] for number in numbers}
    for index in range(layout.segments):
        at = index * SEGMENT_SIZE
        nonce, blocks = codec.encode(index, plaintext[at : at + SEGMENT_SIZE], numbers)
        hasher.update(nonce)
        for number, block in zip(numbers, blocks, strict=True):
            data[number].append(bytes(block))
    hashes = {number: b"".join(map(block_hash, blocks)) for number, blocks in data.items()}
    header = Header(
        cipher,
        needed,
        len(plaintext),
        keys.object_id,
        hasher.digest(),
        seal_key_name(capability.read_secret, annex_key),
    )
    roots = {number: share_root(number, hashes[number]) for number in numbers}
    signature = sign(header, roots, capability.signing_seed)
    shares = {
        number: b"".join((*data[number], hashes[number], Tail(header, roots, signature, number).pack()))
        for number in numbers
    }
    return Upload(header, roots, signature, shares)


@dataclass(frozen=True)
class Proved:
    """A share of which everything is proved; `blocks` has None where a block does not match its hash."""

    tail: Tail
    blocks: list[bytes | None]


def prove(name: ShareName, share: bytes, verify_key: bytes) -> Proved:
    """Check all that the verify key can check of a share; raises `Refused`."""
    try:
        tail = Tail.parse(share, len(share))
    except Damaged as error:
        raise Refused("parse", str(error)) from error
    if (tail.header.object_id, tail.number) != (name.object_id, name.number):
        raise Refused("name", "the share is not the one that its name says")
    try:
        tail.verify(verify_key)
    except Damaged as error:
        raise Refused("signature", str(error)) from error
    layout = tail.header.layout
    hashes = share[layout.data_length : layout.data_length + layout.hashes_length]
    try:
        tail.check_hashes(hashes)
    except Damaged as error:
        raise Refused("hashes", str(error)) from error
    blocks: list[bytes | None] = []
    for index in range(layout.segments):
        at = layout.block_offset(index)
        block = share[at : at + layout.block_length(index)]
        proof = hashes[index * HASH_SIZE : (index + 1) * HASH_SIZE]
        blocks.append(block if block_hash(block) == proof else None)
    return Proved(tail, blocks)


def read(shares: Mapping[ShareName, bytes], capability: Capability, annex_key: str = KEY) -> bytes:
    """Return the content from shares of one upload; raises `Refused` for the first thing that is wrong."""
    proved = [prove(name, share, capability.verify_key) for name, share in shares.items()]
    header = proved[0].tail.header
    if any(share.tail.header != header for share in proved):
        raise Refused("group", "the shares are not of one upload")
    if header.object_id != object_id_of(capability.read_secret, annex_key):
        raise Refused("name", "the shares are not of this key")
    try:
        if open_key_name(capability.read_secret, header.object_id, header.sealed_name) != annex_key:
            raise Refused("key name", "the header has the name of another key")
    except Damaged as error:
        raise Refused("key name", str(error)) from error
    keys = ObjectKeys(capability.read_secret, annex_key, header.cipher)
    codec = SegmentCodec(keys, header.layout)
    hasher = keys.content_hasher(header.size)
    pieces = []
    for index in range(header.layout.segments):
        good = {share.tail.number: block for share in proved if (block := share.blocks[index]) is not None}
        if len(good) < header.needed:
            raise Refused("block", f"{len(good)} good blocks of segment {index}, {header.needed} are needed")
        try:
            nonce, plaintext = codec.decode(index, good)
        except Damaged as error:
            raise Refused("segment", str(error)) from error
        hasher.update(nonce)
        pieces.append(plaintext)
    if hasher.digest() != header.content_id:
        raise Refused("content id", "the segments are not those that the header was made for")
    return b"".join(pieces)
