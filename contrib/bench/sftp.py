"""An SFTP store against the other clients of the same server: OpenSSH's sftp and scp, and rclone.

A server of its own on loopback, a new connection for each transfer, from a file and into a file.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from getpass import getuser
from pathlib import Path
from socket import create_connection, create_server
from statistics import median
from time import perf_counter, sleep

from figures import MIB, Figure, arguments, byte_count, describe, report
from harness import need, random_file, run, scratch

from annex_remote import allocator
from annex_remote.model import Access
from annex_remote.stores import sftp

NAME = "ab/ab" + "2" * 30 + ".0"
TARGET = 0.8

Transfer = Callable[[], float]
"""Does it, and tells how many seconds it took."""


class Ssh:
    """A server in `folder`, and an `ssh`, `sftp` and `scp` in `folder`/bin that know it as the host `bench`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.key, self.host_key = self._make_key("key"), self._make_key("host_key")
        shutil.copy(f"{self.key}.pub", folder / "authorized_keys")
        kind, public = Path(f"{self.host_key}.pub").read_text().split()[:2]
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {kind} {public}\n")
        (folder / "config").write_text(
            f"Host bench\n  HostName 127.0.0.1\n  Port {self.port}\n  User {getuser()}\n"
            f"  IdentityFile {self.key}\n  IdentityAgent none\n  UserKnownHostsFile {folder / 'known_hosts'}\n"
        )
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {self.host_key}\nPidFile none\nStrictModes no\n"
            f"UsePAM no\nAuthorizedKeysFile {folder / 'authorized_keys'}\nSubsystem sftp internal-sftp\n"
        )
        programs = folder / "bin"
        programs.mkdir()
        for name in ("ssh", "sftp", "scp"):
            script = programs / name
            script.write_text(f'#!/bin/sh\nexec {shutil.which(name)} -F {folder / "config"} "$@"\n')
            script.chmod(0o755)
        self.path = f"{programs}{os.pathsep}{os.environ['PATH']}"

    def _make_key(self, name: str) -> Path:
        path = self.folder / name
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
        return path

    @contextmanager
    def running(self) -> Iterator[None]:
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            sys.exit("sftp.py: sshd is not on this machine and this measurement runs it")
        with subprocess.Popen(
            [program, "-D", "-e", "-f", self.folder / "sshd_config"], stderr=subprocess.PIPE
        ) as server:
            try:
                for _ in range(100):
                    try:
                        create_connection(("127.0.0.1", self.port)).close()
                        break
                    except ConnectionRefusedError:
                        sleep(0.05)
                yield
            finally:
                server.terminate()


def our_up(source: Path, target: Path) -> float:
    def pieces(offset: int) -> Iterator[bytes]:
        with source.open("rb") as file:
            file.seek(offset)
            while piece := file.read(MIB):
                yield piece

    start = perf_counter()
    store = sftp.open_store(f"sftp://bench{target}", Access())
    store.put(NAME, source.stat().st_size, pieces)
    store.close()
    return perf_counter() - start


def our_down(source: Path, target: Path) -> float:
    start = perf_counter()
    store = sftp.open_store(f"sftp://bench{source}", Access())
    with store.read(NAME) as stream, target.open("wb") as file:
        for piece in stream:
            file.write(piece)
    store.close()
    return perf_counter() - start


def clients(ssh: Ssh, root: Path, source: Path, env: Mapping[str, str]) -> dict[str, tuple[Transfer, Transfer]]:
    """Up and down, by client; what comes down is what went up before."""
    store, there, here = root / "store", root / "there", root / "here"
    options = f"host=127.0.0.1,port={ssh.port},user={getuser()},key_file={ssh.key},shell_type=none"
    remote = f":sftp,{options},known_hosts_file={ssh.folder / 'known_hosts'}:{there}"

    def command(*words: str | Path) -> Transfer:
        return partial(run, words, root, env)

    batches = root / "put", root / "get"
    batches[0].write_text(f"put {source} {there}\n")
    batches[1].write_text(f"get {there} {here}\n")
    found: dict[str, tuple[Transfer, Transfer]] = {
        "this store": (partial(our_up, source, store), partial(our_down, store, here)),
        "sftp": (
            command("sftp", "-q", "-b", batches[0], "bench"),
            command("sftp", "-q", "-b", batches[1], "bench"),
        ),
        "scp": (command("scp", "-q", source, f"bench:{there}"), command("scp", "-q", f"bench:{there}", here)),
    }
    if shutil.which("rclone"):
        found["rclone"] = command("rclone", "copyto", source, remote), command("rclone", "copyto", remote, here)
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--size", type=byte_count, default=byte_count("256M"), help="default 256M")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    need("ssh", "sftp", "scp", "ssh-keygen")
    allocator.settle()
    with scratch(options.scratch, 4 * options.size) as root:
        folder = root / "ssh"
        folder.mkdir()
        ssh = Ssh(folder)
        os.environ["PATH"] = ssh.path
        env = os.environ | {"RCLONE_CONFIG": os.devnull}
        source = random_file(root / "source", options.size)
        taken: dict[tuple[str, int], list[float]] = {}
        with ssh.running():
            by_client = clients(ssh, root, source, env)
            # They take turns, so that what else the machine does meets them alike.
            for _ in range(options.rounds):
                for client, ways in by_client.items():
                    for way, transfer in enumerate(ways):
                        taken.setdefault((client, way), []).append(transfer())
    figures = []
    for way, what in enumerate(("up", "down")):
        rates = {client: options.size / median(taken[client, way]) / 1e6 for client in by_client}
        figures += [Figure(f"{what}, {client}", rate, "MB/s") for client, rate in rates.items()]
        ours = rates.pop("this store")
        best = max(rates, key=rates.__getitem__)
        figures.append(Figure(f"{what}, of {best}", ours / rates[best], "", target=TARGET))
    report(f"SFTP, {describe(options.size)}, median of {options.rounds}", figures, options.json)


if __name__ == "__main__":
    main()
