"""The commands that put right what is wrong: `repair`, `rebalance`, `stores retire`, `stores coding`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import click
from rich.filesize import decimal

from annex_remote.care.health import Ground
from annex_remote.care.plan import Census, Job, plan_rebalance, plan_repair
from annex_remote.care.rebuild import Tally
from annex_remote.care.survey import take_survey
from annex_remote.care.work import Done
from annex_remote.caring import Care
from annex_remote.cli.findings import (
    Tidings,
    advice,
    care_failures,
    labels_of,
    object_document,
    summary,
    summary_document,
)
from annex_remote.cli.keeping import (
    EXIT_REPAIR,
    Command,
    Deadline,
    cared_for,
    census_of,
    counting,
    folder_of,
    json_option,
    quiet_option,
    rate_option,
    time_option,
)
from annex_remote.cli.terminal import dry_run_option, err, held, opened, out, plainly
from annex_remote.consult import Consulted, consult
from annex_remote.errors import BadSetting, Unavailable
from annex_remote.model import Coding
from annex_remote.recoding import recode, to_recode
from annex_remote.roster import GONE, RETIRED
from annex_remote.transfer.sites import explain

__all__ = ["carry_out", "coding", "rebalance", "repair", "retire", "tell_done"]


SETTLE = 90.0
"""Seconds after which clones have heard of a change of the stores before they upload: see `grid.REFRESH`."""


@click.command(cls=Command)
@click.argument("remote")
@click.argument("what", metavar="[KEY|FILE|--MATCHING-OPTION]...", nargs=-1)
@dry_run_option
@click.option(
    "--only-below", type=click.IntRange(1), metavar="N", help="Only what does not bear the loss of N stores."
)
@time_option
@rate_option
@json_option
@quiet_option
@plainly
def repair(
    remote: str,
    what: tuple[str, ...],
    dry_run: bool,
    only_below: int | None,
    time_limit: str | None,
    limit_rate: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make what is in REMOTE whole again: missing and damaged shares are made from the others.

    What is nearest to its end comes first. A share whose store cannot be asked now is not made elsewhere: it may
    be there; a store that is lost is given up with: stores REMOTE remove STORE --gone

    Exit status: 0 all healthy now, 1 something is left to repair, 2 data lost, 3 could not tell.
    """
    care, told = cared_for(remote, what, limit_rate=limit_rate)
    census = census_of(care, quiet or as_json)
    jobs = plan_repair(census, only_below)
    _carry_out(remote, care, told, census, jobs, "repaired", dry_run, Deadline.of(time_limit), as_json, quiet)


@click.command(cls=Command)
@click.argument("remote")
@dry_run_option
@time_option
@rate_option
@json_option
@quiet_option
@plainly
def rebalance(
    remote: str, dry_run: bool, time_limit: str | None, limit_rate: str | None, as_json: bool, quiet: bool
) -> None:
    """Bring the shares in REMOTE to where they should be, after stores were added, retired or resized.

    As little as possible is moved. What is to be somewhere else is made there anew, and proved, before it goes
    where it was. After a change of the coding, objects are coded anew.
    """
    care, told = cared_for(remote, limit_rate=limit_rate)
    census = census_of(care, quiet or as_json)
    deadline = Deadline.of(time_limit)
    if care.ground.earlier or census.survey.staged:
        _recode(care, census, dry_run, deadline, as_json, quiet, folder_of(told))
    # What was begun to be coded when the time was over may still go on.
    jobs = [] if deadline.is_over else plan_rebalance(census, free=care.free(), most=care.most())
    _carry_out(remote, care, told, census, jobs, "moved", dry_run, deadline, as_json, quiet)


