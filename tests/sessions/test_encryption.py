"""git-annex's own chunks and encryption around the remote."""

from __future__ import annotations

import pytest

from tests.sessions.session import PARAMETERS, Repository, Session, broken_shares

SHARED = "type=external externaltype=swarm encryption=shared"


def round_trip(session: Session, laptop: Repository, pieces: int) -> None:
    contents = laptop.add(film=3_400_000, photo=1 << 20, note=5)
    laptop.run("git annex copy --to vault .")
    assert len(session.shares()) == 5 * pieces
    laptop.run("git annex fsck --from vault")
    session.lose("usb", "attic")
    laptop.run("git annex drop .")
    laptop.run("git annex get --from vault .")
    assert {name: laptop.read(name) for name in contents} == contents
    laptop.run("git annex drop --from vault .")
    assert session.shares() == []


@pytest.mark.parametrize(
    ("parameters", "pieces"),
    [
        # Pieces: four of the film, one of the photo, one of the note; a chunked key's log says how many.
        (f"{PARAMETERS} chunk=1MiB", 6),
        (SHARED, 3),
        (f"{SHARED} chunk=1MiB", 6),
        (f"{PARAMETERS} share-cipher=none", 3),
        (f"{PARAMETERS} share-cipher=xchacha20poly1305", 3),
    ],
)
def test_there_and_back(session: Session, parameters: str, pieces: int) -> None:
    laptop = session.repository("laptop")
    laptop.initremote(parameters=parameters)
    round_trip(session, laptop, pieces)


def test_encrypted_to_a_key(session: Session) -> None:
    session.run(
        "gpg --batch --quiet --passphrase '' --quick-generate-key somebody@localhost default default never"
    )
    laptop = session.repository("laptop")
    laptop.initremote(parameters="type=external externaltype=swarm encryption=hybrid keyid=somebody@localhost")
    content = laptop.add(film=1_500_000)["film"]
    laptop.run("git annex copy --to vault .")
    # git-annex keeps the capability in its branch, encrypted to the key: this clone has the key, and no more.
    desktop = session.clone(laptop, "desktop")
    desktop.enableremote()
    desktop.run("git annex get film --from vault")
    assert desktop.read("film") == content
    assert desktop.capability() == laptop.capability()


@pytest.mark.parametrize("cipher", ["", "share-cipher=none"])
def test_other_content_under_the_same_key(session: Session, cipher: str) -> None:
    """gpg makes other ciphertext each time: shares of two uploads must never be mixed."""
    laptop = session.repository("laptop")
    laptop.initremote(parameters=f"{SHARED} {cipher}")
    content = laptop.add(film=3_400_000)["film"]
    laptop.run("git annex copy film --to vault")
    first = {path: path.read_bytes() for path in session.shares()}

    # Two shares survive a removal that git-annex takes for done: their stores were away.
    session.unplug("usb", "nas")
    said = laptop.run("git annex drop film --from vault")
    assert "removed, but not everywhere" in said
    session.plug("usb", "nas")
    assert len(session.shares()) == 2
    assert laptop.is_present("film") is None or laptop.is_present("film") is False

    laptop.run("git annex copy film --to vault")
    second = {path: path.read_bytes() for path in session.shares()}
    assert second.keys() == first.keys()
    assert all(second[path] != first[path] for path in first)
    assert broken_shares(session, laptop.capability("--verify")) == []
    laptop.run("git annex fsck --from vault")
    session.lose("attic", "cloud")
    laptop.run("git annex drop film")
    laptop.run("git annex get film --from vault")
    assert laptop.read("film") == content


def test_shares_of_two_uploads_are_not_mixed(session: Session) -> None:
    laptop = session.repository("laptop")
    laptop.initremote(parameters=SHARED)
    content = laptop.add(film=1_200_000)["film"]
    laptop.run("git annex copy film --to vault")
    old = {path: path.read_bytes() for path in session.shares("usb", "nas")}
    laptop.run("git annex drop film --from vault")
    laptop.run("git annex copy film --to vault")
    for path, data in old.items():
        path.write_bytes(data)
    # Two shares of the one upload, three of the other: the three can be decoded.
    assert laptop.is_present("film") is True
    laptop.run("git annex drop film")
    laptop.run("git annex get film --from vault")
    assert laptop.read("film") == content

    session.shares("attic")[0].unlink()
    # Two of each: that is four shares, and nothing that can be decoded.
    assert laptop.is_present("film") is False
    laptop.run("git annex fsck film --from vault --fast", fails=True)
    laptop.run("git annex copy film --to vault")
    assert broken_shares(session, laptop.capability("--verify")) == []
    laptop.run("git annex drop film")
    laptop.run("git annex get film --from vault")
    assert laptop.read("film") == content
