"""The second reader against the frozen vectors, and against what the package stores."""

from __future__ import annotations

import itertools
import json
import os
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from nacl import bindings
from nacl.signing import SigningKey

from annex_remote.capability import Capability
from annex_remote.model import Coding
from annex_remote.shares.crypto import Cipher, ObjectKeys
from annex_remote.stores.directory import DirectoryStore
from annex_remote.transfer.sites import Notes, Site
from annex_remote.transfer.upload import Upload
from tests.independent import decoder
from tests.independent.decoder import NotEnough, Refused, Share

VECTORS = Path(__file__).parent.parent / "vectors"
SIZES = (0, 1, 1000, 1048575, 1048576, 1048577, 2621440)


def load(name: str) -> Any:
    return json.loads((VECTORS / name).read_bytes())


CAPABILITIES = load("capabilities.json")
KEYS = load("keys.json")
SEGMENTS = load("segments.json")
CODING = load("coding.json")
LAYOUTS = load("layouts.json")
UPLOADS = load("uploads.json")
DAMAGED = load("damaged.json")
UNREADABLE = load("unreadable.json")

READ_SECRET = bytes.fromhex(UPLOADS["read_secret"])
SEED = bytes.fromhex(UPLOADS["signing_seed"])
VERIFY_KEY = bytes(SigningKey(SEED).verify_key)
KEY = bytes.fromhex(UPLOADS["key"])
OBJECT_ID = decoder.make_object_id(READ_SECRET, KEY)
CIPHERS = {cipher.name: cipher for cipher in decoder.CIPHERS.values()}


def content(size: int) -> bytes:
    return blake3(b"git-annex-remote-swarm test vector").digest(length=size)


# A writer, from the same document


def seal_segment(cipher: decoder.Cipher, key: bytes, index: int, last: bool, plain: bytes) -> bytes:
    if cipher.name == "none":
        return decoder.plain_hash(plain) + plain
    place = decoder.place(index, last)
    nonce = decoder.keyed(decoder.segment_nonce_key(READ_SECRET, key), place + plain, cipher.nonce)
    encrypt = {
        "aegis256": bindings.crypto_aead_aegis256_encrypt,
        "xchacha20poly1305": bindings.crypto_aead_xchacha20poly1305_ietf_encrypt,
    }[cipher.name]
    return nonce + encrypt(plain, place, nonce, decoder.segment_seal_key(READ_SECRET, key, cipher))


def seal_name(key: bytes) -> bytes:
    nonce = decoder.keyed(decoder.derive("key name nonce", READ_SECRET), key, 24)
    object_id = decoder.make_object_id(READ_SECRET, key)
    seal = bindings.crypto_aead_xchacha20poly1305_ietf_encrypt
    return nonce + seal(key, object_id, nonce, decoder.derive("key name", READ_SECRET))


def make_tail(header: bytes, roots: Mapping[int, bytes], number: int, seed: bytes = SEED) -> bytes:
    rows = [bytes([entry]) + roots[entry] for entry in sorted(roots)]
    table = struct.pack(">H", len(rows)) + b"".join(rows)
    signature = SigningKey(seed).sign(b"git-annex-remote-swarm v1 share\n" + header + table).signature
    front = header + table + signature
    return front + decoder.make_footer(number, len(front) + 16)


def make_upload(plain: bytes, needed: int, numbers: Sequence[int], cipher: decoder.Cipher) -> dict[int, bytes]:
    """Whole shares of the vectors' key by number."""
    layout = decoder.Layout(len(plain), needed, cipher.overhead)
    blocks: dict[int, list[bytes]] = {number: [] for number in numbers}
    nonces = []
    for index in range(layout.segments):
        segment = plain[index * decoder.SEGMENT : (index + 1) * decoder.SEGMENT]
        sealed = seal_segment(cipher, KEY, index, layout.is_last(index), segment)
        nonces.append(sealed[: cipher.nonce])
        length = layout.block_length(index)
        padded = sealed.ljust(needed * length, b"\0")
        primary = {piece: padded[piece * length : (piece + 1) * length] for piece in range(needed)}
        for number in numbers:
            blocks[number].append(decoder.interpolate(primary, number))

    content_id = decoder.make_content_id(READ_SECRET, KEY, len(plain), nonces)
    name = seal_name(KEY)
    header = struct.pack(
        ">BBHIQ20s32sH", 1, cipher.number, needed, 1048576, len(plain), OBJECT_ID, content_id, len(name)
    )
    hashes = {number: [decoder.plain_hash(block) for block in blocks[number]] for number in numbers}
    roots = {number: decoder.make_root(number, hashes[number]) for number in numbers}
    header += name
    return {
        number: b"".join([*blocks[number], *hashes[number], make_tail(header, roots, number)])
        for number in numbers
    }


