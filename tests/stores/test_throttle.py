"""Limits of bytes a second, by a clock that goes on when somebody sleeps."""

from __future__ import annotations

import random
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annex_remote.errors import Unavailable
from annex_remote.limits import parse_limit
from annex_remote.stores.state import SharedFile
from annex_remote.stores.throttle import AHEAD, BURST, STEP, Bucket, Throttled, paced, rate_now
from annex_remote.stores.wrappers import Watched
from tests.fakes import FakeClock, MemoryStore, Recording, wait_for
from tests.stores.test_contract import NAME, giving, keep, read
from tests.transfer.rig import Rig

RATE = 100_000.0
DATA = bytes(range(256)) * 4000


def bucket(clock: FakeClock, rate: float = RATE) -> Bucket:
    return Bucket(rate, clock=clock, sleep=clock.advance)


def take(limit: Bucket, count: int) -> None:
    """Return when `count` bytes may have passed, all at once."""
    wait = limit.reserve(count, limit.rate())
    if wait > 0:
        limit.sleep(wait)


@given(st.lists(st.integers(1, 200_000), min_size=1, max_size=50), st.floats(1_000.0, 1e9))
def test_never_more_than_the_rate_and_a_burst(counts: list[int], rate: float) -> None:
    clock = FakeClock()
    began = clock()
    limit = bucket(clock, rate)
    for count in counts:
        take(limit, count)
    assert clock() - began == pytest.approx(max(0.0, sum(counts) / rate - BURST), rel=1e-6, abs=1e-6)


def test_idle_time_is_not_saved_up() -> None:
    clock = FakeClock()
    limit = bucket(clock)
    take(limit, 1)
    clock.advance(3600.0)
    began = clock()
    take(limit, int(RATE))
    assert clock() - began == pytest.approx(1.0 - BURST)


@pytest.mark.parametrize("piece", [1000, 65_536, len(DATA)])
def test_a_put_takes_its_time_whatever_its_pieces(piece: int) -> None:
    clock = FakeClock()
    began = clock()
    memory = MemoryStore()
    Throttled(memory, up=[bucket(clock)]).put(NAME, len(DATA), giving(DATA, piece))
    assert memory.contents[NAME] == DATA
    assert clock() - began == pytest.approx(len(DATA) / RATE, rel=0.02)


def test_a_read_takes_its_time_and_the_other_way_is_free() -> None:
    clock = FakeClock()
    store = Throttled(MemoryStore(), down=[bucket(clock)])
    began = clock()
    keep(store, NAME, DATA)
    assert clock() == began
    assert read(store, NAME, 1000, 500_000) == DATA[1000:501_000]
    assert clock() - began == pytest.approx(500_000 / RATE, rel=0.03)


def test_who_shares_a_bucket_shares_its_rate() -> None:
    clock = FakeClock()
    began = clock()
    shared = bucket(clock)
    stores = [Throttled(MemoryStore(), [shared], [shared]) for _ in range(3)]
    for store in stores:
        keep(store, NAME, DATA)
        assert read(store, NAME) == DATA
    assert clock() - began == pytest.approx(6 * len(DATA) / RATE, rel=0.02)


def test_a_read_that_is_left_early_has_only_cost_what_came() -> None:
    clock = FakeClock()
    recording = Recording(MemoryStore(piece=1000))
    keep(recording, NAME, DATA)
    began = clock()
    with Throttled(recording, down=[bucket(clock)]).read(NAME) as stream:
        next(iter(stream))
    assert recording.given <= 2000
    assert clock() - began <= 2000 / RATE


