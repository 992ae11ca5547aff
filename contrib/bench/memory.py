"""The largest resident size of the remote's process while a sparse object of 10 GiB goes up and down.

The shares do not stay sparse, so this runs on a disk; what is read back is read without two of the
primary stores, which makes it decode.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from driver import gather, running
from figures import GIB, MIB, Figure, arguments, byte_count, describe, report
from harness import Repository, remove_tree, scratch

LIMIT = 150


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--size", type=byte_count, default=10 * GIB)
    options = parser.parse_args()
    key = f"WORM-s{options.size}-m0--sparse"
    place = options.scratch or Path(tempfile.gettempdir())
    with scratch(place, takes=int(2.2 * options.size)) as root:
        repository = Repository(root)
        repository.init_swarm("vault")
        answers = gather(repository, "vault")
        source, back = root / "source", root / "back"
        with source.open("wb") as out:
            out.truncate(options.size)
        with running(repository, answers) as remote:
            idle = remote.peak_memory()
            remote.request(f"TRANSFER STORE {key} {source}")
            up = remote.peak_memory()
        for store in repository.swarm_stores("vault")[:2]:
            remove_tree(store)
        with running(repository, answers) as remote:
            remote.request(f"TRANSFER RETRIEVE {key} {back}")
            down = remote.peak_memory()
        if back.stat().st_size != options.size:
            parser.error(f"{back.stat().st_size} bytes came back")
    figures = [
        Figure("prepared", idle / MIB, "MiB"),
        Figure("after STORE", up / MIB, "MiB", target=LIMIT, at_most=True),
        Figure("after RETRIEVE, two primary stores gone", down / MIB, "MiB", target=LIMIT, at_most=True),
    ]
    report(f"Peak resident memory, an object of {describe(options.size)}", figures, options.json)


if __name__ == "__main__":
    main()
