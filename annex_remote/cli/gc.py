"""The command that removes from the stores what nobody wants: `gc`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import click
from rich.filesize import decimal
from rich.progress import Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from annex_remote.annexed import is_encrypted, keys_known, keys_over, keys_somewhere
from annex_remote.care.garbage import Item, Leftover, Plan, Why, by_store, refusal
from annex_remote.caring import Care
from annex_remote.cli.keeping import SHOWN, json_option, listing, quiet_option, seconds
from annex_remote.cli.terminal import EXIT_TROUBLE, dry_run_option, err, held, opened, out, plainly
from annex_remote.collecting import Collecting, Gone
from annex_remote.consult import consult
from annex_remote.errors import BadSetting, NoCapability
from annex_remote.limits import parse_size
from annex_remote.transfer.sites import explain, shares

__all__ = ["gc"]

_SAID = {
    Why.YOUNG: "too young: an upload may be at it, or a clone that was not met may want it (--grace)",
    Why.NO_AGE: "of which a store does not tell how old it is",
    Why.NO_NAME: "whose names cannot be read",
    Why.STRANGER: "of keys that git-annex has never heard of here: of clones that were not met, or of another "
    "repository (--unknown-keys)",
    Why.LAST: "that may be whole, and of which git-annex knows no copy anywhere: to have one recorded if it is "
    "wanted, git annex fsck --fast --from REMOTE --key KEY (--json names them)",
    Why.BESIDE: "with something beside their shares, which may be needed: repair removes it when it is not",
    Why.WANTED: "wanted after all",
    Why.CHANGED: "changed meanwhile: the next run sees",
}


@click.command()
@click.argument("remote")
@dry_run_option
@click.option(
    "--grace", metavar="TIME", default="30d", show_default=True, help="Keep what is not as old: 36h, 30d; 0."
)
@click.option("--unknown-keys", is_flag=True, help="Also of keys that git-annex has never heard of here.")
@click.option("--force", is_flag=True, help="Also if more than half of everything would go.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
@quiet_option
@plainly
def gc(
    remote: str,
    dry_run: bool,
    grace: str,
    unknown_keys: bool,
    force: bool,
    yes: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Remove from the stores of REMOTE what nobody wants: left over by removals and uploads that did not end.

    Kept is every key that is in REMOTE by the git-annex branch, with what was fetched of other clones; pushed git
    repositories; and all of which it is not certain. On a terminal it is shown and asked about first; elsewhere,
    as by cron, it is removed at once, unless --dry-run.

    Exit status: 0 done, or nothing to do; 1 something could not be removed, or it was refused.
    """
    collecting = _collecting(remote, seconds("--grace", grace), unknown_keys)
    hidden = quiet or as_json
    with listing(hidden) as heard, _steps(hidden) as moved:
        plan = collecting.look(heard, moved)
    for name, error in sorted(plan.failed.items()):
        err.print(f"{name}: could not be asked: {explain(error)}", markup=False)
    somebody = sys.stdin.isatty() or sys.stdout.isatty()
    asks = bool(plan.go) and somebody and not (yes or dry_run)
    if not as_json and (not quiet or asks):
        _print_plan(plan, dry_run)
    gone: list[Gone] = []
    why = None
    if plan.go:
        why = refusal(plan, force=force)
        if why is None and not dry_run:
            why = _why_not(collecting.care, remote) or (_asked() if asks else None)
        if why is None and not dry_run:
            gone = list(_carry_out(collecting, plan, hidden))
    collecting.care.notes.close()
    done = why is None and not any(each.failed for each in gone)
    if as_json:
        _print_json(plan, gone, why)
    elif gone and not quiet:
        _print_gone(gone)
    _tell_failures(gone)
    if why is not None:
        err.print(f"{'would be refused' if dry_run else 'nothing was removed'}: {why}", markup=False)
    sys.exit(0 if done else EXIT_TROUBLE)


def _collecting(remote: str, grace: float, strangers: bool) -> Collecting:
    """Return what collects in a remote; raises `BadSetting` where no keep-list can be made, and `NoCapability`."""
    told = consult(remote)
    if is_encrypted(told.config):
        raise BadSetting(
            f"git-annex encrypts what it stores in {remote} (encryption={told.config['encryption']}): names there "
            "do not tell what is wanted, so nothing can be said to be left over"
        )
    grid = opened(told)
    capability = held(grid.capability, remote)
    if not capability.can_read:
        raise NoCapability(
            f"this clone has the {capability} of {remote}, which cannot read names, so nothing can be said to be "
            "left over: it takes the full one"
        )
    try:
        chunk = parse_size("chunk", told.config.get("chunk") or "0")
    except BadSetting:
        chunk = 0  # then every object's name is read
    care = Care(grid, capability)
    return Collecting(
        care, partial(keys_over, remote, grid.verify_key), keys_known, keys_somewhere, grace, chunk, strangers
    )


def _why_not(care: Care, remote: str) -> str | None:
    """Return why this clone may not remove anything, None if it may: who may not store may not remove."""
    capability = held(care.capability, remote)
    return (
        None if capability.can_write else f"the {capability} of this clone does not let it: it takes the full one"
    )


def _asked() -> str | None:
    """Ask whether it is to be done; return why it is not."""
    if not sys.stdin.isatty():
        return "nobody can be asked, as standard input is no terminal: give --yes"
    try:
        return None if click.confirm("Remove this?", err=True) else "as you say"
    except click.Abort:
        err.print("")
        return "nobody has said yes"


