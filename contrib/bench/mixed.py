"""Stores with a set rate and latency: unequal, one slow, one that hangs, far away; and Tahoe-LAFS with the same.

Servers (nginx for WebDAV, the S3 of `bucket.py` for small objects, Tahoe-LAFS's own nodes), each behind a line of
`shaped.py`; 4-of-6. The engine runs in its own process, driven over git-annex's protocol.
"""

from __future__ import annotations

import filecmp
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import median

import tahoe
from bucket import Buckets
from columns import TOTAL, Column, NeverEnded, Swarm, Tahoe
from figures import KIB, MIB, Figure, arguments, byte_count, describe, report
from harness import STORES, random_file, scratch
from shaped import Line, Shaped

sys.path.insert(0, str(Path(__file__).parents[2]))  # the servers of the tests

from tests.servers import nginx_dav, rgw
from tests.servers.ports import Port
from tests.servers.s3 import Keys

NEEDED = 4
SPEEDS = (40.0, 30.0, 20.0, 20.0, 10.0, 10.0)
EQUAL = 20.0
SLOWER = 10
"""A slow store's rate is the others' by this."""
NEAR, FAR = 0.005, 0.02
"""Round trips of the store with the fault, and of the others: so that whoever picks stores picks this one."""
SMALL, JOBS, ROUND_TRIP = 10 * KIB, 8, 0.1
PATIENCE = 60.0
"""Seconds after which a transfer is given up, at least; no less than twice what the slow store needs."""


@dataclass(frozen=True)
class Bench:
    """What all cases go by."""

    root: Path
    source: Path
    rounds: int
    scale: float
    count: int
    """How many small objects."""
    patience: float
    """Seconds after which a transfer is given up."""
    names: dict[str, str]
    """What the object is got by, by column."""

    @property
    def size(self) -> int:
        return self.source.stat().st_size

    def rate(self, speed: float) -> float:
        """Bytes a second of a speed above."""
        return speed * self.scale * 1e6

    def shape(self, column: Column, speeds: Sequence[float], trips: Sequence[float] = (0,) * TOTAL) -> None:
        for line, speed, trip in zip(column.lines, speeds, trips, strict=True):
            line.shape(self.rate(speed), self.rate(speed), trip)

    def stored(self, column: Column) -> str:
        """Store the object over lines without bounds, if it is not there, and return its name."""
        for line in column.lines:
            line.shape()
        if column.name not in self.names:
            _, (self.names[column.name],) = column.put([self.source])
        return self.names[column.name]

    def get(self, column: Column, name: str) -> float:
        back = self.root / "back"
        back.unlink(missing_ok=True)  # of a turn that was given up
        seconds = column.get([name], [back])
        if not filecmp.cmp(self.source, back, shallow=False):
            sys.exit(f"{column.name} returned other bytes")
        back.unlink()
        return seconds

    def take_turns(self, ways: Mapping[str, Callable[[], float]]) -> dict[str, float]:
        """Let all `ways` have their turn in each round: the median of each, infinite for what does not end."""
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(self.rounds):
            for way, act in ways.items():
                if math.inf not in taken[way]:
                    try:
                        taken[way].append(act())
                    except NeverEnded:
                        taken[way].append(math.inf)
        return {way: math.inf if math.inf in seconds else median(seconds) for way, seconds in taken.items()}


def possible(speeds: Sequence[float]) -> float:
    """The greatest T with sum(min(speed, T / needed)) >= T: no share is read faster than what it is part of."""
    best = 0.0
    for fast in range(NEEDED):  # so many stores, the fastest ones, have more than can be used of them
        rest = sum(sorted(speeds)[: len(speeds) - fast])
        total = rest * NEEDED / (NEEDED - fast)
        if sum(min(speed, total / NEEDED) for speed in speeds) >= total * (1 - 1e-9):
            best = max(best, total)
    return best


Taken = dict[str, float]


def unequal(bench: Bench, column: Column) -> Taken:
    """A large get from stores of different speeds, without and with what earlier ones have taught."""
    name = bench.stored(column)
    bench.shape(column, SPEEDS)

    def get(fresh: bool) -> float:
        column.turn(fresh=fresh)
        return bench.get(column, name)

    column.turn(fresh=True)
    bench.get(column, name)
    column.keep()
    ways = {"first": partial(get, True)} if column.learns else {}
    return bench.take_turns(ways | {"later": partial(get, False)})


