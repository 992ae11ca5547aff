"""Serving in place: what is to be served, what a session is told, and what is looked for."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from annex_remote.errors import BadSetting, SwarmError, Unavailable
from annex_remote.seeding import LOOK_EVERY, Annexed, Seeding, require_ports
from annex_remote.torrents import library
from annex_remote.torrents.addresses import Allowed
from annex_remote.torrents.create import KINDS
from annex_remote.torrents.known import Extra
from annex_remote.torrents.metainfo import Metainfo
from annex_remote.torrents.seed import Held, Offer, Serving, plan
from annex_remote.torrents.session import Rules, Session, Standing
from annex_remote.torrents.settings import read_torrent_settings
from annex_remote.torrents.torrent import Torrent
from annex_remote.torrents.urls import TorrentUrl, torrent_url
from tests.cli.test_seed import state_of
from tests.fakes import WAIT, FakeClock, wait_for
from tests.torrents.test_register import FILES, torrent_of

HERE = {name: data for name, data in FILES.items() if data}


def held_of(metainfo: Metainfo, *names: str) -> list[Held]:
    """Return content under keys called as the files, all of them or those that are named."""
    return [
        Held(f"K--{'/'.join(file.path)}", f"/objects/{file.number}", file.size)
        for file in metainfo.files
        if "/".join(file.path) in (names or HERE)
    ]


def urls_of(metainfo: Metainfo) -> dict[str, list[str]]:
    return {f"K--{'/'.join(file.path)}": [f"swarm:{metainfo.magnet(file.number)}"] for file in metainfo.files}


def knowing(*metainfos: Metainfo) -> Callable[[TorrentUrl], Metainfo | None]:
    known = {each.id: each for each in metainfos}
    return lambda url: known.get(url.magnet.id) if url.magnet is not None else known.get(url.place)


@pytest.fixture
def torrent(tmp_path: Path) -> Metainfo:
    return torrent_of(tmp_path, FILES, "hybrid")


# What is to be served.


def test_all_that_is_here_of_a_torrent_is_one_offer(torrent: Metainfo) -> None:
    made = plan(held_of(torrent, *FILES), urls_of(torrent), knowing(torrent))
    [offer] = made.offers.values()
    assert (offer.here, offer.of) == (5, 5)
    assert offer.places == [f"/objects/{file.number}" if file.size else None for file in torrent.files]
    made = plan(held_of(torrent, "4 second.bin"), urls_of(torrent), knowing(torrent))
    [offer] = made.offers.values()
    assert (offer.here, offer.of) == (1, 5)
    assert not made.unknown
    assert not made.wrong


def test_what_is_not_known_is_to_be_looked_for_once(torrent: Metainfo) -> None:
    made = plan(held_of(torrent), urls_of(torrent), knowing())
    assert made.offers == {}
    assert list(made.unknown) == [torrent.magnet()]


def test_what_cannot_be_is_told_and_the_rest_is_served(torrent: Metainfo) -> None:
    urls = urls_of(torrent)
    urls["K--2 small.txt"] = [f"swarm:{torrent.magnet()}#99", "https://example.org/no/torrent"]
    held = [replace(one, size=7) if one.key == "K--3 small.txt" else one for one in held_of(torrent)]
    made = plan(held, urls, knowing(torrent))
    [offer] = made.offers.values()
    assert offer.here == 3
    why = dict(zip((key for key, _ in made.wrong), made.wrong.values(), strict=True))
    assert why["K--2 small.txt"].startswith("the torrent has no file #99")
    assert why["K--3 small.txt"] == "file 5 of the torrent has 1,000 bytes, and the content 7"


def test_one_torrent_by_several_urls_is_one_offer_with_all_trackers(torrent: Metainfo) -> None:
    one, two = (f"swarm:{torrent.magnet()}&tr=udp%3A%2F%2F{host}.example%3A80#{{}}" for host in "ab")
    web = "https://example.org/x.torrent"
    urls = {
        "K--1 first.bin": [one.format(1), f"{web}#1"],
        "K--4 second.bin": [two.format(next(f.number for f in torrent.files if f.path == ("4 second.bin",)))],
    }
    known = knowing(torrent)
    made = plan(held_of(torrent), urls, lambda url: torrent if url.place == web else known(url))
    [offer] = made.offers.values()
    assert offer.here == 2
    assert offer.trackers == {"udp://a.example:80", "udp://b.example:80"}


# What a session is told.


@dataclass
class FakeSession:
    """Serves by word of mouth. `has` is how many of the pieces in front turn out to be there."""

    served: dict[str, tuple[Torrent, list[str | None]]] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    refuses: str = ""
    is_checking: bool = False
    is_slow: bool = False
    """True if it is not known yet what is there, and nothing is looked at either."""
    has: int | None = None
    uploaded: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def join(self, metainfo: Metainfo, extra: Extra, *, in_place: Sequence[str | None]) -> Torrent:
        if self.refuses:
            raise Unavailable(self.refuses)
        assert metainfo.id not in self.served
        torrent = Torrent(metainfo, self.changed, FakeClock())
        if not self.is_slow:
            self.check(torrent)
        self.served[metainfo.id] = (torrent, list(in_place))
        self.log.append(f"join {sum(place is not None for place in in_place)}")
        return torrent

    def check(self, torrent: Torrent) -> None:
        """Let it be known what is there."""
        for piece in range(torrent.metainfo.pieces if self.has is None else self.has):
            torrent.finished(piece)
        torrent.checked()

    def drop(self, torrent: Torrent) -> None:
        del self.served[torrent.metainfo.id]
        self.log.append("drop")

    def standing(self, torrent: Torrent) -> Standing | None:
        if self.served.get(torrent.metainfo.id, (None,))[0] is not torrent:
            return None
        pieces = torrent.count(0, torrent.metainfo.pieces)
        return Standing(0 if self.is_checking else pieces, 2, self.uploaded, self.is_checking)


def offers_of(metainfo: Metainfo, held: Sequence[Held]) -> dict[str, Offer]:
    return plan(held, urls_of(metainfo), knowing(metainfo)).offers


def test_a_session_hears_of_changes_only(torrent: Metainfo) -> None:
    session = FakeSession()
    serving = Serving(session)
    held = held_of(torrent)
    assert [change.what for change in serving.update(offers_of(torrent, held))] == ["offered"]
    assert serving.update(offers_of(torrent, held)) == []
    assert session.log == ["join 5"]
    # One was changed in its place, another one was dropped, then all.
    session.uploaded = 100
    held[0] = replace(held[0], stamp=(1, 2, 3))
    serving.update(offers_of(torrent, held))
    assert session.log == ["join 5", "drop", "join 5"]
    serving.update(offers_of(torrent, held[1:]))
    assert session.log[3:] == ["drop", "join 4"]
    assert [change.what for change in serving.update({})] == ["withdrawn"]
    assert session.served == {}
    assert serving.figures().given == 300
    assert serving.figures().torrents == 0


def test_figures_are_those_of_the_last_look(torrent: Metainfo) -> None:
    session = FakeSession(is_checking=True, uploaded=7)
    serving = Serving(session)
    serving.update(offers_of(torrent, held_of(torrent)))
    assert serving.look() == []
    figures = serving.figures()
    assert (figures.torrents, figures.files, figures.peers, figures.given, figures.checking) == (1, 5, 2, 7, 1)
    session.is_checking = False
    serving.look()
    assert serving.figures().checking == 0


def test_what_does_not_prove_is_told_once_by_its_files(tmp_path: Path) -> None:
    metainfo = torrent_of(tmp_path, FILES, "v1")
    session = FakeSession(has=metainfo.pieces - 2)
    serving = Serving(session)
    serving.update(offers_of(metainfo, held_of(metainfo)))
    assert serving.look() == []  # it may change yet
    [change] = serving.look()
    assert (change.what, change.why) == ("damaged", "sub/6 last.bin: 2 of 3 pieces are not the torrent's")
    assert serving.look() == []
    # Pieces that have bytes of what is not here cannot prove, and are no news.
    session = FakeSession(has=3)
    serving = Serving(session)
    serving.update(offers_of(metainfo, held_of(metainfo, "1 first.bin")))
    assert serving.look() == []
    assert serving.look() == []


def test_what_is_still_being_looked_at_is_not_judged(torrent: Metainfo) -> None:
    session = FakeSession(has=0, is_checking=True)
    serving = Serving(session)
    serving.update(offers_of(torrent, held_of(torrent)))
    for _ in range(3):
        assert serving.look() == []
    session.is_checking = False
    assert [change.what for change in serving.look()] == ["damaged"]


def test_what_has_not_been_looked_at_yet_is_not_judged(torrent: Metainfo) -> None:
    session = FakeSession(is_slow=True)
    serving = Serving(session)
    serving.update(offers_of(torrent, held_of(torrent)))
    for _ in range(3):
        assert serving.look() == []
    session.has = 1
    session.check(session.served[torrent.id][0])
    assert serving.look() == []
    assert [change.what for change in serving.look()] == ["damaged"]


def test_what_fails_is_told_once_and_tried_again(torrent: Metainfo) -> None:
    session = FakeSession(refuses="the torrent can be read in two ways")
    serving = Serving(session)
    offers = offers_of(torrent, held_of(torrent))
    [change] = serving.update(offers)
    assert (change.what, change.why) == ("failed", "the torrent can be read in two ways")
    assert serving.update(offers) == []
    session.refuses = ""
    assert [change.what for change in serving.update(offers)] == ["offered"]
    session.served[torrent.id][0].failed("/objects/1: No such file or directory")
    [change] = serving.look()
    assert (change.what, change.why) == ("failed", "/objects/1: No such file or directory")
    assert session.served == {}
    assert [change.what for change in serving.update(offers)] == ["offered"]


@pytest.mark.parametrize("kind", KINDS)
def test_in_place_nothing_is_ever_written_and_only_a_whole_torrent_is_believed(tmp_path: Path, kind: str) -> None:
    metainfo = torrent_of(tmp_path, FILES, kind)
    flags = library.libtorrent().torrent_flags
    whole: list[str | None] = [f"/objects/{file.number}" if file.size else None for file in metainfo.files]
    for places, is_believed in ((whole, True), ([None, *whole[1:]], False)):
        params = library.torrent_params(metainfo)
        library.dress(params, metainfo, None, places)
        assert params.flags & flags.upload_mode
        assert bool(params.flags & flags.seed_mode) == is_believed
        assert {name for name in params.renamed_files.values() if name != os.devnull} == set(places) - {None}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gone", ["1 first.bin", "4 second.bin", "sub/6 last.bin"])
def test_libtorrent_finds_what_is_in_place_whatever_is_not(tmp_path: Path, kind: str, gone: str) -> None:
    metainfo = torrent_of(tmp_path, FILES, kind)
    folder = tmp_path / "the torrent"
    before = state_of(tmp_path)
    here = {"/".join(file.path): file for file in metainfo.files if file.size}
    absent = here.pop(gone)
    places = [str(folder.joinpath(*file.path)) if "/".join(file.path) in here else None for file in metainfo.files]
    settings = read_torrent_settings({"listen": "none", "dht": "no", "transport": "foreground"})
    session = Session(str(tmp_path.parent / f"{tmp_path.name} work"), Rules(settings, Allowed()))
    try:
        torrent = session.join(metainfo, in_place=places)
        with session.changed:
            assert session.changed.wait_for(lambda: torrent.is_checked, WAIT)
        served = {piece for piece in range(metainfo.pieces) if torrent.has(piece)}
        assert served == set(range(metainfo.pieces)) - set(metainfo.span(absent))
    finally:
        session.close()
    assert state_of(tmp_path) == before


# As a whole.


@dataclass
class FakeSource:
    """Knows some torrents, and learns of others when it is let; `fails` is why it does not."""

    session: FakeSession = field(default_factory=FakeSession)
    kept: dict[str, Metainfo] = field(default_factory=dict)
    web: dict[str, Metainfo] = field(default_factory=dict)
    fails: str = ""
    asked: list[str] = field(default_factory=list)
    may_answer: threading.Event = field(default_factory=threading.Event)

    def known(self, url: TorrentUrl) -> Metainfo | None:
        return self.kept.get(url.place)

    def metainfo(self, url: TorrentUrl, cancelled: threading.Event) -> Metainfo:
        self.asked.append(url.place)
        wait_for(self.may_answer)
        if self.fails:
            raise Unavailable(self.fails)
        return self.web[url.place]


@dataclass
class World:
    source: FakeSource
    annexed: Annexed
    clock: FakeClock = field(default_factory=FakeClock)
    looks: int = 0
    fails: str = ""

    def look(self) -> Annexed:
        self.looks += 1
        if self.fails:
            raise SwarmError(self.fails)
        return self.annexed

    def seeding(self) -> Seeding:
        return Seeding(self.source, self.look, self.clock)  # type: ignore[arg-type] # it takes what is used of it


def world(metainfo: Metainfo) -> World:
    return World(FakeSource(), Annexed(held_of(metainfo), urls_of(metainfo)))


def test_what_is_annexed_is_looked_at_every_ten_minutes(torrent: Metainfo) -> None:
    here = world(torrent)
    here.source.kept = {torrent.magnet(): torrent}
    seeding = here.seeding()
    assert [change.what for change in seeding.step().changes] == ["offered"]
    here.annexed = Annexed([], {})
    here.clock.advance(LOOK_EVERY - 1)
    assert seeding.step().changes == []
    assert here.looks == 1
    here.clock.advance(1)
    assert [change.what for change in seeding.step().changes] == ["withdrawn"]
    assert here.looks == 2


def test_a_look_that_fails_leaves_what_is_served_and_is_done_again_in_its_time(torrent: Metainfo) -> None:
    here = world(torrent)
    here.source.kept = {torrent.magnet(): torrent}
    seeding = here.seeding()
    seeding.step()
    here.fails = "git annex findkeys failed: 1"
    here.clock.advance(LOOK_EVERY)
    with pytest.raises(SwarmError, match="findkeys"):
        seeding.step()
    assert seeding.step().changes == []
    assert here.looks == 2
    assert seeding.figures().torrents == 1


@pytest.mark.parametrize(("host", "all_of_them"), [("127.0.0.1", "0.0.0.0"), ("::1", "::")])
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_that_is_taken_is_not_listened_at(host: str, all_of_them: str, kind: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as taken:
        taken.bind((host, 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        port = taken.getsockname()[1]
        for endpoints in ([(host, port)], [(all_of_them, port)], [(host, 0), (host, port)]):
            with pytest.raises(BadSetting, match=f"port {port} is taken"):
                require_ports(endpoints)
    require_ports([(host, port), (host, port), (all_of_them, port)])


def test_an_address_of_another_machine_is_left_to_the_others() -> None:
    require_ports([("192.0.2.1", 0), ("127.0.0.1", 0)])
    require_ports([])
    with pytest.raises(BadSetting, match=r"is at 192.0.2.1:0, \[2001:db8::1\]:5, so"):
        require_ports([("192.0.2.1", 0), ("2001:db8::1", 5)])


def test_names_that_several_torrents_have_are_known_from_then_on(torrent: Metainfo) -> None:
    other = replace(torrent, v1=bytes(20))
    here = world(torrent)
    here.source.kept = {torrent.magnet(): torrent}
    seeding = here.seeding()
    assert seeding.step().alike == set()
    held = [replace(each, key=f"{each.key}2") for each in here.annexed.held]
    urls = {
        f"{key}2": ["magnet:?xt=urn:btih:" + "0" * 40 + "#" + each.rpartition("#")[2]]
        for key, [each] in here.annexed.urls.items()
    }
    here.source.kept["magnet:?xt=urn:btih:" + "0" * 40] = other
    here.annexed = Annexed(here.annexed.held + held, here.annexed.urls | urls)
    here.clock.advance(LOOK_EVERY)
    assert seeding.step().alike == {torrent.name}
    here.annexed = Annexed([], {})
    here.clock.advance(LOOK_EVERY)
    assert seeding.step().alike == {torrent.name}


def test_what_is_in_a_torrent_is_looked_for_aside(torrent: Metainfo) -> None:
    here = world(torrent)
    here.source.web = {torrent.magnet(): torrent}
    seeding = here.seeding()
    assert seeding.step().changes == []
    assert seeding.looked_for == 1
    seeding.step()
    here.source.may_answer.set()
    wait_for(seeding.stirred)
    assert seeding.looked_for == 0
    assert [change.what for change in seeding.step().changes] == ["offered"]
    assert here.source.asked == [torrent.magnet()]
    assert here.looks == 1


def test_what_cannot_be_learned_is_told_once_and_asked_again_at_the_next_look(torrent: Metainfo) -> None:
    here = world(torrent)
    here.source.fails = "nobody had the metadata"
    here.source.may_answer.set()
    seeding = here.seeding()
    seeding.step()
    wait_for(seeding.stirred)
    assert seeding.step().unknown == {torrent.magnet(): "nobody had the metadata"}
    assert seeding.step().unknown == {}
    assert here.source.asked == [torrent.magnet()]
    here.clock.advance(LOOK_EVERY)
    seeding.step()
    wait_for(seeding.stirred)
    assert seeding.step().unknown == {}
    assert here.source.asked == [torrent.magnet()] * 2


def test_few_are_looked_for_at_once(torrent: Metainfo) -> None:
    urls = [f"magnet:?xt=urn:btih:{number:040x}" for number in range(30)]
    held = [Held(f"K--{number}", "/objects/x", 5) for number in range(30)]
    here = World(FakeSource(), Annexed(held, {f"K--{number}": [url] for number, url in enumerate(urls)}))
    here.source.fails = "nobody"
    seeding = here.seeding()
    seeding.step()
    assert seeding.looked_for == 30
    assert len(set(here.source.asked)) <= 8
    here.source.may_answer.set()
    told: set[str] = set()
    while len(told) < 30:
        wait_for(seeding.stirred)
        told |= set(seeding.step().unknown)
    assert sorted(here.source.asked) == sorted(urls)
    assert seeding.looked_for == 0


def test_urls_that_are_no_torrents_are_not_looked_at() -> None:
    assert torrent_url("https://example.org/film.mkv") is None
    made = plan([Held("K--1", "/x", 5)], {"K--1": ["https://example.org/film.mkv"]}, knowing())
    assert (made.offers, made.unknown, made.wrong) == ({}, {}, {})
