"""What the pinned packages and the code itself must keep to."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {"torch": (2, 10), "gradio": (6, 20), "pillow": (12, 3), "safetensors": (0, 8)}
"""Older ones have holes that this program relies on being closed."""


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text.partition("+")[0])[:3])


@pytest.mark.parametrize("name", FLOORS)
def test_packages_that_read_strangers_files_are_new_enough(name: str) -> None:
    """S19: what is installed, and what is pinned."""
    pinned = re.search(rf"^{name}==(\S+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert numbers(pinned[1]) >= FLOORS[name]
    assert numbers(version(name)) >= FLOORS[name]


def test_bandit_finds_nothing_grave() -> None:
    """S19: no finding of high severity in what we run; what it finds is printed."""
    places = [str(ROOT / name) for name in ("app.py", "modules", "webui", "extensions")]
    command = [sys.executable, "-m", "bandit", "-r", "-q", "--severity-level", "high", *places]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
