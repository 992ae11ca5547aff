"""The list of stores: changed on one clone, learned by others, proved by all."""

from __future__ import annotations

import shutil

import pytest

from annex_remote.capability import Capability
from annex_remote.roster import Roster, grid_id, open_roster, roster_name, seal_roster
from annex_remote.settings import FirstStore
from tests.sessions.session import Repository, Session

SWARM = "git-annex-remote-swarm stores vault"


def add(session: Session, clone: Repository, name: str, options: str = "") -> str:
    return clone.run(f"{SWARM} add {name}=dir:{session.store(name)} {options}").plain


def serials(session: Session, grid: str, store: str) -> list[int]:
    """Return the serials of the rosters that a store has."""
    return sorted(int(path.suffix[2:]) for path in session.store(store).glob(f"{grid[:2]}/{grid}.r*"))


def current(session: Session, capability: str, store: str = "usb") -> Roster:
    """Return the newest roster on a store, proved."""
    verify_key = Capability.parse(capability).verify_key
    grid = grid_id(verify_key)
    newest = serials(session, grid, store)[-1]
    return open_roster((session.store(store) / roster_name(grid, newest)).read_bytes(), verify_key)


def test_listing(session: Session, laptop: Repository) -> None:
    for command in (SWARM, f"{SWARM} list"):
        said = laptop.run(command)
        assert "3-of-5 (happy 4), roster 1; survives the loss of any 2 stores" in said
        assert "\x1b" not in said
        [line] = [line.split() for line in said.out.splitlines() if line.startswith("nas ")]
        assert line == ["nas", "1", f"dir:{session.store('nas')}", "100", "there"]
    assert laptop.list_stores()["attic"] == {
        "store": "attic",
        "shares": [2],
        "address": f"dir:{session.store('attic')}",
        "cost": 100,
        "price": 0.0,
        "limit": None,
        "connections": 8,
        "max_bytes": None,
        "zone": "",
        "state": "active",
        "reachable": True,
        "error": None,
        "serial": 1,
    }
    session.lose("attic")
    assert "attic does not have this store's marker" in laptop.run(SWARM, fails=True)
    attic = laptop.list_stores(fails=True)["attic"]
    assert attic["reachable"] is False
    assert "marker" in attic["error"]


def test_a_dry_run_does_nothing(session: Session, laptop: Repository) -> None:
    before = laptop.list_stores()
    for change in (f"add box=dir:{session.store('box')}", "remove cloud", "set usb --cost 5 --zone home"):
        said = laptop.run(f"{SWARM} {change} --dry-run")
        assert "would be done: " in said
        assert "(roster 2)" in said
    said = laptop.run(f"{SWARM} set usb --address dir:{session.store('box')} --empty --dry-run")
    assert "would be done: " in said
    assert laptop.list_stores() == before
    assert not session.store("box").exists()


def test_numbers_are_given_out_once(session: Session, laptop: Repository) -> None:
    assert "added box, share 5 (roster 2)" in add(session, laptop, "box")
    assert "removed box" in laptop.run(f"{SWARM} remove box --gone")
    assert "added crate, share 6 (roster 4)" in add(session, laptop, "crate", "--cost 7 --zone cellar")
    said = laptop.run(f"{SWARM} add box=dir:{session.store('other')}", fails=True)
    assert "the name box is taken in this grid, now or in its past" in said
    assert not session.store("other").exists()
    listed = laptop.list_stores()
    assert (listed["box"]["state"], listed["box"]["shares"], listed["box"]["reachable"]) == ("gone", [5], False)
    assert (listed["crate"]["shares"], listed["crate"]["cost"], listed["crate"]["zone"]) == ([6], 7, "cellar")
    said = laptop.run(f"{SWARM} add 'twice*2=dir:{session.store('twice')}'")
    assert "added twice, share 7 8" in said

    # New uploads use what there is, and nothing of what was removed.
    laptop.add(film=10_000)
    laptop.run("git annex copy film --to vault")
    assert len(session.shares("usb", "nas", "attic", "friend", "cloud", "crate", "twice")) == 5
    assert session.shares("box") == []


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (
            "remove nothing",
            "there is no store nothing in this grid; its stores are usb, nas, attic, friend, cloud",
        ),
        ("add usb=dir:/tmp/never-made", "the name usb is taken in this grid"),
        ("add box=dir:{usb}", "dir:{usb} is already the store usb"),
        ("add box=dir:relative", "the path of a directory store is absolute"),
        ("add 'box=dir:/a b=dir:/b'", "is not one store: add them one by one"),
        ("add box", "'box' is not NAME=ADDRESS"),
        ("add box=dir:/proc/box", "box=dir:/proc/box cannot be used"),
        ("set usb", "nothing to change: give --address, --cost, --zone, --limit"),
        ("set usb --address dir:{nas}", "dir:{nas} is already the store nas"),
        ("set nothing --cost 1", "there is no store nothing in this grid"),
        ("set usb --cost -1", "-1"),
    ],
)
def test_what_cannot_be(session: Session, laptop: Repository, command: str, sentence: str) -> None:
    places = {name: str(session.store(name)) for name in ("usb", "nas")}
    said = laptop.run(f"{SWARM} {command.format(**places)}", fails=True)
    assert sentence.format(**places) in said.plain, str(said)
    assert "Traceback" not in said
    assert laptop.list_stores()["usb"]["serial"] == 1


