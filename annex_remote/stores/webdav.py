"""A WebDAV folder (RFC 4918) as a store. Address ``dav://host[:port]/path`` or, over TLS, ``davs://...``.

A share is sent to a name of its own under ``incoming``, its size checked, and then moved to its name: many
servers show a file while it is still being sent. Where a server cannot move, it is sent to its name directly.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import unquote
from xml.etree import ElementTree

from annex_remote.errors import Busy, Damaged, Denied, Exists, Full, NotFound, SwarmError, Unavailable
from annex_remote.model import Access, ByteStream, OpenAt, check_name
from annex_remote.stores.address import parse_place
from annex_remote.stores.http import Answer, Client, failure
from annex_remote.stores.http_login import auth_for
from annex_remote.stores.nextcloud import Chunking
from annex_remote.stores.numbers import whole_number
from annex_remote.stores.parts import LEFTOVER_AGE, is_folder_name, is_part_name, missing_space, part_name
from annex_remote.stores.times import read_date

__all__ = ["WebDavStore", "check", "open_store"]

T = TypeVar("T")

_INCOMING = "incoming"
"""The folder where files are written before they get their name. Not ``.part``: Nextcloud has a use of its own for
names that end so, and refuses them; and many a server hides, or refuses, what begins with a dot."""

_DONE = (200, 201, 202, 204)
_IN_THE_WAY = (403, 404, 409, 412, 423, 500)
"""What servers say to a move when its folder is missing, or somebody else moves to the same name just then."""
_TAKEN = 412
"""Said to a move that must not replace anything."""
_CANNOT = (405, 501)
_ELSEWHERE = (400, 502)
"""Said of a destination that is another server's, as that one sees it: it may stand behind one that ends TLS."""
_UNSURE = (408, 502, 504, 522, 524)
"""Said by who stands in front of a server and has waited long enough."""
_MOVES = 8
"""Times that a file is moved to its name, before what is in the way is a failure."""
_PORTS = {"dav": 80, "davs": 443}

_ASK = (
    b'<?xml version="1.0" encoding="utf-8"?><propfind xmlns="DAV:"><prop>'
    b"<resourcetype/><getcontentlength/><getlastmodified/>%s</prop></propfind>"
)


def check(address: str) -> str:
    """Return the address in its one form; raises `BadSetting`."""
    scheme = address.partition(":")[0]
    options = ("ca", "cert") if scheme == "davs" else ()
    return str(parse_place(address, options=options, default_port=_PORTS.get(scheme)))


def open_store(address: str, access: Access) -> WebDavStore:
    """Open the folder at `address`; nobody is asked yet."""
    place = parse_place(check(address), options=("ca", "cert"))
    origin = f"{'https' if place.scheme == 'davs' else 'http'}://{place.netloc}"
    client = Client(
        origin,
        auth_for(origin, access.login),
        patience=access.patience,
        ca=place.options.get("ca", ""),
        certificate=place.options.get("cert", ""),
    )
    return WebDavStore(client, place.quoted_path, Chunking(client, place.quoted_path))


@dataclass(frozen=True, slots=True)
class _Member:
    """One answer of a PROPFIND: the last part of its path, decoded, and what was asked about it."""

    name: str
    is_folder: bool
    size: int | None
    modified: str
    available: str


