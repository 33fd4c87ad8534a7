"""The first start, with a registry that is a folder of two hand-made wheels."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from modules import bootstrap
from modules.bootstrap import Environment, Progress, SetupError, ensure, installed, missing, pins

ROOT = Path(__file__).parents[2]
BASE = getattr(sys, "_base_executable", sys.executable)
APP = """
import sys
from pathlib import Path
from modules.bootstrap import SetupError, ensure
try:
    index = next((word.partition("=")[2] for word in sys.argv if word.startswith("--torch-index=")), "")
    ensure(Path(__file__).parent, sys.argv[1].split(","), torch_index=index)
except SetupError as error:
    sys.exit(f"error: {error}")
import small
print("ran in", sys.prefix, "with", small.version, sys.argv[2:])
"""


def write_wheel(folder: Path, name: str, version: str) -> None:
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(path, text)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a program, its pins and the packages it pins."""
    folder = tmp_path_factory.mktemp("program")
    (folder / "modules").mkdir()
    for name in ("__init__", "bootstrap", "errors", "machine", "torch_build"):
        shutil.copy(ROOT / "modules" / f"{name}.py", folder / "modules")
    (folder / "app.py").write_text(APP)
    (folder / "requirements.txt").write_text("small==1.0\n")
    (folder / "more.txt").write_text("other==2.0\n")
    (folder / "wheels").mkdir()
    for name, version in (("small", "1.0"), ("small", "1.1"), ("other", "2.0"), ("mine", "3.0")):
        write_wheel(folder / "wheels", name, version)
    return folder


def start(
    program: Path, *arguments: str, files: str = "requirements.txt", **settings: str
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(program / "wheels")}
    command = [BASE, str(program / "app.py"), files, *arguments]
    return subprocess.run(command, env={**environment, **settings}, capture_output=True, text=True, cwd=program.parent)


def test_first_start_installs_and_later_starts_repair_update_and_extend(program: Path) -> None:
    first = start(program, "--flag", "a b")
    assert first.stdout == f"ran in {program / '.venv'} with 1.0 ['--flag', 'a b']\n", first.stderr
    assert "Setting up Reprise" in first.stderr

    second = start(program)
    assert (second.stderr, second.returncode) == ("", 0)  # nothing to do, nothing said

    more = start(program, files="requirements.txt,more.txt")
    assert more.returncode == 0, more.stderr
    assert set(json.loads((program / ".venv" / bootstrap.MARKER).read_text())) == {"requirements.txt", "more.txt"}

    (program / "requirements.txt").write_text("small==1.1\n")
    assert "with 1.1" in start(program).stdout

    pip = [str(program / ".venv" / "bin" / "python"), "-m", "pip", "install", "--no-index", "mine"]
    subprocess.run([*pip, "--find-links", str(program / "wheels")], check=True, capture_output=True)
    (program / "requirements.txt").write_text("small==9.9\n")
    ended = start(program)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert ended.stderr.splitlines()[-1] == (
        f"error: the package registry has no small==9.9 for Python {version} on this system; "
        "use Python 3.11, 3.12 or 3.13, or another registry"
    )
    assert ended.returncode == 1

    # As after a start that was killed: the marker is empty, and a package lacks a file though its dist-info is there.
    assert json.loads((program / ".venv" / bootstrap.MARKER).read_text()) == {}
    (program / "requirements.txt").write_text("small==1.1\n")
    next(program.glob(".venv/**/site-packages/small.py")).unlink()
    repaired = start(program)
    assert "with 1.1" in repaired.stdout, repaired.stderr
    packages = next(program.glob(".venv/**/site-packages"))
    assert (packages / "mine.py").is_file()  # what its owner installed there is there again
    assert installed([str(packages)])["mine"] == "3.0"
    assert not (program / ".venv.kept").exists()


