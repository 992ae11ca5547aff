"""The shares of a small object: made at once and held in memory, so that no store has to keep pace with a pass."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from annex_remote.shares.codec import SegmentCodec
from annex_remote.shares.format import Header, Tail, block_hash, share_root, sign
from annex_remote.transfer.reading import segments_of

__all__ = ["SmallShares"]


class SmallShares:
    """The shares of the file at `path`, of one segment at most; `header` is theirs, once that is made.

    `numbers` are those in the signed table. Raises `Damaged` if the file changes meanwhile, and `OSError`.
    """

    def __init__(
        self,
        path: str,
        codec: SegmentCodec,
        make_header: Callable[[bytes], Header],
        seed: bytes,
        numbers: Collection[int],
    ) -> None:
        self._codec = codec
        self._seed = seed
        with open(path, "rb", buffering=0) as source:
            self._segments = list(segments_of(source, codec))
        hasher = codec.keys.content_hasher(codec.layout.size)
        self._blocks: dict[int, bytes] = {}
        for nonce in self._seal(sorted(numbers)):
            hasher.update(nonce)
        self.header = make_header(hasher.digest())
        self._roots = {number: self._root(number) for number in sorted(numbers)}
        self._tables = dict.fromkeys(numbers, (self._roots, sign(self.header, self._roots, seed)))

    def _seal(self, numbers: Sequence[int]) -> Iterator[bytes]:
        """Make the blocks with `numbers`, and yield the nonce of each segment."""
        self._blocks |= dict.fromkeys(numbers, b"")
        for index, data in self._segments:
            nonce, blocks = self._codec.encode(index, data, numbers)
            self._blocks |= {number: bytes(block) for number, block in zip(numbers, blocks, strict=True)}
            yield nonce

    def _hashes(self, number: int) -> bytes:
        return block_hash(self._blocks[number]) if self._segments else b""

    def _root(self, number: int) -> bytes:
        return share_root(number, self._hashes(number))

    def join(self, number: int, instead_of: int) -> None:
        """Make one more share, in the place of one that failed, with a signed table of its own."""
        list(self._seal([number]))
        roots, _ = self._tables[instead_of]
        roots = {each: root for each, root in roots.items() if each != instead_of} | {number: self._root(number)}
        self._tables[number] = roots, sign(self.header, roots, self._seed)

    def share(self, number: int) -> bytes:
        """Return a whole share."""
        roots, signature = self._tables[number]
        tail = Tail(self.header, roots, signature, number)
        return b"".join((self._blocks[number], self._hashes(number), tail.pack()))
