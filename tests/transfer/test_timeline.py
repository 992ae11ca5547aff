"""A download as lines of text and as a picture."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from annex_remote.errors import Damaged
from annex_remote.picture import WIDTH, picture
from annex_remote.timeline import amount, lanes, oddities, summary, timeline
from annex_remote.transfer.trace import MOST_LINES, Line, Trace
from tests.fakes import FakeClock

SVG = "{http://www.w3.org/2000/svg}"


def trace_of(*lines: Line, **fields: object) -> Trace:
    """Return a download of 8 MB in four seconds."""
    trace = Trace(key="SHA256E-s8000000--0.bin", size=8_000_000, needed=2, seconds=4.0, outcome="done")
    trace.written = [(1.0, 4_000_000), (4.0, 8_000_000)]
    trace.lines = list(lines)
    for name, value in fields.items():
        setattr(trace, name, value)
    return trace


def line(store: str, number: int, asked: float, ended: float, **fields: object) -> Line:
    """Return a request for segments 4 to 7, sent at once, whose first byte came in the middle."""
    made = Line(store, number, 4, 4, "", asked, asked, (asked + ended) / 2, ended, 1_000_000, 0, "done")
    return replace(made, **fields)  # type: ignore[arg-type]


def bar_of(rows: list[str], store: str) -> str:
    """Return the bar of a store, which is 20 columns wide on a narrow terminal."""
    [row] = [row for row in rows if row.startswith(f"{store} ")]
    return row.split()[1]


def test_a_bar_shows_what_its_store_did() -> None:
    trace = trace_of(
        line("nas", 0, 0.0, 2.0),
        line("usb", 1, 0.0, 4.0, began=1.0, heard=3.0, how="the line is cut"),
        line("usb", 1, 2.0, 2.1, why="hedge", bytes=5),
    )
    rows = timeline(trace, 0)
    assert bar_of(rows, "nas") == "░░░░░██████·········"
    assert bar_of(rows, "usb") == "╌╌╌╌╌░░░░░◆░░░░████✗"
    assert rows[3].split()[:4] == ["STORE", "0", "4", "s"]
    assert [row.split()[2:] for row in rows[4:6]] == [
        ["1", "MB", "2", "1", "-", "1"],
        ["1", "MB", "1", "-", "-", "-"],
    ]
    assert {len(row) for row in rows[3:6]} == {len(rows[3])}


def test_bars_grow_with_the_terminal_up_to_a_bound() -> None:
    trace = trace_of(line("nas", 0, 0.0, 2.0))
    assert [len(bar_of(timeline(trace, width), "nas")) for width in (0, 100, 500)] == [20, 53, 100]
    assert len(timeline(trace, 100)[4]) == 100


def test_the_summary_counts_what_was_fetched_now() -> None:
    trace = trace_of(line("nas", 0, 0.0, 4.0), line("usb", 1, 0.0, 4.0), resumed=2 << 20)
    assert summary(trace) == (
        "8 MB from 2 stores in 4 s, 1.48 MB/s; 2 shares needed; 2 segments there before; done"
    )
    failed = trace_of(resumed=0, written=[], outcome="no share found")
    assert summary(failed) == "8 MB from 0 stores in 4 s; 2 shares needed; no share found"


def test_what_was_odd_is_told_in_order_and_with_its_reason() -> None:
    trace = trace_of(
        line("nas", 0, 1.0, 3.0, heard=None, how="no progress for 2 seconds", bytes=0),
        line("usb", 1, 0.9, 3.5, heard=1.1),
        line("attic", 3, 0.8, 2.0, first=8, heard=None, bytes=0),
        line("attic", 4, 0.8, 2.0, first=0, heard=None, bytes=0),
        line("attic", 2, 1.5, 2.5, why="hedge"),
        line("attic", 2, 3.0, 3.2, why="again", how="not wanted", first=6, count=1, bytes=10),
        line("usb", 1, 3.6, 3.7, first=9, why="hedge"),
        line("cloud", 3, 0.0, 0.1, why="open", how="it is not here"),
        line("shed", 4, 0.0, 4.0, why="open", how="not wanted"),
        line("usb", 1, 3.6, 3.7, first=90, why="probe", bad=2),
    )
    assert oddities(trace) == [
        "0.100 s  cloud did not show share 3: it is not here",
        "1.500 s  attic was asked as well for segments 4 to 7 (share 2), because nas had sent nothing for 0.50 s",
        "3.000 s  nas failed to bring segments 4 to 7 (share 0): no progress for 2 seconds",
        "3.600 s  usb was asked as well for segments 9 to 12 (share 1)",
        "usb: 2 blocks did not prove, and others were asked",
        "usb: 1 time tried with a block, to see how fast it is",
        "attic: 1 answer not wanted, others were first (10 B of them came)",
        "attic: 1 time asked for what others did not bring",
        "shed: had not shown its share when it was over",
    ]


def test_a_hedge_beside_one_that_brings_something_is_because_it_is_slow() -> None:
    trace = trace_of(line("nas", 0, 1.0, 3.0, heard=1.2), line("usb", 1, 1.5, 2.0, why="hedge"))
    assert oddities(trace)[0].endswith("because nas was slow")


def test_much_that_is_odd_is_cut_and_said_to_be() -> None:
    trace = trace_of(*(line("nas", 0, at / 100, 1.0, how="cut") for at in range(100)))
    assert len(oddities(trace)) == 25
    assert oddities(trace)[-1] == "and 76 more of this kind"
    trace.lines = [line("nas", 0, 0.0, 1.0)] * MOST_LINES
    assert oddities(trace) == [f"only the first {MOST_LINES} requests were recorded"]


def test_nothing_that_a_server_said_gets_to_the_terminal_as_it_is() -> None:
    trace = trace_of(line("n\x1b[31mas", 0, 0.0, 1.0, how="\x1b]0;owned\x07\n"), key="\x1b[2J", outcome="\x9b1m")
    assert all(letter.isprintable() for row in timeline(trace, 80) for letter in row)


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 B"), (999, "999 B"), (1_000_000, "1 MB"), (9.996e5, "1 MB"), (5e15, "5,000 TB")]
)
def test_amounts(count: float, said: str) -> None:
    assert amount(count) == said


def test_stores_that_brought_most_come_first() -> None:
    trace = trace_of(line("b", 0, 0, 1, bytes=5), line("c", 1, 0, 1, bytes=9), line("a", 2, 0, 1, bytes=5))
    assert [lane.store for lane in lanes(trace)] == ["c", "a", "b"]


# The picture.


def drawn(trace: Trace) -> ElementTree.Element:
    """Parse a picture: it is whole, and refers to nothing outside."""
    text = picture(trace)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    return ElementTree.fromstring(text)


def test_a_picture_is_svg_with_a_bar_for_each_request() -> None:
    trace = trace_of(
        line("nas", 0, 0.0, 2.0),
        line("usb", 1, 0.0, 4.0, why="hedge", how="not wanted"),
        line("usb", 1, 1.0, 3.0, began=None, heard=None, how="cut"),
        at=1.8e9,
    )
    root = drawn(trace)
    assert root.get("width") == str(WIDTH)
    told = [group.findtext(f"{SVG}title") for group in root.iter(f"{SVG}g")]
    assert told[2] == (
        "nas, share 0, segments 4 to 7: asked 0.000 s, sent 0.000 s, first byte 1.000 s, over 2.000 s; 1 MB; done"
    )
    assert len(told) == 3
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert {"nas", "usb", "hedge", "not wanted", "failed", "seconds", "4.0", "2027-01-15 08:00 UTC"} <= {*words}
    assert "probe" not in words


def test_requests_at_the_same_time_do_not_cover_each_other() -> None:
    root = drawn(trace_of(line("nas", 0, 0.0, 2.0), line("nas", 0, 1.0, 3.0), line("nas", 0, 2.0, 4.0)))
    bars = [group.findall(f"{SVG}rect") for group in root.iter(f"{SVG}g")]
    assert bars[0][0].get("y") == bars[2][0].get("y") != bars[1][0].get("y")
    ends = [float(bar.get("x", "")) + float(bar.get("width", "")) for bar in bars[0]]
    assert ends[0] == pytest.approx(float(bars[0][1].get("x", "")))


def test_text_in_a_picture_is_only_text() -> None:
    hostile = '</text><script>alert(1)</script>&amp;"\x00\x1b'
    root = drawn(trace_of(line(hostile, 0, 0.0, 1.0, how=hostile), key=hostile, outcome=hostile))
    assert not list(root.iter(f"{SVG}script"))
    assert any("</text><script>" in (text.text or "") for text in root.iter(f"{SVG}text"))


@pytest.mark.parametrize("seconds", [0.0, 1e-5, 0.03, 7.0, 86400.0])
def test_downloads_of_any_length_can_be_drawn(seconds: float) -> None:
    trace = trace_of(line("nas", 0, 0.0, seconds), seconds=seconds, written=[], size=0)
    ticks = [text for text in drawn(trace).iter(f"{SVG}text") if text.get("text-anchor") == "middle"]
    assert 2 <= len(ticks) <= 12
    assert timeline(trace, 80)


def test_a_download_that_asked_for_nothing_can_be_shown() -> None:
    assert drawn(Trace()) is not None
    assert timeline(Trace(), 80)


def test_many_requests_make_no_picture_without_end() -> None:
    trace = trace_of(*(line("nas", 0, at / 1e4, at / 1e4 + 3.0) for at in range(MOST_LINES)))
    text = picture(trace)
    assert len(text) < 4_000_000
    assert ElementTree.fromstring(text).get("height", "9999") < "500"


# The record.


def test_a_record_is_read_back_as_it_was() -> None:
    clock = FakeClock()
    trace = Trace(key="KEY", size=10, clock=clock)
    asked = trace.ask("nas", 1, 0, 2, "hedge")
    clock.advance(1.5)
    trace.wrote(10)
    trace.end("done")
    assert (asked.ended, asked.how) == (1.5, "not wanted")
    assert Trace.load(trace.dump()) == trace


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": 2}', '{"version": 1, "key": ""}', "\x00"])
def test_what_is_no_record_is_damaged(text: str) -> None:
    with pytest.raises(Damaged, match="not the record of a download"):
        Trace.load(text)
