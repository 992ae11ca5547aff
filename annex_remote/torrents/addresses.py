"""Which addresses a torrent may lead to: git-annex's ``annex.security.allowed-ip-addresses``.

Torrents and the pages they come from name addresses of anybody's choosing: trackers, web seeds, peers. As for URLs
in git-annex, only public addresses are spoken to, unless the user allows others. What the setting means was tried
with git-annex 10.20261026: words between blanks, each one address, ``[address]``, or ``[address]:port`` for one
port of it; ``all`` by itself, and not among other words, is every address; of several values the last counts; the
old name, ``annex.security.allowed-http-addresses``, counts if the new one is not set at all. What is no address is
passed over there, and so it is here: it allows nothing, and must not stop what works with git-annex.

Ranges (``192.168.1.0/24``) are known here only: peers in the house have many addresses.
"""

from __future__ import annotations

import ipaddress
import re
import subprocess
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from annex_remote.errors import BadSetting

__all__ = ["SETTING", "Allowed", "parse_allowed", "read_allowed"]

SETTING = "annex.security.allowed-ip-addresses"
_OLD_SETTING = "annex.security.allowed-http-addresses"

PATIENCE = 30.0
"""Seconds that git gets to tell its configuration."""

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Span = tuple[int, int]
"""The first and the last address of a range, as numbers."""

_LAST_4 = (1 << 32) - 1
_LAST_6 = (1 << 128) - 1

_NOT_PUBLIC_4 = (
    "0.0.0.0/8",  # this network; Linux takes 0.0.0.0 for itself
    "10.0.0.0/8",  # private
    "100.64.0.0/10",  # behind a provider's NAT
    "127.0.0.0/8",  # loopback
    "169.254.0.0/16",  # link-local, where clouds keep their metadata
    "172.16.0.0/12",  # private
    "192.0.0.0/24",  # protocols
    "192.0.2.0/24",  # documentation
    "192.88.99.0/24",  # relays of 6to4, of old
    "192.168.0.0/16",  # private
    "198.18.0.0/15",  # benchmarks
    "198.51.100.0/24",  # documentation
    "203.0.113.0/24",  # documentation
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, and broadcast
)
"""IPv4 that is not global unicast: IANA's registry of special-purpose addresses (RFC 6890)."""

_PUBLIC_6 = "2000::/3"
"""All global unicast that was given out (RFC 4291); the rest is loopback, local, multicast, or nothing yet."""

_NOT_PUBLIC_6 = (
    # Protocols, Teredo (2001::/32) among them: it hides two addresses, one inverted in the last bits, which no
    # list of ranges could tell; nobody serves it any more.
    "2001::/23",
    "2001:db8::/32",  # documentation
    "3fff::/20",  # documentation
)

_ZONE = re.compile(r"%[^/]+")
"""By which way an IPv6 address is reached (``fe80::1%eth0``); it is the same address by any."""

_MAPPED = int(ipaddress.IPv6Address("::ffff:0:0"))  # an IPv4 address in sockets' clothes (RFC 4291, 2.5.5.2)
_NAT64 = int(ipaddress.IPv6Address("64:ff9b::"))  # the last 32 bits, on the other side of a translator (RFC 6052)
_SIX_TO_FOUR = int(ipaddress.IPv6Address("2002::"))  # 2002:IPv4::/48 (RFC 3056)
_SIX_TO_FOUR_REST = 80


def _spans(networks: Iterable[_Network]) -> list[_Span]:
    """Return what networks of one family cover: disjoint, sorted, and none next to another."""
    return _joined((int(network.network_address), int(network.broadcast_address)) for network in networks)


def _joined(spans: Iterable[_Span]) -> list[_Span]:
    joined: list[_Span] = []
    for first, last in sorted(spans):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return joined


def _gaps(spans: Iterable[_Span], last: int) -> Iterator[_Span]:
    """Yield what of 0 to `last` is not in `spans`, which are joined."""
    at = 0
    for first, end in spans:
        if at < first:
            yield at, first - 1
        at = end + 1
    if at <= last:
        yield at, last


def _without(spans: Iterable[_Span], taken: Iterable[_Span], last: int) -> list[_Span]:
    """Return what is in `spans` and not in `taken`, both joined."""
    return list(_gaps(_joined([*_gaps(spans, last), *taken]), last))


def _embedded(spans: Iterable[_Span], prefix: int, rest: int = 0) -> list[_Span]:
    """Return the IPv6 addresses that have one of the IPv4 `spans` behind `prefix`, and `rest` bits of anything."""
    return [(prefix + (first << rest), prefix + ((last + 1) << rest) - 1) for first, last in spans]


_REFUSED_4 = _spans(map(ipaddress.IPv4Network, _NOT_PUBLIC_4))


