"""Other clones: what each may do follows from the capability that it has."""

from __future__ import annotations

import subprocess

import pytest

from tests.sessions.session import PARAMETERS, Repository, Session

DEAD = "http://localhost:1/nothing"


@pytest.fixture
def film(laptop: Repository) -> bytes:
    """The content of the file `film`, which is in the vault."""
    content = laptop.add(film=2_500_000)["film"]
    laptop.run("git annex copy --to vault .")
    laptop.run("git annex drop .")
    return content


def test_without_a_capability_it_says_what_to_do(session: Session, laptop: Repository, film: bytes) -> None:
    desktop = session.clone(laptop, "desktop")
    said = desktop.enableremote()
    assert "no capability is kept here: to read and store, set SWARM_CAPABILITY" in said.plain
    desktop.write("note", 10)
    desktop.run("git annex add --quiet note")
    for command in ("get film --from vault", "copy note --to vault", "drop note --from vault --force"):
        said = desktop.run(f"git annex {command}", fails=True)
        assert "does not have the remote's capability: set SWARM_CAPABILITY" in said.plain, str(said)
        assert "git annex enableremote vault" in said.plain
    said = desktop.attempt(f"git annex checkpresentkey {desktop.key('film')} vault")
    assert said.status == 100
    assert "set SWARM_CAPABILITY" in said

    info = desktop.run("git annex info vault")
    assert "capability: none here" in info
    assert "there" in info
    desktop.run("git annex whereis film")
    assert desktop.list_stores()["usb"]["reachable"] is True
    said = desktop.run("git-annex-remote-swarm capability vault", fails=True)
    assert said.out == ""
    assert "does not have the capability of vault" in said

    # git-annex asks all remotes about any URL: this one may not get in the way.
    served = session.folder / "page"
    served.write_text("hello")
    desktop.run(f"git -c annex.security.allowed-url-schemes=file annex addurl --file page file://{served}")
    desktop.run(f"git annex registerurl {desktop.key('film')} {DEAD}")
    desktop.run("git annex sync --no-content --only-annex")


def test_a_capability_at_enableremote_is_kept(session: Session, laptop: Repository, film: bytes) -> None:
    desktop = session.clone(laptop, "desktop")
    desktop.enableremote(env={"SWARM_CAPABILITY": laptop.capability()})
    desktop.run("git annex get film --from vault")
    assert desktop.read("film") == film
    desktop.run("git annex drop film")
    desktop.add(note=1000)
    desktop.run("git annex move note --to vault")
    desktop.run("git annex get note --from vault")
    assert desktop.capability() == laptop.capability()


def test_a_capability_in_the_environment_later_is_kept_too(
    session: Session, laptop: Repository, film: bytes
) -> None:
    desktop = session.clone(laptop, "desktop")
    desktop.enableremote()
    desktop.run("git annex get film --from vault", fails=True)
    desktop.run("git annex get film --from vault", env={"SWARM_CAPABILITY": laptop.capability()})
    desktop.run("git annex drop film")
    desktop.run("git annex get film --from vault")
    assert desktop.read("film") == film


def test_a_read_capability_fetches_and_cannot_store(session: Session, laptop: Repository, film: bytes) -> None:
    desktop = session.clone(laptop, "desktop")
    desktop.enableremote(env={"SWARM_CAPABILITY": laptop.capability("--read")})
    desktop.run("git annex get film --from vault")
    assert desktop.read("film") == film
    desktop.write("note", 10)
    desktop.run("git annex add --quiet note")
    before = session.shares()
    for command in ("copy note --to vault", "drop film --from vault --force"):
        said = desktop.run(f"git annex {command}", fails=True)
        assert "a read capability, which cannot store: it takes the full capability" in said.plain, str(said)
    assert session.shares() == before
    assert "capability: read" in desktop.run("git annex info vault")
    assert desktop.capability() == laptop.capability("--read")
    said = desktop.run("git-annex-remote-swarm stores vault remove usb", fails=True)
    assert "read capability, which cannot store" in said.plain


def test_a_weaker_capability_does_not_take_the_place_of_the_full_one(laptop: Repository, film: bytes) -> None:
    full, read = laptop.capability(), {"SWARM_CAPABILITY": laptop.capability("--read")}
    laptop.run("git annex enableremote vault", env=read)
    laptop.run("git annex get film --from vault", env=read)
    assert laptop.capability() == full
    laptop.run("git annex drop film --from vault")


def test_a_verify_capability_reads_nothing(session: Session, laptop: Repository, film: bytes) -> None:
    desktop = session.clone(laptop, "desktop")
    desktop.enableremote(env={"SWARM_CAPABILITY": laptop.capability("--verify")})
    said = desktop.run("git annex get film --from vault", fails=True)
    assert "a verify capability, which can check shares but not read them" in said.plain
    assert desktop.attempt(f"git annex checkpresentkey {desktop.key('film')} vault").status == 100


