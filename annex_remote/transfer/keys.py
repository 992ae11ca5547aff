"""What the name of a git-annex key tells."""

from __future__ import annotations

__all__ = ["content_is_fixed", "is_of_git"]

_HASHING_BACKENDS = ("SHA", "SKEIN", "BLAKE", "MD5", "GITBUNDLE")


def content_is_fixed(annex_key: str) -> bool:
    """True if a key of this kind names one content: its backend is a hash over it (git-annex's backends)."""
    return annex_key.startswith(_HASHING_BACKENDS)


def is_of_git(annex_key: str) -> bool:
    """True if a key is part of a git repository that was pushed (git-remote-annex): git-annex does not list it."""
    return annex_key.startswith(("GITMANIFEST-", "GITBUNDLE-"))
