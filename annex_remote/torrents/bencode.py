"""Bencoding (BEP 3): decoding what strangers wrote, within bounds, and encoding. Pure.

Decoding is strict but for two things that real torrents do and libtorrent takes: the keys of a dictionary may
be out of order, and a line feed may follow the end. There is no recursion, the time is linear, and the memory
a small multiple of the document's size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from annex_remote.errors import Damaged

__all__ = ["MAX_DEPTH", "MAX_ITEMS", "Raw", "Value", "decode", "decode_with_spans", "encode"]

Value: TypeAlias = "int | bytes | list[Value] | dict[bytes, Value]"
"""What decoding returns."""

MAX_DEPTH = 100
"""Lists and dictionaries in one another; libtorrent's bound."""
MAX_ITEMS = 2_000_000
"""Values and keys of one document: enough for 100,000 files, and an empty list each takes 130 MB of memory."""

_ATOM = re.compile(rb"i(0|-?[1-9][0-9]{0,19})e|(0|[1-9][0-9]{0,9}):")
_END, _DICTIONARY, _LIST = b"edl"


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes that are bencoded already: an info dictionary must stay as it was hashed."""

    data: bytes


def decode(data: bytes) -> Value:
    """Return the value that `data` is, all of it; raises `Damaged`."""
    return _decode(data, None)


def decode_with_spans(data: bytes) -> tuple[dict[bytes, Value], dict[bytes, slice]]:
    """Return the dictionary that `data` is, and where in `data` the value of each of its keys stands.

    Raises `Damaged`, also if it is anything but a dictionary.
    """
    spans: dict[bytes, slice] = {}
    value = _decode(data, spans)
    if not isinstance(value, dict):
        raise Damaged("it is bencoded, but not a dictionary")
    return value, spans


def _decode(data: bytes, spans: dict[bytes, slice] | None) -> Value:
    """Decode; `spans` is filled with the places of the outermost dictionary's values."""
    atom = _ATOM.match
    size = len(data)
    if not size:
        raise Damaged("it is empty")
    outer: list[tuple[list[Value] | dict[bytes, Value], bytes | None]] = []  # what is open around `inner`
    inner: list[Value] | dict[bytes, Value] | None = None
    key: bytes | None = None  # of the dictionary `inner`: read, and its value not yet
    at = begun = items = 0  # begun: where the value of the outermost dictionary's key begins
    value: Value
    while True:
        items += 1
        if items > MAX_ITEMS:
            raise Damaged(f"it has more than {MAX_ITEMS:,} values")
        if at >= size:
            raise Damaged("it is cut short")
        kind = data[at]
        if kind == _END:
            if inner is None or key is not None:
                raise Damaged(f"bencoding: an end where a value should be, at byte {at}")
            at += 1
            value = inner
            if outer:
                inner, key = outer.pop()
            else:
                inner = None
        elif key is None and isinstance(inner, dict):
            found = atom(data, at)
            if found is None or found[2] is None:
                raise Damaged(f"bencoding: the key of a dictionary should be a string, at byte {at}")
            at = found.end() + int(found[2])
            if at > size:
                raise Damaged("it is cut short")
            key = data[found.end() : at]
            if key in inner:
                raise Damaged(f"bencoding: a dictionary has a key twice, at byte {found.start()}")
            begun = begun if outer else at
            continue
        elif kind in (_LIST, _DICTIONARY):
            if inner is not None:
                outer.append((inner, key))
            if len(outer) >= MAX_DEPTH:
                raise Damaged(f"bencoding: more than {MAX_DEPTH} lists or dictionaries in one another")
            inner, key = ([] if kind == _LIST else {}), None
            at += 1
            continue
        else:
            found = atom(data, at)
            if found is None:
                raise Damaged(f"bencoding: no value, or one that is not allowed, at byte {at}")
            if found[1] is not None:
                value = int(found[1])
                at = found.end()
            else:
                at = found.end() + int(found[2])
                if at > size:
                    raise Damaged("it is cut short")
                value = data[found.end() : at]
        # A value is complete: it goes to where it belongs.
        if inner is None:
            break
        if isinstance(inner, list):
            inner.append(value)
        else:
            assert key is not None
            inner[key] = value
            if spans is not None and not outer:
                spans[key] = slice(begun, at)
            key = None
    if at != size and (size - at > 2 or data[at:] not in (b"\n", b"\r\n")):
        raise Damaged(f"bencoding: something follows the end, at byte {at}")
    return value


def encode(value: object) -> bytes:
    """Return the one bencoding of `value`: int, bytes, str (as UTF-8), sequences, mappings by bytes or str, `Raw`.

    Raises `TypeError` for anything else, and `ValueError` for what is nested deeper than `MAX_DEPTH`.
    """
    parts: list[bytes] = []
    _encode(value, parts, 0)
    return b"".join(parts)


def _encode(value: object, parts: list[bytes], depth: int) -> None:
    match value:
        case Raw(data):
            parts.append(data)
        case bool() | None:
            raise TypeError(f"{value!r} cannot be bencoded")
        case int():
            parts.append(b"i%de" % value)
        case str() | bytes():
            text = _as_bytes(value)
            parts += (b"%d:" % len(text), text)
        case Mapping() | Sequence() if depth >= MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
        case Mapping():
            entries = sorted((_as_bytes(key), item) for key, item in value.items())
            parts.append(b"d")
            for text, item in entries:
                parts += (b"%d:" % len(text), text)
                _encode(item, parts, depth + 1)
            parts.append(b"e")
        case Sequence():
            parts.append(b"l")
            for item in value:
                _encode(item, parts, depth + 1)
            parts.append(b"e")
        case _:
            raise TypeError(f"{type(value).__name__} cannot be bencoded")


def _as_bytes(text: object) -> bytes:
    if isinstance(text, str):
        return text.encode()
    if isinstance(text, bytes):
        return text
    raise TypeError(f"{type(text).__name__} cannot be the key of a dictionary")
