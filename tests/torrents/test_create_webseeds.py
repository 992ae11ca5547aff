"""Web seeds of torrents that are made: what libtorrent asks them for, and that it gets everything."""

from __future__ import annotations

import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from random import Random
from urllib.parse import quote, unquote, urlsplit

import pytest

from annex_remote.torrents import library
from annex_remote.torrents.contents import contents_of
from annex_remote.torrents.create import KINDS, Recipe, create, web_seed_notes
from annex_remote.torrents.metainfo import Metainfo
from tests.servers.own_web import OwnWeb, send

PIECE = 1 << 14
ISO = "ws ü.iso"
PATIENCE = 30.0


class Seed(OwnWeb):
    """Has all files below `root`; understands what libtorrent asks for: one range, or all."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        file = self.root / unquote(urlsplit(request.path).path).lstrip("/")
        if not file.is_file():
            send(request, 404, b"", {})
            return
        content = file.read_bytes()
        first, _, last = request.headers.get("Range", f"bytes=0-{len(content) - 1}")[6:].partition("-")
        part = content[int(first) : int(last) + 1]
        send(request, 206, part, {"Content-Range": f"bytes {first}-{last}/{len(content)}"})


def tree(root: Path) -> None:
    sizes = {ISO: 100_001, "set/x y": 50_000, "set/s/é": 40_000, "set/s.txt": 7, "one/only": 40_000}
    for name, size in {**sizes, "even/a": 3 * PIECE, "even/b": 5}.items():
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_bytes(Random(name).randbytes(size))


def made(root: Path, what: str, kind: str, url: str) -> Metainfo:
    return create(contents_of([str(root / what)]), Recipe(kind, PIECE, web_seeds=(url,)), lambda _: None)


def fetched(metainfo: Metainfo, folder: Path, patience: float = PATIENCE) -> bool:
    """Have libtorrent fetch a torrent from its web seeds alone; return whether all came."""
    lt = library.libtorrent()
    nobody = {"enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False}
    session = lt.session({"listen_interfaces": "127.0.0.1:0", **nobody})
    params = lt.load_torrent_buffer(metainfo.document)
    params.save_path = str(folder)
    handle = session.add_torrent(params)
    end = time.monotonic() + patience
    while not handle.status().is_seeding and time.monotonic() < end:
        time.sleep(0.02)
    return bool(handle.status().is_seeding)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("what", "form"),
    [
        (ISO, f"/{quote(ISO)}"),
        (ISO, "/"),
        (ISO, ""),
        ("set", "/"),
        ("set", ""),
        ("even", "/"),
        ("one", "/"),
    ],
)
def test_every_form_that_is_documented_is_asked_for_the_content(
    tmp_path: Path, what: str, form: str, kind: str
) -> None:
    root = tmp_path / "root"
    tree(root)
    with Seed(root) as web:
        metainfo = made(root, what, kind, web.url + form)
        if (what, kind) == ("set", "v2"):  # libtorrent asks aright, and does not take what comes
            assert "--hybrid works" in "".join(web_seed_notes(metainfo))
            fetched(metainfo, tmp_path, 1)
        else:
            assert list(web_seed_notes(metainfo)) == []
            assert fetched(metainfo, tmp_path / "out"), web.asked
        known = {f"/{quote(path.relative_to(root).as_posix())}".lower() for path in root.rglob("*")}
        missed = {each for each in web.asked if each.lower() not in known}
        assert missed <= ({"/only"} if (what, kind) == ("one", "v2") else set())
        assert web.asked


def test_of_a_v2_torrent_the_folder_of_a_file_is_written(tmp_path: Path) -> None:
    tree(tmp_path)
    for kind, given, written in (
        ("v1", f"https://h.example/a/{quote(ISO)}", f"https://h.example/a/{quote(ISO)}"),
        ("hybrid", f"https://h.example/a/{quote(ISO)}", f"https://h.example/a/{quote(ISO)}"),
        ("v2", f"https://h.example/a/{quote(ISO)}", "https://h.example/a/"),
        ("v2", "https://h.example/a/", "https://h.example/a/"),
        ("v2", "https://h.example/other.iso", "https://h.example/other.iso"),
        ("v2", f"https://h.example/{quote(ISO)}?key=1", f"https://h.example/{quote(ISO)}?key=1"),
        ("v2", "https://h.example", "https://h.example/"),
    ):
        assert made(tmp_path, ISO, kind, given).web_seeds == (written,)


def test_of_a_v2_torrent_with_one_file_in_a_folder_both_forms_are_written(tmp_path: Path) -> None:
    tree(tmp_path)
    assert made(tmp_path, "one", "v2", "https://h.example/x").web_seeds == (
        "https://h.example/x/",
        "https://h.example/x/one/",
    )
    assert made(tmp_path, "one", "hybrid", "https://h.example/x").web_seeds == ("https://h.example/x/",)


def test_it_is_told_where_a_web_seed_is_asked_for_something_else(tmp_path: Path) -> None:
    tree(tmp_path)
    url = "https://h.example/other.iso?key=secret"
    [note] = web_seed_notes(made(tmp_path, ISO, "v2", url))
    assert note.startswith("--web-seed https://h.example/other.iso: of a v2 torrent")
    assert "secret" not in note
    for kind in ("v1", "hybrid"):
        assert list(web_seed_notes(made(tmp_path, ISO, kind, url))) == []
    assert list(web_seed_notes(made(tmp_path, "even", "v2", "https://h.example/"))) == []
