"""One pass over a file that seals it and feeds the shares to all stores at once.

Every store takes blocks at its own pace from one bounded window. A store that would hold the others up is
let go of the window and reads the file again by itself (sealing is deterministic); so does a store that
starts again at some offset. Memory is bounded by the window, whatever the stores do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import BinaryIO

from annex_remote.errors import Cancelled, Damaged, SwarmError, Unavailable
from annex_remote.shares.codec import SegmentCodec
from annex_remote.shares.format import Header, Tail, block_hash, share_root, sign
from annex_remote.shares.layout import HASH_SIZE, SEGMENT_SIZE
from annex_remote.transfer.pipeline import CORES, in_order
from annex_remote.transfer.sites import TICK, Clock

__all__ = ["Feed", "SealingPass", "content_id_of"]

WINDOW_BYTES = 16 << 20
"""Bytes of blocks, of all shares together, that may wait for the stores."""

PATIENCE = 0.25
"""Seconds that the pass waits for the slowest store while another one has nothing left to do."""

Encoded = tuple[bytes, list[bytes | memoryview], list[bytes]]


def _segment(source: BinaryIO, codec: SegmentCodec, index: int) -> bytes:
    length = codec.layout.plain_length(index)
    data = source.read(length)
    if len(data) != length:
        raise Damaged("the file became shorter while it was read")
    return data


def _segments(source: BinaryIO, codec: SegmentCodec) -> Iterator[tuple[int, bytes]]:
    for index in range(codec.layout.segments):
        yield index, _segment(source, codec, index)
    if source.read(1):
        raise Damaged("the file became longer while it was read")


def content_id_of(path: str, codec: SegmentCodec) -> bytes:
    """Return the content id of a file by hashing it, without sealing anything."""
    layout = codec.layout
    hasher = codec.keys.content_hasher(layout.size)

    def nonce(item: tuple[int, bytes]) -> bytes:
        index, data = item
        return codec.keys.nonce(index, layout.is_last(index), data)

    with open(path, "rb", buffering=0) as source:
        for piece in in_order(nonce, _segments(source, codec), _ahead(codec)):
            hasher.update(piece)
    return hasher.digest()


def _ahead(codec: SegmentCodec) -> int:
    return 1 if codec.layout.segments < 2 else CORES + 1


class Feed:
    """One store's view of the pass: where it is, and when it last took something."""

    def __init__(self, number: int, lock: threading.Lock, now: float) -> None:
        self.number = number
        self.changed = threading.Condition(lock)
        self.position = 0
        """Segments taken so far."""
        self.attached = True
        """True while blocks come from the window; False once the feed reads the file by itself."""
        self.begun = False
        self.hungry = False
        """True while the feed waits for the pass: no progress is then no fault of the store."""
        self.moved = now
        self.sent: dict[int, bytes] = {}
        """Hashes of the blocks that this feed read by itself: they must be those that the pass has signed."""
        self.dropped: SwarmError | None = None
        self.done = False


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
        self.feeds = {number: Feed(number, self._lock, clock()) for number in fed}
        self._hashes = {number: bytearray() for number in self._numbers}
        self._window: dict[int, dict[int, bytes | memoryview]] = {}
        self._tails: dict[int, bytes] | None = None
        self._failure: BaseException | None = None
        expansion = max(1, len(self._numbers) * SEGMENT_SIZE // codec.layout.needed)
        self._depth = max(2, WINDOW_BYTES // expansion)

    # The pass itself, on the thread that calls `run` and then `wait`.

    def run(self, progress: Callable[[], None]) -> Header:
        """Seal the whole file and return its header.

        Raises `Damaged` if the file changes meanwhile, `Cancelled`, and `OSError`.
        """
        try:
            return self._run(progress)
        except BaseException as error:
            self.abandon(error)
            raise

    def abandon(self, error: BaseException) -> None:
        """Let no feed wait any more, nor end: the pass has failed, or will not be made."""
        with self._lock:
            self._failure = error
            self._wake_all()

    def _run(self, progress: Callable[[], None]) -> Header:
        codec = self._codec
        hasher = codec.keys.content_hasher(codec.layout.size)
        with open(self._path, "rb", buffering=0) as source:
            work = in_order(self._encode, _segments(source, codec), _ahead(codec))
            for index, (nonce, blocks, hashes) in enumerate(work):
                hasher.update(nonce)
                for number, digest in zip(self._numbers, hashes, strict=True):
                    self._hashes[number] += digest
                self._wait_for_room(index)
                self._publish(index, blocks)
                progress()
        header = self._make_header(hasher.digest())
        if self._expected is not None and header != self._expected:
            # Before any share of it can be whole: a store never gets to see the end.
            raise Damaged("the file changed since its other shares were stored")
        roots = {number: share_root(number, bytes(self._hashes[number])) for number in self._numbers}
        signature = sign(header, roots, self._seed)
        tails = {number: Tail(header, roots, signature, number).pack() for number in self.feeds}
        with self._lock:
            self._tails = tails
            self._wake_all()
        return header

    def _encode(self, item: tuple[int, bytes]) -> Encoded:
        index, data = item
        nonce, blocks = self._codec.encode(index, data, self._numbers)
        return nonce, blocks, [block_hash(block) for block in blocks]

    def _publish(self, index: int, blocks: Sequence[bytes | memoryview]) -> None:
        by_number = dict(zip(self._numbers, blocks, strict=True))
        with self._lock:
            if self._attached():
                self._window[index] = {number: by_number[number] for number in self.feeds}
            for feed in self.feeds.values():
                if feed.hungry:
                    feed.changed.notify()

    def _attached(self) -> list[Feed]:
        return [feed for feed in self.feeds.values() if feed.attached and not feed.done]

    def _wait_for_room(self, index: int) -> None:
        blocked_since: float | None = None
        with self._lock:
            while attached := self._attached():
                slowest = min(feed.position for feed in attached)
                if index - slowest < self._depth:
                    return
                now = self._clock()
                blocked_since = now if blocked_since is None else blocked_since
                self._look_at_clock(now)
                if now - blocked_since >= PATIENCE and any(feed.hungry for feed in attached):
                    for feed in attached:
                        feed.attached = feed.attached and feed.position > slowest
                    self._prune()
                    continue
                self._changed.wait(TICK)

    def wait(self, progress: Callable[[], None]) -> None:
        """Wait until every feed is done or given up because nothing moved for `stall` seconds."""
        while True:
            with self._lock:
                self._look_at_clock(self._clock())
                if all(feed.done for feed in self.feeds.values()):
                    return
                self._changed.wait(TICK)
            progress()

    def _look_at_clock(self, now: float) -> None:
        if self._cancelled.is_set():
            raise Cancelled("the upload was called off")
        for feed in self.feeds.values():
            if not feed.done and not feed.hungry and now - feed.moved > self._stall:
                feed.dropped = Unavailable(f"no progress for {self._stall:g} seconds")
                feed.done = True
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
        with self._lock:
            again, feed.begun = feed.begun, True
            if again or offset:
                feed.attached = False
                self._prune()
        layout = self._codec.layout
        at = 0
        if not again and not offset:
            for block in self._from_window(feed):
                yield block
                at += len(block)
        skip = offset
        if at < layout.data_length:
            first = feed.position if not (again or offset) else 0
            while first < layout.segments and layout.block_offset(first + 1) <= offset:
                first += 1
            skip = max(0, offset - layout.block_offset(first))
            for block in self._from_file(feed, first):
                yield memoryview(block)[skip:] if skip else block
                skip = 0
        end = self._end(feed)
        yield end[max(0, offset - layout.data_length) :]

    def _from_window(self, feed: Feed) -> Iterator[bytes | memoryview]:
        segments = self._codec.layout.segments
        while True:
            with self._lock:
                self._wait_hungry(
                    feed,
                    lambda: not feed.attached or feed.position == segments or feed.position in self._window,
                )
                if not feed.attached or feed.position == segments:
                    return
                block = self._window[feed.position][feed.number]
            yield block
            with self._lock:
                feed.position += 1
                feed.moved = self._clock()
                self._prune()
                self._changed.notify()

    def _from_file(self, feed: Feed, first: int) -> Iterator[bytes | memoryview]:
        codec = self._codec
        with open(self._path, "rb", buffering=0) as source:
            source.seek(first * SEGMENT_SIZE)
            for index in range(first, codec.layout.segments):
                _, [block] = codec.encode(index, _segment(source, codec, index), [feed.number])
                feed.sent[index] = block_hash(block)
                yield block
                with self._lock:
                    self._check(feed)
                    feed.position = max(feed.position, index + 1)
                    feed.moved = self._clock()
                    self._changed.notify()

    def _end(self, feed: Feed) -> bytes:
        with self._lock:
            self._wait_hungry(feed, lambda: self._tails is not None)
            assert self._tails is not None
            hashes = bytes(self._hashes[feed.number])
            for index, sent in feed.sent.items():
                if sent != hashes[index * HASH_SIZE : (index + 1) * HASH_SIZE]:
                    raise Damaged("the file changed while it was read")
            return hashes + self._tails[feed.number]

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
