"""Which pieces peers are asked for: only what is missing, the next ones first, everything in the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annex_remote.torrents.wanting import WINDOW, backward, forward

Order = Callable[[Sequence[int], Callable[[int], bool], int], dict[int, int]]

LENGTHS = st.sampled_from([1, 16 << 10, 100_000, 1 << 20, 6 << 20, 64 << 20])
SPANS = st.tuples(st.integers(0, 50), st.integers(0, 400)).map(lambda span: range(span[0], span[0] + span[1]))


@given(SPANS, st.sets(st.integers(0, 450)), LENGTHS)
def test_forward_wants_all_that_is_missing_the_next_first(pieces: range, there: set[int], length: int) -> None:
    wanted = forward(pieces, there.__contains__, length)
    assert list(wanted) == [piece for piece in pieces if piece not in there]
    assert list(wanted.values()) == sorted(wanted.values(), reverse=True)
    assert set(wanted.values()) <= set(range(1, 7))
    assert all(priority == 6 for priority in list(wanted.values())[:2])


@given(SPANS, st.sets(st.integers(0, 450)), LENGTHS)
def test_backward_wants_the_last_ones(pieces: range, there: set[int], length: int) -> None:
    wanted = backward(pieces, there.__contains__, length)
    missing = [piece for piece in pieces[::-1] if piece not in there]
    assert list(wanted) == missing[: len(wanted)]
    assert len(wanted) == min(len(missing), max(2, -(-WINDOW // length)))
    assert list(wanted.values()) == sorted(wanted.values(), reverse=True)
    assert set(wanted.values()) <= set(range(1, 7))


@pytest.mark.parametrize("order", [forward, backward])
@settings(max_examples=30)
@given(st.data(), st.integers(1, 40), st.sampled_from([1 << 20, 5 << 20, 20 << 20]))
def test_what_comes_makes_room_for_the_rest_until_all_is_there(
    order: Order, data: st.DataObject, count: int, length: int
) -> None:
    there: set[int] = set()
    while len(there) < count:
        wanted = order(range(count), there.__contains__, length)
        assert wanted
        there |= data.draw(st.sets(st.sampled_from(list(wanted)), min_size=1))
    assert order(range(count), there.__contains__, length) == {}


def test_how_urgent_goes_by_bytes() -> None:
    wanted = forward(range(10, 400), lambda piece: piece == 11, 256 << 10)
    assert [list(wanted.values()).count(priority) for priority in (6, 5, 4, 3, 2, 1)] == [2, 2, 12, 48, 192, 133]
    assert [wanted[10], wanted[12], wanted[13], wanted[15], wanted[399]] == [6, 6, 5, 4, 1]


def test_large_pieces_are_asked_for_two_at_a_time() -> None:
    assert list(forward(range(10), lambda _: False, 32 << 20).values()) == [6, 6, 5, 5, 4, 4, 3, 3, 2, 2]
    assert backward(range(10), lambda _: False, 32 << 20) == {9: 6, 8: 6}


def test_an_order_of_its_own_is_kept() -> None:
    turned = [5, 6, 7, 1, 2, 3]
    assert list(forward(turned, lambda piece: piece == 6, 1 << 20)) == [5, 7, 1, 2, 3]
    assert list(backward(turned, lambda piece: piece == 3, 8 << 20)) == [2, 1]
