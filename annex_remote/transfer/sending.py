"""The shares of one pass on their way: a worker for each, through the gate of its store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

from annex_remote.model import OpenAt
from annex_remote.transfer.sealing import SealingPass
from annex_remote.transfer.sites import Clock, Site
from annex_remote.workers import workers

__all__ = ["Sending", "in_pieces"]

SMALLEST_PIECE, LARGEST_PIECE = 16 << 10, 1 << 20
MOMENT = 0.1
"""Seconds that a piece should take: by them a store is seen to move that is slow, or that our limits keep slow."""


def in_pieces(
    read: Callable[[int, int], bytes | memoryview], moved: Callable[[], None], clock: Clock = time.monotonic
) -> OpenAt:
    """Return a source of what ``read(offset, length)`` gives, until it gives nothing.

    `moved` is called whenever a piece was taken.
    """

    def open_at(offset: int) -> Iterator[bytes | memoryview]:
        length = SMALLEST_PIECE
        while piece := read(offset, length):
            began = clock()
            yield piece
            moved()
            offset += len(piece)
            taken = clock() - began
            length = min(2 * length, LARGEST_PIECE) if taken < MOMENT else max(length // 2, SMALLEST_PIECE)

    return open_at


class Sending:
    """Puts shares of `object_id`, each of `size` bytes, which `sealing` feeds."""

    def __init__(self, sealing: SealingPass, object_id: str, size: int, *, cancelled: threading.Event) -> None:
        self._sealing = sealing
        self._object_id = object_id
        self._size = size
        self._cancelled = cancelled
        self._sites: dict[int, Site] = {}
        self._errors: dict[int, Exception] = {}
        self._told: set[int] = set()

    def start(self, site: Site) -> None:
        """Put the share of `site`, which the pass feeds; raises `RuntimeError` if there is no thread to be had."""
        self._sites[site.number] = site
        workers.start(partial(self._put, site))

    def _put(self, site: Site) -> None:
        name = site.name_of(self._object_id)
        try:
            with site.gate.pass_(self._cancelled) as leave:
                self._sealing.admit(site.number, leave)
                site.store.put(name, self._size, self._sealing.open_at(site.number))
        except Exception as error:  # noqa: BLE001 # told by `failures`, with the store's name
            self._errors[site.number] = error
        self._sealing.finished(site.number)

    def failures(self) -> dict[Site, Exception]:
        """Return the sites that have failed, or were given up, since this was asked last."""
        failed = {}
        for number, site in self._sites.items():
            feed = self._sealing.feeds[number]
            error = feed.dropped or self._errors.get(number)
            if feed.done and error is not None and number not in self._told:
                self._told.add(number)
                failed[site] = error
        return failed

    def stored(self) -> set[Site]:
        """Return the sites that have their share; to be asked when the pass is over."""
        return {
            site
            for number, site in self._sites.items()
            if not self._sealing.feeds[number].dropped and number not in self._errors
        }
