"""What stays of transfers from one run to the next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from annex_remote.errors import BadSetting, Damaged
from annex_remote.records import KeptBook, KeptTrace, trace_path
from annex_remote.transfer.trace import Trace
from tests.fakes import FakeClock


def trace_of(key: str, seconds: float = 0.1, outcome: str = "done") -> Trace:
    return Trace(key=key, seconds=seconds, outcome=outcome)


def test_the_last_download_is_beside_the_roster() -> None:
    assert trace_path("/r/.git/annex/swarm/abc.roster") == "/r/.git/annex/swarm/abc.trace"


def test_the_last_download_is_kept_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "swarm" / "x.trace"
    KeptTrace(str(path)).keep(trace_of("one"))
    assert KeptTrace(str(path)).load().key == "one"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_of_short_downloads_one_a_second_is_kept(tmp_path: Path) -> None:
    clock = FakeClock()
    kept = KeptTrace(str(tmp_path / "x.trace"), clock)

    def after(trace: Trace) -> str:
        kept.keep(trace)
        return kept.load().key

    assert after(trace_of("one")) == "one"
    assert after(trace_of("two")) == "one"
    assert after(trace_of("long", seconds=1.5)) == "long"
    assert after(trace_of("failed", outcome="no share found")) == "failed"
    assert after(trace_of("three")) == "failed"
    clock.advance(1.0)
    assert after(trace_of("four")) == "four"


def test_after_a_failure_the_next_download_is_kept(tmp_path: Path) -> None:
    """A download that failed, and is tried again at once with a newer list of stores."""
    kept = KeptTrace(str(tmp_path / "x.trace"), FakeClock())
    kept.keep(trace_of("failed", outcome="no share found"))
    kept.keep(trace_of("done"))
    assert kept.load().key == "done"


def test_what_cannot_be_kept_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    KeptTrace(str(tmp_path / "file" / "x.trace")).keep(trace_of("one"))
    kept = KeptBook(str(tmp_path / "file" / "figures"))
    kept.keep()
    (tmp_path / "folder").mkdir()
    KeptTrace(str(tmp_path / "folder")).keep(trace_of("one"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_missing_or_damaged_record_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.trace"
    with pytest.raises(BadSetting, match="no download is recorded in this clone yet"):
        KeptTrace(str(path)).load()
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(Damaged, match=r"x\.trace, cannot be read"):
        KeptTrace(str(path)).load()


def learned(path: Path, date: float = 1e9) -> KeptBook:
    kept = KeptBook(str(path), FakeClock(), lambda: date)
    kept.book.asked("question", "nas", 1 << 20, 10.0)
    kept.book.came("question", 1 << 20, 10.5)
    kept.book.over("question", 10.5)
    kept.keep()
    return kept


def test_figures_are_kept_for_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "figures" / "grid"
    before = learned(path).book.of("nas", 11.0)
    after = KeptBook(str(path), FakeClock(), lambda: 1e9).book.of("nas", 0.0)
    assert before.down is not None
    assert after.first_byte == before.first_byte
    assert after.down == pytest.approx(before.down)
    assert path.stat().st_mode & 0o777 == 0o600


def test_figures_are_kept_once_a_second(tmp_path: Path) -> None:
    clock, path = FakeClock(), tmp_path / "grid"
    kept = KeptBook(str(path), clock)
    kept.keep()
    kept.book.sent("nas", 1 << 20, 1.0)
    clock.advance(0.9)
    kept.keep()
    assert json.loads(path.read_text()) == {"stores": {}}
    clock.advance(0.1)
    kept.keep()
    assert "nas" in json.loads(path.read_text())["stores"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '{"stores": []}',
        '{"stores": {"nas": 1}}',
        '{"stores": {"nas": {"at": 1, "first_byte": [], "down": -5, "up": null}}}',
        '{"stores": {"nas": {"at": 1, "first_byte": [], "down": NaN, "up": null}}}',
        '{"stores": {"nas": {"at": 1' + "0" * 400 + ', "first_byte": [], "down": null, "up": null}}}',
        "[" * 100_000,
        "\x00",
        '{"stores": {"nas": {"at": 1, "first_byte": [], "down": null, "up": null}}}' + " " * (1 << 20),
    ],
)
def test_figures_that_nobody_here_wrote_are_not_used(tmp_path: Path, text: str) -> None:
    path = tmp_path / "grid"
    path.write_text(text)
    kept = KeptBook(str(path))
    assert kept.book.dump(0.0) == {}
    kept.keep()
    assert json.loads(path.read_text()) == {"stores": {}}