def _without_and_with(
    bench: Bench, column: Column, fault: Callable[[Line], None], mend: Callable[[Line], None]
) -> Taken:
    """A large get without one of the stores, and with that store at fault; known to be good until then."""
    name = bench.stored(column)
    bench.shape(column, (EQUAL,) * TOTAL, (NEAR, *(FAR,) * (TOTAL - 1)))
    victim = column.lines[0]
    brought: list[int] = []

    def without() -> float:
        victim.refuse()
        try:
            column.turn(TOTAL - 1)
            return bench.get(column, name)
        finally:
            victim.accept()

    def with_fault() -> float:
        column.turn()
        victim.reset()
        fault(victim)
        try:
            return bench.get(column, name)
        finally:
            brought.append(victim.counts().down)
            mend(victim)

    column.turn(fresh=True)
    bench.get(column, name)
    column.keep()
    taken = bench.take_turns({"without": without, "with": with_fault})
    column.turn()  # whatever hangs there is left
    return taken | {"brought": median(brought)}


def slow(bench: Bench, column: Column) -> Taken:
    rate, slower = bench.rate(EQUAL), bench.rate(EQUAL / SLOWER)
    return _without_and_with(
        bench,
        column,
        lambda line: line.shape(slower, slower, NEAR),
        lambda line: line.shape(rate, rate, NEAR),
    )


