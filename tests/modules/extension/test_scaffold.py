"""What `new-extension` writes is an extension that passes the kit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from modules.errors import UserError
from modules.extension.host import Host
from modules.extension.loader import Loader
from modules.extension.scaffold import KINDS, write_skeleton

ROOT = Path(__file__).parents[3]


def test_skeletons_of_every_kind_are_loaded_linted_and_formatted(tmp_path: Path) -> None:
    places = [write_skeleton(tmp_path / "extensions", f"my_{kind}", kind) for kind in KINDS]
    loader = Loader(tmp_path / "extensions", tmp_path, ROOT, process="command")
    loader.load_all(Host())
    for kind, (permission, _) in KINDS.items():
        found = loader.extensions[f"my_{kind}"]
        assert (found.state, found.reason) == ("loaded", "")
        assert {words.partition(" ")[0] for words in found.added} == {permission}
    for command in (["check"], ["format", "--check"]):
        lint = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--config", str(ROOT / "pyproject.toml"), *map(str, places)],
            capture_output=True,
            text=True,
        )
        assert lint.returncode == 0, lint.stdout


def test_a_kind_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no kind of extension 'lora'; there are modifier, guidance, sampler"):
        write_skeleton(tmp_path, "mine", "lora")


def test_skeletons_pass_the_kit_through_the_command(tmp_path: Path) -> None:
    """One of each table that the kit runs; the other modifiers differ from the first in their hooks alone."""
    places = [write_skeleton(tmp_path, f"my_{kind}", kind) for kind in ("guidance", "sampler", "script", "route")]
    chosen = [word for place in places for word in ("--extension", str(place))]
    command = [sys.executable, str(ROOT / "app.py"), "test", *chosen, "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


def test_the_name_of_an_extension_that_ships_is_taken_in_every_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is an extension xyz_grid in .*choose another"):
        write_skeleton(tmp_path / "mine", "xyz_grid", others=(ROOT / "extensions", tmp_path / "mine"))
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("name", ["", "a", "My", "a-b", "../x", "1a"])
def test_names_that_will_not_do_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError):
        write_skeleton(tmp_path, name)


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    write_skeleton(tmp_path, "mine")
    with pytest.raises(UserError, match="is there already; choose another name"):
        write_skeleton(tmp_path, "mine")
