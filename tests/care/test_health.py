from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from annex_remote.care.health import Ground, State, judge, needed_of, worst_first
from annex_remote.model import Coding
from annex_remote.shares.crypto import Cipher
from annex_remote.shares.format import TABLE_ENTRY, share_length
from annex_remote.shares.layout import SEGMENT_SIZE, Layout
from tests.care.grounds import SIZE, Grid, grids, site, sites, sure_to_lose
from tests.shares.builder import KEY, content, upload

FIVE = Ground(sites(5), Coding(3, 4, 5))


def all_of(*numbers: int, size: int = SIZE) -> dict[int, int]:
    return dict.fromkeys(numbers, size)


# By examples.


@pytest.mark.parametrize(
    ("there", "state", "left", "missing"),
    [
        ((0, 1, 2, 3, 4), State.HEALTHY, 2, 0),
        ((0, 1, 2, 3), State.DEGRADED, 1, 1),
        ((0, 1, 4), State.CRITICAL, 0, 2),
        ((0, 1), State.LOST, -1, 3),
        ((), State.LOST, -1, 5),
    ],
)
def test_states(there: tuple[int, ...], state: State, left: int, missing: int) -> None:
    verdict = judge(FIVE, all_of(*there), needed=3)
    assert (verdict.state, verdict.left, verdict.missing) == (state, left, missing)
    assert verdict.good == there


@pytest.mark.parametrize(
    ("there", "silent", "state", "missing"),
    [
        ((0, 1, 2, 3), (4,), State.UNKNOWN, 0),  # it may have all
        ((0, 1, 2), (4,), State.CRITICAL, 1),  # one is missing for certain
        ((0, 1, 2), (3, 4), State.UNKNOWN, 0),
        ((0, 1), (4,), State.UNKNOWN, 2),  # it may be lost
        ((0,), (4,), State.LOST, 3),  # it is lost, whatever the silent one has
        ((), (2, 3, 4), State.UNKNOWN, 2),
    ],
)
def test_what_is_silent(there: tuple[int, ...], silent: tuple[int, ...], state: State, missing: int) -> None:
    verdict = judge(FIVE, all_of(*there), needed=3, silent=silent)
    assert (verdict.state, verdict.missing, verdict.silent) == (state, missing, silent)


def test_what_is_known_does_not_become_silent() -> None:
    verdict = judge(FIVE, all_of(0, 1, 2, 3, 4), needed=3, silent=(4,))
    assert (verdict.state, verdict.silent, verdict.good) == (State.HEALTHY, (), (0, 1, 2, 3, 4))


def test_damaged_shares() -> None:
    verdict = judge(FIVE, all_of(0, 1, 2, 3, 4), needed=3, bad=(4, 3))
    assert (verdict.state, verdict.bad, verdict.missing, verdict.left) == (State.CRITICAL, (3, 4), 2, 0)
    few = judge(FIVE, all_of(0, 1, 2, 3), needed=3, bad=(2, 3))
    assert few.state is State.UNKNOWN, "the damaged ones may have the blocks that are missing"
    assert few.left == -1
    assert judge(FIVE, all_of(0, 1), needed=3, bad=(1,)).state is State.LOST


def test_one_that_is_damaged_and_all_there_is_not_healthy() -> None:
    ground = Ground(sites(6), Coding(3, 4, 5))
    verdict = judge(ground, all_of(*range(6)), needed=3, bad=(5,))
    assert (verdict.state, verdict.missing) == (State.DEGRADED, 0)


def test_what_is_beside_may_be_the_object() -> None:
    assert judge(FIVE, all_of(0, 1), needed=3, beside=(2,)).state is State.UNKNOWN
    assert judge(FIVE, all_of(0, 1), needed=3, beside=(1,)).state is State.LOST
    assert judge(FIVE, all_of(0, 1, 2), needed=3, beside=(3, 4)).state is State.CRITICAL


def test_a_zone_is_lost_at_once() -> None:
    places = [site(0, "a", "home"), site(1, "b", "home"), site(2, "c", "home"), site(3, "d"), site(4, "e")]
    ground = Ground(places, Coding(3, 4, 5))
    assert ground.best(3) == 0
    verdict = judge(ground, all_of(*range(5)), needed=3)
    assert (verdict.state, verdict.left) == (State.HEALTHY, 0), "as well as these stores allow"
    assert not verdict.crowded


