"""A key out of torrents, without libtorrent: in order, proved, at the end of a file that only grows."""

from __future__ import annotations

import math
import random
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annex_remote.errors import Cancelled, NotEnough, Unavailable
from annex_remote.torrents import gather
from annex_remote.torrents.gather import AGAIN, Part
from annex_remote.torrents.metainfo import from_info
from annex_remote.torrents.torrent import SILENCE
from annex_remote.torrents.urls import Magnet
from tests.fakes import Run, in_thread, wait_for
from tests.torrents.documents import BLOCK, info_of
from tests.torrents.gatherings import CONTENTS, SIZE, TIMEOUT, Rig, until
from tests.torrents.swarm import KINDS, FakeSwarm, Kind, file_of, metainfo_of, noise


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


# In order.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [BLOCK, 4 * BLOCK, 16 * BLOCK])
def test_a_file_is_written(rig: Rig, kind: Kind, length: int) -> None:
    swarm = rig.swarm(kind, length)
    swarm.bring(swarm.all)
    assert in_thread(rig.gathering.run)
    assert rig.whole()
    assert rig.reader.told[-1] == SIZE


@settings(max_examples=40)
@given(st.randoms(use_true_random=False), st.sampled_from(KINDS), st.sampled_from([BLOCK, 2 * BLOCK]))
def test_pieces_in_any_order_are_written_in_order(
    tmp_path_factory: pytest.TempPathFactory, chance: random.Random, kind: Kind, length: int
) -> None:
    rig = Rig(tmp_path_factory.mktemp("rig"))
    swarm = rig.swarm(kind, length)
    pieces = list(swarm.all)
    chance.shuffle(pieces)
    run = Run(rig.gathering.run)
    for piece in pieces:
        swarm.bring([piece])
    run.join()
    assert rig.whole()
    assert max(rig.reader.told) == SIZE


def test_the_file_grows_along(rig: Rig) -> None:
    swarm = rig.swarm()
    span = swarm.metainfo.span(file_of(swarm.metainfo, "b"))
    run = Run(rig.gathering.run)
    end = 3 * BLOCK // 2  # of the second piece: b begins in the middle of the first
    swarm.bring([span[1], span[2]])
    assert rig.reader.read == b""
    swarm.bring([span[0]])
    rig.written(end + BLOCK)
    assert rig.reader.read == CONTENTS["b"][: end + BLOCK]
    swarm.bring([span[-1]])
    assert not run.is_over
    swarm.bring(span)
    run.join()
    assert rig.whole()


def test_progress_counts_what_is_there_behind(rig: Rig) -> None:
    swarm = rig.swarm("v2", 2 * BLOCK)
    span = swarm.metainfo.span(file_of(swarm.metainfo, "b"))
    run = Run(rig.gathering.run)
    swarm.bring([span[-1], span[-2], span[0]])
    rig.written(2 * BLOCK)
    assert rig.reader.told[-1] == 2 * BLOCK + 4 * BLOCK
    swarm.bring(span)
    run.join()
    assert rig.reader.told[-1] == max(rig.reader.told) == SIZE


def test_only_the_wanted_file_is_asked_for(rig: Rig) -> None:
    swarm = rig.swarm()
    run = Run(rig.gathering.run)
    span = swarm.metainfo.span(file_of(swarm.metainfo, "b"))
    rig.wait_for(lambda: set(swarm.priorities) == set(span))
    assert span == range(2, 9)
    swarm.bring(span)
    run.join()
    assert rig.whole()
    assert set(swarm.reads) == set(span)


