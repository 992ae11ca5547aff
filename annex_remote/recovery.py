"""Bringing back what the stores of a grid have, with a capability that reads, where there is no repository.

Shares tell the keys that they are of. What is whole stands under the name of its key, as git-annex's directory
special remote would keep it.
"""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from fnmatch import fnmatchcase
from urllib.parse import quote

from annex_remote.care.survey import Survey
from annex_remote.care.verify import Proof, Task, prove_shares
from annex_remote.care.work import AT_ONCE, in_parallel
from annex_remote.caring import Care
from annex_remote.errors import Cancelled, Damaged, NotEnough, SwarmError
from annex_remote.keyfiles import file_name, key_path
from annex_remote.model import ShareName
from annex_remote.shares.crypto import open_key_name
from annex_remote.transfer.download import Download
from annex_remote.transfer.presence import Look, Sighting, best_first
from annex_remote.transfer.sites import Clock, Notes, Site, explain

__all__ = ["PARTIAL", "Back", "Fate", "Recovery", "clone_address", "pushed_repositories"]

PARTIAL = ".swarm-partial"
"""Folder in which files grow until they are whole."""

_MANIFEST = re.compile(r"GITMANIFEST--([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:\.bak)?\Z")
_GENERAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
"""What goes wrong with every file, and not with one."""


class Fate(Enum):
    """What became of an object; the value is the word for it."""

    RECOVERED = "recovered"
    THERE = "there"
    """It was recovered before."""
    POSSIBLE = "recoverable"
    """It could be, and that was all that was asked."""
    LOST = "lost"
    """Fewer shares are left than rebuild it, or it was removed, and shares were left over."""
    UNKNOWN = "unknown"
    """It depends on stores that could not be asked, or something else was in the way."""


@dataclass(frozen=True)
class Back:
    """What came of one object. Its key is None where no share could tell it."""

    object_id: str
    fate: Fate
    key: str | None = None
    size: int | None = None
    """Bytes of its content."""
    path: str | None = None
    """Where it is, below the folder."""
    cause: str = ""


