"""What the name of a git-annex key tells."""

from __future__ import annotations

__all__ = ["content_is_fixed"]

_HASHING_BACKENDS = ("SHA", "SKEIN", "BLAKE", "MD5", "GITBUNDLE")


def content_is_fixed(annex_key: str) -> bool:
    """True if a key of this kind names one content: its backend is a hash over it (git-annex's backends)."""
    return annex_key.startswith(_HASHING_BACKENDS)
