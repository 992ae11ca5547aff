"""Which URLs are ours; magnets read and written (BEP 9, 53); what is shown of a URL. Pure."""

from __future__ import annotations

import base64
import ipaddress
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from urllib.parse import quote, unquote, unquote_plus, urlsplit

from annex_remote.torrents.names import MAX_NAME, printable

__all__ = [
    "MAX_URL",
    "TRACKER_SCHEMES",
    "WEB_SEED_SCHEMES",
    "Magnet",
    "TorrentUrl",
    "clean",
    "is_publishable",
    "read_choice",
    "recorded",
    "shown",
    "torrent_url",
    "write_magnet",
]

MAX_URL = 32_768
"""Characters of a URL; what is longer is not ours."""
MAX_MAGNET = 4_096
"""Characters of a magnet that is written, its choice left out: trackers and web seeds beyond it are left out."""
MAX_ADDRESS = 2_000
"""Characters of a tracker's or web seed's URL."""
MAX_SHOWN = 200
"""Characters of a URL that are shown."""
MAX_PATH = 4_096
"""Characters of a path that are shown: no system takes more."""
MAX_LISTED = 100
"""Trackers, web seeds and peers that are taken from one magnet, each."""
TRACKER_SCHEMES = frozenset({"udp", "http", "https"})
WEB_SEED_SCHEMES = frozenset({"http", "https"})

_SWARM = re.compile(r"swarm:", re.IGNORECASE)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_FRAGMENT = re.compile(r"\.torrent#", re.IGNORECASE | re.ASCII)
_HIDDEN = re.compile(r"\A([^?#]*)%2E(torrent)(?=[?#]|\Z)", re.IGNORECASE | re.ASCII)
_ENDING = re.compile(r"\.(torrent)\Z", re.IGNORECASE | re.ASCII)
_MORE_OF_MAGNET = re.compile(r"&(?:xt|dn|tr|ws|as|xs|xl|so|x\.pe)(?:\.[0-9]+)?=", re.IGNORECASE)
_BTIH = re.compile(r"urn:btih:(?:([0-9a-f]{40})|([a-z2-7]{32}))", re.IGNORECASE)
_BTMH = re.compile(r"urn:btmh:1220([0-9a-f]{64})", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]{1,9}")
_NUMBERED = re.compile(r"\.[0-9]{1,4}\Z")
_PEER = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):([0-9]{1,5})")
_STRAY = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
_NO_HOST = re.compile(r'[\s<>"\\^`{|}]')
_RUN = re.compile(r"[A-Za-z0-9]{16,}")
_HEX = re.compile(r"[0-9a-f]{16}|[0-9A-F]{16}")
_PLAIN = "!$&'()*+,;=:@/-._~"  # what a path may have beside letters and digits (RFC 3986)


@dataclass(frozen=True, slots=True)
class Magnet:
    """What a magnet says: at least one of the info-hashes.

    `v1` is 20 bytes of SHA-1, `v2` 32 of SHA-256; `name` is anybody's text, unsafe; `peers` are IP literals
    with ports, `exact_size` is bytes.
    """

    v1: bytes | None
    v2: bytes | None
    name: str = ""
    trackers: tuple[str, ...] = ()
    web_seeds: tuple[str, ...] = ()
    peers: tuple[tuple[str, int], ...] = ()
    exact_size: int | None = None
    sources: tuple[str, ...] = ()
    """http and https URLs of .torrent files (``xs=``)."""

    @property
    def id(self) -> str:
        """The name its metainfo is kept under: hex of the v1 info-hash if there is one, else of v2."""
        digest = self.v1 or self.v2
        assert digest is not None
        return digest.hex()


@dataclass(frozen=True, slots=True)
class TorrentUrl:
    """A URL that is ours.

    `url` is what was given, as it is recorded; `place` what to fetch: the magnet, the http, https or file URL, or
    the path, without ``swarm:`` and without the fragment; `choice` the file that the fragment picks: its number,
    from 1, or its path.
    """

    url: str
    place: str
    magnet: Magnet | None
    choice: int | str | None