@dataclass
class Recovery:
    """Brings the objects of a survey back into `folder`; `run` does it. `only` is a pattern of keys.

    In a dry run `folder` may be None. `moved` gets bytes: in the end, for each object as many as `amount` says.
    """

    care: Care
    survey: Survey
    folder: str | None
    only: str | None = None
    dry_run: bool = False
    moved: Callable[[int], None] = lambda size: None
    cancelled: threading.Event = field(default_factory=threading.Event)
    clock: Clock = time.monotonic

    def __post_init__(self) -> None:
        assert self.care.capability is not None
        self._secret = self.care.capability.read_secret
        self._ground = self.care.ground
        self._verify_key = self.care.grid.verify_key
        self._stall = self.care.grid.settings.stall

    def amount(self, object_id: str) -> int:
        """Return about how many bytes an object has, as far as its shares tell."""
        return max(self.survey.shares(object_id).values(), default=0) * self._ground.coding.needed

    def may_hide(self) -> bool:
        """True if there may be objects of which only those stores know that could not be asked."""
        silent = sum(site.name in self.survey.failed for site in self.care.sites)
        return silent >= self._ground.least_needed

    def run(self) -> Iterator[Back]:
        """Yield what comes of each object, as it comes.

        Raises `SwarmError` if nothing can be written any more, and `Cancelled`.
        """
        for result in in_parallel(self._one, list(self.survey), AT_ONCE, self.cancelled):
            error = result.error
            if isinstance(error, Cancelled):
                raise error
            if isinstance(error, OSError) and error.errno in _GENERAL:
                raise SwarmError(f"{self.folder}: {error.strerror}; the next run goes on from here") from error
            if error is not None:
                yield Back(result.item, Fate.UNKNOWN, cause=explain(error))
            elif result.value is not None:
                yield result.value
        if self.folder is not None:
            with suppress(OSError):  # what is in it goes on in the next run
                os.rmdir(os.path.join(self.folder, PARTIAL))

    def _one(self, object_id: str) -> Back | None:
        done = 0

        def progress(size: int) -> None:
            nonlocal done
            self.moved(size - done)
            done = size

        back = self._bring(object_id, progress)
        progress(self.amount(object_id))
        return back

    def _bring(self, object_id: str, progress: Callable[[int], None]) -> Back | None:
        sighting = self._see_one(object_id)
        if not sighting.shares:
            return Back(object_id, self._fate(sighting), cause=_causes(sighting) or "none of its shares is left")
        header = sighting.shares[0].header
        key = open_key_name(self._secret, object_id, header.sealed_name)
        if self.only is not None and not fnmatchcase(key, self.only):
            return None
        back = Back(object_id, Fate.RECOVERED, key, header.size)
        try:
            back = replace(back, path=key_path(key))
        except Damaged as error:
            return replace(back, fate=Fate.UNKNOWN, cause=str(error))
        if self._is_there(back):
            return replace(back, fate=Fate.THERE)
        if self.dry_run:
            sighting = self._see(object_id, self._everywhere(object_id), _decodable)
            fate = Fate.POSSIBLE if sighting.decodable() else self._fate(sighting)
            return replace(back, fate=fate, cause="" if fate is Fate.POSSIBLE else _causes(sighting))
        try:
            return self._fetch(back, key, progress)
        except OSError as error:
            if error.errno in _GENERAL:
                raise
            return replace(back, fate=Fate.UNKNOWN, cause=f"{error.filename}: {error.strerror}")

    # Looking.

    def _everywhere(self, object_id: str) -> list[Site]:
        """Return wherever a share of an object may be: also where it is not meant to be, or only for a while."""
        staged = self.survey.staged.get(object_id, {})
        doubtful = self.survey.failed if self._ground.earlier else {}
        by_store = {site.name: site for site in self.care.sites}
        sites = list(self.care.sites)
        sites += [
            replace(site, staged=True, gate=site.gate)
            for site in self.care.sites
            if site.number in staged or site.name in doubtful
        ]
        for stray in self.survey.strays.get(object_id, ()):
            with suppress(Damaged):  # one that was to take the place of another one, on another store
                site = by_store[stray.store]
                sites.append(replace(site, number=ShareName.parse(stray.name).number, gate=site.gate))
        return sites

    def _see(
        self,
        object_id: str,
        sites: Sequence[Site],
        enough: Callable[[Sighting], bool] | None = None,
        at_first: int | None = None,
    ) -> Sighting:
        """Open the shares of an object: all that there are, if it is not said what is enough."""
        look = Look(
            sites,
            object_id,
            self._verify_key,
            needed=self._ground.coding.needed,
            stall=self._stall,
            at_first=at_first,
            patience=self._stall / 3,
            book=self.care.grid.book,
            clock=self.clock,
        )
        try:
            return look.wait(enough or _never, cancelled=self.cancelled)
        finally:
            look.abandon()

    def _see_one(self, object_id: str) -> Sighting:
        """Open a share of an object, whichever it is: each tells the key."""
        known = self.survey.shares(object_id)
        sites, _ = best_first(self._everywhere(object_id), self.care.grid.book, self.clock())
        sites.sort(key=lambda site: (site.name in self.survey.failed, site.number not in known))
        return self._see(object_id, sites, lambda seen: bool(seen.shares), at_first=1)

    def _fate(self, sighting: Sighting) -> Fate:
        """Return what is certain of an object that cannot be rebuilt from what all stores have shown."""
        silent = len({site.number for site in sighting.silent})
        groups: dict[bytes, set[int]] = {}
        needed = {}
        for share in sighting.shares:
            groups.setdefault(share.header.pack(), set()).add(share.site.number)
            needed[share.header.pack()] = share.header.needed
        possible = silent >= self._ground.least_needed or any(
            len(numbers) + silent >= needed[header] for header, numbers in groups.items()
        )
        return Fate.UNKNOWN if possible else Fate.LOST

    # Fetching.

    def _is_there(self, back: Back) -> bool:
        # The list of what was pushed is written anew under its one name by every push.
        if self.folder is None or back.path is None or back.key is None or _MANIFEST.match(back.key):
            return False
        try:
            return os.path.getsize(os.path.join(self.folder, back.path)) == back.size
        except OSError:
            return False

    def _fetch(self, back: Back, key: str, progress: Callable[[int], None]) -> Back:
        assert self.folder is not None
        assert back.path is not None
        part = os.path.join(self.folder, PARTIAL, file_name(key))
        os.makedirs(os.path.dirname(part), exist_ok=True)
        everywhere = self._everywhere(back.object_id)
        answering = [site for site in self.care.sites if site.name not in self.survey.failed]
        # Who did not answer before is not waited for where the others do.
        attempts = [answering, everywhere] if len(answering) < len(everywhere) else [everywhere]
        for sites in attempts:
            try:
                self._download(key, part, sites, progress).run()
                break
            except (NotEnough, Damaged) as error:
                failure: SwarmError = error
        else:
            return replace(back, fate=self._judge(back.object_id, everywhere), cause=str(failure))
        size = _made_durable(part)
        path = os.path.join(self.folder, back.path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.rename(part, path)
        return replace(back, size=size)

    def _download(self, key: str, path: str, sites: Sequence[Site], progress: Callable[[int], None]) -> Download:
        return Download(
            key,
            path,
            self._secret,
            self._verify_key,
            self._ground.coding.needed,
            sites,
            self._stall,
            Notes(),
            progress,
            self.cancelled,
            clock=self.clock,
            book=self.care.grid.book,
        )

    def _judge(self, object_id: str, sites: Sequence[Site]) -> Fate:
        """Return whether an object that could not be fetched is lost for certain: if need be, by reading it."""
        sighting = self._see(object_id, sites)
        group = sighting.decodable()
        if not group:
            return self._fate(sighting)
        proofs = self._prove(object_id, [share.site for share in group])
        doubtful = sum(proof.error is not None and not proof.is_damaged for proof in proofs)
        readable = [proof for proof in proofs if proof.error is None]
        bad = Counter(index for proof in readable for index in proof.bad)
        worst = max(bad.values(), default=0)
        # Blocks that the silent may have count for them.
        silent = len({site.number for site in sighting.silent})
        possible = len(readable) - worst + doubtful + silent >= group[0].header.needed
        return Fate.UNKNOWN if possible else Fate.LOST

    def _prove(self, object_id: str, sites: Sequence[Site]) -> list[Proof]:
        return list(
            prove_shares(
                sites,
                [Task(object_id, site.number, 0) for site in sites],
                self._verify_key,
                self._ground.coding.needed,
                stall=self._stall,
                cancelled=self.cancelled,
            )
        )


def _never(_: Sighting) -> bool:
    return False


def _decodable(sighting: Sighting) -> bool:
    return bool(sighting.decodable())


def _causes(sighting: Sighting) -> str:
    notes = Notes()
    sighting.note(notes)
    return "; ".join(notes.lines)


def _made_durable(path: str) -> int:
    """Have the content of a file on the disk before it gets its name; return its size."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


# The git repository.


def pushed_repositories(found: Iterable[Back]) -> dict[str, bool]:
    """Return the UUIDs of remotes to which git repositories were pushed, and whether all of each is there."""
    whole: dict[str, bool] = {}
    fates = {back.key: back.fate for back in found if back.key is not None}
    good = (Fate.RECOVERED, Fate.THERE, Fate.POSSIBLE)
    for key in fates:
        manifest = _MANIFEST.match(key)
        if manifest:
            uuid = manifest[1]
            parts = [fate for each, fate in fates.items() if each.startswith("GITBUNDLE-") and uuid in each]
            manifests = [fates.get(f"GITMANIFEST--{uuid}{end}") for end in ("", ".bak")]
            whole[uuid] = all(fate in good for fate in parts) and any(fate in good for fate in manifests)
    return whole


def clone_address(uuid: str, parameters: Mapping[str, str]) -> str:
    """Return the address from which git clones what was pushed to a special remote."""
    words = "&".join(f"{name}={quote(value, safe='/:=,@')}" for name, value in parameters.items())
    return f"annex::{uuid}?{words}"
