"""Without a git repository: what stores and capability give back, and what a friend can check and repair."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from annex_remote.capability import Capability
from annex_remote.keyfiles import key_path
from tests.sessions.network import Network
from tests.sessions.session import STORES, Output, Repository, Session, flip, sizes_of
from tests.sessions.test_secrets import secrets_of

SIZES = {"film": 5_000_001, "photo": 1 << 20, "note": 12, "empty": 0}
PROGRAM = "git-annex-remote-swarm"


@dataclass
class Lost:
    """A repository that is gone, and what is left of it."""

    session: Session
    contents: dict[str, bytes]
    keys: dict[str, str]
    capability: str
    uuid: str

    @property
    def path(self) -> Path:
        """The file that has the capability."""
        return self.session.folder / "word"

    @property
    def folder(self) -> Path:
        return self.session.folder / "back"

    def recover(self, *stores: str, options: str = "", source: str = "word") -> Output:
        """Run `recover` from the capability in a file and the addresses of `stores`."""
        places = " ".join(f"dir:{self.session.store(name)}" for name in stores)
        return self.session.attempt(f"{PROGRAM} recover {source} {places} --to back {options}")

    def health(self, *stores: str, options: str = "", source: str = "verify") -> Output:
        places = " ".join(f"dir:{self.session.store(name)}" for name in stores or ("usb",))
        return self.session.attempt(f"{PROGRAM} health --capability {source} {places} {options}")

    def back(self) -> dict[str, bytes]:
        """Return the contents that are in the folder, of files by name."""
        names = {key_path(key): name for name, key in self.keys.items()}
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        found = {str(path.relative_to(self.folder)): path.read_bytes() for path in files}
        return {names[path]: content for path, content in found.items() if path in names}


def lose(session: Session, *, pushed: bool = False) -> Lost:
    """Store a repository's files in five stores, and delete the repository."""
    laptop = session.repository("laptop")
    contents = laptop.add(**SIZES)
    laptop.initremote(options="--with-url")
    laptop.run("git annex copy --to vault .")
    if pushed:
        laptop.run("git push vault main git-annex")
    keys = {name: laptop.key(name) for name in contents}
    lost = Lost(session, contents, keys, laptop.capability(), laptop.run("git config remote.vault.annex-uuid").out)
    lost.uuid = lost.uuid.strip()
    lost.path.write_text(f"{lost.capability}\n")
    verify = Capability.parse(lost.capability).attenuate("verify")
    (session.folder / "verify").write_text(verify.format())
    for path in laptop.path.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
    shutil.rmtree(laptop.path)
    return lost


@pytest.fixture
def lost(session: Session) -> Lost:
    return lose(session)


def test_everything_comes_back_from_one_address_and_three_stores(session: Session, lost: Lost) -> None:
    session.lose("nas", "friend")
    said = lost.recover("attic", options="--dry-run")
    assert said.status == 0, str(said)
    assert "4 objects: 4 recoverable" in said
    assert not lost.folder.exists()

    said = lost.recover("attic")
    assert said.status == 0, str(said)
    assert "4 objects: 4 recovered" in said
    assert lost.back() == lost.contents
    for name in ("nas", "friend"):
        assert f"{name}: could not be asked: {session.store(name)} does not have this store's marker" in said
    assert "git annex reinject --known" in said
    assert not session.store("nas").exists()
    assert "swarm-" not in said.out + said.err.replace("git-annex-remote-swarm", "")

    (lost.folder / key_path(lost.keys["film"])).unlink()
    said = lost.recover("attic", options="--json")
    assert said.status == 0
    states = {line["key"]: line["state"] for line in said.json if line["type"] == "object"}
    assert states == {key: "recovered" if name == "film" else "there" for name, key in lost.keys.items()}
    assert said.json[-1]["exit_status"] == 0
    assert lost.back() == lost.contents