def test_happy_bounds_removal(session: Session, laptop: Repository) -> None:
    laptop.run(f"{SWARM} remove cloud")
    said = laptop.run(f"{SWARM} remove friend", fails=True)
    assert (
        "without friend the grid can keep 3 shares of an object, and an upload takes 4 (happy) to succeed"
        in said.plain
    )
    assert "cloud is retired already" in laptop.run(f"{SWARM} remove cloud", fails=True)
    laptop.add(film=10_000)
    laptop.run("git annex copy film --to vault")
    assert len(session.shares()) == 4


def test_a_retired_store_is_read_and_a_gone_one_is_not(session: Session, laptop: Repository) -> None:
    contents = laptop.add(old=200_000)
    laptop.run("git annex copy old --to vault")
    add(session, laptop, "box")
    assert "those that it keeps are still read" in laptop.run(f"{SWARM} remove usb").plain
    contents |= laptop.add(new=200_000)
    laptop.run("git annex copy new --to vault")
    assert len(session.shares("usb")) == 1
    assert len(session.shares("box")) == 1
    laptop.run("git annex drop .")
    session.unplug("nas", "cloud")
    laptop.run("git annex get old")
    laptop.run("git annex get new")
    assert {name: laptop.read(name) for name in contents} == contents
    assert "usb(0)" in laptop.run("git annex whereis old")

    laptop.run(f"{SWARM} remove usb --gone")
    assert "usb(0)" not in laptop.run("git annex whereis old")
    laptop.run("git annex drop --force old")
    assert "3 are needed" in laptop.run("git annex get old", fails=True)
    session.plug("nas", "cloud")
    laptop.run("git annex get old")
    laptop.run("git annex drop old --from vault")
    assert len(session.shares("usb")) == 1  # nobody asks it any more

    laptop.run(f"{SWARM} remove nas --gone")
    add(session, laptop, "crate")
    said = laptop.run(f"{SWARM} remove attic --gone", fails=True)
    assert "with attic, 3 share numbers are gone, and 3-of-5 (happy 4) objects bear the loss of 2" in said.plain
    laptop.run(f"{SWARM} remove attic --gone --force")


def test_a_change_takes_most_of_the_stores(session: Session, laptop: Repository) -> None:
    session.unplug("usb", "nas", "attic")
    said = laptop.run(f"{SWARM} add box=dir:{session.store('box')}", fails=True)
    assert "where more than half of them take the new one, and 3 of 5 cannot" in said.plain
    assert laptop.list_stores(fails=True)["cloud"]["serial"] == 1
    assert not session.store("box").exists()
    assert "added box" in laptop.run(f"{SWARM} add box=dir:{session.store('box')} --force")
    session.plug("usb", "nas", "attic")
    laptop.list_stores()
    assert current(session, laptop.capability(), "usb").serial == 2


def test_another_clone_learns_by_itself(session: Session, laptop: Repository) -> None:
    desktop = session.clone(laptop, "desktop")
    desktop.enableremote(env={"SWARM_CAPABILITY": laptop.capability()})
    laptop.run(f"{SWARM} remove usb")
    add(session, laptop, "box")
    add(session, laptop, "crate")
    laptop.run(f"{SWARM} remove nas")
    content = laptop.add(film=500_000)["film"]
    laptop.run("git annex copy film --to vault")
    laptop.run("git annex drop film")
    assert len(session.shares("box", "crate", "attic", "friend", "cloud")) == 5

    desktop.run("git pull --quiet origin main")
    desktop.run("git fetch --quiet origin")
    session.lose("attic", "cloud")
    # Without the two new stores only one share could be found.
    desktop.run("git annex get film --from vault")
    assert desktop.read("film") == content
    assert desktop.list_stores(fails=True)["crate"]["shares"] == [6]
    assert desktop.list_stores(fails=True)["usb"]["state"] == "retired"
    # What it has heard it keeps, even when all the stores that it began with are gone.
    shutil.rmtree(session.store("friend"))
    assert desktop.list_stores(fails=True)["box"]["reachable"] is True