def torrent_url(url: str) -> TorrentUrl | None:
    """Return what `url` says if it is ours, else None. Never raises.

    Ours are magnets of BitTorrent, and http, https and file URLs (of this machine) and bare paths that end in
    ``.torrent``; all of these behind ``swarm:`` too. ``#3`` picks the third file, ``#folder/name.iso`` one by its
    path, percent-encoded or not. In a magnet, the fragment is what follows the last ``#``; without one, ``so=``
    (BEP 53, from 0) picks a file if it names just one.

    In a bare path ``#`` and ``?`` are characters as any other, as for the shell and for ls: a fragment is only
    what follows ``.torrent#``, the last one of several, and only if the whole does not itself end in
    ``.torrent``. So ``C#.torrent`` is a path; ``b.torrent`` is picked out of another one by its number, or as
    ``a.torrent#b%2Etorrent``.

    A URL may also end in ``%2Etorrent``, as `recorded` writes it; its place has the point.
    """
    if len(url) > MAX_URL or any(unicodedata.category(character) in ("Cc", "Cs") for character in url):
        return None  # bytes that are no UTF-8 come as surrogates
    rest = url[6:] if _SWARM.match(url) else url
    scheme = _SCHEME.match(rest)
    if scheme is None:
        return _path(url, rest)
    match scheme[1].lower():
        case "magnet":
            return _magnet(url, rest)
        case "http" | "https" | "file":
            return _web(url, rest)
    return None


def recorded(place: str, choice: int | None) -> str:
    """Return how an http, https or file URL of a .torrent is recorded as a source of file `choice`, of several.

    git-annex's own bittorrent remote claims whatever ends in ``.torrent``, behind ``swarm:`` too, and then cannot
    fetch it. It does not claim what ends in ``%2Etorrent``, which is the same by RFC 3986.
    """
    path, mark, query = place.partition("?")
    text = _ENDING.sub(r"%2E\1", path) + mark + _ENDING.sub(r"%2E\1", query)
    text = quote(text, safe=_PLAIN + "?%[]", errors="surrogateescape")
    return f"swarm:{text}" + (f"#{choice}" if choice is not None else "")


def read_choice(fragment: str) -> int | str | None:
    """Return the number or the path of a file that stands behind ``#``, None for nothing."""
    if _NUMBER.fullmatch(fragment):
        return int(fragment)
    return unquote(fragment).strip("/") or None


def _is_torrent(path: str) -> bool:
    return path[-8:].lower() == ".torrent"


def _path(url: str, rest: str) -> TorrentUrl | None:
    if rest.startswith("//") or rest[:1].isspace():  # looks like a host, or like a slip of the hand
        return None
    if _is_torrent(rest):
        return TorrentUrl(url, rest, None, None)
    end = max((found.end() for found in _FRAGMENT.finditer(rest)), default=0)
    return TorrentUrl(url, rest[: end - 1], None, read_choice(rest[end:])) if end else None


def _web(url: str, rest: str) -> TorrentUrl | None:
    rest = _HIDDEN.sub(r"\1.\2", rest)
    try:
        parts = urlsplit(rest)
        host = parts.hostname or ""
        _ = parts.port  # refuses what is none
    except ValueError:
        return None
    if not _is_torrent(parts.path) or "%00" in parts.path:
        return None
    if parts.scheme == "file":
        if host not in ("", "localhost") or parts.netloc.lower() != host or not parts.path.startswith("/"):
            return None
    elif not host or _NO_HOST.search(host):
        return None
    place, _, fragment = rest.partition("#")
    return TorrentUrl(url, place, None, read_choice(fragment))


def _magnet(url: str, rest: str) -> TorrentUrl | None:
    place, mark, fragment = rest.rpartition("#")
    if not mark or _MORE_OF_MAGNET.search(fragment):  # a mark in a name that was not encoded
        place, fragment = rest, ""
    magnet, only = _parse(place[7:])
    if magnet is None:
        return None
    choice = read_choice(fragment)
    return TorrentUrl(url, place, magnet, only if choice is None else choice)


