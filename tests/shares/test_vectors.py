"""The frozen vectors of tests/vectors, made by contrib/vectors/make.py and never changed after."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from annex_remote.capability import Capability
from annex_remote.errors import BadSetting
from annex_remote.model import ShareName
from annex_remote.shares import erasure
from annex_remote.shares.crypto import (
    Cipher,
    ObjectKeys,
    derive,
    object_id_of,
    open_key_name,
    seal_key_name,
)
from annex_remote.shares.format import Header, Tail
from annex_remote.shares.layout import SEGMENT_SIZE, Layout
from tests.shares.builder import FULL, Refused, content, prove, read, upload

VECTORS = Path(__file__).parents[1] / "vectors"
MAKE = Path(__file__).parents[2] / "contrib" / "vectors" / "make.py"

WORDS = {
    "footer": "cut short|its end is missing|says that it is number 256|says that its tail",
    "tail": "tail is cut short",
    "version": "format version",
    "cipher": "cipher number",
    "needed": "needed=",
    "segment size": "segments of",
    "size": "an object of",
    "name length": "a key name of",
    "table": "table",
    "order": "out of order or has a number twice",
    "own number": "which its table does not have",
    "share size": "its header says",
}
"""What `Tail.parse` says when a rule of docs/format.md refuses."""


def load(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text("ascii"))
    return document


def key_of(text: str) -> str:
    return bytes.fromhex(text).decode("utf-8", "surrogateescape")


def test_the_script_makes_the_frozen_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    made = runpy.run_path(str(MAKE))
    assert made["main"](["--check"]) == 0
    assert not capsys.readouterr().out
    assert sorted(made["vectors"]()) == sorted(path.name for path in VECTORS.iterdir())
    assert sum(path.stat().st_size for path in VECTORS.iterdir()) < 3 << 20


def test_the_script_changes_no_vector(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = runpy.run_path(str(MAKE))
    main = made["main"]
    main.__globals__["ROOT"] = tmp_path
    main.__globals__["vectors"] = lambda: {"one.json": b"first"}
    assert main(["--check"]) == 1
    assert not (tmp_path / "tests" / "vectors" / "one.json").exists()
    assert main([]) == 0
    assert main(["--check"]) == 0
    main.__globals__["vectors"] = lambda: {"one.json": b"second", "two.json": b"new"}
    capsys.readouterr()
    assert main([]) == 1
    assert "one.json: differs" in capsys.readouterr().out
    assert (tmp_path / "tests" / "vectors" / "one.json").read_bytes() == b"first"
    assert (tmp_path / "tests" / "vectors" / "two.json").read_bytes() == b"new"
    assert main(["--other"]) == 2


def test_capabilities() -> None:
    vectors = load("capabilities")
    for row in vectors["good"]:
        secrets = bytes.fromhex(row["read_secret"] + row["signing_seed"])
        full = Capability.parse(row["full"])
        assert full == Capability("full", secrets)
        assert full.verify_key.hex() == row["verify_key"]
        for kind in ("full", "read", "verify"):
            assert Capability.parse(row[kind]) == full.attenuate(kind)
            assert full.attenuate(kind).format() == row[kind]
    for word in vectors["also_read"]:
        assert Capability.parse(word) == FULL
    for row in vectors["bad"]:
        with pytest.raises(BadSetting):
            Capability.parse(row["word"])


def test_keys() -> None:
    vectors = load("keys")
    secret = bytes.fromhex(vectors["read_secret"])
    assert {purpose: derive(purpose, secret).hex() for purpose in vectors["grid_keys"]} == vectors["grid_keys"]
    for row in vectors["objects"]:
        key = key_of(row["key"])
        assert object_id_of(secret, key) == row["object_id"]
        assert ShareName.parse(row["name_of_share_7"]) == ShareName(row["object_id"], 7)
        sealed = bytes.fromhex(row["sealed_name"])
        assert seal_key_name(secret, key) == sealed
        assert open_key_name(secret, row["object_id"], sealed) == key
        root = bytes.fromhex(row["object_root"])
        assert derive("segment nonce", root).hex() == row["segment_nonce_key"]
        assert derive("content id", root).hex() == row["content_id_key"]
        # The derived keys are those that ObjectKeys works with.
        for setting, seal_key in row["segment_seal_keys"].items():
            keys = ObjectKeys(secret, key, Cipher.from_setting(setting))
            assert keys._seal_key.hex() == seal_key
            assert keys._nonce_key.hex() == row["segment_nonce_key"]
            assert keys._content_key.hex() == row["content_id_key"]


def test_segments() -> None:
    vectors = load("segments")
    for row in vectors["segments"]:
        cipher = Cipher.from_setting(row["cipher"])
        keys = ObjectKeys(bytes.fromhex(vectors["read_secret"]), key_of(vectors["key"]), cipher)
        plaintext, nonce, sealed = (bytes.fromhex(row[name]) for name in ("plaintext", "nonce", "sealed"))
        assert keys.nonce(row["index"], row["last"], plaintext) == nonce
        assert keys.seal(nonce, row["index"], row["last"], plaintext) == sealed
        assert keys.open(nonce, row["index"], row["last"], sealed) == plaintext


def test_coding() -> None:
    vectors = load("coding")
    for matrix in vectors["matrices"]:
        needed = matrix["needed"]
        unit = [bytes(int(i == j) for j in range(needed)) for i in range(needed)]
        rows = erasure.encode(unit, [int(number) for number in matrix["rows"]])
        assert [bytes(row).hex() for row in rows] == list(matrix["rows"].values())
    for row in vectors["encoded"]:
        blocks = {int(number): bytes.fromhex(block) for number, block in row["blocks"].items()}
        needed = row["needed"]
        primaries = [blocks[number] for number in range(needed)]
        assert erasure.encode(primaries, list(blocks)) == list(blocks.values())
        last = dict(list(blocks.items())[-needed:])
        assert erasure.decode(last, needed) == primaries


def test_layouts() -> None:
    for size, needed, cipher, segments, last, end in load("layouts")["layouts"]:
        layout = Layout(size, needed, Cipher.from_setting(cipher).overhead)
        found = (layout.segments, layout.block_offset(max(0, segments - 1)), layout.data_length)
        assert found == (segments, last, end)


UPLOADS = load("uploads")


@pytest.mark.parametrize(
    "row",
    UPLOADS["uploads"],
    ids=lambda row: f"{row['cipher']}-{row['needed']}of{len(row['numbers'])}-{row['size']}",
)
def test_uploads(row: dict[str, Any]) -> None:
    capability = Capability("full", bytes.fromhex(UPLOADS["read_secret"] + UPLOADS["signing_seed"]))
    key = key_of(UPLOADS["key"])
    plaintext = content(row["size"])
    numbers = row["numbers"]
    made = upload(
        plaintext,
        row["needed"],
        numbers,
        Cipher.from_setting(row["cipher"]),
        capability=capability,
        annex_key=key,
    )
    packed = bytes.fromhex(row["header"])
    assert made.header.pack() == packed
    assert Header.parse(packed) == (made.header, len(packed))
    assert made.signature.hex() == row["signature"]
    assert {len(share) for share in made.shares.values()} == {row["share_size"]}
    if "roots_blake3" in row:
        assert blake3(b"".join(made.roots.values())).hexdigest() == row["roots_blake3"]
    if isinstance(row["shares_blake3"], str):
        assert blake3(b"".join(made.shares.values())).hexdigest() == row["shares_blake3"]
    else:
        hashes = {str(number): blake3(share).hexdigest() for number, share in made.shares.items()}
        assert hashes == row["shares_blake3"]
    if "shares" in row:
        assert {str(n): share.hex() for n, share in made.shares.items()} == row["shares"]
    last = numbers[-row["needed"] :]
    assert read({made.name(number): made.shares[number] for number in last}, capability, key) == plaintext


def test_a_large_object_is_read_from_its_frozen_shares() -> None:
    size = SEGMENT_SIZE + 1
    found = {}
    for number in (1, 2):
        share = (VECTORS / f"{size}-of-2.{number}.share").read_bytes()
        found[ShareName(Tail.parse(share, len(share)).header.object_id, number)] = share
    assert read(found, FULL.attenuate("read")) == content(size)


@pytest.mark.parametrize("row", load("damaged")["shares"], ids=lambda row: row["why"].replace(" ", "-"))
def test_damaged(row: dict[str, Any]) -> None:
    name = ShareName.parse(row["name"])
    share = bytes.fromhex(row["share"])
    if row["rule"] == "block":
        assert prove(name, share, FULL.verify_key).blocks == [None]
        return
    with pytest.raises(Refused) as caught:
        prove(name, share, FULL.verify_key)
    if row["rule"] in WORDS:
        assert caught.value.step == "parse"
        with pytest.raises(Refused, match=WORDS[row["rule"]]):
            prove(name, share, FULL.verify_key)
    else:
        assert caught.value.step == row["rule"]


@pytest.mark.parametrize("row", load("unreadable")["sets"], ids=lambda row: row["why"].replace(" ", "-"))
def test_unreadable(row: dict[str, Any]) -> None:
    shares = {ShareName.parse(name): bytes.fromhex(share) for name, share in row["shares"].items()}
    for name, share in shares.items():
        assert None not in prove(name, share, FULL.verify_key).blocks
    with pytest.raises(Refused) as caught:
        read(shares, FULL.attenuate("read"))
    assert caught.value.step == row["rule"]
