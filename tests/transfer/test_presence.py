"""Present, absent or unknown; and taking an object away."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annex_remote.capability import Capability
from annex_remote.errors import Busy, Cancelled, Denied, NotEnough, Unavailable
from annex_remote.model import ByteStream, Coding, ShareName, staged_name
from annex_remote.shares.crypto import Cipher, ObjectKeys, object_id_of
from annex_remote.stores import open_store
from annex_remote.transfer.download import Download
from annex_remote.transfer.presence import Look, is_present, remove_object
from annex_remote.transfer.sites import Notes, Site
from annex_remote.transfer.upload import Upload
from tests.fakes import (
    WAIT,
    Around,
    Failing,
    FakeClock,
    Hanging,
    Pieces,
    Recording,
    Run,
    in_thread,
    wait_for,
)
from tests.shares.builder import FULL, content, prove, upload
from tests.transfer.rig import KEY, STALL, WORM, Rig

ONE = upload(content(100), 2, range(6), annex_key=KEY)
OTHER = upload(content(101), 2, range(6), annex_key=KEY)
OF_THREE = upload(content(100), 3, range(6), annex_key=KEY)

STATES = ["one", "other", "absent", "damaged", "silent"]


def put_in_state(rig: Rig, number: int, state: str) -> None:
    if state == "one":
        rig.plant(ONE, [number])
    elif state == "other":
        rig.plant(OTHER, [number])
    elif state == "of three":
        rig.plant(OF_THREE, [number])
    elif state == "damaged":
        rig.memory[number].contents[rig.name(number)] = ONE.shares[number][:-1]
    elif state == "silent":
        rig.break_store(number, lambda store: Failing(store, lambda: Unavailable("away")))


def expected(states: tuple[str, ...], needed: int) -> bool | None:
    """What may be said: True, False, or None where it cannot be known."""
    wanted = {"one": 2, "other": 2, "of three": 3}
    counts = {state: states.count(state) for state in wanted}
    doubtful = states.count("damaged") + states.count("silent")
    if any(counts[state] >= wanted[state] for state in wanted):
        return True
    if doubtful >= needed:
        return None
    if doubtful and any(counts[state] and counts[state] + doubtful >= wanted[state] for state in wanted):
        return None
    return False


@pytest.mark.parametrize("states", list(itertools.combinations_with_replacement(STATES, 4)), ids="-".join)
def test_every_mix_of_what_four_stores_can_say(tmp_path: Path, states: tuple[str, ...]) -> None:
    check(tmp_path, states)


@settings(max_examples=60)
@given(st.lists(st.sampled_from([*STATES, "of three"]), min_size=2, max_size=6).map(tuple))
def test_uploads_of_another_coding_count_by_their_own(
    tmp_path_factory: pytest.TempPathFactory, states: tuple[str, ...]
) -> None:
    check(tmp_path_factory.getbasetemp(), states)


def check(folder: Path, states: tuple[str, ...]) -> None:
    rig = Rig.of(folder, 2, 2, len(states))
    for number, state in enumerate(states):
        put_in_state(rig, number, state)
    answer = expected(states, 2)
    if answer is None:
        with pytest.raises(Unavailable) as raised:
            rig.present()
        for number, state in enumerate(states):
            assert (f"store{number}: " in str(raised.value)) == (state in ("damaged", "silent"))
    else:
        assert rig.present() is answer


@pytest.mark.parametrize(
    "error",
    [
        lambda: Denied("not allowed"),
        lambda: Busy("later", 3.0),
        lambda: OSError(5, "not translated"),
        lambda: ValueError("a mistake in the store"),
    ],
    ids=["Denied", "Busy", "OSError", "ValueError"],
)
def test_no_answer_is_never_absence(rig: Rig, error: Callable[[], Exception]) -> None:
    for number in (1, 2):
        rig.break_store(number, lambda store: Failing(store, error))
    with pytest.raises(Unavailable, match=r"\b0 .*\b2 .* store1: .*; store2: "):
        rig.present()


def test_one_store_that_cannot_be_asked_does_not_hide_an_object(rig: Rig) -> None:
    rig.break_store(2, lambda store: Failing(store, lambda: Unavailable("away")))
    assert rig.present() is False
    rig.plant(ONE, [0])
    with pytest.raises(Unavailable, match=r"\b1 .*\b2 .* store2: away"):
        rig.present()
    rig.plant(ONE, [1])
    assert rig.present() is True


def test_stores_that_hang_are_not_waited_for_once_enough_is_seen(rig: Rig, end: threading.Event) -> None:
    rig.stall = 4 * WAIT
    rig.plant(ONE, [0, 2])
    for number in (1, 3):
        rig.break_store(number, lambda store: Hanging(store, end))
    assert rig.present() is True


def test_stores_that_hang_are_unknown_in_the_end(rig: Rig, end: threading.Event) -> None:
    rig.stall = STALL
    for number in (1, 3):
        rig.break_store(number, lambda store: Hanging(store, end))
    with pytest.raises(Unavailable, match=r"store1: no answer in .*; store3: no answer in "):
        rig.present()


def test_one_store_that_hangs_does_not_hide_an_object(rig: Rig, end: threading.Event) -> None:
    rig.stall = STALL
    rig.break_store(1, lambda store: Hanging(store, end))
    assert rig.present() is False


def test_the_blocks_are_not_read(rig: Rig) -> None:
    size = 3 << 20
    rig.plant(upload(content(size), 2, range(4), annex_key=KEY))
    recordings = [Recording(store) for store in rig.stores]
    rig.stores = list(recordings)
    assert rig.present()
    assert all(store.given < 20_000 for store in recordings)


def test_an_object_with_fewer_shares_than_happy_is_there_and_noted(rig: Rig) -> None:
    rig.plant(ONE, [0, 3])
    assert rig.present() is True
    assert rig.notes.lines == ["store1: share 1 is missing", "store2: share 2 is missing"]
    rig.mend()
    rig.plant(ONE, [1])
    assert rig.present() is True
    assert rig.notes.lines == []


def test_shares_that_another_grid_signed_do_not_count(rig: Rig) -> None:
    other = Capability("full", FULL.read_secret + bytes(32))
    rig.plant(upload(content(100), 2, range(4), annex_key=KEY, capability=other), [0])
    rig.plant(ONE, [1])
    with pytest.raises(Unavailable, match="store0: share 0 is damaged: a share is not signed by this grid"):
        rig.present()


# What a program that was killed has left beside the places of shares.


def stage(rig: Rig, *numbers: int) -> None:
    for number in numbers:
        rig.memory[number].contents[staged_name(rig.object_id, number)] = ONE.shares[number]


@pytest.mark.parametrize(
    ("own", "staged", "silent", "answer"),
    [
        ([0], [1], [], True),
        ([], [0, 1], [], True),
        ([0], [0], [], False),
        ([0], [], [], False),
        ([], [2], [], False),
        ([], [2], [3], None),
        ([0], [1], [3], None),
        ([], [], [3], False),
        ([], [3], [3], False),
    ],
)
def test_what_stands_beside_its_place_is_there(
    tmp_path: Path, own: list[int], staged: list[int], silent: list[int], answer: bool | None
) -> None:
    rig = Rig.of(tmp_path, 2, 2, 4)
    rig.plant(ONE, own)
    stage(rig, *staged)
    for number in silent:
        put_in_state(rig, number, "silent")
    if answer is None:
        with pytest.raises(Unavailable, match="store3: away"):
            rig.present()
    else:
        assert rig.present() == answer


def test_nobody_looks_there_for_what_is_in_its_place(rig: Rig) -> None:
    recordings = [Recording(store) for store in rig.memory]
    rig.stores = list(recordings)
    rig.plant(ONE, range(len(rig.memory)))
    assert rig.present()
    assert not any(".n" in name for each in recordings for _, name in each.calls)


def test_one_store_counts_once_though_it_has_two_places(tmp_path: Path) -> None:
    """While objects are coded anew as well: it takes as many silent stores as shares to hide an object."""
    rig = Rig.of(tmp_path, 2, 2, 4)
    put_in_state(rig, 3, "silent")
    assert rig.present([*rig.sites, *(site.beside for site in rig.sites)]) is False


def test_without_stores_nothing_is_there(rig: Rig) -> None:
    assert rig.present([]) is False


# Looking.


def look(rig: Rig, clock: FakeClock, stall: float = 30.0) -> Look:
    return Look(rig.sites, rig.object_id, FULL.verify_key, needed=2, stall=stall, clock=clock)


def test_a_look_grows_as_answers_come(rig: Rig, end: threading.Event) -> None:
    rig.plant(ONE, [0, 1])
    hanging = Hanging(rig.stores[1], end)
    rig.stores[1] = hanging
    clock = FakeClock()
    seen = look(rig, clock)
    sighting = in_thread(lambda: seen.wait(lambda sighting: len(sighting.shares) + len(sighting.absent) == 3))
    assert [share.site.number for share in sighting.shares] == [0]
    assert not seen.is_over
    assert seen.late(30.0).silent == {}
    clock.advance(30.0)
    assert seen.is_over
    assert {site.number for site in seen.late(30.0).silent} == {1}
    assert "no answer in 30 seconds" in str(next(iter(sighting.silent.values())))


def test_a_look_ends_when_the_clock_says_so(rig: Rig, end: threading.Event) -> None:
    hanging = Hanging(rig.stores[0], end)
    rig.stores[0] = hanging
    clock = FakeClock()

    seen = look(rig, clock)
    wait_for(hanging.reached)
    clock.advance(31.0)
    sighting = in_thread(seen.wait)
    assert 0 in {site.number for site in sighting.silent}
    assert not sighting.shares


def test_waiting_for_ones_turn_is_no_silence(rig: Rig) -> None:
    """Other work has all connections to a store: that is not the store's fault."""
    clock = FakeClock()
    sites = rig.sites
    for _ in range(sites[0].gate.limit):
        sites[0].gate.enter()
    seen = Look(sites, rig.object_id, FULL.verify_key, needed=2, stall=30.0, clock=clock)
    run = Run(seen.wait)
    clock.advance(31.0)
    assert not seen.is_over
    sites[0].gate.leave()
    run.join()
    assert {site.number for site in seen.sighting.absent} >= {0}
    assert not any(site.number == 0 for site in seen.sighting.silent)


