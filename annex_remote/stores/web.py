"""Shares that somebody published on a web server, to be read only. Address ``http://host/path`` or ``https://...``.

A folder's index page, as nginx, Apache and others make them, is what it lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from html.parser import HTMLParser
from typing import NoReturn
from urllib.parse import unquote, urljoin

from annex_remote.errors import Damaged, Denied, NotFound, Unavailable
from annex_remote.model import Access, ByteStream, OpenAt, check_name
from annex_remote.stores.address import Place, parse_place
from annex_remote.stores.http import Answer, Client
from annex_remote.stores.http_login import auth_for

__all__ = ["WebStore", "check", "open_store"]

_PORTS = {"http": 80, "https": 443}
_FOLDER = re.compile(r"([a-z2-7]{2})/\Z")


def check(address: str) -> str:
    """Return the address in its one form; raises `BadSetting`."""
    return str(_place(address))


def _place(address: str) -> Place:
    scheme = address.partition(":")[0]
    return parse_place(address, options=["ca"] if scheme == "https" else (), default_port=_PORTS.get(scheme))


def open_store(address: str, access: Access) -> WebStore:
    """Open what is published at `address`; asks nobody."""
    return WebStore(_place(address), access)


class WebStore:
    """Reads what is below `place`; see `model.Store` for the contract. Putting and deleting are `Denied`."""

    def __init__(self, place: Place, access: Access) -> None:
        self._origin = f"{place.scheme}://{place.netloc}"
        self._root = f"{place.quoted_path}/"
        auth = auth_for(self._origin, access.login)
        self._client = Client(self._origin, auth, patience=access.patience, ca=place.options.get("ca", ""))
        self._lists = False
        """True if a page was seen that lists something of ours: from then on, what is not listed is not there."""

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        self._refuse(f"writing {check_name(name)}")

    def read(self, name: str, start: int = 0, length: int | None = None) -> ByteStream:
        return self._client.read(self._root + check_name(name), f"reading {name}", start, length)

    def stat(self, name: str) -> int | None:
        try:
            return self._client.size(self._root + check_name(name), f"looking at {name}")
        except NotFound:
            return None

    def age(self, name: str) -> float | None:
        return self._client.age(self._root + check_name(name), f"looking at {name}")

    def delete(self, name: str) -> None:
        self._refuse(f"removing {check_name(name)}")

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        is_empty = True
        for folder in self._folders(prefix):
            for name in self._names(folder):
                is_empty = False
                if name.startswith(prefix) and (size := self.stat(name)) is not None:
                    yield name, size
        if is_empty:
            self._check_that_it_lists()

    def space(self) -> int | None:
        return None

    def close(self) -> None:
        self._client.close()

    def _refuse(self, doing: str) -> NoReturn:
        raise Denied(f"{doing}: {self._client.host} is read only: to write, give the address of a store behind it")

    def _folders(self, prefix: str) -> Sequence[str]:
        """Return the folders where names that begin with `prefix` may be."""
        if len(prefix) >= 2:
            return [prefix[:2]] if _FOLDER.match(f"{prefix[:2]}/") else []
        found = (_FOLDER.match(link) for link in self._links(""))
        return [each[1] for each in found if each and each[1].startswith(prefix)]

    def _names(self, folder: str) -> Sequence[str]:
        """Return the names that the page of a folder has; none as well if it has another page than that."""
        names = []
        for link in self._links(f"{folder}/"):
            with suppress(Damaged):  # not one of ours
                names.append(check_name(f"{folder}/{link}"))
        self._lists = self._lists or bool(names)
        return names

    def _check_that_it_lists(self) -> None:
        """Raise `Unavailable` unless the server is one that lists its folders.

        Others answer for a folder with a page of the site, or with 404, while what is in it can be read.
        """
        if not self._lists and not any(self._names(folder) for folder in self._folders("")):
            raise Unavailable(
                f"listing: {self._client.host} does not list its folders, or has nothing of this grid"
            )

    def _links(self, folder: str) -> Sequence[str]:
        """Return what the index page of a folder links to, as seen from there."""
        try:
            answer = self._client.ask("GET", f"{self._root}{folder}", f"listing {folder or 'folders'}")
        except NotFound:
            return []
        except Denied as error:
            if error.wants_login:
                raise
            raise Unavailable(f"{error}: it does not list its folders") from error
        if not _is_whole(answer):
            raise Unavailable(f"listing: the index page of {answer.host} breaks off", passing=True)
        page = f"{self._origin}{self._root}{folder}"
        base = unquote(page)
        below = set()
        for link in _links_of(answer.body.decode(errors="replace")):
            with suppress(ValueError):  # not an address
                below.add(unquote(urljoin(page, link)).removeprefix(base))
        return sorted(below)


def _is_whole(answer: Answer) -> bool:
    """True unless the end of a page is missing: some servers end theirs by closing the connection."""
    body = answer.body.lower()
    if b"<html" in body:
        return b"</html>" in body[-200:]
    return "Content-Length" in answer.headers or "Transfer-Encoding" in answer.headers


def _links_of(page: str) -> Sequence[str]:
    parser = _Links()
    parser.feed(page)
    parser.close()
    return parser.links


class _Links(HTMLParser):
    """Collects the targets of a page's links."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if name == "href" and value]
