"""How a message stands on a line: one word, then a fixed number of parameters.

From the protocol's overview: parameters are separated by single spaces, only the last may contain
spaces, and a parameter may be empty. What a parameter may hold follows from the annotation of its
field, through the one table `_KINDS`; nothing else knows how a value is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from functools import cache
from typing import Any, TypeVar

__all__ = [
    "Availability",
    "Direction",
    "Files",
    "Key",
    "LineError",
    "Message",
    "Number",
    "OfKey",
    "OfKeyAndText",
    "OfKeyAndValue",
    "OfName",
    "OfNumber",
    "OfText",
    "OfValue",
    "Rest",
    "Size",
    "Text",
    "UrlFile",
    "Word",
    "Words",
    "parse",
]


class LineError(ValueError):
    """A line that is no message, or a value that cannot stand in one."""


class Availability(Enum):
    """From where a remote can be reached (reply to GETAVAILABILITY)."""

    LOCAL = "LOCAL"
    GLOBAL = "GLOBAL"
    UNAVAILABLE = "UNAVAILABLE"


class Direction(Enum):
    """Which way a TRANSFER goes, seen from git-annex."""

    STORE = "STORE"
    RETRIEVE = "RETRIEVE"


@dataclass(frozen=True, slots=True)
class UrlFile:
    """One of several files behind a URL; `size` is None where it is not known."""

    url: str
    size: int | None
    filename: str


# The names that fields are annotated with. To a type checker they are plain types.
Key = str
"""A key: not empty, no spaces."""
Word = str
"""No spaces; may be empty."""
Rest = str
"""The last parameter of a message that must arrive as it is: spaces, but no line breaks."""
Text = str
"""The last parameter of a message that people read: line breaks are sent as spaces."""
Number = int
Size = int | None
Words = tuple[str, ...]
Files = tuple[UrlFile, ...]

_OMITTABLE = {"Rest", "Text", "Words"}
"""Kinds that, when last and empty, are also understood without the space before them."""

_LINE_BREAKS = {ord("\n"): " ", ord("\r"): " "}
_MAX_DIGITS = 18
"""Longer numbers are not sizes of anything, and Python refuses to read really long ones."""


def _same(text: str) -> str:
    return text


def _parse_number(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > _MAX_DIGITS:
        raise LineError(f"not a number: {text[:80]!r}")
    return int(text)


def _parse_size(text: str) -> int | None:
    return None if text == "UNKNOWN" else _parse_number(text)


def _parse_files(text: str) -> Files:
    words = text.split()
    if not words or len(words) % 3:
        raise LineError("the files of a URL come as triplets")
    triplets = zip(words[::3], words[1::3], words[2::3], strict=True)
    return tuple(UrlFile(url, _parse_size(size), name) for url, size, name in triplets)


_E = TypeVar("_E", bound=Enum)


def _parse_member(members: type[_E]) -> Callable[[str], _E]:
    def parse_member(text: str) -> _E:
        try:
            return members(text)
        except ValueError as error:
            raise LineError(str(error)) from None

    return parse_member


def _format_rest(text: str) -> str:
    if "\n" in text or "\r" in text:
        raise LineError(f"a line break cannot be sent: {text[:80]!r}")
    if not _encodable(text):
        raise LineError(f"not a text that was ever bytes: {text[:80]!r}")
    return text


def _word(text: str) -> str:
    if " " in text:
        raise LineError(f"a space would begin the next parameter: {text[:80]!r}")
    return _format_rest(text)


def _key(text: str) -> str:
    if not text:
        raise LineError("a key cannot be empty")
    return _word(text)


def _format_text(text: str) -> str:
    # Never raises: a failure that cannot be told would be a request that is never answered.
    text = text.translate(_LINE_BREAKS)
    return text if _encodable(text) else text.encode("utf-8", "backslashreplace").decode()


def _format_number(number: int) -> str:
    return _digits(int(number))


def _digits(number: int) -> str:
    if number < 0:
        raise LineError(f"a negative number cannot be sent: {number}")
    return str(number)


def _format_size(size: int | None) -> str:
    return "UNKNOWN" if size is None else _digits(size)


def _format_files(files: Files) -> str:
    # git-annex divides this list at any white space and counts in threes: an empty name, or one with a
    # space of any alphabet, would silently shift all that follow.
    words = [word for file in files for word in (file.url, _format_size(file.size), file.filename)]
    for word in words:
        if word.split() != [word]:
            raise LineError(f"neither empty nor with spaces in a list of files: {word[:80]!r}")
    if not words:
        raise LineError("a list of files cannot be empty")
    return " ".join(_format_rest(word) for word in words)


def _format_member(member: Enum) -> str:
    return str(member.value)


def _encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


_KINDS: Mapping[str, tuple[Callable[[str], object], Callable[[Any], str]]] = {
    # Replies repeat the key, so one that could not be sent is not let in either.
    "Key": (_key, _key),
    "Word": (_word, _word),
    "Rest": (_same, _format_rest),
    "Text": (_same, _format_text),
    "Number": (_parse_number, _format_number),
    "Size": (_parse_size, _format_size),
    "Words": (lambda text: tuple(text.split()), lambda words: " ".join(map(_word, words))),
    "Files": (_parse_files, _format_files),
    "Direction": (_parse_member(Direction), _format_member),
    "Availability": (_parse_member(Availability), _format_member),
}


class _Worded(type):
    """Takes the word of a message from the head of its class, and gives it slots for its fields alone.

    Some seventy messages share a few shapes. Only the shapes are made by `dataclass`, which takes a
    third of a millisecond each time; the program starts anew for every git-annex command. Slots are
    made here because ``dataclass(slots=True)`` would leave its first try among a role's subclasses.
    """

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], word: str = "") -> _Worded:
        namespace["__slots__"] = tuple(namespace.get("__annotations__", ()))
        if word:
            namespace["word"] = word
        return super().__new__(mcs, name, bases, namespace)


@dataclass(frozen=True)
class Message(metaclass=_Worded):
    """What either side says: a frozen, slotted dataclass."""

    word = ""

    def format(self) -> str:
        """Return the line, without its end; raises `LineError` for what would not arrive as it is."""
        return " ".join([self.word, *(write(getattr(self, name)) for name, _, write, _ in _codec(type(self)))])

    @classmethod
    def parse(cls, line: str) -> Message:
        """Read a line that begins with this message's word; raises `LineError`."""
        codec = _codec(cls)
        word, *values = line.split(" ", len(codec))
        if len(values) == len(codec) - 1 and codec[-1][3]:
            values.append("")
        if word != cls.word or len(values) != len(codec):
            raise LineError(f"not a {cls.word} with {len(codec)} parameters: {line[:80]!r}")
        return cls(*(read(value) for (_, read, _, _), value in zip(codec, values, strict=True)))