class WebDavStore:
    """Keeps each name as a file below `root`, a quoted path; see `model.Store` for the contract."""

    def __init__(self, client: Client, root: str, chunking: Chunking) -> None:
        self._client = client
        self._root = root
        self._chunking = chunking
        self._lock = threading.Lock()
        self._made: set[str] = set()
        """Folders that are known to be there, as quoted paths."""
        self._swept = False
        inside = client.origin.replace("https:", "http:", 1)
        self._destinations: Sequence[str] = tuple(dict.fromkeys((client.origin, inside, "")))
        """What may stand before the path that something is moved to; one is left when that has worked."""
        self._moves = True
        """False once the server has said that it cannot move."""

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        target, doing, source = self._path(name), f"writing {name}", _Source(open_at)
        try:
            self._put(target, size, source, doing, fresh)
        except BaseException as error:
            self._made.clear()  # perhaps somebody has taken a folder away
            if error is source.error:
                raise
            if isinstance(error, NotFound):
                raise Unavailable(str(error), passing=True) from error  # it says nothing about the share
            if isinstance(error, Unavailable) and error.passing:
                self._raise_if_full(size, doing, error)
            raise

    def _put(self, target: str, size: int, source: _Source, doing: str, fresh: bool) -> None:
        # Before anything large is sent, small requests have settled who we are and that the folders are there.
        if self._moves:
            self._make_folder(f"{self._root}/{_INCOMING}", doing)
            self._sweep()
            if self._chunking.suits(size, doing):
                self._make_folder(_folder(target), doing)
                if fresh and self._size(target, doing) is not None:  # rather than after so much was sent
                    raise self._exists(doing)
                self._chunking.put(target, size, source, doing, fresh=fresh)
                self._require_size(target, size, doing)
                return
            if self._put_and_move(target, size, source, doing, fresh):
                return
            self._moves = False
        self._make_folder(_folder(target), doing)
        self._put_directly(target, size, source, doing, fresh)

    def _exists(self, doing: str) -> Exists:
        return Exists(f"{doing}: {self._client.host} has it already")

    def _put_and_move(self, target: str, size: int, source: _Source, doing: str, fresh: bool) -> bool:
        """Send a share to a name of its own and move it; False, and nothing has changed, if the server cannot."""
        part = f"{self._root}/{_INCOMING}/{part_name(target)}"
        try:
            self._send(part, size, source, doing)
        except BaseException as error:
            # Who does not answer would only let us wait once more; the sweep comes by later.
            if error is source.error or not isinstance(error, Unavailable) or error.passing:
                self._discard(part)
            raise
        # While nobody says how it ended it may be under way, and what was at `target` gone already: that is no
        # time to take the part away.
        answer = self._move(part, target, doing, fresh)
        if answer.status in _DONE:
            return True
        cannot = answer.status in _CANNOT or (len(self._destinations) > 1 and answer.status in _ELSEWHERE)
        if cannot or answer.status not in _UNSURE:
            self._discard(part)
        if cannot:
            return False
        raise failure(answer, doing)

    def _put_directly(self, target: str, size: int, source: _Source, doing: str, fresh: bool) -> None:
        before = self._size(target, doing)
        if fresh and before is not None:  # many servers do not heed If-None-Match when something is put
            raise self._exists(doing)
        try:
            self._send(target, size, source, doing)
        except BaseException:
            with suppress(SwarmError):
                # What is whole, or as it was, is not ours to remove: somebody else may have put it there.
                if self._size(target, doing) not in (None, before, size):
                    self._discard(target)
            raise

    def _send(self, path: str, size: int, source: _Source, doing: str) -> None:
        answer = self._client.send("PUT", path, doing, size, source, ok=(*_DONE, 409))
        if answer.status == 409:  # its folder has gone, and is made again when this is tried again
            self._made.discard(_folder(path))
            raise Unavailable(str(failure(answer, doing)), passing=True)
        self._require_size(path, size, doing)

    def _raise_if_full(self, size: int, doing: str, error: Unavailable) -> None:
        """Raise `Full` if what failed can be told from its free space: some servers only say 500, or hang up."""
        free = missing_space(self.space, size)
        if free is not None:
            raise Full(f"{doing}: {self._client.host} has {free} bytes left, and {size} are needed") from error

    def _require_size(self, path: str, size: int, doing: str) -> None:
        there = self._size(path, doing)
        if there != size:
            raise Unavailable(
                f"{doing}: {self._client.host} took {size} bytes, and shows {'none' if there is None else there}",
                passing=True,
            )

    def _move(self, part: str, target: str, doing: str, fresh: bool) -> Answer:
        """Give the file at `part` its name; return the last answer, whatever it says.

        If it is to be `fresh` and something has the name, removes the part and raises `Exists`.
        """
        for _ in range(_MOVES):
            for before in self._destinations:
                headers = {"Destination": before + target, "Overwrite": "F" if fresh else "T"}
                answer = self._client.ask("MOVE", part, doing, headers=headers, ok=range(200, 600))
                if answer.status in _DONE:
                    self._destinations = (before,)
                if answer.status not in _ELSEWHERE:
                    break
            if answer.status not in _IN_THE_WAY:
                break
            if fresh and answer.status == _TAKEN and self._size(target, doing) is not None:
                self._discard(part)
                raise self._exists(doing)
            self._made.discard(_folder(target))
            self._make_folder(_folder(target), doing)
        return answer

    def read(self, name: str, start: int = 0, length: int | None = None) -> ByteStream:
        path = self._path(name)
        return _twice(lambda: self._client.read(path, f"reading {name}", start, length))

    def stat(self, name: str) -> int | None:
        return self._size(self._path(name), f"looking at {name}")

    def _size(self, path: str, doing: str) -> int | None:
        try:
            headers = _twice(lambda: self._client.ask("HEAD", path, doing)).headers
        except NotFound:
            return None
        length = whole_number(headers.get("Content-Length", ""))
        is_page = headers.get("Content-Type", "").startswith("text/html")  # of a hotel's network, perhaps
        if length is not None and not is_page and "Content-Encoding" not in headers:
            return length
        # Apache leaves the length out for empty files, and others when they compress.
        members = self._members(path, 0, doing)
        if not members or members[0].is_folder:
            return None
        if members[0].size is None:
            raise Unavailable(f"{doing}: {self._client.host} does not say how long it is")
        return members[0].size

    def age(self, name: str) -> float | None:
        path = self._path(name)
        return _twice(lambda: self._client.age(path, f"looking at {name}"))

    def delete(self, name: str) -> None:
        path, doing = self._path(name), f"removing {name}"
        answer = self._client.ask("DELETE", path, doing, ok=(200, 202, 204, 404, 409))
        # nginx says 409 where a file stands in place of the folder: there is nothing below that.
        if answer.status == 409 and self._size(path, doing) is not None:
            raise failure(answer, doing)

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        doing = "listing"
        if "/" in prefix or len(prefix) > 2:
            folders = [prefix[:2]] if is_folder_name(prefix[:2]) and prefix[2:3] == "/" else []
        else:
            members = self._members(f"{self._root}/", 1, doing)
            folders = [each.name for each in members if each.is_folder and is_folder_name(each.name)]
        for folder in sorted({each for each in folders if each.startswith(prefix[:2])}):
            members = self._members(f"{self._root}/{folder}/", 1, doing)
            for member in sorted(members, key=lambda each: each.name):
                name = f"{folder}/{member.name}"
                if member.is_folder or not name.startswith(prefix) or not _is_ours(name):
                    continue
                size = self._size(self._path(name), doing) if member.size is None else member.size
                if size is not None:
                    yield name, size

    def space(self) -> int | None:
        members = self._members(f"{self._root}/", 0, "asking for free space", b"<quota-available-bytes/>")
        # Below zero Nextcloud says that it does not know, or that there is no limit.
        return whole_number(members[0].available) if members else None

    def close(self) -> None:
        self._client.close()

    # Below: what the server is asked.

    def _path(self, name: str) -> str:
        return f"{self._root}/{check_name(name)}"

    def _members(self, path: str, depth: int, doing: str, more: bytes = b"") -> Sequence[_Member]:
        """Return what is at `path` (and, at depth 1, directly in it); nothing if it is not there."""
        answer = self._propfind(path, depth, doing, more)
        return [] if answer is None else _parse(answer, doing)

    def _propfind(self, path: str, depth: int, doing: str, more: bytes = b"") -> Answer | None:
        headers = {"Depth": str(depth), "Content-Type": "application/xml"}
        with suppress(NotFound):
            return self._client.ask("PROPFIND", path, doing, headers=headers, data=_ASK % more, ok=(207,))
        return None

    def _make_folder(self, path: str, doing: str) -> None:
        """Make a folder and those above it, if they are not known to be there."""
        if not path or path in self._made:
            return
        answer = self._client.ask("MKCOL", path + "/", doing, ok=range(200, 600))
        if answer.status in (404, 409, 500):  # what it would stand in is not there
            self._make_folder(_folder(path), doing)
            answer = self._client.ask("MKCOL", path + "/", doing, ok=range(200, 600))
        if answer.status not in (200, 201, 204, 405):  # 405: there is something already
            error = failure(answer, doing)
            # Some have other words for that, or somebody else is making it. Who wants a login or peace is not
            # asked again.
            is_final = (isinstance(error, Busy | Full) and answer.status != 423) or answer.status == 401
            if is_final or not self._is_folder(path, doing):
                raise error
        self._made.add(path)

    def _is_folder(self, path: str, doing: str) -> bool:
        with suppress(SwarmError):
            members = self._members(f"{path}/", 0, doing)
            return bool(members) and members[0].is_folder
        return False

    def _discard(self, path: str) -> None:
        with suppress(SwarmError):
            self._client.ask("DELETE", path, "tidying up", ok=(200, 202, 204, 404))

    def _sweep(self) -> None:
        """Remove, once, what killed writers left behind: files with names of our own form, a day old."""
        with self._lock:
            if self._swept:
                return
            self._swept = True
        with suppress(SwarmError):
            answer = self._propfind(f"{self._root}/{_INCOMING}/", 1, "tidying up")
            # By the server's own clock: it may be years off, and so may ours.
            now = None if answer is None else read_date(answer.headers.get("Date", ""))
            if answer is None or now is None:
                return
            for member in _parse(answer, "tidying up"):
                written = read_date(member.modified)
                if written is None or now - written <= LEFTOVER_AGE or member.is_folder:
                    continue
                if is_part_name(member.name):
                    self._discard(f"{self._root}/{_INCOMING}/{member.name}")


