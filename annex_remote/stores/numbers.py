"""Numbers that servers write."""

from __future__ import annotations

import re

__all__ = ["whole_number"]

# Bounded, because Python does not read numbers of any length; and ASCII, as isdigit() takes "²" for one.
_NUMBER = re.compile(r"[0-9]{1,18}\Z")


def whole_number(text: str) -> int | None:
    """Read a number of up to 18 digits, None if it is none."""
    return int(text) if _NUMBER.match(text) else None