def opened(shares: Mapping[int, bytes]) -> list[Share]:
    return [
        decoder.open_share(decoder.share_name(OBJECT_ID, number), data, VERIFY_KEY)
        for number, data in shares.items()
    ]


def refusal(name: str, data: bytes) -> str:
    """The rule that refuses the share or its first block; empty if none does."""
    try:
        decoder.open_share(name, data, VERIFY_KEY).block(0)
    except Refused as refused:
        return refused.rule
    return ""


def why(vector: dict[str, Any]) -> str:
    return f"{vector.get('rule', '')} {vector['why']}"


# The vectors


@pytest.mark.parametrize("vector", CAPABILITIES["good"])
def test_capability_is_read(vector: dict[str, str]) -> None:
    read_secret, seed, verify_key = (
        bytes.fromhex(vector[name]) for name in ("read_secret", "signing_seed", "verify_key")
    )
    assert decoder.parse_capability(vector["full"]) == decoder.Capability("full", verify_key, read_secret, seed)
    assert decoder.parse_capability(vector["read"]) == decoder.Capability("read", verify_key, read_secret)
    assert decoder.parse_capability(vector["verify"]) == decoder.Capability("verify", verify_key)
    assert decoder.print_capability("full", read_secret + seed) == vector["full"]
    assert decoder.print_capability("read", read_secret + verify_key) == vector["read"]
    assert decoder.print_capability("verify", verify_key) == vector["verify"]


@pytest.mark.parametrize("word", CAPABILITIES["also_read"])
def test_capability_in_another_dress_is_read(word: str) -> None:
    assert decoder.parse_capability(word) == decoder.parse_capability(CAPABILITIES["good"][0]["full"])


@pytest.mark.parametrize("vector", CAPABILITIES["bad"], ids=why)
def test_bad_capability_is_refused(vector: dict[str, str]) -> None:
    with pytest.raises(Refused):
        decoder.parse_capability(vector["word"])


def test_keys_of_a_grid() -> None:
    read_secret = bytes.fromhex(KEYS["read_secret"])
    assert {purpose: decoder.derive(purpose, read_secret).hex() for purpose in KEYS["grid_keys"]} == KEYS[
        "grid_keys"
    ]


@pytest.mark.parametrize("vector", KEYS["objects"])
def test_keys_of_an_object(vector: dict[str, Any]) -> None:
    read_secret, key = bytes.fromhex(KEYS["read_secret"]), bytes.fromhex(vector["key"])
    object_id = decoder.make_object_id(read_secret, key)
    assert decoder.base32(object_id) == vector["object_id"]
    assert decoder.share_name(object_id, 7) == vector["name_of_share_7"]
    assert decoder.parse_name(vector["name_of_share_7"]) == (object_id, 7)
    assert decoder.object_root(read_secret, key).hex() == vector["object_root"]
    assert decoder.segment_nonce_key(read_secret, key).hex() == vector["segment_nonce_key"]
    assert decoder.content_id_key(read_secret, key).hex() == vector["content_id_key"]
    for name, expected in vector["segment_seal_keys"].items():
        assert decoder.segment_seal_key(read_secret, key, CIPHERS[name]).hex() == expected
    sealed_name = bytes.fromhex(vector["sealed_name"])
    assert decoder.open_name(read_secret, object_id, sealed_name) == key
    assert read_secret == READ_SECRET
    assert seal_name(key) == sealed_name


@pytest.mark.parametrize("vector", SEGMENTS["segments"])
def test_segment(vector: dict[str, Any]) -> None:
    assert bytes.fromhex(SEGMENTS["read_secret"]) == READ_SECRET
    key = bytes.fromhex(SEGMENTS["key"])
    cipher, index, last = CIPHERS[vector["cipher"]], vector["index"], vector["last"]
    plain = bytes.fromhex(vector["plaintext"])
    sealed = bytes.fromhex(vector["nonce"] + vector["sealed"])
    seal_key = decoder.segment_seal_key(READ_SECRET, key, cipher)
    assert decoder.open_segment(cipher, seal_key, index, last, sealed) == plain
    assert seal_segment(cipher, key, index, last, plain) == sealed
    if cipher.name != "none":
        for another, ending in ((index + 1, last), (index, not last)):
            with pytest.raises(Refused):
                decoder.open_segment(cipher, seal_key, another, ending, sealed)


