"""One file through Tahoe-LAFS on loopback (an introducer, six storage nodes, a gateway) and through swarm.

Tahoe-LAFS comes from PyPI into a venv of its own, `.venv-tahoe`, and stays there for the next time.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median

from figures import MIB, Figure, arguments, byte_count, describe, report, timing
from harness import STORES, Repository, copy_and_get, environment, random_file, run, scratch

VERSION = "1.20.0"
VENV = Path(__file__).parents[2] / ".venv-tahoe"
CODING = ("--shares-needed=4", "--shares-happy=5", f"--shares-total={len(STORES)}")
PATIENCE = 60.0
TARGET = 10.0


def install() -> Path:
    """The `tahoe` program, made ready when it is not yet."""
    program = VENV / "bin" / "tahoe"
    if not program.exists():
        print(f"installing tahoe-lafs {VERSION} into {VENV}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
        subprocess.run([VENV / "bin" / "pip", "install", "--quiet", f"tahoe-lafs=={VERSION}"], check=True)
    return program


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


Front = Callable[[str, int], int]
"""A storage node's name and port to the port where others are to ask it."""


class Grid:
    """A grid of Tahoe-LAFS that listens on 127.0.0.1 only; its nodes end with `nodes`."""

    def __init__(self, root: Path, tahoe: Path, nodes: ExitStack, front: Front | None = None) -> None:
        self._root, self._tahoe, self._nodes = root, tahoe, nodes
        self._env = environment(root)
        self._log = nodes.enter_context((root / "log").open("wb"))
        self._create("create-introducer", "introducer", *self._listening())
        self._start("introducer")
        furl = root / "introducer" / "private" / "introducer.furl"
        self._until(lambda: furl.exists() and furl.read_text().endswith("\n"), "the introducer's address")
        join = f"--introducer={furl.read_text().strip()}"
        for store in STORES:
            listening = self._listening(partial(front, store) if front else None)
            self._create("create-node", store, join, "--webport=none", *listening)
            self._start(store)
        self.web = free_port()
        """The gateway's port, for those who ask it over HTTP."""
        port = f"--webport=tcp:{self.web}:interface=127.0.0.1"
        self._create("create-client", "gateway", join, port, *CODING)
        self._gateway = self._start("gateway")
        self._await_nodes(len(STORES))

    def restart_gateway(self, connected: int = len(STORES)) -> None:
        """Start the gateway anew, and return when it has its connections to so many storage nodes."""
        stop(self._gateway)
        self._gateway = self._start("gateway")
        self._await_nodes(connected)

    def put(self, source: Path) -> tuple[float, str]:
        """Upload `source`: the seconds it took, and the capability that fetches it."""
        start = time.perf_counter()
        done = subprocess.run(
            [self._tahoe, "-d", self._root / "gateway", "put", source],
            env=self._env,
            capture_output=True,
            text=True,
            check=True,
        )
        return time.perf_counter() - start, done.stdout.strip()

    def get(self, capability: str, target: Path) -> float:
        command: list[str | Path] = [self._tahoe, "-d", self._root / "gateway", "get", capability, target]
        return run(command, self._root, self._env)

    @staticmethod
    def _listening(front: Callable[[int], int] | None = None) -> tuple[str, str]:
        port = free_port()
        announced = front(port) if front else port
        return f"--port=tcp:{port}:interface=127.0.0.1", f"--location=tcp:127.0.0.1:{announced}"

    def _create(self, verb: str, name: str, *options: str) -> None:
        run([self._tahoe, verb, *options, self._root / name], self._root, self._env)

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        # Without --allow-stdin-close a node ends at once when its standard input is not open.
        command: list[str | Path] = [self._tahoe, "run", "--allow-stdin-close", self._root / name]
        node = subprocess.Popen(
            command, env=self._env, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )
        self._nodes.callback(stop, node)
        return node

    def _await_nodes(self, count: int) -> None:
        self._until(lambda: self._connected(self.web) == count, f"{count} connected storage nodes")

    def _until(self, ready: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not ready():
            if time.monotonic() > end:
                said = (self._root / "log").read_text(errors="replace")[-2000:]
                sys.exit(f"Tahoe-LAFS: no {what} after {PATIENCE:.0f} s\n{said}")
            time.sleep(0.2)

    @staticmethod
    def _connected(web: int) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{web}/?t=json", timeout=5) as answer:
                servers = json.load(answer)["servers"]
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return 0
        return sum(server["connection_status"].lower().startswith("connected") for server in servers)


def stop(node: subprocess.Popen[bytes]) -> None:
    node.terminate()
    try:
        node.wait(timeout=10)
    except subprocess.TimeoutExpired:
        node.kill()
        node.wait()


@contextmanager
def grid(root: Path, front: Front | None = None) -> Iterator[Grid]:
    root.mkdir()
    with ExitStack() as nodes:
        yield Grid(root, install(), nodes, front)


def through_tahoe(root: Path, size: int, rounds: int) -> dict[str, float]:
    puts, gets = [], []
    with grid(root) as tahoe:
        for number in range(rounds):
            # New content each time: Tahoe-LAFS does not store again what the grid has.
            source, back = random_file(root / f"source-{number}", size), root / "back"
            seconds, capability = tahoe.put(source)
            puts.append(seconds)
            gets.append(tahoe.get(capability, back))
            if back.read_bytes() != source.read_bytes():
                sys.exit("Tahoe-LAFS returned other bytes")
            back.unlink()
            source.unlink()
    return {"copy": median(puts), "get": median(gets)}


def through_swarm(repository: Repository, rounds: int) -> dict[str, float]:
    checked = copy_and_get(repository, ["vault"], rounds)
    # Both engines prove every block; git-annex then hashes the whole file again, which Tahoe-LAFS has
    # nothing like. Without that, the two do the same work.
    alone = copy_and_get(repository, ["vault"], rounds, "-c", "annex.verify=false")
    return {
        "copy": checked["copy", "vault"],
        "get": checked["get", "vault"],
        "get, proved once": alone["get", "vault"],
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--size", type=byte_count, default=256 * MIB)
    parser.add_argument("--rounds", type=int, default=3, help="the median counts")
    parser.add_argument("--tahoe-only", action="store_true", help="without swarm, for trying")
    options = parser.parse_args()
    with scratch(options.scratch, takes=(2 * options.rounds + 5) * options.size) as root:
        theirs = through_tahoe(root / "tahoe", options.size, options.rounds)
        ours: dict[str, float] = {}
        if not options.tahoe_only:
            repository = Repository(root)
            random_file(repository.path / "file", options.size)
            repository.add()
            repository.init_swarm("vault")
            ours = through_swarm(repository, options.rounds)
    figures = []
    for verb, seconds in theirs.items():
        word = {"copy": "put", "get": "get"}[verb]
        figures.append(timing(f"tahoe {word}: 4-of-6, loopback", seconds, options.size))
    for verb, seconds in ours.items():
        plain = verb in theirs
        what = f"git annex {verb}: swarm 4-of-6" if plain else "git annex get -c annex.verify=false: swarm"
        figures.append(timing(what, seconds, options.size))
        ratio = theirs[verb if plain else "get"] / seconds
        figures.append(Figure(f"{verb}: times as fast", ratio, "x", target=TARGET if plain else None))
    report(f"Tahoe-LAFS {VERSION}, one file of {describe(options.size)}", figures, options.json)


if __name__ == "__main__":
    os.umask(0o077)
    main()
