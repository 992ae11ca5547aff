"""`torrent create` as it is typed: what is no way to call it, standard output, and odd things in the way."""

from __future__ import annotations

import os
import pty
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from annex_remote.torrents.metainfo import parse
from tests.sessions.session import Output, Session, wait_for

CREATE = "git-annex-remote-swarm torrent create"


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    session = Session(tmp_path)
    (tmp_path / "film").mkdir()
    (tmp_path / "film" / "one.bin").write_bytes(b"x" * 50_000)
    yield session
    session.close()


def names(session: Session) -> list[str]:
    return sorted(name for name in os.listdir(session.folder) if name != "home")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--v1 --v2", "--v1 and --v2: a torrent is of one kind"),
        ("--v2 --v1", "--v1 and --v2: a torrent is of one kind"),
        ("--v1 --hybrid", "--hybrid and --v1: a torrent is of one kind"),
        ("--hybrid --v2 --v1", "--hybrid and --v1 and --v2: a torrent is of one kind"),
        ("--private", "--private without --tracker: nobody could find a peer"),
        ("--name ''", "--name: a file or folder needs a name"),
        ("--name a/b", "--name: a/b cannot be the name of a file or folder"),
        ("--name ..", "--name: .. cannot be the name of a file or folder"),
        ("--name 'a\\b'", "--name: a name with a backslash or a control character"),
        (f"--name {'n' * 256}", "cannot be the name of a file or folder"),
        (
            "--piece-length 100000",
            "--piece-length 100KB: a piece has 16KiB to 128MiB, and a power of two of bytes",
        ),
        ("--piece-length 8KiB", "--piece-length 8KiB: a piece has 16KiB to 128MiB"),
        ("--piece-length 1TiB", "--piece-length 1TiB: a piece has 16KiB to 128MiB"),
        ("--v1 --piece-length 48KiB", "--piece-length 48KiB: a piece has 16KiB to 128MiB"),
        ("--piece-length 0", "--piece-length 0B: a piece has 16KiB to 128MiB"),
        ("--piece-length some", "--piece-length=some is not a number of bytes"),
        ("--piece-length -1", "--piece-length=-1 is not a number of bytes"),
        ("--tracker wss://h.example/", "--tracker wss://h.example: this is no URL that begins with one of http"),
        ("--tracker h.example:80", "this is no URL that begins with one of http"),
        ("--tracker http:///announce", "this is no URL that begins with one of http"),
        ("--tracker udp://h.example:99999", "this is no URL that begins with one of http"),
        ("--tracker ''", "this is no URL that begins with one of http"),
        ("--web-seed ftp://h.example/", "--web-seed ftp://h.example: this is no URL that begins with one of http"),
        ("--web-seed /srv/film", "this is no URL that begins with one of http"),
        ("-o ''", "-o is empty"),
        ("-o - --json", "-o - and --json: only one of them can have standard output"),
    ],
)
def test_mistakes_in_the_arguments_end_with_2(session: Session, words: str, sentence: str) -> None:
    said = session.attempt(f"{CREATE} film {words}")
    assert (said.status, said.out) == (2, ""), str(said)
    assert said.err.startswith("Usage: "), str(said)
    assert sentence in said.err.splitlines()[-1], str(said)
    assert names(session) == ["film"]


def test_the_secret_of_a_url_is_not_shown_with_a_mistake(session: Session) -> None:
    said = session.attempt(f"{CREATE} film --web-seed ftp://me:secret@h.example/x?key=secret")
    assert said.status == 2
    assert "secret" not in said


@pytest.mark.parametrize("kind", ["hybrid", "v1", "v2"])
def test_the_same_kind_twice_is_that_kind(session: Session, kind: str) -> None:
    [about] = session.run(f"{CREATE} film --{kind} --{kind} --json").json
    assert about["kind"] == kind


def test_standard_output_takes_the_torrent_and_nothing_else(session: Session) -> None:
    session.run(f"{CREATE} film")
    document = (session.folder / "film.torrent").read_bytes()
    metainfo = parse(document)
    for output in ("-", "/dev/stdout"):
        said = subprocess.run(
            [*shlex.split(CREATE), "film", "-o", output],
            cwd=session.folder,
            env=session.environment,
            capture_output=True,
            check=True,
        )
        assert said.stdout == document
        text = said.stderr.decode()
        assert text.startswith("film: 1 file, 50.0 kB\nv1 ")
        assert text.endswith(f"{metainfo.magnet()}\n")
    assert names(session) == ["film", "film.torrent"]


