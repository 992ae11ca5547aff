from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annex_remote.errors import Damaged
from annex_remote.shares.codec import SegmentCodec
from annex_remote.shares.crypto import Cipher, ObjectKeys
from annex_remote.shares.layout import SEGMENT_SIZE, Layout
from tests.shares.builder import FULL, KEY, Refused, Upload, content, read, upload

CIPHERS = st.sampled_from(Cipher)


def codec(size: int, needed: int, cipher: Cipher = Cipher.AEGIS256) -> SegmentCodec:
    return SegmentCodec(ObjectKeys(bytes(32), "key", cipher), Layout(size, needed, cipher.overhead))


@given(st.binary(min_size=1, max_size=600), st.integers(1, 256), CIPHERS, st.integers(0, 2**32))
def test_any_needed_blocks_give_the_segment_back(plaintext: bytes, needed: int, cipher: Cipher, seed: int) -> None:
    one = codec(len(plaintext), needed, cipher)
    chance = random.Random(seed)
    numbers = chance.sample(range(256), min(256, needed + 3))
    nonce, blocks = one.encode(0, plaintext, numbers)
    assert {len(block) for block in blocks} == {one.layout.block_length(0)}
    left = chance.sample(list(zip(numbers, blocks, strict=True)), needed)
    assert one.decode(0, dict(left)) == (nonce, plaintext)
    assert one.decode(0, dict(zip(numbers, blocks, strict=True))) == (nonce, plaintext)


@given(st.integers(0, 3000), st.sampled_from([(1, 1), (1, 3), (2, 3), (3, 5), (5, 5)]), CIPHERS, st.randoms())
def test_any_needed_shares_give_the_object_back(
    size: int, numbers: tuple[int, int], cipher: Cipher, chance: random.Random
) -> None:
    needed, total = numbers
    made = upload(content(size), needed, chance.sample(range(256), total), cipher)
    left = chance.sample(sorted(made.shares), needed)
    assert read({made.name(number): made.shares[number] for number in left}, FULL) == content(size)


SEGMENTS = [SEGMENT_SIZE - 1, SEGMENT_SIZE, SEGMENT_SIZE + 1, 2 * SEGMENT_SIZE, 5 * SEGMENT_SIZE // 2]


@pytest.mark.parametrize("cipher", Cipher)
@pytest.mark.parametrize("size", SEGMENTS)
def test_objects_around_a_segments_end_come_back(size: int, cipher: Cipher) -> None:
    made = upload(content(size), 3, [0, 1, 2, 9, 255], cipher)
    for left in ([0, 1, 2], [9, 255, 1]):
        assert read({made.name(number): made.shares[number] for number in left}, FULL) == content(size)


def test_good_blocks_of_damaged_shares_are_enough() -> None:
    made = upload(content(3 * SEGMENT_SIZE), 2, [0, 1, 2])
    layout = made.header.layout
    shares = {made.name(number): bytearray(share) for number, share in made.shares.items()}
    for number, name in enumerate(shares):
        shares[name][layout.block_offset(number)] ^= 1
    assert read({name: bytes(share) for name, share in shares.items()}, FULL) == content(3 * SEGMENT_SIZE)
    shares[made.name(1)][layout.block_offset(0)] ^= 1
    with pytest.raises(Refused, match="1 good blocks of segment 0, 2 are needed"):
        read({name: bytes(share) for name, share in shares.items()}, FULL)


def test_the_same_content_gives_the_same_shares() -> None:
    first, again = (upload(content(5000), 2, [0, 1, 7]) for _ in range(2))
    assert first.shares == again.shares
    assert upload(content(5000), 2, [7]).header == first.header


@pytest.mark.parametrize("cipher", Cipher)
def test_other_content_gives_another_header(cipher: Cipher) -> None:
    def header(plaintext: bytes, key: str = KEY) -> Upload:
        return upload(plaintext, 1, [0], cipher, annex_key=key)

    made = [header(b""), header(b"a"), header(b"b"), header(b"aa"), header(b"a", "other")]
    assert len({one.header.content_id for one in made}) == len(made)


@pytest.mark.parametrize("cipher", Cipher)
def test_shares_of_two_uploads_are_not_mixed(cipher: Cipher) -> None:
    one, other = (upload(text, 2, [0, 1, 2], cipher) for text in (b"one text", b"another!"))
    with pytest.raises(Refused, match="group"):
        read({one.name(0): one.shares[0], other.name(1): other.shares[1]}, FULL)


@pytest.mark.parametrize("length", [0, 1, 34, 35, 36, 70, 71, 72, 99, 101, 135, 200])
def test_a_segment_of_the_wrong_length_is_not_encoded(length: int) -> None:
    # 100 bytes and 64 of overhead in blocks of 41: one block less or more would make another code.
    one = codec(100, 4)
    with pytest.raises(Damaged, match=f"has {length} bytes"):
        one.encode(0, bytes(length), [0, 1, 2, 3, 4])


def test_a_segment_that_is_one_block_short_is_not_encoded() -> None:
    one = codec(100, 4)
    short = 100 - one.layout.block_length(0)
    with pytest.raises(Damaged, match=f"has {short} bytes"):
        one.encode(0, bytes(short), [0, 1, 2, 3, 4])


@pytest.mark.parametrize("length", [0, 1, 8, 10, 40, 42, 1000])
def test_blocks_of_the_wrong_length_are_not_decoded(length: int) -> None:
    for cipher in Cipher:
        one = codec(100, 4, cipher)
        if length != one.layout.block_length(0):
            with pytest.raises(Damaged):
                one.decode(0, dict.fromkeys(range(4), bytes(length)))
    single = codec(100, 1, Cipher.NONE)
    _, (block,) = single.encode(0, bytes(100), [0])
    with pytest.raises(Damaged):
        single.decode(0, {0: bytes(block) + b"more"})


@pytest.mark.parametrize("cipher", [Cipher.AEGIS256, Cipher.XCHACHA20POLY1305])
def test_a_segment_is_bound_to_its_place(cipher: Cipher) -> None:
    plaintext = bytes(SEGMENT_SIZE)
    three = codec(3 * SEGMENT_SIZE, 1, cipher)
    two = codec(2 * SEGMENT_SIZE, 1, cipher)
    nonce, (block,) = three.encode(1, plaintext, [0])
    assert three.decode(1, {0: block}) == (nonce, plaintext)
    for wrong, index in ((three, 0), (three, 2), (two, 1)):
        with pytest.raises(Damaged):
            wrong.decode(index, {0: block})


@pytest.mark.parametrize("cipher", Cipher)
def test_swapped_or_damaged_blocks_do_not_open(cipher: Cipher) -> None:
    one = codec(100, 2, cipher)
    _, blocks = one.encode(0, bytes(range(100)), [0, 1, 2])
    with pytest.raises(Damaged):
        one.decode(0, {0: blocks[1], 1: blocks[0]})
    with pytest.raises(Damaged):
        one.decode(0, {0: blocks[0], 1: blocks[2]})
    damaged = bytes(blocks[2][:-1]) + bytes([blocks[2][-1] ^ 1])
    with pytest.raises(Damaged):
        one.decode(0, {1: blocks[1], 2: damaged})
    with pytest.raises(Damaged, match="1 blocks cannot be decoded, 2 are needed"):
        one.decode(0, {1: blocks[1]})


def test_the_padding_is_zeros_at_the_end() -> None:
    one = codec(100, 200)
    nonce, blocks = one.encode(0, bytes(100), list(range(200)))
    whole = b"".join(blocks)
    assert whole.startswith(nonce)
    assert len(whole) == 200
    assert whole[164:] == bytes(36)
