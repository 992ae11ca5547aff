"""What a grid puts around each of its open stores, whatever the kind; why in this order: docs/architecture.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from annex_remote.limits import Limit, parse_limit
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

    Not thread safe. What counts bytes is imported, and its files are made, only where there is a limit.
    """

    def __init__(self, grid: str, stall: float, up: Limit, down: Limit) -> None:
        self._grid = grid
        self._stall = stall
        self._up = up
        self._down = down
        self._buckets: dict[tuple[str, Limit], Bucket] = {}

    def around(self, store: Store, entry: StoreEntry) -> Store:
        """Return the open `store` of an entry with what keeps it to the entry's limits."""
        own = parse_limit("limit", entry.limit)
        ups = [*self._bucket("upload", self._up), *self._bucket(f"{entry.name}.up", own)]
        downs = [*self._bucket("download", self._down), *self._bucket(f"{entry.name}.down", own)]
        stacked: Store = Watched(store, self._stall)
        if ups or downs:
            from annex_remote.stores.throttle import Throttled

            # Outside of `Watched`: what waits for its turn does not wait for the store.
            stacked = Throttled(stacked, ups, downs)
        kept = SharedFile(state_path("kept", f"{self._grid}.{entry.name}")) if entry.max_bytes else None
        own_names = f"{self._grid[:2]}/{self._grid}."
        return Quota(stacked, entry.max_bytes, kept, exempt=own_names)

    def _bucket(self, name: str, limit: Limit) -> list[Bucket]:
        """Return the one bucket with `name`, none if there is no limit."""
        if limit.is_none:
            return []
        from annex_remote.stores.throttle import Bucket, rate_now

        if (name, limit) not in self._buckets:
            shared = SharedFile(state_path("limits", f"{self._grid}.{name}"))
            self._buckets[name, limit] = Bucket(rate_now(limit), shared)
        return [self._buckets[name, limit]]
