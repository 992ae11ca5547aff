from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import LibtorrentPeer
from tests.sessions.session import Repository, Session
from tests.sessions.sharing import Shared

LONG = "test_testremote.py"
"""Here are the longest tests by far, and the longest of them come first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let two workers begin with a long test each: the first at the start, the second half-way.

    pytest-xdist gives each worker a stretch of the list; a long test at its end would keep one waiting.
    """
    long = [item for item in items if item.path.name == LONG]
    rest = [item for item in items if item.path.name != LONG]
    middle = len(rest) // 2
    items[:] = long[0::2] + rest[:middle] + long[1::2] + rest[middle:]


@pytest.fixture(scope="session", autouse=True)
def _programs() -> None:
    for program in ("git", "git-annex", "git-remote-annex", "git-annex-remote-swarm", "gpg"):
        if not shutil.which(program):
            pytest.fail(f"{program} is not in PATH: `make test` puts .venv/bin first", pytrace=False)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    session = Session(tmp_path)
    yield session
    session.close()


@pytest.fixture
def laptop(session: Session) -> Repository:
    """A repository with a few files and the remote `vault` over five stores, three of which rebuild."""
    laptop = session.repository("laptop")
    laptop.initremote()
    return laptop


@pytest.fixture
def shared(session: Session) -> Shared:
    """Content that torrents are made of."""
    return Shared.made(session)


@pytest.fixture
def peer(session: Session) -> Iterator[LibtorrentPeer]:
    with LibtorrentPeer(session.folder / "peer", transport="tcp") as peer:
        yield peer
