"""Addresses of stores that look like URLs: read strictly, in one form, and never with a password in them."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from annex_remote.errors import BadSetting

__all__ = ["Place", "parse_place"]

_HOST = re.compile(r"[a-z0-9._-]{1,253}\Z|\[[0-9a-f:.]+\]\Z")
_USER = re.compile(r"[A-Za-z0-9._-][A-Za-z0-9._@+-]{0,127}\Z")
_WHERE = (
    "User and password stand in SWARM_STORE_NAME_USER and SWARM_STORE_NAME_PASSWORD (NAME: the store's, in "
    "capital letters) during git annex initremote, or are given later: git-annex-remote-swarm login REMOTE NAME"
)
_SAFE = "-._~!$'()*,;:@+"
"""Characters of a path that stand as they are, besides letters, digits and the slash."""


@dataclass(frozen=True, slots=True)
class Place:
    """A parsed address. `path` is decoded, begins with a slash and has none at its end (the root is empty)."""

    scheme: str
    host: str
    """In small letters; an IPv6 address in its brackets."""
    port: int | None
    path: str
    user: str = ""
    options: dict[str, str] = field(default_factory=dict)

    @property
    def netloc(self) -> str:
        """Host, and the port if there is one: what stands in a URL and in the Host header."""
        return self.host if self.port is None else f"{self.host}:{self.port}"

    @property
    def quoted_path(self) -> str:
        """The path as it stands in a URL."""
        return quote(self.path, safe="/" + _SAFE)

    def __str__(self) -> str:
        """Return the address in its one form."""
        user = f"{quote(self.user, safe=_SAFE.replace('@', ''))}@" if self.user else ""
        options = f"?{urlencode(sorted(self.options.items()), safe='/:')}" if self.options else ""
        return f"{self.scheme}://{user}{self.netloc}{self.quoted_path}{options}"


def parse_place(
    address: str, *, options: Collection[str] = (), user: bool = False, default_port: int | None = None
) -> Place:
    """Read ``scheme://[user@]host[:port]/path[?option=value&...]``.

    `options` are the names that may stand after the question mark; `user` tells whether a user may be named;
    a port that is `default_port` is left out. Raises `BadSetting`, whose text never has what may be a password.
    """
    scheme, _, rest = address.partition("://")
    shown = _without_user(address)
    if not address.isprintable():  # urlsplit leaves some of them out, unasked
        raise BadSetting(f"{shown!r} has characters that do not print")
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        # Without its cause, which quotes what was taken for a port: that may be a password.
        raise BadSetting(f"{shown!r} is not an address: its host or port cannot be") from None
    if not rest or parts.scheme != scheme or not scheme:
        raise BadSetting(f"{shown!r} is not an address like SCHEME://HOST/PATH")
    if parts.password is not None:
        raise BadSetting(f"{shown!r} was given with a password, and addresses are shown and stored. {_WHERE}")
    if parts.username is not None and not user:
        raise BadSetting(f"{shown!r} was given with a user, which does not belong there. {_WHERE}")
    named = unquote(parts.username or "")
    if parts.username is not None and not _USER.match(named):
        raise BadSetting(f"{shown!r}: what stands before the @ is no user's name")
    host = (parts.netloc.rpartition("@")[2]).lower()
    host = host if port is None else host[: host.rindex(":")]
    if not _HOST.match(host):
        raise BadSetting(f"{shown!r} does not name a host")
    if parts.fragment or "#" in address:
        raise BadSetting(f"{shown!r}: '#' in a path is written %23")
    given = parse_qsl(parts.query, keep_blank_values=True)
    for name, value in given:
        if name not in options or not value or not value.isprintable():
            known = ", ".join(f"{each}=" for each in options) or "none"
            # What stands before an @ may be a password with a question mark in it.
            which = "an option" if "@" in parts.query else f"the option {name!r}"
            raise BadSetting(f"{shown!r}: {which} cannot be; what may follow the '?': {known}")
        if name in ("ca", "cert") and not value.startswith("/"):
            raise BadSetting(f"{shown!r}: {name}= is the absolute path of a file with certificates")
    if len(dict(given)) != len(given):
        raise BadSetting(f"{shown!r} has an option twice")
    return Place(
        scheme, host, None if port == default_port else port, _path(parts.path, shown), named, dict(given)
    )


def _path(quoted: str, shown: str) -> str:
    path = unquote(quoted, errors="surrogateescape")
    if not path.isprintable() or any(piece in (".", "..") for piece in path.split("/")):
        raise BadSetting(f"{shown!r}: the path has '.', '..' or characters that do not print")
    path = posixpath.normpath("/" + path.lstrip("/"))
    return "" if path == "/" else path


def _without_user(address: str) -> str:
    """Return the address without anything that could be a password, to be shown."""
    scheme, colons, rest = address.partition("://")
    if not colons:
        return address.rpartition("@")[2]
    return f"{scheme}{colons}{rest.rpartition('@')[2]}"
