"""Proving shares: each is read whole, and each of its blocks is proved against the signed table."""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue

from annex_remote.errors import Cancelled, Damaged
from annex_remote.shares.format import Tail
from annex_remote.transfer.opening import FIRST_READ, PEEK, open_share
from annex_remote.transfer.sites import TICK, Clock, Site, explain, silence
from annex_remote.workers import workers

__all__ = ["Proof", "Task", "bytes_to_read", "prove_share", "prove_shares", "slice_of"]

AT_ONCE = 4
"""Shares of one store that are read at once, at most: more than that help no disk, and few servers."""

MOST_NAMED = 20
"""Bad blocks that are named one by one."""


@dataclass(frozen=True, slots=True)
class Task:
    """A share that is to be proved, and its size in bytes as it was listed."""

    object_id: str
    number: int
    size: int


@dataclass(frozen=True, slots=True)
class Proof:
    """What came of reading a share. It is good if `error` is None and no block is bad."""

    task: Task
    store: str
    tail: Tail | None = None
    """Proved, if it could be read."""
    bad: tuple[int, ...] = ()
    """Segments whose block does not prove."""
    error: Exception | None = None
    """`NotFound`: it is not there; `Damaged`: nothing of it can be used; anything else: nothing is known."""
    read: int = field(default=0, compare=False)
    """Bytes that were read."""

    @property
    def is_good(self) -> bool:
        return self.error is None and not self.bad

    @property
    def is_damaged(self) -> bool:
        return bool(self.bad) or isinstance(self.error, Damaged)

    def __str__(self) -> str:
        if self.error is not None:
            return explain(self.error)
        if not self.bad:
            return "good"
        named = ", ".join(map(str, self.bad[:MOST_NAMED]))
        more = f" and {len(self.bad) - MOST_NAMED} more" if len(self.bad) > MOST_NAMED else ""
        return f"{len(self.bad)} of its blocks damaged: segments {named}{more}"


def prove_share(site: Site, task: Task, verify_key: bytes, needed: int, heard: Callable[[int], None]) -> Proof:
    """Read a share whole and prove it; `heard` gets the bytes of each piece, and may raise to call it off.

    Never raises for what is wrong with the share or its store.
    """
    count = 0

    def hear(size: int) -> None:
        nonlocal count
        count += size
        heard(size)

    try:
        share = open_share(site, task.object_id, verify_key, needed=needed, heard=hear)
        segments = share.header.layout.segments
        bad = tuple(index for index, block in share.blocks(0, segments, hear) if block is None) if segments else ()
    except Cancelled:
        raise
    except Exception as error:  # noqa: BLE001 # told with the share
        return Proof(task, site.name, error=error, read=count)
    return Proof(task, site.name, share.tail, bad, read=count)


@dataclass
class _Lane:
    """One store's shares, and who reads them."""

    waiting: deque[Task]
    moved: float = 0.0
    """When the store last brought anything, or was asked for something."""
    reading: dict[Task, Callable[[], None]] = field(default_factory=dict)
    """Shares that are being read, to what lets others ask the store if it hangs."""
    is_silent: bool = False

    def give_up(self) -> list[Task]:
        """Wait for nothing more; return what was not read to its end."""
        self.is_silent = True
        rest = [*self.reading, *self.waiting]
        self.waiting.clear()
        for leave in self.reading.values():
            leave()
        return rest


def prove_shares(
    sites: Iterable[Site],
    tasks: Iterable[Task],
    verify_key: bytes,
    needed: int,
    *,
    stall: float,
    cancelled: threading.Event,
    heard: Callable[[int], None] = lambda size: None,
    clock: Clock = time.monotonic,
) -> Iterator[Proof]:
    """Yield what comes of proving `tasks`, as it comes: all stores at once, and several shares of each.

    A store that brings nothing for `stall` seconds is given up: the rest of its shares is yielded with that error.
    No more is asked for when the caller closes this. Raises `Cancelled`.
    """
    by_number = {site.number: site for site in sites}
    lanes: dict[str, _Lane] = defaultdict(lambda: _Lane(deque()))
    for task in tasks:
        lanes[by_number[task.number].name].waiting.append(task)
    proofs: SimpleQueue[Proof] = SimpleQueue()
    over = threading.Event()
    lock = threading.Lock()

    def read(lane: _Lane) -> None:
        while True:
            with lock:
                if lane.is_silent or over.is_set() or not lane.waiting:
                    return
                task = lane.waiting.popleft()
                lane.reading[task], lane.moved = _nothing, clock()

            def hear(size: int) -> None:
                if over.is_set() or lane.is_silent:
                    raise Cancelled("nobody waits for it")
                lane.moved = clock()
                heard(size)

            site = by_number[task.number]
            try:
                with site.gate.pass_(over) as leave:
                    lane.reading[task], lane.moved = leave, clock()
                    proof = prove_share(site, task, verify_key, needed, hear)
            except Cancelled:
                return
            with lock:
                if not lane.is_silent:
                    del lane.reading[task]
                    proofs.put(proof)

    def silent() -> Iterator[Proof]:
        """Give up the stores that are silent, and yield what is said of their shares."""
        for name, lane in lanes.items():
            with lock:
                is_silent = bool(lane.reading) and clock() - lane.moved >= stall
                rest = lane.give_up() if is_silent and not lane.is_silent else []
            yield from (Proof(task, name, error=silence(stall)) for task in rest)

    left = sum(len(lane.waiting) for lane in lanes.values())
    looked = clock()
    try:
        for lane in lanes.values():
            connections = min(AT_ONCE, by_number[lane.waiting[0].number].connections, len(lane.waiting))
            for _ in range(connections):
                workers.start(partial(read, lane))
        while left:
            if cancelled.is_set():
                raise Cancelled("the work was called off")
            try:
                proof = proofs.get(timeout=TICK)
            except Empty:
                looked = -math.inf
            else:
                left -= 1
                yield proof
            if clock() - looked >= TICK:
                looked = clock()
                for proof in silent():
                    left -= 1
                    yield proof
    finally:
        over.set()


def _nothing() -> None:
    """Stands for leaving a gate that is not entered yet."""


def slice_of(tasks: Sequence[Task], parts: int, turn: int, overdue: Callable[[Task], bool]) -> list[Task]:
    """Return the part number `turn` of `parts` of all shares, and those that are `overdue`.

    The shares lie in a row as long as their bytes, in the order of their names; the row is cut in equal parts, and
    a share is in the part that has its middle. So each part is as much work as any other, and all of them are
    everything, as long as nothing changes; what moves to a part whose turn was before is overdue one day.
    """
    if parts <= 1:
        return list(tasks)
    total = sum(task.size for task in tasks) or 1
    chosen, at = [], 0
    for task in sorted(tasks, key=lambda task: (task.object_id, task.number)):
        middle = at + task.size // 2
        at += task.size
        if min(parts - 1, middle * parts // total) == turn % parts or overdue(task):
            chosen.append(task)
    return chosen


def bytes_to_read(task: Task) -> int:
    """Return about how many bytes it takes to prove a share: of a large one both ends are read first."""
    return task.size if task.size <= FIRST_READ else task.size + FIRST_READ + PEEK
