"""What is known of stores: latencies, rates, the book of them, and what can be expected of them together."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annex_remote.transfer.figures import (
    BULK,
    FIRST_BREAK,
    HALF_LIFE,
    LEAST_OVERDUE,
    LONGEST_BREAK,
    Book,
    Figures,
    Rate,
    Spread,
    forecast,
)

STEP = 1.3
"""How far a latency may be from what was seen: they are kept in classes."""

latencies = st.floats(2e-4, 300.0)


@given(st.lists(latencies, min_size=1, max_size=25), st.sampled_from([0.25, 0.5, 0.75, 0.95, 1.0]))
def test_quantiles_are_those_of_what_was_seen(seconds: list[float], part: float) -> None:
    """Of so few, those seen last count about twice what the first do: the quantile is between its neighbours."""
    spread = Spread()
    for each in seconds:
        spread.add(each)
    found = spread.quantile(part)
    assert found is not None
    weights = [0.97 ** (len(seconds) - place) for place in range(len(seconds))]
    ordered = sorted(zip(seconds, weights, strict=True))
    below = itertools.accumulate(weight for _, weight in ordered)
    reached = [place for place, count in enumerate(below) if count >= part * sum(weights) - 1e-9]
    exact = ordered[reached[0]][0]
    assert exact / STEP <= found <= exact * STEP
    assert spread.quantile(part) == found


def test_a_quantile_is_of_what_is_known_now() -> None:
    spread = Spread()
    assert spread.quantile(0.5) is None
    spread.add(0.1)
    first = spread.quantile(1.0)
    spread.add(10.0)
    assert first != spread.quantile(1.0)


def test_old_latencies_fade() -> None:
    spread = Spread()
    for _ in range(5000):
        spread.add(5.0)
    assert spread.weight == pytest.approx(1 / 0.03, rel=0.05)
    for _ in range(25):
        spread.add(0.01)
    median = spread.quantile(0.5)
    assert median is not None
    assert median < 0.02
    for _ in range(5000):
        spread.add(0.01)
    assert spread.quantile(1.0) == spread.quantile(0.01)


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 1e-9, 1e9])
def test_latencies_beyond_what_is_kept_are_at_its_ends(seconds: float) -> None:
    spread = Spread()
    spread.add(seconds)
    found = spread.quantile(0.5)
    assert found is not None
    assert 1e-4 < found < 1000.0


@given(st.lists(latencies, max_size=60))
def test_a_spread_is_kept_and_read_again(seconds: list[float]) -> None:
    spread = Spread()
    for each in seconds:
        spread.add(each)
    again = Spread.load(json.loads(json.dumps(spread.dump())))
    assert again.weight == pytest.approx(spread.weight, abs=0.05)
    for part in (0.5, 0.95):
        found, kept = spread.quantile(part), again.quantile(part)
        assert (found is None) == (kept is None)
        if found is not None and kept is not None:
            assert 1 / STEP - 0.01 <= kept / found <= STEP + 0.01
    assert Spread.load(spread.dump(), 0.5).weight == pytest.approx(spread.weight / 2, abs=0.05)


@pytest.mark.parametrize("counts", [[-1.0], [1e6], [math.nan], [math.inf], ["x"], [0.0, None], 5, [[1.0]]])
def test_a_spread_is_not_made_of_anything_else(counts: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        Spread.load(counts)


def test_more_classes_than_there_are_do_no_harm() -> None:
    assert Spread.load([1.0] * 1000).weight == 60.0
    assert Spread.load([]).quantile(0.5) is None


@given(st.floats(1e3, 1e9), st.floats(0.005, 1.0))
def test_a_rate_is_that_of_steady_traffic(rate: float, seconds: float) -> None:
    measured = Rate()
    assert measured.value is None
    for _ in range(50):
        measured.add(round(rate * seconds), seconds)
    assert measured.value == pytest.approx(rate, rel=0.05)


def test_a_rate_follows_a_step_within_seconds_and_does_not_jump() -> None:
    measured = Rate()

    def steady(rate: float, seconds: float) -> float:
        for _ in range(round(seconds * 100)):
            measured.add(round(rate / 100), 0.01)
        assert measured.value is not None
        return measured.value

    steady(10e6, 10.0)
    assert steady(1e6, 0.1) > 9e6
    assert 3e6 < steady(1e6, 1.9) < 7e6
    assert steady(1e6, 8.0) < 1.2e6
    assert steady(20e6, 8.0) > 18e6


def test_a_rate_from_before_is_a_start_and_soon_forgotten() -> None:
    measured = Rate(50e6)
    assert measured.value == pytest.approx(50e6)
    measured.add(1_000_000, 1.0)
    assert measured.value is not None
    assert measured.value < 12e6
    measured.add(0, 10.0)
    assert measured.value is not None
    assert measured.value < 0.2e6


# The book.


def test_nothing_is_known_of_a_store_that_was_never_asked() -> None:
    assert Book().of("a", 1.0) == Figures()


def ask(book: Book, question: str, store: str, size: int, at: float, seconds: float, rate: float) -> None:
    """Let a question be answered: the first byte after `seconds`, the rest at `rate`, in 16 pieces."""
    book.asked(question, store, size, at)
    for piece in range(16):
        book.came(question, size // 16, at + seconds + piece * size / 16 / rate)
    book.over(question, at + seconds + size / rate)


def test_latency_and_rate_are_told_apart() -> None:
    book = Book()
    for turn in range(5):
        ask(book, "q", "a", 16 * BULK, 10.0 * turn + 1, 2.0, 10e6)
    figures = book.of("a", 60.0)
    assert figures.first_byte == pytest.approx(2.0, rel=0.3)
    assert figures.late == pytest.approx(2.0, rel=0.3)
    assert figures.down == pytest.approx(10e6, rel=0.1)
    assert (figures.settled, figures.owed, figures.resting, figures.up) == (True, 0, False, None)


def test_small_answers_tell_of_latency_only() -> None:
    book = Book()
    for turn in range(5):
        ask(book, "q", "a", BULK - 16, 10.0 * turn + 1, 0.2, 10e6)
    figures = book.of("a", 60.0)
    assert figures.first_byte == pytest.approx(0.2, rel=0.3)
    assert figures.down is None


def test_an_answer_in_one_piece_gives_a_rate_if_nothing_better_is_known() -> None:
    book = Book()
    book.asked("q", "a", 4 * BULK, 1.0)
    book.came("q", 4 * BULK, 1.1)
    assert book.of("a", 1.1).down is None
    book.over("q", 1.1)
    assert book.of("a", 1.1).down == pytest.approx(4 * BULK / 0.1, rel=0.01)


def test_the_questions_of_several_jobs_are_one_stream() -> None:
    """Two at once, each at half of what the store gives; the third waits, and is not asked of this store."""
    book = Book()
    size = 64 * BULK
    book.asked("one", "a", size, 1.0)
    book.asked("two", "a", size, 1.0)
    book.asked("three", "b", 123, 1.0)
    for piece in range(64):
        for question in ("one", "two"):
            book.came(question, BULK, 1.1 + piece * 0.02)
    figures = book.of("a", 1.1 + 64 * 0.02)
    assert figures.down == pytest.approx(2 * BULK / 0.02, rel=0.1)
    assert figures.owed == 0
    assert book.of("b", 1.2).owed == 123
    book.over("one", 3.0)
    book.asked("four", "a", 1000, 3.0)
    assert book.of("a", 3.0).owed == 1000
    book.came("four", 400, 3.1)
    assert book.of("a", 3.1).owed == 600
    book.came("four", 4000, 3.1)
    assert book.of("a", 3.1).owed == 0


def test_time_in_which_nothing_large_is_owed_does_not_count() -> None:
    book = Book()
    ask(book, "q", "a", 16 * BULK, 1.0, 0.1, 10e6)
    assert book.of("a", 5.0).down == book.of("a", 5000.0).down
    book.asked("small", "a", 100, 6000.0)
    book.over("small", 6900.0)
    assert book.of("a", 7000.0).down == book.of("a", 5.0).down


def test_a_store_that_falls_silent_in_the_middle_has_a_falling_rate() -> None:
    book = Book()
    ask(book, "q", "a", 16 * BULK, 1.0, 0.1, 10e6)
    before = book.of("a", 2.0).down
    assert before is not None
    book.asked("r", "a", 16 * BULK, 2.0)
    book.came("r", BULK, 2.1)
    after = book.of("a", 6.0).down
    assert after is not None
    assert after < before / 4


def test_a_question_that_was_not_known_or_is_over_changes_nothing() -> None:
    book = Book()
    book.came("never", 1000, 1.0)
    book.over("never", 1.0)
    ask(book, "q", "a", 16 * BULK, 1.0, 0.1, 10e6)
    before = book.of("a", 9.0)
    book.came("q", 1 << 30, 9.0)
    book.over("q", 99.0)
    assert book.of("a", 9.0) == before


def test_a_failure_says_nothing_of_latency_but_an_empty_answer_does() -> None:
    book = Book()
    book.asked("q", "a", 10, 1.0)
    book.over("q", 9.0, failed=True)
    assert book.of("a", 9.0).first_byte is None
    book.asked("q", "a", 10, 9.0)
    book.over("q", 9.5)
    assert book.of("a", 9.5).first_byte == pytest.approx(0.5, rel=0.3)


def test_a_store_rests_while_an_answer_is_overdue() -> None:
    book = Book()
    book.asked("q", "a", 10, 1.0)
    assert not book.of("a", 1.0 + 0.9 * LEAST_OVERDUE).resting
    assert book.of("a", 1.0 + 1.1 * LEAST_OVERDUE).resting
    book.came("q", 1, 3.0)
    assert not book.of("a", 3.0).resting
    book.over("q", 3.0)
    book.asked("r", "a", 10, 4.0)  # two seconds are usual now
    assert not book.of("a", 6.0).resting
    assert book.of("a", 10.0).resting


def test_breaks_grow_to_a_limit_and_end_with_an_answer() -> None:
    book, now = Book(), 100.0
    for expected in (FIRST_BREAK, 2 * FIRST_BREAK, 4 * FIRST_BREAK, 8 * FIRST_BREAK, 16 * FIRST_BREAK):
        book.stood_still("a", now)
        rest = min(expected, LONGEST_BREAK)
        assert book.of("a", now + rest - 1).resting
        assert not book.of("a", now + rest + 1).resting
        now += rest + 1
    for _ in range(100):
        book.stood_still("a", now)
    assert not book.of("a", now + LONGEST_BREAK + 1).resting
    assert not book.of("b", now).resting
    book.asked("q", "a", 10, now)
    book.came("q", 10, now + 0.1)
    assert not book.of("a", now + 0.1).resting
    book.stood_still("a", now)
    assert not book.of("a", now + FIRST_BREAK + 1).resting


def test_what_was_sent_gives_the_rate_up() -> None:
    book = Book()
    book.sent("a", BULK - 1, 1.0)
    book.sent("a", BULK, 0.0)
    assert book.of("a", 1.0).up is None
    for _ in range(3):
        book.sent("a", 10_000_000, 2.0)
    assert book.of("a", 1.0).up == pytest.approx(5e6, rel=0.01)
    assert book.of("a", 1.0).down is None


# From one run to the next.


def learned() -> Book:
    book = Book()
    for turn in range(10):
        ask(book, "q", "a", 16 * BULK, 10.0 * turn + 1, 0.2, 10e6)
    book.sent("a", 10_000_000, 2.0)
    book.sent("b", 10_000_000, 1.0)
    return book


def test_what_was_learned_is_there_in_the_next_run() -> None:
    kept = json.loads(json.dumps(learned().dump(1_000_000.4)))
    book = Book()
    book.load(kept, 1_000_000.0)
    figures = book.of("a", 0.0)
    assert figures.first_byte == learned().of("a", 200.0).first_byte
    assert figures.down == pytest.approx(10e6, rel=0.1)
    assert figures.up == pytest.approx(5e6)
    assert (figures.settled, figures.resting, figures.owed) == (True, False, 0)
    assert book.of("b", 0.0).up == pytest.approx(10e6)
    assert book.of("b", 0.0).first_byte is None


def test_what_is_old_counts_for_less() -> None:
    kept = learned().dump(0.0)
    book = Book()
    book.load(kept, 10 * HALF_LIFE)
    assert not book.of("a", 0.0).settled
    assert book.of("a", 0.0).first_byte == pytest.approx(0.2, rel=0.3)
    for _ in range(2):
        ask(book, "q", "a", 100, 1.0, 5.0, 1e9)
    assert book.of("a", 99.0).first_byte == pytest.approx(5.0, rel=0.3)
    book = Book()
    book.load(kept, -HALF_LIFE)  # the clock was set back
    assert book.of("a", 0.0).settled


def test_what_this_run_has_seen_comes_before_what_was_kept() -> None:
    kept = learned().dump(0.0)
    book = Book()
    ask(book, "q", "a", 16 * BULK, 1.0, 3.0, 1e6)
    before = book.of("a", 99.0)
    book.load(kept, 0.0)
    assert book.of("a", 99.0) == before
    assert book.of("b", 99.0).up is not None


GOOD = {"at": 0, "first_byte": [1.0], "down": 1e6, "up": None}


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        "text",
        7,
        None,
        {**GOOD, "at": "noon"},
        {**GOOD, "at": None},
        {**GOOD, "first_byte": None},
        {**GOOD, "first_byte": [-1.0]},
        {**GOOD, "first_byte": [math.nan]},
        {**GOOD, "first_byte": {"a": 1}},
        {**GOOD, "down": -1.0},
        {**GOOD, "down": 0},
        {**GOOD, "down": math.nan},
        {**GOOD, "up": math.inf},
        {**GOOD, "up": "fast"},
        {**GOOD, "up": []},
        {key: value for key, value in GOOD.items() if key != "up"},
    ],
)
def test_what_is_no_book_is_refused_as_a_whole(document: Any) -> None:
    book = Book()
    book.load({"b": GOOD}, 0.0)
    with pytest.raises((ValueError, TypeError, KeyError)):
        book.load({"a": GOOD, "c": document}, 0.0)
    assert book.of("a", 0.0) == Figures()
    assert book.of("b", 0.0).down == pytest.approx(1e6)


@given(st.sampled_from([math.nan, math.inf, -math.inf, 1e300, -1e300]))
def test_a_strange_time_of_day_does_no_harm(at: float) -> None:
    book = Book()
    book.load({"a": {**GOOD, "at": at}}, 0.0)
    assert book.of("a", 0.0).down == pytest.approx(1e6)


# What can be expected of stores together.


@given(st.lists(st.floats(0.0, 1e3), min_size=1, max_size=8), st.integers(1, 6))
def test_the_forecast_is_the_greatest_rate_that_the_stores_can_give(rates: list[float], needed: int) -> None:
    def possible(total: float) -> bool:
        return sum(min(rate, total / needed) for rate in rates) >= total * (1 - 1e-12)

    low, high = 0.0, 1e4
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if possible(middle) else (low, middle)
    assert forecast(rates, needed) == pytest.approx(low, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("rates", "needed", "expected"),
    [
        ([40, 30, 20, 20, 10, 10], 4, 120),
        ([10, 10, 10], 4, 0),  # too few
        ([100, 1], 2, 2),
        ([100, 1, 1], 2, 4),
        ([5], 1, 5),
        ([], 1, 0),
    ],
)
def test_forecasts(rates: list[float], needed: int, expected: float) -> None:
    assert forecast(rates, needed) == pytest.approx(expected)
