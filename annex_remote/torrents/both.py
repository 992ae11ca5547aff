"""A key's content from shares and from torrents, at the same time, into one file.

Until shares are found, torrents fill the file from the front. Then the shares do, and peers go on from the end,
until the two meet. Whoever fails leaves the rest to the other.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable

from annex_remote.errors import Cancelled, NotEnough, SwarmError
from annex_remote.torrents.gather import PULSE, Gathering
from annex_remote.workers import workers

__all__ = ["Either", "fetch_from_both", "may_be_of"]

LAST = 2.0
"""Seconds that shares get to see that they were called off."""

_HASHED = re.compile(
    r"(MD5|SHA1|SHA224|SHA256|SHA384|SHA512|SHA3_224|SHA3_256|SHA3_384|SHA3_512|BLAKE2B512|BLAKE2S256)E?"
    r"-(?:s[0-9]+-)?-([0-9a-f]+)"
)
_ALGORITHMS = {"blake2b512": "blake2b", "blake2s256": "blake2s"}


class Either(threading.Event):
    """Set when it was set, or when `other` was."""

    def __init__(self, other: threading.Event) -> None:
        super().__init__()
        self._other = other

    def is_set(self) -> bool:
        return super().is_set() or self._other.is_set()


class _Shares:
    """What runs beside: fetches from shares, and ends in a result."""

    def __init__(self, fetch: Callable[[], None]) -> None:
        self._fetch = fetch
        self.ended = threading.Event()
        self.error: BaseException | None = None

    def start(self) -> None:
        workers.start(self._run)

    def _run(self) -> None:
        try:
            self._fetch()
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            self.error = error
        self.ended.set()

    def wait(self, stop: threading.Event) -> None:
        """Wait for the end; raises `Cancelled` if it is called off meanwhile, when nothing is written any more."""
        while not self.ended.wait(PULSE):
            if stop.is_set():
                self.ended.wait(LAST)
                raise Cancelled("the download was called off")


def fetch_from_both(gathering: Gathering, from_shares: Callable[[], None], stop: threading.Event) -> bool:
    """Have the file written by `gathering` and `from_shares`; True if it was shares that finished it.

    `from_shares` takes over from `gathering` before it writes. `stop` ends both. Raises `NotEnough` if both fail,
    with what both say, and whatever else than `SwarmError` either raises.
    """
    shares = _Shares(from_shares)
    shares.start()
    try:
        try:
            if gathering.run():
                return False
            torrents: SwarmError | None = None
        except Cancelled:
            raise
        except SwarmError as error:
            torrents = error
        shares.wait(stop)
        if shares.error is None:
            return True
        if not isinstance(shares.error, SwarmError) or isinstance(shares.error, Cancelled):
            raise shares.error
        if torrents is None:
            gathering.give_back()
            try:
                if gathering.run():
                    return False
            except Cancelled:
                raise
            except SwarmError as error:
                torrents = error
        raise NotEnough(f"from torrents: {torrents}; from shares: {shares.error}") from shares.error
    finally:
        stop.set()


def may_be_of(key: str, path: str) -> bool:
    """True unless a key's name is a hash, and that of another content than there is at `path`."""
    found = _HASHED.match(key)
    if found is None:
        return True
    with open(path, "rb") as file:
        name = found[1].lower()
        return hashlib.file_digest(file, _ALGORITHMS.get(name, name)).hexdigest() == found[2]
