from __future__ import annotations

from tests.sessions.session import Session


def test_the_demo_works_piped_and_leaves_nothing(session: Session) -> None:
    temporary = session.folder / "tmp"
    temporary.mkdir()
    before = sorted(session.home.rglob("*"))
    said = session.run("git-annex-remote-swarm demo --size 4", env={"TMPDIR": str(temporary)})
    assert "$ git annex get . --from vault" in said.out
    # Fetched from what is left, one more from the laptop as a torrent, and recovered without the repository.
    assert said.out.count(" same") == 11
    assert "5 objects: 5 healthy" in said
    assert "DIFFERENT" not in said
    assert "\x1b" not in said
    assert "\r" not in said
    assert list(temporary.iterdir()) == []
    assert sorted(session.home.rglob("*")) == before
    assert session.processes() == {}


def test_the_demo_says_where_what_it_keeps_is(session: Session) -> None:
    temporary = session.folder / "tmp"
    temporary.mkdir()
    said = session.run("git-annex-remote-swarm demo --size 1 --keep", env={"TMPDIR": str(temporary)})
    [folder] = temporary.iterdir()
    assert f"Everything is left in {folder}" in said
    assert (folder / "photos" / "note.txt").exists()


def test_the_demo_says_what_is_missing(session: Session) -> None:
    """An installation whose git-annex is elsewhere: only git is to be found."""
    only = session.folder / "bin"
    only.mkdir()
    program = session.run("which git-annex-remote-swarm").out.strip()
    said = session.run(f"{program} demo", fails=True, env={"PATH": str(only)})
    assert "is not in PATH: the demo needs it" in said
    assert "Traceback" not in said
