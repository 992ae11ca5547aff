"""What only SFTP has: ssh and its configuration, host keys, logins, servers that hang, go away or lack much."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from annex_remote.errors import (
    BadSetting,
    Damaged,
    Denied,
    Exists,
    Full,
    NotFound,
    StoreError,
    SwarmError,
    Unavailable,
)
from annex_remote.model import Access, Login, Store
from annex_remote.stores import check_address, sftp
from annex_remote.stores.parts import LEFTOVER_AGE
from annex_remote.stores.sftp import SftpStore
from tests.fakes import WAIT, Run, in_thread, wait_for
from tests.servers import Server, Sshd, sshd
from tests.servers.available import SFTP_SERVER, found, require
from tests.servers.ssh import ALIAS
from tests.stores import odd_sftp
from tests.stores.test_contract import DATA, NAME, OTHER, Halfway, assert_absent, giving, keep, listed, read

PATIENCE = 2.0
"""Seconds that the stores here wait where a server hangs; elsewhere `WAIT`, which nothing takes."""

VERBS: dict[str, Callable[[Store], object]] = {
    "put": lambda store: keep(store, NAME, DATA),
    "read": lambda store: read(store, NAME),
    "stat": lambda store: store.stat(NAME),
    "age": lambda store: store.age(NAME),
    "delete": lambda store: store.delete(NAME),
    "list": lambda store: list(store.list()),
    "list one folder": lambda store: list(store.list("ab")),
    "space": lambda store: store.space(),
}

Opener = Callable[..., SftpStore]


@pytest.fixture
def opened() -> Iterator[Opener]:
    """Opens stores, and closes them when the test is over."""
    stores: list[SftpStore] = []

    def opened(address: str, patience: float = WAIT, login: Login | None = None) -> SftpStore:
        stores.append(sftp.open_store(address, Access(login, patience)))
        return stores[-1]

    yield opened
    for store in stores:
        store.close()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    """A server on the network; the `ssh` on PATH knows it, and its key is taken there."""
    with sshd(tmp_path / "sshd") as running:
        use(running.client.environment, monkeypatch)
        yield running


def use(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


class Near:
    """OpenSSH's sftp-server without a network: the `ssh` on PATH is it, with a folder of its own as the home."""

    address = "sftp://near/~/store"

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        require("sshd")
        self.home = folder / "home"
        self.root = self.home / "store"
        self.home.mkdir()
        self._bin = folder / "bin"
        self._bin.mkdir()
        self._started = folder / "started"
        self.answer_by()
        monkeypatch.setenv("PATH", str(self._bin), prepend=os.pathsep)

    def answer_by(self, *arguments: str, odd: tuple[str, int] | None = None, before: str = "") -> None:
        """Be sftp-server with `arguments`, behind an oddity if there is one, after the shell command `before`."""
        command = [str(SFTP_SERVER), "-d", str(self.home), *arguments]
        if odd is not None:
            command = [sys.executable, odd_sftp.__file__, odd[0], str(odd[1]), *command]
        self.be(f"echo $$ >> {shlex.quote(str(self._started))}\n{before}\nexec {shlex.join(command)}")

    def be(self, script: str) -> None:
        """Put a shell script in the place of ssh."""
        new = self._bin / "ssh.new"
        new.write_text(f"#!/bin/sh\n{script}\n")
        new.chmod(0o755)
        new.rename(self._bin / "ssh")

    @property
    def started(self) -> list[int]:
        """The processes that served connections, in their order."""
        return [int(line) for line in self._started.read_text().split()] if self._started.exists() else []


@pytest.fixture
def near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Near:
    return Near(tmp_path, monkeypatch)


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Keep processes from doing anything."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):  # given up, and ended
                os.kill(pid, signal.SIGCONT)


