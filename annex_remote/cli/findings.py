"""What was found out about objects, as it is told: tables for people, lines of JSON for programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import click
from rich.table import Table
from rich.text import Text

from annex_remote.annexed import files_of
from annex_remote.care.health import State, Verdict
from annex_remote.care.plan import Census
from annex_remote.care.survey import Survey
from annex_remote.care.verify import Proof
from annex_remote.caring import Care
from annex_remote.cli.keeping import EXIT_LOST, EXIT_REPAIR, EXIT_UNKNOWN, SHOWN
from annex_remote.cli.terminal import err, out
from annex_remote.roster import RETIRED
from annex_remote.transfer.sites import explain, shares

__all__ = [
    "Tidings",
    "advice",
    "care_failures",
    "labels_of",
    "object_document",
    "print_check",
    "print_json",
    "summary",
    "summary_document",
    "unknown",
    "wrong_with",
]

_COLOURS = {
    State.HEALTHY: "green",
    State.DEGRADED: "yellow",
    State.CRITICAL: "red",
    State.LOST: "bold red",
    State.TORRENT: "cyan",
    State.UNKNOWN: "magenta",
}


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
    others_possible: bool = False
    """True if stores that could not be asked may have whole objects that nobody knows of by name."""

    def take(self, census: Census) -> None:
        self.others_possible = not census.names and len(census.survey.silent({})) >= self.care.ground.least_needed
        for object_id, verdict in census:
            if verdict.left < 0 and object_id in census.unwanted:
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
        doubtful = self.states[State.UNKNOWN] or self.others_possible
        doubtful = doubtful or (self.states[State.TORRENT] and not self.care.trusts_torrents)
        return EXIT_UNKNOWN if doubtful else 0


_ORDER = {
    State.LOST: 0,
    State.CRITICAL: 1,
    State.DEGRADED: 2,
    State.UNKNOWN: 3,
    State.TORRENT: 4,
    State.HEALTHY: 5,
}


Advice = Callable[[str, Care, Census, Tidings], Iterable[str]]
"""Says what to do next."""


def print_check(
    remote: str,
    care: Care,
    census: Census,
    tidings: Tidings,
    proofs: Sequence[Proof],
    unfinished: str,
    advise: Advice | None = None,
) -> None:
    """Print what was found for people: what is not healthy, how many objects there are, what to do next."""
    for name, error in care_failures(census.survey):
        err.print(f"{name}: could not be asked: {explain(error)}", markup=False)
    shown = tidings.troubled[:SHOWN]
    census.labels = labels_of(remote, census, [object_id for object_id, _ in shown])
    if shown:
        table = Table(box=None, pad_edge=False)
        for heading in ("STATE", "BEARS", "SHARES", "OBJECT", "WHAT IS WRONG"):
            table.add_column(heading, overflow="fold")
        for object_id, verdict in shown:
            table.add_row(*_row(census, object_id, verdict, census.called(object_id)))
        out.print(table)
        if len(tidings.troubled) > SHOWN:
            out.print(f"... and {len(tidings.troubled) - SHOWN:,} more (--json names all)")
    for proof in [proof for proof in proofs if not proof.is_damaged][:SHOWN]:  # what is damaged stands above
        site = census.survey.sites[proof.task.number]
        what = census.called(proof.task.object_id)
        out.print(f"{site.name}: share {proof.task.number} of {what}: {proof}", markup=False)
    out.print(summary(care, census, tidings))
    if unfinished:
        out.print(f"not finished: {unfinished}")
    for line in (advise or advice)(remote, care, census, tidings):
        out.print(line, markup=False)


def labels_of(remote: str, census: Census, object_ids: Iterable[str]) -> dict[str, str]:
    """Return the files that are the content of objects, by key."""
    keys = [census.names[each] for each in object_ids if each in census.names]
    return {key: files[0] for key, files in files_of(remote, keys).items()} if keys and remote else {}


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
    if verdict.state is State.TORRENT:
        return f"no share is stored; {census.torrents[object_id]}"
    sites = census.survey.sites
    known = census.damaged.get(object_id, {})
    words = [f"{sites[number].name}: {known.get(number, 'cannot be a share of it')}" for number in verdict.bad]
    missing = verdict.missing - len(census.ground.active(verdict.bad))
    if missing > 0:
        words.append(f"{missing} missing")
    elsewhere = census.elsewhere(object_id) if verdict.left < 0 else ()
    if elsewhere:
        them = "it" if len(elsewhere) == 1 else "them"
        words.append(f"{shares(len(elsewhere))} under another name: recover reads {them}")
    if verdict.left < 0 and census.is_nameless(object_id):
        words.append("no share tells whether it is wanted")
    if verdict.silent:
        words.append(f"not known: {' '.join(sorted({sites[number].name for number in verdict.silent}))}")
    if verdict.crowded:
        words.append("could be spread better")
    return "; ".join(words)


def summary(care: Care, census: Census, tidings: Tidings) -> Text:
    """Return in a line how many objects do how well."""
    parts: list[tuple[str, str] | str] = []
    for state in (State.HEALTHY, State.DEGRADED, State.CRITICAL, State.LOST, State.TORRENT, State.UNKNOWN):
        count = tidings.states[state]
        if count or state is State.HEALTHY:
            word = "only in torrents" if state is State.TORRENT else state.value
            parts += [", " if parts else "", (f"{count:,} {word}", _COLOURS[state] if count else "")]
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
    if tidings.states[State.TORRENT] and not care.trusts_torrents:
        yield (
            f"{tidings.states[State.TORRENT]:,} can only be had as long as peers have it (torrent-trust=yes says "
            f"that this will do). To store shares, get it, then: git -c remote.{remote}.swarm-torrents=no annex "
            f"copy --to {remote} FILE"
        )
    repairable = sum(_can_be_repaired(care, verdict) for _, verdict in tidings.troubled)
    if repairable and not tidings.outdated:  # coding anew makes all shares
        yield f"{repairable:,} to be repaired: {program} repair {remote}"
    takers = len(care.ground.active(care.ground.places))
    if takers < care.ground.coding.total:
        yield (
            f"{care.ground.coding.total} shares of each object are wanted, and the stores take {takers}: "
            f"add one with {program} stores {remote} add NAME=ADDRESS"
        )
    used = census.survey.used()
    retired = [entry.name for entry in care.grid.roster.stores if entry.state == RETIRED]
    if tidings.crowded or any(used.get(name, (0, 0))[0] for name in retired):
        yield f"shares are not where they should be: {program} rebalance {remote}"
    for name in retired:
        if name not in census.survey.failed and not used.get(name, (0, 0))[0]:
            yield f"{name} is retired, and empty: {program} stores {remote} retire {name}"
    if tidings.outdated:
        yield f"{tidings.outdated:,} coded otherwise than {care.ground.coding}: {program} rebalance {remote}"
    yield from unknown(remote, census, tidings)
    astray = sum(each not in census.unwanted and census.verdict(each).left >= 0 for each in census.survey.strays)
    if astray:
        yield f"{astray:,} with shares where they do not belong as well: {program} repair {remote}"
    if tidings.leftovers:
        yield f"{tidings.leftovers:,} left over, of removals or uploads that broke off: {program} gc {remote}"


def unknown(remote: str, census: Census, tidings: Tidings) -> Iterator[str]:
    """Say of what it is not known how it does."""
    if tidings.states[State.UNKNOWN]:
        doubtful = [verdict for _, verdict in tidings.troubled if verdict.state is State.UNKNOWN]
        readable = sum(verdict.left >= 0 for verdict in doubtful)
        yield (
            f"{readable:,} of the {len(doubtful):,} unknown can be rebuilt all the same; how many losses they "
            "bear is known when all stores can be asked"
        )
        away = " ".join(name for name, _ in care_failures(census.survey))
        if away and remote:
            yield (
                f"{away}: if it is away, try again when it is back; if it is lost for good, begin anew with "
                f"`stores {remote} set STORE --empty`, or give it up with `stores {remote} remove STORE --gone`, "
                f"then `repair {remote}`"
            )
    if tidings.others_possible:
        silent = ", ".join(name for name, _ in care_failures(census.survey))
        yield f"there may be more: {silent} could have objects of which the other stores have nothing"


def print_json(care: Care, census: Census, tidings: Tidings, proofs: Sequence[Proof], unfinished: str) -> None:
    """Print what was found as JSON, one object a line."""
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
    click.echo(json.dumps({**summary_document(tidings), "unfinished": unfinished or None}))


def summary_document(tidings: Tidings) -> dict[str, object]:
    """Return what JSON says of all objects together."""
    return {
        "type": "summary",
        "objects": sum(tidings.states.values()),
        **{state.value: tidings.states[state] for state in State},
        "left_over": tidings.leftovers,
        "others_possible": tidings.others_possible,
        "exit_status": tidings.exit_status,
    }


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


def _can_be_repaired(care: Care, verdict: Verdict) -> bool:
    """True if a repair would do something: shares are damaged, or missing and there is a store that takes one."""
    if len(verdict.good) + len(verdict.bad) < verdict.needed:
        return False
    taken = {*verdict.good, *verdict.silent}
    return bool(verdict.bad) or (
        verdict.missing > 0 and any(number not in taken for number in care.ground.active(care.ground.places))
    )
