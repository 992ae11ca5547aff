"""Limits as users set them: of rates, and of what a store may keep."""

from __future__ import annotations

import shutil
import time

import pytest

from tests.sessions.session import PARAMETERS, Repository, Session, sizes_of

SWARM = "git-annex-remote-swarm stores vault"


@pytest.fixture
def slow(session: Session) -> Repository:
    """A repository whose remote takes 400 KiB a second."""
    slow = session.repository("slow")
    slow.initremote(parameters=f"{PARAMETERS} needed=3 upload-limit=400KiB/s")
    return slow


def test_an_upload_keeps_to_its_limit(session: Session, slow: Repository) -> None:
    content = slow.add(film=600_000)["film"]
    began = time.monotonic()
    slow.run("git annex copy --quiet --to vault film")
    stored = sizes_of(session.shares())
    assert time.monotonic() - began > 0.9 * (stored / (400 << 10) - 0.1)  # what else it takes comes to this
    slow.run("git annex drop --quiet film")
    slow.run("git annex get --quiet film")
    assert slow.read("film") == content


def test_a_limit_that_cannot_be(session: Session) -> None:
    laptop = session.repository("laptop")
    for wrong, words in (
        ("upload-limit=fast", "upload-limit: 'fast' is not bytes a second, such as 500KiB/s, 2M, 10MB/s; or none"),
        ("download-limit=100", "download-limit: 100 is less than 1KiB/s"),
        ("download-limit=8-18=1M", "download-limit: '8-18' is not a time of day from and to, such as 08:00-18:00"),
    ):
        said = laptop.run(f"git annex initremote vault {PARAMETERS} {wrong} {session.stores()}", fails=True)
        assert words in said.plain
    laptop.initremote(parameters=f"{PARAMETERS} download-limit=08:00-18:00=1MiB/s,20MiB/s")
    said = laptop.run("git annex enableremote vault upload-limit=fast", fails=True)
    assert "upload-limit: 'fast'" in said.plain
    laptop.run("git annex enableremote vault upload-limit=none download-limit=1GiB/s")
    laptop.add(film=1000)
    laptop.run("git annex copy --quiet --to vault film")


def test_a_store_that_fills_up_to_what_it_may_keep(session: Session, laptop: Repository) -> None:
    shed = session.store("shed")
    laptop.run(f"{SWARM} add shed=dir:{shed} --max-bytes 300KiB --limit 08:00-18:00=50M,100M --price 0.09")
    stores = laptop.list_stores()
    told = {"limit": "08:00-18:00=50MiB/s,100MiB/s", "max_bytes": 300 << 10, "price": 0.09, "connections": 8}
    assert {name: stores["shed"][name] for name in told} == told
    assert {stores["usb"][name] for name in ("limit", "max_bytes")} == {None}
    assert "300KiB at most; 0.09 a GiB" in laptop.run(SWARM).out
    for round_ in range(6):
        laptop.add(**{f"film{round_}": 300_000})
        laptop.run("git annex copy --quiet --to vault .")
        assert sizes_of([path for path in shed.glob("??/*") if path.suffix[1:].isdigit()]) <= 300 << 10
    assert session.shares("shed")
    assert len(session.shares()) + len(session.shares("shed")) == 6 * 5
    laptop.run(f"{SWARM} set shed --max-bytes none --limit none --price 0")
    assert laptop.list_stores()["shed"]["max_bytes"] is None


def test_a_store_that_is_full_is_named(session: Session, laptop: Repository) -> None:
    laptop.run(f"{SWARM} set usb --max-bytes 200KiB")
    laptop.add(film=300_000, more=900_000)
    laptop.run("git annex copy --quiet --to vault film")
    said = laptop.run("git annex copy --to vault more")
    assert "usb: share 0 was not stored" in said.plain
    assert "of the 204,800 bytes that may be kept there (max-bytes) are taken" in said.plain
    laptop.run("git annex drop --quiet --from vault film --force")
    laptop.add(small=300_000)
    assert "not stored" not in laptop.run("git annex copy --to vault small").plain


def test_what_git_config_says_goes_before(session: Session, slow: Repository) -> None:
    slow.add(film=600_000)
    limits = session.home / ".local/state/git-annex-remote-swarm/limits"
    shutil.rmtree(limits)  # what initremote wrote kept to the limit
    slow.run("git config remote.vault.swarm-upload-limit none")
    slow.run("git config remote.vault.swarm-connections-usb 2")
    slow.run("git config remote.vault.swarm-cost-nas 7")
    slow.run("git config remote.vault.swarm-max-bytes-attic 10KiB")
    said = slow.run("git annex copy --to vault film")
    assert "attic: share 2 was not stored" in said.plain
    assert not limits.exists()
    stores = slow.list_stores()
    assert (stores["usb"]["connections"], stores["nas"]["cost"], stores["attic"]["max_bytes"]) == (2, 7, 10240)
    slow.run("git config remote.vault.swarm-limit-usb slow")
    for command in ("git annex checkpresentkey SHA256--x vault", "git-annex-remote-swarm stores vault"):
        said = slow.run(command, fails=True)
        assert "remote.vault.swarm-limit-usb: 'slow' is not bytes a second" in said.plain
    slow.run("git annex add --quiet .")  # nothing that is not the remote's own is in trouble
    slow.run("git annex info --fast")


def test_what_the_command_line_does_not_take(laptop: Repository) -> None:
    for option, words in (
        ("--limit fast", "--limit: 'fast'"),
        ("--connections 65", "--connections=65"),
        ("--max-bytes much", "--max-bytes=much"),
        ("--price free", "--price=free"),
    ):
        said = laptop.attempt(f"{SWARM} set usb {option}")
        assert said.status == 2
        assert words in said.plain
    assert "nothing to change: give --address" in laptop.run(f"{SWARM} set usb", fails=True).plain
