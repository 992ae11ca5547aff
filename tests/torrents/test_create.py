"""Making torrents: what goes in, the same bytes from the same input, and that every piece proves."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annex_remote.errors import BadSetting, Unavailable
from annex_remote.torrents.contents import Content, Contents, contents_of
from annex_remote.torrents.create import KINDS, Recipe, checked_urls, create, usual_piece_length
from annex_remote.torrents.metainfo import MAX_PIECES, Metainfo, parse

SIZES = {"b/two.bin": 70_000, "a.bin": 200_000, "B": 1, "empty": 0, "exact": 1 << 16, "ü/ä b.bin": 33_000}
PIECE = 1 << 15


def tree(folder: Path, sizes: dict[str, int] = SIZES) -> Path:
    for name, size in sizes.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(Random(name).randbytes(size))
    return folder


def made(contents: Contents, **recipe: object) -> Metainfo:
    return create(contents, Recipe(**{"piece_length": PIECE, **recipe}), lambda _: None)  # type: ignore[arg-type]


def all_bytes(metainfo: Metainfo, folder: Path) -> bytes:
    """Return the torrent's bytes as its metainfo lays them out, with zeros between files."""
    data = bytearray(metainfo.size)
    for file in metainfo.files:
        content = folder.joinpath(*file.path).read_bytes()
        assert len(content) == file.size
        data[file.offset : file.offset + file.size] = content
    return bytes(data)


