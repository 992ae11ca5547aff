"""Which stores keep the shares of an object, when there are more than it takes. Pure.

Weighted rendezvous hashing (Thaler and Ravishankar 1998; weights as in Schindelhauer and Schomaker 2005): each
store gets a score from a hash of the object and the store's number, and the best scores win. Every clone
comes to the same answer without talking, and a store that is added or lost moves only its own shares.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from blake3 import blake3

__all__ = ["Candidate", "place"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A share number that could be used: its store, the store's zone, and the store's free space in bytes."""

    number: int
    store: str
    zone: str = ""
    free: int | None = None


def place(
    object_id: str,
    candidates: Sequence[Candidate],
    total: int,
    share_size: int,
    beside: Sequence[Candidate] = (),
) -> list[int]:
    """Return the numbers of at most `total` candidates, ascending.

    Stores and zones get as equal a part as there is, with what those `beside` have already; among equals the
    score decides. A store that says that it has no room for its shares, those `beside` among them, comes last:
    it is tried only if nothing else is left.
    """
    if len(candidates) <= total:
        return sorted(candidate.number for candidate in candidates)
    left = list(candidates)
    in_store = Counter(candidate.store for candidate in beside)
    in_zone = Counter(candidate.zone or candidate.store for candidate in beside)
    # What is beside may be on its way still, and not be off the free space yet: in doubt there is less room.
    sent = in_store.copy()
    chosen: list[int] = []

    def rank(candidate: Candidate) -> tuple[bool, int, int, float]:
        wanted = share_size * (sent[candidate.store] + 1)
        full = candidate.free is not None and candidate.free < wanted
        zone = candidate.zone or candidate.store
        return full, in_zone[zone], in_store[candidate.store], -_score(object_id, candidate)

    while left and len(chosen) < total:
        best = min(left, key=rank)
        left.remove(best)
        chosen.append(best.number)
        sent[best.store] += 1
        in_store[best.store] += 1
        in_zone[best.zone or best.store] += 1
    return sorted(chosen)


def _score(object_id: str, candidate: Candidate) -> float:
    digest = blake3(f"{object_id}.{candidate.number}".encode()).digest(8)
    # 53 bits and a half: never 0 and never 1, whatever the digest.
    uniform = ((int.from_bytes(digest, "big") >> 11) + 0.5) / 2**53
    return -_weight(candidate.free) / math.log(uniform)


def _weight(free: int | None) -> float:
    """More for more space, in powers of two, so that the choice holds still while a store slowly fills."""
    return float(2 ** math.floor(math.log2(free))) if free else float(1 << 36)
