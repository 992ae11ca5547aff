"""How well an object is kept, from what is known of its shares. Pure.

Nothing is ever said to be better than it is for certain. What counts is not how many shares there are, but how
many places may be lost: stores of one zone are one place, and several shares on one store go with it together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from annex_remote.model import MAX_SHARES, Coding
from annex_remote.shares.crypto import Cipher
from annex_remote.shares.format import MAX_TABLE, TABLE_ENTRY, share_length
from annex_remote.shares.layout import Layout
from annex_remote.transfer.placement import Candidate, place
from annex_remote.transfer.sites import Site

__all__ = ["Ground", "Place", "State", "Verdict", "judge", "needed_of", "worst_first"]


class State(Enum):
    """How an object does; the value is the word for it."""

    LOST = "lost"
    """Fewer shares are left than rebuild it."""
    TORRENT = "torrent"
    """No share of it is anywhere, but a torrent is recorded for its key: nobody knows if peers have it."""
    UNKNOWN = "unknown"
    """It depends on stores that could not be asked."""
    CRITICAL = "critical"
    """It can be rebuilt, and the loss of one more place may end that."""
    DEGRADED = "degraded"
    """It bears the loss of a place, but not of as many as it should."""
    HEALTHY = "healthy"
    """All of its shares are there, and as well spread as the stores allow."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a share number belongs: its store, what fails together with that, and whether it takes shares."""

    number: int
    store: str
    zone: str
    active: bool


