from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from annex_remote.care import ledger as module
from annex_remote.care.ledger import MOST_UNWRITTEN, PAUSE, Ledger
from tests.fakes import FakeClock, Run

A, B, C = "a" * 32, "b" * 32, "z234567a" * 4
DAY = 86400.0


class Book:
    """Ledgers of one file, whose date and clock are set."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.date = FakeClock(1_000_000.0)
        self.clock = FakeClock()

    def open(self) -> Ledger:
        return Ledger(str(self.path), self.date, self.clock)


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path / "state" / "ledger")


@pytest.fixture
def ledger(book: Book) -> Iterator[Ledger]:
    ledger = book.open()
    yield ledger
    ledger.close()


def test_when_shares_were_proved(book: Book, ledger: Ledger) -> None:
    ledger.note_proved(A, 0)
    book.date.advance(DAY)
    ledger.note_proved(B, 255)
    now = book.date()
    assert set(ledger.proved(now - 2 * DAY)) == {(A, 0), (B, 255)}
    assert set(ledger.proved(now - DAY / 2)) == {(B, 255)}
    assert set(ledger.proved_before(now - DAY / 2)) == {(A, 0)}
    assert set(ledger.proved_before(now - 2 * DAY)) == set()
    ledger.note_proved(A, 0)
    assert set(ledger.proved_before(now - DAY / 2)) == set()


def test_what_is_damaged_is_not_proved_and_the_other_way_round(ledger: Ledger) -> None:
    ledger.note_proved(A, 1)
    ledger.note_damaged(A, 1, "a block")
    ledger.note_damaged(C, 2, "its end")
    assert ledger.damaged() == {A: {1: "a block"}, C: {2: "its end"}}
    assert list(ledger.proved(0)) == []
    ledger.note_proved(A, 1)
    assert ledger.damaged() == {C: {2: "its end"}}
    assert list(ledger.proved(0)) == [(A, 1)]


def test_shares_are_forgotten(ledger: Ledger) -> None:
    ledger.note_proved(A, 1)
    ledger.note_damaged(A, 2, "a block")
    ledger.note_damaged(B, 2, "a block")
    ledger.forget(A, 1)
    ledger.forget(A, 2)
    assert list(ledger.proved(0)) == []
    assert ledger.damaged() == {B: {2: "a block"}}


def test_objects_are_forgotten(ledger: Ledger) -> None:
    for each in (A, B):
        ledger.note_proved(each, 1)
        ledger.note_damaged(each, 2, "a block")
    ledger.forget_objects(lambda object_id: object_id == B)
    assert list(ledger.proved(0)) == [(B, 1)]
    assert ledger.damaged() == {B: {2: "a block"}}


def test_runs_go_on_until_their_end(book: Book, ledger: Ledger) -> None:
    assert ledger.begin("verify all") == (1_000_000.0, False)
    book.date.advance(DAY)
    assert ledger.begin("verify all") == (1_000_000.0, True)
    assert ledger.begin("another") == (1_000_000.0 + DAY, False)
    ledger.end("verify all")
    assert ledger.begin("verify all") == (1_000_000.0 + DAY, False)
    assert ledger.begin("another")[1]


def test_a_run_that_was_stopped_long_ago_begins_anew(book: Book, ledger: Ledger) -> None:
    ledger.begin("verify all")
    book.date.advance(7 * DAY)
    assert ledger.begin("verify all") == (1_000_000.0, True)
    book.date.advance(1)
    began = 1_000_001.0 + 7 * DAY
    assert ledger.begin("verify all") == (began, False)
    assert ledger.begin("verify all") == (began, True)
    book.date.advance(-DAY)  # the clock was wrong
    assert ledger.begin("verify all") == (began - DAY, False)


# The file.


def test_it_lasts(book: Book) -> None:
    first = book.open()
    first.note_proved(A, 1)
    first.note_damaged(B, 2, "a block")
    first.begin("verify all")
    first.close()
    second = book.open()
    assert list(second.proved(0)) == [(A, 1)]
    assert second.damaged() == {B: {2: "a block"}}
    assert second.begin("verify all")[1]
    second.close()


def test_it_may_be_closed_twice_and_used_again(ledger: Ledger) -> None:
    ledger.note_proved(A, 1)
    ledger.close()
    ledger.close()
    ledger.note_proved(A, 2)
    assert set(ledger.proved(0)) == {(A, 1), (A, 2)}


def test_nobody_else_reads_it(book: Book, ledger: Ledger) -> None:
    ledger.flush()
    ledger.note_proved(A, 1)
    ledger.flush()
    assert book.path.parent.stat().st_mode & 0o077 == 0


def test_what_is_noted_is_written_after_a_moment(book: Book, ledger: Ledger) -> None:
    """Somebody who is killed loses a second's work at most."""
    other = book.open()
    ledger.note_proved(A, 1)
    assert list(other.proved(0)) == []
    book.clock.advance(PAUSE)
    ledger.note_proved(A, 2)
    assert set(other.proved(0)) == {(A, 1), (A, 2)}
    other.close()


