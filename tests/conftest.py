from __future__ import annotations

import os
import signal
from itertools import count

import pytest
from hypothesis import settings

from tests.servers import missing

settings.register_profile("swarm", deadline=None, derandomize=True)
settings.load_profile("swarm")


# Whoever starts the tests with nohup, or in the background, ignores signals: what the tests start must not.
for _number, _usual in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)


def pytest_report_header() -> list[str]:
    """Say at once, and loudly, what will not be tested on this machine."""
    found = "fails" if os.environ.get("CI") else "is skipped"
    return [f"MISSING SERVER {name}: {why}; what needs it {found}" for name, why in missing().items()]


_numbers = count()


@pytest.fixture(autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a machine keeps from one run to the next is kept for one test, and not among the user's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / f"state-{next(_numbers)}"))
