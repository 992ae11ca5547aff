"""A download as a picture: SVG that needs nothing beside it, 1000 pixels wide. Pure.

One band for each store, one bar for each request in it: pale while the first byte is waited for, full while bytes
come. The idea is that of Tahoe-LAFS's download status page. Colours: Okabe and Ito's palette (2008), which the
colour-blind can tell apart; failures and answers that were not wanted have shapes of their own as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape

from annex_remote.timeline import Lane, amount, failed, lanes, plain, span, summary
from annex_remote.transfer.trace import Line, Trace

__all__ = ["picture"]

WIDTH = 1000
LEFT, RIGHT, TOP = 130, 850, 112
"""Where the axis of time begins and ends, and where the first band begins."""
CURVE = 130
LEAST_BAND = 30
GAP = 6
MOST_ROWS = 24
"""Bars above each other in a band; where there are more, they cover one another."""
MOST_TOLD = 3000
"""Requests up to which each has its own words, to be seen under the mouse."""
MOST_NAME = 16
MOST_KEY = 118

_INK, _SOFT, _GRID, _BAND = "#222", "#666", "#ddd", "#f5f6f8"
_FAILED = "#d55e00"
_COLOURS = {
    "": ("#0072b2", "#a9d0e8", "as planned"),
    "open": ("#7a7a7a", "#d4d4d4", "opening a share"),
    "hedge": ("#e69f00", "#f8e0a8", "hedge"),
    "again": ("#cc79a7", "#efd3e2", "again, after a failure"),
    "probe": ("#009e73", "#a8dccd", "probe"),
}
"""Why a request was made: the colour while bytes come, the one before, and what the legend says."""


def picture(trace: Trace) -> str:
    """Return the download as an SVG document."""
    stores = lanes(trace)
    drawing = _Drawing(trace, span(trace))
    drawing.title()
    top = TOP
    for at, lane in enumerate(stores):
        top = drawing.band(lane, top, shaded=at % 2 == 0)
    drawing.curve(top + 2 * GAP)
    bottom = top + 2 * GAP + CURVE
    drawing.axis(TOP - GAP, bottom)
    return drawing.document(bottom + 48)


def _rows(lines: Sequence[Line], seconds: float) -> tuple[list[int], int]:
    """Return in which row of its band each request is drawn, the first that is free; and how many there are."""
    free: list[float] = []
    rows = []
    for line in lines:
        end = seconds if line.ended is None else line.ended
        row = next((row for row, until in enumerate(free) if until <= line.asked), len(free))
        if row == len(free) and row < MOST_ROWS:
            free.append(end)
        row = min(row, MOST_ROWS - 1)
        free[row] = max(free[row], end)
        rows.append(row)
    return rows, max(1, len(free))


def _short(text: str, most: int) -> str:
    """Return `text` with its middle left out if it is longer than `most`."""
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


def _ticks(most: float, count: int) -> Iterable[float]:
    """Yield round numbers from 0 to `most`, about `count` of them."""
    rough = most / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    for index in range(int(most / step * 1.0001) + 1):
        yield index * step


class _Drawing:
    def __init__(self, trace: Trace, seconds: float) -> None:
        self._trace = trace
        self._seconds = seconds
        self._told = len(trace.lines) <= MOST_TOLD
        self._parts: list[str] = []

    def _x(self, seconds: float) -> float:
        return LEFT + max(0.0, min(1.0, seconds / self._seconds)) * (RIGHT - LEFT)

    def _text(self, x: float, y: float, text: str, **attributes: object) -> None:
        more = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
        self._parts.append(f'<text x="{x:.1f}" y="{y:.1f}"{more}>{escape(plain(text))}</text>')

    def _rect(self, x: float, y: float, width: float, height: float, fill: str, more: str = "") -> None:
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}"{more}/>'
        )

    def _line(self, x1: float, y1: float, x2: float, y2: float, colour: str, more: str = "") -> None:
        self._parts.append(f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{colour}"{more}/>')

    def title(self) -> None:
        trace = self._trace
        self._text(16, 26, _short(plain(trace.key), MOST_KEY) or "A download", font_size=15, font_weight="bold")
        self._text(16, 46, _short(summary(trace), 150), fill=_SOFT)
        if trace.at:
            date = datetime.fromtimestamp(trace.at, UTC).strftime("%Y-%m-%d %H:%M UTC")
            self._text(WIDTH - 16, 46, date, fill=_SOFT, text_anchor="end")
        self._legend(64)

    def _legend(self, y: float) -> None:
        trace, x = self._trace, 16.0
        used = {line.why for line in trace.lines} | {""}
        for why, (full, pale, words) in _COLOURS.items():
            if why in used:
                self._rect(x, y, 10, 11, pale)
                self._rect(x + 10, y, 14, 11, full)
                x = self._told_beside(x + 29, y, words)
        if any(line.how == "not wanted" for line in trace.lines):
            self._rect(x, y, 24, 11, _COLOURS[""][0])
            self._rect(x, y, 24, 11, "url(#vain)")
            x = self._told_beside(x + 29, y, "not wanted")
        if any(map(failed, trace.lines)):
            self._cross(x + 6, y + 5.5, 4)
            self._told_beside(x + 16, y, "failed")
        self._text(16, y + 28, "pale: waits for the first byte; full: bytes come", fill=_SOFT, font_size=11)

    def _told_beside(self, x: float, y: float, words: str) -> float:
        """Write words of the legend; return where its next part begins."""
        self._text(x, y + 9.5, words)
        return x + 6.8 * len(words) + 18

    def _cross(self, x: float, y: float, size: float) -> None:
        self._parts.append(
            f'<path d="M{x - size:.1f} {y - size:.1f}l{2 * size:.1f} {2 * size:.1f}m0 {-2 * size:.1f}'
            f'l{-2 * size:.1f} {2 * size:.1f}" stroke="{_FAILED}" stroke-width="2.2"/>'
        )

    def band(self, lane: Lane, top: float, *, shaded: bool) -> int:
        """Draw the requests to one store; return where the next band begins."""
        rows, count = _rows(lane.lines, self._seconds)
        height = 11.0 if count <= 3 else max(3.0, 7.0 - count / 4)
        band = max(LEAST_BAND, math.ceil(count * (height + 1)) + 2 * GAP)
        if shaded:
            self._rect(0, top, WIDTH, band, _BAND)
        middle = top + band / 2
        self._text(
            LEFT - 10, middle + 4, _short(plain(lane.store), MOST_NAME), text_anchor="end", font_weight="bold"
        )
        words = f"{amount(lane.bytes)}"
        self._text(RIGHT + 10, middle - 1, words, font_size=11)
        asked = f"{len(lane.lines)} asked"
        self._text(
            RIGHT + 10,
            middle + 11,
            asked + (f", {lane.failures} failed" if lane.failures else ""),
            font_size=10,
            fill=_SOFT,
        )
        first = top + (band - count * (height + 1)) / 2
        for line, row in zip(lane.lines, rows, strict=True):
            self._request(line, first + row * (height + 1), height)
        return math.ceil(top + band)

    def _request(self, line: Line, y: float, height: float) -> None:
        end = self._seconds if line.ended is None else line.ended
        began = end if line.began is None else line.began
        heard = end if line.heard is None else line.heard
        full, pale, _ = _COLOURS.get(line.why, _COLOURS[""])
        if self._told:
            self._parts.append(f"<g><title>{escape(_told(line))}</title>")
        if began > line.asked:  # in the queue of its store
            self._line(self._x(line.asked), y + height / 2, self._x(began), y + height / 2, pale)
        if line.began is not None:
            self._rect(self._x(began), y, max(0.6, self._x(heard) - self._x(began)), height, pale)
        if line.heard is not None:
            self._rect(self._x(heard), y, max(0.9, self._x(end) - self._x(heard)), height, full)
        if line.how == "not wanted":
            start = self._x(line.asked)
            self._rect(start, y, max(0.6, self._x(end) - start), height, "url(#vain)")
        if failed(line):
            self._cross(self._x(end), y + height / 2, min(5.0, height / 2 + 0.5))
        if self._told:
            self._parts.append("</g>")

    def curve(self, top: float) -> None:
        """Draw how the file grew."""
        trace, bottom = self._trace, top + CURVE
        most = max([1, trace.size, *(done for _, done in trace.written)])

        def y(done: float) -> float:
            return bottom - done / most * (CURVE - 14)

        for done in _ticks(most, 4):
            self._line(LEFT, y(done), RIGHT, y(done), _GRID)
            self._text(LEFT - 10, y(done) + 4, amount(done), text_anchor="end", font_size=11, fill=_SOFT)
        self._text(RIGHT + 10, top + 18, "in the file", font_size=11)
        points, height = f"{LEFT:.1f} {y(trace.resumed):.1f}", trace.resumed
        for at, done in trace.written:
            points += f" {self._x(at):.1f} {y(height):.1f} {self._x(at):.1f} {y(done):.1f}"
            height = done
        points += f" {self._x(trace.seconds):.1f} {y(height):.1f}"
        area = f"{LEFT} {bottom} {points} {self._x(trace.seconds):.1f} {bottom}"
        self._parts.append(f'<polygon points="{area}" fill="{_COLOURS[""][1]}" fill-opacity="0.45"/>')
        self._parts.append(
            f'<polyline points="{points}" fill="none" stroke="{_COLOURS[""][0]}" stroke-width="1.6"/>'
        )

    def axis(self, top: float, bottom: float) -> None:
        """Draw the seconds, through all bands."""
        ticks = list(_ticks(self._seconds, 10))
        digits = max(0, -math.floor(math.log10(ticks[1]))) if len(ticks) > 1 else 3
        for at in ticks:
            x = self._x(at)
            self._line(x, top, x, bottom + 4, _INK, ' stroke-opacity="0.13"')
            self._text(x, bottom + 18, f"{at:.{digits}f}", text_anchor="middle", font_size=11, fill=_SOFT)
        self._line(LEFT, bottom, RIGHT, bottom, _INK)
        self._text((LEFT + RIGHT) / 2, bottom + 36, "seconds", text_anchor="middle", font_size=11, fill=_SOFT)

    def document(self, height: float) -> str:
        """Return all that was drawn."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
            f'height="{height:.0f}" font-family="Helvetica, Arial, DejaVu Sans, sans-serif" font-size="12" '
            f'fill="{_INK}">'
            f"<title>{escape(plain(self._trace.key))}: {escape(summary(self._trace))}</title>"
            '<defs><pattern id="vain" width="5" height="5" patternUnits="userSpaceOnUse" '
            'patternTransform="rotate(45)"><rect width="2.4" height="5" fill="#fff" fill-opacity="0.75"/>'
            "</pattern></defs>"
            f'<rect width="{WIDTH}" height="{height:.0f}" fill="#fff"/>'
        )
        return "\n".join([head, *self._parts, "</svg>", ""])


def _told(line: Line) -> str:
    """Return a request in words."""
    what = "opening" if line.why == "open" else f"segments {line.first} to {line.first + line.count - 1}"
    times = {"asked": line.asked, "sent": line.began, "first byte": line.heard, "over": line.ended}
    said = ", ".join(f"{name} {at:.3f} s" for name, at in times.items() if at is not None)
    why = {"": "", "open": ""}.get(line.why, f" ({line.why})")
    bad = f", {line.bad} damaged" if line.bad else ""
    return plain(f"{line.store}, share {line.number}, {what}{why}: {said}; {amount(line.bytes)}{bad}; {line.how}")
