"""What nobody wants, from what is known: nothing goes of which that is not certain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annex_remote.care.garbage import (
    FEW,
    Item,
    KeepList,
    Knowledge,
    Leftover,
    Plan,
    Why,
    by_store,
    chunks_of,
    left_over,
    parent_of,
    refusal,
    too_young,
)
from annex_remote.care.health import Ground
from annex_remote.care.plan import Census
from annex_remote.care.survey import Stray, Survey
from annex_remote.errors import Unavailable
from annex_remote.model import Coding, ShareName, staged_name
from annex_remote.shares.crypto import Cipher
from annex_remote.transfer.sites import Site
from tests.fakes import MemoryStore

OBJECT = "a" * 32
OTHER = "b" * 32
KEY = "SHA256E-s100--abc.txt"
CODING = Coding(2, 2, 3)
ALL = {0: 500, 1: 500, 2: 500}


def site(number: int) -> Site:
    return Site(number, f"store{number}", MemoryStore())


def census_of(
    objects: Mapping[str, Mapping[int, int]], failed: Sequence[int] = (), earlier: Sequence[int] = ()
) -> Census:
    sites = [site(number) for number in range(3)]
    survey = Survey(sites)
    for object_id, sizes in objects.items():
        for number, size in sizes.items():
            survey.add(object_id, number, size)
    survey.failed |= {f"store{number}": Unavailable("silent") for number in failed}
    return Census(survey, Ground(sites, CODING, earlier), Cipher.AEGIS256)


def item(number: int, object_id: str = OBJECT, size: int = 500) -> Item:
    return Item(f"store{number}", str(ShareName(object_id, number)), size)


def knows(*keys: str) -> Knowledge:
    """git-annex knows these keys, and a copy of each."""
    return Knowledge(keys, keys)


NOTHING = Knowledge()
LISTED = KeepList({KEY}, {OBJECT: KEY})


# Names.


@pytest.mark.parametrize(
    ("chunk", "parent"),
    [
        ("SHA256E-s100-S50-C1--abc.txt", KEY),
        ("SHA256E-s100-S50-C12--abc.txt", KEY),
        (KEY, KEY),
        ("WORM-s3-m1700000000-S2-C2--file", "WORM-s3-m1700000000--file"),
        ("WORM-s3-m1700000000--file-S2-C2", "WORM-s3-m1700000000--file-S2-C2"),
        ("SHA256E-s100--a-S50-C1--b", "SHA256E-s100--a-S50-C1--b"),
        ("SHA1-s1--C3", "SHA1-s1--C3"),
        ("SKEIN256-s1-S1-C1--x", "SKEIN256-s1--x"),
        ("nothing of the kind", "nothing of the kind"),
    ],
)
def test_the_key_that_a_chunk_is_of(chunk: str, parent: str) -> None:
    assert parent_of(chunk) == parent


@given(st.integers(0, 3000), st.integers(0, 1000))
def test_chunks_are_of_their_key(size: int, chunk: int) -> None:
    key = f"SHA256-s{size}-m17--S1-C1"
    chunks = list(chunks_of(key, chunk))
    assert {parent_of(each) for each in chunks} <= {key}
    assert len(chunks) == (-(-size // chunk) if chunk else 0)
    assert chunks[:1] in ([], [f"SHA256-s{size}-m17-S{chunk}-C1--S1-C1"])


def test_the_chunks_of_a_key_of_no_size_are_not_guessed() -> None:
    assert list(chunks_of("URL--http://example.org", 10)) == []


def test_an_item_says_where_it_lies() -> None:
    stores = {"store1": site(1)}
    stray = Item("store1", str(ShareName(OBJECT, 7)), 3)
    there = stray.site(stores)
    assert (there.number, there.name, there.staged, there.name_of(OBJECT)) == (7, "store1", False, stray.name)
    assert there.store is stores["store1"].store
    assert there.gate is stores["store1"].gate
    staged = Item("store1", staged_name(OBJECT, 1), 3)
    assert staged.site(stores).name_of(OBJECT) == staged.name


# What is left over.


def test_what_is_on_the_list_stays() -> None:
    assert left_over(census_of({OBJECT: ALL}), LISTED, {}, NOTHING) == ([], [])


def test_what_is_on_no_list_may_go_with_all_that_there_is_of_it() -> None:
    census = census_of({OBJECT: ALL, OTHER: {1: 500}})
    census.survey.strays[OTHER].append(Stray("store0", str(ShareName(OTHER, 9)), 7))
    census.survey.staged[OTHER][2] = 8
    gone = "SHA256E-s100--gone"
    found, kept = left_over(census, LISTED, {OTHER: gone}, knows(gone))
    stray = Item("store0", str(ShareName(OTHER, 9)), 7)
    staged = Item("store2", staged_name(OTHER, 2), 8)
    assert found == [Leftover(OTHER, gone, (item(1, OTHER), stray, staged))]
    assert found[0].size == 515
    assert kept == []


@pytest.mark.parametrize(
    "key", ["GITMANIFEST--uuid", "GITMANIFEST--uuid.bak", "GITBUNDLE-s9--uuid-abc", "SHA256E-s100-S50-C1--abc.txt"]
)
def test_git_repositories_and_chunks_stay(key: str) -> None:
    census = census_of({OTHER: ALL})
    assert left_over(census, LISTED, {OTHER: key}, knows(KEY, key), strangers=True) == ([], [])


@pytest.mark.parametrize(
    "key", ["SHA256E-s100-S50-C1--abd.txt", "GITBUNDLES-s1--x", "SHA256E-s10-S50-C1--abc.txt"]
)
def test_what_only_looks_like_them_may_go(key: str) -> None:
    found, kept = left_over(census_of({OTHER: ALL}), LISTED, {OTHER: key}, knows(parent_of(key)))
    assert [each.object_id for each in found] == [OTHER]
    assert kept == []


@pytest.mark.parametrize("read", [{}, {OTHER: "GPGHMACSHA1--0123"}])
def test_a_name_that_cannot_be_read_stays(read: dict[str, str]) -> None:
    census = census_of({OTHER: {0: 500}})
    found, [(each, why)] = left_over(census, LISTED, read, knows(*read.values()), strangers=True)
    assert (found, each.object_id, why) == ([], OTHER, Why.NO_NAME)


def test_a_key_that_nobody_has_heard_of_stays_unless_it_is_said() -> None:
    """It may be of a clone that was not met: what it has dropped there may be nowhere else."""
    census = census_of({OTHER: {0: 500}})
    read = {OTHER: "SHA256E-s100-S50-C1--new"}
    found, [(each, why)] = left_over(census, LISTED, read, knows(KEY))
    assert (found, each.object_id, why) == ([], OTHER, Why.STRANGER)
    assert len(left_over(census, LISTED, read, knows("SHA256E-s100--new"))[0]) == 1
    assert len(left_over(census, LISTED, read, knows(KEY), strangers=True)[0]) == 1


@pytest.mark.parametrize(
    ("numbers", "failed", "stays"),
    [([0], [], False), ([0, 1], [], True), ([0], [0], False), ([0], [1], True), ([2], [0, 1], True)],
)
def test_what_may_be_the_last_copy_stays(numbers: list[int], failed: list[int], stays: bool) -> None:
    census = census_of({OTHER: dict.fromkeys(numbers, 500)}, failed)
    key = "SHA256E-s100--gone"
    found, kept = left_over(census, LISTED, {OTHER: key}, Knowledge({key}, {KEY}))
    assert [why for _, why in kept] == [Why.LAST] * stays
    assert len(found) == (not stays)
    assert len(left_over(census, LISTED, {OTHER: key}, knows(key))[0]) == 1


def test_a_last_copy_may_be_beside_where_it_belongs_or_of_an_earlier_coding() -> None:
    key = "SHA256E-s100--gone"
    census = census_of({OTHER: {0: 500}})
    census.survey.strays[OTHER].append(Stray("store1", str(ShareName(OTHER, 9)), 500))
    assert left_over(census, LISTED, {OTHER: key}, Knowledge({key}))[1][0][1] is Why.LAST
    census = census_of({OTHER: {0: 500}}, earlier=[1])
    assert left_over(census, LISTED, {OTHER: key}, Knowledge({key}))[1][0][1] is Why.LAST


@pytest.mark.parametrize(
    ("sizes", "failed", "earlier", "damaged"),
    [
        (ALL, [], [], False),
        ({0: 500, 1: 500}, [], [], False),
        ({0: 500, 1: 500}, [2], [], False),
        (ALL, [], [], True),
        (ALL, [], [1], False),
    ],
)
def test_strays_of_what_is_wanted_stay(
    sizes: dict[int, int], failed: list[int], earlier: list[int], damaged: bool
) -> None:
    """However well the object seems to be: lists tell lengths, and its own shares may all be damaged."""
    census = census_of({OBJECT: sizes}, failed, earlier)
    if damaged:
        census.note_damaged(OBJECT, 0, "bad")
    stray, staged = Item("store1", str(ShareName(OBJECT, 2)), 500), Item("store1", staged_name(OBJECT, 1), 500)
    census.survey.strays[OBJECT].append(Stray(stray.store, stray.name, stray.size))
    census.survey.staged[OBJECT][1] = 500
    for strangers in (False, True):
        assert left_over(census, LISTED, {}, NOTHING, strangers=strangers) == (
            [],
            [(Leftover(OBJECT, KEY, (stray, staged), wanted=True), Why.BESIDE)],
        )


# Ages.


@pytest.mark.parametrize(
    ("ages", "why"),
    [
        ([10.0, 99.0], None),
        ([9.9, 99.0], Why.YOUNG),
        ([99.0, 9.9], Why.YOUNG),
        ([None, 99.0], Why.NO_AGE),
        ([99.0, None], Why.NO_AGE),
        ([0.0, None], Why.NO_AGE),
    ],
)
def test_the_youngest_counts(ages: list[float | None], why: Why | None) -> None:
    assert too_young(ages, 10.0) is why


# What is suspicious.


def plan(count: int, objects: int, *, wanted: int = 5, size: int = 10, total: int | None = None) -> Plan:
    go = [Leftover(f"{number:032}", "K", (Item("a", "x", size),)) for number in range(count)]
    return Plan(wanted, objects, size * objects if total is None else total, go=go)


def test_with_an_empty_list_nothing_goes_even_by_force() -> None:
    for force in (False, True):
        assert "git-annex knows of nothing that is to be there" in (
            refusal(plan(1, 100, wanted=0), force=force) or ""
        )
    assert refusal(plan(0, 100, wanted=0)) is None


def test_more_than_half_takes_force() -> None:
    said = refusal(plan(51, 100))
    assert said is not None
    assert "more than half would go, 51 of 100 objects, 510 of 1,000 bytes" in said
    assert "--force" in said
    assert refusal(plan(51, 100), force=True) is None
    assert refusal(plan(50, 100)) is None
    assert refusal(plan(51, 100, total=10_000)) is not None
    assert refusal(plan(FEW + 1, 100, total=201)) is not None
    assert refusal(plan(FEW + 1, 100, total=220)) is None
    assert refusal(plan(FEW, FEW)) is None
    assert refusal(plan(FEW + 1, FEW + 1)) is not None


def test_what_a_plan_comes_to() -> None:
    result = plan(1, 10)
    result.of_git = 2
    result.go.append(Leftover(OBJECT, KEY, (item(0), item(1, size=7))))
    result.kept = [
        (Leftover(OTHER, None, (item(0, OTHER),)), Why.NO_NAME),
        (Leftover(OTHER, KEY, (item(0, OTHER),), wanted=True), Why.BESIDE),
    ]
    assert result.by_store == {"a": (1, 10), "store0": (1, 500), "store1": (1, 7)}
    assert result.on_list == 5
    assert result.reasons == {Why.NO_NAME: 1, Why.BESIDE: 1}
    assert by_store([]) == {}
