"""What is read of git-annex's records of URLs, and how URLs are given to it, with a program in git's place."""

from __future__ import annotations

from pathlib import Path

import pytest

from annex_remote.annexed import places_of, record_urls, urls_recorded
from annex_remote.errors import SwarmError
from tests.grid.test_annexed import git, say

__all__ = ["git"]

KEY = "SHA256E-s5--aa.bin"
ODD = "URL--http://h.example/a&b%c"
PATHS = [
    f"1ea/a74/{KEY}.log.web",
    f"1ea/a74/{KEY}.log",
    "2fa/b85/URL--http&c%%h.example%a&ab&sc.log.web",
    "uuid.log",
]


def answers(git: Path, log: str) -> None:
    """Have it list `PATHS`, and say `log` of every blob that it is asked for."""
    say(
        git,
        f"LOG = {log!r}.encode('utf-8', 'surrogateescape')",
        "if sys.argv[1] == 'ls-tree':",
        f"    sys.stdout.write('\\0'.join({PATHS!r}) + '\\0')",
        "for line in sys.stdin if sys.argv[1] == 'cat-file' else ():",
        "    assert line.startswith('git-annex:'), line",
        "    sys.stdout.buffer.write(b'%040d blob %d\\n%b\\n' % (1, len(LOG), LOG))",
    )


def test_urls_are_found_by_their_keys(git: Path) -> None:
    answers(git, "1796093470s 1 :swarm:magnet:?xt=urn:btih:aa#2\n1796093471.5s 1 https://h.example/x y.torrent\n")
    urls = ["swarm:magnet:?xt=urn:btih:aa#2", "https://h.example/x y.torrent"]
    assert urls_recorded([KEY, ODD, "SHA256E-s5--other"]) == {KEY: urls, ODD: urls}
    assert urls_recorded([ODD]) == {ODD: urls}


def test_the_newest_line_about_a_url_holds(git: Path) -> None:
    answers(git, "20s 0 :a\n10s 1 :a\n10s 0 :b\n20s 1 :b\n10s X :c\n\ngarbage\nx 1 :d\n5s 1 :e-\udcfc\n")
    assert urls_recorded([KEY]) == {KEY: ["b", "e-\udcfc"]}
    answers(git, "20s 0 :a\n")
    assert urls_recorded([KEY]) == {}


def test_content_is_found_by_its_file(git: Path) -> None:
    say(
        git,
        "for line in sys.stdin:",
        "    name = line.strip().replace('&', '&a').replace('%', '&s').replace(':', '&c').replace('/', '%')",
        "    print(f'../objects/x/{name}/{name}' if 'other' not in line else '')",
    )
    found = places_of([KEY, "SHA256E-s5--other", ODD])
    objects = Path.cwd().parent / "objects" / "x"
    name = "URL--http&c%%h.example%a&ab&sc"
    assert found == {KEY: str(objects / KEY / KEY), ODD: str(objects / name / name)}


def test_each_url_that_is_recorded_has_its_answer(git: Path) -> None:
    say(
        git,
        "import json",
        "pairs = sys.stdin.read().split('\\0')[:-1]",
        "for pair in pairs:",
        "    good = 'good' in pair",
        "    answer = {'success': good, 'input': [pair], 'error-messages': [], 'note': 'claimed\\nby web'}",
        "    print(json.dumps(answer))",
        "sys.exit(not all('good' in pair for pair in pairs))",
    )
    assert record_urls("vault", [(KEY, "swarm:good"), (KEY, "bad")]) == ["", "claimed by web"]
    assert record_urls("vault", []) == []


def test_answers_that_break_off_are_a_failure(git: Path) -> None:
    say(git, "print('{\"success\": true}')", "sys.exit(1)")
    with pytest.raises(SwarmError, match="git annex registerurl answered 1 of 2 times"):
        record_urls("vault", [(KEY, "a"), (KEY, "b")])
    say(git, "sys.exit('no such remote')")
    with pytest.raises(SwarmError, match="git annex registerurl failed: no such remote"):
        record_urls("vault", [(KEY, "a")])
    git.unlink()
    with pytest.raises(SwarmError, match="git could not be run"):
        record_urls("vault", [(KEY, "a")])