class Ground:
    """The places of a grid and its coding: what the shares of an object are judged by."""

    def __init__(self, sites: Iterable[Site], coding: Coding, earlier: Collection[int] = ()) -> None:
        self.coding = coding
        self.earlier = tuple(earlier)
        """What `needed` was before, as long as objects may be coded so."""
        self.places = {
            site.number: Place(site.number, site.name, site.zone or f"store {site.name}", site.takes_shares)
            for site in sites
        }
        candidates = [
            Candidate(each.number, each.store, each.zone) for each in self.places.values() if each.active
        ]
        self._spread = place("", candidates, coding.total, 0)
        self._best: dict[int, int] = {}

    def best(self, needed: int) -> int:
        """Return how many places an object of all shares can lose, spread as well as the stores allow."""
        if needed not in self._best:
            self._best[needed] = self.margin(self._spread, needed)
        return self._best[needed]

    @property
    def most_needed(self) -> int:
        """How many shares rebuild any object, whatever it was coded by."""
        return max(self.coding.needed, *self.earlier, 1)

    @property
    def least_needed(self) -> int:
        """How many shares rebuild an object at least, whatever it was coded by."""
        return min(self.coding.needed, *self.earlier, MAX_SHARES)

    def active(self, numbers: Iterable[int]) -> list[int]:
        """Return those of `numbers` whose stores take shares."""
        return [number for number in numbers if self.places[number].active]

    def is_whole(self, numbers: Iterable[int], needed: int) -> bool:
        """True if these are as many shares as there should be, and as well spread as the stores allow.

        Fewer do where the stores take fewer altogether.
        """
        active = self.active(numbers)
        most = min(self.coding.total, len(self._spread))
        return len(active) >= most and self.margin(active, needed) >= self.best(needed)

    def margin(self, numbers: Iterable[int], needed: int) -> int:
        """Return how many places, whichever they are, can be lost `needed` shares left; -1 if there are fewer."""
        counts = sorted(Counter(self.places[number].zone for number in numbers).values(), reverse=True)
        left, lost = sum(counts), -1
        for count in [*counts, 0]:
            if left < needed:
                break
            left, lost = left - count, lost + 1
        return lost


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of one object. Share numbers, each list ascending."""

    state: State
    needed: int
    good: tuple[int, ...]
    """Shares that belong together, by all that is known."""
    bad: tuple[int, ...]
    """Shares of a length that cannot be, or known to be damaged."""
    silent: tuple[int, ...]
    """Places whose store could not be asked."""
    missing: int
    """How many shares are to be made, to have all of them on stores that take shares."""
    left: int
    """How many places can be lost for certain; -1 if it cannot be rebuilt for certain."""
    crowded: bool = False
    """True if all shares are there, and not as well spread as the stores allow."""
    retired: tuple[int, ...] = ()
    """Good shares on stores that take none any more."""
    least: int = 0
    """How many shares may do: less than `needed` where it is not certain how the object was coded."""


def judge(
    ground: Ground,
    sizes: Mapping[int, int],
    *,
    needed: int,
    least: int | None = None,
    bad: Collection[int] = (),
    silent: Collection[int] = (),
    beside: Collection[int] = (),
    lengths: Collection[int] | None = None,
) -> Verdict:
    """Judge an object that has shares of `sizes` (bytes, by number).

    `bad` are known to be damaged, `silent` may be there or not, `beside` are there under names that are not yet
    theirs. `lengths` are those that a share of it can have, if that is known; else the shares tell, by the length
    that most of them agree on. It takes `needed` to be sure that it can be rebuilt, and fewer than `least` to be
    sure that it cannot.
    """
    silent = set(silent) - set(sizes)
    least = needed if least is None else least
    fitting = _fitting(sizes.values(), lengths)
    spoilt = sorted(number for number, size in sizes.items() if number in bad or size not in fitting)
    good = sorted(set(sizes) - set(spoilt))
    state = _state(ground, good, spoilt, needed)
    if state is State.LOST:
        # There may be more, or a damaged share may have just the blocks that are missing.
        if len({*sizes, *silent, *beside}) >= least:
            state = State.UNKNOWN
    elif state is not State.HEALTHY and _state(ground, [*good, *silent], spoilt, needed) is State.HEALTHY:
        state = State.UNKNOWN
    active = ground.active(good)
    return Verdict(
        state,
        needed,
        tuple(good),
        tuple(spoilt),
        tuple(sorted(silent)),
        max(0, ground.coding.total - len(active) - len(ground.active(silent))),
        ground.margin(good, needed),
        len(active) >= ground.coding.total and ground.margin(active, needed) < ground.best(needed),
        tuple(number for number in good if not ground.places[number].active),
        least,
    )


def _state(ground: Ground, good: Sequence[int], bad: Sequence[int], needed: int) -> State:
    left = ground.margin(good, needed)
    if left < 0:
        return State.LOST
    active = ground.active(good)
    whole = len(active) >= ground.coding.total and ground.margin(active, needed) >= ground.best(needed)
    if whole and not bad:
        return State.HEALTHY
    return State.DEGRADED if left else State.CRITICAL


def _fitting(sizes: Collection[int], lengths: Collection[int] | None) -> Collection[int]:
    """Return the sizes of shares that can belong together."""
    if lengths is not None:
        return lengths

    # The tables of shares that were made later are longer by some entries.
    def alike(size: int, other: int) -> bool:
        return (size - other) % TABLE_ENTRY == 0 and abs(size - other) < MAX_TABLE * TABLE_ENTRY

    count = Counter(sizes)
    groups = ({other for other in count if alike(size, other)} for size in sorted(count))
    return max(groups, key=lambda group: sum(count[each] for each in group), default=set())


def needed_of(
    ground: Ground, cipher: Cipher, key_length: int, size: int | None, sizes: Iterable[int]
) -> tuple[int, int, Collection[int] | None]:
    """Return how many shares surely rebuild an object of `size` bytes, how many may do, and how long they can be.

    `key_length` is that of the name of its key, in bytes. Objects that were stored before the coding was changed
    are told by the lengths of their shares, `sizes`; where these fit more than one coding (an empty object's fit
    all), each may be the one. Where the size is not known, neither are the lengths.
    """
    if size is None:
        return ground.most_needed, ground.least_needed, None
    there = list(sizes)
    fitting: dict[int, list[int]] = {}
    lengths: dict[int, range] = {}
    for needed in (ground.coding.needed, *ground.earlier):
        shortest = share_length(Layout(size, needed, cipher.overhead), key_length, 1)
        lengths[needed] = range(shortest, shortest + MAX_TABLE * TABLE_ENTRY, TABLE_ENTRY)
        fitting[needed] = [each for each in there if each in lengths[needed]]
    most = max(map(len, fitting.values()))
    likely = [needed for needed, each in fitting.items() if len(each) == most]
    return max(likely), min(likely), lengths[max(likely)]


def worst_first(verdict: Verdict) -> tuple[int, int]:
    """Return what objects to repair are sorted by: those that are nearest to their end come first."""
    return verdict.left, -len(verdict.bad) - verdict.missing
