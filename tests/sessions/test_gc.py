"""Removing what nobody wants, as a user does: what goes, and above all what stays."""

from __future__ import annotations

import json
import os
import pty
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.sessions.session import PARAMETERS, Repository, Session

GC = "git-annex-remote-swarm gc vault"
AT_ONCE = f"{GC} --grace 0"


def leave_behind(session: Session, laptop: Repository, *names: str, store: str = "usb") -> None:
    """Drop files from the vault while a store is unplugged: its shares remain."""
    session.unplug(store)
    laptop.run(f"git annex drop --from vault {' '.join(names)}")
    session.plug(store)


def age(paths: list[Path], days: float) -> None:
    """Let shares be so old."""
    at = time.time() - days * 86400
    for path in paths:
        os.utime(path, (at, at))


def objects(said: list[dict[str, Any]]) -> dict[str, str | None]:
    """Return the keys of objects that are not on the keep-list, with why they stay."""
    return {line["key"]: line["kept"] for line in said if line["type"] == "object"}


def on_a_terminal(laptop: Repository, command: str, typed: str = "", *, stdin: bool = True) -> tuple[int, str]:
    """Run a command as on a terminal; return its status, and what it showed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        shlex.split(command),
        cwd=laptop.path,
        env={**laptop.session.environment, "TERM": "dumb"},
        stdin=theirs if stdin else subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    os.write(ours, typed.encode())
    shown = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # the last one has closed its end
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    return process.wait(laptop.session.patience), shown.decode()


@pytest.fixture
def stored(laptop: Repository) -> dict[str, bytes]:
    """Files that are in the vault, and here."""
    contents = laptop.add(film=300_000, note=1000, song=50_000)
    laptop.run("git annex copy --to vault .")
    return contents


def test_what_a_removal_has_missed(session: Session, laptop: Repository, stored: dict[str, bytes]) -> None:
    leave_behind(session, laptop, "film")
    assert len(session.shares()) == 11
    [share] = [path for path in session.shares("usb") if path.stat().st_size > 100_000]

    said = laptop.run(GC)
    assert "kept: 1 too young" in said
    assert "nothing to remove" in said
    said = laptop.run(f"{AT_ONCE} --dry-run")
    assert f"{laptop.key('film')}: 1 share, " in said
    assert "kept: 2 objects on the keep-list, 0 of git repositories" in said
    assert "would be removed: of 1 object, 1 share, " in said
    assert share.exists()

    said = laptop.run(AT_ONCE)
    assert "removed: of 1 object, 1 share, " in said
    assert ["usb", "1"] in [line.split()[:2] for line in said.out.splitlines()]
    assert not share.exists()
    assert len(session.shares()) == 10
    laptop.run("git annex drop note song")
    laptop.run("git annex get note song")
    assert {name: laptop.read(name) for name in stored} == stored
    assert "nothing to remove" in laptop.run(AT_ONCE)
    assert laptop.run(f"{AT_ONCE} --quiet").plain == ""


def test_what_is_older_than_the_grace_goes_by_itself(
    session: Session, laptop: Repository, stored: dict[str, bytes]
) -> None:
    leave_behind(session, laptop, "note")
    age(session.shares(), 29)
    assert "too young" in laptop.run(GC)
    age(session.shares(), 31)
    assert laptop.run(f"{GC} --quiet").plain == ""
    assert len(session.shares()) == 10
    assert len(session.shares("usb")) == 2


def test_json(session: Session, laptop: Repository, stored: dict[str, bytes]) -> None:
    leave_behind(session, laptop, "film")
    session.unplug("cloud")
    key = laptop.key("film")
    [dry] = [line for line in laptop.run(f"{AT_ONCE} --dry-run --json").json if line["type"] == "object"]
    said = laptop.run(f"{AT_ONCE} --json").json
    [each] = [line for line in said if line["type"] == "object"]
    [share] = each.pop("shares")
    assert each == {"type": "object", "object": each["object"], "key": key, "wanted": False, "kept": None}
    assert share["store"] == "usb"
    assert (share["removed"], share["error"]) == (True, None)
    assert dry["shares"] == [share | {"removed": False}]
    stores = {line["store"]: line for line in said if line["type"] == "store"}
    assert stores["usb"]["removed"] == {"shares": 1, "bytes": share["bytes"]}
    assert stores["cloud"]["asked"] is False
    assert "marker" in stores["cloud"]["error"]
    summary = said[-1]
    assert summary["type"] == "summary"
    assert summary["removed"] == summary["to_remove"] == {"shares": 1, "bytes": share["bytes"]}
    assert (summary["keep_list"], summary["on_keep_list"], summary["objects"]) == (2, 2, 3)
    assert (summary["failed"], summary["refused"]) == (0, None)


def test_what_another_branch_or_tag_uses_stays(session: Session, laptop: Repository) -> None:
    laptop.add(kept=1000)
    contents = {}
    for name in ("branch", "tag", "nobody"):
        laptop.run(f"git checkout --quiet -b {name} main")
        contents[name] = laptop.add(**{name: 20_000})[name]
    laptop.run("git annex copy --all --to vault")
    laptop.run("git checkout --quiet tag")
    laptop.run("git tag v1")
    laptop.run("git checkout --quiet main")
    laptop.run("git branch --quiet -D tag nobody")
    laptop.run("git annex drop --all")
    assert "kept: 4 objects on the keep-list" in laptop.run(AT_ONCE)
    for name in ("branch", "v1"):
        laptop.run(f"git checkout --quiet {name}")
        laptop.run("git annex get .")
    assert laptop.read("tag") == contents["tag"]
    # What no branch has is unused, and git-annex's to drop: until then it is in the vault.
    assert len(session.shares()) == 20


def test_a_pushed_git_repository_stays(session: Session) -> None:
    laptop = session.repository("laptop")
    laptop.initremote(options="--with-url")
    content = laptop.add(film=10_000)["film"]
    laptop.run("git annex copy --to vault .")
    laptop.run("git push vault main git-annex")
    laptop.run("git commit --quiet --allow-empty --message second")
    laptop.run("git push vault main git-annex")
    count = len(session.shares())
    assert count > 10
    said = laptop.run(f"{AT_ONCE} --unknown-keys --force")
    assert "nothing to remove" in said
    assert "kept: 1 object on the keep-list, " in said
    assert len(session.shares()) == count
    env = {"SWARM_CAPABILITY": laptop.capability()}
    session.run(f"git clone {shlex.quote(laptop.annex_url())} clone", env=env)
    clone = Repository(session, session.folder / "clone")
    clone.run("git checkout --quiet main")
    clone.run("git annex get film")
    assert clone.read("film") == content


def test_without_a_keep_list_nothing_goes(session: Session, laptop: Repository) -> None:
    laptop.add(film=1000)
    laptop.run("git annex copy --to vault .")
    leave_behind(session, laptop, "film")
    for options in ("", "--force --yes", "--dry-run"):
        said = laptop.run(f"{AT_ONCE} {options}", fails=True)
        assert "git-annex knows of nothing that is to be there" in said.plain, str(said)
    assert len(session.shares()) == 1


def test_a_remote_that_was_declared_dead_keeps_everything(
    session: Session, laptop: Repository, stored: dict[str, bytes]
) -> None:
    laptop.run("git annex dead vault")
    said = laptop.run(f"{AT_ONCE} --force", fails=True)
    assert "git-annex knows of nothing that is to be there" in said.plain
    assert len(session.shares()) == 15


def test_most_of_everything_takes_force(session: Session, laptop: Repository) -> None:
    sizes = {f"file{number}": 1000 + number for number in range(11)}
    laptop.add(keep=1000, **sizes)
    laptop.run("git annex copy --to vault .")
    leave_behind(session, laptop, *sizes)
    said = laptop.run(f"{AT_ONCE} --yes", fails=True)
    assert "nothing was removed: more than half would go, 11 of 12 objects" in said.plain
    assert "--force" in said.plain
    assert len(session.shares()) == 16
    assert "would be refused: more than half" in laptop.run(f"{AT_ONCE} --dry-run", fails=True).plain
    assert "removed: of 11 objects, 11 shares" in laptop.run(f"{AT_ONCE} --force")
    assert len(session.shares()) == 5


def test_a_clone_that_was_not_met(session: Session, laptop: Repository, stored: dict[str, bytes]) -> None:
    """The only copy of what it has moved to the vault is there."""
    desktop = session.clone(laptop, "desktop")
    desktop.enableremote(env={"SWARM_CAPABILITY": laptop.capability()})
    content = desktop.add(photo=40_000)["photo"]
    desktop.run("git annex move photo --to vault")
    key = desktop.key("photo")
    assert objects(laptop.run(f"{GC} --json").json) == {key: "stranger"}
    said = laptop.run(AT_ONCE)
    assert "kept: 1 of keys that git-annex has never heard of here" in said
    assert "nothing to remove" in said
    # Even if it is said that these are to go, the grace is for them.
    assert objects(laptop.run(f"{GC} --unknown-keys --json").json) == {key: "young"}
    age(session.shares(), 31)
    assert objects(laptop.run(f"{GC} --unknown-keys --dry-run --json").json) == {key: None}
    assert len(session.shares()) == 20

    # What was fetched counts, whether it was merged or not; and the work tree stays as it is.
    laptop.run(f"git remote add desktop {desktop.path}")
    laptop.run("git fetch --quiet desktop")
    laptop.run("git config annex.merge-annex-branches false")
    laptop.run("git branch --quiet synced/main desktop/main")
    assert objects(laptop.run(f"{AT_ONCE} --unknown-keys --json").json) == {}
    assert not (laptop.path / "photo").is_symlink()
    desktop.run("git annex get photo")
    assert desktop.read("photo") == content


def test_what_two_clones_disagree_about(session: Session, laptop: Repository, stored: dict[str, bytes]) -> None:
    """One drops, the other stores it again; git-annex keeps the later word of those that changed anything."""
    desktop = session.clone(laptop, "desktop")
    desktop.enableremote(env={"SWARM_CAPABILITY": laptop.capability()})
    laptop.run("git annex drop --from vault note")
    desktop.run("git annex get note --from origin")
    desktop.run("git annex move note --to vault --force")
    key = desktop.key("note")
    assert objects(laptop.run(f"{GC} --json").json) == {key: "young"}
    age(session.shares(), 31)
    assert objects(laptop.run(f"{GC} --dry-run --json").json) == {key: None}  # it is here as well

    laptop.run("git annex drop --force note")
    laptop.run(f"git remote add desktop {desktop.path}")
    laptop.run("git fetch --quiet desktop")
    assert objects(laptop.run(f"{GC} --json").json) == {key: "last"}
    assert "git annex fsck --fast --from REMOTE --key KEY" in laptop.run(GC).plain
    laptop.run(f"git annex fsck --fast --from vault --key {key}")
    assert objects(laptop.run(f"{GC} --json").json) == {}
    laptop.run("git annex get note")
    assert laptop.read("note") == stored["note"]


def test_another_remote_over_the_same_grid(session: Session, laptop: Repository, stored: dict[str, bytes]) -> None:
    env = {"SWARM_CAPABILITY": laptop.capability()}
    laptop.run(f"git annex initremote second {PARAMETERS} {session.stores()}", env=env)
    content = laptop.add(photo=40_000)["photo"]
    laptop.run("git annex move photo --to second")
    for remote in ("vault", "second"):
        said = laptop.run(f"git-annex-remote-swarm gc {remote} --grace 0 --force")
        assert "nothing to remove" in said, str(said)
    laptop.run("git annex get photo")
    assert laptop.read("photo") == content


def test_a_new_repository_over_old_stores(session: Session, laptop: Repository, stored: dict[str, bytes]) -> None:
    """It knows of nothing that the old one has stored: that is no reason to remove it."""
    again = session.repository("again")
    env = {"SWARM_CAPABILITY": laptop.capability()}
    again.run(f"git annex initremote vault {PARAMETERS} {session.stores()}", env=env)
    again.add(mine=1000)
    again.run("git annex copy --to vault .")
    age(session.shares(), 400)
    said = again.run(f"{AT_ONCE} --force")
    assert "kept: 3 of keys that git-annex has never heard of here" in said
    assert "nothing to remove" in said
    assert len(session.shares()) == 20


def test_chunks(session: Session) -> None:
    laptop = session.repository("laptop")
    laptop.initremote(parameters=f"{PARAMETERS} chunk=10kB")
    contents = laptop.add(film=35_000, note=100, song=25_000)
    laptop.run("git annex copy --to vault .")
    chunks = len(session.shares())
    assert chunks > 30
    leave_behind(session, laptop, "song")
    left = len(session.shares())
    assert "removed: of 3 objects, 3 shares" in laptop.run(AT_ONCE)
    assert len(session.shares()) == left - 3
    laptop.run("git annex drop film note")
    laptop.run("git annex get film note")
    assert {name: laptop.read(name) for name in contents} == contents


def test_where_git_annex_encrypts_there_is_no_keep_list(session: Session) -> None:
    laptop = session.repository("laptop")
    laptop.initremote(parameters="type=external externaltype=swarm encryption=shared")
    laptop.add(film=1000)
    laptop.run("git annex copy --to vault .")
    said = laptop.run(f"{AT_ONCE} --force", fails=True)
    assert "git-annex encrypts what it stores in vault (encryption=shared)" in said.plain
    assert len(session.shares()) == 5


def test_who_may_not_store_may_not_remove(session: Session, laptop: Repository, stored: dict[str, bytes]) -> None:
    leave_behind(session, laptop, "film")
    for kind in ("read", "verify"):
        clone = session.clone(laptop, kind)
        clone.enableremote(env={"SWARM_CAPABILITY": laptop.capability(f"--{kind}")})
        said = clone.run(f"{AT_ONCE} --yes", fails=True)
        assert "it takes the full one" in said.plain, str(said)
        listed = clone.attempt(f"{AT_ONCE} --dry-run")
        assert (listed.status, "would be removed: of 1 object" in listed) == (
            (0, True) if kind == "read" else (1, False)
        )
    desktop = session.clone(laptop, "desktop")
    desktop.enableremote()
    assert "does not have the capability of vault" in desktop.run(AT_ONCE, fails=True)
    assert len(session.shares()) == 11


def test_a_terminal_is_asked(session: Session, laptop: Repository, stored: dict[str, bytes]) -> None:
    leave_behind(session, laptop, "film")
    # Typed: no, just return, the end of the input.
    for typed in ("n\n", "\n", "\x04"):
        status, shown = on_a_terminal(laptop, AT_ONCE, typed)
        assert status == 1
        assert "to be removed: of 1 object, 1 share" in shown
        assert "Remove this? [y/N]" in shown
        assert "nothing was removed" in shown
        assert "Traceback" not in shown
    assert "Remove this?" in on_a_terminal(laptop, f"{AT_ONCE} --quiet", "n\n")[1]
    status, shown = on_a_terminal(laptop, AT_ONCE, stdin=False)
    assert (status, "give --yes" in shown) == (1, True)
    status, shown = on_a_terminal(laptop, f"{AT_ONCE} --dry-run")
    assert (status, "Remove this?" in shown) == (0, False)
    assert len(session.shares()) == 11

    status, shown = on_a_terminal(laptop, AT_ONCE, "y\n")
    assert (status, "removed: of 1 object" in shown) == (0, True)
    assert len(session.shares()) == 10
    leave_behind(session, laptop, "note")
    status, shown = on_a_terminal(laptop, f"{AT_ONCE} --yes", stdin=False)
    assert (status, "Remove this?" in shown) == (0, False)
    assert len(session.shares()) == 5


def test_mistakes(laptop: Repository) -> None:
    assert "--grace soon: write seconds, or 15m, 1h, 30d" in laptop.run(f"{GC} --grace soon", fails=True)
    assert "no git-annex remote nothing" in laptop.run("git-annex-remote-swarm gc nothing", fails=True).plain
    assert "nothing to remove" in laptop.run(GC)
    assert json.loads(laptop.run(f"{GC} --json").out)["objects"] == 0
