"""After a change of the coding: all objects are coded by it, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from annex_remote.care.plan import Census
from annex_remote.care.recode import Recode
from annex_remote.care.work import AT_ONCE, in_parallel
from annex_remote.caring import Care
from annex_remote.errors import Cancelled, NoCapability
from annex_remote.transfer.fetch import Fetching
from annex_remote.transfer.opening import open_share
from annex_remote.transfer.sites import Notes

__all__ = ["Recoded", "recode", "to_recode"]


@dataclass(frozen=True)
class Recoded:
    """What came of one object."""

    object_id: str
    error: Exception | None = None
    notes: tuple[str, ...] = ()


def to_recode(care: Care, census: Census) -> list[str]:
    """Return the objects that are coded otherwise than they should be, or whose coding anew was stopped.

    Of objects whose size is known, the lengths of their shares tell; of others, the end of a share.
    """
    wanted = care.ground.coding.needed
    chosen = []
    for object_id, verdict in census:
        if object_id in census.survey.staged:
            chosen.append(object_id)
            continue
        if not verdict.good:
            continue
        needed = verdict.needed if object_id in census.names else _needed(care, object_id, verdict.good)
        if needed != wanted:
            chosen.append(object_id)
    return chosen


def _needed(care: Care, object_id: str, numbers: tuple[int, ...]) -> int | None:
    """Return what the first share that opens says; None if none does."""
    sites = {site.number: site for site in care.sites}
    for number in numbers:
        try:
            share = open_share(
                sites[number], object_id, care.grid.verify_key, needed=care.ground.most_needed, with_hashes=False
            )
        except Exception:  # noqa: BLE001, S112 # another one tells
            continue
        return share.header.needed
    return None


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
