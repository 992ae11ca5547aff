"""A grid of stores in memory and what is done with it, each with a bound on how long it may take."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from annex_remote.errors import NotFound
from annex_remote.model import Coding, ShareName, Store
from annex_remote.shares.crypto import Cipher, ObjectKeys
from annex_remote.shares.layout import Layout
from annex_remote.transfer.download import Download
from annex_remote.transfer.presence import is_present
from annex_remote.transfer.sites import Clock, Notes, Site
from annex_remote.transfer.upload import Upload
from tests.fakes import MemoryStore, Run, in_thread
from tests.shares.builder import FULL, read
from tests.shares.builder import Upload as Built

__all__ = ["KEY", "STALL", "WORM", "Rig"]

KEY = "SHA256E-s3--ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad.txt"
WORM = "WORM-s3-m1700000000--file.txt"
"""A key that does not say what its content is."""

STALL = 0.3
"""Seconds of silence after which the tests give a store up."""


@dataclass
class Rig:
    """`stores` are what the work sees, `memory` what is behind them, in the order of the share numbers."""

    folder: Path
    coding: Coding
    memory: list[MemoryStore]
    stores: list[Store]
    cipher: Cipher = Cipher.AEGIS256
    key: str = KEY
    stall: float = 10.0
    notes: Notes = field(default_factory=Notes)
    cancelled: threading.Event = field(default_factory=threading.Event)
    progress: list[int] = field(default_factory=list)
    costs: Mapping[int, int] = field(default_factory=dict)
    retired: Container[int] = ()
    """Numbers of stores that take no new shares."""

    @classmethod
    def of(cls, folder: Path, needed: int, happy: int, total: int, sites: int | None = None) -> Rig:
        memory = [MemoryStore() for _ in range(sites or total)]
        return cls(folder, Coding(needed, happy, total), memory, list(memory))

    @property
    def object_id(self) -> str:
        return ObjectKeys(FULL.read_secret, self.key, self.cipher).object_id

    def name(self, number: int) -> str:
        return f"{self.object_id[:2]}/{self.object_id}.{number}"

    @property
    def sites(self) -> list[Site]:
        return [
            Site(
                number,
                f"store{number}",
                store,
                self.costs.get(number, 100),
                takes_shares=number not in self.retired,
            )
            for number, store in enumerate(self.stores)
        ]

    def break_store(self, number: int, how: Callable[[Store], Store]) -> None:
        """Put a fault around the store with `number`."""
        self.stores[number] = how(self.stores[number])

    def mend(self) -> None:
        """Take all faults away."""
        self.stores = list(self.memory)
        self.notes, self.progress, self.cancelled = Notes(), [], threading.Event()

    # What is there.

    def share(self, number: int) -> bytes | None:
        return self.memory[number].contents.get(self.name(number))

    @property
    def held(self) -> dict[int, bytes]:
        """The shares that there are, by number."""
        shares = {number: self.share(number) for number in range(len(self.memory))}
        return {number: share for number, share in shares.items() if share is not None}

    def plant(self, built: Built, numbers: Iterable[int] | None = None) -> None:
        """Put shares where an upload would have put them."""
        for number in built.shares if numbers is None else numbers:
            self.memory[number].contents[self.name(number)] = built.shares[number]

    def data_length(self, size: int) -> int:
        return Layout(size, self.coding.needed, self.cipher.overhead).data_length

    def readable(self, numbers: Iterable[int] | None = None) -> bytes:
        """Return what a strict reader makes of the shares, of all of them or of `numbers`."""
        chosen = self.held if numbers is None else {number: self.held[number] for number in numbers}
        shares = {ShareName(self.object_id, number): share for number, share in chosen.items()}
        return read(shares, FULL, self.key)

    # What is done.

    def source(self, data: bytes, name: str = "source") -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def upload(self, path: Path, clock: Clock | None = None) -> Upload:
        upload = Upload(
            annex_key=self.key,
            path=str(path),
            keys=ObjectKeys(FULL.read_secret, self.key, self.cipher),
            capability=FULL,
            coding=self.coding,
            sites=self.sites,
            stall=self.stall,
            notes=self.notes,
            progress=self.progress.append,
            cancelled=self.cancelled,
        )
        if clock is not None:
            upload.clock = clock
        return upload

    def store(self, data: bytes, clock: Clock | None = None) -> None:
        Run(self.upload(self.source(data), clock).run).join()

    def download(self, path: Path, clock: Clock | None = None) -> Download:
        download = Download(
            annex_key=self.key,
            path=str(path),
            read_secret=FULL.read_secret,
            verify_key=FULL.verify_key,
            needed=self.coding.needed,
            sites=self.sites,
            stall=self.stall,
            notes=self.notes,
            progress=self.progress.append,
            cancelled=self.cancelled,
        )
        if clock is not None:
            download.clock = clock
        return download

    def fetch(self, name: str = "fetched", clock: Clock | None = None) -> bytes:
        """Download into the file `name`, going on from what is there; return what is in it then."""
        path = self.folder / name
        Run(self.download(path, clock).run).join()
        return path.read_bytes()

    def present(self, sites: Sequence[Site] | None = None) -> bool:
        return in_thread(
            lambda: is_present(
                self.sites if sites is None else sites,
                self.object_id,
                FULL.verify_key,
                coding=self.coding,
                stall=self.stall,
                notes=self.notes,
            )
        )

    def forget(self, *numbers: int) -> None:
        """Lose shares."""
        for number in numbers:
            if self.memory[number].contents.pop(self.name(number), None) is None:
                raise NotFound(f"share {number} was not there")
