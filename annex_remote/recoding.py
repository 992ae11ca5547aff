"""Coding objects anew, after `needed` was changed."""

from __future__ import annotations

from typing import Any


def recode(*a: Any, **k: Any) -> None:
    """Not there yet."""
