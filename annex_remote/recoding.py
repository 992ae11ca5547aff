"""After a change of the coding: all objects are coded by it, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from annex_remote.care.made import ends_now
from annex_remote.care.plan import Census
from annex_remote.care.recode import Recode
from annex_remote.care.work import AT_ONCE, in_parallel
from annex_remote.caring import Care
from annex_remote.errors import Cancelled, NoCapability
from annex_remote.transfer.fetch import Fetching
from annex_remote.transfer.sites import Notes

__all__ = ["Recoded", "recode", "to_recode"]


@dataclass(frozen=True)
class Recoded:
    """What came of one object."""

    object_id: str
    error: Exception | None = None
    notes: tuple[str, ...] = ()


def to_recode(care: Care, census: Census) -> tuple[list[str], int]:
    """Return the objects that are coded otherwise than they should be, or whose coding anew was stopped.

    Also how many there are of which that could not be told. Of most objects whose size is known, the lengths of
    their shares tell; of others, the end of a share.
    """
    wanted = care.ground.coding.needed
    chosen: list[str] = []
    open_ones: dict[str, tuple[int, ...]] = {}
    unsure = 0
    for object_id, verdict in census:
        if census.names and object_id not in census.names and verdict.left < 0:
            continue  # left over: nobody wants it
        if census.survey.staged.get(object_id):
            chosen.append(object_id)
        elif object_id in census.names and verdict.good and verdict.least == verdict.needed:
            chosen += [object_id] if verdict.needed != wanted else []
        elif verdict.good or verdict.bad:
            open_ones[object_id] = (*verdict.good, *verdict.bad)
        else:
            unsure += bool(verdict.silent)
    sites = {site.number: site for site in care.sites}

    def needed(object_id: str) -> set[int]:
        ends = ends_now(
            object_id,
            [sites[number] for number in open_ones[object_id]],
            care.grid.verify_key,
            stall=care.grid.settings.stall,
            cancelled=care.cancelled,
        )
        return {share.header.needed for share in ends.values()}

    for result in in_parallel(needed, list(open_ones), AT_ONCE, care.cancelled):
        if isinstance(result.error, Cancelled):
            raise result.error
        if not result.value:
            unsure += 1
        elif result.value != {wanted}:
            chosen.append(result.item)
    return sorted(chosen), unsure


def recode(
    care: Care, object_ids: list[str], *, is_over: Callable[[], bool], folder: str | None
) -> Iterator[Recoded]:
    """Code objects anew, and yield what came of each; raises `NoCapability` without the full capability."""
    seed = care.seed
    if seed is None:
        raise NoCapability("coding objects anew takes the full capability: their headers are signed")
    free = care.free()

    def code(object_id: str) -> Recoded:
        notes = Notes()
        fetching = Fetching(care.grid.settings.stall, notes, care.cancelled, book=care.grid.book)
        work = Recode(
            object_id, care.sites, care.ground, care.grid.verify_key, seed, fetching, free=free, folder=folder
        )
        work.run()
        return Recoded(object_id, None, tuple(notes.lines))

    for result in in_parallel(code, object_ids, AT_ONCE, care.cancelled):
        if isinstance(result.error, Cancelled):
            raise result.error
        yield result.value or Recoded(result.item, result.error)
        if is_over():
            return
