"""Which content that is here is which file of a torrent: proved by hashes, not by names. Pure, but for `read`.

A v2 or hybrid torrent has a hash tree for each file, which proves all of it. In a v1 torrent the files lie one
behind the other, and a piece at the edge of two has bytes of both: it proves only beside the right neighbour. If
that is not here, the bytes at the edge stay unproved, and are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import islice, product
from math import prod

from annex_remote.errors import SwarmError
from annex_remote.torrents.merkle import BLOCK, data_root, layer_root
from annex_remote.torrents.metainfo import Metainfo, TorrentFile
from annex_remote.torrents.names import printable, safe_paths

__all__ = ["Candidate", "Fate", "Match", "Read", "match"]

MAX_TRIES = 256
"""Combinations of neighbours that are tried for one piece."""


@dataclass(frozen=True)
class Candidate:
    """Content that is here: its key, the files of the work tree that it is the content of, and its bytes."""

    key: str
    files: tuple[str, ...]
    size: int
    place: str = ""


Read = Callable[[Candidate, int, int], bytes]
"""Returns bytes of a candidate, from an offset, so many; raises `SwarmError` if that cannot be had."""


class Fate(Enum):
    """What became of a torrent's file."""

    PROVED = "proved"
    EMPTY = "empty"
    """It has no bytes, and needs no source."""
    ABSENT = "absent"
    """Nothing of its size is here, or what is here is something else."""
    UNPROVED = "unproved"
    """It may be here, and no piece proves it; or pieces say that it is not quite this."""


@dataclass(frozen=True)
class Match:
    """What was found out about one file. `candidates` are all that have its content, under different keys.

    `unproved` counts its bytes at edges whose neighbours are not here. `of_its_size` are all that could have been.
    """

    file: TorrentFile
    fate: Fate
    candidates: tuple[Candidate, ...] = ()
    unproved: int = 0
    why: str = ""
    of_its_size: tuple[Candidate, ...] = ()


@dataclass
class _File:
    """A file of a v1 torrent while it is being matched. `options` may have its content."""

    file: TorrentFile
    options: list[Candidate]
    of_its_size: tuple[Candidate, ...]
    inner: range
    """Pieces that have bytes of no other file."""
    proved: set[int] = field(default_factory=set)
    quarrel: str = ""
    """The file that it shares a piece with that does not prove."""

    def is_likely(self, named: Sequence[Candidate]) -> bool:
        """True if what may be its content is not only of its size."""
        return bool(self.proved) or any(option in named for option in self.options)


def match(
    metainfo: Metainfo, candidates: Iterable[Candidate], read: Read, among: str = "that is here"
) -> list[Match]:
    """Return for each file of a torrent what of `candidates` has its content; `among` says which these are."""
    by_size: dict[int, list[Candidate]] = {}
    for candidate in candidates:
        by_size.setdefault(candidate.size, []).append(candidate)
    named = _named(metainfo, by_size)
    unread: dict[str, str] = {}

    def reading(candidate: Candidate, offset: int, size: int) -> bytes:
        try:
            return read(candidate, offset, size)
        except SwarmError as error:
            unread[candidate.key] = str(error)
            raise

    found: dict[int, Match] = {}
    files = []
    for file in metainfo.files:
        likely = named.get(file.number, [])
        options = likely + [one for one in by_size.get(file.size, []) if one not in likely]
        if not file.size:
            found[file.number] = Match(file, Fate.EMPTY)
        elif file.root is not None:
            found[file.number] = _by_root(metainfo, file, options, reading)
        else:
            files.append(_File(file, options, tuple(options), _inner(metainfo, file)))
    _by_pieces(metainfo, files, named, reading)
    found |= {each.file.number: _judged(metainfo, each) for each in files}
    return [_with_why(found[file.number], unread, among) for file in metainfo.files]


def _named(metainfo: Metainfo, by_size: dict[int, list[Candidate]]) -> dict[int, list[Candidate]]:
    """Return by the numbers of files those candidates of their size that are called like them, the nearest first.

    In a person's tree a file has its safe name, or still its own.
    """
    named: dict[int, list[Candidate]] = {}
    safe = [safe_paths(metainfo.files, blanks=blanks) for blanks in (True, False)]
    for file, *others in zip(metainfo.files, *safe, strict=True):
        options = by_size.get(file.size, [])
        paths = {file.path, *others}
        near = [(max(_likeness(path, one) for path in paths), one) for one in options]
        named[file.number] = [one for likeness, one in sorted(near, key=lambda each: -each[0]) if likeness]
    return named


def _likeness(path: tuple[str, ...], candidate: Candidate) -> int:
    """Return how many names at the end of a path are the same, at most."""
    most = 0
    for name in candidate.files:
        parts = name.split("/")
        same = 0
        while same < min(len(parts), len(path)) and parts[-1 - same] == path[-1 - same]:
            same += 1
        most = max(most, same)
    return most


# v2: each file has a root.


def _by_root(metainfo: Metainfo, file: TorrentFile, options: Sequence[Candidate], read: Read) -> Match:
    good = []
    for option in options:
        try:
            if _has_root(metainfo, file, option, read):
                good.append(option)
        except SwarmError:
            continue  # it is not here any more
    if good:
        return Match(file, Fate.PROVED, tuple(good))
    return Match(file, Fate.ABSENT, of_its_size=tuple(options))


