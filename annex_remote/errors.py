"""The error tree: kinds, not texts, decide what is done about a failure.

::

    SwarmError                  everything below; str() is one sentence for the user
    ├── StoreError              a store said no, or said nothing
    │   ├── NotFound            proved absence: ENOENT, 404, NoSuchKey; nothing else
    │   ├── Exists              the name is taken, and was to be put only if it is not
    │   ├── Denied              the store is there and refuses us; `wants_login` if a login, or another
    │   │                       one, is what it wants
    │   ├── Full                no space or no quota left
    │   ├── Busy                asked to wait; `retry_after` in seconds, or None
    │   └── Unavailable         not there, not reachable, silent: says nothing about shares;
    │                           `passing` if asking again in a moment may well help
    ├── Damaged                 bytes that do not prove: a share, a roster, a capability
    ├── BadSetting              a setting or argument that cannot be right
    ├── NoCapability            the secret that the work takes is not here
    ├── NotEnough               fewer shares than needed, or than happy
    │   └── NoneStored          all stores have answered, and none has any share
    └── Cancelled               the work was called off; never shown as a failure of a store

A store translates what its library raises exactly once, at its edge, with ``raise ... from``, so that
the cause stays in the traceback that goes to the debug log.
"""

from __future__ import annotations

__all__ = [
    "BadSetting",
    "Busy",
    "Cancelled",
    "Damaged",
    "Denied",
    "Exists",
    "Full",
    "NoCapability",
    "NoneStored",
    "NotEnough",
    "NotFound",
    "StoreError",
    "SwarmError",
    "Unavailable",
]


class SwarmError(Exception):
    """Root of all errors that are meant to be shown; the text is one sentence for the user."""


class StoreError(SwarmError):
    """A store could not do what it was asked to."""


class NotFound(StoreError):
    """The store answered, and it does not have this name."""


class Exists(StoreError):
    """The store has this name already, and nothing was changed: it was to be put only where nothing is."""


class Denied(StoreError):
    """The store answered, and does not let us: permissions, credentials, a read-only mount."""

    def __init__(self, message: str = "", *, wants_login: bool = False) -> None:
        super().__init__(message)
        self.wants_login = wants_login
        """True if it asked who we are, and took nothing that we could say for an answer."""


class Full(StoreError):
    """The store has no space, or no quota, for this."""


class Busy(StoreError):
    """The store asked to be left alone for a while."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds that the store asked us to wait, when it said so."""


class Unavailable(StoreError):
    """The store is not there or did not answer; what it holds is unknown."""

    def __init__(self, message: str = "", *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing
        """True for what may be over in a moment: a connection cut, a server's internal error."""


class Damaged(SwarmError):
    """Bytes that are not what was signed, sealed or announced."""


class BadSetting(SwarmError):
    """A setting, address or argument that cannot be right."""


class NoCapability(SwarmError):
    """The capability that is needed for this is not in this clone."""


class NotEnough(SwarmError):
    """Fewer good shares than needed (to read), or fewer stored than happy (to write)."""


class NoneStored(NotEnough):
    """No store has a share of it, and all have said so."""


class Cancelled(SwarmError):
    """The work was called off: another finished it, or the program is ending."""
