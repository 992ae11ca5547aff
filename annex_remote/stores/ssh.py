"""The user's own `ssh`, run as a tunnel to a server's SFTP.

Whatever their OpenSSH does for them it does for stores as well: aliases, jump hosts, agents, hardware keys,
certificates, known hosts. What it says when it fails is translated here and nowhere else.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from io import BufferedReader

from annex_remote.errors import BadSetting, Denied, StoreError, Unavailable
from annex_remote.model import Login
from annex_remote.stores.address import Place
from annex_remote.workers import workers

__all__ = ["CONNECT", "Tunnel", "tunnel"]

CONNECT = 10.0
"""Seconds that a server has to take a connection and to show its host key."""

_OPTIONS = (
    "ServerAliveInterval=15",
    "ServerAliveCountMax=2",
    "LogLevel=ERROR",
    # One that is there is used; but others would hang on ours, and ours ends when we do.
    "ControlMaster=no",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "RequestTTY=no",
)

_PIPE = 1 << 20
"""Bytes between us and ssh, where the system lets us say: fewer changes from one process to the other."""

_LAST_WORDS = 2.0
"""Seconds that ssh has to end when its connection has, and its messages have to arrive."""

_ASKPASS = """#!/bin/sh
# Only the question for the password of this very account is answered: a jump host may ask for one as well.
case "$1" in
"$SWARM_SSH_ACCOUNT's password: "* | "($SWARM_SSH_ACCOUNT) "*[Pp]assword*) printf '%s\\n' "$SWARM_SSH_PASSWORD" ;;
*) exit 1 ;;
esac
"""

_REFUSED = re.compile(r"Permission denied \(([^)]*)\)|Too many authentication failures")
_HUNG_UP = re.compile(r"Connection (?:closed|reset) by (?!UNKNOWN)|Connection reset by peer")
"""By the server itself, as one does that has too many guests; UNKNOWN is what a jump host did not come to."""


@contextmanager
def tunnel(place: Place, login: Login | None, patience: float) -> Iterator[Tunnel]:
    """Run ssh to a server's SFTP. A password is at hand for it until the `with` ends: it has to answer within.

    Never asks the user for anything. `patience` is in seconds. Raises `BadSetting` if there is no ssh.
    """
    program = shutil.which("ssh")
    if program is None:
        raise BadSetting("sftp: stores are reached by OpenSSH's `ssh`, which is not on PATH: install it")
    user = place.user or (login.user if login else "")
    target = [*(["-l", user] if user else []), *(["-p", str(place.port)] if place.port else [])]
    target += ["--", place.host.strip("[]")]
    asking = ("BatchMode=yes",) if login is None else ("BatchMode=no", "NumberOfPasswordPrompts=1")
    connecting = f"ConnectTimeout={max(1, round(min(CONNECT, patience)))}"
    options = [f"-o{option}" for option in (*_OPTIONS, *asking, connecting)]
    with ExitStack() as stack:
        try:
            environment = stack.enter_context(_answers(program, target, login))
            command = [program, *options, "-s", *target, "sftp"]
            opened = Tunnel(command, environment, place, patience, has_login=login is not None)
        except (OSError, subprocess.SubprocessError) as error:
            raise Unavailable(f"ssh cannot be run: {error}", passing=True) from error
        try:
            yield opened
        except BaseException:
            opened.close()
            raise


class Tunnel:
    """A running ``ssh -s HOST sftp``: what is sent to it goes to the server, and what comes is read from it."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        place: Place,
        patience: float,
        *,
        has_login: bool,
    ) -> None:
        self._place = place
        self._has_login = has_login
        self._said: deque[str] = deque(maxlen=20)
        self._all_said = threading.Event()
        self._closing = threading.Lock()
        self._closed = False
        # A socket, as sending to one can be given a bound of time.
        self.sending, theirs = socket.socketpair()
        self.sending.settimeout(patience)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=theirs.fileno(),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=environment,
                    # No terminal to ask on, and Ctrl-C is for us to act on.
                    start_new_session=True,
                )
            except BaseException:
                self.sending.close()
                raise
        assert isinstance(self._process.stdout, BufferedReader)
        self.receiving = self._process.stdout
        _widen(self.receiving.fileno())
        workers.start(self._listen)

    @property
    def host(self) -> str:
        return self._place.netloc

    def close(self) -> None:
        """End ssh; what is being sent and received breaks."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        with suppress(OSError):
            self.sending.shutdown(socket.SHUT_RDWR)
        self._process.terminate()
        workers.start(self._reap)

    def _reap(self) -> None:
        try:
            self._process.wait(_LAST_WORDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def why(self, *, was_open: bool) -> StoreError:
        """Tell why `receiving` is at its end; `was_open` if the server's SFTP had answered before."""
        self._all_said.wait(_LAST_WORDS)
        said = "; ".join(self._said)
        return _lost(self._place, said) if was_open else _explain(self._place, said, self._has_login)

    def _listen(self) -> None:
        """Keep the last of what ssh says, of which a server can make it say much."""
        assert self._process.stderr is not None
        with self._process.stderr as messages, suppress(OSError, ValueError):
            for line in iter(lambda: messages.readline(1000), b""):
                text = "".join(filter(str.isprintable, line.decode(errors="replace"))).strip()
                if text.strip("@ "):
                    self._said.append(text)
        self._all_said.set()


