"""The two sides of `mixed.py`, this program and Tahoe-LAFS, each with six stores behind lines of `shaped.py`."""

from __future__ import annotations

import http.client
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

import tahoe
from driver import ProtocolError, gather, running
from figures import MIB
from harness import STORES, Repository
from shaped import HOST, Line

TOTAL = len(STORES)


class NeverEnded(Exception):
    """A transfer was given up."""


class Column(Protocol):
    """What is measured: an engine with six stores behind `lines`."""

    name: str
    lines: Sequence[Line]
    learns: bool
    """Whether it makes use of what it has seen of stores before."""

    def turn(self, stores: int = TOTAL, *, fresh: bool = False) -> None:
        """Make ready for a turn with so many stores that answer, as after `keep`; or as if none was ever used."""

    def keep(self) -> None:
        """Have all turns begin with what is known of the stores now."""

    def put(self, sources: Sequence[Path], jobs: int = 1) -> tuple[float, list[str]]:
        """Store content that it never had, `jobs` files at once: the seconds, and the names that it is got by."""

    def get(self, names: Sequence[str], targets: Sequence[Path], jobs: int = 1) -> float:
        """Fetch into new files: the seconds. Both raise `NeverEnded`."""

    def remove(self, names: Sequence[str]) -> None:
        """Give the room back, if that can be done."""


class Swarm:
    """This program's engine, a new process for each transfer."""

    name = "swarm"
    learns = True

    def __init__(
        self, root: Path, lines: Sequence[Line], address: str, logins: Mapping[str, str], patience: float
    ):
        root.mkdir()
        self.lines = lines
        self._patience = patience
        self._repository = Repository(root)
        self._repository.env.update(logins)
        places = [address.format(port=line.port, store=name) for name, line in zip(STORES, lines, strict=True)]
        self._repository.init_grid("vault", places)
        self._answers = gather(self._repository, "vault")
        self._state = Path(self._repository.env["XDG_STATE_HOME"])
        self._kept = root / "kept"

    def turn(self, stores: int = TOTAL, *, fresh: bool = False) -> None:
        shutil.rmtree(self._state, ignore_errors=True)
        if not fresh and self._kept.exists():
            shutil.copytree(self._kept, self._state)

    def keep(self) -> None:
        shutil.rmtree(self._kept, ignore_errors=True)
        if self._state.exists():
            shutil.copytree(self._state, self._kept)

    def put(self, sources: Sequence[Path], jobs: int = 1) -> tuple[float, list[str]]:
        keys = [f"SHA256-s{source.stat().st_size}--{os.urandom(32).hex()}" for source in sources]
        pairs = zip(keys, sources, strict=True)
        return self._ask([f"TRANSFER STORE {key} {source}" for key, source in pairs], jobs), keys

    def get(self, names: Sequence[str], targets: Sequence[Path], jobs: int = 1) -> float:
        pairs = zip(names, targets, strict=True)
        return self._ask([f"TRANSFER RETRIEVE {key} {target}" for key, target in pairs], jobs)

    def remove(self, names: Sequence[str]) -> None:
        self._ask([f"REMOVE {key}" for key in names], 1)

    def _ask(self, lines: Sequence[str], jobs: int) -> float:
        with running(self._repository, self._answers) as remote:
            late = threading.Timer(self._patience, remote.kill)
            late.start()
            start = time.perf_counter()
            try:
                remote.requests(lines, jobs)
            except ProtocolError:
                if time.perf_counter() - start >= self._patience:
                    raise NeverEnded from None
                raise
            finally:
                late.cancel()
            return time.perf_counter() - start


class Tahoe:
    """Tahoe-LAFS, asked over HTTP at its gateway, which is started anew for each turn."""

    name = "Tahoe-LAFS"
    learns = False

    def __init__(self, grid: tahoe.Grid, lines: Sequence[Line], patience: float) -> None:
        self.lines = lines
        self._grid = grid
        self._patience = patience

    def turn(self, stores: int = TOTAL, *, fresh: bool = False) -> None:
        self._grid.restart_gateway(stores)

    def keep(self) -> None:
        pass

    def put(self, sources: Sequence[Path], jobs: int = 1) -> tuple[float, list[str]]:
        start = time.perf_counter()
        with ThreadPoolExecutor(jobs) as pool:
            names = list(pool.map(self._put, sources))
        return time.perf_counter() - start, names

    def get(self, names: Sequence[str], targets: Sequence[Path], jobs: int = 1) -> float:
        start = time.perf_counter()
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(self._get, names, targets))
        return time.perf_counter() - start

    def remove(self, names: Sequence[str]) -> None:
        pass

    def _put(self, source: Path) -> str:
        with source.open("rb") as file, self._asked("PUT", "/uri", file, source.stat().st_size) as answer:
            return answer.read().decode().strip()

    def _get(self, name: str, target: Path) -> None:
        end = time.monotonic() + self._patience
        with target.open("wb") as file, self._asked("GET", f"/uri/{name}") as answer:
            while piece := answer.read1(MIB):
                file.write(piece)
                if time.monotonic() > end:
                    raise NeverEnded

    @contextmanager
    def _asked(
        self, method: str, path: str, body: IO[bytes] | None = None, size: int = 0
    ) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(HOST, self._grid.web, timeout=self._patience)
        try:
            connection.request(method, path, body, {"Content-Length": str(size)} if body else {})
            answer = connection.getresponse()
            if answer.status not in (200, 201):
                raise RuntimeError(f"Tahoe-LAFS: {answer.status} {answer.read()[:500]!r}")
            yield answer
        except TimeoutError:
            raise NeverEnded from None
        finally:
            connection.close()
