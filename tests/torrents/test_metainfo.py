from __future__ import annotations

import hashlib

import pytest

from annex_remote.errors import Damaged
from annex_remote.torrents import entries, metainfo
from annex_remote.torrents.bencode import Raw, encode
from annex_remote.torrents.metainfo import parse
from tests.torrents.documents import (
    ABC,
    BLOCK,
    FILE_A,
    FILE_B,
    FILE_C,
    PAD_A,
    PAD_B,
    PAD_C,
    A,
    B,
    C,
    content,
    entry,
    hybrid,
    info_with,
    listed,
    top,
    tree_with,
    v1,
    v1_info,
    v2,
    v2_file,
    v2_parts,
)


def test_the_zeros_that_a_file_ends_in_are_no_padding() -> None:
    data = b"x" + bytes(99)
    torrent = parse(v2({"x": data}))
    assert torrent.proves(0, data)
    assert torrent.proves(0, data + bytes(BLOCK - 100))
    assert not torrent.proves(0, b"x")
    assert not torrent.proves(0, b"x" + bytes(98))


@pytest.mark.parametrize("index", [-1, 3])
def test_there_is_no_such_piece(index: int) -> None:
    torrent = parse(v1([entry(3 * BLOCK, "a")]))
    for ask in (torrent.piece_size, lambda number: torrent.proves(number, b"")):
        with pytest.raises(IndexError):
            ask(index)


def test_pads_and_links_are_counted_and_left_out() -> None:
    torrent = parse(
        v1(
            [
                entry(5, "a", attr="x"),
                entry(7, "pad", attr="p"),
                entry(3, ".pad", "3"),
                entry(0, "link", attr="l", **{"symlink path": ["..", "..", "etc", "passwd"]}),
                entry(9, "link2", attr="lx"),  # libtorrent: links have no bytes, whatever they say
                entry(6, "sub", "b", attr="h"),
                entry(7, ".pad", "7", attr="l"),
                entry(2, "x", "_____padding_file_0_of BitComet____"),
                entry(1, ".pad", "x"),
                entry(1, "x", ".pad", "1"),
            ],
        )
    )
    assert listed(torrent) == [(1, "a", 5, 0), (6, "sub/b", 6, 15), (9, ".pad/x", 1, 23), (10, "x/.pad/1", 1, 24)]
    assert torrent.size == 25
    assert not torrent.is_single


def test_a_pad_file_of_a_tebibyte_needs_hashes_of_a_tebibyte() -> None:
    info = v1_info([entry(5, "a")])
    info["files"].append(entry(1 << 40, ".pad", "1", attr="p"))
    with pytest.raises(Damaged, match="67,108,865 pieces"):
        parse(encode({"info": info}))


def test_single_file() -> None:
    info = {"name": "x.iso", "piece length": BLOCK, "length": 3, "pieces": bytes(20)}
    torrent = parse(encode({"info": info}))
    assert listed(torrent) == [(1, "x.iso", 3, 0)]
    assert torrent.is_single
    assert (torrent.pieces, torrent.piece_size(0), torrent.span(torrent.files[0])) == (1, 3, range(1))
    torrent = parse(v1([entry(3, "T")]))
    assert not torrent.is_single
    assert not parse(v2({"T/T": b"x"})).is_single
    assert not parse(v2({"U": b"x"})).is_single
    assert parse(v2({"T": b"x"})).is_single


def test_v2_files_begin_on_pieces() -> None:
    contents = {"a": b"", "b": b"b" * 40_000, "c/d": b"", "c/e": b"e" * 5, "f": b"f" * BLOCK, "g": b""}
    torrent = parse(v2(contents))
    assert listed(torrent) == [
        (1, "a", 0, 0),
        (2, "b", 40_000, 0),
        (3, "c/d", 0, 40_000),
        (4, "c/e", 5, 3 * BLOCK),
        (5, "f", BLOCK, 4 * BLOCK),
        (6, "g", 0, 5 * BLOCK),
    ]
    assert (torrent.size, torrent.pieces) == (5 * BLOCK, 5)
    assert [torrent.piece_size(index) for index in range(5)] == [BLOCK, BLOCK, 40_000 - 2 * BLOCK, 5, BLOCK]
    assert [torrent.span(file) for file in torrent.files] == [
        range(0),
        range(3),
        range(0),
        range(3, 4),
        range(4, 5),
        range(0),
    ]


