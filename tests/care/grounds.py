"""Grids without stores: places, zones, and what lists of their stores would have said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from hypothesis import strategies as st

from annex_remote.care.health import Ground
from annex_remote.care.plan import Census, Job
from annex_remote.care.survey import Survey
from annex_remote.errors import Unavailable
from annex_remote.model import Coding
from annex_remote.shares.crypto import Cipher
from annex_remote.transfer.sites import Site
from tests.fakes import MemoryStore

OBJECT = "a" * 32
SIZE = 3300
"""Bytes of a share."""

_NOWHERE = MemoryStore()


def site(number: int, store: str, zone: str = "", takes_shares: bool = True, price: float = 0.0) -> Site:
    return Site(number, store, _NOWHERE, zone=zone, takes_shares=takes_shares, price=price)


def sites(count: int) -> list[Site]:
    """One number a store."""
    return [site(number, f"store{number}") for number in range(count)]


def survey_of(
    places: Sequence[Site], objects: Mapping[str, Mapping[int, int]], failed: Sequence[str] = ()
) -> Survey:
    survey = Survey(places)
    survey.know(objects)
    for object_id, sizes in objects.items():
        for number, size in sizes.items():
            survey.add(object_id, number, size)
    survey.failed |= {store: Unavailable("silent") for store in failed}
    return survey


def census_of(
    places: Sequence[Site],
    coding: Coding,
    objects: Mapping[str, Mapping[int, int]],
    failed: Sequence[str] = (),
    earlier: Sequence[int] = (),
) -> Census:
    return Census(survey_of(places, objects, failed), Ground(places, coding, earlier), Cipher.AEGIS256)


def sure_to_lose(places: Mapping[int, str], needed: int) -> int:
    """Return how many zones can be lost, whichever they are, so that `needed` shares are left: by trying all.

    `places` are the zones of shares that are there.
    """
    if len(places) < needed:
        return -1
    zones = sorted(set(places.values()))
    for lost in range(1, len(zones) + 1):
        for gone in combinations(zones, lost):
            if sum(zone not in gone for zone in places.values()) < needed:
                return lost - 1
    raise AssertionError("without any zone there is nothing")


@dataclass(frozen=True)
class Grid:
    """A grid of any form: stores of several numbers, zones of several stores, some retired."""

    sites: list[Site]
    coding: Coding

    @property
    def zones(self) -> dict[int, str]:
        return {each.number: each.zone or f"store {each.name}" for each in self.sites}

    @property
    def active(self) -> list[int]:
        return [each.number for each in self.sites if each.takes_shares]

    def best(self, needed: int) -> int:
        """Return the most that any choice of `total` places bears."""
        count = min(self.coding.total, len(self.active))
        return max(
            sure_to_lose({number: self.zones[number] for number in chosen}, needed)
            for chosen in combinations(self.active, count)
        )


@st.composite
def grids(draw: st.DrawFn, most: int = 8) -> Grid:
    stores = draw(st.lists(st.integers(1, 3), min_size=1, max_size=6))
    found: list[Site] = []
    for index, numbers in enumerate(stores):
        zone = draw(st.sampled_from(["", "", "home", "work"]))
        takes = draw(st.sampled_from([True, True, True, False])) or index == 0
        for _ in range(numbers):
            if len(found) < most:
                found.append(site(len(found), f"store{index}", zone, takes))
    needed = draw(st.integers(1, 4))
    total = draw(st.integers(needed, 6))
    return Grid(found, Coding(needed, needed, total))


def applied(census: Census, jobs: Sequence[Job]) -> Census:
    """Return what is there when all `jobs` of a plan that says where to were done."""
    survey = Survey(census.survey.sites.values())
    survey.failed |= census.survey.failed
    for object_id in census.survey:
        survey.know([object_id])
        for number, size in census.survey.shares(object_id).items():
            survey.add(object_id, number, size)
    for job in jobs:
        for number in job.add or ():
            assert number not in survey.shares(job.object_id), "something is there already"
            survey.add(job.object_id, number, census.share_size(job.object_id))
        for number in job.drop:
            survey.discard(job.object_id, number)
    return Census(survey, census.ground, census.cipher, census.names, census.damaged)
