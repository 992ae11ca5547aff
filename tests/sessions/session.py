"""A user's machine for one test: a home, repositories, directory stores, and commands typed into it."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from annex_remote.capability import Capability
from annex_remote.errors import Damaged
from annex_remote.model import ShareName
from annex_remote.stores import open_store
from annex_remote.transfer.opening import open_share
from annex_remote.transfer.sites import Site

PATIENCE = 240.0
"""Seconds after which a command, or something that is waited for, is taken to hang."""

STORES = ("usb", "nas", "attic", "friend", "cloud")

PARAMETERS = "type=external externaltype=swarm encryption=none"


@dataclass(frozen=True)
class Output:
    """What a command said. `word in output` looks at both streams, as its user does."""

    command: str
    status: int
    out: str
    err: str

    def __contains__(self, text: str) -> bool:
        return text in self.out or text in self.err

    def __str__(self) -> str:
        return f"$ {self.command}\n{self.out}{self.err}(status {self.status})"

    @property
    def plain(self) -> str:
        """Both streams with all white space made one space: git-annex breaks and indents what it shows."""
        return " ".join(f"{self.out} {self.err}".split())

    @property
    def json(self) -> list[dict[str, Any]]:
        """The JSON objects of standard output, one a line."""
        return [json.loads(line) for line in self.out.splitlines() if line.strip()]


class Session:
    """One test's machine. `close` ends what still runs and gives back what was made outside of `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.patience = PATIENCE
        self.home = folder / "home"
        self.home.mkdir()
        (self.home / ".gitconfig").write_text("[init]\n\tdefaultBranch = main\n")
        # A gpg-agent listens on a socket here, and the path of a socket has about 100 characters at most.
        self._gnupg = tempfile.mkdtemp(prefix="gpg-", dir="/tmp")
        passed = ("PATH", "PYTHONPATH", "TMPDIR")
        self.environment = {
            **{name: os.environ[name] for name in passed if name in os.environ},
            "HOME": str(self.home),
            "GNUPGHOME": self._gnupg,
            "LC_ALL": "C.UTF-8",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_AUTHOR_NAME": "somebody",
            "GIT_AUTHOR_EMAIL": "somebody@localhost",
            "GIT_COMMITTER_NAME": "somebody",
            "GIT_COMMITTER_EMAIL": "somebody@localhost",
        }

    def close(self) -> None:
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        subprocess.run(["gpgconf", "--kill", "all"], env=self.environment, check=False, timeout=30)
        shutil.rmtree(self._gnupg, ignore_errors=True)
        for path in self.folder.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)  # git-annex write-protects its objects' directories

    # Commands.

    def run(
        self, command: str, *, cwd: Path | None = None, fails: bool = False, env: Mapping[str, str] | None = None
    ) -> Output:
        """Run a command line, and return what it said; fails unless its status is as expected."""
        said = self.attempt(command, cwd=cwd, env=env)
        if (said.status != 0) != fails:
            raise AssertionError(f"{'a failure' if fails else 'success'} was expected of:\n{said}")
        return said

    def attempt(
        self,
        command: str,
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        typed: str | None = None,
    ) -> Output:
        """Run a command line that may end as it likes; `typed` is what stands on its standard input."""
        process = self.start(command, cwd=cwd, env=env, typed=typed is not None)
        try:
            out, err = process.communicate(typed, timeout=self.patience)
        except subprocess.TimeoutExpired as error:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(f"no end in {self.patience:g} seconds:\n$ {command}\n{out}{err}") from error
        return Output(command, process.returncode, out, err)

    def start(
        self, command: str, *, cwd: Path | None = None, env: Mapping[str, str] | None = None, typed: bool = False
    ) -> subprocess.Popen[str]:
        """Start a command line in a process group of its own, as a shell does."""
        return subprocess.Popen(
            shlex.split(command),
            cwd=cwd or self.folder,
            env={**self.environment, **(env or {})},
            stdin=subprocess.PIPE if typed else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def processes(self, word: str = "") -> dict[int, str]:
        """Return the live processes of this session whose command line has `word`: ids to command lines."""
        mark = f"HOME={self.home}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if word in line:
                        found[int(entry.name)] = line
        return found

    # Things.

    def repository(self, name: str) -> Repository:
        """Make a repository with git-annex."""
        path = self.folder / name
        self.run(f"git init --quiet {shlex.quote(str(path))}")
        repository = Repository(self, path)
        repository.run(f"git annex init --quiet {shlex.quote(name)}")
        return repository

    def clone(self, origin: Repository, name: str) -> Repository:
        """Clone a repository, as another machine that can reach it would."""
        self.run(f"git clone --quiet {shlex.quote(str(origin.path))} {name}")
        repository = Repository(self, self.folder / name)
        repository.run(f"git annex init --quiet {name}")
        return repository

    def stores(self, *names: str) -> str:
        """Return the parameter `stores=` for directories with these names, quoted for a command line."""
        places = " ".join(f"{name}=dir:{self.store(name.partition('*')[0])}" for name in names or STORES)
        return f"'stores={places}'"

    def store(self, name: str) -> Path:
        return self.folder / name

    def lose(self, *names: str) -> None:
        for name in names:
            shutil.rmtree(self.store(name))

    def unplug(self, *names: str) -> None:
        """Take stores away for a while."""
        for name in names:
            self.store(name).rename(self.folder / f"{name}.unplugged")

    def plug(self, *names: str) -> None:
        for name in names:
            (self.folder / f"{name}.unplugged").rename(self.store(name))

    def shares(self, *names: str) -> list[Path]:
        """Return the files of stores (all five, unless some are named) that have the name of a share."""
        return [
            path
            for name in names or STORES
            for path in sorted(self.store(name).glob("??/*"))
            if path.suffix[1:].isdigit()
        ]

    def parts(self) -> list[Path]:
        """Return what lies about of unfinished writing."""
        return [path for name in STORES for path in self.store(name).glob(".part/*")]


@dataclass(frozen=True)
class Repository:
    """A git repository with git-annex."""

    session: Session
    path: Path

    def run(self, command: str, *, fails: bool = False, env: Mapping[str, str] | None = None) -> Output:
        return self.session.run(command, cwd=self.path, fails=fails, env=env)

    def attempt(self, command: str, *, env: Mapping[str, str] | None = None, typed: str | None = None) -> Output:
        return self.session.attempt(command, cwd=self.path, env=env, typed=typed)

    def start(self, command: str) -> subprocess.Popen[str]:
        return self.session.start(command, cwd=self.path)

    def write(self, name: str, size: int) -> bytes:
        """Write a file of noise, which is the same for the same name and size; return its content."""
        data = random.Random(f"{name} {size}").randbytes(size)
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        return data

    def add(self, **sizes: int) -> dict[str, bytes]:
        """Write files of noise, annex them and commit; return their contents by name."""
        contents = {name: self.write(name, size) for name, size in sizes.items()}
        self.run("git annex add --quiet .")
        self.run("git commit --quiet --message files")
        return contents

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def has(self, name: str) -> bool:
        """True if the content of the file is in this repository."""
        return (self.path / name).exists()

    def key(self, name: str) -> str:
        return self.run(f"git annex lookupkey {name}").out.strip()

    def initremote(self, *stores: str, parameters: str = PARAMETERS, options: str = "") -> Output:
        """Make the remote `vault` over directory stores."""
        return self.run(f"git annex initremote vault {options} {parameters} {self.session.stores(*stores)}")

    def enableremote(self, env: Mapping[str, str] | None = None) -> Output:
        """Enable `vault` in a clone, and say that its configuration is safe."""
        said = self.run("git annex enableremote vault", env=env)
        asked = re.search(r"verifyremote vault --safe (\w+)", said.out)
        assert asked, str(said)
        self.run(f"git annex verifyremote vault --safe {asked[1]}", env=env)
        return said

    def capability(self, kind: str = "") -> str:
        """Return the capability of `vault` as it is printed."""
        return self.run(f"git-annex-remote-swarm capability vault {kind}").out.strip()

    def list_stores(self, *, fails: bool = False) -> dict[str, dict[str, Any]]:
        """Return what `stores vault --json` says, by store."""
        said = self.run("git-annex-remote-swarm stores vault --json", fails=fails)
        return {line["store"]: line for line in said.json}

    def remote_log(self) -> dict[str, dict[str, str]]:
        """Return the recorded special remotes: parameters by the remote's UUID."""
        said = self.attempt("git cat-file blob git-annex:remote.log")
        remotes = {}
        for line in said.out.splitlines():
            uuid, *words = line.split()
            pairs = (word.partition("=") for word in words)
            remotes[uuid] = {
                name: re.sub(r"&(\d+);", lambda found: chr(int(found[1])), value) for name, _, value in pairs
            }
        return remotes

    def annex_url(self, *, leave_out: tuple[str, ...] = ()) -> str:
        """Return the annex:: URL with which `vault` can be cloned."""
        [(uuid, parameters)] = self.remote_log().items()
        skipped = {"name", "timestamp", *leave_out}
        return f"annex::{uuid}?" + "&".join(
            f"{name}={quote(value, safe='')}" for name, value in parameters.items() if name not in skipped
        )

    def is_present(self, name: str) -> bool | None:
        """Ask `vault` for the content of a file: True, False, or None if it cannot be told."""
        said = self.attempt(f"git annex checkpresentkey {self.key(name)} vault")
        return {0: True, 1: False, 100: None}[said.status]


def broken_shares(session: Session, capability: str) -> list[str]:
    """Return the files named as shares that are not whole, or not proved by the capability's verify key."""
    verify_key = Capability.parse(capability).verify_key
    broken = []
    for path in session.shares():
        name = ShareName.parse(f"{path.parent.name}/{path.name}")
        folder = path.parents[1]
        site = Site(name.number, folder.name, open_store(f"dir:{folder}"))
        try:
            share = open_share(site, name.object_id, verify_key, needed=3)
            bad = [
                index
                for index, block in share.blocks(0, share.header.layout.segments, lambda _: None)
                if block is None
            ]
        except Damaged as error:
            broken.append(f"{path}: {error}")
        else:
            broken += [f"{path}: block {index}" for index in bad]
    return broken


def flip(path: Path, *, every: int = 0, at: int = 0) -> None:
    """Change one bit at `at`, or one bit in each `every` bytes, of a file."""
    data = bytearray(path.read_bytes())
    for position in range(at, len(data), every) if every else [at]:
        data[position] ^= 1
    path.write_bytes(data)


def wait_for(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Return as soon as `condition` holds; fails if it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:g} seconds")
        time.sleep(0.002)


def sizes_of(paths: Iterable[Path]) -> int:
    """Return the bytes in files, some of which may vanish meanwhile."""
    total = 0
    for path in paths:
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total
