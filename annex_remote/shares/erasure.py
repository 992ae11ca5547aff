"""Erasure coding with zfec, guarded against the arguments that make it loop, lie or crash.

Row i of zfec's code does not depend on how many rows there are, so the code is always `needed`-of-256: a
share number means the same bytes whoever makes it and whenever. Numbers below `needed` are the primary
shares, plain pieces of the sealed segment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from annex_remote.errors import Damaged
from annex_remote.model import MAX_SHARES

__all__ = ["decode", "encode"]

Block = bytes | memoryview


@lru_cache(maxsize=8)
def _encoder(needed: int) -> Any:
    import zfec

    return zfec.Encoder(needed, MAX_SHARES)


@lru_cache(maxsize=8)
def _decoder(needed: int) -> Any:
    import zfec

    return zfec.Decoder(needed, MAX_SHARES)


def encode(primaries: Sequence[Block], numbers: Sequence[int]) -> list[Block]:
    """Return the blocks with `numbers`, in their order, from all `needed` primary blocks of one length.

    Primary blocks are returned as they were given, without a copy.
    """
    needed = len(primaries)
    _guard(needed, numbers, primaries)
    secondary = [number for number in numbers if number >= needed]
    made = iter(_encoder(needed).encode(list(primaries), secondary) if secondary else ())
    return [primaries[number] if number < needed else next(made) for number in numbers]


def decode(blocks: Mapping[int, Block], needed: int) -> list[Block]:
    """Return the `needed` primary blocks in order, from any `needed` blocks by number.

    More blocks than needed may be given: primaries are preferred. Raises `Damaged` for fewer, for numbers out
    of range and for blocks of different lengths. Does not know a wrong block from a right one: prove first.
    """
    numbers = sorted(blocks)[:needed]
    chosen = [blocks[number] for number in numbers]
    if len(numbers) < needed:
        raise Damaged(f"{len(numbers)} blocks cannot be decoded, {needed} are needed")
    _guard(needed, numbers, chosen)
    if numbers[-1] < needed:
        return chosen
    # zfec reorders the lists that it is given: these are ours alone.
    decoded: list[Block] = _decoder(needed).decode(chosen, numbers)
    return decoded


def _guard(needed: int, numbers: Sequence[int], blocks: Sequence[Block]) -> None:
    if not 1 <= needed <= MAX_SHARES:
        raise Damaged(f"needed={needed} is out of range")
    if len(set(numbers)) != len(numbers) or not all(0 <= number < MAX_SHARES for number in numbers):
        raise Damaged(f"share numbers {list(numbers)} are repeated or out of range")
    lengths = {len(block) for block in blocks}
    if len(lengths) != 1 or 0 in lengths:
        raise Damaged("the blocks of a segment differ in length")