def test_whoever_brings_something_is_not_silent(rig: Rig) -> None:
    """By our own limits an opening may take long; its bytes come all the time."""
    rig.plant(upload(content(60_000), 2, range(4), annex_key=rig.key))
    begin, begun, finish = threading.Event(), threading.Event(), threading.Event()

    class Dripping(Around):
        def read(self, name: str, start: int = 0, length: int | None = None) -> ByteStream:
            stream = self.store.read(name, start, length)
            data = b"".join(stream)

            def drops() -> Iterator[bytes]:
                wait_for(begin)
                yield data[:10]
                begun.set()
                wait_for(finish)
                yield data[10:]

            return Pieces(stream.size, drops())

    rig.break_store(0, Dripping)
    clock = FakeClock()
    seen = look(rig, clock)
    clock.advance(20.0)
    begin.set()
    wait_for(begun)
    clock.advance(20.0)
    assert not seen.is_over
    finish.set()
    assert 0 in {share.site.number for share in in_thread(seen.wait).shares}


def test_a_look_that_is_over_does_not_wait_for_its_turn(rig: Rig) -> None:
    sites = rig.sites
    for _ in range(sites[0].gate.limit):
        sites[0].gate.enter()
    seen = Look(sites, rig.object_id, FULL.verify_key, needed=2, stall=30.0)
    seen.abandon()
    in_thread(seen.wait)
    assert 0 in {site.number for site in seen.sighting.silent}


