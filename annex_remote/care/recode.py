"""Coding an object anew, so that another number of its shares rebuilds it.

The new shares have the names of the old ones. So they are put beside them first (names of their own, see
`model.staged_name`), and only when all of these are proved, each takes the place of the old share on its store.
At any moment there are enough shares of one kind, the old ones or those beside them; whoever reads finds either.

It takes the signing key, and no read secret: what is sealed stays sealed, and is cut in other pieces.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import IO, Any

from annex_remote.care.health import Ground
from annex_remote.care.made import IN_MEMORY, beside, ends_now, prove_written
from annex_remote.errors import NotEnough
from annex_remote.model import Coding
from annex_remote.shares import erasure
from annex_remote.shares.format import Header, Tail, block_hash, share_root, sign
from annex_remote.shares.layout import Layout
from annex_remote.transfer.fetch import Fetch, Fetching
from annex_remote.transfer.opening import OpenShare
from annex_remote.transfer.placement import Candidate, place
from annex_remote.transfer.presence import Look, best_first
from annex_remote.transfer.sending import in_pieces
from annex_remote.transfer.sites import GatedAsking, Notes, Site, causes, explain, shares

__all__ = ["Recode"]

HALF_WAY = "half-way, and can be read: rebalance goes on with it"


@dataclass
class Recode:
    """Codes one object by the coding of `ground`; `run` does it, or goes on with what was begun."""

    object_id: str
    sites: Sequence[Site]
    ground: Ground
    verify_key: bytes
    seed: bytes
    fetching: Fetching
    free: Mapping[str, int] = field(default_factory=dict)
    folder: str | None = None

    def run(self) -> bool:
        """Do it; False if the object is coded like this already.

        Raises `NotEnough` if it cannot be rebuilt, or too few stores take a new share; then it is as it was.
        """
        look = self._look()
        try:
            group = self._open(look)
            header = group[0].header
            wanted = replace(header, needed=self.coding.needed)
            is_old = header.needed != self.coding.needed
            if not is_old and not any(share.site.staged for share in group):
                return False
            there = [site for site in self.sites if site.takes_shares]
            targets = self._targets(wanted, there)
            is_begun = not is_old
            with _Recoded(wanted, [site.number for site in targets], self.seed, self.folder) as made:
                self._fetch(group, look, made)
                # What was put beside the old shares by a run that was stopped is put there again: it is the same.
                failed = self._put(made, [beside(site) for site in targets])
                if failed:
                    if not is_begun:  # nothing has taken its place yet
                        self._remove([beside(site) for site in targets])
                    raise NotEnough(
                        _not_stored(failed, "as it is" if not is_begun else "half-way, and rebalance goes on")
                    )
                failed = self._put(made, targets)
            if failed:
                raise NotEnough(_not_stored(failed, HALF_WAY))
            self._clear(wanted, targets)
            return True
        finally:
            look.abandon()

    @property
    def coding(self) -> Coding:
        return self.ground.coding

    def _look(self) -> Look:
        fetching = self.fetching
        ordered, _ = best_first(self.sites, fetching.book, fetching.clock())
        return Look(
            [*ordered, *map(beside, ordered)],
            self.object_id,
            self.verify_key,
            needed=self.coding.needed,
            stall=fetching.stall,
            with_hashes=True,
            book=fetching.book,
            trace=fetching.trace,
            clock=fetching.clock,
        )

    def _open(self, look: Look) -> list[OpenShare]:
        sighting = look.wait(cancelled=self.fetching.cancelled)
        group = sighting.decodable()
        if not group:
            raise NotEnough(f"{shares(len(sighting.shares))} found, which are not enough to code it anew")
        return group

    def _targets(self, header: Header, sites: Sequence[Site]) -> list[Site]:
        """Return where the new shares go.

        Whoever codes this object comes to the same places, however much room each store has: two who do it at once
        must not take each other's shares for old ones.
        """
        candidates = [Candidate(each.number, each.name, each.zone) for each in sites]
        numbers = place(self.object_id, candidates, self.coding.total, 0)
        targets = [site for site in sites if site.number in numbers]
        size = header.layout.data_length + header.layout.hashes_length
        # Two shares are there for a while.
        narrow = sorted({site.name for site in targets if self.free.get(site.name, 2 * size) < 2 * size})
        if len(targets) < self.coding.happy or narrow:
            why = f"{' '.join(narrow)}: no room for two shares of {size:,} bytes" if narrow else "too few stores"
            raise NotEnough(f"it cannot be coded anew, and nothing was changed: {why}")
        return targets

    def _fetch(self, group: Sequence[OpenShare], look: Look, made: _Recoded) -> None:
        layout = group[0].header.layout

        def cut(index: int, blocks: Mapping[int, memoryview]) -> tuple[bytes, list[bytes]]:
            sealed = b"".join(erasure.decode(blocks, layout.needed))[: layout.sealed_length(index)]
            return sealed, [block_hash(block) for block in made.blocks(index, sealed, made.numbers)]

        fetch = Fetch(group, look, cut, replace(self.fetching, notes=Notes()))
        try:
            for sealed, hashes in fetch.segments():
                made.take(sealed, hashes)
        finally:
            fetch.close()
        made.finish()

    def _put(self, made: _Recoded, targets: Sequence[Site]) -> dict[Site, Exception]:
        """Put all shares, and prove them; return the stores that did not take theirs."""
        asking: GatedAsking[None] = self._asking()

        def put(site: Site) -> None:
            moved = partial(asking.moved, site)
            source = in_pieces(partial(made.read, site.number), moved, self.fetching.clock)
            site.store.put(site.name_of(self.object_id), made.share_size, source)
            prove_written(site, made.header, self.verify_key, moved)

        asking.add({site: partial(put, site) for site in targets})
        answers = asking.answers(self.fetching.stall)
        return {answer.asked: answer.error for answer in answers if answer.error is not None}

    def _asking(self) -> GatedAsking[Any]:
        return GatedAsking({}, self.fetching.cancelled, self.fetching.clock)

    def _clear(self, header: Header, targets: Sequence[Site]) -> None:
        """Remove what is not wanted any more, if all new shares are where they belong now.

        Raises `NotEnough` if they are not: somebody else has changed them, and what lies beside them is needed. Of
        what is elsewhere only old shares go: those of the new coding are somebody's who placed them otherwise.
        """
        ends = ends_now(
            self.object_id,
            self.sites,
            self.verify_key,
            stall=self.fetching.stall,
            cancelled=self.fetching.cancelled,
            clock=self.fetching.clock,
        )
        seen = {site: share.header for site, share in ends.items()}
        changed = [site.name for site in targets if seen.get(site) != header]
        if changed:
            raise NotEnough(f"its shares changed meanwhile on {' '.join(changed)}: rebalance goes on with it")
        others = [site for site in self.sites if site not in targets]
        old = [site for site in others if site in seen and seen[site].is_recoded(header)]
        self._remove([*map(beside, self.sites), *old])

    def _remove(self, sites: Sequence[Site]) -> None:
        asking: GatedAsking[None] = self._asking()
        asking.add({site: partial(site.store.delete, site.name_of(self.object_id)) for site in sites})
        for answer in asking.answers(self.fetching.stall):
            if answer.error is not None:  # it is collected one day
                name = answer.asked.name_of(self.object_id)
                self.fetching.notes.add(answer.asked.name, f"{name} may remain: {explain(answer.error)}")


def _not_stored(failed: Mapping[Site, Exception], how: str) -> str:
    return f"{shares(len(failed))} could not be stored, and it stays {how}: {causes(failed)}"


class _Recoded:
    """An object that is coded anew: its sealed segments in a file without a name, cut as they are read."""

    def __init__(self, header: Header, numbers: Sequence[int], seed: bytes, folder: str | None) -> None:
        self.numbers = sorted(numbers)
        self.header = header
        self._layout: Layout = header.layout
        self._seed = seed
        self._hashes = {number: bytearray() for number in self.numbers}
        self._ends: dict[int, bytes] = {}
        small = self._layout.size <= IN_MEMORY
        self._file: IO[bytes] = (
            tempfile.SpooledTemporaryFile(max_size=2 * IN_MEMORY)  # noqa: SIM115 # closed in __exit__
            if small
            else tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        )
        self._lock = threading.Lock()

    def __enter__(self) -> _Recoded:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def blocks(self, index: int, sealed: bytes, numbers: Sequence[int]) -> list[bytes | memoryview]:
        """Return the blocks of a sealed segment for the shares `numbers`."""
        layout = self._layout
        length = layout.block_length(index)
        whole = memoryview(sealed + bytes(length * layout.needed - len(sealed)))
        return erasure.encode([whole[at : at + length] for at in range(0, len(whole), length)], numbers)

    def take(self, sealed: bytes, hashes: Sequence[bytes]) -> None:
        """Take in the next segment."""
        self._file.write(sealed)
        for number, digest in zip(self.numbers, hashes, strict=True):
            self._hashes[number] += digest

    def finish(self) -> None:
        """Make the ends of the shares."""
        self._file.flush()
        roots = {number: share_root(number, bytes(hashes)) for number, hashes in self._hashes.items()}
        signature = sign(self.header, roots, self._seed)
        for number in self.numbers:
            self._ends[number] = bytes(self._hashes[number]) + Tail(self.header, roots, signature, number).pack()

    @property
    def share_size(self) -> int:
        """Bytes of each share."""
        return self._layout.data_length + len(self._ends[self.numbers[0]])

    def read(self, number: int, offset: int, length: int) -> bytes:
        """Return bytes of a share, at most `length`: not beyond the end of a block."""
        layout = self._layout
        if offset >= layout.data_length:
            start = offset - layout.data_length
            return self._ends[number][start : start + length]
        index = min(offset // layout.block_length(0), layout.segments - 1)
        with self._lock:
            self._file.seek(index * layout.sealed_length(0))
            sealed = self._file.read(layout.sealed_length(index))
        [block] = self.blocks(index, sealed, [number])
        start = offset - layout.block_offset(index)
        return bytes(block[start : start + length])
