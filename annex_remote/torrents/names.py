"""Safe names for people's trees, out of names that anybody may have put into a torrent. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Protocol

__all__ = ["MAX_NAME", "HasPath", "printable", "safe_name", "safe_paths"]

MAX_NAME = 255
"""Bytes of one component of a path, in UTF-8: what Linux takes."""
MAX_PATH = 2_000
"""Bytes of a path: half of what Linux takes, for the folders around it."""

_EXTENSION = re.compile(r"(?:\.tar)?\.[^\s.]{1,12}\Z", re.IGNORECASE)
# Control characters, those that reorder or hide text (U+202E among them), surrogates, ends of lines.
_FORBIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_LONG = 1_000  # characters of which more are not looked at one by one: a name may be as long as the torrent


class HasPath(Protocol):
    """A file of a torrent, as far as its name goes."""

    @property
    def path(self) -> tuple[str, ...]: ...


def printable(text: str) -> str:
    """Return `text` as it may be shown on a line of a terminal: what moves the cursor or reorders is U+FFFD."""
    if len(text) > _LONG:
        text = f"{text[:_LONG]}…"
    if text.isascii() and text.isprintable():
        return text
    return "".join("\ufffd" if unicodedata.category(one) in _FORBIDDEN else one for one in text)


def safe_name(name: str, *, blanks: bool = True) -> str:
    """Return `name` as one component of a path that is safe in a git repository, and as near to it as may be.

    ``/``, control and format characters become ``_``, as do a ``-`` in front, which programs take for an option,
    and the point of ``.``, ``..`` and all that begins with ``.git``, in any case: git would obey such files.
    Blanks at the ends go; without `blanks`, each white space that is left is ``_``. The name is never empty, and
    at most 255 bytes, of which the extension is kept.
    """
    name = name.strip()
    if len(name) > _LONG:
        name = name[:_LONG] + name[-100:]
    if not (name.isascii() and name.isprintable()):
        name = "".join("_" if unicodedata.category(one) in _FORBIDDEN else one for one in name)
    name = name.replace("/", "_")
    if name in (".", ".."):
        name = "_" * len(name)
    if name.startswith("-") or name[:4].casefold() == ".git":
        name = f"_{name[1:]}"
    if not blanks:
        name = "".join("_" if one.isspace() else one for one in name)
    return _cut(name or "_", "")


def safe_paths(files: Sequence[HasPath], *, blanks: bool) -> list[tuple[str, ...]]:
    """Return a safe path for each of `files`, in their order, of components as `safe_name` makes them.

    No two are the same where case or composition of characters is not told apart (macOS, Windows), and no file is
    the folder of another: of two, the later gets ``_2``, and so on, before its extension. Folders in the middle of
    a path of more than 2,000 bytes are left out. Without `blanks`, each white space is ``_``.
    """
    plain = [_path(file.path, blanks) for file in files]
    folders: dict[tuple[int, str], int] = {}  # parent and folded name: each folder's number; 0 is the outermost
    parents = [_folder(folders, path[:-1]) for path in plain]
    taken: set[tuple[int, str]] = set()
    numbers: dict[tuple[int, str], int] = {}  # the last number behind a name that several have
    safe = []
    for path, parent in zip(plain, parents, strict=True):
        name = path[-1]
        first = place = (parent, _folded(name))
        while place in taken or place in folders:
            numbers[first] = numbers.get(first, 1) + 1
            name = _cut(path[-1], f"_{numbers[first]}")
            place = (parent, _folded(name))
        taken.add(place)
        safe.append((*path[:-1], name))
    return safe


def _path(path: tuple[str, ...], blanks: bool) -> tuple[str, ...]:
    """Return safe components, not yet told apart from those of other files."""
    *folders, name = [one for one in path if one not in ("", ".")] or ["_"]
    name = safe_name(name, blanks=blanks)
    left = MAX_PATH - len(name.encode())
    kept = []
    for folder in folders:
        safe = safe_name(folder, blanks=blanks)
        left -= len(safe.encode()) + 1
        if left < 0:
            break
        kept.append(safe)
    return (*kept, name)


def _folder(folders: dict[tuple[int, str], int], path: tuple[str, ...]) -> int:
    number = 0
    for name in path:
        number = folders.setdefault((number, _folded(name)), len(folders) + 1)
    return number


def _folded(name: str) -> str:
    """Return what is equal of names that a file system may take for the same."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFD", unicodedata.normalize("NFC", name).casefold())


def _cut(name: str, mark: str) -> str:
    """Return `name` with `mark` before its extension, cut before that to `MAX_NAME` bytes."""
    found = _EXTENSION.search(name, 1) if "." in name else None
    stem, extension = (name[: found.start()], found[0]) if found else (name, "")
    room = MAX_NAME - len(mark) - len(extension.encode())
    data = stem.encode()
    if len(data) > room:
        stem = data[:room].decode("utf-8", "ignore").rstrip()
    return f"{stem}{mark}{extension}"