def _recode(
    care: Care, census: Census, dry_run: bool, deadline: Deadline, as_json: bool, quiet: bool, folder: str | None
) -> None:
    """Code all objects by the grid's coding; when none is left to be, the list of stores says so."""
    objects, unsure = to_recode(care, census)
    unsure += len(census.survey.failed)
    if dry_run:
        for object_id in objects if as_json else ():
            key = census.names.get(object_id)
            click.echo(json.dumps({"type": "job", "object": object_id, "key": key, "code_anew": True}))
        if not as_json:
            out.print(f"would be done: {len(objects):,} to be coded anew, as {care.ground.coding}")
        return
    failed = done = 0
    for each in recode(care, objects, is_over=lambda: deadline.is_over, folder=folder):
        done += 1
        failed += each.error is not None
        key = census.names.get(each.object_id)
        error = explain(each.error) if each.error else None
        if as_json:
            said = {
                "type": "coded",
                "object": each.object_id,
                "key": key,
                "error": error,
                "notes": list(each.notes),
            }
            click.echo(json.dumps(said))
            continue
        for line in [*each.notes, *([error] if error else [])]:
            err.print(f"{census.called(each.object_id)}: {line}", markup=False)
    left = len(objects) - done
    if objects and not (quiet or as_json):
        more = f", {left:,} left as the time is over: the next run goes on" if left else ""
        out.print(f"{done - failed:,} of {len(objects):,} coded anew, as {care.ground.coding}{more}")
    census.survey = care.survey()
    # Only when it is known of every object: by `earlier` is told what is absent, and what may be removed.
    if not (left or failed or unsure or census.survey.failed) and care.seed is not None:
        care.grid.change(care.grid.roster.with_all_coded())
        census.ground = care.ground = Ground(care.sites, care.grid.roster.coding)


def _carry_out(
    remote: str,
    care: Care,
    told: Consulted,
    census: Census,
    jobs: Sequence[Job],
    verb: str,
    dry_run: bool,
    deadline: Deadline,
    as_json: bool,
    quiet: bool,
) -> None:
    """Do what was planned, or say it; ends the program with the status of what is then."""
    for name, error in care_failures(census.survey):
        err.print(f"{name}: could not be asked: {explain(error)}", markup=False)
    if not as_json:
        census.labels = labels_of(remote, census, [job.object_id for job in jobs])
    if dry_run:
        _print_plan(census, jobs, as_json)
    else:
        done, failed = carry_out(
            care,
            census,
            jobs,
            deadline,
            quiet or as_json,
            folder_of(told),
            partial(tell_done, census, as_json=as_json, quiet=quiet),
        )
        if jobs and not as_json:
            left, good = len(jobs) - done, done - failed
            more = f", {left:,} left as the time is over: the next run goes on" if left else ""
            trouble = f", {failed:,} not as it should be: see above" if failed else ""
            out.print(f"{good:,} object{'' if good == 1 else 's'} {verb}{trouble}{more}")
        elif not (as_json or quiet):
            out.print("nothing can be done now" if census.survey.failed else "nothing to do")
    care.notes.close()
    tidings = Tidings(care, remote)
    tidings.take(census)
    if as_json:
        click.echo(json.dumps(summary_document(tidings)))
    elif not quiet or tidings.exit_status:
        out.print(summary(care, census, tidings))
        for line in advice(remote, care, census, tidings):
            out.print(line, markup=False)
    sys.exit(tidings.exit_status)


def carry_out(
    care: Care,
    census: Census,
    jobs: Sequence[Job],
    deadline: Deadline,
    quiet: bool,
    folder: str | None,
    tell: Callable[[Done], None],
) -> tuple[int, int]:
    """Do `jobs` until the deadline; return how many were done, and how many of these not as they should be."""
    total = sum(job.reads + job.writes for job in jobs)
    count = failed = 0
    with counting("repairing", total, quiet) as moved:
        tally = Tally(lambda read, written: moved(read + written))
        for done in care.work(census, tally, folder).run(jobs):
            count += 1
            failed += done.error is not None or bool(done.notes)
            tell(done)
            if deadline.is_over and count < len(jobs):
                break
    care.grid.keep_book()
    return count, failed