def test_what_is_lost_and_what_depends_on_a_store(session: Session, lost: Lost) -> None:
    session.unplug("nas", "friend", "cloud")
    said = lost.recover("usb")
    assert said.status == 3
    assert "3 are needed" in said
    assert "not recovered, and not known to be lost" in said
    assert "the same command again when cloud, friend, nas can be asked" in said
    assert lost.back() == {}
    session.plug("nas")
    said = lost.recover("usb")
    assert said.status == 0, str(said)
    assert lost.back() == lost.contents
    session.plug("friend", "cloud")
    names = [path.name.rpartition(".")[0] for path in session.shares("usb")]
    for name in STORES[:3]:
        [share] = [path for path in session.shares(name) if path.name.startswith(names[0])]
        share.unlink()
    shutil.rmtree(lost.folder)
    said = lost.recover("usb")
    assert said.status == 2
    assert "lost, or left over by a removal" in said
    assert len(lost.back()) == 3


def test_where_the_capability_may_stand_and_what_is_refused(session: Session, lost: Lost) -> None:
    place = f"dir:{session.store('usb')} --to back"
    said = session.attempt(f"{PROGRAM} recover - {place}", typed=f"{lost.capability}\n")
    assert said.status == 0, str(said)
    said = session.attempt(f"{PROGRAM} recover env {place}", env={"SWARM_CAPABILITY": lost.capability})
    assert said.status == 0, str(said)
    read = Capability.parse(lost.capability).attenuate("read").format()
    said = session.attempt(f"{PROGRAM} recover - {place}", typed=read)
    assert said.status == 0, str(said)

    secrets = [lost.capability[11:40], read[11:40]]
    for word in (lost.capability, lost.capability.upper(), read, f" {read}", lost.capability.replace("-", "", 1)):
        said = session.attempt(f"{PROGRAM} recover {shlex.quote(word)} {place}")
        assert said.status == 1
        assert "does not go on the command line" in said.plain
        assert "shells keep them" in said.plain
        assert not [secret for secret in secrets if secret in said.out.lower() + said.err.lower()]
    # Nor where it is mistaken for the path of a file.
    said = session.attempt(f"{PROGRAM} recover {lost.capability[6:]} {place}")
    assert said.status == 1
    assert "cannot be read" in said
    assert secrets[0] not in said

    for command, why in {
        f"recover verify {place}": "a verify capability, which can read nothing",
        f"recover nothing {place}": "cannot be read (No such file or directory)",
        f"recover env {place}": "SWARM_CAPABILITY is not set",
        "recover word --to back": "Missing argument",
        f"recover word dir:{session.store('usb')}": "--to DIR is missing",
        "recover word nonsense --to back": "is not the address of a store",
        f"health --capability word {place.split()[0]} --sample 5%": "--sample goes with --verify",
        f"health {place.split()[0]}": "Missing option",
    }.items():
        said = session.attempt(f"{PROGRAM} {command}")
        assert said.status == 1, str(said)
        assert why in said.plain
        assert "Traceback" not in said


def test_the_wrong_capability_or_the_wrong_place(session: Session, lost: Lost) -> None:
    (session.folder / "other").write_text(Capability.generate().format())
    said = lost.recover("usb", "nas", source="other")
    assert said.status == 1
    assert "it may be the capability of another grid, or these may be the wrong places" in said.plain
    assert f"dir:{session.store('nas')}: nothing of this grid is there" in said.plain
    assert not lost.folder.exists()
    said = lost.recover("nowhere")
    assert said.status == 1
    assert "nothing of this grid is there" in said
    assert not session.store("nowhere").exists()


def clone_command(said: Output, with_what: str) -> str:
    [command] = [line.strip() for line in said.out.splitlines() if "git clone" in line and with_what in line]
    return command.removesuffix("DIR")


def test_the_git_repository_comes_back_by_the_command_that_is_printed(session: Session) -> None:
    lost = lose(session, pushed=True)
    session.lose("usb", "cloud")
    # One of those that are left is somewhere else than it was.
    session.store("friend").rename(session.folder / "a new place")
    said = session.attempt(
        f"{PROGRAM} recover word dir:{session.store('nas')} 'dir:{session.folder}/a new place' --to back"
    )
    assert said.status == 0, str(said)
    assert lost.back() == lost.contents
    assert lost.capability not in said
    assert "set SWARM_CAPABILITY" in said

    given = {"SWARM_CAPABILITY": lost.capability}
    command = clone_command(said, "type=external")
    session.run(f"{command} desk", env=given)
    desk = Repository(session, session.folder / "desk")
    desk.run("git annex get .")
    assert {name: desk.read(name) for name in lost.contents} == lost.contents

    command = clone_command(said, "type=directory")
    session.lose("nas", "attic")
    session.run(f"{command} shelf")
    shelf = Repository(session, session.folder / "shelf")
    shelf.run("git annex get .")
    assert {name: shelf.read(name) for name in lost.contents} == lost.contents


