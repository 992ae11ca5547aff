"""The folders that torrents are fetched into: one holder each, taken over from the dead, swept after a month."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from annex_remote.errors import Unavailable
from annex_remote.torrents.work import LEFT_OVER, WorkFolder, room_missing, sweep
from tests.fakes import Run, in_thread

NOW = 2e9
NAME = "0123456789abcdef0123456789abcdef01234567"

HOLDER = """
import sys
from annex_remote.torrents.work import WorkFolder
folder = WorkFolder.claim(*sys.argv[1:])
folder.keep(b"how far it is")
print(folder.path, flush=True)
sys.stdin.read()
"""


@contextmanager
def other_process(parent: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """Have a folder claimed by another process, which holds it until it is killed or this ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(parent), NAME],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield Path(process.stdout.readline().strip()), process
        process.kill()


def age(path: Path, seconds: float) -> None:
    """Make a folder and all in it so many seconds old."""
    for each in (*path.iterdir(), path):
        os.utime(each, (NOW - seconds, NOW - seconds), follow_symlinks=False)


def test_a_folder_is_this_users_alone(tmp_path: Path) -> None:
    folder = WorkFolder.claim(str(tmp_path / "torrents"), NAME)
    assert folder.path == str(tmp_path / "torrents" / NAME)
    assert os.stat(folder.path).st_mode & 0o777 == 0o700
    assert {entry.name for entry in os.scandir(folder.path)} == {"lock"}
    folder.release(remove=True)
    assert list((tmp_path / "torrents").iterdir()) == []


def test_what_is_kept_is_there_for_the_next(tmp_path: Path) -> None:
    first = WorkFolder.claim(str(tmp_path), NAME)
    assert first.resume_data() is None
    first.keep(b"one")
    first.keep(b"two")
    assert first.resume_data() == b"two"
    first.release(remove=False)
    second = WorkFolder.claim(str(tmp_path), NAME)
    assert (second.path, second.resume_data()) == (first.path, b"two")
    assert {entry.name for entry in os.scandir(second.path)} == {"lock", "resume"}
    second.release(remove=True)


def test_two_in_one_process_have_two_folders(tmp_path: Path) -> None:
    folders = [WorkFolder.claim(str(tmp_path), NAME) for _ in range(3)]
    assert [os.path.basename(folder.path) for folder in folders] == [NAME, f"{NAME}.1", f"{NAME}.2"]
    folders[1].release(remove=False)
    assert WorkFolder.claim(str(tmp_path), NAME).path == folders[1].path


def test_another_process_has_another_folder(tmp_path: Path) -> None:
    with other_process(tmp_path) as (theirs, _):
        descriptors = len(os.listdir("/proc/self/fd"))
        ours = WorkFolder.claim(str(tmp_path), NAME)
        assert len(os.listdir("/proc/self/fd")) == descriptors + 1
        assert (theirs.name, os.path.basename(ours.path)) == (NAME, f"{NAME}.1")
        assert ours.resume_data() is None
        ours.release(remove=True)


def test_what_a_killed_process_left_is_taken_over(tmp_path: Path) -> None:
    with other_process(tmp_path) as (theirs, process):
        process.send_signal(signal.SIGKILL)
        process.wait()
    ours = WorkFolder.claim(str(tmp_path), NAME)
    assert (ours.path, ours.resume_data()) == (str(theirs), b"how far it is")


def test_no_two_have_one_folder_while_others_remove_theirs(tmp_path: Path) -> None:
    """A lock on a file that was removed meanwhile is no lock."""
    holders: Counter[str] = Counter()
    lock = threading.Lock()
    most = 0

    def work() -> None:
        nonlocal most
        for _ in range(150):
            folder = WorkFolder.claim(str(tmp_path), NAME)
            with lock:
                holders[folder.path] += 1
                most = max(most, holders[folder.path])
            assert os.path.exists(os.path.join(folder.path, "lock"))
            with lock:
                holders[folder.path] -= 1
            folder.release(remove=True)

    for run in [Run(work) for _ in range(4)]:
        run.join()
    assert most == 1
    assert list(tmp_path.iterdir()) == []