def tell_done(census: Census, done: Done, as_json: bool, quiet: bool) -> None:
    """Say what came of one object."""
    name = census.called(done.job.object_id)
    if as_json:
        made = done.outcome.made if done.outcome else {}
        said = object_document(census, done.job.object_id, done.verdict)
        sites = census.survey.sites
        said |= {
            "type": "repaired",
            "was": done.job.verdict.state.value,
            "made": [{"number": number, "store": sites[number].name} for number in sorted(made)],
            "removed": list(done.dropped),
            "error": explain(done.error) if done.error else None,
            "notes": list(done.notes),
        }
        click.echo(json.dumps(said))
        return
    if done.error is not None:
        err.print(f"{name}: {explain(done.error)}", markup=False)
    for note in done.notes:
        err.print(f"{name}: {note}", markup=False)
    if not quiet and done.outcome is not None and done.outcome.made:
        stores = " ".join(sorted(census.survey.sites[number].name for number in done.outcome.made))
        out.print(f"{name}: {done.job.verdict.state.value} -> {done.verdict.state.value} ({stores})", markup=False)


def _print_plan(census: Census, jobs: Sequence[Job], as_json: bool) -> None:
    sites = census.survey.sites
    for job in jobs:
        name = census.called(job.object_id)
        add = None if job.add is None else [sites[number].name for number in job.add]
        drop = [sites[number].name for number in job.drop] + [
            f"{stray.store}: {stray.name}" for stray in job.strays
        ]
        if as_json:
            said = object_document(census, job.object_id, job.verdict)
            said |= {"type": "job", "make_on": add, "remove": drop, "reads": job.reads, "writes": job.writes}
            said["price"] = job.price
            click.echo(json.dumps(said))
            continue
        if add is None:
            words = [f"make {job.verdict.missing} missing"] if job.verdict.missing else []
            bad = " ".join(drop[: len(job.drop)])
            words += [f"make anew, or remove, what is damaged on {bad}"] if bad else []
            drop = drop[len(job.drop) :]
        else:
            words = [f"make on {' '.join(add)}"] if add else []
        words += [f"remove from {' '.join(drop)}"] if drop else []
        out.print(f"{name}: {job.verdict.state.value}: {', then '.join(words)}", markup=False)
    if not as_json:
        reads, writes, price = (
            (sum(each) for each in zip(*((j.reads, j.writes, j.price) for j in jobs), strict=True))
            if jobs
            else (0, 0, 0.0)
        )
        money = f", for {price:.2f} of money" if price else ""
        out.print(
            f"would be done: {len(jobs):,} object{'' if len(jobs) == 1 else 's'}, "
            f"{decimal(int(reads))} read{money}, {decimal(int(writes))} written"
        )


