"""A WebDAV folder (RFC 4918) as a store. Address ``dav://host[:port]/path`` or, over TLS, ``davs://...``.

A share is sent to a name of its own under ``.part``, its size checked, and then moved to its name: many servers
show a file while it is still being sent. Where a server cannot move, it is sent to its name directly.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

from annex_remote.errors import Damaged, Full, NotFound, StoreError, SwarmError, Unavailable
from annex_remote.model import Access, ByteStream, OpenAt, check_name
from annex_remote.stores.address import parse_place
from annex_remote.stores.http import Answer, Client, failure
from annex_remote.stores.http_login import auth_for
from annex_remote.stores.nextcloud import Chunking

__all__ = ["WebDavStore", "check", "open_store"]

_PART = ".part"
"""The folder where files are written before they get their name."""

LEFTOVER_AGE = 86400.0
"""Seconds after which a file that a killed writer left behind is removed."""

_PART_NAME = re.compile(r"[a-z2-7]{32}\.[a-z0-9]{1,12}\.[0-9a-f]{16}\Z")
_FOLDER_NAME = re.compile(r"[a-z2-7]{2}\Z")
_MOVES = 4
"""Times that a file is moved to its name while others move theirs to the same one, before that is a failure."""
_PORTS = {"dav": 80, "davs": 443}

_ASK = (
    b'<?xml version="1.0" encoding="utf-8"?><propfind xmlns="DAV:"><prop>'
    b"<resourcetype/><getcontentlength/><getlastmodified/>%s</prop></propfind>"
)


def check(address: str) -> str:
    """Return the address in its one form; raises `BadSetting`."""
    scheme = address.partition(":")[0]
    return str(parse_place(address, options=("ca", "cert"), default_port=_PORTS.get(scheme)))


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
    return WebDavStore(client, place.quoted_path)


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

    def __init__(self, client: Client, root: str) -> None:
        self._client = client
        self._root = root
        self._chunking = Chunking(client, root)
        self._lock = threading.Lock()
        self._made: set[str] = set()
        """Folders that are known to be there, as quoted paths."""
        self._swept = False
        self._moves = True
        """False once the server has said that it cannot move."""

    def put(self, name: str, size: int, open_at: OpenAt) -> None:
        target, doing = self._path(name), f"writing {name}"
        # Before anything large is sent, small requests have settled who we are and that the folders are there.
        self._make_folder(f"{self._root}/{_PART}" if self._moves else _folder(target), doing)
        self._sweep()
        if self._moves and self._chunking.suits(size, doing):
            self._make_folder(_folder(target), doing)
            self._chunking.put(target, size, open_at, doing)
            self._require_size(target, size, doing)
            return
        if self._moves:
            part = f"{self._root}/{_PART}/{name[3:]}.{secrets.token_hex(8)}"
            self._send(part, size, open_at, doing)
            try:
                if self._move(part, target, doing):
                    return
            except SwarmError:
                self._discard(part)
                raise
            self._moves = False
            self._discard(part)
        self._make_folder(_folder(target), doing)
        self._send(target, size, open_at, doing)

    def _send(self, path: str, size: int, open_at: OpenAt, doing: str) -> None:
        try:
            self._client.send("PUT", path, doing, size, open_at, ok=(200, 201, 202, 204))
            self._require_size(path, size, doing)
        except BaseException as error:
            is_silent = isinstance(error, Unavailable) and not error.passing
            if not is_silent:  # who does not answer would only let us wait once more; the sweep comes by later
                self._discard(path)
            if isinstance(error, Unavailable):
                self._raise_if_full(size, doing, error)
            raise

    def _raise_if_full(self, size: int, doing: str, error: Unavailable) -> None:
        """Raise `Full` if what failed can be told from its free space: some servers only say 500, or hang up."""
        try:
            free = self.space()
        except SwarmError:
            return
        if free is not None and free < size:
            raise Full(f"{doing}: {self._client.host} has {free} bytes left, and {size} are needed") from error

    def _require_size(self, path: str, size: int, doing: str) -> None:
        there = self._size(path, doing)
        if there != size:
            raise Unavailable(
                f"{doing}: {self._client.host} took {size} bytes, and shows {'none' if there is None else there}",
                passing=True,
            )

    def _move(self, part: str, target: str, doing: str) -> bool:
        """Give the file at `part` its name; False if the server cannot move."""
        headers = {"Destination": self._client.origin + target, "Overwrite": "T"}
        for attempt in range(_MOVES):
            answer = self._client.ask("MOVE", part, doing, headers=headers, ok=range(200, 600))
            if answer.status in (200, 201, 202, 204):
                return True
            if answer.status in (405, 501):
                return False
            # The folder is missing: servers have no common word for it. Or somebody else moves there just now.
            self._made.discard(_folder(target))
            self._make_folder(_folder(target), doing)
            if attempt and self._size(part, doing) is None:
                break
        raise failure(answer, doing)

    def read(self, name: str, start: int = 0, length: int | None = None) -> ByteStream:
        return self._client.read(self._path(name), f"reading {name}", start, length)

    def stat(self, name: str) -> int | None:
        return self._size(self._path(name), f"looking at {name}")

    def _size(self, path: str, doing: str) -> int | None:
        try:
            answer = self._client.ask("HEAD", path, doing)
        except NotFound:
            return None
        length = answer.headers.get("Content-Length", "")
        if length.isdigit():
            return int(length)
        # Apache leaves the header out for empty files, and others when they compress.
        members = self._members(path, 0, doing)
        return members[0].size if members and not members[0].is_folder else None

    def delete(self, name: str) -> None:
        with suppress(NotFound):
            self._client.ask("DELETE", self._path(name), f"removing {name}", ok=(200, 202, 204))

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        doing = "listing"
        if "/" in prefix or len(prefix) > 2:
            folders = [prefix[:2]] if _FOLDER_NAME.match(prefix[:2]) and prefix[2:3] == "/" else []
        else:
            members = self._members(self._root or "/", 1, doing)
            folders = [each.name for each in members if each.is_folder and _FOLDER_NAME.match(each.name)]
        for folder in sorted({each for each in folders if each.startswith(prefix[:2])}):
            members = self._members(f"{self._root}/{folder}/", 1, doing)
            for member in sorted(members, key=lambda each: each.name):
                name = f"{folder}/{member.name}"
                if member.is_folder or member.size is None or not name.startswith(prefix):
                    continue
                with suppress(Damaged):
                    yield check_name(name), member.size

    def space(self) -> int | None:
        members = self._members(f"{self._root}/", 0, "asking for free space", b"<quota-available-bytes/>")
        text = members[0].available if members else ""
        # Below zero Nextcloud says that it does not know, or that there is no limit.
        return int(text) if text.isdigit() else None

    def close(self) -> None:
        self._client.close()

    # Below: what the server is asked.

    def _path(self, name: str) -> str:
        return f"{self._root}/{check_name(name)}"

    def _members(self, path: str, depth: int, doing: str, more: bytes = b"") -> Sequence[_Member]:
        """Return what is at `path` (and, at depth 1, directly in it); nothing if it is not there."""
        headers = {"Depth": str(depth), "Content-Type": "application/xml"}
        try:
            answer = self._client.ask("PROPFIND", path, doing, headers=headers, data=_ASK % more, ok=(207,))
        except NotFound:
            return []
        return _parse(answer, doing)

    def _make_folder(self, path: str, doing: str) -> None:
        """Make a folder and those above it, if they are not known to be there."""
        if not path or path in self._made:
            return
        answer = self._client.ask("MKCOL", path + "/", doing, ok=range(200, 600))
        if answer.status in (404, 409, 500):  # what it would stand in is not there
            self._make_folder(_folder(path), doing)
            answer = self._client.ask("MKCOL", path + "/", doing, ok=range(200, 600))
        there = answer.status in (200, 201, 204, 405)  # 405: there is something already
        if not there and not self._is_folder(path, doing):
            error = failure(answer, doing)
            # That a folder cannot be made says nothing about a share.
            raise Unavailable(str(error)) if isinstance(error, NotFound) else error
        self._made.add(path)

    def _is_folder(self, path: str, doing: str) -> bool:
        with suppress(StoreError):
            members = self._members(path + "/", 0, doing)
            return bool(members) and members[0].is_folder
        return False

    def _discard(self, path: str) -> None:
        with suppress(SwarmError):
            self._client.ask("DELETE", path, "tidying up", ok=(200, 202, 204, 404))

    def _sweep(self) -> None:
        """Remove, once, what killed writers left in ``.part``: files with names of our own form, a day old."""
        with self._lock:
            if self._swept:
                return
            self._swept = True
        with suppress(SwarmError):
            now = time.time()
            for member in self._members(f"{self._root}/{_PART}/", 1, "tidying up"):
                age = now - _seconds(member.modified, now)
                if not member.is_folder and _PART_NAME.match(member.name) and age > LEFTOVER_AGE:
                    self._discard(f"{self._root}/{_PART}/{member.name}")


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _seconds(date: str, default: float) -> float:
    try:
        return parsedate_to_datetime(date).timestamp()
    except ValueError:
        return default


def _parse(answer: Answer, doing: str) -> Sequence[_Member]:
    """Read a multistatus answer; raises `Unavailable` if it is none."""
    try:
        if b"<!DOCTYPE" in answer.body or b"<!ENTITY" in answer.body:
            raise ValueError("a document type")  # it may define entities that grow without end
        root = ElementTree.fromstring(answer.body)  # noqa: S314 # without a document type there are no entities
        if root.tag != "{DAV:}multistatus":
            raise ValueError(f"{root.tag} is not a multistatus")
        return [member for element in root.iter("{DAV:}response") if (member := _member(element)) is not None]
    except (ElementTree.ParseError, ValueError) as error:
        # It passes, perhaps: rclone breaks off in the middle when a file goes while it is listed.
        raise Unavailable(
            f"{doing}: {answer.host} answered with something that is not WebDAV", passing=True
        ) from error


def _member(response: ElementTree.Element) -> _Member | None:
    path = unquote(urlsplit(response.findtext("{DAV:}href", "").strip()).path, errors="surrogateescape")
    for status in response.iter("{DAV:}propstat"):
        if " 200 " in f"{status.findtext('{DAV:}status', '')} ":
            length = status.findtext("{DAV:}prop/{DAV:}getcontentlength", "").strip()
            return _Member(
                name=path.rstrip("/").rpartition("/")[2],
                is_folder=status.find("{DAV:}prop/{DAV:}resourcetype/{DAV:}collection") is not None,
                size=int(length) if length.isdigit() else None,
                modified=status.findtext("{DAV:}prop/{DAV:}getlastmodified", ""),
                available=status.findtext("{DAV:}prop/{DAV:}quota-available-bytes", "").strip(),
            )
    return None
