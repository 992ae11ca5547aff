"""Making a .torrent: the same input to the same bytes, hashed by libtorrent, and read before it is believed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote, urlsplit

from annex_remote.errors import BadSetting, Damaged, SwarmError, Unavailable
from annex_remote.limits import format_size
from annex_remote.torrents import library
from annex_remote.torrents.bencode import MAX_DEPTH, Value, decode_with_spans, encode
from annex_remote.torrents.contents import Content, Contents
from annex_remote.torrents.entries import MAX_FILES
from annex_remote.torrents.metainfo import MAX_PIECES, MAX_SIZE, MAX_URLS, Metainfo, parse
from annex_remote.torrents.urls import TRACKER_SCHEMES, WEB_SEED_SCHEMES, clean, shown

__all__ = [
    "KINDS",
    "Recipe",
    "checked_piece_length",
    "checked_urls",
    "create",
    "usual_piece_length",
    "web_seed_notes",
]

KINDS = ("hybrid", "v1", "v2")

LEAST_PIECE, MOST_PIECE = 16 << 10, 128 << 20
"""Bytes of a piece that libtorrent takes; a power of two."""
USUAL_PIECE = 16 << 20
"""Bytes of a piece that other programs are sure to take, at most."""
USUAL_PIECES = 2048
"""Pieces that are aimed at: enough to fetch from many, and few enough for a short .torrent."""
HASHES = {"v1": 20, "v2": 32, "hybrid": 52}
"""Bytes of the hashes of a piece."""
FOLDER = "files"
"""What a torrent's folder is called while it is hashed."""


@dataclass(frozen=True)
class Recipe:
    """How a torrent is made. `piece_length` is bytes, None: what is usual; each tracker is a tier of its own."""

    kind: str = "hybrid"
    piece_length: int | None = None
    private: bool = False
    trackers: tuple[str, ...] = ()
    web_seeds: tuple[str, ...] = ()


