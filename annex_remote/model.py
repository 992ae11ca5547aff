"""The nouns of a grid, and the one interface that every store has.

Standard library only; imports nothing of the package but the errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from annex_remote.errors import BadSetting, Damaged

__all__ = [
    "MAX_SHARES",
    "Access",
    "ByteStream",
    "Coding",
    "Login",
    "OpenAt",
    "ShareName",
    "Store",
    "check_name",
    "staged_name",
    "staged_number",
]

MAX_SHARES = 256
"""Share numbers are 0 to 255: the rows of a zfec code over GF(2**8)."""

_OBJECT_ID = re.compile(r"[a-z2-7]{32}\Z")
_NAME = re.compile(r"[a-z2-7]{2}/[a-z2-7]{32}\.[a-z0-9]{1,12}\Z")
_SHARE_NAME = re.compile(r"([a-z2-7]{2})/([a-z2-7]{32})\.(0|[1-9][0-9]{0,2})\Z")


@dataclass(frozen=True, slots=True)
class Coding:
    """How many shares rebuild an object, make an upload succeed, and are tried (Tahoe-LAFS's words).

    Raises `BadSetting` unless 1 <= needed <= happy <= total <= 256.
    """

    needed: int
    happy: int
    total: int

    def __post_init__(self) -> None:
        if not 1 <= self.needed <= self.happy <= self.total <= MAX_SHARES:
            raise BadSetting(
                f"needed={self.needed} happy={self.happy} total={self.total} cannot be: "
                f"1 <= needed <= happy <= total <= {MAX_SHARES} must hold"
            )

    def __str__(self) -> str:
        return f"{self.needed}-of-{self.total} (happy {self.happy})"


@dataclass(frozen=True, slots=True)
class ShareName:
    """The name of a share on a store: ``<two characters>/<object id>.<share number>``.

    `object_id` is 160 bits in lower-case base32 (32 characters), `number` is 0 to 255.
    """

    object_id: str
    number: int

    def __post_init__(self) -> None:
        if not _OBJECT_ID.match(self.object_id) or not 0 <= self.number < MAX_SHARES:
            raise Damaged(f"not the name of a share: {self.object_id!r} {self.number}")

    def __str__(self) -> str:
        return f"{self.object_id[:2]}/{self.object_id}.{self.number}"

    @classmethod
    def parse(cls, name: str) -> ShareName:
        """Read a name from a listing, as strictly as names are made; raises `Damaged`."""
        found = _SHARE_NAME.match(name)
        if not found or found[1] != found[2][:2]:
            raise Damaged(f"not the name of a share: {name!r}")
        return cls(found[2], int(found[3]))


def staged_name(object_id: str, number: int) -> str:
    """Return the name of a share that is to take the place of another one, until it does."""
    return f"{ShareName(object_id, number)}".replace(".", ".n")


def staged_number(name: str) -> int | None:
    """Return the share number of a name that `staged_name` made, None for any other."""
    start, dot, suffix = name.partition(".n")
    if not dot:
        return None
    try:
        return ShareName.parse(f"{start}.{suffix}").number
    except Damaged:
        return None


def check_name(name: str) -> str:
    """Return `name` if it may stand on a store, raise `Damaged` otherwise.

    The one gate for names, going in and coming out: two characters as a folder, then 32 characters of
    base32, a dot, and a suffix (a share number, or a word for the grid's own documents). No other
    separator, no upper case, no dot segments: every kind of store can hold such a name.
    """
    if not _NAME.match(name) or name[:2] != name[3:5]:
        raise Damaged(f"not a name that a store of this grid can have: {name!r}")
    return name


@dataclass(frozen=True, slots=True)
class Login:
    """Who we are to a store: user and password, or for S3 access key id and secret key. Never printed."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Access:
    """How a store is spoken to."""

    login: Login | None = None
    """None: nobody, or whoever the kind's own places (netrc, ~/.aws, an ssh agent) say."""
    patience: float = 30.0
    """Seconds without a byte after which a server is given up; connecting has ten at most."""


OpenAt = Callable[[int], Iterable[bytes | memoryview]]
"""``open_at(offset)`` yields the bytes of what is stored from `offset` to its end.

May be called again, by a store that retries: the source is read again (sealing is deterministic).
"""


class ByteStream(Protocol):
    """What `Store.read` returns: the bytes of a range, in order, in pieces of the store's choosing."""

    size: int
    """Total size of the stored thing in bytes, not of the range."""

    def __iter__(self) -> Iterator[bytes]: ...
    def __enter__(self) -> ByteStream: ...
    def __exit__(self, *args: object) -> None: ...


class Store(Protocol):
    """A place that keeps named, immutable byte strings. Thread safe; never retries by itself.

    Every verb may raise `Denied`, `Busy` or `Unavailable`. Names pass `check_name`.
    """

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        """Store `size` bytes under `name`: visible whole or not at all, durable when this returns.

        Replaces what was there. With `fresh` that raises `Exists`, and nothing is changed: in one step where
        the kind can do that, else it is looked for before (docs/stores.md). Who asks again because an answer
        was lost may be told so of what the first attempt put there.

        Raises `Full`; what `open_at`'s iterator raises passes through, and nothing is left behind. Raises
        `Damaged` when the source yields more or fewer bytes than `size`.
        """

    def read(self, name: str, start: int = 0, length: int | None = None) -> ByteStream:
        """Open bytes [start, start + length) of `name`, clipped to its end; to be used in a `with`.

        Raises `NotFound`. The stream raises `Damaged` if fewer bytes come than its `size` promises, or
        `Unavailable` if the connection to them is cut.
        """

    def stat(self, name: str) -> int | None:
        """Return the size in bytes, or None only where absence is proved."""

    def age(self, name: str) -> float | None:
        """Return the seconds since `name` was put, by the store's own clock, or None where the store cannot tell.

        Raises `NotFound`. Who removes what is old goes by this, so in doubt it is less than the truth, or None: a
        time in the future is 0.0, one that stands for none is None. A store that does not tell the time (a
        directory, SFTP, rclone) is compared with our clock, and only as good as both.
        """

    def delete(self, name: str) -> None:
        """Remove `name`; that it is not there is no error."""

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Yield (name, size) of all names that begin with `prefix`, skipping what is not ours."""

    def space(self) -> int | None:
        """Return the free space in bytes, or None where the store cannot tell."""

    def close(self) -> None:
        """Let go of connections; the store is not used afterwards."""