def test_of_a_large_file_what_is_near_is_asked_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as something comes: peers may have only what is far."""
    monkeypatch.setattr(gather, "NEAR", 3)
    swarm = rig.swarm("v2")
    first = rig.gathering.parts[0].span[0]
    swarm.bring([first + 1])
    run = Run(rig.gathering.run)
    rig.wait_for(lambda: set(swarm.priorities) == {first, first + 2, first + 3})
    rig.clock.advance(gather.STILL + 0.1)
    rig.wait_for(lambda: set(swarm.priorities) == {first, *range(first + 2, first + 7)})
    swarm.bring([first + 6])
    rig.clock.advance(1)
    rig.wait_for(lambda: set(swarm.torrent.priorities) == {first, first + 2, first + 3})
    rig.cancelled.set()
    with pytest.raises(Cancelled):
        run.join()


def test_deciding_what_to_ask_for_takes_a_part_of_the_time(rig: Rig) -> None:
    swarm = rig.swarm("v2")
    told = swarm.prioritise

    def takes_a_second(changes: list[tuple[int, int]]) -> None:
        rig.clock.advance(1)
        told(changes)

    swarm.prioritise = takes_a_second  # type: ignore[method-assign]
    rig.gathering.has(0, BLOCK, 0)
    swarm.bring([swarm.metainfo.pieces - 3])  # the end of b
    rig.clock.advance(8)
    rig.gathering.has(0, BLOCK, 2 * BLOCK)
    assert len(swarm.told) == 1
    rig.clock.advance(2)
    rig.gathering.has(0, BLOCK, 2 * BLOCK)
    assert len(swarm.told) == 2


def test_an_empty_file(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {"a": b"a", "b": b""})
    rig.swarm()
    assert in_thread(rig.gathering.run)
    assert rig.whole()


def test_a_torrent_may_come_later(rig: Rig) -> None:
    rig.gathering.expect(2)
    run = Run(rig.gathering.run)
    rig.gathering.cannot("the first is no good")
    rig.clock.advance(100 * TIMEOUT)
    assert not run.is_over
    swarm = rig.swarm()
    swarm.bring(swarm.all)
    run.join()
    assert rig.whole()


# What is there before.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("there", [0, 1, BLOCK - 1, BLOCK, 3 * BLOCK // 2, 3 * BLOCK + 5, SIZE - 1, SIZE])
def test_what_is_there_is_not_fetched_again(tmp_path: Path, kind: Kind, there: int) -> None:
    rig = Rig(tmp_path, there=CONTENTS["b"][:there])
    swarm = rig.swarm(kind)
    swarm.bring(swarm.all)
    assert in_thread(rig.gathering.run)
    assert rig.whole()
    span = swarm.metainfo.span(file_of(swarm.metainfo, "b"))
    offset = 0 if kind != "v1" else BLOCK // 2  # b begins in the middle of a piece
    whole = (there + offset) // BLOCK if there < SIZE else len(span)
    if kind == "v1" and there == SIZE:
        whole -= 1  # the last piece has bytes of c
    if whole * BLOCK - offset <= BLOCK // 2 and kind == "v1":
        whole = 0  # the first one is proved by nothing that is here
    head = [span[0]] if kind == "v1" and whole else []  # what is there of it is compared
    assert swarm.reads == head + list(span[whole:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [0, 1, 2 * BLOCK + 5, 4 * BLOCK])
def test_what_is_there_and_wrong_is_cut_off(tmp_path: Path, kind: Kind, wrong: int) -> None:
    there = bytearray(CONTENTS["b"][: 5 * BLOCK])
    there[wrong] ^= 1
    rig = Rig(tmp_path, there=bytes(there))
    swarm = rig.swarm(kind)
    run = Run(rig.gathering.run)
    swarm.bring([swarm.metainfo.span(file_of(swarm.metainfo, "b"))[0]])
    until(lambda: CONTENTS["b"].startswith(rig.path.read_bytes()))
    assert rig.path.stat().st_size > wrong - 3 * BLOCK // 2
    swarm.bring(swarm.all)
    run.join()
    assert rig.whole()


@pytest.mark.parametrize("there", [noise("other", 10), noise("other", 3 * SIZE), CONTENTS["b"] + b"more"])
def test_what_is_there_and_of_something_else_goes(tmp_path: Path, there: bytes) -> None:
    rig = Rig(tmp_path, there=there)
    swarm = rig.swarm("v2")
    swarm.bring(swarm.all)
    assert in_thread(rig.gathering.run)
    assert rig.whole()


def test_what_is_asked_for_when_only_the_edge_is_in_doubt(tmp_path: Path) -> None:
    rig = Rig(tmp_path, there=CONTENTS["b"][: 4 * BLOCK])
    swarm = rig.swarm()
    run = Run(rig.gathering.run)
    rig.wait_for(lambda: swarm.priorities)
    assert swarm.priorities == dict.fromkeys([2, 6, 7, 8], 6)
    in_thread(rig.gathering.take_over)
    run.join()
    assert rig.path.read_bytes() == CONTENTS["b"][: 4 * BLOCK]


# Nothing comes.


def test_it_ends_when_nothing_comes_for_too_long(rig: Rig) -> None:
    swarm = rig.swarm()
    run = Run(rig.gathering.run)
    rig.wait_for(lambda: swarm.priorities)
    swarm.torrent.tried.trackers["http://t.example/announce"] = "no such torrent"
    rig.clock.advance(TIMEOUT - 1)
    swarm.bring([2])
    rig.written(BLOCK // 2)
    rig.clock.advance(TIMEOUT - 1)
    with swarm.changed:
        swarm.torrent.came(BLOCK, 0)  # bytes, if no piece
    rig.clock.advance(TIMEOUT - 1)
    assert not run.is_over
    rig.clock.advance(2)
    with pytest.raises(NotEnough) as told:
        run.join()
    assert str(told.value) == (
        "nothing came from peers for 30 seconds; torrent T: no peers were found; tracker "
        "http://t.example/announce: no such torrent"
    )
    assert rig.path.read_bytes() == CONTENTS["b"][: BLOCK // 2]


def test_one_of_which_nothing_came_before_is_not_waited_for_as_long(rig: Rig) -> None:
    rig.swarm(is_doubtful=True)
    rig.clock.advance(AGAIN)
    rig.gathering.check()
    rig.clock.advance(1)
    with pytest.raises(
        NotEnough, match=r"^nothing came from peers for 10 seconds \(nor for 30 just before\); torrent T"
    ):
        rig.gathering.check()
    assert rig.gathering.gave_up
    rig.swarm(is_doubtful=False)
    rig.clock.advance(TIMEOUT - 1)
    rig.gathering.check()


@pytest.mark.parametrize("more", [1000, -1000])
def test_the_next_torrent_may_have_another_size(tmp_path: Path, more: int) -> None:
    """Of a key whose size is not known: what is fetched is all of that torrent's file."""
    rig = Rig(tmp_path, mix=False)
    dead = rig.swarm()
    contents = {**CONTENTS, "b": noise("another b", SIZE + more)}
    other = rig.swarm(contents=contents)
    run = Run(rig.gathering.run)
    rig.wait_for(lambda: dead.priorities)
    rig.clock.advance(TIMEOUT + 1)
    rig.wait_for(lambda: other.priorities)
    other.bring(other.all)
    run.join()
    assert rig.path.read_bytes() == contents["b"]


