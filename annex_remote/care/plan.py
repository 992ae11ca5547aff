"""What is to be done for objects, from what is known of them. Pure: `--dry-run` prints what comes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from annex_remote.care.health import Ground, State, Verdict, judge, needed_of, worst_first
from annex_remote.care.survey import Stray, Survey
from annex_remote.errors import Damaged
from annex_remote.model import ShareName
from annex_remote.shares.crypto import Cipher
from annex_remote.shares.format import Header
from annex_remote.transfer.keys import is_of_git
from annex_remote.transfer.placement import Candidate, place

__all__ = ["Census", "Job", "plan_rebalance", "plan_repair", "size_of_key"]


def size_of_key(key: str) -> int | None:
    """Return the size in bytes that the name of a git-annex key tells: ``BACKEND-s123--name``."""
    words = key.partition("--")[0].split("-")[1:]
    if any(word[:1] == "S" for word in words):  # a chunk of a key: its size is not what is stored
        return None
    return next((int(word[1:]) for word in words if word[:1] == "s" and word[1:].isdecimal()), None)


@dataclass
class Census:
    """All objects that are to be looked at, each judged by all that is known.

    `names` are the annex keys of objects, where they are known: of these it is known that somebody wants them.
    """

    survey: Survey
    ground: Ground
    cipher: Cipher
    names: Mapping[str, str] = field(default_factory=dict)
    damaged: dict[str, dict[int, str]] = field(default_factory=dict)
    """Shares that are known to be damaged, and why."""
    only: Collection[str] | None = None
    """Objects that are asked about; all if it is None."""
    unread: dict[str, set[int]] = field(default_factory=dict)
    """Shares that are listed and could not be read: nothing is known of them."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What to call objects for people, by key: files."""
    headers: dict[str, dict[int, Header]] = field(default_factory=dict)
    """Of shares that were proved."""
    unwanted: set[str] = field(default_factory=set)
    """Objects of which a share tells that their key is none of those that somebody wants."""
    torrents: Mapping[str, str] = field(default_factory=dict)
    """Objects whose keys torrents are recorded for, and which, in words."""

    def __iter__(self) -> Iterator[tuple[str, Verdict]]:
        for object_id in self.survey:
            if self.only is None or object_id in self.only:
                yield object_id, self.verdict(object_id)

    def verdict(self, object_id: str) -> Verdict:
        """Judge one object."""
        sizes = self.survey.shares(object_id)
        unread = self.unread.get(object_id, set()) & set(sizes)
        sizes = {number: size for number, size in sizes.items() if number not in unread}
        key = self.names.get(object_id)
        length = len(key.encode("utf-8", "surrogateescape")) if key else 0
        size = size_of_key(key) if key else None
        needed, least, lengths = needed_of(self.ground, self.cipher, length, size, sizes.values())
        headers = self.headers.get(object_id, {})
        strangers: set[int] = set()
        if headers:
            [(header, _)] = Counter(headers.values()).most_common(1)
            needed = least = header.needed
            strangers = {number for number, each in headers.items() if each != header}
        verdict = judge(
            self.ground,
            sizes,
            needed=needed,
            least=least,
            bad={*self.damaged.get(object_id, ()), *strangers},
            silent=self.survey.silent(sizes) | unread,
            beside={*self.survey.staged.get(object_id, ()), *self.elsewhere(object_id)},
            lengths=lengths,
        )
        if verdict.state is State.LOST and self.is_nameless(object_id):
            return replace(verdict, state=State.UNKNOWN)
        if verdict.state is State.LOST and object_id in self.torrents and not self._has_anything(object_id):
            return replace(verdict, state=State.TORRENT)
        return verdict

    def _has_anything(self, object_id: str) -> bool:
        survey = self.survey
        return any((survey.shares(object_id), survey.strays.get(object_id), survey.staged.get(object_id)))

    def elsewhere(self, object_id: str) -> set[int]:
        """Return the numbers of shares that lie where only `recover` looks for them, and not where they belong."""
        found = set()
        for stray in self.survey.strays.get(object_id, ()):
            with suppress(Damaged):  # one that was to take the place of another one
                found.add(ShareName.parse(stray.name).number)
        return found - set(self.survey.shares(object_id))

    def is_nameless(self, object_id: str) -> bool:
        """True if names are known, and it could not be told whether this object is one that somebody wants."""
        return bool(self.names) and object_id not in self.names and object_id not in self.unwanted

    def note_damaged(self, object_id: str, number: int, why: str) -> None:
        """A share was seen to be damaged."""
        self.damaged.setdefault(object_id, {})[number] = why

    def mend(self, object_id: str, number: int) -> None:
        """A share is in the place of one that was damaged, or unread, or is proved to be good."""
        self.damaged.get(object_id, {}).pop(number, None)
        self.unread.get(object_id, set()).discard(number)
        self.headers.get(object_id, {}).pop(number, None)

    def is_recoding(self, object_id: str, verdict: Verdict) -> bool:
        """True if an object may be on its way to another coding: then what looks wrong of it may be right."""
        if not self.ground.earlier:
            return False
        unexplained = set(verdict.bad) - set(self.damaged.get(object_id, ()))
        return bool(self.survey.staged.get(object_id)) or bool(unexplained)

    def called(self, object_id: str) -> str:
        """Return what to call an object: its file, its key, or its id."""
        key = self.names.get(object_id)
        if key is None:
            return object_id
        return self.labels.get(key, f"{key} (of the pushed git repository)" if is_of_git(key) else key)

    def share_size(self, object_id: str) -> int:
        """Return about how many bytes a share of an object has."""
        return max(self.survey.shares(object_id).values(), default=0)