@pytest.mark.parametrize("kind", KINDS)
def test_every_piece_proves_by_our_own_reading(tmp_path: Path, kind: str) -> None:
    folder = tree(tmp_path / "folder")
    metainfo = made(contents_of([str(folder)]), kind=kind)
    assert (metainfo.v1 is not None, metainfo.v2 is not None) == (kind != "v2", kind != "v1")
    assert (metainfo.name, metainfo.is_single) == ("folder", False)
    assert {"/".join(file.path): file.size for file in metainfo.files} == SIZES
    data = all_bytes(metainfo, folder)
    for index in range(metainfo.pieces):
        piece = data[index * PIECE : index * PIECE + metainfo.piece_size(index)]
        assert metainfo.proves(index, piece)
        assert not metainfo.proves(index, bytes([piece[0] ^ 1]) + piece[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_one_file_is_a_torrent_without_a_folder(tmp_path: Path, kind: str) -> None:
    tree(tmp_path)
    metainfo = made(contents_of([str(tmp_path / "a.bin")]), kind=kind)
    assert (metainfo.name, metainfo.is_single, metainfo.files[0].path) == ("a.bin", True, ("a.bin",))
    other = made(contents_of([str(tmp_path / "a.bin")], "other.bin"), kind=kind)
    assert (other.name, other.files[0].path, other.files[0].root) == (
        "other.bin",
        ("other.bin",),
        metainfo.files[0].root,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_input_makes_the_same_bytes(tmp_path: Path, kind: str) -> None:
    one = tree(tmp_path / "1" / "folder")
    other = tree(tmp_path / "2" / "folder", dict(reversed(SIZES.items())))  # made in another order
    for path in other.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o500 if path.is_dir() else 0o755)
    links = tmp_path / "3" / "folder"
    for name in SIZES:
        (links / name).parent.mkdir(parents=True, exist_ok=True)
        (links / name).symlink_to(one / name)
    documents = {made(contents_of([str(each)]), kind=kind).document for each in (one, other, links)}
    assert len(documents) == 1
    for path in other.rglob("*"):
        path.chmod(0o700)


def test_nothing_is_said_of_time_or_program(tmp_path: Path) -> None:
    document = made(contents_of([str(tree(tmp_path / "folder"))])).document
    assert b"creat" not in document
    assert b"torrent" not in document
    assert b"mtime" not in document


def test_trackers_are_tiers_and_web_seeds_of_folders_end_in_a_slash(tmp_path: Path) -> None:
    tree(tmp_path)
    urls = {
        "trackers": ("udp://a.example:80/announce", "https://b.example/announce"),
        "web_seeds": ("https://w.example/x",),
    }
    several = made(contents_of([str(tmp_path / "b")]), **urls)
    assert several.trackers == (("udp://a.example:80/announce",), ("https://b.example/announce",))
    assert several.web_seeds == ("https://w.example/x/",)
    assert not several.private
    one = made(contents_of([str(tmp_path / "a.bin")]), private=True, **urls)
    assert one.web_seeds == ("https://w.example/x",)
    assert one.private


def test_urls_that_no_program_takes_are_refused_without_their_secrets() -> None:
    assert checked_urls("--web-seed", ["https://w.example/ä", "https://w.example/ä"]) == (
        "https://w.example/%C3%A4",
    )
    for option, url in (("--web-seed", "ftp://w.example/x?key=secret"), ("--tracker", "file:///secret/y")):
        with pytest.raises(BadSetting, match=rf"{option} .* is no URL that begins with one of") as told:
            checked_urls(option, [url])
        assert "key=secret" not in str(told.value)


def test_git_and_the_torrent_itself_are_left_out(tmp_path: Path) -> None:
    folder = tree(tmp_path / "folder")
    tree(folder / ".git", {"config": 5})
    tree(folder / "sub", {".git": 5, ".gitignore": 5})
    (folder / "old.torrent").write_bytes(b"old")
    found = contents_of([str(folder)], leave_out=str(folder / "old.torrent"))
    assert {"/".join(file.path) for file in found.files} == {*SIZES, "sub/.gitignore"}


def test_only_what_is_replaced_is_left_out_and_not_what_it_leads_to(tmp_path: Path) -> None:
    folder = tree(tmp_path / "folder")
    (folder / "out.torrent").symlink_to("a.bin")
    (folder / "also a").symlink_to("a.bin")
    (tmp_path / "other").symlink_to("folder")
    for output in (folder / "out.torrent", tmp_path / "other" / "out.torrent"):
        found = contents_of([str(folder)], leave_out=str(output))
        assert {"/".join(file.path) for file in found.files} == {*SIZES, "also a"}
    opened = os.open(folder / "exact", os.O_RDONLY)
    found = contents_of([str(folder)], leave_out=opened)
    os.close(opened)
    assert {"/".join(file.path) for file in found.files} == {*SIZES, "also a", "out.torrent"} - {"exact"}
    with pytest.raises(BadSetting, match="is where the torrent goes: it cannot be what is in it"):
        contents_of([str(folder / "a.bin")], leave_out=str(folder / "a.bin"))


def test_several_stand_under_their_own_names_in_a_folder_called_as_theirs(tmp_path: Path) -> None:
    folder = tree(tmp_path / "folder")
    tree(tmp_path / "other", {"a.bin": 1, "c": 1})
    found = contents_of([str(folder / "b"), str(folder / "a.bin")])
    assert (found.name, found.is_single) == ("folder", False)
    assert [file.path for file in found.files] == [("a.bin",), ("b", "two.bin")]
    assert contents_of([str(folder / "B"), str(tmp_path / "other" / "c")], "both").name == "both"
    with pytest.raises(BadSetting, match="say it with --name"):
        contents_of([str(folder / "B"), str(tmp_path / "other" / "c")])
    with pytest.raises(BadSetting, match="would have the same name in the torrent"):
        contents_of([str(folder / "a.bin"), str(tmp_path / "other" / "a.bin")], "both")
    with pytest.raises(BadSetting, match="would have the same name in the torrent"):
        contents_of([str(folder / "a.bin"), str(folder / "a.bin")])


def test_what_cannot_be_in_a_torrent_is_named(tmp_path: Path) -> None:
    folder = tree(tmp_path / "folder")

    def refused(sentence: str) -> None:
        with pytest.raises(BadSetting, match=sentence) as told:
            contents_of([str(folder)])
        assert str(folder) in str(told.value)

    odd = folder / "odd"
    os.mkfifo(odd)
    refused("odd is a pipe: a torrent has files only")
    odd.unlink()
    with socket.socket(socket.AF_UNIX) as door:
        here = os.open(folder, os.O_PATH)  # the path of a socket is short
        door.bind(f"/proc/self/fd/{here}/odd")
        os.close(here)
        refused("odd is a socket")
    odd.unlink()
    odd.symlink_to(folder / "b")
    refused("odd is a link to a folder, and those are not followed")
    odd.unlink()
    odd.symlink_to("nowhere")
    refused("odd is a link that leads nowhere: nowhere")
    odd.unlink()
    odd.symlink_to("odd")
    refused("odd: Too many levels of symbolic links")
    odd.unlink()
    for name in ("back\\slash", "new\nline"):
        (folder / name).write_bytes(b"x")
        refused("is another one to whoever gets the torrent: rename it")
        (folder / name).unlink()
    for name in ("_____padding_file_0_if you see this", ".pad/16384"):
        tree(folder, {name: 5})
        refused("programs take a file of this name for padding")
        (folder / name).unlink()
    raw = os.fsencode(folder) + b"/bild-\xfc.jpg"
    Path(os.fsdecode(raw)).write_bytes(b"x")
    refused("is UTF-8, and this one is not")
    with pytest.raises(BadSetting, match="gone is not there"):
        contents_of([str(folder / "gone")])


def test_a_torrent_of_no_bytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(BadSetting, match="there is not one byte in it"):
        contents_of([str(tmp_path)])


def test_annexed_files_whose_content_is_not_here_are_named_together(tmp_path: Path) -> None:
    folder = tree(tmp_path / "folder")
    for number in range(4):
        (folder / f"locked{number}").symlink_to(f"../.git/annex/objects/aa/bb/KEY{number}/KEY{number}")
    for number in range(3):
        (folder / f"unlocked{number}").write_text(f"/annex/objects/SHA256E-s5--{number}\n")
    with pytest.raises(BadSetting) as told:
        contents_of([str(folder)])
    some = ", ".join(str(folder / name) for name in ("locked0", "locked1", "locked2", "locked3", "unlocked0"))
    assert str(told.value) == f"{some} and 2 more: their content is not here; git annex get brings it"
    with pytest.raises(BadSetting, match="locked1: its content is not here"):
        contents_of([str(folder / "locked1")])


def test_a_folder_with_a_file_of_its_name_is_no_v2_torrent(tmp_path: Path) -> None:
    tree(tmp_path / "same", {"same": 100})
    contents = contents_of([str(tmp_path / "same")])
    assert not made(contents, kind="hybrid").is_single
    assert not made(contents, kind="v1").is_single
    refused_before_it_is_hashed(contents, "is that file alone in a v2 torrent", kind="v2")


@pytest.mark.parametrize("length", [0, 8 << 10, 100_000, 256 << 20])
def test_a_piece_length_that_cannot_be_is_refused(tmp_path: Path, length: int) -> None:
    tree(tmp_path)
    with pytest.raises(BadSetting, match=r"a piece has 16KiB to 128MiB, and a power of two"):
        made(contents_of([str(tmp_path / "a.bin")]), piece_length=length)


def test_a_file_that_changes_meanwhile_is_no_torrent(tmp_path: Path) -> None:
    tree(tmp_path)
    path = tmp_path / "a.bin"
    contents = contents_of([str(path)])

    def change(_: int) -> None:
        with path.open("ab") as file:
            file.write(b"more")

    with pytest.raises(Unavailable, match=r"a\.bin was changed while it was hashed"):
        create(contents, Recipe(piece_length=PIECE), change)
    os.truncate(path, 10)
    with pytest.raises(Unavailable, match=r"could not be hashed: .*: .*a\.bin was changed meanwhile"):
        create(contents, Recipe(piece_length=PIECE), lambda _: None)


def test_a_file_that_has_grown_since_it_was_looked_at_is_no_torrent(tmp_path: Path) -> None:
    tree(tmp_path)
    contents = contents_of([str(tmp_path / "a.bin")])
    with (tmp_path / "a.bin").open("ab") as file:
        file.write(b"more")
    with pytest.raises(Unavailable, match=r"a\.bin was changed"):
        made(contents)


def refused_before_it_is_hashed(contents: Contents, sentence: str, **recipe: object) -> None:
    with pytest.raises(BadSetting, match=sentence):
        create(contents, Recipe(**recipe), lambda _: pytest.fail("it was hashed"))  # type: ignore[arg-type]


def of_sizes(place: Path, sizes: list[int]) -> Contents:
    files = tuple(Content((f"{number:06}",), str(place), size) for number, size in enumerate(sizes))
    return Contents("many", files, is_single=False)


def test_a_torrent_that_would_not_be_read_is_not_hashed(tmp_path: Path) -> None:
    tree(tmp_path)
    place = tmp_path / "a.bin"
    for kind, pieces in (("v1", MAX_PIECES), ("v2", MAX_PIECES), ("hybrid", (64 << 20) // 52)):
        too_large = of_sizes(place, [(16 << 10) * pieces, 1])
        refused_before_it_is_hashed(
            too_large,
            f"would have {pieces + 1:,} pieces of 16KiB, which is too many: --piece-length takes",
            kind=kind,
            piece_length=16 << 10,
        )
    refused_before_it_is_hashed(of_sizes(place, [1] * 100_001), "100,001 files: 100,000 is the most", kind="v1")
    refused_before_it_is_hashed(
        of_sizes(place, [1] * 60_000),
        "120,000 files, padding counted, which --v1 does without: 100,000 is the most",
    )
    deep = Contents("deep", (Content(("d",) * 97, str(place), 1),), is_single=False)
    refused_before_it_is_hashed(deep, "is in too many folders for --hybrid: --v1 takes it")


@pytest.mark.parametrize("kind", KINDS)
def test_deep_folders_come_in(tmp_path: Path, kind: str) -> None:
    tree(tmp_path / "folder", {"d/" * 95 + "x": 10})
    assert len(made(contents_of([str(tmp_path / "folder")]), kind=kind).files[0].path) == 96


@pytest.mark.parametrize("kind", KINDS)
def test_progress_comes_to_all_bytes(tmp_path: Path, kind: str) -> None:
    heard: list[int] = []
    contents = contents_of([str(tree(tmp_path / "folder"))])
    create(contents, Recipe(kind, PIECE), heard.append)
    assert sum(heard) == contents.size
    assert len(heard) > 5
    assert min(heard) >= 0


def test_ctrl_c_ends_it(tmp_path: Path) -> None:
    contents = contents_of([str(tree(tmp_path / "folder"))])

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        create(contents, Recipe(), stop)


@given(st.lists(st.integers(0, 1 << 44), min_size=1, max_size=30), st.booleans())
def test_the_usual_piece_length_keeps_the_bounds(sizes: list[int], aligned: bool) -> None:
    length = usual_piece_length(sizes, aligned=aligned)
    assert length & (length - 1) == 0
    assert 16 << 10 <= length <= 128 << 20
    padded = sum(-(-size // length) for size in sizes) if aligned else -(-sum(sizes) // length)
    assert padded <= MAX_PIECES
    if aligned and length > 16 << 10 and sum(sizes) < (16 << 20) * (MAX_PIECES // 2):
        assert padded * length <= 2 * sum(sizes)


def test_the_usual_piece_length_of_usual_files() -> None:
    assert usual_piece_length([1], aligned=True) == 16 << 10
    assert usual_piece_length([4 << 30], aligned=True) == 2 << 20
    assert usual_piece_length([3 << 20] * 20_000, aligned=True) == 2 << 20
    assert usual_piece_length([3 << 20] * 20_000, aligned=False) == 16 << 20


def test_what_is_made_is_read_back_the_same(tmp_path: Path) -> None:
    metainfo = made(contents_of([str(tree(tmp_path / "folder"))]))
    assert parse(metainfo.document) == metainfo
