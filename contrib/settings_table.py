"""Print the tables of docs/settings.md, made from annex_remote/settings.py.

python contrib/settings_table.py            print them
python contrib/settings_table.py --write    put them between their markers in docs/settings.md
python contrib/settings_table.py --check    write nothing; exit status 1 if docs/settings.md is stale
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from annex_remote.settings import SETTINGS, default_coding  # noqa: E402

PAGE = ROOT / "docs" / "settings.md"
TOTALS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20)
"""Numbers of shares that the table of defaults shows."""


def settings_table() -> str:
    """Return the table of all settings."""
    rows = [
        (f"`{setting.name}`", setting.description, setting.default, "no" if setting.fixed else "yes")
        for setting in SETTINGS
    ]
    return table(("Setting", "Meaning", "Default", "Can change"), rows)


def coding_table() -> str:
    """Return the table of what `needed` and `happy` are when only stores are given."""
    codings = [default_coding(total) for total in TOTALS]
    rows = [
        [str(figure) for figure in (each.total, each.needed, each.happy, each.total - each.needed)]
        for each in codings
    ]
    return table(("Shares (`total`)", "`needed`", "`happy`", "May be lost"), rows)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


TABLES = {"settings": settings_table, "coding": coding_table}
"""Name in the markers to the function that makes what stands between them."""


def renewed(text: str) -> str:
    """Return the page with its tables made anew; raises `ValueError` if a marker is missing or there twice."""
    for name, make in TABLES.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"{PAGE.name} does not have {begin} and {end} once each")
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n\n{make()}\n\n{end}{after}"
    return text


def main(arguments: Sequence[str]) -> int:
    """Do what the module's text says; return the exit status."""
    if arguments not in ([], ["--write"], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    if not arguments:
        print("\n\n".join(make() for make in TABLES.values()))
        return 0
    now = PAGE.read_text(encoding="utf-8")
    new = renewed(now)
    if new == now:
        return 0
    if arguments == ["--check"]:
        print("docs/settings.md is stale: run contrib/settings_table.py --write", file=sys.stderr)
        return 1
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
