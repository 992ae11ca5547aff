"""Storing an object: which shares are there, which are to be sent, and how it ended."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from annex_remote.capability import Capability
from annex_remote.errors import Damaged, NotEnough, Unavailable
from annex_remote.model import Coding
from annex_remote.shares.codec import SegmentCodec
from annex_remote.shares.crypto import ObjectKeys, seal_key_name
from annex_remote.shares.format import Header, tail_length
from annex_remote.shares.layout import SEGMENT_SIZE, Layout
from annex_remote.transfer.opening import largest_group
from annex_remote.transfer.placement import Candidate, place
from annex_remote.transfer.presence import Look, Sighting
from annex_remote.transfer.sealing import SealingPass, content_id_of
from annex_remote.transfer.sites import Clock, Notes, Site, ask_all, causes, explain, shares
from annex_remote.workers import workers

__all__ = ["Upload", "content_is_fixed"]

_HASHING_BACKENDS = ("SHA", "SKEIN", "BLAKE", "MD5", "GITBUNDLE")


def content_is_fixed(annex_key: str) -> bool:
    """True if a key of this kind names one content: its backend is a hash over it (git-annex's backends)."""
    return annex_key.startswith(_HASHING_BACKENDS)


@dataclass
class Upload:
    """One object to store; `run` does it.

    `sites` are all places of the grid that may keep a share, more than `coding.total` perhaps. `progress` gets
    the bytes of plaintext that `coding.happy` stores have taken.
    """

    annex_key: str
    path: str
    keys: ObjectKeys
    capability: Capability
    coding: Coding
    sites: Sequence[Site]
    stall: float
    notes: Notes
    progress: Callable[[int], None]
    cancelled: threading.Event
    clock: Clock = time.monotonic

    def run(self) -> None:
        """Store the object, or raise.

        Raises `NotEnough` if fewer than `happy` shares are stored in the end, naming stores and causes;
        `NoCapability`, `Damaged` (the file changed), `Cancelled`, `OSError` (the file cannot be read). Stores
        that missed their share of a successful upload are in `notes`.
        """
        self._seed = self.capability.signing_seed
        self._sealed_name = seal_key_name(self.capability.read_secret, self.annex_key)
        self._layout = Layout(os.stat(self.path).st_size, self.coding.needed, self.keys.cipher.overhead)
        self._codec = SegmentCodec(self.keys, self._layout)
        self._takers = [site for site in self.sites if site.takes_shares]
        self._failed: dict[Site, Exception] = {}
        self._expected: Header | None = None
        self._stored: set[Site] = set()
        sighting = self._look(self.sites)
        self._failed.update(sighting.silent)
        able = [site for site in self._takers if site not in self._failed]
        if len(able) < self.coding.happy:
            raise NotEnough(
                f"{shares(len(able))} could be stored now, {self.coding.happy} (happy) are needed; nothing was "
                f"changed{': ' * bool(self._failed)}{causes(self._failed)}"
            )
        self._stored = self._keep_and_clear(sighting)
        self._send()
        if len(self._stored) >= self.coding.happy and not content_is_fixed(self.annex_key):
            self._look_again()
        self._conclude()
        self.progress(self._layout.size)

    # What is there already.

    def _keep_and_clear(self, sighting: Sighting) -> set[Site]:
        """Return the sites that have their share of this content; remove the shares of any other content.

        Raises `Damaged`, before anything is removed, where other content can be rebuilt and the key is a hash:
        then either the file or what is stored is not what the key says.
        """
        if not sighting.shares and not sighting.damaged:
            return set()
        if sighting.shares:
            self._expected = self._header(content_id_of(self.path, self._codec))
        kept = {share.site for share in sighting.shares if share.header == self._expected}
        stale = [share for share in sighting.shares if share.site not in kept]
        group = largest_group(stale)
        if group and len(group) >= group[0].header.needed and content_is_fixed(self.annex_key):
            raise Damaged(
                "other content is stored under this key and can be rebuilt, so one of the two is damaged: "
                "run git annex fsck here, then git annex fsck --from this remote"
            )
        self._clear([share.site for share in stale] + list(sighting.damaged))
        left = [share for share in stale if share.site in self._failed]
        unasked = len(sighting.silent)
        for share in stale:
            same = sum(other.header == share.header for other in left)
            if same + unasked >= share.header.needed:
                raise Unavailable(
                    "other content is stored under this key, and cannot be removed everywhere: "
                    + causes(self._failed)
                )
        return {site for site in kept if site.takes_shares}

    def _clear(self, sites: Sequence[Site]) -> None:
        if not sites:
            return
        questions = {site: partial(site.store.delete, site.name_of(self.keys.object_id)) for site in sites}
        for answer in ask_all(questions, self.stall):
            if answer.error is not None:
                self._failed[answer.asked] = answer.error

    # What is sent.

    def _send(self) -> None:
        """Send what is missing; a share that fails goes to a spare site while there is one."""
        table: list[Site] = sorted(self._stored, key=lambda site: site.number)
        tried = set(self._failed) | self._stored
        wanted = self.coding.total - len(self._stored)
        first = True
        while wanted > 0:
            spare = [site for site in self._takers if site not in tried]
            chosen = self._place(spare, wanted)
            if first:
                # A share of this upload that no store takes now is in the table all the same: repair can
                # then rebuild it with the verify key alone.
                unable = [site for site in self._takers if site in self._failed and site not in table]
                table += unable[: max(0, wanted - len(chosen))]
                first = False
            if not chosen:
                return
            tried.update(chosen)
            table += chosen
            self._stored.update(self._pass(sorted(table, key=lambda site: site.number), chosen))
            wanted = self.coding.total - len(self._stored)

    def _place(self, spare: Sequence[Site], wanted: int) -> list[Site]:
        if not spare:
            return []
        size = self._share_size(self.coding.total)
        spaces: dict[str, int | None] = {}
        if len(spare) > wanted:
            stores = {site.name: site.store for site in spare}
            answers = ask_all({name: store.space for name, store in stores.items()}, self.stall)
            spaces = {answer.asked: answer.value for answer in answers}
        candidates = [Candidate(site.number, site.name, site.zone, spaces.get(site.name)) for site in spare]
        numbers = place(self.keys.object_id, candidates, wanted, size)
        return [site for site in spare if site.number in numbers]

    def _pass(self, table: Sequence[Site], fed: Sequence[Site]) -> set[Site]:
        """Make one pass over the file that feeds the sites `fed`; return those that stored their share."""
        sealing = SealingPass(
            self.path,
            self._codec,
            self._header,
            [site.number for site in table],
            [site.number for site in fed],
            self._seed,
            expected=self._expected,
            stall=self.stall,
            clock=self.clock,
            cancelled=self.cancelled,
        )
        errors: dict[Site, Exception] = {}
        size = self._share_size(len(table))

        def put(site: Site) -> None:
            try:
                site.store.put(site.name_of(self.keys.object_id), size, sealing.open_at(site.number))
            except Exception as error:  # noqa: BLE001 # told at the end, with the store's name
                errors[site] = error
            sealing.finished(site.number)

        try:
            for site in fed:
                workers.start(partial(put, site))
        except RuntimeError as error:  # no thread to be had: those that have begun must not wait for the rest
            sealing.abandon(error)
            raise

        def progress() -> None:
            self.progress(self._safe_bytes(sealing, len(self._stored)))

        self._expected = sealing.run(progress)
        sealing.wait(progress)
        for site in fed:
            dropped = sealing.feeds[site.number].dropped
            if dropped is not None:
                errors[site] = dropped
        self._failed.update(errors)
        return {site for site in fed if site not in errors}

    def _safe_bytes(self, sealing: SealingPass, kept: int) -> int:
        """Bytes of plaintext of which `happy` stores have their blocks; the end counts when it is stored."""
        positions = sorted((feed.position for feed in sealing.feeds.values() if not feed.dropped), reverse=True)
        rank = self.coding.happy - kept
        if rank <= 0 or rank > len(positions):
            return 0
        return min(max(0, positions[rank - 1] - 1) * SEGMENT_SIZE, self._layout.size)

    def _header(self, content_id: bytes) -> Header:
        return Header(
            cipher=self.keys.cipher,
            needed=self.coding.needed,
            size=self._layout.size,
            object_id=self.keys.object_id,
            content_id=content_id,
            sealed_name=self._sealed_name,
        )

    def _share_size(self, entries: int) -> int:
        layout = self._layout
        return layout.data_length + layout.hashes_length + tail_length(self._header(bytes(32)), entries)

    # How it ended.

    def _look_again(self) -> None:
        """Where another writer may store other content under this key, see whose shares are there now."""
        sighting = self._look(sorted(self._stored, key=lambda site: site.number))
        ours = {share.site for share in sighting.shares if share.header == self._expected}
        for site in self._stored - ours:
            self._failed[site] = Unavailable("another upload under the same key replaced this share")
        self._stored = ours

    def _conclude(self) -> None:
        failed = {
            site: error for site, error in self._failed.items() if site.takes_shares and site not in self._stored
        }
        if len(self._stored) < self.coding.happy:
            raise NotEnough(
                f"{shares(len(self._stored))} stored, {self.coding.happy} (happy) are needed: "
                + causes(self._failed)
            )
        if len(self._stored) < self.coding.total:
            for site, error in failed.items():
                self.notes.add(site.name, f"share {site.number} was not stored: {explain(error)}")

    def _look(self, sites: Sequence[Site]) -> Sighting:
        look = Look(
            sites,
            self.keys.object_id,
            self.capability.verify_key,
            needed=self.coding.needed,
            stall=self.stall,
            clock=self.clock,
        )
        return look.wait(cancelled=self.cancelled)