def _parse(query: str) -> tuple[Magnet | None, int | None]:
    """Return the magnet behind ``magnet:``, and the number of the only file that ``so=`` names."""
    if not query.startswith("?"):
        return None, None
    v1: set[bytes] = set()
    v2: set[bytes] = set()
    name, size, only = "", None, None
    trackers: list[str] = []
    seeds: list[str] = []
    sources: list[str] = []
    peers: list[tuple[str, int]] = []
    for parameter in query[1:].split("&"):
        key, _, text = parameter.partition("=")
        value = unquote(text)
        match _NUMBERED.sub("", key.lower()):
            case "xt":
                if found := _BTIH.fullmatch(value):
                    v1.add(bytes.fromhex(found[1]) if found[1] else _base32(found[2]))
                elif found := _BTMH.fullmatch(value):
                    v2.add(bytes.fromhex(found[1]))
            case "dn":
                name = name or unquote_plus(text)[:1000]
            case "tr":
                trackers.append(value)
            case "ws" | "as":
                seeds.append(value)
            case "xs":
                sources.append(value)
            case "x.pe":
                peers += _peer(value)
            case "xl" if re.fullmatch(r"[0-9]{1,18}", value):
                size = int(value)
            case "so" if _NUMBER.fullmatch(value):
                only = int(value) + 1
    if max(len(v1), len(v2)) != 1:  # none, or no telling which
        return None, None
    return (
        Magnet(
            next(iter(v1), None),
            next(iter(v2), None),
            name,
            _listed(clean(tracker, TRACKER_SCHEMES) for tracker in trackers),
            _listed(clean(seed, WEB_SEED_SCHEMES) for seed in seeds),
            tuple(dict.fromkeys(peers))[:MAX_LISTED],
            size,
            _listed(clean(source, WEB_SEED_SCHEMES) for source in sources),
        ),
        only,
    )


def _base32(text: str) -> bytes:
    return base64.b32decode(text.upper())


def _listed(urls: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(url for url in urls if url is not None))[:MAX_LISTED]


def _peer(text: str) -> list[tuple[str, int]]:
    """Return the peer that ``x.pe=`` names, if it is an IP literal with a port: names would be looked up."""
    found = _PEER.fullmatch(text)
    if found is None or not 1 <= int(found[3]) <= 65535:
        return []
    try:
        return [(str(ipaddress.ip_address(found[1] or found[2])), int(found[3]))]
    except ValueError:
        return []


def clean(url: str, schemes: frozenset[str]) -> str | None:
    """Return `url`, with blanks and what is not ASCII percent-encoded, or None if it is none of these `schemes`.

    None also for what has no host, a port out of range, control characters, or is longer than `MAX_ADDRESS`.
    """
    url = url.strip(" ")
    if len(url) > MAX_ADDRESS or any(unicodedata.category(character)[0] == "C" for character in url):
        return None
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna").decode() if not url.isascii() else parts.hostname or ""
        port = parts.port
    except (ValueError, UnicodeError):
        return None
    if parts.scheme not in schemes or not host or port == 0:
        return None
    host = f"[{host}]" if ":" in host else host
    if not _HOST.fullmatch(host):
        return None
    user = parts.netloc.rpartition("@")[0]
    text = f"{parts.scheme}://" + (f"{_quoted(user)}@" if user else "")
    text += host + ("" if port is None else f":{port}") + _quoted(parts.path)
    text += f"?{_quoted(parts.query)}" if parts.query else ""
    return text if len(text) <= MAX_ADDRESS else None


def _quoted(text: str) -> str:
    """Return `text` with what no URL may have percent-encoded, and what is encoded already as it is."""
    return _STRAY.sub("%25", quote(text, safe=_PLAIN + "?%"))


def _is_secret(text: str) -> bool:
    """True if a part of `text` looks like a passkey: hex digits, or letters and digits in disorder, 16 or more.

    Names of releases have digits and capitals too, but where words and numbers begin, which is more seldom.
    """
    for run in _RUN.findall(text):
        kinds = ["0" if one.isdigit() else "a" if one.islower() else "A" for one in run]
        changes = sum(one != other and (one, other) != ("A", "a") for one, other in pairwise(kinds))
        if _HEX.search(run) or 5 * changes >= len(run) or (len(run) >= 32 and "0" in kinds):
            return True
    return False


