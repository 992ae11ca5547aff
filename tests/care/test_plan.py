from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annex_remote.care.health import Ground, State
from annex_remote.care.plan import Census, Job, plan_rebalance, plan_repair, size_of_key
from annex_remote.care.survey import Stray
from annex_remote.model import Coding
from annex_remote.shares.crypto import Cipher
from annex_remote.shares.format import Header
from tests.care.grounds import SIZE, Grid, applied, census_of, grids, site, sites, sure_to_lose, survey_of

A, B, C, D = ("abcd"[index] * 32 for index in range(4))
CODING = Coding(3, 4, 5)
NOTHING: Mapping[str, int] = {}


def have(*numbers: int, size: int = SIZE) -> dict[int, int]:
    return dict.fromkeys(numbers, size)


def rebalance(
    census: Census,
    free: Mapping[str, int] = NOTHING,
    most: Mapping[str, int] = NOTHING,
    only_from: list[str] | None = None,
) -> list[Job]:
    return plan_rebalance(census, free=free, most=most, only_from=only_from)


@pytest.mark.parametrize(
    ("key", "size"),
    [
        ("SHA256E-s3--abc.txt", 3),
        ("WORM-s3-m1700000000--file-s9.txt", 3),
        ("WORM-m1700000000-s12--file", 12),
        ("SHA256E-s1000-S100-C1--abc", None),
        ("URL--http&c%%example.org-s5", None),
        ("URL-s5--http&c%%example.org", 5),
        ("SHA256E-sx--abc", None),
    ],
)
def test_what_a_key_tells_about_sizes(key: str, size: int | None) -> None:
    assert size_of_key(key) == size


# The census.


def test_shares_that_could_not_be_read_are_neither_there_nor_missing() -> None:
    census = census_of(sites(5), CODING, {A: have(0, 1, 2, 3, 4)})
    census.unread[A] = {3, 4}
    verdict = census.verdict(A)
    assert (verdict.state, verdict.silent, verdict.left, verdict.missing) == (State.UNKNOWN, (3, 4), 0, 0)
    census.mend(A, 3)
    assert census.verdict(A).silent == (4,)


def test_known_damage_counts_until_it_is_mended_and_where_there_is_a_share() -> None:
    census = census_of(sites(5), CODING, {A: have(0, 1, 2, 3)})
    census.note_damaged(A, 3, "a block")
    census.note_damaged(A, 4, "was there once")
    assert census.verdict(A).bad == (3,)
    census.mend(A, 3)
    assert census.verdict(A).bad == ()


def test_headers_tell_strangers_and_what_it_takes() -> None:
    census = census_of(sites(5), CODING, {A: have(0, 1, 2, 3, 4)})
    header = Header(Cipher.AEGIS256, 2, 100, A, bytes(32), b"")
    other = Header(Cipher.AEGIS256, 2, 100, A, bytes([1] * 32), b"")
    census.headers[A] = {0: header, 1: header, 2: other}
    verdict = census.verdict(A)
    assert (verdict.needed, verdict.bad, verdict.good) == (2, (2,), (0, 1, 3, 4))


def test_only_what_was_asked_about() -> None:
    census = census_of(sites(5), CODING, {A: have(0), B: have(1)})
    census.only = {B}
    assert [object_id for object_id, _ in census] == [B]


def test_staged_shares_keep_an_object_from_being_lost() -> None:
    census = census_of(sites(5), CODING, {A: have(0, 1)})
    census.survey.staged[A] = {2: SIZE}
    assert census.verdict(A).state is State.UNKNOWN
    assert [job.object_id for job in plan_repair(census)] == [A]


# Repair.


def test_the_worst_comes_first_and_what_is_whole_is_left_alone() -> None:
    objects = {A: have(0, 1, 2, 3, 4), B: have(0, 1, 2, 3), C: have(0, 1, 2), D: have(0, 1)}
    jobs = plan_repair(census_of(sites(5), CODING, objects))
    assert [job.object_id for job in jobs] == [C, B]
    assert [(job.add, job.drop) for job in jobs] == [(None, ()), (None, ())]
    assert [(job.reads, job.writes) for job in jobs] == [(3 * SIZE, 2 * SIZE), (3 * SIZE, SIZE)]


def test_damaged_shares_are_made_anew() -> None:
    census = census_of(sites(5), CODING, {A: have(0, 1, 2, 3, 4)})
    census.note_damaged(A, 4, "a block")
    [job] = plan_repair(census)
    assert (job.add, job.drop, job.writes) == (None, (4,), SIZE)


