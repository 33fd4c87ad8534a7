"""The documents say what is true: links, paths and commands exist, and every dependency has its reason."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import app
from modules.bootstrap import pins

ROOT = Path(__file__).parents[1]
TOP = ("app.py", "modules", "webui", "models", "extensions", "tests", ".ci")
OWNERS = ("models/Stable-diffusion/", "models/VAE/", "models/Lora/", "models/embeddings/")
"""Folders that fill up as a person uses the program."""
IMPORTED_AS = {"yaml": "pyyaml", "PIL": "pillow", "python_multipart": "python-multipart"}


def documents() -> list[Path]:
    folders = ("modules", "webui", "models", "extensions", "tests")
    found = [*ROOT.glob("*.md"), *(path for folder in folders for path in (ROOT / folder).rglob("*.md"))]
    return sorted(path for path in found if path.parent.name != "golden" and "cache" not in str(path))


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


ids = [str(path.relative_to(ROOT)) for path in documents()]


@pytest.mark.parametrize("path", documents(), ids=ids)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text_of(path)):
        if not target.startswith(("https://", "http://")):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize("path", documents(), ids=ids)
def test_paths_exist(path: Path) -> None:
    """A path in backquotes that begins with one of our folders exists, seen from the root or the document's folder."""
    for named in re.findall(r"`([\w.-]+/[\w./-]*|[\w-]+\.(?:py|md|toml|txt))`", text_of(path)):
        here, root = path.parent / named, ROOT / named
        if named.split("/")[0] in TOP and not named.startswith(OWNERS):
            assert here.exists() or root.exists(), f"{path.name} names {named}"


def commands() -> list[tuple[str, str]]:
    found = []
    for path in documents():
        for block in re.findall(r"```(?:console|sh|bash)\n(.*?)```", text_of(path), re.S):
            found += [(path.name, line.strip()) for line in block.splitlines() if line.strip()]
        found += [(path.name, line) for line in re.findall(r"`((?:python3? |make |\.ci/)[^`]+)`", text_of(path))]
    return sorted(set(found))


