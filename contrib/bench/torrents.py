"""Torrents: `git annex get` beside git-annex's own source (aria2c), and from shares and peers at the same time."""

from __future__ import annotations

import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from figures import MIB, Figure, arguments, byte_count, describe, report
from harness import STORES, Repository, need, random_file, run, scratch

sys.path.insert(0, str(Path(__file__).parents[2]))

from annex_remote.torrents.metainfo import parse
from tests.servers.nginx import nginx_static
from tests.servers.peers import LibtorrentPeer
from tests.servers.torrents import make_torrent
from tests.servers.trackers import OpenTracker

FILES = 50
TIMES_AS_FAST = 2.0
"""How much faster than git-annex's own source it is to be."""
TOGETHER = 1.15
"""How much longer than the sources together allow it may take."""
ARIA = "--enable-dht=false --bt-enable-lpd=false --enable-peer-exchange=false"


def processor() -> float:
    """Seconds of processor of all children that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def offered(root: Path, content: Path, piece_length: int, upload_limit: int = 0) -> Iterator[str]:
    """Have one seeder offer `content`, and a tracker tell of it; gives the URL of the .torrent."""
    root.mkdir()
    with OpenTracker(root / "tracker") as tracker, nginx_static(root / "web") as web:
        torrent = make_torrent(content, trackers=[tracker.announce], piece_length=piece_length)
        name = parse(torrent.read_bytes()).id
        tracker.allow(name)
        with LibtorrentPeer(root / "peer", transport="tcp") as peer:
            peer.seed(torrent, content.parent, upload_limit=upload_limit)
            tracker.wait_for(name, seeds=1)
            shutil.copyfile(torrent, web.root / "x.torrent")
            yield f"{web.url.rstrip('/')}/x.torrent"


def repository(root: Path) -> Repository:
    root.mkdir()
    made = Repository(root)
    made.init_swarm()
    for name, value in {
        "annex.security.allowed-ip-addresses": "127.0.0.1",
        "annex.aria-torrent-options": ARIA,
        "remote.vault.swarm-listen": "127.0.0.1:0",
        "remote.vault.swarm-dht": "no",
        "remote.vault.swarm-transport": "foreground",
    }.items():
        run(["git", "config", name, value], made.path, made.env)
    return made


def beside_aria(root: Path, content: Path, rounds: int, *options: str) -> list[Figure]:
    """`git annex get` of all files of a torrent, from this remote and from git-annex's own, in turns."""
    size = sum(path.stat().st_size for path in [content, *content.glob("*")] if path.is_file())
    took: dict[str, list[tuple[float, float]]] = {"this": [], "aria2c": []}
    with offered(root / "offer", content, MIB) as url:
        repositories = {name: repository(root / name) for name in took}
        repositories["this"].annex("addurl", "--fast", "--raw-except=vault", url)
        repositories["aria2c"].annex("addurl", "--fast", url)
        for _ in range(rounds):
            for name, made in repositories.items():
                before = processor()
                took[name].append((made.annex("get", *options, "."), processor() - before))
                made.annex("drop", "--force", ".")
    seconds = {name: median(each for each, _ in all_) for name, all_ in took.items()}
    used = {name: median(each for _, each in all_) for name, all_ in took.items()}
    what = f"{describe(size)}, one file" if content.is_file() else f"{FILES} files, {describe(size)}"
    what += f", get {' '.join(options)}".rstrip()
    notes = {name: f"{size / seconds[name] / 1e6:.0f} MB/s, {used[name]:.1f} s of processor" for name in took}
    return [
        Figure(what, seconds["this"], "s", notes["this"]),
        Figure("the same, git-annex's own source (aria2c)", seconds["aria2c"], "s", notes["aria2c"]),
        Figure("times as fast as aria2c", seconds["aria2c"] / seconds["this"], "x", target=TIMES_AS_FAST),
        Figure(
            "processor time, relative to aria2c's", used["this"] / used["aria2c"], "x", target=1.0, at_most=True
        ),
    ]


def together(root: Path, content: Path, shares: int, peers: int) -> list[Figure]:
    """`git annex get` from throttled stores, from a throttled seeder, and from both; rates in bytes a second."""
    with offered(root / "offer", content, MIB // 4, upload_limit=peers) as url:
        made = repository(root / "both")
        made.annex("addurl", "--raw-except=vault", "--file=big", url)
        run(
            ["git", "-c", "remote.vault.swarm-torrents=no", "annex", "copy", "--to=vault", "big"],
            made.path,
            made.env,
        )
        for store in STORES:
            # Four of the six are read.
            limit = ["git", "config", f"remote.vault.swarm-limit-{store}", str(shares // 4)]
            run(limit, made.path, made.env)
        took = {}
        for how in ("shares", "peers", "both"):
            made.annex("drop", "--force", "big")
            torrents = ["-c", f"remote.vault.swarm-torrents={'no' if how == 'shares' else 'yes'}"]
            hidden = made.swarm_stores("vault") if how == "peers" else []
            for place in hidden:
                place.rename(f"{place}.away")
            took[how] = run(["git", *torrents, "annex", "get", "big"], made.path, made.env)
            for place in hidden:
                Path(f"{place}.away").rename(place)
    allowed = 1 / (1 / took["shares"] + 1 / took["peers"])
    what = f"{describe(content.stat().st_size)}: {shares // MIB} MiB/s of shares, {peers // MIB} of peers"
    return [
        Figure(f"{what}, shares alone", took["shares"], "s"),
        Figure("the same, peers alone", took["peers"], "s"),
        Figure("the same, both", took["both"], "s", f"the two together allow {allowed:.2f} s"),
        Figure("longer than they allow", took["both"] / allowed, "x", target=TOGETHER, at_most=True),
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--size", type=byte_count, default=512 * MIB, help="bytes of the file, and of the files")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    need("aria2c", "opentracker", "nginx")
    size = options.size
    found = []
    with scratch(options.scratch, 6 * size) as root:
        one = random_file(root / "one.bin", size)
        many = root / "many"
        many.mkdir()
        for number in range(FILES):
            random_file(many / f"{number:02}.bin", size // FILES)
        (root / "a").mkdir()
        found += beside_aria(root / "a", one, options.rounds)
        (root / "b").mkdir()
        found += beside_aria(root / "b", many, options.rounds, "-J4")
        (root / "c").mkdir()
        part = random_file(root / "part.bin", size // 2)
        rate = size // 32
        found += together(root / "c", part, rate, rate)
    report("Torrents, one seeder on this machine", found, options.json)


if __name__ == "__main__":
    main()