@cache
def _codec(
    message: type[Message],
) -> tuple[tuple[str, Callable[[str], object], Callable[[Any], str], bool], ...]:
    """Return, for each parameter: its field, how it is read, how it is written, may it be left off."""
    named = [(field.name, str(field.type)) for field in fields(message)]
    return tuple((name, *_KINDS[kind], kind in _OMITTABLE) for name, kind in named)


def parse(line: str, table: Mapping[str, type[Message]]) -> Message:
    """Read `line` (without its end) as one of the messages in `table`; raises `LineError`."""
    word = line.partition(" ")[0]
    if word not in table:
        raise LineError(f"not a message of this protocol: {line[:80]!r}")
    return table[word].parse(line)


# Shapes: what parameters there are.


@dataclass(frozen=True)
class OfKey(Message):
    """A key."""

    key: Key


@dataclass(frozen=True)
class OfKeyAndText(Message):
    """A key, and what went wrong with it."""

    key: Key
    text: Text


@dataclass(frozen=True)
class OfKeyAndValue(Message):
    """A key, and something kept for it."""

    key: Key
    value: Rest


@dataclass(frozen=True)
class OfName(Message):
    """The name of a setting."""

    name: Word


@dataclass(frozen=True)
class OfText(Message):
    """Something for people to read."""

    text: Text


@dataclass(frozen=True)
class OfValue(Message):
    """Something that must arrive as it is."""

    value: Rest


@dataclass(frozen=True)
class OfNumber(Message):
    """A number."""

    number: Number
