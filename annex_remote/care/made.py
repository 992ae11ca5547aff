"""Shares that are being made: where they wait until they are stored, and the proof that they are there."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import IO

from annex_remote.errors import Damaged
from annex_remote.shares.format import Header, Tail, tail_length
from annex_remote.transfer.opening import OpenShare, open_share
from annex_remote.transfer.sites import Clock, GatedAsking, Site

__all__ = ["IN_MEMORY", "Made", "beside", "ends_now", "prove_written"]

IN_MEMORY = 4 << 20
"""Bytes of a share up to which it is held in memory until it is stored; larger ones wait in a temporary file."""

REREAD = 4
"""Blocks of a share that are read back when it was written, besides its end."""


class Made:
    """Shares that are being made: each grows block by block in a file that has no name."""

    def __init__(self, header: Header, numbers: Sequence[int], stack: ExitStack, folder: str | None) -> None:
        self.header = header
        self.numbers = list(numbers)
        self.hashes = {number: bytearray() for number in numbers}
        self.sizes: dict[int, int] = {}
        size = header.layout.data_length + header.layout.hashes_length + tail_length(header, len(numbers))
        self._files: dict[int, IO[bytes]] = {}
        for number in numbers:
            small = size <= IN_MEMORY
            made = tempfile.SpooledTemporaryFile(max_size=2 * IN_MEMORY) if small else _file(folder)  # noqa: SIM115 # the stack closes it
            self._files[number] = stack.enter_context(made)

    def take(self, blocks: Sequence[bytes | memoryview], hashes: Sequence[bytes]) -> None:
        """Take in the blocks of the next segment, in the order of `numbers`."""
        for number, block, digest in zip(self.numbers, blocks, hashes, strict=True):
            self._files[number].write(block)
            self.hashes[number] += digest

    def finish(self, tails: Mapping[int, Tail]) -> None:
        """Put the ends to the blocks."""
        for number, file in self._files.items():
            file.write(self.hashes[number])
            file.write(tails[number].pack())
            self.sizes[number] = file.tell()
            file.flush()

    def read(self, number: int, offset: int, length: int) -> bytes:
        """Return bytes of a share; each share is read by one thread at a time."""
        file = self._files[number]
        file.seek(offset)
        return file.read(length)


def _file(folder: str | None) -> IO[bytes]:
    return tempfile.TemporaryFile(dir=folder)


def beside(site: Site) -> Site:
    """Return the place of a share that is to take the place of the one at `site`."""
    return replace(site, staged=True, gate=site.gate)


def prove_written(site: Site, header: Header, verify_key: bytes, moved: Callable[[], None]) -> None:
    """Read back the end of a share that was written, and some of its blocks; raises `Damaged`."""
    share = open_share(site, header.object_id, verify_key, needed=header.needed, heard=lambda _: moved())
    if share.header != header:
        raise Damaged(f"share {site.number} is there already, and belongs to other content")
    segments = header.layout.segments
    for index in sorted({segments * part // REREAD for part in range(REREAD)} | {segments - 1}):
        if 0 <= index < segments:
            for _, block in share.blocks(index, 1, lambda _: moved()):
                if block is None:
                    raise Damaged(f"share {site.number} reads back otherwise than it was written")


def ends_now(
    object_id: str,
    sites: Iterable[Site],
    verify_key: bytes,
    *,
    stall: float,
    cancelled: threading.Event,
    clock: Clock = time.monotonic,
) -> dict[Site, OpenShare]:
    """Return the shares of an object that are at `sites` now and prove, by their ends; all are asked at once."""
    asking: GatedAsking[OpenShare] = GatedAsking({}, cancelled, clock)

    def look(site: Site) -> OpenShare:
        moved = partial(asking.moved, site)
        return open_share(site, object_id, verify_key, needed=1, with_hashes=False, heard=lambda _: moved())

    asking.add({site: partial(look, site) for site in sites})
    return {answer.asked: answer.value for answer in asking.answers(stall) if answer.value is not None}
