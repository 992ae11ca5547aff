from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from annex_remote.torrents.names import MAX_NAME, MAX_PATH, printable, safe_name, safe_paths


@dataclass(frozen=True)
class File:
    path: tuple[str, ...]


NASTY = [
    "",
    ".",
    "..",
    "...",
    "/",
    "../../etc/passwd",
    ".git",
    ".GIT",
    " .git ",
    ".gitattributes",
    "\u202ecod.exe",
    "a\nb",
    "\0",
    "\ud800",
    "-rf",
    "--",
    "a b",
    "a\u00a0b",
    "a\u3000b",
    "\u2028",
    "ß",
    "SS",
    "ss",
    "é",
    "e\u0301",
    "É",
    "\u017f",
    "K",
    "\u212a",
    "\u0345\u0301",
    "ͅα",
    "a_2",
    "a",
    "A",
    "x" * 300,
    "x" * 299 + "y",
    "ü" * 200 + ".tar.gz",
    "x" * 300 + ".iso",
    "." + "x" * 300,
]
# Any character, surrogates too, and those that file systems fold.
CHARACTERS = st.characters() | st.sampled_from("./-_ \n\0aAbBéÉ\u0131İß\u017f\u0301\u0345\u202e\u2066\u200d\ud800")
NAMES = st.sampled_from(NASTY) | st.text(CHARACTERS, max_size=8)
PATHS = st.lists(NAMES, max_size=4).map(tuple)


def assert_safe(name: str) -> None:
    assert name not in ("", ".", "..")
    assert not set(name) & {"/", "\0", "\n"}
    assert not any(unicodedata.category(one) in ("Cc", "Cf", "Cs", "Zl", "Zp") for one in name)
    assert not set(name) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    assert len(name.encode()) <= MAX_NAME
    assert not name.casefold().startswith(".git")
    assert not name.startswith("-")
    assert name == name.strip()