def test_damaged_ones_may_be_enough_together() -> None:
    census = census_of(sites(5), CODING, {A: have(0, 1, 2, 3)})
    for number in (1, 2, 3):
        census.note_damaged(A, number, "a block")
    assert [job.drop for job in plan_repair(census)] == [(1, 2, 3)]


def test_nothing_is_made_in_the_place_of_what_is_silent() -> None:
    assert plan_repair(census_of(sites(5), CODING, {A: have(0, 1, 2, 3)}, failed=["store4"])) == []
    [job] = plan_repair(census_of(sites(5), CODING, {A: have(0, 1, 2)}, failed=["store4"]))
    assert (job.verdict.missing, job.writes) == (1, SIZE)


def test_nothing_is_begun_that_no_store_takes() -> None:
    assert plan_repair(census_of(sites(4), CODING, {A: have(0, 1, 2, 3)})) == []
    [job] = plan_repair(census_of(sites(4), CODING, {A: have(0, 1, 2)}))
    assert job.writes == SIZE, "one of the two that are missing has a place"


def test_only_below() -> None:
    census = census_of(sites(5), CODING, {A: have(0, 1, 2, 3), B: have(0, 1, 2)})
    assert [job.object_id for job in plan_repair(census, only_below=1)] == [B]
    assert [job.object_id for job in plan_repair(census, only_below=2)] == [B, A]


def test_strays_are_tidied_with_it() -> None:
    census = census_of(sites(5), CODING, {A: have(0, 1, 2, 3, 4), B: have(0, 1, 2, 3, 4)})
    stray = Stray("store1", f"{A[:2]}/{A}.0", SIZE)
    census.survey.strays[A] = [stray]
    [job] = plan_repair(census)
    assert (job.object_id, job.strays, job.reads, job.writes) == (A, (stray,), 0, 0)


def test_what_reading_costs_by_the_cheapest_sources() -> None:
    places = [site(number, f"store{number}", price=float(number)) for number in range(5)]
    [job] = plan_repair(census_of(places, CODING, {A: have(1, 2, 3, 4, size=2**30)}))
    assert job.price == 1 + 2 + 3


@given(grids(), st.data())
def test_a_repair_names_what_may_be_read_and_needs_something(grid: Grid, data: st.DataObject) -> None:
    numbers = [each.number for each in grid.sites]
    there = data.draw(st.frozensets(st.sampled_from(numbers)))
    bad = data.draw(st.frozensets(st.sampled_from(sorted(there)))) if there else frozenset()
    census = census_of(grid.sites, grid.coding, {A: have(*there)})
    for number in bad:
        census.note_damaged(A, number, "a block")
    jobs = plan_repair(census)
    active = set(grid.active)
    room = active - (there - bad)
    short = len(active & (there - bad)) < grid.coding.total
    assert bool(jobs) == (len(there) >= grid.coding.needed and bool(bad or (short and room)))


# Rebalance.


def test_adding_a_store_moves_nothing() -> None:
    objects = {A: have(0, 1, 2, 3, 4), B: have(0, 1, 2, 3, 4)}
    assert rebalance(census_of(sites(6), CODING, objects)) == []
    assert rebalance(census_of([*sites(5), site(5, "new", "elsewhere")], CODING, objects)) == []


def test_a_store_that_was_missing_gets_what_was_missing() -> None:
    [job] = rebalance(census_of(sites(5), CODING, {A: have(0, 1, 2, 3)}))
    assert (job.add, job.drop) == ((4,), ())


def test_retired_stores_are_emptied() -> None:
    places = [*sites(4), site(4, "old", takes_shares=False), site(5, "new")]
    [job] = rebalance(census_of(places, CODING, {A: have(0, 1, 2, 3, 4)}))
    assert (job.add, job.drop) == ((5,), (4,))
    [job] = rebalance(census_of(places, CODING, {A: have(0, 1, 2, 3, 4, 5)}))
    assert (job.add, job.drop) == ((), (4,))


def test_what_no_store_takes_stays_on_a_retired_one() -> None:
    places = [*sites(4), site(4, "old", takes_shares=False)]
    assert rebalance(census_of(places, CODING, {A: have(0, 1, 2, 3, 4)})) == []
    places.append(site(5, "new"))
    census = census_of(places, CODING, {A: have(0, 1, 2, 3, 4)})
    assert rebalance(census, free={"new": SIZE - 1}) == []
    assert rebalance(census, free={"new": SIZE}) != []


def test_a_retired_store_keeps_what_makes_up_for_a_silent_one() -> None:
    places = [*sites(5), site(5, "old", takes_shares=False)]
    census = census_of(places, CODING, {A: have(0, 1, 2, 3, 5)}, failed=["store4"])
    assert rebalance(census) == []


