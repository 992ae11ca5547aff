"""Whatever rclone can reach as a store. Address ``rclone:REMOTE:PATH``: a remote of the user's, and a path."""

from __future__ import annotations

import os
import posixpath
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

from annex_remote.errors import (
    BadSetting,
    Busy,
    Damaged,
    Denied,
    Exists,
    Full,
    NotFound,
    StoreError,
    SwarmError,
    Unavailable,
)
from annex_remote.model import Access, ByteStream, OpenAt, check_name
from annex_remote.stores.parts import LEFTOVER_AGE, is_folder_name, is_part_name, missing_space, part_name
from annex_remote.stores.rcd import Body, RefusedError, rclone
from annex_remote.stores.rcd_upload import upload, whole
from annex_remote.stores.times import elapsed

__all__ = ["RcloneStore", "check", "open_store"]

_REMOTE = re.compile(r"[\w.+@]+([ -]+[\w.+@-]+)*\Z")
"""What rclone takes for the name of a remote."""

_ATOMIC = {"azureblob", "b2", "drive", "dropbox", "google cloud storage", "onedrive", "oracleobjectstorage"}
_ATOMIC |= {"qingstor", "s3", "swift"}
"""Types of remotes where an upload that breaks off leaves everything as it was. On others, half of it is to be
seen, and what was there before goes with it."""

_RENAMING = {"ftp", "local", "sftp", "webdav"}
"""Types of remotes that rename over what is there (some servers refuse). On others, rclone removes that first."""

_BEFORE_ANOTHER = {"alias", "crypt"}
"""Types of remotes that stand before another, and hand on to it, step by step, what they are told to do."""
_DEEPEST = 8

_PART = "incoming"
"""The folder where objects are written before they get their name. Not `.part`: Nextcloud refuses what ends so."""

_BARE = {"noModTime": True, "noMimeType": True}
"""No more about objects than their size: the rest takes some remotes one more request for each."""
_LATE = (0.1, 0.4, 1.5)
"""Pauses, in seconds, after which an object that was stored is looked for again."""


def check(address: str) -> str:
    """Return the address with its path normalised; raises `BadSetting`."""
    remote, path = _parse(address)
    return f"rclone:{remote}:{path}"


def open_store(address: str, access: Access) -> RcloneStore:
    """Open the store at `address`; see `annex_remote.stores.open_store`."""
    return RcloneStore(*_parse(address), access.patience)


def _parse(address: str) -> tuple[str, str]:
    remote, colon, path = address.removeprefix("rclone:").partition(":")
    if not _REMOTE.match(remote):
        shown = re.split("[,=]", remote)[0]  # what follows may be a password
        raise BadSetting(
            f"'rclone:{shown}' does not name a remote: an address is rclone:REMOTE:PATH, and all that rclone "
            "has to know of REMOTE stands in its configuration (`rclone config`)"
        )
    if not colon:
        raise BadSetting(f"'rclone:{remote}' is not complete: an address is rclone:REMOTE:PATH, or rclone:REMOTE:")
    if path.startswith("//"):
        raise BadSetting(f"'rclone:{remote}:' is followed by a URL: name a remote of your `rclone config`")
    if not path.isprintable() or "]" in path or any(piece in (".", "..") for piece in path.split("/")):
        raise BadSetting(f"'rclone:{remote}:{path}': the path has '.', '..', ']' or characters that do not print")
    # Whether it begins with a slash makes a difference to some remotes.
    return remote, posixpath.normpath(path) if path else ""