def test_standard_output_that_is_a_file_of_the_folder_is_left_out(session: Session) -> None:
    session.run(f"{CREATE} film")
    said = session.run(f"sh -c '{CREATE} film -o - >film/film.torrent'")
    assert said.out == ""
    made = (session.folder / "film" / "film.torrent").read_bytes()
    assert made == (session.folder / "film.torrent").read_bytes()


def test_no_torrent_goes_to_a_terminal(session: Session) -> None:
    ours, theirs = pty.openpty()
    try:
        said = subprocess.run(
            [*shlex.split(CREATE), "film", "-o", "-"],
            cwd=session.folder,
            env=session.environment,
            stdout=theirs,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(theirs)
        os.close(ours)
    assert said.returncode == 2
    assert "-o - writes no torrent to a terminal" in said.stderr


def test_standard_output_that_is_full_or_shut_is_no_success(session: Session) -> None:
    said = session.attempt(f"sh -c '{CREATE} film -o - >/dev/full'")
    assert said.status == 1
    assert said.err == ("git-annex-remote-swarm: standard output cannot be written: No space left on device\n"), (
        str(said)
    )
    said = session.attempt(f"sh -c '{CREATE} film -o - | true'")
    assert said.err == "" or said.err.startswith("film: 1 file"), str(said)


def refused(said: Output, sentence: str) -> None:
    assert (said.status, said.out) == (1, ""), str(said)
    assert sentence in said.err, str(said)
    assert said.err.startswith("git-annex-remote-swarm: "), str(said)
    assert "internal error" not in said.err


def test_where_nothing_can_be_written_nothing_is_hashed(session: Session) -> None:
    (session.folder / "film" / "large.bin").touch()
    os.truncate(session.folder / "film" / "large.bin", 1 << 40)  # would take hours
    long = "n" * 252
    (session.folder / "film" / long).write_bytes(b"x")
    os.mkfifo(session.folder / "pipe")
    for words, sentence in (
        ("-o no/where.torrent", "no/where.torrent cannot be written: there is no folder no"),
        ("-o film/one.bin/x", "film/one.bin/x cannot be written: Not a directory"),
        (f"--name {long}", "cannot be written: File name too long"),
        ("-o film", "film is a folder: -o takes the file that is to be made"),
        ("-o pipe --force", "pipe is no file that could be replaced: -o - writes to standard output"),
        ("--piece-length 16KiB", "pieces of 16KiB, which is too many: --piece-length takes larger ones"),
    ):
        refused(session.attempt(f"{CREATE} film {words}"), sentence)
    assert names(session) == ["film", "pipe"]


def test_a_link_at_the_place_of_the_torrent_is_replaced_and_what_it_leads_to_is_not(session: Session) -> None:
    folder = session.folder
    session.run(f"{CREATE} film")
    (folder / "out.torrent").symlink_to("film/one.bin")
    session.run(f"{CREATE} film -o out.torrent --force")
    assert not (folder / "out.torrent").is_symlink()
    assert (folder / "film" / "one.bin").read_bytes() == b"x" * 50_000
    assert (folder / "out.torrent").read_bytes() == (folder / "film.torrent").read_bytes()


def test_a_torrent_of_the_file_that_is_to_be_made_is_refused(session: Session) -> None:
    said = session.attempt(f"{CREATE} film/one.bin -o film/one.bin --force")
    refused(said, "film/one.bin is where the torrent goes: it cannot be what is in it")
    assert (session.folder / "film" / "one.bin").read_bytes() == b"x" * 50_000


def test_a_note_tells_that_a_web_seed_does_not_work_for_all(session: Session) -> None:
    said = session.run(f"{CREATE} film/one.bin --v2 --web-seed https://h.example/other")
    assert said.err.startswith("note: --web-seed https://h.example/other: of a v2 torrent")
    assert session.run(f"{CREATE} film --v2 --web-seed https://h.example/").err == ""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_it_leaves_nothing_behind_when_it_is_ended(session: Session, how: signal.Signals) -> None:
    folder = session.folder / "tmp"
    folder.mkdir()
    os.truncate(session.folder / "film" / "one.bin", 1 << 40)
    creating = session.start(f"{CREATE} film", env={"TMPDIR": str(folder)})
    wait_for(lambda: os.listdir(folder), "a folder of its own")
    creating.send_signal(how)
    out, err = creating.communicate(timeout=session.patience)
    assert os.listdir(folder) == [], err
    assert (out, creating.returncode) == ("", 130 if how is signal.SIGINT else -how)
    assert "Traceback" not in err
    assert names(session) == ["film", "tmp"]