def test_torch_comes_from_the_index_that_its_owner_names_which_is_remembered(tmp_path: Path, program: Path) -> None:
    """The registry has torch 2.0, and a folder the same with ROCm; what else it needs lies there too."""
    folder = tmp_path / "program"
    (folder / "wheels").mkdir(parents=True)
    shutil.copytree(program / "modules", folder / "modules", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "app.py").write_text(APP)
    (folder / "requirements.txt").write_text("small==1.0\ntorch==2.0\n")
    rocm = tmp_path / "rocm builds"
    rocm.mkdir()
    for place, version in ((folder / "wheels", "2.0"), (rocm, "2.0+rocm7.0")):
        write_wheel(place, "torch", version)
    for name, version in (("small", "1.0"), ("other", "2.0")):
        write_wheel(folder / "wheels", name, version)

    def torch() -> tuple[str, float]:
        (path,) = folder.glob(".venv/**/site-packages/torch.py")
        return path.read_text(), path.stat().st_mtime

    first = start(folder)
    assert first.returncode == 0, first.stderr
    assert torch()[0] == "version = '2.0'\n"

    named = start(folder, f"--torch-index={rocm}")
    assert named.returncode == 0, named.stderr
    version, since = torch()
    assert version == "version = '2.0+rocm7.0'\n"
    assert start(folder, f"--torch-index={rocm}").stderr == ""  # a torch that is there is not installed again
    (folder / "requirements.txt").write_text("small==1.0\ntorch==2.0\nother==2.0\n")
    later = start(folder)  # other packages are, and it stays
    assert later.returncode == 0, later.stderr
    assert torch() == (version, since)

    marker = folder / ".venv" / bootstrap.MARKER
    marker.write_text(json.dumps({bootstrap.INDEX: str(rocm)}))  # as after a start that was killed
    assert start(folder).returncode == 0
    assert torch()[0] == version
    gone = start(folder, f"--torch-index={tmp_path / 'empty'}")
    assert "error: the package registry has no torch==2.0 for Python" in gone.stderr


def fake_pip(folder: Path, said: str) -> Environment:
    """An environment whose python prints ``said`` and fails."""
    environment = Environment(folder / ".venv")
    environment.python.parent.mkdir(parents=True)
    environment.python.write_text(f"#!{BASE}\nimport sys\nprint({said!r})\nsys.exit(1)\n")
    environment.python.chmod(0o755)
    Path(environment.packages).mkdir(parents=True)
    (environment.path / bootstrap.MARKER).write_text('{"requirements.txt": "of an older version"}')
    (folder / "requirements.txt").write_text("small==1.0\n")
    return environment


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for pip is a script")
@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "the disk is full"),
        (
            "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError()'\n"
            "ERROR: No matching distribution found for small==1.0",
            "the package registry cannot be reached; check the network, or name a mirror in PIP_INDEX_URL",
        ),
        ("ERROR: No matching distribution found for small==1.0", "the package registry has no small==1.0 for Python"),
        ("ERROR: first\nERROR: small is yanked.", "pip could not install the packages: small is yanked; see .*install"),
        ("Killed", "pip could not install the packages: it did not say why; see .*install.log"),
    ],
)
def test_what_pip_says_becomes_one_sentence(tmp_path: Path, said: str, sentence: str) -> None:
    environment = fake_pip(tmp_path, said)
    with pytest.raises(SetupError, match=sentence) as caught:
        environment.build(tmp_path, ["requirements.txt"], {"small": "1.0"})
    assert "\n" not in str(caught.value)
    assert environment.is_unfinished()
    assert said in (environment.path / "install.log").read_text()


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.EROFS, "cannot be written to, so the packages cannot be installed there; copy Reprise to a folder"),
        (errno.EACCES, "cannot be written to"),
        (errno.ENOSPC, "the disk is full: .* GB are free"),
    ],
)
def test_folder_that_takes_no_environment_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, sentence: str
) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(SetupError, match=sentence):
        Environment(tmp_path / ".venv").build(tmp_path, [], {})


def test_python_without_venv_names_the_debian_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ensurepip" else object())
    with pytest.raises(SetupError, match="sudo apt install python3-venv"):
        Environment(tmp_path / ".venv").build(tmp_path, [], {})


def test_environment_made_by_its_owner_is_never_changed(tmp_path: Path) -> None:
    environment = fake_pip(tmp_path, "")
    (environment.path / bootstrap.MARKER).unlink()
    before = sorted(environment.path.rglob("*"))
    assert not environment.is_ready(tmp_path, ["requirements.txt"], {"small": "1.0"})
    with pytest.raises(SetupError, match="is not Reprise's own and lacks some of the packages"):
        environment.build(tmp_path, ["requirements.txt"], {"small": "1.0"})
    assert sorted(environment.path.rglob("*")) == before
    (Path(environment.packages) / "small-1.0.dist-info").mkdir()
    assert environment.is_ready(tmp_path, ["requirements.txt"], {"small": "1.0"})


