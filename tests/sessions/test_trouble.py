"""Stores that are damaged or away: what still works, and what is said about the rest."""

from __future__ import annotations

import os
import re

from tests.sessions.session import Repository, Session, flip, wait_for


def test_damaged_blocks_are_read_around_and_named(session: Session, laptop: Repository) -> None:
    contents = laptop.add(film=9_000_000, note=100)
    laptop.run("git annex copy --to vault .")
    laptop.run("git annex drop .")
    block = (1 << 20) // 3
    for share in session.shares("nas"):
        flip(share, every=2 * block, at=0)
    said = laptop.run("git annex get film")
    assert laptop.read("film") == contents["film"]
    # As many as were asked of it: the other stores bring some of the blocks.
    assert re.search(r"a repair of its shares is due: nas: share 1: [1-5] of its blocks damaged", said.plain)
    assert "usb:" not in said
    laptop.run("git annex get note")  # of a small file no more shares are read than it takes
    laptop.run("git annex fsck --from vault")
    assert {name: laptop.read(name) for name in contents} == contents


def test_shares_that_are_cut_short_or_overwritten(session: Session, laptop: Repository) -> None:
    content = laptop.add(film=2_000_000)["film"]
    laptop.run("git annex copy --to vault .")
    laptop.run("git annex drop .")
    [cut], [zeroed] = session.shares("usb"), session.shares("attic")
    cut.write_bytes(cut.read_bytes()[:-1000])
    zeroed.write_bytes(bytes(zeroed.stat().st_size))
    said = laptop.run("git annex get film")
    assert laptop.read("film") == content
    assert "usb: share 0 is damaged: " in said
    assert "attic: share 2 is damaged: " in said

    [third] = session.shares("cloud")
    third.write_bytes(b"")
    laptop.run("git annex drop film --force")
    said = laptop.run("git annex get film", fails=True)
    assert "3 are needed" in said.plain
    for name in ("usb: share 0", "attic: share 2", "cloud: share 4"):
        assert f"{name} is damaged: " in said.plain
    # Three that do not prove could be the object: nothing is claimed, either way.
    assert laptop.is_present("film") is None
    said = laptop.run("git annex fsck film --from vault --fast", fails=True)
    assert "3 are needed, and these stores may have more" in said.plain
    assert "vault" in laptop.run("git annex whereis film")


def test_a_share_of_another_object_is_not_taken_for_this_one(session: Session, laptop: Repository) -> None:
    contents = laptop.add(one=40_000, two=40_000)
    laptop.run("git annex copy --to vault .")
    laptop.run("git annex drop .")
    for name in ("usb", "nas"):
        first, second = session.shares(name)
        data = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(data)
    laptop.run("git annex get .")
    assert {name: laptop.read(name) for name in contents} == contents


def test_a_damaged_share_is_replaced_by_the_next_upload(session: Session, laptop: Repository) -> None:
    content = laptop.add(film=100_000)["film"]
    laptop.run("git annex copy film --to vault")
    for name in ("usb", "nas", "attic"):
        session.shares(name)[0].unlink()
    [damaged], [good] = session.shares("friend"), session.shares("cloud")
    damaged.write_bytes(b"rust")
    kept = good.stat().st_ino
    laptop.run("git annex fsck film --from vault --fast", fails=True)
    laptop.run("git annex copy film --to vault")
    assert len(session.shares()) == 5
    assert good.stat().st_ino == kept
    session.lose("usb", "cloud")
    laptop.run("git annex drop film")
    laptop.run("git annex get film")
    assert laptop.read("film") == content


def test_removal_with_stores_away(session: Session, laptop: Repository) -> None:
    laptop.add(film=100_000, note=10)
    laptop.run("git annex copy --to vault .")
    session.unplug("attic")
    said = laptop.run("git annex drop film --from vault")
    assert "removed, but not everywhere: attic: share 2 may remain, to be collected later" in said.plain
    session.plug("attic")
    assert len(session.shares("attic")) == 2  # the note's, and what may remain
    assert laptop.is_present("film") is False

    session.unplug("attic", "friend", "cloud")
    said = laptop.run("git annex drop note --from vault", fails=True)
    assert "3 rebuild the object" in said.plain
    for name in ("attic", "friend", "cloud"):
        assert f"{name}: {session.store(name)} does not have this store's marker" in said.plain
    assert "vault" in laptop.run("git annex whereis note")
    session.plug("attic", "friend", "cloud")
    laptop.run("git annex drop note --from vault")
    assert "vault" not in laptop.run("git annex whereis note")


def test_presence_is_unknown_while_too_many_stores_are_away(session: Session, laptop: Repository) -> None:
    laptop.add(film=100_000)
    laptop.run("git annex copy film --to vault")
    session.unplug("usb", "nas")
    assert laptop.is_present("film") is True
    session.unplug("attic")
    said = laptop.attempt(f"git annex checkpresentkey {laptop.key('film')} vault")
    assert said.status == 100
    assert "3 are needed, and these stores may have more: usb: " in said.plain
    for name in ("usb", "nas", "attic"):
        assert f"{name}: {session.store(name)}" in said.plain
    for name in ("friend", "cloud"):
        assert str(session.store(name)) not in said
    # In doubt nothing is dropped, and nothing is forgotten.
    said = laptop.run("git annex drop film", fails=True)
    assert laptop.has("film")
    laptop.run("git annex fsck film --from vault --fast", fails=True)
    assert "vault" in laptop.run("git annex whereis film")
    session.plug("usb", "nas", "attic")
    laptop.run("git annex drop film")


def test_a_store_that_never_answers_holds_nothing_up(session: Session, laptop: Repository) -> None:
    """Reading a named pipe that nobody writes to waits for ever, as an unplugged network disk does."""
    content = laptop.add(film=2_000_000)["film"]
    laptop.run("git annex copy film --to vault")
    laptop.run("git annex drop film")
    laptop.run("git annex enableremote vault stall=2")
    [hanging] = session.shares("usb")
    hanging.unlink()
    os.mkfifo(hanging)
    said = laptop.run("git annex get film")
    assert laptop.read("film") == content
    assert "usb: " in said
    wait_for(lambda: not session.processes(), "the end of all processes", 2)
    assert laptop.is_present("film") is True
    laptop.run("git annex drop film")
    laptop.run("git annex get film")
    laptop.run("git annex drop film --from vault")


def test_a_grid_that_is_away_is_passed_over(session: Session, laptop: Repository) -> None:
    laptop.add(film=100_000)
    session.unplug("usb", "nas", "attic")
    info = laptop.run("git annex info vault")
    assert "available: false" in info
    assert "usb does not have this store's marker" in info
    laptop.run("git annex wanted vault anything")
    said = laptop.run("git annex sync --content")
    assert "vault" not in said
    assert session.shares("friend", "cloud") == []
    session.plug("usb", "nas", "attic")
    assert "available: true" in laptop.run("git annex info vault")
    said = laptop.run("git annex sync --content")
    assert "to vault" in said
    assert len(session.shares()) == 5
