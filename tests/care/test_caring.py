from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from annex_remote import caring
from annex_remote.capability import Capability
from annex_remote.care.health import State
from annex_remote.care.ledger import Ledger
from annex_remote.care.plan import plan_repair
from annex_remote.care.rebuild import Tally
from annex_remote.care.verify import Proof, Task
from annex_remote.caring import DAY, Care, Sample, parse_sample, remember_damage, repair_object
from annex_remote.errors import BadSetting, Damaged, Denied, NotFound, Unavailable
from annex_remote.grid import Grid
from annex_remote.model import Access, ByteStream, Store
from annex_remote.roster import first_roster, roster_name
from annex_remote.settings import read_settings
from annex_remote.shares.crypto import object_id_of
from annex_remote.transfer.sites import Notes
from tests.care.vault import spoil
from tests.fakes import Around, Failing, FakeClock, Hanging, MemoryStore, Recording, in_thread
from tests.shares.builder import FULL, content, upload

NAMES = ["a", "b", "c", "d", "e"]
SIZE = 1000
KEYS = [f"WORM-s{SIZE}-m{index}--file" for index in range(7)]
IDS = [object_id_of(FULL.read_secret, key) for key in KEYS]


class World:
    """Five stores with three of five shares of some objects, and what is kept of them on this machine."""

    def __init__(self, folder: Path, keys: list[str] = KEYS, capability: Capability | None = FULL) -> None:
        self.memory = {name: MemoryStore() for name in NAMES}
        self.broken: dict[str, Callable[[Store], Store]] = {}
        self.date = FakeClock(1_000_000 * DAY + 5)
        self.folder = folder
        self.capability = capability
        self.built = {key: upload(content(SIZE), 3, range(5), annex_key=key) for key in keys}
        for built in self.built.values():
            for number, share in built.shares.items():
                self.memory[NAMES[number]].contents[str(built.name(number))] = share
        stores = " ".join(f"{name}=dir:/{name}" for name in NAMES)
        self.settings = read_settings({"stores": stores, "share-cipher": "aegis256", "needed": "3", "happy": "4"})

    def open(self, address: str, _: str | None, __: Access) -> Store:
        name = address.removeprefix("dir:/")
        store: Store = self.memory[name]
        return self.broken[name](store) if name in self.broken else store

    def grid(self) -> Grid:
        grid = Grid(self.settings, FULL.verify_key, self.capability, opener=self.open)
        grid.change(first_roster(FULL.verify_key, grid.roster.coding, grid.roster.cipher, self.settings.stores))
        return grid

    def care(self, keys: list[str] | None = None) -> Care:
        ledger = Ledger(str(self.folder / "ledger"), self.date)
        care = Care(self.grid(), self.capability, ledger=ledger, date=self.date)
        if keys is not None:
            care.name_all(keys)
        return care


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# Samples.


@pytest.mark.parametrize(
    ("text", "sample"),
    [
        ("5%", Sample(20)),
        ("100%", Sample(1)),
        ("50%", Sample(2)),
        ("0.001%", Sample(100_000)),
        ("99%", Sample(1)),
        ("1/7", Sample(7)),
        ("1/1", Sample(1)),
        ("10GiB", Sample(daily=10 << 30)),
        ("1B", Sample(daily=1)),
    ],
)
def test_parts_are_written_as_people_do(text: str, sample: Sample) -> None:
    assert parse_sample(text) == sample


@pytest.mark.parametrize(
    "text",
    ["", "%", "0%", "-5%", "101%", "nan%", "inf%", "2/7", "1/0", "1/", "/7", "1/x", "1/1000000", "lots", "0"],
)
def test_what_is_no_part_is_refused_with_the_option(text: str) -> None:
    with pytest.raises(BadSetting, match="--sample"):
        parse_sample(text)


def test_bytes_a_day_are_as_many_parts_as_it_takes() -> None:
    sample = Sample(daily=100)
    assert [sample.parts_of(total) for total in (0, 1, 100, 101, 1000)] == [1, 1, 1, 2, 10]
    assert Sample(7).parts_of(1 << 50) == 7


