"""What lies on the stores and nobody wants. Pure.

A keep-list, never a delete-list: what is on it stays, and so does everything of which it is not certain that it is
not. What is left over then goes when it is old enough that no upload can still be at it, and no clone is likely to
want it without having said so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from annex_remote.care.health import State
from annex_remote.care.plan import Census, size_of_key
from annex_remote.model import ShareName, staged_name, staged_number
from annex_remote.transfer.sites import Site

__all__ = [
    "Item",
    "KeepList",
    "Leftover",
    "Plan",
    "Why",
    "ages_known",
    "chunks_of",
    "left_over",
    "parent_of",
    "too_many",
]

FEW = 10
"""Objects that may go at once, however many others there are: a small vault may lose most of what it had."""

_OF_GIT = ("GITMANIFEST-", "GITBUNDLE-")
"""Beginnings of the keys that a pushed git repository is stored as. git-annex lists them nowhere."""

_OF_CIPHERS = "GPGHMAC"
"""Beginning of the names that git-annex's own encryption makes of keys: they do not tell whose they are."""


class Why(Enum):
    """Why something that is not on the keep-list is kept; the value is what is said of it."""

    YOUNG = "too young"
    NO_AGE = "age not known"
    NO_NAME = "name not readable"
    STRANGER = "key not known here"
    """git-annex has never heard of it here: it may be of a clone that was not met, or of another repository."""
    UNSURE = "its object is not whole without it"
    WANTED = "wanted after all"
    CHANGED = "changed meanwhile"


@dataclass(frozen=True, slots=True)
class Item:
    """Something of an object that lies on a store, under `name`."""

    store: str
    name: str
    size: int

    @property
    def number(self) -> int:
        """The share number that the name says."""
        staged = staged_number(self.name)
        return ShareName.parse(self.name).number if staged is None else staged

    def site(self, stores: Mapping[str, Site]) -> Site:
        """Return the place where this lies; `stores` has any place of each store, by name."""
        there = stores[self.store]
        staged = staged_number(self.name) is not None
        return replace(there, number=self.number, staged=staged, gate=there.gate)


@dataclass(frozen=True, slots=True)
class Leftover:
    """What may go of one object: everything, or what is beside its shares.

    `shares` are the numbers that it must still have then, if it is wanted; of others it is all there is.
    """

    object_id: str
    key: str | None
    """The name of its key, as far as it can be read."""
    items: tuple[Item, ...]
    wanted: bool = False
    """True if the object itself stays: the items are strays of it."""
    shares: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        return sum(item.size for item in self.items)


def parent_of(key: str) -> str:
    """Return the key that `key` is a chunk of, or `key` itself: ``B-s100-S50-C1--name`` is of ``B-s100--name``."""
    fields, dashes, name = key.partition("--")
    return "-".join(word for word in fields.split("-") if word[:1] not in ("S", "C") or not word[1:].isdecimal()) + (
        dashes + name
    )