def _lost(place: Place, said: str) -> StoreError:
    return Unavailable(f"the connection to {place.netloc} was cut{_in_brackets(said)}", passing=True)


def _explain(place: Place, said: str, has_login: bool) -> StoreError:
    """Make an error of what ssh said when no connection came about."""
    host, by_hand = place.netloc, _by_hand(place)
    if "HOST IDENTIFICATION HAS CHANGED" in said or "REVOKED HOST KEY" in said:
        return Denied(
            f"{host} shows another host key than the one that is known: it may be another machine, or somebody in "
            f"between, so nothing was sent. If you know why the key has changed, `{by_hand}` says what to do"
        )
    if "Host key verification failed" in said:
        return Denied(
            f"the host key of {host} is not known: run `{by_hand}` once, compare the fingerprint that it shows, "
            "and accept it"
        )
    refused = _REFUSED.search(said)
    if refused:
        return _not_let_in(place, refused[1] or "too many keys were tried", has_login)
    if "subsystem request failed" in said:
        return Denied(f"{host} lets us in, but offers no SFTP{_in_brackets(said)}")
    return Unavailable(f"{host} cannot be reached{_in_brackets(said)}", passing=_HUNG_UP.search(said) is not None)


def _not_let_in(place: Place, takes: str, has_login: bool) -> Denied:
    by_password = "password" in takes or "keyboard-interactive" in takes
    if has_login:
        what_to_do = "it takes neither the login that is given for the store nor a key"
    else:
        what_to_do = (
            f"`{_by_hand(place)}` has to get in without a question, by a key in the agent (ssh-add) or without "
            f"passphrase{', or the store is given a login' if by_password else ''}"
        )
    return Denied(f"{place.netloc} does not let us in ({takes}): {what_to_do}", wants_login=by_password)


def _in_brackets(said: str) -> str:
    return f" ({said[-400:]})" if said else ""


def _by_hand(place: Place) -> str:
    """Return what the user types to get there."""
    port = ["-p", str(place.port)] if place.port else []
    host = place.host.strip("[]")
    return shlex.join(["ssh", *port, f"{place.user}@{host}" if place.user else host])


@contextmanager
def _answers(program: str, target: Sequence[str], login: Login | None) -> Iterator[dict[str, str]]:
    """Yield an environment in which ssh's questions are answered by `login`, or by nobody."""
    environment = os.environ | {"LC_ALL": "C"}
    if login is None:
        yield environment | {"SSH_ASKPASS_REQUIRE": "never"}
        return
    with tempfile.TemporaryDirectory(prefix="swarm-ssh-", ignore_cleanup_errors=True) as folder:
        script = os.path.join(folder, "askpass")
        with open(os.open(script, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700), "w", encoding="utf-8") as file:
            file.write(_ASKPASS)
        yield environment | {
            "SSH_ASKPASS": script,
            "SSH_ASKPASS_REQUIRE": "force",
            # What OpenSSH before 8.4 wants to see before it asks by a program.
            "DISPLAY": environment.get("DISPLAY", "none"),
            "SWARM_SSH_ACCOUNT": _account(program, target),
            "SWARM_SSH_PASSWORD": login.password,
        }


def _account(program: str, target: Sequence[str]) -> str:
    """Return ``user@host`` as ssh says it in its questions, after its configuration has been at it."""
    found = subprocess.run(
        [program, "-G", *target], stdin=subprocess.DEVNULL, capture_output=True, timeout=CONNECT, check=False
    )
    settings = dict(
        line.partition(" ")[::2] for line in reversed(found.stdout.decode(errors="replace").splitlines())
    )
    host = settings.get("hostkeyalias") or settings.get("hostname", "").lower()
    return f"{settings.get('user', '')[:30]}@{host}"


def _widen(pipe: int) -> None:
    with suppress(ImportError, OSError):
        from fcntl import F_SETPIPE_SZ, fcntl

        fcntl(pipe, F_SETPIPE_SZ, _PIPE)
