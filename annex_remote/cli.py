"""The command line: arguments and output only."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial, wraps
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from annex_remote.capability import Capability
from annex_remote.consult import consult, open_grid
from annex_remote.errors import BadSetting, NoCapability, SwarmError
from annex_remote.grid import Grid, create_stores
from annex_remote.roster import ACTIVE, DEFAULT_COST, GONE, Roster, StoreEntry, marker_name
from annex_remote.settings import parse_stores
from annex_remote.stores import check_address, open_store
from annex_remote.transfer.sites import Notes, ask_all, explain

__all__ = ["main"]

EXIT_TROUBLE = 1
"""Something is not as it should be: the command failed, or a store that was asked about is not there."""

F = TypeVar("F", bound=Callable[..., Any])

# Into a pipe or a file every row is one line, however long.
out = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 4096)
err = Console(stderr=True, soft_wrap=True, highlight=False)


def plainly(command: F) -> F:
    """Show a `SwarmError` as one sentence; a traceback only with --debug."""

    @wraps(command)
    def run(*args: object, **kwargs: object) -> object:
        try:
            return command(*args, **kwargs)
        except SwarmError as error:
            logging.getLogger(__name__).debug("%s", error, exc_info=True)
            err.print(f"git-annex-remote-swarm: {error}", markup=False)
            sys.exit(EXIT_TROUBLE)

    return run  # type: ignore[return-value] # the same signature


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="git-annex-remote-swarm")
@click.option("--debug", is_flag=True, help="Show on stderr what is done, and the causes of failures.")
def main(debug: bool) -> None:
    """Keep git-annex objects as encrypted, erasure-coded shares on several stores.

    Without arguments this is the special remote that git-annex starts (externaltype=swarm).
    """
    if debug:
        logging.basicConfig(level=logging.DEBUG, format="%(levelname)s %(name)s: %(message)s")


@main.command()
@click.argument("remote")
@click.option("--read", "kind", flag_value="read", help="Print the read capability: it fetches, and cannot store.")
@click.option(
    "--verify", "kind", flag_value="verify", help="Print the verify capability: it checks, reads nothing."
)
@plainly
def capability(remote: str, kind: str | None) -> None:
    """Print the capability of REMOTE: what it takes to use its stores without this repository.

    The full capability is printed unless another one is asked for. It goes to standard output alone.
    """
    held = _held(consult(remote).capability, remote)
    chosen = held.attenuate(kind or held.kind)
    err.print(_WARNINGS[chosen.kind])
    click.echo(chosen.format())


_WARNINGS = {
    "full": "Who has this full capability can read, change and replace everything in the grid. Keep it secret, "
    "and keep a copy where the loss of this machine does not reach it.",
    "read": "Who has this read capability can read everything in the grid, and store nothing. Keep it secret.",
    "verify": "Who has this verify capability can check and rebuild shares, and read no content; it also tells "
    "where the stores are.",
}


def _held(held: Capability | None, remote: str) -> Capability:
    if held is None:
        raise NoCapability(
            f"this clone does not have the capability of {remote}: set SWARM_CAPABILITY and run "
            f"git annex enableremote {remote}"
        )
    return held


class _ListByDefault(click.Group):
    """A group whose command `list` is meant when none is named: `stores REMOTE --json`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        named = len(args) > 1 and not args[1].startswith("-")
        if args and not args[0].startswith("-") and not named and not {"-h", "--help"} & set(args):
            args = [args[0], "list", *args[1:]]
        return super().parse_args(ctx, args)


@main.group(cls=_ListByDefault)
@click.argument("remote")
@click.pass_context
def stores(context: click.Context, remote: str) -> None:
    """List the stores of REMOTE; or add, remove or change one."""
    context.obj = remote


def _open(remote: str) -> Grid:
    """Return the grid of a remote, with the newest roster that its stores have."""
    notes = Notes()
    grid = open_grid(consult(remote))
    grid.look_for_roster(notes)
    for line in notes.lines:
        err.print(line, markup=False)
    grid.require_known()
    return grid


@stores.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a store.")
@click.pass_obj
@plainly
def list_stores(remote: str, as_json: bool) -> None:
    """List the stores, and ask each whether it is there. Exit status 1 if one is not."""
    grid = _open(remote)
    questions = {entry.name: partial(grid.see, entry) for entry in grid.roster.readable}
    reach = {answer.asked: answer.error for answer in ask_all(questions, grid.settings.stall)}
    (_print_json if as_json else _print_table)(grid, reach)
    sys.exit(EXIT_TROUBLE if any(reach.values()) else 0)


def _print_json(grid: Grid, reach: Mapping[str, Exception | None]) -> None:
    for entry in grid.roster.stores:
        error = reach.get(entry.name)
        document = {
            "store": entry.name,
            "shares": entry.numbers,
            "address": grid.address(entry),
            "cost": entry.cost,
            "zone": entry.zone,
            "state": entry.state,
            "reachable": entry.state != GONE and error is None,
            "error": explain(error) if error else None,
            "serial": grid.roster.serial,
        }
        click.echo(json.dumps(document))


def _print_table(grid: Grid, reach: Mapping[str, Exception | None]) -> None:
    roster = grid.roster
    table = Table(box=None, pad_edge=False)
    for heading in ("STORE", "SHARES", "ADDRESS", "COST", "ZONE", "STATE"):
        table.add_column(heading, overflow="fold")
    for entry in roster.stores:
        error = reach.get(entry.name)
        seen = explain(error) if error else "there"
        state = {ACTIVE: seen, GONE: GONE}.get(entry.state, f"{entry.state}, {seen}")
        numbers = " ".join(map(str, entry.numbers))
        row = (entry.name, numbers, grid.address(entry), str(entry.cost), entry.zone, state)
        table.add_row(*map(Text, row))  # as they are: an address may look like markup
    out.print(table)
    out.print(f"{roster.coding}, roster {roster.serial}; survives the loss of {roster.survives_in_words()}")


dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
force_option = click.option(
    "--force", is_flag=True, help="Also if most stores cannot be reached, or objects may be lost."
)
cost_option = click.option(
    "--cost", type=click.IntRange(0, 100000), help="Relative cost of reading; 100 is usual."
)
zone_option = click.option("--zone", help="Stores of one zone may fail together.")


@stores.command("add")
@click.argument("store", metavar="NAME=ADDRESS")
@cost_option
@zone_option
@force_option
@dry_run_option
@click.pass_obj
@plainly
def add_store(remote: str, store: str, cost: int | None, zone: str | None, force: bool, dry_run: bool) -> None:
    """Add a store: new uploads may use it. Shares of what is stored already do not move."""
    [first] = parse_stores(store) if len(store.split()) == 1 else [None]
    if first is None:
        raise BadSetting(f"{store!r} is not one store: add them one by one")
    first = replace(first, address=check_address(first.address))
    grid = _open(remote)
    roster = grid.roster.with_added(first, DEFAULT_COST if cost is None else cost, zone or "")
    entry = roster.entry(first.name)
    if not dry_run:
        _make_store(grid, entry, force)
    _change(grid, roster, f"added {entry.name}, share {' '.join(map(str, entry.numbers))}", dry_run, force)


@stores.command("remove")
@click.argument("store")
@click.option("--gone", is_flag=True, help="It is lost or emptied: do not ask it for its shares any more.")
@force_option
@dry_run_option
@click.pass_obj
@plainly
def remove_store(remote: str, store: str, gone: bool, force: bool, dry_run: bool) -> None:
    """Put no more shares on a store.

    The shares that it keeps stay there, and are read and counted as long as it can be reached. With --gone it is
    not asked any more.
    """
    grid = _open(remote)
    roster = grid.roster.with_removed(store, gone=gone, force=force)
    what = "its shares count no more" if gone else "it takes no new shares; those that it keeps are still read"
    _change(grid, roster, f"removed {store}: {what}", dry_run, force)


@stores.command("set")
@click.argument("store")
@click.option("--address", help="Where the store, with what it keeps, is now for all clones.")
@click.option("--empty", is_flag=True, help="The address is a new, empty place: what the store kept is given up.")
@cost_option
@zone_option
@force_option
@dry_run_option
@click.pass_obj
@plainly
def set_store(
    remote: str,
    store: str,
    address: str | None,
    empty: bool,
    cost: int | None,
    zone: str | None,
    force: bool,
    dry_run: bool,
) -> None:
    """Change a store's address, cost or zone.

    For a store that is elsewhere on this machine only, use: git config remote.NAME.swarm-store-STORE ADDRESS
    """
    given = {"address": address and check_address(address), "cost": cost, "zone": zone}
    changes = {name: value for name, value in given.items() if value is not None}
    if not changes:
        raise BadSetting("nothing to change: give --address, --cost or --zone")
    grid = _open(remote)
    if grid.roster.entry(store).state == GONE:
        raise BadSetting(f"the store {store} is gone: add a new one in its place")
    for other in grid.roster.readable:
        if other.name != store and other.address == changes.get("address"):
            raise BadSetting(f"{other.address} is already the store {other.name}")
    roster = grid.roster.with_changed(store, **changes)
    if "address" in changes:
        _check_moved(grid, roster.entry(store), empty)
        if empty and not dry_run:
            _make_store(grid, roster.entry(store), force)
    words = ", ".join(f"{name} {value}" for name, value in changes.items())
    _change(grid, roster, f"set {store}: {words}", dry_run, force)


def _make_store(grid: Grid, entry: StoreEntry, force: bool) -> None:
    """Make a store's marker, once nothing but its place itself can be in the way of the change."""
    _held(grid.capability, "this remote")
    if not force:
        grid.check_changeable()
    create_stores(grid.id, [entry])


def _check_moved(grid: Grid, entry: StoreEntry, empty: bool) -> None:
    """Raise `BadSetting` if the new address does not have the store, unless an empty place is meant."""
    there = open_store(entry.address).stat(marker_name(grid.id, entry)) is not None
    if not there and not empty:
        raise BadSetting(
            f"{entry.address} does not have the marker of {entry.name}: move its files there first; or, if what "
            "it kept is lost, give --empty to begin there anew"
        )


def _change(grid: Grid, roster: Roster, what: str, dry_run: bool, force: bool) -> None:
    if dry_run:
        out.print(f"would be done: {what} (roster {roster.serial})", markup=False)
        return
    failed = grid.change(roster, force=force)
    out.print(f"{what} (roster {roster.serial})", markup=False)
    for name, error in failed.items():
        err.print(f"{name}: does not have the new roster yet: {explain(error)}", markup=False)


@main.command()
@click.option("--keep", is_flag=True, help="Leave the repository and the stores, and say where they are.")
@click.option("--size", type=click.IntRange(1, 4096), default=64, help="MiB of the largest file.")
@plainly
def demo(keep: bool, size: int) -> None:
    """Show the main job in a throw-away repository with six directory stores."""
    from annex_remote.demo import run_demo

    sys.exit(run_demo(out, keep=keep, largest=size << 20))