@pytest.mark.parametrize("length", [BLOCK, 2 * BLOCK, 8 * BLOCK])
@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK, 9 * BLOCK - 1, 17 * BLOCK + 3])
def test_v2_pieces_of_all_sizes(size: int, length: int) -> None:
    data = content("x", size)
    torrent = parse(v2({"x": data, "y": b"y"}, length))
    assert torrent.pieces == -(-size // length) + 1
    for index in range(torrent.pieces - 1):
        piece = data[index * length : (index + 1) * length]
        assert torrent.piece_size(index) == len(piece)
        assert torrent.proves(index, piece)
        assert not torrent.proves(index, bytes([piece[0] ^ 1]) + piece[1:])
    assert torrent.proves(torrent.pieces - 1, b"y")


def test_hybrid() -> None:
    torrent = parse(hybrid([FILE_A, PAD_A, FILE_B, PAD_B, FILE_C], ABC))
    assert listed(torrent) == [(1, "a", 5, 0), (3, "b", BLOCK + 1, BLOCK), (5, "c", 7, 3 * BLOCK)]
    assert [file.root is not None for file in torrent.files] == [True] * 3
    assert [torrent.piece_size(index) for index in range(4)] == [BLOCK, BLOCK, BLOCK, 7]
    assert all(torrent.proves(index, piece) for index, piece in enumerate([A, B[:BLOCK], B[BLOCK:], C]))
    assert torrent.proves(0, A + bytes(BLOCK - 5))
    assert parse(hybrid([FILE_A, PAD_A, FILE_B, PAD_B, FILE_C, PAD_C], ABC)).piece_size(3) == BLOCK
    empty = parse(hybrid([FILE_A, entry(0, "aa"), PAD_A, FILE_B], {"a": A, "aa": b"", "b": B}))
    assert listed(empty)[1] == (2, "aa", 0, 5)


HYBRIDS = {
    "no padding": [FILE_A, FILE_B, FILE_C],
    "padding by name alone": [FILE_A, entry(BLOCK - 5, ".pad", "16379"), FILE_B, PAD_B, FILE_C],
    "another order": [FILE_B, PAD_B, FILE_A, PAD_A, FILE_C],
    "a file more": [FILE_A, PAD_A, FILE_B, PAD_B, FILE_C, entry(0, "d")],
    "a file less": [FILE_A, PAD_A, FILE_B],
    "another name": [FILE_A, PAD_A, FILE_B, PAD_B, entry(7, "C")],
    "another size": [FILE_A, PAD_A, FILE_B, PAD_B, entry(8, "c")],
    "padding too short": [FILE_A, entry(BLOCK - 6, "x", attr="p"), FILE_B, PAD_B, FILE_C],
    "padding of more than a piece": [FILE_A, entry(2 * BLOCK - 5, "x", attr="p"), FILE_B, PAD_B, FILE_C],
    "padding before all": [entry(BLOCK, "x", attr="p"), FILE_A, PAD_A, FILE_B, PAD_B, FILE_C],
    "padding of the last file too short": [FILE_A, PAD_A, FILE_B, PAD_B, FILE_C, entry(1, "x", attr="p")],
    "pieces behind all": [FILE_A, PAD_A, FILE_B, PAD_B, FILE_C, entry(BLOCK, "x", attr="p")],
}


@pytest.mark.parametrize("name", HYBRIDS)
def test_hybrids_that_are_two_torrents(name: str) -> None:
    with pytest.raises(Damaged, match="two torrents in one"):
        parse(hybrid(HYBRIDS[name], ABC))


def test_a_hybrid_file_and_a_folder_differ() -> None:
    tree, _ = v2_parts({"T": A}, BLOCK)
    single = {"name": "T", "piece length": BLOCK, "length": 5, "pieces": bytes(20), "meta version": 2}
    assert parse(encode({"info": single | {"file tree": tree}})).is_single
    with pytest.raises(Damaged, match="two torrents in one"):
        parse(encode({"info": single | {"file tree": {"U": tree["T"]}}}))


ROOT = bytes(range(32))
X = {"": {"length": 5, "pieces root": ROOT}}
LARGE, LARGE_LAYER = v2_file(b"x" * 50_000, BLOCK)
TREE = encode({"a": X})
OUT_OF_ORDER = Raw(b"d12:meta versioni2e9:file tree" + TREE + b"4:name1:T12:piece lengthi16384ee")
REFUSED = {
    "nothing": (b"", "empty"),
    "no dictionary": (b"le", "dictionary"),
    "a web page": (b"<!DOCTYPE html><html>", "not a torrent"),
    "cut": (top()[:-1], "cut short"),
    "no info": (b"de", "no info"),
    "info that is a list": (b"d4:infolee", "no info"),
    "a key twice": (b"d4:infode4:infodee", "twice"),
    "no name": (info_with(name=""), "no name"),
    "a name that is a number": (info_with(name=1), "no name"),
    "no files": (v1([]), "list of files"),
    "files that are none": (info_with(files=3), "list of files"),
    "length and files": (info_with(length=5), "both"),
    "no length, no files": (encode({"info": {"name": "x", "piece length": BLOCK, "pieces": b""}}), "no length"),
    "no pieces": (encode({"info": {"name": "x", "piece length": BLOCK, "length": 5}}), "hashes"),
    "a hash too few": (info_with(pieces=bytes(20)), "hashes"),
    "a hash too many": (info_with(pieces=bytes(60)), "hashes"),
    "a byte too many": (info_with(pieces=bytes(41)), "hashes"),
    "hashes in a list": (info_with(pieces=[bytes(40)]), "hashes"),
    "piece length 0": (info_with(piece_length=0), "piece length"),
    "piece length -1": (info_with(piece_length=-1), "piece length"),
    "piece length of a GiB": (info_with(piece_length=1 << 30, pieces=bytes(20)), "piece length"),
    "piece length in words": (info_with(piece_length=b"16384"), "piece length"),
    "negative size": (v1([entry(-5, "a"), entry(10, "b")]), "length"),
    "size over 63 bits": (info_with(files=[entry(1 << 63, "a")]), "length"),
    "sizes over 63 bits": (info_with(files=[entry((1 << 63) - 1, "a")] * 9), "pieces"),
    "size in words": (info_with(files=[{"length": "5", "path": ["a"]}]), "length"),
    "no size": (info_with(files=[{"path": ["a"]}]), "length"),
    "no path": (info_with(files=[{"length": 5}]), "path"),
    "empty path": (v1([entry(5)]), "path"),
    "empty path.utf-8": (info_with(files=[entry(5, "a", **{"path.utf-8": []})]), "path"),
    "path of numbers": (info_with(files=[{"length": 5, "path": [1]}]), "path"),
    "path in one": (info_with(files=[{"length": 5, "path": "a/b"}]), "path"),
    "file that is a list": (info_with(files=[[]]), "dictionary"),
    "only pads": (v1([entry(5, "a", attr="p")]), "no file"),
    "only links": (v1([entry(5, "a", attr="l")]), "no file|hashes"),
    "only empty files": (v1([entry(0, "a")]), "no bytes"),
    "version 3": (info_with(meta_version=3), "version"),
    "version in words": (info_with(meta_version="2"), "version"),
    "tree without version": (info_with(file_tree={"a": X}), "version 2"),
    "version without tree": (info_with(meta_version=2), "file tree"),
    "tree that is a list": (tree_with([b"a"]), "file tree"),
    "empty tree": (tree_with({}), "no file"),
    "tree without files": (tree_with({"a": {"b": {}}}), "no file"),
    "tree of empty files": (tree_with({"a": {"": {"length": 0}}}), "no bytes"),
    "file without a name": (tree_with(X), "file tree"),
    "file that is a folder": (tree_with({"a": {**X, "b": X}}), "also a folder"),
    "node that is a number": (tree_with({"a": 1}), "node"),
    "file that is a number": (tree_with({"a": {"": 1}}), "also a folder"),
    "tree out of order": (tree_with(Raw(b"d1:b" + encode(X) + b"1:a" + encode(X) + b"e")), "out of order"),
    "folder out of order": (
        tree_with({"z": Raw(b"d1:b" + encode(X) + b"1:a" + encode(X) + b"e")}),
        "out of order",
    ),
    "file out of order": (
        tree_with({"a": {"": Raw(b"d11:pieces root32:" + ROOT + b"6:lengthi5ee")}}),
        "out of order",
    ),
    "info of version 2 out of order": (encode({"info": OUT_OF_ORDER}), "out of order"),
    "no root": (tree_with({"a": {"": {"length": 5}}}), "root"),
    "root of 31 bytes": (tree_with({"a": {"": {"length": 5, "pieces root": ROOT[1:]}}}), "root"),
    "pad in version 2": (tree_with({"a": X, "b": {"": {**X[""], "attr": "p"}}}), "pad file"),
    "v2 negative size": (tree_with({"a": {"": {"length": -1, "pieces root": ROOT}}}), "length"),
    "v2 size of a PiB": (tree_with({"a": {"": {"length": 1 << 50, "pieces root": ROOT}}}), "pieces"),
    "v2 piece length of 8 KiB": (tree_with({"a": X}, **{"piece length": 8192}), "power of two"),
    "v2 piece length of 48 KiB": (tree_with({"a": X}, **{"piece length": 49152}), "power of two"),
    "layers in a list": (tree_with({"a": X}, []), "piece layers"),
    "layer too short": (
        tree_with({"a": {"": LARGE}}, {LARGE["pieces root"]: b"".join(LARGE_LAYER[:-1])}),
        "layer",
    ),
    "layer too long": (
        tree_with({"a": {"": LARGE}}, {LARGE["pieces root"]: b"".join(LARGE_LAYER) + ROOT}),
        "layer",
    ),
    "layer in a list": (tree_with({"a": {"": LARGE}}, {LARGE["pieces root"]: LARGE_LAYER}), "layer"),
    "layer of a file that is one piece": (tree_with({"a": X}, {ROOT: ROOT}), "layer of no file"),
    "layer of a file that is just one piece": (
        tree_with({"a": {"": {"length": BLOCK, "pieces root": ROOT}}}, {ROOT: ROOT}),
        "layer of no file",
    ),
    "empty layer": (tree_with({"a": {"": LARGE}}, {LARGE["pieces root"]: b""}), "4 hashes"),
    "layer of no file": (tree_with({"a": {"": LARGE}}, {"x": ROOT}), "layer of no file"),
    "layer of another": (tree_with({"a": {"": LARGE}}, {LARGE["pieces root"]: ROOT * 4}), "layer"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    document, why = REFUSED[name]
    with pytest.raises(Damaged, match=why) as caught:
        parse(document)
    assert "\n" not in str(caught.value)


def test_long_documents_are_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    document = top()
    monkeypatch.setattr(metainfo, "MAX_SIZE", len(document))
    assert parse(document)
    with pytest.raises(Damaged, match="longer than"):
        parse(document + b"\n")


def test_many_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert entries.MAX_FILES == 100_000
    monkeypatch.setattr(entries, "MAX_FILES", 20)
    for count in (20, 21):
        names = [f"{number:03}" for number in range(count)]
        for document in (v1([entry(1, name) for name in names]), v2(dict.fromkeys(names, b"x"))):
            if count == 20:
                assert len(parse(document).files) == 20
            else:
                with pytest.raises(Damaged, match=r"files, and 20 is the most|more than 20 files"):
                    parse(document)


def test_many_pieces_are_refused() -> None:
    size = metainfo.MAX_PIECES * BLOCK
    file = {"length": size, "pieces root": ROOT}
    assert parse(tree_with({"a": {"": file}})).pieces == metainfo.MAX_PIECES
    with pytest.raises(Damaged, match="2,097,153 pieces"):
        parse(tree_with({"a": {"": file | {"length": size + 1}}}))


def test_what_is_out_of_order_is_taken_and_hashed_as_it_is() -> None:
    raw = b"d6:lengthi5e4:name1:x6:pieces20:" + bytes(20) + b"12:piece lengthi16384e1:zle1:aded1:bi1ee"[:22] + b"e"
    raw = b"d6:lengthi5e4:name1:x6:pieces20:" + bytes(20) + b"12:piece lengthi16384e1:zle1:adee"
    torrent = parse(b"d4:info" + raw + b"8:announce13:udp://a.b:1/xe\n")
    assert torrent.v1 == hashlib.sha1(raw).digest()
    assert torrent.trackers == (("udp://a.b:1/x",),)


def test_names_are_utf8_or_made_so() -> None:
    torrent = parse(
        v1(
            [
                entry(1, b"\xff\xfe", b"a\xed\xa0\x80"),
                entry(1, b"legacy", **{"path.utf-8": ["s", "ü"]}),
                entry(1, b"x", **{"path.utf-8": 7}),
                entry(1, "", ".."),
            ],
            **{"name": b"\xe9t\xe9", "name.utf-8": "été"},
        )
    )
    assert torrent.name == "été"
    assert [file.path for file in torrent.files] == [
        ("\ufffd\ufffd", "a\ufffd\ufffd\ufffd"),
        ("s", "ü"),
        ("x",),
        ("", ".."),
    ]
    assert parse(info_with(name=b"\xe9t\xe9")).name == "\ufffdt\ufffd"
    for file in torrent.files:
        "".join(file.path).encode()


def test_trackers() -> None:
    tiers = [
        ["wss://t.example", "HTTP://T.example/announce", "udp://t.example:6969"],
        ["http://t.example/announce", "file:///etc/passwd", ""],
        [],
        "https://u.example/a b",
        [7, ["udp://x.example:1"]],
        5,
    ]
    torrent = parse(top(**{"announce-list": tiers, "announce": "http://first.example/"}))
    assert torrent.trackers == (
        ("http://t.example/announce", "udp://t.example:6969"),
        ("https://u.example/a%20b",),
    )
    assert torrent.dropped == ("wss://t.example", "file:///etc/passwd")
    for useless in ([], [["wss://t.example"]], "http://x.example", 7):
        torrent = parse(top(**{"announce-list": useless, "announce": "http://first.example/"}))
        assert torrent.trackers == (("http://first.example/",),)
    assert parse(top()).trackers == ()
    assert parse(top(announce="wss://t.example/0123456789abcdef0123?k=1")).dropped == ("wss://t.example/…",)


def test_web_seeds() -> None:
    assert parse(top(**{"url-list": "http://s.example/x"})).web_seeds == ("http://s.example/x",)
    assert parse(top(**{"url-list": ""})).web_seeds == ()
    assert parse(top(**{"url-list": {"a": "http://s.example/"}})).web_seeds == ()
    seeds = [
        "https://s.example/",
        "ftp://s.example/",
        "file:///etc/",
        "gopher://s.example/1",
        "https://s.example/",
        "x",
    ]
    torrent = parse(top(**{"url-list": seeds, "httpseeds": ["http://h.example/"], "nodes": [["n.example", 1]]}))
    assert torrent.web_seeds == ("https://s.example/",)
    assert torrent.dropped == ("ftp://s.example", "file:///etc/", "gopher://s.example/1", "x")


def test_lists_of_urls_have_a_bound() -> None:
    urls = [f"http://s{number}.example/" for number in range(5000)]
    torrent = parse(top(**{"url-list": urls, "announce-list": [[url] for url in urls]}))
    assert torrent.web_seeds == tuple(urls[:200])
    assert torrent.trackers == tuple((url,) for url in urls[:200])
    assert len(torrent.dropped) == 200


def test_what_is_far_behind_is_not_looked_at() -> None:
    good = "http://s.example/"
    for behind, taken in ((999, (good,)), (1000, ())):
        torrent = parse(top(**{"url-list": ["x"] * behind + [good], "announce-list": [[]] * behind + [[good]]}))
        assert torrent.web_seeds == taken
        assert torrent.trackers == ((taken,) if taken else ())


def test_the_longest_pieces() -> None:
    longest = metainfo.MAX_PIECE_LENGTH
    assert parse(info_with(**{"piece length": longest, "pieces": bytes(20)})).piece_length == longest
    with pytest.raises(Damaged, match="piece length"):
        parse(info_with(**{"piece length": longest + 1, "pieces": bytes(20)}))


def test_documents_are_not_shown_whole() -> None:
    assert len(repr(parse(info_with(x="y" * 5000)))) < 500


def test_private() -> None:
    assert parse(info_with(private=1)).private
    assert not parse(info_with(private=0)).private
    assert not parse(info_with(private="1")).private
    assert not parse(top(private=1)).private