def test_the_capability_of_another_grid_is_refused(session: Session, laptop: Repository, film: bytes) -> None:
    other = session.repository("other")
    other.run(f"git annex initremote vault {PARAMETERS} stores=x=dir:{session.folder}/x")
    stranger = {"SWARM_CAPABILITY": other.capability()}
    desktop = session.clone(laptop, "desktop")
    said = desktop.run("git annex enableremote vault", fails=True, env=stranger)
    assert "SWARM_CAPABILITY holds the capability of another grid than this remote's" in said.plain
    desktop.enableremote()
    said = desktop.run("git annex get film --from vault", fails=True, env=stranger)
    assert "the capability here is that of another grid than this remote's" in said.plain
    # Nor does it stick: with the right one all is well.
    desktop.run("git annex get film --from vault", env={"SWARM_CAPABILITY": laptop.capability()})
    assert desktop.read("film") == film


def test_a_mistyped_capability_is_refused_without_repeating_it(
    session: Session, laptop: Repository, film: bytes
) -> None:
    right = laptop.capability()
    wrong = right[:-3] + ("b" if right[-3] == "a" else "a") + right[-2:]
    desktop = session.clone(laptop, "desktop")
    said = desktop.run("git annex enableremote vault", fails=True, env={"SWARM_CAPABILITY": wrong})
    assert "typing error" in said
    assert wrong[11:] not in said
    desktop.enableremote()
    said = desktop.run("git annex get film --from vault", fails=True, env={"SWARM_CAPABILITY": wrong})
    assert "typing error" in said
    assert wrong[11:] not in said


def test_embedded_creds_need_no_environment(session: Session) -> None:
    laptop = session.repository("laptop")
    laptop.initremote(parameters=f"{PARAMETERS} embedcreds=yes")
    content = laptop.add(film=100_000)["film"]
    laptop.run("git annex copy --to vault .")
    desktop = session.clone(laptop, "desktop")
    desktop.enableremote()
    desktop.run("git annex get film --from vault")
    assert desktop.read("film") == content
    desktop.add(note=10)
    desktop.run("git annex copy note --to vault")
    assert desktop.capability() == laptop.capability()


def test_a_store_that_is_elsewhere_on_this_machine(session: Session, laptop: Repository, film: bytes) -> None:
    desktop = session.clone(laptop, "desktop")
    desktop.enableremote(env={"SWARM_CAPABILITY": laptop.capability()})
    session.lose("nas", "attic")
    elsewhere = session.folder / "media" / "usb"
    elsewhere.parent.mkdir()
    session.store("usb").rename(elsewhere)
    said = desktop.run("git annex get film --from vault", fails=True)
    assert "3 are needed" in said.plain
    assert f"usb: {session.store('usb')} does not have this store's marker: is its disk mounted?" in said.plain

    desktop.run(f"git config remote.vault.swarm-store-usb dir:{elsewhere}")
    desktop.run("git annex get film --from vault")
    assert desktop.read("film") == film
    assert f"store usb: dir:{elsewhere} (share 0): there" in desktop.run("git annex info vault")
    assert desktop.list_stores(fails=True)["usb"]["address"] == f"dir:{elsewhere}"
    # Of this clone only.
    assert laptop.list_stores(fails=True)["usb"]["address"] == f"dir:{session.store('usb')}"

    desktop.run(f"git config remote.vault.swarm-store-usb {elsewhere}")
    said = desktop.run("git annex info vault")
    assert f"'{elsewhere}' is not the address of a store" in said


def test_two_clones_store_the_same_file_at_once(session: Session, laptop: Repository) -> None:
    desktop = session.clone(laptop, "desktop")
    desktop.enableremote(env={"SWARM_CAPABILITY": laptop.capability()})
    for clone in (laptop, desktop):
        clone.write("film", 20_000_000)
        clone.run("git annex add --quiet film")
    copies = [clone.start("git annex copy film --to vault") for clone in (laptop, desktop)]
    for copy in copies:
        out, err = copy.communicate(timeout=120)
        assert copy.returncode == 0, out + err
    assert len(session.shares()) == 5
    laptop.run("git annex drop film")
    laptop.run("git annex get film --from vault")
    assert laptop.read("film") == desktop.read("film")


def test_a_damaged_configuration_breaks_only_this_remote(
    session: Session, laptop: Repository, film: bytes
) -> None:
    """What git-annex asks about any file or URL must go on, whatever is wrong here."""
    (laptop.path / ".git/annex/creds").mkdir(exist_ok=True)
    [creds] = (laptop.path / ".git/annex/creds").iterdir()
    creds.chmod(0o600)
    creds.write_text("swarm\nnonsense\n")
    said = laptop.run("git annex get film", fails=True)
    assert "this is not a capability" in said.plain
    served = session.folder / "page"
    served.write_text("hello")
    laptop.run(f"git -c annex.security.allowed-url-schemes=file annex addurl --file page file://{served}")
    laptop.run("git annex info vault")
    assert subprocess.run(["git", "diff", "--quiet"], cwd=laptop.path, check=False).returncode == 0
