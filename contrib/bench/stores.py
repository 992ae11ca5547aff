"""Each kind of network store against the best client of the same server, and its memory with a share of 10 GiB.

Servers of their own on loopback, started as the tests start them; from a file and into a file, a new store (or a
new process of the other client) for each transfer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from figures import MIB, Figure, arguments, byte_count, describe, report
from harness import need, random_file, run, scratch

sys.path.insert(0, str(Path(__file__).parents[2]))  # the servers of the tests

from annex_remote import allocator
from annex_remote.model import Access, Login, Store
from annex_remote.stores import open_store
from tests.servers import nginx_dav, nginx_static, rgw, s3rver, sshd
from tests.servers.s3 import S3Server

NAME = "ab/ab" + "2" * 30 + ".0"
TARGET = 0.8
FLAT = 60
"""MiB that a share of any size may take."""
SMALL, THREADS = 1000, 16

Transfer = Callable[[], object]


@dataclass
class Kind:
    """A store, and other clients of its server: name to what they do to send a file, and to fetch it."""

    address: str
    login: Login | None = None
    others: dict[str, tuple[Transfer | None, Transfer]] = field(default_factory=dict)
    read_only: bool = False

    def open(self) -> Store:
        return open_store(self.address, None, Access(self.login))


def webdav(root: Path, stack: ExitStack, source: Path) -> Kind:
    server = stack.enter_context(nginx_dav(root / "dav"))
    url, here = f"{server.url}/other", root / "here"
    curl = ("curl", "-sSf", "--noproxy", "*")
    others = {"curl": (command(root, *curl, "-T", source, url), command(root, *curl, "-o", here, url))}
    return Kind(f"dav://{server.host}:{server.port}/annex", None, {**others})


def web(root: Path, stack: ExitStack, source: Path) -> Kind:
    server = stack.enter_context(nginx_static(root / "web"))
    place = server.root / "annex" / NAME
    place.parent.mkdir(parents=True)
    os.link(source, place)
    down = command(root, "curl", "-sSf", "--noproxy", "*", "-o", root / "here", f"{server.url}/annex/{NAME}")
    return Kind(f"{server.url}/annex", None, {"curl": (None, down)}, read_only=True)


def s3(root: Path, stack: ExitStack, source: Path) -> Kind:
    return _s3(stack.enter_context(rgw(root / "s3")), root, source)


def _s3(server: S3Server, root: Path, source: Path) -> Kind:
    import boto3

    server.create_bucket("bench")
    client: Any = boto3.client(
        "s3",
        endpoint_url=server.url,
        region_name=server.region,
        aws_access_key_id=server.keys.access_key,
        aws_secret_access_key=server.keys.secret_key,
    )
    up = partial(client.upload_file, str(source), "bench", "other")
    down = partial(client.download_file, "bench", "other", str(root / "here"))
    login = Login(server.keys.access_key, server.keys.secret_key)
    return Kind(f"s3://{server.host}:{server.port}/bench/annex?http=yes", login, {"boto3": (up, down)})


def sftp(root: Path, stack: ExitStack, source: Path) -> Kind:
    server = stack.enter_context(sshd(root / "ssh", shell=True))
    environment = server.client.environment
    os.environ["PATH"] = environment["PATH"]
    there, here = server.root / "other", root / "here"
    (root / "put").write_text(f"put {source} {there}\n")
    (root / "get").write_text(f"get {there} {here}\n")
    options = f"host={server.host},port={server.port},user={server.client.user},key_file={server.client.key}"
    remote = f":sftp,{options},shell_type=none,known_hosts_file={server.client.known_hosts}:{there}"
    others = {
        "sftp": (
            command(root, "sftp", "-q", "-b", root / "put", server.host),
            command(root, "sftp", "-q", "-b", root / "get", server.host),
        ),
        "scp": (
            command(root, "scp", "-q", source, f"{server.host}:{there}"),
            command(root, "scp", "-q", f"{server.host}:{there}", here),
        ),
        "rclone": (
            command(root, "rclone", "copyto", source, remote),
            command(root, "rclone", "copyto", remote, here),
        ),
    }
    return Kind(f"sftp://{server.host}:{server.port}{server.root}/annex", None, {**others})


def rclone(root: Path, stack: ExitStack, source: Path) -> Kind:
    configuration, there = root / "rclone.conf", root / "drive"
    there.mkdir()
    configuration.write_text("[drive]\ntype = local\n")
    os.environ["RCLONE_CONFIG"] = str(configuration)
    remote = f"drive:{there}/other"
    others = {
        "rclone": (
            command(root, "rclone", "copyto", source, remote),
            command(root, "rclone", "copyto", remote, root / "here"),
        )
    }
    return Kind(f"rclone:drive:{there}/annex", None, {**others})


KINDS = {"dav": webdav, "s3": s3, "sftp": sftp, "rclone": rclone, "http": web}


def command(root: Path, *words: str | Path) -> Transfer:
    return lambda: run(words, root, os.environ)


def pieces(path: Path, offset: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while piece := file.read(MIB):
            yield piece


def our_up(kind: Kind, source: Path) -> None:
    store = kind.open()
    store.put(NAME, source.stat().st_size, partial(pieces, source))
    store.close()


def our_down(kind: Kind, target: Path) -> None:
    store = kind.open()
    with store.read(NAME) as stream, target.open("wb") as file:
        for piece in stream:
            file.write(piece)
    store.close()


def seconds(transfer: Transfer) -> float:
    start = perf_counter()
    transfer()
    return perf_counter() - start


def against_others(name: str, kind: Kind, root: Path, source: Path, rounds: int) -> list[Figure]:
    """Rates up and down, ours and theirs; the clients take turns, so that what else happens meets them alike."""
    ours = (None if kind.read_only else partial(our_up, kind, source)), partial(our_down, kind, root / "here")
    clients: dict[str, tuple[Transfer | None, Transfer]] = {"this store": ours, **kind.others}
    taken: dict[tuple[str, int], list[float]] = {}
    for turn in range(rounds + 1):
        for client, ways in clients.items():
            for way, transfer in enumerate(ways):
                if transfer is not None and (took := seconds(transfer)) and turn:  # the first round warms up
                    taken.setdefault((client, way), []).append(took)
    figures = []
    size = source.stat().st_size
    for way, what in enumerate(("up", "down")):
        rates = {client: size / median(took) / 1e6 for (client, which), took in taken.items() if which == way}
        if rates:
            mine = rates.pop("this store")
            best = max(rates, key=rates.__getitem__)
            figures.append(
                Figure(f"{name} {what}", mine, "MB/s", ", ".join(f"{k} {v:.0f}" for k, v in rates.items()))
            )
            figures.append(Figure(f"{name} {what}, of {best}", mine / rates[best], "", target=TARGET))
    return figures


def small_objects(name: str, kind: Kind) -> list[Figure]:
    """Objects of 1 KiB a second, put and read by many threads."""
    store, data = kind.open(), os.urandom(1024)
    names = [f"cc/cc{'2' * 26}{''.join('abcdefghij'[int(d)] for d in f'{i:04}')}.0" for i in range(SMALL)]

    def put(each: str) -> None:
        store.put(each, len(data), lambda offset: [data[offset:]])

    def read(each: str) -> None:
        with store.read(each) as stream:
            assert b"".join(stream) == data

    figures = []
    with ThreadPoolExecutor(THREADS) as pool:
        for what, work in (("put", put), ("read", read)):
            took = seconds(lambda work=work: list(pool.map(work, names)))  # type: ignore[misc]
            figures.append(Figure(f"{name}, objects of 1 KiB {what}", SMALL / took, "/s", f"{THREADS} threads"))
    store.close()
    return figures


def memory(name: str, size: int, place: Path) -> Figure:
    """The largest resident size of a process that puts one share of `size` bytes and reads it back."""
    words = [sys.executable, __file__, "--one", name, "--memory", str(size), "--scratch", str(place)]
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True)
    idle, peak = json.loads(done.stdout.splitlines()[-1])
    return Figure(f"{name}, memory for {describe(size)}", (peak - idle) / MIB, "MiB", target=FLAT, at_most=True)


def one(name: str, size: int, root: Path) -> None:
    """In a process of its own: put zeros, read them back, print what memory it took before, and at the most."""
    with ExitStack() as stack:
        source = root / "source"
        source.touch()
        # An S3 server on the disk: the other one keeps all in memory.
        kind = (
            _s3(stack.enter_context(s3rver(root / "s3")), root, source)
            if name == "s3"
            else KINDS[name](root, stack, source)
        )
        store, zeros = kind.open(), bytes(MIB)
        store.put("dd/dd" + "2" * 30 + ".0", 1, lambda offset: [b"x"[offset:]])  # what is made once is made
        idle = peak_memory()
        store.put(NAME, size, lambda offset: (zeros[: size - at] for at in range(offset, size, MIB)))
        with store.read(NAME) as stream:
            got = sum(map(len, stream))
        assert got == size, f"{got} bytes came back"
        store.close()
        print(json.dumps([idle, peak_memory()]))


def peak_memory() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def measure(names: Sequence[str], root: Path, size: int, rounds: int) -> list[Figure]:
    figures = []
    source = random_file(root / "source", size)
    for name in names:
        folder = root / name
        folder.mkdir()
        with ExitStack() as stack:
            kind = KINDS[name](folder, stack, source)
            figures += against_others(name, kind, folder, source, rounds)
            if not kind.read_only:
                figures += small_objects(name, kind)
    return figures


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--size", type=byte_count, default=byte_count("256M"), help="default 256M")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--memory", type=byte_count, default=byte_count("10G"), help="default 10G; 0 leaves it out"
    )
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND")
    parser.add_argument("--one", choices=KINDS, help=None)
    options = parser.parse_args()
    need("curl", "ssh", "sftp", "scp", "rclone")
    allocator.settle()
    if options.one:
        with scratch(options.scratch) as root:
            one(options.one, options.memory, root)
        return
    with scratch(options.scratch, 8 * options.size) as root:
        figures = measure(options.only, root, options.size, options.rounds)
    if options.memory:
        place = options.scratch or Path(tempfile.gettempdir())
        figures += [memory(name, options.memory, place) for name in options.only if name != "http"]
    report(f"Network stores, {describe(options.size)}, median of {options.rounds}", figures, options.json)


if __name__ == "__main__":
    main()
