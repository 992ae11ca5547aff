"""git-annex's end of the external special remote protocol, so that a remote runs without git-annex.

What the remote asks is answered from a table that is gathered from a repository in which a real
`git annex initremote` ran: its configuration from the git-annex branch, its creds from `.git/annex`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness import SWARM, Repository

OFFERED = "EXTENSIONS INFO ASYNC GETGITREMOTENAME UNAVAILABLERESPONSE"
_GOOD = ("PREPARE-SUCCESS", "TRANSFER-SUCCESS", "CHECKPRESENT-SUCCESS", "REMOVE-SUCCESS")
_BAD = ("PREPARE-FAILURE", "TRANSFER-FAILURE", "CHECKPRESENT-FAILURE", "REMOVE-FAILURE")
_WORSE = ("CHECKPRESENT-UNKNOWN", "UNSUPPORTED-REQUEST", "ERROR")
_TOLD = {"PROGRESS", "DEBUG", "INFO", "SETCONFIG", "SETCREDS", "SETSTATE", "SETURLPRESENT", "SETURIPRESENT"}


class ProtocolError(Exception):
    """The remote failed a request, or said what git-annex would not understand."""


@dataclass(frozen=True)
class Answers:
    """What git-annex would answer to the questions of one remote."""

    name: str
    uuid: str
    git_directory: Path
    config: dict[str, str]
    creds: dict[str, str] = field(repr=False)

    def to(self, question: str) -> str:
        word, _, argument = question.partition(" ")
        match word:
            case "GETCONFIG":
                return f"VALUE {self.config.get(argument, '')}"
            case "GETCREDS":
                return f"CREDS {self.creds.get(argument, ' ')}"
            case "GETUUID":
                return f"VALUE {self.uuid}"
            case "GETGITDIR":
                return f"VALUE {self.git_directory}"
            case "GETGITREMOTENAME":
                return f"VALUE {self.name}"
            case "GETSTATE" | "GETWANTED" | "GETURLS":
                return "VALUE "
        raise ProtocolError(f"not a question that is answered here: {question!r}")


def gather(repository: Repository, name: str) -> Answers:
    """Read from `repository` what git-annex knows of its remote `name`."""
    log = subprocess.run(
        ["git", "show", "git-annex:remote.log"],
        cwd=repository.path,
        env=repository.env,
        capture_output=True,
        text=True,
        check=True,
    )
    for line in log.stdout.splitlines():
        uuid, _, rest = line.partition(" ")
        config = dict(_setting(word) for word in rest.split(" "))
        if config.get("name") == name:
            break
    else:
        raise ProtocolError(f"no remote {name} in remote.log")
    git_directory = repository.path / ".git"
    creds = {
        path.name.removeprefix(f"{uuid}-"): " ".join(path.read_text(encoding="utf-8").splitlines())
        for path in (git_directory / "annex" / "creds").glob(f"{uuid}-*")
    }
    return Answers(name, uuid, git_directory, config, creds)


def _setting(word: str) -> tuple[str, str]:
    """``stores=a=dir:/x&32;b=dir:/y`` as it stands in remote.log: a space is ``&32;``."""
    name, _, value = word.partition("=")
    return name, re.sub(r"&(\d+);", lambda found: chr(int(found[1])), value)


class Remote:
    """A running remote, as git-annex runs it: one process, ASYNC."""

    def __init__(self, repository: Repository, answers: Answers) -> None:
        self._answers = answers
        self._process = subprocess.Popen(
            [SWARM],
            cwd=repository.path,
            env=repository.env,
            executable=_find(repository),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            bufsize=1,
        )
        try:
            self._negotiate()
        except BaseException:
            self.close()
            raise

    def request(self, line: str) -> str:
        """Ask, answer what the remote asks meanwhile, and return its reply; a failure is raised."""
        return self.requests([line], 1)[0]

    def requests(self, lines: Sequence[str], jobs: int) -> list[str]:
        """Ask all of `lines`, `jobs` of them at once as with ``-J``; return the replies as they came."""
        waiting, replies = iter(lines), []
        open_jobs: dict[str, str] = {}
        for number, line in zip(range(1, jobs + 1), waiting, strict=False):
            open_jobs[str(number)] = line
            self._write(f"J {number} {line}")
        while open_jobs:
            said = self._read()
            mark, _, rest = said.partition(" ")
            job, _, message = rest.partition(" ")
            if mark != "J" or job not in open_jobs:
                raise ProtocolError(f"not about a job that is open: {said!r}")
            word = message.partition(" ")[0]
            if word in _BAD or word in _WORSE:
                raise ProtocolError(f"{open_jobs[job]}: {message}")
            if word in _GOOD:
                replies.append(message)
                del open_jobs[job]
                if line := next(waiting, ""):
                    open_jobs[job] = line
                    self._write(f"J {job} {line}")
            elif word not in _TOLD:
                self._write(f"J {job} {self._answers.to(message)}")
        return replies

    def peak_memory(self) -> int:
        """The largest resident size so far, in bytes, of the remote's own process."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        assert found
        return int(found[1]) * 1024

    def kill(self) -> None:
        """End it in the midst of what it does: whoever waits for a reply gets a `ProtocolError`."""
        self._process.kill()

    def close(self) -> None:
        """End it as git-annex does, by the end of its input; kill it when it does not end."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise ProtocolError("it was still running 30 s after its input ended") from None
        finally:
            self._process.stdout.close()

    def _negotiate(self) -> None:
        version = self._read()
        if version not in ("VERSION 1", "VERSION 2"):
            raise ProtocolError(f"it begins with {version!r}")
        self._write(OFFERED)
        extensions = self._read().split()
        if extensions[:1] != ["EXTENSIONS"] or "ASYNC" not in extensions:
            raise ProtocolError(f"no ASYNC among its extensions: {extensions}")

    def _read(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise ProtocolError(f"it ended; its last words: {line!r}")
        return line[:-1]

    def _write(self, line: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(line + "\n")


def _find(repository: Repository) -> str:
    found = shutil.which(SWARM, path=repository.env["PATH"])
    assert found, "init_swarm looked for it"
    return found


@contextmanager
def running(repository: Repository, answers: Answers) -> Iterator[Remote]:
    """A remote that is prepared, and that is ended whatever happens."""
    remote = Remote(repository, answers)
    try:
        remote.request("PREPARE")
        yield remote
    finally:
        remote.close()
