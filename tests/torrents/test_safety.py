"""Torrents that are made to harm, in a real session: what they name is neither made nor asked."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import pytest

from annex_remote.errors import Cancelled, Damaged, SwarmError, Unavailable
from annex_remote.torrents import metainfo as metainfo_module
from annex_remote.torrents.addresses import parse_allowed
from annex_remote.torrents.bencode import Raw, decode_with_spans, encode
from annex_remote.torrents.cache import Cache
from annex_remote.torrents.metainfo import MAX_SIZE, Metainfo, parse
from annex_remote.torrents.settings import ANYWHERE, Endpoint, TorrentSettings
from annex_remote.torrents.source import TorrentSource
from annex_remote.torrents.urls import TorrentUrl, torrent_url
from tests.servers import missing
from tests.servers.own_web import OwnWeb, send
from tests.servers.peers import LibtorrentPeer
from tests.servers.ports import Port
from tests.servers.trackers import ToldTracker
from tests.torrents.documents import BLOCK, entry, v1_info
from tests.torrents.swarm import noise

HERE, THERE = "127.0.0.1", "127.0.0.2"
LONG = 60.0
SHORT = 2.0
"""Seconds for which a source goes on trying what it must not do."""
QUICK = 30.0
"""Seconds that a refusal may take on a machine that is busy; it takes one or two."""
OURS = re.compile(r"f[0-9]+|lock|resume(\.part)?|\.[0-9a-f]+\.parts")
CONTENT = noise("content", BLOCK)


class Ear:
    """Listens on a port of `host`, for TCP and UDP; `is_heard` is set when anybody says as much as hello."""

    def __init__(self, host: str = HERE) -> None:
        self.host = host
        self.is_heard = threading.Event()
        self._stop = threading.Event()
        self._port = Port()
        self._tcp = socket.create_server((host, self._port.number))
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind((host, self._port.number))
        self._threads = [threading.Thread(target=self._accept), threading.Thread(target=self._receive)]

    @property
    def port(self) -> int:
        return self._port.number

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        with suppress(OSError):
            socket.create_connection((self.host, self.port)).close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", (self.host, self.port))
        for thread in self._threads:
            thread.join()
        self._tcp.close()
        self._udp.close()
        self._port.release()

    def _accept(self) -> None:
        while True:
            connection, _ = self._tcp.accept()
            connection.close()
            if self._stop.is_set():
                return
            self.is_heard.set()

    def _receive(self) -> None:
        while True:
            self._udp.recv(2048)
            if self._stop.is_set():
                return
            self.is_heard.set()


class Ground:
    """A folder with sources in it, which are closed in the end. What they fetch into is `work`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / "repository" / "annex" / "swarm" / "torrents"
        self.sources: list[TorrentSource] = []

    def source(self, allowed: str = HERE, *, timeout: float = LONG, **settings: Any) -> TorrentSource:
        given = {"transport": "foreground", "listen": ((HERE, 0),), "dht": False, "timeout": timeout}
        source = TorrentSource(
            TorrentSettings(**{**given, **settings}),
            parse_allowed(allowed),
            str(self.work),
            cache=Cache(self.folder / f"cache-{len(self.sources)}"),
        )
        self.sources.append(source)
        return source

    def torrent(self, document: bytes, choice: int | None = None) -> TorrentUrl:
        path = self.folder / f"{hashlib.sha256(document).hexdigest()[:8]}.torrent"
        path.write_bytes(document)
        return url_of(f"file://{path}" + ("" if choice is None else f"#{choice}"))

    def tree(self) -> dict[str, tuple[int, bytes]]:
        """Return all that is below the folder, but for what the work folder has."""
        found: dict[str, tuple[int, bytes]] = {}
        for place, folders, files in os.walk(self.folder):
            if Path(place) == self.work:
                folders.clear()
                continue
            for name in (*folders, *files):
                path = Path(place, name)
                mode = path.lstat().st_mode
                found[str(path)] = mode, path.read_bytes() if stat.S_ISREG(mode) else b""
        return found


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    ground = Ground(tmp_path)
    yield ground
    for source in ground.sources:
        source.close()


@pytest.fixture
def ear() -> Iterator[Ear]:
    with Ear() as ear:
        yield ear


def url_of(text: str) -> TorrentUrl:
    url = torrent_url(text)
    assert url is not None
    return url


def get(source: TorrentSource, url: TorrentUrl, to: Path, cancelled: threading.Event | None = None) -> None:
    """Fetch the file that is meant to `to`."""
    cancelled = cancelled or threading.Event()
    gathering = source.gather([url], str(to), None, mix=False, progress=lambda count: None, cancelled=cancelled)
    done = False
    try:
        done = gathering.run()
    finally:
        source.finish(gathering, done=done)