class _Source:
    """What is stored, as `OpenAt`; keeps the error that it raises, which is not one of the server."""

    def __init__(self, open_at: OpenAt) -> None:
        self._open_at = open_at
        self.error: BaseException | None = None

    def __call__(self, offset: int) -> Iterable[bytes | memoryview]:
        try:
            yield from self._open_at(offset)
        except GeneratorExit:
            raise
        except BaseException as error:
            self.error = error
            raise


def _twice(ask: Callable[[], T]) -> T:
    """Ask, and once more if it is forbidden: Apache says so of a file that goes while it opens it."""
    try:
        return ask()
    except Denied as error:
        if error.wants_login:
            raise
    return ask()


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _is_ours(name: str) -> bool:
    try:
        check_name(name)
    except Damaged:
        return False
    return True


def _parse(answer: Answer, doing: str) -> Sequence[_Member]:
    """Read a multistatus answer; raises `Unavailable` if it is none, or not all of it."""
    try:
        # A document type may define entities that grow without end; zeros: an encoding that could hide one.
        if b"<!DOCTYPE" in answer.body or b"\0" in answer.body:
            raise ValueError("a document type")
        root = ElementTree.fromstring(answer.body)  # noqa: S314 # without a document type there are no entities
        if root.tag != "{DAV:}multistatus":
            raise ValueError(f"{root.tag} is not a multistatus")
        return [member for element in root.iter("{DAV:}response") if (member := _member(element)) is not None]
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # also an encoding that there is not
        # It passes, perhaps: rclone breaks off in the middle when a file goes while it is listed.
        raise Unavailable(
            f"{doing}: {answer.host} answered with something that is not WebDAV", passing=True
        ) from error


def _member(response: ElementTree.Element) -> _Member | None:
    status = response.findtext("{DAV:}status", "")
    if " 5" in status:
        raise ValueError("the server could not tell all")
    if " 4" in status:
        return None
    found = [
        each for each in response.iter("{DAV:}propstat") if " 200 " in f"{each.findtext('{DAV:}status', '')} "
    ]

    def said(name: str) -> str:
        texts = (each.findtext(f"{{DAV:}}prop/{{DAV:}}{name}") for each in found)
        return next((text.strip() for text in texts if text), "")

    path = response.findtext("{DAV:}href", "").strip().partition("?")[0]
    return _Member(
        # The last part alone: what stands before it depends on the server and on what stands before the server.
        name=unquote(path.rstrip("/").rpartition("/")[2], errors="surrogateescape"),
        is_folder=any(each.find("{DAV:}prop/{DAV:}resourcetype/{DAV:}collection") is not None for each in found),
        size=whole_number(said("getcontentlength")),
        modified=said("getlastmodified"),
        available=said("quota-available-bytes"),
    )
