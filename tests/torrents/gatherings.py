"""A gathering of one file out of torrents without libtorrent, and a reader that watches the file grow."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from annex_remote.torrents.gather import Gathering, Part
from tests.fakes import WAIT, FakeClock
from tests.torrents.documents import BLOCK
from tests.torrents.swarm import FakeSwarm, Kind, file_of, metainfo_of, noise

__all__ = ["CONTENTS", "SIZE", "TIMEOUT", "Reader", "Rig", "until"]

TIMEOUT = 30.0
SIZE = 6 * BLOCK + 1000
CONTENTS = {"a": noise("a", 5 * BLOCK // 2), "b": noise("b", SIZE), "c": noise("c", BLOCK + 7)}
"""What is fetched is b; of v1, its first piece begins in a, and its last one ends in c."""


class Reader:
    """Reads a file that was not there as git-annex does while it grows: what was read is not looked at again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_watching = not path.exists()
        self.read = b""
        self.told: list[int] = []

    def progress(self, count: int) -> None:
        self.told.append(count)
        if self.is_watching:
            self.look()

    def look(self) -> None:
        if self.path.exists():
            with self.path.open("rb") as file:
                assert os.fstat(file.fileno()).st_size >= len(self.read), "the file got shorter"
                file.seek(len(self.read))
                self.read += file.read()


class Rig:
    """A gathering of the file b out of swarms."""

    def __init__(
        self,
        folder: Path,
        contents: dict[str, bytes] = CONTENTS,
        *,
        there: bytes | None = None,
        timeout: float = TIMEOUT,
        mix: bool = True,
    ) -> None:
        self.path = folder / "tmp"
        if there is not None:
            self.path.write_bytes(there)
        self.contents = contents
        self.reader = Reader(self.path)
        self.on_progress: Callable[[], object] = lambda: None
        self.clock = FakeClock()
        self.said: list[str] = []
        self.cancelled = threading.Event()
        self.changed = threading.Condition(threading.RLock())
        self.gathering = Gathering(
            str(self.path),
            timeout=timeout,
            mix=mix,
            progress=self._progress,
            cancelled=self.cancelled,
            changed=self.changed,
            clock=self.clock,
            tell=self.said.append,
        )

    def _progress(self, count: int) -> None:
        self.reader.progress(count)
        self.on_progress()

    def swarm(
        self,
        kind: Kind = "v1",
        length: int = BLOCK,
        *,
        contents: dict[str, bytes] | None = None,
        is_doubtful: bool = False,
    ) -> FakeSwarm:
        """Return a swarm that has the file, and take it in."""
        contents = contents or self.contents
        swarm = FakeSwarm(metainfo_of(contents, kind, length), contents, self.changed, self.clock)
        self.gathering.expect(1)
        assert self.gathering.add(Part(swarm.torrent, file_of(swarm.metainfo, "b"), is_doubtful))
        return swarm

    def wait_for(self, true: Callable[[], object]) -> None:
        """Return when something is true that comes with progress, or with what is asked for."""
        with self.changed:
            assert self.changed.wait_for(true, WAIT)

    def written(self, count: int) -> None:
        """Return when so many bytes were seen in the file."""
        until(lambda: len(self.reader.read) >= count)

    def whole(self) -> bool:
        content = self.path.read_bytes()
        return content == self.contents["b"] and (not self.reader.is_watching or content == self.reader.read)


def until(true: Callable[[], object]) -> None:
    """Return when something is true of which nobody is told."""
    deadline = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)
