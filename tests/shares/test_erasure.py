from __future__ import annotations

import random
from functools import lru_cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annex_remote.errors import Damaged
from annex_remote.shares import erasure


def multiply(a: int, b: int) -> int:
    """Multiply in GF(2**8) modulo x**8 + x**4 + x**3 + x**2 + 1."""
    product = 0
    while b:
        if b & 1:
            product ^= a
        a = a << 1 ^ (0x11D if a & 0x80 else 0)
        b >>= 1
    return product


POWERS = [1]
while len(POWERS) < 255:
    POWERS.append(multiply(POWERS[-1], 2))
POINTS = [0, *POWERS]
INVERSES = {power: POWERS[-exponent % 255] for exponent, power in enumerate(POWERS)}


@lru_cache(maxsize=4096)
def row(needed: int, number: int) -> bytes:
    """Return row `number` of the matrix as docs/format.md defines it: Lagrange's basis at its point."""
    at = POINTS[number]
    coefficients = bytearray()
    for i in range(needed):
        value = 1
        for j in range(needed):
            if j != i:
                quotient = multiply(at ^ POINTS[j], INVERSES[POINTS[i] ^ POINTS[j]])
                value = multiply(value, quotient)
        coefficients.append(value)
    return bytes(coefficients)


def test_all_points_are_there() -> None:
    assert sorted(POINTS) == list(range(256))
    assert POINTS[:10] == [0, 1, 2, 4, 8, 16, 32, 64, 128, 0x1D]


@pytest.mark.parametrize("needed", [1, 2, 3, 4, 7, 16, 100, 254, 255, 256])
def test_the_matrix_is_the_one_that_the_format_defines(needed: int) -> None:
    unit = [bytes(int(i == j) for j in range(needed)) for i in range(needed)]
    every = range(256) if needed <= 16 else [0, needed // 2, needed - 1, *range(max(needed, 252), 256)]
    blocks = erasure.encode(unit, list(every))
    assert {number: bytes(block) for number, block in zip(every, blocks, strict=True)} == {
        number: row(needed, number) for number in every
    }


@st.composite
def codes(draw: st.DrawFn) -> tuple[list[bytes], list[int], list[int]]:
    """Draw primaries, the numbers made of them, and those of them that are left, in any order."""
    needed = draw(st.integers(1, 20) | st.sampled_from([64, 127, 128, 129, 200, 255, 256]))
    seed = draw(st.integers(0, 2**32))
    chance = random.Random(seed)
    length = draw(st.integers(1, 100) | st.sampled_from([8191, 8192, 8193]))
    total = draw(st.integers(needed, min(256, needed + 10)))
    numbers = chance.sample(range(256), total)
    left = chance.sample(numbers, draw(st.integers(needed, total)))
    return [chance.randbytes(length) for _ in range(needed)], numbers, left


@given(codes())
def test_any_needed_of_total_rebuild(code: tuple[list[bytes], list[int], list[int]]) -> None:
    primaries, numbers, left = code
    made = dict(zip(numbers, erasure.encode(primaries, numbers), strict=True))
    assert [bytes(block) for block in erasure.decode({n: made[n] for n in left}, len(primaries))] == primaries


def test_every_choice_of_needed_of_total_rebuilds() -> None:
    from itertools import combinations

    primaries = [b"abcd", b"efgh", b"ijkl"]
    numbers = [0, 1, 2, 3, 4, 199, 255]
    made = dict(zip(numbers, erasure.encode(primaries, numbers), strict=True))
    for left in combinations(numbers, 3):
        assert erasure.decode({n: made[n] for n in left}, 3) == primaries


@pytest.mark.parametrize("needed", [1, 255, 256])
def test_the_ends_of_the_range(needed: int) -> None:
    chance = random.Random(needed)
    primaries = [chance.randbytes(33) for _ in range(needed)]
    made = erasure.encode(primaries, list(range(256)))
    last = {number: made[number] for number in range(256 - needed, 256)}
    assert erasure.decode(last, needed) == primaries
    if needed == 1:
        assert set(made) == set(primaries)


def test_decoding_leaves_the_callers_blocks_alone_and_can_be_repeated() -> None:
    made = erasure.encode([b"one", b"two"], [0, 1, 2, 3])
    blocks = {3: made[3], 1: made[1]}
    before = dict(blocks)
    assert erasure.decode(blocks, 2) == erasure.decode(blocks, 2) == [b"one", b"two"]
    assert list(blocks.items()) == list(before.items())


def test_primaries_are_not_copied_and_views_are_taken() -> None:
    whole = memoryview(b"onetwo")
    primaries = [whole[:3], whole[3:]]
    made = erasure.encode(primaries, [7, 0, 1])
    assert made[1] is primaries[0]
    assert made[2] is primaries[1]
    assert b"".join(erasure.decode({7: memoryview(bytes(made[0])), 1: primaries[1]}, 2)) == b"onetwo"


def test_primaries_are_preferred() -> None:
    blocks = {0: b"one", 1: b"two", 2: b"not what it should be"[:3]}
    assert erasure.decode(blocks, 2) == [b"one", b"two"]


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "numbers",
    [[0, 0], [1, 1, 2], [2, 2], [256], [-1], [0, 1, 300], [2, 10**6], [-(10**6)], [5, 0, 5]],
)
def test_encoding_refuses_numbers_that_zfec_does_not_survive(numbers: list[int]) -> None:
    with pytest.raises(Damaged):
        erasure.encode([b"one", b"two"], numbers)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "primaries",
    [
        [],
        [b""],
        [b"", b""],
        [b"", b"two"],
        [b"one", b""],
        [b"one", b"four"],
        [b"one", b"tw"],
        [b"x"] * 257,
    ],
)
def test_encoding_refuses_blocks_that_do_not_fit(primaries: list[bytes]) -> None:
    with pytest.raises(Damaged):
        erasure.encode(primaries, [0, 255])


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("blocks", "needed"),
    [
        ({}, 1),
        ({}, 0),
        ({0: b"one"}, 0),
        ({0: b"one"}, -1),
        ({0: b"one"}, 2),
        ({0: b"one", 256: b"two"}, 2),
        ({-1: b"one", 1: b"two"}, 2),
        ({0: b"one", 10**6: b"two"}, 2),
        ({0: b"", 2: b"two"}, 2),
        ({0: b"one", 2: b""}, 2),
        ({0: b"", 2: b""}, 2),
        ({0: b"one", 2: b"four"}, 2),
        ({2: b"one", 0: b"tw"}, 2),
        (dict.fromkeys(range(257), b"x"), 257),
    ],
)
def test_decoding_refuses_what_zfec_does_not_survive(blocks: dict[int, bytes], needed: int) -> None:
    with pytest.raises(Damaged):
        erasure.decode(blocks, needed)
