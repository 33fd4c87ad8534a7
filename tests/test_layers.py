"""The architecture as a test: who may import whom, and what the server process must never load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.map import House, circles

ROOT = Path(__file__).parents[1]

FOLDERS = (
    "modules.errors",
    "modules.registry",
    "modules.machine",
    "modules.torch_build",
    "modules.bootstrap",
    "modules.storage",
    "modules.accounts",
    "modules.devices",
    "modules.nn",
    "modules.params",
    "modules.cli",
    "modules.prompt",
    "modules.imaging",
    "modules.diffusion",
    "modules.checkpoints",
    "modules.restoration",
    "modules.extension",
    "modules.metadata",
    "modules.gallery",
    "modules.pipeline",
    "modules.builtin",
    "modules.engine",
    "modules.replay",
    "modules.training",
    "modules.jobs",
    "webui.events",
    "webui.i18n",
    "webui.policy",
    "webui.outgoing",
    "webui.caching",
    "webui.security",
    "webui.services",
    "webui.recorded",
    "webui.html",
    "webui.made_pictures",
    "webui.loading",
    "webui.choices",
    "webui.fields",
    "webui.forms",
    "webui.context",
    "webui.components",
    "webui.tabs",
    "webui.extension_tabs",
    "webui.extension_routes",
    "webui.api",
    "webui.page",
    "webui.mount",
    "webui.server",
    "extensions",
    "app",
    "tests",
)
"""The rooms of the house, lowest first: each may import from those before it, for type checkers alone too."""
SERVER_SIDE = (
    "webui.server",
    "webui.tabs",
    "modules.builtin",
    "modules.gallery.outputs",
    "modules.pipeline.plan",
    "modules.checkpoints.catalogue",
    "modules.checkpoints.files",
    "modules.jobs.queue",
    "modules.jobs.worker",
    "modules.jobs.runners.extras",
    "modules.gallery.inputs",
    "modules.prompt.tokens",
    "modules.prompt.schedule",
    "modules.prompt.chunks",
    "modules.metadata.recipe",
    "modules.params.settings",
    "modules.extension.loader",
)


def room_of(name: str) -> str | None:
    """The entry of `FOLDERS` that a dotted name belongs to; None for other people's packages, and for ``modules``."""
    parts = name.split(".")
    return next((found for found in (".".join(parts[:2]), parts[0]) if found in FOLDERS), None)


def sources() -> list[Path]:
    folders = ("modules", "webui", "extensions")
    return [ROOT / "app.py", *(path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))]


def name_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported, inside functions and for type checkers alone too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = str(node.module)
            if node.level:  # an extension has another name when it is loaded
                assert name_of(path).startswith("extensions."), f"{path}:{node.lineno}: relative import"
                package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
                module = f"{package}.{module}"
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_imports_point_down(path: Path) -> None:
    if name_of(path) in ("modules", "webui"):  # the first names what is public, wherever it is at home
        return
    here = room_of(name_of(path))
    assert here is not None, f"{path} is in no room: add it to FOLDERS and to modules/README.md"
    for line, name in imports(path):
        there = room_of(name)
        if there not in (None, here):
            below = FOLDERS.index(there) < FOLDERS.index(here)
            assert below, f"{path}:{line}: {here} imports {name}, which stands above it"
            assert not (here.startswith("webui") and there == "extensions"), f"{path}:{line}: it knows no extension"


def test_imports_go_in_no_circle() -> None:
    """From file to file, within a room too; a package stands for its ``__init__``."""
    files = {name_of(path): path for path in sources() if name_of(path) != "modules"}
    edges = {
        name: {found for _, target in imports(path) for found in (target, target.rpartition(".")[0]) if found in files}
        - {name}
        for name, path in files.items()
    }
    assert circles(edges) == []
    assert circles(House(ROOT).arrows()) == []


def test_the_top_of_modules_stays_small() -> None:
    assert len(list((ROOT / "modules").glob("*.py"))) <= 12


def test_extensions_use_public_names_alone() -> None:
    """``from modules import Modifier``: what ``modules.__all__`` lists, and nothing by its file."""
    tree = ast.parse((ROOT / "modules" / "__init__.py").read_text(encoding="utf-8"))
    lists = [n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"]
    public = {f"modules.{name}" for listed in lists for name in ast.literal_eval(listed)}
    for path in sorted((ROOT / "extensions").rglob("*.py")):
        for line, name in imports(path):
            if name.split(".")[0] in ("modules", "webui", "app"):
                assert name in public, f"{path}:{line}: {name} is not public"


def test_every_room_is_there_and_in_the_readme() -> None:
    text = (ROOT / "modules" / "README.md").read_text(encoding="utf-8")
    for name in FOLDERS:
        if name.startswith("modules."):
            short = name.removeprefix("modules.")
            assert (ROOT / "modules" / short).is_dir() or (ROOT / "modules" / f"{short}.py").is_file(), name
            assert f"`{short}`" in text or f"`{short}/`" in text, f"modules/README.md does not name {short}"


def test_only_one_file_names_the_accelerator() -> None:
    """Devices are chosen in one place, and everybody else asks it."""
    for path in sources():
        if name_of(path) not in ("modules.devices", "app"):
            constants = [n.value for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Constant)]
            assert "cuda" not in constants, path


def test_server_process_never_loads_torch() -> None:
    script = f"import importlib, sys\nfor name in {SERVER_SIDE}: importlib.import_module(name)\n"
    script += "print([name for name in ('torch', 'transformers', 'diffusers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_inference_mode_is_entered_in_one_place() -> None:
    where = [p for p in sources() if "torch.inference_mode()" in p.read_text(encoding="utf-8")]
    assert [name_of(p) for p in where if "training" not in name_of(p)] == ["modules.engine"]
