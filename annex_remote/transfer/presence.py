"""Is an object there? Present, absent, or unknown; and taking it away."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from annex_remote.errors import Cancelled, Damaged, NotFound, Unavailable
from annex_remote.model import Coding
from annex_remote.transfer.figures import Book, Figures
from annex_remote.transfer.opening import PEEK, OpenShare, largest_group, open_share
from annex_remote.transfer.schedule import USUAL_FIRST_BYTE
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
from annex_remote.transfer.trace import Trace

__all__ = ["GRACE", "Look", "Sighting", "best_first", "is_present", "remove_object"]

GRACE = 0.1
"""Seconds that stores which answer late are waited for, once enough is known without them."""


@dataclass
class Sighting:
    """What the stores said about one object so far."""

    sites: int = 0
    """How many places there are."""
    shares: list[OpenShare] = field(default_factory=list)
    """Shares whose tail is proved."""
    absent: list[Site] = field(default_factory=list)
    damaged: dict[Site, Exception] = field(default_factory=dict)
    """Sites that have a share which does not prove."""
    silent: dict[Site, Exception] = field(default_factory=dict)
    """Sites whose store could not be asked: they may have anything."""

    def add(self, answer: Answer[Site, OpenShare]) -> None:
        self.silent.pop(answer.asked, None)
        if answer.value is not None:
            self.shares.append(answer.value)
        elif isinstance(answer.error, NotFound):
            if not answer.asked.staged:  # where it is meant to be only for a while
                self.absent.append(answer.asked)
        elif isinstance(answer.error, Damaged):
            self.damaged[answer.asked] = answer.error
        elif answer.error is not None:
            self.silent[answer.asked] = answer.error

    @property
    def doubtful(self) -> dict[Site, Exception]:
        return {**self.damaged, **self.silent}

    @property
    def is_worse(self) -> bool:
        """True if an answer was anything but a good share."""
        return bool(self.absent or self.damaged or self.silent)

    def decodable(self) -> list[OpenShare]:
        """Return the shares of the largest upload if they are enough to rebuild it, else nothing."""
        group = largest_group(self.shares)
        return group if group and len(group) >= group[0].header.needed else []

    def could_hide(self, needed: int) -> bool:
        """True if the sites that gave no good answer could complete an upload, of this grid's `needed`."""
        doubtful = {site.number for site in self.doubtful}
        groups: dict[tuple[bytes, int], set[int]] = defaultdict(set)
        for share in self.shares:
            groups[share.header.pack(), share.header.needed].add(share.site.number)
        return len(doubtful) >= needed or any(
            doubtful and len(numbers | doubtful) >= wanted for (_, wanted), numbers in groups.items()
        )

    def note(self, notes: Notes, *, missing: bool = True) -> None:
        """Tell a person what is not as it should be, a store a line."""
        lines = [(site, f"share {site.number} is damaged: {error}") for site, error in self.damaged.items()]
        lines += [(site, explain(error)) for site, error in self.silent.items()]
        if missing:
            lines += [(site, f"share {site.number} is missing") for site in self._missing()]
        for site, text in sorted(lines, key=lambda line: line[0].number):
            notes.add(site.name, text)

    def _missing(self) -> list[Site]:
        """Return the sites whose share is to be there and is not.

        Of a whole object these are only those that its signed table has; and where there are more sites than
        shares, as long as those that did not answer could have the rest, nothing is missed.
        """
        group = self.decodable()
        if not group:
            return self.absent
        wanted = max(len(share.tail.roots) for share in group)
        listed = {number for share in group for number in share.tail.roots}
        unsure = self.sites - len(self.shares) - len(self.absent)
        if self.sites > wanted and len(group) + unsure >= wanted:
            return []
        return [site for site in self.absent if site.number in listed]


def _never(_: Sighting) -> bool:
    return False


