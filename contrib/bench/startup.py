"""From exec to PREPARE-SUCCESS: what every git-annex command that touches the remote waits for."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from statistics import median

from driver import Remote, gather
from figures import Figure, arguments, report
from harness import Repository, scratch

from annex_remote.stores import _KINDS


def seconds_to_import(module: str, env: Mapping[str, str]) -> float:
    """How long a kind of store takes to import in a program that has opened none yet."""
    text = (
        "import annex_remote.remote, annex_remote.grid, time; start = time.perf_counter(); "
        f"import annex_remote.stores.{module}; print(time.perf_counter() - start)"
    )
    done = subprocess.run([sys.executable, "-c", text], env=env, check=True, stdout=subprocess.PIPE)
    return float(done.stdout)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--runs", type=int, default=30)
    options = parser.parse_args()
    bare: list[float] = []
    prepared: list[float] = []
    with scratch(options.scratch) as root:
        repository = Repository(root)
        repository.init_swarm("vault")
        answers = gather(repository, "vault")
        # One start of each beforehand, so that no byte code is compiled within the measured ones.
        for _ in range(options.runs + 1):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", "pass"], env=repository.env, check=True)
            bare.append(time.perf_counter() - start)
            start = time.perf_counter()
            remote = Remote(repository, answers)
            try:
                remote.request("PREPARE")
                prepared.append(time.perf_counter() - start)
            finally:
                remote.close()
    low, high = median(bare[1:]) * 1000, median(prepared[1:]) * 1000
    modules = sorted({kind.module for kind in _KINDS.values()})
    imports = {module: median(seconds_to_import(module, repository.env) for _ in range(5)) for module in modules}
    figures = [
        Figure("python -c pass", low, "ms"),
        Figure("exec to PREPARE-SUCCESS", high, "ms"),
        Figure("more than Python itself", high - low, "ms", target=60, at_most=True),
    ]
    figures += [
        Figure(f"import of stores.{module}", taken * 1000, "ms", target=120, at_most=True)
        for module, taken in imports.items()
    ]
    report(f"Start-up, median of {options.runs}", figures, options.json)


if __name__ == "__main__":
    main()