def is_heard(ground: Ground, source: TorrentSource, url: TorrentUrl, ear: Ear) -> bool:
    """Return whether `source`, which is to get what nobody has, speaks to `ear` until it gives up."""
    with pytest.raises((SwarmError, Cancelled)):
        get(source, url, ground.folder / "got", ear.is_heard)
    source.close()  # a tracker would hear of the end
    return ear.is_heard.is_set()


def document(info: dict[str, Any] | None = None, /, **more: Any) -> bytes:
    return encode({"info": info or v1_info([entry(BLOCK, "a")], CONTENT), **more})


def peer_with(files: Sequence[dict[str, Any]], contents: Sequence[bytes], made: bytes, folder: Path) -> None:
    """Put contents where a peer by libtorrent looks for them, whose names are not those of the torrent."""
    import libtorrent as lt

    about = lt.load_torrent_buffer(made).ti
    assert about is not None
    layout = about.layout()
    for index, (file, content) in enumerate(zip(files, contents, strict=True)):
        if content and "p" not in file.get("attr", ""):
            path = Path(layout.file_path(index, str(folder)))
            assert path.resolve().is_relative_to(folder)
            path.parent.mkdir(parents=True, exist_ok=True)
            for place in (
                path,
                *(path.with_name(f"{path.name}.{number}") for number in (1, 2)),
            ):  # if it is a twin
                place.write_bytes(content)


needs_peer = pytest.mark.skipif("libtorrent" in missing(), reason="no libtorrent")

NAMES: dict[str, dict[str, Any]] = {
    "up": entry(BLOCK + 5, "..", "..", "..", "escaped"),
    "absolute": entry(700, "/tmp/escaped", "escaped"),
    "slashes": entry(700, "a/../../../escaped"),
    "of git": entry(900, ".git", "config"),
    "hook": entry(901, ".git", "hooks", "post-checkout", attr="x"),
    "lock": entry(800, "lock"),
    "resume": entry(801, "resume"),
    "number": entry(802, "f1"),
    "twin": entry(803, "twin"),
    "twin of the same name": entry(803, "twin"),
    "twin in capitals": entry(805, "TWIN"),
    "control": entry(806, "a\x1b[2J\r\nb\x00c"),
    "backwards": entry(807, "\u202egpj.exe"),
    "only dots": entry(808, "dots", ".."),
    "not UTF-8": entry(809, b"\xff\xfe"),
    "executable": entry(2 * BLOCK, "run.sh", attr="x"),
    "link up": entry(0, "link", attr="l", **{"symlink path": ["..", "..", "..", "repository"]}),
    "link of a size": entry(0, "etc", attr="lx", **{"symlink path": ["/etc/passwd"]}),
    "empty": entry(0, "nothing"),
    "empty and executable": entry(0, "nothing.sh", attr="x"),
    "pad": entry(4242, ".pad", "4242", attr="p"),
    "last": entry(BLOCK, "last"),
}


@needs_peer
def test_nothing_is_made_that_a_torrent_names(ground: Ground) -> None:
    files = list(NAMES.values())
    contents = [
        bytes(file["length"]) if file.get("attr") == "p" else noise(str(file["length"]), file["length"])
        for file in files
    ]
    info = v1_info(files, b"".join(contents), name="../../../escaped")
    config = ground.folder / "repository" / "config"
    config.parent.mkdir()
    config.write_text("what is here stays")
    config.chmod(0o640)
    got = ground.folder / "got"
    got.mkdir()
    with LibtorrentPeer(ground.folder / "peer") as peer, ToldTracker([peer.address]) as tracker:
        made = document(info, announce=tracker.announce)
        seeded = ground.folder / "seeded"
        peer_with(files, contents, made, seeded)
        url = ground.torrent(made)
        peer.seed(Path(url.place.removeprefix("file://")), seeded)
        source = ground.source()
        numbers = [file.number for file in parse(made).files]
        assert len(numbers) == len(files) - 3  # links and padding are none
        source.metainfo(url, threading.Event())  # keeps it
        ground.work.mkdir(parents=True)
        before = {path: found for path, found in ground.tree().items() if "/peer" not in path}
        for number in numbers:
            get(source, ground.torrent(made, number), got / str(number))
        source.check_url(url, threading.Event())
        found = [path for path in ground.work.rglob("*") if path.is_symlink() or not path.is_dir()]
        after = {path: found for path, found in ground.tree().items() if not path.startswith(f"{got}/")}
        assert {path: found for path, found in after.items() if "/peer" not in path} == before
    for number, content in enumerate(contents, 1):
        path = got / str(number)
        assert (path.read_bytes() if number in numbers else content) == content
        assert number not in numbers or not path.stat().st_mode & 0o111
    executable = list(NAMES).index("executable")
    assert {"lock", f"f{executable}"} <= {path.name for path in found}
    for path in found:
        assert OURS.fullmatch(path.name), path
        mode = path.lstat().st_mode
        assert stat.S_ISREG(mode), path
        assert not mode & 0o111, path
        assert path.parent.parent == ground.work


