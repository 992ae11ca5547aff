"""Every kind of store that the contract is tested on: one line each in `KINDS`."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest

from annex_remote.errors import Unavailable
from annex_remote.model import Access, Login, OpenAt, Store
from annex_remote.stores import open_store
from annex_remote.stores.throttle import Bucket, Throttled
from annex_remote.stores.wrappers import Marked, Measured, Retrying, Watched
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
from tests.servers import (
    Account,
    S3Server,
    Server,
    Sshd,
    WebServer,
    apache_dav,
    make_certificates,
    moto,
    nginx_dav,
    nginx_static,
    rclone_dav,
    require,
    rgw,
    sshd,
    wsgidav,
)

__all__ = ["KINDS", "MARKER", "Subject", "directory_with_marker", "shared"]

MARKER = "zz/zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz.s0"
"""What a store may have before a test begins; no test counts it."""


@dataclass(frozen=True)
class Subject:
    """A store to test, and its back door: `plant` puts something there under any name, past all checks.

    `date` says when something was put there, in seconds since 1970; None where a server does not let us.
    """

    store: Store
    plant: Callable[[str, bytes], None]
    date: Callable[[str, float], None] | None = None
    replaces_in_steps: bool = False
    """True for a server that takes a file away before it puts another one in its place: for a moment there is
    none, or one with the other's length. No store can mend that; a share that is wrong does not prove."""
    looks_first: bool = False
    """True for a server that looks whether a name is taken before it gives it away: several may find it free."""
    threads: int = 24
    """How many use it at once in a test; fewer for one that makes each request wait."""


S = TypeVar("S", bound=Server)

Maker = Callable[[Path, ExitStack], Subject]
"""Makes a store whose things are in a folder of its own; the stack is left when the test is over."""


