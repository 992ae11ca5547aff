"""Trying a store: everything that a grid asks of one, with something small that is removed again."""

from __future__ import annotations

import os
import secrets
import time
from base64 import b32encode
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from annex_remote.errors import Damaged, Denied, SwarmError
from annex_remote.model import Store
from annex_remote.stores.wrappers import Measured

__all__ = ["STEPS", "Trial", "try_store"]

STEPS = ("write", "look", "read", "range", "tail", "list", "delete", "space")
"""What is tried, in this order. After a failure of writing only what needs nothing written is tried."""

_PIECE = 256 << 10
Clock = Callable[[], float]

LOOKS = 3
"""Looks of which the fastest is taken for the latency: the first one may open a connection."""


@dataclass
class Trial:
    """What came of it. Latency in seconds, rates in bytes a second, free space in bytes; None where not known."""

    done: list[str] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    latency: float | None = None
    up: float | None = None
    down: float | None = None
    free: int | None = None

    @property
    def passed(self) -> bool:
        """True if nothing failed."""
        return not self.errors

    def as_json(self) -> dict[str, Any]:
        """Return the members of a JSON object that tells all of it."""
        return {
            "ok": self.passed,
            "steps": {step: "ok" if step in self.done else self.errors.get(step) for step in STEPS},
            "latency": self.latency,
            "up": self.up,
            "down": self.down,
            "free": self.free,
            "notes": self.notes,
        }

    @classmethod
    def failed(cls, error: str) -> Trial:
        """Return the trial of a store that could not even be opened, or did not come to an end."""
        return cls(errors={STEPS[0]: error})


def try_store(opened: Callable[[], Store], size: int, clock: Clock = time.monotonic) -> Trial:
    """Try a store with `size` bytes of noise; never raises for what the store does.

    What was written is deleted again, and can be told from every share by its name.
    """
    trial = Trial()
    try:
        attempt = _Attempt(opened(), os.urandom(size), trial, clock)
    except SwarmError as error:
        return Trial.failed(str(error))
    for step in STEPS:
        if "write" in trial.errors and step not in ("list", "space"):
            continue
        try:
            getattr(attempt, step)()
            trial.done.append(step)
        except SwarmError as error:
            trial.errors[step] = str(error)
            if step == "write" and isinstance(error, Denied) and not error.wants_login:
                trial.notes.append("it can be read at most: new shares do not go there")
    if trial.free is None and "space" in trial.done:
        trial.notes.append("it does not tell how much space is free")
    return trial


class _Attempt:
    """One method for each of `STEPS`; what is seen goes into the trial, what is wrong is raised."""

    def __init__(self, store: Store, data: bytes, trial: Trial, clock: Clock) -> None:
        self._store = Measured(store, clock)
        self._data = data
        self._trial = trial
        self._clock = clock
        identity = b32encode(secrets.token_bytes(20)).decode().lower()
        self._name = f"{identity[:2]}/{identity}.test"

    def write(self) -> None:
        data = memoryview(self._data)
        self._store.put(
            self._name, len(data), lambda at: (data[i : i + _PIECE] for i in range(at, len(data), _PIECE))
        )
        self._trial.up = self._store.rates.up

    def look(self) -> None:
        took = []
        for _ in range(LOOKS):
            began = self._clock()
            if self._store.stat(self._name) != len(self._data):
                raise Damaged("it does not show what was just written, or not all of it")
            took.append(self._clock() - began)
        self._trial.latency = min(took)

    def read(self) -> None:
        self._compare(0, None)
        self._trial.down = self._store.rates.down

    def range(self) -> None:
        third = len(self._data) // 3
        self._compare(third, third)

    def tail(self) -> None:
        self._compare(len(self._data) - len(self._data) // 5, None)

    def _compare(self, start: int, length: int | None) -> None:
        with self._store.read(self._name, start, length) as stream:
            if b"".join(stream) != self._data[start:][:length] or stream.size != len(self._data):
                raise Damaged("what was written reads back differently")

    def list(self) -> None:
        found = dict(self._store.list(self._name[:5]))
        if "write" in self._trial.done and found.get(self._name) != len(self._data):
            raise Damaged("its list does not have what was just written")

    def delete(self) -> None:
        self._store.delete(self._name)
        if self._store.stat(self._name) is not None:
            raise Damaged("what was deleted is still there")

    def space(self) -> None:
        self._trial.free = self._store.space()