def test_nothing_happens_where_all_pins_are_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "requirements.txt").write_text("small==1.0\n")
    (tmp_path / "site" / "small-1.0+cpu.dist-info").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), str(tmp_path / "not there")])
    monkeypatch.setattr(bootstrap, "restart", lambda python: pytest.fail("restarted"))
    ensure(tmp_path)
    assert not (tmp_path / ".venv").exists()


def test_looking_takes_no_time() -> None:
    """Under 50 ms for all our pins in this very environment, the best of five on a busy machine."""
    files = [ROOT / "requirements.txt", ROOT / "tests" / "requirements.txt"]

    def once() -> float:
        start = time.perf_counter()
        missing(pins(files), sys.path)
        return time.perf_counter() - start

    assert min(once() for _ in range(5)) < 0.05


def test_names_and_versions_come_from_dist_info_folders_the_first_one_winning(tmp_path: Path) -> None:
    for name in ("a/Hf_Xet-1.8.0.dist-info", "a/torch-2.13.0+cpu.dist-info", "b/torch-2.0.dist-info", "b/x.egg-info"):
        (tmp_path / name).mkdir(parents=True)
    folders = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert installed(folders) == {"hf-xet": "1.8.0", "torch": "2.13.0+cpu"}
    assert missing({"torch": "2.13.0", "hf-xet": "1.8.0"}, folders) == []
    assert missing({"torch": "2.12.0", "small": "1"}, folders) == ["torch==2.12.0", "small==1"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Brotli==1.2.1  # why", {"brotli": "1.2.1"}),
        ('a==1 ; python_version >= "3.11"', {"a": "1"}),
        ('a==1 ; python_version < "3.9"', {}),
        ('a==1 ; sys_platform == "amiga"', {}),
        ('a==1 ; sys_platform != "amiga"', {"a": "1"}),
        ("# a comment", {}),
    ],
)
def test_pins_are_read_with_their_markers(tmp_path: Path, line: str, expected: Mapping[str, str]) -> None:
    (tmp_path / "r.txt").write_text(line)
    assert pins([tmp_path / "r.txt"]) == expected


@pytest.mark.parametrize("line", ["a>=1", "a", 'a==1 ; implementation_name == "cpython"'])
def test_what_is_no_exact_pin_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "r.txt").write_text(line)
    with pytest.raises(ValueError, match=r"not an exact pin|marker not understood"):
        pins([tmp_path / "r.txt"])


def test_progress_is_one_line_rewritten_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = Progress("Setting up")
    progress.say("fetching torch (3 of 66)")
    progress.close()
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "\x1b[KSetting up: fetching torch (3 of 66), 0:00\n" in shown


@pytest.mark.skipif(os.name == "nt", reason="modes are Unix's")
def test_what_is_written_is_for_its_owner_alone_and_secrets_that_lie_open_are_closed(tmp_path: Path) -> None:
    """0700 and 0600, whatever the umask was; a folder that was there keeps its mode."""
    kept, made = tmp_path / "kept", tmp_path / "made"
    kept.mkdir(mode=0o755)
    for name in ("settings.json", "reprise.db", "reprise.db-wal", "users.db", "notes.txt"):
        (kept / name).touch(mode=0o644)
        (kept / name).chmod(0o644)
    script = (
        "import os, sys; from pathlib import Path; from PIL import Image; from modules import bootstrap\n"
        "from modules.gallery.outputs import Gallery; from modules.jobs.store import JobStore\n"
        "from modules.params.settings import SettingsFile\n"
        "os.umask(0o022)\n"
        "for folder in map(Path, sys.argv[1:]):\n"
        "    bootstrap.keep_private(folder)\n"
        "    Gallery(folder / 'outputs').save(Image.new('RGB', (8, 8)), seed=1, infotext='a fox')\n"
        "    JobStore(folder / 'reprise.db'); SettingsFile(folder / 'settings.json').change({'form_steps': 30})\n"
    )
    subprocess.run([sys.executable, "-c", script, str(kept), str(made)], cwd=ROOT, check=True)
    modes = {path: path.stat().st_mode & 0o777 for path in (made, *made.rglob("*"), *kept.rglob("*"))}
    assert len([path for path in modes if path.suffix == ".png"]) == 2
    for path, mode in modes.items():
        assert mode == (0o644 if path.name == "notes.txt" else 0o700 if path.is_dir() else 0o600), (path, oct(mode))
    assert kept.stat().st_mode & 0o777 == 0o755
