"""What is to go into a torrent: files and folders of this disk; annexed files are followed to their content."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from annex_remote.errors import BadSetting
from annex_remote.torrents.names import MAX_NAME

__all__ = ["Content", "Contents", "check_name", "contents_of"]

POINTER = b"/annex/objects/"
"""What a file begins with that stands for annexed content that is not here, if it is unlocked."""
MAX_POINTER = 32_768
"""Bytes of such a file, at most: git-annex takes longer ones for content."""
PADDING = re.compile(r"_____padding_file_|\A\.pad/[0-9]+\Z")
"""Files without content of their own, as programs call them (BEP 47, and BitComet before it)."""
NAMED = 5
"""Files that an error names."""

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Content:
    """A file of a torrent to be made.

    `path` is below the torrent's name, and (name,) for a single file; `place` is the real path of what is read.
    """

    path: Path
    place: str
    size: int


@dataclass(frozen=True)
class Contents:
    """What a torrent is made of: `files` in the order of a file tree (BEP 52): by the bytes of names."""

    name: str
    files: tuple[Content, ...]
    is_single: bool

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def contents_of(given: Sequence[str], name: str | None = None, *, leave_out: str | int | None = None) -> Contents:
    """Return what `given`, files and folders, make as a torrent called `name`.

    One file or one folder gives the torrent its name; several, each under its own name, stand in a folder that is
    called as the one they are in. ``.git`` is left out of folders, as is the file `leave_out`: a path, or the
    descriptor of an open file.

    Raises `BadSetting` for what is not there, cannot be read, is neither file nor folder, or has a name that other
    systems do not take; also if a link leads to a folder, or nowhere. Annexed files whose content is not here are
    named together.
    """
    search = _Search(_test_for(leave_out))
    whole = given[0] if len(given) == 1 else None
    own = {each: os.path.basename(os.path.abspath(each)) for each in given}
    if whole is not None and os.path.isdir(whole):
        search.folder(whole, ())
    else:
        for each in given:
            search.anything(each, (own[each],))
    search.complain()
    title = name
    if title is None:
        title = own[whole] if whole is not None else _common(given)
        if not title:
            raise BadSetting("what the torrent is to be called does not go by its files: say it with --name")
    check_name(title, title)
    is_single = whole is not None and not os.path.isdir(whole)
    files = sorted(search.found, key=lambda file: [os.fsencode(part) for part in file.path])
    if is_single and not files:
        raise BadSetting(f"{whole} is where the torrent goes: it cannot be what is in it")
    if is_single:
        files = [Content((title,), file.place, file.size) for file in files]
    if not sum(file.size for file in files):
        raise BadSetting(f"{', '.join(given[:NAMED])}: there is not one byte in it, and no torrent without any")
    return Contents(title, tuple(files), is_single)


def _common(given: Sequence[str]) -> str:
    """Return the name of the folder that all of `given` are in, empty if there is no such folder."""
    folders = {os.path.dirname(os.path.abspath(each)) for each in given}
    return os.path.basename(folders.pop()) if len(folders) == 1 else ""


def _test_for(leave_out: str | int | None) -> Callable[[str, os.stat_result], bool]:
    """Return what tells whether a file, by its path and its state, is the one to be left out."""
    if isinstance(leave_out, int):
        opened = os.fstat(leave_out)
        return lambda _, about: os.path.samestat(about, opened)
    if leave_out is None:
        return lambda *_: False
    # A link there is replaced, and not what it leads to.
    folder, name = os.path.realpath(os.path.dirname(leave_out)), os.path.basename(leave_out)
    return lambda place, _: os.path.basename(place) == name and os.path.realpath(os.path.dirname(place)) == folder


class _Search:
    def __init__(self, is_left_out: Callable[[str, os.stat_result], bool]) -> None:
        self.found: list[Content] = []
        self._is_left_out = is_left_out
        self._missing: list[str] = []
        self._paths: dict[Path, str] = {}

    def folder(self, place: str, path: Path) -> None:
        """Take in a folder, and all that is below; not by recursion, as folders can be deep."""
        folders = [(place, path)]
        while folders:
            place, path = folders.pop()
            for entry in _listed(place):
                below = (*path, entry.name)
                if entry.name == ".git":
                    continue
                if entry.is_dir(follow_symlinks=False):
                    check_name(entry.name, entry.path)
                    folders.append((entry.path, below))
                else:
                    self._file(entry.path, below)

    def anything(self, place: str, path: Path) -> None:
        """Take in what was named: a folder, or a file."""
        if path in self._paths:
            raise BadSetting(f"{self._paths[path]} and {place} would have the same name in the torrent")
        self._paths[path] = place
        if os.path.isdir(place):
            check_name(path[-1], place)
            self.folder(place, path)
        else:
            self._file(place, path)

    def _file(self, place: str, path: Path) -> None:
        try:
            about = os.stat(place)
        except FileNotFoundError as error:
            self._note_dead(place, error)
            return
        except OSError as error:  # a loop of links, a folder that may not be entered
            raise BadSetting(f"{place}: {error.strerror}") from error
        check_name(path[-1], place)
        if stat.S_ISDIR(about.st_mode):
            raise BadSetting(f"{place} is a link to a folder, and those are not followed: name the folder itself")
        if not stat.S_ISREG(about.st_mode):
            raise BadSetting(f"{place} is {_kind(about.st_mode)}: a torrent has files only")
        if self._is_left_out(place, about):
            return
        if PADDING.search("/".join(path)):
            raise BadSetting(f"{place}: programs take a file of this name for padding: rename it")
        if _is_pointer(place, about.st_size):
            self._missing.append(place)
            return
        self.found.append(Content(path, os.path.realpath(place), about.st_size))

    def _note_dead(self, place: str, error: OSError) -> None:
        if not os.path.islink(place):
            raise BadSetting(f"{place or 'a file without a name'} is not there") from error
        target = os.readlink(place)
        if "annex/objects/" not in target:
            raise BadSetting(f"{place} is a link that leads nowhere: {target}") from error
        self._missing.append(place)

    def complain(self) -> None:
        """Raise `BadSetting` if the content of annexed files is not here."""
        if not self._missing:
            return
        some = sorted(self._missing)[:NAMED]
        more = f" and {len(self._missing) - NAMED:,} more" if len(self._missing) > NAMED else ""
        what = "its content is" if len(self._missing) == 1 else "their content is"
        raise BadSetting(f"{', '.join(some)}{more}: {what} not here; git annex get brings it")


def _listed(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        yield from os.scandir(folder)
    except OSError as error:
        raise BadSetting(f"{folder}: {error.strerror}") from error


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFBLK: "a disk", stat.S_IFCHR: "a device"}
    return kinds.get(stat.S_IFMT(mode), "no file")


def _is_pointer(place: str, size: int) -> bool:
    """True if a file stands for annexed content; raises `BadSetting` if it cannot be read."""
    try:
        with open(place, "rb") as file:
            return size <= MAX_POINTER and file.read(len(POINTER)) == POINTER
    except OSError as error:
        raise BadSetting(f"{place}: {error.strerror}") from error


def check_name(name: str, place: str) -> None:
    """Raise `BadSetting` for what is no name in a torrent, or not the same one to all programs and systems."""
    try:
        length = len(name.encode())
    except UnicodeEncodeError as error:
        raise BadSetting(f"{place}: a name in a torrent is UTF-8, and this one is not: rename it") from error
    if not name:
        raise BadSetting(f"{place}: a file or folder needs a name")
    if name in (".", "..") or "/" in name or length > MAX_NAME:
        raise BadSetting(f"{place}: {name} cannot be the name of a file or folder")
    if "\\" in name or any(unicodedata.category(character) == "Cc" for character in name):
        raise BadSetting(
            f"{place}: a name with a backslash or a control character is another one to whoever gets the torrent: "
            "rename it"
        )
