"""What a measurement found: sizes as people write them, figures with their targets, the table of them."""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
_UNITS = {"": 1, "K": KIB, "M": MIB, "G": GIB}


@dataclass(frozen=True)
class Figure:
    """One line of a report; `target` is a bound on `value`, upper where `at_most`."""

    what: str
    value: float
    unit: str
    note: str = ""
    target: float | None = None
    at_most: bool = False

    def met(self) -> str:
        if self.target is None:
            return ""
        return "yes" if (self.value <= self.target if self.at_most else self.value >= self.target) else "NO"

    def cells(self) -> tuple[str, str, str, str]:
        digits = 2 if self.value < 10 else 1 if self.value < 100 else 0
        target = "" if self.target is None else f"{'≤' if self.at_most else '≥'} {self.target:g} {self.unit}"
        note = f" ({self.note})" if self.note else ""
        return self.what, f"{self.value:.{digits}f} {self.unit}{note}", target, self.met()


def timing(what: str, seconds: float, size: int) -> Figure:
    """How long it took, with the rate at which `size` bytes moved."""
    return Figure(what, seconds, "s", f"{size / seconds / 1e6:.0f} MB/s")


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that all measurements have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE as well")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="work below DIR, not in /dev/shm")
    return parser


def byte_count(text: str) -> int:
    """Read 256M, 10G, 10K or a plain number."""
    found = re.fullmatch(r"(\d+)([KMG]?)(iB)?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"not a size: {text!r} (say 256M, 1G, 10K)")
    return int(found[1]) * _UNITS[found[2]]


def describe(size: int) -> str:
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size:,} bytes"


def report(title: str, figures: Sequence[Figure], target: Path | None) -> None:
    """Print the table, and write it where ``--json`` says."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("measured", "figure", "target", "met"):
        table.add_column(heading)
    for figure in figures:
        table.add_row(*figure.cells())
    Console(width=max(shutil.get_terminal_size().columns, 110)).print(table)
    if target is not None:
        document = {"title": title, "figures": [asdict(figure) for figure in figures]}
        target.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
