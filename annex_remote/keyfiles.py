"""Where git-annex's directory special remote keeps the content of a key. Pure."""

from __future__ import annotations

import hashlib
import os
import re

from annex_remote.errors import Damaged

__all__ = ["file_name", "key_path"]

_ESCAPES = {"&": "&a", "%": "&s", ":": "&c", "/": "%"}
_CHUNK = re.compile(r"-[SC][0-9]+(?=-)")


def file_name(key: str) -> str:
    """Return the name of a key's file, as git-annex escapes it: keys of URLs have slashes.

    Raises `Damaged` for what could lead out of its folder, or hide there: it is no key.
    """
    name = "".join(_ESCAPES.get(character, character) for character in key)
    if name.startswith(".") or not name or "\0" in name or "\n" in name or "--" not in name:
        raise Damaged("its name is not that of a git-annex key, and not made a file")
    return name


def key_path(key: str) -> str:
    """Return the path of a key's file in the directory: ``aaa/bbb/NAME/NAME``; raises `Damaged`.

    The folders are git-annex's hashDirLower: of a chunk, those of the key that it belongs to.
    """
    name = file_name(key)
    fields, dashes, rest = key.partition("--")
    whole = _CHUNK.sub("", f"{fields}-").removesuffix("-") + dashes + rest
    digest = hashlib.md5(whole.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest()
    return os.path.join(digest[:3], digest[3:6], name, name)
