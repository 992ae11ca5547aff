"""docs/settings.md says what the program does: its tables are made from the settings."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from annex_remote.settings import SETTINGS

ROOT = Path(__file__).resolve().parents[2]
TOOL = runpy.run_path(str(ROOT / "contrib" / "settings_table.py"))
PAGE = ROOT / "docs" / "settings.md"


def test_tables_are_those_of_the_settings() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == TOOL["renewed"](text), "stale: run python contrib/settings_table.py --write"


@pytest.mark.parametrize("setting", [setting.name for setting in SETTINGS])
def test_each_setting_is_explained(setting: str) -> None:
    assert f"\n## `{setting}`\n" in PAGE.read_text(encoding="utf-8"), (
        f"docs/settings.md has no section on {setting}"
    )


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="does not have"):
        TOOL["renewed"]("# Settings\n")
