"""Opening a share: read its end, prove it, then its blocks can be read one by one, each proved."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from annex_remote.errors import Damaged
from annex_remote.model import ByteStream
from annex_remote.shares.format import TAIL_MAX, Header, Tail, block_hash, parse_footer
from annex_remote.shares.layout import HASH_SIZE, SEGMENT_SIZE
from annex_remote.transfer.sites import Site

__all__ = ["FIRST_READ", "PEEK", "OpenShare", "largest_group", "open_share"]

FIRST_READ = 64 << 10
"""Bytes asked for first: the whole share of a small object, and the total size of a large one."""

PEEK = 4 << 10
"""Bytes asked for where the end of a share is enough: the usual tail, without block hashes."""


HASHES_GUESS = 1 << 20
"""Bytes of block hashes that are asked for on the word of a store about the share's size: enough for 32 GiB."""


@dataclass(frozen=True, slots=True)
class OpenShare:
    """A share whose tail, and block hashes if they were asked for, are proved against the grid's verify key."""

    site: Site
    tail: Tail
    hashes: bytes = field(repr=False)
    start: bytes = field(repr=False)
    """The first bytes of the share, read already; all of it when it is small."""

    @property
    def header(self) -> Header:
        return self.tail.header

    def has(self, end: int) -> bool:
        """True if the blocks of all segments before `end` are read already."""
        return self.header.layout.block_offset(end) <= len(self.start)

    def blocks(
        self, first: int, count: int, heard: Callable[[int], None]
    ) -> Iterator[tuple[int, memoryview | None]]:
        """Yield (segment index, block) for `count` segments from `first`; None for a block that does not prove.

        `heard` gets the number of bytes of each piece as the store brings it. Raises what the store raises, and
        `Damaged` if the stream ends early.
        """
        layout = self.header.layout
        begin, end = layout.block_offset(first), layout.block_offset(first + count)
        if self.has(first + count):
            yield from self._prove(first, count, [self.start[begin:end]])
            return

        def pieces(stream: Iterable[bytes]) -> Iterator[bytes]:
            for piece in stream:
                heard(len(piece))
                yield piece

        name = self.site.name_of(self.header.object_id)
        with self.site.store.read(name, begin, end - begin) as stream:
            yield from self._prove(first, count, pieces(stream))

    def _prove(self, first: int, count: int, pieces: Iterable[bytes]) -> Iterator[tuple[int, memoryview | None]]:
        layout = self.header.layout
        source = iter(pieces)
        held = memoryview(b"")
        for index in range(first, first + count):
            length = layout.block_length(index)
            # Most blocks are views of a piece as the store gave it; only those across two pieces are copied.
            if len(held) < length:
                parts, have = [held] if held else [], len(held)
                while have < length:
                    parts.append(memoryview(next(source, b"")))
                    if not parts[-1]:
                        raise Damaged(f"share {self.site.number} ended early while it was read")
                    have += len(parts[-1])
                held = parts[0] if len(parts) == 1 else memoryview(b"".join(parts))
            block, held = held[:length], held[length:]
            hash_at = index * HASH_SIZE
            proved = block_hash(block) == self.hashes[hash_at : hash_at + HASH_SIZE]
            yield index, block if proved else None


def _nobody(_: int) -> None:
    """Take no notice of what has come."""


def open_share(
    site: Site,
    object_id: str,
    verify_key: bytes,
    *,
    needed: int,
    with_hashes: bool = True,
    heard: Callable[[int], None] = _nobody,
) -> OpenShare:
    """Open and prove the share that `site` keeps of `object_id`.

    `needed` is the grid's, and only serves to guess how long the end of a large share is. `heard` gets the number
    of bytes of each piece. Raises `NotFound`, `Damaged` for a share that does not prove, and what the store
    raises.
    """
    name = site.name_of(object_id)
    first = FIRST_READ if with_hashes else PEEK
    with site.store.read(name, 0, first) as stream:
        start = _take(stream, first, heard)
        size = stream.size
    end, end_at = start, 0
    if size > len(start):
        segments = size * needed // SEGMENT_SIZE + 1
        guess = min(segments * HASH_SIZE, HASHES_GUESS) if with_hashes else 0
        end_at = max(0, size - PEEK - guess)
        end = _read_range(site, name, end_at, size - end_at, size, heard)
    _, tail_length = parse_footer(end)
    tail_at = size - min(tail_length, TAIL_MAX)
    if tail_at < 0:
        raise Damaged(f"share {site.number} is shorter than the end that it says it has")
    if tail_at < end_at:
        end, end_at = _read_range(site, name, tail_at, size - tail_at, size, heard), tail_at
    tail = Tail.parse(end, size)
    if tail.number != site.number or tail.header.object_id != object_id:
        raise Damaged(f"share {site.number} is the share of another object or number")
    tail.verify(verify_key)
    hashes = b""
    if with_hashes:
        layout = tail.header.layout
        hashes_at, hashes_end = layout.data_length, layout.data_length + layout.hashes_length
        if hashes_at < end_at:
            hashes = _read_range(site, name, hashes_at, layout.hashes_length, size, heard)
        else:
            hashes = end[hashes_at - end_at : hashes_end - end_at]
        tail.check_hashes(hashes)
    return OpenShare(site, tail, hashes, start)


def _read_range(site: Site, name: str, start: int, length: int, size: int, heard: Callable[[int], None]) -> bytes:
    with site.store.read(name, start, length) as stream:
        data = _take(stream, length, heard)
        if stream.size != size or len(data) != length:
            raise Damaged(f"share {site.number} changed while it was read")
    return data


def _take(stream: ByteStream, most: int, heard: Callable[[int], None]) -> bytes:
    """Return what a stream brings; raises `Damaged` if it brings more than it was asked for."""
    data = bytearray()
    for piece in stream:
        heard(len(piece))
        data += piece
        if len(data) > most:
            raise Damaged("a store sends more than it was asked for")
    return bytes(data)


def largest_group(shares: Iterable[OpenShare]) -> list[OpenShare]:
    """Return the shares of the upload that has the most shares among `shares`, by number.

    Shares belong together when their headers are equal. Groups that can be decoded come before those that
    cannot; among equals the header's bytes decide, so that all clones choose alike.
    """
    groups: dict[bytes, dict[int, OpenShare]] = defaultdict(dict)
    for share in shares:
        groups[share.header.pack()][share.site.number] = share
    if not groups:
        return []

    def rank(item: tuple[bytes, dict[int, OpenShare]]) -> tuple[bool, int, bytes]:
        header, members = item
        needed = next(iter(members.values())).header.needed
        return len(members) >= needed, len(members), header

    _, members = max(groups.items(), key=rank)
    return [members[number] for number in sorted(members)]
