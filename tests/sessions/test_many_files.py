from __future__ import annotations

import random

from tests.sessions.session import Repository, Session, broken_shares

COUNT = 500


def test_many_jobs_and_small_files(session: Session, laptop: Repository) -> None:
    sizes = random.Random(8)
    contents = laptop.add(**{f"f{index}": sizes.randrange(20_000) for index in range(COUNT)})
    laptop.run("git annex copy --quiet -J8 --to vault .")
    assert len(session.shares()) == 5 * COUNT
    assert broken_shares(session, laptop.capability("--verify")) == []
    laptop.run("git annex drop --quiet -J8 .")
    session.lose("friend")
    assert not any(laptop.has(name) for name in contents)
    laptop.run("git annex get -J8 --from vault .")
    assert {name: laptop.read(name) for name in contents} == contents
    assert session.processes() == {}
