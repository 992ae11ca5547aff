from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from annex_remote.model import Store
from tests.stores.kinds import KINDS, Subject, shared


@pytest.fixture(scope="session", autouse=True)
def _servers() -> Iterator[None]:
    yield
    shared.close()


@pytest.fixture(params=KINDS)
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    with ExitStack() as stack:
        made = KINDS[request.param](tmp_path, stack)
        stack.callback(made.store.close)
        yield made


@pytest.fixture
def store(subject: Subject) -> Store:
    return subject.store
