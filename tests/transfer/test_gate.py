"""The gate: so many at once, first come, first served, and nobody waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from annex_remote.errors import Cancelled, Unavailable
from annex_remote.model import OpenAt, Store
from annex_remote.transfer.gate import Gate
from annex_remote.transfer.sites import GatedAsking, Site
from tests.fakes import Around, FakeClock, Hanging, MemoryStore, Resuming, Run, in_thread, wait_for
from tests.shares.builder import content
from tests.transfer.rig import STALL, Rig


def waits(gate: Gate, count: int) -> None:
    """Wait until so many stand at the gate."""
    in_thread(lambda: _until(gate, count))


def _until(gate: Gate, count: int) -> None:
    never = threading.Event()
    while len(gate._waiting) != count:
        never.wait(0.001)


def test_so_many_are_inside_and_the_others_come_in_their_order() -> None:
    gate = Gate(2)
    gate.enter()
    gate.enter()
    order: list[int] = []
    let_out = [threading.Event() for _ in range(4)]
    came = [threading.Event() for _ in range(4)]

    def visit(which: int) -> None:
        with gate.pass_():
            order.append(which)
            came[which].set()
            wait_for(let_out[which])

    runs = []
    for which in range(4):
        runs.append(Run(lambda which=which: visit(which)))  # type: ignore[misc]
        waits(gate, which + 1)
    assert order == []
    gate.leave()
    wait_for(came[0])
    let_out[0].set()
    wait_for(came[1])
    assert order == [0, 1]
    gate.leave()
    wait_for(came[2])
    for event in let_out:
        event.set()
    for run in runs:
        run.join()
    assert order == [0, 1, 2, 3]
    gate.enter()
    gate.enter()  # both places are free again


def test_who_waits_can_be_called_off_and_takes_no_place() -> None:
    gate = Gate(1)
    gate.enter()
    cancelled = threading.Event()
    run = Run(lambda: gate.enter(cancelled))
    waits(gate, 1)
    cancelled.set()
    with pytest.raises(Cancelled):
        run.join()
    gate.leave()
    in_thread(gate.enter)


def test_a_place_can_be_left_early_by_somebody_else_and_once_only() -> None:
    gate = Gate(1)
    with gate.pass_() as leave:
        in_thread(leave)
        in_thread(gate.enter)
        leave()
        run = Run(gate.enter)
        waits(gate, 1)
    assert not run.is_over
    gate.leave()
    run.join()


# Questions that go through gates.


def test_time_at_a_gate_is_no_silence(end: threading.Event) -> None:
    clock = FakeClock()
    gate = Gate(1)
    sites = [Site(number, "one", MemoryStore(), gate=gate) for number in range(2)]
    release, reached = threading.Event(), threading.Event()

    def slow() -> int:
        reached.set()
        wait_for(release)
        return 1

    gate.enter()
    asking = GatedAsking({sites[0]: slow}, clock=clock)
    answers = asking.answers(10.0)
    waits(gate, 1)
    clock.advance(1000.0)
    run = Run(lambda: next(answers))
    gate.leave()
    wait_for(reached)
    assert not run.is_over
    release.set()
    run.join()


def test_who_is_silent_inside_does_not_hold_up_those_behind(end: threading.Event) -> None:
    gate = Gate(1)
    hanging = Site(0, "one", Hanging(MemoryStore(), end), gate=gate)
    [answer] = in_thread(lambda: list(GatedAsking({hanging: hanging.store.space}).answers(STALL)))
    assert isinstance(answer.error, Unavailable)
    in_thread(gate.enter)


def test_questions_that_wait_at_a_gate_can_be_called_off() -> None:
    gate = Gate(1)
    gate.enter()
    cancelled = threading.Event()
    site = Site(0, "one", MemoryStore(), gate=gate)
    run = Run(lambda: list(GatedAsking({site: site.store.space}, cancelled).answers(10.0)))
    waits(gate, 1)
    cancelled.set()
    with pytest.raises(Cancelled):
        run.join()


# Uploads that meet at gates.


class Inside(Around):
    """Counts how many puts there are at once, and says that there is one."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._lock = threading.Lock()
        self._now = self.most = 0
        self.reached = threading.Event()

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        self.reached.set()
        try:
            self.store.put(name, size, open_at, fresh=fresh)
        finally:
            with self._lock:
                self._now -= 1