@contextmanager
def _steps(quiet: bool) -> Iterator[Callable[[str, int], None]]:
    """Show what is being done and for how many objects it is done."""
    with Progress(
        TextColumn("{task.description}: {task.completed:,} objects"),
        console=err,
        transient=True,
        disable=quiet or not err.is_terminal,
    ) as shown:
        tasks: dict[str, TaskID] = {}

        def moved(what: str, count: int) -> None:
            if what not in tasks:
                tasks[what] = shown.add_task(what, total=None)
            shown.update(tasks[what], completed=count)

        yield moved


def _carry_out(collecting: Collecting, plan: Plan, quiet: bool) -> Iterator[Gone]:
    with _steps(quiet) as moved:
        for count, each in enumerate(collecting.collect(plan), 1):
            moved("removing", count)
            yield each


def _amount(items: Iterable[Item]) -> str:
    """Return "3 shares, 1.2 MB"."""
    sizes = [item.size for item in items]
    return f"{shares(len(sizes))}, {decimal(sum(sizes))}"


def _objects(count: int) -> str:
    return f"{count:,} object{'' if count == 1 else 's'}"


def _print_plan(plan: Plan, dry_run: bool) -> None:
    for each in plan.go[:SHOWN]:
        out.print(f"{each.key}: {_amount(each.items)}", markup=False)
    if len(plan.go) > SHOWN:
        out.print(f"... and {len(plan.go) - SHOWN:,} more (--json names all)")
    out.print(f"kept: {_objects(plan.on_list)} on the keep-list, {plan.of_git:,} of git repositories")
    for why, count in plan.reasons.items():
        out.print(f"kept: {count:,} {_SAID[why]}", markup=False)
    if not plan.go:
        out.print("nothing to remove")
        return
    items = [item for each in plan.go for item in each.items]
    _print_stores(items)
    said = "would be removed" if dry_run else "to be removed"
    out.print(f"{said}: of {_objects(len(plan.go))}, {_amount(items)}")


def _print_stores(items: Iterable[Item]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("STORE", "SHARES", "BYTES"):
        table.add_column(heading, overflow="fold")
    for store, (count, size) in by_store(items).items():
        table.add_row(Text(store), Text(f"{count:,}"), Text(decimal(size)))
    out.print(table)


def _print_gone(gone: Sequence[Gone]) -> None:
    removed = [item for each in gone for item in each.removed]
    _print_stores(removed)
    out.print(f"removed: of {_objects(sum(bool(each.removed) for each in gone))}, {_amount(removed)}")
    for why, count in Counter(each.kept for each in gone if each.kept is not None).items():
        out.print(f"kept: {count:,} {_SAID[why]}", markup=False)


def _tell_failures(gone: Sequence[Gone]) -> None:
    """Name what could not be removed, a line for each store and cause."""
    failures = Counter((item.store, explain(error)) for each in gone for item, error in each.failed.items())
    for (store, cause), count in sorted(failures.items()):
        err.print(f"{store}: {shares(count)} could not be removed: {cause}", markup=False)


def _print_json(plan: Plan, gone: Sequence[Gone], why: str | None) -> None:
    done = {each.what.object_id: each for each in gone}
    for each in plan.go:
        click.echo(json.dumps(_document(each, done.get(each.object_id), None)))
    for each, reason in plan.kept:
        click.echo(json.dumps(_document(each, None, reason)))
    removed = by_store(item for each in gone for item in each.removed)
    to_go = plan.by_store
    for store in sorted({*to_go, *plan.failed}):
        error = plan.failed.get(store)
        click.echo(
            json.dumps(
                {
                    "type": "store",
                    "store": store,
                    "asked": error is None,
                    "error": explain(error) if error else None,
                    "to_remove": _counts(to_go.get(store)),
                    "removed": _counts(removed.get(store)),
                }
            )
        )
    reasons = plan.reasons + Counter(each.kept for each in gone if each.kept is not None)
    click.echo(
        json.dumps(
            {
                "type": "summary",
                "objects": plan.objects,
                "bytes": plan.size,
                "keep_list": plan.wanted,
                "on_keep_list": plan.on_list,
                "of_git": plan.of_git,
                "kept": {reason.name.lower(): reasons[reason] for reason in Why},
                "to_remove": _counts(_total(plan.by_store)),
                "removed": _counts(_total(removed)),
                "failed": sum(len(each.failed) for each in gone),
                "refused": why,
            }
        )
    )


def _total(stores: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    return sum(count for count, _ in stores.values()), sum(size for _, size in stores.values())


def _counts(counts: tuple[int, int] | None) -> dict[str, int]:
    count, size = counts or (0, 0)
    return {"shares": count, "bytes": size}


def _document(each: Leftover, gone: Gone | None, reason: Why | None) -> dict[str, object]:
    """Return what JSON says of one object."""
    removed = gone.removed if gone else ()
    failed = gone.failed if gone else {}
    reason = gone.kept if gone else reason
    return {
        "type": "object",
        "object": each.object_id,
        "key": each.key,
        "wanted": each.wanted,
        "kept": reason.name.lower() if reason else None,
        "shares": [
            {
                "store": item.store,
                "name": item.name,
                "bytes": item.size,
                "removed": item in removed,
                "error": explain(failed[item]) if item in failed else None,
            }
            for item in each.items
        ],
    }
