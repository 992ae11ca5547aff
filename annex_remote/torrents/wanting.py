"""Which pieces to ask peers for: in order, or from the end against somebody who comes from the front. Pure.

libtorrent takes a priority from 0 (not wanted) to 7 for each piece; of equal ones it takes the rarest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["backward", "forward"]

NEAR = 16 << 20
"""Bytes that are wanted before all others: what peers are asked for at one time, and some more."""
SOON = 64 << 20

TOP, NEXT, LATER = 6, 4, 1
"""7 is left out: libtorrent looks for such pieces in another way, which costs a third of the speed."""


def forward(pieces: Sequence[int], has: Callable[[int], bool], piece_length: int) -> dict[int, int]:
    """Return the priorities of those of `pieces` that are missing, if they are wanted in this order.

    Those at the front come first; from the rest, the swarm is given what is rare.
    """
    wanted: dict[int, int] = {}
    ahead = 0
    for piece in pieces:
        if not has(piece):
            wanted[piece] = TOP if ahead < NEAR else NEXT if ahead < SOON else LATER
        ahead += piece_length
    return wanted


def backward(pieces: Sequence[int], has: Callable[[int], bool], piece_length: int) -> dict[int, int]:
    """Return the priorities if somebody else brings `pieces` from the front: only the last that are missing.

    So the two meet at one place, and little is fetched twice.
    """
    wanted: dict[int, int] = {}
    for piece in reversed(pieces):
        if not has(piece):
            wanted[piece] = TOP
            if len(wanted) * piece_length >= NEAR and len(wanted) > 1:
                break
    return wanted
