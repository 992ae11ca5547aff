"""Where a torrent can be had: trackers, web seeds, peers; and which of them may be asked. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from annex_remote.torrents.addresses import Allowed
from annex_remote.torrents.settings import Endpoint
from annex_remote.torrents.torrent import Tried

__all__ = ["NOTHING_MORE", "Extra", "sifted"]

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Extra:
    """Where a torrent can be had, beside what its metainfo says; the first trackers are asked first."""

    trackers: tuple[str, ...] = ()
    web_seeds: tuple[str, ...] = ()
    peers: tuple[Endpoint, ...] = ()


NOTHING_MORE = Extra()


def sifted(extra: Extra, allowed: Allowed, tried: Tried) -> Extra:
    """Return what of `extra` may be asked, each once; what may not is noted in `tried`.

    Names are looked up later: then libtorrent refuses the addresses.
    """

    def may_be_asked(url: str) -> bool:
        parts = urlsplit(url)
        host = parts.hostname or ""
        try:
            ip_address(host)
        except ValueError:
            return True  # a name
        return permitted(host, parts.port or _PORTS.get(parts.scheme, 0))

    def permitted(host: str, port: int) -> bool:
        if allowed.permits(host, port):
            return True
        tried.refused.add(host)
        return False

    return Extra(
        tuple(dict.fromkeys(filter(may_be_asked, extra.trackers))),
        tuple(dict.fromkeys(filter(may_be_asked, extra.web_seeds))),
        tuple(dict.fromkeys(peer for peer in extra.peers if permitted(*peer))),
    )
