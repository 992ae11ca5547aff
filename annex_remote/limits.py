"""Amounts as people write them: rates with their hours, sizes, prices. Pure; no clock.

K, M, G and T, alone or with ``iB``, are powers of 1024; with ``B`` they are powers of 1000.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise

from annex_remote.errors import BadSetting

__all__ = [
    "DEFAULT_CONNECTIONS",
    "MAX_CONNECTIONS",
    "MIN_RATE",
    "NO_LIMIT",
    "PRICE_UNIT",
    "Limit",
    "format_price",
    "format_size",
    "parse_connections",
    "parse_limit",
    "parse_price",
    "parse_size",
]

MIN_RATE = 1024
"""Bytes a second; with less, what takes part in a transfer would look as if it stood still."""

DEFAULT_CONNECTIONS = 8
MAX_CONNECTIONS = 64

PRICE_UNIT = 1_000_000
"""Prices are whole millionths of whatever the money is: exact, and in one form."""

MOST = 1 << 60
"""Bytes: more than any store has, and exact wherever JSON is read."""

DAY = 24 * 60
_NOTHING = ("", "none", "off")
_AMOUNT = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,6})?) ?(?:([kKmMgGtT])(iB|B|)|B|)\Z")
_HOURS = re.compile(r"([0-9]{1,2}):([0-9]{2}) ?- ?([0-9]{1,2}):([0-9]{2})\Z")
_PRICE = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,6})?\Z")
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}


@dataclass(frozen=True, slots=True)
class Limit:
    """Bytes a second by the time of day; None stands for no limit.

    `spans` are (start, end, rate): minutes after midnight, end not included, start before end. No two overlap.
    """

    spans: tuple[tuple[int, int, int | None], ...] = ()
    rest: int | None = None

    def rate_at(self, minute: int) -> int | None:
        """Return the rate that holds at `minute` after the local midnight."""
        for start, end, rate in self.spans:
            if start <= minute < end:
                return rate
        return self.rest

    @property
    def is_none(self) -> bool:
        """True if it never limits anything."""
        return self.rest is None and all(rate is None for _, _, rate in self.spans)

    def __str__(self) -> str:
        """Return its one text, which `parse_limit` reads back; empty if it never limits anything."""
        if self.is_none:
            return ""
        words = [f"{_clock(start)}-{_clock(end)}={_rate_text(rate)}" for start, end, rate in self.spans]
        return ",".join(words if self.rest is None else [*words, _rate_text(self.rest)])


NO_LIMIT = Limit()


def parse_limit(what: str, text: str) -> Limit:
    """Read a rate, or rates with their hours: ``08:00-18:00=1MiB/s,18:00-23:00=5MiB/s,20MiB/s``.

    Raises `BadSetting` with a sentence that begins with `what`, the name of the setting.
    """
    spans: list[tuple[int, int, int | None]] = []
    rest: int | None = None
    rest_given = False
    for word in text.split(",") if text.strip() else []:
        hours, equals, amount = word.rpartition("=")
        rate = _rate(what, amount.strip())
        if equals:
            spans += [(start, end, rate) for start, end in _hours(what, hours.strip())]
        elif rest_given:
            raise BadSetting(f"{what}={text}: only one rate can be without its hours; such as 08:00-18:00=1MiB/s")
        else:
            rest, rest_given = rate, True
    spans.sort(key=lambda span: span[:2])
    for (_, end, _), (start, _, _) in pairwise(spans):
        if start < end:
            raise BadSetting(f"{what}={text}: two of its rates hold at {_clock(start)}")
    return Limit(tuple(spans), rest)


def _hours(what: str, text: str) -> Iterator[tuple[int, int]]:
    """Yield the minutes of a range, which may go past midnight."""
    found = _HOURS.match(text)
    hours = [int(digits) for digits in found.groups()] if found else []
    if not hours or hours[1] > 59 or hours[3] > 59:
        raise BadSetting(f"{what}: {text!r} is not a time of day from and to, such as 08:00-18:00")
    start, end = hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]
    if start >= DAY or end > DAY or start == end:
        raise BadSetting(f"{what}: {text!r} is not a part of a day, such as 08:00-18:00")
    if start < end:
        yield start, end
        return
    yield start, DAY
    if end:
        yield 0, end


def _rate(what: str, text: str) -> int | None:
    if text.lower() in _NOTHING[1:]:
        return None
    rate = _amount(text.removesuffix("/s"))
    if rate is None:
        raise BadSetting(f"{what}: {text!r} is not bytes a second, such as 500KiB/s, 2M, 10MB/s; or none")
    if rate < MIN_RATE:
        raise BadSetting(f"{what}: {text} is less than 1KiB/s, and transfers would come to nothing; or write none")
    return rate


def parse_size(what: str, text: str) -> int:
    """Read a number of bytes, such as 200GiB; 0 for none. Raises `BadSetting` beginning with `what`."""
    if text.strip().lower() in _NOTHING:
        return 0
    size = _amount(text.strip())
    if size is None:
        raise BadSetting(f"{what}={text} is not a number of bytes, such as 200GiB or 1.5TB; or none")
    return size


def _amount(text: str) -> int | None:
    """Return the bytes that `text` says, None if it says none, or more than there are."""
    found = _AMOUNT.match(text)
    if found is None:
        return None
    number, prefix, kind = found.groups()
    base = 1000 if kind == "B" else 1024
    amount = int(Decimal(number) * base ** (_POWERS[prefix.lower()] if prefix else 0))
    return amount if amount <= MOST else None


def format_size(size: int) -> str:
    """Return `size` bytes in the unit that says it exactly and shortest: 200GiB, 10MB, 1025B."""
    texts = [(size, "B")] + [
        (size // base**power, f"{prefix.upper()}{end}")
        for base, end in ((1024, "iB"), (1000, "B"))
        for prefix, power in _POWERS.items()
        if size % base**power == 0
    ]
    return "{}{}".format(*min(texts))


def _rate_text(rate: int | None) -> str:
    return "none" if rate is None else f"{format_size(rate)}/s"


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def parse_connections(what: str, text: str) -> int:
    """Read how many requests a store gets at once; none is 0, for the program's own. Raises `BadSetting`."""
    stripped = text.strip()
    if stripped.lower() in _NOTHING:
        return 0
    is_short = stripped.isascii() and stripped.isdigit() and len(stripped) < 4
    if not (is_short and 1 <= int(stripped) <= MAX_CONNECTIONS):
        raise BadSetting(f"{what}={text} is not a number of requests from 1 to {MAX_CONNECTIONS}; or none")
    return int(stripped)


def parse_price(what: str, text: str) -> int:
    """Read the money for each GiB that is read, and return it in millionths. Raises `BadSetting`."""
    stripped = text.strip()
    if stripped.lower() in _NOTHING:
        return 0
    if not _PRICE.match(stripped):
        raise BadSetting(
            f"{what}={text} is not a price for each GiB, such as 0.09: digits, and a point, no currency; or none"
        )
    return int(Decimal(stripped) * PRICE_UNIT)


def format_price(price: int) -> str:
    """Return a price in millionths as people write it: 0.09."""
    return f"{Decimal(price) / PRICE_UNIT:f}"