def test_only_what_is_on_named_stores() -> None:
    places = [*sites(4), site(4, "old", takes_shares=False), site(5, "older", takes_shares=False), site(6, "new")]
    census = census_of(places, CODING, {A: have(0, 1, 2, 4, 5), B: have(0, 1, 2)})
    jobs = rebalance(census, only_from=["older"])
    assert [(job.object_id, job.drop) for job in jobs] == [(A, (5,))]
    assert len(jobs[0].add or ()) == 1


def test_crowded_shares_are_spread_if_that_is_worth_something() -> None:
    places = [site(0, "a"), site(1, "a"), site(2, "b"), site(3, "c")]
    [job] = rebalance(census_of(places, Coding(2, 3, 3), {A: have(0, 1, 2)}))
    assert (job.add, job.drop) == ((3,), (1,))
    worthless = [site(0, "a"), site(1, "a"), site(2, "a"), site(3, "b")]
    assert rebalance(census_of(worthless, Coding(2, 3, 3), {A: have(0, 1, 2)})) == []


def test_a_move_that_gains_nothing_is_not_made() -> None:
    """From three and none to two and one: the loss of the crowded place is borne as little."""
    places = [site(0, "a"), site(1, "a"), site(2, "a"), site(3, "b"), site(4, "c")]
    census = census_of(places, Coding(3, 3, 3), {A: have(0, 1, 2)})
    assert census.ground.best(3) == 0
    assert rebalance(census) == []
    needs_two = census_of(places, Coding(2, 3, 3), {A: have(0, 1, 2)})
    assert rebalance(needs_two, free={"c": 0}) == []
    [job] = rebalance(needs_two)
    assert job.add == (3, 4)


def test_stores_above_what_they_may_keep_are_relieved_and_no_more_than_that() -> None:
    objects = {each: have(0, 1, 2, 3, 4) for each in (A, B, C, D)}
    jobs = rebalance(census_of(sites(6), CODING, objects), most={"store2": 2 * SIZE + 1})
    assert [(job.object_id, job.add, job.drop) for job in jobs] == [(A, (5,), (2,)), (B, (5,), (2,))]


def test_stores_are_not_filled_above_what_they_have_room_for() -> None:
    objects = {each: have(0, 1, 2, 3, 4) for each in (A, B, C, D)}
    census = census_of(sites(6), CODING, objects)
    assert len(rebalance(census, most={"store2": 0}, free={"store5": 3 * SIZE})) == 3
    assert len(rebalance(census, most={"store2": 0, "store5": 2 * SIZE})) == 2
    assert len(rebalance(census, most={"store2": 0, "store5": 2 * SIZE}, free={"store5": SIZE})) == 1
    assert rebalance(census, most={"store2": 0, "store5": 0}) == []


def test_relief_does_not_crowd_others() -> None:
    places = [*sites(5), site(5, "store0")]
    census = census_of(places, CODING, {A: have(0, 1, 2, 3, 4)})
    assert rebalance(census, most={"store4": 0}) == []


def test_two_shares_of_an_object_take_twice_the_room() -> None:
    places = [*sites(3), site(3, "new"), site(4, "new")]
    [job] = rebalance(census_of(places, CODING, {A: have(0, 1, 2)}), free={"new": 2 * SIZE - 1})
    assert len(job.add or ()) == 1


def test_nothing_is_moved_to_where_a_damaged_share_is() -> None:
    """It is made anew there by a repair."""
    census = census_of(sites(5), CODING, {A: have(0, 1, 2, 3, 4)})
    census.note_damaged(A, 4, "a block")
    assert rebalance(census) == []
    assert [job.drop for job in plan_repair(census)] == [(4,)]


def test_nothing_is_spread_while_something_is_silent() -> None:
    """The silent store may be where the crowd is, or have its share already."""
    places = [site(0, "a"), site(1, "a"), site(2, "b"), site(3, "c"), site(4, "d")]
    assert rebalance(census_of(places, Coding(2, 3, 4), {A: have(0, 1, 2)}, failed=["c"])) == []
    whole = census_of(places, Coding(2, 3, 4), {A: have(0, 1, 2, 3)})
    assert rebalance(whole) != []


def test_what_is_lost_is_not_moved() -> None:
    places = [*sites(4), site(4, "old", takes_shares=False)]
    assert rebalance(census_of(places, CODING, {A: have(0, 4)})) == []