def test_git_annex_takes_what_was_recovered(session: Session) -> None:
    """In a clone that knows the names, and in a new repository, as the help says."""
    laptop = session.repository("laptop")
    contents = laptop.add(**SIZES)
    laptop.initremote()
    laptop.run("git annex copy --to vault .")
    keys = {name: laptop.key(name) for name in contents}
    (session.folder / "word").write_text(laptop.capability())
    clones = [session.clone(laptop, name) for name in ("one", "two")]
    for clone in clones:
        clone.run("git remote remove origin")
    said = session.attempt(f"{PROGRAM} recover word dir:{session.store('usb')} --to back")
    assert said.status == 0, str(said)
    help_text = session.run(f"{PROGRAM} recover --help").plain
    commands = [line.strip() for line in said.out.splitlines() if line.startswith("  git annex ")]
    for command in commands:
        assert command.replace(str(session.folder / "back"), "DIR") in help_text
    reinject, initremote, fsck = commands

    clones[0].run(initremote)
    clones[0].run(fsck)
    clones[0].run("git annex get .")
    assert {name: clones[0].read(name) for name in contents} == contents

    new = session.repository("new")
    new.run(initremote)
    uuid = new.run("git config remote.recovered.annex-uuid").out.strip()
    assert "git annex setpresentkey KEY $(git config remote.recovered.annex-uuid) 1" in help_text
    new.run(f"git annex setpresentkey {keys['film']} {uuid} 1")
    assert "git annex fromkey KEY FILE" in help_text
    new.run(f"git annex fromkey --force {keys['film']} film")
    new.run("git annex get film")
    assert new.read("film") == contents["film"]

    session.run(f"sh -c {shlex.quote(reinject)}", cwd=clones[1].path)
    assert {name: clones[1].read(name) for name in contents} == contents


def test_all_kinds_of_stores_from_one_that_wants_a_login(session: Session) -> None:
    with ExitStack() as stack:
        network = Network(session, stack)
        laptop = session.repository("laptop")
        contents = laptop.add(**SIZES)
        network.initremote(laptop)
        laptop.run("git annex copy --to vault .", env=network.logins)
        keys = {name: laptop.key(name) for name in contents}
        lost = Lost(session, contents, keys, laptop.capability(), "")
        lost.path.write_text(lost.capability)
        session.lose("usb")
        network.stop("nas")
        cloud = network.addresses["cloud"]
        said = session.attempt(f"{PROGRAM} recover word {cloud} --to back", env=network.logins)
        assert said.status == 1
        assert "write NAME=ADDRESS for a login" in said
        said = session.attempt(f"{PROGRAM} recover word cloud={cloud} --to back")
        assert said.status == 1
        said = session.attempt(f"{PROGRAM} recover word cloud={cloud} --to back", env=network.logins)
        assert said.status == 0, str(said)
        assert lost.back() == contents
        assert "nas: could not be asked" in said
        assert not [secret for secret in network.secrets if secret in said]


def test_help_shows_commands_a_line_each(session: Session) -> None:
    lines = session.run(f"{PROGRAM} recover --help").out.splitlines()
    assert "    git annex fsck --from recovered --fast" in lines


# The friend's check.


def test_a_friend_finds_damage_and_repairs_it_without_reading_anything(session: Session, lost: Lost) -> None:
    said = lost.health()
    assert said.status == 0, str(said)
    assert "4 objects: 4 healthy" in said
    before = {path: path.read_bytes() for path in session.shares()}
    damaged = max(session.shares("nas"), key=lambda path: path.stat().st_size)
    flip(damaged, at=1000)
    gone = session.shares("cloud")[0]
    gone.unlink()
    assert lost.health().status == 1

    said = lost.health(options="--verify")
    assert said.status == 1, str(said)
    assert "1 of its blocks damaged: segments 0" in said
    assert "the same command with --repair" in said
    for name, key in lost.keys.items():
        assert key not in said
        assert name not in said.out.split()

    said = lost.health(options="--verify --repair")
    assert said.status == 0, str(said)
    assert "4 objects: 4 healthy" in said
    assert {path: path.read_bytes() for path in session.shares()} == before
    said = lost.health(options="--verify --quiet")
    assert (said.status, said.out, said.err) == (0, "", "")
    assert sizes_of(session.shares()) == sum(map(len, before.values()))


