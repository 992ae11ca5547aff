"""`git-annex-remote-swarm demo`: the main job on real files, with a throw-away repository and six stores."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from annex_remote.errors import BadSetting
from annex_remote.torrents.metainfo import parse

__all__ = ["run_demo"]

STORES = ("usb", "nas", "attic", "friend", "cloud1", "cloud2")
LOST = ("usb", "cloud2")
NEW = ("disk", "cloud3")
DAMAGED = "nas"
SWARM = "git-annex-remote-swarm"


class _Stage:
    """Runs commands as a user would type them, and shows each before what it says."""

    def __init__(self, console: Console, folder: Path) -> None:
        self.console = console
        self.folder = folder
        self.repository = folder / "photos"
        self.repository.mkdir()
        programs = [os.path.dirname(os.path.abspath(sys.argv[0])), os.path.dirname(sys.executable)]
        self.environment = {
            **os.environ,
            "PATH": os.pathsep.join([*programs, os.environ.get("PATH", "")]),
            "HOME": str(folder),
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "GIT_AUTHOR_NAME": "demo",
            "GIT_AUTHOR_EMAIL": "demo@localhost",
            "GIT_COMMITTER_NAME": "demo",
            "GIT_COMMITTER_EMAIL": "demo@localhost",
        }

    def say(self, text: str) -> None:
        self.console.print()
        self.console.print(text, style="bold")

    def save(self, command: str, path: Path) -> None:
        """Run a command line whose output is a secret, and put that into a file for this user alone."""
        self.console.print(Text(f"$ {command} > {path}", style="cyan"))
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            subprocess.run(
                shlex.split(command),
                cwd=self.repository,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.DEVNULL,
                check=True,
            )

    @contextmanager
    def beside(self, command: str) -> Iterator[None]:
        """Run a command line while others go on, and end it as Ctrl-C does."""
        self.console.print(Text(f"$ {command} &", style="cyan"))
        process = subprocess.Popen(
            shlex.split(command),
            cwd=self.repository,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout
        try:
            self.console.print(Text(f"  {process.stdout.readline().strip()}", style="dim"))
            yield
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()

    def run(self, command: str, *, show: bool = True, status: int = 0, within: Path | None = None) -> float:
        """Run a command line in the repository, which ends with `status`; return the seconds that it took."""
        self.console.print(Text(f"{within.name if within else ''}$ {command}", style="cyan"))
        began = time.monotonic()
        done = subprocess.run(
            shlex.split(command),
            cwd=within or self.repository,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        seconds = time.monotonic() - began
        lines = [line.split("\r")[-1].rstrip() for line in done.stdout.decode(errors="replace").split("\n")]
        if show or done.returncode != status:
            for line in lines:
                if line.strip():
                    self.console.print(Text(f"  {line.strip()}", style="dim"))
        if done.returncode != status:
            raise BadSetting(f"the demo stops: {command!r} ended with status {done.returncode}")
        return seconds


def run_demo(console: Console, *, keep: bool, largest: int) -> int:
    """Run the demo and return the exit status; `largest` is the size of the largest file in bytes."""
    for program in ("git", "git-annex"):
        if not shutil.which(program, path=os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])):
            raise BadSetting(
                f"{program} is not in PATH: the demo needs it (pip install git-annex brings git-annex)"
            )
    folder = Path(tempfile.mkdtemp(prefix="swarm-demo-"))
    try:
        return _play(_Stage(console, folder), largest)
    finally:
        if keep:
            console.print(f"\nEverything is left in {folder}")
        else:
            _remove(folder)


def _play(stage: _Stage, largest: int) -> int:
    console = stage.console
    console.print(
        Panel("A git-annex repository and six stores, any three of which rebuild everything", expand=False)
    )
    stage.say("A repository with files of several sizes")
    stage.run("git init --quiet --initial-branch main .")
    stage.run("git annex init --quiet laptop")
    sums = _make_files(stage.repository, largest)
    stage.run("git annex add --quiet .", show=False)
    stage.run("git commit --quiet --message photos")

    stage.say("One remote over six stores")
    places = " ".join(f"{name}=dir:{stage.folder / name}" for name in STORES)
    remote = "git annex initremote vault type=external externaltype=swarm encryption=none needed=3"
    stage.run(f'{remote} stores="{places}"')

    stage.say("Every file becomes encrypted, erasure-coded shares, one to a store")
    up = stage.run("git annex copy --quiet --to vault .")
    _show_shares(console, stage.folder)
    stage.run("git annex drop --quiet .")

    stage.say(f"Two stores burn down, and blocks on a third go bad: {', '.join(LOST)} and {DAMAGED}")
    for name in LOST:
        console.print(Text(f"$ rm -rf {stage.folder / name}", style="cyan"))
        shutil.rmtree(stage.folder / name)
    count = _damage(stage.folder / DAMAGED)
    console.print(Text(f"  one byte in each of {count} blocks on {DAMAGED} is changed", style="dim"))
    _show_shares(console, stage.folder)

    stage.say("Everything comes back, proved block by block")
    console.print(
        Text("(with two stores of six gone, four are left, and the damaged one is among them)", style="dim")
    )
    down = stage.run("git annex get . --from vault")
    good = _show_result(console, stage.repository, sums)
    total = sum((stage.repository / name).stat().st_size for name in sums)
    console.print(f"{total:,} bytes: copied in {up:.1f} s, fetched from the wreck in {down:.1f} s")

    stage.say("Two new stores take the place of the lost ones, and all shares are made whole again")
    for name, lost in zip(NEW, LOST, strict=True):
        stage.run(f"{SWARM} stores vault add {name}=dir:{stage.folder / name}")
        stage.run(f"{SWARM} stores vault remove {lost} --gone")
    stage.run(f"{SWARM} check vault --verify", status=1)
    stage.run(f"{SWARM} repair vault", show=False)
    stage.run(f"{SWARM} check vault --verify")
    _show_shares(console, stage.folder)

    if importlib.util.find_spec("libtorrent") is None:
        stage.say("The part about torrents is left out: there is no libtorrent for this Python")
    else:
        good &= _play_torrent(stage, sums)

    stage.say("The laptop is stolen: the stores and the capability alone bring everything back")
    capability, restored = stage.folder / "capability", stage.folder / "restored"
    stage.save(f"{SWARM} capability vault", capability)
    names = {name: (stage.repository / name).readlink().name for name in sums}
    console.print(Text(f"$ rm -rf {stage.repository}", style="cyan"))
    _remove(stage.repository)
    stage.repository.mkdir()
    stage.run(f"{SWARM} recover {capability} dir:{stage.folder / NEW[0]} --to {restored}", show=False)
    for name, key in names.items():
        [found] = restored.glob(f"??*/???/{key}/{key}")
        found.rename(stage.repository / name)
    return 0 if _show_result(console, stage.repository, sums) and good else 1


def _play_torrent(stage: _Stage, sums: dict[str, str]) -> bool:
    """Make a torrent of a file, and give it to a repository that has none of the stores; True if it came."""
    stage.say("The film is for everybody: it becomes a torrent, and another repository gets it from the laptop")
    film = "film.mkv"
    torrent = stage.folder / f"{film}.torrent"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    tv = stage.folder / "tv"
    tv.mkdir()
    stage.run("git init --quiet --initial-branch main .", within=tv)
    stage.run("git annex init --quiet tv", within=tv)
    places = " ".join(f"{name}=dir:{stage.folder / f'tv-{name}'}" for name in ("a", "b", "c"))
    remote = "git annex initremote --quiet box type=external externaltype=swarm encryption=none"
    stage.run(f'{remote} stores="{places}"', within=tv, show=False)
    # Nothing of this is to leave the machine, where peers are usually not looked for.
    for repository, name in ((stage.repository, "vault"), (tv, "box")):
        for setting, value in {
            "annex.security.allowed-ip-addresses": "127.0.0.1",
            f"remote.{name}.swarm-dht": "no",
            f"remote.{name}.swarm-listen": "127.0.0.1:0",
            f"remote.{name}.swarm-transport": "foreground",
        }.items():
            subprocess.run(["git", "config", setting, value], cwd=repository, env=stage.environment, check=True)
    stage.run(f"{SWARM} torrent create {film} -o {torrent}")
    stage.run(f"{SWARM} torrent register vault {torrent}")
    magnet = f"{parse(torrent.read_bytes()).magnet()}&x.pe=127.0.0.1:{port}"
    with stage.beside(f"{SWARM} torrent seed vault --listen 127.0.0.1:{port}"):
        stage.run(f"git annex addurl --raw-except=box --file={film} {shlex.quote(magnet)}", within=tv)
    return _show_result(stage.console, tv, {film: sums[film]})


def _make_files(folder: Path, largest: int) -> dict[str, str]:
    """Write files of reproducible noise; return their SHA-256 sums by name."""
    noise = random.Random(largest)  # noqa: S311 # example data
    sizes = {"note.txt": 12, "thumbnail.jpg": 40_000, "photo.raw": 1 << 20, "clip.mp4": largest // 5 + 1}
    sums = {}
    for name, size in {**sizes, "film.mkv": largest}.items():
        data = noise.randbytes(size)
        (folder / name).write_bytes(data)
        sums[name] = hashlib.sha256(data).hexdigest()
    return sums


def _shares(store: Path) -> list[Path]:
    return [path for path in store.glob("??/*") if path.suffix[1:].isdigit()]


def _show_shares(console: Console, folder: Path) -> None:
    table = Table(title="what lies where", title_justify="left", box=None, pad_edge=False)
    for heading in ("store", "shares", "bytes"):
        table.add_column(heading, justify="left" if heading == "store" else "right")
    for name in (*STORES, *(each for each in NEW if (folder / each).is_dir())):
        shares = _shares(folder / name)
        if (folder / name).is_dir():
            table.add_row(name, str(len(shares)), f"{sum(path.stat().st_size for path in shares):,}")
        else:
            table.add_row(name, "gone", "", style="red")
    console.print(table)


def _damage(store: Path) -> int:
    """Change a byte in some blocks of each large share, as a failing disk would; return how many."""
    count = 0
    block = (1 << 20) // 4
    for share in _shares(store):
        size = share.stat().st_size
        with share.open("r+b") as file:
            for at in range(block // 2, size - block, 3 * block):
                file.seek(at)
                byte = file.read(1)
                file.seek(at)
                file.write(bytes([byte[0] ^ 1]))
                count += 1
    return count


def _show_result(console: Console, repository: Path, sums: dict[str, str]) -> bool:
    """Show what is there; True if it is all the same."""
    table = Table(title="what came back", title_justify="left", box=None, pad_edge=False)
    for heading in ("file", "bytes", "SHA-256", ""):
        table.add_column(heading, justify="right" if heading == "bytes" else "left", no_wrap=True)
    good = 0
    for name, expected in sums.items():
        data = (repository / name).read_bytes()
        same = hashlib.sha256(data).hexdigest() == expected
        good += same
        table.add_row(name, f"{len(data):,}", f"{expected[:16]}...", "same" if same else "[red]DIFFERENT[/red]")
    console.print(table)
    return good == len(sums)


def _remove(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)  # git-annex write-protects its objects' directories
    shutil.rmtree(folder)