class Shared:
    """Servers that are started once for all tests of a process; each test has a place of its own on them."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._servers: dict[str, Server] = {}
        self._places = count()

    def server(self, kind: Callable[[Path], S]) -> S:
        """Return the server that `kind` starts in a folder, started by now."""
        server = self._servers.get(kind.__name__)
        if server is None:
            folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix=f"swarm-{kind.__name__}-"))
            server = self._servers[kind.__name__] = self._stack.enter_context(kind(Path(folder)))
        return server  # type: ignore[return-value] # what is kept under a kind's name is of this kind

    def place(self) -> str:
        """Return a name that no other test has."""
        return f"place-{next(self._places)}"

    def close(self) -> None:
        self._stack.close()
        self._servers.clear()


shared = Shared()


def _planting_in(root: Path) -> Callable[[str, bytes], None]:
    def plant(name: str, data: bytes) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return plant


def _dating_in(root: Path) -> Callable[[str, float], None]:
    return lambda name, put: os.utime(root / name, (put, put))


def _in_folder(store: Store, root: Path, **more: Any) -> Subject:
    """Return a store of what is in a folder of this machine, where its back door leads to."""
    return Subject(store, _planting_in(root), _dating_in(root), **more)


def directory(folder: Path, _: ExitStack) -> Subject:
    root = folder / "store"
    return _in_folder(open_store(f"dir:{root}"), root)


def directory_with_marker(folder: Path, _: ExitStack) -> Subject:
    root = folder / "store"
    open_store(f"dir:{root}").put(MARKER, 6, lambda at: [b"marker"[at:]])
    return _in_folder(open_store(f"dir:{root}", MARKER), root)


def _over_dav(server: WebServer, *, replaces_in_steps: bool = False) -> Subject:
    place = shared.place()
    access = Access(Login(server.account.user, server.account.password) if server.account else None)
    store = open_store(f"dav://{server.host}:{server.port}/{place}", None, access)
    return _in_folder(store, server.root / place, replaces_in_steps=replaces_in_steps, looks_first=True)


def _nginx(folder: Path) -> WebServer:
    return nginx_dav(folder, account=Account())


def _apache(folder: Path) -> WebServer:
    return apache_dav(folder, account=Account(), digest=True)


def _wsgidav(folder: Path) -> WebServer:
    return wsgidav(folder, account=Account())


def _rclone(folder: Path) -> WebServer:
    return rclone_dav(folder, account=Account())


def webdav_on_nginx(_: Path, __: ExitStack) -> Subject:
    return _over_dav(shared.server(_nginx))


def webdav_on_apache(_: Path, __: ExitStack) -> Subject:
    return _over_dav(shared.server(_apache), replaces_in_steps=True)


def webdav_on_wsgidav(_: Path, __: ExitStack) -> Subject:
    return _over_dav(shared.server(_wsgidav), replaces_in_steps=True)


def webdav_on_rclone(_: Path, __: ExitStack) -> Subject:
    return _over_dav(shared.server(_rclone), replaces_in_steps=True)


def _over_s3(server: S3Server) -> Subject:
    bucket = server.create_bucket(shared.place())
    login = Login(server.keys.access_key, server.keys.secret_key)
    option = f"ca={server.certificate.authority}" if server.certificate else "http=yes"
    address = f"s3://{server.host}:{server.port}/{bucket}/annex?{option}"
    return Subject(open_store(address, None, Access(login)), _planting_in_bucket(server, bucket))


def _planting_in_bucket(server: S3Server, bucket: str) -> Callable[[str, bytes], None]:
    def plant(name: str, data: bytes) -> None:
        answer = server.request("PUT", f"/{bucket}/annex/{name}", body=data)
        if not (answer.status_code == 404 and "\n" in name):  # moto has no such names
            answer.raise_for_status()

    return plant


def s3_on_ceph(_: Path, __: ExitStack) -> Subject:
    return _over_s3(shared.server(rgw))


def s3_on_moto(_: Path, __: ExitStack) -> Subject:
    return _over_s3(shared.server(moto))


def s3_on_ceph_over_tls(_: Path, __: ExitStack) -> Subject:
    """Over TLS, what is sent is signed otherwise."""
    return _over_s3(shared.server(_ceph_over_tls))


def _ceph_over_tls(folder: Path) -> S3Server:
    return rgw(_made(folder / "server"), certificate=make_certificates(folder / "tls").good)


def _made(path: Path) -> Path:
    path.mkdir()
    return path


def sftp(_: Path, stack: ExitStack) -> Subject:
    server = shared.server(_sshd)
    _set_in_environment(stack, server.client.environment)
    place = shared.place()
    return _in_folder(open_store(f"{server.url}/{place}"), server.root / place)


def _sshd(folder: Path) -> Sshd:
    return sshd(folder, sftp="external")


def _set_in_environment(stack: ExitStack, variables: Mapping[str, str]) -> None:
    patch = stack.enter_context(pytest.MonkeyPatch.context())
    for name, value in variables.items():
        patch.setenv(name, value)


def _over_rclone(stack: ExitStack, path: str) -> Store:
    """Open a store by a remote of the one configuration that rclone, which runs for the whole process, knows."""
    require("rclone")
    server, bucket = shared.server(_open_nginx), shared.server(rgw)
    configuration = server.folder / "rclone.conf"
    if not configuration.exists():
        configuration.write_text(
            "[folder]\ntype = local\n"
            f"[dav]\ntype = webdav\nurl = {server.url}\nvendor = other\n"
            f"[s3]\ntype = s3\nprovider = Ceph\nendpoint = {bucket.url}\nregion = {bucket.region}\n"
            f"access_key_id = {bucket.keys.access_key}\nsecret_access_key = {bucket.keys.secret_key}\n"
        )
    _set_in_environment(stack, {"RCLONE_CONFIG": str(configuration)})
    return open_store(f"rclone:{path}")


def _open_nginx(folder: Path) -> WebServer:
    return nginx_dav(folder)


def rclone_to_a_folder(folder: Path, stack: ExitStack) -> Subject:
    root = folder / "store"
    return _in_folder(_over_rclone(stack, f"folder:{root}"), root)


def rclone_to_webdav(_: Path, stack: ExitStack) -> Subject:
    root = shared.server(_open_nginx).root / shared.place()
    # rclone leaves 10 ms between two requests to a WebDAV server.
    return _in_folder(_over_rclone(stack, f"dav:{root.name}"), root, replaces_in_steps=True, threads=6)


def rclone_to_s3(_: Path, stack: ExitStack) -> Subject:
    server = shared.server(rgw)
    bucket = server.create_bucket(shared.place())
    return Subject(_over_rclone(stack, f"s3:{bucket}/annex"), _planting_in_bucket(server, bucket))


def web(_: Path, __: ExitStack) -> Subject:
    """What a web server publishes: a directory store writes it."""
    server = shared.server(_static_nginx)
    place = shared.place()
    root = server.root / place
    # Where a server shows nothing of ours, nobody can tell whether it shows its folders at all.
    _planting_in(root)(MARKER, b"marker")
    access = Access(Login(Account().user, Account().password))
    reading = open_store(f"http://{server.host}:{server.port}/{place}", None, access)
    return _in_folder(ReadThrough(open_store(f"dir:{root}"), reading), root)


def _static_nginx(folder: Path) -> WebServer:
    return nginx_static(folder, account=Account())


class ReadThrough(Around):
    """Writes to one store, and reads what is there through another one."""

    def __init__(self, written: Store, read: Store) -> None:
        super().__init__(read)
        self._written = written

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        self._written.put(name, size, open_at, fresh=fresh)

    def delete(self, name: str) -> None:
        self._written.delete(name)


def memory(_: Path, __: ExitStack, piece: int = 100_000) -> Subject:
    store = MemoryStore(piece)
    return Subject(store, store.contents.__setitem__, store.times.__setitem__)


def _around(wrap: Callable[[Store], Store], make: Maker = memory) -> Maker:
    def made(folder: Path, stack: ExitStack) -> Subject:
        subject = make(folder, stack)
        return replace(subject, store=wrap(subject.store))

    return made


def _marked(folder: Path, stack: ExitStack) -> Subject:
    subject = memory(folder, stack)
    subject.plant(MARKER, b"marker")
    return replace(subject, store=Marked(subject.store, MARKER))


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
    "s3-ceph": s3_on_ceph,
    "s3-moto": s3_on_moto,
    "s3-ceph-tls": s3_on_ceph_over_tls,
    "sftp": sftp,
    "rclone-folder": rclone_to_a_folder,
    "rclone-webdav": rclone_to_webdav,
    "rclone-s3": rclone_to_s3,
    "web": web,
    # Wrappers of the program.
    "watched": _around(lambda store: Watched(store, 30.0)),
    "retrying": _around(Retrying),
    "measured": _around(Measured),
    "throttled": _around(lambda store: Throttled(store, [Bucket(1e12)], [Bucket(1e12)])),
    "marked": _marked,
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
