"""Torrents as a remote has them: what is behind URLs, keys out of them, and what is said of them."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from annex_remote.errors import BadSetting, Cancelled, Damaged, NotEnough, NotFound, Unavailable
from annex_remote.protocol.handler import UrlContents
from annex_remote.torrents.addresses import Allowed
from annex_remote.torrents.bencode import decode_with_spans, encode
from annex_remote.torrents.cache import Cache
from annex_remote.torrents.known import Extra
from annex_remote.torrents.metainfo import parse
from annex_remote.torrents.settings import TorrentSettings
from annex_remote.torrents.source import TorrentSource, is_in_background
from annex_remote.torrents.urls import TorrentUrl, torrent_url
from tests.fakes import Run, in_thread
from tests.servers import LibtorrentPeer, ToldTracker, magnet_of, make_torrent, nginx_static
from tests.torrents.grounds import HERE, PIECE, SETTINGS, Ground, Shared, endpoint, has_all, until
from tests.torrents.swarm import KINDS

ALBUM = {"a.bin": 5 * PIECE // 2, "b/b c.bin": 3 * PIECE + 1000, "empty": 0}
NEVER = threading.Event()


@pytest.fixture(scope="module")
def seeder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LibtorrentPeer]:
    with LibtorrentPeer(tmp_path_factory.mktemp("seeder"), transport="tcp") as peer:
        yield peer


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    ground = Ground(tmp_path)
    yield ground
    ground.close()


@pytest.fixture
def open_source(ground: Ground) -> Iterator[Callable[..., TorrentSource]]:
    opened: list[TorrentSource] = []

    def open_source(
        settings: TorrentSettings = SETTINGS, allowed: Allowed = HERE, *, cache: str = "cache", **changes: object
    ) -> TorrentSource:
        source = TorrentSource(
            replace(settings, **changes),  # type: ignore[arg-type]
            allowed,
            str(ground.work),
            cache=Cache(ground.folder / cache),
        )
        opened.append(source)
        return source

    yield open_source
    for source in opened:
        source.close()


@pytest.fixture
def source(open_source: Callable[..., TorrentSource]) -> TorrentSource:
    return open_source()


def parsed(url: str) -> TorrentUrl:
    found = torrent_url(url)
    assert found is not None
    return found


def url_of(shared: Shared, number: int | None = None) -> TorrentUrl:
    """Return the URL of a torrent file on this disk."""
    return parsed(f"file://{shared.torrent}" + (f"#{number}" if number else ""))


def magnet_url(shared: Shared, seeder: LibtorrentPeer | None = None, number: int | None = None) -> TorrentUrl:
    peers = [seeder.address] if seeder is not None else []
    return parsed(magnet_of(shared.torrent, peers=peers) + (f"#{number}" if number else ""))


def fetch(
    source: TorrentSource,
    urls: Sequence[TorrentUrl],
    path: Path,
    size: int | None = None,
    *,
    mix: bool = True,
    cancelled: threading.Event = NEVER,
) -> bytes:
    """Get a key as the remote does where there are no shares."""
    gathering = source.gather(urls, str(path), size, mix=mix, progress=lambda _: None, cancelled=cancelled)
    done = False
    try:
        done = gathering.run()
    finally:
        source.finish(gathering, done=done)
    return path.read_bytes()


def other_v2(shared: Shared) -> bytes:
    """Return the hash of a torrent that was made anew."""
    metainfo = parse(shared.torrent.read_bytes())
    assert metainfo.v2 is not None
    return metainfo.v2


def with_tracker(shared: Shared, tracker: str) -> Shared:
    document, _ = decode_with_spans(shared.torrent.read_bytes())
    shared.torrent.write_bytes(encode({**document, b"announce": tracker.encode()}))
    return shared


# What is behind a URL.


def test_one_file_is_told_with_its_name_and_size(ground: Ground, source: TorrentSource) -> None:
    shared = ground.share({"": 5})
    assert source.check_url(url_of(shared), NEVER) == UrlContents(5, shared.metainfo.name)
    album = ground.share(ALBUM)
    assert source.check_url(url_of(album, album.file("b/b c.bin").number), NEVER) == UrlContents(
        ALBUM["b/b c.bin"], "b c.bin"
    )


def test_all_files_are_told_with_urls_that_lead_to_them(ground: Ground, source: TorrentSource) -> None:
    album = ground.share(ALBUM)
    told = source.check_url(url_of(album), NEVER)
    assert not isinstance(told, UrlContents)
    assert {file.filename: file.size for file in told} == {
        "a.bin": ALBUM["a.bin"],
        "b/b_c.bin": ALBUM["b/b c.bin"],
        "empty": 0,
    }
    for file in told:
        again = source.check_url(parsed(file.url), NEVER)
        assert again == UrlContents(file.size, os.path.basename(file.filename).replace("b_c", "b c"))


def test_a_magnet_knows_its_page(
    ground: Ground, open_source: Callable[..., TorrentSource], seeder: LibtorrentPeer, tmp_path: Path
) -> None:
    """From there its metadata comes, if it is the same torrent; else peers have to know."""
    album = ground.share(ALBUM)
    other = ground.share({"": 5})
    with nginx_static(tmp_path / "web") as web:
        page = web.root / "x.torrent"
        page.write_bytes(album.torrent.read_bytes())
        told = open_source().check_url(parsed(f"{web.url}/x.torrent"), NEVER)
        assert not isinstance(told, UrlContents)
        [url] = [parsed(file.url) for file in told if file.filename == "a.bin"]
        assert url.magnet is not None
        assert url.magnet.sources == (f"{web.url}/x.torrent",)
        assert url.choice == 1
        fresh = open_source(cache="one", timeout=1.0)
        assert fresh.metainfo(url, NEVER).id == album.metainfo.id
        page.write_bytes(other.torrent.read_bytes())
        for place in (page, None):
            if place is None:
                page.unlink()
            why = "x.torrent is another torrent by now" if place else "does not have it"
            fresh = open_source(cache=f"gone {place is None}", timeout=1.0)
            with pytest.raises(Unavailable, match=rf"nobody had the metadata of 'T.*; .*{why}"):
                fresh.metainfo(url, NEVER)
        seeder.seed(album.torrent, album.content)
        host, port = endpoint(seeder.address)
        assert fresh.metainfo(parsed(f"{url.place}&x.pe={host}:{port}"), NEVER).id == album.metainfo.id


def test_what_is_recorded_of_private_torrents_and_of_the_disk(ground: Ground, source: TorrentSource) -> None:
    private, local = ground.share(ALBUM, private=True), ground.share(ALBUM)
    for shared, start in (
        (private, "swarm:file:///"),
        (local, f"swarm:magnet:?xt=urn:btih:{local.metainfo.id}&dn="),
    ):
        told = source.check_url(url_of(shared), NEVER)
        assert not isinstance(told, UrlContents)
        assert all(file.url.startswith(start) for file in told)
        assert "xs=" not in told[0].url


def test_a_path_of_several_files_is_no_url(
    ground: Ground, source: TorrentSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    album = ground.share(ALBUM)
    monkeypatch.chdir(ground.folder)
    with pytest.raises(BadSetting, match=rf"has 3 files: add it as file://{re.escape(str(album.torrent))}, or"):
        source.check_url(parsed(album.torrent.name), NEVER)
    assert isinstance(source.check_url(parsed(f"{album.torrent.name}#1"), NEVER), UrlContents)


def test_a_file_that_is_none_is_said_with_its_place(ground: Ground, source: TorrentSource) -> None:
    (ground.folder / "x.torrent").write_bytes(b"d3:fooi1ee")
    with pytest.raises(Damaged, match=r"^file:///x\.torrent: not a torrent|x\.torrent: not a torrent"):
        source.check_url(parsed(f"file://{ground.folder}/x.torrent"), NEVER)
    with pytest.raises(NotFound, match="there is no such file"):
        source.check_url(parsed(f"file://{ground.folder}/y.torrent"), NEVER)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_magnet_is_of_is_kept(
    ground: Ground, open_source: Callable[..., TorrentSource], seeder: LibtorrentPeer, kind: str
) -> None:
    shared = ground.share(ALBUM, kind)  # type: ignore[arg-type]
    seeder.seed(shared.torrent, shared.content)
    first = open_source()
    url = magnet_url(shared, seeder)
    assert first.known(url) is None
    told = first.check_url(url, NEVER)
    assert len(told) == 3  # type: ignore[arg-type]
    first.close()
    later = open_source(timeout=1.0)
    bare = magnet_url(shared)
    assert later.known(bare) is not None
    assert [file.size for file in later.check_url(bare, NEVER)] == [file.size for file in told]  # type: ignore[union-attr]
    assert later.session.port() == 0  # nobody was asked


def test_what_is_kept_is_used_and_checked_anew(
    ground: Ground, open_source: Callable[..., TorrentSource], tmp_path: Path
) -> None:
    shared, other = ground.share({"": 5}), ground.share({"": 6})
    with nginx_static(tmp_path / "web") as web:
        place = web.root / "x.torrent"
        place.write_bytes(shared.torrent.read_bytes())
        url = parsed(f"{web.url.rstrip('/')}/x.torrent")
        source = open_source()
        assert source.known(url) is None
        assert source.metainfo(url, NEVER).id == shared.metainfo.id
        place.write_bytes(other.torrent.read_bytes())
        assert source.metainfo(url, NEVER).id == shared.metainfo.id  # the key that has it was made of that one
        assert source.check_url(url, NEVER) == UrlContents(
            6, other.metainfo.name
        )  # a new key is made of what is there
    known = source.known(url)
    assert known is not None
    assert known.id == other.metainfo.id


def test_the_time_that_peers_have_is_bounded(ground: Ground, open_source: Callable[..., TorrentSource]) -> None:
    source = open_source(timeout=1.0)
    with pytest.raises(Unavailable, match=r"nobody had the metadata of 'T' within 1 seconds: no peers were found"):
        source.check_url(parsed(f"{magnet_url(ground.share({'': 5})).url}&dn=T"), NEVER)


# Fetching.


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_by_a_magnet(ground: Ground, source: TorrentSource, seeder: LibtorrentPeer, kind: str) -> None:
    shared = ground.share(ALBUM, kind)  # type: ignore[arg-type]
    seeder.seed(shared.torrent, shared.content)
    for name, data in shared.files.items():
        url = magnet_url(shared, seeder, shared.file(name).number)
        assert fetch(source, [url], ground.folder / os.path.basename(name), len(data)) == data


def test_a_page_and_a_magnet_of_one_torrent(ground: Ground, source: TorrentSource, seeder: LibtorrentPeer) -> None:
    """Nothing of it was ever seen here: both are looked for at the same time."""
    for kind in KINDS:
        shared = ground.share({"": 20 * PIECE}, kind)
        seeder.seed(shared.torrent, shared.content)
        urls = [magnet_url(shared, seeder), url_of(shared), magnet_url(shared)]
        assert fetch(source, urls, ground.folder / kind, 20 * PIECE) == shared.files[""]


def test_several_torrents_of_one_content(ground: Ground, source: TorrentSource, seeder: LibtorrentPeer) -> None:
    shared = ground.share({"": 40 * PIECE})
    other = ground.share({"": 40 * PIECE}, "v2", piece_length=2 * PIECE)
    (other.content / other.metainfo.name).write_bytes(shared.files[""])
    make_torrent(other.content / other.metainfo.name, kind="v2", piece_length=2 * PIECE, to=other.torrent)
    for each in (shared, other):
        seeder.seed(each.torrent, each.content, upload_limit=10 * PIECE)
    urls = [magnet_url(each, seeder) for each in (shared, other)]
    assert fetch(source, urls, ground.folder / "got", 40 * PIECE) == shared.files[""]
    given = [seeder.status(each)["uploaded"] for each in (shared.metainfo.id, other_v2(other).hex()[:40])]
    assert min(given) > 0
    assert sum(given) < 60 * PIECE


def test_a_tracker_tells_of_peers(ground: Ground, source: TorrentSource, seeder: LibtorrentPeer) -> None:
    with ToldTracker([seeder.address]) as tracker:
        shared = with_tracker(ground.share({"": 5 * PIECE}), tracker.announce)
        seeder.seed(shared.torrent, shared.content)
        asked = len(tracker.asked)
        assert fetch(source, [url_of(shared)], ground.folder / "got") == shared.files[""]
        assert len(tracker.asked) > asked


def test_web_seeds_of_the_setting(
    ground: Ground, open_source: Callable[..., TorrentSource], tmp_path: Path
) -> None:
    shared = ground.share({"": 5 * PIECE})
    with nginx_static(tmp_path / "web") as web:
        (web.root / shared.metainfo.name).write_bytes(shared.files[""])
        source = open_source(webseeds=(f"{web.url.rstrip('/')}/",))
        assert fetch(source, [url_of(shared)], ground.folder / "got") == shared.files[""]


def test_a_file_of_another_size_is_not_fetched(ground: Ground, source: TorrentSource) -> None:
    shared = ground.share(ALBUM)
    with pytest.raises(NotEnough, match=rf"file 1 of the torrent T\S+ has {ALBUM['a.bin']} bytes, not 17"):
        fetch(source, [url_of(shared, 1)], ground.folder / "got", 17)
    assert source.session.port() == 0
    assert not (ground.folder / "got").exists()


def test_a_file_that_is_not_there_is_named(ground: Ground, source: TorrentSource) -> None:
    shared = ground.share(ALBUM)
    with pytest.raises(NotEnough, match=r"the torrent has no file #9; it has #1 a\.bin"):
        fetch(source, [url_of(shared, 9)], ground.folder / "got")


def test_an_empty_file_needs_no_peer(ground: Ground, source: TorrentSource) -> None:
    shared = ground.share(ALBUM)
    number = shared.file("empty").number
    assert fetch(source, [url_of(shared, number)], ground.folder / "got", 0) == b""
    assert source.session.port() == 0


def test_what_fails_is_told_and_the_others_are_used(
    ground: Ground, source: TorrentSource, seeder: LibtorrentPeer
) -> None:
    shared = ground.share({"": 5 * PIECE})
    seeder.seed(shared.torrent, shared.content)
    gone = parsed(f"file://{ground.folder}/gone.torrent")
    assert fetch(source, [gone, magnet_url(shared, seeder)], ground.folder / "got") == shared.files[""]
    with pytest.raises(NotEnough, match="there is no such file"):
        fetch(source, [gone], ground.folder / "other")


def test_a_dead_torrent_ends_after_the_time_that_was_set(
    ground: Ground, open_source: Callable[..., TorrentSource]
) -> None:
    source = open_source(timeout=1.0)
    shared = ground.share({"": 5 * PIECE})
    with pytest.raises(
        NotEnough, match=r"nothing came from peers for 1 seconds; torrent T.*: no peers were found"
    ):
        fetch(source, [url_of(shared)], ground.folder / "got")
    until(
        lambda: not source.session._joined or all(not joined.users for joined in source.session._joined.values())
    )


def test_a_torrent_that_was_given_up_just_now_is_not_waited_for_as_long(
    ground: Ground,
    open_source: Callable[..., TorrentSource],
    seeder: LibtorrentPeer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("annex_remote.torrents.gather.AGAIN", 0.5)
    monkeypatch.setattr("annex_remote.torrents.source.AGAIN", 0.5)
    source = open_source(timeout=1.5)
    shared = ground.share({"a": 5 * PIECE, "b": 5 * PIECE})
    for url, words in (
        (url_of(shared, 1), "1.5 seconds;"),
        (url_of(shared, 2), r"0.5 seconds \(nor for 1.5 just"),
    ):
        with pytest.raises(NotEnough, match=f"nothing came from peers for {words}"):
            fetch(source, [url], ground.folder / "got")
    seeder.seed(shared.torrent, shared.content)
    url = magnet_url(shared, seeder, 2)
    assert fetch(source, [url], ground.folder / "got") == shared.files["b"]
    assert not source._is_given_up(shared.metainfo.id)

    magnet = magnet_url(ground.share({"": 5}))
    for seconds in ("1.5", "0.5"):
        with pytest.raises(NotEnough, match=f"nobody had the metadata of .* within {seconds} seconds"):
            fetch(source, [magnet], ground.folder / "other")


def test_too_little_room_is_told_before_anything_comes(
    ground: Ground, source: TorrentSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = ground.share({"": 5 * PIECE})
    usage = shutil.disk_usage(ground.folder)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=10 * PIECE - 1))
    with pytest.raises(
        NotEnough, match=r"torrent T.*: 1 bytes too few are free in .*/work: until a file is whole"
    ):
        fetch(source, [url_of(shared)], ground.folder / "got")
    assert not source.session._joined


def test_a_fetch_is_called_off(ground: Ground, source: TorrentSource) -> None:
    cancelled = threading.Event()
    shared = ground.share({"": 5 * PIECE})
    magnet = magnet_url(ground.share({"": 6 * PIECE}))
    run = Run(
        lambda: fetch(source, [url_of(shared), magnet], ground.folder / "got", 5 * PIECE, cancelled=cancelled)
    )
    until(lambda: source.session._joined and source.session._seeking)
    cancelled.set()
    with pytest.raises(Cancelled):
        run.join()
    until(lambda: not source.session._seeking)
    assert all(not joined.users for joined in source.session._joined.values())


@pytest.mark.parametrize("whole", [False, True])
def test_a_torrent_that_comes_too_late_is_left(
    ground: Ground, source: TorrentSource, seeder: LibtorrentPeer, whole: bool
) -> None:
    shared, late = ground.share({"": 5 * PIECE}), ground.share({"": 5 * PIECE})
    for each in (shared, late):
        seeder.seed(each.torrent, each.content)
    gathering = source.gather(
        [url_of(shared)], str(ground.folder / "got"), None, mix=True, progress=lambda _: None, cancelled=NEVER
    )
    until(lambda: gathering.parts)
    source.finish(gathering, done=whole)
    peers = Extra(peers=(endpoint(seeder.address),))
    begun = source.session.join(late.metainfo, peers, wanted=range(2))
    has_all(source.session, begun, range(2))
    source.session.leave(begun, ())
    gathering.expect(1)
    in_thread(lambda: source._join(magnet_url(late, seeder), gathering, None, NEVER))
    assert all(not joined.users and not joined.torrent.priorities for joined in source.session._joined.values())
    source.close()
    assert [path.name for path in ground.work.iterdir()] == ([] if whole else [late.metainfo.id])


def test_a_private_torrent_asks_its_own_trackers_alone(
    ground: Ground, source: TorrentSource, seeder: LibtorrentPeer
) -> None:
    shared = ground.share({"": 5 * PIECE}, private=True)
    seeder.seed(shared.torrent, shared.content)
    with ToldTracker([seeder.address]) as tracker:
        magnet = magnet_url(shared, seeder).url + f"&tr={tracker.announce}"
        source._cache.keep(shared.metainfo)
        gathering = source.gather(
            [parsed(magnet)], str(ground.folder / "got"), None, mix=True, progress=lambda _: None, cancelled=NEVER
        )
        until(lambda: gathering.parts)
        looked = source.session._looked
        until(lambda: source.session._looked > looked + 1)
        source.finish(gathering, done=False)
        assert tracker.asked == []
        assert "it is private, so only its trackers were asked" in gathering.parts[0].torrent.tried.in_words()
        assert gathering.parts[0].torrent.downloaded == 0


# What git-annex is told.


def test_magnets_are_kept_of_pages(ground: Ground, source: TorrentSource) -> None:
    album, single, private = ground.share(ALBUM), ground.share({"": 5}), ground.share({"": 6}, private=True)
    urls = [url_of(album, 2), url_of(single), url_of(private), parsed("https://gone.example/x.torrent")]
    kept = source.magnets_to_keep(urls)
    assert [parsed(each).choice for each in kept] == [2, None]
    assert all(each.startswith("swarm:magnet:?xt=urn:btih:") for each in kept)
    assert source.magnets_to_keep([*urls, *map(parsed, kept)]) == []
    assert source.magnets_to_keep([url_of(album, 9)]) == []


def test_torrents_in_words(ground: Ground, source: TorrentSource) -> None:
    album, single = ground.share(ALBUM), ground.share({"": 5})
    unknown = parsed(f"magnet:?xt=urn:btih:{'a' * 40}&dn=A+film%1b[2J#3")
    assert source.in_words([url_of(album, 2), url_of(single), url_of(single), unknown]) == [
        f"torrent {album.metainfo.name} ({album.metainfo.id}), file 2: b/b c.bin",
        f"torrent {single.metainfo.name} ({single.metainfo.id})",
        "torrent A film\ufffd[2J, file 3",
    ]
    secret = parsed("https://user:s3cret@t.example/get/0123456789abcdef0123456789abcdef/x.torrent?key=s3cret")
    [words] = source.in_words([secret])
    assert "s3cret" not in words
    assert "0123456789abcdef" not in words


def test_what_is_trusted_has_to_have_the_file(ground: Ground, source: TorrentSource) -> None:
    album = ground.share(ALBUM)
    gone = parsed(f"file://{ground.folder}/gone.torrent")
    assert source.is_trusted([gone, url_of(album, 1)], ALBUM["a.bin"], NEVER)
    assert source.is_trusted([url_of(album, 1)], None, NEVER)
    with pytest.raises(Unavailable, match=r"the torrent's file has \d+ bytes, not 17"):
        source.is_trusted([url_of(album, 1)], 17, NEVER)
    with pytest.raises(Unavailable, match="there is no such file"):
        source.is_trusted([gone], None, NEVER)
    with pytest.raises(Unavailable, match="no torrent is recorded"):
        source.is_trusted([], None, NEVER)
    called_off = threading.Event()
    called_off.set()
    with pytest.raises(Cancelled):
        source.is_trusted([magnet_url(ground.share({"": 5}))], None, called_off)


def test_which_trackers_are_asked_first(ground: Ground, source: TorrentSource) -> None:
    """The one on the host that served the page, then those nearby."""
    document, _ = decode_with_spans(ground.share({"": 5}).torrent.read_bytes())
    trackers = [
        "http://far.example/announce",
        "http://192.168.1.9/announce",
        "udp://t.example:80",
        "http://box.local/announce",
        "http://box/announce",
    ]
    page = encode({**document, b"announce-list": [[tracker.encode()] for tracker in trackers]})
    (ground.folder / "x.torrent").write_bytes(page)
    metainfo = source.metainfo(parsed(f"file://{ground.folder}/x.torrent"), NEVER)
    asked = source._extra(parsed("http://t.example/x.torrent"), metainfo).trackers
    assert asked == (trackers[2], trackers[1], trackers[3], trackers[4], trackers[0])


@pytest.mark.parametrize(("transport", "expected"), [("foreground", False), ("background", True)])
def test_the_background_by_the_setting(transport: str, expected: bool) -> None:
    assert is_in_background(transport) is expected


def test_the_background_where_nobody_sits() -> None:
    """Without a terminal, as under the assistant; with one, in the foreground."""
    program = (
        "from annex_remote.torrents.source import is_in_background; print(is_in_background('auto'), flush=True)"
    )
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, capture_output=True, text=True, start_new_session=True, check=True)
    assert ran.stdout == "True\n"
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, command)
    said = b""
    while not said.endswith(b"\n"):
        said += os.read(terminal, 100)
    os.waitpid(pid, 0)
    os.close(terminal)
    assert said.strip() == b"False"
