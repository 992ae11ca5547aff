"""Limits of bytes a second, kept by two processes together over ten seconds, on directory stores in memory."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import Event

from figures import MIB, Figure, arguments, byte_count, describe, report
from harness import scratch

sys.path.insert(0, str(Path(__file__).parents[2]))

from annex_remote.capability import Capability
from annex_remote.errors import Cancelled
from annex_remote.grid import Grid, create_stores
from annex_remote.limits import Limit
from annex_remote.roster import first_roster, grid_id
from annex_remote.settings import Settings, read_settings
from annex_remote.transfer.sites import Site
from annex_remote.workers import workers

STORES = ("a", "b", "c")
PROCESSES = 2
OFF = 5.0
"""Per cent by which what passes may differ from the limit."""
TAKEN = "ab/ab" + "2" * 30

CAPABILITY = Capability("full", bytes(range(64)))


class Work:
    """Puts or reads without end on every site of a grid, and counts the bytes between `begin` and `end`."""

    def __init__(self, sites: list[Site], way: str, piece: bytes) -> None:
        self.passed = 0
        self._piece = piece
        self._over = Event()
        for site in sites:
            workers.start(lambda site=site: self._go_on(site, way))  # type: ignore[misc]

    def stop(self) -> None:
        self._over.set()

    def _go_on(self, site: Site, way: str) -> None:
        with suppress(Cancelled):
            while True:
                if way == "up":
                    self._put(site)
                else:
                    self._read(site)

    def _put(self, site: Site) -> None:
        def pieces(_: int) -> Iterator[bytes]:
            self._check()
            yield self._piece
            self.passed += len(self._piece)

        name = f"{TAKEN}.{100 + site.number + os.getpid() % 2 * 50}"
        site.store.put(name, len(self._piece), pieces)

    def _read(self, site: Site) -> None:
        with site.store.read(f"{TAKEN}.{site.number}") as stream:
            for piece in stream:
                self._check()
                self.passed += len(piece)

    def _check(self) -> None:
        if self._over.is_set():
            raise Cancelled("enough")


def settings_of(root: Path) -> Settings:
    return read_settings({"stores": " ".join(f"{name}=dir:{root / name}" for name in STORES), "needed": "1"})


def work(
    settings: Settings,
    cache: str,
    way: str,
    seconds: float,
    ready: Barrier,
    answers: multiprocessing.Queue[tuple[int, float]],
) -> None:
    """In a process of its own: keep all stores busy, and tell what passed in how many seconds."""
    grid = Grid(settings, CAPABILITY.verify_key, CAPABILITY, cache=cache)
    ready.wait()
    # Small pieces: what is under way when the clock stops is not counted.
    busy = Work(grid.sites(), way, bytes(32 << 10))
    time.sleep(0.5)
    began, before = time.monotonic(), busy.passed
    time.sleep(seconds)
    passed, took = busy.passed - before, time.monotonic() - began
    busy.stop()
    answers.put((passed, took))


def measure(settings: Settings, cache: str, way: str, seconds: float) -> float:
    """Return the bytes a second that all processes together let pass."""
    # Not forked: there are threads here.
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(PROCESSES)
    answers: multiprocessing.Queue[tuple[int, float]] = context.Queue()
    arguments = (settings, cache, way, seconds, ready, answers)
    processes = [context.Process(target=work, args=arguments) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    rates = [passed / took for passed, took in (answers.get(timeout=seconds + 60) for _ in processes)]
    for process in processes:
        process.join(10)
    return sum(rates)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--limits", type=byte_count, nargs="+", default=[1 * MIB, 20 * MIB], help="bytes a second")
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    figures = []
    with ExitStack() as stack:
        root = stack.enter_context(scratch(options.scratch, takes=256 * MIB))
        os.environ["XDG_STATE_HOME"] = str(root / "state")
        settings = settings_of(root)
        roster = first_roster(CAPABILITY.verify_key, settings.coding, settings.cipher, settings.stores)
        create_stores(grid_id(CAPABILITY.verify_key), roster.active)
        cache = str(root / "roster")
        grid = Grid(settings, CAPABILITY.verify_key, CAPABILITY, cache=cache)
        grid.change(roster, force=True)
        data = os.urandom(16 * MIB)
        for site in grid.sites():
            site.store.put(f"{TAKEN}.{site.number}", len(data), lambda at: [data[at:]])
        for limit in options.limits:
            both = Limit(rest=limit)
            limited = replace(settings, upload_limit=both, download_limit=both)
            for way in ("up", "down"):
                rate = measure(limited, cache, way, options.seconds)
                off = 100 * abs(rate / limit - 1)
                what = f"{way}load-limit of {describe(limit)}/s: off by"
                figures.append(Figure(what, off, "%", f"{rate / MIB:.3f} MiB/s", target=OFF, at_most=True))
    title = f"{PROCESSES} processes share a limit over {len(STORES)} stores, {options.seconds:g} s"
    report(title, figures, options.json)


if __name__ == "__main__":
    main()
