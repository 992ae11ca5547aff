"""What every measurement needs: a scratch directory, git-annex repositories in it, a clock."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from figures import GIB, MIB

STORES = ("a", "b", "c", "d", "e", "f")
SWARM = "git-annex-remote-swarm"


def need(*programs: str) -> None:
    """Stop with one sentence when a program that this measurement runs is not on PATH."""
    for program in programs:
        if shutil.which(program, path=_path()) is None:
            sys.exit(f"{Path(sys.argv[0]).name}: {program} is not on PATH and this measurement runs it")


def room(directory: Path, size: int) -> None:
    """Stop before the work when `directory` cannot hold `size` bytes."""
    free = shutil.disk_usage(directory).free
    if free < size:
        sys.exit(f"{directory}: this takes {size / GIB:.1f} GiB, free are {free / GIB:.1f}: see --scratch, --size")


def on_memory() -> Path:
    """The tmpfs that measurements run on, or the temporary directory with a warning."""
    shm = Path("/dev/shm")
    if shm.is_dir() and os.access(shm, os.W_OK):
        return shm
    print(f"warning: no /dev/shm here, the figures hold the disk under {tempfile.gettempdir()}", file=sys.stderr)
    return Path(tempfile.gettempdir())


@contextmanager
def scratch(parent: Path | None = None, takes: int = 0) -> Iterator[Path]:
    """A directory that is gone afterwards, also when the measurement is ended by SIGTERM or Ctrl-C."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parent = parent or on_memory()
    room(parent, takes)
    root = Path(tempfile.mkdtemp(prefix="swarm-bench-", dir=parent))
    try:
        yield root
    finally:
        remove_tree(root)


def remove_tree(root: Path) -> None:
    """Remove `root` although git-annex write-protects the directories of its objects."""
    for directory, names, _ in os.walk(root):
        for name in names:
            entry = Path(directory, name)
            if not entry.is_symlink():
                entry.chmod(0o700)
    shutil.rmtree(root, ignore_errors=True)


def random_file(path: Path, size: int) -> Path:
    """Fill `path` with bytes that nothing can compress."""
    with path.open("wb") as out:
        for start in range(0, size, MIB):
            out.write(os.urandom(min(MIB, size - start)))
    return path


def _path() -> str:
    """PATH with this interpreter's own programs first: the venv's git-annex and remote."""
    return os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))


def environment(home: Path) -> dict[str, str]:
    """An environment in which nothing of the user's git, gpg or caches takes part."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "XDG_"))}
    identity = {f"GIT_{who}_{what}": "bench" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    alone = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C.UTF-8"}
    # What was learnt of one grid's stores is no figure of another one's.
    own = {"XDG_STATE_HOME": str(home / "state"), "XDG_RUNTIME_DIR": str(home / "run")}
    return kept | identity | alone | own | {"HOME": str(home), "PATH": _path(), "TMPDIR": str(home)}


def run(command: Sequence[str | Path], cwd: Path, env: Mapping[str, str]) -> float:
    """Run to the end and return the seconds it took; on failure exit with what it said."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        words = " ".join(str(word) for word in command)
        said = (done.stdout + done.stderr).decode(errors="replace").strip()
        sys.exit(f"failed with {done.returncode}: {words}\n{said}")
    return seconds


class Repository:
    """A new git-annex repository at ``root/repo``, with remotes whose stores are beside it."""

    def __init__(self, root: Path) -> None:
        need("git", "git-annex")
        self.root = root
        self.path = root / "repo"
        home = root / "home"
        for directory in (self.path, home, home / "run"):
            directory.mkdir(mode=0o700)
        self.env = environment(home)
        run(["git", "init", "-q"], self.path, self.env)
        self.annex("init", "bench")

    def annex(self, *words: str) -> float:
        return run(["git", "annex", *words], self.path, self.env)

    def add(self) -> None:
        self.annex("add", ".")
        run(["git", "commit", "-q", "-m", "files"], self.path, self.env)

    def swarm_stores(self, name: str) -> list[Path]:
        return [self.root / f"{name}-{store}" for store in STORES]

    def init_remotes(self, names: Sequence[str]) -> None:
        for name in names:
            {"vault": self.init_swarm, "plain": self.init_directory}[name](name)

    def init_swarm(self, name: str = "vault") -> None:
        """Six directories, four of them rebuild: the remote that is measured."""
        stores = self.swarm_stores(name)
        for store in stores:
            store.mkdir()
        self.init_grid(name, [f"dir:{store}" for store in stores])

    def init_grid(self, name: str, addresses: Sequence[str]) -> None:
        """The same of six stores at `addresses`."""
        need(SWARM)
        listed = " ".join(f"{store}={address}" for store, address in zip(STORES, addresses, strict=True))
        numbers = ("needed=4", "happy=5", f"total={len(STORES)}")
        kind = ("type=external", "externaltype=swarm", "encryption=none")
        self.annex("initremote", name, *kind, f"stores={listed}", *numbers)

    def init_directory(self, name: str = "plain") -> None:
        """git-annex's own encrypted directory: the remote that it is measured against."""
        need("gpg")
        (self.root / name).mkdir()
        where = ("type=directory", f"directory={self.root / name}")
        self.annex("initremote", name, *where, "encryption=shared", "chunk=32MiB")


def copy_and_get(
    repository: Repository, remotes: Sequence[str], rounds: int, *options: str
) -> dict[tuple[str, str], float]:
    """The median seconds of ``copy --to`` and ``get`` of everything, by verb and remote.

    The remotes take turns, so that what else the machine does meets them alike.
    """
    taken: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for remote in remotes:
            copied = repository.annex("copy", "--to", remote, *options, ".")
            repository.annex("drop", "--force", ".")
            got = repository.annex("get", "--from", remote, *options, ".")
            repository.annex("drop", "--force", "--from", remote, ".")
            taken.setdefault(("copy", remote), []).append(copied)
            taken.setdefault(("get", remote), []).append(got)
    return {what: median(seconds) for what, seconds in taken.items()}
