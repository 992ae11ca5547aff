"""`Quota`: how much a store has room for, and what may be kept there at most."""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from annex_remote.errors import Full, Unavailable
from annex_remote.model import OpenAt, Store
from annex_remote.stores.quota import COUNT_AGE, COUNT_PAUSE, DOUBT_AGE, SPACE_AGE, Quota
from annex_remote.stores.state import SharedFile
from tests.fakes import Around, Failing, FakeClock, MemoryStore, Recording, Run, Slow, wait_for
from tests.stores.test_contract import keep

NAMES = [f"ab/ab{'2' * 29}{letter}.1" for letter in "abcdefgh"]
ROSTER = f"zz/zz{'2' * 30}.r1"


class Roomy(Around):
    """Says that it has `free` bytes of free space."""

    def __init__(self, store: Store, free: int | None = None) -> None:
        super().__init__(store)
        self.free = free

    def space(self) -> int | None:
        self.store.space()
        return self.free


class Machine:
    """A store, and processes of one user on one machine that use it."""

    def __init__(self, folder: Path, max_bytes: int = 1000) -> None:
        self.clock = FakeClock()
        self.memory = MemoryStore()
        self.recording = Recording(self.memory)
        self.roomy = Roomy(self.recording)
        self.max_bytes = max_bytes
        self.file = folder / "kept" / "grid.usb.here"
        self.behind: deque[Callable[[], None]] = deque()
        self.is_busy = False
        """True: what is to be done behind the back waits in `behind`, else it is done at once."""

    def process(self, store: Store | None = None) -> Quota:
        return Quota(
            store or self.roomy,
            self.max_bytes,
            SharedFile(str(self.file), sleep=self.clock.advance),
            exempt=ROSTER.rpartition("r")[0],
            patience=0.05,
            clock=self.clock,
            date=lambda: 1.7e9 + self.clock(),
            start=self._start,
        )

    def _start(self, work: Callable[[], None]) -> None:
        if self.is_busy:
            self.behind.append(work)
        else:
            work()

    @property
    def listings(self) -> int:
        return len(self.recording.names("list"))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def put(store: Store, index: int, size: int) -> None:
    keep(store, NAMES[index], bytes(size))


# What may be kept.


def test_what_does_not_fit_is_refused_before_anything_is_sent(machine: Machine) -> None:
    store = machine.process()
    put(store, 0, 600)
    opened: list[int] = []

    def open_at(offset: int) -> Iterator[bytes]:
        opened.append(offset)
        yield bytes(401)

    with pytest.raises(Full, match=r"600 of the 1,000 bytes .* 401 more"):
        store.put(NAMES[1], 401, open_at)
    assert opened == []
    put(store, 1, 400)
    assert store.space() == 0


def test_what_is_there_already_counts(machine: Machine) -> None:
    keep(machine.memory, NAMES[0], bytes(900))
    store = machine.process()
    assert store.space() == 100
    with pytest.raises(Full):
        put(store, 1, 101)
    put(store, 1, 100)


def test_what_is_deleted_makes_room(machine: Machine) -> None:
    store = machine.process()
    put(store, 0, 1000)
    store.delete(NAMES[0])
    store.delete(NAMES[0])
    assert store.space() == 1000
    put(store, 1, 1000)
    assert machine.listings == 1


def test_what_failed_takes_no_room(machine: Machine) -> None:
    broken = machine.process(Failing(machine.roomy, lambda: Unavailable("cut"), ["put"], after=10))
    for _ in range(3):
        with pytest.raises(Unavailable):
            put(broken, 0, 1000)
    put(machine.process(), 0, 1000)


def test_what_is_on_its_way_takes_room(machine: Machine) -> None:
    release = threading.Event()
    slow = Slow(machine.roomy, release, ["put"], after=10)
    store = machine.process(slow)
    first = Run(lambda: put(store, 0, 600))
    wait_for(slow.reached)
    with pytest.raises(Full, match="600 of the 1,000"):
        put(store, 1, 600)
    assert store.space() == 400
    release.set()
    first.join()
    assert store.space() == 400


def test_the_grids_own_documents_always_fit(machine: Machine) -> None:
    store = machine.process()
    put(store, 0, 1000)
    keep(store, ROSTER, bytes(50))
    store.delete(ROSTER)
    assert store.space() == 0