def folded(path: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(unicodedata.normalize("NFC", name).casefold() for name in path)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("debian.iso", "debian.iso"),
        ("Ünï cödé ok (1) [x] \U0001f600.mkv", "Ünï cödé ok (1) [x] \U0001f600.mkv"),
        ("con", "con"),
        ('a:b?c*"d.', 'a:b?c*"d.'),
        (".hidden", ".hidden"),
        ("a\\b", "a\\b"),
        ("", "_"),
        (" \t\n", "_"),
        (".", "_"),
        ("..", "__"),
        ("...", "..."),
        ("/etc/passwd", "_etc_passwd"),
        ("-rf", "_rf"),
        (".git", "_git"),
        (".GiT", "_GiT"),
        (".gitmodules", "_gitmodules"),
        ("git", "git"),
        ("x.git", "x.git"),
        ("a\x1b[2Jb", "a_[2Jb"),
        ("a\u202ecod.exe", "a_cod.exe"),
        ("\ud800x", "_x"),
        ("x" * 300, "x" * 255),
        ("x" * 300 + ".iso", "x" * 251 + ".iso"),
        ("x" * 300 + ".tar.gz", "x" * 248 + ".tar.gz"),
        ("ü" * 200, "ü" * 127),
        ("x" * 250 + " " * 20 + ".iso", "x" * 250 + ".iso"),
        ("x" * 5_000_000 + ".iso", "x" * 251 + ".iso"),
    ],
)
def test_names_by_hand(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_names_without_blanks() -> None:
    assert safe_name(" a b\u00a0c\u3000d.x ", blanks=False) == "a_b_c_d.x"
    assert safe_name(". ", blanks=False) == "_"


@given(NAMES, st.booleans())
def test_a_name_is_safe(name: str, blanks: bool) -> None:
    safe = safe_name(name, blanks=blanks)
    assert_safe(safe)
    assert safe_name(safe, blanks=blanks) == safe
    assert blanks or not any(one.isspace() or unicodedata.category(one).startswith("Z") for one in safe)


@pytest.mark.parametrize(
    ("paths", "safe"),
    [
        (["a/b", "a/c"], ["a/b", "a/c"]),
        (["a/b", "b", "c/b", "c/a"], ["a/b", "b", "c/b", "c/a"]),
        (["a", "A", "á", "a\u0301"], ["a", "A_2", "á", "a\u0301_2"]),
        (["x.iso", "X.ISO", "x_2.iso"], ["x.iso", "X_2.ISO", "x_2_2.iso"]),
        (["x.tar.gz", "x.tar.gz"], ["x.tar.gz", "x_2.tar.gz"]),
        (["a", "a/b"], ["a_2", "a/b"]),
        (["a/b", "A"], ["a/b", "A_2"]),
        (["a/b/c", "a/B", "A/b/c/d"], ["a/b/c_2", "a/B_2", "A/b/c/d"]),
        (["../../etc/passwd", "..//./x"], ["__/__/etc/passwd", "__/x"]),
        (["", "."], ["_", "__2"]),
        ([".git/config", "x/.GIT"], ["_git/config", "x/_GIT"]),
        (["Straße", "STRASSE"], ["Straße", "STRASSE_2"]),
    ],
)
def test_paths_by_hand(paths: list[str], safe: list[str]) -> None:
    files = [File(tuple(path.split("/"))) for path in paths]
    assert ["/".join(path) for path in safe_paths(files, blanks=True)] == safe


def test_blanks_of_paths() -> None:
    files = [File(("a b", "c d")), File(("a_b", "c_d")), File(("a\u2003b", "e\tf"))]
    assert safe_paths(files, blanks=True) == [("a b", "c d"), ("a_b", "c_d"), ("a\u2003b", "e_f")]
    assert safe_paths(files, blanks=False) == [("a_b", "c_d"), ("a_b", "c_d_2"), ("a_b", "e_f")]


def test_long_names_that_are_the_same_when_cut() -> None:
    files = [File(("x" * 300 + f"{number}.iso",)) for number in range(200)]
    paths = safe_paths(files, blanks=True)
    assert len(set(paths)) == 200
    assert paths[:2] == [("x" * 251 + ".iso",), ("x" * 249 + "_2.iso",)]


def test_folders_have_a_bound() -> None:
    (path,) = safe_paths([File((*("folder",) * 10_000, "name.iso"))], blanks=True)
    assert path == (*("folder",) * 284, "name.iso")
    assert len("/".join(path)) <= MAX_PATH


@given(st.lists(PATHS, max_size=8), st.booleans())
@example([("ͅα",), ("\u0345\u0301",), ("\u0301\u0345",), ("ͅ",), ("\u0399",), ("\u03b9",)], True)
def test_paths_are_safe_and_told_apart(paths: list[tuple[str, ...]], blanks: bool) -> None:
    files = [File(path) for path in paths]
    safe = safe_paths(files, blanks=blanks)
    assert len(safe) == len(files)
    for path in safe:
        for name in path:
            assert_safe(name)
            assert blanks or not any(one.isspace() or unicodedata.category(one).startswith("Z") for one in name)
    whole = [folded(path) for path in safe]
    assert len(set(whole)) == len(whole)
    for path in whole:
        assert not any(other != path and other[: len(path)] == path for other in whole)
    assert safe_paths(files, blanks=blanks) == safe
    assert safe_paths([File(path) for path in safe], blanks=blanks) == safe


@given(st.text(CHARACTERS, max_size=20))
def test_what_is_shown_stays_on_its_line(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert shown == printable(shown)
    assert not any(unicodedata.category(one) in ("Cc", "Cf", "Cs", "Zl", "Zp") for one in shown)


def test_what_is_shown() -> None:
    assert printable("Ünï \x1b[2J\u202e") == "Ünï \ufffd[2J\ufffd"
    assert printable("\x1b[2J") == "\ufffd[2J"
    assert printable("x" * 2000) == "x" * 1000 + "…"
