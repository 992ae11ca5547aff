"""A torrent's metainfo: parsed within bounds, its files, and the proofs of its pieces (BEP 3, 47, 52). Pure."""

from __future__ import annotations

import hashlib
import unicodedata
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from annex_remote.errors import BadSetting, Damaged
from annex_remote.torrents.bencode import Raw, Value, decode_with_spans, encode
from annex_remote.torrents.entries import Entry, text_of, v1_entries, v2_entries
from annex_remote.torrents.merkle import BLOCK, HASH, data_root, layer_root
from annex_remote.torrents.names import printable, safe_name, safe_paths
from annex_remote.torrents.urls import (
    TRACKER_SCHEMES,
    WEB_SEED_SCHEMES,
    Magnet,
    clean,
    is_publishable,
    shown,
    write_magnet,
)

__all__ = ["MAX_PIECES", "MAX_PIECE_LENGTH", "MAX_SIZE", "Metainfo", "TorrentFile", "from_info", "parse"]

MAX_SIZE = 64 << 20
"""Bytes of a .torrent; longer ones are refused before they are parsed."""
MAX_PIECE_LENGTH = 256 << 20
"""Bytes of a piece: it is held in memory, and no program makes longer ones; libtorrent takes up to 512 MiB."""
MAX_PIECES = 0x200000
"""Pieces of a torrent: libtorrent takes no more, unless told so."""
MAX_URLS = 200
"""Trackers, and web seeds, that are taken from one torrent, each; also how many are told that are not."""
MAX_LOOKED_AT = 1_000
"""Entries of a list of trackers or web seeds; what is behind them is not looked at."""


@dataclass(frozen=True, slots=True)
class TorrentFile:
    """A file of a torrent: neither a pad file nor a link.

    `number` is its place in the metainfo's own order, from 1, with pad files and links counted: ``#N`` of a URL.
    `path` is below the torrent's name, as the metainfo has it: unsafe; of a single file it is (name,). `size` is
    bytes, `offset` where it begins in the torrent's bytes (v1: pad files counted; v2 alone: each file begins on a
    piece). `root` is its hash tree's root, None for v1 or an empty file.
    """

    number: int
    path: tuple[str, ...]
    size: int
    offset: int
    root: bytes | None


