"""What `compare` makes of the seconds that it is told."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.benchmarks.compare import PARTS, Row, compared

OLD, NEW = Path("old"), Path("new")
NAME = next(iter(PARTS))


def test_trees_take_turns_and_a_slow_hour_slows_both() -> None:
    ran: list[Path] = []

    def run(tree: Path, part: str) -> Sequence[float]:
        assert part == PARTS[NAME]
        ran.append(tree)
        slow = 1 + len(ran) // 2  # a machine that becomes slower all the time
        return [9.0 * slow, (2.0 if tree == OLD else 1.0) * slow, 0.0]

    row = compared(NAME, OLD, NEW, 4, run)
    assert ran == [OLD, NEW, NEW, OLD, OLD, NEW, NEW, OLD]
    assert isinstance(row, Row) and len(row.ratios) == 4
    assert row.ratios[0] >= 0.25 and row.ratios[-1] <= 1.0
    assert str(row).startswith(f"{NAME}: ")


def test_a_part_that_a_tree_cannot_run_is_told_and_the_others_go_on() -> None:
    def run(tree: Path, part: str) -> Sequence[float]:
        if tree == OLD:
            raise subprocess.CalledProcessError(1, "python", stderr="Traceback\nImportError: no such name\n")
        return [1.0]

    assert compared(NAME, OLD, NEW, 3, run) == f"{NAME}: cannot be compared (ImportError: no such name)"


@pytest.mark.parametrize("name", PARTS)
def test_parts_are_programs(name: str) -> None:
    compile(PARTS[name], name, "exec")