def is_publishable(url: str) -> bool:
    """True if a tracker's or web seed's `url` has no user, no query, and nothing that looks like a passkey."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    if "@" in parts.netloc or parts.query or parts.fragment:
        return False
    return not _is_secret(unquote(parts.netloc + parts.path))


def write_magnet(magnet: Magnet, choice: int | str | None = None) -> str:
    """Return the one way in which a magnet is written: ASCII without blanks; peers are not written.

    Trackers and web seeds are left out where `MAX_MAGNET` would be passed. Neither it nor what is before the
    fragment ends in ``.torrent``: see `recorded`.
    """
    parts = [f"xt=urn:btih:{magnet.v1.hex()}"] if magnet.v1 is not None else []
    if magnet.v2 is not None:
        parts.append(f"xt=urn:btmh:1220{magnet.v2.hex()}")
    name = magnet.name.encode("utf-8", "replace")[:MAX_NAME].decode("utf-8", "ignore")
    if name:
        parts.append(f"dn={quote(name, safe='')}")
    if magnet.exact_size is not None:
        parts.append(f"xl={magnet.exact_size}")
    text = "magnet:?" + "&".join(parts)
    for key, urls in (("xs", magnet.sources), ("tr", magnet.trackers), ("ws", magnet.web_seeds)):
        for url in urls:
            part = f"&{key}={quote(url, safe='')}"
            if len(text) + len(part) <= MAX_MAGNET:
                text += part
    text = _ENDING.sub(r"%2E\1", text)
    if choice is None:
        return text
    if isinstance(choice, int):
        return f"{text}#{choice}"
    path = _ENDING.sub(r"%2E\1", quote(choice, safe="/", errors="replace"))
    return f"{text}#%{ord(path[0]):02X}{path[1:]}" if _NUMBER.fullmatch(path) else f"{text}#{path}"


def shown(url: str) -> str:
    """Return what of a URL may be shown: no user, no query, no fragment, nothing like a passkey.

    ``scheme://host/…/last-part``; of a magnet its info-hash and name. A path of this machine has no secrets, and
    is shown whole; what may as well be a URL without its scheme (a query, a user, a passkey) is taken for one.
    """
    ours = torrent_url(url)
    rest = url[6:] if _SWARM.match(url) else url
    if ours is not None and ours.magnet is not None:
        name = f"&dn={ours.magnet.name}" if ours.magnet.name else ""
        kind = "btih:" if ours.magnet.v1 is not None else "btmh:1220"
        text = f"magnet:?xt=urn:{kind}{ours.magnet.id}{name}"
    elif ours is not None and not _SCHEME.match(rest):
        return _whole(ours.place)
    elif _is_local(rest):
        return _whole(rest)
    else:
        text = _shown(rest)
        if text.startswith("file:///"):
            return _whole(text)
    return printable(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…")


def _whole(path: str) -> str:
    """Return a path as it may be shown: the end of one is what tells it from others."""
    path = path if len(path) <= MAX_PATH else f"{path[:MAX_PATH]}…"
    return "".join(printable(path[at : at + MAX_SHOWN]) for at in range(0, len(path), MAX_SHOWN))


def _is_local(text: str) -> bool:
    """True if `text`, which is not ours, can only be meant as a path."""
    if text.startswith(("/", "./", "../", "~")):
        return not text.startswith("//")
    return not (_SCHEME.match(text) or text.startswith("//") or "@" in text or "?" in text or _is_secret(text))


def _shown(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "…"
    if parts.scheme == "file" and not host:
        return f"file://{parts.path}"
    if parts.scheme and not host:
        return f"{parts.scheme}:…"
    *before, last = [segment for segment in unquote(parts.path).split("/") if segment] or [""]
    last = "…" if _is_secret(last) or "@" in last else last
    if not parts.scheme:
        return f"…/{last}" if before or host else last
    host = (
        f"[{host}]" if ":" in host else ".".join("…" if _is_secret(label) else label for label in host.split("."))
    )
    text = f"{parts.scheme}://{host}" + ("" if port is None else f":{port}")
    return text + ("/…/" if before else "/" if last else "") + last
