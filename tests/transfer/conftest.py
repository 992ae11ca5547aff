from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.transfer.rig import Rig


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """Two of four shares, three must be stored."""
    return Rig.of(tmp_path, 2, 3, 4)


@pytest.fixture
def end() -> Iterator[threading.Event]:
    """Set when the test is over: what hangs waits for that."""
    event = threading.Event()
    yield event
    event.set()
