"""One pass over a file that seals it and feeds the shares to all stores at once.

Every store takes blocks at its own pace from one bounded window. A store that would hold the others up is
let go of the window and reads the file again by itself (sealing is deterministic); so does a store that
starts again at some offset, and one that joins late. Memory is bounded by the window, whatever the stores do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import BinaryIO

from annex_remote.errors import Cancelled, Damaged, SwarmError, Unavailable
from annex_remote.shares.codec import SegmentCodec
from annex_remote.shares.format import Header, Tail, block_hash, share_root, sign
from annex_remote.shares.layout import HASH_SIZE, SEGMENT_SIZE
from annex_remote.transfer.gate import TICK
from annex_remote.transfer.pipeline import in_order
from annex_remote.transfer.reading import ahead, segment, segments_of
from annex_remote.transfer.sites import Clock

__all__ = ["PATIENCE", "PUBLISHING", "WINDOW_BYTES", "Feed", "SealingPass"]

WINDOW_BYTES = 16 << 20
"""Bytes of blocks, of all shares together, that may wait for the stores."""

PATIENCE = 0.25
"""Seconds, altogether, that other stores have nothing to do because of the slowest; then it is let go of."""

PATIENCE_PART = 0.05
"""If that is more, this part of the time: a store that is hardly slower than the others need not be let go of."""

PUBLISHING = 60.0
"""Seconds, at least, that a store has for its share of a large object when it has taken the last byte.

Some servers put it together from parts then, or copy it; giving up what is all there costs more than to wait.
"""

END_PIECE = 256 << 10
"""Bytes of what follows the blocks that a store gets at once: the hashes of a very large object are many."""

FIRST_PART, SMALLEST_PART = 4 << 10, 256
"""Bytes that a store gets at first, and at least; then twice as many each time, as long as that takes a moment."""

MOMENT = 0.5
"""Seconds that a store may need for one part before it gets smaller ones."""

Encoded = tuple[bytes, list[bytes | memoryview], list[bytes]]


class Feed:
    """One store's view of the pass: where it is, and when it last took something."""

    def __init__(self, number: int, table: Sequence[int], lock: threading.Lock, now: float) -> None:
        self.number = number
        self.table = table
        """The numbers of its signed table."""
        self.changed = threading.Condition(lock)
        self.position = 0
        """Segments taken so far."""
        self.attached = True
        """True while blocks come from the window; False once the feed reads the file by itself."""
        self.begun = False
        self.queues = True
        """True while the store may not be spoken to, by our own limits: that is no fault of the store."""
        self.hungry = False
        """True while the feed waits for the pass: no progress is then no fault of the store either."""
        self.moved = now
        self.part = FIRST_PART
        """Bytes that the store gets at once, at most."""
        self.all_taken = False
        self.leave: Callable[[], None] = _nothing
        """Called when the store is given up, so that it does not hold up those who wait for it."""
        self.nonces = bytearray()
        """Of the segments that this feed read by itself, zeros for others: they are to be those of the pass."""
        self.hashes = bytearray()
        """Of the blocks that this feed read by itself, if the pass does not know them; zeros for others."""
        self.dropped: SwarmError | None = None
        self.done = False


def _nothing() -> None:
    pass


