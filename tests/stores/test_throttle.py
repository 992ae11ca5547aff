"""Limits of bytes a second, by a clock that goes on when somebody sleeps."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annex_remote.stores.throttle import BURST, Bucket, Throttled
from tests.fakes import FakeClock, MemoryStore, Recording
from tests.stores.test_contract import NAME, giving, keep, read

RATE = 100_000.0
DATA = bytes(range(256)) * 4000


def bucket(clock: FakeClock, rate: float = RATE) -> Bucket:
    return Bucket(rate, clock=clock, sleep=clock.advance)


@given(st.lists(st.integers(1, 200_000), min_size=1, max_size=50), st.floats(1_000.0, 1e9))
def test_never_more_than_the_rate_and_a_burst(counts: list[int], rate: float) -> None:
    clock = FakeClock()
    began = clock()
    limit = bucket(clock, rate)
    for count in counts:
        limit.take(count)
    assert clock() - began == pytest.approx(max(0.0, sum(counts) / rate - BURST), rel=1e-6, abs=1e-6)


def test_idle_time_is_not_saved_up() -> None:
    clock = FakeClock()
    limit = bucket(clock)
    limit.take(1)
    clock.advance(3600.0)
    began = clock()
    limit.take(int(RATE))
    assert clock() - began == pytest.approx(1.0 - BURST)


@pytest.mark.parametrize("piece", [1000, 65_536, len(DATA)])
def test_a_put_takes_its_time_whatever_its_pieces(piece: int) -> None:
    clock = FakeClock()
    began = clock()
    memory = MemoryStore()
    Throttled(memory, up=bucket(clock)).put(NAME, len(DATA), giving(DATA, piece))
    assert memory.contents[NAME] == DATA
    assert clock() - began == pytest.approx(len(DATA) / RATE, rel=0.02)


def test_a_read_takes_its_time_and_the_other_way_is_free() -> None:
    clock = FakeClock()
    store = Throttled(MemoryStore(), down=bucket(clock))
    began = clock()
    keep(store, NAME, DATA)
    assert clock() == began
    assert read(store, NAME, 1000, 500_000) == DATA[1000:501_000]
    assert clock() - began == pytest.approx(500_000 / RATE, rel=0.03)


def test_who_shares_a_bucket_shares_its_rate() -> None:
    clock = FakeClock()
    began = clock()
    shared = bucket(clock)
    stores = [Throttled(MemoryStore(), shared, shared) for _ in range(3)]
    for store in stores:
        keep(store, NAME, DATA)
        assert read(store, NAME) == DATA
    assert clock() - began == pytest.approx(6 * len(DATA) / RATE, rel=0.02)


def test_a_read_that_is_left_early_has_only_cost_what_came() -> None:
    clock = FakeClock()
    recording = Recording(MemoryStore(piece=1000))
    keep(recording, NAME, DATA)
    began = clock()
    with Throttled(recording, down=bucket(clock)).read(NAME) as stream:
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
    threads = [threading.Thread(target=limit.take, args=(10_000,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(passed) == pytest.approx(20 * 10_000 / RATE - BURST)
    assert len({round(each, 6) for each in passed}) == len(passed)
