"""Storing an object: which shares are there, which are to be sent, and how it ended."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from annex_remote.capability import Capability
from annex_remote.errors import Cancelled, Damaged, Exists, Full, NotEnough, Unavailable
from annex_remote.model import Coding
from annex_remote.shares.codec import SegmentCodec
from annex_remote.shares.crypto import ObjectKeys, seal_key_name
from annex_remote.shares.format import Header, tail_length
from annex_remote.shares.layout import SEGMENT_SIZE, Layout
from annex_remote.transfer.keys import content_is_fixed
from annex_remote.transfer.opening import largest_group
from annex_remote.transfer.placement import Candidate, place
from annex_remote.transfer.presence import Look, Sighting
from annex_remote.transfer.reading import content_id_of
from annex_remote.transfer.sealing import SealingPass
from annex_remote.transfer.sending import Sending, in_pieces
from annex_remote.transfer.sites import Clock, GatedAsking, Notes, Site, causes, explain, shares
from annex_remote.transfer.small import SmallShares

__all__ = ["Upload"]


SPACE_GRACE = 0.5
"""Seconds that stores which have answered the look have for saying how much room they have."""


def _in_words(size: int) -> str:
    """Return a number of bytes as people say it: "3.1 MB"."""
    amount, unit = float(size), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.3g} {unit}"


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
        self._free: dict[str, int] = {}
        self._expected: Header | None = None
        self._stored: set[Site] = set()
        self._safe = 0
        # Where the content may be on stores that take no share now, it has to be looked for.
        all_take = len(self._takers) == len(self.sites)
        is_small = self._layout.segments <= 1 and content_is_fixed(self.annex_key) and all_take
        self._require_happy("nothing was changed")
        if not (is_small and self._store_fresh()):
            self._store_beside()
        if len(self._stored) >= self.coding.happy and not content_is_fixed(self.annex_key):
            self._look_again()
        self._conclude()
        self.progress(self._layout.size)

    def _store_fresh(self) -> bool:
        """Send the shares of a small object without a look; False if one of the stores has something already.

        Nothing is there as a rule, and a look would cost as much as the whole upload.
        """
        chosen = self._place(self.coding.total, ())
        tried = set(chosen)
        made = SmallShares(self.path, self._codec, self._header, self._seed, [site.number for site in chosen])
        self._expected = made.header
        asking: GatedAsking[None] = GatedAsking({}, self.cancelled, self.clock)

        def put(site: Site) -> None:
            share, name = memoryview(made.share(site.number)), site.name_of(self.keys.object_id)
            source = in_pieces(lambda at, size: share[at : at + size], partial(asking.moved, site), self.clock)
            site.store.put(name, len(share), source, fresh=True)

        asking.add({site: partial(put, site) for site in chosen})
        taken = []
        for answer in asking.answers(self.stall):
            if answer.error is None:
                self._stored.add(answer.asked)
            elif isinstance(answer.error, Exists):
                taken.append(answer.asked)
            else:
                self._failed[answer.asked] = answer.error
                for spare in self._place(1, tried):
                    tried.add(spare)
                    made.join(spare.number, answer.asked.number)
                    asking.add({spare: partial(put, spare)})
        # A store that is full says so before it says that it has the share.
        is_full = any(isinstance(error, Full) for error in self._failed.values())
        return not taken and not (is_full and len(self._stored) < self.coding.total)

    def _store_beside(self) -> None:
        """See what is there, and send what is missing."""
        made, self._stored = self._stored, set()
        sighting = self._look_and_ask_for_space()
        self._keep_coding(sighting)
        self._failed.update({site: error for site, error in sighting.silent.items() if site not in made})
        self._fail_where_is_no_room(sighting)
        self._require_happy("" if made else "nothing was changed", {share.site for share in sighting.shares})
        try:
            self._stored = self._keep_and_clear(sighting)
        except Damaged:
            self._delete(made)  # other content is there: ours was no part of anything
            raise
        self._stored |= {site for site in made if site in sighting.silent}
        self._send()

    def _require_happy(self, meanwhile: str, seen: Collection[Site] = ()) -> None:
        """Raise `NotEnough` if too few sites could have a share in the end; those `seen` have one."""
        able = [site for site in self._takers if site not in self._failed or site in seen]
        if len(able) < self.coding.happy:
            raise NotEnough(
                f"{shares(len(able))} could be stored now, {self.coding.happy} (happy) are needed"
                f"{'; ' * bool(meanwhile)}{meanwhile}{': ' * bool(self._failed)}{causes(self._failed)}"
            )

    # What is there already, and what there is room for.

    def _look_and_ask_for_space(self) -> Sighting:
        """Ask all sites for their share, and at the same time the stores for their free space.

        Not for an object of one segment: a store that is full says so as quickly.
        """
        look = self._look(self.sites)
        asked = {site.name: site for site in reversed(self._takers)} if self._layout.segments > 1 else {}
        asking = GatedAsking({site: site.store.space for site in asked.values()}, self.cancelled, self.clock)
        sighting = look.wait(cancelled=self.cancelled)
        deadline = time.monotonic() + SPACE_GRACE
        while any(site not in sighting.silent for site in asking.open):
            answer = asking.take(deadline - time.monotonic())
            if answer is None:
                break
            if answer.value is not None:
                self._free[answer.asked.name] = answer.value
        asking.abandon()
        look.abandon()
        return sighting

    def _keep_coding(self, sighting: Sighting) -> None:
        """Go on by the coding that an object was stored by before the grid's was changed.

        So its shares still belong together; to code it anew is another work.
        """
        group = sighting.decodable()
        if not group or group[0].header.needed == self.coding.needed:
            return
        needed = group[0].header.needed
        layout = Layout(self._layout.size, needed, self.keys.cipher.overhead)
        codec = SegmentCodec(self.keys, layout)
        same = replace(self._header(content_id_of(self.path, codec)), needed=needed)
        if same == group[0].header:
            total = max(needed, self.coding.total)
            self.coding = Coding(needed, min(max(needed, self.coding.happy), total), total)
            self._layout, self._codec, self._expected = layout, codec, same

    def _fail_where_is_no_room(self, sighting: Sighting) -> None:
        """Count stores that say that they have too little room for their shares as failed.

        Where a share is already, it is kept, or makes room for the new one.
        """
        size = self._share_size(self.coding.total)
        there = {share.site for share in sighting.shares} | set(sighting.damaged)
        sent: Counter[str] = Counter()
        for site in self._takers:
            free = self._free.get(site.name)
            if free is None or site in there or site in self._failed:
                continue
            count = sent[site.name] + 1
            if free >= count * size:
                sent[site.name] = count
            else:
                need = count * size
                takes = "the share takes" if count == 1 else f"{count} shares take"
                self._failed[site] = Full(
                    f"has {_in_words(free)} left, by its free space or max-bytes; {takes} {_in_words(need)}"
                )

    def _keep_and_clear(self, sighting: Sighting) -> set[Site]:
        """Return the sites that have their share of this content; remove the shares of any other content.

        Raises `Damaged`, before anything is removed, where other content can be rebuilt and the key is a hash:
        then either the file or what is stored is not what the key says.
        """
        if not sighting.shares and not sighting.damaged:
            return set()
        if sighting.shares and self._expected is None:
            self._expected = self._header(content_id_of(self.path, self._codec))
        kept = {share.site for share in sighting.shares if share.header == self._expected}
        # What is coded otherwise is no other content: somebody codes the object anew, and may need it.
        moving = {s.site for s in sighting.shares if self._expected and s.header.is_recoded(self._expected)}
        self._failed |= dict.fromkeys(
            moving, Unavailable("the object is being coded anew: rebalance goes on with it")
        )
        stale = [share for share in sighting.shares if share.site not in kept | moving]
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
        self._failed.update(self._delete(sites))

    def _delete(self, sites: Iterable[Site]) -> dict[Site, Exception]:
        """Delete shares; return where that failed."""
        questions = {site: partial(site.store.delete, site.name_of(self.keys.object_id)) for site in sites}
        asking = GatedAsking(questions, self.cancelled, self.clock)
        return {answer.asked: answer.error for answer in asking.answers(self.stall) if answer.error is not None}

    # What is sent.

    def _send(self) -> None:
        """Send what is missing; a share that fails goes to a spare site while there is one."""
        wanted = self.coding.total - len(self._stored)
        tried = set(self._stored)
        chosen = self._place(wanted, tried)
        if not chosen:
            return
        # A share of this upload that no store takes now is in the table all the same: repair can then rebuild
        # it with the verify key alone.
        unable = [site for site in self._takers if site in self._failed and site not in self._stored]
        table = [*self._stored, *chosen, *unable[: max(0, wanted - len(chosen))]]
        sealing = SealingPass(
            self.path,
            self._codec,
            self._header,
            sorted(site.number for site in table),
            [site.number for site in chosen],
            self._seed,
            expected=self._expected,
            stall=self.stall,
            clock=self.clock,
            cancelled=self.cancelled,
        )
        size = self._share_size(len(table))
        sending = Sending(sealing, self.keys.object_id, size, cancelled=self.cancelled)

        def start(sites: Sequence[Site]) -> None:
            tried.update(sites)
            for site in sites:
                sending.start(site)

        def turn() -> None:
            for failed, error in sending.failures().items():
                self._failed[failed] = error
                spare = self._place(1, tried)
                for site in spare:
                    sealing.join(site.number, failed.number)
                start(spare)
            self._tell_progress(sealing)

        try:
            start(chosen)
            header = sealing.run(turn)
            if header is not None:
                self._expected = header
                sealing.wait(turn)
        except BaseException as error:
            sealing.abandon(error)
            raise
        if header is not None:
            self._stored |= sending.stored()
        elif self.cancelled.is_set():  # said only now, as the stores have had the time to clean up
            raise Cancelled("the upload was called off")

    def _place(self, wanted: int, tried: Collection[Site]) -> list[Site]:
        """Return the best sites for `wanted` more shares, of those that have not been `tried`."""
        spare = [site for site in self._takers if site not in tried and site not in self._failed]
        beside = [self._candidate(site) for site in tried if site not in self._failed]
        candidates = [self._candidate(site) for site in spare]
        size = self._share_size(self.coding.total)
        numbers = place(self.keys.object_id, candidates, wanted, size, beside)
        return [site for site in spare if site.number in numbers]

    def _candidate(self, site: Site) -> Candidate:
        return Candidate(site.number, site.name, site.zone, self._free.get(site.name))

    def _tell_progress(self, sealing: SealingPass) -> None:
        # A store that fails takes what it had with it; a display that runs backwards helps nobody.
        self._safe = max(self._safe, self._safe_bytes(sealing, len(self._stored)))
        self.progress(self._safe)

    def _safe_bytes(self, sealing: SealingPass, kept: int) -> int:
        """Bytes of plaintext of which `happy` stores have their blocks; the end counts when it is stored."""
        failed = {site.number for site in self._failed}
        positions = [feed.position for feed in sealing.feeds.values() if feed.number not in failed]
        positions.sort(reverse=True)
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
        look = self._look(sorted(self._stored, key=lambda site: site.number))
        sighting = look.wait(cancelled=self.cancelled)
        look.abandon()
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

    def _look(self, sites: Sequence[Site]) -> Look:
        return Look(
            sites,
            self.keys.object_id,
            self.capability.verify_key,
            needed=self.coding.needed,
            stall=self.stall,
            clock=self.clock,
        )
