"""Sizes and offsets: where each block of each segment lies in a share (docs/format.md, "Layout")."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HASH_SIZE", "SEGMENT_SIZE", "Layout"]

SEGMENT_SIZE = 1 << 20
"""Bytes of plaintext in a segment; only the last one of an object may be shorter."""

HASH_SIZE = 32


@dataclass(frozen=True, slots=True)
class Layout:
    """The layout of the shares of one object: its `size` in bytes, `needed`, and the cipher's `overhead`."""

    size: int
    needed: int
    overhead: int

    @property
    def segments(self) -> int:
        """How many segments the object has; an empty object has none."""
        return -(-self.size // SEGMENT_SIZE)

    def is_last(self, index: int) -> bool:
        return index == self.segments - 1

    def plain_length(self, index: int) -> int:
        return min(SEGMENT_SIZE, self.size - index * SEGMENT_SIZE)

    def sealed_length(self, index: int) -> int:
        """Bytes of nonce, ciphertext and tag of segment `index`."""
        return self.plain_length(index) + self.overhead

    def block_length(self, index: int) -> int:
        """Bytes of each share's block of segment `index`: the sealed segment is padded to needed blocks."""
        return -(-self.sealed_length(index) // self.needed)

    def block_offset(self, index: int) -> int:
        """Where block `index` begins in every share; `segments` gives the end of the last block."""
        if index < self.segments or index == 0:
            return index * -(-(SEGMENT_SIZE + self.overhead) // self.needed)
        return self.block_offset(index - 1) + self.block_length(index - 1)

    @property
    def data_length(self) -> int:
        """Bytes of all blocks in a share."""
        return self.block_offset(self.segments)

    @property
    def hashes_length(self) -> int:
        """Bytes of the block hashes in a share."""
        return self.segments * HASH_SIZE
