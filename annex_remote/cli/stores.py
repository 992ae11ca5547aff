"""The commands about a remote's stores."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial, wraps
from typing import Any, TypeVar

import click
from rich.filesize import decimal
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text

from annex_remote.cli.terminal import EXIT_TROUBLE, dry_run_option, err, force_option, held, opened, out, plainly
from annex_remote.consult import consult, give_login
from annex_remote.credentials import environment_login, login_variables
from annex_remote.errors import BadSetting
from annex_remote.grid import Grid, create_stores, usual_cost, wants_login
from annex_remote.limits import (
    DEFAULT_CONNECTIONS,
    MAX_CONNECTIONS,
    PRICE_UNIT,
    format_price,
    format_size,
    parse_connections,
    parse_limit,
    parse_price,
    parse_size,
)
from annex_remote.model import Access
from annex_remote.overrides import MAX_COST
from annex_remote.roster import ACTIVE, GONE, WAITING, Roster, StoreEntry, marker_name
from annex_remote.settings import parse_stores
from annex_remote.stores import check_address, open_store
from annex_remote.transfer.sites import ask_all, explain
from annex_remote.trial import STEPS, Trial, try_store

__all__ = ["stores"]


class _ListByDefault(click.Group):
    """A group whose command `list` is meant when none is named: `stores REMOTE --json`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        named = len(args) > 1 and not args[1].startswith("-")
        if args and not args[0].startswith("-") and not named and not {"-h", "--help"} & set(args):
            args = [args[0], "list", *args[1:]]
        return super().parse_args(ctx, args)


@click.group(cls=_ListByDefault)
@click.argument("remote")
@click.pass_context
def stores(context: click.Context, remote: str) -> None:
    """List the stores of REMOTE; try them; or add, remove or change one."""
    context.obj = remote


def _open(remote: str) -> Grid:
    return opened(consult(remote))


@stores.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a store.")
@click.pass_obj
@plainly
def list_stores(remote: str, as_json: bool) -> None:
    """List the stores, and ask each whether it is there. Exit status 1 if one is not."""
    grid = _open(remote)
    questions = {entry.name: partial(grid.see, entry) for entry in grid.roster.readable}
    reach = {answer.asked: answer.error for answer in ask_all(questions, grid.settings.stall)}
    if as_json:
        _print_json(grid, reach)
    else:
        _print_table(remote, grid, reach)
    sys.exit(EXIT_TROUBLE if any(reach.values()) else 0)


@stores.command("test")
@click.argument("names", metavar="[STORE]...", nargs=-1)
@click.option("--size", type=click.IntRange(1, 1024), default=1, help="MiB that are written to each store.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a store.")
@click.pass_obj
@plainly
def test_stores(remote: str, names: tuple[str, ...], size: int, as_json: bool) -> None:
    """Try all stores, or those named: write, look, read whole, a range and the tail, list, delete.

    What is written has a name of its own and is removed again. Exit status 1 if anything failed.
    """
    grid = _open(remote)
    entries = grid.readable(names)
    trials = {entry.name: partial(try_store, partial(grid.store, entry), size << 20) for entry in entries}
    failed = False
    with Progress(
        TextColumn("trying {task.completed} of {task.total} stores"),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    ) as shown:
        task = shown.add_task("", total=len(entries))
        results: dict[str, Trial] = {}
        for answer in ask_all(trials, TRIAL_WAIT):
            results[answer.asked] = answer.value or Trial.failed(explain(answer.error))
            shown.advance(task)
    for entry in entries:
        trial = results[entry.name]
        failed = failed or not trial.passed
        if as_json:
            click.echo(json.dumps({"store": entry.name, "address": grid.address(entry), **trial.as_json()}))
    if not as_json:
        _print_trials({entry.name: results[entry.name] for entry in entries})
    sys.exit(EXIT_TROUBLE if failed else 0)


TRIAL_WAIT = 600.0
"""Seconds after which a store that is being tried is given up."""


