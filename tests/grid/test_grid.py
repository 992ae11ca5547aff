"""A grid as its clones see it: finding the newest roster, healing old ones, and stores that are elsewhere."""

from __future__ import annotations

import os
import subprocess
import threading
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import annex_remote.grid
from annex_remote.capability import Capability
from annex_remote.errors import BadSetting, Denied, Full, NoCapability, SwarmError, Unavailable
from annex_remote.grid import Grid, create_stores
from annex_remote.limits import parse_limit
from annex_remote.model import Access, Login, Store
from annex_remote.overrides import Overrides, read_overrides
from annex_remote.roster import (
    WAITING,
    Roster,
    first_roster,
    marker_name,
    open_roster,
    roster_name,
    roster_serial,
    seal_roster,
)
from annex_remote.settings import FirstStore, Settings, read_settings
from annex_remote.stores import open_store
from annex_remote.transfer.sites import Notes
from tests.fakes import (
    WAIT,
    Corrupting,
    Failing,
    Hanging,
    MemoryStore,
    Recording,
    Run,
    in_thread,
)

FULL = Capability("full", bytes(range(64)))
OTHER = Capability("full", bytes(range(1, 65)))
NAMES = ["a", "b", "c"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores that hang in these tests are given up after this time."""
    monkeypatch.setattr(annex_remote.grid, "ROSTER_WAIT", 0.3)


class Net:
    """All the stores that there are in the world, by address; `broken` are seen through a fault."""

    def __init__(self, names: list[str] | None = None) -> None:
        self.memory: dict[str, MemoryStore] = {}
        self.broken: dict[str, Callable[[Store], Store]] = {}
        self.opened: list[tuple[str, str | None]] = []
        self.settings = self.settings_of(names or NAMES)
        self.first = first_roster(
            FULL.verify_key, self.settings.coding, self.settings.cipher, self.settings.stores
        )

    def settings_of(self, names: list[str]) -> Settings:
        stores = " ".join(f"{name}=dir:/{name}" for name in names)
        return read_settings({"stores": stores, "share-cipher": "aegis256", "needed": "1", "happy": "1"})

    def open(self, address: str, marker: str | None, _: Access) -> Store:
        self.opened.append((address, marker))
        if not address.startswith("dir:/"):
            raise BadSetting(f"{address} cannot be used here")
        store: Store = self.memory.setdefault(address, MemoryStore())
        if address in self.broken:
            return self.broken[address](store)
        return store

    def clone(self, capability: Capability | None = FULL, **more: object) -> Grid:
        return Grid(self.settings, FULL.verify_key, capability, opener=self.open, **more)  # type: ignore[arg-type]

    def give(self, name: str, roster: Roster, signer: Capability = FULL, serial: int | None = None) -> None:
        """Put a roster on a store as whoever can write there could."""
        store = self.memory.setdefault(f"dir:/{name}", MemoryStore())
        place = roster_name(roster.grid, roster.serial if serial is None else serial)
        store.contents[place] = seal_roster(roster, signer)

    def serials(self, name: str) -> list[int]:
        names = self.memory[f"dir:/{name}"].contents
        return sorted(serial for each in names if (serial := roster_serial(self.first.grid, each)) is not None)

    def newest(self, name: str) -> Roster:
        place = roster_name(self.first.grid, self.serials(name)[-1])
        return open_roster(self.memory[f"dir:/{name}"].contents[place], FULL.verify_key)


def later(roster: Roster, steps: int = 1) -> Roster:
    for _ in range(steps):
        roster = roster.with_changed("a", cost=roster.serial + 200)
    return roster


def look(grid: Grid) -> tuple[bool, list[str]]:
    notes = Notes()
    newer = in_thread(lambda: grid.look_for_roster(notes))
    return newer, notes.lines


@pytest.fixture
def net() -> Net:
    """Three stores that all have the first roster."""
    net = Net()
    net.clone().change(net.first)
    return net


# Finding it.


def test_before_anything_is_seen_the_settings_are_all_that_is_known() -> None:
    grid = Net().clone()
    assert not grid.is_known
    assert [entry.name for entry in grid.roster.active] == NAMES
    assert [site.number for site in grid.sites()] == [0, 1, 2]
    newer, lines = look(grid)
    assert (newer, lines, grid.is_known) == (False, [], False)


def test_a_change_is_on_all_stores_and_is_found_by_other_clones(net: Net) -> None:
    mine = net.clone()
    look(mine)
    added = mine.roster.with_added(FirstStore("d", "dir:/d", 2), cost=50, zone="attic")
    assert mine.change(added) == {}
    assert [net.serials(name)[-1] for name in [*NAMES, "d"]] == [2, 2, 2, 2]
    assert mine.roster == added
    theirs = net.clone(FULL.attenuate("read"))
    assert look(theirs) == (True, [])
    assert theirs.is_known
    assert theirs.roster == added
    assert [(site.number, site.name, site.cost, site.zone) for site in theirs.sites()][-2:] == [
        (3, "d", 50, "attic"),
        (4, "d", 50, "attic"),
    ]


@pytest.mark.parametrize("where", NAMES)
def test_the_newest_wins_wherever_it_is_and_heals_the_others(net: Net, where: str) -> None:
    newest = later(net.first, 3)
    net.give(where, newest)
    grid = net.clone(None)
    newer, lines = look(grid)
    assert newer
    assert grid.roster == newest
    assert [line.split(":")[0] for line in lines] == [name for name in NAMES if name != where]
    assert all("roster 1" in line for line in lines)
    for name in NAMES:
        assert net.newest(name) == newest
    assert look(grid) == (False, [])


def test_healing_leaves_the_one_before_and_removes_older_ones(net: Net) -> None:
    second = later(net.first)
    for name in NAMES:
        net.give(name, second)
    net.give("c", later(net.first, 2))
    look(net.clone())
    assert [net.serials(name) for name in NAMES] == [[2, 3], [2, 3], [1, 2, 3]]
    grid = net.clone()
    look(grid)
    grid.change(later(grid.roster))
    assert [net.serials(name) for name in NAMES] == [[3, 4]] * 3


def test_a_store_without_a_roster_gets_one(net: Net) -> None:
    net.memory["dir:/b"].contents.clear()
    assert look(net.clone()) == (False, [])
    assert net.newest("b") == net.first


def test_an_old_one_on_a_store_does_not_take_a_clone_back(net: Net, tmp_path: Path) -> None:
    """A store that is restored from a backup, or lies, shows what was signed long ago."""
    cache = str(tmp_path / "cache")
    old = dict(net.memory["dir:/a"].contents)
    grid = net.clone(cache=cache)
    look(grid)
    grid.change(later(grid.roster, 4))
    for name in NAMES:
        net.memory[f"dir:/{name}"].contents = dict(old)
    again = net.clone(cache=cache)
    newer, lines = look(again)
    assert not newer
    assert again.roster.serial == 5
    assert len(lines) == 3
    assert [net.newest(name).serial for name in NAMES] == [5, 5, 5]


def test_two_clones_that_change_at_once_come_to_the_same(net: Net) -> None:
    one = net.first.with_added(FirstStore("d", "dir:/d", 1))
    other = net.first.with_added(FirstStore("e", "dir:/e", 1))
    net.give("a", one)
    net.give("b", other)
    net.give("c", other)
    clones = [net.clone() for _ in range(3)]
    for clone in clones:
        look(clone)
        look(clone)
    assert len({clone.roster.stores for clone in clones}) == 1
    assert {net.newest(name) for name in NAMES} == {clones[0].roster}


def test_jobs_that_start_together_ask_once(net: Net) -> None:
    recordings: list[Recording] = []

    def recorded(store: Store) -> Store:
        recordings.append(Recording(store))
        return recordings[-1]

    for name in NAMES:
        net.broken[f"dir:/{name}"] = recorded
    grid = net.clone()
    start = threading.Barrier(6)

    def job() -> None:
        start.wait(WAIT)
        grid.refresh(Notes())

    for run in [Run(job) for _ in range(6)]:
        run.join()
    assert sum(len(recording.names("list")) for recording in recordings) == 3
    assert in_thread(lambda: grid.refresh(Notes())) is False
    assert sum(len(recording.names("list")) for recording in recordings) == 3
    net.give("b", later(net.first))
    assert in_thread(lambda: grid.refresh(Notes(), max_age=0.0)) is True


# What is not to be believed.


def forged_by_another_grid(net: Net) -> None:
    net.give("b", later(net.first, 8), signer=OTHER)


def garbage(net: Net) -> None:
    net.memory["dir:/b"].contents[roster_name(net.first.grid, 9)] = b"swarmroster1\n" + bytes(500)


def too_large(net: Net) -> None:
    sealed = seal_roster(net.first, FULL)
    net.memory["dir:/b"].contents[roster_name(net.first.grid, 9)] = sealed + bytes(2 << 20)


def under_a_later_name(net: Net) -> None:
    net.give("b", net.first, serial=9)


@pytest.mark.parametrize("forge", [forged_by_another_grid, garbage, too_large, under_a_later_name])
def test_what_does_not_prove_is_refused_and_noted(net: Net, forge: Callable[[Net], None]) -> None:
    forge(net)
    grid = net.clone()
    newer, lines = look(grid)
    assert not newer
    assert grid.roster == net.first
    assert len(lines) == 1
    assert lines[0].startswith("b: ")
    assert "refused" in lines[0]
    net.give("c", later(net.first))
    _, lines = look(grid)
    assert grid.roster == later(net.first)
    assert "b: " in "\n".join(lines)


def test_a_store_with_nothing_but_forged_ones_gets_the_right_one(net: Net) -> None:
    net.memory["dir:/b"].contents.clear()
    forged_by_another_grid(net)
    look(net.clone())
    sealed = net.memory["dir:/b"].contents[roster_name(net.first.grid, 1)]
    assert open_roster(sealed, FULL.verify_key) == net.first


def test_a_store_that_corrupts_is_noted(net: Net) -> None:
    net.broken["dir:/a"] = lambda store: Corrupting(store, [-20])
    net.broken["dir:/c"] = lambda store: Corrupting(store, [3])
    grid = net.clone()
    _, lines = look(grid)
    assert sorted(line[:3] for line in lines) == ["a: ", "c: "]
    assert grid.is_known


def test_a_stray_name_does_not_hide_the_roster(net: Net) -> None:
    """A name with leading zeros is no serial: nobody could read a roster under it."""
    for name in NAMES:
        grid = net.first.grid
        net.memory[f"dir:/{name}"].contents[f"{grid[:2]}/{grid}.r0000099"] = b"stray"
        net.memory[f"dir:/{name}"].contents[f"{grid[:2]}/{grid}.rest"] = b"stray"
    net.give("b", later(net.first))
    grid_seen = net.clone()
    look(grid_seen)
    assert grid_seen.roster == later(net.first)


# Stores that are away.


def test_stores_that_cannot_be_asked_are_passed_over(net: Net, end: threading.Event) -> None:
    newest = later(net.first)
    net.give("c", newest)
    net.broken["dir:/a"] = lambda store: Failing(store, lambda: Unavailable("away"))
    net.broken["dir:/b"] = lambda store: Hanging(store, end)
    grid = net.clone()
    assert look(grid) == (True, [])
    assert grid.roster == newest
    assert net.serials("a") == net.serials("b") == [1]


def test_stores_that_hang_while_they_are_healed_are_not_waited_for(net: Net, end: threading.Event) -> None:
    net.give("c", later(net.first))
    net.broken["dir:/a"] = lambda store: Hanging(store, end, ["put"])
    net.broken["dir:/b"] = lambda store: Failing(store, lambda: Denied("read only"), ["put", "delete"])
    grid = net.clone()
    newer, _ = look(grid)
    assert newer
    assert grid.roster == later(net.first)


def test_no_store_can_be_asked(net: Net) -> None:
    for name in NAMES:
        net.broken[f"dir:/{name}"] = lambda store: Failing(store, lambda: Unavailable("away"))
    grid = net.clone()
    assert look(grid) == (False, [])
    assert not grid.is_known


def test_an_address_that_cannot_be_used_here_is_one_store_less(net: Net) -> None:
    moved = net.first.with_changed("b", address="s3:bucket/folder")
    net.clone().change(moved)
    grid = net.clone()
    look(grid)
    assert grid.roster == moved
    sites = {site.name: site for site in grid.sites()}
    assert sites["a"].store.stat("ab/ab" + "2" * 30 + ".0") is None
    broken = sites["b"].store
    name = "ab/ab" + "2" * 30 + ".1"
    verbs: list[Callable[[], object]] = [
        lambda: broken.put(name, 0, lambda at: []),
        lambda: broken.read(name),
        lambda: broken.stat(name),
        lambda: broken.age(name),
        lambda: broken.delete(name),
        lambda: broken.list(""),
        lambda: broken.space(),
    ]
    for verb in verbs:
        with pytest.raises(BadSetting, match="s3:bucket/folder cannot be used here"):
            verb()
    broken.close()


# Changing it.


def test_a_change_takes_the_full_capability(net: Net) -> None:
    for capability in (None, FULL.attenuate("read"), FULL.attenuate("verify")):
        grid = net.clone(capability)
        look(grid)
        with pytest.raises(NoCapability):
            grid.change(later(grid.roster))
    assert [net.serials(name) for name in NAMES] == [[1], [1], [1]]


def test_stores_that_could_not_take_a_change_are_named_and_healed_later(net: Net) -> None:
    grid = net.clone()
    look(grid)
    net.broken["dir:/b"] = lambda store: Failing(store, lambda: Denied("read only"), ["put"])
    clone = net.clone()
    look(clone)
    failed = clone.change(later(clone.roster))
    assert {name: str(error) for name, error in failed.items()} == {"b": "read only"}
    assert clone.roster.serial == 2
    assert [net.newest(name).serial for name in NAMES] == [2, 1, 2]
    net.broken.clear()
    look(grid)
    assert [net.newest(name).serial for name in NAMES] == [2, 2, 2]


def test_a_change_that_no_store_takes_is_none(net: Net) -> None:
    for name in NAMES:
        net.broken[f"dir:/{name}"] = lambda store: Failing(store, lambda: Denied("read only"), ["put"])
    grid = net.clone()
    look(grid)
    with pytest.raises(SwarmError, match="read only"):
        grid.change(later(grid.roster))
    assert grid.roster == net.first
    assert [net.serials(name) for name in NAMES] == [[1], [1], [1]]


# The cache.


def test_what_was_seen_once_is_known_offline(net: Net, tmp_path: Path) -> None:
    cache = str(tmp_path / "new" / "folder" / "roster")
    grid = net.clone(cache=cache)
    look(grid)
    grid.change(grid.roster.with_added(FirstStore("d", "dir:/d", 1)))
    net.opened.clear()
    offline = net.clone(cache=cache)
    assert offline.is_known
    assert offline.roster == grid.roster
    assert net.opened == []
    assert os.listdir(os.path.dirname(cache)) == ["roster"]


@pytest.mark.parametrize("content", [b"", b"garbage", b"swarmroster1\n" + bytes(200), bytes(2 << 20)])
def test_a_cache_that_does_not_prove_is_not_believed(net: Net, tmp_path: Path, content: bytes) -> None:
    cache = tmp_path / "roster"
    cache.write_bytes(content)
    grid = net.clone(cache=str(cache))
    assert not grid.is_known
    look(grid)
    assert grid.is_known
    assert open_roster(cache.read_bytes(), FULL.verify_key) == net.first


def test_the_cache_of_another_grid_is_not_believed(net: Net, tmp_path: Path) -> None:
    cache = tmp_path / "roster"
    cache.write_bytes(seal_roster(later(net.first, 5), OTHER))
    assert not net.clone(cache=str(cache)).is_known


def test_a_cache_that_cannot_be_written_does_no_harm(net: Net, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for cache in (tmp_path / "file" / "roster", tmp_path):
        grid = net.clone(cache=str(cache))
        look(grid)
        assert grid.is_known
    assert sorted(os.listdir(tmp_path)) == ["file"]


# Stores that this clone finds elsewhere.


def test_an_override_is_where_this_clone_looks(net: Net) -> None:
    net.memory["dir:/mnt/elsewhere"] = net.memory.pop("dir:/b")
    net.opened.clear()
    grid = net.clone(overrides=Overrides({"b": {"address": "dir:/mnt/elsewhere"}, "unknown": {"cost": 1}}))
    look(grid)
    assert grid.address(grid.roster.entry("b")) == "dir:/mnt/elsewhere"
    assert grid.address(grid.roster.entry("a")) == "dir:/a"
    assert "dir:/b" not in {address for address, _ in net.opened}
    assert grid.roster.entry("b").address == "dir:/b"
    marker = marker_name(grid.id, grid.roster.entry("b"))
    grid.sites()
    assert ("dir:/mnt/elsewhere", marker) in net.opened


def test_a_store_is_opened_once(net: Net) -> None:
    grid = net.clone()
    look(grid)
    for _ in range(3):
        grid.sites()
    opened = [(address, marker) for address, marker in net.opened if marker is not None]
    assert sorted(set(opened)) == sorted(set(opened[-3:]))
    entry = grid.roster.entry("a")
    assert grid.store(entry) is grid.store(entry)


def configured(folder: Path, **values: str) -> str:
    """Make a repository with this configuration of the remote `Swarm.one`; return its git directory."""
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    for name, value in values.items():
        key = f"remote.Swarm.one.{name.replace('_', '-')}"
        subprocess.run(["git", "-C", str(folder), "config", key, value], check=True)
    return str(folder / ".git")


def test_overrides_are_read_from_gits_configuration(tmp_path: Path) -> None:
    git_dir = configured(
        tmp_path,
        swarm_store_usb="dir:/media/me/usb disk",
        swarm_store_nas_2="dir:/mnt/nas=x",
        swarm_store_lines="dir:/two\nlines",
        annex_cost="100",
        swarm_limit_usb="8:00-18:00=1M",
        swarm_connections_usb="2",
        swarm_max_bytes_nas_2="200GiB",
        swarm_cost_nas_2="7",
        swarm_price_nas_2="0.09",
        swarm_download_limit="none",
        swarm_unheard_of="x",
        swarm_cost_empty="",
    )
    key = "remote.other.swarm-store-usb"
    subprocess.run(["git", "-C", str(tmp_path), "config", key, "dir:/not/this/one"], check=True)
    assert read_overrides(git_dir, "Swarm.one") == Overrides(
        {
            "usb": {"address": "dir:/media/me/usb disk", "limit": "08:00-18:00=1MiB/s", "connections": 2},
            "nas-2": {"address": "dir:/mnt/nas=x", "max_bytes": 200 << 30, "cost": 7, "price": 90_000},
            "lines": {"address": "dir:/two\nlines"},
        },
        download_limit=parse_limit("x", "none"),
    )
    for name in ("swarm.one", "nobody", None, ""):
        assert read_overrides(git_dir, name) == Overrides()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("swarm-upload-limit", "fast"),
        ("swarm-download-limit", "1023"),
        ("swarm-limit-usb", "9-17=1M"),
        ("swarm-connections-usb", "65"),
        ("swarm-max-bytes-usb", "much"),
        ("swarm-cost-usb", "-1"),
        ("swarm-cost-usb", "100001"),
        ("swarm-price-usb", "9 cents"),
    ],
)
def test_an_override_that_cannot_be_is_told_by_its_key(tmp_path: Path, name: str, value: str) -> None:
    git_dir = configured(tmp_path, **{name: value})
    with pytest.raises(BadSetting, match=f"remote.Swarm.one.{name}"):
        read_overrides(git_dir, "Swarm.one")


def test_a_configuration_that_cannot_be_read_is_no_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git_dir = configured(tmp_path / "one", swarm_limit_usb="1M")
    (tmp_path / "one/.git/config").write_text("[remote\n")
    with pytest.raises(
        BadSetting, match=r"sets for the remote .* cannot be read \(git config --list\): .*bad config"
    ):
        read_overrides(git_dir, "Swarm.one")
    git = tmp_path / "bin/git"
    git.parent.mkdir()
    monkeypatch.setenv("PATH", str(git.parent))
    with pytest.raises(BadSetting, match="No such file"):
        read_overrides(git_dir, "Swarm.one")
    monkeypatch.setattr("annex_remote.overrides.PATIENCE", 0.05)
    git.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    git.chmod(0o755)
    with pytest.raises(BadSetting, match=r": no answer in 0\.05 seconds"):
        read_overrides(git_dir, "Swarm.one")
    monkeypatch.setattr("annex_remote.overrides.PATIENCE", 30.0)
    git.write_text("#!/bin/sh\nexit 7\n")
    with pytest.raises(BadSetting, match="it ended with 7"):
        read_overrides(git_dir, "Swarm.one")


def test_what_this_clone_says_of_a_store_goes_before_what_the_grid_says(net: Net) -> None:
    overrides = Overrides({"b": {"cost": 7, "price": 10_000, "connections": 3}})
    roster = net.first.with_changed("c", price=1_500_000, connections=64)
    grid = net.clone(overrides=overrides)
    grid.change(roster)
    assert [(site.name, site.cost, site.price, site.connections) for site in grid.sites()] == [
        ("a", 100, 0.0, 8),
        ("b", 7, 0.01, 3),
        ("c", 100, 1.5, 64),
    ]
    assert grid.roster.entry("b").cost == 100


def test_all_work_goes_through_one_gate_of_each_store(net: Net) -> None:
    grid = net.clone()
    grid.change(net.first.with_added(FirstStore("d", "dir:/d", 2)).with_changed("d", connections=3))
    gates = [site.gate for site in [*grid.sites(), *grid.sites()]]
    assert [gate.limit for gate in gates] == [8, 8, 8, 3, 3] * 2
    assert len(set(map(id, gates))) == 4


def state_files(folder: Path) -> set[str]:
    """Return the files that are kept there for this user's processes, without grid and machine in their names."""
    return {".".join(path.name.split(".")[1:-1]) for path in folder.glob("git-annex-remote-swarm/*/*")}


def test_limits_are_kept_where_all_processes_find_them(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "uname", lambda: types.SimpleNamespace(nodename="here"))
    name = "ab/ab" + "2" * 30 + ".1"
    data = bytes(5000)
    grid = net.clone()
    grid.change(net.first)
    grid.sites()[1].store.put(name, len(data), lambda at: [data[at:]])
    assert state_files(tmp_path) == set()
    limited = net.clone(overrides=Overrides({"b": {"limit": "1GiB/s"}}, upload_limit=parse_limit("x", "1GiB/s")))
    look(limited)
    stores = [site.store for site in limited.sites()]
    stores[0].put(name, len(data), lambda at: [data[at:]])
    assert state_files(tmp_path) == {"upload"}
    stores[1].put(name, len(data), lambda at: [data[at:]])
    with stores[1].read(name) as stream:
        assert b"".join(stream) == data
    assert state_files(tmp_path) == {"upload", "b.up", "b.down"}


def test_the_settings_limit_holds_unless_this_clone_has_its_own(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "uname", lambda: types.SimpleNamespace(nodename="here"))
    net.settings = replace(net.settings, download_limit=parse_limit("x", "1GiB/s"))
    for overrides, files in ((Overrides(download_limit=parse_limit("x", "none")), set()), (None, {"download"})):
        grid = net.clone(overrides=overrides)
        look(grid)
        store = grid.sites()[0].store
        with store.read(roster_name(grid.id, 1)) as stream:
            assert b"".join(stream)
        assert state_files(tmp_path) == files


def test_a_full_store_still_takes_the_list_of_stores(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    grid = net.clone()
    grid.change(net.first.with_changed("b", max_bytes=1))
    store = grid.sites()[1].store
    with pytest.raises(Full, match="max-bytes"):
        store.put("ab/ab" + "2" * 30 + ".1", 5, lambda at: [bytes(5)[at:]])
    assert grid.change(grid.roster.with_changed("b", cost=7)) == {}
    assert grid.change(grid.roster.with_changed("b", max_bytes=0)) == {}
    grid.sites()[1].store.put("ab/ab" + "2" * 30 + ".1", 5, lambda at: [bytes(5)[at:]])


def test_the_stores_are_asked_once_before_a_change(net: Net) -> None:
    recording = Recording(net.memory["dir:/a"])
    net.broken["dir:/a"] = lambda _: recording
    grid = net.clone()
    look(grid)
    marker = marker_name(grid.id, grid.roster.entry("a"))
    grid.change(later(grid.roster))
    assert recording.names("stat") == [marker]
    grid.check_changeable()
    grid.change(later(grid.roster), asked=True)
    assert recording.names("stat") == [marker] * 2


def test_a_remote_that_was_never_made_has_no_grid(net: Net, tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="no verify-key"):
        Grid.configured(net.settings, None, git_dir=str(tmp_path), name="x", cache="", logins=lambda _: None)


# Making stores.


def test_every_store_gets_a_marker_of_its_own(net: Net) -> None:
    fresh = Net()
    create_stores(fresh.first.grid, fresh.first.active, opener=fresh.open)
    for entry in fresh.first.active:
        store = fresh.memory[entry.address]
        assert list(store.contents) == [marker_name(fresh.first.grid, entry)]
        assert fresh.first.grid.encode() in store.contents[marker_name(fresh.first.grid, entry)]
    create_stores(fresh.first.grid, fresh.first.active, opener=fresh.open)  # again: an initremote that was cut off


FAULTS: dict[str, Callable[[Store], Store]] = {
    "cannot be written": lambda store: Failing(store, lambda: Denied("read only"), ["put"]),
    "cannot be read": lambda store: Failing(store, lambda: Unavailable("away"), ["read"]),
    "reads back differently": lambda store: Corrupting(store, [0]),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_store_that_cannot_be_used_is_named_and_the_others_are_left_as_they_were(
    fault: Callable[[Store], Store],
) -> None:
    fresh = Net()
    fresh.broken["dir:/b"] = fault
    with pytest.raises(BadSetting, match="b=dir:/b cannot be used"):
        create_stores(fresh.first.grid, fresh.first.active, opener=fresh.open)
    assert fresh.memory["dir:/a"].contents == {}
    assert "dir:/c" not in fresh.memory or fresh.memory["dir:/c"].contents == {}


LOCKED = Denied("who are you?", wants_login=True)


def test_a_store_that_wants_a_login_is_left_out_until_it_has_one() -> None:
    fresh = Net()
    fresh.broken["dir:/b"] = lambda store: Failing(store, lambda: LOCKED)
    waiting = create_stores(fresh.first.grid, fresh.first.active, opener=fresh.open)
    assert waiting == {"b": LOCKED}
    assert fresh.memory["dir:/a"].contents
    assert fresh.memory["dir:/c"].contents
    roster = fresh.first.with_state(waiting, WAITING)
    assert (roster.serial, [entry.name for entry in roster.active]) == (1, ["a", "c"])
    for name in "ac":
        fresh.give(name, roster)
    grid = fresh.clone()
    look(grid)
    fresh.opened.clear()
    assert [site.name for site in grid.sites()] == ["a", "c"]
    grid.check_changeable()
    assert {address for address, _ in fresh.opened} == {"dir:/a", "dir:/c"}


def test_a_store_that_waits_and_is_removed_leaves_nothing_behind() -> None:
    first = Net().first.with_state(["b"], WAITING)
    removed = first.with_removed("b")
    assert [entry.name for entry in removed.stores] == ["a", "c"]
    assert removed.serial == first.serial + 1
    again = removed.with_added(FirstStore("b", "dir:/b", 1))
    assert again.entry("b").numbers == (3,)


def test_a_place_that_can_only_be_read_is_not_made_a_store() -> None:
    fresh = Net()
    entry = fresh.first.with_added(FirstStore("w", "https://example.org/annex", 1)).entry("w")
    with pytest.raises(BadSetting, match="can only be read"):
        create_stores(fresh.first.grid, [entry], opener=fresh.open)
    assert fresh.opened == []


def test_who_wants_a_login_is_named_when_the_roster_is_looked_for(net: Net) -> None:
    net.broken["dir:/b"] = lambda store: Failing(store, lambda: LOCKED)
    _, notes = look(net.clone())
    assert notes == ["b: wants a login: git-annex-remote-swarm login REMOTE b"]


def test_a_login_that_a_store_does_not_take_is_a_mistake_to_be_told() -> None:
    fresh = Net()
    fresh.broken["dir:/b"] = lambda store: Failing(store, lambda: LOCKED)
    with pytest.raises(BadSetting, match="b=dir:/b cannot be used: who are you"):
        create_stores(fresh.first.grid, fresh.first.active, lambda _: Login("me", "wrong"), fresh.open)
    assert fresh.memory["dir:/a"].contents == {}


def test_a_store_is_opened_again_when_its_login_changes(net: Net) -> None:
    given: list[Access] = []

    def opener(address: str, marker: str | None, access: Access) -> Store:
        given.append(access)
        return net.open(address, marker, access)

    logins: dict[str, Login] = {}
    grid = Grid(net.settings, FULL.verify_key, FULL, opener=opener, logins=logins.get)
    entry = grid.roster.entry("a")
    assert grid.store(entry) is grid.store(entry)
    logins["a"] = Login("me", "1")
    first = grid.store(entry)
    grid.use_login("a", Login("me", "2"))
    assert grid.store(entry) is not first
    assert [access.login for access in given] == [None, Login("me", "1"), Login("me", "2")]
    assert {access.patience for access in given} == {net.settings.stall}


def test_a_store_of_another_grid_is_refused() -> None:
    fresh = Net()
    other = first_roster(OTHER.verify_key, fresh.settings.coding, fresh.settings.cipher, fresh.settings.stores)
    create_stores(other.grid, other.active[1:2], opener=fresh.open)
    before = dict(fresh.memory["dir:/b"].contents)
    with pytest.raises(BadSetting, match="another grid"):
        create_stores(fresh.first.grid, fresh.first.active, opener=fresh.open)
    assert fresh.memory["dir:/a"].contents == {}
    assert fresh.memory["dir:/b"].contents == before


def test_directories_that_come_to_nothing_are_not_left_behind(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    settings = read_settings({"stores": f"a=dir:{tmp_path}/a b=dir:{tmp_path}/file/b"})
    first = first_roster(FULL.verify_key, settings.coding, settings.cipher, settings.stores)
    with pytest.raises(BadSetting, match="b="):
        create_stores(first.grid, first.active, opener=open_store)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file"]


def test_a_grid_on_directories_notices_what_is_not_mounted(tmp_path: Path) -> None:
    settings = read_settings({"stores": " ".join(f"{name}=dir:{tmp_path}/{name}" for name in NAMES), "happy": "2"})
    first = first_roster(FULL.verify_key, settings.coding, settings.cipher, settings.stores)
    create_stores(first.grid, first.active)
    Grid(settings, FULL.verify_key, FULL).change(first)
    os.rename(tmp_path / "b", tmp_path / "unmounted")
    os.mkdir(tmp_path / "b")
    grid = Grid(settings, FULL.verify_key, FULL)
    look(grid)
    assert grid.is_known
    [site] = [site for site in grid.sites() if site.name == "b"]
    with pytest.raises(Unavailable, match="marker"):
        site.store.stat("ab/ab" + "2" * 30 + ".1")
    assert os.listdir(tmp_path / "b") == []
