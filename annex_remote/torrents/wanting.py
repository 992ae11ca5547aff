"""Which pieces to ask peers for: in order, or from the end against somebody who comes from the front. Pure.

libtorrent takes a priority from 0 (not wanted) to 7 for each piece; of equal ones it takes the rarest. 7 is left
out: it looks for such pieces in another way, which costs a third of the speed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

__all__ = ["NEAR", "backward", "forward"]

STEPS = ((256 << 10, 6), (1 << 20, 5), (4 << 20, 4), (16 << 20, 3), (64 << 20, 2))
"""Up to how many bytes ahead a piece is how urgent; of the same ones, the order is libtorrent's."""
LATER = 1
"""Priority of the rest: there, the swarm is given what is rare."""

WINDOW = 16 << 20
"""Bytes that are wanted at one time from the end: what peers are asked for at once, and some more."""

NEAR = 4096
"""Missing pieces that are looked at as long as something comes: of a very large file, that is a small part."""


def forward(pieces: Sequence[int], has: Callable[[int], bool], piece_length: int) -> dict[int, int]:
    """Return the priorities of those of `pieces` that are missing, if they are wanted in this order."""
    missing = [piece for piece in pieces if not has(piece)]
    wanted = dict.fromkeys(missing, LATER)
    first = 0
    for size, priority in STEPS:
        # Two pieces at least, so that there is more than one to ask for.
        end = max(first + 2, -(-size // piece_length))
        wanted.update(dict.fromkeys(missing[first:end], priority))
        first = end
    return wanted


def backward(pieces: Sequence[int], has: Callable[[int], bool], piece_length: int) -> dict[int, int]:
    """Return the priorities if somebody else brings `pieces` from the front: only the last that are missing.

    So the two meet at one place, and little is fetched twice.
    """
    most = max(2, -(-WINDOW // piece_length))
    last = islice((piece for piece in reversed(pieces) if not has(piece)), most)
    return forward(list(last), lambda _: False, piece_length)