def test_it_is_told_once_what_is_waited_for(rig: Rig) -> None:
    swarm = rig.swarm()
    rig.gathering.check()
    assert rig.said == []
    rig.clock.advance(SILENCE + 1)
    rig.gathering.check()
    rig.gathering.check()
    assert rig.said == [
        "nothing has come from peers for 10 seconds, and 30 are waited for: torrent T: no peers were found"
    ]
    swarm.bring([2])
    rig.clock.advance(SILENCE + 1)
    rig.gathering.check()
    assert len(rig.said) == 1


def test_several_torrents_are_told_of_in_one_line(tmp_path: Path) -> None:
    """Those together with which it went alike, and no more than some of them."""
    rig = Rig(tmp_path)
    titles = ["T", "T", "U", "V", "W", "X"]
    swarms = [rig.swarm() for _ in titles]
    for number, (title, swarm) in enumerate(zip(titles, swarms, strict=True)):
        swarm.torrent.metainfo = replace(swarm.metainfo, name=title)
        swarm.torrent.tried.known = 7 if number == 5 else 0
    rig.clock.advance(TIMEOUT + 1)
    with pytest.raises(NotEnough) as told:
        rig.gathering.check()
    assert str(told.value) == (
        "nothing came from peers for 30 seconds; torrents T, U, V, 1 more: no peers were found; "
        "torrent X: none of 7 peers could be connected to"
    )


def test_what_came_of_other_torrents_is_said_too(rig: Rig) -> None:
    rig.gathering.expect(1)
    rig.gathering.cannot("magnet x: nobody had its metadata")
    swarm = rig.swarm()
    run = Run(rig.gathering.run)
    rig.wait_for(lambda: swarm.priorities)
    rig.clock.advance(TIMEOUT + 1)
    with pytest.raises(NotEnough, match="no peers were found; magnet x: nobody had its metadata"):
        run.join()


def test_nothing_is_given_up_while_a_torrent_is_expected(rig: Rig) -> None:
    swarm = rig.swarm()
    rig.gathering.expect(1)
    rig.clock.advance(10 * TIMEOUT)
    rig.gathering.check()
    rig.gathering.cannot("no")
    with pytest.raises(NotEnough, match=r"no peers were found; no$"):
        rig.gathering.check()
    swarm.bring([2])
    rig.gathering.check()


def test_it_is_hopeless_without_any_torrent(rig: Rig) -> None:
    rig.gathering.expect(2)
    run = Run(rig.gathering.run)
    assert not rig.gathering.is_hopeless
    rig.gathering.cannot("one is private")
    rig.gathering.cannot("the other is damaged")
    assert rig.gathering.is_hopeless
    with pytest.raises(NotEnough, match=r"^one is private; the other is damaged$"):
        run.join()
    assert not rig.path.exists()


