"""A grid's settings as data: one table serves LISTCONFIGS, GETCONFIG, the checks and docs/settings.md."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from annex_remote.capability import shown_word
from annex_remote.errors import BadSetting
from annex_remote.limits import NO_LIMIT, Limit, parse_limit
from annex_remote.model import MAX_SHARES, Coding
from annex_remote.shares.crypto import Cipher, default_cipher

__all__ = [
    "SETTINGS",
    "TORRENT_SETTINGS",
    "FirstStore",
    "Setting",
    "Settings",
    "check_places",
    "default_coding",
    "parse_stores",
    "read_settings",
]

DEFAULT_STALL = 30.0


@dataclass(frozen=True, slots=True)
class Setting:
    """One parameter of `git annex initremote`: its name, what it means, and its default in words."""

    name: str
    description: str
    default: str
    fixed: bool = True
    """True if it is settled when the grid is made and refused if it differs later."""


SETTINGS = (
    Setting("stores", "NAME=ADDRESS of each store, separated by spaces; NAME*2=... keeps two shares", "none"),
    Setting("needed", "how many shares rebuild an object", "total less two fifths of it, rounded"),
    Setting("happy", "how many shares must be stored for an upload to succeed", "half-way from needed to total"),
    Setting("total", "how many shares an upload tries to store", "one for each share that the stores can keep"),
    Setting(
        # Not `cipher`: under that name git-annex keeps the passphrase of encryption=shared.
        "share-cipher",
        "aegis256, xchacha20poly1305, or none (public data)",
        "aegis256 where the machine has AES instructions, else xchacha20poly1305",
    ),
    Setting("stall", "seconds without progress after which a store is given up for a transfer", "30", fixed=False),
    Setting(
        "download-limit",
        "bytes a second that are read, all stores together; may go by the hour",
        "none",
        fixed=False,
    ),
    Setting(
        "upload-limit",
        "bytes a second that are stored, all stores together; may go by the hour",
        "none",
        fixed=False,
    ),
    Setting(
        "repair-on-read",
        "yes: what a download finds missing or damaged is made again at once",
        "no",
        fixed=False,
    ),
    Setting("torrents", "no: leave torrents and magnet links to others", "yes", fixed=False),
    Setting("transport", "foreground, background (gives way to other traffic), or auto", "auto", fixed=False),
    Setting(
        "listen",
        "ADDRESS:PORT where peers may connect to, separated by blanks; or none",
        "any, any port",
        fixed=False,
    ),
    Setting("dht", "yes, no, or HOST:PORT of nodes to begin with, separated by blanks", "yes", fixed=False),
    Setting("webseeds", "URLs of web servers that also have the files of torrents", "none", fixed=False),
    Setting(
        "torrent-timeout", "seconds that peers may bring nothing before a torrent is given up", "120", fixed=False
    ),
    Setting("torrent-trust", "yes: a torrent counts as a copy of what it has", "no", fixed=False),
    Setting("seed-ratio", "how often what was fetched is given back, while git-annex runs", "0", fixed=False),
    Setting("seed-time", "seconds for which it is given back, while git-annex runs", "0", fixed=False),
    Setting("verify-key", "proves the grid's shares; written by initremote", "made by initremote"),
    Setting("grid", "what the grid was made with; written by initremote", "made by initremote"),
)

TORRENT_SETTINGS = (
    "torrents",
    "transport",
    "listen",
    "dht",
    "webseeds",
    "torrent-timeout",
    "torrent-trust",
    "seed-ratio",
    "seed-time",
)
"""Those that only the torrent source reads (`torrents.settings`); git config may say otherwise for one clone."""


@dataclass(frozen=True, slots=True)
class FirstStore:
    """One entry of the setting `stores`: where a grid begins and how a clone finds its roster."""

    name: str
    address: str
    shares: int


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one remote, parsed and checked. `stall` is in seconds."""

    stores: tuple[FirstStore, ...]
    coding: Coding
    cipher: Cipher
    stall: float
    verify_key: bytes | None
    """The grid's Ed25519 public key, or None before the grid is made."""
    first_names: frozenset[str] = frozenset()
    """The names that `stores` had when the grid was made; empty before."""
    download_limit: Limit = NO_LIMIT
    """Of what is read from all stores together, and shared with all of this user's processes."""
    upload_limit: Limit = NO_LIMIT
    repair_on_read: bool = False

    def made_with(self) -> str:
        """Return the text of the setting `grid`: what cannot be changed by editing the configuration."""
        return f"{self._coded()}/{','.join(store.name for store in self.stores)}"

    def _coded(self) -> str:
        coding = self.coding
        return f"{coding.needed}/{coding.happy}/{coding.total}/{self.cipher.setting}"

    def check_made_with(self, made: str) -> None:
        """Raise `BadSetting` if these settings differ from `made`, the text of the setting `grid`."""
        coded, _, _ = made.rpartition("/")
        if coded.count("/") != 3:
            raise BadSetting("grid is damaged: initremote wrote needed/happy/total/cipher/stores there")
        if coded != self._coded():
            was = "needed={} happy={} total={} share-cipher={}".format(*coded.split("/"))
            raise BadSetting(f"this grid was made with {was}: that cannot be changed by a setting")