def chunks_of(key: str, chunk: int) -> Iterator[str]:
    """Yield the keys of the chunks of `chunk` bytes that git-annex cuts a key into, if its size is known."""
    size = size_of_key(key)
    if not chunk or not size:
        return
    fields, _, name = key.partition("--")
    for number in range(1, -(-size // chunk) + 1):
        yield f"{fields}-S{chunk}-C{number}--{name}"


def is_of_git(key: str) -> bool:
    """True if it is a part of a git repository that was pushed."""
    return key.startswith(_OF_GIT)


@dataclass(frozen=True)
class KeepList:
    """The keys that somebody may want, and the objects that they are stored as, with the keys of these."""

    keys: Collection[str]
    objects: Mapping[str, str]

    def wants(self, key: str) -> bool:
        """True for a key on the list, a chunk of one, and what a git repository is stored as."""
        return is_of_git(key) or parent_of(key) in self.keys


def left_over(
    census: Census, keep: KeepList, read: Mapping[str, str], known: Collection[str], *, strangers: bool = False
) -> tuple[list[Leftover], list[tuple[Leftover, Why]]]:
    """Return what nobody wants, whatever its age, and what else is not on the list, with why it stays.

    `read` are keys of objects that are not on the list, as their shares tell them; `known` those keys (or, of
    chunks, their parents) that git-annex knows here. With `strangers`, the others are not wanted either.
    """
    found: list[Leftover] = []
    kept: list[tuple[Leftover, Why]] = []
    survey = census.survey
    for object_id in survey:
        beside = _beside(census, object_id)
        key = keep.objects.get(object_id, read.get(object_id))
        if key is not None and keep.wants(key):
            if beside:
                verdict = census.verdict(object_id)
                each = Leftover(object_id, key, tuple(beside), wanted=True, shares=verdict.good)
                if verdict.state is State.HEALTHY and not census.ground.earlier:
                    found.append(each)
                else:  # it may be needed to repair the object, or be what it is coded as next
                    kept.append((each, Why.UNSURE))
            continue
        own = [
            Item(survey.sites[number].name, str(ShareName(object_id, number)), size)
            for number, size in survey.shares(object_id).items()
        ]
        each = Leftover(object_id, key, (*own, *beside))
        if key is None or key.startswith(_OF_CIPHERS):
            kept.append((each, Why.NO_NAME))
        elif not strangers and parent_of(key) not in known:
            kept.append((each, Why.STRANGER))
        else:
            found.append(each)
    return found, kept


def _beside(census: Census, object_id: str) -> list[Item]:
    """Return what there is of an object besides its shares."""
    survey = census.survey
    strays = [Item(stray.store, stray.name, stray.size) for stray in survey.strays.get(object_id, ())]
    staged = survey.staged.get(object_id, {})
    return strays + [
        Item(survey.sites[number].name, staged_name(object_id, number), size)
        for number, size in sorted(staged.items())
    ]


def ages_known(each: Leftover, ages: Iterable[float | None], grace: float) -> Why | None:
    """Return why something of such ages (seconds, None for one that nobody can tell) stays; None if it may go.

    The youngest counts: an upload that is going on has just put something.
    """
    known = list(ages)
    if not each.items or any(age is None for age in known):
        return Why.NO_AGE
    return Why.YOUNG if min(age for age in known if age is not None) < grace else None


@dataclass
class Plan:
    """What goes and what stays, of everything that there is."""

    wanted: int
    """Keys on the keep-list."""
    objects: int
    size: int
    """Everything on the stores that could be listed: objects, and bytes."""
    of_git: int = 0
    """Objects of pushed git repositories."""
    go: list[Leftover] = field(default_factory=list)
    kept: list[tuple[Leftover, Why]] = field(default_factory=list)
    failed: Mapping[str, Exception] = field(default_factory=dict)
    """Stores that could not be listed, and why."""

    @property
    def reasons(self) -> Counter[Why]:
        return Counter(why for _, why in self.kept)

    @property
    def by_store(self) -> dict[str, tuple[int, int]]:
        """How many shares go from each store, and how many bytes they are."""
        return by_store(item for each in self.go for item in each.items)


def by_store(items: Iterable[Item]) -> dict[str, tuple[int, int]]:
    """Return how many items there are of each store, and their bytes, in the order of the stores' names."""
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for item in items:
        counts[item.store] += 1
        sizes[item.store] += item.size
    return {store: (counts[store], sizes[store]) for store in sorted(counts)}


def too_many(plan: Plan) -> str | None:
    """Return what is suspicious about a plan, as a sentence; None if nothing is.

    A keep-list that is empty, or leaves out most of what there is, is rather a repository that does not know
    enough: a new one over old stores, or one that has not heard of the clones that stored all this.
    """
    whole = [each for each in plan.go if not each.wanted]
    size = sum(each.size for each in plan.go)
    if len(whole) > FEW and (2 * len(whole) > plan.objects or 2 * size > plan.size):
        return (
            f"{len(whole):,} of {plan.objects:,} objects and {size:,} of {plan.size:,} bytes would go, which is "
            "more than half"
        )
    return None