@pytest.mark.parametrize("when", ["no torrent", "no piece", "unreadable", "before"])
def test_it_can_be_called_off(rig: Rig, when: str) -> None:
    rig.gathering.expect(1)
    if when == "before":
        rig.cancelled.set()
    swarm = rig.swarm() if when != "no torrent" else None
    run = Run(rig.gathering.run)
    if swarm is not None and when != "before":
        rig.wait_for(lambda: swarm.priorities)
        if when == "unreadable":
            swarm.unreadable = dict.fromkeys(swarm.all, Unavailable("no"))
            swarm.bring(swarm.all)
            rig.wait_for(lambda: len(swarm.reads) > 3)
    rig.cancelled.set()
    with pytest.raises(Cancelled):
        run.join()


def test_what_is_called_off_writes_no_more(rig: Rig) -> None:
    swarm = rig.swarm("v2")
    swarm.bring(swarm.all)
    rig.on_progress = rig.cancelled.set
    with pytest.raises(Cancelled):
        in_thread(rig.gathering.run)
    assert rig.path.read_bytes() == CONTENTS["b"][:BLOCK]
    read = list(swarm.reads)
    piece = read[-1]  # it was begun, as the next one to be written
    swarm.torrent.begin_read(piece)
    assert swarm.torrent.read(piece) == swarm.piece(piece)
    assert swarm.reads == [*read, piece]  # nothing of what was begun is kept


def test_a_torrent_that_had_nothing_to_do_for_long_gets_its_time(rig: Rig) -> None:
    swarm = FakeSwarm(metainfo_of(CONTENTS), CONTENTS, rig.changed, rig.clock)
    rig.clock.advance(10 * TIMEOUT)
    rig.gathering.expect(1)
    rig.gathering.add(Part(swarm.torrent, file_of(swarm.metainfo, "b")))
    rig.gathering.check()
    rig.clock.advance(TIMEOUT + 1)
    with pytest.raises(NotEnough):
        rig.gathering.check()
    rig.gathering.give_back()
    rig.gathering.check()


# What goes wrong on this machine.


def test_a_piece_that_was_damaged_here_is_fetched_again(rig: Rig) -> None:
    swarm = rig.swarm("v2")
    span = list(swarm.metainfo.span(file_of(swarm.metainfo, "b")))
    swarm.damaged = {span[2]}
    with swarm.changed:
        swarm.bring(span)  # by the notes of a process that was killed
        swarm.torrent.checked()
    run = Run(rig.gathering.run)
    rig.wait_for(lambda: swarm.rechecked)
    swarm.damaged.clear()
    with swarm.changed:
        swarm.bring(piece for piece in span if piece != span[2])
        swarm.torrent.checked()
    rig.clock.advance(1)
    rig.wait_for(lambda: list(swarm.torrent.priorities) == [span[2]])
    swarm.bring([span[2]])
    run.join()
    assert rig.whole()


def test_it_ends_when_the_torrent_failed_here(rig: Rig) -> None:
    swarm = rig.swarm()
    rig.gathering.expect(1)
    rig.gathering.cannot("the other is private")
    run = Run(rig.gathering.run)
    rig.wait_for(lambda: swarm.priorities)
    with swarm.changed:
        swarm.torrent.failed("f1: No space left on device")
    with pytest.raises(NotEnough, match=r"^f1: No space left on device; the other is private$"):
        run.join()


