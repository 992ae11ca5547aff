"""Write the golden vectors of share format version 1 into tests/vectors.

    python contrib/vectors/make.py            write what is missing; refuse to change what is there
    python contrib/vectors/make.py --check    write nothing; fail if anything is missing or different

Vectors are frozen: a published vector is never changed. A new format version gets new files.
Exit status 1 when a file differs (or, with --check, is missing).
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from blake3 import blake3  # noqa: E402

from annex_remote.capability import Capability  # noqa: E402
from annex_remote.model import ShareName  # noqa: E402
from annex_remote.shares import erasure  # noqa: E402
from annex_remote.shares.crypto import (  # noqa: E402
    Cipher,
    ObjectKeys,
    derive,
    object_id_of,
    seal_key_name,
)
from annex_remote.shares.format import Header, Tail, block_hash, share_root, sign  # noqa: E402
from annex_remote.shares.layout import SEGMENT_SIZE, Layout  # noqa: E402
from tests.shares.builder import FULL, KEY, Upload, content, upload  # noqa: E402

Json = dict[str, Any]
FORMULA = "BLAKE3 of the ASCII text 'git-annex-remote-swarm test vector', extended to `size` bytes"


def capabilities() -> Json:
    fulls = [FULL, Capability("full", bytes(64)), Capability("full", b"\xff" * 64)]
    good = [
        {
            "read_secret": full.read_secret.hex(),
            "signing_seed": full.signing_seed.hex(),
            "verify_key": full.verify_key.hex(),
            **{kind: full.attenuate(kind).format() for kind in ("full", "read", "verify")},
        }
        for full in fulls
    ]
    word, verify = FULL.format(), FULL.attenuate("verify").format()
    bad = {
        "empty": "",
        "no mark": word.removeprefix("swarm-"),
        "another mark": "swarn" + word[5:],
        "no kind": word.replace("full-", ""),
        "unknown kind": word.replace("full", "half"),
        "kind of another capability": word.replace("full", "read"),
        "no secrets": "swarm-full-",
        "first character changed": word[:11] + "b" + word[12:],
        "last character changed": word[:-1] + ("a" if word[-1] != "a" else "i"),
        "unused bits of the last character set": verify[:-1] + chr(ord(verify[-1]) + 1),
        "a character not of base32": word[:20] + "1" + word[21:],
        "a character missing": word[:40] + word[41:],
        "a character too many": word + "a",
        "two characters swapped": word[:52] + word[53] + word[52] + word[54:],
        "padding written": word + "=",
        "a blank inside": word[:30] + " " + word[30:],
        "two words": f"{verify} {verify}",
    }
    return {
        "about": "good: secrets and their printed capabilities; bad: words that are refused",
        "good": good,
        "also_read": [f"  {word}\n", word.upper()],
        "bad": [{"why": why, "word": text} for why, text in bad.items()],
    }


NAMES = [
    KEY.encode(),
    b"WORM-s5-m1700000000--a file with spaces",
    b"URL--http&c%%example.com%x",
    "SHA1--4e1243bd22c66e76c2ba9eddc1f91394e57f9f83.ä".encode(),
    b"WORM-s1-m1--not utf-8 \xff\xfe",
]


def keys() -> Json:
    """Everything that is derived from a read secret and the name of a key."""
    secret = FULL.read_secret
    grid = ("object id", "object key", "key name", "key name nonce")
    rows = []
    for name in NAMES:
        key = name.decode("utf-8", "surrogateescape")
        root = blake3(name, key=derive("object key", secret)).digest()
        seals = {cipher.setting: derive(f"segment seal {cipher.setting}", root).hex() for cipher in Cipher}
        object_id = object_id_of(secret, key)
        rows.append(
            {
                "key": name.hex(),
                "object_id": object_id,
                "name_of_share_7": str(ShareName(object_id, 7)),
                "object_root": root.hex(),
                "segment_nonce_key": derive("segment nonce", root).hex(),
                "segment_seal_keys": {which: seals[which] for which in ("aegis256", "xchacha20poly1305")},
                "content_id_key": derive("content id", root).hex(),
                "sealed_name": seal_key_name(secret, key).hex(),
            }
        )
    return {
        "about": "keys of the grid with this read secret, and of objects; `key` is the key's bytes in hex",
        "read_secret": secret.hex(),
        "grid_keys": {purpose: derive(purpose, secret).hex() for purpose in grid},
        "objects": rows,
    }


def segments() -> Json:
    rows = []
    for cipher in Cipher:
        sealing = ObjectKeys(FULL.read_secret, KEY, cipher)
        for index, last, size in [(0, True, 1), (0, False, 100), (1, True, 100), (2**40, False, 3)]:
            plaintext = content(size)
            nonce = sealing.nonce(index, last, plaintext)
            rows.append(
                {
                    "cipher": cipher.setting,
                    "index": index,
                    "last": last,
                    "plaintext": plaintext.hex(),
                    "nonce": nonce.hex(),
                    "sealed": sealing.seal(nonce, index, last, plaintext).hex(),
                }
            )
    return {
        "about": "single sealed segments; `sealed` is ciphertext and tag",
        "read_secret": FULL.read_secret.hex(),
        "key": KEY.encode().hex(),
        "segments": rows,
    }


def coding() -> Json:
    matrices = []
    for needed in (1, 2, 3, 4, 7, 16, 128, 255, 256):
        unit = [bytes(int(i == j) for j in range(needed)) for i in range(needed)]
        numbers = sorted({0, needed - 1, *range(needed, min(needed + 4, 256)), 200, 255})
        rows = erasure.encode(unit, numbers)
        matrices.append(
            {
                "needed": needed,
                "rows": {str(number): bytes(row).hex() for number, row in zip(numbers, rows, strict=True)},
            }
        )
    encoded = []
    for needed, length in ((1, 5), (2, 8), (3, 1), (4, 40)):
        whole = content(needed * length)
        primaries = [whole[at : at + length] for at in range(0, len(whole), length)]
        numbers = [*range(needed + 2), 100, 255]
        blocks = erasure.encode(primaries, numbers)
        encoded.append(
            {
                "needed": needed,
                "blocks": {str(number): bytes(block).hex() for number, block in zip(numbers, blocks, strict=True)},
            }
        )
    return {
        "about": "rows of the coding matrix (one byte for each primary block), and blocks of small segments",
        "matrices": matrices,
        "encoded": encoded,
    }


SIZES = (0, 1, 1000, SEGMENT_SIZE - 1, SEGMENT_SIZE, SEGMENT_SIZE + 1, 5 * SEGMENT_SIZE // 2)
CODES: tuple[tuple[int, tuple[int, ...]], ...] = (
    (1, (0,)),
    (1, (0, 1, 200)),
    (2, (0, 1, 2)),
    (3, (0, 1, 2)),
    (3, (0, 1, 2, 3, 200, 255)),
    (4, (0, 1, 2, 3, 4, 5)),
    (4, (2, 3, 7, 31, 254)),
    (16, (*range(16), 16, 17, 200)),
)
WHOLE = 1000
"""Objects of at most so many bytes have their shares written out, if there are few of them."""


def uploads() -> list[tuple[Json, Upload]]:
    found: list[tuple[Json, Upload]] = []
    for cipher in Cipher:
        for needed, numbers in CODES:
            if cipher is not Cipher.AEGIS256 and (needed, len(numbers)) not in {(1, 1), (2, 3), (3, 6)}:
                continue
            found.extend(_upload(size, needed, numbers, cipher) for size in SIZES)
    for size in (0, 1, 1000):
        found.append(_upload(size, 256, tuple(range(256)), Cipher.AEGIS256))
        found.append(_upload(size, 255, tuple(range(256)), Cipher.XCHACHA20POLY1305))
    return found


def _upload(size: int, needed: int, numbers: Sequence[int], cipher: Cipher) -> tuple[Json, Upload]:
    made = upload(content(size), needed, numbers, cipher)
    whole = size <= WHOLE and len(numbers) <= 3
    described = {
        "size": size,
        "needed": needed,
        "numbers": list(numbers),
        "cipher": cipher.setting,
        "header": made.header.pack().hex(),
        "signature": made.signature.hex(),
        "share_size": len(made.shares[numbers[0]]),
        # Roots are in the table of a share that is written out.
        **({} if whole else {"roots_blake3": blake3(b"".join(made.roots[n] for n in numbers)).hexdigest()}),
        "shares_blake3": (
            {str(number): blake3(share).hexdigest() for number, share in made.shares.items()}
            if len(numbers) <= 32
            else blake3(b"".join(made.shares[number] for number in numbers)).hexdigest()
        ),
        **({"shares": {str(n): share.hex() for n, share in made.shares.items()}} if whole else {}),
    }
    return described, made


def _pack(number: int, length: int, magic: bytes = b"swarmshare") -> bytes:
    return struct.pack(">10sHI", magic, number, length)


def damaged() -> Json:
    """Shares that are refused, each with the rule of docs/format.md that refuses it."""
    made = upload(b"a dozen bytes of content", 2, (0, 1, 5))
    share, name = made.shares[1], made.name(1)
    tail = Tail.parse(share, len(share))
    head = made.header.pack()
    start = len(share) - len(tail.pack())
    table = start + len(head)
    layout = made.header.layout
    rows: list[Json] = []

    def refused(rule: str, why: str, data: bytes, of: ShareName = name) -> None:
        rows.append({"rule": rule, "why": why, "name": str(of), "share": data.hex()})

    def put(at: int, value: bytes) -> bytes:
        return share[:at] + value + share[at + len(value) :]

    def signed(change: Callable[[Header], Header], body: bytes = share[:start]) -> bytes:
        """A share with another header, signed by the grid all the same."""
        header = change(made.header)
        signature = sign(header, made.roots, FULL.signing_seed)
        return body + Tail(header, made.roots, signature, 1).pack()

    refused("footer", "no bytes at all", b"")
    refused("footer", "one byte less than a footer", share[-15:])
    refused("footer", "the last byte is missing", share[:-1])
    refused("footer", "a byte follows the share", share + b"\0")
    refused("footer", "another magic", put(len(share) - 16, b"S"))
    refused("footer", "share number 256", put(len(share) - 6, b"\1\0"))
    refused("footer", "a tail of 86 bytes", share[:-16] + _pack(1, 86))
    refused("footer", "a tail of 12697 bytes", share[:-16] + _pack(1, 12697))
    refused("tail", "the tail is longer than the share", share[:-16] + _pack(1, len(share) + 1))
    refused("tail", "only the last 200 bytes", share[-200:])
    refused("version", "version 0", put(start, b"\0"))
    refused("version", "version 2", put(start, b"\2"))
    refused("cipher", "cipher 3", put(start + 1, b"\3"))
    refused("needed", "needed 0", put(start + 2, b"\0\0"))
    refused("needed", "needed 257", put(start + 2, b"\1\1"))
    refused("segment size", "segments of 512 KiB", put(start + 4, b"\0\x08\0\0"))
    refused("size", "an object of 2**63 bytes", put(start + 8, b"\x80" + bytes(7)))
    refused("name length", "a key name of 4097 bytes", put(start + 68, b"\x10\1"))
    refused("name length", "a key name that goes beyond the tail", put(start + 68, b"\x0f\xff"))
    refused(
        "table",
        "a key name that leaves no room for a table",
        put(start + 68, struct.pack(">H", len(share) - start - 71)),
    )
    refused("table", "no entries", put(table, b"\0\0"))
    bare = share[:table] + b"\0\0" + share[-80:-16]
    refused("table", "no entries, and a tail that fits", bare + _pack(1, len(bare) + 16 - start))
    refused("table", "one entry less than there are", put(table, b"\0\2"))
    refused("table", "one entry more than there are", put(table, b"\0\4"))
    entries = share[table + 2 : table + 2 + 99]
    refused("order", "two entries swapped", put(table + 2, entries[33:66] + entries[:33]))
    refused("order", "a number twice", put(table + 2, entries[:33] + b"\0"))
    refused("own number", "a number that the table does not have", put(len(share) - 6, b"\0\2"))
    refused("share size", "a byte before the share", b"\0" + share)
    refused("share size", "the first byte is missing", share[1:])
    refused("share size", "the tail alone", share[start:])
    refused("share size", "signed: an object of two bytes less", signed(lambda h: replace(h, size=h.size - 2)))
    refused("share size", "signed: needed is 3", signed(lambda h: replace(h, needed=3)))
    refused("share size", "signed: cipher none", signed(lambda h: replace(h, cipher=Cipher.NONE)))
    refused("name", "the name of another share of the upload", share, made.name(5))
    refused("name", "the share of another key", share, ShareName(object_id_of(bytes(32), "other"), 1))
    empty = upload(b"", 1, (0, 1))
    refused("name", "an empty object's share, renumbered", empty.shares[1], empty.name(0))
    refused("signature", "the first byte of the signature", put(len(share) - 80, bytes([share[-80] ^ 1])))
    refused("signature", "the last byte of the signature", put(len(share) - 17, bytes([share[-17] ^ 0x80])))
    refused("signature", "another content id", put(start + 36, bytes(32)))
    refused("signature", "a byte of the key name", put(start + 70, bytes([share[start + 70] ^ 1])))
    refused("signature", "the root of another share", put(table + 3, bytes(32)))
    refused("signature", "a number in the table", put(table + 2 + 66, b"\6"))
    other = Capability("full", FULL.read_secret + bytes(32))
    stranger = upload(b"a dozen bytes of content", 2, (0, 1, 5), capability=other)
    refused("signature", "signed by another grid", stranger.shares[1])
    unprefixed = _sign_bare(share[start : len(share) - 80])
    refused("signature", "signed without the prefix", put(len(share) - 80, unprefixed))
    refused("hashes", "a byte of the hash", put(layout.data_length, bytes([share[layout.data_length] ^ 1])))
    refused("hashes", "number and name of another share", put(len(share) - 6, b"\0\5"), made.name(5))
    refused("hashes", "blocks and hashes of another share", made.shares[5][:start] + share[start:])
    refused("block", "the first byte of the block", put(0, bytes([share[0] ^ 1])))
    refused("block", "the last byte of the block", put(start - 33, bytes([share[start - 33] ^ 0x80])))
    return {
        "about": "shares that are refused under this name, and the first rule of docs/format.md that does it",
        "verify_key": FULL.verify_key.hex(),
        "shares": rows,
    }


def _sign_bare(message: bytes) -> bytes:
    from nacl.bindings import crypto_sign, crypto_sign_seed_keypair

    _, secret = crypto_sign_seed_keypair(FULL.signing_seed)
    return crypto_sign(message, secret)[:64]


def unreadable() -> Json:
    """Sets of shares that the verify key proves and that the read secret refuses."""
    rows: list[Json] = []
    plaintext = b"a dozen bytes of content"

    def forged(
        rule: str,
        why: str,
        cipher: Cipher = Cipher.AEGIS256,
        *,
        spoil: Callable[[bytes], bytes] = lambda whole: whole,
        place: tuple[int, bool] = (0, True),
        key: str = KEY,
        change: Callable[[Header], Header] = lambda header: header,
    ) -> None:
        keys_of = ObjectKeys(FULL.read_secret, key, cipher)
        nonce = keys_of.nonce(*place, plaintext)
        whole = spoil(nonce + keys_of.seal(nonce, *place, plaintext))
        truth = upload(plaintext, 2, (0, 1, 2), cipher)
        length = truth.header.layout.block_length(0)
        whole += bytes(2 * length - len(whole))
        blocks = erasure.encode([whole[:length], whole[length:]], (1, 2))
        hashes = {n: block_hash(block) for n, block in zip((1, 2), blocks, strict=True)}
        roots = {number: share_root(number, proof) for number, proof in hashes.items()}
        header = change(truth.header)
        signature = sign(header, roots, FULL.signing_seed)
        shares = {
            str(ShareName(header.object_id, number)): b"".join(
                (block, hashes[number], Tail(header, roots, signature, number).pack())
            ).hex()
            for number, block in zip((1, 2), blocks, strict=True)
        }
        rows.append({"rule": rule, "why": why, "shares": shares})

    for cipher in (Cipher.AEGIS256, Cipher.XCHACHA20POLY1305):
        forged("segment", f"{cipher.setting}: sealed as segment 1", cipher, place=(1, True))
        forged("segment", f"{cipher.setting}: sealed as not the last", cipher, place=(0, False))
        forged("segment", f"{cipher.setting}: sealed for another key", cipher, key="other")
        forged("segment", f"{cipher.setting}: another nonce", cipher, spoil=lambda w: bytes([w[0] ^ 1]) + w[1:])
        forged("segment", f"{cipher.setting}: another tag", cipher, spoil=lambda w: w[:-1] + bytes([w[-1] ^ 1]))
    forged("segment", "none: another hash", Cipher.NONE, spoil=lambda w: bytes(32) + w[32:])
    forged("segment", "none: another content", Cipher.NONE, spoil=lambda w: w[:-1] + b"?")
    forged("content id", "another content id", change=lambda h: replace(h, content_id=bytes(32)))
    other_name = seal_key_name(FULL.read_secret, "k" * len(KEY))
    forged("key name", "the name of another key", change=lambda h: replace(h, sealed_name=other_name))
    forged("key name", "no name", change=lambda h: replace(h, sealed_name=b""))
    first, second = (upload(text, 2, (0, 1, 2)) for text in (plaintext, plaintext.upper()))
    mixed = {str(u.name(n)): u.shares[n].hex() for n, u in ((0, first), (1, second))}
    rows.append({"rule": "group", "why": "shares of two uploads", "shares": mixed})
    return {
        "about": "shares that prove with the verify key, of which no content of this key comes",
        "read_secret": FULL.read_secret.hex(),
        "verify_key": FULL.verify_key.hex(),
        "key": KEY.encode().hex(),
        "sets": rows,
    }


def layouts() -> Json:
    rows = []
    for size in (*SIZES, 2 * SEGMENT_SIZE, 10**12, 2**63 - 1):
        for needed in (1, 3, 4, 16, 256):
            for cipher in Cipher:
                layout = Layout(size, needed, cipher.overhead)
                segments_, last = layout.segments, max(0, layout.segments - 1)
                rows.append(
                    [size, needed, cipher.setting, segments_, layout.block_offset(last), layout.data_length]
                )
    return {
        "about": "rows of: size, needed, cipher, segments, offset of the last block, bytes of all blocks",
        "layouts": rows,
    }


def vectors() -> dict[str, bytes]:
    """Return the content of every vector file by its name."""
    made = uploads()
    documents = {
        "capabilities": capabilities(),
        "keys": keys(),
        "segments": segments(),
        "coding": coding(),
        "layouts": layouts(),
        "uploads": {
            "about": "uploads of the content of the formula; `shares` are whole shares in hex",
            "content": FORMULA,
            "read_secret": FULL.read_secret.hex(),
            "signing_seed": FULL.signing_seed.hex(),
            "key": KEY.encode().hex(),
            "uploads": [described for described, _ in made],
        },
        "damaged": damaged(),
        "unreadable": unreadable(),
    }
    files = {f"{name}.json": _dump(document) for name, document in documents.items()}
    # One object of two segments, to be read from two shares without being able to write any.
    large = upload(content(SEGMENT_SIZE + 1), 2, (0, 1, 2))
    for number in (1, 2):
        files[f"{SEGMENT_SIZE + 1}-of-2.{number}.share"] = large.shares[number]
    return files


def _dump(document: Json) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=True) + "\n").encode()


def main(arguments: Sequence[str]) -> int:
    if list(arguments) not in ([], ["--check"]):
        print(__doc__)
        return 2
    folder = ROOT / "tests" / "vectors"
    folder.mkdir(parents=True, exist_ok=True)
    wrong = 0
    for name, data in vectors().items():
        path = folder / name
        if not path.exists() and not arguments:
            path.write_bytes(data)
            print(f"{name}: written, {len(data)} bytes")
        elif not path.exists():
            print(f"{name}: missing")
            wrong += 1
        elif path.read_bytes() != data:
            print(f"{name}: differs from what this code makes, and is not changed")
            wrong += 1
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
