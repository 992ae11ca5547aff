"""The commands that only look: `check` and `status`."""

from __future__ import annotations

import json
import sys
from collections import Counter

import click
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from annex_remote.care.health import State
from annex_remote.care.plan import Census
from annex_remote.care.verify import Proof, bytes_to_read
from annex_remote.caring import DAY, Care, Sample, parse_sample
from annex_remote.cli.findings import Tidings, advice, print_check, print_json, summary
from annex_remote.cli.keeping import (
    Command,
    Deadline,
    Mistake,
    cared_for,
    census_of,
    counting,
    json_option,
    quiet_option,
    time_option,
)
from annex_remote.cli.terminal import out, plainly
from annex_remote.limits import format_size, parse_size
from annex_remote.roster import GONE, RETIRED
from annex_remote.transfer.sites import explain

__all__ = ["check", "status", "verify_shares"]

RECENT = 30 * DAY


@click.command(cls=Command)
@click.argument("remote")
@click.argument("what", metavar="[KEY|FILE|--MATCHING-OPTION]...", nargs=-1)
@click.option("--verify", is_flag=True, help="Read the shares, and prove each of their blocks.")
@click.option("--sample", metavar="PART", help="With --verify: 5%, 1/30 or 10GiB a day, another part each day.")
@click.option("--max-read", metavar="SIZE", help="With --verify: stop after so many bytes.")
@click.option("--max-cost", type=float, help="With --verify: stop when so much money is spent, by stores' prices.")
@time_option
@json_option
@quiet_option
@plainly
def check(
    remote: str,
    what: tuple[str, ...],
    verify: bool,
    sample: str | None,
    max_read: str | None,
    max_cost: float | None,
    time_limit: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Tell how well what is in REMOTE is kept: all of it, or keys, files, folders, or what an option matches.

    Without --verify, by what the stores say that they have. Options by which git-annex matches come after --, as
    in check REMOTE -- --largerthan=1gb film/

    Exit status: 0 healthy, 1 something to repair, 2 data lost, 3 could not tell.
    """
    if not verify and (sample or max_read or max_cost is not None):
        raise Mistake("--sample, --max-read and --max-cost go with --verify")
    deadline = Deadline.of(time_limit)
    part = parse_sample(sample) if sample else Sample()
    most = parse_size("--max-read", max_read) if max_read else None
    care, _ = cared_for(remote, what)
    census = census_of(care, quiet or as_json)
    survey = census.survey
    proofs: list[Proof] = []
    unfinished = ""
    if verify:
        proofs, unfinished = verify_shares(care, census, part, deadline, most, max_cost, quiet or as_json)
        care.look_closer(census)  # there may be more of these now
    care.notes.forget_objects(
        lambda object_id: object_id in survey or bool(survey.failed) or care.only is not None
    )
    tidings = Tidings(care, remote)
    tidings.take(census)
    care.notes.close()
    if as_json:
        print_json(care, census, tidings, proofs, unfinished)
    elif not (quiet and tidings.exit_status == 0 and not unfinished):
        print_check(remote, care, census, tidings, proofs, unfinished)
    sys.exit(tidings.exit_status)


def verify_shares(
    care: Care,
    census: Census,
    sample: Sample,
    deadline: Deadline,
    most: int | None,
    max_cost: float | None,
    quiet: bool,
) -> tuple[list[Proof], str]:
    """Prove shares; return those that are not good, and what to say if it was stopped before its end."""
    tasks = care.tasks(census)
    run = None
    if care.only is None:
        tasks, run = care.todays(tasks, sample)
        began, goes_on = care.notes.begin(run)
        if goes_on:
            done = set(care.notes.proved(began))
            tasks = [task for task in tasks if (task.object_id, task.number) not in done]
        else:  # what was not reached the last time comes first: this one may be stopped as well
            lately = set(care.notes.proved(care.date() - RECENT))
            tasks = sorted(tasks, key=lambda task: (task.object_id, task.number) in lately)
    prices = {number: site.price for number, site in census.survey.sites.items()}
    total, read, spent = sum(map(bytes_to_read, tasks)), 0, 0.0
    found: list[Proof] = []
    left = len(tasks)
    why = ""
    with counting("proving", total, quiet) as moved:
        for proof in care.prove(tasks, moved):
            care.take_in(census, proof)
            left -= 1
            read += proof.read
            spent += proof.read * prices[proof.task.number] / 2**30
            if not proof.is_good:
                found.append(proof)
            if deadline.is_over:
                why = "the time is over"
            elif most is not None and read >= most:
                why = f"{format_size(most)} were read"
            elif max_cost is not None and spent >= max_cost:
                why = f"{max_cost:g} were spent"
            if why and left:
                break
    if left:
        again = "; the next run goes on from here" if run else ""
        return found, f"{why}: {left:,} of {len(tasks):,} shares were not read{again}"
    if run:
        care.notes.end(run)
    return found, ""


@click.command(cls=Command)
@click.argument("remote")
@json_option
@plainly
def status(remote: str, as_json: bool) -> None:
    """Show on one screen how REMOTE does: its stores, its objects, when they were proved last, what to do next.

    Exit status as of check.
    """
    care, _ = cared_for(remote)
    reach = care.reach()
    free = care.free()
    census = census_of(care, as_json)
    tidings = Tidings(care, remote)
    tidings.take(census)
    proved = _proved(care, census)
    if as_json:
        _status_json(care, census, tidings, reach, free, proved)
    else:
        _print_status(remote, care, census, tidings, reach, free, proved)
    care.notes.close()
    sys.exit(tidings.exit_status)


def _proved(care: Care, census: Census) -> dict[str, int]:
    """Return how many shares of each store were proved within the last thirty days."""
    counts: Counter[str] = Counter()
    sites = census.survey.sites
    for object_id, number in care.notes.proved(care.date() - RECENT):
        if number in sites and number in census.survey.shares(object_id):
            counts[sites[number].name] += 1
    return counts


def _percent(part: int, whole: int) -> str:
    """Return a percentage that is never more than it is."""
    return "-" if not whole else f"{100 * part // whole} %"


Reach = dict[str, tuple[float, Exception | None]]


def _print_status(
    remote: str,
    care: Care,
    census: Census,
    tidings: Tidings,
    reach: Reach,
    free: dict[str, int],
    proved: dict[str, int],
) -> None:
    roster = care.grid.roster
    used = census.survey.used()
    out.print(f"{remote}: {roster.coding}, made to bear the loss of {roster.survives_in_words()}", markup=False)
    table = Table(box=None, pad_edge=False)
    for heading in ("STORE", "STATE", "LATENCY", "SHARES", "USED", "FREE", "PROVED IN 30 DAYS"):
        table.add_column(heading, overflow="fold")
    for entry in roster.stores:
        if entry.state == GONE:
            continue
        took, error = reach.get(entry.name, (0.0, None))
        failed = census.survey.failed.get(entry.name) or error
        count, size = used.get(entry.name, (0, 0))
        said = explain(failed) if failed else entry.state if entry.name not in reach else "there"
        said += f" ({entry.state})" if entry.state == RETIRED else ""
        table.add_row(
            Text(entry.name),
            Text(said, style="red" if failed else ""),
            Text("" if failed or entry.name not in reach else f"{1000 * took:.1f} ms"),
            Text(f"{count:,}"),
            Text(decimal(size)),
            Text(decimal(free[entry.name]) if entry.name in free else ""),
            Text(_percent(proved.get(entry.name, 0), count)),
        )
    out.print(table)
    out.print(summary(care, census, tidings))
    total = sum(tidings.states.values())
    at_least = "at least " if tidings.states[State.UNKNOWN] else ""
    for lost in range(1, max(care.ground.best(care.ground.coding.needed), 0) + 1):
        bear = sum(count for left, count in tidings.bears.items() if left >= lost)
        stores = "any one store" if lost == 1 else f"any {lost} stores"
        out.print(f"the loss of {stores} is borne by {at_least}{_percent(bear, total)} ({bear:,} of {total:,})")
    shares = sum(count for count, _ in used.values())
    out.print(f"proved within 30 days: {_percent(sum(proved.values()), shares)} of {shares:,} shares")
    if tidings.exit_status == 0 and 2 * sum(proved.values()) < shares:
        out.print(f"next: git-annex-remote-swarm check {remote} --verify --sample 1/30  (daily: all in a month)")
    for line in advice(remote, care, census, tidings):
        out.print(f"next: {line}", markup=False)


def _status_json(
    care: Care, census: Census, tidings: Tidings, reach: Reach, free: dict[str, int], proved: dict[str, int]
) -> None:
    for name, (count, size) in census.survey.used().items():
        took, error = reach.get(name, (0.0, None))
        failed = census.survey.failed.get(name) or error
        said = {
            "type": "store",
            "store": name,
            "asked": failed is None,
            "error": explain(failed) if failed else None,
            "latency": None if failed else round(took, 6),
            "shares": count,
            "bytes": size,
            "free": free.get(name),
            "proved_in_30_days": proved.get(name, 0),
        }
        click.echo(json.dumps(said))
    said = {"type": "summary", "objects": sum(tidings.states.values())}
    said |= {state.value: tidings.states[state] for state in State}
    said |= {"left_over": tidings.leftovers, "others_possible": tidings.others_possible}
    said["crowded"] = tidings.crowded
    said["bear_loss_of"] = {str(left): count for left, count in sorted(tidings.bears.items())}
    said["exit_status"] = tidings.exit_status
    click.echo(json.dumps(said))