@pytest.mark.parametrize("first_fails", [True, False])
def test_one_torrent_that_failed_leaves_it_to_the_other(rig: Rig, first_fails: bool) -> None:
    swarms = [rig.swarm("v1"), rig.swarm("v2")]
    bad, good = swarms if first_fails else swarms[::-1]
    run = Run(rig.gathering.run)
    rig.wait_for(lambda: bad.priorities and good.priorities)
    bad.bring([part.span[0] for part in rig.gathering.parts if part.torrent is bad.torrent])
    rig.written(BLOCK // 2)
    with rig.changed:
        bad.torrent.failed("f1: Input/output error")
    bad.bring(bad.all)  # told, and not to be read
    good.bring(good.all)
    run.join()
    assert rig.whole()


# Several torrents.


def test_torrents_of_other_piece_lengths_share_the_work(tmp_path: Path) -> None:
    rig = Rig(tmp_path, timeout=math.inf)
    fine, coarse = rig.swarm("v1", BLOCK), rig.swarm("v2", 4 * BLOCK)
    file = file_of(coarse.metainfo, "b")
    coarse.bring([coarse.metainfo.span(file)[-1]])  # the last 2 * BLOCK + 1000 bytes
    run = Run(rig.gathering.run)
    while not run.is_over:
        fine.bring_wanted(1)
        rig.clock.advance(1)
        with rig.changed:
            rig.changed.wait(0.001)
    run.join()
    assert rig.whole()
    assert fine.reads == [2, 3, 4, 5, 6]
    assert (
        max(piece for changes in fine.told for piece, _ in changes) == 6
    )  # in it are bytes that the other one lacks


def test_no_two_are_asked_for_the_same(rig: Rig) -> None:
    swarms = [rig.swarm(kind) for kind in KINDS]
    run = Run(rig.gathering.run)
    rig.wait_for(lambda: all(swarm.priorities for swarm in swarms))
    asked = [(part.bounds(piece), part) for part in rig.gathering.parts for piece in part.torrent.priorities]
    spans = sorted(bounds for bounds, _ in asked)
    assert sum(end - start for start, end in spans) <= SIZE + 2 * BLOCK  # edges of pieces are not the same for all
    assert (spans[0][0], max(end for _, end in spans)) == (0, SIZE)
    assert len({part for _, part in asked}) == 3
    rig.cancelled.set()
    with pytest.raises(Cancelled):
        run.join()


def test_one_that_brings_something_goes_forward(rig: Rig) -> None:
    """The first of several may be dead."""
    dead, alive = rig.swarm("v2"), rig.swarm("v2", 2 * BLOCK)
    run = Run(rig.gathering.run)
    rig.wait_for(lambda: alive.priorities)
    first = alive.metainfo.span(file_of(alive.metainfo, "b"))[0]
    assert first not in alive.priorities
    with rig.changed:
        alive.torrent.came(BLOCK, 0)
    rig.clock.advance(1)
    rig.wait_for(lambda: alive.priorities.get(first) == 6)
    rig.wait_for(lambda: set(dead.priorities) == {6, 7, 8, 9})  # b begins with piece 3
    rig.cancelled.set()
    with pytest.raises(Cancelled):
        run.join()


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from([1, 2, 4])), min_size=2, max_size=3),
    st.integers(),
)
def test_torrents_that_bring_what_they_are_asked_for_finish_it_together(
    tmp_path_factory: pytest.TempPathFactory, torrents: list[tuple[Kind, int]], seed: int
) -> None:
    rig = Rig(tmp_path_factory.mktemp("rig"), timeout=math.inf)
    swarms = [rig.swarm(kind, length * BLOCK) for kind, length in torrents]
    run, chance = Run(rig.gathering.run), random.Random(seed)
    while not run.is_over:
        chance.choice(swarms).bring_wanted(1)  # how often, depends on the other thread
        rig.clock.advance(1)
        with rig.changed:
            rig.changed.wait(0.001)
    run.join()
    assert rig.whole()


def test_a_second_url_of_a_torrent_is_the_same_one(rig: Rig) -> None:
    swarm = rig.swarm()
    rig.gathering.expect(1)
    assert rig.gathering.add(Part(swarm.torrent, file_of(swarm.metainfo, "b")))
    assert len(rig.gathering.parts) == 1
    swarm.bring(swarm.all)
    assert in_thread(rig.gathering.run)
    assert len(rig.gathering.end()) == 2  # each was joined, and is left