# What there is.


def test_few_objects_are_asked_for_and_no_store_is_listed(world: World) -> None:
    recording = Recording(world.memory["a"])
    world.broken["a"] = lambda _: recording
    care = world.care(KEYS[:2])
    care.only = set(care.names)
    recording.calls.clear()
    census = care.census(in_thread(care.survey))
    assert [(object_id, verdict.state) for object_id, verdict in census] == [
        (object_id, State.HEALTHY) for object_id in sorted(IDS[:2])
    ]
    assert "list" not in {verb for verb, _ in recording.calls}


def test_many_are_listed_once_and_none_is_asked_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caring, "FEW", 1)
    recording = Recording(world.memory["a"])
    world.broken["a"] = lambda _: recording
    care = world.care([*KEYS[:2], "WORM-s5-m1--gone"])
    care.only = set(care.names)
    recording.calls.clear()
    heard: list[str] = []
    survey = in_thread(lambda: care.survey(lambda store, _: heard.append(store)))
    assert recording.calls == [("list", "")]
    assert set(heard) == set(NAMES)
    census = care.census(survey)
    states = {object_id: verdict.state for object_id, verdict in census}
    lost = object_id_of(FULL.read_secret, "WORM-s5-m1--gone")
    assert states == {IDS[0]: State.HEALTHY, IDS[1]: State.HEALTHY, lost: State.LOST}, "and none of the others"


def test_the_grids_documents_are_not_among_its_objects(world: World) -> None:
    care = world.care()
    assert sorted(in_thread(care.survey)) == sorted(IDS)


def test_who_may_sign(world: World) -> None:
    assert world.care().seed == FULL.signing_seed
    for capability in (FULL.attenuate("read"), FULL.attenuate("verify"), None):
        assert Care(world.grid(), capability).seed is None


def test_what_is_known_to_be_damaged_is_remembered_by_the_machine(world: World) -> None:
    care = world.care(KEYS)
    remember_damage(care.grid, IDS[0], {1: "a block"})
    again = Care(care.grid, FULL)
    again.name_all(KEYS)
    assert again.census(in_thread(again.survey)).verdict(IDS[0]).bad == (1,)
    again.notes.close()


# Names.


def test_the_names_of_what_is_incomplete_are_read_several_at_once(world: World) -> None:
    for key in KEYS[:2]:
        for name, number in zip("abc", range(3), strict=True):
            del world.memory[name].contents[str(world.built[key].name(number))]
    together = {name: Together(world.memory[name], 2) for name in "de"}
    world.broken |= {name: lambda _, name=name: together[name] for name in "de"}  # type: ignore[misc]
    care = world.care(KEYS[2:])
    census = care.census(in_thread(care.survey))
    in_thread(lambda: care.look_closer(census))
    assert census.unwanted == set(IDS[:2])


def test_a_store_that_hangs_holds_up_no_names(world: World, end: threading.Event) -> None:
    for name, number in zip("abc", range(3), strict=True):
        del world.memory[name].contents[str(world.built[KEYS[0]].name(number))]
    for name in "de":
        world.broken[name] = lambda store: Hanging(store, end, {"read"})
    grid = Grid(replace(world.settings, stall=0.3), FULL.verify_key, FULL, opener=world.open)
    care = Care(grid, FULL, ledger=Ledger(str(world.folder / "ledger")))
    care.name_all(KEYS[1:])
    census = care.census(in_thread(care.survey))
    in_thread(lambda: care.look_closer(census))
    assert census.unwanted == set()
    assert census.is_nameless(IDS[0])
    assert census.verdict(IDS[0]).state is State.UNKNOWN


class Together(Around):
    """Lets nobody read of it before so many want to."""

    def __init__(self, store: Store, count: int) -> None:
        super().__init__(store)
        self._barrier = threading.Barrier(count)

    def read(self, name: str, start: int = 0, length: int | None = None) -> ByteStream:
        self._barrier.wait(10)
        return self.store.read(name, start, length)


