"""git-annex's own test of a special remote. It uses one job at a time: concurrency is tested elsewhere."""

from __future__ import annotations

import pytest

from tests.sessions.session import Session

WITHOUT_ASYNC = """#!/bin/sh
# The remote as an old git-annex sees it: one that never hears of ASYNC.
sed -u '/^EXTENSIONS/s/ ASYNC//' | git-annex-remote-swarm
"""


@pytest.mark.timeout(1500)  # thousands of chunks, each stored and fetched several times
@pytest.mark.parametrize("program", ["swarm", "swarmsync"])
@pytest.mark.parametrize("options", ["", "--fast --size=20MiB"], ids=["full", "large"])
def test_testremote(session: Session, options: str, program: str) -> None:
    wrapper = session.folder / "bin" / "git-annex-remote-swarmsync"
    wrapper.parent.mkdir()
    wrapper.write_text(WITHOUT_ASYNC)
    wrapper.chmod(0o755)
    session.environment["PATH"] = f"{wrapper.parent}:{session.environment['PATH']}"
    session.patience = 1400
    laptop = session.repository("laptop")
    laptop.initremote(parameters=f"type=external externaltype={program} encryption=none")
    said = laptop.run(f"git annex testremote vault {options}")
    assert "tests passed" in said
    assert session.shares() == []  # it removes all that it stores
    assert session.parts() == []
