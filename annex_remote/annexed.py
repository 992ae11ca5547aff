"""What git-annex knows of a remote's objects: their keys, and the files that they are the content of."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any

from annex_remote.errors import BadSetting, Damaged, SwarmError
from annex_remote.keyfiles import file_name, key_path

__all__ = [
    "KEY",
    "Asked",
    "files_below",
    "files_of",
    "has_urls",
    "is_encrypted",
    "is_stored_by_name",
    "keys_here",
    "keys_in",
    "keys_known",
    "keys_over",
    "keys_somewhere",
    "looked_up",
    "places_of",
    "record_urls",
    "urls_recorded",
]

_URLS = ".log.web"
"""The end of the name of what has a key's URLs."""

MOST_SAID = 1000
"""Bytes that are shown of what git-annex complains about."""

KEY = re.compile(r"[A-Z0-9_]+(-[a-zA-Z][0-9]+)*--\S+\Z")
"""The form of a git-annex key."""


_MERGED = ("-c", "annex.merge-annex-branches=true")
"""Has git-annex take in what was fetched of other clones; `git annex merge` would change the work tree as well."""


def is_encrypted(config: Mapping[str, str]) -> bool:
    """True if git-annex encrypts what it stores in a remote of this configuration, names included."""
    return config.get("encryption", "none") not in ("", "none")


def is_stored_by_name(config: Mapping[str, str]) -> bool:
    """True if what is stored in a remote of this configuration bears the names of the keys themselves.

    git-annex's own encryption, and its chunks, give them others.
    """
    return not is_encrypted(config) and config.get("chunk", "0") in ("", "0")


def keys_in(remote: str) -> Iterator[str]:
    """Yield the keys that are in `remote`, as the git-annex branch has it: of all clones that are known.

    `remote` is its name or its UUID. Raises `SwarmError` if git-annex does not come to the end of them: a list
    that is too short must not be believed.
    """
    yield from _lines(["findkeys", f"--in={remote}"], b"\n", _MERGED)


def keys_here() -> Iterator[str]:
    """Yield the keys whose content is in this repository; raises `SwarmError`."""
    yield from _lines(["findkeys", "--in=here"], b"\n", _MERGED)


def keys_known() -> Iterator[str]:
    """Yield all keys that the git-annex branch tells anything of, wherever they are; raises `SwarmError`."""
    yield from _lines(["findkeys", "--anything"], b"\n", _MERGED)


def keys_somewhere() -> Iterator[str]:
    """Yield all keys of which there is a copy somewhere, by the git-annex branch; raises `SwarmError`."""
    yield from _lines(["findkeys", "--copies=1"], b"\n", _MERGED)


def keys_over(remote: str, verify_key: bytes) -> Iterator[str]:
    """Yield the keys that are in `remote`, and in every other remote over the same grid that is recorded here.

    There may be several: one made anew by the grid's capability, or under another name (--sameas). Which of them
    were verified does not matter to who only looks for what is wanted. Raises `SwarmError`; `BadSetting` if
    git-annex encrypts what it stores in one of them.
    """
    yield from keys_in(remote)
    own = _git("config", "--get", f"remote.{remote}.annex-uuid").strip()
    others: dict[str, None] = {}
    for line in _git("cat-file", "blob", "git-annex:remote.log").splitlines():  # merged just now
        uuid, *words = line.split(" ")
        config = dict(word.partition("=")[::2] for word in words)
        if config.get("verify-key") != verify_key.hex():
            continue
        if is_encrypted(config):
            raise BadSetting(
                f"git-annex encrypts what it stores in the remote {config.get('name', uuid)}: the names there do "
                "not tell what is wanted"
            )
        others[config.get("sameas-uuid", uuid)] = None
    for uuid in others:
        if uuid != own:
            yield from keys_in(uuid)