# Verifying.


def test_each_day_has_its_turn_and_all_together_are_everything(world: World) -> None:
    care = world.care(KEYS)
    tasks = care.tasks(care.census(in_thread(care.survey)))
    assert len(tasks) == 35
    seen: list[Task] = []
    runs = []
    for _ in range(7):
        chosen, run = care.todays(tasks, Sample(7))
        assert care.todays(tasks, Sample(7)) == (chosen, run)
        seen += chosen
        runs.append(run)
        world.date.advance(DAY)
    assert sorted(map(repr, seen)) == sorted(map(repr, tasks))
    assert len(set(runs)) == 7
    _, first = care.todays(tasks, Sample(7))
    assert first == runs[0]
    assert care.todays(tasks, Sample()) == (tasks, "verify all")
    size = sum(task.size for task in tasks)
    assert care.todays(tasks, Sample(daily=size // 7 + 1)) == care.todays(tasks, Sample(7))


def test_what_was_proved_too_long_ago_comes_along(world: World) -> None:
    care = world.care(KEYS)
    tasks = care.tasks(care.census(in_thread(care.survey)))
    days = [care.todays(tasks, Sample(7))[0]]
    for _ in range(6):
        world.date.advance(DAY)
        days.append(care.todays(tasks, Sample(7))[0])
    late = next(task for task in days[3] if task not in days[2])
    world.date.advance(-6 * DAY)
    care.notes.note_proved(late.object_id, late.number)
    world.date.advance(9 * DAY)  # the turn of the third
    assert late in care.todays(tasks, Sample(7))[0]
    care.notes.note_proved(late.object_id, late.number)
    assert late not in care.todays(tasks, Sample(7))[0]
    assert care.todays(tasks, Sample(7))[0] == days[2]


def test_a_run_that_was_stopped_goes_on_with_what_it_has_not_proved(world: World) -> None:
    care = world.care(KEYS)
    census = care.census(in_thread(care.survey))
    tasks, run = care.todays(care.tasks(census), Sample())
    began, goes_on = care.notes.begin(run)
    assert not goes_on
    proofs = iter(care.prove(tasks, lambda size: None))
    for _ in range(10):
        care.take_in(census, in_thread(lambda: next(proofs)))
    proofs.close()  # type: ignore[attr-defined] # a generator
    care.notes.close()
    world.date.advance(3 * DAY)
    again = world.care(KEYS)
    assert again.notes.begin(run) == (began, True)
    done = set(again.notes.proved(began))
    assert len(done) == 10
    left = [task for task in again.tasks(census) if (task.object_id, task.number) not in done]
    for proof in in_thread(lambda: list(again.prove(left, lambda size: None))):
        again.take_in(census, proof)
    assert len(set(again.notes.proved(began))) == 35
    again.notes.close()


def test_what_comes_of_reading_is_known_from_then_on(world: World) -> None:
    first = str(world.built[KEYS[0]].name(0))
    world.memory["a"].contents[first] = spoil(world.built[KEYS[0]].shares[0], [0])
    world.broken["b"] = lambda store: Failing(store, lambda: Denied("no"), {"read"})
    care = world.care(KEYS[:1])
    care.only = set(care.names)
    survey = in_thread(care.survey)
    census = care.census(survey)
    assert census.verdict(IDS[0]).state is State.HEALTHY
    tasks = care.tasks(census)
    del world.memory["c"].contents[str(world.built[KEYS[0]].name(2))]
    for proof in in_thread(lambda: list(care.prove(tasks, lambda size: None))):
        care.take_in(census, proof)
    verdict = census.verdict(IDS[0])
    assert (verdict.good, verdict.bad, verdict.silent, verdict.missing) == ((3, 4), (0,), (1,), 2)
    assert verdict.state is State.UNKNOWN
    assert set(care.notes.damaged()[IDS[0]]) == {0}
    assert set(care.notes.proved(0)) == {(IDS[0], 3), (IDS[0], 4)}
    assert set(census.headers[IDS[0]]) == {3, 4}
    care.notes.close()


def test_a_share_that_proves_is_damaged_no_more(world: World) -> None:
    care = world.care(KEYS)
    census = care.census(in_thread(care.survey))
    task = care.tasks(census)[0]
    care.take_in(census, Proof(task, "a", error=Damaged("its end")))
    assert census.verdict(task.object_id).bad == (task.number,)
    care.take_in(census, Proof(task, "a", error=Unavailable("off")))
    assert census.verdict(task.object_id).silent == (task.number,)
    [proof] = in_thread(lambda: list(care.prove([task], lambda size: None)))
    care.take_in(census, proof)
    assert census.verdict(task.object_id).state is State.HEALTHY
    assert not care.notes.damaged()
    care.take_in(census, Proof(task, "a", error=NotFound("gone")))
    assert census.verdict(task.object_id).missing == 1
    assert not list(care.notes.proved(0))


# Repairing.


def test_what_is_missing_is_made(world: World) -> None:
    for key in KEYS[:3]:
        del world.memory["e"].contents[str(world.built[key].name(4))]
    care = world.care(KEYS)
    census = care.census(in_thread(care.survey))
    tally = Tally()
    done = in_thread(lambda: list(care.work(census, tally, None).run(plan_repair(census))))
    assert len(done) == 3
    assert all(each.verdict.state is State.HEALTHY for each in done)
    for key in KEYS:
        name = str(world.built[key].name(4))
        assert world.memory["e"].contents[name] == world.built[key].shares[4]
    assert tally.written == 3 * len(world.built[KEYS[0]].shares[4])


def test_one_object_is_repaired_when_a_download_has_found_it_damaged(world: World, tmp_path: Path) -> None:
    name = str(world.built[KEYS[0]].name(1))
    del world.memory["b"].contents[name]
    care = world.care()
    notes = Notes()
    notes.add("b", "share 1 is missing")
    assert in_thread(lambda: repair_object(care, KEYS[0], str(tmp_path), notes)) == ["share 1 on b"]
    assert notes.lines == []
    assert world.memory["b"].contents[name] == world.built[KEYS[0]].shares[1]


def test_what_is_wrong_with_a_list_of_stores_is_not_mended_by_that(world: World, tmp_path: Path) -> None:
    name = str(world.built[KEYS[0]].name(1))
    del world.memory["b"].contents[name]
    care = world.care()
    bad = roster_name(care.grid.id, 99)
    world.memory["c"].contents[bad] = b"not a roster"
    notes = Notes()
    in_thread(lambda: care.grid.look_for_roster(notes))
    [refused] = notes.lines
    assert "c: a roster is refused" in refused
    notes.add("b", "share 1 is missing")
    assert in_thread(lambda: repair_object(care, KEYS[0], str(tmp_path), notes)) == ["share 1 on b"]
    assert notes.lines == [refused]


def test_what_such_a_repair_cannot_do_is_told(world: World, tmp_path: Path) -> None:
    del world.memory["b"].contents[str(world.built[KEYS[0]].name(1))]
    world.broken["b"] = lambda store: Failing(store, lambda: Denied("it is read-only"), {"put"})
    care = Care(
        Grid(world.settings, FULL.verify_key, FULL, opener=world.open),
        FULL,
        ledger=Ledger(str(tmp_path / "other")),
    )
    notes = Notes()
    assert in_thread(lambda: repair_object(care, KEYS[0], str(tmp_path), notes)) == []
    assert "it is read-only" in " ".join(notes.lines)


def test_limits_and_room_are_those_of_the_stores(world: World) -> None:
    care = world.care()
    assert care.most() == {}
    assert care.free() == {}, "stores in memory do not tell"
    grid = care.grid
    grid.change(grid.roster.with_changed("a", max_bytes=5000))
    assert Care(grid, FULL).most() == {"a": 5000}
    assert in_thread(Care(grid, FULL).reach).keys() == set(NAMES)