def usual_piece_length(sizes: Sequence[int], *, aligned: bool) -> int:
    """Return the bytes of a piece for files of these sizes; `aligned` if each file begins on a piece (v2, hybrid).

    Then pieces are no longer than the mean file, so that the padding does not outweigh the content.
    """
    whole = sum(sizes)
    most = USUAL_PIECE
    if aligned:
        most = max(LEAST_PIECE, min(most, whole // max(1, len(sizes))))
    length = LEAST_PIECE
    while (length * 2 <= most and length * USUAL_PIECES < whole) or length * (MAX_PIECES // 2) < whole:
        length *= 2
    return length


def checked_urls(option: str, urls: Sequence[str]) -> tuple[str, ...]:
    """Return what ``--tracker`` or ``--web-seed`` was given, as it stands in a torrent, each once.

    Raises `BadSetting` for a URL that no program would take.
    """
    schemes = TRACKER_SCHEMES if option == "--tracker" else WEB_SEED_SCHEMES
    taken = []
    for url in urls:
        good = clean(url, schemes)
        if good is None:
            kinds = ", ".join(f"{scheme}://" for scheme in sorted(schemes))
            raise BadSetting(
                f"{option} {shown(url)}: this is no URL that begins with one of {kinds} and has a host"
            )
        taken.append(good)
    if len(taken) > MAX_URLS:
        raise BadSetting(f"{option} is given {len(taken)} times: {MAX_URLS} is the most that is read")
    return tuple(dict.fromkeys(taken))


def checked_piece_length(length: int) -> int:
    """Return `length`; raises `BadSetting` if no piece can have so many bytes."""
    if not LEAST_PIECE <= length <= MOST_PIECE or length & (length - 1):
        raise BadSetting(
            f"--piece-length {format_size(length)}: a piece has {format_size(LEAST_PIECE)} to "
            f"{format_size(MOST_PIECE)}, and a power of two of bytes"
        )
    return length


def create(contents: Contents, recipe: Recipe, progress: Callable[[int], None]) -> Metainfo:
    """Hash `contents`, and return the torrent; `progress` hears of bytes that were hashed, `contents.size` in all.

    Web seeds are written so that they are asked for what they have: see `_web_seeds`.
    Nothing in it goes by times, modes, this machine or this program. Raises `BadSetting` for a piece length that
    cannot be, or where there is no libtorrent; `Unavailable` if a file cannot be read or changes meanwhile.
    """
    if recipe.piece_length is None:
        length = usual_piece_length([file.size for file in contents.files], aligned=recipe.kind != "v1")
    else:
        length = checked_piece_length(recipe.piece_length)
    _check_bounds(contents, recipe, length)
    recipe = replace(recipe, web_seeds=tuple(dict.fromkeys(_web_seeds(contents, recipe))))
    before = [_stamp(file) for file in contents.files]
    with tempfile.TemporaryDirectory(prefix="swarm-") as folder:
        names = _link(contents, folder)
        document = _named(_hashed(contents, names, folder, recipe, length, progress), contents)
    for file, stamp in zip(contents.files, before, strict=True):
        if _stamp(file) != stamp or stamp[0] != file.size:
            raise Unavailable(f"{file.place} was changed while it was hashed: run it again when it is at rest")
    metainfo = parse(document)
    _check(metainfo, contents, recipe)
    return metainfo


def _check_bounds(contents: Contents, recipe: Recipe, length: int) -> None:
    """Raise `BadSetting`, before anything is hashed, for a torrent that would not be read afterwards."""
    sizes = [file.size for file in contents.files]
    if recipe.kind == "v1":
        pieces, entries = -(-sum(sizes) // length), len(sizes)
    else:
        pieces = sum(-(-size // length) for size in sizes)
        entries = len(sizes) + (recipe.kind == "hybrid" and sum(size % length != 0 for size in sizes))
    if pieces > MAX_PIECES or pieces * HASHES[recipe.kind] > MAX_SIZE:
        raise BadSetting(
            f"{contents.name} would have {pieces:,} pieces of {format_size(length)}, which is too many: "
            "--piece-length takes larger ones"
        )
    if entries > MAX_FILES:
        pads = ", padding counted, which --v1 does without" if entries > len(sizes) else ""
        raise BadSetting(f"{contents.name} would have {entries:,} files{pads}: {MAX_FILES:,} is the most")
    if (
        recipe.kind == "v2"
        and not contents.is_single
        and [file.path for file in contents.files] == [(contents.name,)]
    ):
        raise BadSetting(
            f"a folder {contents.name} with one file of the same name is that file alone in a v2 torrent: name "
            "the file, or make it --hybrid"
        )
    deepest = max(contents.files, key=lambda file: len(file.path))
    if recipe.kind != "v1" and len(deepest.path) + 4 > MAX_DEPTH:  # the document, info, the tree; the file's own
        raise BadSetting(f"{deepest.place} is in too many folders for --{recipe.kind}: --v1 takes it")


def _web_seeds(contents: Contents, recipe: Recipe) -> Iterator[str]:
    """Yield the web seeds as they are written (BEP 19): what ends in ``/`` is put before a path in the torrent.

    Of a torrent with a folder it always is. libtorrent also takes those of v2 torrents so, and so it asks for
    ``NAME/NAME`` if it is given the URL of a single file, which has to be that of its folder then. In a v2 torrent
    with one file in a folder it leaves the folder out; so that is written too.
    """
    for url in recipe.web_seeds:
        parts = urlsplit(url)
        if not parts.path and not parts.query:
            url += "/"
        if contents.is_single:
            before, _, last = url.rpartition("/")
            if recipe.kind == "v2" and not parts.query and unquote(last) == contents.name:
                url = f"{before}/"
            yield url
            continue
        url = url if url.endswith("/") else f"{url}/"
        yield url
        if recipe.kind == "v2" and len(contents.files) == 1 and not parts.query:
            yield f"{url}{quote(contents.name, safe='')}/"


def web_seed_notes(metainfo: Metainfo) -> Iterator[str]:
    """Yield what does not work with web seeds of a torrent that was made, as libtorrent does not ask aright."""
    if metainfo.v1 is not None or not metainfo.web_seeds:
        return
    if metainfo.is_single:
        for url in metainfo.web_seeds:
            if not url.endswith("/"):
                yield (
                    f"--web-seed {shown(url)}: of a v2 torrent, programs with libtorrent ask a folder for "
                    f"{metainfo.title}; give the URL of its folder, with / at the end, or make it --hybrid"
                )
    elif any(file.size % metainfo.piece_length for file in [file for file in metainfo.files if file.size][:-1]):
        yield (
            "of a v2 torrent of several files, programs with libtorrent often cannot use web seeds: they mix up "
            "what is behind the end of a file; --hybrid works"
        )


def _link(contents: Contents, folder: str) -> list[str]:
    """Make links to all files, as libtorrent reads by the names that it knows; return these names.

    They are numbers: libtorrent puts the files of a hybrid torrent in the order of their whole paths, where
    ``s.txt`` is before ``s/x``. In the file tree it is behind, and the two have to agree (BEP 52).
    """
    names = []
    try:
        if not contents.is_single:
            os.mkdir(os.path.join(folder, FOLDER))
        for number, file in enumerate(contents.files):
            name = f"{number:09}" if contents.is_single else os.path.join(FOLDER, f"{number:09}")
            os.symlink(file.place, os.path.join(folder, name))
            names.append(name)
    except OSError as error:
        raise Unavailable(f"no links to the files can be made in {folder}: {error.strerror}") from error
    return names


def _named(document: bytes, contents: Contents) -> bytes:
    """Return the torrent with the names of the files instead of their numbers."""
    top, _ = decode_with_spans(document)
    info = top[b"info"]
    assert isinstance(info, dict)
    info[b"name"] = contents.name.encode()
    paths: list[list[Value]] = [[part.encode() for part in file.path] for file in contents.files]
    entries = info.get(b"files", [])
    assert isinstance(entries, list)
    for entry in entries:
        assert isinstance(entry, dict)
        if b"attr" not in entry:  # no pad file
            path = entry[b"path"]
            assert isinstance(path, list)
            entry[b"path"] = paths[int(path[-1])]  # type: ignore[arg-type] # bytes of digits
    if b"file tree" in info:
        info[b"file tree"] = _tree(info[b"file tree"], contents)
    return encode(top)


def _tree(numbers: Value, contents: Contents) -> Value:
    """Return the file tree for a flat one of numbers."""
    assert isinstance(numbers, dict)
    tree: dict[bytes, Value] = {}
    for number, leaf in numbers.items():
        *above, name = contents.files[int(number)].path
        node = tree
        for part in above:
            below = node.setdefault(part.encode(), {})
            assert isinstance(below, dict)
            node = below
        node[name.encode()] = leaf
    return tree


def _hashed(
    contents: Contents,
    names: Sequence[str],
    folder: str,
    recipe: Recipe,
    length: int,
    progress: Callable[[int], None],
) -> bytes:
    lt = library.libtorrent()
    flags = {"v1": lt.create_torrent.v1_only, "v2": lt.create_torrent.v2_only, "hybrid": 0}[recipe.kind]
    entries = [
        lt.create_file_entry(name, file.size, 0, 0, "") for name, file in zip(names, contents.files, strict=True)
    ]
    try:
        torrent = lt.create_torrent(entries, length, flags)
        torrent.set_creation_date(0)
        torrent.set_priv(recipe.private)
        for tier, url in enumerate(recipe.trackers):
            torrent.add_tracker(url, tier)
        for url in recipe.web_seeds:
            torrent.add_url_seed(url)
        pieces, told = torrent.num_pieces(), 0

        def hashed(piece: int) -> None:
            nonlocal told
            before, told = told, contents.size * (piece + 1) // pieces  # padding is hashed as well
            progress(told - before)

        lt.set_piece_hashes(torrent, folder, hashed)
        return bytes(lt.bencode(torrent.generate()))
    except RuntimeError as error:
        raise Unavailable(f"{contents.name} could not be hashed: {error}{_changed(contents)}") from error


def _changed(contents: Contents) -> str:
    """Return which file is not of its size any more, to be put behind an error."""
    for file in contents.files:
        try:
            if os.stat(file.place).st_size != file.size:
                return f": {file.place} was changed meanwhile"
        except OSError as error:
            return f": {file.place}: {error.strerror}"
    return ""


def _stamp(file: Content) -> tuple[int, int, int]:
    try:
        about = os.stat(file.place)
    except OSError as error:
        raise Unavailable(f"{file.place}: {error.strerror}") from error
    return about.st_size, about.st_mtime_ns, about.st_ino


def _check(metainfo: Metainfo, contents: Contents, recipe: Recipe) -> None:
    """Raise `SwarmError` if the torrent is not of these files."""
    meant = [(file.path, file.size) for file in contents.files]
    made = [(file.path, file.size) for file in metainfo.files]
    if (metainfo.name, made, metainfo.is_single) != (contents.name, meant, contents.is_single):
        raise SwarmError(f"another torrent was made of {contents.name} than was meant")
    if metainfo.private != recipe.private or metainfo.web_seeds != recipe.web_seeds:
        raise Damaged(f"libtorrent left out something of the torrent {contents.name}")
