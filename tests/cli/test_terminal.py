"""What all commands share: what they print arrives, whatever the names are."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import suppress

import click
import pytest
from rich.table import Table
from rich.text import Text

from annex_remote.cli.terminal import err, out, plainly
from annex_remote.errors import BadSetting

NAME = "bild-\udcfc.jpg"
"""As Python has the name of a file that is not UTF-8."""


def print_line() -> None:
    out.print(f"{NAME}: degraded -> healthy", markup=False)


def print_row() -> None:
    table = Table(box=None)
    table.add_column("OBJECT")
    table.add_row(Text(NAME))
    out.print(table)


def print_error() -> None:
    err.print(NAME, markup=False)


def fail() -> None:
    raise BadSetting(f"nothing of that is in vault: {NAME}")


@pytest.mark.parametrize("print_it", [print_line, print_row, print_error, fail])
def test_a_name_that_is_not_text_is_shown_all_the_same(
    monkeypatch: pytest.MonkeyPatch, print_it: Callable[[], None]
) -> None:
    shown = strict(monkeypatch)
    with suppress(SystemExit):
        plainly(print_it)()
    assert "bild-?.jpg" in shown()
    assert "internal error" not in shown()


def test_programs_get_the_name_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = strict(monkeypatch)
    plainly(lambda: click.echo(json.dumps({"key": NAME})))()
    assert json.loads(shown())["key"] == NAME


def strict(monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Have both streams take nothing but text, as a terminal's do; return what tells what they got."""
    streams = {name: io.TextIOWrapper(io.BytesIO(), "utf-8", errors="strict") for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(f"sys.{name}", stream)

    def shown() -> str:
        said = b""
        for stream in streams.values():
            stream.flush()
            said += stream.buffer.getvalue()
        return said.decode()

    return shown