@st.composite
def vaults(draw: st.DrawFn) -> tuple[Grid, Census]:
    grid = draw(grids())
    numbers = st.frozensets(st.sampled_from([each.number for each in grid.sites]))
    objects = {each: have(*draw(numbers)) for each in (A, B, C, D)[: draw(st.integers(1, 4))]}
    stores = sorted({each.name for each in grid.sites})
    failed = draw(st.lists(st.sampled_from(stores), max_size=1))
    # What is silent has told nothing.
    silent = {each.number for each in grid.sites if each.name in failed}
    objects = {
        each: {number: size for number, size in sizes.items() if number not in silent}
        for each, sizes in objects.items()
    }
    return grid, census_of(grid.sites, grid.coding, objects, failed)


def bears(grid: Grid, census: Census, object_id: str, within: set[int] | None = None) -> int:
    there = set(census.survey.shares(object_id))
    return sure_to_lose(
        {number: grid.zones[number] for number in (there if within is None else there & within)},
        grid.coding.needed,
    )


@given(vaults())
def test_every_move_is_for_the_better_and_then_there_is_nothing_more_to_do(vault: tuple[Grid, Census]) -> None:
    grid, census = vault
    needed, total, active = grid.coding.needed, grid.coding.total, set(grid.active)
    jobs = rebalance(census)
    after = applied(census, jobs)
    assert rebalance(after) == []
    for job in jobs:
        assert set(job.add or ()) <= active, "nothing goes to stores that take none"
        assert not set(job.add or ()) & set(job.verdict.silent)
        assert not set(job.drop) & set(job.verdict.silent)
    for object_id in census.survey:
        bore, borne = bears(grid, census, object_id), bears(grid, after, object_id)
        best = grid.best(needed)
        assert borne >= min(bore, best)
        there = set(after.survey.shares(object_id))
        if bore < 0:
            assert there == set(census.survey.shares(object_id))
            continue
        if not census.survey.failed:
            assert len(there & active) >= min(total, len(active))
            assert bears(grid, after, object_id, active) >= best, "as well spread as the stores allow"
            if len(active) >= total:
                assert there <= active, "retired stores are empty"


@given(vaults())
def test_no_more_is_moved_than_it_takes(vault: tuple[Grid, Census]) -> None:
    grid, census = vault
    if census.survey.failed:
        return
    needed, total, active = grid.coding.needed, grid.coding.total, set(grid.active)
    for job in rebalance(census):
        there = set(census.survey.shares(job.object_id)) & active
        missing = max(0, min(total, len(active)) - len(there))
        moved = len(job.add or ()) - missing
        # No way that keeps one more of the shares where they are would be as good.
        count = max(total, len(there))
        for kept in range(len(there), len(there) - moved, -1):
            for stay in combinations(sorted(there), kept):
                for come in combinations(sorted(active - set(stay)), min(count, len(active)) - kept):
                    zones = {number: grid.zones[number] for number in (*stay, *come)}
                    assert sure_to_lose(zones, needed) < grid.best(needed)


@given(vaults(), st.data())
def test_limits_are_kept(vault: tuple[Grid, Census], data: st.DataObject) -> None:
    grid, census = vault
    stores = sorted({each.name for each in grid.sites})
    sizes = st.dictionaries(st.sampled_from(stores), st.integers(0, 4).map(lambda count: count * SIZE))
    free, most = data.draw(sizes), data.draw(sizes)
    used = {store: size for store, (_, size) in census.survey.used().items()}
    after = applied(census, rebalance(census, free=free, most=most))
    for store, (_, size) in after.survey.used().items():
        gained = size - used[store]
        assert gained <= 0 or gained <= free.get(store, gained)
        assert size <= max(most.get(store, size), used[store])
    for object_id in census.survey:
        assert bears(grid, after, object_id) >= min(bears(grid, census, object_id), grid.best(grid.coding.needed))


def test_the_same_plan_from_the_same_observations() -> None:
    places = [*sites(4), site(4, "old", takes_shares=False), site(5, "b"), site(6, "c")]
    objects = {each: have(0, 1, 2, 3, 4) for each in (A, B, C, D)}
    first = rebalance(census_of(places, CODING, objects))
    again = rebalance(census_of(places, CODING, dict(reversed(objects.items()))))
    assert [(job.object_id, job.add, job.drop) for job in first] == [
        (job.object_id, job.add, job.drop) for job in again
    ]


def test_a_census_has_objects_of_which_nothing_is_left_but_their_name() -> None:
    survey = survey_of(sites(5), {})
    key = "SHA256E-s3--abc"
    survey.know([A])
    census = Census(survey, Ground(sites(5), CODING), Cipher.AEGIS256, {A: key})
    assert [verdict.state for _, verdict in census] == [State.LOST]
    assert plan_repair(census) == []