class Serving(OwnWeb):
    """A web seed of one file, whatever it is asked for."""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        send(request, 206, CONTENT, {"Content-Range": f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}"})


def test_a_pad_file_of_a_tebibyte_takes_no_room(ground: Ground) -> None:
    length = 256 << 20
    files = [entry(5, "first"), entry((1 << 40) - 5, ".pad", "0", attr="p"), entry(BLOCK, "last")]
    hashes = bytes(20 * 4096) + hashlib.sha1(CONTENT).digest()
    info = {"name": "T", "piece length": length, "files": files, "pieces": hashes}
    with Serving() as web:
        source = ground.source()
        get(source, ground.torrent(document(info, **{"url-list": f"{web.url}/"}), 3), ground.folder / "got")
        used = sum(path.stat().st_blocks * 512 for path in ground.work.rglob("*"))
    assert (ground.folder / "got").read_bytes() == CONTENT
    assert {path.rsplit("/", 1)[-1] for path in web.asked} == {"last"}
    assert used < 1 << 20


@pytest.mark.parametrize(
    ("count", "said"),
    [(150_000, "150,000 files, and 100,000 is the most"), (300_000, "more than 2,000,000 values")],
)
def test_too_many_files_are_refused_at_once(count: int, said: str, ground: Ground) -> None:
    files = b"".join(b"d6:lengthi1e4:pathl6:%06dee" % number for number in range(count))
    info = v1_info([entry(count, "a")]) | {"files": Raw(b"l" + files + b"e")}
    url = ground.torrent(document(info))
    began = time.monotonic()
    with pytest.raises(Damaged, match=said):
        ground.source().check_url(url, threading.Event())
    assert time.monotonic() - began < QUICK
    assert not ground.work.exists()


def test_giant_metainfo_is_refused_before_it_is_parsed(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    def parsed(document: bytes) -> Any:
        pytest.fail(f"{len(document)} bytes were parsed")

    monkeypatch.setattr(metainfo_module, "decode_with_spans", parsed)
    path = ground.folder / "giant.torrent"
    with path.open("wb") as file:
        file.write(b"d4:info")
        file.truncate(1 << 40)  # of which nothing is on the disk
    began = time.monotonic()
    with pytest.raises(Damaged, match=f"longer than (the )?{MAX_SIZE >> 20} MiB"):
        ground.source().check_url(url_of(str(path)), threading.Event())
    with pytest.raises(Damaged, match=f"longer than (the )?{MAX_SIZE >> 20} MiB"):
        parse(bytes(MAX_SIZE + 1))
    assert time.monotonic() - began < QUICK


BOMBS = {
    "deep": b"l" * (MAX_SIZE - 1),
    "deep dictionaries": b"d0:" * (MAX_SIZE // 4),
    "many": b"d4:infol" + b"le" * (MAX_SIZE // 4) + b"ee",
    "a long number": b"d4:infoi" + b"9" * (MAX_SIZE // 2) + b"ee",
    "a long length": b"d4:info" + b"9" * (MAX_SIZE // 2) + b":e",
    "a length beyond the end": b"d4:info9223372036854775807:e",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_at_once(name: str, ground: Ground) -> None:
    url = ground.torrent(BOMBS[name])
    began = time.monotonic()
    with pytest.raises(Damaged, match="not a torrent file that can be used"):
        ground.source().check_url(url, threading.Event())
    assert time.monotonic() - began < QUICK


def test_other_schemes_of_web_seeds_and_trackers_are_not_spoken(ground: Ground, ear: Ear) -> None:
    lying = ground.folder / "T"
    lying.mkdir()
    (lying / "a").write_bytes(CONTENT)
    there = f"{HERE}:{ear.port}"
    seeds = [f"file://{ground.folder}/", f"ftp://{there}/", f"gopher://{there}/", f"FILE:{ground.folder}/"]
    trackers = [[f"ftp://{there}/announce"], [f"file://{lying}/a"], [f"wss://{there}/"], [f"gopher://{there}/a"]]
    made = document(**{"url-list": seeds, "announce-list": trackers, "httpseeds": [f"ftp://{there}/"]})
    metainfo = parse(made)
    assert (metainfo.web_seeds, metainfo.trackers) == ((), ())
    assert len(metainfo.dropped) == 8
    magnet = f"magnet:?xt=urn:btih:{metainfo.id}" + "".join(f"&ws={quote(seed)}" for seed in seeds)
    magnet += "".join(f"&tr={quote(tier[0])}" for tier in trackers)
    asked = url_of(magnet).magnet
    assert asked is not None
    assert (asked.web_seeds, asked.trackers) == ((), ())
    assert not is_heard(ground, ground.source("all", timeout=SHORT), ground.torrent(made), ear)
    assert not is_heard(ground, ground.source("all", timeout=SHORT), url_of(magnet), ear)
    assert not (ground.folder / "got").exists() or not (ground.folder / "got").read_bytes()


MAGNET = f"magnet:?xt=urn:btih:{'ab' * 20}"
HOSTS = ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]")
WAYS: dict[str, Callable[[Sequence[str]], bytes | str]] = {
    "tracker": lambda ends: document(**{"announce-list": [[f"http://{end}/announce"] for end in ends]}),
    "tracker by UDP": lambda ends: document(**{"announce-list": [[f"udp://{end}/announce"] for end in ends]}),
    "web seed": lambda ends: document(**{"url-list": [f"http://{end}/" for end in ends]}),
    "web seed with TLS": lambda ends: document(**{"url-list": [f"https://{end}/" for end in ends]}),
    "peer of a magnet": lambda ends: MAGNET + "".join(f"&x.pe={end}" for end in ends),
    "tracker of a magnet": lambda ends: MAGNET + "".join(f"&tr={quote(f'http://{end}/announce')}" for end in ends),
}


def url_by(ground: Ground, way: str, hosts: Sequence[str], ear: Ear) -> TorrentUrl:
    made = WAYS[way]([f"{host}:{ear.port}" for host in hosts])
    return url_of(made) if isinstance(made, str) else ground.torrent(made)


@pytest.mark.parametrize("listen", [((HERE, 0),), ANYWHERE], ids=["on loopback", "anywhere"])
@pytest.mark.parametrize("way", WAYS)
def test_loopback_hears_nothing(way: str, listen: Sequence[Endpoint], ground: Ground, ear: Ear) -> None:
    source = ground.source("", timeout=SHORT, listen=listen)
    assert not is_heard(ground, source, url_by(ground, way, HOSTS, ear), ear)


@pytest.mark.parametrize("host", HOSTS[:2])
@pytest.mark.parametrize("way", WAYS)
def test_loopback_hears_what_is_allowed(way: str, host: str, ground: Ground, ear: Ear) -> None:
    if way == "peer of a magnet":
        host = HERE  # a peer's is an address
    assert is_heard(ground, ground.source(f"{HERE} ::1"), url_by(ground, way, [host], ear), ear)


@pytest.mark.parametrize("host", HOSTS[2:])
@pytest.mark.parametrize("way", ["web seed", "web seed with TLS", "peer of a magnet"])
def test_loopback_by_its_mapped_address_hears_what_is_allowed(
    way: str, host: str, ground: Ground, ear: Ear
) -> None:
    """That libtorrent (2.1) never asks a tracker at a mapped address is its own doing: no setting brings it to."""
    source = ground.source(f"{HERE} ::1", listen=ANYWHERE)
    assert is_heard(ground, source, url_by(ground, way, [host], ear), ear)


def test_the_nodes_that_a_torrent_names_hear_nothing(ground: Ground, ear: Ear) -> None:
    url = ground.torrent(document(nodes=[[HERE, ear.port], ["localhost", ear.port]]))
    with Ear(THERE) as node:
        source = ground.source("", timeout=SHORT, dht=True, nodes=((THERE, node.port),))
        assert not is_heard(ground, source, url, ear)


@pytest.mark.parametrize("is_allowed", [False, True])
def test_a_peer_that_an_allowed_tracker_tells_of_is_to_be_allowed_too(is_allowed: bool, ground: Ground) -> None:
    with Ear(THERE) as ear, ToldTracker([f"{THERE}:{ear.port}"]) as tracker:
        url = ground.torrent(document(announce=tracker.announce))
        source = ground.source(f"{HERE} {THERE}") if is_allowed else ground.source(timeout=SHORT)
        assert is_heard(ground, source, url, ear) == is_allowed
        assert tracker.asked


class Redirecting(OwnWeb):
    """Says of all that it is at `place`."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self._place = place

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        send(request, 302, b"", {"Location": self._place + request.path})


@pytest.mark.parametrize("what", ["url-list", "announce"])
@pytest.mark.parametrize("is_allowed", [False, True])
def test_what_redirects_does_not_lead_to_what_is_not_allowed(is_allowed: bool, what: str, ground: Ground) -> None:
    with ExitStack() as stack:
        ear = stack.enter_context(Ear(THERE))
        web = stack.enter_context(Redirecting(f"http://{THERE}:{ear.port}"))
        url = ground.torrent(document(**{what: f"{web.url}/{'announce' if what == 'announce' else ''}"}))
        source = ground.source(f"{HERE} {THERE}") if is_allowed else ground.source(timeout=SHORT)
        assert is_heard(ground, source, url, ear) == is_allowed
        assert web.asked


class LyingPeer:
    """Has `metadata` for every magnet, whatever is asked for (BEP 3, 9, 10). `told` is how often."""

    def __init__(self, metadata: bytes) -> None:
        assert len(metadata) <= BLOCK
        self.told = 0
        self._metadata = metadata
        self._port = Port()
        self._server = socket.create_server((HERE, self._port.number))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    @property
    def address(self) -> str:
        return f"{HERE}:{self._port.number}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        socket.create_connection((HERE, self._port.number)).close()
        self._thread.join()
        self._server.close()
        self._port.release()

    def _serve(self) -> None:
        while True:
            connection, _ = self._server.accept()
            with connection, suppress(OSError, EOFError):
                if self._stop.is_set():
                    return
                connection.settimeout(LONG)
                self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        hello = _read(connection, 68)
        if not hello.startswith(b"\x13BitTorrent protocol"):
            return  # it is encrypted; without, it comes again
        reserved = b"\0\0\0\0\0\x10\0\0"
        connection.sendall(hello[:20] + reserved + hello[28:48] + b"-LY0001-" + b"x" * 12)
        about = {"m": {"ut_metadata": 3}, "metadata_size": len(self._metadata)}
        _send(connection, b"\x14\x00" + encode(about))
        theirs = 0
        while not self._stop.is_set():
            message = _read(connection, int.from_bytes(_read(connection, 4), "big"))
            if message[:2] == b"\x14\x00":
                names, _ = decode_with_spans(message[2:])
                extensions = names[b"m"]
                assert isinstance(extensions, dict)
                number = extensions[b"ut_metadata"]
                assert isinstance(number, int)
                theirs = number
            elif message[:2] == b"\x14\x03":
                answer = {"msg_type": 1, "piece": 0, "total_size": len(self._metadata)}
                _send(connection, bytes([20, theirs]) + encode(answer) + self._metadata)
                self.told += 1


def _read(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def _send(connection: socket.socket, message: bytes) -> None:
    connection.sendall(len(message).to_bytes(4, "big") + message)


def test_a_peer_has_other_metadata_than_the_magnet_is_of(ground: Ground) -> None:
    info = encode(v1_info([entry(BLOCK, "a")], CONTENT))
    right, wrong = hashlib.sha1(info).hexdigest(), hashlib.sha1(b"another").hexdigest()
    with LyingPeer(info) as peer:
        magnet = url_of(f"magnet:?xt=urn:btih:{wrong}&x.pe={peer.address}")
        source = ground.source(timeout=5)
        with pytest.raises(Unavailable, match=f"nobody had the metadata of the magnet {wrong} within 5 seconds"):
            source.metainfo(magnet, threading.Event())
        assert peer.told
        assert source.known(magnet) is None
        source.close()
        magnet = url_of(f"magnet:?xt=urn:btih:{right}&x.pe={peer.address}")
        found: Metainfo = ground.source().metainfo(magnet, threading.Event())
    assert found.id == right


@pytest.mark.parametrize("length", [0, 5])
def test_a_torrent_that_can_be_read_in_two_ways(length: int, ground: Ground) -> None:
    """For us, what is called a link is none of the files; libtorrent takes one that leads nowhere for a file."""
    made = parse(document(v1_info([entry(5, "a"), entry(length, "b", attr="l"), entry(BLOCK, "c")])))
    source = ground.source()
    with pytest.raises(Damaged, match="the torrent T can be read in two ways"):
        source.session.join(made)
    with pytest.raises(SwarmError, match="can be read in two ways"):
        get(source, ground.torrent(made.document, 3), ground.folder / "got")
    assert not [path for path in ground.work.rglob("*") if path.is_file() and path.name != "lock"]
