"""The commands that keep a grid healthy: `check`, `repair`, `rebalance`, `status`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial

import click
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from annex_remote.annexed import files_of, is_stored_by_name, keys_in, looked_up
from annex_remote.care.health import State, Verdict
from annex_remote.care.plan import Census, Job, plan_rebalance, plan_repair
from annex_remote.care.rebuild import Tally
from annex_remote.care.survey import Survey
from annex_remote.care.verify import Proof
from annex_remote.care.work import Done
from annex_remote.caring import DAY, Care, Sample, parse_sample
from annex_remote.cli.terminal import dry_run_option, err, opened, out, plainly
from annex_remote.consult import Consulted, consult
from annex_remote.errors import BadSetting, NoCapability, Unavailable
from annex_remote.limits import format_size, parse_limit, parse_size
from annex_remote.model import Coding
from annex_remote.recoding import recode, to_recode
from annex_remote.roster import GONE, RETIRED
from annex_remote.transfer.sites import explain

__all__ = ["EXIT_LOST", "EXIT_UNKNOWN", "check", "coding", "rebalance", "repair", "retire", "status"]

EXIT_REPAIR, EXIT_LOST, EXIT_UNKNOWN = 1, 2, 3

SHOWN = 20
"""Objects that are shown one by one."""

RECENT = 30 * DAY

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_COLOURS = {
    State.HEALTHY: "green",
    State.DEGRADED: "yellow",
    State.CRITICAL: "red",
    State.LOST: "bold red",
    State.UNKNOWN: "magenta",
}


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


@dataclass
class Tidings:
    """What was found out, as it is told: by state, and the objects that are not healthy."""

    care: Care
    remote: str
    states: Counter[State] = field(default_factory=Counter)
    troubled: list[tuple[str, Verdict]] = field(default_factory=list)
    leftovers: int = 0
    """Objects that nobody wants, of too few shares: from removals that missed a store, or killed uploads."""
    crowded: int = 0
    outdated: int = 0
    """Objects that are coded otherwise than new ones are."""
    bears: Counter[int] = field(default_factory=Counter)
    """How many objects bear the loss of so many places."""

    def take(self, census: Census) -> None:
        known = bool(census.names)
        for object_id, verdict in census:
            incomplete = verdict.left < 0
            if known and incomplete and object_id not in census.names:
                self.leftovers += 1
                continue
            self.states[verdict.state] += 1
            self.bears[verdict.left] += 1
            self.crowded += verdict.crowded
            self.outdated += verdict.needed != self.care.ground.coding.needed
            if verdict.state is not State.HEALTHY:
                self.troubled.append((object_id, verdict))
        self.troubled.sort(key=lambda item: (_ORDER[item[1].state], item[1].left, item[0]))

    @property
    def exit_status(self) -> int:
        """0 healthy, 1 something to repair, 2 data lost, 3 could not tell."""
        if self.states[State.LOST]:
            return EXIT_LOST
        if self.states[State.CRITICAL] or self.states[State.DEGRADED]:
            return EXIT_REPAIR
        return EXIT_UNKNOWN if self.states[State.UNKNOWN] else 0

    def label(self, census: Census, object_id: str, files: dict[str, list[str]]) -> str:
        """Return what to call an object: its file, its key, or its id."""
        key = census.names.get(object_id)
        if key is None:
            return object_id
        return files.get(key, [key])[0]


_ORDER = {State.LOST: 0, State.CRITICAL: 1, State.DEGRADED: 2, State.UNKNOWN: 3, State.HEALTHY: 4}


Advice = Callable[[str, Care, Census, Tidings], Iterable[str]]
"""Says what to do next."""


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
    return care, told


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


# check


@click.command()
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
        raise click.UsageError("--sample, --max-read and --max-cost go with --verify")
    deadline = Deadline.of(time_limit)
    part = parse_sample(sample) if sample else Sample()
    most = parse_size("--max-read", max_read) if max_read else None
    care, _ = cared_for(remote, what)
    with listing(quiet or as_json) as heard:
        survey = care.survey(heard)
    census = care.census(survey)
    proofs: list[Proof] = []
    unfinished = ""
    if verify:
        proofs, unfinished = verify_shares(care, census, part, deadline, most, max_cost, quiet or as_json)
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
    prices = {number: site.price for number, site in census.survey.sites.items()}
    total, read, spent = sum(task.size for task in tasks), 0, 0.0
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


def print_check(
    remote: str,
    care: Care,
    census: Census,
    tidings: Tidings,
    proofs: Sequence[Proof],
    unfinished: str,
    advise: Advice | None = None,
) -> None:
    for name, error in care_failures(census.survey):
        err.print(f"{name}: could not be asked: {explain(error)}", markup=False)
    shown = tidings.troubled[:SHOWN]
    files = files_of(remote, [census.names[each] for each, _ in shown if each in census.names])
    if shown:
        table = Table(box=None, pad_edge=False)
        for heading in ("STATE", "BEARS", "SHARES", "OBJECT", "WHAT IS WRONG"):
            table.add_column(heading, overflow="fold")
        for object_id, verdict in shown:
            name = tidings.label(census, object_id, files)
            table.add_row(*_row(census, object_id, verdict, name))
        out.print(table)
        if len(tidings.troubled) > SHOWN:
            out.print(f"... and {len(tidings.troubled) - SHOWN:,} more (--json names all)")
    for proof in [proof for proof in proofs if not proof.is_damaged][:SHOWN]:  # what is damaged stands above
        site = census.survey.sites[proof.task.number]
        what = census.names.get(proof.task.object_id, proof.task.object_id)
        out.print(f"{site.name}: share {proof.task.number} of {what}: {proof}", markup=False)
    out.print(summary(care, census, tidings))
    if unfinished:
        out.print(f"not finished: {unfinished}")
    for line in (advise or advice)(remote, care, census, tidings):
        out.print(line, markup=False)


def care_failures(survey: Survey) -> list[tuple[str, Exception]]:
    """Return the stores that could not be asked, in the order of their names."""
    return sorted(survey.failed.items())


def _row(census: Census, object_id: str, verdict: Verdict, name: str) -> list[Text]:
    bears = "nothing" if verdict.left == 0 else "-" if verdict.left < 0 else f"loss of {verdict.left}"
    total = census.ground.coding.total
    return [
        Text(verdict.state.value, style=_COLOURS[verdict.state]),
        Text(bears),
        Text(f"{len(verdict.good)} of {total}, {verdict.needed} needed"),
        Text(name),
        Text(wrong_with(census, object_id, verdict)),
    ]


def wrong_with(census: Census, object_id: str, verdict: Verdict) -> str:
    """Say what keeps an object from being healthy."""
    sites = census.survey.sites
    known = census.damaged.get(object_id, {})
    words = [f"{sites[number].name}: {known.get(number, 'cannot be a share of it')}" for number in verdict.bad]
    missing = verdict.missing - len(census.ground.active(verdict.bad))
    if missing > 0:
        words.append(f"{missing} missing")
    if verdict.silent:
        words.append(f"not known: {' '.join(sorted({sites[number].name for number in verdict.silent}))}")
    if verdict.crowded:
        words.append("could be spread better")
    return "; ".join(words)


def summary(care: Care, census: Census, tidings: Tidings) -> Text:
    parts: list[tuple[str, str] | str] = []
    for state in (State.HEALTHY, State.DEGRADED, State.CRITICAL, State.LOST, State.UNKNOWN):
        count = tidings.states[state]
        if count or state is State.HEALTHY:
            parts += [", " if parts else "", (f"{count:,} {state.value}", _COLOURS[state] if count else "")]
    total = sum(tidings.states.values())
    return Text.assemble(f"{total:,} object{'' if total == 1 else 's'}: ", *parts)


def advice(remote: str, care: Care, census: Census, tidings: Tidings) -> Iterator[str]:
    """Say what to do next."""
    program = "git-annex-remote-swarm"
    if tidings.states[State.LOST]:
        wanted = ", unless another clone has dropped them (git annex sync tells)"
        wanted = wanted if census.names else ", or left over by a removal"
        yield (
            f"{tidings.states[State.LOST]:,} cannot be rebuilt from what is left{wanted}: look for stores "
            "that were unplugged or removed, or copy the files again from where they are"
        )
    repairable = sum(
        verdict.missing > 0 or bool(verdict.bad) for _, verdict in tidings.troubled if verdict.left >= 0
    )
    if repairable:
        yield f"{repairable:,} to be repaired: {program} repair {remote}"
    takers = len(care.ground.active(care.ground.places))
    if takers < care.ground.coding.total:
        yield (
            f"{care.ground.coding.total} shares of each object are wanted, and the stores take {takers}: "
            f"add one with {program} stores {remote} add NAME=ADDRESS"
        )
    retired = sorted(entry.name for entry in care.grid.roster.stores if entry.state == RETIRED)
    if tidings.crowded or retired:
        yield f"shares are not where they should be: {program} rebalance {remote}"
    if tidings.outdated:
        yield f"{tidings.outdated:,} coded otherwise than {care.ground.coding}: {program} rebalance {remote}"
    if tidings.states[State.UNKNOWN]:
        yield "what is unknown may be whole: try again when all stores can be asked"
    if tidings.leftovers or census.survey.strays:
        count = tidings.leftovers + len(census.survey.strays)
        yield f"{count:,} left over, of removals or uploads that broke off: {program} gc {remote}"


def print_json(care: Care, census: Census, tidings: Tidings, proofs: Sequence[Proof], unfinished: str) -> None:
    for name, (count, size) in census.survey.used().items():
        error = census.survey.failed.get(name)
        said = {
            "type": "store",
            "store": name,
            "asked": error is None,
            "error": explain(error) if error else None,
            "shares": count,
            "bytes": size,
        }
        click.echo(json.dumps(said))
    for proof in proofs:
        click.echo(json.dumps(_proof_document(census, proof)))
    for object_id, verdict in census:
        wanted = not census.names or object_id in census.names
        click.echo(json.dumps(object_document(census, object_id, verdict, wanted=wanted)))
    click.echo(
        json.dumps(
            {
                "type": "summary",
                "objects": sum(tidings.states.values()),
                **{state.value: tidings.states[state] for state in State},
                "left_over": tidings.leftovers,
                "unfinished": unfinished or None,
                "exit_status": tidings.exit_status,
            }
        )
    )


def _proof_document(census: Census, proof: Proof) -> dict[str, object]:
    return {
        "type": "share",
        "object": proof.task.object_id,
        "key": census.names.get(proof.task.object_id),
        "store": proof.store,
        "number": proof.task.number,
        "damaged": proof.is_damaged,
        "bad_segments": list(proof.bad),
        "error": explain(proof.error) if proof.error else None,
    }


def object_document(census: Census, object_id: str, verdict: Verdict, *, wanted: bool = True) -> dict[str, object]:
    """Return what JSON says of an object."""
    sites = census.survey.sites

    def places(numbers: Iterable[int]) -> list[dict[str, object]]:
        return [{"number": number, "store": sites[number].name} for number in numbers]

    return {
        "type": "object",
        "object": object_id,
        "key": census.names.get(object_id),
        "wanted": wanted,
        "state": verdict.state.value,
        "needed": verdict.needed,
        "bears_loss_of": verdict.left,
        "good": places(verdict.good),
        "bad": places(verdict.bad),
        "unknown": places(verdict.silent),
        "missing": verdict.missing,
        "crowded": verdict.crowded,
    }


# repair, rebalance


@click.command()
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
    census = _census(care, quiet or as_json)
    jobs = plan_repair(census, only_below)
    _carry_out(remote, care, told, census, jobs, "repaired", dry_run, Deadline.of(time_limit), as_json, quiet)


@click.command()
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
    census = _census(care, quiet or as_json)
    deadline = Deadline.of(time_limit)
    if care.ground.earlier or census.survey.staged:
        _recode(care, census, dry_run, deadline, quiet or as_json, _folder(told))
    jobs = plan_rebalance(census, free=care.free(), most=care.most())
    _carry_out(remote, care, told, census, jobs, "moved", dry_run, deadline, as_json, quiet)


def _recode(
    care: Care, census: Census, dry_run: bool, deadline: Deadline, quiet: bool, folder: str | None
) -> None:
    """Code all objects by the grid's coding; when none is left to be, the list of stores says so."""
    objects = to_recode(care, census)
    if dry_run:
        out.print(f"would be done: {len(objects):,} to be coded anew, as {care.ground.coding}")
        return
    failed = done = 0
    for each in recode(care, objects, is_over=lambda: deadline.is_over, folder=folder):
        done += 1
        name = census.names.get(each.object_id, each.object_id)
        for line in [*each.notes, *([explain(each.error)] if each.error else [])]:
            err.print(f"{name}: {line}", markup=False)
        failed += each.error is not None
    if objects and not quiet:
        out.print(f"{done - failed:,} of {len(objects):,} coded anew, as {care.ground.coding}")
    census.survey = care.survey()
    if done == len(objects) and not failed and not census.survey.failed and care.seed is not None:
        care.grid.change(care.grid.roster.with_all_coded())


