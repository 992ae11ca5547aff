"""What a check of very many objects costs: processor time and memory, at two numbers of objects.

The stores are directories with files of the right names and lengths, and nothing in them: a check lists, and reads
nothing. It runs in a process of its own, without git-annex: the keys come from a file.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from figures import Figure, arguments, report
from harness import scratch

from annex_remote.capability import Capability
from annex_remote.care.health import State
from annex_remote.caring import Care
from annex_remote.grid import Found, Grid
from annex_remote.model import ShareName
from annex_remote.roster import first_roster, marker_name, open_roster, seal_roster
from annex_remote.settings import read_settings
from annex_remote.shares.crypto import object_id_of
from annex_remote.shares.format import share_length
from annex_remote.shares.layout import Layout

STORES = ("usb", "nas", "attic", "friend", "cloud")
FULL = Capability("full", bytes(range(64)))


def open_grid(root: Path) -> Grid:
    """The grid of five directories below `root`; without any file of this machine's state."""
    stores = " ".join(f"{name}=dir:{root / name}" for name in STORES)
    settings = read_settings({"stores": stores, "share-cipher": "aegis256"})
    roster = first_roster(FULL.verify_key, settings.coding, settings.cipher, settings.stores)
    sealed = seal_roster(roster, FULL)
    return Grid(settings, FULL.verify_key, FULL, found=Found(open_roster(sealed, FULL.verify_key), sealed))


def keys(count: int) -> list[str]:
    return [f"SHA256E-s{1000 + number}--{number:064x}.bin" for number in range(count)]


def fill(root: Path, count: int) -> None:
    """Make all shares of `count` objects, as empty files of their lengths; one object in 1000 lacks a share."""
    grid = open_grid(root)
    for entry in grid.roster.stores:
        marker = root / entry.name / marker_name(grid.id, entry)
        marker.parent.mkdir(parents=True)
        marker.write_bytes(b"marker")
    overhead = grid.roster.cipher.overhead
    made = set()
    for index, key in enumerate(keys(count)):
        layout = Layout(1000 + index, grid.roster.coding.needed, overhead)
        size = share_length(layout, len(key), grid.roster.coding.total)
        object_id = object_id_of(FULL.read_secret, key)
        for number, name in enumerate(STORES):
            if index % 1000 == 0 and number == 2:
                continue
            path = f"{root}/{name}/{ShareName(object_id, number)}"
            if path[: path.rindex("/")] not in made:
                os.makedirs(path[: path.rindex("/")], exist_ok=True)
                made.add(path[: path.rindex("/")])
            os.mknod(path)
            os.truncate(path, size)


def check(root: Path, count: int) -> None:
    """Check them, in this process, and print what it took."""
    care = Care(open_grid(root), FULL)
    care.name_all(keys(count))
    census = care.census(care.survey())
    states = [verdict.state for _, verdict in census]
    assert states.count(State.HEALTHY) == count - -(-count // 1000), "not all were found"
    assert states.count(State.DEGRADED) == -(-count // 1000), "not all that lack a share were found"
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--one", type=int, help="check so many below --scratch, in this process")
    options = parser.parse_args()
    if options.one:
        check(options.scratch, options.one)
        return
    taken: dict[int, tuple[float, int, float]] = {}
    for count in (options.objects // 4, options.objects):
        with scratch(options.scratch, options.objects * 6000) as root:
            fill(root, count)
            began = time.perf_counter()
            command = [sys.executable, __file__, "--one", str(count), "--scratch", str(root)]
            environment = {**os.environ, "XDG_STATE_HOME": str(root / "state")}
            said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
            used, peak = said.split()
            taken[count] = float(used), int(peak), time.perf_counter() - began
    few, many = taken
    figures = []
    for count, (seconds, memory, whole) in taken.items():
        bounds = (30.0, 300.0) if count == 100_000 else (None, None)
        what = f"{count:,} objects on five stores"
        figures.append(Figure(f"check, {what}", seconds, "s", f"processor; {whole:.1f} s in all", bounds[0], True))
        figures.append(Figure(f"memory, {what}", memory / 2**20, "MiB", "", bounds[1], True))
    growth = (taken[many][0] / taken[few][0]) / (many / few)
    figures.append(Figure("processor time an object, of that with a fourth of them", growth, "x", "", 1.2, True))
    report("A check of many objects", figures, options.json)


if __name__ == "__main__":
    main()
