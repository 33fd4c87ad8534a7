"""What `new-extension` writes is an extension that passes the kit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from modules.errors import UserError
from modules.extension.host import Host
from modules.extension.loader import Loader
from modules.extension.scaffold import write_skeleton

ROOT = Path(__file__).parents[3]


def test_skeleton_is_loaded_and_typed(tmp_path: Path) -> None:
    place = write_skeleton(tmp_path / "extensions", "my_idea")
    loader = Loader(tmp_path / "extensions", tmp_path, ROOT, process="command")
    loader.load_all(Host())
    assert loader.extensions["my_idea"].added == ("modifier my_idea",)
    lint = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), str(place)],
        capture_output=True,
        text=True,
    )
    assert lint.returncode == 0, lint.stdout


def test_skeleton_passes_the_kit_through_the_command(tmp_path: Path) -> None:
    place = write_skeleton(tmp_path, "my_idea")
    command = [sys.executable, str(ROOT / "app.py"), "test", "--extension", str(place), "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("name", ["", "a", "My", "a-b", "../x", "1a"])
def test_names_that_will_not_do_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError):
        write_skeleton(tmp_path, name)


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    write_skeleton(tmp_path, "mine")
    with pytest.raises(UserError, match="is there already; choose another name"):
        write_skeleton(tmp_path, "mine")
