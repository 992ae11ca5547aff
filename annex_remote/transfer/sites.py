"""Where shares are: a share number and the store that keeps it; and asking many stores at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from annex_remote.errors import Cancelled, SwarmError, Unavailable
from annex_remote.model import ShareName, Store, staged_name
from annex_remote.transfer.gate import TICK, Gate
from annex_remote.workers import workers

__all__ = [
    "TICK",
    "Answer",
    "Asking",
    "Clock",
    "GatedAsking",
    "Notes",
    "Site",
    "ask_all",
    "causes",
    "explain",
    "shares",
    "silence",
]

Clock = Callable[[], float]
"""Seconds that only rise, as `time.monotonic`."""

K = TypeVar("K")
V = TypeVar("V")

_OWN_GATE = Gate(1)
"""Stands for a gate of the site's own."""


@dataclass(frozen=True)
class Site:
    """One share number's place. A store that keeps several shares is several sites."""

    number: int
    name: str
    """The store's name in the roster."""
    store: Store = field(repr=False, compare=False)
    cost: int = 100
    zone: str = ""
    takes_shares: bool = True
    """False for a store that is only read and cleared."""
    price: float = 0.0
    """Money for each GiB read, in whatever currency."""
    connections: int = 8
    """Requests that the store gets at once, at most; of all sites of a store together."""
    staged: bool = False
    """True for the place of a share that is to take the place of another one, beside it."""
    gate: Gate = field(default=_OWN_GATE, repr=False, compare=False)
    """Where requests to the store wait for their turn: one for all its sites and all work of the process."""

    def __post_init__(self) -> None:
        if self.gate is _OWN_GATE:
            object.__setattr__(self, "gate", Gate(self.connections))

    @property
    def beside(self) -> Site:
        """The place beside this one, of a share that is to take its place."""
        return replace(self, staged=True, gate=self.gate)

    def name_of(self, object_id: str) -> str:
        """Return the name of this site's share of an object."""
        return staged_name(object_id, self.number) if self.staged else str(ShareName(object_id, self.number))


class Notes:
    """What a person should know about the stores when a piece of work is over; thread safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: dict[tuple[str, str], bool] = {}
        """To whether it stays so when all shares are good."""

    def add(self, store: str, text: str, *, lasting: bool = False) -> None:
        """Note something of a store: of its shares, or of something else that is `lasting`."""
        with self._lock:
            self._lines[store, text] = lasting

    def clear(self) -> None:
        """Forget what is of shares: all of them are good now."""
        with self._lock:
            self._lines = {line: lasting for line, lasting in self._lines.items() if lasting}

    @property
    def lines(self) -> list[str]:
        """One line a store and cause, in the order in which they came."""
        with self._lock:
            return [f"{store}: {text}" for store, text in self._lines]


def causes(failed: Mapping[Site, Exception]) -> str:
    """Return what failed where, for the end of a sentence."""
    notes = Notes()
    for site, error in sorted(failed.items(), key=lambda item: item[0].number):
        notes.add(site.name, explain(error))
    return "; ".join(notes.lines)


@dataclass(frozen=True, slots=True)
class Answer(Generic[K, V]):
    """What came of one question: `value`, or the `error` that it ended with."""

    asked: K
    value: V | None
    error: Exception | None


class Asking(Generic[K, V]):
    """Questions to many stores, all asked at once; the answers are taken one by one, as they come.

    Letting go of this abandons the questions that are open: their answers go nowhere.
    """

    def __init__(self, questions: Mapping[K, Callable[[], V]]) -> None:
        self.open: dict[K, None] = {}
        """Who has not answered yet, in the order in which they were asked."""
        self._answers: SimpleQueue[Answer[K, V]] = SimpleQueue()
        self.add(questions)

    def add(self, questions: Mapping[K, Callable[[], V]]) -> None:
        """Ask more."""
        self.open.update(dict.fromkeys(questions))
        for asked, question in questions.items():
            workers.start(partial(self._ask, asked, question))

    def _ask(self, asked: K, question: Callable[[], V]) -> None:
        try:
            answer: Answer[K, V] = Answer(asked, question(), None)
        except Exception as error:  # noqa: BLE001 # handed to whoever asked
            answer = Answer(asked, None, error)
        self._answers.put(answer)

    def take(self, timeout: float) -> Answer[K, V] | None:
        """Return the next answer, or None if none comes within `timeout` seconds."""
        try:
            answer = self._answers.get(timeout=max(0.0, timeout))
        except Empty:
            return None
        del self.open[answer.asked]
        return answer


def ask_all(
    questions: Mapping[K, Callable[[], V]], stall: float, clock: Clock = time.monotonic
) -> Iterator[Answer[K, V]]:
    """Ask all at once and yield each answer as it comes; who is silent for `stall` seconds is `Unavailable`."""
    asking = Asking(questions)
    deadline = clock() + stall
    while asking.open:
        answer = asking.take(deadline - clock())
        if answer is None:
            for asked in list(asking.open):
                yield Answer(asked, None, silence(stall))
            return
        yield answer


class GatedAsking(Asking[Site, V]):
    """Questions that go through the gates of their stores. Time at a gate is no silence of the store."""

    def __init__(
        self,
        questions: Mapping[Site, Callable[[], V]],
        cancelled: threading.Event | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._cancelled = cancelled
        self._clock = clock
        self._inside: dict[Site, tuple[float, Callable[[], None]]] = {}
        """When a question went through its gate, and what lets the next one through."""
        self._abandoned = False
        super().__init__(questions)

    def add(self, questions: Mapping[Site, Callable[[], V]]) -> None:
        super().add({site: partial(self._go, site, question) for site, question in questions.items()})

    def _go(self, site: Site, question: Callable[[], V]) -> V:
        with site.gate.pass_(self._cancelled) as leave:
            self._inside[site] = self._clock(), leave
            if self._abandoned:
                raise Cancelled("nobody waits for the answer")
            return question()

    def moved(self, site: Site) -> None:
        """Say that a store has just shown that it is not silent."""
        _, leave = self._inside[site]
        self._inside[site] = self._clock(), leave

    def answers(self, stall: float) -> Iterator[Answer[Site, V]]:
        """Yield each answer as it comes; who is silent for `stall` seconds is `Unavailable`.

        Raises `Cancelled`.
        """
        silent: set[Site] = set()
        while any(site not in silent for site in self.open):
            answer = self.take(TICK)
            if self._cancelled is not None and self._cancelled.is_set():
                self.abandon()
                raise Cancelled("the work was called off")
            if answer is not None and answer.asked not in silent:
                yield answer
            for site, (since, _) in list(self._inside.items()):
                if site in self.open and site not in silent and self._clock() - since >= stall:
                    silent.add(site)
                    yield Answer(site, None, silence(stall))
        self.abandon()

    def abandon(self) -> None:
        """Wait for nobody any more: who is silent does not hold up those behind at the gate."""
        self._abandoned = True
        for site in self.open:
            if site in self._inside:
                self._inside[site][1]()


def silence(seconds: float) -> Unavailable:
    """Return what is said of a store that did not answer."""
    return Unavailable(f"no answer in {seconds:.3g} seconds")


def shares(count: int) -> str:
    """Return "1 share", "2 shares"."""
    return f"{count} share" if count == 1 else f"{count} shares"


def explain(error: Exception | None) -> str:
    """Return what to tell a person about a store's failure."""
    if isinstance(error, SwarmError):
        return str(error)
    return f"{type(error).__name__}: {error}" if error else "no answer"
