"""A download as people see it: what each store did when, as lines of text. Pure; the picture is in `picture`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from annex_remote.shares.layout import SEGMENT_SIZE
from annex_remote.transfer.trace import MOST_LINES, Line, Trace

__all__ = [
    "FAILED",
    "HEDGED",
    "IDLE",
    "QUEUED",
    "RECEIVING",
    "WAITING",
    "Lane",
    "amount",
    "failed",
    "lanes",
    "oddities",
    "plain",
    "span",
    "summary",
    "timeline",
]

IDLE, QUEUED, WAITING, RECEIVING, HEDGED, FAILED = "·", "╌", "░", "█", "◆", "✗"
"""What stands in a bar, the later ones over the earlier."""
_RANK = {mark: rank for rank, mark in enumerate((IDLE, QUEUED, WAITING, RECEIVING, HEDGED, FAILED))}

LEAST_BAR, MOST_BAR = 20, 100
MOST_ODD = 25
"""Lines about what was odd, at most."""

_WELL = ("", "done", "not wanted")


def plain(text: str) -> str:
    """Return `text` without what would do something to a terminal or a picture: a server may have said it."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def amount(count: float) -> str:
    """Return a number of bytes as people say it: "3.1 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3f}".rstrip("0").rstrip(".") + " TB"


def failed(line: Line) -> bool:
    """True if the request ended in another way than by being done, or by nobody wanting it any more."""
    return line.how not in _WELL


@dataclass
class Lane:
    """All requests to one store, in the order in which they were asked."""

    store: str
    lines: list[Line] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(line.bytes for line in self.lines)

    def count(self, why: str) -> int:
        return sum(line.why == why for line in self.lines)

    @property
    def failures(self) -> int:
        return sum(map(failed, self.lines))


def lanes(trace: Trace) -> list[Lane]:
    """Return the stores, those that brought most first."""
    found: dict[str, Lane] = {}
    for line in trace.lines:
        found.setdefault(line.store, Lane(line.store)).lines.append(line)
    return sorted(found.values(), key=lambda lane: (-lane.bytes, lane.store))


def span(trace: Trace) -> float:
    """Return how many seconds there are to show, never 0."""
    return max([1e-6, trace.seconds, *(line.ended or line.asked for line in trace.lines)])


def summary(trace: Trace) -> str:
    """Return in a line how much came in which time, and how it ended."""
    reached = trace.written[-1][1] if trace.written else trace.resumed
    new = max(0, reached - trace.resumed)
    stores = sum(bool(lane.bytes) for lane in lanes(trace))
    text = f"{amount(trace.size)} from {stores} {_plural(stores, 'store')} in {trace.seconds:.3g} s"
    if new and trace.seconds > 0:
        text += f", {amount(new / trace.seconds)}/s"
    if trace.needed:
        text += f"; {trace.needed} shares needed"
    if trace.resumed:
        before = -(-trace.resumed // SEGMENT_SIZE)
        text += f"; {before} {_plural(before, 'segment')} there before"
    return f"{text}; {plain(trace.outcome) or 'not over'}"


def timeline(trace: Trace, width: int) -> list[str]:
    """Return lines of at most about `width` columns: what it was, a row for each store, what was odd."""
    stores = lanes(trace)
    names = max([5, *(len(plain(lane.store)) for lane in stores)])
    figures = [_figures(lane) for lane in stores]
    widths = [max(len(row[at]) for row in [_HEADINGS, *figures]) for at in range(len(_HEADINGS))]
    bar = max(LEAST_BAR, min(MOST_BAR, width - names - sum(widths) - 2 * len(widths) - 2))
    seconds = span(trace)
    rows = [
        f"{plain(trace.key)}",
        summary(trace),
        "",
        _row("STORE".ljust(names), _axis(seconds, bar), _HEADINGS, widths),
        *(
            _row(plain(lane.store).ljust(names), _bar(lane.lines, seconds, bar), row, widths)
            for lane, row in zip(stores, figures, strict=True)
        ),
        f"{IDLE} idle  {QUEUED} in the queue  {WAITING} waits for the first byte  {RECEIVING} receives  "
        f"{HEDGED} asked because another was late  {FAILED} failed",
    ]
    odd = oddities(trace)
    return [*rows, *([""] if odd else []), *odd]


_HEADINGS = ("BYTES", "REQUESTS", "HEDGES", "AGAIN", "FAILED")


def _figures(lane: Lane) -> tuple[str, ...]:
    counts = (len(lane.lines), lane.count("hedge"), lane.count("again"), lane.failures)
    return amount(lane.bytes), *(str(count or "-") for count in counts)


def _row(name: str, bar: str, figures: Iterable[str], widths: list[int]) -> str:
    right = "  ".join(text.rjust(width) for text, width in zip(figures, widths, strict=True))
    return f"{name}  {bar}  {right}"


def _axis(seconds: float, width: int) -> str:
    """Return the heading of the bars: 0, and the seconds at their end."""
    end = f"{seconds:.3g} s"
    return "0".ljust(width - len(end)) + end


def _bar(lines: Iterable[Line], seconds: float, width: int) -> str:
    cells = [IDLE] * width

    def at(moment: float) -> int:
        return max(0, min(width - 1, int(moment / seconds * width)))

    def mark(what: str, start: float, end: float) -> None:
        for place in range(at(start), at(end) + 1):
            if _RANK[what] > _RANK[cells[place]]:
                cells[place] = what

    for line in lines:
        end = seconds if line.ended is None else line.ended
        began = end if line.began is None else line.began
        heard = end if line.heard is None else line.heard
        if began > line.asked:
            mark(QUEUED, line.asked, began)
        if line.began is not None:
            mark(WAITING, began, heard)
        if line.heard is not None:
            mark(RECEIVING, heard, end)
        if line.why == "hedge":
            mark(HEDGED, line.asked, line.asked)
        if failed(line):
            mark(FAILED, end, end)
    return "".join(cells)


def oddities(trace: Trace) -> list[str]:
    """Return in words what did not go as in the book, in the order in which it happened."""
    told = [(line.asked, line, True) for line in trace.lines if line.why == "hedge"]
    told += [(line.ended or 0.0, line, False) for line in trace.lines if failed(line)]
    told.sort(key=lambda each: each[0])
    shown = told if len(told) <= MOST_ODD else told[: MOST_ODD - 1]
    odd = [
        f"{at:.3f} s  {_asked_as_well(trace, line) if is_hedge else _failure(line)}"
        for at, line, is_hedge in shown
    ]
    if len(shown) < len(told):
        odd.append(f"and {len(told) - len(shown)} more of this kind")
    for lane in lanes(trace):
        odd += _of_store(lane)
    if len(trace.lines) >= MOST_LINES:
        odd.append(f"only the first {MOST_LINES} requests were recorded")
    return odd


def _of_store(lane: Lane) -> Iterable[str]:
    name = plain(lane.store)
    bad = sum(line.bad for line in lane.lines)
    if bad:
        yield f"{name}: {bad} {_plural(bad, 'block')} did not prove, and others were asked"
    vain = [line for line in lane.lines if line.how == "not wanted" and line.why != "open"]
    if vain:
        read = amount(sum(line.bytes for line in vain))
        answers = _plural(len(vain), "answer")
        yield f"{name}: {len(vain)} {answers} not wanted, others were first ({read} of them came)"
    if any(line.how == "not wanted" and line.why == "open" for line in lane.lines):
        yield f"{name}: had not shown its share when it was over"
    again, probes = lane.count("again"), lane.count("probe")
    if again:
        yield f"{name}: {again} {_plural(again, 'time')} asked for what others did not bring"
    if probes:
        yield f"{name}: {probes} {_plural(probes, 'time')} tried with a block, to see how fast it is"


def _asked_as_well(trace: Trace, hedge: Line) -> str:
    text = f"{plain(hedge.store)} was asked as well for {_what(hedge)}"
    late = _overdue(trace, hedge)
    if late is None:
        return text
    if late.heard is None or late.heard > hedge.asked:
        silent = hedge.asked - (late.asked if late.began is None else late.began)
        return f"{text}, because {plain(late.store)} had sent nothing for {max(0.0, silent):.2f} s"
    return f"{text}, because {plain(late.store)} was slow"


def _overdue(trace: Trace, hedge: Line) -> Line | None:
    """Return the request that was most likely the reason: of those for the same segments the longest silent."""
    beside = [
        line
        for line in trace.lines
        if line.why != "open"
        and line.number != hedge.number
        and line.asked <= hedge.asked
        and (line.ended is None or line.ended > hedge.asked)
        and line.first < hedge.first + hedge.count
        and hedge.first < line.first + line.count
    ]

    def rank(line: Line) -> tuple[bool, float]:
        return line.heard is not None and line.heard <= hedge.asked, line.asked

    return min(beside, key=rank, default=None)


def _failure(line: Line) -> str:
    if line.why == "open":
        return f"{plain(line.store)} did not show share {line.number}: {plain(line.how)}"
    return f"{plain(line.store)} failed to bring {_what(line)}: {plain(line.how)}"


def _what(line: Line) -> str:
    last = line.first + line.count - 1
    segments = f"segment {line.first}" if line.count <= 1 else f"segments {line.first} to {last}"
    return f"{segments} (share {line.number})"


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"
