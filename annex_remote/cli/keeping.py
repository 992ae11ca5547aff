"""What the commands that keep a grid healthy share: options, what git-annex knows, and how far the work is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from annex_remote.annexed import is_stored_by_name, keys_in, looked_up, urls_recorded
from annex_remote.care.plan import Census
from annex_remote.caring import Care
from annex_remote.cli.terminal import err, opened
from annex_remote.consult import Consulted, consult
from annex_remote.errors import BadSetting, NoCapability
from annex_remote.limits import parse_limit

__all__ = [
    "EXIT_LOST",
    "EXIT_REPAIR",
    "EXIT_UNKNOWN",
    "SHOWN",
    "Command",
    "Deadline",
    "Mistake",
    "cared_for",
    "census_of",
    "counting",
    "folder_of",
    "json_option",
    "listing",
    "quiet_option",
    "rate_option",
    "seconds",
    "time_option",
]
EXIT_REPAIR, EXIT_LOST, EXIT_UNKNOWN = 1, 2, 3

SHOWN = 20
"""Objects that are shown one by one."""

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Mistake(click.UsageError):
    """A mistake in the arguments of a command whose status 2 says something else."""

    exit_code = 1


class Command(click.Command):
    """A command whose mistakes end with 1: click's own status for them would say that something is lost."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise Mistake(error.format_message(), error.ctx or ctx) from error


def seconds(what: str, text: str) -> float:
    """Read ``90``, ``15m``, ``1h`` or ``30d``; raises `BadSetting`."""
    unit = _SECONDS.get(text[-1:].lower())
    number = text[:-1] if unit else text
    try:
        value = float(number) * (unit or 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise BadSetting(f"{what} {text}: write seconds, or 15m, 1h, 30d")
    return value


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line: docs/json.md.")
quiet_option = click.option("--quiet", "-q", is_flag=True, help="Print nothing where nothing is wrong.")
time_option = click.option("--time-limit", metavar="TIME", help="Stop after 15m, 1h, ...: the next run goes on.")
rate_option = click.option(
    "--limit-rate", metavar="RATE", help="Bytes a second, each way: 5MiB/s, 22:00-06:00=none,1MiB/s."
)


@dataclass
class Deadline:
    """When a command is to stop."""

    at: float | None
    """As `time.monotonic`."""

    @classmethod
    def of(cls, text: str | None) -> Deadline:
        return cls(None if text is None else time.monotonic() + seconds("--time-limit", text))

    @property
    def is_over(self) -> bool:
        return self.at is not None and time.monotonic() >= self.at


def cared_for(remote: str, words: Sequence[str] = (), *, limit_rate: str | None = None) -> tuple[Care, Consulted]:
    """Return a grid with what git-annex knows of it; `words` are what a person has asked about."""
    told = consult(remote)
    grid = opened(told)
    if limit_rate is not None:
        grid.slow_down(parse_limit("--limit-rate", limit_rate))
    care = Care(grid, grid.capability)
    can_name = grid.capability is not None and grid.capability.can_read
    by_name = is_stored_by_name(told.config)
    if words and not can_name:
        raise NoCapability(
            "this clone cannot read names: with a verify capability all objects are checked, not those of a file"
        )
    if words and not by_name:
        raise BadSetting("git-annex encrypts or chunks what it stores there: its objects have no names of files")
    if not can_name:
        err.print("without the read capability objects have no names, and one without any share is not noticed")
    elif not by_name:
        err.print(
            "git-annex encrypts or chunks what it stores there: objects have no names, and one without any share "
            "is not noticed"
        )
    else:
        keys: Iterable[str] = looked_up(remote, words).keys if words else keys_in(remote)
        care.name_all(keys)
        if words:
            care.only = set(care.names)
        _know_torrents(care, told)
    return care, told


def _know_torrents(care: Care, told: Consulted) -> None:
    """Let keys of which there are no shares be those of torrents, unless these are switched off here."""
    from annex_remote.torrenting import open_source, torrent_settings
    from annex_remote.torrents.urls import torrent_url

    settings = torrent_settings(told.config, told.git_dir, told.name)
    if not settings.enabled:
        return

    def torrents_of(keys: Sequence[str]) -> Mapping[str, str]:
        source = open_source(told.config, told.git_dir, told.name)
        recorded = {key: list(filter(None, map(torrent_url, urls))) for key, urls in urls_recorded(keys).items()}
        return {key: "; ".join(source.in_words(urls)) for key, urls in recorded.items() if urls}

    care.torrents_of, care.trusts_torrents = torrents_of, settings.trust


@contextmanager
def listing(quiet: bool) -> Iterator[Callable[[str, int], None]]:
    """Show how far the lists of the stores are."""
    counts: dict[str, int] = {}
    with Progress(
        TextColumn("listing stores: {task.fields[count]:,} shares"),
        console=err,
        transient=True,
        disable=quiet or not err.is_terminal,
    ) as shown:
        task = shown.add_task("", total=None, count=0)

        def heard(store: str, count: int) -> None:
            counts[store] = count
            shown.update(task, count=sum(counts.values()))

        yield heard


@contextmanager
def counting(what: str, total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Show how many of so many bytes have gone through, how fast, and how long the rest takes."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=quiet or not err.is_terminal,
    ) as shown:
        task = shown.add_task(what, total=total)
        yield lambda size: shown.advance(task, size)


def folder_of(told: Consulted) -> str | None:
    """Return where large shares wait until they are stored: in the repository, where there is room for files."""
    folder = os.path.join(told.git_dir, "annex", "tmp")
    with suppress(OSError):
        os.makedirs(folder, exist_ok=True)
    return folder if os.path.isdir(folder) else None


def census_of(care: Care, quiet: bool) -> Census:
    """Ask the stores what they have, and return all objects with what is known of them."""
    with listing(quiet) as heard:
        census = care.census(care.survey(heard))
    care.look_closer(census)
    return census
