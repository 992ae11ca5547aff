"""Times that stores tell, and how long ago they are: in doubt less long, or nobody knows."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from annex_remote.stores.numbers import whole_number

__all__ = ["age_by_headers", "elapsed", "read_date"]

_FIRST = 1_577_836_800.0
"""When 2020 began, before there was a share. An earlier time stands for none: who has no clock, or was not told,
says 1970, 1980, 2000 or the year 1."""


def elapsed(put: float, now: float) -> float | None:
    """Return the seconds from `put` to `now`, both in seconds since 1970; None if `put` is no time of a share."""
    return None if put < _FIRST else max(0.0, now - put)


def read_date(text: str) -> float | None:
    """Return the seconds since 1970 that a date in a header (RFC 9110, 5.6.7) means, None if it is none."""
    # Only those who speak HTTP pay for these.
    from datetime import UTC
    from email.utils import parsedate_to_datetime

    with suppress(ValueError, TypeError, IndexError, OverflowError):
        date = parsedate_to_datetime(text)
        # Of the three forms one has no zone. It means GMT as well, and not what is local here.
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    return None


def age_by_headers(headers: Mapping[str, str]) -> float | None:
    """Return the seconds from `Last-Modified` to `Date` (RFC 9110), by whatever clock, None if they do not tell.

    Nor does an answer out of a cache, which says its `Age` (RFC 9111): it may be of what was there before.
    """
    put, now = read_date(headers.get("Last-Modified", "")), read_date(headers.get("Date", ""))
    if put is None or now is None or whole_number(headers.get("Age", "0").strip()) != 0:
        return None
    return elapsed(put, now)