@click.command()
@click.argument("store")
@dry_run_option
@time_option
@rate_option
@click.option(
    "--settle",
    type=click.FloatRange(0),
    default=SETTLE,
    show_default=True,
    help="Seconds to wait, in the end, for other clones to hear of it.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Also if not all of its shares can be made elsewhere, or most stores cannot be reached.",
)
@click.pass_obj
@plainly
def retire(
    remote: str,
    store: str,
    dry_run: bool,
    time_limit: str | None,
    limit_rate: str | None,
    settle: float,
    force: bool,
) -> None:
    """Empty STORE: its shares are made anew on other stores first, and proved, and then removed from it.

    It takes no new shares from the beginning on. When it has none left, it is marked as gone, and can be taken
    away. What was stopped goes on when the command is given again. Exit status 0 when the store is empty, 1
    before.

    Before it is marked it is listed once more, after a while in which other clones hear that it takes no new
    shares.
    """
    care, told = cared_for(remote, limit_rate=limit_rate)
    grid = care.grid
    if not dry_run:
        _ = held(grid.capability, remote).signing_seed  # said before anything is listed
    state = grid.roster.entry(store).state
    if state == GONE:
        raise BadSetting(f"the store {store} is gone already")
    roster = grid.roster if state == RETIRED else grid.roster.with_removed(store)
    sites = [replace(site, takes_shares=site.takes_shares and site.name != store) for site in grid.sites()]
    care = Care(grid, care.capability, care.names, sites=sites)
    census = census_of(care, quiet=False)
    if store in census.survey.failed:
        raise Unavailable(
            f"{store} could not be asked what it has: {explain(census.survey.failed[store])}; if it is lost: "
            f"git-annex-remote-swarm stores {remote} remove {store} --gone, then repair"
        )
    jobs = plan_rebalance(census, free=care.free(), most=care.most(), only_from=[store])
    if dry_run:
        _print_plan(census, jobs, as_json=False)
        return
    here = {site.number for site in sites if site.name == store}
    stay = sum(len(here & set(verdict.good)) for _, verdict in census if verdict.left >= 0)
    stay -= sum(len(here & set(job.drop)) for job in jobs)
    if stay and state != RETIRED and not force:
        raise BadSetting(
            f"no other store takes {stay:,} of the shares on {store}, and nothing was changed: add a store "
            "first, or see check (--force retires it all the same)"
        )
    roster_changed = roster is not grid.roster
    if roster_changed:
        grid.change(roster, force=force)
        out.print(f"{store} takes no new shares (roster {roster.serial})", markup=False)
    count, _ = carry_out(
        care,
        census,
        jobs,
        Deadline.of(time_limit),
        False,
        folder_of(told),
        partial(tell_done, census, as_json=False, quiet=False),
    )
    care.notes.close()
    if roster_changed and settle:
        err.print(f"waiting {settle:g} seconds for uploads of clones that have not heard of it (--settle 0: not)")
        time.sleep(settle)
    left, unwanted, failed = _left_on(care, census, store)
    if left or failed:
        why = failed or (
            "the time is over, and the same command goes on"
            if count < len(jobs)
            else "see what is said above, and give the command again; or add a store that takes them"
        )
        out.print(f"{left:,} shares are still on {store}: {why}", markup=False)
        sys.exit(EXIT_REPAIR)
    roster = grid.roster.with_changed(store, state=GONE)
    grid.change(roster, force=force)
    rest = f", but for {unwanted:,} shares that removals have left over" if unwanted else ""
    out.print(f"{store} is empty{rest}, and marked as gone (roster {roster.serial})", markup=False)


def _left_on(care: Care, census: Census, store: str) -> tuple[int, int, str]:
    """List a store once more: how many shares it has, and how many more that nobody wants.

    Also why that could not be told, if so.
    """
    sites = [site for site in care.sites if site.name == store]
    survey = take_survey(sites, care.grid.id, stall=care.grid.settings.stall, cancelled=care.cancelled)
    left = unwanted = 0
    for object_id in survey:
        count = len(survey.shares(object_id)) + len(survey.strays.get(object_id, ()))
        count += len(survey.staged.get(object_id, ()))
        is_left_over = bool(census.names) and object_id not in census.names and census.verdict(object_id).left < 0
        # One that is new was put there just now.
        if is_left_over and object_id in census.survey and not census.is_nameless(object_id):
            unwanted += count
        else:
            left += count
    return left, unwanted, "; ".join(explain(error) for error in survey.failed.values())


@click.command()
@click.option("--needed", type=click.IntRange(1, 256), help="How many shares rebuild an object.")
@click.option("--happy", type=click.IntRange(1, 256), help="How many shares an upload has to store.")
@click.option("--total", type=click.IntRange(1, 256), help="How many shares an upload tries to store.")
@click.option("--force", is_flag=True, help="Also if most stores cannot be reached.")
@dry_run_option
@click.pass_obj
@plainly
def coding(
    remote: str, needed: int | None, happy: int | None, total: int | None, force: bool, dry_run: bool
) -> None:
    """Change how objects are coded from now on. What is stored stays as it is until `rebalance`."""
    grid = opened(consult(remote))
    was = grid.roster.coding
    chosen = Coding(needed or was.needed, happy or was.happy, total or was.total)
    if chosen == was:
        raise BadSetting(f"it is {was} already: give --needed, --happy or --total")
    roster = grid.roster.with_coding(chosen)
    if dry_run:
        out.print(f"would be done: {chosen} instead of {was} (roster {roster.serial})")
        return
    grid.change(roster, force=force)
    out.print(f"{chosen} instead of {was} (roster {roster.serial})")
    then = "rebalance" if chosen.needed != was.needed else "repair" if chosen.total > was.total else ""
    if then:
        out.print(f"what is stored stays as it was until: git-annex-remote-swarm {then} {remote}", markup=False)
