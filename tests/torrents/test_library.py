"""libtorrent is imported in one place, and what that place makes of torrents is what our own reading says."""

from __future__ import annotations

import ast
from pathlib import Path

import annex_remote

PACKAGE = Path(annex_remote.__file__).parent


def importers(name: str) -> set[str]:
    """Return the modules of the package that import `name` anywhere in them."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            if any(each.partition(".")[0] == name for each in names):
                found.add(str(path.relative_to(PACKAGE)))
    return found


def test_only_one_module_imports_libtorrent() -> None:
    assert importers("libtorrent") == {"torrents/library.py"}