def test_contents_are_not_mixed_if_nothing_proves_the_whole(tmp_path: Path) -> None:
    rig = Rig(tmp_path, mix=False)
    swarm, other = rig.swarm("v1"), rig.swarm("v2")
    other.bring(other.all)
    run = Run(rig.gathering.run)
    rig.wait_for(lambda: swarm.priorities)
    swarm.bring([2])
    rig.written(BLOCK // 2)
    rig.clock.advance(TIMEOUT + 1)
    with pytest.raises(NotEnough, match="nothing came from peers"):
        run.join()
    assert (other.told, other.reads) == ([], [])
    assert {part.torrent for part in rig.gathering.end()} == {swarm.torrent, other.torrent}


@pytest.mark.parametrize("how", ["in time", "failed"])
def test_a_torrent_has_its_turn_when_nothing_came_of_the_one_before(tmp_path: Path, how: str) -> None:
    rig = Rig(tmp_path, mix=False)
    swarm, other = rig.swarm("v1"), rig.swarm("v2")
    run = Run(rig.gathering.run)
    rig.wait_for(lambda: swarm.priorities)
    with rig.changed:
        if how == "failed":
            swarm.torrent.failed("f1: Input/output error")
        else:
            rig.clock.advance(TIMEOUT + 1)
    rig.wait_for(lambda: other.priorities)
    assert swarm.priorities == {}
    other.bring(other.all)
    run.join()
    assert rig.whole()
    told = "f1: Input/output error" if how == "failed" else "torrent T: no peers were found"
    assert rig.gathering.failures == [told]


def test_a_file_with_the_same_root_is_the_same(tmp_path: Path) -> None:
    rig = Rig(tmp_path, mix=False)
    fine, coarse = rig.swarm("v2", BLOCK), rig.swarm("hybrid", 4 * BLOCK)
    Run(rig.gathering.run)
    rig.wait_for(lambda: fine.priorities and coarse.priorities)
    rig.cancelled.set()


def test_a_file_of_another_size_is_another_one(rig: Rig) -> None:
    swarm = rig.swarm()
    rig.swarm(contents=CONTENTS | {"b": CONTENTS["b"] + b"more"})
    assert [part.torrent for part in rig.gathering.parts] == [swarm.torrent]
    rig.gathering.offer(0, CONTENTS["b"])
    assert rig.gathering.wrong == []


def test_in_the_end_nothing_is_wanted(rig: Rig) -> None:
    swarm = rig.swarm()
    swarm.bring(range(4))
    run = Run(rig.gathering.run)
    rig.wait_for(lambda: swarm.priorities)
    rig.cancelled.set()
    with pytest.raises(Cancelled):
        run.join()
    assert [part.torrent for part in rig.gathering.end()] == [swarm.torrent]
    assert swarm.priorities == {}
    late = FakeSwarm(swarm.metainfo, CONTENTS, rig.changed, rig.clock)
    rig.gathering.expect(1)
    assert not rig.gathering.add(Part(late.torrent, file_of(late.metainfo, "b")))


# Beside shares.


def test_who_takes_over_writes_alone(rig: Rig) -> None:
    swarm = rig.swarm()
    results: list[bool] = []
    run = Run(lambda: results.append(rig.gathering.run()))
    swarm.bring([2, 3])
    rig.written(3 * BLOCK // 2)
    in_thread(rig.gathering.take_over)
    run.join()
    assert results == [False]
    swarm.bring(swarm.all)
    assert in_thread(rig.gathering.run) is False
    assert rig.path.stat().st_size == 3 * BLOCK // 2
    rig.gathering.give_back()
    assert in_thread(rig.gathering.run) is True
    assert rig.whole()


def test_who_takes_over_waits_until_nobody_writes(rig: Rig) -> None:
    writing, go_on = threading.Event(), threading.Event()

    def hold_on() -> None:
        writing.set()
        wait_for(go_on)

    rig.on_progress = hold_on
    swarm = rig.swarm()
    swarm.bring(swarm.all)
    run = Run(rig.gathering.run)
    wait_for(writing)
    taking = Run(rig.gathering.take_over)
    with rig.changed:
        assert not rig.changed.wait_for(lambda: taking.is_over, 0.2)
    go_on.set()
    taking.join()
    run.join()
    assert rig.path.read_bytes() == CONTENTS["b"][: BLOCK // 2]


def test_nobody_takes_over_what_is_whole(rig: Rig) -> None:
    swarm = rig.swarm()
    swarm.bring(swarm.all)
    assert in_thread(rig.gathering.run)
    with pytest.raises(Cancelled, match="the file is there already"):
        in_thread(rig.gathering.take_over)


def test_nobody_takes_over_what_cannot_be_written(rig: Rig) -> None:
    def fails() -> None:
        raise OSError(28, "No space left on device")

    rig.on_progress = fails
    swarm = rig.swarm()
    swarm.bring(swarm.all)
    with pytest.raises(OSError, match="No space left"):
        in_thread(rig.gathering.run)
    with pytest.raises(Cancelled):
        in_thread(rig.gathering.take_over)


def test_nobody_takes_over_what_was_called_off(rig: Rig) -> None:
    rig.swarm()
    run = Run(rig.gathering.run)
    rig.cancelled.set()
    with pytest.raises(Cancelled):
        run.join()
    with pytest.raises(Cancelled):
        in_thread(rig.gathering.take_over)


@settings(max_examples=100)
@given(
    st.sampled_from(KINDS),
    st.sampled_from([BLOCK, 2 * BLOCK, 8 * BLOCK]),
    st.integers(0, SIZE - 1),
    st.integers(1, SIZE),
)
def test_bytes_are_taken_out_of_pieces(kind: Kind, length: int, start: int, count: int) -> None:
    swarm = FakeSwarm(metainfo_of(CONTENTS, kind, length), CONTENTS)
    part = Part(swarm.torrent, file_of(swarm.metainfo, "b"))
    end = min(SIZE, start + count)
    pieces = range(part.piece_at(start), part.piece_at(end - 1) + 1)
    swarm.bring(pieces)
    assert part.has(start, end)
    assert part.read(start, end) == CONTENTS["b"][start:end]
    assert swarm.reads == list(pieces)
    others = FakeSwarm(swarm.metainfo, CONTENTS)
    others.bring(piece for piece in swarm.all if piece != pieces[len(pieces) // 2])
    assert not Part(others.torrent, part.file).has(start, end)


def test_what_cannot_be_read_after_all_is_not_taken(rig: Rig) -> None:
    swarm = rig.swarm("v2")
    swarm.bring(swarm.all)
    swarm.unreadable[4] = Unavailable("a piece could not be read back: Input/output error")
    part = rig.gathering.parts[0]
    with pytest.raises(Unavailable):
        part.read(0, SIZE)
    assert rig.gathering.take(0, SIZE) is None
    assert rig.gathering.take(3 * BLOCK, SIZE) == CONTENTS["b"][3 * BLOCK :]  # nothing waits for what was begun


def test_it_says_what_it_has_and_asks_from_the_end(rig: Rig) -> None:
    swarm = rig.swarm("v2")
    first = file_of(swarm.metainfo, "b").offset // BLOCK
    assert not rig.gathering.has(0, BLOCK, 0)
    wanted = sorted(swarm.priorities.items(), key=lambda item: -item[1])
    assert wanted[0][0] == first + 6
    assert set(swarm.priorities) == set(range(first, first + 7))
    swarm.bring([first, first + 1, first + 6])
    rig.clock.advance(1)
    assert rig.gathering.has(0, BLOCK, 0)
    assert rig.gathering.has(0, 2 * BLOCK, 0)
    assert not rig.gathering.has(BLOCK, 3 * BLOCK, 0)
    assert BLOCK + 1000 <= rig.gathering.beyond <= 2 * BLOCK


def test_what_shares_bring_soon_is_left_to_them(rig: Rig) -> None:
    swarm = rig.swarm("v2")
    first = file_of(swarm.metainfo, "b").offset // BLOCK
    rig.gathering.has(0, BLOCK, 3 * BLOCK)
    assert set(swarm.priorities) == set(range(first + 3, first + 7))
    swarm.bring(range(first + 3, first + 7))
    rig.clock.advance(1)
    rig.gathering.has(0, BLOCK, 3 * BLOCK)  # nothing else is left to be done
    assert set(swarm.torrent.priorities) == {first, first + 1, first + 2}


def test_small_islands_do_not_stop_shares(rig: Rig) -> None:
    swarm = rig.swarm("v2")
    first = file_of(swarm.metainfo, "b").offset // BLOCK
    swarm.bring([first + 1, first + 2])
    assert not rig.gathering.has(BLOCK, 2 * BLOCK, 2 * BLOCK)
    swarm.bring([first + 3, first + 4])
    assert rig.gathering.has(BLOCK, 2 * BLOCK, 2 * BLOCK)
    assert rig.gathering.take(BLOCK, 2 * BLOCK) == CONTENTS["b"][BLOCK : 2 * BLOCK]
    assert rig.gathering.has(4 * BLOCK, 5 * BLOCK, 2 * BLOCK) is False
    assert rig.gathering.has(2 * BLOCK, 3 * BLOCK, 2 * BLOCK)  # where it goes on, all is taken that is there
    swarm.bring([first + 5, first + 6])
    assert rig.gathering.has(6 * BLOCK, SIZE, 2 * BLOCK)  # the end is no island


def test_it_has_nothing_without_torrents(rig: Rig) -> None:
    rig.gathering.expect(1)
    assert not rig.gathering.has(0, 10, 0)
    assert rig.gathering.take(0, 10) is None
    assert rig.gathering.beyond == 0
    rig.gathering.offer(0, b"bytes")


@settings(max_examples=60)
@given(
    st.sampled_from(KINDS),
    st.sampled_from([BLOCK, 2 * BLOCK, 8 * BLOCK]),
    st.integers(0, SIZE),
    st.lists(st.integers(1, 3 * BLOCK), min_size=1, max_size=20),
)
def test_what_shares_bring_becomes_pieces(kind: Kind, length: int, start: int, cuts: list[int]) -> None:
    """Every piece that lies within what was offered is given, once, with the bytes that libtorrent wants."""
    rig = Rig(Path("/nowhere"))
    swarm = rig.swarm(kind, length)
    part = rig.gathering.parts[0]
    at = start
    for cut in cuts:
        rig.gathering.offer(at, CONTENTS["b"][at : at + cut])
        at = min(SIZE, at + cut)
    inside = [
        piece
        for piece in part.span
        if start <= part.bounds(piece)[0] and part.bounds(piece)[1] <= at and part.is_inside(piece)
    ]
    assert sorted(swarm.given) == inside
    assert all(data == swarm.piece(piece) for piece, data in swarm.given.items())


def test_what_peers_brought_is_not_given_again(rig: Rig) -> None:
    swarm = rig.swarm("v2")
    first = file_of(swarm.metainfo, "b").offset // BLOCK
    swarm.bring([first + 1])
    rig.gathering.offer(0, CONTENTS["b"][: 3 * BLOCK])
    assert list(swarm.given) == [first, first + 2]


def test_a_gap_is_not_bridged(rig: Rig) -> None:
    swarm = rig.swarm("v2")
    first = file_of(swarm.metainfo, "b").offset // BLOCK
    rig.gathering.offer(0, CONTENTS["b"][: BLOCK + 5])
    rig.gathering.offer(BLOCK + 6, CONTENTS["b"][BLOCK + 6 : 3 * BLOCK])
    assert list(swarm.given) == [first, first + 2]


@pytest.mark.parametrize("kind", KINDS)
def test_a_torrent_of_other_content_is_given_up(rig: Rig, kind: Kind) -> None:
    good = rig.swarm("v2", 2 * BLOCK)
    other = rig.swarm(kind, contents=CONTENTS | {"b": noise("other", SIZE)})
    rig.gathering.offer(0, CONTENTS["b"][: 3 * BLOCK])
    assert rig.gathering.wrong == ["the torrent T has other content than the shares"]
    assert [part.torrent for part in rig.gathering.parts] == [good.torrent]
    assert other.given == {}
    assert {part.torrent for part in rig.gathering.end()} == {good.torrent, other.torrent}


def test_what_a_torrent_of_other_content_has_is_compared(rig: Rig) -> None:
    other = rig.swarm("v2", contents=CONTENTS | {"b": noise("other", SIZE)})
    other.bring(other.all)
    rig.gathering.offer(0, CONTENTS["b"][:BLOCK])
    assert rig.gathering.wrong == ["the torrent T has other content than the shares"]
    assert not rig.gathering.is_spoiled


@pytest.mark.parametrize("way", ["run", "take"])
def test_a_file_is_spoiled_by_bytes_of_other_content(rig: Rig, way: str) -> None:
    other = rig.swarm("v2", contents=CONTENTS | {"b": noise("other", SIZE)})
    assert not rig.gathering.is_used
    other.bring(rig.gathering.parts[0].span[:2])
    if way == "run":
        run = Run(rig.gathering.run)
        until(lambda: rig.reader.read)
        in_thread(rig.gathering.take_over)
        run.join()
    else:
        assert rig.gathering.take(0, BLOCK) is not None
    assert rig.gathering.is_used
    assert not rig.gathering.is_spoiled
    rig.gathering.offer(2 * BLOCK, CONTENTS["b"][2 * BLOCK : 3 * BLOCK])
    assert rig.gathering.is_spoiled


def test_a_torrent_without_hashes_takes_nothing_on_trust() -> None:
    """What a magnet has of a v2 torrent has no piece layers: libtorrent proves what it is given, then."""
    whole = metainfo_of(CONTENTS, "v2")
    bare = from_info(info_of(whole.document), Magnet(None, whole.v2))
    assert not bare.has_layers
    swarm = FakeSwarm(bare, CONTENTS)
    rig = Rig(Path("/nowhere"))
    rig.gathering.expect(1)
    rig.gathering.add(Part(swarm.torrent, file_of(bare, "b")))
    rig.gathering.offer(0, CONTENTS["b"])
    assert sorted(swarm.given) == list(bare.span(file_of(bare, "b")))


def test_what_is_there_without_hashes_is_fetched_again(tmp_path: Path) -> None:
    whole = metainfo_of(CONTENTS, "v2")
    bare = from_info(info_of(whole.document), Magnet(None, whole.v2))
    rig = Rig(tmp_path, there=CONTENTS["b"][: 3 * BLOCK])
    swarm = FakeSwarm(bare, CONTENTS, rig.changed, rig.clock)
    rig.gathering.expect(1)
    rig.gathering.add(Part(swarm.torrent, file_of(bare, "b")))
    with swarm.changed:
        swarm.torrent.checked()
    swarm.bring(swarm.all)
    assert in_thread(rig.gathering.run)
    assert rig.whole()
