from __future__ import annotations

import hashlib
import logging
import os
import stat
import threading
from pathlib import Path

import pytest

from annex_remote.torrents import cache as cache_module
from annex_remote.torrents.bencode import encode
from annex_remote.torrents.cache import Cache
from annex_remote.torrents.metainfo import MAX_SIZE, Metainfo, from_info, parse
from annex_remote.torrents.urls import torrent_url
from tests.fakes import Run

PASSKEY = "0123456789abcdef0123456789abcdef"
URL = f"https://tracker.example/{PASSKEY}/x.torrent"
LONG = 1_000_000_000.0
"""A time long ago."""


def v1(name: str = "x", size: int = 20, tracker: str = "http://tracker.example/") -> Metainfo:
    info = {"name": name, "length": size, "piece length": 16384, "pieces": bytes(20 * -(-size // 16384))}
    return parse(encode({"announce": tracker, "info": info}))


def v2_parts(*, hybrid: bool = False) -> tuple[bytes, dict[str, object]]:
    """Return the info dictionary of a torrent of two pieces, and the document around it."""
    hashes = [hashlib.sha256(bytes([number]) * 16384).digest() for number in range(2)]
    root = hashlib.sha256(b"".join(hashes)).digest()
    info: dict[str, object] = {
        "file tree": {"x": {"": {"length": 32768, "pieces root": root}}},
        "meta version": 2,
        "name": "x",
        "piece length": 16384,
    }
    if hybrid:
        info |= {"length": 32768, "pieces": bytes(40)}
    return encode(info), {"info": info, "piece layers": {root: b"".join(hashes)}}


def v2(*, hybrid: bool = False) -> Metainfo:
    return parse(encode(v2_parts(hybrid=hybrid)[1]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "torrents"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def age(path: Path, by: float) -> None:
    """Have a file be used last so many seconds after `LONG`."""
    os.utime(path, (LONG + by, LONG + by))


@pytest.mark.parametrize("metainfo", [v1(), v2(), v2(hybrid=True)], ids=["v1", "v2", "hybrid"])
def test_what_is_kept_is_found(folder: Path, metainfo: Metainfo) -> None:
    Cache(folder).keep(metainfo)
    found = Cache(folder).get(metainfo.id)
    assert found == metainfo
    assert found.document == metainfo.document
    assert len(names(folder)) == (2 if metainfo.v1 and metainfo.v2 else 1)
    assert f"{metainfo.id}.torrent" in names(folder)


def test_what_is_not_kept_is_not_found(folder: Path) -> None:
    cache = Cache(folder)
    assert cache.get("0" * 40) is None
    assert cache.get("0" * 64) is None
    assert cache.by_url(URL) is None
    assert not folder.exists()


@pytest.mark.parametrize("id", ["", "x", "../x", "0" * 39, "0" * 41, "A" * 40, "0" * 40 + "\n"])
def test_what_is_no_hash_is_not_looked_for(folder: Path, id: str) -> None:  # noqa: A002 - as in the cache
    cache = Cache(folder)
    cache.keep(v1(), URL)
    other = folder / f"{id}.torrent"
    other.write_bytes(v1().document)
    assert cache.get(id) is None
    way = folder / f"{hashlib.sha256(URL.encode()).hexdigest()}.place"
    way.write_text(id)
    assert cache.by_url(URL) is None
    assert other.exists()


def test_it_is_found_by_its_url(folder: Path) -> None:
    magnet = f"magnet:?xt=urn:btih:{v1().id}&tr=http://tracker.example/{PASSKEY}"
    Cache(folder).keep(v1(), URL)
    Cache(folder).keep(v1("y"), magnet)
    assert Cache(folder).by_url(URL) == v1()
    assert Cache(folder).by_url(magnet) == v1("y")
    assert Cache(folder).by_url(f"{URL}?") is None


def test_nothing_tells_the_url(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    Cache(folder).keep(v1(), URL)
    for path in folder.iterdir():
        assert PASSKEY not in path.name
        assert PASSKEY.encode() not in path.read_bytes()
    (folder / f"{v1().id}.torrent").write_bytes(b"no")
    assert Cache(folder).by_url(URL) is None
    assert PASSKEY not in caplog.text


@pytest.mark.parametrize("place", ["x.torrent", "/home/me/x.torrent", "file:///home/me/x.torrent"])
def test_files_are_read_where_they_are(folder: Path, place: str) -> None:
    Cache(folder).keep(v1(), place)
    assert Cache(folder).by_url(place) is None
    assert Cache(folder).get(v1().id) == v1()
    assert names(folder) == {f"{v1().id}.torrent"}


def test_a_hybrid_torrent_is_found_by_both_hashes(folder: Path) -> None:
    metainfo = v2(hybrid=True)
    assert metainfo.v2 is not None
    Cache(folder).keep(metainfo)
    assert Cache(folder).get(metainfo.v2.hex()) == metainfo
    assert len(metainfo.id) == 40


def test_what_comes_from_a_magnet_is_kept(folder: Path) -> None:
    info, _ = v2_parts()
    url = torrent_url(f"magnet:?xt=urn:btmh:1220{hashlib.sha256(info).hexdigest()}&tr=udp://t.example:1")
    assert url is not None
    assert url.magnet is not None
    metainfo = from_info(info, url.magnet)
    assert not metainfo.has_layers
    cache = Cache(folder)
    cache.keep(metainfo, url.place)
    assert cache.by_url(url.place) == metainfo
    # It does not take the place of one with all hashes, but the other way round.
    cache.keep(v2(), URL)
    cache.keep(metainfo, url.place)
    found = cache.by_url(url.place)
    assert found == v2()
    assert found.has_layers


def test_the_newest_document_is_the_one_that_is_kept(folder: Path) -> None:
    older, newer = v1(tracker="http://old.example/"), v1(tracker="http://new.example/")
    assert older.id == newer.id
    cache = Cache(folder)
    cache.keep(older, URL)
    cache.keep(newer)
    found = cache.by_url(URL)
    assert found is not None
    assert found.trackers == (("http://new.example/",),)


def test_a_url_that_has_another_torrent_now(folder: Path) -> None:
    cache = Cache(folder)
    cache.keep(v1(), URL)
    cache.keep(v1("y"), URL)
    assert cache.by_url(URL) == v1("y")


# Damage.


@pytest.mark.parametrize(
    "data",
    [b"", b"no torrent", v1().document[:-1], v1("y").document, v1().document + b"e", b"d" * (MAX_SIZE + 1)],
    ids=["empty", "other", "cut", "another torrent", "longer", "too long"],
)
def test_what_does_not_prove_is_removed(folder: Path, data: bytes) -> None:
    cache = Cache(folder)
    cache.keep(v1(), URL)
    for by_url in (False, True):
        (folder / f"{v1().id}.torrent").write_bytes(data)
        assert (cache.by_url(URL) if by_url else cache.get(v1().id)) is None
        assert f"{v1().id}.torrent" not in names(folder)
    cache.keep(v1(), URL)
    assert cache.by_url(URL) == v1()


@pytest.mark.parametrize(
    "data", [b"", b"x", b"0" * 40, b"../" * 13 + b"x", b"\xff" * 40, b"0" * 65, b"0" * 40 + b"\n"]
)
def test_a_way_that_leads_nowhere_is_removed(folder: Path, data: bytes) -> None:
    cache = Cache(folder)
    cache.keep(v1(), URL)
    way = folder / f"{hashlib.sha256(URL.encode()).hexdigest()}.place"
    way.write_bytes(data)
    assert cache.by_url(URL) is None
    assert names(folder) == {f"{v1().id}.torrent"}


def test_links_pipes_and_folders_in_its_place_are_not_read(folder: Path, tmp_path: Path) -> None:
    cache = Cache(folder)
    cache.keep(v1())
    entry = folder / f"{v1().id}.torrent"
    entry.rename(tmp_path / "x")
    entry.symlink_to(tmp_path / "x")
    assert cache.get(v1().id) is None
    entry.unlink()
    os.mkfifo(entry)
    writer = os.open(entry, os.O_RDWR)
    assert cache.get(v1().id) is None
    os.close(writer)
    cache.keep(v1())
    assert cache.get(v1().id) == v1()
    entry.unlink()
    entry.mkdir()
    assert cache.get(v1().id) is None
    cache.keep(v1())  # cannot be
    assert cache.get(v1().id) is None
    assert names(folder) == {entry.name}


def test_it_is_for_this_user_alone(folder: Path) -> None:
    before = os.umask(0)
    try:
        Cache(folder).keep(v2(hybrid=True), URL)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


# Bounds.


def test_the_least_recently_used_go_first(folder: Path) -> None:
    cache = Cache(folder, most_entries=3)
    kept = [v1(str(number)) for number in range(4)]
    for number, metainfo in enumerate(kept[:3]):
        cache.keep(metainfo, f"{URL}?{number}")
        age(folder / f"{metainfo.id}.torrent", number)
    assert cache.get(kept[0].id) == kept[0]  # so it is used
    cache.keep(kept[3])
    assert [cache.get(metainfo.id) is not None for metainfo in kept] == [True, False, True, True]
    age(folder / f"{kept[2].id}.torrent", 0)
    assert cache.by_url(f"{URL}?2") == kept[2]
    age(folder / f"{kept[3].id}.torrent", 1)
    cache.keep(kept[1])
    assert [cache.get(metainfo.id) is not None for metainfo in kept] == [True, True, True, False]


def test_what_is_kept_once_more_is_used(folder: Path) -> None:
    cache = Cache(folder, most_entries=2)
    for number in range(2):
        cache.keep(v1(str(number)))
        age(folder / f"{v1(str(number)).id}.torrent", number)
    cache.keep(v1("0"))
    cache.keep(v1("2"))
    assert cache.get(v1("0").id) is not None
    assert cache.get(v1("1").id) is None


def test_bytes_are_bounded(folder: Path) -> None:
    size = len(v1("0").document)
    cache = Cache(folder, most_bytes=3 * size)
    for number in range(5):
        cache.keep(v1(str(number)))
        age(folder / f"{v1(str(number)).id}.torrent", number)
    assert [cache.get(v1(str(number)).id) is not None for number in range(5)] == [False, False, True, True, True]
    big = v1("big", size=16384 * 10)
    assert 2 * size < len(big.document) <= 3 * size
    cache.keep(big)
    assert names(folder) == {f"{big.id}.torrent"}


def test_ways_are_bounded(folder: Path) -> None:
    cache = Cache(folder, most_entries=2)
    for number in range(6):
        cache.keep(v1(), f"{URL}?{number}")
        age(folder / f"{hashlib.sha256(f'{URL}?{number}'.encode()).hexdigest()}.place", number)
        if number == 3:
            assert cache.by_url(f"{URL}?0") == v1()  # so it is used
    found = [cache.by_url(f"{URL}?{number}") is not None for number in range(6)]
    assert found == [True, False, False, True, True, True]


def test_the_bounds_of_a_user() -> None:
    assert cache_module.MOST_BYTES == 256 << 20
    assert cache_module.MOST_ENTRIES == 2_000


def test_left_overs_go_and_what_is_not_ours_stays(folder: Path) -> None:
    now = LONG + 3601
    cache = Cache(folder, most_entries=1, clock=lambda: now)
    cache.keep(v1())
    for name, seconds in ((".old.part", 0.0), (".new.part", 2.0), ("README", 0.0)):
        (folder / name).write_bytes(b"x")
        age(folder / name, seconds)
    cache.keep(v1("y"))
    assert names(folder) == {f"{v1('y').id}.torrent", ".new.part", "README"}


# Where it is, and where it cannot be.


def test_it_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    Cache().keep(v1(), URL)
    assert f"{v1().id}.torrent" in names(tmp_path / "git-annex-remote-swarm" / "torrents")
    assert Cache().by_url(URL) == v1()


def test_without_a_home_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: f"~/.cache/{name}")
    monkeypatch.chdir(tmp_path)
    cache = Cache()
    cache.keep(v1(), URL)
    assert cache.get(v1().id) is None
    assert cache.by_url(URL) is None
    assert names(tmp_path) == set()
    assert "no home" in caplog.text


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "file").write_bytes(b"")
    cache = Cache(tmp_path / "file" / "torrents")
    cache.keep(v1(), URL)
    assert "could not be kept" in caplog.text
    assert cache.get(v1().id) is None
    assert cache.by_url(URL) is None
    assert PASSKEY not in caplog.text


def test_what_cannot_be_noted_as_used_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    Cache(folder).keep(v1(), URL)
    monkeypatch.setattr(os, "utime", refuse)
    assert Cache(folder).by_url(URL) == v1()


def test_a_disk_that_is_full_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(folder)
    cache.keep(v1(), URL)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(os, "replace", refuse)
        cache.keep(v1("y"), URL)
    assert cache.get(v1("y").id) is None
    assert cache.by_url(URL) == v1()
    assert len(names(folder)) == 2


def test_many_at_once(folder: Path) -> None:
    """Writers that make room at each other's cost, and readers: nothing raises, and nothing is wrong."""
    kept = [v1(str(number)) for number in range(8)]
    barrier = threading.Barrier(4)

    def work(turn: int) -> None:
        cache = Cache(folder, most_entries=3)
        barrier.wait()
        for number in range(100):
            metainfo = kept[(number * (turn + 1)) % len(kept)]
            cache.keep(metainfo, f"{URL}?{metainfo.name}")
            for found in (cache.get(metainfo.id), cache.by_url(f"{URL}?{metainfo.name}")):
                assert found in (None, metainfo)

    for run in [Run(lambda turn=turn: work(turn)) for turn in range(4)]:  # type: ignore[misc] # of this turn
        run.join()
    assert sum(name.endswith(".torrent") for name in names(folder)) <= 3
    assert not any(name.endswith(".part") for name in names(folder))
