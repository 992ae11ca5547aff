"""What the remote is there for, typed in as its users do."""

from __future__ import annotations

import shlex

import pytest

from tests.sessions.session import PARAMETERS, Repository, Session

SIZES = {"film": 5_000_001, "photo": 1 << 20, "note": 12, "empty": 0}


def test_two_stores_of_five_burn_down(session: Session) -> None:
    laptop = session.repository("laptop")
    contents = laptop.add(**SIZES)

    said = laptop.initremote()
    assert "3-of-5 (happy 4)" in said
    assert "survives the loss of any 2 stores" in said
    assert "keep a copy on paper" in said
    assert "usb, nas, attic, friend, cloud are on one file system" in said

    laptop.run("git annex copy --to vault .")
    assert len(session.shares()) == 5 * len(contents)
    assert "5 shares (3 needed)" in laptop.run("git annex whereis film")
    assert "usb(0) nas(1) attic(2) friend(3) cloud(4)" in laptop.run("git annex whereis film")

    session.lose("attic", "cloud")
    laptop.run("git annex drop .")
    assert not any(laptop.has(name) for name, content in contents.items() if content)

    said = laptop.run("git annex get --from vault film")
    assert laptop.read("film") == contents["film"]
    assert "a repair of its shares is due" in said
    for name in ("attic", "cloud"):
        assert f"{name}: {session.store(name)} does not have this store's marker" in said
    for name in ("usb", "nas", "friend"):
        assert f"{name}:" not in said
    laptop.run("git annex get --from vault .")
    assert {name: laptop.read(name) for name in contents} == contents

    laptop.run("git annex fsck --from vault")
    assert {name: laptop.read(name) for name in contents} == contents
    where = laptop.run("git annex whereis film").plain
    assert "3 shares (3 needed)" in where
    assert "on usb(0) nas(1) friend(3); not known of attic(2) cloud(4)" in where
    info = laptop.run("git annex info vault")
    assert "coding: 3 of 5 shares rebuild (happy 4)" in info
    assert "survives: the loss of any 2 stores" in info
    assert f"store usb: dir:{session.store('usb')} (share 0): there" in info
    assert f"store attic: dir:{session.store('attic')} (share 2): {session.store('attic')} does not" in info

    said = laptop.run("git annex drop --from vault .")
    assert "share 2 may remain, to be collected later" in said
    assert session.shares() == []
    assert not session.store("attic").exists()
    laptop.run("git annex fsck --from vault --fast")
    assert "vault" not in laptop.run("git annex whereis film")


def test_a_store_that_comes_back_empty_is_filled_by_the_next_copies_only(session: Session) -> None:
    laptop = session.repository("laptop")
    laptop.add(old=100_000)
    laptop.initremote()
    laptop.run("git annex copy --to vault .")
    session.lose("nas")
    contents = laptop.add(new=100_000)
    said = laptop.run("git annex copy --to vault new")
    assert "stored, but not everywhere" in said
    assert f"nas: share 1 was not stored: {session.store('nas')} does not have" in said
    assert not session.store("nas").exists()
    laptop.run("git annex drop new")
    session.lose("usb")
    laptop.run("git annex get new")
    assert laptop.read("new") == contents["new"]


def test_a_copy_that_reaches_too_few_stores_sends_nothing_and_works_later(
    session: Session, laptop: Repository
) -> None:
    content = laptop.add(film=1_300_000)["film"]
    session.unplug("usb", "nas")
    said = laptop.run("git annex copy --to vault film", fails=True)
    assert "4 (happy) are needed" in said
    for name in ("usb", "nas"):
        assert f"{name}: {session.store(name)} does not have this store's marker" in said
    assert session.shares() == []
    assert "vault" not in laptop.run("git annex whereis film")
    session.plug("usb", "nas")
    assert laptop.is_present("film") is False
    laptop.run("git annex copy --to vault film")
    assert len(session.shares()) == 5
    session.lose("attic", "friend")
    laptop.run("git annex drop film")
    laptop.run("git annex get film")
    assert laptop.read("film") == content