def everything(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def parts(root: Path) -> list[str]:
    return sorted(os.listdir(root / ".part")) if (root / ".part").exists() else []


def refused(work: Callable[[], object]) -> SwarmError:
    """Return what `work` fails by."""
    with pytest.raises(SwarmError) as raised:
        work()
    return raised.value


# Addresses.


@pytest.mark.parametrize(
    ("address", "checked"),
    [
        ("sftp://nas/srv/annex", "sftp://nas/srv/annex"),
        ("sftp://me@nas:2222/srv//annex/", "sftp://me@nas:2222/srv/annex"),
        ("sftp://nas:22/srv", "sftp://nas/srv"),
        ("sftp://NAS/srv", "sftp://NAS/srv"),  # ~/.ssh/config tells Host NAS from Host nas
        ("sftp://me@Nas:2222/srv", "sftp://me@Nas:2222/srv"),
        ("sftp://[2001:DB8::1]:2222/srv", "sftp://[2001:DB8::1]:2222/srv"),
        ("sftp://nas/~/annex", "sftp://nas/~/annex"),
        ("sftp://nas/~", "sftp://nas/~"),
        ("sftp://nas/", "sftp://nas"),
        ("sftp://nas", "sftp://nas"),
        ("sftp://nas/with blank", "sftp://nas/with%20blank"),
    ],
)
def test_an_address_has_one_form(address: str, checked: str) -> None:
    assert check_address(address) == checked
    assert check_address(checked) == checked


@pytest.mark.parametrize(
    "address",
    [
        "sftp:nas",
        "sftp:///srv",
        "sftp://-oProxyCommand/srv",
        "sftp://-v/srv",
        "sftp://nas/../srv",
        "sftp://nas/a?b=c",
        "sftp://nas:no/srv",
        "sftp://na s/srv",
        "sftp://me;you@nas/srv",
        "sftp://me@/srv",
    ],
)
def test_what_cannot_be_an_address(address: str) -> None:
    with pytest.raises(BadSetting):
        check_address(address)


def test_an_address_with_a_password_is_refused_without_showing_it() -> None:
    error = refused(lambda: check_address("sftp://me:geheim@nas/srv"))
    assert isinstance(error, BadSetting)
    assert "geheim" not in str(error)


def test_opening_asks_nobody(near: Near, opened: Opener) -> None:
    store = opened(near.address)
    store.close()
    assert near.started == []
    assert everything(near.home) == []


@pytest.mark.parametrize(
    ("path", "below"), [("/~/a/b", "a/b"), ("/~", ""), ("/~/.hidden", ".hidden"), ("/~/ä b", "ä b")]
)
def test_a_tilde_is_the_home_directory(near: Near, opened: Opener, path: str, below: str) -> None:
    store = opened(f"sftp://near{path}")
    keep(store, NAME, DATA)
    assert (near.home / below / NAME).read_bytes() == DATA
    assert listed(store) == [(NAME, len(DATA))]


def test_an_absolute_path(near: Near, opened: Opener) -> None:
    store = opened(f"sftp://near{near.home}/~/x")
    keep(store, NAME, DATA)
    assert (near.home / "~" / "x" / NAME).read_bytes() == DATA


# The user's OpenSSH.


def test_an_alias_of_the_configuration(server: Sshd, opened: Opener) -> None:
    """Host name, port, user, key and known hosts are found by the alias alone."""
    for address in (f"sftp://{ALIAS}{server.root}/store", f"sftp://{ALIAS}/~/store"):
        store = opened(address)
        keep(store, NAME, DATA)
        assert (server.root / "store" / NAME).read_bytes() == read(store, NAME) == DATA


def test_a_command_in_between(server: Sshd, opened: Opener, tmp_path: Path) -> None:
    """ssh gets there by a command of its configuration; with a jump host that is another ssh."""
    text = server.client.configuration.read_text()
    program = tmp_path / "to_the_server.py"
    program.write_text(_TO_THE_SERVER)
    tcp = f"{sys.executable} {program} {server.host} {server.port}"
    server.client.configuration.write_text(
        f"Host behind\n    HostName nowhere.invalid\n    HostKeyAlias [{server.host}]:{server.port}\n"
        f"    ProxyCommand {tcp}\n    IdentityFile {server.client.key}\n"
        f"    UserKnownHostsFile {server.client.known_hosts}\n{text}"
    )
    store = opened("sftp://behind/~/store")
    keep(store, NAME, DATA)
    assert read(store, NAME) == DATA


_TO_THE_SERVER = """
import os, socket, sys, threading
server = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def down():
    while data := server.recv(65536):
        os.write(1, data)
    os._exit(0)
threading.Thread(target=down, daemon=True).start()
while data := os.read(0, 65536):
    server.sendall(data)
"""


def test_no_master_connection_is_left_to_others(server: Sshd, opened: Opener, tmp_path: Path) -> None:
    master = tmp_path / "master"
    with server.client.configuration.open("a") as file:
        file.write(f"Host *\n    ControlMaster auto\n    ControlPath {master}\n    ControlPersist 60\n")
    store = opened(server.url)
    keep(store, NAME, DATA)
    assert not master.exists()


def test_settings_that_are_for_shells_are_not_in_the_way(server: Sshd, opened: Opener) -> None:
    with server.client.configuration.open("a") as file:
        file.write("Host *\n    RemoteCommand echo hello\n    RequestTTY force\n")
        file.write(f"    LocalForward {server.port} localhost:1\n    ExitOnForwardFailure yes\n")
    store = opened(server.url)
    keep(store, NAME, DATA)
    assert read(store, NAME) == DATA


def test_an_unknown_host_is_refused_with_what_to_do(server: Sshd, opened: Opener) -> None:
    server.forget_host_key()
    with server.client.configuration.open("a") as file:
        file.write("Host *\n    LogLevel QUIET\n")
    error = refused(lambda: keep(opened(server.url), NAME, DATA))
    assert isinstance(error, Denied)
    assert not error.wants_login
    assert f"`ssh -p {server.port} {server.client.user}@{server.host}` once" in str(error)
    assert server.client.known_hosts.read_text() == ""
    assert everything(server.root) == []


def test_a_host_with_another_key_is_refused(server: Sshd, opened: Opener) -> None:
    store = opened(server.url)
    keep(store, NAME, DATA)
    server.stop()
    server.change_host_key(known=False)
    server.start()
    error = refused(lambda: retried(lambda: store.stat(NAME)))
    assert isinstance(error, Denied)
    assert not error.wants_login
    assert "another host key" in str(error)
    assert f"`ssh -p {server.port} " in str(error)


def test_whose_key_is_not_taken_is_denied(server: Sshd, opened: Opener) -> None:
    (server.folder / "authorized_keys").write_text("")
    for verb, work in VERBS.items():
        error = refused(partial(work, opened(server.url)))
        assert isinstance(error, Denied), verb
        assert not error.wants_login
        assert "(publickey)" in str(error)
        assert "ssh-add" in str(error)


def test_who_is_not_let_in_does_not_knock_again_and_again(near: Near, opened: Opener, tmp_path: Path) -> None:
    """Servers lock out who does, and for every object of an upload is often enough."""
    tries = tmp_path / "tries"
    near.be(f"echo try >> {tries}; echo 'me@near: Permission denied (publickey).' >&2; exit 255")
    store = opened(near.address)
    for _ in range(5):
        for verb, work in VERBS.items():
            error = refused(partial(work, store))
            assert isinstance(error, Denied), verb
            assert "(publickey)" in str(error)
    assert len(tries.read_text().splitlines()) == 2  # one for what is put, one for the rest


def test_a_server_without_sftp(near: Near, opened: Opener) -> None:
    near.be("echo 'subsystem request failed on channel 0' >&2; exit 255")
    error = refused(lambda: opened(near.address).stat(NAME))
    assert isinstance(error, Denied)
    assert "no SFTP" in str(error)


def test_nobody_there(server: Sshd, opened: Opener) -> None:
    server.stop()
    for verb, work in VERBS.items():
        error = refused(partial(work, opened(server.url)))
        assert isinstance(error, Unavailable), verb
        assert not error.passing
        assert "Connection refused" in str(error)


def test_no_such_host(server: Sshd, opened: Opener) -> None:
    error = refused(lambda: opened("sftp://nowhere.invalid/srv").stat(NAME))
    assert isinstance(error, Unavailable)
    assert "nowhere.invalid" in str(error)


def test_a_mistake_in_the_configuration_is_shown(server: Sshd, opened: Opener) -> None:
    server.client.configuration.write_text("Nonsense yes\n")
    error = refused(lambda: opened(server.url).stat(NAME))
    assert isinstance(error, Unavailable)
    assert "nonsense" in str(error).lower()


def test_without_ssh(opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    error = refused(lambda: opened("sftp://nas/srv").stat(NAME))
    assert isinstance(error, BadSetting)
    assert "OpenSSH" in str(error)


def test_ssh_that_cannot_be_run(near: Near, opened: Opener) -> None:
    ssh = Path(os.environ["PATH"].split(os.pathsep)[0], "ssh")
    ssh.write_text("#!/no/such/shell\n")
    assert isinstance(refused(lambda: opened(near.address).stat(NAME)), Unavailable)


def test_a_shell_that_prints_something(near: Near, opened: Opener) -> None:
    near.answer_by(before="echo Welcome to this machine")
    error = refused(lambda: opened(near.address).stat(NAME))
    assert isinstance(error, Unavailable)
    assert ".bashrc" in str(error)
    assert "Welcome" in str(error)


def test_what_is_no_packet_ends_the_connection(near: Near, opened: Opener) -> None:
    """Of what such a server calls the length of a packet, no memory is taken."""
    keep(opened(near.address), NAME, DATA)
    near.answer_by(odd=("babble", 100))
    store = opened(near.address)
    tracemalloc.start()
    try:
        error = refused(lambda: read(store, NAME))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert isinstance(error, Unavailable)
    assert "not SFTP" in str(error)
    assert store.stat(NAME) == len(DATA)


def test_a_server_that_hangs_up_at_once_may_be_asked_again(near: Near, opened: Opener) -> None:
    """As sshd does with too many connections that have not logged in."""
    near.be("echo 'kex_exchange_identification: Connection closed by remote host' >&2; exit 255")
    error = refused(lambda: opened(near.address).stat(NAME))
    assert isinstance(error, Unavailable)
    assert error.passing


def test_what_a_server_says_is_bounded_and_harmless(near: Near, opened: Opener) -> None:
    near.be("head -c 5000000 /dev/zero | tr '\\0' 'x' >&2; printf '\\033[31mred\\n' >&2; exit 255")
    error = refused(lambda: opened(near.address).stat(NAME))
    assert len(str(error)) < 1000
    assert str(error).isprintable()


# Logins.


class RcloneSftp(Server):
    """`rclone serve sftp`, which knows one user by a password; the `ssh` in `programs` knows its host key."""

    program = "rclone"
    user, password = "guest", "pass word's $(end)"

    def __init__(self, folder: Path) -> None:
        require("sshd")
        super().__init__(folder)
        self.root = folder / "root"
        self.root.mkdir()
        self.programs = folder / "bin"
        self.programs.mkdir()
        key = folder / "host_key"
        subprocess.run([found("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        kind, public = key.with_suffix(".pub").read_text().split()[:2]
        (folder / "known_hosts").write_text(f"[{self.host}]:{self.port} {kind} {public}\n")
        (folder / "config").write_text(
            f"Host *\n    UserKnownHostsFile {folder / 'known_hosts'}\n    GlobalKnownHostsFile /dev/null\n"
            "    IdentityAgent none\n    IdentityFile none\n"
        )
        ssh = self.programs / "ssh"
        ssh.write_text(f'#!/bin/sh\nexec {found("ssh")} -F {folder / "config"} "$@"\n')
        ssh.chmod(0o755)

    def prepare(self) -> list[str]:
        return [
            *(found("rclone"), "serve", "sftp", str(self.root), "--addr", f"{self.host}:{self.port}"),
            *("--key", str(self.folder / "host_key"), "--config", os.devnull, "--vfs-cache-mode", "writes"),
            *("--cache-dir", str(self.folder / "cache")),
        ]

    def environment(self) -> dict[str, str]:
        return {"RCLONE_USER": self.user, "RCLONE_PASS": self.password}


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RcloneSftp]:
    with RcloneSftp(tmp_path / "rclone") as running:
        monkeypatch.setenv("PATH", str(running.programs), prepend=os.pathsep)
        yield running


def test_a_login(locked: RcloneSftp, opened: Opener) -> None:
    login = Login(locked.user, locked.password)
    for user in ("", f"{locked.user}@"):
        store = opened(f"sftp://{user}{locked.host}:{locked.port}/store", login=login)
        keep(store, NAME, DATA)
        assert read(store, NAME) == DATA
        assert listed(store) == [(NAME, len(DATA))]
        keep(store, NAME, b"other")
        assert read(store, NAME) == b"other"
        assert store.stat(OTHER) is None
        assert store.space() is None  # it announces that it can tell, and cannot


@pytest.mark.parametrize("login", [None, Login("guest", "Wrong0ne"), Login("nobody", "Wrong0ne")])
def test_no_login_or_a_wrong_one(locked: RcloneSftp, opened: Opener, login: Login | None) -> None:
    error = refused(lambda: opened(f"sftp://{locked.host}:{locked.port}/store", login=login).stat(NAME))
    assert isinstance(error, Denied)
    assert error.wants_login
    assert "Wrong0ne" not in f"{error} {error!r}"
    assert ("the login that is given" if login else "is given a login") in str(error)


def test_a_password_is_for_one_account_alone(near: Near, opened: Opener, tmp_path: Path) -> None:
    """A jump host asks by the same means; and nothing of it is left, on the command line never."""
    said = tmp_path / "said"
    near.be(
        f"""
        case "$*" in *-G*) printf 'user me\nhostname Nas.example\nport 22\n'; exit;; esac
        for question in "you@jump's password: " "(you@jump) Password: " "Enter passphrase for key 'k': " \\
                "Are you sure you want to continue connecting (yes/no)? " "(me@nas.example) Code: " \\
                "me@nas.example's password: " "(me@nas.example) Password: "; do
            "$SSH_ASKPASS" "$question" >> {said} && echo "to $question" >> {said}
        done
        (echo "$SSH_ASKPASS_REQUIRE"; echo "$*"; echo "$SSH_ASKPASS") >> {said}
        """
    )
    refused(lambda: opened("sftp://nas/srv", login=Login("me", "geh eim$")).stat(NAME))
    lines = said.read_text().splitlines()
    assert lines[:5] == [
        "geh eim$",
        "to me@nas.example's password: ",
        "geh eim$",
        "to (me@nas.example) Password: ",
        "force",
    ]
    assert "geh eim" not in lines[5]
    assert not Path(lines[6]).parent.exists()


def test_nobody_is_ever_asked(near: Near, opened: Opener, tmp_path: Path) -> None:
    """ssh is the first of a session of its own, which has no terminal."""
    said = tmp_path / "said"
    near.be(
        f'(echo "$*"; echo "$SSH_ASKPASS_REQUIRE"; echo $$; cut -d " " -f 6,7 /proc/$$/stat) > {said}; exit 255'
    )
    refused(lambda: opened(near.address).stat(NAME))
    options, asked_by, process, session_and_terminal = said.read_text().splitlines()
    assert "-oBatchMode=yes" in options
    assert asked_by == "never"
    assert session_and_terminal == f"{process} 0"


# Connections.


def retried(work: Callable[[], object]) -> object:
    """Do it again as long as it fails by what passes, like the wrapper."""
    for _ in range(4):
        try:
            return work()
        except Unavailable as error:
            if not error.passing:
                raise
    raise AssertionError("it does not pass")


def test_all_threads_share_two_connections(near: Near, opened: Opener) -> None:
    """One for what is put, one for the rest: questions do not wait behind megabytes."""
    store = opened(near.address)
    start = threading.Barrier(16)

    def work(which: int) -> None:
        name = NAME[:-1] + str(which)
        start.wait(WAIT)
        keep(store, name, DATA)
        assert read(store, name) == DATA

    for run in [Run(partial(work, which)) for which in range(16)]:
        run.join()
    assert len(near.started) == 2


def test_those_who_wait_for_a_connection_hear_together_that_there_is_none(
    near: Near, opened: Opener, tmp_path: Path
) -> None:
    """16 threads do not try one after the other, ten seconds each."""
    gate, tries = tmp_path / "gate", tmp_path / "tries"
    os.mkfifo(gate)
    near.be(f"echo try >> {tries}; read line < {gate}; echo 'Connection refused' >&2; exit 255")
    store = opened(near.address)
    errors: list[SwarmError] = []
    came = threading.Barrier(17)

    def work() -> None:
        came.wait(WAIT)
        errors.append(refused(lambda: store.stat(NAME)))

    runs = [Run(work) for _ in range(16)]
    came.wait(WAIT)
    with gate.open("w") as file:
        file.write("go\n" * 16)
        file.flush()
        for run in runs:
            run.join()
    assert len({id(error) for error in errors}) == 16
    # Those of which the system let run late may have come after the first try.
    assert len(tries.read_text().splitlines()) < 8


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_server_that_goes_away_during_a_put(server: Sshd, opened: Opener, how: str) -> None:
    store = opened(server.url)
    keep(store, NAME, b"what was there")
    source = Halfway(DATA * 20)
    errors: list[SwarmError] = []
    put = Run(lambda: errors.append(refused(lambda: store.put(NAME, len(DATA) * 20, source))))
    wait_for(source.reached)
    getattr(server, how)()
    source.release.set()
    put.join()
    assert isinstance(errors[0], Unavailable)
    assert errors[0].passing
    assert isinstance(refused(lambda: retried(lambda: store.stat(NAME))), Unavailable)
    server.start()
    assert read(store, NAME) == b"what was there"
    assert listed(store) == [(NAME, 14)]
    keep(store, NAME, DATA)
    assert read(store, NAME) == DATA


def test_a_server_that_goes_away_during_a_get(server: Sshd, opened: Opener) -> None:
    store = opened(server.url)
    data = DATA * 30
    keep(store, NAME, data)
    with store.read(NAME) as stream:
        pieces = iter(stream)
        next(pieces)
        server.kill()
        error = refused(lambda: list(pieces))
    assert isinstance(error, Unavailable)
    assert error.passing
    server.start()
    assert retried(lambda: read(store, NAME)) == data


def test_idle_connections_that_broke_are_made_anew(near: Near, opened: Opener) -> None:
    store = opened(near.address)
    keep(store, NAME, DATA)
    assert store.stat(NAME) == len(DATA)
    for pid in near.started:
        os.kill(pid, signal.SIGKILL)
    assert retried(lambda: store.stat(NAME)) == len(DATA)
    retried(lambda: keep(store, NAME, b"other"))
    assert read(store, NAME) == b"other"


@pytest.mark.parametrize("verb", VERBS)
def test_a_server_that_hangs_is_given_up(near: Near, opened: Opener, verb: str) -> None:
    store = opened(near.address, PATIENCE)
    keep(store, NAME, DATA)
    store.stat(NAME)
    with stopped(*near.started):
        began = time.monotonic()
        error = in_thread(lambda: refused(lambda: VERBS[verb](store)))
        assert PATIENCE <= time.monotonic() - began < 10 * PATIENCE
        assert isinstance(error, Unavailable)
        assert not error.passing
        assert "has not answered for 2 seconds" in str(error)
        VERBS[verb](store)  # by a new connection


def test_a_server_that_hangs_during_a_put_is_given_up(near: Near, opened: Opener) -> None:
    store = opened(near.address, PATIENCE)
    data = DATA * 40  # more than all buffers on the way
    source = Halfway(data)
    errors: list[SwarmError] = []
    put = Run(lambda: errors.append(refused(lambda: store.put(NAME, len(data), source))))
    wait_for(source.reached)
    with stopped(near.started[0]):
        source.release.set()
        put.join()
    assert isinstance(errors[0], Unavailable)
    assert not errors[0].passing
    assert_absent(store, NAME)
    keep(store, NAME, DATA)


def test_a_server_that_hangs_during_a_get_is_given_up(near: Near, opened: Opener) -> None:
    store = opened(near.address, PATIENCE)
    keep(store, NAME, DATA * 40)
    with store.read(NAME) as stream:
        pieces = iter(stream)
        next(pieces)
        with stopped(near.started[1]):
            error = in_thread(lambda: refused(lambda: list(pieces)))
    assert isinstance(error, Unavailable)
    assert store.stat(NAME) == len(DATA) * 40


def test_a_server_that_takes_connections_and_says_nothing(server: Sshd, opened: Opener) -> None:
    with stopped(server.pid):
        began = time.monotonic()
        error = in_thread(lambda: refused(lambda: opened(server.url, PATIENCE).stat(NAME)))
        assert time.monotonic() - began < 10 * PATIENCE
    assert isinstance(error, Unavailable)


def test_slow_is_not_hanging(near: Near, opened: Opener) -> None:
    """While bytes come nobody is given up, though one answer takes longer than that."""
    near.answer_by(odd=("trickle", 25_000))
    store = opened(near.address, PATIENCE)
    near.root.joinpath("ab").mkdir(parents=True)
    (near.root / NAME).write_bytes(DATA[:80_000])
    with store.read(NAME) as stream:
        began = time.monotonic()
        pieces = list(stream)
        assert time.monotonic() - began > PATIENCE
    assert len(pieces) == 2
    assert b"".join(pieces) == DATA[:80_000]


def test_closing_ends_what_is_under_way(near: Near, opened: Opener) -> None:
    store = opened(near.address)
    source = Halfway(DATA)
    errors: list[SwarmError] = []
    put = Run(lambda: errors.append(refused(lambda: store.put(NAME, len(DATA), source))))
    wait_for(source.reached)
    store.close()
    source.release.set()
    put.join()
    assert isinstance(errors[0], Unavailable)
    assert isinstance(refused(lambda: retried(lambda: store.stat(NAME))), Unavailable)
    assert len(near.started) == 1


def test_ssh_ends_with_us(near: Near, tmp_path: Path) -> None:
    """Also when we are killed: its end is seen at a pipe that it alone holds open."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    near.answer_by(before=f"exec 9>{pipe}")
    program = f"""
        from annex_remote.model import Access
        from annex_remote.stores import sftp
        store = sftp.open_store({near.address!r}, Access())
        store.stat({NAME!r})
        print("open", flush=True)
        import time; time.sleep(600)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        with pipe.open("rb") as held:
            assert child.stdout.readline() == b"open\n"
            child.kill()
            assert in_thread(held.read) == b""


# What is put there.


def test_a_missing_root_is_made_when_something_is_put(near: Near, opened: Opener) -> None:
    store = opened("sftp://near/~/not/there/yet")
    assert store.stat(NAME) is None
    assert listed(store) == []
    assert store.space() is None
    store.delete(NAME)
    with pytest.raises(NotFound):
        read(store, NAME)
    assert everything(near.home) == []
    keep(store, NAME, DATA)
    assert (near.home / "not/there/yet" / NAME).read_bytes() == DATA
    store.close()
    assert read(opened("sftp://near/~/not/there/yet"), NAME) == DATA


def test_a_store_that_came_to_nothing_leaves_no_folder(near: Near, opened: Opener) -> None:
    store = opened("sftp://near/~/not/there/yet")
    keep(store, NAME, DATA)
    store.delete(NAME)
    store.close()
    assert everything(near.home) == []


def test_folders_that_were_there_stay(near: Near, opened: Opener) -> None:
    near.root.mkdir()
    store = opened(near.address)
    keep(store, NAME, DATA)
    store.delete(NAME)
    store.close()
    assert everything(near.root) == [".part", "ab"]


def test_a_folder_that_goes_away_is_made_again(near: Near, opened: Opener) -> None:
    store = opened(near.address)
    keep(store, NAME, DATA)
    (near.root / NAME).unlink()
    (near.root / "ab").rmdir()
    error = refused(lambda: keep(store, NAME, DATA))
    assert isinstance(error, Unavailable)
    assert error.passing
    assert parts(near.root) == []
    keep(store, NAME, DATA)
    assert read(store, NAME) == DATA


@pytest.mark.parametrize("folder", [".part", "ab"])
@pytest.mark.parametrize("what", ["link", "file"])
def test_nothing_is_put_through_a_link(near: Near, opened: Opener, folder: str, what: str) -> None:
    elsewhere = near.home / "elsewhere"
    elsewhere.mkdir()
    near.root.mkdir()
    if what == "link":
        (near.root / folder).symlink_to(elsewhere)
    else:
        (near.root / folder).write_text("a file")
    error = refused(lambda: keep(opened(near.address), NAME, DATA))
    assert isinstance(error, Unavailable)
    assert ("symbolic link" if what == "link" else "no folder") in str(error)
    assert everything(elsewhere) == []


def test_the_root_may_be_a_link(near: Near, opened: Opener) -> None:
    (near.home / "elsewhere").mkdir()
    near.root.symlink_to("elsewhere")
    keep(opened(near.address), NAME, DATA)
    assert (near.home / "elsewhere" / NAME).read_bytes() == DATA


OLD = "ab" + "2" * 30 + ".0.0123456789abcdef"


def test_what_killed_writers_left_is_swept_once(near: Near, opened: Opener) -> None:
    folder = near.root / ".part"
    folder.mkdir(parents=True)
    young, stranger, longer = OLD[:-1] + "0", "README", OLD + "0"
    for name in (OLD, young, stranger, longer):
        (folder / name).write_bytes(b"left")
        os.utime(folder / name, (1, 1) if name != young else None)
    (folder / (OLD[:-1] + "1")).symlink_to(near.home / "precious")
    (folder / (OLD[:-1] + "2")).mkdir()
    (near.home / "precious").write_bytes(b"precious")
    os.utime(near.home / "precious", (1, 1))
    os.utime(folder / (OLD[:-1] + "1"), (1, 1), follow_symlinks=False)
    os.utime(folder / (OLD[:-1] + "2"), (1, 1))
    store = opened(near.address)
    store.stat(NAME)
    assert OLD in parts(near.root)
    keep(store, NAME, DATA)
    assert parts(near.root) == sorted([young, stranger, longer, OLD[:-1] + "1", OLD[:-1] + "2"])
    assert (near.home / "precious").exists()
    (folder / OLD).write_bytes(b"left")
    os.utime(folder / OLD, (1, 1))
    keep(store, NAME, DATA)
    assert OLD in parts(near.root)


def test_leftovers_are_swept_after_a_day(near: Near, opened: Opener) -> None:
    folder = near.root / ".part"
    folder.mkdir(parents=True)
    for name, age in ((OLD, LEFTOVER_AGE + 60), (OLD[:-1] + "0", LEFTOVER_AGE - 60)):
        (folder / name).write_bytes(b"left")
        os.utime(folder / name, (time.time() - age,) * 2)
    keep(opened(near.address), NAME, DATA)
    assert parts(near.root) == [OLD[:-1] + "0"]


def test_what_is_put_is_on_the_disk_before_it_has_its_name(near: Near, opened: Opener, tmp_path: Path) -> None:
    log = tmp_path / "log"
    near.answer_by("-e", "-l", "DEBUG3", before=f"exec 2>{log}")
    data = DATA * 120  # forced to the disk once on its way, and at its end
    keep(opened(near.address), NAME, data)
    did = [line for line in log.read_text().splitlines() if "request" in line]
    kinds = ("write", "fsync", "fstat", "close", "rename")
    last = [next(kind for kind in kinds if kind in line) for line in did if any(kind in line for kind in kinds)]
    assert last.count("fsync") == 2
    assert last[-5:] == ["write", "fsync", "fstat", "close", "rename"]


def test_what_cannot_be_swept_is_not_in_the_way(near: Near, opened: Opener) -> None:
    near.answer_by("-P", "opendir")
    keep(opened(near.address), NAME, DATA)
    assert (near.root / NAME).read_bytes() == DATA


class SourceError(Exception):
    """Something that no store knows."""


def test_a_source_that_fails_leaves_nothing(near: Near, opened: Opener) -> None:
    def source(_: int) -> Iterator[bytes]:
        yield DATA
        raise SourceError

    store = opened(near.address)
    with pytest.raises(SourceError):
        store.put(NAME, 2 * len(DATA), source)
    assert_absent(store, NAME)
    assert parts(near.root) == []


# Servers that lack something.


@pytest.mark.parametrize("lacking", ["posix-rename", "posix-rename,fsync,statvfs,limits"])
def test_a_server_with_less(near: Near, opened: Opener, lacking: str) -> None:
    near.answer_by("-P", lacking)
    store = opened(near.address)
    for data in (DATA, b"short", DATA[:70_000]):
        keep(store, NAME, data)
        assert read(store, NAME) == data
        assert listed(store) == [(NAME, len(data))]
        assert parts(near.root) == []
    assert (store.space() is None) == ("statvfs" in lacking)


@pytest.mark.parametrize("processes", [1, 2])
def test_many_replace_one_where_renaming_does_not(near: Near, opened: Opener, processes: int) -> None:
    near.answer_by("-P", "posix-rename")
    stores = [opened(near.address) for _ in range(processes)]
    start = threading.Barrier(12)
    versions = [bytes([which]) * (1000 + which) for which in range(12)]

    def work(which: int) -> None:
        start.wait(WAIT)
        for _ in range(5):
            keep(stores[which % processes], NAME, versions[which])

    for run in [Run(partial(work, which)) for which in range(12)]:
        run.join()
    assert read(stores[0], NAME) in versions
    # What one put aside is left when another was faster; it is swept like all that is left.
    assert processes == 2 or parts(near.root) == []


def test_what_was_there_stays_where_nothing_can_replace_it(near: Near, opened: Opener) -> None:
    keep(opened(near.address), NAME, DATA)
    near.answer_by("-P", "posix-rename", odd=("stubborn", 2))
    store = opened(near.address)
    assert isinstance(refused(lambda: keep(store, NAME, b"other")), Unavailable)
    assert read(store, NAME) == DATA
    assert parts(near.root) == []


def test_a_fresh_put_asks_one_question_more(near: Near, opened: Opener, tmp_path: Path) -> None:
    counts = []
    for name, fresh in ((OTHER, False), (NAME, True)):
        log = tmp_path / f"log-{fresh}"
        near.answer_by("-e", "-l", "DEBUG3", before=f"exec 2>{log}")
        store = opened(near.address)
        keep(store, NAME.replace(".0", ".9"), b"")  # so that the folders are there
        before = log.read_text().count(": sent ")
        keep(store, name, DATA, fresh=fresh)
        counts.append(log.read_text().count(": sent ") - before)
    assert counts[1] == counts[0] + 1


def test_a_fresh_put_at_a_server_that_replaces(near: Near, opened: Opener) -> None:
    near.answer_by(odd=("replacing", 0))
    store = opened(near.address)
    keep(store, NAME, DATA, fresh=True)
    with pytest.raises(Exists, match="is there already"):
        keep(store, NAME, b"other", fresh=True)
    assert read(store, NAME) == DATA
    assert parts(near.root) == []


@pytest.mark.parametrize(("odd", "kind"), [(("stubborn", 2), Unavailable), (None, Denied)])
def test_a_fresh_put_that_cannot_be_published(
    near: Near, opened: Opener, odd: tuple[str, int] | None, kind: type[StoreError]
) -> None:
    near.answer_by(*(() if odd else ("-P", "rename")), odd=odd)
    store = opened(near.address)
    assert isinstance(refused(lambda: keep(store, NAME, DATA, fresh=True)), kind)
    assert_absent(store, NAME)
    assert parts(near.root) == []


def test_a_server_that_only_reads(near: Near, opened: Opener) -> None:
    keep(opened(near.address), NAME, DATA)
    near.answer_by("-R")
    store = opened(near.address)
    assert isinstance(refused(lambda: keep(store, NAME, b"other")), Denied)
    assert isinstance(refused(lambda: keep(store, "ac/ac" + "2" * 30 + ".0", b"other")), Denied)
    assert isinstance(refused(lambda: store.delete(NAME)), Denied)
    assert read(store, NAME) == DATA


def test_a_server_that_does_not_tell_when_something_was_written(near: Near, opened: Opener) -> None:
    near.answer_by(odd=("timeless", 0))
    store = opened(near.address)
    keep(store, NAME, DATA)
    assert store.stat(NAME) == len(DATA)
    assert store.age(NAME) is None
    with pytest.raises(NotFound):
        store.age(OTHER)


def test_a_server_whose_clock_stands_at_its_beginning_tells_no_age(near: Near, opened: Opener) -> None:
    store = opened(near.address)
    keep(store, NAME, DATA)
    os.utime(near.root / NAME, (86400, 86400))
    assert store.age(NAME) is None


@pytest.mark.parametrize(
    ("forbidden", "verb"), [("open", "read"), ("stat", "stat"), ("stat", "age"), ("opendir", "list")]
)
def test_what_is_forbidden_is_not_absent(near: Near, opened: Opener, forbidden: str, verb: str) -> None:
    keep(opened(near.address), NAME, DATA)
    near.answer_by("-P", forbidden)
    assert isinstance(refused(lambda: VERBS[verb](opened(near.address))), Denied)


@pytest.mark.parametrize("verb", ["read", "stat", "age"])
def test_what_is_no_file_is_not_absent(near: Near, opened: Opener, verb: str) -> None:
    (near.root / NAME).mkdir(parents=True)
    error = refused(lambda: VERBS[verb](opened(near.address)))
    assert isinstance(error, Unavailable)
    assert "not a file" in str(error)


@pytest.mark.parametrize("oddity", ["full", "quota"])
def test_a_disk_that_fills(near: Near, opened: Opener, oddity: str) -> None:
    near.answer_by(odd=(oddity, 400_000))
    store = opened(near.address)
    keep(store, OTHER, DATA)
    error = refused(lambda: keep(store, NAME, DATA))
    assert isinstance(error, Full)
    assert_absent(store, NAME)
    assert parts(near.root) == []
    assert read(store, OTHER) == DATA


def test_failures_on_a_disk_with_room_do_not_say_that_it_is_full(near: Near, opened: Opener) -> None:
    near.answer_by(before="ulimit -f 200; trap '' XFSZ")
    error = refused(lambda: keep(opened(near.address), NAME, DATA))
    assert type(error) is Unavailable
    assert parts(near.root) == []


def test_a_server_that_loses_what_it_took(near: Near, opened: Opener) -> None:
    near.answer_by(odd=("lose", 2))
    store = opened(near.address)
    assert isinstance(refused(lambda: keep(store, NAME, DATA)), Unavailable)
    assert_absent(store, NAME)


def test_what_does_not_get_to_the_disk_is_not_there(near: Near, opened: Opener) -> None:
    near.answer_by(odd=("unsure", 400_000))
    store = opened(near.address)
    keep(store, OTHER, DATA)
    assert type(refused(lambda: keep(store, NAME, DATA))) is Unavailable
    assert_absent(store, NAME)
    assert parts(near.root) == []


@pytest.mark.parametrize("number", [1000, 32_768, 100_000])
def test_a_server_that_gives_less_than_it_is_asked_for(near: Near, opened: Opener, number: int) -> None:
    keep(opened(near.address), NAME, DATA)
    near.answer_by(odd=("short", number))
    store = opened(near.address)
    assert read(store, NAME) == DATA
    assert read(store, NAME, 12_345, 200_000) == DATA[12_345:212_345]


def test_a_file_that_shrinks_while_it_is_read_is_damaged(near: Near, opened: Opener) -> None:
    store = opened(near.address)
    keep(store, NAME, DATA * 40)
    with store.read(NAME) as stream:
        pieces = iter(stream)
        next(pieces)
        os.truncate(near.root / NAME, 100)
        with pytest.raises(Damaged):
            list(pieces)


# Many at a time, and little memory.


def test_requests_do_not_wait_for_one_another(near: Near, opened: Opener) -> None:
    """A server that neither gives nor takes anything before it was asked to eight times gets all of it done."""
    near.answer_by("-P", "limits", odd=("hold", 8))
    store = opened(near.address)
    size = 64 * 8 * (32 << 10)
    data = (DATA * 60)[:size]
    store.put(NAME, size, giving(data, 256 << 10))
    assert read(store, NAME) == data


def test_listing_many_folders_and_large_ones(near: Near, opened: Opener) -> None:
    names = [f"{a}{b}/{a}{b}" + "2" * 30 + ".0" for a in "abcdefgh" for b in "234567abc"]
    names += ["zz/zz" + "2" * 30 + f".{number}" for number in range(350)]
    for name in names:
        path = near.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    store = opened(near.address)
    assert listed(store) == [(name, 1) for name in sorted(names)]
    assert len(listed(store, "zz")) == 350
    assert sum(1 for _ in Path(f"/proc/{near.started[0]}/fd").iterdir()) < 12


BIG = 192 << 20


def test_memory_does_not_grow_with_what_is_put_or_read(near: Near, opened: Opener) -> None:
    store = opened(near.address)
    piece = bytes(1 << 20)
    tracemalloc.start()
    try:
        store.put(NAME, BIG, lambda at: (piece for _ in range(at, BIG, 1 << 20)))
        with store.read(NAME) as stream:
            assert sum(len(each) for each in stream) == BIG
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 16 << 20


def test_a_reader_that_takes_little_is_given_little(near: Near, opened: Opener) -> None:
    near.root.joinpath("ab").mkdir(parents=True)
    (near.root / NAME).touch()
    os.truncate(near.root / NAME, 10 << 30)
    store = opened(near.address)
    tracemalloc.start()
    try:
        with store.read(NAME) as stream:
            pieces = iter(stream)
            for _ in range(20):
                next(pieces)
            store.stat(NAME)  # answered behind all that was asked for
            now, _ = tracemalloc.get_traced_memory()
        assert now < 4 << 20
        assert store.stat(NAME) == 10 << 30
        store.stat(NAME)
        now, _ = tracemalloc.get_traced_memory()
        assert now < 1 << 20
    finally:
        tracemalloc.stop()


def test_handles_are_given_back(near: Near, opened: Opener) -> None:
    store = opened(near.address)
    keep(store, NAME, DATA)
    for _ in range(30):
        with store.read(NAME) as stream:
            next(iter(stream))
        with pytest.raises(NotFound):
            read(store, OTHER)
        list(store.list())
        next(iter(store.list()))
    store.stat(NAME)
    for pid in near.started:
        held = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
        assert not [path for path in held if path.startswith(str(near.root))]