def _print_trials(results: Mapping[str, Trial]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("STORE", *STEPS, "LATENCY", "UP", "DOWN", "FREE"):
        table.add_column(heading, overflow="fold")
    for name, trial in results.items():
        marks = ["ok" if step in trial.done else "FAILED" if step in trial.errors else "-" for step in STEPS]
        latency = "" if trial.latency is None else f"{trial.latency * 1000:.1f} ms"
        figures = (
            latency,
            _rate(trial.up),
            _rate(trial.down),
            "unknown" if trial.free is None else decimal(trial.free),
        )
        table.add_row(*map(Text, (name, *marks, *figures)))
    out.print(table)
    for name, trial in results.items():
        for step, error in trial.errors.items():
            err.print(f"{name}: {step}: {error}", markup=False)
        for note in trial.notes:
            out.print(f"{name}: {note}", markup=False)


def _rate(bytes_a_second: float | None) -> str:
    return "" if bytes_a_second is None else f"{decimal(int(bytes_a_second))}/s"


def _print_json(grid: Grid, reach: Mapping[str, Exception | None]) -> None:
    for entry in map(grid.local, grid.roster.stores):
        error = reach.get(entry.name)
        document = {
            "store": entry.name,
            "shares": entry.numbers,
            "address": entry.address,
            "cost": entry.cost,
            "price": entry.price / PRICE_UNIT,
            "limit": entry.limit or None,
            "connections": entry.connections or DEFAULT_CONNECTIONS,
            "max_bytes": entry.max_bytes or None,
            "zone": entry.zone,
            "state": entry.state,
            "reachable": entry.name in reach and error is None,
            "error": explain(error) if error else None,
            "serial": grid.roster.serial,
        }
        click.echo(json.dumps(document))


def _print_table(remote: str, grid: Grid, reach: Mapping[str, Exception | None]) -> None:
    roster = grid.roster
    table = Table(box=None, pad_edge=False)
    for heading in ("STORE", "SHARES", "ADDRESS", "COST", "ZONE", "STATE", "LIMITS"):
        table.add_column(heading, overflow="fold")
    for entry in map(grid.local, roster.stores):
        error = reach.get(entry.name)
        login = f"git-annex-remote-swarm login {remote} {entry.name}"
        seen = explain(error) + (f" ({login})" if wants_login(error) else "") if error else "there"
        waits = f"waits for {login}"
        state = {ACTIVE: seen, GONE: GONE, WAITING: waits}.get(entry.state, f"{entry.state}, {seen}")
        numbers = " ".join(map(str, entry.numbers))
        row = (entry.name, numbers, entry.address, str(entry.cost), entry.zone, state, _limits(entry))
        table.add_row(*map(Text, row))  # as they are: an address may look like markup
    out.print(table)
    out.print(f"{roster.coding}, roster {roster.serial}; survives the loss of {roster.survives_in_words()}")


def _limits(entry: StoreEntry) -> str:
    """Return in words what is not usual about a store."""
    said = {
        entry.limit: entry.limit,
        f"{entry.connections} connections": entry.connections,
        f"{format_size(entry.max_bytes)} at most": entry.max_bytes,
        f"{format_price(entry.price)} a GiB": entry.price,
    }
    return "; ".join(words for words, given in said.items() if given)


F = TypeVar("F", bound=Callable[..., object])


def _amount(parse: Callable[[str, str], object]) -> Callable[[object, click.Parameter, str | None], object]:
    """Return what reads an option by `parse`; what cannot be is a mistake in the arguments."""

    def read(_: object, option: click.Parameter, text: str | None) -> object:
        try:
            return None if text is None else parse(option.opts[0], text)
        except BadSetting as error:
            raise click.UsageError(str(error)) from error

    return read


_FIELDS = (
    click.option("--cost", type=click.IntRange(0, MAX_COST), help="Relative cost of reading; 100 is usual."),
    click.option("--zone", help="Stores of one zone may fail together."),
    click.option(
        "--limit",
        callback=_amount(lambda what, text: str(parse_limit(what, text))),
        help="Bytes a second, each way: 5MiB/s, 08:00-18:00=1MiB/s,5MiB/s, none.",
    ),
    click.option(
        "--connections",
        callback=_amount(parse_connections),
        help=f"Requests at once, 1 to {MAX_CONNECTIONS}; none for the usual {DEFAULT_CONNECTIONS}.",
    ),
    click.option(
        "--max-bytes",
        callback=_amount(parse_size),
        help="Bytes that this grid keeps there at most: 200GiB, none.",
    ),
    click.option("--price", callback=_amount(parse_price), help="Money for each GiB that is read: 0.09, 0."),
)


def fields(command: F) -> F:
    """Give a command the options of what a store is, and the names of those that are given, as `changes`."""

    @wraps(command)
    def run(*args: object, **options: object) -> object:
        names = ("cost", "zone", "limit", "connections", "max_bytes", "price")
        given = {name: options.pop(name) for name in names}
        return command(
            *args, **options, changes={name: value for name, value in given.items() if value is not None}
        )

    for option in reversed(_FIELDS):
        run = option(run)
    return run  # type: ignore[return-value] # with these options in place of `changes`


@stores.command("add")
@click.argument("store", metavar="NAME=ADDRESS")
@fields
@force_option
@dry_run_option
@click.pass_obj
@plainly
def add_store(remote: str, store: str, changes: dict[str, Any], force: bool, dry_run: bool) -> None:
    """Add a store: new uploads may use it. Shares of what is stored already do not move.

    A store that wants a login takes it from the environment (SWARM_STORE_NAME_USER, SWARM_STORE_NAME_PASSWORD),
    and otherwise waits for: git-annex-remote-swarm login REMOTE NAME
    """
    [first] = parse_stores(store) if len(store.split()) == 1 else [None]
    if first is None:
        raise BadSetting(
            f"{store!r} is not one store: add them one by one. A directory with a blank in its name needs a "
            "symbolic link"
        )
    first = replace(first, address=check_address(first.address))
    grid = _open(remote)
    roster = grid.roster.with_added(first, **{"cost": usual_cost(first.address), **changes})
    entry = roster.entry(first.name)
    waits = not dry_run and _make_store(grid, entry, force)
    if waits:
        roster = roster.with_state([entry.name], WAITING)
    added = f"added {entry.name}, share {' '.join(map(str, entry.numbers))}"
    _change(grid, roster, added, dry_run, force, asked=True)
    login = grid.login(entry.name)
    if waits:
        err.print(f"it wants a login before it is used: git-annex-remote-swarm login {remote} {entry.name}")
    elif login is not None and not dry_run:
        give_login(remote, entry.name, entry.address, login)


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
    was = grid.roster.entry(store).state
    roster = grid.roster.with_removed(store, gone=gone, force=force)
    what = "its shares count no more" if gone else "it takes no new shares; those that it keeps are still read"
    what = "it had no shares yet" if was == WAITING else what
    _change(grid, roster, f"removed {store}: {what}", dry_run, force)


@stores.command("set")
@click.argument("store")
@click.option("--address", help="Where the store, with what it keeps, is now for all clones.")
@click.option("--empty", is_flag=True, help="The address is a new, empty place: what the store kept is given up.")
@fields
@force_option
@dry_run_option
@click.pass_obj
@plainly
def set_store(
    remote: str,
    store: str,
    address: str | None,
    empty: bool,
    changes: dict[str, Any],
    force: bool,
    dry_run: bool,
) -> None:
    """Change a store's address, its cost or zone, or its limits.

    For a store that is elsewhere on this machine only, use: git config remote.NAME.swarm-store-STORE ADDRESS
    """
    if address is not None:
        changes["address"] = check_address(address)
    elif empty:
        changes["address"] = _open(remote).roster.entry(store).address
    if not changes:
        raise BadSetting(
            "nothing to change: give --address, --cost, --zone, --limit, --connections, --max-bytes or --price"
        )
    grid = _open(remote)
    if grid.roster.entry(store).state == GONE:
        raise BadSetting(f"the store {store} is gone: add a new one in its place")
    for other in grid.roster.stores:
        if other.state != GONE and other.name != store and other.address == changes.get("address"):
            raise BadSetting(f"{other.address} is already the store {other.name}")
    roster = grid.roster.with_changed(store, **changes)
    entry = roster.entry(store)
    made = False
    if "address" in changes and entry.state != WAITING:
        _check_moved(grid, entry, empty)
        made = empty and not dry_run
        if made and _make_store(grid, entry, force):
            raise BadSetting(f"{entry.address} wants a login: {' and '.join(login_variables(store))} are not set")
    words = ", ".join(f"{name.replace('_', '-')} {_said(name, value)}" for name, value in changes.items())
    _change(grid, roster, f"set {store}: {words}", dry_run, force, asked=made)
    login = environment_login(store)
    if login is not None and "address" in changes and not dry_run:
        give_login(remote, store, entry.address, login)


def _said(name: str, value: Any) -> str:
    """Return the value of a store's field as it was given."""
    said: dict[str, Callable[[Any], str]] = {
        "limit": lambda limit: limit or "none",
        "max_bytes": lambda size: format_size(size) if size else "none",
        "price": format_price,
        "connections": lambda count: str(count or DEFAULT_CONNECTIONS),
    }
    return said.get(name, str)(value)


def _make_store(grid: Grid, entry: StoreEntry, force: bool) -> bool:
    """Make a store's marker, once nothing but its place itself can be in the way; True if it waits for a login."""
    held(grid.capability, "this remote")
    if not force:
        grid.check_changeable()
    return bool(create_stores(grid.id, [entry], grid.login))


def _check_moved(grid: Grid, entry: StoreEntry, empty: bool) -> None:
    """Raise `BadSetting` if the new address does not have the store, unless an empty place is meant."""
    store = open_store(entry.address, None, Access(grid.login(entry.name), grid.settings.stall))
    there = store.stat(marker_name(grid.id, entry)) is not None
    store.close()
    if not there and not empty:
        raise BadSetting(
            f"{entry.address} does not have the marker of {entry.name}: move its files there first; or, if what "
            "it kept is lost, give --empty to begin there anew"
        )


def _change(grid: Grid, roster: Roster, what: str, dry_run: bool, force: bool, *, asked: bool = False) -> None:
    if dry_run:
        out.print(f"would be done: {what} (roster {roster.serial})", markup=False)
        return
    failed = grid.change(roster, force=force, asked=asked)
    out.print(f"{what} (roster {roster.serial})", markup=False)
    for name, error in failed.items():
        err.print(f"{name}: does not have the new roster yet: {explain(error)}", markup=False)