@pytest.mark.parametrize("vector", CODING["matrices"], ids=lambda vector: str(vector["needed"]))
def test_matrix(vector: dict[str, Any]) -> None:
    primary = tuple(range(vector["needed"]))
    for number, row in vector["rows"].items():
        assert bytes(decoder.weights(primary, int(number))).hex() == row


@pytest.mark.parametrize("vector", CODING["encoded"], ids=lambda vector: str(vector["needed"]))
def test_blocks(vector: dict[str, Any]) -> None:
    blocks = {int(number): bytes.fromhex(block) for number, block in vector["blocks"].items()}
    primary = b"".join(blocks[number] for number in range(vector["needed"]))
    for some in itertools.combinations(blocks, vector["needed"]):
        known = {number: blocks[number] for number in some}
        assert decoder.decode(known, len(primary)) == primary
        assert {number: decoder.interpolate(known, number) for number in blocks} == blocks


def test_layouts() -> None:
    for size, needed, cipher, segments, last_offset, blocks in LAYOUTS["layouts"]:
        layout = decoder.Layout(size, needed, CIPHERS[cipher].overhead)
        assert layout.segments == segments
        assert (layout.block_offset(segments - 1) if segments else 0) == last_offset
        assert layout.blocks == blocks


@pytest.mark.parametrize(
    "vector",
    UPLOADS["uploads"],
    ids=lambda vector: f"{vector['cipher']}-{vector['needed']}-{len(vector['numbers'])}-{vector['size']}",
)
def test_upload(vector: dict[str, Any]) -> None:
    plain, needed, numbers = content(vector["size"]), vector["needed"], vector["numbers"]
    made = make_upload(plain, needed, numbers, CIPHERS[vector["cipher"]])
    shares = opened(made)

    assert {share.header.raw.hex() for share in shares} == {vector["header"]}
    assert {share.signature.hex() for share in shares} == {vector["signature"]}
    assert {len(data) for data in made.values()} == {vector["share_size"]}
    if isinstance(vector["shares_blake3"], str):
        assert decoder.plain_hash(b"".join(made.values())).hex() == vector["shares_blake3"]
    else:
        hashes = {str(number): decoder.plain_hash(data).hex() for number, data in made.items()}
        assert hashes == vector["shares_blake3"]
    if "roots_blake3" in vector:
        roots = b"".join(share.roots[share.number] for share in shares)
        assert decoder.plain_hash(roots).hex() == vector["roots_blake3"]
    if "shares" in vector:
        assert {str(number): data.hex() for number, data in made.items()} == vector["shares"]

    few = range(0, len(shares) - needed + 1, max(1, len(shares) - needed))
    for first in few:
        assert decoder.read_object(shares[first : first + needed], READ_SECRET, KEY) == plain
    if len(shares) > needed:
        assert decoder.rebuild(shares[1:], numbers[0]) == made[numbers[0]]
        assert decoder.rebuild(shares[:-1], numbers[-1]) == made[numbers[-1]]
    if needed > 1:
        with pytest.raises(NotEnough):
            decoder.read_object(shares[: needed - 1], READ_SECRET, KEY)


def test_share_files() -> None:
    shares = opened({number: (VECTORS / f"1048577-of-2.{number}.share").read_bytes() for number in (1, 2)})
    assert decoder.read_object(shares, READ_SECRET, KEY) == content(1048577)
    assert decoder.rebuild(shares, 0) == make_upload(content(1048577), 2, (0, 1, 2), CIPHERS["aegis256"])[0]


@pytest.mark.parametrize("vector", DAMAGED["shares"], ids=why)
def test_damaged_share_is_refused(vector: dict[str, str]) -> None:
    assert bytes.fromhex(DAMAGED["verify_key"]) == VERIFY_KEY
    assert refusal(vector["name"], bytes.fromhex(vector["share"])) == vector["rule"]


