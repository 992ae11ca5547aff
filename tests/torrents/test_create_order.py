"""The order of the files of a torrent: that of the file tree in both versions, whatever they are called."""

from __future__ import annotations

import hashlib
import tempfile
import time
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annex_remote.torrents import library
from annex_remote.torrents.bencode import decode
from annex_remote.torrents.contents import contents_of
from annex_remote.torrents.create import KINDS, Recipe, create
from annex_remote.torrents.metainfo import Metainfo, parse

PIECE = 1 << 14

NAMES = st.sampled_from(
    [
        "s",
        "s.txt",
        "s-",
        "s ",
        "S",
        "s!",
        "s0",
        "ß",
        "é",
        "e\u0301",
        "日本",
        "\U0001f600",
        "\uffff",
        ".",
        "..s",
        "~",
    ]
).filter(lambda name: name != ".")
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(tuple)
SIZES = st.sampled_from([0, 1, 100, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 40_000])


def write(folder: Path, files: dict[tuple[str, ...], int]) -> dict[tuple[str, ...], bytes]:
    """Write files, but those whose folder is a file already or the reverse; return what was written."""
    written = {}
    for path, size in files.items():
        place = folder.joinpath(*path)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content := Random("/".join(path)).randbytes(size))
        except OSError:
            continue
        written[path] = content
    return written


def check(document: bytes, name: str, contents: dict[tuple[str, ...], bytes], kind: str) -> Metainfo:
    """Fail unless a torrent is of these files by our own reading, by libtorrent's, and by every hash."""
    metainfo = parse(document)
    paths = sorted(contents, key=lambda path: [part.encode() for part in path])
    assert [file.path for file in metainfo.files] == paths
    data = bytearray(metainfo.size)
    for file in metainfo.files:
        assert file.size == len(contents[file.path])
        data[file.offset : file.offset + file.size] = contents[file.path]
    info = decode(document)[b"info"]  # type: ignore[index, call-overload]
    for index in range(metainfo.pieces):
        piece = bytes(data[index * PIECE : index * PIECE + metainfo.piece_size(index)])
        assert metainfo.proves(index, piece)
        if kind != "v2":
            assert info[b"pieces"][20 * index : 20 * index + 20] == hashlib.sha1(piece).digest()  # type: ignore[index, call-overload]
    lt = library.libtorrent()
    loaded = lt.load_torrent_buffer(document).ti
    storage = loaded.layout() if hasattr(loaded, "layout") else loaded.files()
    real = [number for number in range(storage.num_files()) if not storage.file_flags(number) & 1]
    assert [storage.file_size(number) for number in real] == [len(contents[path]) for path in paths]
    hashes = loaded.info_hashes()
    assert (hashes.v1.to_bytes() if hashes.has_v1() else None) == metainfo.v1
    assert (hashes.v2.to_bytes() if hashes.has_v2() else None) == metainfo.v2
    assert loaded.name() == name
    return metainfo


def made(folder: Path, kind: str) -> bytes:
    return create(contents_of([str(folder)]), Recipe(kind, PIECE), lambda _: None).document


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_stands_beside_a_folder_whose_name_it_begins_with(tmp_path: Path, kind: str) -> None:
    sizes = {("s.txt",): 20_000, ("s", "x"): 40_000, ("s-",): 3, ("S",): 5, ("s", "y", "z"): PIECE, ("s!",): 0}
    contents = write(tmp_path / "f", sizes)
    metainfo = check(made(tmp_path / "f", kind), "f", contents, kind)
    assert ["/".join(file.path) for file in metainfo.files] == ["S", "s/x", "s/y/z", "s!", "s-", "s.txt"]


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(PATHS, SIZES, min_size=1, max_size=8), st.sampled_from(KINDS))
def test_any_names_have_one_order(files: dict[tuple[str, ...], int], kind: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        one, other = Path(folder, "1", "set"), Path(folder, "2", "set")
        contents = write(one, {**files, ("last",): 10})
        write(other, {path: len(contents[path]) for path in reversed(contents)})
        document = made(one, kind)
        check(document, "set", contents, kind)
        assert made(other, kind) == document


@pytest.mark.parametrize("kind", KINDS)
def test_libtorrent_finds_all_content_by_the_torrent(tmp_path: Path, kind: str) -> None:
    # No names that differ by case alone: libtorrent changes one of these for systems where they are the same.
    write(tmp_path / "f", {("s.txt",): 20_000, ("s", "x"): 40_000, ("t",): 5, ("ü", "日本"): PIECE})
    lt = library.libtorrent()
    params = lt.load_torrent_buffer(made(tmp_path / "f", kind))
    params.save_path = str(tmp_path)
    session = lt.session({"listen_interfaces": "", "enable_dht": False, "enable_lsd": False})
    handle = session.add_torrent(params)
    end = time.monotonic() + 30
    while not handle.status().is_seeding and time.monotonic() < end:
        time.sleep(0.02)
    assert handle.status().is_seeding
