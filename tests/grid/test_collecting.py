"""Collecting what nobody wants, on stores in memory: what goes, what stays, and what happens in between."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from annex_remote import collecting
from annex_remote.capability import Capability
from annex_remote.care.garbage import Plan, Why
from annex_remote.care.ledger import Ledger
from annex_remote.caring import Care
from annex_remote.collecting import Collecting, Gone
from annex_remote.errors import Cancelled, Denied, NoCapability, NotFound, SwarmError, Unavailable
from annex_remote.grid import Grid
from annex_remote.model import Access, ShareName, Store, staged_name
from annex_remote.roster import first_roster
from annex_remote.settings import read_settings
from annex_remote.shares.crypto import object_id_of
from tests.fakes import Around, Corrupting, Failing, FakeClock, Hanging, MemoryStore, Recording, in_thread
from tests.shares.builder import FULL, upload

NAMES = ["a", "b", "c"]
DAY = 86400.0
GRACE = 30 * DAY
OLD = 31 * DAY

WANTED = "SHA256E-s10--wanted"
GONE = "SHA256E-s10--gone"
NEW = "SHA256E-s10--new"


@dataclass
class Vault:
    """Three stores, two shares of which rebuild an object; what git-annex knows of it; and a clock."""

    folder: Path
    clock: FakeClock = field(default_factory=lambda: FakeClock(1e9))
    wanted: list[str] = field(default_factory=lambda: [WANTED])
    known: list[str] = field(default_factory=lambda: [WANTED, GONE])
    nowhere: list[str] = field(default_factory=list)
    """Known keys of which there is no copy."""
    asked: Callable[[], None] = lambda: None
    """Done when git-annex is asked what is wanted."""
    broken: dict[str, Callable[[Store], Store]] = field(default_factory=dict)
    stall: float = 10.0
    capability: Capability = FULL
    chunk: int = 0
    strangers: bool = False
    grace: float = GRACE

    def __post_init__(self) -> None:
        self.memory = {name: MemoryStore(clock=self.clock) for name in NAMES}
        stores = " ".join(f"{name}=dir:/{name}" for name in NAMES)
        settings = read_settings({"stores": stores, "share-cipher": "aegis256", "needed": "2", "happy": "2"})
        self.settings = settings
        self.first = first_roster(FULL.verify_key, settings.coding, settings.cipher, settings.stores)

    def open(self, address: str, _: str | None, __: Access) -> Store:
        name = address.removeprefix("dir:/")
        store: Store = self.memory[name]
        return self.broken[name](store) if name in self.broken else store

    def collecting(self) -> Collecting:
        settings = replace(self.settings, stall=self.stall)
        grid = Grid(settings, FULL.verify_key, self.capability, opener=self.open)
        self.ledger = Ledger(str(self.folder / "ledger"))
        care = Care(grid, self.capability, ledger=self.ledger)
        return Collecting(
            care,
            self._wanted,
            lambda: self.known,
            lambda: [key for key in self.known if key not in self.nowhere],
            self.grace,
            self.chunk,
            self.strangers,
            self.clock,
        )

    def _wanted(self) -> Iterator[str]:
        self.asked()
        yield from self.wanted

    def look(self) -> Plan:
        return in_thread(self.collecting().look)

    def collect(self) -> list[Gone]:
        collecting = self.collecting()
        return in_thread(lambda: list(collecting.collect(collecting.look())))

    # What is there.

    def plant(self, key: str, numbers: Iterable[int] = (0, 1, 2), age: float = OLD, size: int = 10) -> None:
        built = upload(bytes(size), 2, range(3), annex_key=key)
        for number in numbers:
            self.put(NAMES[number], str(built.name(number)), built.shares[number], age)

    def put(self, store: str, name: str, data: bytes, age: float | None = OLD) -> None:
        self.memory[store].contents[name] = data
        if age is not None:
            self.memory[store].times[name] = self.clock() - age

    def name(self, key: str, number: int) -> str:
        return str(ShareName(object_id_of(FULL.read_secret, key), number))

    def has(self, key: str) -> str:
        """Return the stores that have the share of an object that belongs there, as one word."""
        return "".join(
            store for number, store in enumerate(NAMES) if self.name(key, number) in self.memory[store].contents
        )


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    vault = Vault(tmp_path)
    vault.plant(WANTED)
    return vault


def kept(plan: Plan) -> dict[str | None, Why]:
    return {each.key: why for each, why in plan.kept}


def test_what_nobody_wants_goes_and_what_somebody_wants_stays(vault: Vault) -> None:
    vault.plant(GONE, [1])
    plan = vault.look()
    assert vault.has(GONE) == "b"
    assert (plan.wanted, plan.objects, plan.on_list, kept(plan)) == (1, 2, 1, {})
    size = len(vault.memory["b"].contents[vault.name(GONE, 1)])
    assert plan.by_store == {"b": (1, size)}
    assert plan.size > 4 * size - 1
    [gone] = vault.collect()
    assert [item.store for item in gone.removed] == ["b"]
    assert (gone.failed, gone.kept) == ({}, None)
    assert (vault.has(GONE), vault.has(WANTED)) == ("", "abc")


def test_all_shares_of_an_object_go(vault: Vault) -> None:
    vault.plant(GONE)
    [gone] = vault.collect()
    assert [item.store for item in gone.removed] == ["a", "b", "c"]
    assert vault.has(GONE) == ""


def test_the_stores_are_listed_before_git_annex_is_asked(vault: Vault) -> None:
    """What was stored and recorded in between is wanted; in the other order it would not be."""
    vault.plant(GONE)
    recorders = {name: Recording(vault.memory[name]) for name in NAMES}
    vault.broken = {name: lambda store, name=name: recorders[name] for name in NAMES}  # type: ignore[misc]
    listed: list[list[str]] = []

    def asked() -> None:
        listed.append([name for name in NAMES if recorders[name].names("list")])

    vault.asked = asked
    vault.look()
    assert listed == [NAMES]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_youngest_share_counts(vault: Vault, number: int) -> None:
    vault.plant(GONE)
    vault.plant(GONE, [number], age=GRACE - 1)
    assert kept(vault.look()) == {GONE: Why.YOUNG}
    assert vault.collect() == []
    assert vault.has(GONE) == "abc"
    vault.clock.advance(1)
    assert kept(vault.look()) == {}
    vault.collect()
    assert vault.has(GONE) == ""


def test_an_age_that_nobody_can_tell_keeps(vault: Vault) -> None:
    vault.plant(GONE)
    del vault.memory["b"].times[vault.name(GONE, 1)]
    assert kept(vault.look()) == {GONE: Why.NO_AGE}
    vault.broken["a"] = lambda store: Failing(store, lambda: Unavailable("away"), {"age"})
    assert kept(vault.look()) == {GONE: Why.NO_AGE}
    assert vault.collect() == []
    assert vault.has(GONE) == "abc"


def test_without_a_grace_nobody_is_asked_for_ages(vault: Vault) -> None:
    vault.plant(GONE, age=0)
    vault.broken["a"] = lambda store: Failing(store, lambda: Unavailable("away"), {"age"})
    vault.grace = 0.0
    vault.collect()
    assert vault.has(GONE) == ""


def test_git_repositories_stay(vault: Vault) -> None:
    for key in ("GITMANIFEST--uuid", "GITBUNDLE-s10--uuid-abc"):
        vault.plant(key)
        vault.known.append(key)
    assert vault.look().of_git == 2
    assert vault.collect() == []
    assert vault.has("GITMANIFEST--uuid") == "abc"


@pytest.mark.parametrize("chunk", [0, 5, 6])
def test_chunks_of_what_is_wanted_stay_and_others_go(vault: Vault, chunk: int) -> None:
    """Whatever git-annex cuts by now: the names of objects tell what they are chunks of."""
    vault.chunk = chunk
    of_wanted, of_gone = "SHA256E-s10-S5-C2--wanted", "SHA256E-s10-S5-C2--gone"
    vault.plant(of_wanted, size=5)
    vault.plant(of_gone, size=5)
    vault.collect()
    assert (vault.has(of_wanted), vault.has(of_gone)) == ("abc", "")


def test_the_names_of_chunks_that_are_wanted_are_not_read(vault: Vault) -> None:
    vault.chunk = 5
    for number in (1, 2):
        vault.plant(f"SHA256E-s10-S5-C{number}--wanted", size=5)
    recorder = Recording(vault.memory["a"])
    vault.broken["a"] = lambda store: recorder
    vault.look()
    assert recorder.names("read") == []


def test_a_name_that_cannot_be_read_keeps(vault: Vault) -> None:
    vault.plant(GONE)
    for store in NAMES:
        vault.broken[store] = lambda store: Corrupting(store, [-1])
    assert kept(vault.look()) == {None: Why.NO_NAME}
    assert vault.collect() == []
    # One share that tells it is enough.
    del vault.broken["b"]
    assert [each.key for each in vault.look().go] == [GONE]


def test_the_share_of_another_grid_keeps(vault: Vault) -> None:
    built = upload(bytes(10), 2, range(3), annex_key=GONE, capability=Capability("full", bytes(64)))
    for number, store in enumerate(NAMES):
        vault.put(store, str(built.name(number)), built.shares[number])
    assert kept(vault.look()) == {None: Why.NO_NAME}


def test_a_key_that_git_annex_has_never_heard_of_stays(vault: Vault) -> None:
    vault.plant(NEW)
    assert kept(vault.look()) == {NEW: Why.STRANGER}
    assert vault.collect() == []
    vault.strangers = True
    vault.collect()
    assert vault.has(NEW) == ""


def test_what_may_be_the_last_copy_stays(vault: Vault) -> None:
    vault.nowhere.append(GONE)
    vault.plant(GONE, [0, 2])
    assert kept(vault.look()) == {GONE: Why.LAST}
    assert vault.collect() == []
    # The rest of a removal is less than it takes to rebuild anything.
    vault.memory["a"].delete(vault.name(GONE, 0))
    vault.broken["a"] = lambda store: Failing(store, lambda: Unavailable("unplugged"))
    assert kept(vault.look()) == {GONE: Why.LAST}
    vault.broken.clear()
    vault.collect()
    assert vault.has(GONE) == ""


def test_a_store_that_cannot_be_listed_does_not_hold_up_the_others(vault: Vault) -> None:
    vault.plant(GONE)
    vault.broken["c"] = lambda store: Failing(store, lambda: Unavailable("unplugged"))
    plan = vault.look()
    assert [str(error) for error in plan.failed.values()] == ["unplugged"]
    vault.collect()
    assert vault.has(GONE) == "c"
    # What it has is collected when it is there again.
    vault.broken.clear()
    vault.collect()
    assert vault.has(GONE) == ""


def test_a_store_that_was_not_listed_is_not_asked_in_between(vault: Vault) -> None:
    """What it has was not seen to come just now."""
    vault.plant(GONE)
    vault.broken["c"] = lambda store: Failing(store, lambda: Unavailable("silent"), {"list"})
    vault.collect()
    assert vault.has(GONE) == "c"


def test_what_cannot_be_removed_is_named_and_the_rest_goes_on(vault: Vault) -> None:
    vault.plant(GONE)
    other = "SHA256E-s10--other"
    vault.plant(other)
    vault.known.append(other)
    vault.broken["b"] = lambda store: Failing(store, lambda: Denied("read-only"), {"delete"})
    gone = vault.collect()
    assert (vault.has(GONE), vault.has(other)) == ("b", "b")
    assert [(item.store, str(error)) for each in gone for item, error in each.failed.items()] == [
        ("b", "read-only"),
        ("b", "read-only"),
    ]
    assert [item.store for item in gone[0].removed] == ["a", "c"]


@pytest.mark.parametrize(
    ("verb", "numbers", "left"),
    [
        ("list", [0, 1, 2], "a"),
        ("read", [0, 1, 2], "abc"),  # it does not tell the age either then
        ("age", [0, 1, 2], "abc"),
        ("stat", [1, 2], ""),
        ("delete", [0, 1, 2], "a"),
    ],
)
def test_a_store_that_hangs_holds_up_nobody(
    vault: Vault, end: threading.Event, verb: str, numbers: list[int], left: str
) -> None:
    vault.stall = 0.3
    vault.plant(GONE, numbers)
    hanging = Hanging(vault.memory["a"], end, {verb})
    vault.broken["a"] = lambda store: hanging
    vault.collect()
    assert hanging.reached.is_set()
    assert (vault.has(WANTED), vault.has(GONE)) == ("abc", left)


# Strays.


def test_strays_of_what_is_wanted_stay(vault: Vault) -> None:
    """They may be all that is good: here each share is garbage where it belongs, of the right length."""
    for number, store in enumerate(NAMES):
        name = vault.name(WANTED, number)
        share = vault.memory[store].contents[name]
        vault.put(NAMES[(number + 1) % 3], name, share)
        vault.put(store, name, bytes(len(share)))
    vault.put("c", staged_name(object_id_of(FULL.read_secret, WANTED), 2), share)
    before = {name: dict(vault.memory[name].contents) for name in NAMES}
    vault.grace = 0.0
    vault.strangers = True
    assert kept(vault.look()) == {WANTED: Why.BESIDE}
    assert vault.collect() == []
    assert {name: vault.memory[name].contents for name in NAMES} == before


def test_strays_alone_tell_whose_they_are(vault: Vault) -> None:
    built = upload(bytes(10), 2, range(3), annex_key=GONE)
    vault.put("b", vault.name(GONE, 0), built.shares[0])
    other = upload(bytes(10), 2, range(3), annex_key="SHA256E-s10--other")
    vault.known.append("SHA256E-s10--other")
    vault.put("c", staged_name(other.header.object_id, 2), other.shares[2])
    assert {each.key for each in vault.look().go} == {GONE, "SHA256E-s10--other"}
    vault.collect()
    assert [len(store.contents) for store in vault.memory.values()] == [1, 1, 1]


# Between looking and removing.


def test_what_is_wanted_by_now_stays(vault: Vault) -> None:
    vault.plant(GONE)
    collecting = vault.collecting()
    plan = in_thread(collecting.look)
    assert len(plan.go) == 1
    vault.wanted.append(GONE)
    [gone] = in_thread(lambda: list(collecting.collect(plan)))
    assert (gone.kept, gone.removed) == (Why.WANTED, ())
    assert vault.has(GONE) == "abc"


@pytest.mark.parametrize(
    ("seconds", "objects", "asked", "left"),
    [(collecting.ANEW, 1000, 3, "abc"), (collecting.ANEW - 1, 1000, 2, ""), (0, 1, 3, "abc")],
)
def test_git_annex_is_asked_again_while_it_goes_on(
    vault: Vault, monkeypatch: pytest.MonkeyPatch, seconds: float, objects: int, asked: int, left: str
) -> None:
    """Removing may take hours: what somebody has stored meanwhile is wanted."""
    monkeypatch.setattr(collecting, "AT_ONCE", 1)
    monkeypatch.setattr(collecting, "ANEW_AFTER", objects)
    keys = [GONE, "SHA256E-s10--other"]
    for key in keys:
        vault.plant(key)
    vault.known += keys
    times: list[float] = []
    vault.asked = lambda: times.append(vault.clock())
    first = True

    def removed() -> None:
        nonlocal first
        if first:
            first = False
            vault.clock.advance(seconds)
            vault.wanted += keys

    vault.broken["c"] = lambda store: Telling(store, removed)
    vault.collect()
    assert sorted(map(vault.has, keys)) == ["", left]
    assert len(times) == asked


def test_if_git_annex_cannot_be_asked_again_nothing_more_goes(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "AT_ONCE", 1)
    keys = [GONE, "SHA256E-s10--other", "SHA256E-s10--third"]
    for key in keys:
        vault.plant(key)
    vault.known += keys

    def asked() -> None:
        if vault.clock() > 1e9:
            raise SwarmError("git annex findkeys failed")

    vault.asked = asked
    vault.broken["c"] = lambda store: Telling(store, lambda: vault.clock.advance(collecting.ANEW))
    with pytest.raises(SwarmError, match="findkeys failed"):
        vault.collect()
    assert sorted(map(vault.has, keys)) == ["", "abc", "abc"]


class Telling(Around):
    """Says when something was removed."""

    def __init__(self, store: Store, removed: Callable[[], None]) -> None:
        super().__init__(store)
        self._removed = removed

    def delete(self, name: str) -> None:
        self.store.delete(name)
        self._removed()


def test_what_was_stored_again_by_now_stays(vault: Vault) -> None:
    """Under the same names, so that nothing has come: only its age tells it."""
    vault.plant(GONE)
    collecting = vault.collecting()
    plan = in_thread(collecting.look)
    vault.plant(GONE, [1], age=0)
    [gone] = in_thread(lambda: list(collecting.collect(plan)))
    assert (gone.kept, gone.removed) == (Why.YOUNG, ())
    assert vault.has(GONE) == "abc"


def test_what_is_being_stored_by_now_stays(vault: Vault) -> None:
    vault.plant(GONE, [0, 2])
    collecting = vault.collecting()
    plan = in_thread(collecting.look)
    vault.plant(GONE, [1], age=0)
    [gone] = in_thread(lambda: list(collecting.collect(plan)))
    assert gone.kept is Why.CHANGED
    assert vault.has(GONE) == "abc"


def test_what_somebody_else_has_removed_meanwhile_is_nothing_to_remove(vault: Vault) -> None:
    other = "SHA256E-s10--other"
    vault.plant(GONE, [0])
    vault.plant(other, [0, 1])
    vault.known.append(other)
    vault.broken["a"] = lambda store: Failing(store, lambda: NotFound("not here any more"), {"age"})
    plan = vault.look()
    assert [(each.key, [item.store for item in each.items]) for each in plan.go] == [(other, ["b"])]
    assert kept(plan) == {}


@pytest.mark.parametrize("when", [1, 2])
def test_where_git_annex_fails_nothing_goes(vault: Vault, when: int) -> None:
    vault.plant(GONE)
    times = []

    def asked() -> None:
        times.append(1)
        if len(times) == when:
            raise SwarmError("git annex findkeys failed: killed")

    vault.asked = asked
    with pytest.raises(SwarmError, match="killed"):
        vault.collect()
    assert vault.has(GONE) == "abc"


def test_who_may_not_store_may_not_remove(vault: Vault) -> None:
    vault.plant(GONE)
    vault.capability = FULL.attenuate("read")
    assert len(vault.look().go) == 1
    with pytest.raises(NoCapability):
        vault.collect()
    vault.capability = FULL.attenuate("verify")
    with pytest.raises(NoCapability):
        vault.look()
    assert vault.has(GONE) == "abc"


def test_it_can_be_called_off_at_any_time(vault: Vault) -> None:
    vault.plant(GONE)
    collecting = vault.collecting()
    plan = in_thread(collecting.look)
    collecting.care.cancelled.set()
    with pytest.raises(Cancelled):
        in_thread(lambda: list(collecting.collect(plan)))


def test_notes_forget_what_is_gone(vault: Vault) -> None:
    vault.plant(GONE)
    collecting = vault.collecting()
    gone, wanted = (object_id_of(FULL.read_secret, key) for key in (GONE, WANTED))
    # A stray of this number is no share where it belongs: what is known of that one stays.
    vault.put("b", vault.name(WANTED, 0), vault.memory["a"].contents[vault.name(WANTED, 0)])
    for object_id in (gone, wanted):
        vault.ledger.note_proved(object_id, 0)
    vault.ledger.note_damaged(gone, 1, "bad")
    in_thread(lambda: list(collecting.collect(collecting.look())))
    assert list(vault.ledger.proved(0)) == [(wanted, 0)]
    assert vault.ledger.damaged() == {}


def test_many_objects(vault: Vault) -> None:
    keys = [f"SHA256E-s10--{number}" for number in range(40)]
    for number, key in enumerate(keys):
        vault.plant(key, [number % 3])
    vault.known += keys
    vault.wanted += keys[::2]
    gone = vault.collect()
    assert {each.what.key for each in gone} == set(keys[1::2])
    assert [bool(vault.has(key)) for key in keys] == [True, False] * 20
