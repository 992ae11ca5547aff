"""The hash trees of BEP 52: SHA-256 over blocks of 16 KiB, with empty leaves up to a power of two. Pure."""

from __future__ import annotations

from hashlib import sha256

__all__ = ["BLOCK", "HASH", "data_root", "layer_root"]

BLOCK = 16_384
"""Bytes of a leaf."""
HASH = 32
"""Bytes of a node."""


def _zero_roots() -> list[bytes]:
    roots = [bytes(HASH)]
    for _ in range(63):
        roots.append(sha256(roots[-1] + roots[-1]).digest())
    return roots


_ZERO = _zero_roots()  # of trees of 2**height empty leaves


def _root(nodes: list[bytes], low: int, height: int) -> bytes:
    """Return the root that is `height` above the leaves, of `nodes` that are `low` above them; there is a node."""
    for level in range(low, height):
        if len(nodes) & 1:
            nodes.append(_ZERO[level])
        pairs = iter(nodes)
        nodes = [sha256(left + right).digest() for left, right in zip(pairs, pairs, strict=True)]
    assert len(nodes) == 1
    return nodes[0]


def data_root(data: bytes | bytearray | memoryview, height: int | None = None) -> bytes:
    """Return the root over `data`, not empty, in a tree of 2**`height` leaves; None: as few as hold it."""
    view = memoryview(data)
    leaves = [sha256(view[at : at + BLOCK]).digest() for at in range(0, len(view), BLOCK)]
    return _root(leaves, 0, (len(leaves) - 1).bit_length() if height is None else height)


def layer_root(layer: bytes, height: int) -> bytes:
    """Return the root of a file over its piece layer: hashes of pieces, each that of 2**`height` leaves."""
    nodes = [layer[at : at + HASH] for at in range(0, len(layer), HASH)]
    return _root(nodes, height, height + (len(nodes) - 1).bit_length())
