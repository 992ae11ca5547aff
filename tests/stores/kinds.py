"""Every kind of store that the contract is tested on: one line each in `KINDS`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from annex_remote.errors import Unavailable
from annex_remote.model import Access, Login, Store
from annex_remote.stores import open_store
from annex_remote.stores.wrappers import Watched
from tests.fakes import (
    Around,
    Corrupting,
    Failing,
    FakeClock,
    Filling,
    Flaky,
    Hanging,
    Lying,
    MemoryStore,
    Recording,
    Resuming,
    Slow,
)
from tests.servers import Account, WebServer, apache_dav, nginx_dav, rclone_dav, wsgidav

__all__ = ["KINDS", "MARKER", "Subject", "directory_with_marker"]

MARKER = "zz/zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz.s0"
"""What a store may have before a test begins; no test counts it."""


@dataclass(frozen=True)
class Subject:
    """A store to test, and its back door: `plant` puts something there under any name, past all checks."""

    store: Store
    plant: Callable[[str, bytes], None]
    replaces_in_steps: bool = False
    """True for a server that takes a file away before it puts another one in its place: for a moment there is
    none, or one with the other's length. No store can mend that; a share that is wrong does not prove."""


Maker = Callable[[Path, ExitStack], Subject]
"""Makes a store whose things are in a folder of its own; the stack is left when the test is over."""


def _planting_in(root: Path) -> Callable[[str, bytes], None]:
    def plant(name: str, data: bytes) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return plant


def directory(folder: Path, _: ExitStack) -> Subject:
    root = folder / "store"
    return Subject(open_store(f"dir:{root}"), _planting_in(root))


def directory_with_marker(folder: Path, _: ExitStack) -> Subject:
    root = folder / "store"
    open_store(f"dir:{root}").put(MARKER, 6, lambda at: [b"marker"[at:]])
    return Subject(open_store(f"dir:{root}", MARKER), _planting_in(root))


def _over_dav(server: WebServer, *, replaces_in_steps: bool = False) -> Subject:
    root = server.root / "annex"
    access = Access(Login(server.account.user, server.account.password) if server.account else None)
    scheme = "davs" if server.certificate else "dav"
    store = open_store(f"{scheme}://{server.host}:{server.port}/annex", None, access)
    return Subject(store, _planting_in(root), replaces_in_steps)


def webdav_on_nginx(folder: Path, stack: ExitStack) -> Subject:
    return _over_dav(stack.enter_context(nginx_dav(folder / "nginx", account=Account())))


def webdav_on_apache(folder: Path, stack: ExitStack) -> Subject:
    server = stack.enter_context(apache_dav(folder / "apache", account=Account(), digest=True))
    return _over_dav(server, replaces_in_steps=True)


def webdav_on_wsgidav(folder: Path, stack: ExitStack) -> Subject:
    server = stack.enter_context(wsgidav(folder / "wsgidav", account=Account()))
    return _over_dav(server, replaces_in_steps=True)


def webdav_on_rclone(folder: Path, stack: ExitStack) -> Subject:
    server = stack.enter_context(rclone_dav(folder / "rclone", account=Account()))
    return _over_dav(server, replaces_in_steps=True)


def memory(_: Path, __: ExitStack, piece: int = 100_000) -> Subject:
    store = MemoryStore(piece)
    return Subject(store, store.contents.__setitem__)


def _around(wrap: Callable[[Store], Store], make: Maker = memory) -> Maker:
    def made(folder: Path, stack: ExitStack) -> Subject:
        subject = make(folder, stack)
        return Subject(wrap(subject.store), subject.plant)

    return made


def _set() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


def _no_error() -> Unavailable:
    return Unavailable("a store that is well failed")


KINDS: dict[str, Maker] = {
    "directory": directory,
    "directory-with-marker": directory_with_marker,
    "memory": memory,
    "memory-in-small-pieces": partial(memory, piece=7),
    "webdav-nginx": webdav_on_nginx,
    "webdav-apache": webdav_on_apache,
    "webdav-wsgidav": webdav_on_wsgidav,
    "webdav-rclone": webdav_on_rclone,
    # Wrappers of the program.
    "watched": _around(lambda store: Watched(store, 30.0)),
    "watched-directory": _around(lambda store: Watched(store, 30.0), directory_with_marker),
    # Fakes that do nothing wrong: what goes wrong with them elsewhere is what they were told to do.
    "around": _around(Around),
    "recording": _around(Recording),
    "slow": _around(lambda store: Slow(store, _set(), after=1, clock=FakeClock(), step=1.0)),
    "hanging": _around(lambda store: Hanging(store, _set(), verbs=())),
    "failing": _around(lambda store: Failing(store, _no_error, verbs=())),
    "flaky": _around(lambda store: Flaky(store, _no_error, times=0)),
    "corrupting": _around(lambda store: Corrupting(store, where=())),
    "filling": _around(lambda store: Filling(store, room=1 << 40)),
    "lying": _around(Lying),
    "resuming": _around(lambda store: Resuming(store, breaks_after=100, goes_on_at=37)),
    "resuming-directory": _around(lambda store: Resuming(store, 300_000, 65_536), directory_with_marker),
    "restarting": _around(lambda store: Resuming(store, breaks_after=50, goes_on_at=0), directory),
}