def hang(bench: Bench, column: Column) -> Taken:
    first_bytes = min(MIB, bench.size // 16)
    return _without_and_with(bench, column, lambda line: line.hang_after(first_bytes), Line.release)


def extra(bench: Bench, column: Column) -> Taken:
    """A large get from equal stores: what went over the lines, by what is needed."""
    name = bench.stored(column)
    bench.shape(column, (EQUAL,) * TOTAL)

    def get() -> float:
        column.turn()
        for line in column.lines:
            line.reset()
        bench.get(column, name)
        return 100 * (sum(line.counts().down for line in column.lines) / bench.size - 1)

    column.turn(fresh=True)
    bench.get(column, name)
    column.keep()
    return bench.take_turns({"extra": get})


def small(bench: Bench, column: Column) -> Taken:
    """Many small objects over a long way, up and down."""
    for line in column.lines:
        line.shape(round_trip=ROUND_TRIP)
    sources = [bench.root / f"small-{number}" for number in range(bench.count)]
    targets = [bench.root / f"small-back-{number}" for number in range(bench.count)]
    names: list[str] = []

    def up() -> float:
        for source in sources:
            random_file(source, SMALL)
        seconds, names[:] = column.put(sources, JOBS)
        return seconds

    def down() -> float:
        seconds = column.get(names, targets, JOBS)
        for source, target in zip(sources, targets, strict=True):
            if not filecmp.cmp(source, target, shallow=False):
                sys.exit(f"{column.name} returned other bytes")
            target.unlink()
        return seconds

    return bench.take_turns({"up": up, "down": down})


def put(bench: Bench, column: Column) -> Taken:
    """A large put to equal stores, and with one of them slow: when the others have all, and when it is over."""
    victim, *others = column.lines
    done: dict[bool, list[float]] = {False: [], True: []}
    source = bench.root / "fresh"

    def send(is_slow: bool) -> float:
        bench.shape(column, (EQUAL / SLOWER if is_slow else EQUAL, *(EQUAL,) * (TOTAL - 1)))
        column.turn()
        shutil.copyfile(bench.source, source)
        with source.open("r+b") as file:
            file.write(os.urandom(16))
        for line in column.lines:
            line.reset()
        start = time.monotonic()
        seconds, names = column.put([source])
        done[is_slow].append(max(line.counts().last_down for line in others) - start)
        victim.shape()
        column.remove(names)
        return seconds

    taken = bench.take_turns({"equal": partial(send, False), "slow": partial(send, True)})
    return taken | {f"{'slow' if key else 'equal'}, others": median(times) for key, times in done.items() if times}


# What is said of it. Each takes what was measured here, and there if Tahoe-LAFS took part.


def timed(what: str, seconds: float, bench: Bench, note: str = "", target: float | None = None) -> Figure:
    """A figure in seconds; a transfer that was given up shows when."""
    if math.isinf(seconds):
        seconds, note = bench.patience, "given up, not at its end"
    return Figure(what, seconds, "s", note, None if target is None else round(target, 2), at_most=True)


def as_fast(what: str, ours: float, theirs: float) -> list[Figure]:
    """How many times less it took here, where both came to an end."""
    return [] if math.inf in (ours, theirs) else [Figure(f"{what}: times as fast", theirs / ours, "x")]


def show_unequal(bench: Bench, ours: Taken, theirs: Taken | None) -> list[Figure]:
    what = "get, unequal stores"
    fastest = sum(sorted(SPEEDS)[-NEEDED:]) * bench.scale
    speeds = ", ".join(f"{speed * bench.scale:g}" for speed in SPEEDS)

    def rate(seconds: float) -> float:
        return bench.size / seconds / 1e6

    later = rate(ours["later"])
    figures = [
        Figure(f"{what}: bound", possible(SPEEDS) * bench.scale, "MB/s", f"of {speeds}"),
        Figure(f"{what}: first use", rate(ours["first"]), "MB/s"),
        Figure(f"{what}: later", later, "MB/s"),
        Figure(f"{what}: later, of the {NEEDED} fastest", 100 * later / fastest, "%", f"{fastest:g} MB/s", 85),
    ]
    if theirs:
        figures.append(Figure(f"Tahoe-LAFS {what}", rate(theirs["later"]), "MB/s"))
        figures += as_fast(what, ours["later"], theirs["later"])
    return figures


def show_fault(what: str, spare: float, bench: Bench, ours: Taken, theirs: Taken | None) -> list[Figure]:
    figures = []
    for who, taken in (("get", ours), ("Tahoe-LAFS get", theirs)):
        if taken:
            without, brought = taken["without"], f"{taken['brought'] / MIB:.1f} MiB came from it"
            target = 1.2 * without + spare if taken is ours else None
            figures.append(timed(f"{who}, without one store", without, bench))
            figures.append(timed(f"{who}, {what}", taken["with"], bench, brought, target))
    return figures + (as_fast(f"get, {what}", ours["with"], theirs["with"]) if theirs else [])


def show_extra(bench: Bench, ours: Taken, theirs: Taken | None) -> list[Figure]:
    figures = [Figure("get, equal stores: extra bytes", ours["extra"], "%", target=2, at_most=True)]
    if theirs:
        figures.append(Figure("Tahoe-LAFS get, equal stores: extra bytes", theirs["extra"], "%"))
    return figures


def show_small(bench: Bench, ours: Taken, theirs: Taken | None) -> list[Figure]:
    figures = []
    for way, verb in (("up", "put"), ("down", "get")):
        what = f"{verb} of {describe(SMALL)}, {ROUND_TRIP * 1e3:g} ms away"
        figures.append(Figure(what, bench.count / ours[way], "/s", f"{bench.count}, {JOBS} jobs", 50))
        if theirs:
            figures.append(Figure(f"Tahoe-LAFS {what}", bench.count / theirs[way], "/s"))
            figures += as_fast(what, ours[way], theirs[way])
    return figures


def show_put(bench: Bench, ours: Taken, theirs: Taken | None) -> list[Figure]:
    own = bench.size / NEEDED / bench.rate(EQUAL / SLOWER)
    figures = []
    for who, taken in (("put", ours), ("Tahoe-LAFS put", theirs)):
        if taken:
            what = f"{who}, one store {SLOWER} times slower"
            equal = taken["equal, others"]
            bounds = (1.1 * equal, 1.1 * own) if taken is ours else (None, None)
            done = timed(f"{what}: the others' shares", taken["slow, others"], bench, target=bounds[0])
            whole = timed(f"{what}: all of it", taken["slow"], bench, f"its share {own:.1f} s", bounds[1])
            figures += [timed(f"{who}, equal stores: the shares", equal, bench), done, whole]
    return figures + (
        as_fast(f"put, one store {SLOWER} times slower", ours["slow"], theirs["slow"]) if theirs else []
    )


Measure = Callable[[Bench, Column], Taken]
Show = Callable[[Bench, Taken, Taken | None], list[Figure]]
CASES: dict[str, tuple[Measure, Show]] = {
    "unequal": (unequal, show_unequal),
    "slow": (slow, partial(show_fault, f"one store {SLOWER} times slower", 0.0)),
    "hang": (hang, partial(show_fault, "one store hangs", 1.0)),
    "extra": (extra, show_extra),
    "put": (put, show_put),
    "small": (small, show_small),
}


class Servers:
    """What is behind the lines, started when a case wants it; all of it ends with `stack`."""

    def __init__(self, root: Path, stack: ExitStack, patience: float, *, gateway: bool = False) -> None:
        self._root, self._stack, self._patience, self._gateway = root, stack, patience, gateway
        self._shaped = stack.enter_context(Shaped())

    def line(self, server: int) -> Line:
        port = Port()  # held until the end, for a line that refuses does not listen
        self._stack.callback(port.release)
        return self._shaped.line(server, port.number)

    @cached_property
    def webdav(self) -> Swarm:
        server = self._stack.enter_context(nginx_dav(self._root / "dav"))
        lines = [self.line(server.port) for _ in STORES]
        return Swarm(self._root / "over-dav", lines, "dav://127.0.0.1:{port}/{store}", {}, self._patience)

    @cached_property
    def s3(self) -> Swarm:
        keys = Keys("SWARMACCESS", "swarm/secret+key")
        if self._gateway:
            gateway = self._stack.enter_context(rgw(self._root / "s3"))
            for store in STORES:
                gateway.create_bucket(f"bench-{store}")
            port, keys = gateway.port, gateway.keys
        else:
            port = self._stack.enter_context(Buckets()).port
        logins = {}
        for store in STORES:
            logins[f"SWARM_STORE_{store.upper()}_USER"] = keys.access_key
            logins[f"SWARM_STORE_{store.upper()}_PASSWORD"] = keys.secret_key
        lines = [self.line(port) for _ in STORES]
        address = "s3://127.0.0.1:{port}/bench-{store}/annex?http=yes"
        return Swarm(self._root / "over-s3", lines, address, logins, self._patience)

    @cached_property
    def tahoe(self) -> Tahoe:
        lines: list[Line] = []

        def front(store: str, port: int) -> int:
            lines.append(self.line(port))
            return lines[-1].port

        grid = self._stack.enter_context(tahoe.grid(self._root / "tahoe", front))
        return Tahoe(grid, lines, self._patience)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--size", type=byte_count, default=256 * MIB)
    parser.add_argument("--count", type=int, default=200, help="small objects")
    parser.add_argument("--rounds", type=int, default=3, help="the median counts")
    parser.add_argument("--scale", type=float, default=1.0, help="all rates times this")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    parser.add_argument("--no-tahoe", action="store_true", help="without Tahoe-LAFS")
    parser.add_argument("--gateway", action="store_true", help="small objects on Ceph's gateway, on this machine")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round: to try whether it runs")
    options = parser.parse_args()
    if options.quick:
        options.size, options.count, options.rounds = 16 * MIB, 24, 1
    figures: list[Figure] = []
    takes = int(options.size * (10 + 3 * options.rounds))
    with scratch(options.scratch, takes) as root, ExitStack() as stack:
        source = random_file(root / "source", options.size)
        patience = max(PATIENCE, 2 * options.size / NEEDED / (EQUAL / SLOWER * options.scale * 1e6))
        bench = Bench(root, source, options.rounds, options.scale, options.count, patience, {})
        servers = Servers(root, stack, patience, gateway=options.gateway)
        for case in options.only:
            measure, show = CASES[case]
            print(f"-- {case}", file=sys.stderr)
            ours = measure(bench, servers.s3 if case == "small" else servers.webdav)
            theirs = None if options.no_tahoe else measure(bench, servers.tahoe)
            figures += show(bench, ours, theirs)
    size = describe(options.size)
    report(f"Stores of set rates, 4-of-6, {size}, median of {options.rounds}", figures, options.json)


if __name__ == "__main__":
    main()