def _git(*arguments: str) -> str:
    try:
        shown = subprocess.run(["git", *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError as error:
        raise SwarmError(f"git could not be run: {error.strerror}") from error
    if shown.returncode:
        said = shown.stderr.decode(errors="replace").strip()
        raise SwarmError(f"git {' '.join(arguments)} failed: {said or shown.returncode}")
    return shown.stdout.decode("utf-8", "surrogateescape")


@dataclass
class Asked:
    """What a person has asked about, by name: keys, and the files that they were named by."""

    files: dict[str, list[str]] = field(default_factory=dict)

    @property
    def keys(self) -> list[str]:
        return list(self.files)


def looked_up(remote: str, words: Sequence[str]) -> Asked:
    """Return the keys that are meant by `words`: keys, files, folders, and options with which git-annex matches.

    Raises `BadSetting` if nothing of that is in `remote`.
    """
    asked = Asked()
    rest = []
    for word in words:
        if KEY.match(word):
            asked.files.setdefault(word, [])
        else:
            rest.append(word)
    if rest:
        options = [word for word in rest if word.startswith("--")]
        paths = [word for word in rest if not word.startswith("--")]
        for key, file in _pairs([f"--in={remote}", *options, "--", *paths]):
            asked.files.setdefault(key, []).append(file)
    if not asked.files:
        raise BadSetting(f"nothing of that is in {remote}, as far as git-annex knows: {' '.join(words)}")
    return asked


def files_of(remote: str, keys: Sequence[str]) -> dict[str, list[str]]:
    """Return the files of the work tree whose content is one of `keys`, of those that have any."""
    wanted = set(keys)
    found: dict[str, list[str]] = {}
    if not wanted:
        return found
    try:
        for key, file in _pairs([f"--in={remote}"]):
            if key in wanted:
                found.setdefault(key, []).append(file)
    except SwarmError:
        pass  # a bare repository has none
    return found


def files_below(folder: str | None, remote: str = "here") -> Iterator[tuple[str, str]]:
    """Yield keys and annexed files below `folder`, None for the whole work tree, of what is in `remote`.

    Raises `SwarmError`, also where there is no work tree, or none that `folder` is in.
    """
    top = _git("rev-parse", "--show-toplevel").rstrip("\n") if folder is None else folder
    yield from _pairs([f"--in={remote}", "--", top])


def places_of(keys: Iterable[str]) -> dict[str, str]:
    """Return the absolute paths of the content of those of `keys` that is here, and was not changed since.

    Raises `SwarmError`.
    """
    names = _by_file_name(keys)
    asked = "".join(f"{key}\n" for key in names.values()).encode("utf-8", "surrogateescape")
    found = {}
    for line in _lines(["contentlocation", "--batch"], b"\n", typed=asked):
        key = names.get(os.path.basename(line))
        if key is not None:
            found[key] = os.path.abspath(line)
    return found


def urls_recorded(keys: Iterable[str]) -> dict[str, list[str]]:
    """Return the URLs that the git-annex branch has of those of `keys` that have any, whoever claims them.

    Raises `SwarmError`.
    """
    names = _by_file_name(keys)
    logs: dict[str, str] = {}
    for path in _git("ls-tree", "-r", "-z", "--name-only", "git-annex").split("\0"):
        name = path.rpartition("/")[2]
        if name.endswith(_URLS) and name.removesuffix(_URLS) in names:
            logs[path] = names[name.removesuffix(_URLS)]
    asked = "".join(f"git-annex:{path}\n" for path in logs).encode("utf-8", "surrogateescape")
    said = io.BytesIO(_run(["git", "cat-file", "--batch"], typed=asked))
    found = {}
    for key in logs.values():
        head = said.readline().split()  # its id, its type, its size
        if len(head) != 3 or not head[2].isdigit():
            raise SwarmError(f"git cat-file failed: {b' '.join(head)[:MOST_SAID].decode(errors='replace')}")
        urls = _urls_of(said.read(int(head[2])).decode("utf-8", "surrogateescape"))
        said.readline()
        if urls:
            found[key] = urls
    return found


def has_urls(git_dir: str, key: str) -> bool:
    """True if the git-annex branch has URLs of `key`; False also where that cannot be told."""
    try:
        path = os.path.dirname(key_path(key)) + _URLS
        command = ["git", f"--git-dir={git_dir}", "cat-file", "-e", f"git-annex:{path}"]
        found = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except (OSError, Damaged):
        return False
    return found.returncode == 0


def _by_file_name(keys: Iterable[str]) -> dict[str, str]:
    names = {}
    for key in keys:
        with suppress(Damaged):  # no key of git-annex's
            names[file_name(key)] = key
    return names


def _urls_of(log: str) -> list[str]:
    """Return the URLs of a .log.web: lines of a time, 1 or 0, and a URL, of which the newest line holds.

    ``:`` in front of a URL says that it is not for git-annex's own web remote.
    """
    newest: dict[str, tuple[float, bool]] = {}
    for line in log.splitlines():
        when, _, rest = line.partition(" ")
        state, _, url = rest.partition(" ")
        try:
            at = float(when.removesuffix("s"))
        except ValueError:
            continue
        if at >= newest.get(url, (at, True))[0]:
            newest[url] = (at, state == "1")
    return [url.removeprefix(":") for url, (_, is_there) in newest.items() if is_there]


def record_urls(remote: str, urls: Sequence[tuple[str, str]]) -> list[str]:
    """Record keys' URLs as sources in `remote`, which then counts as having the keys.

    Returns for each, in the order of `urls`, why it could not be recorded, empty if it was: the remote has to
    claim it, and no other one first. Raises `SwarmError` if git-annex does not come to an end.
    """
    asked = "".join(f"{key} {url}\0" for key, url in urls).encode("utf-8", "surrogateescape")
    command = ["registerurl", f"--remote={remote}", "--batch", "-z", "--json", "--json-error-messages"]
    said = _run(["git", "annex", *command], typed=asked, fails=True)
    answers = [json.loads(line) for line in said.splitlines() if line.startswith(b"{")]
    if len(answers) != len(urls):
        raise SwarmError(f"git annex registerurl answered {len(answers)} of {len(urls)} times")
    return ["" if answer.get("success") else _why(answer) for answer in answers]


def _why(answer: Mapping[str, Any]) -> str:
    words = [*answer.get("error-messages", []), answer.get("note", "")]
    return " ".join("; ".join(filter(None, words)).split()) or "git-annex does not say why"


def _run(command: Sequence[str], *, typed: bytes, fails: bool = False) -> bytes:
    """Return what a command says if it is given `typed`; raises `SwarmError` if it fails, unless it may."""
    try:
        done = subprocess.run(command, input=typed, capture_output=True, check=False)
    except OSError as error:
        raise SwarmError(f"{command[0]} could not be run: {error.strerror}") from error
    if done.returncode and not (fails and done.stdout):
        said = done.stderr[-MOST_SAID:].decode(errors="replace").strip()
        raise SwarmError(f"{' '.join(command[:3])} failed: {said or done.returncode}")
    return done.stdout


def _pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield keys and files that `git annex find` finds. No name of a file can have a zero byte."""
    words = _lines(["find", "--format=${key}\\000${file}\\000", *arguments], b"\0")
    for key in words:
        yield key, next(words, "")


def _lines(
    arguments: Sequence[str], end: bytes, options: Sequence[str] = (), *, typed: bytes = b""
) -> Iterator[str]:
    # In a file there is room for all that it complains about; a pipe is full at some time, and then both wait.
    with tempfile.TemporaryFile() as complaints, tempfile.TemporaryFile() as told:
        told.write(typed)
        told.seek(0)
        try:
            process = subprocess.Popen(
                ["git", *options, "annex", *arguments],
                stdin=told,
                stdout=subprocess.PIPE,
                stderr=complaints,
            )
        except OSError as error:
            raise SwarmError(f"git annex could not be run: {error.strerror}") from error
        assert process.stdout
        with process:
            rest = b""
            while piece := os.read(process.stdout.fileno(), 1 << 16):
                *whole, rest = (rest + piece).split(end)
                for line in whole:
                    if line:
                        yield line.decode("utf-8", "surrogateescape")
            if process.wait():
                raise SwarmError(
                    f"git annex {arguments[0]} failed: {_last_words(complaints) or process.returncode}"
                )


def _last_words(complaints: IO[bytes]) -> str:
    """Return the end of what was complained about: the last is why it failed."""
    complaints.seek(max(0, complaints.seek(0, os.SEEK_END) - MOST_SAID))
    return complaints.read().decode(errors="replace").strip()