@pytest.mark.parametrize("vector", UNREADABLE["sets"], ids=why)
def test_unreadable_shares_are_refused(vector: dict[str, Any]) -> None:
    assert bytes.fromhex(UNREADABLE["verify_key"]) == VERIFY_KEY
    shares = [decoder.open_share(name, bytes.fromhex(data), VERIFY_KEY) for name, data in vector["shares"].items()]
    for share in shares:
        for index in range(share.header.layout.segments):
            share.block(index)
    with pytest.raises(Refused) as caught:
        decoder.read_object(shares, bytes.fromhex(UNREADABLE["read_secret"]), bytes.fromhex(UNREADABLE["key"]))
    assert caught.value.rule == vector["rule"]


# What the document says beyond the vectors


@pytest.mark.parametrize("size", [0, 1])
def test_every_byte_and_every_length_is_proved(size: int) -> None:
    name = decoder.share_name(OBJECT_ID, 1)
    share = make_upload(content(size), 2, (0, 1, 2), CIPHERS["aegis256"])[1]
    decoder.open_share(name, share, VERIFY_KEY)
    for at in range(len(share)):
        damaged = bytearray(share)
        damaged[at] ^= 1 << at % 8
        assert refusal(name, bytes(damaged)) != ""
        assert refusal(name, share[:at]) != ""
        assert refusal(name, share[at + 1 :]) != ""


def test_a_damaged_block_costs_one_block() -> None:
    plain = content(2621440)
    made = make_upload(plain, 2, (0, 1, 2), CIPHERS["aegis256"])
    length = decoder.Layout(len(plain), 2, 64).block_offset(1)
    damaged = {
        number: data[: number * length] + bytes([data[number * length] ^ 1]) + data[number * length + 1 :]
        for number, data in made.items()
    }
    shares = opened(damaged)
    assert decoder.read_object(shares, READ_SECRET, KEY) == plain
    with pytest.raises(NotEnough):
        decoder.read_object(shares[:2], READ_SECRET, KEY)


def test_groups() -> None:
    cipher = CIPHERS["xchacha20poly1305"]
    ones = opened(make_upload(b"one", 2, (0, 1, 2), cipher))
    others = opened(make_upload(b"other", 2, (0, 1, 2), cipher))
    threes = opened(make_upload(b"one", 3, (0, 1, 2, 3), cipher))
    greater = max(ones, others, key=lambda group: group[0].header.raw)
    assert decoder.choose_group([]) == []
    assert decoder.choose_group([*ones, *threes]) == threes
    assert decoder.choose_group([*threes[:3], *ones[:2]]) == threes[:3]
    assert decoder.choose_group([*threes[:2], *ones[:2]]) == ones[:2]
    assert decoder.choose_group([*ones, *others]) == greater
    assert decoder.choose_group([*others[:1] * 2, *ones[:2]]) == ones[:2]
    with pytest.raises(Refused, match="group"):
        decoder.read_object([*ones, *others], READ_SECRET, KEY)
    assert decoder.read_object(decoder.choose_group([*ones, *others[:2]]), READ_SECRET, KEY) == b"one"


def test_a_share_with_a_new_number() -> None:
    plain = content(1048577)
    old = make_upload(plain, 3, (0, 1, 5), CIPHERS["none"])
    new = make_upload(plain, 3, (0, 1, 5, 90), CIPHERS["none"])
    shares = opened({0: old[0], 5: old[5], 90: new[90]})
    assert decoder.choose_group(shares) == shares
    assert decoder.read_object(shares, READ_SECRET, KEY) == plain
    assert decoder.rebuild(shares, 1) == old[1]
    assert decoder.rebuild(shares[::-1], 1) == new[1]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "sb/sb6jzwb5c7m7dbnu43gy3nmv7aphoqgv",
        "sb/sb6jzwb5c7m7dbnu43gy3nmv7aphoqgv.",
        "sb/sb6jzwb5c7m7dbnu43gy3nmv7aphoqgv.07",
        "sb/sb6jzwb5c7m7dbnu43gy3nmv7aphoqgv.256",
        "sb/sb6jzwb5c7m7dbnu43gy3nmv7aphoqgv.7\n",
        "sb/sb6jzwb5c7m7dbnu43gy3nmv7aphoqgv.\u0667",
        "sb/SB6JZWB5C7M7DBNU43GY3NMV7APHOQGV.7",
        "sc/sb6jzwb5c7m7dbnu43gy3nmv7aphoqgv.7",
        "sb6jzwb5c7m7dbnu43gy3nmv7aphoqgv.7",
    ],
)
def test_a_name_not_as_written_is_refused(name: str) -> None:
    with pytest.raises(Refused, match="name"):
        decoder.parse_name(name)


