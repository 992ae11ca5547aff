"""A vault of stores in memory, taken care of as the commands do it: survey, census, plan, work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from annex_remote.care.health import Ground, State, Verdict
from annex_remote.care.ledger import Ledger
from annex_remote.care.plan import Census, Job, plan_rebalance, plan_repair
from annex_remote.care.rebuild import Tally
from annex_remote.care.survey import take_survey
from annex_remote.care.work import Done, Work
from annex_remote.errors import Denied
from annex_remote.model import ByteStream, OpenAt, Store
from annex_remote.roster import grid_id
from annex_remote.shares.format import Tail
from annex_remote.transfer.sites import Clock
from tests.fakes import Around, Pieces, in_thread
from tests.shares.builder import FULL, content, upload
from tests.shares.builder import Upload as Built
from tests.transfer.rig import STALL, Rig

__all__ = ["GRID", "Power", "Stepwise", "Vault", "spoil"]

GRID = grid_id(FULL.verify_key)


@dataclass
class Vault:
    """`rig` has the stores; `shares` are those that an upload has put there."""

    rig: Rig
    size: int
    built: Built
    ledger: Ledger
    named: bool = True
    cancelled: threading.Event = field(default_factory=threading.Event)
    tally: Tally = field(default_factory=Tally)
    folder: str | None = None
    clock: Clock = time.monotonic

    @classmethod
    def of(cls, folder: Path, size: int, needed: int = 3, total: int = 5, sites: int | None = None) -> Vault:
        rig = Rig.of(folder, needed, needed, total, sites)
        rig.stall = STALL * 10
        built = upload(content(size), needed, range(total))
        rig.plant(built)
        return cls(rig, size, built, Ledger(str(folder / "ledger")))

    @property
    def object_id(self) -> str:
        return self.rig.object_id

    def census(self) -> Census:
        rig = self.rig
        survey = in_thread(lambda: take_survey(rig.sites, GRID, stall=rig.stall, cancelled=self.cancelled))
        names = {rig.object_id: ""} if self.named else {}
        survey.know(names)
        return Census(survey, Ground(rig.sites, rig.coding), rig.cipher, {}, self.ledger.damaged())

    def verdict(self) -> Verdict:
        return self.census().verdict(self.object_id)

    def work(self, census: Census, seed: bytes | None = None, free: Mapping[str, int] | None = None) -> Work:
        return Work(
            census,
            FULL.verify_key,
            seed,
            self.ledger,
            self.rig.stall,
            self.cancelled,
            tally=self.tally,
            clock=self.clock,
            free=free or {},
            folder=self.folder,
        )

    def do(
        self,
        plan: Callable[[Census], list[Job]],
        seed: bytes | None = None,
        free: Mapping[str, int] | None = None,
        census: Census | None = None,
    ) -> list[Done]:
        census = census or self.census()
        return in_thread(lambda: list(self.work(census, seed, free).run(plan(census))))

    def repair(self, seed: bytes | None = None, free: Mapping[str, int] | None = None) -> Done | None:
        """Repair the one object; None if there was nothing to do."""
        done = self.do(plan_repair, seed, free)
        assert len(done) <= 1
        return done[0] if done else None

    def rebalance(self, seed: bytes | None = None, **limits: Mapping[str, int]) -> Done | None:
        most = limits.get("most", {})
        done = self.do(lambda census: plan_rebalance(census, free=limits.get("free", {}), most=most), seed)
        assert len(done) <= 1
        return done[0] if done else None

    def is_whole(self, numbers: Iterable[int] | None = None) -> bool:
        """True if the shares are byte for byte what was uploaded."""
        wanted = self.built.shares if numbers is None else {each: self.built.shares[each] for each in numbers}
        return self.rig.held == wanted

    def damage(self, number: int, *segments: int) -> None:
        """Flip a bit in a block of each of these segments."""
        name = self.rig.name(number)
        share = self.rig.memory[number].contents[name]
        self.rig.memory[number].contents[name] = spoil(share, segments)

    def everything(self) -> dict[tuple[int, str], bytes]:
        """All that there is on all stores, by the store's number and the name."""
        return {
            (number, name): data
            for number, store in enumerate(self.rig.memory)
            for name, data in store.contents.items()
        }

    def is_decodable(self, needed: int) -> bool:
        """True if of each segment `needed` blocks of what was uploaded are there, under any name."""
        layout = self.built.header.layout
        tails: set[int] = set()
        blocks: dict[int, set[int]] = {index: set() for index in range(layout.segments)}
        for (_, name), share in self.everything().items():
            suffix = name.partition(".")[2].lstrip("n")
            number = int(suffix)
            true = self.built.shares.get(number)
            if (
                true is None
                or len(true) != len(share)
                or share[layout.data_length :] != true[layout.data_length :]
            ):
                continue
            Tail.parse(share, len(share)).verify(FULL.verify_key)
            tails.add(number)
            for index, there in blocks.items():
                at = layout.block_offset(index)
                end = at + layout.block_length(index)
                if share[at:end] == true[at:end]:
                    there.add(number)
        return len(tails) >= needed and all(len(there) >= needed for there in blocks.values())