def test_many_threads_at_real_time() -> None:
    """The sum of what passes is bounded by the clock that the bucket was given, however many ask."""
    passed: list[float] = []
    lock = threading.Lock()

    def sleep(seconds: float) -> None:
        with lock:
            passed.append(seconds)

    clock = FakeClock()
    limit = Bucket(RATE, clock=clock, sleep=sleep)
    threads = [threading.Thread(target=take, args=(limit, 10_000)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(passed) == pytest.approx(20 * 10_000 / RATE - BURST)
    assert len({round(each, 6) for each in passed}) == len(passed)


# What changes, and what waits.


def test_a_limit_holds_within_a_twentieth_over_ten_seconds() -> None:
    clock = FakeClock()
    limit = bucket(clock)
    began, passed = clock(), 0
    while clock() - began < 10.0:
        passed += len(next(paced([limit], [bytes(1 << 20)])))
    assert passed == pytest.approx(10 * RATE, rel=0.05)


def test_a_schedule_changes_while_a_piece_passes() -> None:
    clock = FakeClock()
    began = clock()
    limit = parse_limit("x", "08:00-18:00=none,18:00-24:00=200000,100000")

    def local() -> time.struct_time:
        # 07:59:55 when this begins: five seconds at one rate, and then none.
        seconds = int(7 * 3600 + 59 * 60 + 55 + clock() - began)
        return time.struct_time((2026, 1, 1, seconds // 3600, seconds // 60 % 60, seconds % 60, 3, 1, 0))

    own = Bucket(rate_now(limit, local), clock=clock, sleep=clock.advance)
    parts = paced([own], [bytes(10_000_000)])
    slow = 0
    while clock() - began < 4.9:
        slow += len(next(parts))
    rest = sum(len(part) for part in parts)
    assert slow == pytest.approx(5 * 100_000, rel=0.05)
    assert slow + rest == 10_000_000
    assert clock() - began == pytest.approx(5.0, abs=0.1)


def test_a_piece_passes_at_the_rate_that_it_was_cut_by() -> None:
    """The limit begins to hold between the look at it and the next."""
    clock = FakeClock()
    said: list[float | None] = [None]
    began = clock()
    own = Bucket(lambda: said.pop() if said else 1024.0, clock=clock, sleep=clock.advance)
    parts = paced([own], [bytes(1 << 20), bytes(1024)])
    assert len(next(parts)) == 1 << 20
    assert clock() == began
    assert len(next(parts)) == int(1024 * STEP)


@pytest.mark.parametrize("rate", [1024.0, 1e6, 1e7])
def test_no_wait_is_long(rate: float) -> None:
    clock = FakeClock()
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        clock.advance(seconds)

    limits = [Bucket(each, clock=clock, sleep=sleep) for each in (3 * rate, rate, rate)]
    keep(Throttled(MemoryStore(), limits), NAME, bytes(int(rate)))
    assert max(waits) <= STEP + 1e-6


def test_the_slower_of_two_buckets_is_the_rate() -> None:
    clock = FakeClock()
    slow, fast = bucket(clock), bucket(clock, 2 * RATE)
    began = clock()
    keep(Throttled(MemoryStore(), [fast, slow, fast]), NAME, DATA)
    assert clock() - began == pytest.approx(len(DATA) / RATE, rel=0.02)
    same = [bucket(clock) for _ in range(3)]
    began = clock()
    keep(Throttled(MemoryStore(), same), NAME, DATA)
    assert clock() - began == pytest.approx(len(DATA) / RATE, rel=0.02)


def test_who_waits_for_the_limit_does_not_wait_for_the_store() -> None:
    """Everything that a `Watched` store is asked while a read waits in the bucket is answered."""
    clock = FakeClock()
    watched = Watched(MemoryStore(piece=1000), 1.0, clock)
    keep(watched, NAME, DATA)
    asked: list[int | None] = []

    def sleep(seconds: float) -> None:
        clock.advance(seconds + 10.0)
        asked.append(watched.stat(NAME))

    store = Throttled(watched, [Bucket(RATE, clock=clock, sleep=sleep)], [Bucket(RATE, clock=clock, sleep=sleep)])
    assert read(store, NAME, 0, 100_000)
    assert len(asked) > 2
    keep(store, NAME, DATA[:100_000])
    assert len(asked) > 5


# Several processes.


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    return tmp_path / "limits" / "grid.upload.here"


def sharing(path: Path, clock: FakeClock, rate: float = RATE) -> Bucket:
    """Return the bucket as another process has it."""
    return Bucket(rate, SharedFile(str(path), sleep=clock.advance), clock=clock, sleep=clock.advance)


def test_processes_share_a_limit(shared: Path) -> None:
    clock = FakeClock()
    began = clock()
    one, two = sharing(shared, clock), sharing(shared, clock)
    for _ in range(100):
        take(one, 1000)
        take(two, 3000)
    assert clock() - began == pytest.approx(400_000 / RATE, rel=0.03)


@pytest.mark.parametrize("number", [1e9, float("nan"), float("inf"), -1e9, AHEAD + 1001.0])
def test_a_number_from_another_time_does_not_block(shared: Path, number: float) -> None:
    clock = FakeClock()
    shared.parent.mkdir()
    shared.write_bytes(struct.pack("<d", number))
    began = clock()
    limit = sharing(shared, clock)
    take(limit, 1000)
    assert clock() - began <= 1000 / RATE + BURST
    take(limit, int(RATE))
    assert clock() - began == pytest.approx(1.0, abs=2 * BURST)


@pytest.mark.parametrize("content", [b"", b"x", bytes(100)])
def test_a_file_that_says_nothing_is_written_anew(shared: Path, content: bytes) -> None:
    clock = FakeClock()
    shared.parent.mkdir()
    shared.write_bytes(content)
    take(sharing(shared, clock), 1000)
    assert len(shared.read_bytes()) == 8


def test_a_file_that_goes_away_comes_again(shared: Path) -> None:
    clock = FakeClock()
    one, two = sharing(shared, clock), sharing(shared, clock)
    take(one, 1000)
    shared.unlink()
    shared.parent.rmdir()
    began = clock()
    for _ in range(50):
        take(one, 2000)
        take(two, 2000)
    assert clock() - began == pytest.approx(200_000 / RATE, rel=0.06)


def test_where_the_file_cannot_be_each_process_keeps_to_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    clock = FakeClock()
    began = clock()
    limit = sharing(tmp_path / "file" / "upload", clock)
    for _ in range(100):
        take(limit, 2000)
    assert clock() - began == pytest.approx(200_000 / RATE, rel=0.06)
    assert caplog.text.count("for this process alone") == 1


def test_a_process_that_stands_still_with_the_lock_stops_nobody(shared: Path) -> None:
    clock = FakeClock()
    limit = sharing(shared, clock)
    held = SharedFile(str(shared))

    def inside(kept: bytes) -> bytes:
        began = clock()
        for _ in range(10):
            take(limit, int(RATE))
        assert clock() - began == pytest.approx(11.0, rel=0.1)  # ten, and the patience with the lock
        return kept

    held.change(inside)


def test_limits_of_another_store_are_not_its_own_failures() -> None:
    """What the source raises while it is paced passes through, as without a limit."""

    def broken(_: int) -> Iterator[bytes]:
        yield bytes(1000)
        raise Unavailable("the source is gone")

    with pytest.raises(Unavailable, match="the source is gone"):
        Throttled(MemoryStore(), [bucket(FakeClock())]).put(NAME, 5000, broken)


# With the engine.


class Watcher:
    """A clock for the engine, and a bucket that now and then waits until the engine has looked at it."""

    def __init__(self, rate: float, every: float) -> None:
        self.clock = FakeClock()
        self.bucket = Bucket(rate, clock=self.clock, sleep=self._sleep)
        self._every = every
        self._slept = 0.0
        self._looked = threading.Event()

    def __call__(self) -> float:
        self._looked.set()
        return self.clock()

    def _sleep(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self._slept += seconds
        if self._slept > self._every:
            self._slept = 0.0
            self._looked.clear()
            wait_for(self._looked)


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_store_that_a_limit_keeps_slow_does_not_stand_still(tmp_path: Path, way: str) -> None:
    """A block takes a hundred seconds, and the engine gives up after thirty of them without anything."""
    data = random.Random(1).randbytes(200_000)
    rig = Rig.of(tmp_path, 1, 1, 1)
    rig.stall = 30.0
    watcher = Watcher(2048.0, every=40.0)
    began = watcher.clock()
    if way == "up":
        rig.break_store(0, lambda store: Throttled(store, up=[watcher.bucket]))
        rig.store(data, watcher)
    else:
        rig.store(data)
        rig.break_store(0, lambda store: Throttled(store, down=[watcher.bucket]))
        assert rig.fetch(clock=watcher) == data
    assert watcher.clock() - began > 90.0
    assert rig.readable() == data