class Late(Gate):
    """Lets two questions (the look, and how much room there is) pass; what comes then waits for `events` first."""

    def __init__(self, gate: Gate, events: list[threading.Event]) -> None:
        super().__init__(1)
        self._gate = gate
        self._events = events
        self._free = [None, None]

    @contextmanager
    def pass_(self, cancelled: threading.Event | None = None) -> Iterator[Callable[[], None]]:
        try:
            self._free.pop()
        except IndexError:
            for event in self._events:
                wait_for(event)
        with self._gate.pass_(cancelled) as leave:
            yield leave


@pytest.mark.parametrize("around", [Around, lambda store: Resuming(store, 1, 0)], ids=["well", "cut off"])
def test_two_uploads_that_hold_each_the_gate_that_the_other_wants_both_end(
    tmp_path: Path, around: Callable[[Store], Store]
) -> None:
    """Each has begun on one store, and comes to the gate of the other then; the file is larger than the window.

    A store that was cut off reads by itself, and stands at the end before the other has begun.
    """
    size = 12 << 20
    path = tmp_path / "source"
    with path.open("wb") as file:
        file.truncate(size)
    gates = [Gate(1), Gate(1)]
    stores = [Inside(around(MemoryStore())) for _ in range(2)]
    begun = [store.reached for store in stores]
    runs = []
    for first in range(2):
        rig = Rig.of(tmp_path, 1, 2, 2)
        rig.key = f"SHA256E-s{size}--{first}"
        upload = rig.upload(path)
        upload.sites = [
            Site(number, f"store{number}", store, gate=gate if number == first else Late(gate, begun))
            for number, (store, gate) in enumerate(zip(stores, gates, strict=True))
        ]
        runs.append(Run(upload.run))
    for run in runs:
        run.join()
    assert [store.most for store in stores] == [1, 1]


def test_an_upload_that_stands_at_a_gate_for_long_is_not_stalled(rig: Rig) -> None:
    clock = FakeClock()
    gate = Gate(1)
    finishing = [Inside(store) for store in rig.stores]
    rig.stores = list(finishing)
    upload = rig.upload(rig.source(content(5)), clock)
    upload.sites = [replace(site, gate=gate) if site.number == 2 else site for site in rig.sites]
    gate.enter()
    run = Run(upload.run)
    waits(gate, 1)
    clock.advance(1000.0)
    for store in (finishing[0], finishing[1], finishing[3]):
        wait_for(store.reached)
    assert not run.is_over
    gate.leave()
    run.join()
    assert rig.held.keys() == {0, 1, 2, 3}


def test_a_store_that_is_given_up_lets_the_next_one_through_its_gate(rig: Rig, end: threading.Event) -> None:
    rig.stall = STALL
    rig.break_store(1, lambda store: Hanging(store, end, ["put"], after=1))
    upload = rig.upload(rig.source(content(2 << 20)))
    gate = Gate(1)
    upload.sites = [replace(site, gate=gate) if site.number == 1 else site for site in rig.sites]
    Run(upload.run).join()
    assert rig.held.keys() == {0, 2, 3}
    in_thread(gate.enter)


def test_an_upload_that_is_called_off_leaves_the_gates_of_stores_that_hang(rig: Rig, end: threading.Event) -> None:
    hanging = Hanging(rig.stores[1], end, ["put"], after=1)
    rig.stores[1] = hanging
    upload = rig.upload(rig.source(content(2 << 20)))
    gate = Gate(1)
    upload.sites = [replace(site, gate=gate) if site.number == 1 else site for site in rig.sites]
    run = Run(upload.run)
    wait_for(hanging.reached)
    rig.cancelled.set()
    with pytest.raises(Cancelled):
        run.join()
    in_thread(gate.enter)