def test_two_processes_note_at_once(book: Book, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither holds the file between two notes, however long it has nothing to note."""
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    other = book.open()
    for number in range(10):
        ledger.note_proved(A, number)
        other.note_proved(B, number)
        if number % 3 == 0:
            book.clock.advance(PAUSE)
    ledger.flush()
    other.flush()
    expected = {(each, number) for each in (A, B) for number in range(10)}
    assert set(ledger.proved(0)) == set(other.proved(0)) == expected
    assert ledger.begin("verify all") == (1_000_000.0, False)
    assert other.begin("verify all") == (1_000_000.0, True)
    other.close()


def test_real_processes_note_at_once(book: Book) -> None:
    code = (
        "import sys; from annex_remote.care.ledger import Ledger\n"
        "ledger = Ledger(sys.argv[1])\n"
        "for number in range(100):\n"
        "    ledger.note_proved(sys.argv[2] * 32, number)\n"
        "    ledger.flush()\n"
        "ledger.close()\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(book.path), each], stderr=subprocess.PIPE)
        for each in "abc"
    ]
    for process in processes:
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (0, b"")
    ledger = book.open()
    assert len(list(ledger.proved(0))) == 300
    ledger.close()


def test_many_threads_note_at_once(book: Book, ledger: Ledger) -> None:
    def note(number: int) -> None:
        for index in range(50):
            ledger.note_proved("abcdefgh"[index % 8] * 32, number)
            list(ledger.proved(0))

    runs = [Run(lambda number=number: note(number)) for number in range(4)]  # type: ignore[misc]
    for run in runs:
        run.join()
    assert len(list(ledger.proved(0))) == 32


def test_a_file_that_somebody_holds_is_written_later(
    book: Book, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    ledger.note_proved(A, 0)
    ledger.flush()
    holder = sqlite3.connect(book.path, isolation_level=None)
    holder.execute("begin immediate")
    ledger.note_proved(A, 1)
    ledger.flush()
    assert list(ledger.proved(0)) == [(A, 0)]
    holder.execute("commit")
    holder.close()
    assert set(ledger.proved(0)) == {(A, 0), (A, 1)}
    assert not (book.path.parent / "ledger.damaged").exists()


def test_a_file_that_somebody_holds_is_not_taken_for_a_damaged_one(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    first = book.open()
    first.note_proved(A, 0)
    first.close()
    holder = sqlite3.connect(book.path, isolation_level=None)
    holder.execute("pragma locking_mode = exclusive")
    holder.execute("begin exclusive")
    second = book.open()
    second.note_proved(B, 1)
    assert list(second.proved(0)) == [(B, 1)], "for itself it remembers"
    second.close()
    holder.execute("commit")
    holder.close()
    third = book.open()
    assert list(third.proved(0)) == [(A, 0)]
    third.close()
    assert not (book.path.parent / "ledger.damaged").exists()


def test_no_more_than_so_many_notes_wait_for_a_file(
    book: Book, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    ledger.flush()
    ledger.note_proved(A, 0)
    ledger.flush()
    holder = sqlite3.connect(book.path, isolation_level=None)
    holder.execute("begin immediate")
    for index in range(MOST_UNWRITTEN):
        ledger.note_proved(A, index % 200)
    assert len(ledger._unwritten) == MOST_UNWRITTEN
    holder.execute("commit")
    holder.close()
    assert len(list(ledger.proved(0))) == 200


@pytest.mark.parametrize("what", [b"", b"not a database at all" * 1000, b"SQLite format 3\0" + bytes(5000)])
def test_a_damaged_file_is_begun_anew(book: Book, what: bytes) -> None:
    book.path.parent.mkdir()
    book.path.write_bytes(what)
    ledger = book.open()
    assert ledger.damaged() == {}
    ledger.note_damaged(A, 1, "a block")
    ledger.close()
    again = book.open()
    assert again.damaged() == {A: {1: "a block"}}
    again.close()
    assert (book.path.parent / "ledger.damaged").exists() == bool(what)


def test_a_file_that_turns_out_to_be_damaged_is_begun_anew(book: Book) -> None:
    """Its beginning is as it should be, what was noted is not."""
    first = book.open()
    for index in range(3000):
        first.note_damaged("abcdefgh"[index % 8] * 31 + "abcdefgh"[index // 8 % 8], index % 256, "x" * 100)
    first.close()
    data = bytearray(book.path.read_bytes())
    assert len(data) > 40_000
    for at in range(4096 * 4, len(data), 4096):
        data[at : at + 4096] = bytes(b ^ 0xFF for b in data[at : at + 4096])
    book.path.write_bytes(data)
    second = book.open()
    second.damaged()
    second.note_damaged(A, 1, "a block")
    second.flush()
    assert second.damaged()[A][1] == "a block"
    second.close()


def test_what_stands_beside_a_damaged_file_goes_with_it(book: Book) -> None:
    book.path.parent.mkdir()
    book.path.write_bytes(b"no" * 1000)
    for end in ("-wal", "-shm"):
        Path(f"{book.path}{end}").write_bytes(b"of the old one")
    ledger = book.open()
    ledger.note_proved(A, 1)
    ledger.close()
    again = book.open()
    assert list(again.proved(0)) == [(A, 1)]
    again.close()


@pytest.mark.parametrize("where", ["file", "folder", "read-only"])
def test_where_no_file_can_be_it_remembers_for_itself(tmp_path: Path, where: str) -> None:
    if where == "file":
        (tmp_path / "state").write_text("in the way")
    elif where == "folder":
        (tmp_path / "state" / "ledger").mkdir(parents=True)
    else:
        (tmp_path / "state").mkdir(mode=0o500)
        if os.access(tmp_path / "state", os.W_OK):
            pytest.skip("who runs this may write anywhere")
    book = Book(tmp_path / "state" / "ledger")
    ledger = book.open()
    ledger.note_proved(A, 1)
    ledger.note_damaged(B, 2, "a block")
    assert list(ledger.proved(0)) == [(A, 1)]
    assert ledger.damaged() == {B: {2: "a block"}}
    assert not ledger.begin("verify all")[1]
    ledger.end("verify all")
    ledger.forget_objects(lambda _: False)
    ledger.close()


def test_it_is_not_opened_before_it_is_needed(book: Book, ledger: Ledger) -> None:
    assert not book.path.exists()