def _census(care: Care, quiet: bool) -> Census:
    with listing(quiet) as heard:
        return care.census(care.survey(heard))


def _folder(told: Consulted) -> str | None:
    """Return where large shares wait until they are stored: in the repository, where there is room for files."""
    folder = os.path.join(told.git_dir, "annex", "tmp")
    with suppress(OSError):
        os.makedirs(folder, exist_ok=True)
    return folder if os.path.isdir(folder) else None


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
    if dry_run:
        _print_plan(census, jobs, as_json)
    else:
        done = carry_out(
            care,
            census,
            jobs,
            deadline,
            quiet or as_json,
            _folder(told),
            partial(tell_done, census, as_json=as_json, quiet=quiet),
        )
        if not (as_json or quiet) or (jobs and not as_json):
            left = len(jobs) - done
            more = f", {left:,} left as the time is over: the next run goes on" if left else ""
            if jobs or not quiet:
                out.print(f"{done:,} object{'' if done == 1 else 's'} {verb}{more}" if jobs else "nothing to do")
    care.notes.close()
    tidings = Tidings(care, remote)
    tidings.take(census)
    if as_json:
        click.echo(json.dumps({"type": "summary", **{state.value: tidings.states[state] for state in State}}))
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
) -> int:
    """Do `jobs` until the deadline; return how many were done."""
    total = sum(job.reads + job.writes for job in jobs)
    count = 0
    with counting("repairing", total, quiet) as moved:
        tally = Tally(lambda read, written: moved(read + written))
        for done in care.work(census, tally, folder).run(jobs):
            count += 1
            tell(done)
            if deadline.is_over and count < len(jobs):
                break
    care.grid.keep_book()
    return count


