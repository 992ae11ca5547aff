"""Trying a store: what is well, what fails, and that nothing is left behind."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import pytest

from annex_remote.errors import Denied, SwarmError, Unavailable
from annex_remote.model import Store
from annex_remote.trial import STEPS, Trial, try_store
from tests.fakes import Corrupting, Failing, FakeClock, Lying, MemoryStore, Slow, wait_for

SIZE = 300_000


def trial_of(wrap: Callable[[Store], Store], memory: MemoryStore | None = None) -> Trial:
    memory = memory or MemoryStore()
    trial = try_store(lambda: wrap(memory), SIZE)
    json.dumps(trial.as_json())
    return trial


def same(store: Store) -> Store:
    return store


def test_a_store_that_is_well_passes_and_nothing_stays() -> None:
    memory = MemoryStore()
    memory.contents["ab/ab" + "2" * 30 + ".0"] = b"a share"
    trial = trial_of(same, memory)
    assert trial.passed
    assert trial.done == list(STEPS)
    assert list(memory.contents.values()) == [b"a share"]
    assert trial.latency is not None
    assert trial.notes == ["it does not tell how much space is free"]
    assert set(trial.as_json()["steps"].values()) == {"ok"}


@pytest.mark.parametrize("step", ["look", "read", "list", "delete", "space"])
def test_what_fails_is_told_and_the_rest_is_tried(step: str) -> None:
    verb = {"look": "stat"}.get(step, step)
    trial = trial_of(lambda store: Failing(store, lambda: Unavailable("away"), [verb]))
    assert trial.errors[step] == "away"
    assert not trial.passed
    assert len(trial.done) + len(trial.errors) == len(STEPS)
    assert "write" in trial.done
    assert "list" in {*trial.done, *trial.errors}


def test_a_store_that_cannot_be_written_is_still_listed() -> None:
    trial = trial_of(lambda store: Failing(store, lambda: Denied("read only"), ["put"]))
    assert trial.errors == {"write": "read only"}
    assert trial.done == ["list", "space"]
    assert trial.notes[0].startswith("it can be read at most")


def test_damage_is_a_failure_and_says_so() -> None:
    trial = trial_of(lambda store: Corrupting(store, [SIZE // 2]))
    assert set(trial.errors) == {"read", "range"}
    assert "differently" in trial.errors["read"]
    assert trial_of(lambda store: Corrupting(store, [-1])).errors.keys() == {"read", "tail"}


def test_a_store_that_forgets_what_it_took_is_found_out() -> None:
    class Forgetting(Lying):
        def put(self, name: str, size: int, open_at: object, *, fresh: bool = False) -> None:
            """Takes nothing."""

    trial = trial_of(Forgetting)
    assert {"read", "look"} & set(trial.errors)


def test_a_store_that_cannot_be_opened_is_a_failed_trial() -> None:
    def opened() -> Store:
        raise Unavailable("no such place")

    trial = try_store(opened, SIZE)
    assert trial.errors == {"write": "no such place"}


def test_the_rates_are_what_the_clock_says() -> None:
    clock = FakeClock()
    memory = MemoryStore(piece=SIZE)
    release = threading.Event()
    release.set()
    store = Slow(memory, release, ["put", "stat"], clock=clock, step=2.0)
    trial = try_store(lambda: store, SIZE, clock)
    assert trial.latency == 2.0
    assert trial.up == pytest.approx(SIZE / 2.0)
    wait_for(store.reached)


def test_a_programming_error_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        trial_of(lambda store: Failing(store, lambda: ZeroDivisionError("a bug"), ["stat"]))
    assert issubclass(Unavailable, SwarmError)
