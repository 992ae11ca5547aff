"""Years of failures, with the real planners and code: what is said is so, and nothing is lost needlessly."""

from __future__ import annotations

from pathlib import Path

import pytest

from annex_remote.care.health import State
from annex_remote.model import Coding
from tests.care.years import Chances, Years


@pytest.mark.parametrize("seed", range(3))
def test_years(tmp_path: Path, seed: int) -> None:
    years = Years(seed, tmp_path)
    for _ in years.run(200):
        pass
    years.end()
    assert years.events["repairs"] > 10
    assert years.said[State.HEALTHY] > years.said[State.LOST]


def test_hard_years(tmp_path: Path) -> None:
    chances = Chances(outage=0.1, loss=0.004, rot=0.1, vanish=0.05, full=0.02)
    years = Years(7, tmp_path, coding=Coding(2, 3, 4), stores=5, chances=chances, count=6)
    for _ in years.run(150):
        pass
    years.end()