def test_shares_of_one_store_are_lost_at_once() -> None:
    places = [site(0, "a"), site(1, "a"), site(2, "b"), site(3, "c")]
    verdict = judge(Ground(places, Coding(2, 3, 3)), all_of(0, 1, 2), needed=2)
    assert (verdict.state, verdict.left, verdict.crowded) == (State.CRITICAL, 0, True)
    spread = judge(Ground(places, Coding(2, 3, 3)), all_of(0, 2, 3), needed=2)
    assert (spread.state, spread.left, spread.crowded) == (State.HEALTHY, 1, False)


def test_a_store_does_not_share_the_zone_of_its_name() -> None:
    places = [site(0, "home"), site(1, "b", "home"), site(2, "c")]
    assert judge(Ground(places, Coding(2, 2, 3)), all_of(0, 1, 2), needed=2).left == 1


def test_shares_on_retired_stores_count_and_do_not_make_it_whole() -> None:
    places = [*sites(4), site(4, "old", takes_shares=False), site(5, "new")]
    ground = Ground(places, Coding(3, 4, 5))
    verdict = judge(ground, all_of(*range(5)), needed=3)
    assert (verdict.state, verdict.left, verdict.missing, verdict.retired) == (State.DEGRADED, 2, 1, (4,))


def test_fewer_stores_than_shares() -> None:
    verdict = judge(Ground(sites(4), Coding(3, 4, 5)), all_of(0, 1, 2, 3), needed=3)
    assert (verdict.state, verdict.missing) == (State.DEGRADED, 1)


# Lengths.


def test_a_share_of_another_length_is_bad() -> None:
    verdict = judge(FIVE, {**all_of(0, 1, 2, 3), 4: SIZE - 1}, needed=3)
    assert (verdict.state, verdict.bad, verdict.good) == (State.DEGRADED, (4,), (0, 1, 2, 3))


def test_tables_of_other_lengths_are_not() -> None:
    longer = {0: SIZE, 1: SIZE + TABLE_ENTRY, 2: SIZE + 2 * TABLE_ENTRY, 3: SIZE, 4: SIZE - TABLE_ENTRY}
    assert judge(FIVE, longer, needed=3).state is State.HEALTHY


def test_what_most_agree_on_is_not_the_most_frequent_length() -> None:
    """Three shares with different tables belong together, and outnumber two that are cut off at the same place."""
    sizes = {0: SIZE, 1: SIZE + TABLE_ENTRY, 2: SIZE + 2 * TABLE_ENTRY, 3: 100, 4: 100}
    verdict = judge(FIVE, sizes, needed=3)
    assert (verdict.good, verdict.bad) == ((0, 1, 2), (3, 4))


@pytest.mark.parametrize("size", [0, 1, 3, 1000, SEGMENT_SIZE, SEGMENT_SIZE + 1])
@pytest.mark.parametrize("needed", [1, 2, 3])
def test_lengths_are_those_of_real_shares(size: int, needed: int) -> None:
    made = upload(content(size), needed, range(5))
    sizes = {number: len(share) for number, share in made.shares.items()}
    ground = Ground(sites(5), Coding(needed, 4, 5))
    found, least, lengths = needed_of(ground, Cipher.AEGIS256, len(KEY), size, sizes.values())
    assert (found, least) == (needed, needed)
    assert judge(ground, sizes, needed=found, lengths=lengths).state is State.HEALTHY
    for wrong in (-1, 1, -TABLE_ENTRY * 5):
        cut = {**sizes, 4: sizes[4] + wrong}
        assert judge(ground, cut, needed=found, lengths=lengths).bad == (4,)
    all_cut = {number: size - 1 for number, size in sizes.items()}
    assert judge(ground, all_cut, needed=found, lengths=lengths).state is State.UNKNOWN, "and not healthy"


@pytest.mark.parametrize("size", [2000, SEGMENT_SIZE, 3 * SEGMENT_SIZE])
def test_after_a_change_of_the_coding_lengths_tell_what_an_object_is_coded_by(size: int) -> None:
    ground = Ground(sites(5), Coding(2, 4, 5), earlier=[3])
    for needed in (2, 3):
        length = share_length(Layout(size, needed, Cipher.AEGIS256.overhead), len(KEY), 5)
        assert needed_of(ground, Cipher.AEGIS256, len(KEY), size, [length] * 4)[:2] == (needed, needed)


