"""Bringing back what stores have, with the capability alone: finding the grid, its keys, and what is left."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from annex_remote.capability import Capability
from annex_remote.caring import Care
from annex_remote.errors import BadSetting, Damaged, Denied, SwarmError, Unavailable
from annex_remote.finding import Finding, Place, read_places, reopen, whereabouts
from annex_remote.keyfiles import file_name, key_path
from annex_remote.model import Access, Coding, Login, Store
from annex_remote.recovery import PARTIAL, Back, Fate, Recovery, pushed_repositories
from annex_remote.roster import (
    GONE,
    Roster,
    first_roster,
    marker_name,
    roster_name,
    seal_roster,
)
from annex_remote.settings import FirstStore
from annex_remote.shares.crypto import Cipher
from annex_remote.shares.layout import SEGMENT_SIZE
from tests.fakes import (
    Corrupting,
    Failing,
    Hanging,
    MemoryStore,
    Recording,
    in_thread,
)
from tests.shares.builder import FULL, Upload, upload

NAMES = ("a", "b", "c", "d", "e")
OTHER = Capability("full", bytes(range(1, 65)))
STALL = 0.4


def key_of(number: int, size: int) -> str:
    return f"SHA256E-s{size}--{number:064x}.bin"


def noise(number: int, size: int) -> bytes:
    return random.Random(number).randbytes(size)


class World:
    """The stores of a grid, by address, as they are just now."""

    def __init__(self) -> None:
        self.stores: dict[str, Store] = {}
        self.memory = {name: MemoryStore() for name in NAMES}
        self.logins: dict[str, Login] = {}
        self.guarded: set[str] = set()
        """Addresses where nobody gets in without a login."""
        self.opened: list[tuple[str, Access]] = []
        self.roster = first_roster(
            FULL.verify_key,
            Coding(3, 4, 5),
            Cipher.AEGIS256,
            [FirstStore(each, f"dir:/{each}", 1) for each in NAMES],
        )
        for entry in self.roster.stores:
            self.stores[entry.address] = self.memory[entry.name]
            self.memory[entry.name].contents[marker_name(self.roster.grid, entry)] = b"marker"
        self.give(self.roster, *NAMES)

    def give(self, roster: Roster, *names: str, signer: Capability = FULL) -> None:
        for name in names:
            self.memory[name].contents[roster_name(roster.grid, roster.serial)] = seal_roster(roster, signer)

    def open(self, address: str, marker: str | None, access: Access) -> Store:
        self.opened.append((address, access))
        store = self.stores.get(address)
        if store is None:
            store = MemoryStore()  # an empty mount point
        if address in self.guarded and access.login is None:
            return Failing(store, lambda: Denied("who are you", wants_login=True))
        if marker is not None and isinstance(store, MemoryStore) and marker not in store.contents:
            return Failing(store, lambda: Unavailable(f"{address} does not have this store's marker"))
        return store

    def break_store(self, name: str, how: Callable[[Store], Store]) -> None:
        self.stores[f"dir:/{name}"] = how(self.stores[f"dir:/{name}"])

    def unplug(self, *names: str) -> None:
        for name in names:
            del self.stores[f"dir:/{name}"]

    def move(self, name: str, address: str) -> None:
        self.stores[address] = self.stores.pop(f"dir:/{name}")

    def put(self, number: int, size: int, *, numbers: Sequence[int] = range(5), key: str = "") -> Upload:
        built = upload(noise(number, size), 3, range(5), annex_key=key or key_of(number, size))
        for each in numbers:
            self.memory[NAMES[each]].contents[str(built.name(each))] = built.shares[each]
        return built

    def reopen(self, *words: str, capability: Capability = FULL, to_read: bool = False) -> tuple[Care, list[str]]:
        found = in_thread(
            lambda: reopen(
                capability,
                read_places(words),
                to_read=to_read,
                logins=self.logins.get,
                stall=STALL,
                opener=self.open,
            )
        )
        return Care(found.grid, capability), found.notes

    def recovery(self, folder: Path | None, *words: str, **more: object) -> Recovery:
        care, _ = self.reopen(*(words or ("dir:/a",)), to_read=True)
        survey = in_thread(care.survey)
        return Recovery(care, survey, None if folder is None else str(folder), **more)  # type: ignore[arg-type]

    def recover(self, folder: Path | None, *words: str, **more: object) -> dict[str, Back]:
        recovery = self.recovery(folder, *words, **more)
        return in_thread(lambda: {back.key or back.object_id: back for back in recovery.run()})


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def end() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def fates(found: dict[str, Back]) -> dict[str, str]:
    return {key: back.fate.value for key, back in found.items()}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Names of files.


@pytest.mark.parametrize(
    ("key", "path"),
    [  # as git-annex has them: git annex examinekey --format='${hashdirlower}'
        ("SHA256E-s10--abc.txt", "18c/0c3/SHA256E-s10--abc.txt"),
        ("SHA256E-s10-S3-C2--abc.txt", "18c/0c3/SHA256E-s10-S3-C2--abc.txt"),
        ("URL--http://foo/bar:b%20&x", "d44/229/URL--http&c%%foo%bar&cb&s20&ax"),
    ],
)
def test_a_key_is_where_git_annex_looks_for_it(key: str, path: str) -> None:
    assert key_path(key) == f"{path}/{os.path.basename(path)}"


@pytest.mark.parametrize(
    "key", ["", ".", "..", "../..", "/etc/passwd", ".hidden--x", "A--b\0c", "A--b\nc", "nothing"]
)
def test_what_is_no_key_becomes_no_file(key: str) -> None:
    with pytest.raises(Damaged):
        file_name(key)


@pytest.mark.parametrize("key", ["X--../../../../tmp/x", "X--/etc/passwd", "X-s1--a/../b"])
def test_no_key_leads_out_of_the_folder(key: str) -> None:
    assert key_path(key).count("/") == 3
    assert ".." not in key_path(key).split("/")


# Finding the grid.


def test_one_address_leads_to_all_stores(world: World) -> None:
    care, notes = world.reopen("dir:/c")
    assert [entry.name for entry in care.grid.roster.active] == list(NAMES)
    assert [site.number for site in care.sites] == [0, 1, 2, 3, 4]
    assert notes == []


def test_nothing_is_put_on_any_store(world: World) -> None:
    newer = world.roster.with_changed("a", cost=7)
    world.give(newer, "b")
    for name in NAMES:
        world.break_store(name, Recording)
    world.put(1, 1000)
    world.reopen("dir:/a")
    for store in world.stores.values():
        assert isinstance(store, Recording)
        assert store.names("put") == store.names("delete") == []


def test_the_newest_roster_wins_wherever_it_is(world: World) -> None:
    newer = world.roster.with_added(FirstStore("f", "dir:/f", 1))
    newest = newer.with_added(FirstStore("g", "dir:/g", 1))
    world.give(newer, "b")
    world.memory["f"] = MemoryStore()
    world.stores["dir:/f"] = world.memory["f"]
    world.give(newest, "f")  # a store of which only the newer one knows
    care, _ = world.reopen("dir:/a")
    assert care.grid.roster == newest


def test_an_address_that_is_given_wins_where_the_marker_is(world: World) -> None:
    world.move("b", "dir:/elsewhere")
    care, notes = world.reopen("dir:/a", "dir:/elsewhere")
    assert care.grid.address(care.grid.roster.entry("b")) == "dir:/elsewhere"
    assert notes == []
    assert care.reach()["b"][1] is None
    assert "dir:/b" not in [address for address, _ in world.opened]


def test_disks_that_changed_places(world: World) -> None:
    world.stores["dir:/a"], world.stores["dir:/b"] = world.stores["dir:/b"], world.stores["dir:/a"]
    care, _ = world.reopen("dir:/a", "dir:/b")
    assert [care.grid.address(entry) for entry in care.grid.roster.readable[:2]] == ["dir:/b", "dir:/a"]
    assert all(error is None for _, error in care.reach().values())


def test_a_disk_in_the_place_of_another_one(world: World) -> None:
    world.stores["dir:/a"] = world.stores.pop("dir:/b")
    care, notes = world.reopen("dir:/a")
    assert notes == []
    errors = {name: str(error) for name, (_, error) in care.reach().items() if error}
    assert errors == {"a": "dir:/a does not have this store's marker"}


def test_a_place_with_two_markers_tells_nothing(world: World) -> None:
    b = world.roster.entry("b")
    world.memory["a"].contents[marker_name(world.roster.grid, b)] = b"marker"
    world.move("a", "dir:/both")
    care, notes = world.reopen("dir:/both")
    assert notes == ["dir:/both: it has the markers of several stores, so it is not clear which one it is"]
    assert care.grid.address(b) == "dir:/b"
    assert care.grid.address(world.roster.entry("a")) == "dir:/a"


def test_what_was_brought_together_on_one_disk_is_read_there(world: World, tmp_path: Path) -> None:
    world.put(1, 200_000)
    for name in "bc":
        world.memory["a"].contents |= world.memory[name].contents
    world.move("a", "dir:/both")
    world.unplug(*"bcde")
    assert fates(world.recover(tmp_path, "dir:/both")) == {key_of(1, 200_000): "recovered"}
    assert world.reopen("dir:/both", to_read=True)[1] == []


def test_a_copy_of_a_store(world: World) -> None:
    world.stores["dir:/copy"] = world.memory["a"]
    care, notes = world.reopen("dir:/copy", "dir:/a")
    assert care.grid.address(care.grid.roster.entry("a")) == "dir:/copy"
    assert notes == ["a: it is at dir:/copy and at dir:/a; the first one is used"]


def test_nothing_found_says_what_may_be_wrong(world: World) -> None:
    with pytest.raises(BadSetting, match="capability of another grid, or these may be the wrong places") as raised:
        world.reopen("dir:/a", capability=OTHER)
    assert "dir:/a: nothing of this grid is there" in str(raised.value)
    with pytest.raises(BadSetting, match="dir:/nowhere: nothing of this grid is there"):
        world.reopen("dir:/nowhere")
    world.break_store("a", lambda store: Failing(store, lambda: Unavailable("the line is cut")))
    with pytest.raises(BadSetting, match="dir:/a: the line is cut"):
        world.reopen("dir:/a")


def test_a_roster_that_somebody_else_signed_is_refused(world: World) -> None:
    forged = replace(world.roster, serial=9)
    world.memory["a"].contents[roster_name(forged.grid, 9)] = seal_roster(
        replace(forged, grid=first_roster(OTHER.verify_key, forged.coding, forged.cipher, []).grid), OTHER
    )
    care, notes = world.reopen("dir:/a")
    assert care.grid.roster.serial == 1
    assert notes == ["dir:/a: a list of stores is refused: a roster that is not signed by this grid"]


def test_a_place_that_hangs_does_not_hold_up_the_others(world: World, end: threading.Event) -> None:
    world.break_store("a", lambda store: Hanging(store, end))
    finding = Finding(FULL.verify_key, world.logins.get, STALL, STALL, world.open)
    in_thread(lambda: finding.ask_all_known(read_places(["dir:/a", "dir:/b"])))
    assert finding.newest is not None
    assert [place.address for place in finding.failed] == ["dir:/a"]


def test_that_something_is_there_is_known_also_where_it_cannot_be_read(world: World) -> None:
    world.break_store("a", lambda store: Failing(store, lambda: Unavailable("no"), {"read"}))
    finding = Finding(FULL.verify_key, world.logins.get, STALL, STALL, world.open)
    finding.ask([Place("dir:/a")])
    [shown] = finding.shown.values()
    assert shown.any
    assert shown.newest is None
    assert whereabouts(world.roster, finding.shown) == {"a": ["dir:/a"]}


def test_a_login_goes_to_the_store_that_it_is_named_for(world: World) -> None:
    world.logins = {"a": Login("me", "secret"), "b": Login("me", "other")}
    world.reopen("a=dir:/a", "dir:/c")
    seen = {(address, access.login.password if access.login else None) for address, access in world.opened}
    assert seen >= {("dir:/a", "secret"), ("dir:/b", "other"), ("dir:/c", None)}
    assert ("dir:/a", "other") not in seen


def test_who_wants_a_login_is_named_with_what_to_do(world: World) -> None:
    world.guarded = {"dir:/a"}
    with pytest.raises(BadSetting, match="who are you; write NAME=ADDRESS for a login"):
        world.reopen("dir:/a")


def test_who_wants_a_login_is_asked_with_it_as_soon_as_its_name_is_known(world: World) -> None:
    newer = world.roster.with_changed("b", cost=7)
    world.give(newer, "b")
    world.guarded = {"dir:/a", "dir:/b"}
    world.logins = {"a": Login("me", "secret"), "b": Login("me", "other")}
    with pytest.raises(BadSetting):
        world.reopen("dir:/a")
    assert world.reopen("a=dir:/a")[0].grid.roster == newer
    care, notes = world.reopen("dir:/b", "dir:/c")
    assert care.grid.roster == newer
    assert notes == []


def test_a_store_that_was_given_up_is_read_where_it_is_asked_for(world: World, tmp_path: Path) -> None:
    world.put(1, 3000)
    without = world.roster.with_state(["a", "b"], GONE)
    world.give(replace(without, serial=2), "c")
    world.unplug("d")
    care, notes = world.reopen("dir:/c", "dir:/a")
    assert "a" not in [entry.name for entry in care.grid.roster.readable]
    care, notes = world.reopen("dir:/c", "dir:/a", to_read=True)
    assert notes == ["a is gone by the list of stores, and is read all the same"]
    found = world.recover(tmp_path, "dir:/c", "dir:/a")  # a, c, e
    assert fates(found) == {key_of(1, 3000): "recovered"}


def test_a_store_that_was_given_up_in_the_place_of_another_one(world: World) -> None:
    world.give(replace(world.roster.with_state(["a"], GONE), serial=2), "c")
    world.stores["dir:/b"] = world.stores.pop("dir:/a")
    care, notes = world.reopen("dir:/c", "dir:/b", to_read=True)
    assert "a" not in [entry.name for entry in care.grid.roster.readable]
    [note] = notes
    assert note.startswith("a is gone by the list of stores, and is where another store is to be")


# Bringing it back.

SIZES = {1: 0, 2: 1, 3: 70_000, 4: SEGMENT_SIZE, 5: 2 * SEGMENT_SIZE + 17}


@pytest.fixture
def full(world: World) -> World:
    for number, size in SIZES.items():
        world.put(number, size)
    return world


def wanted() -> dict[str, bytes]:
    return {key_path(key_of(number, size)): noise(number, size) for number, size in SIZES.items()}


def test_everything_comes_back_byte_for_byte(full: World, tmp_path: Path) -> None:
    found = full.recover(tmp_path / "back")
    assert set(fates(found).values()) == {"recovered"}
    assert files(tmp_path / "back") == wanted()
    assert not (tmp_path / "back" / PARTIAL).exists()


def test_two_stores_away_and_a_damaged_block(full: World, tmp_path: Path) -> None:
    full.unplug("b", "d")
    full.break_store("c", lambda store: Corrupting(store, [5]))
    found = full.recover(tmp_path)
    big = key_of(5, SIZES[5])
    lost = [key for key, back in found.items() if back.fate is not Fate.RECOVERED]
    # With b and d away, a, c and e have to do: what c has damaged may be on them.
    assert {found[key].fate for key in lost} == {Fate.UNKNOWN}
    assert big in lost
    full.stores["dir:/b"] = full.memory["b"]
    assert set(fates(full.recover(tmp_path)).values()) <= {"recovered", "there"}
    assert files(tmp_path) == wanted()


def test_the_second_run_fetches_nothing_again(full: World, tmp_path: Path) -> None:
    full.recover(tmp_path)
    small = tmp_path / key_path(key_of(3, SIZES[3]))
    small.write_bytes(b"short")
    found = full.recover(tmp_path)
    assert {key for key, back in found.items() if back.fate is Fate.RECOVERED} == {key_of(3, SIZES[3])}
    assert {back.fate for back in found.values()} == {Fate.RECOVERED, Fate.THERE}
    assert files(tmp_path) == wanted()


def test_what_was_begun_goes_on(full: World, tmp_path: Path) -> None:
    key = key_of(5, SIZES[5])
    part = tmp_path / PARTIAL / key
    part.parent.mkdir()
    part.write_bytes(noise(5, SIZES[5])[: 2 * SEGMENT_SIZE])
    for name in NAMES:
        full.break_store(name, Recording)
    full.recover(tmp_path, only=key)
    read = sum(store.given for store in full.stores.values() if isinstance(store, Recording))
    assert read < 2 * SEGMENT_SIZE  # its second segment, for comparison, and what is left
    assert files(tmp_path) == {key_path(key): noise(5, SIZES[5])}


def test_a_file_has_its_name_only_when_it_is_whole(full: World, tmp_path: Path) -> None:
    """Three of the five stores break in the middle of it."""
    for name in "abc":
        full.break_store(name, lambda store: Failing(store, lambda: Unavailable("cut"), {"read"}, after=100_000))
    found = full.recover(tmp_path)
    key = key_of(5, SIZES[5])
    assert found[key].fate is Fate.UNKNOWN
    assert "cut" in found[key].cause
    assert not (tmp_path / key_path(key)).exists()
    for name in "abc":
        full.stores[f"dir:/{name}"] = full.memory[name]
    full.recover(tmp_path)
    assert files(tmp_path) == wanted()


def test_lost_is_said_only_of_what_no_store_can_have(world: World, tmp_path: Path) -> None:
    world.put(1, 5000, numbers=[0, 1])
    world.put(2, 5000, numbers=[0, 1, 2])
    one, two = key_of(1, 5000), key_of(2, 5000)
    assert fates(world.recover(tmp_path)) == {one: "lost", two: "recovered"}
    world.unplug("e")
    found = world.recover(tmp_path)
    assert fates(found) == {one: "unknown", two: "there"}
    assert "marker" in found[one].cause


def test_damage_everywhere_is_a_loss_and_says_so(world: World, tmp_path: Path) -> None:
    world.put(1, 500_000)
    for name in "abc":
        world.break_store(name, lambda store: Corrupting(store, [7]))
    found = world.recover(tmp_path, "dir:/e")
    assert fates(found) == {key_of(1, 500_000): "lost"}
    world.break_store("d", lambda store: Failing(store, lambda: Unavailable("busy"), {"read"}))
    world.stores["dir:/a"] = world.memory["a"]
    found = world.recover(tmp_path, "dir:/e")
    assert fates(found) == {key_of(1, 500_000): "unknown"}
    assert "d: " in found[key_of(1, 500_000)].cause


def test_other_damage_in_each_share_takes_nothing(world: World, tmp_path: Path) -> None:
    """Each segment has three good blocks, though only one share is whole."""
    built = world.put(1, 4 * SEGMENT_SIZE)
    layout = built.header.layout
    for index, name in enumerate("abcd"):
        at = layout.block_offset(index) + 3
        world.break_store(name, lambda store, at=at: Corrupting(store, [at]))  # type: ignore[misc]
    assert fates(world.recover(tmp_path, "dir:/e")) == {key_of(1, 4 * SEGMENT_SIZE): "recovered"}


def test_an_object_whose_shares_cannot_tell_a_name(world: World, tmp_path: Path) -> None:
    built = world.put(1, 5000, numbers=[0])
    world.break_store("a", lambda store: Corrupting(store, [-1, -2, -3]))
    found = world.recover(tmp_path, "dir:/b")
    assert fates(found) == {built.header.object_id: "lost"}
    assert "share 0 is damaged" in found[built.header.object_id].cause
    world.stores["dir:/a"] = Failing(world.memory["a"], lambda: Unavailable("asleep"), {"read"})
    world.unplug("c", "d")
    found = world.recover(tmp_path, "dir:/b")
    assert fates(found) == {built.header.object_id: "unknown"}


def test_shares_that_are_on_other_stores_than_their_own(world: World, tmp_path: Path) -> None:
    """Somebody has put the content of three disks on one."""
    built = world.put(1, 200_000, numbers=[0])
    for number in (1, 2):
        world.memory["a"].contents[str(built.name(number))] = built.shares[number]
    assert fates(world.recover(tmp_path)) == {key_of(1, 200_000): "recovered"}


def test_shares_that_were_to_take_the_place_of_others(world: World, tmp_path: Path) -> None:
    built = world.put(1, 200_000, numbers=[0])
    for number in (1, 2):
        name = str(built.name(number)).replace(".", ".n")
        world.memory[NAMES[number]].contents[name] = built.shares[number]
    assert fates(world.recover(tmp_path)) == {key_of(1, 200_000): "recovered"}


def test_a_store_that_lists_nothing_is_read_all_the_same(full: World, tmp_path: Path) -> None:
    """Web servers do not always list; what others have listed may be there."""
    for name in "abc":
        full.break_store(name, lambda store: Failing(store, lambda: Unavailable("it lists nothing"), {"list"}))
    found = full.recover(tmp_path, "dir:/d")
    assert set(fates(found).values()) == {"recovered"}
    assert files(tmp_path) == wanted()


def test_what_is_hidden_by_silence(full: World, tmp_path: Path) -> None:
    assert not full.recovery(tmp_path).may_hide()
    full.unplug("b", "c")
    assert not full.recovery(tmp_path).may_hide()
    full.unplug("d")
    assert full.recovery(tmp_path).may_hide()


def test_a_dry_run_writes_nothing_and_reads_little(full: World, tmp_path: Path) -> None:
    full.put(9, 3000, numbers=[1])
    for name in NAMES:
        full.break_store(name, Recording)
    found = full.recover(tmp_path, dry_run=True)
    assert {back.size for back in found.values()} == {*SIZES.values(), 3000}
    assert {key: fate for key, fate in fates(found).items() if fate != "recoverable"} == {key_of(9, 3000): "lost"}
    assert files(tmp_path) == {}
    assert set(fates(full.recover(None, dry_run=True)).values()) == {"recoverable", "lost"}


def test_only_what_matches(full: World, tmp_path: Path) -> None:
    found = full.recover(tmp_path, only="*-s1--*")
    assert list(found) == [key_of(2, 1)]
    assert list(files(tmp_path)) == [key_path(key_of(2, 1))]


def test_a_key_that_could_lead_elsewhere_is_named_and_left(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b" / "back"
    world.put(1, 100, key="../../../evil")
    world.put(2, 100, key="X--../../../../evil")
    found = world.recover(folder)
    assert fates(found) == {"../../../evil": "unknown", "X--../../../../evil": "recovered"}
    assert "not that of a git-annex key" in found["../../../evil"].cause
    assert set(files(tmp_path)) == {f"a/b/back/{key_path('X--../../../../evil')}"}


def test_no_room_is_a_mistake_and_no_loss(full: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("annex_remote.recovery.os.fsync", full_disk)
    with pytest.raises(SwarmError, match="No space left on device; the next run goes on"):
        full.recover(tmp_path)


def test_what_is_in_the_way_of_one_file_does_not_stop_the_others(full: World, tmp_path: Path) -> None:
    key = key_of(3, SIZES[3])
    (tmp_path / key_path(key)).parent.parent.mkdir(parents=True)
    (tmp_path / key_path(key)).parent.write_text("a file where the folder is to be")
    found = full.recover(tmp_path)
    assert fates(found).pop(key) == "unknown"
    assert list(fates(found).values()).count("recovered") == 4


def test_progress_ends_at_what_was_announced(full: World, tmp_path: Path) -> None:
    moved: list[int] = []
    recovery = full.recovery(tmp_path, moved=moved.append)
    in_thread(lambda: list(recovery.run()))
    assert sum(moved) == sum(map(recovery.amount, recovery.survey))
    assert len(moved) > 5


# What was pushed.

UUID = "6e33ea45-f21b-4706-9f43-94de480bc34a"


def back(key: str, fate: Fate = Fate.RECOVERED) -> Back:
    return Back("x", fate, key)


def test_repositories_that_were_pushed() -> None:
    bundle = f"GITBUNDLE-s5--{UUID}-abc"
    manifest, spare = f"GITMANIFEST--{UUID}", f"GITMANIFEST--{UUID}.bak"
    assert pushed_repositories([back("SHA256-s1--x")]) == {}
    assert pushed_repositories([back(manifest), back(bundle)]) == {UUID: True}
    assert pushed_repositories([back(manifest), back(bundle, Fate.LOST)]) == {UUID: False}
    assert pushed_repositories([back(manifest, Fate.LOST), back(spare), back(bundle)]) == {UUID: True}
    assert pushed_repositories([back(manifest, Fate.LOST), back(bundle)]) == {UUID: False}
    assert pushed_repositories([back("GITMANIFEST--$(evil)")]) == {}


def test_the_list_of_what_was_pushed_is_fetched_anew(world: World, tmp_path: Path) -> None:
    """It has other content under the same name after every push, and often the same size."""
    key = f"GITMANIFEST--{UUID}"
    world.put(1, 100, key=key)
    world.recover(tmp_path)
    world.put(2, 100, key=key)
    assert fates(world.recover(tmp_path)) == {key: "recovered"}
    assert files(tmp_path) == {key_path(key): noise(2, 100)}
