"""The picture of the house: ``python -m tests.map [FOLDER]`` prints rooms, arrows between them, circles, and counts.

A room is a folder in `modules` or `webui`, or a file beside those folders. An arrow is an import, those within
functions and those for type checkers too. FOLDER is another checkout, to compare with.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PARTS = ("modules", "webui")
"""What is drawn: extensions import public names alone, and nobody imports `app`."""
Arrows = Mapping[str, set[str]]


@dataclass(frozen=True)
class House:
    """The source of one checkout."""

    root: Path

    def files(self) -> list[Path]:
        return [path for part in PARTS for path in sorted((self.root / part).rglob("*.py"))]

    def trees(self) -> Iterator[tuple[str, ast.Module]]:
        """Each module's dotted name and syntax; a package goes by its own name."""
        for path in self.files():
            parts = path.relative_to(self.root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            yield name, ast.parse(path.read_text(encoding="utf-8"))

    def arrows(self) -> Arrows:
        """Room by room, the other rooms that it imports from. The packages' own ``__init__`` are no rooms."""
        trees = dict(self.trees())
        rooms: dict[str, set[str]] = {room(name): set() for name in trees if name not in PARTS}
        for name, tree in trees.items():
            if name not in PARTS:
                rooms[room(name)] |= {room(target) for target in imports(tree, trees.keys()) if target not in PARTS}
        return {name: targets - {name} for name, targets in rooms.items()}

    def counts(self) -> dict[str, object]:
        """What a reader meets: files at the top, the longest class, untyped dictionaries."""
        classes = {
            f"{name}.{node.name}": (node.end_lineno or 0) - node.lineno + 1
            for name, tree in self.trees()
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
        }
        longest = max(classes, key=lambda name: classes[name])
        places = {"jobs", "tabs", "api"}
        border = [path for path in self.files() if places & set(path.relative_to(self.root).parts)]
        return {
            "files at the top of modules": len(list((self.root / "modules").glob("*.py"))),
            "longest class": f"{longest}, {classes[longest]} lines",
            "dict[str, Any] in jobs, tabs and APIs": sum(
                path.read_text(encoding="utf-8").count("dict[str, Any]") for path in border
            ),
        }


def room(name: str) -> str:
    """
    >>> room("modules.jobs.store"), room("modules.errors")
    ('modules.jobs', 'modules.errors')
    """
    return ".".join(name.split(".")[:2])


def imports(tree: ast.Module, names: Collection[str]) -> Iterator[str]:
    """The modules among ``names`` that a file imports, wherever in the file."""
    known = frozenset(names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield from [whole] if whole in known else [node.module] if node.module in known else []


def circles(arrows: Arrows) -> list[list[str]]:
    """Groups of rooms each of which can reach every other along the arrows."""
    reach = {start: _reached(arrows, start) for start in arrows}
    found: list[list[str]] = []
    for start in sorted(arrows):
        circle = sorted(other for other in reach[start] if start in reach[other])
        if len(circle) > 1 and circle not in found:
            found.append(circle)
    return found


def _reached(arrows: Arrows, start: str) -> set[str]:
    seen, next_ = {start}, [start]
    while next_:
        for target in arrows[next_.pop()] - seen:
            seen.add(target)
            next_.append(target)
    return seen


def main(folder: Path) -> None:
    house = House(folder)
    arrows = house.arrows()
    for name, targets in sorted(arrows.items()):
        print(f"{name:<28} -> {', '.join(sorted(targets)) or '-'}")
    print(f"\n{len(arrows)} rooms, {sum(map(len, arrows.values()))} arrows")
    for circle in circles(arrows):
        print("circle:", ", ".join(circle))
    for what, count in house.counts().items():
        print(f"{what}: {count}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1])
