from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest


@pytest.fixture
def end() -> Iterator[threading.Event]:
    """Set when the test is over: what hangs waits for that."""
    event = threading.Event()
    yield event
    event.set()