def tell_done(census: Census, done: Done, as_json: bool, quiet: bool) -> None:
    name = census.names.get(done.job.object_id, done.job.object_id)
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
        name = census.names.get(job.object_id, job.object_id)
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
        made = (
            f"make {max(job.verdict.missing, len(job.verdict.bad))}" if add is None else f"make on {' '.join(add)}"
        )
        words = [made] if add is None or add else []
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
@click.option("--force", is_flag=True, help="Also if most stores cannot be reached.")
@click.pass_obj
@plainly
def retire(
    remote: str, store: str, dry_run: bool, time_limit: str | None, limit_rate: str | None, force: bool
) -> None:
    """Empty STORE: its shares are made anew on other stores first, and proved, and then removed from it.

    It takes no new shares from the beginning on. When it has none left, it is marked as gone, and can be taken
    away. What was stopped goes on when the command is given again. Exit status 0 when the store is empty, 1
    before.
    """
    care, told = cared_for(remote, limit_rate=limit_rate)
    grid = care.grid
    state = grid.roster.entry(store).state
    if state == GONE:
        raise BadSetting(f"the store {store} is gone already")
    if state != RETIRED:
        roster = grid.roster.with_removed(store)
        if not dry_run:
            grid.change(roster, force=force)
            out.print(f"{store} takes no new shares (roster {roster.serial})", markup=False)
    sites = [replace(site, takes_shares=site.takes_shares and site.name != store) for site in grid.sites()]
    care = Care(grid, care.capability, care.names, sites=sites)
    census = _census(care, quiet=False)
    if store in census.survey.failed:
        raise Unavailable(
            f"{store} could not be asked what it has: {explain(census.survey.failed[store])}; if it is lost: "
            f"git-annex-remote-swarm stores {remote} remove {store} --gone, then repair"
        )
    jobs = plan_rebalance(census, free=care.free(), most=care.most(), only_from=[store])
    if dry_run:
        _print_plan(census, jobs, as_json=False)
        return
    count = carry_out(
        care,
        census,
        jobs,
        Deadline.of(time_limit),
        False,
        _folder(told),
        partial(tell_done, census, as_json=False, quiet=False),
    )
    care.notes.close()
    left, size = census.survey.used().get(store, (0, 0))
    if left or census.survey.failed:
        others = "; ".join(f"{name} could not be asked" for name in census.survey.failed)
        why = others or (
            "the time is over"
            if count < len(jobs)
            else "no other store takes them: add one, or see what is said above"
        )
        out.print(f"{left:,} shares ({decimal(size)}) are still on {store}: {why}", markup=False)
        sys.exit(EXIT_REPAIR)
    roster = grid.roster.with_changed(store, state=GONE)
    grid.change(roster, force=force)
    out.print(f"{store} is empty, and marked as gone (roster {roster.serial})", markup=False)


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
    out.print(f"what is stored is coded as it was until: git-annex-remote-swarm rebalance {remote}", markup=False)


# status


@click.command()
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
    census = _census(care, as_json)
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
    for lost in range(1, max(care.ground.best(care.ground.coding.needed), 0) + 1):
        bear = sum(count for left, count in tidings.bears.items() if left >= lost)
        stores = "any one store" if lost == 1 else f"any {lost} stores"
        out.print(f"the loss of {stores} is borne by {_percent(bear, total)} ({bear:,} of {total:,})")
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
    said |= {"left_over": tidings.leftovers, "crowded": tidings.crowded}
    said["bear_loss_of"] = {str(left): count for left, count in sorted(tidings.bears.items())}
    said["exit_status"] = tidings.exit_status
    click.echo(json.dumps(said))
