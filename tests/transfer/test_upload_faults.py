"""Whatever happens to the stores: an upload that ends well can be read, and one that does not says so."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annex_remote.errors import Busy, Denied, Full, SwarmError, Unavailable
from annex_remote.model import Store
from annex_remote.shares.layout import SEGMENT_SIZE
from annex_remote.transfer.gate import Gate
from annex_remote.transfer.sites import Site
from tests.fakes import Failing, FakeClock, Filling, Flaky, Resuming, Run, Slow
from tests.shares.builder import content
from tests.transfer.rig import WORM, Rig
from tests.transfer.test_upload import assert_sound

SIZES = [0, 1, 5000, SEGMENT_SIZE, SEGMENT_SIZE + 1, 3 * SEGMENT_SIZE - 7]
ERRORS: list[Callable[[], Exception]] = [
    lambda: Unavailable("gone"),
    lambda: Denied("not allowed"),
    lambda: Full("no room"),
    lambda: Busy("later"),
    lambda: OSError(5, "not translated"),
]


def trouble(chance: random.Random, size: int) -> Callable[[Store], Store]:
    """Return what goes wrong with a store."""
    error, after = chance.choice(ERRORS), chance.choice([0, 1, size // 3, size // 2])
    slept = threading.Event()
    slept.set()
    kinds: list[Callable[[Store], Store]] = [
        lambda store: Failing(store, error, ["put"], after=after),
        lambda store: Failing(store, error),
        lambda store: Failing(store, error, ["read", "stat"]),
        lambda store: Failing(store, error, ["space"]),
        lambda store: Flaky(store, error, 1, ["put"], after=after),
        lambda store: Filling(store, after),
        lambda store: Resuming(store, after, after // 2),
        lambda store: Slow(store, slept, ["put"], after=after, clock=FakeClock(), step=1.0),
    ]
    return chance.choice(kinds)


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(SIZES), st.booleans())
def test_what_is_said_to_be_stored_is_stored(
    tmp_path_factory: pytest.TempPathFactory, chance: random.Random, size: int, fixed: bool
) -> None:
    folder: Path = tmp_path_factory.getbasetemp()
    total = chance.randint(1, 5)
    needed = chance.randint(1, total)
    rig = Rig.of(folder, needed, chance.randint(needed, total), total, sites=total + chance.randint(0, 3))
    rig.key = rig.key if fixed else WORM
    for number in range(len(rig.stores)):
        if chance.random() < 0.4:
            rig.break_store(number, trouble(chance, size))
    stores = chance.choice([len(rig.stores), 2])
    gates = [Gate(chance.choice([1, 2, 8])) for _ in range(stores)]
    upload = rig.upload(rig.source(content(size), f"source{size}"))
    upload.sites = [
        Site(site.number, f"store{site.number % stores}", site.store, gate=gates[site.number % stores])
        for site in rig.sites
    ]
    try:
        Run(upload.run).join()
    except SwarmError:
        assert_sound(rig)
    else:
        assert_sound(rig)
        assert len(rig.held) >= rig.coding.happy
        assert rig.readable() == content(size)
        assert rig.progress[-1] == size
    assert rig.progress == sorted(rig.progress)
    for gate in gates:
        for _ in range(gate.limit):  # nobody is left inside
            Run(gate.enter).join()