class Look:
    """Asks sites for their share of an object; `sighting` grows with each answer.

    All are asked at once; with `at_first`, so many of them are, and the others as soon as one of those is of no
    use, or `patience` seconds have passed, or `ask_rest` is called. `book` learns how fast the stores answer.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        object_id: str,
        verify_key: bytes,
        *,
        needed: int,
        stall: float,
        with_hashes: bool = False,
        at_first: int | None = None,
        patience: float = 0.0,
        book: Book | None = None,
        trace: Trace | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.sighting = Sighting(sum(not site.staged for site in sites))
        self._open_share = partial(
            open_share, object_id=object_id, verify_key=verify_key, needed=needed, with_hashes=with_hashes
        )
        self._stall = stall
        self._patience = patience
        self._book = book or Book()
        self._trace = trace or Trace()
        self._clock = clock
        self._began = clock()
        self._inside: dict[Site, tuple[float, Callable[[], None]]] = {}
        """When a store was asked, or brought something, and what lets the next one ask it if it hangs.

        A store that is not here yet has not been asked: the question waits at the gate.
        """
        self._abandoned = threading.Event()
        at_first = len(sites) if at_first is None else at_first
        self._rest = list(sites[at_first:])
        self._asking: Asking[Site, OpenShare] = Asking(self._questions(sites[:at_first]))

    def _questions(self, sites: Iterable[Site]) -> dict[Site, Callable[[], OpenShare]]:
        return {site: partial(self._ask, site) for site in sites}

    def _ask(self, site: Site) -> OpenShare:
        line = self._trace.ask(site.name, site.number, 0, 0, "open")
        question = object()

        with site.gate.pass_(self._abandoned) as leave:
            let_go = partial(self._let_go, question, leave)
            self._inside[site] = self._clock(), let_go

            def heard(count: int) -> None:
                self._inside[site] = self._clock(), let_go
                line.heard = self._trace.now() if line.heard is None else line.heard
                line.bytes += count
                self._book.came(question, count, self._clock())

            if self._abandoned.is_set():
                raise Cancelled("nobody waits for the answer")
            line.began = self._trace.now()
            self._book.asked(question, site.name, PEEK, self._clock())
            try:
                share = self._open_share(site, heard=heard)
            except Exception as error:
                self._book.over(question, self._clock(), failed=not isinstance(error, NotFound | Damaged))
                line.how = explain(error)
                raise
            else:
                self._book.over(question, self._clock())
                line.how = "done"
            finally:
                line.ended = self._trace.now()
        return share

    def _let_go(self, question: object, leave: Callable[[], None]) -> None:
        """Let the next one ask a store that hangs; what is known of it is what it did until now."""
        self._book.over(question, self._clock(), failed=True)
        leave()

    def ask_rest(self) -> None:
        """Ask those that have not been asked yet."""
        if self._rest:
            self._asking.add(self._questions(self._rest))
            self._rest = []

    def wait(
        self,
        enough: Callable[[Sighting], bool] = _never,
        *,
        grace: float = 0.0,
        cancelled: threading.Event | None = None,
    ) -> Sighting:
        """Return when all have answered, or after `grace` seconds of what is `enough`.

        Who has not answered within `stall` seconds counts as silent. Raises `Cancelled`.
        """
        enough_since: float | None = None
        while not self.is_over:
            now = self._clock()
            if cancelled is not None and cancelled.is_set():
                self.abandon()
                raise Cancelled("the work was called off")
            if enough(self.sighting):
                enough_since = now if enough_since is None else enough_since
                if now - enough_since >= grace or self._all_asked_are_done:
                    break
            elif self._rest and (self.sighting.is_worse or not self._asking.open or now >= self._impatient):
                self.ask_rest()
            pause = TICK if enough_since is None else min(TICK, enough_since + grace - now)
            if self._rest and now < self._impatient:
                pause = min(pause, self._impatient - now)
            silent_at = [since + self._stall for since, _ in list(self._inside.values())]
            self._take(min([pause, *(at - now for at in silent_at if at > now)]))
        return self.sighting

    @property
    def _impatient(self) -> float:
        """When those that have not been asked yet are asked at the latest."""
        return self._began + self._patience

    @property
    def is_over(self) -> bool:
        """True if nothing more can come: all have answered, or have had the time for it."""
        self._note_silent(self._stall)
        return not self._rest and self._all_asked_are_done

    @property
    def _all_asked_are_done(self) -> bool:
        return all(site in self.sighting.silent for site in self._asking.open)

    def late(self, after: float | None = None) -> Sighting:
        """Take in what has come since; who has not answered for `after` seconds counts as silent."""
        self._take_all()
        if after is not None:
            self._note_silent(after)
        return self.sighting

    def abandon(self) -> None:
        """Ask nobody any more: what still waits for its turn gives it up, and what hangs lets others pass."""
        self._abandoned.set()
        for site in list(self._asking.open):
            if site in self._inside:
                self._inside[site][1]()

    def _take(self, timeout: float) -> bool:
        answer = self._asking.take(timeout)
        if answer is not None:
            self.sighting.add(answer)
        return answer is not None

    def _take_all(self) -> None:
        while self._asking.open and self._take(0.0):
            pass

    def _note_silent(self, after: float) -> None:
        """Count those as silent that were asked `after` seconds ago. Who waits for its turn is not one of them."""
        self._take_all()
        now = self._clock()
        for site in list(self._asking.open):
            since, leave = self._inside.get(site, (now, None))
            if now - since >= after:
                self.sighting.silent[site] = silence(now - since)
                if leave is not None and after >= self._stall:
                    leave()


def best_first(sites: Iterable[Site], book: Book, now: float) -> tuple[list[Site], dict[str, Figures]]:
    """Return the sites whose stores answer best, first; and what is known of each store."""
    sites = list(sites)
    known = {site.name: book.of(site.name, now) for site in sites}

    def rank(site: Site) -> tuple[bool, bool, float, float, int]:
        figures = known[site.name]
        return (
            site.staged,
            figures.resting,
            site.price,
            (figures.first_byte or USUAL_FIRST_BYTE) * site.cost,
            site.number,
        )

    return sorted(sites, key=rank), known


def is_present(
    sites: Sequence[Site],
    object_id: str,
    verify_key: bytes,
    *,
    coding: Coding,
    stall: float,
    notes: Notes,
    least_needed: int | None = None,
) -> bool:
    """True when enough shares that belong together are seen; False only where absence is proved.

    Absence is proved when the sites that could not be asked, or whose share does not prove, are too few to
    complete any upload, also with what stands beside the places of shares: a program that was killed leaves it
    there. Raises `Unavailable` naming the stores otherwise. An object with fewer shares than `happy`, as an upload
    that failed leaves it, is in `notes`: it is there, and one loss nearer to its end.
    `least_needed` is for a grid whose coding was changed: so many shares rebuild what was stored before.
    """
    look = Look(sites, object_id, verify_key, needed=coding.needed, stall=stall)
    sighting = look.wait(lambda seen: bool(seen.decodable()), grace=GRACE)
    look.abandon()
    if not sighting.decodable() and not sighting.could_hide(least_needed or coding.needed):
        _look_beside(sites, object_id, verify_key, sighting, needed=coding.needed, stall=stall)
    group = sighting.decodable()
    if group:
        if len(group) < coding.happy and look.is_over and not sighting.silent:
            sighting.note(notes)
        return True
    if not sighting.could_hide(least_needed or coding.needed):
        return False
    seen = Notes()
    sighting.note(seen, missing=False)
    raise Unavailable(
        f"{shares(len(sighting.shares))} seen, {coding.needed} are needed, and these stores may have more: "
        + "; ".join(seen.lines)
    )


def _look_beside(
    sites: Sequence[Site], object_id: str, verify_key: bytes, sighting: Sighting, *, needed: int, stall: float
) -> None:
    """Take in what stands beside the places of shares, unless that was done; who is silent is not asked again."""
    if any(site.staged for site in sites):
        return
    places = [site.beside for site in sites if site not in sighting.silent]
    look = Look(places, object_id, verify_key, needed=needed, stall=stall)
    seen = look.wait()
    look.abandon()
    sighting.shares += seen.shares
    sighting.damaged |= seen.damaged
    sighting.silent |= seen.silent


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
    count = len({site.number for site in failed})  # a share has two places while objects are coded anew
    if count < needed:
        return
    raise Unavailable(
        f"{shares(count)} may remain where they cannot be removed, and {needed} rebuild the object: "
        + causes(failed)
    )