def default_coding(total: int) -> Coding:
    """Return the coding for `total` shares: about two fifths of them may be lost."""
    needed = max(1, total - max(1, round(0.4 * total)))
    return Coding(needed, -(-(needed + total) // 2), total)


_COUNT = re.compile(r"[0-9]{1,3}\Z")
_STORE_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}\Z")
# As git's configuration variables: `git config remote.NAME.swarm-store-STORE` must be able to name it.


def parse_stores(text: str) -> tuple[FirstStore, ...]:
    """Read the setting `stores`; raises `BadSetting` naming the entry that cannot be."""
    stores: list[FirstStore] = []
    for word in text.split():
        label, equals, address = word.partition("=")
        name, star, count = label.partition("*")
        if not equals or not address:
            raise BadSetting(f"stores: {shown_word(word)} is not NAME=ADDRESS, such as usb=dir:/media/usb/annex")
        check_store_name(name)
        if address.endswith(","):
            raise BadSetting(f"stores: {word!r} ends with a comma: stores are separated by blanks")
        if star and not (_COUNT.match(count) and 1 <= int(count) <= MAX_SHARES):
            raise BadSetting(f"stores: {label!r} does not say how many shares: write {name}*2={address}")
        stores.append(FirstStore(name, address, int(count) if star else 1))
    if not stores:
        raise BadSetting(
            'stores= is missing: name the stores, such as stores="usb=dir:/media/usb/annex nas=dir:/mnt/nas/annex"'
        )
    check_places(stores)
    shares = sum(store.shares for store in stores)
    if shares > MAX_SHARES:
        raise BadSetting(f"stores: {shares} shares are more than a grid can have ({MAX_SHARES})")
    return tuple(stores)


def check_places(stores: Iterable[FirstStore]) -> None:
    """Raise `BadSetting` if two of `stores` have one name, or one address."""
    names: set[str] = set()
    places: dict[str, str] = {}
    for store in stores:
        if store.name in names:
            raise BadSetting(f"stores: the name {store.name} is given twice")
        names.add(store.name)
        other = places.setdefault(store.address, store.name)
        if other != store.name:
            raise BadSetting(
                f"stores: {other} and {store.name} are the same place, {store.address}; "
                f"to keep two shares there write {other}*2={store.address}"
            )


def check_store_name(name: str) -> str:
    """Return `name` if a store may have it; raises `BadSetting`."""
    if not _STORE_NAME.match(name):
        raise BadSetting(
            f"stores: {shown_word(name)} cannot name a store: small letters, digits and -, at most 32 characters"
        )
    return name


def read_settings(get: Callable[[str], str] | Mapping[str, str]) -> Settings:
    """Read and check all settings; `get` returns the text of one, empty if it was not given.

    Raises `BadSetting` with one sentence about the first that cannot be.
    """
    ask = (lambda name: get.get(name, "")) if isinstance(get, Mapping) else get
    stores = parse_stores(ask("stores"))
    shares = sum(store.shares for store in stores)
    total = _number("total", ask("total"), shares)
    made = ask("grid")
    if total > shares and not made:  # later, the roster says which stores there are
        raise BadSetting(f"total={total}, but the stores together can keep {shares}: name more stores")
    if total < 1:
        raise BadSetting("total=0 cannot be: at least one share is stored")
    usual = default_coding(total)
    needed = _number("needed", ask("needed"), usual.needed)
    if needed > total:
        raise BadSetting(f"needed={needed} is more than total={total}: no upload could ever be read back")
    happy = _number("happy", ask("happy"), max(needed, -(-(needed + total) // 2)))
    cipher_name = ask("share-cipher")
    settings = Settings(
        stores=stores,
        coding=Coding(needed, happy, total),
        cipher=Cipher.from_setting(cipher_name) if cipher_name else default_cipher(),
        stall=_seconds("stall", ask("stall")),
        verify_key=_verify_key(ask("verify-key")),
        first_names=frozenset(made.rpartition("/")[2].split(",")) if made else frozenset(),
        download_limit=parse_limit("download-limit", ask("download-limit")),
        upload_limit=parse_limit("upload-limit", ask("upload-limit")),
        repair_on_read=_yes("repair-on-read", ask("repair-on-read")),
    )
    if made:
        settings.check_made_with(made)
    return settings


def _number(name: str, text: str, default: int) -> int:
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise BadSetting(f"{name}={text} is not a whole number")
    return int(text)


def _yes(name: str, text: str) -> bool:
    if text not in ("", "yes", "no"):
        raise BadSetting(f"{name}={text} is neither yes nor no")
    return text == "yes"


def _seconds(name: str, text: str) -> float:
    if not text:
        return DEFAULT_STALL
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0.1 <= seconds <= 86400:
        raise BadSetting(f"{name}={text} is not a number of seconds from 0.1 to 86400")
    return seconds


def _verify_key(text: str) -> bytes | None:
    if not text:
        return None
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise BadSetting("verify-key is damaged: it is 64 hexadecimal digits that initremote wrote")
    return key