def test_a_look_that_is_called_off(rig: Rig, end: threading.Event) -> None:
    rig.break_store(0, lambda store: Hanging(store, end))
    seen, cancelled = look(rig, FakeClock()), threading.Event()
    cancelled.set()
    with pytest.raises(Cancelled):
        in_thread(lambda: seen.wait(cancelled=cancelled))


# Removing.


def remove(rig: Rig) -> None:
    in_thread(
        lambda: remove_object(rig.sites, rig.object_id, needed=rig.coding.needed, stall=rig.stall, notes=rig.notes)
    )


def test_removing_removes_this_object_alone(rig: Rig) -> None:
    rig.plant(ONE, range(4))
    other = ShareName("aa" + "2" * 30, 0)
    rig.memory[0].contents[str(other)] = b"another object"
    remove(rig)
    assert rig.held == {}
    assert rig.memory[0].contents == {str(other): b"another object"}
    assert rig.present() is False
    remove(rig)
    assert rig.notes.lines == []


@pytest.mark.parametrize("broken", [(), (0,), (1, 3), (0, 1, 2), (0, 1, 2, 3)])
def test_it_is_gone_only_if_what_may_be_left_is_not_enough(rig: Rig, broken: tuple[int, ...]) -> None:
    rig.plant(ONE, range(4))
    for number in broken:
        rig.break_store(number, lambda store: Failing(store, lambda: Unavailable("away"), ["delete"]))
    if len(broken) >= 2:
        with pytest.raises(Unavailable) as raised:
            remove(rig)
        words = str(raised.value)
        assert words.startswith(f"{len(broken)} shares may remain ")
        assert [f"store{number}: away" in words for number in range(4)] == [n in broken for n in range(4)]
    else:
        remove(rig)
        assert rig.notes.lines == [
            f"store{number}: share {number} may remain, to be collected later: away" for number in broken
        ]
    assert sorted(rig.held) == list(broken)