def test_without_a_bound_nothing_is_listed_looked_at_or_written(machine: Machine) -> None:
    machine.max_bytes = 0
    store = machine.process()
    put(store, 0, 5000)
    store.space()
    store.delete(NAMES[0])
    assert {verb for verb, _ in machine.recording.calls} == {"put", "space", "delete"}
    assert not machine.file.exists()


# What is known of it.


def test_processes_share_a_count_and_nobody_lists_twice(machine: Machine) -> None:
    put(machine.process(), 0, 600)
    store = machine.process()
    assert store.space() == 400
    put(machine.process(), 1, 300)
    assert store.space() == 100
    assert machine.listings == 1


def test_a_count_is_made_anew_after_a_day_behind_the_back(machine: Machine) -> None:
    store = machine.process()
    put(store, 0, 100)
    keep(machine.memory, NAMES[1], bytes(500))  # by another clone
    machine.is_busy = True
    machine.clock.advance(COUNT_AGE - 1)
    assert (store.space(), len(machine.behind)) == (900, 0)
    machine.clock.advance(1)
    assert (store.space(), len(machine.behind)) == (900, 1)
    machine.behind.popleft()()
    assert store.space() == 400
    assert machine.listings == 2


def test_a_store_is_not_called_full_by_an_old_count(machine: Machine) -> None:
    store = machine.process()
    put(store, 0, 1000)
    machine.memory.contents.clear()  # by another clone
    machine.clock.advance(DOUBT_AGE - 1)
    with pytest.raises(Full):
        put(store, 1, 10)
    assert machine.listings == 1
    machine.clock.advance(1)
    put(store, 1, 10)
    assert store.space() == 990


@pytest.mark.parametrize(
    "content",
    [
        "",
        "x",
        "[]",
        '{"used": "1", "counted": 1700001000.0}',
        '{"used": -1, "counted": 1700001000.0}',
        '{"used": 1, "counted": 1700001000}',
        '{"used": 0, "counted": null}',
        '{"used": 0}',
        '{"used": 0, "counted": 9e99}',
    ],
)
def test_a_count_that_says_nothing_is_made_anew(machine: Machine, content: str) -> None:
    keep(machine.memory, NAMES[0], bytes(900))
    machine.file.parent.mkdir()
    machine.file.write_text(content)
    store = machine.process()
    store.space()
    assert store.space() == 100


