"""Mistakes at `git annex initremote`: one clear sentence, and nothing is left behind."""

from __future__ import annotations

import shlex

import pytest

from tests.sessions.session import PARAMETERS, Session

GOOD = "a=dir:{here}/a b=dir:{here}/b c=dir:{here}/c"

MISTAKES = {
    "no stores": ("", "stores= is missing: name the stores, such as"),
    "no name": ("stores=dir:{here}/a", "stores: 'dir:{here}/a' is not NAME=ADDRESS"),
    "unknown scheme": ("stores=a=dir:{here}/a b=ftp://host/b", "'ftp://host/b' is not the address of a store"),
    "no scheme": ("stores=a={here}/a", "'{here}/a' is not the address of a store: it begins with one of dir:"),
    "same path twice": (
        "stores=a=dir:{here}/a b=dir:{here}/a",
        "a and b are the same place, dir:{here}/a; to keep two shares there write a*2=dir:{here}/a",
    ),
    "same path in two spellings": (
        "stores=a=dir:{here}/a b=dir:{here}/./x/../a/",
        "a and b are the same place, dir:{here}/a",
    ),
    "same name twice": ("stores=a=dir:{here}/a a=dir:{here}/b", "the name a is given twice"),
    "bad name": ("stores=Usb=dir:{here}/a", "'Usb' cannot name a store: small letters, digits and -"),
    "bad count": ("stores=a*x=dir:{here}/a", "'a*x' does not say how many shares: write a*2=dir:{here}/a"),
    "too many shares": ("stores=a*200=dir:{here}/a b*57=dir:{here}/b", "257 shares are more than a grid can have"),
    "relative path": ("stores=a=dir:a b=dir:{here}/b", "'dir:a': the path of a directory store is absolute"),
    "a file": ("stores=a=dir:{here}/a b=dir:{here}/file", "'dir:{here}/file' is a file, not a directory"),
    "below a file": ("stores=a=dir:{here}/a b=dir:{here}/file/b", "b=dir:{here}/file/b cannot be used: "),
    "unwritable": ("stores=a=dir:{here}/a b=dir:/proc/b", "b=dir:/proc/b cannot be used: "),
    "total larger than stores": (f"total=4 stores={GOOD}", "total=4, but the stores"),
    "total of nothing": (f"total=0 stores={GOOD}", "total=0 cannot be"),
    "needed larger than total": (f"needed=4 stores={GOOD}", "needed=4 is more than total=3"),
    "needed of nothing": (f"needed=0 stores={GOOD}", "needed=0"),
    "happy less than needed": (
        f"needed=2 happy=1 stores={GOOD}",
        "1 <= needed <= happy <= total <= 256 must hold",
    ),
    "not a number": (f"needed=two stores={GOOD}", "needed=two is not a whole number"),
    "negative number": (f"happy=-1 stores={GOOD}", "happy=-1 is not a whole number"),
    "bad seconds": (f"stall=soon stores={GOOD}", "stall=soon is not a number of seconds from 0.1 to 86400"),
    "unknown cipher": (f"share-cipher=rot13 stores={GOOD}", "rot13"),
    "git-annex's parameter": (f"cipher=aegis256 stores={GOOD}", "cipher"),
    "unknown parameter": (f"colour=red stores={GOOD}", "colour"),
    "damaged key": (f"verify-key=abc stores={GOOD}", "verify-key is damaged"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_sentence_and_leaves_nothing(session: Session, mistake: str) -> None:
    parameters, sentence = (text.format(here=session.folder) for text in MISTAKES[mistake])
    settings, _, stores = parameters.partition("stores=")
    check_refused(session, [*settings.split(), f"stores={stores}" if stores else ""], sentence)


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        ("read", "SWARM_CAPABILITY holds a read capability: it takes the full one to make a remote"),
        ("verify", "SWARM_CAPABILITY holds a verify capability: it takes the full one to make a remote"),
        ("nonsense", "this is not a capability: one begins with swarm-full-"),
    ],
)
def test_a_capability_that_cannot_make_a_remote(session: Session, made: str, sentence: str) -> None:
    other = session.repository("other")
    other.initremote("x")
    secret = "swarm-nonsense" if made == "nonsense" else other.capability(f"--{made}")
    session.lose("x")
    said = check_refused(
        session, [f"stores={GOOD.format(here=session.folder)}"], sentence, {"SWARM_CAPABILITY": secret}
    )
    assert secret not in said


