"""The files that an info dictionary lists, as they stand there: BEP 3, 47 (pad files, attributes), 52. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from annex_remote.errors import Damaged
from annex_remote.torrents.bencode import Value

__all__ = ["MAX_FILES", "Entry", "text_of", "v1_entries", "v2_entries"]

MAX_FILES = 100_000
"""Entries of a file list, pad files and links counted."""
MAX_LENGTH = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, pad file or link: path below the torrent's name, bytes, and the root of its hash tree if v2."""

    path: tuple[str, ...]
    size: int
    is_pad: bool
    is_link: bool
    root: bytes | None = None


def text_of(data: bytes) -> str:
    """Return text that was meant to be UTF-8; what is not, becomes U+FFFD."""
    return data.decode("utf-8", "replace")


def _length(entry: dict[bytes, Value], what: str) -> int:
    length = entry.get(b"length")
    if not isinstance(length, int) or not 0 <= length <= MAX_LENGTH:
        raise Damaged(f"{what} has no length, or one that cannot be")
    return length


def _attributes(entry: dict[bytes, Value]) -> bytes:
    attributes = entry.get(b"attr", b"")
    return attributes if isinstance(attributes, bytes) else b""


def _entry(path: tuple[str, ...], length: int, attributes: bytes, root: bytes | None = None) -> Entry:
    is_link = b"l" in attributes
    is_pad = b"p" in attributes or any("_____padding_file_" in part for part in path)  # so BitComet, before BEP 47
    return Entry(path, 0 if is_link else length, is_pad and not is_link, is_link, root)


def v1_entries(info: dict[bytes, Value], name: str) -> list[Entry]:
    """Return what ``length`` or ``files`` lists, in its order; raises `Damaged`.

    A file named as BEP 47 names pad files is one without the attribute too, but not beside a file tree, where
    programs go by the attribute to tell whether both are the same.
    """
    files = info.get(b"files")
    if files is None:
        return [_entry((name,), _length(info, "the torrent"), b"")]
    if b"length" in info:
        raise Damaged("it has both one length and a list of files")
    if not isinstance(files, list) or not files:
        raise Damaged("its list of files is empty, or none")
    if len(files) > MAX_FILES:
        raise Damaged(f"it lists {len(files):,} files, and {MAX_FILES:,} is the most that is taken")
    entries = []
    for number, file in enumerate(files, 1):
        if not isinstance(file, dict):
            raise Damaged(f"its file {number} is no dictionary")
        path = file.get(b"path.utf-8")
        if not isinstance(path, list):
            path = file.get(b"path")
        parts = [text_of(part) for part in path if isinstance(part, bytes)] if isinstance(path, list) else []
        if not isinstance(path, list) or not parts or len(parts) != len(path):
            raise Damaged(f"its file {number} has no path, or one that is no list of names")
        attributes = _attributes(file)
        if len(parts) == 2 and parts[0] == ".pad" and parts[1].isdecimal() and b"file tree" not in info:
            attributes += b"p"
        entries.append(_entry(tuple(parts), _length(file, f"its file {number}"), attributes))
    return entries


def _check_order(node: dict[bytes, Value]) -> None:
    """Raise `Damaged` if names are out of order, which decides whose a piece is: libtorrent refuses them, too."""
    if any(one > other for one, other in pairwise(node)):
        raise Damaged("keys beside or in its file tree are out of order")


def v2_entries(info: dict[bytes, Value]) -> list[Entry]:
    """Return what ``file tree`` lists, in its order; raises `Damaged`."""
    tree = info.get(b"file tree")
    if not isinstance(tree, dict) or b"" in tree:
        raise Damaged("its file tree is missing, or none")
    _check_order(info)
    _check_order(tree)
    entries: list[Entry] = []
    todo: list[tuple[tuple[str, ...], Value]] = [((text_of(k),), v) for k, v in reversed(tree.items())]
    while todo:
        path, node = todo.pop()
        if not isinstance(node, dict):
            raise Damaged("a node of its file tree is no dictionary")
        _check_order(node)
        file = node.get(b"")
        if file is None:
            todo += [((*path, text_of(key)), child) for key, child in reversed(node.items())]
            continue
        if not isinstance(file, dict) or len(node) > 1:
            raise Damaged("its file tree has a file that is also a folder")
        _check_order(file)
        attributes = _attributes(file)
        number = len(entries) + 1
        length = 0 if b"l" in attributes else _length(file, f"its file {number}")
        root = file.get(b"pieces root") if length else None
        if b"p" in attributes:
            raise Damaged(f"its file {number} is a pad file, of which version 2 has none")
        if length and (not isinstance(root, bytes) or len(root) != 32):
            raise Damaged(f"its file {number} has no root of 32 bytes")
        entries.append(_entry(path, length, attributes, root if isinstance(root, bytes) else None))
        if number > MAX_FILES:
            raise Damaged(f"it lists more than {MAX_FILES:,} files, which is the most that is taken")
    return entries
