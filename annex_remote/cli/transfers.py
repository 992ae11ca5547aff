"""The commands about how transfers went, and how they will go."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import click
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from annex_remote.cli.terminal import EXIT_TROUBLE, err, held, opened, out, plainly
from annex_remote.consult import Consulted, consult
from annex_remote.errors import BadSetting, NotEnough, SwarmError
from annex_remote.grid import Grid
from annex_remote.limits import format_size
from annex_remote.picture import picture
from annex_remote.records import KeptTrace, trace_path
from annex_remote.roster import StoreEntry, marker_name
from annex_remote.shares.layout import SEGMENT_SIZE, Layout
from annex_remote.speedtest import Outlook, Speed, SpeedTest, outlook
from annex_remote.timeline import FAILED, HEDGED, IDLE, QUEUED, RECEIVING, WAITING, timeline
from annex_remote.transfer.figures import Figures
from annex_remote.transfer.sites import Asking, Notes, explain, silence
from annex_remote.transfer.trace import Trace

__all__ = ["speedtest", "trace"]

_KEY = re.compile(r"[A-Z0-9_]+(-[a-zA-Z][0-9]+)*--\S+\Z")

PIPE_WIDTH = 140
"""Columns of a timeline where there is no terminal."""


@click.command()
@click.argument("remote")
@click.argument("what", metavar="[KEY|FILE]", required=False)
@click.option("--last", is_flag=True, help="Show the last download of this clone, as without KEY or FILE.")
@click.option(
    "--svg", type=click.Path(dir_okay=False, path_type=Path), help="Draw a picture into this file as well."
)
@click.option("--json", "as_json", is_flag=True, help="Print every request and its times as one JSON object.")
@plainly
def trace(remote: str, what: str | None, last: bool, svg: Path | None, as_json: bool) -> None:
    """Fetch KEY or FILE from REMOTE, and show which store did what when; or show the last download of this clone.

    What is fetched goes into a temporary file, which is removed. Exit status 1 if it could not be fetched.
    """
    if last and what is not None:
        raise click.UsageError("--last shows what was fetched already: leave out KEY or FILE, or --last")
    key = None if what is None else _key_of(what)
    told = consult(remote)
    error: SwarmError | None = None
    if key is None:
        seen = KeptTrace(trace_path(told.cache)).load()
    else:
        seen, error = _fetch(remote, told, key)
    if svg is not None:
        _write(svg, picture(seen))
    if as_json:
        click.echo(seen.dump())
    else:
        _show(seen)
    if error is not None:
        raise error


def _key_of(what: str) -> str:
    """Return the key that is meant, by itself or by the name of a file; raises `BadSetting`."""
    if _KEY.match(what) and not os.path.lexists(what):
        return what
    answer = subprocess.run(
        ["git", "annex", "lookupkey", "--", what],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    key = answer.stdout.strip()
    if answer.returncode or not key:
        raise BadSetting(
            f"{what} is neither an annexed file of this repository nor a key, such as git annex lookupkey FILE "
            "prints"
        )
    return key


def _fetch(remote: str, told: Consulted, key: str) -> tuple[Trace, SwarmError | None]:
    """Fetch an object into nowhere; return what happened, and why it failed, if it did."""
    grid = opened(told)
    capability = held(grid.capability, remote)
    seen, notes = Trace(), Notes()
    error: SwarmError | None = None
    folder = Path(told.git_dir, "annex", "tmp")
    with (
        Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=err,
            transient=True,
            disable=not err.is_terminal,
        ) as shown,
        _temporary(folder) as path,
    ):
        task = shown.add_task("fetching", total=None)
        download = grid.download(
            key,
            path,
            capability.read_secret,
            notes=notes,
            progress=lambda done: shown.update(task, completed=done, total=seen.size),
            cancelled=threading.Event(),
            trace=seen,
        )
        try:
            download.run()
        except NotEnough as failure:
            error = NotEnough(
                f"{failure}; if git-annex encrypts what it stores there, the stores know other keys: run "
                f"git annex get, then git-annex-remote-swarm trace {remote}"
            )
        except SwarmError as failure:
            error = failure
        except OSError as failure:
            error = SwarmError(f"{failure.filename or folder}: {failure.strerror or failure}")
    for line in notes.lines:
        err.print(line, markup=False)
    KeptTrace(trace_path(told.cache)).keep(seen)
    grid.keep_book()
    return seen, error


class _temporary:  # noqa: N801 # used as a function
    """A file in `folder` that is removed at the end of a `with`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> str:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor, self._path = tempfile.mkstemp(prefix="swarm-trace.", dir=self._folder)
        except OSError as error:
            raise SwarmError(f"{self._folder}: {error.strerror or error}") from error
        os.close(descriptor)
        return self._path

    def __exit__(self, *error: object) -> None:
        os.unlink(self._path)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SwarmError(f"the picture cannot be written to {path}: {error.strerror or error}") from error


_STYLES = {
    RECEIVING: "blue",
    WAITING: "bright_blue",
    QUEUED: "dim",
    IDLE: "dim",
    HEDGED: "yellow",
    FAILED: "bold red",
}
_ASCII = str.maketrans({RECEIVING: "#", WAITING: "_", QUEUED: "-", IDLE: ".", HEDGED: "h", FAILED: "x"})


def _show(seen: Trace) -> None:
    width = out.width if out.is_terminal else PIPE_WIDTH
    bare = (out.encoding or "").lower().replace("-", "") != "utf8"
    for line in timeline(seen, width):
        text = Text(line.translate(_ASCII) if bare else line)
        for mark, style in _STYLES.items():
            text.highlight_regex(f"{re.escape(mark)}+", style)
        out.print(text)


# How it will go.


