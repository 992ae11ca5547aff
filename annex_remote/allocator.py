"""Telling the C library's allocator what this program does with memory.

A transfer takes and frees buffers of about 1 MiB, thousands of times a second, on several threads. glibc hands
each back to the kernel and gets it anew, page by page: measured, that made sealing three times as slow. And it
keeps a heap for every thread, which added up to 100 MiB of free memory. Elsewhere (musl, macOS) nothing is
done.
"""

from __future__ import annotations

import ctypes

__all__ = ["settle"]

# malloc.h of glibc
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

_MMAP_THRESHOLD = 32 << 20
"""The most that glibc takes: buffers below it come from heaps, which keep their pages."""

_TRIM_THRESHOLD = 16 << 20
"""Bytes that may lie free at the top of a heap."""


def settle() -> None:
    """Set the allocator up, as far as it lets us."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
    mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)
