"""What git-annex is asked for, with a program in its place that says what it is told to."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from annex_remote.annexed import MOST_SAID, keys_in
from annex_remote.errors import SwarmError
from tests.fakes import in_thread


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program that is found as git: what is written here is Python."""
    path = tmp_path / "git"
    path.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return path


def say(git: Path, *lines: str) -> None:
    git.write_text("\n".join([f"#!{sys.executable}", "import sys", *lines]))


def test_keys_come_as_they_are_said(git: Path) -> None:
    say(git, r"sys.stdout.buffer.write(b'K--a\nK--\xfc\n')")
    assert list(keys_in("vault")) == ["K--a", "K--\udcfc"]


def test_any_number_of_warnings_holds_up_nobody(git: Path) -> None:
    """More than fits into a pipe, before it says anything."""
    say(git, "sys.stderr.write('warning\\n' * 100_000)", "print('K--a')")
    assert in_thread(lambda: list(keys_in("vault"))) == ["K--a"]


def test_a_list_that_breaks_off_is_none_and_the_last_words_tell_why(git: Path) -> None:
    say(git, "print('K--a')", "sys.stderr.write('warning\\n' * 100_000 + 'out of memory')", "sys.exit(3)")
    with pytest.raises(SwarmError, match=r"(?s)git annex findkeys failed: .*out of memory") as told:
        in_thread(lambda: list(keys_in("vault")))
    assert len(str(told.value)) < MOST_SAID + 100
    say(git, "sys.exit(3)")
    with pytest.raises(SwarmError, match="git annex findkeys failed: 3"):
        list(keys_in("vault"))


def test_without_git_that_is_said(git: Path) -> None:
    git.unlink()
    with pytest.raises(SwarmError, match="git annex could not be run: No such file"):
        list(keys_in("vault"))