def _words(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


_BUSY = _words(
    r"\b42[39]\b|too.?many.?(requests|write|connections)|rate.?limit|slow.?down|throttl|request.?limit",
    r"activity.?limit|daily.?limit|download.?quota",
)
_FULL = _words(
    r"\b507\b|\b413\b|no space left|(not enough|insufficient|out of).{0,3}(storage|space)|too.?large",
    r"quota.{0,20}(exceed|reached)|exceed.{0,20}quota|over.?quota|storage.?(cap|limit|full)",
)
_DENIED = _words(
    r"\b40[13]\b|\b530\b|unauthori[sz]ed|forbidden|read-only|(permission|access).{0,10}denied|not permitted",
    r"invalid_(grant|client)|invalid.?access.?key|signature.?does.?not.?match|unable to authenticate",
    r"authentication failed|log.?[io]n.{0,3}(failure|failed|incorrect)|(empty|expired).{0,12}token",
    r"token.{0,30}(expired|revoked|invalid)",
)
_PASSING = _words(
    r"\b408\b|\b5\d\d\b|\bEOF\b|reset by peer|broken pipe|time.?out|timed out|deadline exceeded",
    r"temporar|internal.?error|corrupted on transfer",
)
_MEANINGS: tuple[tuple[re.Pattern[str], type[StoreError]], ...] = ((_BUSY, Busy), (_FULL, Full), (_DENIED, Denied))
"""What rclone's words mean, the first that fits: in its many ways, it hands on what many kinds of servers say."""
_NO_ABOUT = _words(r"\b(404|405|501)\b|support|not implemented|directory not found")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the objects are, as rclone is told it, and what kind of place that is."""

    fs: str
    is_atomic: bool
    is_renaming: bool


class RcloneStore:
    """Keeps each name as an object in a folder of a remote; see `model.Store` for the contract."""

    def __init__(self, remote: str, path: str, patience: float) -> None:
        self._remote = remote
        self._path = path
        self._patience = patience
        self._place: _Place | None = None
        self._is_swept = False
        self._turns = threading.Condition()
        self._changing: set[str] = set()
        """Names that are being given to something, or taken from it."""
        self._watching: dict[object, set[str]] = {}

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        doing = f"storing {check_name(name)}"
        if self._where().is_atomic:
            with ExitStack() as stack:

                def before_last() -> None:
                    stack.enter_context(self._turn(name))
                    self._check_free(name, doing, fresh)

                pieces = whole(open_at, size, before_last)
                self._upload(name, pieces, size, doing)
                self._expect(name, size, doing)
            return
        self._sweep()
        part = f"{_PART}/{part_name(name)}"
        try:
            self._upload(part, whole(open_at, size), size, doing)
            self._expect(part, size, doing)
            with self._turn(name):
                self._check_free(name, doing, fresh)
                self._publish(part, name, doing)
        except BaseException:
            with suppress(SwarmError):
                self._remove(part, doing)
            raise

    def read(self, name: str, start: int = 0, length: int | None = None) -> ByteStream:
        check_name(name)
        return self._undisturbed(name, lambda: self._open(name, start, length))

    def stat(self, name: str) -> int | None:
        check_name(name)
        return self._undisturbed(name, lambda: self._size(name, f"looking at {name}"))

    def age(self, name: str) -> float | None:
        check_name(name)
        return self._undisturbed(name, lambda: self._age(name, f"looking at {name}"))

    def delete(self, name: str) -> None:
        with self._turn(check_name(name)):
            self._remove(name, f"removing {name}")

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        folders = [prefix[:2]] if len(prefix) >= 2 else self._folders()
        for folder in folders:
            if is_folder_name(folder) and folder.startswith(prefix[:2]):
                yield from sorted(self._list_folder(folder, prefix).items())

    def space(self) -> int | None:
        try:
            answer = rclone.ask("operations/about", {"fs": self._where().fs}, self._patience)
        except RefusedError as error:
            # A folder that is not there yet, or a server that does not know.
            if error.status == 404 or _NO_ABOUT.search(error.words):
                return None
            raise self._translate(error, "asking for free space") from error
        free = answer.get("free")
        return free if isinstance(free, int) and free >= 0 else None

    def close(self) -> None:
        """Nothing is open: the daemon, which all rclone stores share, ends with this process."""

    def _where(self) -> _Place:
        """Return what rclone knows of the remote, having asked once."""
        if self._place is None:
            kind = self._setting(self._remote, "type")
            if not kind:
                raise self._unknown()
            if kind == "local" and not self._path.startswith("/"):
                raise Unavailable(
                    f"{self._remote!r} is this machine: 'rclone:{self._remote}:/PATH' needs its slash"
                )
            # rclone would log in to a shell as well, to find out which programs it has for checksums.
            options = ",shell_type=none" if kind == "sftp" else ""
            fs = f"{self._remote}{options}:{self._path}"
            kind = self._inner_kind(kind)
            self._place = _Place(fs, kind in _ATOMIC, kind in _RENAMING)
        return self._place

    def _unknown(self) -> Unavailable:
        return Unavailable(
            f"rclone knows no remote {self._remote!r} here: `rclone listremotes` shows those that it knows, "
            "`rclone config` makes one"
        )

    def _inner_kind(self, kind: str) -> str:
        """Return the type of the remote that ours of `kind` stands before, if that is all it does."""
        remote = self._remote
        for _ in range(_DEEPEST):
            if kind not in _BEFORE_ANOTHER:
                return kind
            remote, colon, _ = self._setting(remote, "remote").partition(":")
            kind = self._setting(remote, "type") if colon else "local"
        return ""

    def _setting(self, remote: str, name: str) -> str:
        """Return what the user's environment or configuration says of a remote; empty if they do not."""
        variable = f"RCLONE_CONFIG_{remote}_{name}".upper().replace("-", "_")
        settings = self._ask(f"looking for the remote {remote!r}", "config/get", name=remote)
        return os.environ.get(variable) or str(settings.get(name, ""))

    @contextmanager
    def _turn(self, name: str) -> Iterator[None]:
        """Be the only one of this process who changes `name`, or sees it change.

        rclone takes steps: to read, it asks for the size and then for the bytes; to store, it may remove what was
        there, and look afterwards. Between them is what never was.
        """
        with self._turns:
            if not self._turns.wait_for(lambda: name not in self._changing, self._patience):
                raise Busy(f"{name} is being stored, and that takes long")
            self._changing.add(name)
            for changed in self._watching.values():
                changed.add(name)
        try:
            yield
        finally:
            with self._turns:
                self._changing.remove(name)
                self._turns.notify_all()

    @contextmanager
    def _watch(self) -> Iterator[Collection[str]]:
        """Yield the names that are changed meanwhile by this process."""
        watcher = object()
        with self._turns:
            changed = self._watching[watcher] = set(self._changing)
        try:
            yield changed
        finally:
            with self._turns:
                del self._watching[watcher]

    def _undisturbed(self, name: str, look: Callable[[], T]) -> T:
        """Return what there is to see of `name` when nobody changes it."""
        with self._watch() as changed, ExitStack() as stack:
            try:
                seen = look()
            except (NotFound, Unavailable):
                if name not in changed:
                    raise
            else:
                if name not in changed:
                    return seen
                if isinstance(seen, Body):
                    stack.enter_context(seen)
        with self._turn(name):
            return look()

    def _check_free(self, name: str, doing: str, fresh: bool) -> None:
        """Raise `Exists` if what is to be `fresh` is there; rclone has no way to say so to those behind it."""
        if fresh and self._size(name, doing) is not None:
            raise Exists(f"{doing}: {self._remote}: has it already")

    def _upload(self, name: str, pieces: Iterable[bytes | memoryview], size: int, doing: str) -> None:
        try:
            upload({"fs": self._where().fs, "remote": name}, pieces, size, self._patience)
        except RefusedError as error:
            failure = self._translate(error, doing)
            if isinstance(failure, NotFound):  # of the folder, or the bucket: no news about a share
                failure = Unavailable(str(failure))
            # A full server may say nothing but that something went wrong.
            if isinstance(failure, Unavailable) and missing_space(self.space, size) is not None:
                failure = Full(f"{doing}: {self._remote}: has no space left")
            raise failure from error

    def _expect(self, name: str, size: int, doing: str) -> None:
        """Raise `Unavailable` unless `name` has `size` bytes; some remotes show what they have a little late."""
        for pause in (*_LATE, None):
            found = self._size(name, doing)
            if found == size:
                return
            if pause is not None:
                time.sleep(pause)
        shown = "nothing of it is there" if found is None else f"{found} bytes of {size} are there"
        raise Unavailable(f"{doing}: {self._remote}: said that it was done, but {shown}", passing=True)

    def _publish(self, part: str, name: str, doing: str) -> None:
        place = self._where()
        names = {"srcFs": place.fs, "srcRemote": part, "dstFs": place.fs, "dstRemote": name}
        try:
            if place.is_renaming:
                try:
                    # If it looked, it would remove what is there before the server is told to rename.
                    self._ask(doing, "operations/movefile", **names, _config={"NoCheckDest": True})
                    return
                except Unavailable:
                    if self._size(name, doing) is None:  # so there is nothing that could be in the way
                        raise
                    self._place = replace(place, is_renaming=False)
            # If it looked at size and time, it might take what is there, and is damaged, for the same.
            self._ask(doing, "operations/movefile", **names, _config={"IgnoreTimes": True})
        except NotFound as error:  # of the part, or of a folder: no news about a share
            raise Unavailable(str(error), passing=True) from error

    def _remove(self, name: str, doing: str) -> None:
        with suppress(NotFound):
            self._ask(doing, "operations/deletefile", fs=self._where().fs, remote=name)

    def _size(self, name: str, doing: str) -> int | None:
        match self._item(name, doing, _BARE):
            case None:
                return None
            case {"Size": int(size)} if size >= 0:
                return size
        raise Unavailable(f"{doing}: {self._remote}: does not say how long it is")

    def _age(self, name: str, doing: str) -> float | None:
        item = self._item(name, doing, {"noMimeType": True})
        if item is None:
            raise NotFound(f"{doing}: {self._remote}: does not have it")
        with suppress(KeyError, TypeError, ValueError, OverflowError):
            put = datetime.fromisoformat(item["ModTime"])
            return elapsed(put.timestamp(), time.time()) if put.tzinfo else None
        return None

    def _item(self, name: str, doing: str, options: dict[str, bool]) -> Any:
        """Return what rclone says of an object, None if it is not there."""
        # Without `filesOnly`, whatever goes wrong is answered as if nothing were there.
        options = {**options, "filesOnly": True}
        try:
            answer = self._ask(doing, "operations/stat", fs=self._where().fs, remote=name, opt=options)
        except NotFound:
            return None
        return answer.get("item", {})

    def _open(self, name: str, start: int, length: int | None) -> ByteStream:
        doing = f"reading {name}"
        if length != 0:
            try:
                return rclone.read(f"/[{self._where().fs}]/{name}", start, length, self._patience)
            except RefusedError as error:
                if error.status:
                    raise self._translate(error, doing) from error
        # Nothing is wanted of it, or the range begins behind its end, or whatever came of opening it.
        size = self._size(name, doing)
        if size is None:
            raise NotFound(f"{doing}: {self._remote}: does not have it")
        if length != 0 and start < size:
            raise Unavailable(f"{doing}: {self._remote}: has it, but does not open it", passing=True)
        return _Nothing(size)

    def _folders(self) -> Sequence[str]:
        return [entry["Path"] for entry in self._entries("", _BARE) if entry["IsDir"]]

    def _list_folder(self, folder: str, prefix: str) -> dict[str, int]:
        with self._watch() as changed:
            entries = self._entries(folder, {**_BARE, "filesOnly": True})
        found = {}
        for entry in entries:  # several may have the same name, on some remotes
            with suppress(Damaged):
                if entry["Path"].startswith(prefix) and entry["Size"] >= 0 and check_name(entry["Path"]):
                    found[entry["Path"]] = entry["Size"]
        for name in changed:
            if name.startswith(f"{folder}/") and name.startswith(prefix) and name not in found:
                size = self.stat(name)
                if size is not None:
                    found[name] = size
        return found

    def _entries(self, folder: str, options: dict[str, bool]) -> Sequence[dict[str, Any]]:
        try:
            answer = self._ask("listing", "operations/list", fs=self._where().fs, remote=folder, opt=options)
        except NotFound:
            return []
        entries: Sequence[dict[str, Any]] = answer["list"]
        return entries

    def _sweep(self) -> None:
        """Once a process, remove what uploads that were killed long ago left behind."""
        if self._is_swept:
            return
        self._is_swept = True
        before = time.time() - LEFTOVER_AGE
        with suppress(SwarmError):  # housekeeping: nothing that fails here is in the way of a share
            for entry in self._entries(_PART, {"noMimeType": True, "filesOnly": True}):
                is_old = datetime.fromisoformat(entry["ModTime"]).timestamp() < before
                if is_part_name(entry["Name"]) and is_old:
                    self._remove(f"{_PART}/{entry['Name']}", "removing what is left of an upload")

    def _ask(self, doing: str, command: str, **parameters: Any) -> dict[str, Any]:
        try:
            return rclone.ask(command, parameters, self._patience)
        except RefusedError as error:
            raise self._translate(error, doing) from error

    def _translate(self, error: RefusedError, doing: str) -> StoreError:
        """Return what the daemon's words mean."""
        text = f"{doing}: {self._remote}: {error.words}"
        if error.status == 404:
            return NotFound(text)
        if "find section in config" in error.words:  # it was there when we asked
            return self._unknown()
        kind = next((kind for pattern, kind in _MEANINGS if pattern.search(error.words)), None)
        if kind is None:
            return Unavailable(text, passing=bool(_PASSING.search(error.words)))
        if kind is Denied:
            text += f" (what does `rclone lsf {self._remote}:` say?)"
        return kind(text)


class _Nothing:
    """A `ByteStream` of no bytes."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __iter__(self) -> Iterator[bytes]:
        return iter(())

    def __enter__(self) -> ByteStream:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""
