"""Reading the file that is stored, segment by segment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from annex_remote.errors import Damaged
from annex_remote.shares.codec import SegmentCodec
from annex_remote.transfer.pipeline import CORES, in_order

__all__ = ["ahead", "content_id_of", "segment", "segments_of"]


def segment(source: BinaryIO, codec: SegmentCodec, index: int) -> bytes:
    """Read segment `index`, at which `source` stands; raises `Damaged` if the file ends before it does."""
    length = codec.layout.plain_length(index)
    data = source.read(length)
    if len(data) != length:
        raise Damaged("the file became shorter while it was read")
    return data


def segments_of(source: BinaryIO, codec: SegmentCodec) -> Iterator[tuple[int, bytes]]:
    """Yield (index, plaintext) of all segments; raises `Damaged` unless the file ends with the last of them."""
    for index in range(codec.layout.segments):
        yield index, segment(source, codec, index)
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
        for piece in in_order(nonce, segments_of(source, codec), ahead(codec)):
            hasher.update(piece)
    return hasher.digest()


def ahead(codec: SegmentCodec) -> int:
    """Return how many segments of an object are worked on at once."""
    return 1 if codec.layout.segments < 2 else CORES + 1