@pytest.mark.parametrize(("document", "line"), commands())
def test_commands_are_understood(document: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    if words[:2] == ["python3", "app.py"]:
        arguments = words[2:]
        if arguments[:1] != ["test"]:
            arguments = [word for word in arguments if word != "--help"]
            if arguments == ["convert"]:
                arguments.append("FILE")
            with contextlib.redirect_stderr(io.StringIO()) as said:
                try:
                    app.build_parser().parse_args(arguments)
                except SystemExit:
                    pytest.fail(f"{document}: {line}: {said.getvalue()}")
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", text_of(ROOT / "Makefile"), re.M), f"{document}: {line}"
    elif words[0].startswith("python") and words[1] == "-m":
        assert importlib.util.find_spec(words[2]), f"{document}: {line}"
    else:
        assert (ROOT / words[0]).exists() or words[0] in ("pytest", "ssh"), f"{document}: {line}"


def test_folders_have_their_document_and_the_readme_lists_them() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    folders = {line.split("/")[0] for line in tracked.splitlines() if "/" in line} - {".ci"}
    readme = text_of(ROOT / "README.md")
    for folder in sorted(folders):
        assert (ROOT / folder / "README.md").exists(), f"{folder}/ has no README.md"
        assert f"({folder}/README.md)" in readme, f"README.md does not name {folder}/README.md"


def test_top_level_is_the_fixed_one() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = {line.split("/")[0] for line in tracked.splitlines() if not line.startswith(".")}
    meta = {"LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "README.md", "pyproject.toml", "Makefile"}
    assert names - meta <= {"app.py", "requirements.txt", "webui", "models", "modules", "extensions", "tests"}


OUTSIDE = re.compile(r"\(spec \d|\bspec \d+(\.\d+)*\b|\.\./shared\b")
"""A chapter of a document, or a folder, that nobody has who has the repository alone."""


@pytest.mark.parametrize(
    ("text", "is_citation"),
    [
        ("Which weight each text has (spec 1.6).", True),
        ("the rule of spec 01", True),
        ("see ../shared/notes.md", True),
        ("change(spec, 0.5)", False),
        ("for spec in specs", False),
    ],
)
def test_citations_of_outside_documents_are_recognised(text: str, is_citation: bool) -> None:
    assert bool(OUTSIDE.search(text)) == is_citation


def test_nothing_cites_a_document_outside_the_repository() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    kinds = {".py", ".md", ".toml", ".txt", ".js", ".css", ".yml", ".yaml", ".in", ""}
    paths = [ROOT / line for line in tracked.splitlines() if Path(line).suffix in kinds]
    ours = [path for path in paths if path.is_file() and path != Path(__file__)]
    texts = {path: path.read_text(encoding="utf-8", errors="replace") for path in ours}
    assert len(texts) > 200
    assert [f"{path}: {found[0]}" for path, text in texts.items() if (found := OUTSIDE.search(text))] == []


def test_version_is_the_same_everywhere() -> None:
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    newest = re.search(r"^## (\S+?),? ", text_of(ROOT / "CHANGELOG.md"), re.M)
    assert newest
    assert app.VERSION == project["version"] == newest[1]


def test_all_our_code_is_typed() -> None:
    checked = tomllib.loads(text_of(ROOT / "pyproject.toml"))["tool"]["mypy"]["files"]
    with_code = {folder for folder in ("modules", "webui", "extensions", "tests") if [*(ROOT / folder).rglob("*.py")]}
    assert set(checked) == {"app.py", *with_code}


# ------------------------------------------------------------------------------------------------------ dependencies


def direct(file: str) -> list[str]:
    """The packages of the first block of a requirements file: those that we ourselves use."""
    block = text_of(ROOT / file).split("# what those need")[0]
    return [line.split("==")[0] for line in block.splitlines() if "==" in line]


def test_every_dependency_has_its_reason() -> None:
    rows = re.findall(r"^\| ([a-z][\w, -]*) \| .+ \|$", text_of(ROOT / "CONTRIBUTING.md"), re.M)
    explained = {name.strip() for row in rows for name in row.split(",")} - {"package"}
    assert explained == {*direct("requirements.txt"), *direct("tests/requirements.txt")}


def test_program_imports_what_its_first_pins_name_and_no_more() -> None:
    imported = set()
    for path in [ROOT / "app.py", *(ROOT / "modules").rglob("*.py"), *(ROOT / "webui").rglob("*.py")]:
        for node in ast.walk(ast.parse(text_of(path))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).split(".")[0])
    # pytest: for the command that tests; triton: comes with torch, where it can
    ours = {"modules", "webui", "extensions", "app", "pytest", "triton"}
    foreign = {IMPORTED_AS.get(name, name) for name in imported - ours - sys.stdlib_module_names}
    assert foreign == set(direct("requirements.txt"))


def test_pins_are_complete_and_fit_each_other() -> None:
    """What a pinned package needs is pinned too, in a version that it accepts."""
    pinned = pins([ROOT / "requirements.txt", ROOT / "tests" / "requirements.txt"])
    problems = []
    for name in pinned:
        for text in metadata.requires(name) or ():
            need = Requirement(text)
            if need.marker and not need.marker.evaluate({"extra": ""}):
                continue
            other = canonicalize_name(need.name)
            if name == "torch" and other.startswith(("nvidia-", "cuda-", "triton")):
                continue
            if other not in pinned or not need.specifier.contains(pinned[other], prereleases=True):
                problems.append(f"{name} needs {text}, pinned: {pinned.get(other)}")
    assert problems == []


def test_known_holes_stay_below_the_pins() -> None:
    """The oldest versions without the flaws that mattered to a program like this one."""
    floors = {"torch": (2, 10), "gradio": (6, 20), "pillow": (12, 3), "safetensors": (0, 8)}
    pinned = pins([ROOT / "requirements.txt"])
    assert all(tuple(int(n) for n in pinned[name].split(".")[:2]) >= floor for name, floor in floors.items())
