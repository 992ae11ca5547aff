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

from annex_remote.care.plan import Census, size_of_key
from annex_remote.care.survey import Survey
from annex_remote.model import ShareName, staged_name, staged_number
from annex_remote.transfer.keys import is_of_git
from annex_remote.transfer.sites import Site

__all__ = [
    "Item",
    "KeepList",
    "Knowledge",
    "Leftover",
    "Plan",
    "Why",
    "by_store",
    "chunks_of",
    "items_of",
    "left_over",
    "parent_of",
    "refusal",
    "too_young",
]

FEW = 10
"""Objects that may go at once, however many others there are: a small vault may lose most of what it had."""

_OF_CIPHERS = "GPGHMAC"
"""Beginning of the names that git-annex's own encryption makes of keys: they do not tell whose they are."""


class Why(Enum):
    """Why something that is not on the keep-list is kept; the value is what is said of it."""

    YOUNG = "too young"
    NO_AGE = "age not known"
    NO_NAME = "name not readable"
    STRANGER = "key not known here"
    """git-annex has never heard of it here: it may be of a clone that was not met, or of another repository."""
    LAST = "may be the last copy"
    """There may be enough of it to rebuild it, and git-annex knows of no copy anywhere else."""
    BESIDE = "beside the shares of what is wanted"
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
    """What there is of one object, or of one that is wanted what is beside its shares."""

    object_id: str
    key: str | None
    """The name of its key, as far as it can be read."""
    items: tuple[Item, ...]
    wanted: bool = False
    """True if somebody wants the object: the items are strays of it."""

    @property
    def size(self) -> int:
        return sum(item.size for item in self.items)


def parent_of(key: str) -> str:
    """Return the key that `key` is a chunk of, or `key` itself: ``B-s100-S50-C1--name`` is of ``B-s100--name``."""
    fields, dashes, name = key.partition("--")
    return "-".join(
        word for word in fields.split("-") if word[:1] not in ("S", "C") or not word[1:].isdecimal()
    ) + (dashes + name)


def chunks_of(key: str, chunk: int) -> Iterator[str]:
    """Yield the keys of the chunks of `chunk` bytes that git-annex cuts a key into, if its size is known."""
    size = size_of_key(key)
    if not chunk or not size:
        return
    fields, _, name = key.partition("--")
    for number in range(1, -(-size // chunk) + 1):
        yield f"{fields}-S{chunk}-C{number}--{name}"


@dataclass(frozen=True)
class KeepList:
    """The keys that somebody may want, and the objects that they are stored as, with the keys of these."""

    keys: Collection[str]
    objects: Mapping[str, str]

    def wants(self, key: str) -> bool:
        """True for a key on the list, a chunk of one, and what a git repository is stored as."""
        return is_of_git(key) or parent_of(key) in self.keys


@dataclass(frozen=True)
class Knowledge:
    """What git-annex knows here of keys that are not on the list; of chunks, of the keys that they are of."""

    known: Collection[str] = ()
    """Keys that it has ever heard of."""
    copied: Collection[str] = ()
    """Keys of which there is a copy somewhere."""


def left_over(
    census: Census, keep: KeepList, read: Mapping[str, str], knows: Knowledge, *, strangers: bool = False
) -> tuple[list[Leftover], list[tuple[Leftover, Why]]]:
    """Return what nobody wants, whatever its age, and what else is not on the list, with why it stays.

    `read` are keys of objects that are not on the list, as their shares tell them. With `strangers`, keys that
    git-annex has never heard of are not wanted either.
    """
    found: list[Leftover] = []
    kept: list[tuple[Leftover, Why]] = []
    survey = census.survey
    for object_id in survey:
        own, beside = items_of(survey, object_id)
        key = keep.objects.get(object_id, read.get(object_id))
        if key is not None and keep.wants(key):
            if beside:
                # They may be all that is good of it. Only `repair` has the shares prove themselves before.
                kept.append((Leftover(object_id, key, tuple(beside), wanted=True), Why.BESIDE))
            continue
        each = Leftover(object_id, key, (*own, *beside))
        if key is None or key.startswith(_OF_CIPHERS):
            kept.append((each, Why.NO_NAME))
        elif parent_of(key) not in knows.known:
            if strangers:
                found.append(each)
            else:
                kept.append((each, Why.STRANGER))
        elif parent_of(key) not in knows.copied and _may_be_whole(census, each):
            kept.append((each, Why.LAST))
        else:
            found.append(each)
    return found, kept


def _may_be_whole(census: Census, each: Leftover) -> bool:
    """True if it can be rebuilt, or could be with what stores may have that were not listed.

    A removal that missed some stores leaves less: otherwise it fails, and the key stays on the list. But of two
    clones that have not met, one may store again what the other one drops, and then git-annex's records may say,
    when they meet, that it is gone.
    """
    ground = census.ground
    numbers = {item.number for item in each.items}
    silent = census.survey.silent(dict.fromkeys(numbers, 0))
    return len(numbers | silent) >= min(ground.coding.needed, *ground.earlier, ground.coding.total)


def items_of(survey: Survey, object_id: str) -> tuple[list[Item], list[Item]]:
    """Return the shares of an object where they belong, and what else there is of it: strays, staged shares."""
    sites = survey.sites
    own = [
        Item(sites[number].name, str(ShareName(object_id, number)), size)
        for number, size in survey.shares(object_id).items()
    ]
    strays = [Item(stray.store, stray.name, stray.size) for stray in survey.strays.get(object_id, ())]
    staged = [
        Item(sites[number].name, staged_name(object_id, number), size)
        for number, size in sorted(survey.staged.get(object_id, {}).items())
    ]
    return own, strays + staged


def too_young(ages: Iterable[float | None], grace: float) -> Why | None:
    """Return why what has items of such ages stays (seconds, None where nobody can tell), None if it may go.

    The youngest counts: an upload that is going on has just put something.
    """
    youngest = float("inf")
    for age in ages:
        if age is None:
            return Why.NO_AGE
        youngest = min(youngest, age)
    return Why.YOUNG if youngest < grace else None


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
    """Objects of which nothing is to be left."""
    kept: list[tuple[Leftover, Why]] = field(default_factory=list)
    failed: Mapping[str, Exception] = field(default_factory=dict)
    """Stores that could not be listed, and why."""

    @property
    def on_list(self) -> int:
        """How many objects stay because somebody may want them, besides those of git repositories."""
        return self.objects - self.of_git - len(self.go) - sum(not each.wanted for each, _ in self.kept)

    @property
    def reasons(self) -> Counter[Why]:
        """How often what is not on the list stays for which reason."""
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


def refusal(plan: Plan, *, force: bool = False) -> str | None:
    """Return why a plan is not to be carried out, as a sentence; None if it may be.

    A keep-list that is empty, or leaves out most of what there is, is rather a repository that does not know
    enough: a new one over old stores, or one that has not heard of the clones that stored all this.
    """
    if plan.go and not plan.wanted:
        return (
            "git-annex knows of nothing that is to be there, so nothing says what is to be kept: fetch from the "
            "clones that have stored what is there (git annex sync), and try again"
        )
    size = sum(each.size for each in plan.go)
    if not force and len(plan.go) > FEW and (2 * len(plan.go) > plan.objects or 2 * size > plan.size):
        return (
            f"more than half would go, {len(plan.go):,} of {plan.objects:,} objects, {size:,} of {plan.size:,} "
            "bytes: fetch from the other clones first (git annex sync); if it is right, --force"
        )
    return None
