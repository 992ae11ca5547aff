"""How a download went, and how the next one will go, with git-annex."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.sessions.session import STORES, Output, Repository, Session

MIB = 1 << 20


@pytest.fixture
def stored(laptop: Repository) -> Repository:
    """`laptop` with a file `film` that is on `vault` and nowhere else."""
    laptop.add(film=5 * MIB + 7, note=3)
    laptop.run("git annex move --quiet --to vault .")
    return laptop


def traced(repository: Repository, arguments: str = "", *, fails: bool = False) -> Output:
    said = repository.run(f"git-annex-remote-swarm trace vault {arguments}", fails=fails)
    assert "\x1b" not in said
    assert "Traceback" not in said
    return said


def records(repository: Repository) -> Iterator[Path]:
    return (repository.path / ".git/annex/swarm").glob("*.trace")


def test_the_last_download_is_shown_from_its_record(stored: Repository) -> None:
    said = traced(stored, fails=True)
    assert "no download is recorded in this clone yet" in said.err
    stored.run("git annex get --quiet film")
    said = traced(stored)
    assert stored.key("film") in said.out
    assert "3 shares needed; done" in said.out
    assert [line.split()[0] for line in said.out.splitlines()[4:9] if line.split()[0] in STORES]
    [record] = records(stored)
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    [document] = traced(stored, "--last --json").json
    assert (document["key"], document["size"], document["outcome"]) == (stored.key("film"), 5 * MIB + 7, "done")


def test_a_file_or_key_is_fetched_into_nowhere(session: Session, stored: Repository) -> None:
    session.lose("nas")
    picture = session.folder / "film.svg"
    said = traced(stored, f"film --svg {picture}")
    assert "5.24 MB from" in said.out
    assert "nas did not show share 1" in said.out
    assert ElementTree.parse(picture).getroot().get("width") == "1000"
    assert not stored.has("film")
    assert list((stored.path / ".git/annex/tmp").iterdir()) == []
    [document] = traced(stored, f"{stored.key('note')} --json").json
    assert (document["size"], document["outcome"]) == (3, "done")
    assert traced(stored).out.splitlines()[0] == stored.key("note")


def test_a_download_that_fails_is_shown_all_the_same(session: Session, stored: Repository) -> None:
    session.lose("nas", "usb", "attic")
    said = traced(stored, "film", fails=True)
    assert "3 are needed" in said.err
    assert "usb did not show share 0" in said.out
    assert list((stored.path / ".git/annex/tmp").iterdir()) == []
    stored.run("git annex get --quiet film", fails=True)
    [document] = traced(stored, "--json").json
    assert "3 are needed" in document["outcome"]


@pytest.mark.parametrize("word", ["nosuch", "plain", "/etc/passwd"])
def test_what_is_not_annexed_is_said(laptop: Repository, word: str) -> None:
    (laptop.path / "plain").write_text("in git")
    laptop.run("git -c annex.largefiles=nothing add plain")
    said = traced(laptop, word, fails=True)
    assert said.err.startswith(f"git-annex-remote-swarm: {word} is neither an annexed file of this repository nor")


def test_a_record_that_is_damaged_hinders_nothing(stored: Repository) -> None:
    stored.run("git annex get --quiet film")
    [record] = records(stored)
    record.write_text("{}")
    assert "cannot be read" in traced(stored, fails=True).err
    stored.run("git annex drop --quiet film")
    record.unlink()
    record.mkdir()
    stored.run("git annex get --quiet film")
    assert stored.has("film")


def test_figures_are_kept_for_the_machine_and_hinder_nothing(session: Session, stored: Repository) -> None:
    state = session.home / ".local/state/git-annex-remote-swarm/figures"
    stored.run("git annex get --quiet film")
    [figures] = state.iterdir()
    assert stat.S_IMODE(figures.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    kept = figures.read_text()
    assert all(f'"{store}"' in kept for store in STORES[:3])
    assert str(session.folder) not in kept
    figures.write_bytes(os.urandom(100))
    stored.run("git annex drop --quiet film")
    stored.run("git annex get --quiet film")
    assert figures.read_text().startswith('{"stores"')
    figures.unlink()
    state.rmdir()
    state.write_text("in the way")
    stored.run("git annex drop --quiet film")
    stored.run("git annex get --quiet film")
    assert stored.has("film")


def test_speedtest_measures_and_leaves_nothing(session: Session, laptop: Repository) -> None:
    laptop.run("git config remote.vault.swarm-download-limit 100MiB/s")
    before = sorted(session.folder.glob("*/??/*"))
    said = laptop.run("git-annex-remote-swarm speedtest vault --size 1")
    rows = [line.split()[0] for line in said.out.splitlines()]
    assert rows[:6] == ["STORE", *STORES]
    assert "all stores together: download-limit 100MiB/s" in said.out
    assert "get: " in said.out
    assert "until 4 (happy) shares are stored" in said.out
    assert "\x1b" not in said
    assert sorted(session.folder.glob("*/??/*")) == before
    laptop.run("git config remote.vault.swarm-download-limit none")
    *stores, last = laptop.run("git-annex-remote-swarm speedtest vault nas usb --size 1 --json").json
    assert [(store["store"], store["ok"]) for store in stores] == [("nas", True), ("usb", True)]
    assert all(store[figure] > 0 for store in stores for figure in ("latency", "down", "up", "free"))
    assert last["outlook"]["get"] > 0


def test_speedtest_says_what_failed(session: Session, laptop: Repository) -> None:
    session.unplug("nas")
    said = laptop.run("git-annex-remote-swarm speedtest vault --size 1", fails=True)
    assert said.status == 1
    assert "nas: write: " in said.err
    assert "get: " in said.out
    assert "not known: nas" in said.out
    said = laptop.run("git-annex-remote-swarm speedtest vault nosuch", fails=True)
    assert "nosuch" in said.err


def test_no_secret_is_in_what_is_kept_or_shown(session: Session, stored: Repository) -> None:
    stored.run("git annex get --quiet film")
    secret = stored.capability().partition("full-")[2][:40]
    shown = [
        str(traced(stored)),
        str(traced(stored, "--json")),
        str(stored.run("git-annex-remote-swarm speedtest vault")),
    ]
    kept = [
        path.read_text()
        for path in [*records(stored), *(session.home / ".local/state").rglob("*.*")]
        if path.is_file()
    ]
    assert len(kept) >= 2
    assert not any(secret in text for text in [*shown, *kept])
