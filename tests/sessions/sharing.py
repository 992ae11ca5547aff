"""What others share with somebody who has git-annex: content, its torrents, and a remote that may fetch them."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers import make_torrent
from tests.servers.torrents import Kind
from tests.sessions.session import PARAMETERS, Repository, Session, wait_for

__all__ = ["ALBUM", "ALLOWED", "STORES", "Shared", "downloader", "forget_metainfo", "getting", "left_over"]

STORES = ("usb", "nas", "attic")
"""Two of them rebuild."""

# git-annex itself takes addresses only, and knows no ranges.
ALLOWED = "127.0.0.1 127.0.0.0/8"

ALBUM = {"a b.txt": 100_000, "empty": 0, "sub dir/c.bin": 1_500_000, "z.iso": 200_000}
"""The files of `Shared.album`, in the torrent's order, and their sizes."""


@dataclass(frozen=True)
class Shared:
    """A folder with content. No two tests have the same, so that none finds the peers of another one."""

    folder: Path

    @classmethod
    def made(cls, session: Session) -> Shared:
        folder = session.folder / "shared"
        folder.mkdir()
        return cls(folder)

    def file(self, name: str, size: int) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(f"{path} {size}").randbytes(size))
        return path

    def album(self) -> Path:
        for name, size in ALBUM.items():
            self.file(f"an album/{name}", size)
        return self.folder / "an album"

    def torrent(self, path: Path, kind: Kind = "v1", **options: object) -> Path:
        """Return the torrent of a file or a folder; each kind has a file of its own."""
        to = self.folder / f"{path.name} {kind}.torrent"
        return make_torrent(path, kind=kind, **{"to": to, **options})  # type: ignore[arg-type]


def downloader(session: Session, settings: str = "", *, allowed: str = ALLOWED) -> Repository:
    """Make a repository whose remote `vault` fetches torrents, from this machine too."""
    with (session.home / ".gitconfig").open("a") as file:
        file.write(f'[annex "security"]\n\tallowed-ip-addresses = {allowed}\n')
    laptop = session.repository("laptop")
    usual = "listen=127.0.0.1:0 dht=no transport=foreground torrent-timeout=20"
    laptop.initremote(*STORES, parameters=f"{PARAMETERS} {usual} {settings}")
    return laptop


def left_over(repository: Repository) -> list[Path]:
    """Return what is left in the folder that torrents are fetched into."""
    return list((repository.path / ".git/annex/swarm/torrents").glob("*"))


@contextmanager
def getting(repository: Repository, *names: str) -> Iterator[None]:
    """Get files, and keep git-annex and its remote running meanwhile: peers are served, as `seed-time` says."""
    repository.run("git config remote.vault.swarm-seed-time 60")
    process = repository.session.start("git annex get --batch", cwd=repository.path, typed=True)
    assert process.stdin is not None
    try:
        process.stdin.write("".join(f"{name}\n" for name in names))
        process.stdin.flush()
        wait_for(lambda: all(map(repository.has, names)), f"{names} in {repository.path}", 60)
        yield
    finally:
        said = process.communicate(timeout=repository.session.patience)
    assert process.returncode == 0, said


def forget_metainfo(session: Session) -> None:
    """Remove what was kept of torrents that were fetched once."""
    shutil.rmtree(session.home / ".cache")