@dataclass(frozen=True)
class Job:
    """What is to be done for one object: shares to make, and what goes when these are proved."""

    object_id: str
    verdict: Verdict
    add: tuple[int, ...] | None
    """Numbers of shares to make; None for as many as are missing, wherever they are best placed."""
    drop: tuple[int, ...] = ()
    """Numbers of shares that are not wanted where they are."""
    strays: tuple[Stray, ...] = ()
    reads: int = 0
    writes: int = 0
    """About how many bytes are read and written."""
    price: float = 0.0
    """What the reading costs, by the prices of the stores."""


def _costs(census: Census, object_id: str, verdict: Verdict, count: int) -> tuple[int, int, float]:
    """Return the bytes read, the bytes written, and the money for them, to make `count` shares."""
    if not count:
        return 0, 0, 0.0
    size = census.share_size(object_id)
    sources = [census.survey.sites[number].price for number in (*verdict.good, *verdict.bad)]
    price = sum(sorted(sources)[: verdict.needed]) * size / 2**30
    return verdict.needed * size, count * size, price


def plan_repair(census: Census, only_below: int | None = None) -> list[Job]:
    """Return what makes every object whole again, those nearest to their end first.

    Shares that are missing are made, damaged ones made anew. Nothing is made in the place of a share whose store
    could not be asked, nor of what may be on its way to another coding: `rebalance` goes on with that. With
    `only_below`, objects are left alone that bear the loss of so many places.
    """
    jobs = []
    for object_id, verdict in census:
        strays = tuple(census.survey.strays.get(object_id, ()))
        there = {*verdict.good, *verdict.bad, *census.survey.staged.get(object_id, ())}
        if len(there) < verdict.least or (only_below is not None and verdict.left >= only_below):
            continue
        if census.is_recoding(object_id, verdict):
            continue
        free = set(census.ground.active(census.ground.places)) - {*verdict.good, *verdict.silent}
        makeable = min(verdict.missing, len(free))
        if not (makeable or verdict.bad or strays):
            continue
        reads, writes, price = _costs(census, object_id, verdict, makeable or len(verdict.bad))
        jobs.append(Job(object_id, verdict, None, verdict.bad, strays, reads, writes, price))
    return sorted(jobs, key=lambda job: (*worst_first(job.verdict), job.object_id))


def plan_rebalance(
    census: Census,
    *,
    free: Mapping[str, int],
    most: Mapping[str, int],
    only_from: Collection[str] | None = None,
) -> list[Job]:
    """Return the fewest moves after which every object is where it should be.

    That is: all shares on stores that take shares; in as many places as there are; no store above what it may keep
    at `most` (bytes, by name). `free` is what stores have room for. With `only_from`, only what is on these stores
    is moved. Adding a store moves nothing by itself: an object that has all its shares well spread stays as it is.
    """
    used = {store: size for store, (_, size) in census.survey.used().items()}
    stock = _Stock(free, most, used)
    jobs = []
    for object_id, verdict in census:
        if verdict.left < 0 or census.is_recoding(object_id, verdict):
            continue
        moves = _Moves(census, object_id, verdict, stock)
        if only_from is None:
            moves.complete()
            moves.spread()
            moves.relieve()
        moves.leave(only_from)
        if moves.add or moves.drop:
            stock.take([census.ground.places[number].store for number in moves.add], census.share_size(object_id))
            reads, writes, price = _costs(census, object_id, verdict, len(moves.add))
            add, drop = tuple(sorted(moves.add)), tuple(sorted(moves.drop))
            jobs.append(Job(object_id, verdict, add, drop, (), reads, writes, price))
    return jobs


class _Stock:
    """What the stores have room for, and which have too much, while all moves are thought out."""

    def __init__(self, free: Mapping[str, int], most: Mapping[str, int], used: Mapping[str, int]) -> None:
        left = {store: limit - used.get(store, 0) for store, limit in most.items()}
        self.over = {store: -room for store, room in left.items() if room < 0}
        """By how many bytes."""
        self.room = dict(free)
        for store, room in left.items():
            self.room[store] = max(0, min(room, self.room.get(store, room)))

    def has_room(self, store: str, size: int) -> bool:
        return self.room.get(store, size) >= size

    def take(self, stores: Iterable[str], size: int) -> None:
        """Stores get a share of this size each."""
        for store in stores:
            if store in self.room:
                self.room[store] -= size


