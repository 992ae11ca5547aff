"""Making shares of an object anew from others: `needed` of them are read once, whatever is missing is written.

It takes the verify key alone where the signed tables have the missing shares: these are then byte for byte what
was lost, and proved to be. A share that no table has takes the signing key.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial

from annex_remote.care.health import Ground
from annex_remote.care.made import Made, beside, prove_written
from annex_remote.errors import Damaged, Exists, Full, NotEnough, NotFound, StoreError, Unavailable
from annex_remote.model import ByteStream, OpenAt
from annex_remote.shares import erasure
from annex_remote.shares.format import Header, Tail, block_hash, share_root, sign
from annex_remote.stores.wrappers import Around, AroundStream
from annex_remote.transfer.fetch import Fetch, Fetching
from annex_remote.transfer.opening import OpenShare, largest_group, open_share
from annex_remote.transfer.placement import Candidate, place
from annex_remote.transfer.presence import GRACE, Look, best_first
from annex_remote.transfer.sending import in_pieces
from annex_remote.transfer.sites import GatedAsking, Notes, Site, explain, shares

__all__ = ["Outcome", "Rebuild", "Tally", "beside"]

ROUNDS = 3
"""Times that an object is read at most: again only where shares turn out to be damaged, or stores fail."""


class Tally:
    """Bytes that went to and from stores; thread safe."""

    def __init__(self, moved: Callable[[int, int], None] = lambda read, written: None) -> None:
        self._lock = threading.Lock()
        self._moved = moved
        self.read = 0
        self.written = 0

    def add(self, read: int = 0, written: int = 0) -> None:
        with self._lock:
            self.read += read
            self.written += written
        self._moved(read, written)

    def around(self, site: Site) -> Site:
        """Return the same site, of which everything is counted."""
        return replace(site, store=_Counted(site.store, self), gate=site.gate)


class _Counted(Around):
    def __init__(self, store: object, tally: Tally) -> None:
        super().__init__(store)  # type: ignore[arg-type] # a Store
        self._tally = tally

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        def counted(offset: int) -> Iterator[bytes | memoryview]:
            for piece in open_at(offset):
                yield piece
                self._tally.add(written=len(piece))

        self.store.put(name, size, counted, fresh=fresh)

    def read(self, name: str, start: int = 0, length: int | None = None) -> ByteStream:
        return _CountedStream(self.store.read(name, start, length), self._tally)


class _CountedStream(AroundStream):
    def __init__(self, stream: ByteStream, tally: Tally) -> None:
        super().__init__(stream)
        self._tally = tally

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._stream:
            self._tally.add(read=len(piece))
            yield piece


@dataclass
class Outcome:
    """What came of one object. Numbers of shares."""

    object_id: str
    made: dict[int, int] = field(default_factory=dict)
    """Shares that were written and proved, with their sizes."""
    failed: dict[int, Exception] = field(default_factory=dict)
    """Shares that could not be written."""
    damaged: dict[int, str] = field(default_factory=dict)
    """Shares that were seen to be damaged, and are not replaced."""
    absent: tuple[int, ...] = ()
    """Shares that were believed to be there, and are not."""
    needed: int = 0
    good: tuple[int, ...] = ()
    """Shares that are there in the end, by all that is known."""
    deficit: int = 0
    """How many shares are still missing."""
    why: str = ""
    """Why there is a deficit, where no store has failed."""


@dataclass
class Rebuild:
    """Makes the missing shares of one object; `run` does it.

    `there` are the sizes of shares that are believed to be good, by number; `spoilt` are known to be damaged:
    blocks of them are taken where they prove. `silent` are places that may have their share, `staged` the numbers
    of those that lie beside their place, where somebody was stopped while replacing them. With `wanted`, these are
    made and no others; else as many as are missing, where they are best placed.

    `outcome` is what came of it so far, also where `run` raises.
    """

    object_id: str
    sites: Sequence[Site]
    ground: Ground
    verify_key: bytes
    seed: bytes | None
    there: Mapping[int, int]
    fetching: Fetching
    spoilt: Collection[int] = ()
    silent: Collection[int] = ()
    staged: Collection[int] = ()
    wanted: Sequence[int] | None = None
    free: Mapping[str, int] = field(default_factory=dict)
    """Free bytes, by store."""
    folder: str | None = None
    """Where temporary files are made; the system's place if it is None."""
    needed: int | None = None
    """How many shares rebuild it, as far as that is known; its header has the last word."""

    def run(self) -> Outcome:
        """Read, make, write, read back; return what came of it.

        Raises `NotEnough` if it cannot be rebuilt, `Unavailable` if that depends on stores that do not answer,
        `Cancelled`, and `OSError` if there is no room for temporary files.
        """
        self._by_number = {site.number: site for site in self.sites}
        self._good = set(self.there) - set(self.spoilt) - set(self.silent)
        self._absent: set[int] = set()
        self._spoilt = dict.fromkeys(self.spoilt, "known to be damaged")
        self.outcome = Outcome(self.object_id)
        try:
            for _ in range(ROUNDS):
                if not self._round():
                    break
        finally:
            self._tell()
        return self.outcome

    def _tell(self) -> None:
        outcome = self.outcome
        outcome.damaged = {number: why for number, why in self._spoilt.items() if number not in outcome.made}
        outcome.absent = tuple(sorted(self._absent - self._good))
        outcome.good = tuple(sorted(self._good))
        whole = len(self.ground.active(self._good | set(self.silent)))
        outcome.deficit = max(0, self.ground.coding.total - whole)
        if self.wanted is not None:
            outcome.deficit = len(set(self.wanted) - self._good)

    def _round(self) -> bool:
        """Make what is missing, as far as that is known now; True if there may be more to do."""
        look = self._look()
        try:
            group = self._open(look)
            tables = _tables(group)
            tail = max((share.tail for share in group), key=lambda tail: len(tail.roots))
            numbers = self._choose(tail, tables)
            if not numbers:
                return False
            with ExitStack() as stack:
                made = Made(tail.header, numbers, stack, self.folder)
                bad = self._make(group, look, made)
                made.finish(self._tails(tail.header, tables, made.hashes))
                failed = self._store(made)
            return bool(bad or failed)
        finally:
            look.abandon()

    # Reading.

    def _look(self) -> Look:
        """Ask for just as many shares as rebuild it, of the best stores; for others where these do not do."""
        fetching = self.fetching
        ordered, _ = best_first(self.sites, fetching.book, fetching.clock())
        useful = [site for site in ordered if site.number in self._good]
        useful += [site for site in ordered if site.number in self._spoilt]
        rest = [site for site in ordered if site not in useful]
        rest += [beside(site) for site in ordered if site.number in self.staged]
        needed = self.needed or self.ground.coding.needed
        return Look(
            [*useful, *rest],
            self.object_id,
            self.verify_key,
            needed=needed,
            stall=fetching.stall,
            with_hashes=True,
            at_first=needed,
            patience=fetching.stall / 3,
            book=fetching.book,
            trace=fetching.trace,
            clock=fetching.clock,
        )

    def _open(self, look: Look) -> list[OpenShare]:
        fetching = self.fetching
        sighting = look.wait(
            lambda seen: bool(seen.decodable()), grace=min(GRACE, 0.01), cancelled=fetching.cancelled
        )
        if len({share.header for share in sighting.shares}) > 1:
            # The content that has the most shares counts, so all have to be asked.
            look.ask_rest()
            sighting = look.wait(cancelled=fetching.cancelled)
        for site, error in sighting.damaged.items():
            if not site.staged:
                self._spoilt[site.number] = explain(error)
                self._good.discard(site.number)
        for site in sighting.absent:
            self._good.discard(site.number)
            self._spoilt.pop(site.number, None)
            self._absent.add(site.number)
        if sighting.decodable():
            header = largest_group(sighting.shares)[0].header
            group: dict[int, OpenShare] = {}
            for share in sorted(sighting.shares, key=lambda share: share.site.staged):
                number = share.site.number
                if share.header == header:
                    # What lies beside its place was proved when it was put there.
                    if number not in group or number in self._spoilt:
                        group[number] = share
                    if not share.site.staged and number not in self._spoilt:
                        self._good.add(number)
                elif share.header.is_recoded(header):
                    raise Unavailable("it is being coded anew: rebalance goes on with it")
                elif not share.site.staged:
                    self._spoilt[number] = "it belongs to other content"
                    self._good.discard(number)
            self.outcome.needed = header.needed
            return list(group.values())
        notes = Notes()
        sighting.note(notes)
        needed = self.needed or self.ground.coding.needed
        needed = max([needed, *(share.header.needed for share in sighting.shares)])
        found = "; ".join([f"{shares(len(sighting.shares))} found, {needed} are needed", *notes.lines])
        if sighting.silent and sighting.could_hide(self.ground.least_needed):
            raise Unavailable(found)
        raise NotEnough(found)

    # What is to be made.

    def _choose(self, tail: Tail, tables: Mapping[int, Tail]) -> list[int]:
        while True:
            numbers = self._wanted(tables) if self.wanted is not None else self._best(tail, tables)
            full = [number for number in numbers if not self._has_room(number, tail.share_size)]
            if not full:
                return sorted(numbers)

    def _wanted(self, tables: Mapping[int, Tail]) -> list[int]:
        there = self._good | set(self.outcome.failed)
        return self._signable([number for number in self.wanted or () if number not in there], tables)

    def _best(self, tail: Tail, tables: Mapping[int, Tail]) -> list[int]:
        """Return as many numbers as shares are missing, where they are best placed."""
        ground, size = self.ground, tail.share_size
        taken = {*self._good, *self.silent, *self.outcome.failed}
        free = [number for number in ground.active(ground.places) if number not in taken]
        count = max(0, ground.coding.total - len(ground.active(self._good | set(self.silent))))
        beside = [self._candidate(number) for number in sorted(self._good)]
        # Those that the tables have come first: they can be made again, byte for byte, by everybody.
        listed = [number for number in free if number in tables]
        numbers = place(self.object_id, [self._candidate(each) for each in listed], count, size, beside)
        left = count - len(numbers)
        if left:
            others = [each for each in self._signable(free, tables) if each not in listed]
            beside += [self._candidate(number) for number in numbers]
            numbers += place(self.object_id, [self._candidate(each) for each in others], left, size, beside)
        if len(numbers) < count and not self.outcome.why:
            self.outcome.why = f"{shares(count - len(numbers))} cannot be placed: no store is left that takes one"
        return numbers

    def _has_room(self, number: int, size: int) -> bool:
        site = self._by_number[number]
        free = self.free.get(site.name)
        if free is None or free >= size:
            return True
        self.outcome.failed[number] = Full(f"it has {free:,} bytes left, and the share takes {size:,}")
        return False

    def _signable(self, numbers: Sequence[int], tables: Mapping[int, Tail]) -> list[int]:
        if self.seed is not None:
            return list(numbers)
        left = [number for number in numbers if number in tables]
        if len(left) < len(numbers) and not self.outcome.why:
            self.outcome.why = "shares that were never made before take the full capability"
        return left

    def _candidate(self, number: int) -> Candidate:
        where = self.ground.places[number]
        return Candidate(number, where.store, where.zone, self.free.get(where.store))

    # Making.

    def _make(self, group: Sequence[OpenShare], look: Look, made: Made) -> bool:
        """Make all blocks; True if shares turned out to be damaged meanwhile."""
        needed = group[0].header.needed

        def encode(_: int, blocks: Mapping[int, memoryview]) -> tuple[list[bytes | memoryview], list[bytes]]:
            new = erasure.encode(erasure.decode(blocks, needed), made.numbers)
            return new, [block_hash(block) for block in new]

        fetch = Fetch(group, look, encode, replace(self.fetching, notes=Notes()))
        try:
            for blocks, hashes in fetch.segments():
                made.take(blocks, hashes)
        finally:
            fetch.close()
            bad = {
                number: f"{count} of its blocks damaged"
                for number, count in fetch.damaged.items()
                if number not in self._spoilt and not fetch.shares[number].site.staged
            }
            self._spoilt |= bad
            self._good -= set(bad)
        return bool(bad)

    def _tails(
        self, header: Header, tables: Mapping[int, Tail], hashes: Mapping[int, bytearray]
    ) -> dict[int, Tail]:
        """Return the ends of the shares; raises `Damaged` if one is not what was signed."""
        roots = {number: share_root(number, bytes(each)) for number, each in hashes.items()}
        tails = {}
        for number in roots:
            if number in tables:
                table = tables[number]
                if table.roots[number] != roots[number]:
                    raise Damaged(f"what the shares give as share {number} is not what was signed")
                tails[number] = Tail(header, table.roots, table.signature, number)
        new = [number for number in roots if number not in tails]
        if new:
            assert self.seed is not None
            widest = max(tables.values(), key=lambda table: len(table.roots)).roots
            table_of_all = {**widest, **{number: roots[number] for number in new}}
            signature = sign(header, table_of_all, self.seed)
            tails |= {number: Tail(header, table_of_all, signature, number) for number in new}
        return tails

    # Writing.

    def _store(self, made: Made) -> dict[int, Exception]:
        """Put the shares where they belong, prove what is there then, and return what failed."""
        asking: GatedAsking[None] = GatedAsking({}, self.fetching.cancelled, self.fetching.clock)
        # What is replaced may have blocks that nobody else has. (As it is now: the set grows meanwhile.)
        is_precious = self.ground.margin(self._good, made.header.needed) < 0
        questions = {
            self._by_number[number]: partial(self._put, asking, self._by_number[number], made, is_precious)
            for number in made.numbers
        }
        asking.add(questions)
        failed: dict[int, Exception] = {}
        for answer in asking.answers(self.fetching.stall):
            number = answer.asked.number
            if answer.error is None:
                self.outcome.made[number] = made.sizes[number]
                self._good.add(number)
                self._spoilt.pop(number, None)
            else:
                failed[number] = answer.error
        self.outcome.failed |= failed
        return failed

    def _put(self, asking: GatedAsking[None], site: Site, made: Made, is_precious: bool) -> None:
        moved = partial(asking.moved, site)

        def put(where: Site, *, fresh: bool = False) -> None:
            source = in_pieces(partial(made.read, where.number), moved, self.fetching.clock)
            try:
                where.store.put(where.name_of(self.object_id), made.sizes[where.number], source, fresh=fresh)
            except Exists:
                moved()  # somebody repairs it as well: what is there has to prove itself all the same
            prove_written(where, made.header, self.verify_key, moved)

        is_there = site.number in self.there or site.number in self._spoilt
        if is_there:
            self._require_not_recoded(site, made.header, moved)
        if not (is_there and is_precious):
            put(site, fresh=not is_there)
            return
        # It goes when the new one is safe beside it.
        put(beside(site))
        put(site)
        with suppress(StoreError):  # it is collected one day
            site.store.delete(beside(site).name_of(self.object_id))

    def _require_not_recoded(self, site: Site, header: Header, moved: Callable[[], None]) -> None:
        """Raise `Unavailable` if what is there now is a share of the same content that is coded otherwise.

        It was not, or not known to be so, when the stores were asked: somebody codes the object anew meanwhile.
        """
        with suppress(Damaged, NotFound):
            there = open_share(
                site,
                self.object_id,
                self.verify_key,
                needed=header.needed,
                with_hashes=False,
                heard=lambda _: moved(),
            )
            if there.header.is_recoded(header):
                raise Unavailable("the object is being coded anew: rebalance goes on with it")


def _tables(group: Sequence[OpenShare]) -> dict[int, Tail]:
    """Return for each number that a table has the end of a share with the shortest such table.

    Later tables are longer, so that is the one that a share was written with at first.
    """
    tails = sorted((share.tail for share in group), key=lambda tail: (-len(tail.roots), tail.number))
    return {number: tail for tail in tails for number in tail.roots}
