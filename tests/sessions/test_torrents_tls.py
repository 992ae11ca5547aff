"""Trackers and web seeds behind TLS: whose certificate nobody vouches for is not believed, and it is said."""

from __future__ import annotations

import shutil
from urllib.parse import quote

import pytest

from tests.servers import Certificate, Certificates, LibtorrentPeer, ToldTracker, make_certificates, nginx_static
from tests.sessions.session import Repository, Session
from tests.sessions.sharing import Shared, downloader, left_over

SIZE = 1 << 20


@pytest.fixture
def laptop(session: Session) -> Repository:
    laptop = downloader(session)
    laptop.run("git config remote.vault.swarm-torrent-timeout 2")
    return laptop


@pytest.fixture
def certificates(session: Session) -> Certificates:
    return make_certificates(session.folder / "certificates")


def add(laptop: Repository, url: str, certificate: Certificate, *, fails: bool) -> str:
    """Add a file, with `SSL_CERT_FILE` as OpenSSL knows it, and return what was said of it."""
    env = {"SSL_CERT_FILE": str(certificate.authority)}
    return laptop.run(f"git annex addurl --raw-except=vault '{url}' --file film", env=env, fails=fails).plain


@pytest.mark.parametrize("name", ["good", "stranger", "wrong_name", "expired"])
def test_a_web_seed(
    name: str, session: Session, shared: Shared, laptop: Repository, certificates: Certificates
) -> None:
    film = shared.file("film.bin", SIZE)
    certificate = getattr(certificates, name)
    with nginx_static(session.folder / "web", certificate=certificate) as web:
        shutil.copy(film, web.root)
        seed = f"{web.url}/film.bin"
        url = f"file://{quote(str(shared.torrent(film, web_seeds=[seed])))}"
        said = add(laptop, url, certificate, fails=name != "good")
        asked = (web.folder / "access.log").read_text()
        if name == "good":
            assert laptop.read("film") == film.read_bytes()
            assert left_over(laptop) == []
            assert "GET /film.bin" in asked
        else:
            assert f"web seed {seed}: " in said
            assert asked == ""


@pytest.mark.parametrize("name", ["good", "stranger"])
def test_a_tracker(
    name: str,
    session: Session,
    shared: Shared,
    laptop: Repository,
    certificates: Certificates,
    peer: LibtorrentPeer,
) -> None:
    film = shared.file("film.bin", SIZE)
    certificate = getattr(certificates, name)
    with ToldTracker([peer.address], certificate=certificate) as tracker:
        assert tracker.announce.startswith("https:")
        torrent = shared.torrent(film, trackers=[tracker.announce])
        peer.seed(torrent, shared.folder)
        said = add(laptop, f"file://{quote(str(torrent))}", certificate, fails=name != "good")
        if name == "good":
            assert laptop.read("film") == film.read_bytes()
            assert left_over(laptop) == []
        else:
            assert tracker.asked == []
            assert f"tracker {tracker.announce}: certificate verify failed" in said
