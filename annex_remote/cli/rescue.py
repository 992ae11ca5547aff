"""The commands that take no repository: `recover` brings back what the stores have, `health` checks it blindly."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import click
from rich.filesize import decimal

from annex_remote.capability import Capability
from annex_remote.care.health import State
from annex_remote.care.plan import Census, plan_repair
from annex_remote.care.verify import Proof
from annex_remote.caring import Care, Sample, parse_sample
from annex_remote.cli.check import verify_shares
from annex_remote.cli.findings import Tidings, care_failures, print_check, print_json, unknown
from annex_remote.cli.keeping import (
    EXIT_LOST,
    EXIT_UNKNOWN,
    Command,
    Deadline,
    census_of,
    counting,
    json_option,
    listing,
    quiet_option,
    rate_option,
    time_option,
)
from annex_remote.cli.repair import carry_out, tell_done
from annex_remote.cli.terminal import dry_run_option, err, out, plainly
from annex_remote.credentials import ENVIRONMENT, environment_capability
from annex_remote.errors import BadSetting, NoCapability, SwarmError
from annex_remote.finding import read_places, reopen
from annex_remote.grid import Grid
from annex_remote.limits import parse_limit
from annex_remote.recovery import Back, Fate, Recovery, clone_address, pushed_repositories
from annex_remote.stores import is_far
from annex_remote.transfer.sites import explain

__all__ = ["health", "recover"]

_LITERAL = re.compile(r"\s*swarm-?(full|read|verify)-", re.IGNORECASE)
_MOST = 4096
"""Bytes that are read of a file with a capability."""


def capability_from(source: str) -> Capability:
    """Return the capability that `source` says where it is: ``-``, ``env``, or the path of a file.

    Raises `BadSetting`, never with the words that it was given: these may be the secret itself.
    """
    if _LITERAL.match(source):
        raise BadSetting(
            "a capability is a secret, and does not go on the command line: other users of this machine see "
            "command lines, and shells keep them. Give - and type it or pipe it in, or the path of a file that "
            f"has it, or env and set {ENVIRONMENT}"
        )
    if source == "env":
        found = environment_capability()
        if found is None:
            raise BadSetting(f"{ENVIRONMENT} is not set")
        return found
    if source == "-":
        if sys.stdin.isatty():
            return Capability.parse(str(click.prompt("Capability", hide_input=True, err=True)))
        return Capability.parse(_word(sys.stdin.read(_MOST)))
    try:
        with open(source, encoding="utf-8", errors="replace") as file:
            return Capability.parse(_word(file.read(_MOST)))
    except OSError as error:
        raise BadSetting(
            f"the file that is to have the capability cannot be read ({error.strerror}): give its path, or - to "
            f"type it or pipe it in, or env for {ENVIRONMENT}"
        ) from error
    except ValueError as error:  # a zero byte in the path
        raise BadSetting("this cannot be the path of a file") from error


def _word(text: str) -> str:
    """Return the one line of a text that is a capability, or all of it if there is not just one."""
    if not text.strip():
        raise BadSetting("no capability was given: there is nothing where it is to be")
    found = [line for line in text.splitlines() if _LITERAL.match(line.strip())]
    return found[0] if len(found) == 1 else text


def _care_of(
    capability: Capability, addresses: Sequence[str], limit_rate: str | None, *, to_read: bool = False
) -> Care:
    reopened = reopen(capability, read_places(addresses), to_read=to_read)
    for line in reopened.notes:
        err.print(line, markup=False)
    if limit_rate is not None:
        reopened.grid.slow_down(parse_limit("--limit-rate", limit_rate))
    return Care(reopened.grid, capability)


# recover


@click.command(cls=Command)
@click.argument("capability", metavar="-|env|FILE")
@click.argument("addresses", metavar="[NAME=]ADDRESS...", nargs=-1, required=True)
@click.option("--to", "folder", metavar="DIR", type=click.Path(file_okay=False), help="Where the content goes.")
@click.option("--only", metavar="PATTERN", help="Only keys that match: 'SHA256E-*.jpg'.")
@dry_run_option
@rate_option
@json_option
@plainly
def recover(
    capability: str,
    addresses: tuple[str, ...],
    folder: str | None,
    only: str | None,
    dry_run: bool,
    limit_rate: str | None,
    as_json: bool,
) -> None:
    """Bring back what the stores have, with the capability alone, where no git repository is left.

    The capability is typed or piped in (-), in the environment (env: SWARM_CAPABILITY), or in a FILE. One ADDRESS
    at which a store of the grid is now does, such as dir:/media/usb/annex: the list of all stores is there. Give
    those that are not where they were as well. For a store that wants a login write NAME=ADDRESS, and set
    SWARM_STORE_NAME_USER and SWARM_STORE_NAME_PASSWORD. Nothing is put on any store.

    What is whole stands in DIR by its key, as git-annex's directory special remote keeps it. The next run goes on
    from where this one ends.

    The names of the files are in the git repository. If that was pushed to the grid, the last lines say how to
    clone it, out of the stores or out of DIR. Else, in an older clone of it, git-annex takes the content from DIR:

    \b
      git annex reinject --known DIR/???/???/*/*

    or uses it as a remote:

    \b
      git annex initremote recovered type=directory directory=DIR encryption=none
      git annex fsck --from recovered --fast

    In a new repository, which knows no keys, the second line is, for each file of DIR, with the key that names it:

    \b
      git annex setpresentkey KEY $(git config remote.recovered.annex-uuid) 1
      git annex fromkey KEY FILE

    Exit status: 0 all recovered, 2 some is lost, 3 some could not be told or got, 1 for mistakes.
    """  # noqa: D301 # click wants the character
    if folder is None and not dry_run:
        raise BadSetting("--to DIR is missing: it says where the content goes")
    held = capability_from(capability)
    if not held.can_read:
        raise NoCapability(
            "this is a verify capability, which can read nothing: recover takes the full or the read capability; "
            "git-annex-remote-swarm health checks and repairs with this one"
        )
    folder = os.path.abspath(folder) if folder is not None else None
    care = _care_of(held, addresses, limit_rate, to_read=True)
    with listing(as_json) as heard:
        survey = care.survey(heard)
    for name, error in care_failures(survey):
        err.print(f"{name}: could not be asked: {explain(error)}", markup=False)
    if folder is not None and not dry_run:
        _make(folder)
    recovery = Recovery(care, survey, folder, only, dry_run)
    found: list[Back] = []
    total = sum(map(recovery.amount, survey))
    with counting("looking" if dry_run else "recovering", total, as_json) as moved:
        recovery.moved = moved
        try:
            for back in recovery.run():
                found.append(back)
                _tell(back, dry_run, as_json)
        finally:
            recovery.cancelled.set()
    care.grid.keep_book()
    care.notes.close()
    sys.exit(_end(care.grid, recovery, found, as_json))


def _make(folder: str) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise SwarmError(f"{folder} cannot be made: {error.strerror}") from error


def _tell(back: Back, dry_run: bool, as_json: bool) -> None:
    if as_json:
        said = {
            "type": "object",
            "object": back.object_id,
            "key": back.key,
            "size": back.size,
            "state": back.fate.value,
            "path": back.path if back.fate in (Fate.RECOVERED, Fate.THERE) else None,
            "cause": back.cause or None,
        }
        click.echo(json.dumps(said))
        return
    shown = back.key or f"object {back.object_id}"
    if dry_run:
        size = "" if back.size is None else decimal(back.size)
        out.print(f"{back.fate.value:11}  {size:>9}  {shown}", markup=False)
    elif back.fate in (Fate.LOST, Fate.UNKNOWN):
        err.print(f"{shown}: {_WORDS[back.fate]}: {back.cause}", markup=False)


_WORDS = {
    Fate.LOST: "lost, or left over by a removal",
    Fate.UNKNOWN: "not recovered, and not known to be lost",
}


def _end(grid: Grid, recovery: Recovery, found: Sequence[Back], as_json: bool) -> int:
    """Say what came of it and what can be done with it; return the exit status."""
    counts = Counter(back.fate for back in found)
    hidden = recovery.may_hide()
    status = EXIT_LOST if counts[Fate.LOST] else EXIT_UNKNOWN if counts[Fate.UNKNOWN] or hidden else 0
    repositories = pushed_repositories(found)
    commands = {uuid: _clone_command(grid, uuid) for uuid in repositories}
    if as_json:
        summary = {
            "type": "summary",
            "objects": len(found),
            **{fate.value: counts[fate] for fate in Fate},
            "others_possible": hidden,
            "repositories": [
                {"uuid": uuid, "whole": whole, "clone": commands[uuid]} for uuid, whole in repositories.items()
            ],
            "exit_status": status,
        }
        click.echo(json.dumps(summary))
        return status
    parts = [f"{counts[fate]:,} {fate.value}" for fate in Fate if counts[fate]]
    out.print(f"{len(found):,} object{'' if len(found) == 1 else 's'}{': ' if parts else ''}{', '.join(parts)}")
    for line in _outlook(recovery, counts, hidden):
        out.print(line, markup=False)
    far = any(is_far(grid.address(entry)) for entry in grid.roster.readable)
    logins = ", have the logins of the stores in the environment as now" if far else ""
    for uuid, whole in repositories.items():
        out.print(
            f"the git repository was pushed to this grid{'' if whole else ', but not all of it is left'}: to "
            f"clone it, set {ENVIRONMENT} to the capability{logins}, and",
            markup=False,
        )
        out.print(f"  {commands[uuid]}", markup=False)
        if recovery.folder is not None and not recovery.dry_run:
            out.print("or without the stores, from what was recovered:", markup=False)
            here = clone_address(uuid, {"type": "directory", "encryption": "none", "directory": recovery.folder})
            out.print(f"  git clone {shlex.quote(here)} DIR", markup=False)
    sealed = sum(back.key is not None and back.key.startswith("GPGHMAC") for back in found)
    if sealed:
        out.print(f"{sealed:,} of them are encrypted by git-annex: it takes the repository to open them")
    if not repositories and counts[Fate.RECOVERED] + counts[Fate.THERE] and recovery.folder is not None:
        for line in _without_repository(recovery.folder):
            out.print(line, markup=False)
    return status


def _outlook(recovery: Recovery, counts: Counter[Fate], hidden: bool) -> Iterator[str]:
    failed = ", ".join(sorted(recovery.survey.failed))
    if counts[Fate.LOST]:
        yield (
            "what is lost could come back with a store that was unplugged or given up: give its address as well; "
            "or it was removed once, and some shares were left over"
        )
    if counts[Fate.UNKNOWN] or hidden:
        which = f" when {failed} can be asked" if failed else ""
        yield f"the same command again{which} goes on with what is not recovered"
    if hidden:
        yield f"there may be more: {failed} could have objects of which the other stores have nothing"


def _without_repository(folder: str) -> Iterator[str]:
    """Say what to do with the content where the names of the files are somewhere else, or nowhere."""
    place = shlex.quote(folder)
    yield "the names of the files are in the git repository. In a clone of it, take the content by"
    yield f"  git annex reinject --known {place}/???/???/*/*"
    yield "or leave it where it is, and use it as a remote:"
    yield f"  git annex initremote recovered type=directory directory={place} encryption=none"
    yield "  git annex fsck --from recovered --fast"


