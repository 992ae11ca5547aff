"""One large file through `git annex copy` and `get`: swarm against git-annex's own encrypted directory."""

from __future__ import annotations

from figures import GIB, Figure, arguments, byte_count, describe, report, timing
from harness import Repository, copy_and_get, random_file, scratch

NAMES = {"vault": "swarm 4-of-6", "plain": "directory, encryption=shared chunk=32MiB"}
TARGETS = {"copy": 5.0, "get": 2.0}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--size", type=byte_count, default=GIB)
    parser.add_argument("--rounds", type=int, default=3, help="the median counts")
    parser.add_argument("--only", choices=NAMES, help="one remote alone, for trying")
    options = parser.parse_args()
    remotes = [options.only] if options.only else list(NAMES)
    with scratch(options.scratch, takes=4 * options.size) as root:
        repository = Repository(root)
        random_file(repository.path / "file", options.size)
        repository.add()
        repository.init_remotes(remotes)
        taken = copy_and_get(repository, remotes, options.rounds)
    figures = []
    for verb, target in TARGETS.items():
        figures += [timing(f"{verb}: {NAMES[name]}", taken[verb, name], options.size) for name in remotes]
        if len(remotes) == len(NAMES):
            ratio = taken[verb, "plain"] / taken[verb, "vault"]
            figures.append(Figure(f"{verb}: times as fast", ratio, "x", target=target))
    report(f"git annex copy and get, one file of {describe(options.size)}", figures, options.json)


if __name__ == "__main__":
    main()
