"""What a grid puts around each of its open stores, whatever the kind; why in this order: docs/architecture.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from annex_remote.limits import NO_LIMIT, Limit, parse_limit
from annex_remote.model import Store
from annex_remote.roster import StoreEntry
from annex_remote.stores.quota import Quota
from annex_remote.stores.state import SharedFile, state_path
from annex_remote.stores.wrappers import Watched

if TYPE_CHECKING:
    from annex_remote.stores.throttle import Bucket

__all__ = ["Stack"]


class Stack:
    """Keeps the stores of the grid with the id `grid` to their limits, and all of them to `up` and `down`.

    `also` is a limit of this process's work, each way, that transfers have no part in.

    Not thread safe. What counts bytes is imported, and its files are made, only where there is a limit.
    """

    def __init__(self, grid: str, stall: float, up: Limit, down: Limit, also: Limit = NO_LIMIT) -> None:
        self._grid = grid
        self._stall = stall
        self._up = up
        self._down = down
        self._also = also
        self._buckets: dict[tuple[str, Limit], Bucket] = {}

    def around(self, store: Store, entry: StoreEntry) -> Store:
        """Return the open `store` of an entry with what keeps it to the entry's limits."""
        own = parse_limit("limit", entry.limit)
        ups = self._buckets_of("upload", "up", entry.name, own)
        downs = self._buckets_of("download", "down", entry.name, own)
        stacked: Store = Watched(store, self._stall)
        if ups or downs:
            from annex_remote.stores.throttle import Throttled

            # Outside of `Watched`: what waits for its turn does not wait for the store.
            stacked = Throttled(stacked, ups, downs)
        kept = SharedFile(state_path("kept", f"{self._grid}.{entry.name}")) if entry.max_bytes else None
        own_names = f"{self._grid[:2]}/{self._grid}."
        return Quota(stacked, entry.max_bytes, kept, exempt=own_names)

    def _buckets_of(self, all_stores: str, way: str, store: str, own: Limit) -> list[Bucket]:
        """Return what one way to a store goes through."""
        limit = self._up if way == "up" else self._down
        return [
            *self._bucket(all_stores, limit),
            *self._bucket(f"{store}.{way}", own),
            *self._bucket(f"care.{way}", self._also),
        ]

    def _bucket(self, name: str, limit: Limit) -> list[Bucket]:
        """Return the one bucket with `name`, none if there is no limit."""
        if limit.is_none:
            return []
        from annex_remote.stores.throttle import Bucket, rate_now

        if (name, limit) not in self._buckets:
            shared = SharedFile(state_path("limits", f"{self._grid}.{name}"))
            self._buckets[name, limit] = Bucket(rate_now(limit), shared)
        return [self._buckets[name, limit]]
