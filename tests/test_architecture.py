"""The imports of the package are those that docs/architecture.md draws."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documents import ROOT

PACKAGE = ROOT / "kmeans_module"
EVERYWHERE = {"checks", "core", "seeds"}
# Names of what is above all rooms: the version, and the finder of modules that have moved.
NO_ROOMS = {"__init__", "__main__", "moved", "lightning_module"}


def table() -> dict[str, tuple[set[str], set[str]]]:
    """Of each room the rooms that it imports, at once and late."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = page.split("## Which way imports point")[1].split("\n## ")[0]
    found = {}
    for line in section.splitlines():
        if line.startswith("| `"):
            rooms, now, late = (re.findall(r"`(\w+)`", cell) for cell in line.split("|")[1:4])
            for room in rooms:
                found[room] = (set(now), set(late))
    return found


def rooms() -> dict[str, list[Path]]:
    """The files of each room."""
    found: dict[str, list[Path]] = {}
    for path in PACKAGE.rglob("*.py"):
        found.setdefault(path.relative_to(PACKAGE).parts[0].removesuffix(".py"), []).append(path)
    return {room: paths for room, paths in found.items() if room not in NO_ROOMS}


def imported(path: Path, *, late: bool) -> Iterator[str]:
    """Rooms that a file imports: inside of functions, or elsewhere but for types."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    typing = {
        id(node)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and ast.unparse(test.test) == "TYPE_CHECKING"
        for node in ast.walk(test)
    }
    for node in ast.walk(tree):
        if (id(node) in inside) != late or id(node) in typing:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "kmeans_module":
            names = [f"kmeans_module.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            if name.startswith("kmeans_module.") and "__" not in name:
                yield name.split(".")[1]


@pytest.mark.parametrize("room", sorted(rooms()))
def test_a_room_imports_what_the_page_says(room: str) -> None:
    now, late = (
        {name for path in rooms()[room] for name in imported(path, late=when)} - {room}
        for when in (False, True)
    )
    if room in ("core", "checks"):
        assert now | late <= ({"core"} if room == "checks" else set())
        return
    drawn, drawn_late = table().get(room, (set(), set()))
    assert now - EVERYWHERE == drawn
    assert late - now - EVERYWHERE == drawn_late


def test_no_two_rooms_import_each_other_at_once() -> None:
    drawn = {room: now for room, (now, _) in table().items()}

    def above(room: str, path: tuple[str, ...]) -> None:
        assert room not in path, " imports ".join((*path, room))
        for below in drawn.get(room, ()):
            above(below, (*path, room))

    for room in drawn:
        above(room, ())
