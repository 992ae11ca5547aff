"""One segment there and back: seal and encode, decode and open. Pure, and safe to call from many threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from annex_remote.errors import Damaged
from annex_remote.shares import erasure
from annex_remote.shares.crypto import ObjectKeys
from annex_remote.shares.erasure import Block
from annex_remote.shares.layout import Layout

__all__ = ["SegmentCodec"]


class SegmentCodec:
    """Turns the segments of one object into blocks and back."""

    def __init__(self, keys: ObjectKeys, layout: Layout) -> None:
        self.keys = keys
        self.layout = layout

    def encode(self, index: int, plaintext: bytes, numbers: Sequence[int]) -> tuple[bytes, list[Block]]:
        """Return the nonce of segment `index` and its blocks for the shares `numbers`, in their order.

        Raises `Damaged` if the plaintext is not as long as its place says: the file changed under us.
        """
        layout = self.layout
        if len(plaintext) != layout.plain_length(index):
            expected = layout.plain_length(index)
            raise Damaged(f"segment {index} has {len(plaintext)} bytes of content instead of {expected}")
        last = layout.is_last(index)
        nonce = self.keys.nonce(index, last, plaintext)
        sealed = self.keys.seal(nonce, index, last, plaintext)
        length = layout.block_length(index)
        padding = bytes(length * layout.needed - layout.sealed_length(index))
        whole = memoryview(b"".join((nonce, sealed, padding)))
        primaries = [whole[at : at + length] for at in range(0, len(whole), length)]
        return nonce, erasure.encode(primaries, numbers)

    def decode(self, index: int, blocks: Mapping[int, Block]) -> tuple[bytes, bytes]:
        """Return the nonce and the plaintext of segment `index` from any `needed` proved blocks.

        Raises `Damaged` if they do not decode to what was sealed for this key at this place.
        """
        layout = self.layout
        length = layout.block_length(index)
        if any(len(block) != length for block in blocks.values()):
            raise Damaged(f"a block of segment {index} has not the {length} bytes of its place")
        parts = [memoryview(part) for part in erasure.decode(blocks, layout.needed)]
        nonce = _cut_front(parts, self.keys.cipher.nonce_size)
        _cut_back(parts, length * layout.needed - layout.sealed_length(index))
        sealed = b"".join(parts)  # the only copy, since what opens it takes bytes
        return nonce, self.keys.open(nonce, index, layout.is_last(index), sealed)


def _cut_front(parts: list[memoryview], size: int) -> bytes:
    """Take `size` bytes off the front of `parts`, which may be shorter than that one by one."""
    taken = b""
    for index, part in enumerate(parts):
        wanted = size - len(taken)
        taken += part[:wanted]
        parts[index] = part[wanted:]
        if len(taken) == size:
            break
    return taken


def _cut_back(parts: list[memoryview], size: int) -> None:
    """Drop the `size` bytes of padding at the end of `parts`."""
    while size:
        last = parts.pop()
        if len(last) > size:
            parts.append(last[: len(last) - size])
            return
        size -= len(last)
