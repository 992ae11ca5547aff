"""The scheduler of downloads: against a model, against stores of all kinds in virtual time, and how fast it is."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import event, given, settings
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
from annex_remote.transfer import schedule as module
from annex_remote.transfer.figures import Book, Figures, forecast
from annex_remote.transfer.schedule import AHEAD, MAX_WINDOW, Request, Schedule, Source
from tests.transfer.simulation import BLOCK, MB, NEEDED, SEGMENT, Outcome, Stock, simulate

FLOOR = 2 * MAX_WINDOW
"""Blocks that may be asked for beside others however small the object is."""


# Against a model that keeps every request and answer there ever was.


def anything(chance: random.Random) -> Figures:
    """Return figures that a book could give, likely or not."""

    def maybe(most: float) -> float | None:
        return chance.choice([None, most * chance.random() ** 4 + 1e-4])

    return Figures(
        first_byte=maybe(3.0),
        late=maybe(10.0),
        down=chance.choice([None, 10 ** chance.uniform(3, 9)]),
        owed=chance.choice([0, chance.randrange(1 << 26)]),
        resting=chance.random() < 0.1,
    )


class Model(RuleBasedStateMachine):
    @initialize(
        needed=st.integers(1, 4),
        spares=st.integers(0, 3),
        first=st.integers(0, 5),
        segments=st.integers(1, 60),
        chance=st.randoms(use_true_random=False),
    )
    def begin(self, needed: int, spares: int, first: int, segments: int, chance: random.Random) -> None:
        self.needed, self.chance, self.now = needed, chance, 50.0
        self.first, self.end, self.written = first, first + segments, first
        self.numbers = chance.sample(range(256), needed + spares)
        self.known: dict[str, Figures] = {}
        sources = [self.source(number) for number in self.numbers]
        self.schedule = Schedule(needed, first, self.end, BLOCK, sources, self.figures)
        self.good: dict[int, set[int]] = {segment: set() for segment in range(first, self.end)}
        self.bad: set[tuple[int, int]] = set()
        self.strikes: Counter[int] = Counter()
        self.rests: dict[int, float] = {}
        """Share to when it may be asked again."""
        self.dead: set[int] = set()
        self.open: dict[Request, list[int]] = {}
        """Requests under way, to the segments that they owe."""
        self.moved: dict[Request, float] = {}
        """Those that were sent, to when that was or when they brought something last."""
        self.completed: set[int] = set()
        self.hedged = 0
        self.probed: Counter[int] = Counter()

    def source(self, number: int) -> Source:
        return Source(
            number, f"store{number % 5}", 50.0 * (1 + number % 3), float(number % 7 == 0), 1 + number % 4
        )

    def figures(self, store: str, now: float) -> Figures:
        assert now == self.now
        return self.known.get(store, Figures())

    def promised(self, segment: int) -> set[int]:
        """Shares that have delivered the segment, or have been asked for it and may yet."""
        owing = {request.number for request, owed in self.open.items() if segment in owed}
        return self.good[segment] | owing

    def candidates(self, segment: int) -> set[int]:
        """Shares that could give the segment in the best case."""
        free = {number for number in self.numbers if number not in self.dead and (number, segment) not in self.bad}
        return self.promised(segment) | free

    @rule()
    def what_is_known_changes(self) -> None:
        self.known = {f"store{place}": anything(self.chance) for place in range(self.chance.randrange(6))}

    @rule(seconds=st.sampled_from([0.001, 0.1, 0.5, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(take=st.integers(0, 6))
    def go_on(self, take: int) -> None:
        while take and self.written in self.completed:
            self.written, take = self.written + 1, take - 1
        self.ask()

    def ask(self) -> bool:
        silent = {
            segment
            for request, owed in self.open.items()
            for segment in owed
            if self.now - self.moved.get(request, self.now) >= module.LOST
        }
        try:
            requests = self.schedule.plan(self.written, self.now)
        except NotEnough:
            requests = None
        wanted = [segment for segment in range(self.first, self.end) if self.schedule.is_open(segment)]
        assert (requests is None) == any(len(self.candidates(segment)) < self.needed for segment in wanted)
        for request in requests or ():
            self.check(request, silent)
            self.open[request] = list(range(request.first, request.end))
        assert set(self.schedule.under_way) == set(self.open), "what is refused has started nothing"
        assert self.schedule.extra_blocks == self.hedged
        for segment in wanted:
            assert segment < min(self.end, self.written + AHEAD)
            most = self.needed + module.MOST_EXTRAS + self.probed[segment]
            assert len(self.promised(segment)) <= most
        return requests is not None

    def check(self, request: Request, silent: set[int]) -> None:
        assert request.number in self.numbers
        assert request.number not in self.dead
        assert self.now >= self.rests.get(request.number, self.now)
        assert 1 <= request.count <= MAX_WINDOW
        segments = range(request.first, request.end)
        for segment in segments:
            assert self.first <= segment < min(self.end, self.written + AHEAD)
            assert segment not in self.completed
            assert request.number not in self.promised(segment)
            assert (request.number, segment) not in self.bad
        if request.why == "hedge":
            self.hedged += request.count
            budget = max(FLOOR, 0.05 * (self.end - self.first) * self.needed)
            assert self.hedged <= budget or silent & set(segments)
        elif request.why == "probe":
            self.probed.update(segments)

    @precondition(lambda self: self.open)
    @rule()
    def a_request_is_sent(self) -> None:
        request = self.chance.choice(list(self.open))
        if request not in self.moved:
            self.moved[request] = self.now
            self.schedule.began(request, self.now)

    def take_one(self) -> tuple[Request, int] | None:
        """Let a request bring a block."""
        request = self.chance.choice(list(self.open))
        if not self.open[request]:
            return None
        if request not in self.moved:
            self.schedule.began(request, self.now)
        self.moved[request] = self.now
        self.schedule.heard(request, BLOCK, self.now)
        return request, self.open[request].pop(0)

    @precondition(lambda self: self.open)
    @rule()
    def a_good_block_comes(self) -> None:
        self.deliver()

    def deliver(self) -> None:
        taken = self.take_one()
        if taken is None:
            return
        request, segment = taken
        was_open = segment not in self.completed
        assert self.schedule.is_open(segment) == was_open
        self.good[segment].add(request.number)
        self.strikes[request.number] = 0
        done = self.schedule.good(request, segment)
        assert done == (was_open and len(self.good[segment]) >= self.needed)
        if done:
            self.completed.add(segment)

    @precondition(lambda self: self.open)
    @rule()
    def a_bad_block_comes(self) -> None:
        taken = self.take_one()
        if taken is not None:
            self.bad.add((taken[0].number, taken[1]))
            self.schedule.bad(*taken)

    @precondition(lambda self: self.open)
    @rule()
    def a_request_ends(self) -> None:
        self.finish(self.chance.choice(list(self.open)))

    def finish(self, request: Request) -> None:
        """End a request if it has brought everything, or if nobody wants the rest."""
        owed = self.open[request]
        assert self.schedule.owes(request) == bool(owed)
        assert self.schedule.wants(request) == any(segment not in self.completed for segment in owed)
        if not self.schedule.wants(request):
            del self.open[request]
            self.schedule.over(request)

    @precondition(lambda self: self.open)
    @rule(for_good=st.booleans())
    def a_request_fails(self, for_good: bool) -> None:
        request = self.chance.choice(list(self.open))
        del self.open[request]
        number = request.number
        if self.now >= self.rests.get(number, self.now):
            self.strikes[number] += 1
            self.rests[number] = self.now + 0.5 * 2 ** (self.strikes[number] - 1)
        if for_good or self.strikes[number] >= 3:
            self.dead.add(number)
        self.schedule.failed(request, self.now, for_good=for_good)

    @rule()
    def a_share_comes_late(self) -> None:
        self.add_share()

    def add_share(self) -> None:
        number = self.chance.choice([number for number in range(256) if number not in self.numbers])
        self.numbers.append(number)
        self.schedule.add(self.source(number))
        self.schedule.add(self.source(number))  # said twice, it is still one

    @invariant()
    def what_is_open_is_neither_complete_nor_forgotten(self) -> None:
        if not hasattr(self, "schedule"):
            return
        for segment in self.completed:
            assert not self.schedule.is_open(segment)
        assert self.schedule.usable == [number for number in self.numbers if number not in self.dead]

    def teardown(self) -> None:
        """From wherever it is, a download comes to its end once there are shares enough that do well."""
        if not hasattr(self, "schedule"):
            return
        for _ in range(self.needed):
            self.add_share()
        self.known, idle = {}, 0
        while len(self.completed) < self.end - self.first:
            while self.written in self.completed:
                self.written += 1
            assert self.ask()
            idle = 0 if self.open else idle + 1
            assert idle < 100, "nothing is under way, and the download is not at its end"
            for request in list(self.open):
                if not self.open[request]:
                    self.finish(request)
            for _ in range(5):
                if self.open:
                    self.deliver()
            self.now += 0.1
        assert self.completed == set(range(self.first, self.end))
        assert not any(self.schedule.wants(request) for request in self.open)


def test_the_schedule_keeps_its_promises_whatever_comes() -> None:
    run_state_machine_as_test(Model, settings=settings(max_examples=120, stateful_step_count=50, deadline=None))


def scheduled(needed: int, shares: int, segments: int, wait: float = 0.05) -> Schedule:
    sources = [Source(number, f"store{number}") for number in range(shares)]
    return Schedule(needed, 0, segments, BLOCK, sources, lambda store, now: Figures(wait, 2 * wait, 20 * MB))


def test_what_was_refused_is_possible_when_a_share_comes_late() -> None:
    """Segment 0 can be had when segment 1 cannot: it must not be forgotten with it."""
    schedule = scheduled(2, 3, 2)
    zero, one = schedule.plan(0, 1.0)
    schedule.bad(zero, 0)
    schedule.bad(zero, 1)
    schedule.bad(one, 1)
    with pytest.raises(NotEnough, match="segment 1 can be read from 1 shares, 2 are needed"):
        schedule.plan(0, 1.0)
    schedule.add(Source(3, "store3"))
    asked = [(request.number, request.first, request.count) for request in schedule.plan(0, 1.0)]
    assert sorted(asked) == [(2, 0, 1), (2, 1, 1), (3, 1, 1)]


def test_one_asked_beside_a_silent_one_is_not_in_the_place_of_one_that_was_never_asked() -> None:
    """Shares 1 and 2 are on one store, which takes one request at a time: 2 is asked when 1 is done."""
    rates = {"both": 200 * MB, "silent": 20 * MB, "slow": 2 * MB}
    sources = [Source(0, "silent"), Source(1, "both", connections=1), Source(2, "both", connections=1)]
    sources.append(Source(3, "slow"))
    schedule = Schedule(3, 0, 1, BLOCK, sources, lambda store, now: Figures(0.05, 0.1, rates[store]))
    silent, other = sorted(schedule.plan(0, 1.0), key=lambda request: request.number)
    assert (silent.number, other.number) == (0, 1)
    schedule.began(silent, 1.0)
    schedule.began(other, 1.0)
    schedule.heard(other, BLOCK, 1.1)
    schedule.good(other, 0)
    schedule.over(other)
    asked = {request.number: request.why for request in schedule.plan(0, 2.0)}
    assert asked in ({2: "", 3: "hedge"}, {2: "hedge", 3: ""})


def test_what_is_promised_in_a_plan_counts_for_the_rest_of_it() -> None:
    rates = {"store0": 2 * MB, "store1": 1.5 * MB}
    sources = [Source(0, "store0"), Source(1, "store1")]
    schedule = Schedule(1, 0, 4, BLOCK, sources, lambda store, now: Figures(0.05, 0.1, rates[store]))
    assert [request.number for request in schedule.plan(0, 1.0)] == [0, 1]


def test_one_asked_beside_a_silent_one_takes_the_place_of_one_that_failed() -> None:
    """Then another one is asked beside the silent one."""
    known = {"store2": Figures(0.05, 0.1, 20 * MB, resting=True)}
    sources = [Source(number, f"store{number}") for number in range(4)]
    schedule = Schedule(3, 0, 1, BLOCK, sources, lambda store, now: known.get(store, Figures(0.05, 0.1, 20 * MB)))
    asked = {request.number: request for request in schedule.plan(0, 1.0)}
    assert sorted(asked) == [0, 1, 3]
    schedule.began(asked[0], 1.0)
    [hedge] = schedule.plan(0, 2.0)
    assert (hedge.number, hedge.why) == (2, "hedge")
    schedule.failed(asked[1], 2.1, for_good=True)
    assert [request.number for request in schedule.plan(0, 2.2)] == []
    schedule.add(Source(4, "store4"))
    assert [(request.number, request.why) for request in schedule.plan(0, 2.3)] == [(4, "hedge")]


def test_requests_that_fail_together_are_one_failure() -> None:
    schedule = scheduled(1, 1, 64, wait=0.5)
    requests = [*schedule.plan(0, 1.0), *schedule.plan(0, 1.0)]
    assert len(requests) >= 3
    for request in requests:
        schedule.failed(request, 2.0)
    assert schedule.usable == [0]
    assert schedule.plan(0, 2.4) == []
    assert {request.why for request in schedule.plan(0, 2.5)} == {"again"}


def test_a_price_comes_before_speed_and_cost_weighs_it() -> None:
    rates = {"dear": 50 * MB, "slow": 1 * MB, "near": 20 * MB, "far": 21 * MB}
    sources = [
        Source(10, "dear", price=1e-9),
        Source(11, "slow"),
        Source(12, "near", cost=100.0),
        Source(13, "far", cost=200.0),
    ]

    def asked(needed: int) -> set[int]:
        schedule = Schedule(needed, 0, 1, BLOCK, sources, lambda store, now: Figures(0.01, 0.05, rates[store]))
        return {request.number for request in schedule.plan(0, 1.0)}

    assert asked(1) == {12}
    assert asked(2) == {12, 13}
    assert asked(3) == {11, 12, 13}


# Against stores of all kinds, in virtual time.


def good_stocks() -> st.SearchStrategy[Stock]:
    """Stores that serve, fast or slow, and never fail."""
    return st.builds(
        Stock,
        rate=st.floats(0.5 * MB, 60 * MB),
        latency=st.sampled_from([0.001, 0.02, 0.1, 0.3]),
        first_window=st.sampled_from([0, 0, 64 << 10]),
        shares=st.sampled_from([1, 1, 2]),
        cost=st.sampled_from([50.0, 100.0, 200.0]),
        connections=st.integers(1, 8),
    )


def faulty_stocks() -> st.SearchStrategy[Stock]:
    moment = st.floats(0.0, 2.0)
    return st.one_of(
        st.builds(Stock, tail=st.floats(1.1, 2.5)),
        st.builds(Stock, rate=st.just(2e5)),
        st.builds(Stock, down=st.lists(moment.map(lambda at: (at, at + 0.2)), max_size=4).map(tuple)),
        st.builds(Stock, hangs_after=st.integers(0, 4 * BLOCK)),
        st.builds(Stock, gone=st.just(True)),
        st.builds(Stock, damaged=st.floats(0.01, 1.0)),
        st.builds(Stock, steps=st.tuples(st.tuples(moment, st.sampled_from([0.0, 1e5, 60 * MB])))),
        st.builds(Stock, opens=st.floats(0.01, 2.0)),
    )


def budget(segments: int, needed: int) -> float:
    return max(FLOOR, 0.05 * segments * needed)


STALL = 3.0


@settings(max_examples=60)
@given(st.data(), st.integers(1, 4), st.integers(1, 80), st.randoms(use_true_random=False))
def test_a_download_ends_well_while_enough_stores_serve(
    data: st.DataObject, needed: int, segments: int, chance: random.Random
) -> None:
    """What must hold of each request is asserted by the simulation."""
    good = data.draw(st.lists(good_stocks(), min_size=needed, max_size=needed + 2), label="good")
    faulty = data.draw(st.lists(faulty_stocks(), max_size=4), label="faulty")
    uplink = data.draw(st.sampled_from([None, None, 5 * MB]), label="uplink")
    writing = data.draw(st.sampled_from([0.0, 0.0, 0.02]), label="writing")
    stocks = [*good, *faulty]
    chance.shuffle(stocks)
    block = SEGMENT // needed
    book, now = Book(), 1000.0
    for _ in range(2):
        outcome = simulate(
            stocks,
            segments,
            needed=needed,
            block=block,
            book=book,
            start=now,
            stall=STALL,
            uplink=uplink,
            writing=writing,
            seed=chance.randrange(1 << 30),
        )
        now += outcome.seconds + 1.0
        assert outcome.held <= AHEAD
        assert outcome.hedged - outcome.lost <= budget(segments, needed)
        rate = min(forecast([stock.rate for stock in good], needed), uplink or 1e12)
        slowest = min(stock.rate for stock in good)
        # Twice the time that the good ones need alone; what is asked of a slow one before that is known; a wait
        # for each segment, as they may have one connection each; and a stall for each that hangs.
        bound = 2 * segments * SEGMENT / rate + 4 * MAX_WINDOW * block / slowest + segments * writing + 2.0
        bound += segments * max(stock.latency for stock in good)
        bound += len(faulty) * (STALL + 1.0)
        event(f"{'faults' if faulty else 'no faults'}: {outcome.seconds / bound:.1f} of the bound")
        assert outcome.seconds <= bound


@settings(max_examples=60)
@given(st.data(), st.integers(1, 4), st.randoms(use_true_random=False))
def test_it_is_refused_when_too_few_can_serve(data: st.DataObject, needed: int, chance: random.Random) -> None:
    useless = [
        Stock(gone=True),
        Stock(hangs_after=0),
        Stock(hangs_after=BLOCK // 2),
        Stock(damaged=1.0),
        Stock(down=((0.0, 1e9),)),
        Stock(gone=True, opens=0.5),
    ]
    good = [replace(stock, shares=1) for stock in data.draw(st.lists(good_stocks(), max_size=needed - 1))]
    stocks = [*good, *data.draw(st.lists(st.sampled_from(useless), min_size=1, max_size=5))]
    chance.shuffle(stocks)
    with pytest.raises(NotEnough, match=f"{needed} are needed"):
        simulate(stocks, 20, needed=needed, block=SEGMENT // needed, stall=STALL)


# How fast it is, on stores whose behaviour is known.

EQUAL = [Stock(rate=20 * MB)] * 6
MIXED = [Stock(rate=rate * MB) for rate in (40, 30, 20, 20, 10, 10)]


def twice(stocks: Sequence[Stock], segments: int = 256) -> list[Outcome]:
    """Download with nothing known, and once more with what was learned."""
    book = Book()
    fresh = simulate(stocks, segments, book=book)
    return [fresh, simulate(stocks, segments, book=book, start=2000.0)]


def bound_of(stocks: Sequence[Stock], segments: int = 256) -> float:
    """Seconds that a download from these takes, if all goes as it can."""
    rates = sorted((stock.rate for stock in stocks), reverse=True)
    return segments * SEGMENT / min(sum(rates[:NEEDED]), forecast(rates, NEEDED))


@pytest.mark.parametrize("order", [list, lambda stocks: stocks[::-1]], ids=["fast first", "slow first"])
def test_stores_of_different_speed_are_used_to_the_full(order: Callable[[list[Stock]], list[Stock]]) -> None:
    for outcome in twice(order(MIXED)):
        assert outcome.seconds <= bound_of(MIXED) / 0.85
        assert outcome.hedged <= 0.02 * 256 * NEEDED


def test_stores_of_equal_speed_are_used_to_the_full() -> None:
    for outcome in twice(EQUAL):
        assert outcome.seconds <= bound_of(EQUAL) / 0.85
        assert outcome.hedged <= 0.02 * 256 * NEEDED
        assert outcome.pause <= 0.2


@pytest.mark.parametrize("latency", [0.001, 0.05, 0.2])
def test_nothing_is_asked_for_twice_where_nothing_is_wrong(latency: float) -> None:
    for outcome in twice([replace(stock, latency=latency) for stock in EQUAL]):
        assert outcome.hedged <= 0.02 * 256 * NEEDED
        assert sum(outcome.fetched.values()) <= 1.02 * 256 * SEGMENT


def test_far_stores_are_used_alike() -> None:
    """A single block takes long from a far store, which says nothing of its rate."""
    for outcome in twice([replace(stock, latency=0.2) for stock in EQUAL]):
        assert min(outcome.fetched.values()) >= 0.4 * max(outcome.fetched.values())
        assert len(outcome.fetched) == 6


@pytest.mark.parametrize("place", range(6))
def test_a_store_ten_times_slower_does_not_hold_the_others_up(place: int) -> None:
    slow = [*EQUAL[:place], replace(EQUAL[0], rate=2 * MB), *EQUAL[place + 1 :]]
    for with_it, without in zip(twice(slow), twice(EQUAL[1:]), strict=True):
        assert with_it.seconds <= 1.2 * without.seconds
        assert with_it.pause <= 0.5


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("after", [0, 64 << 10, 20 * BLOCK])
def test_a_store_that_hangs_does_not_hold_the_others_up(place: int, after: int) -> None:
    hung = [*EQUAL[:place], replace(EQUAL[0], hangs_after=after), *EQUAL[place + 1 :]]
    for with_it, without in zip(twice(hung), twice(EQUAL[1:]), strict=True):
        assert with_it.seconds <= 1.2 * without.seconds + 1.0
        assert with_it.pause <= 1.5


def test_two_that_hang_do_not_either() -> None:
    hung = [replace(EQUAL[0], hangs_after=BLOCK)] * 2 + EQUAL[2:]
    for with_it, without in zip(twice(hung), twice(EQUAL[2:]), strict=True):
        assert with_it.seconds <= 1.2 * without.seconds + 2.0


def test_small_objects_do_not_wait_for_the_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    def late_ones() -> tuple[float, float]:
        book, now, seconds = Book(), 1000.0, []
        for turn in range(400):
            outcome = simulate([Stock(tail=1.2)] * 6, 1, book=book, start=now, seed=turn)
            now += outcome.seconds + 0.1
            seconds.append(outcome.seconds)
        return sorted(seconds)[396], sorted(seconds)[200]

    hedged, usual = late_ones()
    monkeypatch.setattr(module, "MOST_EXTRAS", 0)
    alone, usual_alone = late_ones()
    assert hedged <= 0.6 * alone
    assert usual <= 1.1 * usual_alone


def test_a_large_object_does_not_wait_for_the_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds() -> float:
        stocks = [Stock(tail=1.2)] * 6
        return sum(outcome.seconds for seed in range(5) for outcome in [simulate(stocks, seed=seed)])

    hedged = seconds()
    monkeypatch.setattr(module, "MOST_EXTRAS", 0)
    assert hedged <= 0.95 * seconds()


def test_a_store_that_becomes_fast_is_used_again() -> None:
    """While it is read, and in the next download."""
    book = Book()
    slow = [*EQUAL[:5], replace(EQUAL[0], rate=2 * MB, steps=((2.0, 40 * MB),))]
    outcome = simulate(slow, 1024, book=book)
    assert outcome.fetched["store5"] >= 0.5 * outcome.fetched["store0"]
    book = Book()
    simulate([*EQUAL[:5], replace(EQUAL[0], rate=2 * MB)], book=book)
    outcome = simulate([*EQUAL[:5], replace(EQUAL[0], rate=40 * MB)], 1024, book=book, start=2000.0)
    assert outcome.fetched["store5"] >= 0.5 * outcome.fetched["store0"]


def test_of_several_that_are_left_out_each_is_probed() -> None:
    slow = replace(EQUAL[0], rate=1 * MB)
    book = Book()
    simulate([*EQUAL[:4], slow, slow], book=book)
    outcome = simulate([*EQUAL[:4], slow, slow], 512, book=book, start=2000.0)
    asked = {request.number for _, request in outcome.asked if request.why == "probe"}
    assert asked == {4, 5}


@pytest.mark.parametrize("uplink", [0.3 * MB, 2 * MB, 50 * MB])
def test_a_narrow_uplink_is_no_reason_to_ask_twice(uplink: float) -> None:
    segments = round(uplink / MB * 5) + 20
    for outcome in twice_at(uplink, segments):
        assert outcome.seconds <= 1.25 * segments * SEGMENT / uplink + 0.5
    assert outcome.hedged <= 0.05 * segments * NEEDED


def twice_at(uplink: float, segments: int) -> list[Outcome]:
    book = Book()
    fresh = simulate(EQUAL, segments, book=book, uplink=uplink)
    return [fresh, simulate(EQUAL, segments, book=book, start=5000.0, uplink=uplink)]


def test_a_moment_of_failure_is_no_reason_to_give_a_store_up() -> None:
    """All that is needed are there, and one fails for a moment, with several requests under way."""
    stocks = [replace(EQUAL[0], down=((0.2, 0.4),)), *EQUAL[1:NEEDED]]
    for outcome in twice(stocks):
        assert outcome.completed.total() == 256
        assert outcome.pause <= 2.0


def test_damaged_blocks_cost_what_they_are() -> None:
    for outcome in twice([replace(EQUAL[0], damaged=0.2), *EQUAL[1:]]):
        assert outcome.reasons["again"] >= 20
        assert outcome.seconds <= 1.2 * 256 * SEGMENT / (100 * MB)
