"""Torrents that other programs made, whole and with bytes changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annex_remote.errors import Damaged
from annex_remote.torrents.metainfo import Metainfo, TorrentFile, parse
from annex_remote.torrents.urls import torrent_url
from tests.torrents.documents import content

VECTORS = Path(__file__).parent / "vectors"
FOLDER = {"a.bin": 70_000, "empty": 0, "sub/b ü.txt": 16_384, "sub/c": 5}
FILE = {"one ü.iso": 100_000}
HASHES = {
    "libtorrent-hybrid-file": (
        "a771075f00de36c81345e3729ee58dcfe9cee9d5",
        "f29aca03002633a277aec51a8f9f182bc2e6c0c192c161101e966f7ab77fa85a",
    ),
    "libtorrent-hybrid-folder": (
        "abebd2074e5a9d64f91fb9a53546fb3f918d3346",
        "93af4c6909e6a532d21db92db44df9e8bdf6b70b77dea8041fb1a45f535faf34",
    ),
    "libtorrent-v1-file": ("76d6cfeb2f70630dce313021a9a4729e26d4b2d8", None),
    "libtorrent-v1-folder": ("283940fe9c0c5d346a98ba6a5720ccf8640ad065", None),
    "libtorrent-v2-file": (None, "7e8e5749d58b43af6dff2d76585138c4a17c4c4e430648a2a397de83f37c513a"),
    "libtorrent-v2-folder": (None, "44db06976ca22a64339b0b4564a13adc65e7d77b0394c06f7dc88b23185f162a"),
    "transmission-file": ("6f40be217c9934ad8619ed03061391d8ff15e58f", None),
    "transmission-folder": ("f4d2e0931258b3ee4355440e46c9a1aa3f38c443", None),
    "webtorrent-file": ("60a4a322ae9835420d4c2ddbd337eefe72203450", None),
    "webtorrent-folder": ("48ffb6abab45c23293e9cbe15c50b48c1051092e", None),
}


def vector(name: str) -> Metainfo:
    return parse((VECTORS / f"{name}.torrent").read_bytes())


def whole(torrent: Metainfo, contents: Mapping[str, bytes]) -> bytes:
    """Return the torrent's bytes, padding too, to the end of the last piece."""
    data = bytearray(torrent.pieces * torrent.piece_length)
    for file in torrent.files:
        data[file.offset : file.offset + file.size] = contents["/".join(file.path)]
    return bytes(data)


def test_all_vectors_are_here() -> None:
    assert {path.stem for path in VECTORS.glob("*.torrent")} == set(HASHES)


@pytest.mark.parametrize("name", HASHES)
def test_vectors(name: str) -> None:
    torrent = vector(name)
    v1, v2 = HASHES[name]
    assert torrent.v1 == (None if v1 is None else bytes.fromhex(v1))
    assert torrent.v2 == (None if v2 is None else bytes.fromhex(v2))
    assert torrent.id == (v1 or v2)
    assert torrent.is_single is name.endswith("file")
    sizes = FILE if torrent.is_single else dict(FOLDER)
    if name == "transmission-folder":
        del sizes["empty"]  # it leaves out empty files
    assert torrent.name == ("one ü.iso" if torrent.is_single else "Music & more")
    assert {"/".join(file.path): file.size for file in torrent.files} == sizes
    assert torrent.private is name.startswith("transmission")
    tiers = (("http://tracker.example/announce",), ("udp://tracker.example:6969",))
    assert torrent.trackers == (tiers[:1] if name.startswith("webtorrent") else tiers)
    assert torrent.web_seeds == (() if torrent.private else ("https://mirror.example/pub/",))
    assert torrent.dropped == ()
    assert torrent.has_layers
    assert torrent.document == (VECTORS / f"{name}.torrent").read_bytes()


@pytest.mark.parametrize("name", HASHES)
def test_pieces_of_vectors(name: str) -> None:
    torrent = vector(name)
    contents = {path: content(path, size) for path, size in (FILE | FOLDER).items()}
    data = whole(torrent, contents)
    seen = set()
    for index in range(torrent.pieces):
        piece = data[index * torrent.piece_length :][: torrent.piece_size(index)]
        assert torrent.proves(index, piece)
        assert torrent.proves(index, bytearray(piece))
        assert torrent.proves(index, memoryview(piece))
        for at in {0, len(piece) // 2, len(piece) - 1}:
            assert not torrent.proves(index, piece[:at] + bytes([piece[at] ^ 1]) + piece[at + 1 :])
        assert not torrent.proves(index, piece[:-1])
        assert not torrent.proves(index, piece + b"\1")
        assert not torrent.proves(index, b"")
        seen.add(piece)
    assert len(seen) > 2
    for file in torrent.files:
        span = torrent.span(file)
        assert span == range(0) or (
            span.start * torrent.piece_length <= file.offset
            and file.offset + file.size <= span.stop * torrent.piece_length
            and len(span) <= file.size // torrent.piece_length + 2
        )


@pytest.mark.parametrize("kind", ["v2", "hybrid"])
def test_padding_may_be_there_or_not(kind: str) -> None:
    torrent = vector(f"libtorrent-{kind}-folder")
    piece = content("a.bin", 70_000)[65_536:]
    assert torrent.span(torrent.files[0]) == range(3)
    assert torrent.piece_size(2) == (32_768 if kind == "hybrid" else 4464)
    padded = piece + bytes(32_768 - 4464)
    assert torrent.proves(2, piece)
    assert torrent.proves(2, padded)
    assert not torrent.proves(2, padded[:-1] + b"\1")
    assert not torrent.proves(2, padded[:-1])
    assert not torrent.proves(2, piece + b"\0")
    assert not torrent.proves(2, padded + b"\0")


@given(st.binary(max_size=200))
def test_bytes_of_any_kind(data: bytes) -> None:
    with pytest.raises(Damaged):
        parse(data)


@given(st.sampled_from(sorted(HASHES)), st.integers(0, 1100), st.binary(min_size=1, max_size=6), st.booleans())
def test_vectors_with_bytes_changed(name: str, at: int, data: bytes, is_in: bool) -> None:
    document = (VECTORS / f"{name}.torrent").read_bytes()
    at %= len(document)
    document = document[:at] + data + document[at + (0 if is_in else len(data)) :]
    try:
        torrent = parse(document)
    except Damaged as damaged:
        str(damaged).encode()
        return
    sound(torrent)


def sound(torrent: Metainfo) -> None:
    """Assert what holds of every torrent that is taken."""
    assert torrent.pieces == -(-torrent.size // torrent.piece_length) > 0
    end = 0
    for file in torrent.files:
        assert isinstance(file, TorrentFile)
        assert file.path
        assert file.offset >= end or not file.size
        end = max(end, file.offset + file.size)
        assert torrent.pick(file.number) is file
        "".join(file.path).encode()
    assert end <= torrent.size
    for index in range(torrent.pieces):
        assert 0 < torrent.piece_size(index) <= torrent.piece_length
        if torrent.has_layers:
            torrent.proves(index, bytes(torrent.piece_size(index)))
    found = torrent_url(torrent.magnet())
    assert found is not None
    assert found.magnet is not None
    assert (found.magnet.v1, found.magnet.v2) == (torrent.v1, torrent.v2)
