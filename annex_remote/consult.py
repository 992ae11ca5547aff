"""Getting at a remote's settings and capability from the command line, by asking git-annex.

Only git-annex knows what configuration of a remote was verified, and how its credentials are kept. So the
command line runs `git annex info REMOTE`, which starts this program as the special remote; that process finds
the path of a socket in its environment and hands over what git-annex told it. The socket is in a directory
that only this user can enter, and the capability touches neither disk nor command line.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import threading
from dataclasses import dataclass, field

from annex_remote.capability import Capability
from annex_remote.credentials import address_variable, environment_login, login_variables
from annex_remote.errors import BadSetting, SwarmError
from annex_remote.grid import Grid
from annex_remote.model import Login
from annex_remote.settings import read_settings

__all__ = ["ENVIRONMENT", "Consulted", "consult", "give_login", "hand_over", "open_grid"]

ENVIRONMENT = "SWARM_CONSULT"
"""In the special remote's environment: the UUID of the remote that is asked about, a space, the socket's path.
git-annex may start the programs of other remotes, too: those keep silent."""
_MOST = 1 << 20


@dataclass(frozen=True)
class Consulted:
    """What git-annex told the special remote: its settings by name, and where its repository is."""

    config: dict[str, str]
    capability: Capability | None
    git_dir: str
    cache: str
    name: str | None
    logins: dict[str, Login] = field(default_factory=dict)
    """By store."""


def hand_over(asker: str, uuid: str, told: Consulted) -> None:
    """In the special remote with `uuid`: send what was told to the `asker`, if it is the one that is meant."""
    wanted, _, path = asker.partition(" ")
    if wanted != uuid:
        return
    document = {
        "config": told.config,
        "capability": told.capability.format() if told.capability else "",
        "git_dir": told.git_dir,
        "cache": told.cache,
        "name": told.name,
        "logins": {store: [login.user, login.password] for store, login in told.logins.items()},
    }
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(10)
        line.connect(path)
        line.sendall(json.dumps(document).encode())


def consult(remote: str) -> Consulted:
    """On the command line: ask about `remote`; raises `BadSetting` if it is no swarm remote of this repository."""
    uuid = _uuid(remote)
    # The path of a socket has 108 bytes at most: a long TMPDIR would not do.
    with tempfile.TemporaryDirectory(prefix="swarm-", dir="/tmp") as folder, socket.socket(socket.AF_UNIX) as door:
        path = os.path.join(folder, "socket")
        door.bind(path)
        door.listen(1)
        door.settimeout(0.1)
        documents: list[bytes] = []
        over = threading.Event()

        def listen() -> None:
            while not over.is_set() and not documents:
                try:
                    line, _ = door.accept()
                except TimeoutError:
                    continue
                with line, line.makefile("rb") as file:
                    documents.append(file.read(_MOST))

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        try:
            answer = subprocess.run(
                ["git", "annex", "info", "--fast", "--json", "--json-error-messages", "--", remote],
                env={**os.environ, ENVIRONMENT: f"{uuid} {path}"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
        finally:
            over.set()
            listener.join(10)
    if not documents:
        raise BadSetting(_why(remote, answer))
    told = json.loads(documents[0])
    capability = Capability.parse(told["capability"]) if told["capability"] else None
    logins = {store: Login(*login) for store, login in told["logins"].items()}
    return Consulted(told["config"], capability, told["git_dir"], told["cache"], told["name"], logins)


def _uuid(remote: str) -> str:
    """Return the UUID of a remote by its name; raises `BadSetting` if this repository has no such remote."""
    try:
        inside = _git("rev-parse", "--git-dir")
        uuid = _git("config", "--get", f"remote.{remote}.annex-uuid").stdout.strip()
    except FileNotFoundError as error:
        raise BadSetting("git is not installed, or not in PATH") from error
    if inside.returncode:
        raise BadSetting("this is not a git repository: run the command in the one that has the remote")
    if not uuid:
        raise BadSetting(
            f"this repository has no git-annex remote {remote}; git annex enableremote lists those it knows"
        )
    return uuid


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def _why(remote: str, answer: subprocess.CompletedProcess[bytes]) -> str:
    said = answer.stderr.decode(errors="replace").strip()
    try:
        document = json.loads(answer.stdout)
        said = "; ".join(document.get("error-messages", [])) or said
        kind = document.get("externaltype") or document.get("type") or document.get("remote annex keys")
    except (ValueError, AttributeError):
        kind = None
    if kind is not None and not said:
        return f"{remote} is not a remote of type external, externaltype=swarm"
    return f"git-annex cannot tell about the remote {remote}: {said or 'it said nothing'}"


def open_grid(told: Consulted) -> Grid:
    """Return the grid that was told about; raises `BadSetting` if it is not configured as one."""
    return Grid.configured(
        read_settings(told.config),
        told.capability,
        git_dir=told.git_dir,
        name=told.name,
        cache=told.cache,
        logins=lambda name: environment_login(name) or told.logins.get(name),
    )


def give_login(remote: str, store: str, address: str, login: Login) -> None:
    """Have git-annex keep the login of a store at `address`; raises `SwarmError` if it does not.

    Only `git annex enableremote` lets a special remote keep credentials as the remote is set up to: embedded in
    the repository, encrypted, or in a file of this clone.
    """
    variables = dict(zip(login_variables(store), (login.user, login.password), strict=True))
    variables[address_variable(store)] = address
    done = subprocess.run(
        ["git", "annex", "enableremote", "--", remote],
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split())
        raise SwarmError(f"git-annex did not keep the login: {said}")