def _has_root(metainfo: Metainfo, file: TorrentFile, option: Candidate, read: Read) -> bool:
    length = metainfo.piece_length
    if file.size <= length:
        return data_root(read(option, 0, file.size)) == file.root
    height = (length // BLOCK - 1).bit_length()
    layer = bytearray()
    first = metainfo.span(file).start
    for begin in range(0, file.size, length):
        data = read(option, begin, min(length, file.size - begin))
        if not begin and metainfo.has_layers and not metainfo.proves(first, data):
            return False  # something else of this size shows at once
        layer += data_root(data, height)
    return layer_root(bytes(layer), height) == file.root


# v1: pieces may have bytes of several files.


def _inner(metainfo: Metainfo, file: TorrentFile) -> range:
    """Return the pieces that are full of this file alone."""
    first = -(-file.offset // metainfo.piece_length)
    return range(first, max(first, (file.offset + file.size) // metainfo.piece_length))


def _share(metainfo: Metainfo, file: TorrentFile, piece: int) -> tuple[int, int, int]:
    """Return where in the file its bytes of a piece begin, how many these are, and where in the piece they are."""
    start = piece * metainfo.piece_length
    begin = max(file.offset, start)
    end = min(file.offset + file.size, start + metainfo.piece_length)
    return begin - file.offset, end - begin, begin - start


def _by_pieces(metainfo: Metainfo, files: Sequence[_File], named: dict[int, list[Candidate]], read: Read) -> None:
    for each in files:
        each.options = [one for one in each.options if _proves_inner(metainfo, each, one, read)]
        if each.options:
            each.proved.update(each.inner)
    edges: dict[int, list[_File]] = {}
    for each in files:
        for piece in metainfo.span(each.file):
            if piece not in each.inner:
                edges.setdefault(piece, []).append(each)
    for piece, sharers in edges.items():
        _prove_edge(metainfo, piece, sharers, read)
    for piece, sharers in edges.items():
        if all(each.options and piece not in each.proved for each in sharers):
            _note_quarrel(sharers, named)


def _proves_inner(metainfo: Metainfo, each: _File, option: Candidate, read: Read) -> bool:
    try:
        for piece in each.inner:
            begin, size, _ = _share(metainfo, each.file, piece)
            if not metainfo.proves(piece, read(option, begin, size)):
                return False
    except SwarmError:
        return False  # it is not here any more
    return True


def _prove_edge(metainfo: Metainfo, piece: int, sharers: Sequence[_File], read: Read) -> None:
    """Try what may be the content of the files that share a piece; what proves it stays, and nothing else does.

    If it proves, the bytes of all of them are right: a hash has one content.
    """
    if not prod(len(each.options) for each in sharers):
        return
    parts: list[list[tuple[Candidate, bytes]]] = []
    for each in sharers:
        begin, size, _ = _share(metainfo, each.file, piece)
        had = []
        for option in each.options:
            try:
                had.append((option, read(option, begin, size)))
            except SwarmError:
                continue
        parts.append(had)
    wholes = [_share(metainfo, each.file, piece)[2] for each in sharers]
    for chosen in islice(product(*map(_distinct, parts)), MAX_TRIES):
        data = bytearray(metainfo.piece_size(piece))  # what no file has bytes of is padding
        for at, part in zip(wholes, chosen, strict=True):
            data[at : at + len(part)] = part
        if metainfo.proves(piece, data):
            for each, had, part in zip(sharers, parts, chosen, strict=True):
                each.options = [option for option, its in had if its == part]
                each.proved.add(piece)
            return
    if len(sharers) == 1:
        sharers[0].options = []  # there is nothing but padding beside it


def _distinct(had: Sequence[tuple[Candidate, bytes]]) -> list[bytes]:
    return list(dict.fromkeys(part for _, part in had))


def _note_quarrel(sharers: Sequence[_File], named: dict[int, list[Candidate]]) -> None:
    """Note that files share a piece that does not prove, if each of them is likely to be what it seems to be.

    One that is only of the right size tells nothing about the others.
    """
    if not all(each.is_likely(named.get(each.file.number, [])) for each in sharers):
        return
    for each in sharers:
        each.quarrel = next(other.file.path[-1] for other in sharers if other is not each)


def _judged(metainfo: Metainfo, each: _File) -> Match:
    file = each.file
    if each.quarrel:
        why = f"the piece that it shares with {each.quarrel} does not prove: one of the two is another version"
        return Match(file, Fate.UNPROVED, why=why, of_its_size=each.of_its_size)
    if not each.options:
        return Match(file, Fate.ABSENT, of_its_size=each.of_its_size)
    unproved = sum(_share(metainfo, file, piece)[1] for piece in metainfo.span(file) if piece not in each.proved)
    if unproved == file.size:
        why = (
            f"{_has_size(each.options)}, but all its pieces are shared with neighbours that are not here, or are "
            "others: nothing proves it"
        )
        return Match(file, Fate.UNPROVED, why=why, of_its_size=each.of_its_size)
    return Match(file, Fate.PROVED, tuple(each.options), unproved)


def _with_why(found: Match, unread: Mapping[str, str], among: str) -> Match:
    """Return what was found about a file, with why nothing was. `unread` says by keys what could not be read."""
    if found.fate is not Fate.ABSENT:
        return found
    lost = [one for one in found.of_its_size if one.key in unread]
    others = [one for one in found.of_its_size if one.key not in unread]
    whys = []
    if others:
        whys.append(f"{_has_size(others)}, but other content: the hashes differ")
    if lost:
        whys.append(f"{_has_size(lost)}, but could not be read: {unread[lost[0].key]}")
    return replace(
        found, why="; ".join(whys) or f"no annexed file {printable(among)} has its {found.file.size:,} bytes"
    )


def _has_size(candidates: Sequence[Candidate]) -> str:
    names = [printable(name) for one in candidates for name in one.files or (one.key,)]
    if len(names) == 1:
        return f"{names[0]} has its size"
    return f"{len(names):,} annexed files have its size ({names[0]}, …)"