def check_refused(session: Session, words: list[str], sentence: str, env: dict[str, str] | None = None) -> str:
    (session.folder / "file").write_text("a file")
    laptop = session.repository("laptop")
    before = sorted(session.folder.iterdir())
    command = " ".join(map(shlex.quote, [word for word in words if word]))
    said = laptop.run(f"git annex initremote vault {PARAMETERS} {command}", fails=True, env=env)
    assert sentence in said.plain, str(said)
    assert "Traceback" not in said
    assert "internal error" not in said
    [told] = [line for line in said.err.splitlines() if line.startswith("git-annex: ")]
    assert said.plain.count(told.removeprefix("git-annex: ").strip()) == 1
    # Nothing is saved, in git or outside.
    assert laptop.remote_log() == {}
    assert "vault" not in laptop.run("git config --list --local")
    assert sorted(session.folder.iterdir()) == before
    assert not any(laptop.path.glob(".git/annex/creds/*"))
    # So the right command works under the same name.
    laptop.initremote("a", "b", "c")
    return said.plain


def test_directories_that_were_there_stay_as_they_were(session: Session) -> None:
    laptop = session.repository("laptop")
    session.store("a").mkdir()
    (session.store("a") / "letter").write_text("dear")
    session.store("b").write_text("a file in the way")
    places = " ".join(f"{name}=dir:{session.store(name)}" for name in ("a", "c", "b"))
    laptop.run(f"git annex initremote vault {PARAMETERS} 'stores={places}/b'", fails=True)
    assert [path.name for path in session.store("a").iterdir()] == ["letter"]
    assert not session.store("c").exists()


def test_what_is_settled_cannot_be_changed_later(session: Session) -> None:
    laptop = session.repository("laptop")
    laptop.initremote()
    for change in ("needed=2", "happy=5", "total=4", "share-cipher=none"):
        said = laptop.run(f"git annex enableremote vault {change}", fails=True)
        assert "this grid was made with needed=3 happy=4 total=5" in said.plain, str(said)
        assert "that cannot be changed by a setting" in said.plain
    more = f"'stores=other=dir:{session.folder}/other'"
    said = laptop.run(f"git annex enableremote vault {more}", fails=True)
    assert "stores= only says where the grid began" in said.plain, str(said)
    assert "git-annex-remote-swarm stores REMOTE" in said.plain
    assert not session.store("other").exists()
    laptop.run("git annex enableremote vault stall=5")
    assert laptop.list_stores()["usb"]["reachable"] is True


def test_the_stores_of_another_grid_are_left_alone(session: Session) -> None:
    laptop = session.repository("laptop")
    laptop.initremote("usb", "nas", "attic")
    content = laptop.add(film=10_000)["film"]
    laptop.run("git annex copy film --to vault")
    before = {path: path.read_bytes() for path in session.shares("usb", "nas", "attic")}
    said = laptop.run(f"git annex initremote second {PARAMETERS} {session.stores('cloud', 'nas')}", fails=True)
    assert "it holds the shares of another grid already" in said.plain
    assert list(laptop.remote_log()) == [laptop.run("git config remote.vault.annex-uuid").out.strip()]
    assert not session.store("cloud").exists()
    assert {path: path.read_bytes() for path in session.shares("usb", "nas", "attic")} == before
    laptop.run("git annex drop film")
    laptop.run("git annex get film")
    assert laptop.read("film") == content


def test_a_lost_repository_takes_up_its_grid_again(session: Session) -> None:
    laptop = session.repository("laptop")
    laptop.initremote()
    content = laptop.add(film=1_000_000)["film"]
    laptop.run("git annex copy film --to vault")
    capability, key = laptop.capability(), laptop.key("film")

    desktop = session.repository("desktop")
    said = desktop.run(
        f"git annex initremote vault {PARAMETERS} {session.stores()}", env={"SWARM_CAPABILITY": capability}
    )
    assert "these stores hold a grid of this capability" in said.plain
    assert "it is taken up again" in said.plain
    desktop.run("git annex fromkey --force " + key + " film")
    uuid = desktop.run("git config remote.vault.annex-uuid").out.strip()
    desktop.run(f"git annex setpresentkey {key} {uuid} 1")
    desktop.run("git annex get film --from vault")
    assert desktop.read("film") == content