class SealingPass:
    """Seals a file and feeds its shares with `fed` numbers to whoever calls `open_at`.

    `numbers` are all shares of the upload: the signed table has all of them, so that a lost one, or one that
    could not be stored, can be rebuilt later by whoever has the verify key. `make_header` gets the content id.
    `expected` is the header of the shares that are stored already, if there are any.
    """

    def __init__(
        self,
        path: str,
        codec: SegmentCodec,
        make_header: Callable[[bytes], Header],
        numbers: Sequence[int],
        fed: Sequence[int],
        signing_seed: bytes,
        *,
        expected: Header | None,
        stall: float,
        clock: Clock,
        cancelled: threading.Event,
    ) -> None:
        self._path = path
        self._codec = codec
        self._make_header = make_header
        self._numbers = tuple(numbers)
        self._seed = signing_seed
        self._expected = expected
        self._stall = stall
        self._clock = clock
        self._cancelled = cancelled
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        """Wakes the pass; each feed has a condition of its own on the same lock."""
        self.feeds = {number: Feed(number, self._numbers, self._lock, clock()) for number in fed}
        self._hashes = {number: bytearray() for number in self._numbers}
        self._nonces = bytearray()
        self._window: dict[int, dict[int, bytes | memoryview]] = {}
        self._header: Header | None = None
        """Set when all is read."""
        self._roots: dict[int, bytes] = {}
        self._signature = b""
        self._failure: BaseException | None = None
        self._idle = 0.0
        """Seconds that stores had nothing to do while another held up the window, since one was let go of last."""
        self._counts_from = clock()
        expansion = max(1, len(self._numbers) * SEGMENT_SIZE // codec.layout.needed)
        self._depth = max(2, WINDOW_BYTES // expansion)

    # The pass itself, on the thread that calls `run` and then `wait`.

    def run(self, turn: Callable[[], None]) -> Header | None:
        """Seal the whole file and return its header; None, and less is read, if nobody takes a share any more.

        `turn` is called again and again, as in `wait`; it may let others `join`. Raises what it raises, `Damaged`
        if the file changes meanwhile, `Cancelled`, and `OSError`. After that, `abandon` is to be called.
        """
        codec = self._codec
        hasher = codec.keys.content_hasher(codec.layout.size)
        with open(self._path, "rb", buffering=0) as source:
            work = in_order(self._encode, segments_of(source, codec), ahead(codec))
            for index, (nonce, blocks, hashes) in enumerate(work):
                hasher.update(nonce)
                with self._lock:
                    self._nonces += nonce
                for number, digest in zip(self._numbers, hashes, strict=True):
                    self._hashes[number] += digest
                self._wait_for_room(index, turn)
                self._publish(index, blocks)
                turn()
                if self._is_deserted(turn):
                    return None
        header = self._make_header(hasher.digest())
        if self._expected is not None and header != self._expected:
            # Before any share of it can be whole: a store never gets to see the end.
            raise Damaged("the file changed since its other shares were stored")
        roots = {number: share_root(number, bytes(self._hashes[number])) for number in self._numbers}
        signature = sign(header, roots, self._seed)
        with self._lock:
            self._header, self._roots, self._signature = header, roots, signature
            self._wake_all()
        return header

    def abandon(self, error: BaseException) -> None:
        """Let no feed wait any more, nor end: the pass has failed, or will not be made."""
        with self._lock:
            self._failure = error
            for feed in self.feeds.values():
                feed.leave()
            self._wake_all()

    def _encode(self, item: tuple[int, bytes]) -> Encoded:
        index, data = item
        nonce, blocks = self._codec.encode(index, data, self._numbers)
        return nonce, blocks, [block_hash(block) for block in blocks]

    def _publish(self, index: int, blocks: Sequence[bytes | memoryview]) -> None:
        by_number = dict(zip(self._numbers, blocks, strict=True))
        with self._lock:
            if attached := self._attached():
                self._window[index] = {feed.number: by_number[feed.number] for feed in attached}
            now = self._clock()
            for feed in self.feeds.values():
                if feed.hungry:
                    # Its store has something to do from now on, however late its thread gets to know of it.
                    feed.hungry, feed.moved = not feed.attached, now
                    feed.changed.notify()

    def _attached(self) -> list[Feed]:
        return [feed for feed in self.feeds.values() if feed.attached and not feed.done]

    def _wait_for_room(self, index: int, turn: Callable[[], None]) -> None:
        idle_since: float | None = None
        while True:
            with self._lock:
                now = self._clock()
                slowest = min((feed.position for feed in self._attached()), default=index)
                if index - slowest < self._depth:
                    self._idle += 0.0 if idle_since is None else now - idle_since
                    return
                self._look_at_clock(now)
                if idle_since is None and self._holds_up():
                    idle_since = now
                patience = max(PATIENCE, PATIENCE_PART * (now - self._counts_from))
                left = patience if idle_since is None else patience - self._idle - (now - idle_since)
                if left <= 0:
                    for feed in self._attached():
                        feed.attached = feed.position > slowest
                    self._prune()
                    self._idle, self._counts_from, idle_since = 0.0, now, None
                    continue
                self._changed.wait(min(TICK, left))
            turn()

    def _holds_up(self) -> bool:
        """True if a store waits for the pass: for its next block, or, when it reads by itself, for the end."""
        return any(feed.hungry and not feed.done for feed in self.feeds.values())

    def wait(self, turn: Callable[[], None]) -> None:
        """Wait until every feed is done, or given up because its store did not go on in time."""
        while not self._is_deserted(turn):
            turn()
            with self._lock:
                self._look_at_clock(self._clock())
                if not self._is_over():
                    self._changed.wait(TICK)

    def _is_deserted(self, turn: Callable[[], None]) -> bool:
        """True if nobody takes anything any more, and after all that has come to its end, nobody joins."""
        with self._lock:
            if not self._is_over():
                return False
        turn()
        with self._lock:
            return self._is_over()

    def _is_over(self) -> bool:
        return all(feed.done for feed in self.feeds.values())

    def join(self, number: int, instead_of: int) -> None:
        """Feed one more share, in the place of one that failed. To be called by `turn`.

        It may begin when others are nearly done, and nobody waits until it has caught up: it is sealed from the
        file by itself, and has a signed table of its own, with it in the place of the other.
        """
        with self._lock:
            table = {*self.feeds[instead_of].table, number} - {instead_of}
            feed = Feed(number, sorted(table), self._lock, self._clock())
            feed.attached = False
            feed.hashes = bytearray(self._codec.layout.segments * HASH_SIZE)
            self.feeds[number] = feed

    def _look_at_clock(self, now: float) -> None:
        if self._cancelled.is_set():
            raise Cancelled("the upload was called off")
        publishing = max(self._stall, PUBLISHING if self._codec.layout.segments > 1 else 0.0)
        for feed in self.feeds.values():
            if feed.done or feed.hungry or feed.queues:
                continue
            if feed.all_taken and now - feed.moved > publishing:
                self._drop(feed, f"it took all, and did not finish within {publishing:g} seconds")
            elif not feed.all_taken and now - feed.moved > self._stall:
                self._drop(feed, f"no progress for {self._stall:g} seconds")

    def _drop(self, feed: Feed, why: str) -> None:
        feed.dropped = Unavailable(why)
        feed.done = True
        feed.leave()
        self._prune()

    def _wake_all(self) -> None:
        self._changed.notify()
        for feed in self.feeds.values():
            feed.changed.notify()

    def _prune(self) -> None:
        slowest = min((feed.position for feed in self._attached()), default=self._codec.layout.segments)
        for index in [index for index in self._window if index < slowest]:
            del self._window[index]

    # A feed, on the thread of the store that takes it.

    def admit(self, number: int, leave: Callable[[], None]) -> None:
        """Say that the store of this share is spoken to from now on; `leave` is called if it is given up."""
        with self._lock:
            feed = self.feeds[number]
            self._check(feed)
            feed.queues = False
            feed.leave = leave
            feed.moved = self._clock()

    def open_at(self, number: int) -> Callable[[int], Iterator[bytes | memoryview]]:
        """Return the `OpenAt` of the share with `number`."""
        return partial(self._open_at, self.feeds[number])

    def finished(self, number: int) -> None:
        """Say that the store of this share will take nothing more: it is done, or has failed."""
        with self._lock:
            self.feeds[number].done = True
            self._prune()
            self._changed.notify()

    def _open_at(self, feed: Feed, offset: int) -> Iterator[bytes | memoryview]:
        """Yield the share from `offset` on, in parts that its store takes in a moment.

        By them a store is seen to move that is slow, or that our own limits keep slow: for one block it may need
        longer than `stall`.
        """
        for piece in self._pieces(feed, offset):
            left = memoryview(piece)
            while left:
                part, left = left[: feed.part], left[feed.part :]
                began = self._clock()
                yield part
                with self._lock:
                    feed.moved = self._clock()
                    if left:
                        self._check(feed)
                if feed.moved - began < MOMENT / 4:
                    feed.part = min(feed.part * 2, SEGMENT_SIZE)
                elif feed.moved - began > MOMENT:
                    feed.part = max(feed.part // 2, SMALLEST_PART)

    def _pieces(self, feed: Feed, offset: int) -> Iterator[bytes | memoryview]:
        layout = self._codec.layout
        with self._lock:
            from_window = feed.attached and not feed.begun and offset == 0
            feed.begun, feed.attached, feed.all_taken = True, from_window, False
            self._prune()
        at = offset
        if from_window:
            at = yield from self._from_window(feed)
        if at < layout.data_length:
            yield from self._from_file(feed, at)
        end = self._end(feed)
        for start in range(max(0, at - layout.data_length), len(end), END_PIECE):
            with self._lock:
                feed.all_taken, feed.moved = start + END_PIECE >= len(end), self._clock()
            yield end[start : start + END_PIECE]

    def _from_window(self, feed: Feed) -> Generator[bytes | memoryview, None, int]:
        """Yield blocks until the feed is let go of, or has all; return how many bytes they were."""
        for index in range(self._codec.layout.segments):
            with self._lock:
                self._wait_hungry(feed, lambda index=index: not feed.attached or index in self._window)  # type: ignore[misc]
                if not feed.attached:
                    return self._codec.layout.block_offset(index)
                block = self._window[index][feed.number]
            yield block
            with self._lock:
                feed.position, feed.moved = index + 1, self._clock()
                self._prune()
                self._changed.notify()
        return self._codec.layout.data_length

    def _from_file(self, feed: Feed, at: int) -> Iterator[bytes | memoryview]:
        """Yield the blocks from the byte `at` of the share, which is before the end of the last one."""
        layout = self._codec.layout
        first = at // layout.block_length(0)  # all but the last have one length, and none is longer
        skip = at - layout.block_offset(first)
        with open(self._path, "rb", buffering=0) as source:
            for index in range(first, layout.segments):
                block = self._seal_again(feed, source, index)
                yield memoryview(block)[skip:]
                skip = 0
                with self._lock:
                    self._check(feed)
                    feed.position = index + 1
                    feed.moved = self._clock()
                    self._changed.notify()

    def _seal_again(self, feed: Feed, source: BinaryIO, index: int) -> bytes | memoryview:
        """Return the feed's block of a segment, and note what proves that it belongs to the pass."""
        codec = self._codec
        source.seek(index * SEGMENT_SIZE)
        nonce, [block] = codec.encode(index, segment(source, codec, index), [feed.number])
        if not feed.nonces:
            feed.nonces = bytearray(codec.layout.segments * len(nonce))
        feed.nonces[index * len(nonce) : (index + 1) * len(nonce)] = nonce
        if feed.hashes:
            feed.hashes[index * HASH_SIZE : (index + 1) * HASH_SIZE] = block_hash(block)
        return block

    def _end(self, feed: Feed) -> bytes:
        """Return what follows the blocks, once the pass has it; raises `Damaged` if the file changed."""
        with self._lock:
            self._wait_hungry(feed, lambda: self._header is not None)
        assert self._header is not None
        if feed.number in self._roots:
            self._check_readings(feed)
            tail = Tail(self._header, self._roots, self._signature, feed.number)
            return bytes(self._hashes[feed.number]) + tail.pack()
        self._read_missing(feed)
        self._check_readings(feed)
        roots = {number: self._roots[number] for number in feed.table if number != feed.number}
        roots[feed.number] = share_root(feed.number, bytes(feed.hashes))
        tail = Tail(self._header, roots, sign(self._header, roots, self._seed), feed.number)
        return bytes(feed.hashes) + tail.pack()

    def _read_missing(self, feed: Feed) -> None:
        """Read what a store skipped, since it has it from an earlier try: the hashes have to be known."""
        zeros = bytes(HASH_SIZE)
        with open(self._path, "rb", buffering=0) as source:
            for index in range(self._codec.layout.segments):
                if feed.hashes[index * HASH_SIZE : (index + 1) * HASH_SIZE] == zeros:
                    self._seal_again(feed, source, index)

    def _check_readings(self, feed: Feed) -> None:
        """Raise `Damaged` unless what the feed read by itself is what the pass read: equal nonces say so."""
        size = self._codec.keys.cipher.nonce_size
        zeros = bytes(size)
        for at in range(0, len(feed.nonces), size):
            if feed.nonces[at : at + size] not in (zeros, self._nonces[at : at + size]):
                raise Damaged("the file changed while it was read")

    def _wait_hungry(self, feed: Feed, ready: Callable[[], bool]) -> None:
        """Wait, with the lock held, until `ready`; raises `Cancelled` when there is no use in going on."""
        self._check(feed)
        while not ready():
            feed.hungry = True
            self._changed.notify()
            feed.changed.wait(TICK)
            self._check(feed)
        feed.hungry = False
        feed.moved = self._clock()

    def _check(self, feed: Feed) -> None:
        if feed.dropped or feed.done or self._failure or self._cancelled.is_set():
            raise Cancelled("the upload of this share was called off") from self._failure
