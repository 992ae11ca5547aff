"""Is an object there? Present, absent, or unknown; and taking it away."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from annex_remote.errors import Cancelled, Damaged, NotFound, Unavailable
from annex_remote.model import Coding
from annex_remote.transfer.opening import OpenShare, largest_group, open_share
from annex_remote.transfer.sites import (
    TICK,
    Answer,
    Asking,
    Clock,
    Notes,
    Site,
    ask_all,
    causes,
    explain,
    shares,
    silence,
)

__all__ = ["GRACE", "Look", "Sighting", "is_present", "remove_object"]

GRACE = 0.1
"""Seconds that stores which answer late are waited for, once enough is known without them."""


@dataclass
class Sighting:
    """What the stores said about one object so far."""

    shares: list[OpenShare] = field(default_factory=list)
    """Shares whose tail is proved."""
    absent: list[Site] = field(default_factory=list)
    damaged: dict[Site, Exception] = field(default_factory=dict)
    """Sites that have a share which does not prove."""
    silent: dict[Site, Exception] = field(default_factory=dict)
    """Sites whose store could not be asked: they may have anything."""

    def add(self, answer: Answer[Site, OpenShare]) -> None:
        if answer.value is not None:
            self.shares.append(answer.value)
        elif isinstance(answer.error, NotFound):
            self.absent.append(answer.asked)
        elif isinstance(answer.error, Damaged):
            self.damaged[answer.asked] = answer.error
        elif answer.error is not None:
            self.silent[answer.asked] = answer.error

    @property
    def doubtful(self) -> dict[Site, Exception]:
        return {**self.damaged, **self.silent}

    def decodable(self) -> list[OpenShare]:
        """Return the shares of the largest upload if they are enough to rebuild it, else nothing."""
        group = largest_group(self.shares)
        return group if group and len(group) >= group[0].header.needed else []

    def could_hide(self, needed: int) -> bool:
        """True if the sites that gave no good answer could complete an upload, of this grid's `needed`."""
        doubtful = len(self.doubtful)
        groups = Counter((share.header.pack(), share.header.needed) for share in self.shares)
        return doubtful >= needed or any(
            doubtful and count + doubtful >= wanted for (_, wanted), count in groups.items()
        )

    def note(self, notes: Notes, *, missing: bool = True) -> None:
        """Tell a person what is not as it should be, a store a line."""
        lines = [(site, f"share {site.number} is damaged: {error}") for site, error in self.damaged.items()]
        lines += [(site, explain(error)) for site, error in self.silent.items()]
        if missing:
            lines += [(site, f"share {site.number} is missing") for site in self.absent]
        for site, text in sorted(lines, key=lambda line: line[0].number):
            notes.add(site.name, text)


def _never(_: Sighting) -> bool:
    return False


class Look:
    """Asks all sites at once for their share of an object; `sighting` grows with each answer."""

    def __init__(
        self,
        sites: Sequence[Site],
        object_id: str,
        verify_key: bytes,
        *,
        needed: int,
        stall: float,
        with_hashes: bool = False,
        clock: Clock = time.monotonic,
    ) -> None:
        self.sighting = Sighting()
        self._stall = stall
        self._clock = clock
        self._began = clock()
        self._asking = Asking(
            {
                site: partial(open_share, site, object_id, verify_key, needed=needed, with_hashes=with_hashes)
                for site in sites
            }
        )

    def wait(
        self,
        enough: Callable[[Sighting], bool] = _never,
        *,
        grace: float = 0.0,
        cancelled: threading.Event | None = None,
    ) -> Sighting:
        """Return when all have answered, or after `grace` seconds of what is `enough`.

        Who has not answered after `stall` seconds counts as silent. Raises `Cancelled`.
        """
        enough_since: float | None = None
        while self._asking.open:
            now = self._clock()
            if cancelled is not None and cancelled.is_set():
                raise Cancelled("the work was called off")
            if now - self._began >= self._stall:
                self._silent()
                break
            if enough(self.sighting):
                enough_since = now if enough_since is None else enough_since
                if now - enough_since >= grace:
                    break
            until = self._began + self._stall if enough_since is None else enough_since + grace
            self._take(min(until - now, TICK))
        return self.sighting

    @property
    def is_over(self) -> bool:
        """True if nothing more can come: all have answered, or the time for it is up."""
        return not self._asking.open or self._clock() - self._began >= self._stall

    def late(self, after: float | None = None) -> Sighting:
        """Take in what has come since; who has not answered for `after` seconds counts as silent."""
        while self._asking.open and self._take(0.0):
            pass
        if after is not None and self._clock() - self._began >= after:
            self._silent()
        return self.sighting

    def _take(self, timeout: float) -> bool:
        answer = self._asking.take(timeout)
        if answer is not None:
            self.sighting.add(answer)
        return answer is not None

    def _silent(self) -> None:
        for site in list(self._asking.open):
            self.sighting.silent[site] = silence(self._clock() - self._began)


def is_present(
    sites: Sequence[Site], object_id: str, verify_key: bytes, *, coding: Coding, stall: float, notes: Notes
) -> bool:
    """True when enough shares that belong together are seen; False only where absence is proved.

    Absence is proved when the sites that could not be asked, or whose share does not prove, are too few to
    complete any upload. Raises `Unavailable` naming the stores otherwise. An object with fewer shares than
    `happy`, as an upload that failed leaves it, is in `notes`: it is there, and one loss nearer to its end.
    """
    look = Look(sites, object_id, verify_key, needed=coding.needed, stall=stall)
    sighting = look.wait(lambda seen: bool(seen.decodable()), grace=GRACE)
    group = sighting.decodable()
    if group:
        if len(group) < coding.happy and look.is_over and not sighting.silent:
            sighting.note(notes)
        return True
    if not sighting.could_hide(coding.needed):
        return False
    seen = Notes()
    sighting.note(seen, missing=False)
    raise Unavailable(
        f"{shares(len(sighting.shares))} seen, {coding.needed} are needed, and these stores may have more: "
        + "; ".join(seen.lines)
    )


def remove_object(sites: Sequence[Site], object_id: str, *, needed: int, stall: float, notes: Notes) -> None:
    """Remove the shares of an object from all sites; that there are none is no error.

    Raises `Unavailable` if stores that cannot be reached might keep `needed` shares or more; if they cannot be
    reached from the start, nothing is removed. Where they can keep fewer, the object is gone, and what may be
    left is in `notes`.
    """
    questions = {site: partial(site.store.stat, site.name_of(object_id)) for site in sites}
    answers = list(ask_all(questions, stall))
    failed = {answer.asked: answer.error for answer in answers if answer.error is not None}
    _refuse_removal(failed, needed)
    there = [answer.asked for answer in answers if answer.value is not None]
    removals = {site: partial(site.store.delete, site.name_of(object_id)) for site in there}
    for removal in ask_all(removals, stall):
        if removal.error is not None:
            failed[removal.asked] = removal.error
    _refuse_removal(failed, needed)
    for site, error in sorted(failed.items(), key=lambda item: item[0].number):
        notes.add(site.name, f"share {site.number} may remain, to be collected later: {explain(error)}")


def _refuse_removal(failed: Mapping[Site, Exception], needed: int) -> None:
    if len(failed) < needed:
        return
    raise Unavailable(
        f"{shares(len(failed))} may remain where they cannot be removed, and {needed} rebuild the object: "
        + causes(failed)
    )