def test_where_lengths_do_not_tell_nothing_is_said_to_be_better_than_it_is() -> None:
    """Shares of an empty object are as long by any coding."""
    ground = Ground(sites(5), Coding(2, 4, 5), earlier=[3])
    length = share_length(Layout(0, 3, Cipher.AEGIS256.overhead), len(KEY), 5)
    needed, least, lengths = needed_of(ground, Cipher.AEGIS256, len(KEY), 0, [length, length])
    assert (needed, least) == (3, 2)
    two = judge(ground, all_of(0, 1, size=length), needed=needed, least=least, lengths=lengths)
    assert (two.state, two.left) == (State.UNKNOWN, -1), "neither alive nor lost for certain"
    one = judge(ground, all_of(0, size=length), needed=needed, least=least, lengths=lengths)
    assert one.state is State.LOST


def test_shares_of_two_codings_are_not_counted_together() -> None:
    size = 3 * SEGMENT_SIZE
    ground = Ground(sites(5), Coding(2, 4, 5), earlier=[3])
    old, new = (share_length(Layout(size, each, Cipher.AEGIS256.overhead), len(KEY), 5) for each in (3, 2))
    sizes = {0: old, 1: old, 2: new, 3: new}
    needed, least, lengths = needed_of(ground, Cipher.AEGIS256, len(KEY), size, sizes.values())
    verdict = judge(ground, sizes, needed=needed, least=least, lengths=lengths)
    assert len(verdict.good) == 2
    assert verdict.state is State.UNKNOWN


def test_an_unknown_size() -> None:
    ground = Ground(sites(5), Coding(2, 4, 5), earlier=[3])
    assert needed_of(ground, Cipher.AEGIS256, 10, None, [SIZE]) == (3, 2, None)
    assert needed_of(FIVE, Cipher.AEGIS256, 10, None, [SIZE]) == (3, 3, None)


def test_the_worst_comes_first() -> None:
    verdicts = [
        judge(FIVE, all_of(*there), needed=3, bad=bad)
        for there, bad in [
            ((0, 1, 2, 3, 4), ()),
            ((0, 1, 2, 3), ()),
            ((0, 1, 2), ()),
            ((0, 1, 2, 3), (3,)),
        ]
    ]
    order = sorted(range(4), key=lambda index: worst_first(verdicts[index]))
    assert order == [3, 2, 1, 0]


# For any grid.


@st.composite
def cases(draw: st.DrawFn) -> tuple[Grid, frozenset[int], frozenset[int], frozenset[str]]:
    """A grid, the shares that there are in truth, those that are known to be bad, and stores that are silent."""
    grid = draw(grids())
    numbers = [each.number for each in grid.sites]
    there = draw(st.frozensets(st.sampled_from(numbers)))
    bad = draw(st.frozensets(st.sampled_from(sorted(there)))) if there else frozenset()
    silent = draw(st.frozensets(st.sampled_from(sorted({each.name for each in grid.sites})), max_size=3))
    return grid, there, bad, silent


@given(cases())
@example((Grid(sites(1), Coding(1, 1, 1)), frozenset([0]), frozenset(), frozenset(["store0"])))
def test_never_better_than_it_is(case: tuple[Grid, frozenset[int], frozenset[int], frozenset[str]]) -> None:
    grid, there, bad, silent_stores = case
    needed, total = grid.coding.needed, grid.coding.total
    silent = {each.number for each in grid.sites if each.name in silent_stores}
    seen = there - silent
    verdict = judge(
        Ground(grid.sites, grid.coding), dict.fromkeys(seen, SIZE), needed=needed, bad=bad & seen, silent=silent
    )
    good = seen - bad
    certain = sure_to_lose({number: grid.zones[number] for number in good}, needed)
    assert verdict.left == certain
    assert set(verdict.good) == good
    assert set(verdict.bad) == bad & seen
    possible = len(seen | silent)  # the bad ones may have just the blocks that it takes
    active = good & set(grid.active)
    whole = len(active) >= total and (
        sure_to_lose({number: grid.zones[number] for number in active}, needed) >= grid.best(needed)
    )
    assert (verdict.state is State.HEALTHY) == (whole and certain >= 0 and not verdict.bad)
    assert (verdict.state is State.LOST) == (possible < needed)
    if certain < 0:
        assert verdict.state in (State.LOST, State.UNKNOWN)
    if verdict.state is State.CRITICAL:
        assert certain == 0
    if verdict.state is State.DEGRADED:
        assert certain > 0
    if verdict.state is State.UNKNOWN:
        assert silent or bad
    assert verdict.missing == max(0, total - len((good | silent) & set(grid.active)))
    assert verdict.crowded == (len(active) >= total and not whole)


@given(grids())
def test_the_best_is_the_most_that_any_choice_of_places_bears(grid: Grid) -> None:
    ground = Ground(grid.sites, grid.coding)
    for needed in range(1, 4):
        assert ground.best(needed) == grid.best(needed)
