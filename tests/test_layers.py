"""The architecture as a test: who may import whom, and what the server process must never load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LEVELS: dict[str, int] = {
    "modules.errors": 0,
    "modules.params.options": 0,
    "modules.storage.atomic": 0,
    "modules.bootstrap": 0,
    "modules.imaging.containers": 0,
    "modules.storage.database": 1,
    "modules.registry": 1,
    "modules.extension.manifest": 1,
    "modules.extension.scaffold": 2,
    "modules.params.profile": 1,
    "modules.params.generation": 1,
    "modules.params.settings": 1,
    "modules.gallery.filenames": 1,
    "modules.cli.a1111_flags": 1,
    "modules.cli.parser": 2,
    "modules.cli": 2,
    "modules.devices": 1,
    "modules.diffusion.noise": 1,
    "modules.imaging.files": 1,
    "modules.imaging.tensors": 1,
    "modules.prompt.styles": 2,
    "modules.prompt": 1,
    "modules.nn": 1,
    "modules.extension.modifier": 2,
    "modules.imaging.resize": 2,
    "modules.imaging.masks": 2,
    "modules.imaging.color_correction": 2,
    "modules.imaging.soft_inpainting": 3,
    "modules.imaging.tiles": 1,
    "modules.gallery.inputs": 2,
    "modules.extension.script": 2,
    "modules.imaging.image_grid": 2,
    "modules.diffusion": 2,
    "modules.checkpoints": 2,
    "modules.pipeline.conditioning": 3,
    "modules.metadata.infotext": 3,
    "modules.metadata.recipe": 3,
    "modules.imaging.latent_preview": 3,
    "modules.restoration.upscale": 3,
    "modules.restoration.faces": 3,
    "modules.extension.host": 3,
    "modules.metadata.verdict": 4,
    "modules.metadata.image_text": 5,
    "modules.pipeline.postprocess": 4,
    "modules.pipeline": 4,
    "modules.builtin": 5,
    "modules.engine": 5,
    "modules.gallery.outputs": 6,
    "modules.accounts": 6,
    "modules.replay": 6,
    "modules.extension.loader": 6,
    "modules.training": 6,
    "modules.jobs": 7,
    "webui": 10,
    "extensions": 15,
    "app": 20,
    "tests": 30,
}
"""A module or package, and its level: it may import from lower levels, and within its own package."""

ALLOWED_ASIDE = {
    ("modules.params.options", "modules.errors"),
    ("modules.bootstrap", "modules.errors"),
    ("modules.diffusion.noise", "modules.params.profile"),
    ("modules.prompt", "modules.params.profile"),
    ("modules.extension.modifier", "modules.diffusion"),
    ("modules.extension.host", "modules.restoration.upscale"),
    ("modules.extension.host", "modules.restoration.faces"),
}
"""The few imports within a level."""
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


def home(name: str) -> str | None:
    """The longest entry of `LEVELS` that ``name`` belongs to; None for other people's packages."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in LEVELS:
            return ".".join(parts[:end])
    return None


def sources() -> list[Path]:
    folders = ("modules", "webui", "extensions")
    return [ROOT / "app.py", *(path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))]


def name_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported, inside functions too, but not for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in node.body
        for inner in ast.walk(child)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
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
    here = home(name_of(path))
    if path.name == "__init__.py" and here is None:
        assert name_of(path) == "modules"
        return
    assert here is not None, f"{path} has no level: add it to LEVELS and to modules/README.md"
    for line, name in imports(path):
        there = home(name)
        if there in (None, here) or (here, there) in ALLOWED_ASIDE:
            continue
        assert LEVELS[there] < LEVELS[here], f"{path}:{line}: {here} (level {LEVELS[here]}) imports {name}"
        assert not (here == "webui" and there == "extensions"), f"{path}:{line}: the front end knows no extension"


def test_imports_go_in_no_circle() -> None:
    """From file to file, within a package too; a package stands for its ``__init__``."""
    files = {name_of(path): path for path in sources()}
    edges = {
        name: {found for _, target in imports(path) for found in (target, target.rpartition(".")[0]) if found in files}
        for name, path in files.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for target in sorted(edges[name] - {name}):
                visit(target, (*trail, name))
            done.add(name)

    for name in files:
        visit(name, ())


def test_extensions_use_public_names_alone() -> None:
    """``from modules import Modifier``: what ``modules.__all__`` lists, and nothing by its file."""
    tree = ast.parse((ROOT / "modules" / "__init__.py").read_text(encoding="utf-8"))
    lists = [n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"]
    public = {f"modules.{name}" for listed in lists for name in ast.literal_eval(listed)}
    for path in sorted((ROOT / "extensions").rglob("*.py")):
        for line, name in imports(path):
            if name.split(".")[0] in ("modules", "webui", "app"):
                assert name in public, f"{path}:{line}: {name} is not public"


def test_every_level_is_in_use_and_in_the_readme() -> None:
    text = (ROOT / "modules" / "README.md").read_text(encoding="utf-8")
    for name in LEVELS:
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