def test_there_is_an_end_of_folders(tmp_path: Path) -> None:
    folders = [WorkFolder.claim(str(tmp_path), NAME) for _ in range(64)]
    with pytest.raises(Unavailable, match="64 processes fetch one torrent already"):
        WorkFolder.claim(str(tmp_path), NAME)
    for folder in folders:
        folder.release(remove=True)


def test_a_place_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable, match=r"file/\w+: (Not a directory|File exists)"):
        WorkFolder.claim(str(tmp_path / "file"), NAME)
    (tmp_path / NAME).symlink_to(tmp_path / "nowhere")
    with pytest.raises(Unavailable, match="No such file or directory"):
        in_thread(lambda: WorkFolder.claim(str(tmp_path), NAME))


def test_a_link_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unavailable, match="Too many levels of symbolic links"):
        WorkFolder.claim(str(tmp_path), NAME)
    assert not (tmp_path / "elsewhere").exists()


def test_what_cannot_be_kept_is_passed_over(tmp_path: Path) -> None:
    folder = WorkFolder.claim(str(tmp_path), NAME)
    folder.keep(b"one")
    (tmp_path / NAME / "resume.part").mkdir()
    folder.keep(b"two")
    assert folder.resume_data() == b"one"


def test_files_that_a_torrent_names_are_never_where_ours_are(tmp_path: Path) -> None:
    """Removing a folder removes what is in it, links and not what they lead to."""
    (tmp_path / "precious").write_bytes(b"precious")
    folder = WorkFolder.claim(str(tmp_path / "torrents"), NAME)
    os.symlink(tmp_path, os.path.join(folder.path, "f0"))
    folder.release(remove=True)
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_left_overs_go_after_a_month(tmp_path: Path) -> None:
    for name, seconds in (("old", LEFT_OVER + 1), ("recent", LEFT_OVER - 1), ("gone on", LEFT_OVER + 1)):
        folder = WorkFolder.claim(str(tmp_path), name)
        folder.keep(b"data")
        Path(folder.path, "f0").write_bytes(b"bytes")
        folder.release(remove=False)
        age(Path(folder.path), seconds)
    os.utime(tmp_path / "gone on" / "f0", (NOW - LEFT_OVER, NOW - LEFT_OVER))
    sweep(str(tmp_path), now=NOW)
    assert {path.name for path in tmp_path.iterdir()} == {"recent", "gone on"}


def test_what_somebody_holds_stays(tmp_path: Path) -> None:
    with other_process(tmp_path) as (theirs, _):
        age(theirs, 2 * LEFT_OVER)
        sweep(str(tmp_path), now=NOW)
        assert (theirs / "resume").exists()


def test_a_sweep_keeps_to_its_folders(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_bytes(b"")
    parent = tmp_path / "torrents"
    parent.mkdir()
    (parent / "link").symlink_to(elsewhere)
    (parent / "file").write_bytes(b"")
    (parent / "empty").mkdir()
    (parent / "made just now").mkdir()
    for path in (elsewhere, parent):
        age(path, 2 * LEFT_OVER)
    os.utime(parent / "made just now", (NOW, NOW))
    sweep(str(parent), now=NOW)
    assert [path.name for path in elsewhere.iterdir()] == ["precious"]
    assert {path.name for path in parent.iterdir()} == {"link", "file", "made just now"}
    sweep(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("free", "here", "beside", "missing"),
    [
        (200, 0, 0, 0),
        (199, 0, 0, 1),
        (20, 99, 0, 0),  # only what is left is fetched
        (1, 99, 0, 1),
        (100, 0, 1000, 0),  # of other files, too
        (0, 100, 0, 0),
    ],
)
def test_what_is_missing_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, here: int, beside: int, missing: int
) -> None:
    block = 4096
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=free * block))
    path = tmp_path / "tmp"
    path.write_bytes(bytes(here * block))
    (tmp_path / "T").mkdir()
    (tmp_path / "T/f0").write_bytes(bytes(beside * block))
    assert room_missing(str(tmp_path), "T", str(path), 100 * block) == missing * block


def test_a_disk_that_does_not_tell_has_room(tmp_path: Path) -> None:
    assert room_missing(str(tmp_path / "none"), "T", str(tmp_path / "tmp"), 1 << 60) == 0