@pytest.mark.parametrize("away", [(), (0,), (1, 3), (0, 1, 2), (0, 1, 2, 3)])
def test_nothing_is_removed_where_too_many_stores_are_away(rig: Rig, away: tuple[int, ...]) -> None:
    rig.plant(ONE, range(4))
    for number in away:
        rig.break_store(number, lambda store: Failing(store, lambda: Unavailable("away")))
    if len(away) >= 2:
        with pytest.raises(Unavailable):
            remove(rig)
        assert sorted(rig.held) == [0, 1, 2, 3]
    else:
        remove(rig)
        assert sorted(rig.held) == list(away)


def test_both_places_of_a_share_are_cleared_and_count_once(rig: Rig) -> None:
    """While objects are coded anew a store has two places for each share: one store away is one share."""
    rig.plant(ONE, range(4))
    for number in range(4):
        rig.memory[number].contents[staged_name(rig.object_id, number)] = b"beside"
    rig.break_store(0, lambda store: Failing(store, lambda: Unavailable("away")))
    sites = [*rig.sites, *(replace(site, staged=True, gate=site.gate) for site in rig.sites)]
    in_thread(lambda: remove_object(sites, rig.object_id, needed=2, stall=rig.stall, notes=rig.notes))
    assert [len(memory.contents) for memory in rig.memory] == [2, 0, 0, 0]


def test_damaged_shares_are_removed_too(rig: Rig) -> None:
    rig.plant(ONE, range(4))
    rig.memory[2].contents[rig.name(2)] = b"garbage"
    remove(rig)
    assert rig.held == {}


def test_a_store_that_hangs_does_not_hold_up_the_others(rig: Rig, end: threading.Event) -> None:
    rig.stall = STALL
    rig.plant(ONE, range(4))
    rig.break_store(2, lambda store: Hanging(store, end))
    remove(rig)
    assert sorted(rig.held) == [2]
    assert rig.notes.lines == ["store2: share 2 may remain, to be collected later: no answer in 0.3 seconds"]


