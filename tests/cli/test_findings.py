"""What was found out is told as it is: what is not known is neither healthy nor left over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from annex_remote.capability import Capability
from annex_remote.care.health import State
from annex_remote.care.ledger import Ledger
from annex_remote.care.plan import Census
from annex_remote.caring import Care
from annex_remote.cli.check import _status_json
from annex_remote.cli.findings import Tidings, print_check, print_json, summary_document
from annex_remote.errors import Unavailable
from annex_remote.grid import Grid
from annex_remote.model import Store
from tests.care.test_caring import KEYS, NAMES, World
from tests.fakes import Failing, in_thread
from tests.shares.builder import FULL


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def unplugged(store: Store) -> Store:
    return Failing(store, lambda: Unavailable("unplugged"))


def caring(world: World, keys: list[str] | None = None, capability: Capability = FULL) -> Care:
    """Return what takes care of stores as they are now, some of them unplugged."""
    grid = Grid(world.settings, FULL.verify_key, capability, opener=world.open)
    care = Care(grid, capability, ledger=Ledger(str(world.folder / "ledger"), world.date), date=world.date)
    if keys is not None:
        care.name_all(keys)
    return care


def found(care: Care) -> tuple[Tidings, Census]:
    census = in_thread(lambda: care.census(care.survey()))
    in_thread(lambda: care.name_incomplete(census))
    tidings = Tidings(care, "vault")
    tidings.take(census)
    return tidings, census


def told(capsys: pytest.CaptureFixture[str], tidings: Tidings, census: Census) -> str:
    """Return what a person is told, as one line."""
    print_check("vault", tidings.care, census, tidings, [], "")
    shown = capsys.readouterr()
    return " ".join(f"{shown.out} {shown.err}".split())


@pytest.mark.parametrize(("away", "status"), [(5, 3), (3, 3), (2, 0)])
def test_stores_that_may_have_objects_that_nobody_can_name(
    world: World, capsys: pytest.CaptureFixture[str], away: int, status: int
) -> None:
    for memory in world.memory.values():
        memory.contents.clear()
    world.broken = dict.fromkeys(NAMES[:away], unplugged)
    care = caring(world, capability=FULL.attenuate("verify"))
    tidings, census = found(care)
    assert (tidings.exit_status, dict(tidings.states)) == (status, {})
    said = (
        f"there may be more: {', '.join(NAMES[:away])} could have objects of which the other stores have nothing"
    )
    assert (said in told(capsys, tidings, census)) == bool(status)
    assert summary_document(tidings)["others_possible"] == bool(status)
    print_json(care, census, tidings, [], "")
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["exit_status"], summary["others_possible"]) == (status, bool(status))
    _status_json(care, census, tidings, {}, {}, {})
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["exit_status"], summary["others_possible"]) == (status, bool(status))


def test_where_names_are_known_each_object_tells_it(world: World) -> None:
    world.broken = dict.fromkeys(NAMES, unplugged)
    tidings, _ = found(caring(world, KEYS))
    assert (tidings.exit_status, tidings.others_possible) == (3, False)
    assert tidings.states == {State.UNKNOWN: len(KEYS)}
