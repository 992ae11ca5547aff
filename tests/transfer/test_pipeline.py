from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annex_remote.transfer.pipeline import in_order
from tests.fakes import WAIT, wait_for


@given(st.integers(0, 40), st.integers(1, 9))
def test_results_come_in_order(count: int, ahead: int) -> None:
    assert list(in_order(lambda item: item * item, range(count), ahead)) == [item * item for item in range(count)]


def test_the_last_to_finish_is_not_the_last_to_come() -> None:
    """Each item is done only after the one that follows it."""
    done = [threading.Event() for _ in range(7)]
    done[6].set()

    def work(item: int) -> int:
        wait_for(done[item + 1])
        done[item].set()
        return item

    assert list(in_order(work, range(6), 6)) == list(range(6))


def test_that_many_are_under_way_at_once() -> None:
    together = threading.Barrier(4)

    def work(item: int) -> int:
        together.wait(WAIT)
        return item

    assert list(in_order(work, range(12), 4)) == list(range(12))


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_no_more_than_that_many_are_under_way(ahead: int) -> None:
    drawn = 0
    lock, under_way, most = threading.Lock(), 0, 0

    def items() -> Iterator[int]:
        nonlocal drawn
        for item in range(50):
            drawn += 1
            yield item

    def work(item: int) -> int:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        with lock:
            under_way -= 1
        return item

    for got, item in enumerate(in_order(work, items(), ahead)):
        assert item == got
        assert drawn - got <= ahead
    assert most <= ahead
    assert drawn == 50


def test_nothing_is_drawn_before_it_is_asked_for() -> None:
    drawn: list[int] = []
    results = in_order(str, (drawn.append(item) or item for item in range(9)), 3)  # type: ignore[func-returns-value]
    assert drawn == []
    assert next(results) == "0"
    assert drawn == [0, 1, 2]


@pytest.mark.parametrize("ahead", [1, 3, 20])
def test_an_error_comes_at_its_place(ahead: int) -> None:
    error = ValueError("the fifth")

    def work(item: int) -> int:
        if item == 5:
            raise error
        return item

    results = in_order(work, range(10), ahead)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="the fifth") as raised:
        next(results)
    assert raised.value is error
    assert list(results) == []


@pytest.mark.parametrize("ahead", [1, 3, 20])
def test_an_error_of_the_source_passes_through(ahead: int) -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise OSError(5, "the source broke")

    with pytest.raises(OSError, match="the source broke"):
        list(in_order(str, items(), ahead))


def test_items_are_drawn_where_the_results_are_taken() -> None:
    here = threading.get_ident()
    drawn: set[int] = set()
    worked: set[int] = set()

    def items() -> Iterator[int]:
        for item in range(10):
            drawn.add(threading.get_ident())
            yield item

    def work(item: int) -> int:
        worked.add(threading.get_ident())
        return item

    list(in_order(work, items(), 4))
    assert drawn == {here}
    assert here not in worked
    worked.clear()
    list(in_order(work, items(), 1))
    assert worked == {here}


def test_what_is_left_early_is_left() -> None:
    release = threading.Event()

    def work(item: int) -> int:
        if item:
            wait_for(release)
        return item

    results = in_order(work, range(100), 3)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined] # it is a generator
    release.set()