@dataclass(frozen=True)
class Metainfo:
    """What a .torrent says. `v1` is the SHA-1 of its info dictionary, 20 bytes, `v2` the SHA-256, 32 bytes.

    `size` is that of all bytes, pads between files included; `files` is without pad files and links; `trackers`
    are tiers; `dropped` has the trackers and web seeds that are not taken, as they may be shown; `document` is the
    whole .torrent. `is_single`: one file without a folder.
    """

    name: str
    piece_length: int
    size: int
    files: tuple[TorrentFile, ...] = field(repr=False)
    v1: bytes | None
    v2: bytes | None
    private: bool
    trackers: tuple[tuple[str, ...], ...]
    web_seeds: tuple[str, ...]
    dropped: tuple[str, ...]
    document: bytes = field(repr=False)
    is_single: bool
    _hashes: bytes | None = field(repr=False, compare=False)  # v1: 20 bytes for each piece
    _layers: Mapping[bytes, bytes] = field(repr=False, compare=False)  # v2: by root, 32 bytes for each piece

    @property
    def id(self) -> str:
        """The name it is cached and kept under: hex of the v1 info-hash if there is one, else of v2."""
        digest = self.v1 or self.v2
        assert digest is not None
        return digest.hex()

    @property
    def title(self) -> str:
        """Its name as it may be shown: nobody knows who gave it."""
        return printable(self.name)

    @property
    def pieces(self) -> int:
        return -(-self.size // self.piece_length)

    @cached_property
    def has_layers(self) -> bool:
        """True if every piece can be proved: by SHA-1, or by the v2 piece layers, which magnets lack."""
        return self._hashes is not None or all(
            file.size <= self.piece_length or file.root in self._layers for file in self.files
        )

    @property
    def layers(self) -> int:
        """How many files' piece layers are known (v2)."""
        return len(self._layers)

    def can_prove(self, index: int) -> bool:
        """True if there is a hash of piece `index`."""
        if self._hashes is not None or self.v2 is None:
            return True
        file, _ = self._content(index)
        return file.size <= self.piece_length or file.root in self._layers

    def span(self, file: TorrentFile) -> range:
        """Return the pieces that hold bytes of `file`; none for an empty one."""
        if not file.size:
            return range(0)
        return range(file.offset // self.piece_length, -(-(file.offset + file.size) // self.piece_length))

    def piece_size(self, index: int) -> int:
        """Return the bytes of a piece: all but the last are full, but v2 alone: to the end of its file."""
        self._check(index)
        if self.v1 is None:
            return self._content(index)[1]
        return min(self.piece_length, self.size - index * self.piece_length)

    def proves(self, index: int, data: bytes | bytearray | memoryview) -> bool:
        """True if `data` is the content of piece `index`.

        By the v2 hashes if there are, else SHA-1. Of v2 and hybrid torrents the zeros behind a file's end, to the
        end of the piece, may be there or not. Raises `ValueError` for a piece of which there is no hash: see
        `has_layers`.
        """
        self._check(index)
        found = self._content(index) if self.v2 is not None else None
        if found is None:
            return len(data) == self.piece_size(index) and self._is_sha1(index, data)
        file, size = found
        if len(data) not in (size, self.piece_size(index), self.piece_length):
            return False
        view = memoryview(data)
        padding = bytes(view[size:])
        if padding.count(0) != len(padding):
            return False
        view = view[:size]
        if file.size <= self.piece_length:
            return data_root(view) == file.root
        layer = self._layers.get(file.root or b"")
        if layer is not None:
            at = (index - self.span(file).start) * HASH
            return data_root(view, (self.piece_length // BLOCK - 1).bit_length()) == layer[at : at + HASH]
        if self._hashes is not None:
            return self._is_sha1(index, bytes(view) + bytes(self.piece_size(index) - size))
        raise ValueError(f"piece {index} cannot be proved: the torrent's piece layers are not known")

    def pick(self, choice: int | str | None) -> TorrentFile:
        """Return the file chosen by number or by path, or the only one; raises `BadSetting` with choices."""
        if choice is None and len(self.files) == 1:
            return self.files[0]
        if isinstance(choice, int):
            found = self._by_number.get(choice)
        else:
            found = None if choice is None else self._by_path.get(_composed(choice))
        if found is not None:
            return found
        some = ", ".join(f"#{file.number} {printable('/'.join(file.path)[:100])}" for file in self.files[:5])
        more = f" and {len(self.files) - 5:,} more" if len(self.files) > 5 else ""
        if choice is None:
            raise BadSetting(
                f"the torrent has {len(self.files):,} files; which one is said behind its URL: {some}{more}"
            )
        raise BadSetting(f"the torrent has no file #{printable(str(choice)[:100])}; it has {some}{more}")

    def magnet(
        self, choice: int | str | None = None, *, source: str | None = None, most: int | None = None
    ) -> str:
        """Return the magnet; its fragment is the number of the file that is chosen, as by `pick`, if any is.

        `source` is the URL of its .torrent; no more than `most` trackers, and web seeds, are named.
        What is not safe to publish is left out: trackers and web seeds with a user, a query, or what looks like a
        passkey, and all trackers of a private torrent.
        """
        trackers = (
            () if self.private else tuple(url for tier in self.trackers for url in tier if is_publishable(url))
        )
        seeds = tuple(url for url in self.web_seeds if is_publishable(url))
        number = None if choice is None else self.pick(choice).number
        sources = (source,) if source is not None else ()
        return write_magnet(
            Magnet(self.v1, self.v2, self.name, trackers[:most], seeds[:most], sources=sources), number
        )

    @cached_property
    def _by_number(self) -> dict[int, TorrentFile]:
        return {file.number: file for file in self.files}

    @cached_property
    def _by_path(self) -> dict[str, TorrentFile]:
        """Each file by its path and by those that CHECKURL gives, with and without the torrent's name in front."""
        found: dict[str, TorrentFile] = {}
        spellings = [(self.name, [file.path for file in self.files])]
        spellings += [
            (safe_name(self.name, blanks=blanks), safe_paths(self.files, blanks=blanks))
            for blanks in (True, False)
        ]
        for name, paths in spellings:
            for before in ((), (name,)):
                for file, path in zip(self.files, paths, strict=True):
                    found.setdefault(_composed("/".join((*before, *path))), file)
        return found

    @cached_property
    def _by_offset(self) -> tuple[list[int], list[TorrentFile]]:
        files = [file for file in self.files if file.size]
        return [file.offset for file in files], files

    def _content(self, index: int) -> tuple[TorrentFile, int]:
        """Return the file that a piece of a v2 torrent has bytes of, and how many."""
        offsets, files = self._by_offset
        begin = index * self.piece_length
        file = files[bisect_right(offsets, begin) - 1]
        return file, min(self.piece_length, file.offset + file.size - begin)

    def _is_sha1(self, index: int, data: bytes | bytearray | memoryview) -> bool:
        assert self._hashes is not None
        digest = hashlib.sha1(data, usedforsecurity=False).digest()
        return digest == self._hashes[20 * index : 20 * index + 20]

    def _check(self, index: int) -> None:
        if not 0 <= index < self.pieces:
            raise IndexError(f"no piece {index}: there are {self.pieces}")


def _composed(path: str) -> str:
    return unicodedata.normalize("NFC", path.strip("/"))


def parse(document: bytes) -> Metainfo:
    """Return what a .torrent says; raises `Damaged` in one sentence."""
    if len(document) > MAX_SIZE:
        raise Damaged(f"no torrent file that is taken: it is longer than {MAX_SIZE >> 20} MiB")
    try:
        top, spans = decode_with_spans(document)
        info = top.get(b"info")
        if not isinstance(info, dict):
            raise Damaged("it has no info dictionary")
        return _read(document, top, info, document[spans[b"info"]])
    except Damaged as damaged:
        raise Damaged(f"not a torrent file that can be used: {damaged}") from damaged


def from_info(info: bytes, magnet: Magnet) -> Metainfo:
    """Return the metainfo of a magnet whose info dictionary is `info`, as peers gave it; raises `Damaged`.

    It is checked against the hashes of the magnet, whose trackers and web seeds it has. Piece layers are absent.
    """
    if len(info) > MAX_SIZE:
        raise Damaged(f"metadata that is longer than {MAX_SIZE >> 20} MiB is not taken")
    v1, v2 = hashlib.sha1(info, usedforsecurity=False).digest(), hashlib.sha256(info).digest()
    if magnet.v1 not in (None, v1) or magnet.v2 not in (None, v2):
        raise Damaged("the metadata is not that of the magnet: its hash is another one")
    document: dict[str, object] = {"info": Raw(info)}  # the bytes that were hashed, whatever they are
    if magnet.trackers:
        document["announce-list"] = [[tracker] for tracker in magnet.trackers]
    if magnet.web_seeds:
        document["url-list"] = list(magnet.web_seeds)
    metainfo = parse(encode(document))
    if metainfo.v1 not in (None, v1) or metainfo.v2 not in (None, v2):
        raise Damaged("the metadata of the magnet is more than a dictionary")
    return metainfo


def _read(document: bytes, top: dict[bytes, Value], info: dict[bytes, Value], raw: bytes) -> Metainfo:
    version = info.get(b"meta version", 1)
    if not isinstance(version, int) or version > 2:
        raise Damaged("it is of a version of BitTorrent that this program does not know")
    is_v2 = version == 2
    if not is_v2 and b"file tree" in info:
        raise Damaged("it has a file tree, but is not of version 2")
    is_v1 = b"pieces" in info or not is_v2
    name = _name(info)
    length = info.get(b"piece length")
    if not isinstance(length, int) or not 0 < length <= MAX_PIECE_LENGTH:
        raise Damaged("its piece length is missing, or cannot be")
    if is_v2 and (length < BLOCK or length & (length - 1)):
        raise Damaged("its piece length is no power of two from 16 KiB")
    tree = v2_entries(info) if is_v2 else []
    entries = v1_entries(info, name) if is_v1 else tree
    files, size = _lay_out(entries, 1 if is_v1 else length)
    if is_v1 and is_v2:
        files = _joined(files, size, *_lay_out(tree, length), length)
    if not size:
        raise Damaged("it has no bytes")
    hashes = info.get(b"pieces") if is_v1 else None
    pieces = -(-size // length)
    if pieces > MAX_PIECES:
        raise Damaged(f"it has {pieces:,} pieces, and {MAX_PIECES:,} is the most that is taken")
    if is_v1 and (not isinstance(hashes, bytes) or len(hashes) != 20 * pieces):
        raise Damaged(f"its hashes are not those of {pieces:,} pieces")
    layers = _layers(top.get(b"piece layers"), files, length) if is_v2 else {}
    dropped: list[str] = []
    return Metainfo(
        name=name,
        piece_length=length,
        size=size,
        files=tuple(files),
        v1=hashlib.sha1(raw, usedforsecurity=False).digest() if is_v1 else None,
        v2=hashlib.sha256(raw).digest() if is_v2 else None,
        private=info.get(b"private") == 1,
        trackers=_trackers(top, dropped),
        web_seeds=_taken(top.get(b"url-list"), WEB_SEED_SCHEMES, set(), dropped),
        dropped=tuple(dropped),
        document=document,
        is_single=b"files" not in info if is_v1 else len(entries) == 1 and entries[0].path == (name,),
        _hashes=hashes if isinstance(hashes, bytes) else None,
        _layers=layers,
    )


def _name(info: dict[bytes, Value]) -> str:
    for key in (b"name.utf-8", b"name"):
        name = info.get(key)
        if isinstance(name, bytes) and name:
            return text_of(name)
    raise Damaged("it has no name")


def _lay_out(entries: Sequence[Entry], alignment: int) -> tuple[list[TorrentFile], int]:
    """Return the files and the size of all; each that is not empty begins on a multiple of `alignment`."""
    files, end = [], 0
    for number, entry in enumerate(entries, 1):
        begin = -(-end // alignment) * alignment if entry.size else end
        if not (entry.is_pad or entry.is_link):
            files.append(TorrentFile(number, entry.path, entry.size, begin, entry.root))
        end = begin + entry.size
    if not files:
        raise Damaged("it has no file")
    return files, end


def _joined(
    v1: list[TorrentFile], v1_size: int, v2: list[TorrentFile], v2_size: int, length: int
) -> list[TorrentFile]:
    """Return the files of a hybrid torrent: those of v1 with the roots of v2; raises `Damaged` if they differ."""
    if len(v1) != len(v2):
        raise Damaged(f"it is two torrents in one that differ: {len(v1):,} files and {len(v2):,}")
    for one, other in zip(v1, v2, strict=True):
        if (one.path, one.size) != (other.path, other.size) or (one.size and one.offset != other.offset):
            raise Damaged(f"it is two torrents in one that differ: file {one.number} of the first is another one")
    if v1_size not in (v2_size, -(-v2_size // length) * length):  # some pad the last file, too
        raise Damaged("it is two torrents in one that differ: one has more bytes than the other")
    return [
        TorrentFile(one.number, one.path, one.size, one.offset, other.root)
        for one, other in zip(v1, v2, strict=True)
    ]


def _layers(layers: Value | None, files: Sequence[TorrentFile], length: int) -> dict[bytes, bytes]:
    """Return the piece layers of the files, proved by their roots; what is missing stays so. Raises `Damaged`."""
    if layers is None:
        return {}
    if not isinstance(layers, dict):
        raise Damaged("its piece layers are no dictionary")
    if not layers.keys() <= {file.root for file in files if file.size > length}:
        raise Damaged("it has a piece layer of no file")
    height = (length // BLOCK - 1).bit_length()
    proved: dict[bytes, bytes] = {}
    for file in files:
        if file.root is None or file.root not in layers:
            continue
        layer = layers[file.root]
        pieces = -(-file.size // length)
        if not isinstance(layer, bytes) or len(layer) != pieces * HASH:
            raise Damaged(f"the piece layer of its file {file.number} does not have {pieces:,} hashes")
        if file.root not in proved and layer_root(layer, height) != file.root:
            raise Damaged(f"the piece layer of its file {file.number} is not that of its root")
        proved[file.root] = layer
    return proved


def _texts(value: Value | None) -> list[str]:
    """Return the strings of a string or a list: of as many as are looked at."""
    parts = value[:MAX_LOOKED_AT] if isinstance(value, list) else [value]
    return [text_of(part) for part in parts if isinstance(part, bytes) and part]


def _trackers(top: dict[bytes, Value], dropped: list[str]) -> tuple[tuple[str, ...], ...]:
    """Return the tiers (BEP 12): of the list if it has any that is taken, else of the one ``announce``."""
    listed = top.get(b"announce-list")
    seen: set[str] = set()
    for found in (listed[:MAX_LOOKED_AT] if isinstance(listed, list) else [], [top.get(b"announce")]):
        tiers = [_taken(tier, TRACKER_SCHEMES, seen, dropped) for tier in found]
        if any(tiers):
            return tuple(tier for tier in tiers if tier)
    return ()


def _taken(value: Value | None, schemes: frozenset[str], seen: set[str], dropped: list[str]) -> tuple[str, ...]:
    """Return the URLs that are not `seen` yet; those that are not taken go to `dropped`."""
    taken = []
    for text in _texts(value):
        url = clean(text, schemes)
        if url in seen:
            continue
        if url is not None and len(seen) < MAX_URLS:
            seen.add(url)
            taken.append(url)
        elif len(dropped) < MAX_URLS:
            dropped.append(shown(text))
    return tuple(taken)