def test_where_nothing_can_be_kept_each_process_counts(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.file.parent.write_text("in the way")
    for turn in (1, 2):
        store = machine.process()
        put(store, turn, 100)
        assert store.space() == 1000 - turn * 100
        assert machine.listings == turn
    assert caplog.text.count("for this process alone") == 2


def test_what_is_put_while_it_is_counted_is_not_forgotten(machine: Machine) -> None:
    class Listing(Around):
        """Puts something after the list was made, and before it is given out."""

        def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
            found = list(self.store.list(prefix))
            put(store, 1, 300)
            return iter(found)

    store = machine.process(Listing(machine.roomy))
    put(store, 0, 100)
    assert store.space() == 600


def test_nobody_waits_for_the_first_count(machine: Machine) -> None:
    keep(machine.memory, NAMES[0], bytes(500))
    machine.is_busy = True
    store = machine.process()
    put(store, 1, 300)
    put(store, 2, 300)  # more than fits, but nobody knows yet
    assert store.space() is None
    machine.roomy.free = 5000
    assert machine.process().space() == 5000
    with pytest.raises(Full, match=r"^0 of the 1,000 .* 1,001 more"):
        put(store, 3, 1001)
    machine.is_busy = False
    machine.behind.popleft()()
    with pytest.raises(Full, match="1,100 of the 1,000"):
        put(store, 3, 10)
    assert store.space() == 0


def test_what_is_put_before_and_while_it_is_first_counted_counts_once(machine: Machine) -> None:
    machine.is_busy = True
    release = threading.Event()
    slow = Slow(machine.roomy, release, ["put"], after=10)
    store = machine.process(slow)
    first = Run(lambda: put(store, 0, 200))
    wait_for(slow.reached)
    counting = machine.behind.popleft()
    counting()
    release.set()
    first.join()
    put(store, 1, 300)
    assert store.space() == 500
    assert machine.listings == 1


def test_before_a_store_is_called_full_nobody_waits_long(machine: Machine) -> None:
    store = machine.process()
    put(store, 0, 1000)
    machine.memory.contents.clear()  # by another clone
    machine.clock.advance(DOUBT_AGE)
    machine.is_busy = True
    with pytest.raises(Full):
        put(store, 1, 10)
    machine.behind.popleft()()
    put(store, 1, 10)


def test_a_count_that_fails_is_said_and_not_tried_all_the_time(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    failing = Failing(machine.recording, lambda: Unavailable("it cannot be listed"), ["list"])
    store = machine.process(failing)
    for index in range(3):
        put(store, index, 600)
    assert caplog.text.count("it cannot be listed") == 1
    machine.clock.advance(COUNT_PAUSE)
    put(store, 3, 600)
    assert caplog.text.count("it cannot be listed") == 2


def test_no_thread_to_be_had_is_no_failure_of_the_put(machine: Machine) -> None:
    def none_left(_: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    store = Quota(machine.roomy, 1000, patience=0.05, start=none_left)
    put(store, 0, 100)
    put(store, 0, 100)


# What is written.


def test_what_is_put_while_another_process_has_the_file_is_told_later(machine: Machine) -> None:
    store = machine.process()
    store.space()

    def inside(kept: bytes) -> bytes:
        put(store, 0, 600)
        put(store, 1, 300)
        store.delete(NAMES[1])
        assert store.space() == 400
        return kept

    SharedFile(str(machine.file)).change(inside)
    put(store, 2, 50)
    assert store.space() == machine.process().space() == 350
    assert machine.listings == 1


def test_what_could_not_be_written_counts_once(machine: Machine) -> None:
    class Unwritable(SharedFile):
        def change(self, change: Callable[[bytes], bytes]) -> None:
            def written(kept: bytes) -> bytes:
                new = change(kept)
                if new != kept:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return new

            super().change(written)

    other = machine.process()
    put(other, 0, 100)
    store = Quota(machine.roomy, 1000, Unwritable(str(machine.file)), date=lambda: 1.7e9 + machine.clock())
    put(store, 1, 300)
    assert store.space() == 600
    assert machine.listings == 1


def test_many_put_at_once(machine: Machine) -> None:
    store = machine.process()
    store.space()
    refused: list[int] = []

    def one(index: int) -> None:
        try:
            put(store, index, 300)
        except Full:
            refused.append(index)

    for run in [Run(lambda index=index: one(index)) for index in range(8)]:  # type: ignore[misc]
        run.join()
    assert len(refused) == 5
    assert sum(map(len, machine.memory.contents.values())) == 900


# Its own word.


def test_free_space_is_asked_once_a_minute_and_what_is_put_is_taken_off(machine: Machine) -> None:
    machine.max_bytes = 0
    machine.roomy.free = 5000
    store = machine.process()
    assert store.space() == 5000
    put(store, 0, 700)
    machine.roomy.free = 4000
    machine.clock.advance(SPACE_AGE - 1)
    assert store.space() == 4300
    assert len(machine.recording.names("space")) == 1
    machine.clock.advance(1)
    assert store.space() == 4000
    put(store, 1, 5000)
    assert store.space() == 0


def test_the_smaller_of_two_is_what_is_left(machine: Machine) -> None:
    machine.roomy.free = 300
    assert machine.process().space() == 300
    machine.roomy.free = 10_000
    assert machine.process().space() == 1000


def test_a_store_that_does_not_tell_is_not_asked_all_the_time(machine: Machine) -> None:
    machine.max_bytes = 0
    store = machine.process()
    assert store.space() is None
    put(store, 0, 10)
    assert store.space() is None
    assert len(machine.recording.names("space")) == 1


def test_a_failure_is_no_answer(machine: Machine) -> None:
    store = machine.process(Failing(machine.roomy, lambda: Unavailable("cut"), ["space"]))
    for _ in range(2):
        with pytest.raises(Unavailable):
            store.space()


def test_fresh_is_passed_on(machine: Machine) -> None:
    given: list[bool] = []

    class Noting(Around):
        def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
            given.append(fresh)

    store = machine.process(Noting(machine.roomy))
    for fresh in (True, False):
        store.put(NAMES[0], 1, lambda at: [bytes(1)[at:]], fresh=fresh)
    assert given == [True, False]