def _refused_6() -> list[_Span]:
    """Return what is refused of IPv6 by itself, all of the mapped addresses included."""
    private = _embedded(_REFUSED_4, _NAT64) + _embedded(_REFUSED_4, _SIX_TO_FOUR, _SIX_TO_FOUR_REST)
    unicast = [*_spans([ipaddress.IPv6Network(_PUBLIC_6)]), (_NAT64, _NAT64 + _LAST_4)]
    special = _spans(map(ipaddress.IPv6Network, _NOT_PUBLIC_6))
    return _joined([*_gaps(_joined(unicast), _LAST_6), *special, *private])


_REFUSED_6 = _refused_6()


def _address(text: str) -> _Address | None:
    """Return an address without its zone, a mapped one as the IPv4 address that it is."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return (address.version == 6 and address.ipv4_mapped) or address


def _network(text: str) -> _Network | None:
    """Return an address or a range, a mapped one as the IPv4 that it is; None if it is neither."""
    try:
        network = ipaddress.ip_network(_ZONE.sub("", text) if ":" in text else text, strict=False)
    except ValueError:
        return None
    mapped = network.network_address.ipv4_mapped if network.version == 6 else None
    if mapped is not None and network.prefixlen >= 96:
        return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


@dataclass(frozen=True)
class Allowed:
    """What the user allows beyond public addresses; see `parse_allowed`."""

    everything: bool = False
    networks: tuple[_Network, ...] = ()
    ports: tuple[tuple[_Network, int], ...] = ()
    """Networks of which only one port is allowed."""

    def permits(self, address: str, port: int) -> bool:
        """True if an IP literal may be spoken to on a port; False also for what is no IP literal."""
        found = _address(address)
        if found is None:
            return False
        if self.everything or any(port == allowed and found in network for network, allowed in self.ports):
            return True
        spans = self._refused_4 if found.version == 4 else self._refused_6
        number = int(found)
        at = bisect_right(spans, (number, _LAST_6)) - 1
        return at < 0 or spans[at][1] < number

    def refused(self) -> list[tuple[str, str]]:
        """Return (first, last) of all ranges that may not be spoken to: disjoint, sorted, IPv4 before IPv6.

        An address of which only a port is allowed is among them, as libtorrent's filter knows addresses only. IPv4
        addresses are in it twice, the second time mapped into IPv6, which that filter does not do by itself.
        """
        if self.everything:
            return []
        mapped = _embedded(self._refused_4, _MAPPED)
        ranges = [
            (str(ipaddress.IPv4Address(first)), str(ipaddress.IPv4Address(last)))
            for first, last in self._refused_4
        ]
        for first, last in _joined([*self._refused_6, *mapped]):
            ranges.append((str(ipaddress.IPv6Address(first)), str(ipaddress.IPv6Address(last))))
        return ranges

    @cached_property
    def _refused_4(self) -> list[_Span]:
        return _without(_REFUSED_4, _spans(each for each in self.networks if each.version == 4), _LAST_4)

    @cached_property
    def _refused_6(self) -> list[_Span]:
        """All but mapped addresses, which are IPv4."""
        taken = _spans(each for each in self.networks if each.version == 6)
        return _without(_REFUSED_6, _joined([*taken, (_MAPPED, _MAPPED + _LAST_4)]), _LAST_6)


def parse_allowed(text: str) -> Allowed:
    """Return what a value of the setting allows; words that are no addresses allow nothing."""
    words = text.split()
    if words == ["all"]:
        return Allowed(everything=True)
    networks: list[_Network] = []
    ports: list[tuple[_Network, int]] = []
    for word in words:
        inner, closing, tail = word[1:].partition("]") if word.startswith("[") else (word, "", "")
        network = None if word.startswith("[") and not closing else _network(inner)
        colon, port = tail[:1], tail[1:]
        if network is None:
            continue
        if not tail:
            networks.append(network)
        elif colon == ":" and port.isascii() and port.isdigit() and len(port) < 6:
            ports.append((network, int(port)))
    return Allowed(networks=tuple(networks), ports=tuple(ports))


def read_allowed(git_dir: str | None) -> Allowed:
    """Read the setting from git's configuration, that of `git_dir` or of where we are.

    Raises `BadSetting` if git fails. What ``git -c`` says reaches us through the environment; git-annex's own
    ``-c`` reaches no remote.
    """
    values: dict[str, str] = {}
    for item in _listed(git_dir).split("\0"):
        key, _, value = item.partition("\n")
        values[key] = value
    return parse_allowed(values.get(SETTING, values.get(_OLD_SETTING, "")))


def _listed(git_dir: str | None) -> str:
    place = [] if git_dir is None else ["--git-dir", git_dir]
    try:
        listing = subprocess.run(
            ["git", *place, "config", "--null", "--get-regexp", r"^annex\.security\.allowed-"],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            check=False,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        why = f"no answer in {PATIENCE:g} seconds"
    except OSError as error:
        why = str(error.strerror)
    else:
        if listing.returncode in (0, 1):  # 1: it is not set
            return listing.stdout.decode("utf-8", "surrogateescape")
        lines = listing.stderr.decode("utf-8", "replace").strip().splitlines()
        why = lines[-1] if lines else f"it ended with {listing.returncode}"
    raise BadSetting(f"which addresses may be spoken to cannot be read (git config {SETTING}): {why}")
