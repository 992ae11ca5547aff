"""Where the capability may be seen, and where not."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable

import pytest

from annex_remote.capability import Capability
from tests.sessions.session import PARAMETERS, Repository, Session

PROGRAMS = ("git", "git-annex", "git-annex-remote-swarm")


def secrets_of(full: str) -> list[str]:
    """Return the texts in which a capability's secrets might show: printed, and as hexadecimal digits."""
    capability = Capability.parse(full)
    read = capability.attenuate("read")
    words = [full.partition("full-")[2][:40], read.format().partition("read-")[2][:40]]
    parts = [capability.secrets[:32], capability.secrets[32:]]
    return [*words, *(part.hex() for part in parts), *(repr(part)[2:-1] for part in parts)]


@pytest.mark.parametrize(
    ("option", "begins", "warning"),
    [
        ("", "swarm-full-", "can read, change and replace everything in the grid. Keep it secret"),
        ("--read", "swarm-read-", "can read everything in the grid, and store nothing. Keep it secret"),
        ("--verify", "swarm-verify-", "can check and rebuild shares, and read no content"),
    ],
)
def test_a_capability_is_all_that_stands_on_standard_output(
    laptop: Repository, option: str, begins: str, warning: str
) -> None:
    said = laptop.run(f"git-annex-remote-swarm capability vault {option}")
    assert re.fullmatch(begins + "[a-z2-7]+\n", said.out)
    assert warning in " ".join(said.err.split())
    assert begins not in said.err
    verify = laptop.remote_log()[laptop.run("git config remote.vault.annex-uuid").out.strip()]["verify-key"]
    assert Capability.parse(said.out).verify_key.hex() == verify


def test_capability_of_what_is_no_swarm_remote(session: Session, laptop: Repository) -> None:
    laptop.run(f"git annex initremote plain type=directory encryption=none directory={session.home}")
    for name in ("nothing", "plain"):
        said = laptop.run(f"git-annex-remote-swarm capability {name}", fails=True)
        assert said.out == ""
        assert name in said.err
        assert "Traceback" not in said
    said = session.run("git-annex-remote-swarm capability vault", fails=True)
    assert said.out == ""
    assert "Traceback" not in said


@pytest.fixture
def arguments(session: Session) -> Callable[[], str]:
    """Put recorders before the programs in PATH; return what reads the arguments that they were given."""
    record = session.folder / "arguments"
    folder = session.folder / "recorders"
    folder.mkdir()
    for name in PROGRAMS:
        recorder = folder / name
        recorder.write_text(f'#!/bin/sh\necho {name} "$@" >>{record}\nexec {shutil.which(name)} "$@"\n')
        recorder.chmod(0o755)
    session.environment["PATH"] = f"{folder}{os.pathsep}{session.environment['PATH']}"
    return record.read_text


def test_secrets_are_in_no_arguments_and_in_nothing_shown(session: Session, arguments: Callable[[], str]) -> None:
    laptop = session.repository("laptop")
    shown = [laptop.initremote()]
    full = laptop.capability()
    laptop.add(film=1_500_000, note=5)
    commands = (
        "git annex copy film --to vault",
        "git annex info vault",
        "git annex info --json vault",
        "git annex whereis film",
        "git annex drop film",
        "git annex get film",
        "git annex fsck film --from vault",
        "git-annex-remote-swarm stores vault --json",
        f"git-annex-remote-swarm --debug stores vault add box=dir:{session.folder}/box",
        "git-annex-remote-swarm stores vault list",
    )
    shown += [laptop.run(command) for command in commands]
    session.lose("usb", "nas", "attic")
    shown.append(laptop.run("git annex fsck film --from vault", fails=True))
    shown.append(laptop.run("git annex copy note --to vault", fails=True))
    given = {"SWARM_CAPABILITY": full}
    desktop = session.clone(laptop, "desktop")
    shown.append(desktop.enableremote(env=given))
    shown.append(desktop.run("git annex fsck film --from vault", fails=True, env=given))

    called = arguments()
    assert "git-annex-remote-swarm capability vault" in called
    assert "annex info" in called  # as our own program calls it
    for secret in secrets_of(full):
        assert secret not in called
        for said in shown:
            assert secret not in said
    # git-annex's file of credentials is the one place on disk.
    places = [path for path in session.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    holding = {path for path in places if full.encode() in path.read_bytes()}
    assert {path.parent.name for path in holding} == {"creds"}
    assert len(holding) == 2


@pytest.mark.parametrize("command", ["copy note --to vault", "get film --from vault", "info vault"])
def test_what_goes_to_the_debug_log_has_no_secret(session: Session, laptop: Repository, command: str) -> None:
    """git-annex logs the whole conversation, its own answers included: what we say in it is at stake."""
    full = laptop.capability()
    laptop.add(film=1_500_000)
    laptop.run("git annex copy film --to vault")
    laptop.run("git annex drop film")
    laptop.write("note", 100)
    laptop.run("git annex add --quiet note")
    session.lose("usb", "nas", "attic")
    said = laptop.attempt(f"git annex {command} --debug", env={"SWARM_CAPABILITY": full})
    ours = [line for line in said.err.splitlines() if re.search(r"git-annex-remote-swarm\[\d+\] -->", line)]
    assert any("GETCONFIG" in line for line in ours)
    if not command.startswith("info"):
        assert any(" DEBUG " in line for line in ours)
    theirs = [line for line in said.err.splitlines() if line not in ours and "<-- " not in line]
    for secret in secrets_of(full):
        assert not [line for line in ours if secret in line and "SETCREDS" not in line]
        assert not [line for line in theirs if secret in line]


def test_nothing_in_the_stores_tells_of_content_or_of_other_stores(session: Session) -> None:
    laptop = session.repository("laptop")
    laptop.initremote(parameters=f"{PARAMETERS}")
    text = b"a line that is easy to find again\n"
    for name, content in {"letter.txt": text, "book.txt": text * 100_000}.items():
        (laptop.path / name).write_bytes(content)
    laptop.run("git annex add --quiet .")
    laptop.run("git annex copy --to vault .")
    keys = [laptop.key(name) for name in ("letter.txt", "book.txt")]
    words = [text.strip(), b"letter", b"book", b"SHA256", *(key.encode()[-30:] for key in keys)]
    words += [str(session.store(name)).encode() for name in ("usb", "nas")]
    for path in session.store("cloud").rglob("*"):
        for word in words:
            assert word.decode() not in str(path.relative_to(session.store("cloud")))
            assert path.is_dir() or word not in path.read_bytes()


def test_a_long_path_for_temporary_files(session: Session, laptop: Repository) -> None:
    """The path of a socket has about 100 characters at most; that of a user's folder for them may be longer."""
    long = session.folder / ("t" * 120)
    long.mkdir()
    said = laptop.run("git-annex-remote-swarm capability vault", env={"TMPDIR": str(long)})
    assert said.out.startswith("swarm-full-")
    assert list(long.iterdir()) == []
