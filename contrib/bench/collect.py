"""Run all measurements one after the other, and write what they found as Markdown into docs/performance.md."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from figures import GIB, Figure
from harness import environment

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "performance.md"
MARKERS = ("<!-- figures -->", "<!-- /figures -->")
PATIENCE = 3600
MEASUREMENTS = (
    "startup",
    "annex_copy_get",
    "small_files",
    "tahoe",
    "engine",
    "memory",
    "stores",
    "mixed",
    "limits",
    "torrents",
    "yielding",
    "census",
    "years",
)
QUICK = {
    "startup": ["--runs", "5"],
    "annex_copy_get": ["--size", "64M", "--rounds", "1"],
    "small_files": ["--files", "40"],
    "tahoe": ["--size", "16M", "--rounds", "1"],
    "engine": ["--size", "64M", "--rounds", "1"],
    "memory": ["--size", "256M"],
    "stores": ["--size", "16M", "--rounds", "1", "--memory", "64M"],
    "mixed": ["--quick"],
    "limits": ["--seconds", "2"],
    "torrents": ["--size", "64M", "--rounds", "1"],
    "yielding": ["--seconds", "5", "--rounds", "1"],
    "census": ["--objects", "4000"],
    "years": ["--seeds", "2", "--days", "100"],
}
PACKAGES = ("zfec", "pynacl", "blake3", "git-annex")


def measure(name: str, options: list[str]) -> tuple[list[str], bool]:
    """Run one script; return its part of the page, and whether it came to its end."""
    with tempfile.TemporaryDirectory() as place:
        figures = Path(place, "figures.json")
        command = [sys.executable, str(HERE / f"{name}.py"), *options]
        print(f"== {name} {' '.join(options)}".rstrip(), flush=True)
        with subprocess.Popen([*command, "--json", str(figures)]) as process:
            try:
                status = process.wait(timeout=PATIENCE)
            except BaseException as error:
                # SIGTERM, not SIGKILL: it has a scratch directory in memory to remove.
                process.terminate()
                process.wait()
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                status = -1
        if status or not figures.exists():
            return [f"### {name}", "", f"Not measured: `{name}.py` ended with {status}.", ""], False
        found: dict[str, Any] = json.loads(figures.read_text(encoding="utf-8"))
    lines = [f"### {found['title']}", "", f"`{' '.join(['contrib/bench/' + name + '.py', *options])}`", ""]
    lines += ["| measured | figure | target | met |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(Figure(**figure).cells()) + " |" for figure in found["figures"]]
    return [*lines, ""], True


def output(*command: str) -> str:
    """The first line that `command` prints, or a dash."""
    env = environment(Path(tempfile.gettempdir()))
    try:
        done = subprocess.run(command, cwd=HERE, env=env, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "-"
    return done.stdout.partition("\n")[0].strip()


def machine() -> list[str]:
    """What the figures depend on: when, on which machine, with which versions."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)$", cpuinfo.read_text() if cpuinfo.exists() else "", re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    cores = len(os.sched_getaffinity(0))
    versions = [f"{package} {importlib.metadata.version(package)}" for package in PACKAGES]
    commit = output("git", "describe", "--always", "--dirty", "--exclude=*")
    command = " ".join(["contrib/bench/run", *sys.argv[1:]])
    processor = found[1] if found else platform.machine()
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return [
        f"- {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit}, `{command}`",
        f"- {processor}, {cores} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}",
        f"- {python}, {', '.join(versions)}, {output('git', '--version')}",
        "",
    ]


def write_between_markers(page: Path, text: str) -> None:
    """Replace what stands between the markers of `page`."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(MARKERS[0])
    _, end, after = rest.partition(MARKERS[1])
    if not begin or not end:
        sys.exit(f"{page} has no {MARKERS[0]} … {MARKERS[1]}")
    page.write_text(f"{before}{begin}\n\n{text}\n{end}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, default=MEASUREMENTS, metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try whether all of it runs")
    parser.add_argument("--print", action="store_true", help="print the Markdown, leave the page alone")
    parser.add_argument("--page", type=Path, default=PAGE, help="where to write, between the markers")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    lines, complete = machine(), True
    for name in options.only:
        part, good = measure(name, QUICK[name] if options.quick else [])
        lines += part
        complete = complete and good
    text = "\n".join(lines)
    if options.print:
        print(text)
    else:
        write_between_markers(options.page, text)
        print(f"written to {options.page}")
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    main()
