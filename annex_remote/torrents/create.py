"""Making a .torrent: the same input to the same bytes, hashed by libtorrent, and read before it is believed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from annex_remote.errors import BadSetting, Damaged, SwarmError, Unavailable
from annex_remote.limits import format_size
from annex_remote.torrents import library
from annex_remote.torrents.contents import Content, Contents
from annex_remote.torrents.metainfo import MAX_PIECES, Metainfo, parse
from annex_remote.torrents.urls import TRACKER_SCHEMES, WEB_SEED_SCHEMES, clean, shown

__all__ = ["KINDS", "Recipe", "checked_urls", "create", "usual_piece_length"]

KINDS = ("hybrid", "v1", "v2")

LEAST_PIECE, MOST_PIECE = 16 << 10, 128 << 20
"""Bytes of a piece that libtorrent takes; a power of two."""
USUAL_PIECE = 16 << 20
"""Bytes of a piece that other programs are sure to take, at most."""
USUAL_PIECES = 2048
"""Pieces that are aimed at: enough to fetch from many, and few enough for a short .torrent."""


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
    return tuple(dict.fromkeys(taken))


def create(contents: Contents, recipe: Recipe, progress: Callable[[int], None]) -> Metainfo:
    """Hash `contents`, and return the torrent; `progress` hears of bytes that were hashed, `contents.size` in all.

    Web seeds of a torrent with a folder get the ``/`` at their ends that BEP 19 wants of them.
    Nothing in it goes by times, modes, this machine or this program. Raises `BadSetting` for a piece length that
    cannot be, or where there is no libtorrent; `Unavailable` if a file cannot be read or changes meanwhile.
    """
    length = recipe.piece_length
    if length is None:
        length = usual_piece_length([file.size for file in contents.files], aligned=recipe.kind != "v1")
    elif not LEAST_PIECE <= length <= MOST_PIECE or length & (length - 1):
        raise BadSetting(
            f"--piece-length {format_size(length)}: a piece has {format_size(LEAST_PIECE)} to "
            f"{format_size(MOST_PIECE)}, and a power of two of bytes"
        )
    if not contents.is_single:
        seeds = [url if url.endswith("/") else f"{url}/" for url in recipe.web_seeds]
        recipe = replace(recipe, web_seeds=tuple(dict.fromkeys(seeds)))
    before = [_stamp(file) for file in contents.files]
    with tempfile.TemporaryDirectory(prefix="swarm-") as folder:
        names = _link(contents, folder)
        document = _hashed(contents, names, folder, recipe, length, progress)
    for file, stamp in zip(contents.files, before, strict=True):
        if _stamp(file) != stamp:
            raise Unavailable(f"{file.place} was changed while it was hashed: run it again when it is at rest")
    metainfo = parse(document)
    _check(metainfo, contents, recipe)
    return metainfo


def _link(contents: Contents, folder: str) -> list[str]:
    """Make links to all files, named as in the torrent, as libtorrent reads by those names; return the names."""
    names = []
    for file in contents.files:
        name = os.path.join(contents.name, *(() if contents.is_single else file.path))
        place = os.path.join(folder, name)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.symlink(file.place, place)
        names.append(name)
    return names


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
    meant = sorted((file.path, file.size) for file in contents.files)
    made = sorted((file.path, file.size) for file in metainfo.files)
    if recipe.kind == "v2" and metainfo.is_single != contents.is_single:
        raise BadSetting(
            f"a folder {contents.name} with one file of the same name is that file alone in a v2 torrent: name "
            "the file, or make it --hybrid"
        )
    if (metainfo.name, made, metainfo.is_single) != (contents.name, meant, contents.is_single):
        raise SwarmError(f"libtorrent made another torrent of {contents.name} than was meant")
    if metainfo.private != recipe.private or metainfo.web_seeds != recipe.web_seeds:
        raise Damaged(f"libtorrent left out something of the torrent {contents.name}")
