"""One pass, taken block by block."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from annex_remote.errors import Cancelled, Unavailable
from annex_remote.shares.codec import SegmentCodec
from annex_remote.shares.crypto import Cipher, ObjectKeys, seal_key_name
from annex_remote.shares.format import Header
from annex_remote.shares.layout import SEGMENT_SIZE, Layout
from annex_remote.transfer.sealing import PATIENCE, SealingPass
from tests.fakes import WAIT, FakeClock, Run, in_thread
from tests.shares import builder
from tests.shares.builder import FULL, content
from tests.transfer.rig import KEY

STALL = 10.0


class Pass:
    """A pass over `segments` segments that feeds eight shares of the object's own size to whoever takes them."""

    def __init__(self, folder: Path, segments: int) -> None:
        data = content(segments * SEGMENT_SIZE)
        path = folder / "source"
        path.write_bytes(data)
        self.shares = builder.upload(data, 1, list(range(8)), Cipher.AEGIS256, annex_key=KEY).shares
        keys = ObjectKeys(FULL.read_secret, KEY, Cipher.AEGIS256)
        layout = Layout(len(data), 1, keys.cipher.overhead)
        name = seal_key_name(FULL.read_secret, KEY)
        self.clock = FakeClock()
        self.sealing = SealingPass(
            str(path),
            SegmentCodec(keys, layout),
            lambda content_id: Header(keys.cipher, 1, layout.size, keys.object_id, content_id, name),
            list(range(8)),
            [0, 1],
            FULL.signing_seed,
            expected=None,
            stall=STALL,
            clock=self.clock,
            cancelled=threading.Event(),
        )
        self._turns = threading.Semaphore(0)
        self.block = layout.block_length(0)
        self.run = Run(lambda: self.sealing.run(self._turns.release))

    def take(self, number: int, offset: int = 0) -> Iterator[bytes | memoryview]:
        return iter(self.sealing.open_at(number)(offset))

    def admit(self, *numbers: int) -> None:
        for number in numbers:
            self.sealing.admit(number, lambda: None)

    def until(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready`, and the pass has seen it."""
        while not ready():
            assert self._turns.acquire(timeout=WAIT)
        while self._turns.acquire(blocking=False):
            pass
        for _ in range(2):
            assert self._turns.acquire(timeout=WAIT)


def some(pieces: Iterator[bytes | memoryview], size: int) -> bytes:
    """Take the next `size` bytes, which end with a piece."""
    data = b""
    while len(data) < size:
        data += next(pieces)
    assert len(data) == size
    return data


def joined(pieces: Iterator[bytes | memoryview]) -> bytes:
    return b"".join(pieces)


def test_many_short_waits_are_a_long_one(tmp_path: Path) -> None:
    """A store that is a little faster than the patience with one block is let go of, and gets its share whole."""
    made = Pass(tmp_path, 8)
    made.admit(0, 1)
    quick, slow = made.sealing.feeds[0], made.sealing.feeds[1]
    taken: list[bytes] = []
    other = Run(lambda: taken.append(joined(made.take(0))))
    pieces = made.take(1)
    begin = in_thread(lambda: some(pieces, made.block))
    made.until(lambda: quick.hungry and quick.position == 2)
    made.clock.advance(PATIENCE * 0.8)
    begin += in_thread(lambda: some(pieces, made.block))
    made.until(lambda: quick.hungry and quick.position == 3)
    assert slow.attached
    made.clock.advance(PATIENCE * 0.8)
    other.join()
    made.run.join()
    assert not slow.attached
    assert taken == [made.shares[0]]
    assert begin + in_thread(lambda: joined(pieces)) == made.shares[1]


def test_a_store_that_reads_by_itself_is_not_held_up_by_one_that_has_not_begun(tmp_path: Path) -> None:
    made = Pass(tmp_path, 4)
    made.admit(0)
    quick = made.sealing.feeds[0]
    next(made.take(0))
    taken: list[bytes] = []
    other = Run(lambda: taken.append(joined(made.take(0))))
    made.until(lambda: quick.hungry)
    made.clock.advance(PATIENCE)
    other.join()
    made.run.join()
    assert taken == [made.shares[0]]
    made.clock.advance(100 * STALL)  # at its gate it is not stalled
    made.admit(1)
    assert in_thread(lambda: joined(made.take(1))) == made.shares[1]


@pytest.mark.parametrize("offset", [1, SEGMENT_SIZE + 500, 2 * SEGMENT_SIZE + 64, 10_000_000])
def test_a_share_from_an_offset(tmp_path: Path, offset: int) -> None:
    made = Pass(tmp_path, 2)
    made.admit(0, 1)
    run = Run(lambda: joined(made.take(0)))
    assert in_thread(lambda: joined(made.take(1, offset))) == made.shares[1][offset:]
    run.join()
    made.run.join()


def test_who_is_given_up_leaves_its_gate_and_gets_no_more(tmp_path: Path) -> None:
    made = Pass(tmp_path, 4)
    left: list[int] = []
    made.sealing.admit(0, lambda: left.append(0))
    made.sealing.admit(1, lambda: left.append(1))
    pieces = made.take(1)
    next(pieces)
    made.clock.advance(STALL / 2)
    run = Run(lambda: joined(made.take(0)))
    made.until(lambda: made.sealing.feeds[0].hungry and made.sealing.feeds[0].position == 2)
    made.clock.advance(STALL / 2 + 1)
    run.join()
    made.run.join()
    assert isinstance(made.sealing.feeds[1].dropped, Unavailable)
    assert left == [1]
    with pytest.raises(Cancelled):
        next(pieces)


def test_a_store_that_took_all_and_begins_again_has_no_more_time_than_others(tmp_path: Path) -> None:
    made = Pass(tmp_path, 2)
    made.admit(0, 1)
    run = Run(lambda: joined(made.take(0)))
    assert in_thread(lambda: joined(made.take(1))) == made.shares[1]
    run.join()
    made.run.join()
    made.sealing.finished(0)
    next(made.take(1))
    made.clock.advance(STALL + 1)
    Run(lambda: made.sealing.wait(lambda: None)).join()
    assert str(made.sealing.feeds[1].dropped) == "no progress for 10 seconds"
