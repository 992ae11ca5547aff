from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annex_remote.shares.crypto import Cipher
from annex_remote.shares.layout import SEGMENT_SIZE, Layout

NEEDED = [1, 2, 3, 4, 7, 16, 255, 256]
AROUND = [-257, -65, -64, -41, -40, -33, -32, -2, -1, 0, 1, 2, 31, 32, 33, 40, 64, 255, 256, 257]
SIZES = sorted({max(0, segments * SEGMENT_SIZE + by) for segments in (0, 1, 2, 3) for by in AROUND})


@pytest.mark.parametrize("cipher", Cipher)
@pytest.mark.parametrize("needed", NEEDED)
def test_lengths_around_every_boundary(needed: int, cipher: Cipher) -> None:
    for size in SIZES:
        layout = Layout(size, needed, cipher.overhead)
        left, at, index = size, 0, 0
        while left:  # the segments one after the other, without the closed formulas
            plain = min(left, SEGMENT_SIZE)
            left -= plain
            assert layout.block_offset(index) == at
            assert layout.plain_length(index) == plain
            assert layout.sealed_length(index) == plain + cipher.overhead
            assert layout.is_last(index) == (not left)
            block = layout.block_length(index)
            assert (block - 1) * needed < plain + cipher.overhead <= block * needed
            at += block
            index += 1
        assert layout.segments == index
        assert layout.block_offset(index) == layout.data_length == at
        assert layout.hashes_length == 32 * index


def test_lengths_by_hand() -> None:
    assert SEGMENT_SIZE == 1048576
    empty = Layout(0, 4, 64)
    assert (empty.segments, empty.data_length, empty.hashes_length) == (0, 0, 0)
    assert not empty.is_last(0)
    one = Layout(1, 4, 64)
    assert (one.segments, one.data_length, one.hashes_length) == (1, 17, 32)
    # (1048576 + 40) / 3 is 349538.67; the last segment of 1 + 40 bytes makes blocks of 14.
    two = Layout(SEGMENT_SIZE + 1, 3, 40)
    assert [two.block_length(0), two.block_length(1), two.data_length] == [349539, 14, 349553]


@given(st.integers(0, 2**63 - 1), st.integers(1, 256), st.sampled_from(Cipher))
def test_any_size_takes_no_time(size: int, needed: int, cipher: Cipher) -> None:
    layout = Layout(size, needed, cipher.overhead)
    blocks = layout.data_length * needed
    sealed = size + layout.segments * cipher.overhead
    assert sealed <= blocks < sealed + max(1, layout.segments) * needed
    if layout.segments > 1:
        assert layout.block_offset(layout.segments - 1) % (layout.segments - 1) == 0
