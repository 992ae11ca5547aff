"""Giving way: what is read by what round trips there are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annex_remote.torrents.yielding import FLOOR, FORGET, TARGET, Yielding

LOOK = 0.5
RATE = 2e6


class Line:
    """A peer behind a line of `RATE` that sends as fast as it is read."""

    def __init__(self) -> None:
        self.yielding = Yielding()
        self.now = 0.0
        self.limit = 0

    @property
    def rate(self) -> float:
        return min(RATE, self.limit or RATE)

    def pass_time(self, seconds: float, trip: Callable[[], float]) -> int:
        for _ in range(round(seconds / LOOK)):
            self.now += LOOK
            self.limit = self.yielding.look(self.now, self.rate, {"peer": trip()})
        return self.limit


def test_a_line_that_nobody_else_wants_is_used() -> None:
    line = Line()
    assert line.pass_time(60, lambda: 0.02) == 0
    assert line.pass_time(60, lambda: 0.02 + TARGET * 0.9) == 0


def test_whoever_lets_packets_queue_gets_the_line_at_once() -> None:
    line = Line()
    line.pass_time(10, lambda: 0.02)
    assert 0 < line.pass_time(3, lambda: 0.3) < RATE / 10
    assert line.pass_time(60, lambda: 0.3) == FLOOR
    assert line.pass_time(5, lambda: 0.02) < RATE / 2
    assert line.pass_time(120, lambda: 0.02) == 0


def test_two_who_give_way_to_a_queue_share_the_line() -> None:
    """The queue is our own doing, too: it comes to rest somewhere, and not at the floor."""
    line = Line()
    line.pass_time(5, lambda: 0.02)
    rates = []
    for _ in range(400):
        line.pass_time(LOOK, lambda: 0.02 + max(0.0, line.rate - RATE / 2) / RATE)
        rates.append(line.rate)
    assert RATE / 4 < sum(rates) / len(rates) < RATE * 3 / 4


def test_one_peer_that_is_slow_to_answer_is_not_our_line() -> None:
    yielding = Yielding()
    for look in range(100):
        trips: dict[object, float] = {"near": 0.02, "far": 0.1 if look < 20 else 0.9}
        assert yielding.look(look * LOOK, RATE, trips) == 0


def test_peers_come_and_go() -> None:
    line = Line()
    line.pass_time(5, lambda: 0.02)
    limit = line.pass_time(2, lambda: 0.3)
    assert limit
    assert line.yielding.look(line.now + LOOK, 0.0, {}) == limit  # nothing comes, and nothing is known
    assert line.yielding.look(line.now + 2 * LOOK, 0.0, {"new": 0.5}) > limit


def test_a_way_that_has_changed_is_learned() -> None:
    line = Line()
    line.pass_time(10, lambda: 0.02)
    assert line.pass_time(FORGET / 2, lambda: 0.06) == FLOOR
    assert line.pass_time(2 * FORGET, lambda: 0.06) == 0


@given(st.lists(st.tuples(st.floats(0, 1e9), st.dictionaries(st.integers(0, 3), st.floats(0, 10)))))
def test_there_is_always_something_left(looks: list[tuple[float, dict[object, float]]]) -> None:
    yielding = Yielding()
    for number, (rate, trips) in enumerate(looks):
        limit = yielding.look(number * LOOK, rate, trips)
        assert limit == 0 or limit >= FLOOR


@pytest.mark.parametrize("trip", [0.0, 5.0])
def test_the_first_look_says_nothing(trip: float) -> None:
    assert Yielding().look(0.0, RATE, {"peer": trip}) == 0


def test_one_long_trip_says_nothing() -> None:
    line = Line()
    for _ in range(100):
        assert line.pass_time(LOOK, lambda: 0.02) == 0
        assert line.pass_time(LOOK, lambda: 0.3) == 0
