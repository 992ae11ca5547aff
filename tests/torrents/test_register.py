"""Matching content to a torrent's files: what proves is found whatever it is called, and nothing else is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annex_remote.errors import Unavailable
from annex_remote.torrents.bencode import encode
from annex_remote.torrents.contents import contents_of
from annex_remote.torrents.create import KINDS, Recipe, create
from annex_remote.torrents.metainfo import Metainfo, from_info, parse
from annex_remote.torrents.register import Candidate, Fate, Match, match
from annex_remote.torrents.urls import Magnet, recorded, torrent_url

PIECE = 1 << 14

Files = dict[str, bytes]


def noise(name: str, size: int) -> bytes:
    return Random(name).randbytes(size)


FILES: Files = {
    "1 first.bin": noise("a", 3 * PIECE + 100),
    "2 small.txt": noise("b", 1000),
    "3 small.txt": noise("c", 1000),
    "4 second.bin": noise("d", 2 * PIECE),
    "5 none": b"",
    "sub/6 last.bin": noise("e", 2 * PIECE + 7),
}


def torrent_of(folder: Path, files: Mapping[str, bytes], kind: str) -> Metainfo:
    for name, data in files.items():
        path = folder / "the torrent" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    contents = contents_of([str(folder / "the torrent")])
    return create(contents, Recipe(kind, PIECE), lambda _: None)


@dataclass
class Annex:
    """Contents by key; each has names in the work tree. A key in `gone` cannot be read any more."""

    contents: dict[str, bytes] = field(default_factory=dict)
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    read_bytes: int = 0

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> Annex:
        return cls(
            {f"KEY--{name}": data for name, data in files.items()}, {f"KEY--{name}": (name,) for name in files}
        )

    def read(self, candidate: Candidate, offset: int, size: int) -> bytes:
        if candidate.key in self.gone:
            raise Unavailable("it was dropped")
        self.read_bytes += size
        return self.contents[candidate.key][offset : offset + size]

    def match(self, metainfo: Metainfo) -> dict[str, Match]:
        candidates = [Candidate(key, self.names.get(key, ()), len(data)) for key, data in self.contents.items()]
        return {"/".join(each.file.path): each for each in match(metainfo, candidates, self.read)}


def fates(matches: Mapping[str, Match]) -> dict[str, Fate]:
    return {name: each.fate for name, each in matches.items()}


def keys(matches: Mapping[str, Match]) -> dict[str, list[str]]:
    return {name: [one.key for one in each.candidates] for name, each in matches.items() if each.candidates}


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_is_here_is_found_under_whatever_name(tmp_path: Path, kind: str) -> None:
    metainfo = torrent_of(tmp_path, FILES, kind)
    annex = Annex({f"KEY{number}": data for number, data in enumerate(reversed(FILES.values()))})
    matches = annex.match(metainfo)
    assert {name: each.fate for name, each in matches.items()} == {
        name: Fate.PROVED if data else Fate.EMPTY for name, data in FILES.items()
    }
    assert {name: annex.contents[key] for name, [key] in keys(matches).items()} == {
        name: data for name, data in FILES.items() if data
    }
    assert {each.unproved for each in matches.values()} == {0}


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_byte_is_no_match(tmp_path: Path, kind: str) -> None:
    metainfo = torrent_of(tmp_path, FILES, kind)
    for name, data in FILES.items():
        for at in {0, len(data) // 2, len(data) - 1} if data else set():
            changed = bytearray(data)
            changed[at] ^= 1
            annex = Annex.of({**FILES, name: bytes(changed)})
            matches = annex.match(metainfo)
            assert not matches[name].candidates, (name, at)
            assert matches[name].why
            if kind != "v1":
                assert [
                    each
                    for each, found in fates(matches).items()
                    if found is not Fate.PROVED and found is not Fate.EMPTY
                ] == [name]


def test_v1_edges_whose_neighbour_is_not_here_are_counted(tmp_path: Path) -> None:
    metainfo = torrent_of(tmp_path, FILES, "v1")
    files = {name: data for name, data in FILES.items() if name != "2 small.txt"}
    matches = Annex.of(files).match(metainfo)
    assert matches["2 small.txt"].fate is Fate.UNPROVED  # what is of its size may be it
    assert matches["3 small.txt"].fate is Fate.UNPROVED
    first, second = matches["1 first.bin"], matches["4 second.bin"]
    assert (first.fate, first.unproved) == (Fate.PROVED, 100)
    assert (second.fate, second.unproved) == (Fate.PROVED, PIECE - 100 - 2000)
    assert matches["sub/6 last.bin"].unproved == 0


def test_a_v1_file_without_a_piece_of_its_own_is_proved_by_its_neighbours_alone(tmp_path: Path) -> None:
    metainfo = torrent_of(tmp_path, FILES, "v1")
    alone = Annex.of({"3 small.txt": FILES["3 small.txt"]}).match(metainfo)["3 small.txt"]
    assert (alone.fate, alone.candidates) == (Fate.UNPROVED, ())
    assert alone.why == (
        "3 small.txt has its size, but all its pieces are shared with neighbours that are not here, or are "
        "others: nothing proves it"
    )
    nothing = Annex().match(metainfo)["3 small.txt"]
    assert (nothing.fate, nothing.why) == (
        Fate.ABSENT,
        "no annexed file that is here has its 1,000 bytes",
    )
    assert Annex.of(FILES).match(metainfo)["3 small.txt"].fate is Fate.PROVED


def test_v1_neighbours_that_quarrel_are_both_left_out(tmp_path: Path) -> None:
    """A tag at the end of a song was changed: its own pieces prove, and the one that it shares does not."""
    songs = {"1.mp3": noise("x", 3 * PIECE + 200), "2.mp3": noise("y", 3 * PIECE)}
    metainfo = torrent_of(tmp_path, songs, "v1")
    tagged = {**songs, "1.mp3": songs["1.mp3"][:-128] + bytes(128)}
    matches = Annex.of(tagged).match(metainfo)
    assert fates(matches) == {"1.mp3": Fate.UNPROVED, "2.mp3": Fate.UNPROVED}
    assert matches["2.mp3"].why == (
        "the piece that it shares with 1.mp3 does not prove: one of the two is another version"
    )
    # One that is only of that size, and called otherwise, says nothing about the others.
    small = {"1.mp3": noise("x", 3 * PIECE + 200), "2.txt": b"right"}
    metainfo = torrent_of(tmp_path / "small", small, "v1")
    matches = Annex.of({"1.mp3": small["1.mp3"], "other": b"wrong"}).match(metainfo)
    assert (matches["1.mp3"].fate, matches["1.mp3"].unproved) == (Fate.PROVED, 200)
    assert matches["2.txt"].candidates == ()
    matches = Annex.of({"1.mp3": small["1.mp3"], "2.txt": b"wrong"}).match(metainfo)
    assert keys(matches) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_content_under_two_keys_is_found_under_both(tmp_path: Path, kind: str) -> None:
    metainfo = torrent_of(tmp_path, FILES, kind)
    annex = Annex.of(FILES)
    annex.contents["OTHER--x"] = FILES["4 second.bin"]
    assert sorted(keys(annex.match(metainfo))["4 second.bin"]) == ["KEY--4 second.bin", "OTHER--x"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_goes_away_meanwhile_is_no_match(tmp_path: Path, kind: str) -> None:
    annex = Annex.of(FILES)
    annex.gone = {"KEY--4 second.bin"}
    matches = annex.match(torrent_of(tmp_path, FILES, kind))
    assert "4 second.bin" not in keys(matches)
    assert matches["sub/6 last.bin"].candidates


def test_something_else_of_the_same_size_costs_one_piece(tmp_path: Path) -> None:
    big = {"big.bin": noise("big", 40 * PIECE)}
    for kind in KINDS:
        metainfo = torrent_of(tmp_path / kind, big, kind)
        annex = Annex.of({f"other {number}": noise(f"{number}", 40 * PIECE) for number in range(5)})
        assert fates(annex.match(metainfo)) == {"big.bin": Fate.ABSENT}
        assert annex.read_bytes == 5 * PIECE


@pytest.mark.parametrize("kind", KINDS)
def test_why_nothing_is_found_is_said_of_each_file(tmp_path: Path, kind: str) -> None:
    name = "4 second.bin"
    metainfo = torrent_of(tmp_path, FILES, kind)
    annex = Annex.of({"a\x1b[2J.bin": noise("1", 2 * PIECE)})
    found = annex.match(metainfo)[name]
    assert (found.fate, found.why) == (
        Fate.ABSENT,
        "a\ufffd[2J.bin has its size, but other content: the hashes differ",
    )
    assert [one.key for one in found.of_its_size] == ["KEY--a\x1b[2J.bin"]
    annex = Annex.of({"b": noise("1", 2 * PIECE), "c": noise("2", 2 * PIECE), "d": noise("3", 2 * PIECE)})
    annex.names["KEY--c"] = ("c", "c too")
    found = annex.match(metainfo)[name]
    assert found.why == "4 annexed files have its size (b, …), but other content: the hashes differ"
    annex.gone = {"KEY--d"}
    found = annex.match(metainfo)[name]
    assert found.why == (
        "3 annexed files have its size (b, …), but other content: the hashes differ; "
        "d has its size, but could not be read: it was dropped"
    )
    assert len(found.of_its_size) == 3
    annex = Annex.of({"b": noise("1", 1)})
    found = annex.match(metainfo)[name]
    assert (found.why, found.of_its_size) == (f"no annexed file that is here has its {2 * PIECE:,} bytes", ())


def test_likely_names_come_first(tmp_path: Path) -> None:
    metainfo = torrent_of(tmp_path, FILES, "hybrid")
    annex = Annex.of({f"copy {number}": FILES["4 second.bin"] for number in range(3)})
    annex.contents["KEY--z"] = FILES["4 second.bin"]
    annex.names["KEY--z"] = ("anywhere/4_second.bin",)  # as `git annex addurl` writes blanks
    assert keys(annex.match(metainfo))["4 second.bin"][0] == "KEY--z"


def test_a_v2_magnet_without_layers_proves_by_roots(tmp_path: Path) -> None:
    whole = torrent_of(tmp_path, FILES, "v2")
    info = parse(whole.document).document
    from annex_remote.torrents.bencode import decode_with_spans

    _, spans = decode_with_spans(info)
    bare = from_info(info[spans[b"info"]], Magnet(None, whole.v2))
    assert not bare.has_layers
    assert fates(Annex.of(FILES).match(bare)) == fates(Annex.of(FILES).match(whole))


def test_padding_of_a_v1_torrent_is_zeros() -> None:
    import hashlib

    first, second = noise("p", 1000), noise("q", 500)
    whole = first + bytes(PIECE - 1000) + second
    hashes = b"".join(hashlib.sha1(whole[at : at + PIECE]).digest() for at in range(0, len(whole), PIECE))
    files = [
        {b"length": 1000, b"path": [b"first"]},
        {b"attr": b"p", b"length": PIECE - 1000, b"path": [b".pad", b"1"]},
        {b"length": 500, b"path": [b"second"]},
    ]
    info = {b"files": files, b"name": b"padded", b"piece length": PIECE, b"pieces": hashes}
    metainfo = parse(encode({b"info": info}))
    matches = Annex.of({"x": first, "y": noise("other", 500)}).match(metainfo)
    assert (matches["first"].fate, matches["first"].unproved) == (Fate.PROVED, 0)
    assert matches["second"].fate is Fate.ABSENT
    assert Annex.of({"x": first[:-1] + b"x"}).match(metainfo)["first"].fate is Fate.ABSENT


@given(
    sizes=st.lists(st.integers(0, 3 * PIECE), min_size=1, max_size=6).filter(any),
    here=st.sets(st.integers(0, 5)),
    changed=st.sets(st.integers(0, 5)),
    kind=st.sampled_from(KINDS),
)
def test_only_right_content_is_ever_found(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], here: set[int], changed: set[int], kind: str
) -> None:
    """All of a v2 file, and all that is not counted as unproved of a v1 file, is what the torrent has."""
    files = {f"f{number}": noise(f"{number}", size) for number, size in enumerate(sizes)}
    metainfo = torrent_of(tmp_path_factory.mktemp("torrent"), files, kind)
    own: Files = {}
    for number, (name, data) in enumerate(files.items()):
        if number in here:
            own[name] = bytes([data[0] ^ 1]) + data[1:] if number in changed and data else data
    matches = Annex.of(own).match(metainfo)
    for name, each in matches.items():
        data = files[name]
        for candidate in each.candidates:
            got = own[candidate.files[0]]
            assert got == data or each.unproved > 0
            assert sum(one == other for one, other in zip(got, data, strict=True)) >= len(data) - each.unproved
        assert each.unproved < max(1, len(data))
        if kind != "v1" and data:
            assert bool(each.candidates) == (own.get(name) == data)
    if here >= set(range(len(sizes))) and not changed & here:
        assert all(each.candidates and not each.unproved for name, each in matches.items() if files[name])


@pytest.mark.parametrize(
    "place",
    [
        "https://example.org/x.torrent",
        "http://[::1]:8080/a/x.TORRENT?key=1&name=y",
        "file:///tmp/a%20b%23.torrent",
        "https://example.org/a%2Fb.torrent",
    ],
)
@pytest.mark.parametrize("choice", [None, 1, 33])
def test_urls_are_recorded_as_git_annex_leaves_them_to_us(place: str, choice: int | None) -> None:
    url = recorded(place, choice)
    assert ".torrent" not in url.lower().partition("?")[0]
    assert url.isascii()
    assert " " not in url
    ours = torrent_url(url)
    assert ours is not None
    assert (ours.place, ours.choice) == (place, choice)
    assert torrent_url(recorded("https://example.org/ä b.torrent", 2)) == torrent_url(
        "swarm:https://example.org/%C3%A4%20b%2Etorrent#2"
    )
