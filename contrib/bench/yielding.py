"""Does a torrent in the background give way? Beside a TCP stream on one narrow line, in two network namespaces.

It takes root, and `ip` and `tc` (Debian: iproute2).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from figures import MIB, Figure, arguments, report
from harness import need, random_file, scratch

sys.path.insert(0, str(Path(__file__).parents[2]))

from annex_remote.torrents.addresses import parse_allowed
from annex_remote.torrents.known import Extra
from annex_remote.torrents.metainfo import parse
from annex_remote.torrents.session import Rules, Session
from annex_remote.torrents.settings import read_torrent_settings
from tests.servers.torrents import make_torrent

RATE = 20
"""Mbit/s of the line."""
QUEUE = "400ms"
"""What a cheap router keeps of packets that do not fit."""
NEAR, NEAR_GATE = "10.201.1.2", "10.201.1.1"
FAR, FAR_GATE = "10.201.2.2", "10.201.2.1"
PORT, STREAM_PORT = 26881, 26882
CASES = (
    ("a TCP stream alone", "", True, "seed"),
    ("a torrent in the background alone", "background", False, "seed"),
    ("the stream beside a torrent that is fetched in the foreground", "foreground", True, "seed"),
    ("the stream beside one that is fetched in the background", "background", True, "seed"),
    ("the stream beside one that is given in the background", "background", True, "give"),
)
"""What is measured; the transport of who fetches; whether a stream runs beside it; who gives."""
SETTLE = 10.0
"""Seconds after which it is counted."""


@contextmanager
def line() -> Iterator[tuple[str, str]]:
    """Make two hosts, network namespaces, with a router between them whose line to the second is narrow.

    Gives the names of the two. The router is a third: in a sender's own queue Linux lets TCP have little, and UDP
    as much as there is room for.
    """
    here, between, there = (f"swarm-{os.getpid()}-{what}" for what in ("here", "between", "there"))

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    def inside(space: str, *words: str) -> None:
        ip("netns", "exec", space, *words)

    try:
        for space in (here, between, there):
            ip("netns", "add", space)
            ip("-n", space, "link", "set", "lo", "up")
        inside(between, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
        for space, own, gateway, device in ((here, NEAR, NEAR_GATE, "near"), (there, FAR, FAR_GATE, "far")):
            ip("link", "add", "line", "netns", space, "type", "veth", "peer", "name", device, "netns", between)
            for where, end in ((space, "line"), (between, device)):
                ip("-n", where, "link", "set", end, "gso_max_segs", "1")  # packets as they are on a real line
            ip("-n", space, "addr", "add", f"{own}/24", "dev", "line")
            ip("-n", space, "link", "set", "line", "up")
            ip("-n", between, "addr", "add", f"{gateway}/24", "dev", device)
            ip("-n", between, "link", "set", device, "up")
            ip("-n", space, "route", "add", "default", "via", gateway)
        shape = ("rate", f"{RATE}mbit", "burst", "16kb", "latency", QUEUE)
        inside(between, "tc", "qdisc", "add", "dev", "far", "root", "tbf", *shape)
        yield here, there
    finally:
        for space in (here, between, there):
            subprocess.run(["ip", "netns", "del", space], check=False)


@contextmanager
def child(space: str, what: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run a part of this script in a namespace."""
    command = ["ip", "netns", "exec", space, sys.executable, __file__, f"--{what}", *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            process.stdout.readline()  # it is ready
            yield process
        finally:
            process.kill()


def seed(torrent: str, content: str) -> None:
    """Offer what is in a folder to whoever comes, by TCP and μTP."""
    import libtorrent as lt

    params = lt.session_params()
    settings: Any = {"listen_interfaces": f"{NEAR}:{PORT}"}
    params.settings = settings | dict.fromkeys(("enable_dht", "enable_lsd", "enable_upnp", "enable_natpmp"), False)
    session = lt.session(params)
    about = lt.load_torrent_buffer(Path(torrent).read_bytes())
    about.save_path = content
    about.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    about.flags |= lt.torrent_flags.seed_mode
    session.add_torrent(about)
    print("ready", flush=True)
    threading.Event().wait()


def give(torrent: str, content: str) -> None:
    """Offer it as `torrent seed` does in the background."""
    settings = read_torrent_settings({"listen": f"{NEAR}:{PORT}", "dht": "no"})
    with tempfile.TemporaryDirectory() as folder:
        session = Session(folder, Rules(settings, parse_allowed("10.201.2.0/24"), background=True))
        metainfo = parse(Path(torrent).read_bytes())
        session.join(metainfo, in_place=[str(Path(content, metainfo.name))])
        time.sleep(SETTLE)  # it hashes what it has
        print("ready", flush=True)
        threading.Event().wait()


def send() -> None:
    """Send to whoever connects, as fast as it goes."""
    with socket.create_server((NEAR, STREAM_PORT)) as server:
        print("ready", flush=True)
        while True:
            taker, _ = server.accept()
            threading.Thread(target=_pour, args=(taker,), daemon=True).start()


def _pour(taker: socket.socket) -> None:
    with taker:
        try:
            while True:
                taker.sendall(bytes(1 << 16))
        except OSError:
            return


def take(seconds: str) -> None:
    """Take the stream, and say how many bytes a second came."""
    with socket.create_connection((NEAR, STREAM_PORT)) as stream:
        print("ready", flush=True)
        begin = time.monotonic()
        count, counted = 0, 0.0
        while (now := time.monotonic()) < begin + SETTLE + float(seconds):
            piece = len(stream.recv(1 << 16))
            if now > begin + SETTLE:
                count, counted = count + piece, now - begin - SETTLE
        print(json.dumps(count / counted), flush=True)


def fetch(torrent: str, transport: str) -> None:
    """Fetch as the remote does; says at each line of its input how many bytes have come."""
    settings = read_torrent_settings({"listen": f"{FAR}:0", "dht": "no"})
    background = transport == "background"
    with tempfile.TemporaryDirectory() as folder:
        session = Session(folder, Rules(settings, parse_allowed("10.201.1.0/24"), background))
        metainfo = parse(Path(torrent).read_bytes())
        joined = session.join(metainfo, Extra(peers=((NEAR, PORT),)), wanted=range(metainfo.pieces))
        print("ready", flush=True)
        for _ in sys.stdin:
            print(joined.downloaded, flush=True)


def rates(
    spaces: tuple[str, str], torrent: Path, seconds: float, transport: str, *, stream: bool, giver: str = "seed"
) -> tuple[float, float]:
    """Return bytes a second of the stream, and of a torrent beside it (`transport` empty: none)."""
    here, there = spaces
    beside = ["fetch", str(torrent), transport] if transport else []
    with child(here, "send"), child(here, giver, str(torrent), str(torrent.parent)):
        fetcher = child(there, *beside) if beside else None
        of_torrent = of_stream = 0.0
        process = fetcher.__enter__() if fetcher else None
        try:
            if process:
                time.sleep(SETTLE)
            taker = child(there, "take", str(seconds)) if stream else None
            took = taker.__enter__() if taker else None
            try:
                time.sleep(SETTLE)
                before = _asked(process)
                time.sleep(seconds)
                of_torrent = (_asked(process) - before) / seconds
                if took and took.stdout:
                    of_stream = float(took.stdout.readline())
            finally:
                if taker:
                    taker.__exit__(None, None, None)
        finally:
            if fetcher:
                fetcher.__exit__(None, None, None)
    return of_stream, of_torrent


def _asked(process: subprocess.Popen[str] | None) -> int:
    if process is None or process.stdin is None or process.stdout is None:
        return 0
    process.stdin.write("\n")
    process.stdin.flush()
    return int(process.stdout.readline())


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    for part in ("seed", "give", "send", "take", "fetch"):
        parser.add_argument(f"--{part}", nargs="*", help="a part of the measurement, in its own process")
    options = parser.parse_args()
    for name, run in (("seed", seed), ("give", give), ("send", send), ("take", take), ("fetch", fetch)):
        if (words := getattr(options, name)) is not None:
            run(*words)
            return
    need("ip", "tc")
    if os.geteuid():
        sys.exit("yielding.py: it takes root, to make network namespaces")
    with scratch(options.scratch, 400 * MIB) as root, line() as spaces:
        torrent = make_torrent(random_file(root / "one.bin", 200 * MIB), piece_length=MIB)
        found_rates: dict[str, list[tuple[float, float]]] = {}
        for _ in range(options.rounds):
            for what, transport, stream, giver in CASES:
                rate = rates(spaces, torrent, options.seconds, transport, stream=stream, giver=giver)
                found_rates.setdefault(what, []).append(rate)

    found = []
    alone = median(of_stream for of_stream, _ in found_rates["a TCP stream alone"])
    for what, _, stream, _ in CASES:
        of_stream = median(each for each, _ in found_rates[what])
        of_torrent = median(each for _, each in found_rates[what])
        if not stream:
            found.append(Figure(what, of_torrent * 8 / 1e6, "Mbit/s"))
            continue
        note = f"the torrent {of_torrent * 8 / 1e6:.1f}" if of_torrent else ""
        found.append(Figure(what, of_stream * 8 / 1e6, "Mbit/s", note))
        if of_torrent:
            kept = sorted(each / alone for each, _ in found_rates[what])
            note = f"{kept[0]:.2f} to {kept[-1]:.2f}"
            found.append(Figure("what the stream keeps of its rate", of_stream / alone, "x", note))
    report(f"A line of {RATE} Mbit/s, {QUEUE} of queue", found, options.json)


if __name__ == "__main__":
    main()
