"""Programs that are killed at any moment: nothing is lost, nothing is claimed that is not so, all goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.sessions.session import Repository, Session, broken_shares, sizes_of, wait_for

SIZES = {"film": 40_000_000, "clip": 9_000_000, "photo": 1_500_000, "note": 100}
TOTAL = sum(SIZES.values())

Victim = Callable[[Session, "subprocess.Popen[str]"], None]

GONE = 2.0
"""Seconds in which all that git-annex started is over; the program gives itself one."""

TRIES = 4
"""Times in one of which it has to clean up: half a second for that is little where others take the processor."""

HANG = 30.0
"""Seconds after which git-annex is taken to hang: under ASYNC it may, when its remote is gone."""


def kill_the_remote(session: Session, process: subprocess.Popen[str]) -> None:
    for pid in session.processes("git-annex-remote-swarm"):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_git_annex(session: Session, process: subprocess.Popen[str]) -> None:
    for pid, line in session.processes("git-annex").items():
        if "git-annex-remote-swarm" not in line:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def kill_both(session: Session, process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


VICTIMS: tuple[Victim, ...] = (kill_the_remote, kill_git_annex, kill_both)


def interrupt(
    session: Session, process: subprocess.Popen[str], moved: Callable[[], int], until: int, kill: Victim
) -> bool:
    """Kill once `moved` has come to `until` bytes; True if the command was not over by then."""
    wait_for(lambda: moved() >= until or process.poll() is not None, f"{until} bytes")
    in_flight = process.poll() is None
    if in_flight:
        kill(session, process)
    try:
        process.communicate(timeout=HANG)
    except subprocess.TimeoutExpired:
        kill_both(session, process)
        process.communicate()
    wait_for(lambda: not session.processes(), "the end of all that was started", HANG)
    return in_flight


@pytest.fixture
def desktop(session: Session, laptop: Repository) -> Repository:
    """Another clone, which sees what is really in the vault."""
    laptop.add(**SIZES)
    desktop = session.clone(laptop, "desktop")
    desktop.enableremote(env={"SWARM_CAPABILITY": laptop.capability()})
    return desktop


def check_claims(laptop: Repository, desktop: Repository) -> int:
    """Check that what `vault` says of each file is what a fetch finds; return how many are there."""
    count = 0
    for name in SIZES:
        present = laptop.is_present(name)
        assert present is not None, f"no store is away, so it can be told whether {name} is there"
        fetched = desktop.attempt(f"git annex transferkey {desktop.key(name)} --from vault")
        assert (fetched.status == 0) == present, str(fetched)
        if present:
            assert desktop.read(name) == laptop.read(name)
            desktop.run(f"git annex drop --force {name}")
        count += present
    return count


def test_a_copy_that_is_killed(session: Session, laptop: Repository, desktop: Repository) -> None:
    moments = random.Random(20)
    verify = laptop.capability("--verify")
    sent = TOTAL * 5 // 3
    caught = 0

    def moved() -> int:
        return sizes_of(session.shares()) + sizes_of(session.parts())

    for turn in range(6):
        start = moved()
        process = laptop.start(f"git annex copy --to vault . -J{moments.choice((1, 4))}")
        until = start + int((sent - start) * moments.uniform(0.02, 0.9))
        caught += interrupt(session, process, moved, until, VICTIMS[turn % 3])
        assert broken_shares(session, verify) == []
        kept = {path: path.stat().st_ino for path in session.shares()}
        stored = check_claims(laptop, desktop)
        assert {path: path.stat().st_ino for path in session.shares()} == kept
        if stored == len(SIZES):
            laptop.run("git annex drop --from vault .")
            assert session.shares() == []
        elif moments.random() < 0.5:
            laptop.run("git annex copy --to vault .")
            # What was stored well enough to be read is not sent again, though it may lack a share or two.
            assert len(session.shares()) >= 5 * (len(SIZES) - stored) + 3 * stored
            assert len({path.stem for path in session.shares()}) == len(SIZES)
            # Shares that were whole were not sent again.
            assert {path: path.stat().st_ino for path in kept} == kept
            assert check_claims(laptop, desktop) == len(SIZES)
            laptop.run("git annex drop --from vault .")
    assert caught >= 4

    laptop.run("git annex copy --to vault .")
    assert broken_shares(session, verify) == []
    laptop.run("git annex drop .")
    laptop.run("git annex get .")
    assert {name: laptop.read(name) for name in SIZES} == {
        name: laptop.write(name, size) for name, size in SIZES.items()
    }


def test_a_get_that_is_killed(session: Session, laptop: Repository, desktop: Repository) -> None:
    laptop.run("git annex copy --to vault .")
    uuid = laptop.run("git config remote.vault.annex-uuid").out.strip()
    for name in SIZES:
        desktop.run(f"git annex setpresentkey {desktop.key(name)} {uuid} 1")
    moments = random.Random(6)
    temporary = desktop.path / ".git/annex/tmp"
    caught = resumed = 0

    def moved() -> int:
        return sizes_of([path for path in temporary.glob("*") if path.is_file()])

    for turn in range(6):
        start = moved()
        process = desktop.start(f"git annex get --from vault . -J{moments.choice((1, 4))}")
        until = start + int((TOTAL - start) * moments.uniform(0.02, 0.8))
        caught += interrupt(session, process, moved, until, VICTIMS[turn % 3])
        for name in SIZES:
            assert not desktop.has(name) or desktop.read(name) == laptop.read(name)
            assert laptop.is_present(name) is True
        resumed += moved() > 0
        if moments.random() < 0.5:
            desktop.run("git annex get --from vault .")
        if all(desktop.has(name) for name in SIZES):
            desktop.run("git annex drop --force .")
    assert caught >= 4
    assert resumed >= 2

    desktop.run("git annex get --from vault .")
    assert {name: desktop.read(name) for name in SIZES} == {name: laptop.read(name) for name in SIZES}


def test_a_wrong_part_of_a_download_is_found_out(
    session: Session, laptop: Repository, desktop: Repository
) -> None:
    """What a killed download left, and something else changed: it is fetched again, and is right."""
    laptop.run("git annex copy --to vault .")
    laptop.run("git annex drop .")
    temporary = laptop.path / ".git/annex/tmp"
    temporary.mkdir(exist_ok=True)
    for name, size in SIZES.items():
        (temporary / laptop.key(name)).write_bytes(b"x" * (size * 2 // 3))
    laptop.run("git annex get . --from vault")
    assert {name: laptop.read(name) for name in SIZES} == {
        name: laptop.write(name, size) for name, size in SIZES.items()
    }


@pytest.fixture
def large(laptop: Repository) -> Path:
    """A file that takes long to store and to fetch, and no time to make: holes, named by date and size."""
    path = laptop.path / "large"
    with path.open("wb") as file:
        file.truncate(6 << 30)
    laptop.run("git annex add --quiet --backend=WORM large")
    return path


def interrupt_from_the_keyboard(session: Session, process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGINT)


@pytest.mark.parametrize("end", [interrupt_from_the_keyboard, kill_git_annex], ids=["Ctrl-C", "end of stdin"])
@pytest.mark.usefixtures("large")
def test_a_copy_that_is_broken_off_leaves_no_process(session: Session, laptop: Repository, end: Victim) -> None:
    for _ in range(TRIES):
        before = set(session.parts())
        process = laptop.start("git annex copy large --to vault")
        wait_for(lambda: sizes_of({*session.parts()} - before) > 10 << 20, "a copy under way")  # noqa: B023
        assert process.poll() is None
        assert session.processes("git-annex-remote-swarm")
        end(session, process)
        wait_for(lambda: not session.processes(), "the end of all processes", GONE)
        process.communicate()
        assert session.shares() == []
        assert laptop.is_present("large") is False
        if before.issuperset(session.parts()):
            return
    raise AssertionError(f"it never cleaned up: {session.parts()}")


@pytest.mark.parametrize("end", [interrupt_from_the_keyboard, kill_git_annex], ids=["Ctrl-C", "end of stdin"])
def test_a_get_that_is_broken_off_leaves_no_process(session: Session, laptop: Repository, end: Victim) -> None:
    laptop.add(film=200_000_000)
    laptop.run("git annex copy film --to vault")
    laptop.run("git annex drop film")
    temporary = laptop.path / ".git/annex/tmp" / laptop.key("film")
    process = laptop.start("git annex get film --from vault")
    wait_for(lambda: sizes_of([temporary]) > 0, "a get under way")
    end(session, process)
    wait_for(lambda: not session.processes(), "the end of all processes", GONE)
    process.communicate()
    laptop.run("git annex get film --from vault")
    assert len(laptop.read("film")) == 200_000_000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.usefixtures("large")
def test_the_program_ends_on_a_signal_though_git_annex_goes_on(
    session: Session, laptop: Repository, number: signal.Signals
) -> None:
    process = laptop.start("git annex copy large --to vault")
    wait_for(lambda: sizes_of(session.parts()) > 10 << 20, "a copy under way")
    pids = session.processes("git-annex-remote-swarm").keys()
    assert pids
    for pid in pids:
        os.kill(pid, number)
    # git-annex may well start another, to try again: those are meant that were there.
    wait_for(lambda: not pids & session.processes().keys(), "the end of the program", GONE)
    kill_both(session, process)
    process.communicate()
    assert session.shares() == []
