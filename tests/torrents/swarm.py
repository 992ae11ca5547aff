"""A torrent without libtorrent: what comes of it, and when, is what the test says."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from annex_remote.errors import SwarmError
from annex_remote.torrents.bencode import encode
from annex_remote.torrents.metainfo import Metainfo, TorrentFile, parse
from annex_remote.torrents.torrent import Torrent
from tests.fakes import FakeClock
from tests.torrents.documents import BLOCK, entry, v1_info, v2_parts

__all__ = ["KINDS", "FakeSwarm", "Kind", "file_of", "metainfo_of", "noise"]

Kind = Literal["v1", "v2", "hybrid"]
KINDS: tuple[Kind, ...] = ("v1", "v2", "hybrid")


def noise(name: str, size: int) -> bytes:
    """Return bytes that are the same each time, and others for each name."""
    return random.Random(name).randbytes(size)


def metainfo_of(contents: Mapping[str, bytes], kind: Kind = "v1", length: int = BLOCK, **more: Any) -> Metainfo:
    """Return the torrent of a folder with these files, in this order (v2 and hybrid: that of their names)."""
    if kind == "v1":
        entries = [entry(len(data), *path.split("/")) for path, data in contents.items()]
        return parse(encode({"info": v1_info(entries, b"".join(contents.values()), length, **more)}))
    contents = dict(sorted(contents.items()))
    tree, layers = v2_parts(contents, length)
    version = {"name": "T", "piece length": length, "meta version": 2, "file tree": tree}
    if kind == "hybrid":
        entries, data = [], bytearray()
        for path, content in contents.items():
            if content and (pad := -len(data) % length):
                entries.append(entry(pad, ".pad", str(pad), attr="p"))
                data += bytes(pad)
            entries.append(entry(len(content), *path.split("/")))
            data += content
        version = v1_info(entries, bytes(data), length, **version)
    return parse(encode({"info": version | more, "piece layers": layers}))


def file_of(metainfo: Metainfo, path: str) -> TorrentFile:
    [file] = [file for file in metainfo.files if "/".join(file.path) == path]
    return file


class FakeSwarm:
    """A torrent with `contents`, of which pieces are there when the test has `bring` them.

    `priorities` is what peers are asked for now, `told` every change that the torrent made to it. A piece that is
    read comes at once; what is `unreadable` cannot be read, `damaged` pieces have other bytes, and those in `slow`
    are read when the test calls `answer`. `given` is what was offered.
    """

    def __init__(
        self,
        metainfo: Metainfo,
        contents: Mapping[str, bytes],
        changed: threading.Condition | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.metainfo = metainfo
        data = bytearray(metainfo.size)
        for file in metainfo.files:
            data[file.offset : file.offset + file.size] = contents["/".join(file.path)]
        self.data = bytes(data)
        self.changed = changed or threading.Condition(threading.RLock())
        self.torrent = Torrent(metainfo, self.changed, clock or FakeClock())
        self.torrent.attach(self)
        self.priorities: dict[int, int] = {}
        self.told: list[list[tuple[int, int]]] = []
        self.woken = 0
        self.rechecked = 0
        self.reads: list[int] = []
        self.given: dict[int, bytes] = {}
        self.unreadable: dict[int, SwarmError] = {}
        self.damaged: set[int] = set()
        self.slow: set[int] = set()

    @property
    def all(self) -> range:
        return range(self.metainfo.pieces)

    def piece(self, index: int) -> bytes:
        begin = index * self.metainfo.piece_length
        return self.data[begin : begin + self.metainfo.piece_size(index)]

    def bring(self, pieces: Iterable[int]) -> None:
        with self.changed:
            for piece in pieces:
                self.torrent.finished(piece)
            self.changed.notify_all()

    def bring_wanted(self, count: int) -> list[int]:
        """Bring so many of the most wanted pieces that are not there, and return them."""
        with self.changed:
            missing = [piece for piece in self.priorities if not self.torrent.has(piece)]
            brought = sorted(missing, key=lambda piece: (-self.priorities[piece], piece))[:count]
            self.bring(brought)
        return brought

    def answer(self, piece: int) -> None:
        with self.changed:
            data = self.piece(piece)
            if piece in self.damaged:
                data = bytes([data[0] ^ 1]) + data[1:]
            self.torrent.was_read(piece, self.unreadable.get(piece, data))
            self.changed.notify_all()

    # What the torrent asks for.

    def prioritise(self, changes: list[tuple[int, int]]) -> None:
        self.told.append(changes)
        for piece, priority in changes:
            if priority:
                self.priorities[piece] = priority
            else:
                self.priorities.pop(piece, None)
        self.changed.notify_all()

    def wake(self) -> None:
        self.woken += 1

    def read(self, piece: int) -> None:
        self.reads.append(piece)
        self.changed.notify_all()
        if piece not in self.slow:
            self.answer(piece)

    def add(self, piece: int, data: bytes) -> None:
        self.given[piece] = data
        if data == self.piece(piece):
            self.torrent.finished(piece)

    def check_again(self) -> None:
        self.rechecked += 1
        self.changed.notify_all()
