"""A torrent's metadata as a magnet brings it; the magnet of a torrent; choosing a file."""

from __future__ import annotations

import hashlib

import pytest

from annex_remote.errors import BadSetting, Damaged
from annex_remote.torrents import metainfo
from annex_remote.torrents.bencode import encode
from annex_remote.torrents.metainfo import Metainfo, from_info, parse
from annex_remote.torrents.urls import Magnet, torrent_url
from tests.torrents.documents import (
    ABC,
    BLOCK,
    FILE_A,
    FILE_B,
    FILE_C,
    PAD_A,
    PAD_B,
    A,
    B,
    C,
    entry,
    hybrid,
    info_of,
    sha256,
    top,
    v1,
    v1_info,
    v2,
)


def test_the_metadata_of_a_magnet() -> None:
    document = hybrid([FILE_A, PAD_A, FILE_B, PAD_B, FILE_C], ABC)
    info = info_of(document)
    one, two = hashlib.sha1(info).digest(), hashlib.sha256(info).digest()
    trackers, seeds = ("udp://t.example:1", "http://t.example/"), ("http://s.example/",)
    for magnet in (Magnet(one, None), Magnet(None, two), Magnet(one, two, "other", trackers, seeds)):
        torrent = from_info(info, magnet)
        assert (torrent.v1, torrent.v2, torrent.name) == (one, two, "T")
        assert torrent.trackers == tuple((tracker,) for tracker in magnet.trackers)
        assert torrent.web_seeds == magnet.web_seeds
        assert parse(torrent.document) == torrent
    for magnet in (Magnet(two[:20], None), Magnet(one, one + bytes(12)), Magnet(bytes(20), two)):
        with pytest.raises(Damaged, match="hash"):
            from_info(info, magnet)


@pytest.mark.parametrize("info", [b"", b"de\n", b"de8:url-listi1e", b"le", b"i1e", info_of(top()) + b"\n"])
def test_metadata_that_is_more_than_a_dictionary(info: bytes) -> None:
    with pytest.raises(Damaged):
        from_info(info, Magnet(hashlib.sha1(info).digest(), None))
    with pytest.raises(Damaged):
        from_info(info, Magnet(None, hashlib.sha256(info).digest()))


def test_metadata_cannot_bring_its_own_document() -> None:
    info = info_of(top()) + b"8:url-list17:http://e.example/"
    with pytest.raises(Damaged, match="more than a dictionary"):
        from_info(info, Magnet(hashlib.sha1(info).digest(), None))


def test_long_metadata_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    info = info_of(top())
    magnet = Magnet(hashlib.sha1(info).digest(), None)
    monkeypatch.setattr(metainfo, "MAX_SIZE", len(info) - 1)
    with pytest.raises(Damaged, match="longer than"):
        from_info(info, magnet)


def test_without_piece_layers() -> None:
    info = info_of(v2({"a": A, "b": B}))
    torrent = from_info(info, Magnet(None, sha256(info)))
    assert not torrent.has_layers
    assert torrent.proves(0, A)  # of one piece: its hash is the root
    with pytest.raises(ValueError, match="piece layers"):
        torrent.proves(1, B[:BLOCK])
    assert not torrent.proves(1, B[: BLOCK - 1])
    info = info_of(v2({"a": A, "c": C, "d": B[:BLOCK]}))
    assert from_info(info, Magnet(None, sha256(info))).has_layers


def test_a_hybrid_without_piece_layers_is_proved_by_v1() -> None:
    info = info_of(hybrid([FILE_A, PAD_A, FILE_B, PAD_B, FILE_C], ABC))
    torrent = from_info(info, Magnet(None, sha256(info)))
    assert torrent.has_layers
    assert torrent.proves(0, A)
    assert torrent.proves(1, B[:BLOCK])
    assert torrent.proves(2, B[BLOCK:])
    assert torrent.proves(2, B[BLOCK:] + bytes(BLOCK - 1))
    assert not torrent.proves(2, b"c")
    assert torrent.proves(3, C)


def test_magnets_are_written_with_what_is_safe() -> None:
    document = top(
        **{
            "announce-list": [
                ["http://t.example/0123456789abcdef0123456789abcdef/announce", "http://t.example/announce"],
                ["http://u:p@t.example/announce", "http://t.example/announce?key=1", "udp://t.example:6969"],
            ],
            "url-list": ["https://s.example/pub/", "https://u:p@s.example/", "https://s.example/?key=1"],
        }
    )
    torrent = parse(document)
    start = f"magnet:?xt=urn:btih:{torrent.id}&dn=T"
    public = (
        "&tr=http%3A%2F%2Ft.example%2Fannounce&tr=udp%3A%2F%2Ft.example%3A6969&ws=https%3A%2F%2Fs.example%2Fpub%2F"
    )
    assert torrent.magnet() == start + public
    assert torrent.magnet(2) == torrent.magnet("b") == f"{start}{public}#2"
    with pytest.raises(BadSetting):
        torrent.magnet(3)
    private = parse(encode({"info": v1_info([entry(5, "a")], private=1), "announce": "http://t.example/announce"}))
    assert private.magnet() == f"magnet:?xt=urn:btih:{private.id}&dn=T"
    both = parse(hybrid([FILE_A, PAD_A, FILE_B, PAD_B, FILE_C], ABC))
    found = torrent_url(both.magnet("c"))
    assert found is not None
    assert (found.magnet, found.choice) == (Magnet(both.v1, both.v2, "T"), 5)


# Choosing


def numbered(torrent: Metainfo, choice: int | str | None) -> int:
    return torrent.pick(choice).number


def test_files_are_chosen() -> None:
    torrent = parse(
        v1(
            [
                entry(1, "x"),
                entry(1, "pad", attr="p"),
                entry(1, "a b", "c d.iso"),
                entry(1, "T", "x"),
                entry(1, "x", "..", "e\u0301\n.iso"),
                entry(1, "X"),
                entry(1, "3"),
                entry(1, "a b", "\n c"),
            ]
        )
    )
    for number in (1, 3, 4, 5, 6, 7, 8):
        assert numbered(torrent, number) == number
    for path, number in {
        "x": 1,
        "a b/c d.iso": 3,
        "/a b/c d.iso/": 3,
        "T/a b/c d.iso": 3,
        "a_b/c_d.iso": 3,
        "T/a_b/c_d.iso": 3,
        "T/x": 4,
        "T/T/x": 4,
        "x/../\u00e9\n.iso": 5,
        "x/__/e\u0301_.iso": 5,
        "X": 6,
        "X_3": 6,
        "x_2": 1,
        "3": 7,
        "a b/c": 8,
        "a b/\n c": 8,
        "a_b/c": 8,
    }.items():
        assert numbered(torrent, path) == number, path
    for choice in (None, 0, 2, 9, -1, "", "/", "c d.iso", "pad", "nothing", "\x1b[2J"):
        with pytest.raises(BadSetting) as caught:
            torrent.pick(choice)
        assert "#1 x, #3 a b/c d.iso, #4 T/x, #5 x/../e\u0301\ufffd.iso, #6 X and 2 more" in str(caught.value)


def test_the_only_file_needs_no_choice() -> None:
    torrent = parse(v1([entry(1, "pad", attr="p"), entry(1, "x")]))
    for choice in (None, 2, "x", "T/x"):
        assert numbered(torrent, choice) == 2
    for choice in (1, "y"):
        with pytest.raises(BadSetting, match="no file"):
            torrent.pick(choice)
