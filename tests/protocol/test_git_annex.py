"""The toy under the real git-annex: whether both sides mean the same by the protocol."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import annex_remote.errors

Git = Callable[..., str]

FILTERS = {"concurrent": "", "one at a time": "sed -u '/^EXTENSIONS/s/ ASYNC//' | "}


@pytest.fixture(params=FILTERS.values(), ids=list(FILTERS))
def git(tmp_path: Path, request: pytest.FixtureRequest) -> Git:
    """Run git in a new repository that has the toy as a remote."""
    package = Path(annex_remote.errors.__file__).parent.parent
    program = tmp_path / "bin" / "git-annex-remote-toy"
    program.parent.mkdir()
    toy = Path(__file__).with_name("toy.py")
    program.write_text(f"#!/bin/sh\n{request.param}PYTHONPATH='{package}' exec '{sys.executable}' '{toy}'\n")
    program.chmod(0o755)
    repository = tmp_path / "repository"
    repository.mkdir()
    environment = {
        **os.environ,
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "GIT_AUTHOR_NAME": "toy",
        "GIT_AUTHOR_EMAIL": "toy@example.org",
        "GIT_COMMITTER_NAME": "toy",
        "GIT_COMMITTER_EMAIL": "toy@example.org",
    }

    def run(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments],
            cwd=repository,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    run("init", "-q")
    run("annex", "init", "-q", "here")
    directory = f"directory={tmp_path / 'a folder'}"
    run("annex", "initremote", "toy", "type=external", "externaltype=toy", "encryption=none", directory)
    for number in range(12):
        (repository / f"a file {number}").write_text(f"{number}\n" * 1000)
    run("annex", "add", "-q")
    run("commit", "-qm", "files")
    return run


def test_testremote(git: Git) -> None:
    assert "tests passed" in git("annex", "testremote", "--fast", "--size=100B", "toy")


def test_many_jobs(git: Git) -> None:
    assert git("annex", "copy", "--to=toy", "-J6").count("(to toy...)") == 12
    git("annex", "drop", "-J6")
    assert git("annex", "get", "-J6").count("(from toy...)") == 12
    git("annex", "fsck", "--from=toy", "-J6")
    assert "a folder" in git("annex", "whereis", "a file 1")
    assert "directory:" in git("annex", "info", "toy")
    git("annex", "drop", "--from=toy", "-J6", "--force")
    assert "a folder" not in git("annex", "whereis", "a file 1")


def test_a_failure_shows_its_text(git: Git) -> None:
    git("annex", "copy", "--to=toy", "-q")
    repository = git("rev-parse", "--show-toplevel").strip()
    shutil.rmtree(Path(repository).parent / "a folder")
    git("annex", "drop", "-q", "--force")
    with pytest.raises(AssertionError, match="is not here"):
        git("annex", "get", "a file 1")