def test_a_forged_roster_is_refused_and_reported(session: Session, laptop: Repository) -> None:
    """Who has a store, and even the verify capability, can put files there; signing takes the full one."""
    add(session, laptop, "box")
    full = Capability.parse(laptop.capability())
    true = current(session, laptop.capability())
    evil = true.with_added(FirstStore("evil", f"dir:{session.folder}/evil", 1))

    forger = Capability.generate()
    unsealed = seal_roster(evil, forger)
    forger.__dict__["verify_key"] = full.verify_key  # sealed so that it opens, signed by another
    unsigned = seal_roster(evil, forger)
    grid = true.grid
    old = session.store("nas") / roster_name(grid, 1)
    forgeries = {
        "garbage": b"\0" * 300,
        "nothing": b"",
        "of another grid": unsealed,
        "signed by another": unsigned,
        "an old one under a new name": old.read_bytes(),
    }
    forged = session.store("nas") / roster_name(grid, 3)
    for kind, data in forgeries.items():
        forged.write_bytes(data)
        said = laptop.run(SWARM)
        assert "nas: a roster is refused: " in said.err, kind
        assert "roster 2;" in said.out
        assert "evil" not in said
    # Nor is it taken where there is nothing better, and the store gets the true one.
    for path in session.store("nas").glob(f"{grid[:2]}/{grid}.r[12]"):
        path.unlink()
    forged.write_bytes(unsigned)
    said = laptop.run(SWARM)
    assert "nas: a roster is refused: " in said.err
    assert "roster 2;" in said.out
    assert serials(session, grid, "nas") == [2, 3]
    content = laptop.add(film=1000)["film"]
    laptop.run("git annex move film --to vault")
    laptop.run("git annex get film")
    assert laptop.read("film") == content
    assert not (session.folder / "evil").exists()


def test_a_store_that_missed_a_change_is_brought_up_to_date(session: Session, laptop: Repository) -> None:
    grid = current(session, laptop.capability()).grid
    session.unplug("attic")
    changed = add(session, laptop, "box")
    assert "added box, share 5 (roster 2)" in changed
    assert "attic: does not have the new roster yet: " in changed
    add(session, laptop, "crate")
    session.plug("attic")
    assert serials(session, grid, "attic") == [1]
    said = laptop.run(SWARM)
    assert "attic: had roster 1, the newest is 3" in said.err
    assert current(session, laptop.capability(), "attic").serial == 3
    assert current(session, laptop.capability(), "crate").serial == 3
    assert laptop.run(SWARM).err == ""


def test_a_mount_point_without_its_disk_is_not_written_to(session: Session, laptop: Repository) -> None:
    contents = laptop.add(film=100_000)
    laptop.run("git annex copy film --to vault")
    disk = session.folder / "disk"
    session.store("usb").rename(disk)
    session.store("usb").mkdir()
    contents |= laptop.add(note=1000)
    said = laptop.run("git annex copy note --to vault")
    assert "usb: share 0 was not stored: " in said
    assert "is its disk mounted?" in said
    laptop.run(f"{SWARM} set nas --zone home")
    laptop.run("git annex drop film --from vault")
    assert list(session.store("usb").iterdir()) == []

    # The disk is elsewhere now; or, this is the new disk for that store.
    laptop.run(f"{SWARM} set usb --address dir:{disk}")
    assert laptop.list_stores()["usb"]["reachable"] is True
    assert current(session, laptop.capability(), "disk").serial == 3
    said = laptop.run(f"{SWARM} set usb --address dir:{session.store('usb')}", fails=True)
    assert "does not have the marker of usb: move its files there first; or" in said.plain
    assert list(session.store("usb").iterdir()) == []
    laptop.run(f"{SWARM} set usb --address dir:{session.store('usb')} --empty")
    assert laptop.list_stores()["usb"]["reachable"] is True
    laptop.run("git annex copy film --to vault")
    assert len(session.shares("usb")) == 1
    laptop.run("git annex drop .")
    laptop.run("git annex get .")
    assert {name: laptop.read(name) for name in contents} == contents


def test_the_cheap_stores_are_read_first(session: Session, laptop: Repository) -> None:
    laptop.add(film=3_000_000)
    laptop.run("git annex copy film --to vault")
    laptop.run("git annex drop film")
    for name in ("usb", "nas"):
        laptop.run(f"{SWARM} set {name} --cost 500")
        # Blocks that nobody reads, nobody finds damaged.
        [share] = session.shares(name)
        data = bytearray(share.read_bytes())
        data[1000] ^= 1
        share.write_bytes(data)
    said = laptop.run("git annex get film")
    assert "damaged" not in said
    laptop.run("git annex drop film")
    for name in ("attic", "friend"):
        laptop.run(f"{SWARM} set {name} --cost 900")
    said = laptop.run("git annex get film")
    assert "usb: share 0: 1 of its blocks damaged" in said
    assert "nas: share 1: 1 of its blocks damaged" in said
