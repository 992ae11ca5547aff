"""What was found out is told as it is: what is not known is neither healthy nor left over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from annex_remote.capability import Capability
from annex_remote.care.health import State
from annex_remote.care.ledger import Ledger
from annex_remote.care.plan import Census
from annex_remote.caring import Care, Sample
from annex_remote.cli.check import _status_json, verify_shares
from annex_remote.cli.findings import Tidings, object_document, print_check, print_json, summary_document
from annex_remote.cli.keeping import Deadline
from annex_remote.errors import Unavailable
from annex_remote.grid import Grid
from annex_remote.model import Store
from tests.care.test_caring import IDS, KEYS, NAMES, SIZE, World
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
    in_thread(lambda: care.look_closer(census))
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


# What git-annex does not list, and of which too few shares are left.

PUSHED = f"GITBUNDLE-s{SIZE}--485a85e8-92de-44ee-befc-e4bb2f5a8b63-{'a' * 64}"
OTHER = f"WORM-s{SIZE}-m99--dropped"


class Rest(World):
    """A vault with two of the shares of one more object, of the key `extra`."""

    def __init__(self, folder: Path, extra: str) -> None:
        super().__init__(folder, [*KEYS, extra])
        self.extra = extra
        self.rest = self.built[extra]
        for number in (2, 3, 4):
            del self.memory[NAMES[number]].contents[self.name(number)]

    def name(self, number: int) -> str:
        return str(self.rest.name(number))


@pytest.fixture(params=[PUSHED, OTHER])
def rest(tmp_path: Path, request: pytest.FixtureRequest) -> Rest:
    return Rest(tmp_path, request.param)


def test_the_name_tells_what_is_left_over_and_what_is_lost(rest: Rest) -> None:
    tidings, _ = found(caring(rest, KEYS))
    if rest.extra == PUSHED:
        assert (tidings.exit_status, tidings.states[State.LOST], tidings.leftovers) == (2, 1, 0)
    else:
        assert (tidings.exit_status, tidings.states[State.LOST], tidings.leftovers) == (0, 0, 1)


@pytest.mark.parametrize("verb", ["read", "garbage"])
def test_a_name_that_cannot_be_read_is_not_left_over(
    rest: Rest, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    for number in (0, 1):
        if verb == "read":
            rest.broken[NAMES[number]] = lambda store: Failing(store, lambda: Unavailable("cut"), {"read"})
        else:
            name = rest.name(number)
            share = rest.memory[NAMES[number]].contents[name]
            rest.memory[NAMES[number]].contents[name] = bytes(len(share))
    tidings, census = found(caring(rest, KEYS))
    assert (tidings.exit_status, tidings.states[State.UNKNOWN], tidings.leftovers) == (3, 1, 0)
    assert "no share tells whether it is wanted" in told(capsys, tidings, census)
    print_json(tidings.care, census, tidings, [], "")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    [document] = [line for line in lines if line.get("object") == rest.rest.header.object_id]
    assert (document["state"], document["wanted"]) == ("unknown", False)


def test_a_stray_tells_the_name_as_well(rest: Rest) -> None:
    for number in (0, 1):
        share = rest.memory[NAMES[number]].contents.pop(rest.name(number))
        rest.memory[NAMES[number + 1]].contents[rest.name(number)] = share
    tidings, _ = found(caring(rest, KEYS))
    assert tidings.leftovers == (rest.extra == OTHER)


def test_what_proving_finds_is_no_leftover_either(rest: Rest) -> None:
    """All shares seem to be there until they are read."""
    for number, share in rest.rest.shares.items():
        rest.memory[NAMES[number]].contents[rest.name(number)] = bytes(len(share))
    care = caring(rest, KEYS)
    tidings, census = found(care)
    assert tidings.states == {State.HEALTHY: len(KEYS) + 1}
    in_thread(lambda: verify_shares(care, census, Sample(), Deadline(None), None, None, True))
    again = Tidings(care, "vault")
    again.take(census)
    assert (again.exit_status, again.states[State.UNKNOWN], again.leftovers) == (3, 1, 0)


# Shares that lie on another store than theirs.


def move(world: World, key: str, *numbers: int) -> None:
    """Have the next store keep the shares of an object."""
    for number in numbers:
        name = str(world.built[key].name(number))
        there = world.memory[NAMES[(number + 1) % 5]]
        there.contents[name] = world.memory[NAMES[number]].contents.pop(name)


@pytest.mark.parametrize(
    ("moved", "gone", "state"),
    [
        ([0, 1, 2, 3, 4], [], State.UNKNOWN),
        ([0, 1, 2], [3, 4], State.UNKNOWN),
        ([0], [3, 4], State.UNKNOWN),
        ([0], [2, 3, 4], State.LOST),
        ([0, 1], [], State.CRITICAL),
    ],
)
def test_what_lies_under_another_name_is_not_lost(
    world: World, capsys: pytest.CaptureFixture[str], moved: list[int], gone: list[int], state: State
) -> None:
    move(world, KEYS[0], *moved)
    for number in gone:
        del world.memory[NAMES[number]].contents[str(world.built[KEYS[0]].name(number))]
    tidings, census = found(caring(world, KEYS))
    assert tidings.states == {State.HEALTHY: len(KEYS) - 1, state: 1}
    said = told(capsys, tidings, census)
    assert ("under another name: recover reads" in said) == (state is not State.CRITICAL)


def test_what_lies_beside_is_for_repair_and_what_is_left_over_for_gc(
    rest: Rest, capsys: pytest.CaptureFixture[str]
) -> None:
    built = rest.built[KEYS[0]]
    for each in (built, rest.rest):
        rest.memory["d"].contents[str(each.name(0))] = each.shares[0]
    said = told(capsys, *found(caring(rest, KEYS)))
    assert "1 with shares where they do not belong as well: git-annex-remote-swarm repair vault" in said
    assert ("1 left over" in said) == ("gc vault" in said) == (rest.extra == OTHER)


def test_two_of_one_number_are_one(world: World) -> None:
    """And so is one that is where it belongs as well."""
    built = world.built[KEYS[0]]
    for number in (2, 3, 4):
        del world.memory[NAMES[number]].contents[str(built.name(number))]
    for store in "cde":
        world.memory[store].contents[str(built.name(0))] = built.shares[0]
    tidings, _ = found(caring(world, KEYS))
    assert tidings.states[State.LOST] == 1


def lost(world: World, key: str, but: int = 0) -> None:
    """Take the shares of a key from all stores but the first ones."""
    for name, number in list(zip("abcde", range(5), strict=True))[but:]:
        del world.memory[name].contents[str(world.built[key].name(number))]


@pytest.mark.parametrize(("trusts", "status"), [(False, 3), (True, 0)])
def test_what_only_a_torrent_has_is_not_lost(
    world: World, capsys: pytest.CaptureFixture[str], trusts: bool, status: int
) -> None:
    lost(world, KEYS[0])
    care = caring(world, KEYS)
    care.torrents_of = lambda keys: {KEYS[0]: "torrent big.iso (ab12)"} if KEYS[0] in keys else {}
    care.trusts_torrents = trusts
    tidings, census = found(care)
    assert tidings.exit_status == status
    assert tidings.states == {State.HEALTHY: len(KEYS) - 1, State.TORRENT: 1}
    in_thread(lambda: care.look_closer(census))  # once more, as after --verify
    assert census.verdict(IDS[0]).state is State.TORRENT
    said = told(capsys, tidings, census)
    assert "no share is stored; torrent big.iso (ab12)" in said
    assert f"{len(KEYS) - 1} healthy, 1 only in torrents" in said
    assert ("annex copy --to vault FILE" in said) is not trusts
    assert object_document(census, *tidings.troubled[0])["state"] == "torrent"


def test_what_had_shares_is_lost_whatever_torrents_there_are(world: World) -> None:
    """Shares that are too few tell that it was stored: it is not as it should be."""
    lost(world, KEYS[0], but=2)
    care = caring(world, KEYS)
    care.torrents_of = lambda keys: dict.fromkeys(keys, "torrent big.iso (ab12)")
    tidings, _ = found(care)
    assert tidings.states[State.LOST] == 1
    assert tidings.exit_status == 2


def test_silent_stores_may_have_what_a_torrent_has(world: World) -> None:
    lost(world, KEYS[0])
    for name in "abc":
        world.broken[name] = unplugged
    care = caring(world, KEYS)
    care.torrents_of = lambda keys: dict.fromkeys(keys, "torrent big.iso (ab12)")
    _, census = found(care)
    assert census.verdict(IDS[0]).state is State.UNKNOWN
