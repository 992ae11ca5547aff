"""The plan of a download, against a model that keeps every request and answer there ever was."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from annex_remote.errors import NotEnough
from annex_remote.transfer.plan import FetchPlan, Request


class Model(RuleBasedStateMachine):
    @initialize(
        needed=st.integers(1, 4),
        spares=st.integers(0, 3),
        first=st.integers(0, 5),
        segments=st.integers(1, 12),
        window=st.integers(1, 4),
        chance=st.randoms(use_true_random=False),
    )
    def begin(
        self, needed: int, spares: int, first: int, segments: int, window: int, chance: random.Random
    ) -> None:
        self.needed, self.window, self.chance = needed, window, chance
        self.first, self.end, self.horizon = first, first + segments, first
        self.numbers = chance.sample(range(256), needed + spares)
        self.plan = FetchPlan(needed, self.numbers, self.first, self.end, window)
        self.asked: dict[int, list[int]] = {segment: [] for segment in range(self.first, self.end)}
        """Segment to every share that was ever asked for it."""
        self.good: dict[int, set[int]] = {segment: set() for segment in self.asked}
        self.bad: set[tuple[int, int]] = set()
        self.dead: set[int] = set()
        self.open: dict[Request, list[int]] = {}
        """Requests under way, to the segments that they owe."""
        self.completed: list[int] = []
        self.begun = first
        """Segments before this one have been under way."""

    def promised(self, segment: int) -> set[int]:
        """Shares that have delivered the segment, or have been asked for it and may yet."""
        owing = {request.number for request, owed in self.open.items() if segment in owed}
        return self.good[segment] | owing

    def candidates(self, segment: int) -> set[int]:
        """Shares that could give the segment in the best case."""
        free = {number for number in self.numbers if number not in self.dead and (number, segment) not in self.bad}
        return self.promised(segment) | free

    @rule(step=st.integers(0, 6))
    def go_on(self, step: int) -> None:
        self.horizon = min(self.horizon + step, self.end + 3)
        self.ask()

    def ask(self) -> bool:
        while self.begun < min(self.horizon, self.end):
            self.begun = min(self.begun + self.window, self.end)
        wanted = [segment for segment in range(self.first, self.begun) if segment not in self.completed]
        hopeless = [segment for segment in wanted if len(self.candidates(segment)) < self.needed]
        if hopeless:
            with pytest.raises(NotEnough):
                self.plan.requests(self.horizon)
            return False
        requests = self.plan.requests(self.horizon)
        for request in requests:
            assert request.number in self.numbers
            assert request.number not in self.dead
            assert 1 <= request.count <= self.window
            segments = list(range(request.first, request.first + request.count))
            for segment in segments:
                assert self.first <= segment < self.begun <= min(self.horizon + self.window, self.end)
                assert segment not in self.completed
                assert request.number not in self.asked[segment], "asked twice"
                self.asked[segment].append(request.number)
            self.open[request] = segments
        for segment in wanted:
            assert len(self.promised(segment)) == self.needed, "as many as needed, and no more"
        return True

    def take_one(self) -> tuple[Request, int]:
        request = self.chance.choice(list(self.open))
        segment = self.open[request].pop(0)
        if not self.open[request]:
            del self.open[request]
        return request, segment

    @precondition(lambda self: self.open)
    @rule()
    def a_good_block_comes(self) -> None:
        request, segment = self.take_one()
        was_open = segment not in self.completed
        assert self.plan.is_open(segment) == was_open
        self.good[segment].add(request.number)
        done = self.plan.good(request, segment)
        assert done == (was_open and len(self.good[segment]) >= self.needed)
        if done:
            self.completed.append(segment)

    @precondition(lambda self: self.open)
    @rule()
    def a_bad_block_comes(self) -> None:
        request, segment = self.take_one()
        self.bad.add((request.number, segment))
        self.plan.bad(request, segment)

    @precondition(lambda self: self.open)
    @rule()
    def a_request_fails(self) -> None:
        request = self.chance.choice(list(self.open))
        del self.open[request]
        self.dead.add(request.number)
        self.plan.failed(request)

    @rule()
    def a_share_comes_late(self) -> None:
        self.add_share()

    def add_share(self) -> None:
        left = [number for number in range(256) if number not in self.numbers]
        number = self.chance.choice(left)
        self.numbers.append(number)
        self.plan.add_share(number)
        self.plan.add_share(number)  # said twice, it is still one

    @invariant()
    def open_means_not_complete(self) -> None:
        if not hasattr(self, "plan"):
            return
        for segment in range(self.first, self.end):
            assert self.plan.is_open(segment) == (segment < self.begun and segment not in self.completed)
        assert len(set(self.completed)) == len(self.completed)
        assert self.plan.usable == [number for number in self.numbers if number not in self.dead]

    def teardown(self) -> None:
        """From wherever it is, a plan comes to its end once there are shares enough that do well."""
        if not hasattr(self, "plan"):
            return
        for _ in range(self.needed):
            self.add_share()
        while len(self.completed) < self.end - self.first:
            self.horizon = self.end
            assert self.ask()
            assert self.open, "nothing is under way, and the plan is not at its end"
            while self.open:
                self.a_good_block_comes()
        assert sorted(self.completed) == list(range(self.first, self.end))
        assert self.plan.requests(self.end) == []


def test_the_plan_keeps_its_promises_whatever_comes() -> None:
    run_state_machine_as_test(Model, settings=settings(max_examples=120, stateful_step_count=40, deadline=None))


@given(st.integers(1, 5), st.integers(0, 4), st.integers(0, 30), st.integers(1, 8))
def test_without_trouble_the_cheapest_shares_do_it_all(
    needed: int, spares: int, segments: int, window: int
) -> None:
    numbers = [100 + number for number in range(needed + spares)]
    plan = FetchPlan(needed, numbers, 0, segments, window)
    requests = plan.requests(segments)
    assert {request.number for request in requests} == (set(numbers[:needed]) if segments else set())
    assert len(requests) == needed * -(-segments // window)
    assert all(request.count <= window for request in requests)
    assert sum(request.count for request in requests) == needed * segments
    assert plan.requests(segments) == []


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 9))
def test_no_more_than_a_window_past_the_horizon_is_asked(segments: int, window: int, horizon: int) -> None:
    plan = FetchPlan(2, [0, 1, 2], 0, segments, window)
    asked = [request.first + request.count for request in plan.requests(horizon)]
    assert max(asked) == min(-(-horizon // window) * window, segments)


def test_what_was_refused_is_possible_when_a_share_comes_late() -> None:
    """Segment 0 can be had when segment 1 cannot: it must not be forgotten with it."""
    plan = FetchPlan(2, [0, 1, 2], 0, 2, 2)
    zero, one = plan.requests(2)
    plan.bad(zero, 0)
    plan.bad(zero, 1)
    plan.bad(one, 1)
    with pytest.raises(NotEnough, match="segment 1"):
        plan.requests(2)
    plan.add_share(3)
    asked = [(request.number, request.first, request.count) for request in plan.requests(2)]
    assert asked == [(2, 0, 2), (3, 1, 1)]


def test_a_share_that_is_out_keeps_what_it_delivered() -> None:
    plan = FetchPlan(2, [0, 1, 2], 0, 3, 3)
    zero, one = plan.requests(3)
    assert not plan.good(zero, 0)
    plan.failed(zero)
    [spare] = plan.requests(3)
    assert (spare.number, spare.first, spare.count) == (2, 1, 2)
    assert plan.good(one, 0)
    assert not plan.is_open(0)


def test_the_refusal_says_how_many_there_are() -> None:
    with pytest.raises(NotEnough, match="segment 0 can be read from 2 shares, 3 are needed"):
        FetchPlan(3, [4, 5], 0, 1, 1).requests(1)