class _Moves:
    """The moves of one object while they are thought out."""

    def __init__(self, census: Census, object_id: str, verdict: Verdict, stock: _Stock) -> None:
        self._ground: Ground = census.ground
        self._object_id = object_id
        self._verdict = verdict
        self._stock = stock
        self._sizes = census.survey.shares(object_id)
        self._size = census.share_size(object_id)
        self._silent = set(verdict.silent)
        self.here = {*verdict.good, *verdict.silent}
        """Where shares are, after the moves so far; what is silent is taken to be there."""
        self.add: set[int] = set()
        self.drop: set[int] = set()

    def _candidates(self, but: Collection[str]) -> list[Candidate]:
        added = Counter(self._ground.places[number].store for number in self.add)
        return [
            self._candidate(each.number)
            for each in self._ground.places.values()
            if each.active
            and each.number not in self.here
            and each.number not in self._verdict.bad
            and each.zone not in but
            and self._stock.has_room(each.store, self._size * (1 + added[each.store]))
        ]

    def _candidate(self, number: int) -> Candidate:
        where = self._ground.places[number]
        return Candidate(number, where.store, where.zone, self._stock.room.get(where.store))

    def _best(self, beside: Iterable[int], but: Collection[str] = ()) -> list[int]:
        """Return the best place for one more share, if there is any."""
        others = [self._candidate(number) for number in sorted(beside)]
        return place(self._object_id, self._candidates(but), 1, self._size, others)

    def _bears(self, numbers: set[int]) -> tuple[int, int]:
        """Return how many places can be lost of shares in these: for certain, and if what is silent is there."""
        needed = self._verdict.needed
        return self._ground.margin(numbers - self._silent, needed), self._ground.margin(numbers, needed)

    def _move(self, source: int | None, target: int) -> None:
        self.add.add(target)
        self.here.add(target)
        if source is not None:
            self._gone(source)

    def _gone(self, number: int) -> None:
        self.here.discard(number)
        if number in self.add:
            self.add.discard(number)
        else:
            self.drop.add(number)

    def _state(self) -> tuple[set[int], set[int], set[int]]:
        return set(self.here), set(self.add), set(self.drop)

    def complete(self) -> None:
        """Make all shares that are missing on stores that take some."""
        for _ in range(self._ground.coding.total - len(self._ground.active(self.here))):
            for number in self._best(self._ground.active(self.here)):
                self._move(None, number)

    def spread(self) -> None:
        """Move shares out of crowded places as far as that makes the object bear more.

        Not where something is silent: it is not known then what is crowded.
        """
        if self._silent:
            return
        needed = self._verdict.needed
        best = bears = self._ground.margin(self._ground.active(self.here), needed)
        worth = self._state()
        while bears < self._ground.best(needed):
            active = self._ground.active(self.here)
            crowd = Counter(self._ground.places[number].zone for number in active)
            most = max(crowd.values(), default=0)
            targets = self._best(active, {zone for zone, count in crowd.items() if count >= most - 1})
            if not targets:
                break
            self._move(max(each for each in active if crowd[self._ground.places[each].zone] == most), targets[0])
            bears = self._ground.margin(self._ground.active(self.here), needed)
            if bears > best:
                best, worth = bears, self._state()
        self.here, self.add, self.drop = worth  # one place less crowded than others may not be worth anything

    def relieve(self) -> None:
        """Move shares off stores that have more than they may keep."""
        for number in sorted(self._ground.active(self.here & set(self._verdict.good))):
            store = self._ground.places[number].store
            if self._stock.over.get(store, 0) <= 0:
                continue
            rest = self.here - {number}
            for target in self._best(self._ground.active(rest)):
                bore, bears = self._bears(self.here), self._bears({*rest, target})
                if all(after >= before for before, after in zip(bore, bears, strict=True)):
                    self._move(number, target)
                    self._stock.over[store] -= self._sizes[number]

    def leave(self, only_from: Collection[str] | None) -> None:
        """Take shares off stores that are retired, each for one that is made elsewhere."""
        needed, total = self._verdict.needed, self._ground.coding.total
        # A retired store may have given it more than the others can.
        wanted = min(self._ground.margin(self._verdict.good, needed), self._ground.best(needed))
        for number in self._verdict.retired:
            if only_from is not None and self._ground.places[number].store not in only_from:
                continue
            before = self._state()
            active = self._ground.active(self.here)
            if len(active) < total:
                targets = self._best(active)
                if not targets:
                    continue  # nobody takes it: it stays where it is
                self._move(None, targets[0])
            self._gone(number)
            certain, _ = self._bears(self.here)
            if certain < wanted:  # what makes up for it is silent, or crowded
                self.here, self.add, self.drop = before
        if self._ground.is_whole(self.here - self._silent, needed):
            self.drop |= {
                number
                for number in self._verdict.bad
                for place in [self._ground.places[number]]
                if not place.active and (only_from is None or place.store in only_from)
            }
