"""What only a directory has: markers, leftovers, links, disks that fill, vanish or refuse."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from annex_remote.errors import BadSetting, Damaged, Denied, Exists, Full, NotFound, StoreError, Unavailable
from annex_remote.model import Store
from annex_remote.stores import check_address, directory, open_store
from annex_remote.stores.directory import DirectoryStore
from annex_remote.stores.parts import LEFTOVER_AGE
from tests.fakes import WAIT, Run, in_thread, wait_for
from tests.stores.kinds import MARKER
from tests.stores.test_contract import DATA, NAME, Halfway, assert_absent, giving, keep, listed, read

ALL_VERBS: dict[str, Callable[[Store], object]] = {
    "put": lambda store: keep(store, NAME, DATA),
    "read": lambda store: read(store, NAME),
    "stat": lambda store: store.stat(NAME),
    "age": lambda store: store.age(NAME),
    "delete": lambda store: store.delete(NAME),
    "list": lambda store: list(store.list()),
    "list one folder": lambda store: list(store.list("ab")),
    "space": lambda store: store.space(),
}


def everything(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def parts(root: Path) -> list[str]:
    return sorted(os.listdir(root / ".part")) if (root / ".part").exists() else []


def marked(root: Path) -> DirectoryStore:
    keep(DirectoryStore(str(root)), MARKER, b"marker")
    return DirectoryStore(str(root), MARKER)


# The marker.


@pytest.mark.parametrize("verb", ALL_VERBS)
@pytest.mark.parametrize("place", ["nothing", "empty", "file", "other store", "folder of the marker"])
def test_without_its_marker_a_store_is_unavailable(tmp_path: Path, place: str, verb: str) -> None:
    root = tmp_path / "mount"
    if place == "file":
        root.write_text("a file")
    elif place == "other store":
        keep(DirectoryStore(str(root)), MARKER[:-1] + "1", b"marker")
    elif place == "folder of the marker":
        (root / MARKER).parent.mkdir(parents=True)
    elif place == "empty":
        root.mkdir()
    before = everything(tmp_path)
    with pytest.raises(Unavailable, match="marker"):
        ALL_VERBS[verb](DirectoryStore(str(root), MARKER))
    assert everything(tmp_path) == before


def test_without_a_marker_the_place_is_made(tmp_path: Path) -> None:
    root = tmp_path / "several" / "new" / "folders"
    store = DirectoryStore(str(root))
    assert_absent(store, NAME)
    store.delete(NAME)
    assert not root.exists()
    keep(store, NAME, DATA)
    assert read(store, NAME) == DATA


def test_a_disk_that_goes_while_its_share_is_written_does_not_get_it(tmp_path: Path) -> None:
    root = tmp_path / "store"
    store = marked(root)
    keep(store, NAME, b"before")
    source = Halfway(DATA)
    put = Run(lambda: store.put(NAME, len(DATA), source))
    wait_for(source.reached)
    (root / MARKER).unlink()
    source.release.set()
    with pytest.raises(Unavailable, match="marker"):
        put.join()
    assert (root / NAME).read_bytes() == b"before"
    assert parts(root) == []


# Writers that died.


def test_a_killed_writer_leaves_nothing_to_be_seen(tmp_path: Path) -> None:
    root = tmp_path / "store"
    keep(DirectoryStore(str(root)), NAME, b"before")
    other = NAME[:-1] + "1"
    program = textwrap.dedent(f"""
        import sys, time
        from annex_remote.stores.directory import DirectoryStore
        def source(offset):
            yield bytes(200_000)
            print("half", flush=True)
            time.sleep({WAIT})
        DirectoryStore({str(root)!r}).put(sys.argv[1], 300_000, source)
    """)
    for name in (NAME, other):
        writer = subprocess.Popen([sys.executable, "-c", program, name], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"half\n"
        writer.send_signal(signal.SIGKILL)
        assert writer.wait(WAIT) == -signal.SIGKILL
        writer.stdout.close()
    store = DirectoryStore(str(root))
    assert listed(store) == [(NAME, 6)]
    assert read(store, NAME) == b"before"
    assert_absent(store, other)
    assert len(parts(root)) == 2
    keep(store, other, DATA)
    assert read(store, other) == DATA
    assert len(parts(root)) == 2  # they are young: their writer might be alive


def left_over(root: Path, which: str, age: float) -> str:
    """Leave a file behind, as a writer that was killed `age` seconds ago."""
    name = NAME.removeprefix("ab/") + "." + which * 16
    (root / ".part" / name).write_bytes(b"left over")
    os.utime(root / ".part" / name, (time.time() - age,) * 2)
    return name


def test_leftovers_go_when_they_are_a_day_old(tmp_path: Path) -> None:
    root = tmp_path / "store"
    keep(DirectoryStore(str(root)), NAME, DATA)
    old = left_over(root, "a", LEFTOVER_AGE + 60)
    stay = [
        left_over(root, "b", LEFTOVER_AGE - 60),
        left_over(root, "c", 0.0),
        left_over(root, "d", -LEFTOVER_AGE),
    ]
    # Nothing of ours, and no business of ours.
    for other in ("notes.txt", "folder", "link"):
        path = root / ".part" / other
        if other == "folder":
            path.mkdir()
        elif other == "link":
            path.symlink_to("/nowhere")
        else:
            path.write_text("kept")
        os.utime(path, (1, 1), follow_symlinks=False)
        stay.append(other)
    store = DirectoryStore(str(root))
    list(store.list())
    store.stat(NAME)
    assert parts(root) == sorted([old, *stay])  # only who writes tidies up
    keep(store, NAME, b"next")
    assert read(store, NAME) == b"next"
    assert parts(root) == sorted(stay)


def test_sweeping_is_done_once(tmp_path: Path) -> None:
    root = tmp_path / "store"
    store = DirectoryStore(str(root))
    keep(store, NAME, DATA)
    old = left_over(root, "a", LEFTOVER_AGE + 60)
    keep(store, NAME, DATA)
    assert parts(root) == [old]


@pytest.mark.parametrize("folder", [".part", "ab"])
@pytest.mark.parametrize("marker", [None, MARKER])
def test_nothing_is_written_or_swept_through_a_link(tmp_path: Path, folder: str, marker: str | None) -> None:
    root, outside = tmp_path / "store", tmp_path / "outside"
    marked(root)
    outside.mkdir()
    if (root / folder).exists():
        (root / folder).rmdir()
    (root / folder).symlink_to(outside)
    stranger = outside / (NAME.removeprefix("ab/") + "." + "a" * 16)
    stranger.write_bytes(b"not ours")
    os.utime(stranger, (1, 1))
    with pytest.raises(Unavailable):
        keep(DirectoryStore(str(root), marker), NAME, DATA)
    assert [path.name for path in outside.iterdir()] == [stranger.name]


def test_a_store_that_came_to_nothing_leaves_no_folders(tmp_path: Path) -> None:
    root = tmp_path / "several" / "new" / "folders"
    store = DirectoryStore(str(root))
    with pytest.raises(Damaged):
        store.put(NAME, 5, giving(DATA))
    store.close()
    assert everything(tmp_path) == []
    keep(store, NAME, DATA)
    store.close()
    assert read(store, NAME) == DATA


# Links and things that are no files.


def test_links_are_not_followed_where_it_matters(tmp_path: Path) -> None:
    root, outside = tmp_path / "store", tmp_path / "outside"
    outside.write_bytes(b"not ours")
    store = DirectoryStore(str(root))
    (root / NAME).parent.mkdir(parents=True)
    (root / NAME).symlink_to(outside)
    assert listed(store) == []
    store.delete(NAME)
    assert outside.read_bytes() == b"not ours"
    (root / NAME).symlink_to(outside)
    keep(store, NAME, DATA)
    assert outside.read_bytes() == b"not ours"
    assert not (root / NAME).is_symlink()
    assert read(store, NAME) == DATA


def test_a_link_that_leads_nowhere_is_no_share(tmp_path: Path) -> None:
    store = DirectoryStore(str(tmp_path))
    (tmp_path / "ab").mkdir()
    (tmp_path / NAME).symlink_to(tmp_path / "gone")
    assert_absent(store, NAME)
    keep(store, NAME, DATA)
    assert read(store, NAME) == DATA
    assert not (tmp_path / "gone").exists()


def test_a_link_to_itself_says_nothing_about_shares(tmp_path: Path) -> None:
    store = DirectoryStore(str(tmp_path))
    (tmp_path / "ab").symlink_to(tmp_path / "ab")
    for verb in (lambda: store.stat(NAME), lambda: read(store, NAME), lambda: store.delete(NAME)):
        with pytest.raises(Unavailable):
            verb()


def test_the_root_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    store = DirectoryStore(str(tmp_path / "link"))
    keep(store, NAME, DATA)
    assert read(DirectoryStore(str(tmp_path / "disk")), NAME) == DATA
    assert listed(store) == [(NAME, len(DATA))]


@pytest.mark.parametrize("thing", ["folder", "fifo", "file for a folder"])
@pytest.mark.parametrize("marker", [None, MARKER])
def test_what_is_no_file_is_no_share_and_blocks_nobody(tmp_path: Path, thing: str, marker: str | None) -> None:
    marked(tmp_path)
    store = DirectoryStore(str(tmp_path), marker)
    if thing == "file for a folder":
        (tmp_path / "ab").write_bytes(b"not a folder")
    else:
        (tmp_path / "ab").mkdir()
        os.mkfifo(tmp_path / NAME) if thing == "fifo" else (tmp_path / NAME).mkdir()
    assert listed(store) == []
    with pytest.raises(StoreError):
        in_thread(lambda: read(store, NAME))
    with pytest.raises(NotFound if thing == "file for a folder" else Unavailable):
        store.age(NAME)
    if thing != "fifo":  # a rename replaces that
        with pytest.raises(Unavailable):
            keep(store, NAME, DATA)
    assert parts(tmp_path) == []


def test_a_file_that_is_cut_while_it_is_read_is_damaged(tmp_path: Path) -> None:
    store = DirectoryStore(str(tmp_path))
    big = bytes(3 << 20)
    keep(store, NAME, big)
    with store.read(NAME) as stream:
        pieces = iter(stream)
        next(pieces)
        os.truncate(tmp_path / NAME, 1000)
        with pytest.raises(Damaged):
            list(pieces)


def test_reading_closes_its_file(tmp_path: Path) -> None:
    store = DirectoryStore(str(tmp_path))
    keep(store, NAME, DATA)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        read(store, NAME)
        with store.read(NAME) as stream:
            next(iter(stream))
        with pytest.raises(NotFound):
            store.read(NAME[:-1] + "1")
    assert len(os.listdir("/proc/self/fd")) == before


# Disks that are full, or refuse. Where no disk can be mounted, `FaultyOs` below says what such a disk would say.


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Mount something, until the test ends: ``mount(path, "-t", "tmpfs", ...)``."""
    mounted: list[Path] = []

    def run(path: Path, *words: str) -> None:
        path.mkdir(exist_ok=True)
        done = subprocess.run(["mount", *words, str(path)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no mounting here ({done.stderr.strip()}); the tests with FaultyOs stand for this one")
        mounted.append(path)

    yield run
    for path in reversed(mounted):
        subprocess.run(["umount", "--lazy", str(path)], capture_output=True, check=False)


def test_a_full_disk_is_full_and_keeps_nothing(tmp_path: Path, mount: Callable[..., None]) -> None:
    root = tmp_path / "disk"
    mount(root, "-t", "tmpfs", "-o", "size=1m", "tmpfs")
    store = marked(root)
    keep(store, NAME, DATA)
    other = NAME[:-1] + "1"
    big = DATA * 4
    with pytest.raises(Full):
        keep(store, other, big)
    with pytest.raises(Full):
        keep(store, NAME, big)
    assert_absent(store, other)
    assert read(store, NAME) == DATA
    assert parts(root) == []
    keep(store, other, DATA)  # there is as much room as before


def test_a_file_that_may_not_grow_is_full_and_keeps_nothing(tmp_path: Path) -> None:
    root = tmp_path / "store"
    program = textwrap.dedent(f"""
        import resource
        from annex_remote.errors import Full
        from annex_remote.stores.directory import DirectoryStore
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            DirectoryStore({str(root)!r}).put({NAME!r}, 200_000, lambda at: [bytes(200_000 - at)])
        except Full:
            print("full")
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=WAIT
    )
    assert done.stdout == "full\n"
    assert_absent(DirectoryStore(str(root)), NAME)
    assert parts(root) == []


def test_a_read_only_disk_refuses_and_can_be_read(tmp_path: Path, mount: Callable[..., None]) -> None:
    disk, root = tmp_path / "disk", tmp_path / "mounted"
    keep(marked(disk), NAME, DATA)
    mount(root, "--bind", "-o", "ro", str(disk))
    subprocess.run(["mount", "-o", "remount,bind,ro", str(root)], check=True)
    assert_refused(DirectoryStore(str(root), MARKER), root)


def test_folders_that_may_not_be_written_refuse_and_can_be_read(tmp_path: Path) -> None:
    """As any user but root, whom permissions do not stop: what the kernel would say is said for it then."""
    root = tmp_path / "store"
    keep(marked(root), NAME, DATA)
    store = DirectoryStore(str(root), MARKER)
    if os.geteuid() == 0:
        refused = FaultyOs({"open": errno.EACCES, "unlink": errno.EACCES, "mkdir": errno.EACCES}, writing=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(directory, "os", refused)
            assert_refused(store, root)
        return
    folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert_refused(store, root)
    finally:
        for folder in folders:
            folder.chmod(0o755)


def assert_refused(store: DirectoryStore, root: Path) -> None:
    before = everything(root)
    for name in (NAME, "cd/cd" + "4" * 30 + ".0"):
        with pytest.raises(Denied):
            keep(store, name, DATA)
    with pytest.raises(Denied):
        store.delete(NAME)
    assert everything(root) == before
    assert read(store, NAME) == DATA
    assert listed(store) == [(NAME, len(DATA))]


def test_a_disk_that_is_unmounted_under_a_put_is_not_replaced_by_its_mount_point(
    tmp_path: Path, mount: Callable[..., None]
) -> None:
    root = tmp_path / "mounted"
    mount(root, "-t", "tmpfs", "-o", "size=2m", "tmpfs")
    store = marked(root)
    source = Halfway(DATA)
    put = Run(lambda: store.put(NAME, len(DATA), source))
    wait_for(source.reached)
    subprocess.run(["umount", "--lazy", str(root)], check=True)
    source.release.set()
    with pytest.raises(Unavailable, match="marker"):
        put.join()
    assert everything(root) == []
    for verb in ALL_VERBS.values():
        with pytest.raises(Unavailable, match="marker"):
            verb(store)
    assert everything(root) == []


class FaultyOs:
    """The module `os`, of which the functions in `faults` fail with an errno; with `writing`, only to write."""

    def __init__(self, faults: dict[str, int], *, writing: bool = False) -> None:
        self._faults = faults
        self._writing = writing

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in self._faults:
            return real
        number = self._faults[name]

        def fails(*args: Any, **kwargs: Any) -> Any:
            if self._writing and name == "open" and not args[1] & os.O_CREAT:
                return real(*args, **kwargs)
            raise OSError(number, os.strerror(number))

        return fails


KINDS_OF_ERROR = {
    errno.ENOSPC: Full,
    errno.EDQUOT: Full,
    errno.EROFS: Denied,
    errno.EACCES: Denied,
    errno.EPERM: Denied,
    errno.EIO: Unavailable,
    errno.ESTALE: Unavailable,
    errno.ENODEV: Unavailable,
    errno.ENOTCONN: Unavailable,
    errno.ETIMEDOUT: Unavailable,
    errno.EMFILE: Unavailable,
}


@pytest.mark.parametrize("number", KINDS_OF_ERROR, ids=errno.errorcode.get)
def test_each_errno_has_its_kind_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store = marked(tmp_path)
    keep(store, NAME, b"before")
    before = everything(tmp_path)
    steps: dict[str, list[Callable[[Store], object]]] = {
        "open": [ALL_VERBS["put"], ALL_VERBS["read"]],
        "write": [ALL_VERBS["put"]],
        "fsync": [ALL_VERBS["put"]],
        "rename": [ALL_VERBS["put"]],
        "mkdir": [lambda store: keep(store, "cd/cd" + "4" * 30 + ".0", DATA)],
        "stat": [ALL_VERBS["put"], ALL_VERBS["stat"], ALL_VERBS["age"], ALL_VERBS["list"], ALL_VERBS["space"]],
        "pread": [ALL_VERBS["read"]],
        "unlink": [ALL_VERBS["delete"]],
        "listdir": [ALL_VERBS["list"]],
        "scandir": [ALL_VERBS["list"], ALL_VERBS["list one folder"]],
        "statvfs": [ALL_VERBS["space"]],
    }
    for function, verbs in steps.items():
        for verb in verbs:
            with monkeypatch.context() as patch:
                patch.setattr(directory, "os", FaultyOs({function: number}))
                expected = Unavailable if function == "pread" else KINDS_OF_ERROR[number]
                with pytest.raises(expected):
                    verb(store)
        assert read(store, NAME) == b"before", function
        assert everything(tmp_path) == before, function


def test_a_file_system_that_cannot_sync_folders_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoFolderSync(FaultyOs):
        def fsync(self, descriptor: int) -> None:
            if os.path.isdir(os.readlink(f"/proc/self/fd/{descriptor}")):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            os.fsync(descriptor)

    monkeypatch.setattr(directory, "os", NoFolderSync({}))
    store = DirectoryStore(str(tmp_path))
    keep(store, NAME, DATA)
    store.delete(NAME)
    assert_absent(store, NAME)


def test_a_fresh_put_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
        root = tmp_path / errno.errorcode[number]
        store = DirectoryStore(str(root))
        monkeypatch.setattr(directory, "os", FaultyOs({"link": number}))
        keep(store, NAME, DATA, fresh=True)
        with pytest.raises(Exists, match="is there already"):
            keep(store, NAME, b"other", fresh=True)
        assert read(store, NAME) == DATA
        assert os.listdir(root / ".part") == []


def test_a_fresh_put_leaves_no_other_name_of_it(tmp_path: Path) -> None:
    store = DirectoryStore(str(tmp_path))
    keep(store, NAME, DATA, fresh=True)
    assert (tmp_path / NAME).stat().st_nlink == 1
    for data in (b"other", b""):
        with pytest.raises(Exists):
            keep(store, NAME, data, fresh=True)
    assert os.listdir(tmp_path / ".part") == []


def test_a_fresh_put_does_not_follow_a_link(tmp_path: Path) -> None:
    (tmp_path / "root" / NAME).parent.mkdir(parents=True)
    (tmp_path / "root" / NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Exists):
        keep(DirectoryStore(str(tmp_path / "root")), NAME, DATA, fresh=True)
    assert not (tmp_path / "elsewhere").exists()


def test_a_name_that_vanishes_while_listing_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DirectoryStore(str(tmp_path))
    other = NAME[:-1] + "1"
    keep(store, NAME, DATA)
    keep(store, other, DATA)
    names = store.list()
    assert next(names)[0] == NAME
    store.delete(other)
    assert [name for name, _ in names] in ([], [other])


def test_space_is_what_the_file_system_says(tmp_path: Path) -> None:
    figures = os.statvfs(tmp_path)
    space = DirectoryStore(str(tmp_path)).space()
    assert space is not None
    assert abs(space - figures.f_bavail * figures.f_frsize) < 1 << 30


def test_two_threads_make_one_store_at_once(tmp_path: Path) -> None:
    for turn in range(20):
        root = tmp_path / f"store{turn}" / "deep"
        start = threading.Barrier(4)

        def work(which: int, root: Path = root, start: threading.Barrier = start) -> None:
            start.wait(WAIT)
            keep(DirectoryStore(str(root)), NAME[:-1] + str(which), DATA[:100])

        for run in [Run(partial(work, which)) for which in range(4)]:
            run.join()
        assert len(listed(DirectoryStore(str(root)))) == 4


# Addresses.


@pytest.mark.parametrize(
    ("address", "form"),
    [
        ("dir:/media/usb", "dir:/media/usb"),
        ("dir:/media//usb/", "dir:/media/usb"),
        ("dir:/media/./usb/../disk", "dir:/media/disk"),
        ("dir:/media/a b=c", "dir:/media/a b=c"),
    ],
)
def test_an_address_has_one_form(address: str, form: str) -> None:
    assert check_address(address) == form
    assert check_address(form) == form


@pytest.mark.parametrize(
    "address", ["", "dir", "dir:", "dir:relative", "dir:~/annex", "/media/usb", "DIR:/a", "ftp:/a", "os:/a"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(BadSetting) as refused:
        check_address(address)
    assert repr(address) in str(refused.value)


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadSetting, match="a file, not a directory"):
        check_address(f"dir:{tmp_path}/file")
    # Opening does not look, since a dead mount would not answer; what is asked then says that it is not there.
    with pytest.raises(Unavailable):
        open_store(f"dir:{tmp_path}/file", MARKER).stat(NAME)


def test_a_file_of_before_there_were_shares_has_no_age(tmp_path: Path) -> None:
    """It was written by a machine that did not know the time."""
    store = DirectoryStore(str(tmp_path))
    keep(store, NAME, DATA)
    for put in (0, 86400, time.mktime((2000, 1, 2, 0, 0, 0, 0, 0, 0))):
        os.utime(tmp_path / NAME, (put, put))
        assert store.age(NAME) is None


def test_many_small_pieces_are_one_file(tmp_path: Path) -> None:
    store = DirectoryStore(str(tmp_path))
    store.put(NAME, 5000, giving(DATA[:5000], piece=3))
    assert read(store, NAME) == DATA[:5000]
