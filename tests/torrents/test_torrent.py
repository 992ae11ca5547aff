"""A torrent that several want something of: what peers are asked for, what is read, what is given."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annex_remote.errors import Unavailable
from annex_remote.torrents.metainfo import Metainfo, from_info
from annex_remote.torrents.torrent import Torrent, Tried
from annex_remote.torrents.urls import Magnet
from annex_remote.torrents.wanting import forward
from tests.fakes import FakeClock, Run, in_thread
from tests.torrents.documents import BLOCK, info_of
from tests.torrents.swarm import KINDS, FakeSwarm, Kind, metainfo_of, noise

CONTENTS = {"a": noise("a", 3 * BLOCK), "b": noise("b", 2 * BLOCK + 5)}


@pytest.fixture
def swarm() -> FakeSwarm:
    return FakeSwarm(metainfo_of(CONTENTS), CONTENTS)


def is_waited_for(swarm: FakeSwarm, piece: int) -> None:
    """Return when somebody reads a piece."""
    with swarm.changed:
        assert swarm.changed.wait_for(lambda: piece in swarm.reads, 30)


# Wants.


def test_who_wants_more_wins(swarm: FakeSwarm) -> None:
    swarm.torrent.want("one", {0: 1, 1: 6})
    swarm.torrent.want("other", {1: 2, 2: 3})
    assert swarm.priorities == swarm.torrent.priorities == {0: 1, 1: 6, 2: 3}
    swarm.torrent.want("one", {0: 4})
    assert swarm.priorities == {0: 4, 1: 2, 2: 3}
    swarm.torrent.want("other", {})
    assert swarm.priorities == {0: 4}


def test_only_changes_are_told(swarm: FakeSwarm) -> None:
    swarm.torrent.want("one", {0: 1, 1: 6})
    swarm.torrent.want("one", {0: 1, 1: 6})
    swarm.torrent.want("one", {0: 1, 1: 5, 2: 1})
    assert [sorted(changes) for changes in swarm.told] == [[(0, 1), (1, 6)], [(1, 5), (2, 1)]]


def test_what_is_there_is_wanted_no_more(swarm: FakeSwarm) -> None:
    swarm.bring([1])
    swarm.torrent.want("one", {0: 2, 1: 6})
    assert swarm.priorities == {0: 2}
    swarm.bring([0])
    swarm.torrent.want("one", {})
    assert [(piece, 0) in swarm.told[-1] for piece in (0, 1)] == [False, False]


def test_what_it_begins_with_is_wanted_until_somebody_says_what_he_wants(swarm: FakeSwarm) -> None:
    swarm.torrent.begin_with(range(2, 4))
    assert list(swarm.priorities) == [2, 3]
    swarm.torrent.want("one", {0: 6})
    assert swarm.priorities == {0: 6}
    swarm.torrent.begin_with([5])
    assert list(swarm.priorities) == [0, 5]


def test_peers_are_woken_when_something_is_wanted_after_nothing_was(swarm: FakeSwarm) -> None:
    swarm.torrent.want("one", {0: 1})
    assert swarm.woken == 1
    swarm.torrent.want("other", {1: 1})
    swarm.torrent.want("one", {})
    assert swarm.woken == 1
    swarm.torrent.want("other", {})
    assert swarm.woken == 1
    swarm.torrent.want("other", {1: 1})
    assert swarm.woken == 2


def test_wants_are_told_again_when_what_was_there_has_been_checked(swarm: FakeSwarm) -> None:
    swarm.torrent.want("one", {0: 1, 1: 6, 2: 2})
    swarm.priorities.clear()  # as libtorrent may do
    with swarm.changed:
        swarm.torrent.finished(2)
        swarm.torrent.checked()
    assert swarm.priorities == {0: 1, 1: 6}


def test_a_torrent_that_left_the_session_is_told_nothing(swarm: FakeSwarm) -> None:
    swarm.torrent.detach()
    swarm.torrent.want("one", {0: 1})
    swarm.torrent.offer(0, swarm.piece(0))
    assert (swarm.told, swarm.given) == ([], {})


def test_whoever_reads_of_a_torrent_that_left_is_told(swarm: FakeSwarm) -> None:
    swarm.bring([0, 1])
    swarm.slow = {0}
    swarm.torrent.begin_read(0)
    run = Run(lambda: swarm.torrent.read(0))
    with swarm.changed:
        swarm.torrent.detach()
        swarm.changed.notify_all()
    with pytest.raises(Unavailable, match="T is fetched no more"):
        run.join()
    swarm.torrent.begin_read(1)
    with pytest.raises(Unavailable, match="T is fetched no more"):
        in_thread(lambda: swarm.torrent.read(1))


WANTS = st.dictionaries(st.integers(0, 5), st.integers(1, 6))
STEPS = st.one_of(
    st.tuples(st.just("want"), st.sampled_from(["one", "two", "three"]), WANTS),
    st.tuples(st.just("begin"), st.none(), st.sets(st.integers(0, 5))),
    st.tuples(st.just("bring"), st.none(), st.sets(st.integers(0, 5), max_size=2)),
)


@settings(max_examples=200)
@given(st.lists(STEPS, max_size=12))
def test_peers_are_asked_for_what_is_missing_of_all_wants(steps: list[tuple[str, str, object]]) -> None:
    swarm = FakeSwarm(METAINFO, CONTENTS)
    wants: dict[object, dict[int, int]] = {}
    for what, user, value in steps:
        if what == "want":
            wants.pop("begin", None)
            wants[user] = dict(value)  # type: ignore[call-overload]
            swarm.torrent.want(user, wants[user])
        elif what == "begin":
            wants["begin"] = forward(sorted(value), swarm.torrent.has, BLOCK)  # type: ignore[call-overload]
            swarm.torrent.begin_with(sorted(value))  # type: ignore[call-overload]
        else:
            swarm.bring(value)  # type: ignore[arg-type]
    asked = {piece: priority for piece, priority in swarm.priorities.items() if not swarm.torrent.has(piece)}
    meant = {
        piece: max(wanted.get(piece, 0) for wanted in wants.values())
        for wanted in wants.values()
        for piece in wanted
        if not swarm.torrent.has(piece)
    }
    assert asked == meant


METAINFO = metainfo_of(CONTENTS)


# Reading.


def test_a_piece_is_read_once_for_all_who_wait_for_it(swarm: FakeSwarm) -> None:
    swarm.bring([1])
    swarm.slow = {1}
    for _ in range(3):
        swarm.torrent.begin_read(1)
    read: list[bytes] = []
    runs = [Run(lambda: read.append(swarm.torrent.read(1))) for _ in range(3)]
    swarm.answer(1)
    for run in runs:
        run.join()
    assert (read, swarm.reads) == ([swarm.piece(1)] * 3, [1])
    swarm.slow.clear()
    swarm.torrent.begin_read(1)  # nobody waits for what was read before
    assert (swarm.torrent.read(1), swarm.reads) == (swarm.piece(1), [1, 1])


def test_what_cannot_be_read_is_read_again_by_the_next(swarm: FakeSwarm) -> None:
    swarm.bring([0])
    swarm.unreadable[0] = Unavailable("the disk is gone")
    swarm.torrent.begin_read(0)
    with pytest.raises(Unavailable, match="the disk is gone"):
        swarm.torrent.read(0)
    swarm.unreadable.clear()
    swarm.torrent.begin_read(0)
    assert swarm.torrent.read(0) == swarm.piece(0)


def test_a_torrent_that_failed_fails_whoever_reads(swarm: FakeSwarm) -> None:
    swarm.bring([0])
    swarm.slow = {0}
    swarm.torrent.check()
    assert not swarm.torrent.has_failed
    swarm.torrent.begin_read(0)
    run = Run(lambda: swarm.torrent.read(0))
    with swarm.changed:
        swarm.torrent.failed("f0: No space left on device")
        swarm.changed.notify_all()
    with pytest.raises(Unavailable, match="f0: No space left on device"):
        run.join()
    with pytest.raises(Unavailable, match="No space left"):
        swarm.torrent.check()
    assert swarm.torrent.has_failed


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_there_before_is_proved_when_it_is_read(kind: Kind) -> None:
    swarm = FakeSwarm(metainfo_of(CONTENTS, kind), CONTENTS)
    with swarm.changed:
        swarm.bring([0, 1, 5])
        swarm.torrent.checked()
    for piece in (0, 1, 5):
        swarm.torrent.begin_read(piece)
        assert swarm.torrent.read(piece) == swarm.piece(piece)
    assert swarm.rechecked == 0


@pytest.mark.parametrize("kind", KINDS)
def test_damage_of_what_was_there_before_has_all_checked_again(kind: Kind) -> None:
    swarm = FakeSwarm(metainfo_of(CONTENTS, kind), CONTENTS)
    swarm.torrent.want("one", dict.fromkeys(swarm.all, 1))
    with swarm.changed:
        swarm.bring([0, 1, 2])
        swarm.torrent.checked()
    swarm.damaged = {1}
    swarm.torrent.begin_read(1)
    with pytest.raises(Unavailable, match="a piece of T does not prove, as it is on this machine's disk"):
        swarm.torrent.read(1)
    assert (swarm.rechecked, [swarm.torrent.has(piece) for piece in swarm.all]) == (1, [False] * 6)
    with swarm.changed:
        swarm.bring([0, 2])
        swarm.torrent.checked()
    assert sorted(swarm.told[-1]) == [(1, 1), (3, 1), (4, 1), (5, 1)]
    swarm.damaged.clear()
    swarm.bring([1])
    swarm.torrent.begin_read(1)
    assert swarm.torrent.read(1) == swarm.piece(1)


def test_what_was_fetched_just_now_is_not_proved_twice(swarm: FakeSwarm, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def proves(_: Metainfo, piece: int, __: bytes) -> bool:
        asked.append(piece)
        return True

    monkeypatch.setattr(Metainfo, "proves", proves)
    with swarm.changed:
        swarm.bring([0])
        swarm.torrent.checked()
        swarm.bring([1])
    for piece in (0, 1):
        swarm.torrent.begin_read(piece)
        swarm.torrent.read(piece)
    assert asked == [0]


# What comes.


def test_offers_are_of_what_is_missing(swarm: FakeSwarm) -> None:
    swarm.bring([0])
    for piece in (0, 1):
        swarm.torrent.offer(piece, swarm.piece(piece))
    assert swarm.given == {1: swarm.piece(1)}
    assert swarm.torrent.has(1)


def test_it_is_known_when_something_last_came() -> None:
    clock = FakeClock()
    torrent = Torrent(METAINFO, threading.Condition(), clock)
    began = clock()
    clock.advance(5)
    torrent.came(0, 100)
    assert (torrent.moved, torrent.uploaded) == (began, 100)
    torrent.came(BLOCK - 1, 100)  # a trickle
    assert (torrent.moved, torrent.downloaded) == (began, BLOCK - 1)
    torrent.came(BLOCK, 100)
    assert torrent.moved == began + 5
    clock.advance(5)
    torrent.came(2 * BLOCK - 1, 100)
    assert torrent.moved == began + 5
    torrent.finished(0)
    assert torrent.moved == began + 10
    clock.advance(5)
    torrent.lost(3)
    torrent.begun_anew()
    torrent.came(5, 0)
    assert torrent.moved == began + 10
    torrent.came(2 * BLOCK - 1, 0)
    assert torrent.moved == began + 10  # what somebody sends who is banned each time is no sign of life
    torrent.came(3 * BLOCK, 7)
    assert torrent.moved == began + 15
    assert (torrent.downloaded, torrent.uploaded) == (5 * BLOCK - 1, 107)


def test_bytes_of_peers_that_come_back_are_a_sign_of_life() -> None:
    clock = FakeClock()
    torrent = Torrent(METAINFO, threading.Condition(), clock)
    torrent.came(9 * BLOCK, 100)
    clock.advance(5)
    began = clock()
    torrent.begun_anew()
    torrent.came(BLOCK, 1)
    assert (torrent.moved, torrent.downloaded, torrent.uploaded) == (began, 10 * BLOCK, 101)


def test_what_was_not_told_is_there_and_what_was_lost_is_not(swarm: FakeSwarm) -> None:
    swarm.torrent.want("one", dict.fromkeys(swarm.all, 1))
    with swarm.changed:
        swarm.torrent.checked()
        swarm.bring([0, 1])
        swarm.torrent.tell([True, False, True, False, False, False])
        swarm.torrent.checked()
    assert [swarm.torrent.has(piece) for piece in swarm.all] == [True, False, True, False, False, False]
    assert swarm.torrent.priorities == dict.fromkeys([1, 3, 4, 5], 1)


def test_what_was_there_before_and_has_no_hash_is_checked_first() -> None:
    """A v2 magnet brings no piece layers: only libtorrent, which has them of peers, can tell if it is right."""
    whole = metainfo_of(CONTENTS, "v2")
    swarm = FakeSwarm(from_info(info_of(whole.document), Magnet(None, whole.v2)), CONTENTS)
    large = next(piece for piece in swarm.all if not swarm.metainfo.can_prove(piece))
    with swarm.changed:
        swarm.bring(swarm.all)
        swarm.torrent.checked()
    swarm.torrent.begin_read(large)
    with pytest.raises(Unavailable, match="does not prove"):
        swarm.torrent.read(large)
    assert (swarm.rechecked, swarm.torrent.has(large)) == (1, False)
    with swarm.changed:
        swarm.bring([large])
        swarm.torrent.checked()
    swarm.torrent.begin_read(large)
    assert swarm.torrent.read(large) == swarm.piece(large)
    assert swarm.rechecked == 1


def test_nothing_is_wanted_any_more(swarm: FakeSwarm) -> None:
    with swarm.changed:
        swarm.torrent.checked()
    swarm.torrent.begin_with([0, 1])
    swarm.torrent.want("one", {3: 2})
    swarm.torrent.want_nothing()
    assert swarm.priorities == {}


def test_pieces_are_counted(swarm: FakeSwarm) -> None:
    swarm.bring([0, 2, 3])
    assert [swarm.torrent.count(0, 6), swarm.torrent.count(1, 3), swarm.torrent.count(4, 6)] == [3, 1, 0]


def test_a_reader_waits_for_the_disk(swarm: FakeSwarm) -> None:
    swarm.bring([0])
    swarm.slow = {0}
    swarm.torrent.begin_read(0)
    read: list[bytes] = []
    run = Run(lambda: read.append(swarm.torrent.read(0)))
    is_waited_for(swarm, 0)
    assert not run.is_over
    swarm.answer(0)
    run.join()
    assert read == [swarm.piece(0)]


def test_what_nobody_waits_for_is_not_kept(swarm: FakeSwarm) -> None:
    swarm.bring([0])
    swarm.answer(0)
    swarm.torrent.begin_read(0)
    assert swarm.torrent.read(0) == swarm.piece(0)
    assert swarm.reads == [0]


# What was tried, in words.


def test_what_was_tried_is_told_without_secrets() -> None:
    tried = Tried(
        {"http://t.example/0123456789abcdef0123456789abcdef/announce?key=s3cret": "no such torrent"},
        {"https://user:s3cret@w.example/x.iso": "404"},
        peers=3,
        seeds=1,
        bad=2,
        dht="the DHT is off",
        refused={"10.0.0.1", "127.0.0.1"},
    )
    assert tried.in_words() == (
        "3 peers connected, 1 with all of it; tracker http://t.example/…/announce: no such torrent; "
        "web seed https://w.example/x.iso: 404; pieces that came damaged: 2; 10.0.0.1, 127.0.0.1 not asked, as "
        "annex.security.allowed-ip-addresses does not allow it; the DHT is off"
    )


@pytest.mark.parametrize(
    ("tried", "words"),
    [
        (Tried(), "no peers were found"),
        (Tried(known=4), "none of 4 peers could be connected to"),
        (Tried(known=1), "none of 1 peer could be connected to"),
        (Tried(known=1, bad=1), "1 peer connected, 0 with all of it; pieces that came damaged: 1"),
        (Tried(refused={f"10.0.0.{number}" for number in range(1, 8)}), "10.0.0.5 not asked"),
    ],
)
def test_other_words(tried: Tried, words: str) -> None:
    assert words in tried.in_words()