def spoil(share: bytes, segments: Collection[int] = (), end: bool = False) -> bytes:
    """Return a share with a bit of each of these blocks flipped, and a bit of its signature."""
    spoilt = bytearray(share)
    layout = Tail.parse(share, len(share)).header.layout
    for index in segments:
        spoilt[layout.block_offset(index)] ^= 1
    if end:
        spoilt[-17] ^= 1
    return bytes(spoilt)


class Power:
    """Goes off at the `after`th thing that any store does since `begin`: nothing has any effect from then on."""

    def __init__(self, after: int) -> None:
        self._left = after
        self._begun = False
        self._lock = threading.Lock()

    def begin(self) -> None:
        self._begun = True

    @property
    def is_off(self) -> bool:
        return self._left <= 0

    def use(self) -> None:
        with self._lock:
            if not self._begun:
                return
            self._left -= 1
            if self._left <= 0:
                raise Denied("the power is off")  # which nobody asks again, so it does not take time

    def around(self, store: Store) -> Store:
        return _Powered(store, self)


class _Powered(Around):
    def __init__(self, store: Store, power: Power) -> None:
        super().__init__(store)
        self._power = power

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        self._power.use()

        def powered(offset: int) -> Iterator[bytes | memoryview]:
            for index, piece in enumerate(open_at(offset)):
                yield piece
                if index == 1:  # in the middle
                    self._power.use()

        self.store.put(name, size, powered, fresh=fresh)
        self._power.use()

    def read(self, name: str, start: int = 0, length: int | None = None) -> ByteStream:
        self._power.use()
        return self.store.read(name, start, length)

    def stat(self, name: str) -> int | None:
        self._power.use()
        return self.store.stat(name)

    def delete(self, name: str) -> None:
        self._power.use()
        self.store.delete(name)
        self._power.use()

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        self._power.use()
        return self.store.list(prefix)


class Stepwise(Around):
    """Takes the old thing away before the new one is in its place, as some WebDAV servers do."""

    def __init__(self, store: Store, power: Power) -> None:
        super().__init__(store)
        self._power = power

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        data = b"".join(open_at(0))
        if not fresh:
            self._power.use()
            self.store.delete(name)
        self._power.use()
        self.store.put(name, size, lambda offset: [data[offset:]], fresh=fresh)


class Swapping(Around):
    """Gives what `instead` has under a name, once that was put."""

    def __init__(self, store: Store, instead: Mapping[str, bytes]) -> None:
        super().__init__(store)
        self._instead = instead
        self._put: set[str] = set()

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        self.store.put(name, size, open_at, fresh=fresh)
        self._put.add(name)

    def read(self, name: str, start: int = 0, length: int | None = None) -> ByteStream:
        if name not in self._put or name not in self._instead:
            return self.store.read(name, start, length)
        data = self._instead[name]
        end = len(data) if length is None else start + length
        return Pieces(len(data), [data[start:end]])


def is_healthy(done: Done | None) -> bool:
    return done is not None and done.error is None and not done.notes and done.verdict.state is State.HEALTHY
