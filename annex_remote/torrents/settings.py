"""The settings of the torrent source: text in, checked values out. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from annex_remote.errors import BadSetting

__all__ = ["ANYWHERE", "Endpoint", "TorrentSettings", "Transport", "read_torrent_settings"]

Endpoint = tuple[str, int]
"""Host and port; port 0 is any that is free."""

Transport = str
"""``foreground``, ``background`` or ``auto``."""

ANYWHERE: tuple[Endpoint, ...] = (("0.0.0.0", 0), ("::", 0))  # noqa: S104 - peers are anywhere

_TRANSPORTS = ("auto", "foreground", "background")
_ENDPOINT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]]+)):([0-9]{1,5})\Z")
_NUMBER = re.compile(r"[0-9]{1,7}(?:\.[0-9]{1,6})?\Z")
_LONGEST = 86400.0


@dataclass(frozen=True, slots=True)
class TorrentSettings:
    """What holds for torrents. Times are in seconds."""

    enabled: bool = True
    transport: Transport = "auto"
    listen: tuple[Endpoint, ...] = ANYWHERE
    """IP addresses and ports; empty: nowhere."""
    dht: bool = True
    nodes: tuple[Endpoint, ...] = ()
    """Where the DHT begins; empty: libtorrent's own."""
    webseeds: tuple[str, ...] = ()
    timeout: float = 120.0
    trust: bool = False
    seed_ratio: float = 0.0
    seed_time: float = 0.0


def read_torrent_settings(given: Mapping[str, str]) -> TorrentSettings:
    """Read and check them; `given` has their texts by name, empty or left out where nothing was given.

    Raises `BadSetting` with one sentence about the first that cannot be.
    """

    def text(name: str) -> str:
        return given.get(name, "").strip()

    transport = text("transport") or "auto"
    if transport not in _TRANSPORTS:
        raise BadSetting(f"transport={transport} is none of {', '.join(_TRANSPORTS)}")
    dht = text("dht") or "yes"
    webseeds = tuple(text("webseeds").split())
    for url in webseeds:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise BadSetting("webseeds: one of its URLs is not http:// or https:// with a host")
    return TorrentSettings(
        enabled=_yes("torrents", text("torrents"), usually=True),
        transport=transport,
        listen=_listen(text("listen")),
        dht=dht != "no",
        nodes=() if dht in ("yes", "no") else tuple(_endpoint("dht", word) for word in dht.split()),
        webseeds=webseeds,
        timeout=_number("torrent-timeout", text("torrent-timeout"), 120.0, least=1.0),
        trust=_yes("torrent-trust", text("torrent-trust"), usually=False),
        seed_ratio=_number("seed-ratio", text("seed-ratio"), 0.0),
        seed_time=_number("seed-time", text("seed-time"), 0.0),
    )


def _yes(name: str, text: str, *, usually: bool) -> bool:
    if text not in ("", "yes", "no"):
        raise BadSetting(f"{name}={text} is neither yes nor no")
    return usually if not text else text == "yes"


def _listen(text: str) -> tuple[Endpoint, ...]:
    if text == "none":
        return ()
    endpoints = tuple(_endpoint("listen", word) for word in text.split())
    for host, _ in endpoints:
        try:
            ip_address(host)
        except ValueError:
            raise BadSetting(f"listen: {host} is not an IP address, such as 0.0.0.0 or [::]") from None
    return endpoints or ANYWHERE


def _endpoint(name: str, word: str) -> Endpoint:
    found = _ENDPOINT.match(word)
    if found is None or int(found[3]) > 65535:
        raise BadSetting(f"{name}: {word} is not HOST:PORT, such as 192.168.1.7:6881 or [::1]:6881")
    return found[1] or found[2], int(found[3])


def _number(name: str, text: str, usual: float, least: float = 0.0) -> float:
    if not text:
        return usual
    if not _NUMBER.match(text) or not least <= float(text) <= _LONGEST:
        raise BadSetting(f"{name}={text} is not a number from {least:g} to {_LONGEST:g}")
    return float(text)