def test_places_with_strange_names_and_working_from_below(session: Session) -> None:
    laptop = session.repository("my photos, 100% été")
    places = " ".join(f"{name}=dir:{session.folder}/dépôt={name},%20&" for name in ("usb", "nas", "attic"))
    laptop.run(f"git annex initremote vault {PARAMETERS} 'stores={places}'")
    (laptop.path / "sub" / "more").mkdir(parents=True)
    content = laptop.write("sub/more/a film.mkv", 2_000_000)
    laptop.run("git annex add --quiet .")
    below = laptop.path / "sub" / "more"
    session.run("git annex copy 'a film.mkv' --to vault", cwd=below)
    session.run("git annex drop 'a film.mkv'", cwd=below)
    session.run("git annex get 'a film.mkv'", cwd=below)
    assert (below / "a film.mkv").read_bytes() == content
    assert "there" in session.run("git-annex-remote-swarm stores vault", cwd=below)
    assert [path.name for path in session.folder.iterdir() if "nas" in path.name] == ["dépôt=nas,%20&"]

    laptop.run("git commit --quiet --message film")
    laptop.run("git worktree add --quiet ../tree -b tree")
    tree = session.folder / "tree"
    assert "there" in session.run("git-annex-remote-swarm stores vault", cwd=tree)
    session.run("git annex drop .", cwd=tree)
    session.run("git annex get .", cwd=tree)
    assert (tree / "sub" / "more" / "a film.mkv").read_bytes() == content


def clone_url(session: Session, laptop: Repository, url: str, name: str) -> Repository:
    env = {"SWARM_CAPABILITY": laptop.capability()}
    session.run(f"git clone {shlex.quote(url)} {name}", env=env)
    return Repository(session, session.folder / name)


@pytest.mark.parametrize("left_out", [(), ("verify-key", "grid")], ids=["all-parameters", "stores-only"])
def test_a_repository_is_cloned_out_of_its_shares(session: Session, left_out: tuple[str, ...]) -> None:
    laptop = session.repository("laptop")
    laptop.initremote(options="--with-url")
    contents = laptop.add(**SIZES)
    laptop.run("git annex copy --to vault .")
    laptop.run("git push vault main git-annex")
    session.lose("usb", "friend")

    clone = clone_url(session, laptop, laptop.annex_url(leave_out=left_out), "clone")
    clone.run("git checkout --quiet main")
    assert clone.run("git log --format=%s main").out == "files\n"
    clone.run("git annex get .")
    assert {name: clone.read(name) for name in contents} == contents


def test_pushing_again_and_back(session: Session) -> None:
    laptop = session.repository("laptop")
    laptop.initremote(options="--with-url")
    laptop.add(first=100)
    laptop.run("git annex copy --to vault .")
    laptop.run("git push vault main git-annex")
    clone = clone_url(session, laptop, laptop.annex_url(), "clone")
    laptop.add(second=200_000)
    laptop.run("git annex copy --to vault .")
    # Every push rewrites the manifest: other content under the key that it had before.
    laptop.run("git push vault main git-annex")
    laptop.run("git commit --quiet --allow-empty --message third")
    laptop.run("git push vault main git-annex")

    clone.run("git pull --quiet origin main")
    assert clone.run("git log --format=%s HEAD").out == "third\nfiles\nfiles\n"
    clone.run("git fetch --quiet origin")
    clone.run("git annex get .")
    assert clone.read("second") == laptop.read("second")

    clone.run("git commit --quiet --allow-empty --message back")
    clone.run("git push origin main")
    session.lose("nas", "cloud")
    laptop.run("git pull --quiet vault main")
    assert laptop.run("git log --format=%s -1").out == "back\n"