def _clone_command(grid: Grid, uuid: str) -> str:
    """Return the command that clones the repository out of the stores. There is no secret in it.

    Where a store is on this machine is said as for any other clone; in `stores`, no address can have a blank.
    """
    entries = grid.roster.readable
    parameters = {
        "type": "external",
        "externaltype": "swarm",
        "encryption": "none",
        "stores": " ".join(
            f"{entry.name}{f'*{len(entry.numbers)}' if len(entry.numbers) > 1 else ''}={entry.address}"
            for entry in entries
            if not re.search(r"\s", entry.address)
        ),
        "verify-key": grid.verify_key.hex(),
    }
    words = ["git", "clone"]
    for entry in entries:
        here = grid.address(entry)
        if here != entry.address:
            words += ["-c", f"remote.origin.swarm-store-{entry.name}={here}"]
    return f"{shlex.join([*words, clone_address(uuid, parameters)])} DIR"


# health


@click.command(cls=Command)
@click.option(
    "--capability", "--verify-capability", "source", metavar="-|env|FILE", required=True, help="Where it is."
)
@click.argument("addresses", metavar="[NAME=]ADDRESS...", nargs=-1, required=True)
@click.option("--verify", is_flag=True, help="Read the shares, and prove each of their blocks.")
@click.option("--sample", metavar="PART", help="With --verify: 5%, 1/30 or 10GiB a day, another part each day.")
@click.option("--repair", is_flag=True, help="Make shares that are missing or damaged from the others.")
@time_option
@rate_option
@json_option
@quiet_option
@plainly
def health(
    source: str,
    addresses: tuple[str, ...],
    verify: bool,
    sample: str | None,
    repair: bool,
    time_limit: str | None,
    limit_rate: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Check a grid, and repair it, without a repository, and without being able to read any of it.

    For a friend or a server: the verify capability is enough (git-annex-remote-swarm capability REMOTE --verify),
    and of any other only that part is used. It is typed or piped in (-), in the environment (env:
    SWARM_CAPABILITY), or in a FILE. Addresses and logins are given as to recover.

    Objects have no names, and one of which no share is left is not noticed. With --repair, every share is made
    again that was there once, byte for byte; one that was never made before takes the full capability.

    Exit status: 0 healthy, 1 something to repair, 2 data lost (or left over by a removal), 3 could not tell.
    """
    if sample and not verify:
        raise BadSetting("--sample goes with --verify")
    deadline = Deadline.of(time_limit)
    part = parse_sample(sample) if sample else Sample()
    care = _care_of(capability_from(source).attenuate("verify"), addresses, limit_rate)
    census = census_of(care, quiet or as_json)
    survey = census.survey
    proofs: list[Proof] = []
    unfinished = ""
    if verify:
        proofs, unfinished = verify_shares(care, census, part, deadline, None, None, quiet or as_json)
    care.notes.forget_objects(lambda object_id: object_id in survey or bool(survey.failed))
    if repair and not deadline.is_over:
        jobs = plan_repair(census)
        tell = partial(tell_done, census, as_json=as_json, quiet=quiet)
        done, failed = carry_out(care, census, jobs, deadline, quiet or as_json, None, tell)
        if done > failed and not as_json:
            out.print(f"{done - failed:,} object{'' if done - failed == 1 else 's'} repaired")
        if done < len(jobs):
            unfinished = unfinished or f"the time is over: {len(jobs) - done:,} of {len(jobs):,} were not repaired"
    care.notes.close()
    tidings = Tidings(care, "")
    tidings.take(census)
    if as_json:
        print_json(care, census, tidings, proofs, unfinished)
    elif not (quiet and tidings.exit_status == 0 and not unfinished):
        print_check("", care, census, tidings, proofs, unfinished, partial(_advice, repaired=repair))
    sys.exit(tidings.exit_status)


def _advice(_: str, care: Care, census: Census, tidings: Tidings, *, repaired: bool) -> Iterable[str]:
    """Say what to do next, to somebody who has no repository of it."""
    if tidings.states[State.LOST]:
        yield (
            f"{tidings.states[State.LOST]:,} lost, or left over by a removal: they cannot be rebuilt from what is "
            "left, and only the owner can tell whether they are wanted"
        )
    repairable = sum(
        verdict.missing > 0 or bool(verdict.bad) for _, verdict in tidings.troubled if verdict.left >= 0
    )
    if repairable:
        yield (
            f"{repairable:,} still to be repaired: by the owner, where it takes the full capability"
            if repaired
            else f"{repairable:,} to be repaired: the same command with --repair"
        )
    yield from unknown("", census, tidings)
