"""Many small files through `git annex copy -J2` and `get -J2`: swarm against an encrypted directory."""

from __future__ import annotations

import os

from figures import KIB, Figure, arguments, byte_count, describe, report
from harness import Repository, copy_and_get, scratch

NAMES = {"vault": "swarm 4-of-6", "plain": "directory, encryption=shared"}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--size", type=byte_count, default=10 * KIB)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1, help="the median counts")
    parser.add_argument("--only", choices=NAMES, help="one remote alone, for trying")
    options = parser.parse_args()
    remotes = [options.only] if options.only else list(NAMES)
    with scratch(options.scratch, takes=6 * options.size * options.files) as root:
        repository = Repository(root)
        for number in range(options.files):
            (repository.path / f"file-{number:05}").write_bytes(os.urandom(options.size))
        repository.add()
        repository.init_remotes(remotes)
        taken = copy_and_get(repository, remotes, options.rounds, f"-J{options.jobs}")
    figures = []
    for verb in ("copy", "get"):
        for name in remotes:
            seconds = taken[verb, name]
            note = f"{seconds / options.files * 1000:.1f} ms a file"
            figures.append(Figure(f"{verb} -J{options.jobs}: {NAMES[name]}", seconds, "s", note))
        if len(remotes) == len(NAMES):
            ratio = taken[verb, "plain"] / taken[verb, "vault"]
            figures.append(Figure(f"{verb} -J{options.jobs}: times as fast", ratio, "x", target=1.0))
    what = f"{options.files:,} files of {describe(options.size)}"
    report(f"git annex copy and get, {what}", figures, options.json)


if __name__ == "__main__":
    main()