# Several clones at once.


class Clone:
    """What one clone does to one key, on directories."""

    def __init__(self, folder: Path, key: str, coding: Coding) -> None:
        self.folder = folder
        self.key = key
        self.coding = coding
        self.sites = [
            Site(number, f"store{number}", open_store(f"dir:{folder}/store{number}"))
            for number in range(coding.total)
        ]
        self.object_id = object_id_of(FULL.read_secret, key)

    def store(self, path: Path) -> bool:
        """True if the store said that it did."""
        try:
            Upload(
                annex_key=self.key,
                path=str(path),
                keys=ObjectKeys(FULL.read_secret, self.key, Cipher.AEGIS256),
                capability=FULL,
                coding=self.coding,
                sites=self.sites,
                stall=WAIT,
                notes=Notes(),
                progress=lambda done: None,
                cancelled=threading.Event(),
            ).run()
        except (NotEnough, Unavailable):
            return False
        return True

    def remove(self) -> None:
        remove_object(self.sites, self.object_id, needed=self.coding.needed, stall=WAIT, notes=Notes())

    def present(self) -> bool:
        return is_present(
            self.sites, self.object_id, FULL.verify_key, coding=self.coding, stall=WAIT, notes=Notes()
        )

    def fetch(self, path: Path) -> bytes:
        Download(
            annex_key=self.key,
            path=str(path),
            read_secret=FULL.read_secret,
            verify_key=FULL.verify_key,
            needed=self.coding.needed,
            sites=self.sites,
            stall=WAIT,
            notes=Notes(),
            progress=lambda done: None,
            cancelled=threading.Event(),
        ).run()
        return path.read_bytes()

    def good_shares(self) -> dict[bytes, int]:
        """How many whole shares of each upload there are, as a strict reader sees it."""
        found: dict[bytes, int] = {}
        for site in self.sites:
            name = ShareName(self.object_id, site.number)
            path = self.folder / f"store{site.number}" / str(name)
            if path.exists():
                proved = prove(name, path.read_bytes(), FULL.verify_key)
                assert None not in proved.blocks
                header = proved.tail.header.pack()
                found[header] = found.get(header, 0) + 1
        return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("key", [KEY, WORM], ids=["fixed", "any content"])
def test_clones_that_store_and_remove_at_once_end_without_a_false_presence(
    tmp_path: Path, key: str, seed: int
) -> None:
    """Whatever the interleaving: what is said to be there can be fetched, and is what somebody stored."""
    chance = random.Random(f"{key} {seed}")
    coding = Coding(2, 3, 4)
    clone = Clone(tmp_path, key, coding)
    contents = [content(100), content(100)] if key == KEY else [content(100), content(150)]
    paths = [tmp_path / "one", tmp_path / "two"]
    for path, data in zip(paths, contents, strict=True):
        path.write_bytes(data)
    for turn in range(25):
        plans = [
            [chance.choice(["store", "store", "remove"]) for _ in range(chance.randint(1, 2))] for _ in range(2)
        ]
        start = threading.Barrier(2)
        said: list[bool] = []

        def work(which: int, plan: list[str], start: threading.Barrier = start, said: list[bool] = said) -> None:
            mine = Clone(tmp_path, key, coding)
            start.wait(WAIT)
            for step in plan:
                if step == "store":
                    said.append(mine.store(paths[which]))
                else:
                    mine.remove()

        threads = [threading.Thread(target=work, args=(which, plan)) for which, plan in enumerate(plans)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
            assert not thread.is_alive()
        most = max(clone.good_shares().values(), default=0)
        assert clone.present() is (most >= coding.needed), (turn, plans)
        if most >= coding.needed:
            assert clone.fetch(tmp_path / f"fetched{turn}") in contents
        if key == KEY and not any("remove" in plan for plan in plans):
            assert all(said)
            assert most == coding.total