# What the package stores


def stored(directory: Path, numbers: Sequence[int]) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the shares in the stores' directories."""
    for number in numbers:
        for path in sorted((directory / str(number)).rglob(f"*.{number}")):
            yield path.relative_to(directory / str(number)).as_posix(), path.read_bytes()


def store(directory: Path, plain: bytes, key: str, capability: Capability, coding: Coding, **how: Any) -> None:
    """Have the package upload the content to one directory for each number."""
    (directory / "content").write_bytes(plain)
    sites = []
    for number in how["numbers"]:
        (directory / str(number)).mkdir(exist_ok=True)
        sites.append(Site(number, f"store {number}", DirectoryStore(str(directory / str(number)))))
    read_secret = decoder.parse_capability(capability.format()).read_secret
    assert read_secret is not None
    Upload(
        annex_key=key,
        path=str(directory / "content"),
        keys=ObjectKeys(read_secret, key, how["cipher"]),
        capability=capability,
        coding=coding,
        sites=sites,
        stall=30.0,
        notes=Notes(),
        progress=lambda done: None,
        cancelled=threading.Event(),
    ).run()


def choices(shares: Sequence[Share], needed: int) -> list[tuple[Share, ...]]:
    """All choices of `needed` shares of a small object, and three of a large one."""
    every = list(itertools.combinations(shares, needed))
    return every if shares[0].header.size <= 1000 else [every[0], every[len(every) // 2], every[-1]]


@pytest.mark.parametrize("cipher", list(Cipher), ids=lambda cipher: cipher.name.lower())
@pytest.mark.parametrize(
    ("needed", "numbers"),
    [
        (1, [0]),
        (1, [0, 1, 2]),
        (2, [0, 1, 2]),
        (3, [0, 1, 2, 3, 4]),
        (4, [0, 1, 2, 3, 4, 5]),
        (4, [2, 3, 7, 31, 254]),
        (5, [0, 1, 2, 3, 4]),
    ],
    ids=str,
)
def test_what_the_package_stores_is_read(
    tmp_path: Path, cipher: Cipher, needed: int, numbers: Sequence[int]
) -> None:
    package = Capability.generate()
    capability = decoder.parse_capability(package.format())
    assert capability.read_secret is not None
    coding = Coding(needed, len(numbers), len(numbers))
    for size in SIZES:
        plain = os.urandom(size)
        key = f"SHA256E-s{size}--{size}.txt"
        directory = tmp_path / str(size)
        directory.mkdir()
        store(directory, plain, key, package, coding, cipher=cipher, numbers=numbers)

        object_id = decoder.make_object_id(capability.read_secret, key.encode())
        found = dict(stored(directory, numbers))
        assert list(found) == [decoder.share_name(object_id, number) for number in numbers]
        shares = [decoder.open_share(name, data, capability.verify_key) for name, data in found.items()]
        header = shares[0].header
        assert (header.size, header.needed, header.cipher.number) == (size, needed, cipher.value)
        for some in choices(shares, needed):
            assert decoder.read_object(some, capability.read_secret, key.encode()) == plain
        for lost in shares[: 1 if len(numbers) > needed else 0]:
            assert decoder.rebuild(shares[1:], lost.number) == lost.data


@pytest.mark.parametrize(
    "key", [b"WORM-s4-m1--caf\xe9 \xff", b"URL--" + b"x" * 4051], ids=["not UTF-8", "the longest"]
)
def test_an_unusual_key_is_stored(tmp_path: Path, key: bytes) -> None:
    package = Capability.generate()
    capability = decoder.parse_capability(package.format())
    assert capability.read_secret is not None
    text = key.decode("utf-8", "surrogateescape")
    store(tmp_path, b"four", text, package, Coding(1, 1, 1), cipher=Cipher.AEGIS256, numbers=[0])
    [(name, data)] = stored(tmp_path, [0])
    object_id = decoder.make_object_id(capability.read_secret, key)
    assert name == decoder.share_name(object_id, 0)
    share = decoder.open_share(name, data, capability.verify_key)
    assert decoder.open_name(capability.read_secret, object_id, share.header.sealed_name) == key
    assert decoder.read_object([share], capability.read_secret, key) == b"four"