@click.command()
@click.argument("remote")
@click.argument("names", metavar="[STORE]...", nargs=-1)
@click.option("--size", type=click.IntRange(1, 1024), default=8, help="MiB that are written to each store.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a store, and one about transfers.")
@plainly
def speedtest(remote: str, names: tuple[str, ...], size: int, as_json: bool) -> None:
    """Measure the stores of REMOTE, or those named, one by one; and tell what transfers will make of them.

    What is written has a name of its own and is removed again. The next download goes by what was measured. Exit
    status 1 if a store failed.
    """
    grid = opened(consult(remote))
    entries = grid.readable(names)
    speeds = _measure(grid, entries, size << 20)
    grid.keep_book()
    will = _outlook(grid, speeds)
    if as_json:
        for entry in entries:
            document = {"store": entry.name, "address": grid.address(entry), **speeds[entry.name].as_json()}
            click.echo(json.dumps(document))
        click.echo(json.dumps({"outlook": will.as_json()}))
    else:
        _print_speeds(speeds)
        _print_outlook(grid, will)
    sys.exit(0 if all(speed.passed for speed in speeds.values()) else EXIT_TROUBLE)


TEST_WAIT = 600.0
"""Seconds after which a store that is being measured is given up."""

TIDY_WAIT = 5.0
"""Seconds that a store has for removing what was written when somebody breaks off."""


def _measure(grid: Grid, entries: list[StoreEntry], size: int) -> dict[str, Speed]:
    """Measure one store after the other: at once they would share this machine's own line."""
    speeds: dict[str, Speed] = {}
    with Progress(
        TextColumn("{task.description}"), BarColumn(), console=err, transient=True, disable=not err.is_terminal
    ) as shown:
        task = shown.add_task("", total=len(entries))
        for entry in entries:
            cancelled = threading.Event()
            here = grid.local(entry)
            test = SpeedTest(
                entry.name,
                partial(grid.store, entry),
                size,
                grid.book,
                marker=marker_name(grid.id, entry),
                connections=next(site.connections for site in grid.sites() if site.name == entry.name),
                cancelled=cancelled,
                tell=lambda step, name=entry.name: shown.update(task, description=f"{name}: {step}"),  # type: ignore[misc]
            )
            speed = _run(entry.name, test, cancelled)
            if here.limit:
                speed.notes.append(f"limited to {here.limit}")
            if here.max_bytes:
                speed.notes.append(f"{format_size(here.max_bytes)} may be kept there at most")
            speeds[entry.name] = speed
            shown.advance(task)
    return speeds


def _run(name: str, test: SpeedTest, cancelled: threading.Event) -> Speed:
    asking = Asking({name: test.run})
    try:
        answer = asking.take(TEST_WAIT)
    except BaseException:
        cancelled.set()
        asking.take(TIDY_WAIT)
        raise
    if answer is None:
        cancelled.set()
        return Speed(errors={"write": f"{silence(TEST_WAIT)}: try a smaller --size"})
    return answer.value or Speed(errors={"write": explain(answer.error)})


def _outlook(grid: Grid, speeds: Mapping[str, Speed]) -> Outlook:
    coding, now = grid.roster.coding, time.monotonic()
    known = {site.name: grid.book.of(site.name, now) for site in grid.sites()}
    for name, speed in speeds.items():
        known[name] = Figures(first_byte=speed.latency, down=speed.down, up=speed.up, settled=True)
    layout = Layout(2 * SEGMENT_SIZE, coding.needed, grid.roster.cipher.overhead)
    local = time.localtime()
    return outlook(
        grid.sites(),
        known,
        coding,
        layout.block_length(0),
        up=grid.upload_limit,
        down=grid.download_limit,
        minute=local.tm_hour * 60 + local.tm_min,
    )


def _print_speeds(speeds: Mapping[str, Speed]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("STORE", "LATENCY", "DOWN", "UP", "FREE"):
        table.add_column(heading, overflow="fold")
    for name, speed in speeds.items():
        latency = "" if speed.latency is None else f"{speed.latency * 1000:.1f} ms"
        free = "unknown" if speed.free is None else decimal(speed.free)
        table.add_row(*map(Text, (name, latency, _rate(speed.down), _rate(speed.up), free)))
    out.print(table)
    for name, speed in speeds.items():
        for step, error in speed.errors.items():
            err.print(f"{name}: {step}: {error}", markup=False)
        for note in speed.notes:
            out.print(f"{name}: {note}", markup=False)


def _print_outlook(grid: Grid, will: Outlook) -> None:
    coding = grid.roster.coding
    for limit, way in ((grid.upload_limit, "upload"), (grid.download_limit, "download")):
        if not limit.is_none:
            out.print(f"all stores together: {way}-limit {limit}", markup=False)
    if will.get is None:
        out.print(f"get: the rates of fewer than {coding.needed} (needed) shares are known")
    else:
        carried = ", ".join(f"{name} {part:.0%}" for name, part in will.carried.items())
        window = f"; {will.window} segments a request at first" if will.window else ""
        out.print(f"get: {_rate(will.get)} as far as the stores go ({carried}){window}", markup=False)
    if will.put_happy is None:
        out.print(f"put: the rates of fewer than {coding.happy} (happy) places for shares are known")
    else:
        whole = f", {_rate(will.put)} until all {coding.total} are" if will.put else ""
        out.print(
            f"put: {_rate(will.put_happy)} until {coding.happy} (happy) shares are stored{whole}; "
            f"slowest: {will.slowest}",
            markup=False,
        )
    if will.unknown:
        out.print(f"not known: {', '.join(will.unknown)}", markup=False)


def _rate(bytes_a_second: float | None) -> str:
    return "" if bytes_a_second is None else f"{decimal(int(bytes_a_second))}/s"
