from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from annex_remote.transfer.placement import Candidate, place

SIZE = 1000
FREE = st.sampled_from([None, 0, SIZE - 1, SIZE, 3 * SIZE, 1 << 30, 1 << 40])
ZONES = st.sampled_from(["", "", "attic", "office"])


@st.composite
def stores(draw: st.DrawFn, least: int = 1) -> list[list[Candidate]]:
    """Stores with one to three shares each."""
    made, number = [], 0
    for which in range(draw(st.integers(least, 6))):
        zone, free, shares = draw(ZONES), draw(FREE), draw(st.integers(1, 3))
        made.append([Candidate(number + share, f"store{which}", zone, free) for share in range(shares)])
        number += shares
    return made


def flat(groups: Sequence[Sequence[Candidate]]) -> list[Candidate]:
    return [candidate for group in groups for candidate in group]


@given(stores(), st.integers(1, 20), st.text(max_size=5), st.randoms())
def test_every_clone_comes_to_the_same_answer(
    groups: list[list[Candidate]], total: int, object_id: str, chance: random.Random
) -> None:
    candidates = flat(groups)
    chosen = place(object_id, candidates, total, SIZE)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(total, len(candidates))
    assert set(chosen) <= {candidate.number for candidate in candidates}
    chance.shuffle(candidates)
    assert place(object_id, candidates, total, SIZE) == chosen


@given(stores(least=2), st.integers(1, 12), st.text(max_size=5))
def test_a_store_that_is_added_moves_only_its_own_shares(
    groups: list[list[Candidate]], total: int, object_id: str
) -> None:
    new = {candidate.number for candidate in groups[-1]}
    before = set(place(object_id, flat(groups[:-1]), total, SIZE))
    after = set(place(object_id, flat(groups), total, SIZE))
    assert after - new <= before


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 24), st.text(max_size=5))
def test_stores_get_equal_parts(count: int, shares: int, total: int, object_id: str) -> None:
    candidates = [Candidate(number, f"store{number // shares}") for number in range(count * shares)]
    used = Counter(number // shares for number in place(object_id, candidates, total, SIZE))
    parts = [used[store] for store in range(count)]
    assert max(parts) - min(parts) <= 1


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(1, 12), st.text(max_size=5))
def test_zones_get_equal_parts_as_far_as_they_can(sizes: list[int], total: int, object_id: str) -> None:
    zone_of: dict[int, int] = {}
    for zone, size in enumerate(sizes):
        zone_of.update(dict.fromkeys(range(len(zone_of), len(zone_of) + size), zone))
    candidates = [Candidate(number, f"store{number}", f"zone{zone}") for number, zone in zone_of.items()]
    used = Counter(zone_of[number] for number in place(object_id, candidates, total, SIZE))
    most = max(used.values())
    for zone, size in enumerate(sizes):
        assert used[zone] >= min(size, most - 1)


@given(stores(), st.integers(1, 12), st.text(max_size=5))
def test_a_full_store_is_the_last_to_be_tried(groups: list[list[Candidate]], total: int, object_id: str) -> None:
    candidates = flat(groups)
    chosen = set(place(object_id, candidates, total, SIZE))
    if len(candidates) <= total:
        return
    used = Counter(candidate.store for candidate in candidates if candidate.number in chosen)
    overfull = [
        group for group in groups if (free := group[0].free) is not None and used[group[0].store] * SIZE > free
    ]
    if overfull:
        for group in groups:
            free = group[0].free
            left = len(group) - used[group[0].store]
            assert left == 0 or (free is not None and (used[group[0].store] + 1) * SIZE > free)


def test_more_space_gets_more_shares() -> None:
    """In proportion, within what chance does with 2000 objects."""
    candidates = [Candidate(0, "small", free=1 << 30), Candidate(1, "large", free=3 << 30)]
    used = Counter(place(f"object {index}", candidates, 1, SIZE)[0] for index in range(2000))
    # Weights are powers of two: 1 to 2 here.
    assert 0.60 < used[1] / 2000 < 0.73


def test_equal_stores_get_equally_much() -> None:
    candidates = [Candidate(number, f"store{number}", free=1 << 40) for number in range(10)]
    used = Counter(number for index in range(3000) for number in place(f"object {index}", candidates, 3, SIZE))
    assert sum(used.values()) == 9000
    assert all(abs(count - 900) < 120 for count in used.values())


def test_the_choice_holds_still_while_stores_fill_a_little() -> None:
    def chosen(used: int) -> list[list[int]]:
        candidates = [Candidate(number, f"store{number}", free=(3 << 39) - used) for number in range(6)]
        return [place(f"object {index}", candidates, 3, SIZE) for index in range(200)]

    assert chosen(0) == chosen(1 << 38)


@given(stores(least=2), st.text(max_size=5))
def test_a_spare_is_of_the_zone_that_has_least(groups: list[list[Candidate]], object_id: str) -> None:
    beside = [group[0] for group in groups]
    spare = [candidate for group in groups for candidate in group[1:] if candidate.free is None]
    chosen = place(object_id, spare, 1, SIZE, beside)
    if len(spare) < 2:
        return
    zones = Counter(candidate.zone or candidate.store for candidate in beside)
    best = min(zones[candidate.zone or candidate.store] for candidate in spare)
    assert [zones[each.zone or each.store] for each in spare if each.number in chosen] == [best]


def test_a_share_on_its_way_takes_room_from_a_spare_one() -> None:
    small = [Candidate(number, "small", free=SIZE) for number in (0, 1)]
    large = Candidate(2, "large", free=2 * SIZE)
    for index in range(20):
        # The zone of the other one has more already: room goes before that.
        beside = [small[0], Candidate(3, "large"), Candidate(4, "elsewhere", "large")]
        assert place(f"object {index}", [small[1], large], 1, SIZE, beside) == [2]