def test_a_stronger_capability_is_used_as_a_verify_one(session: Session, lost: Lost) -> None:
    session.shares("usb")[0].unlink()
    said = lost.health("nas", source="word", options="--repair --json")
    assert said.status == 0, str(said)
    assert said.json[-1]["exit_status"] == 0
    [repaired] = [line for line in said.json if line["type"] == "repaired"]
    assert repaired["key"] is None
    assert [made["store"] for made in repaired["made"]] == ["usb"]


def test_a_share_that_was_never_made_is_not_made_without_the_owner(session: Session) -> None:
    laptop = session.repository("laptop")
    laptop.add(note=1000)
    laptop.initremote()
    laptop.run("git annex copy --to vault .")
    laptop.run(f"{PROGRAM} stores vault add spare=dir:{session.store('spare')}")
    laptop.run(f"{PROGRAM} stores vault remove usb --gone")
    for word in (laptop.capability(), laptop.capability("--verify")):
        said = session.attempt(
            f"{PROGRAM} health --capability - dir:{session.store('nas')} --repair", typed=f"{word}\n"
        )
        assert said.status == 1, str(said)
        assert "shares that were never made before take the full capability" in said
        assert "1 still to be repaired: by the owner" in said
        assert session.shares("spare") == []


def test_what_a_friend_cannot_tell_and_what_is_lost(session: Session, lost: Lost) -> None:
    session.unplug("usb", "nas", "attic")
    assert lost.health("cloud").status == 3
    session.plug("usb", "nas", "attic")
    [first, *_] = [path.name.rpartition(".")[0] for path in session.shares("usb")]
    for name in STORES[:3]:
        [share] = [path for path in session.shares(name) if path.name.startswith(first)]
        share.unlink()
    said = lost.health("usb", options="--repair")
    assert said.status == 2
    assert "1 lost, or left over by a removal" in said


@pytest.fixture
def command_lines(session: Session) -> Callable[[], str]:
    """Put recorders before the programs in PATH, as of what else is started the command lines are seen too."""
    record = session.folder / "arguments"
    folder = session.folder / "recorders"
    folder.mkdir()
    for name in ("git", "git-annex", PROGRAM, "sh", "ssh", "rclone"):
        if shutil.which(name):
            recorder = folder / name
            recorder.write_text(f'#!/bin/sh\necho {name} "$@" >>{record}\nexec {shutil.which(name)} "$@"\n')
            recorder.chmod(0o755)
    session.environment["PATH"] = f"{folder}:{session.environment['PATH']}"
    return record.read_text


def test_the_capability_is_in_no_output_and_on_no_command_line(
    session: Session, lost: Lost, command_lines: Callable[[], str]
) -> None:
    verify = (session.folder / "verify").read_text()
    place = f"dir:{session.store('usb')}"
    session.lose("friend")
    flip(session.shares("nas")[0], at=5)
    shown = [
        lost.recover("usb"),
        lost.recover("usb", options="--json"),
        session.attempt(f"{PROGRAM} --debug recover - {place} --to back", typed=lost.capability),
        session.attempt(f"{PROGRAM} --debug recover word dir:{session.folder}/nothing --to back"),
        lost.health(options="--verify"),
        lost.health(options="--verify --json"),
        session.attempt(f"{PROGRAM} --debug health --verify-capability - {place} --repair", typed=verify),
        session.attempt(f"{PROGRAM} --debug health --capability env {place}", env={"SWARM_CAPABILITY": verify}),
    ]
    called = command_lines()
    assert f"{PROGRAM} recover word" in called
    secrets = [*secrets_of(lost.capability), verify.partition("verify-")[2][:40]]
    for secret in secrets:
        assert secret not in called
        for said in shown:
            assert secret not in said, said.command
    places = [path for path in lost.folder.rglob("*") if path.is_file()]
    assert not [path for path in places if re.search(rb"swarm-(full|read|verify)-", path.read_bytes())]
