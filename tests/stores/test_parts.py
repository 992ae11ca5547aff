"""What the kinds share: names of what is not whole yet, free space, and numbers that servers write."""

from __future__ import annotations

import pytest

from annex_remote.errors import Denied, Unavailable
from annex_remote.stores.numbers import whole_number
from annex_remote.stores.parts import is_folder_name, is_part_name, missing_space, part_name
from tests.stores.test_contract import NAME, OTHER


def test_a_part_has_a_name_of_its_own_form() -> None:
    names = {part_name(name) for name in (NAME, OTHER, f"/root/{NAME}", NAME[3:]) for _ in range(10)}
    assert len(names) == 40
    assert all(is_part_name(name) for name in names)
    part = part_name(NAME)
    assert part.startswith(NAME[3:] + ".")
    for other in (NAME, NAME[3:], f"x{part}", f"{part}x", part[:-1], f"{part}\n", part.upper(), f"a/{part}", ""):
        assert not is_part_name(other)


def test_folders() -> None:
    assert all(map(is_folder_name, ("ab", "22", "z7")))
    assert not any(map(is_folder_name, ("", "a", "abc", "AB", "a1", "..", "ab\n", "é2", ".part")))


def test_space_is_missing_only_where_that_is_known() -> None:
    def raising(error: Exception) -> int:
        raise error

    assert missing_space(lambda: 99, 100) == 99
    assert missing_space(lambda: 0, 1) == 0
    assert missing_space(lambda: 100, 100) is None
    assert missing_space(lambda: None, 100) is None
    for error in (Unavailable("not there"), Denied("not for us")):
        assert missing_space(lambda error=error: raising(error), 100) is None  # type: ignore[misc]


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("007", 7), ("9" * 18, 10**18 - 1)])
def test_numbers(text: str, number: int) -> None:
    assert whole_number(text) == number


@pytest.mark.parametrize(
    "text", ["", "²", "٣", "-1", "+1", " 1", "1\n", "1_0", "1.0", "0x1", "9" * 19, "9" * 5000]
)
def test_what_is_no_number(text: str) -> None:
    assert whole_number(text) is None
