"""Folders of extensions: what is let in, what is not, and that neither leaves a trace where it should not."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest

from modules.errors import OutputError
from modules.extension.host import Host
from modules.extension.loader import PRIVATE, Extension, Loader
from modules.extension.manifest import Refused, check_requirements, flags_in, read_manifest

ROOT = Path(__file__).parents[3]
BROKEN = ROOT / "tests" / "broken"
MANIFEST = 'name = "{}"\nversion = "1.0"\napi = 1\npermissions = [{}]\n'


def write(folder: Path, name: str, code: str, permissions: str = "", more: str = "") -> Path:
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    (place / "extension.toml").write_text(MANIFEST.format(name, permissions) + more)
    (place / "__init__.py").write_text(code)
    return place


def loader(folder: Path, data: Path, process: Literal["server", "worker", "command"] = "server", **more: Any) -> Loader:
    made = Loader(folder, data, ROOT, process=process, **more)
    made.load_all(Host())
    return made


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Loader:
    return loader(BROKEN, tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(
    ("name", "state", "reason"),
    [
        ("syntax", "broken", "SyntaxError: '(' was never closed (__init__.py, line 1)"),
        ("raises", "broken", "RuntimeError: <b>it cannot be imported</b>"),
        ("missing_package", "refused", "it needs a-package-that-is-not-there>=1, which is not installed"),
        ("half", "broken", "KeyError: 'the other half'"),
        ("undeclared", "refused", "it adds a sampler, which its manifest does not name"),
        ("each_hook", "loaded", ""),
        ("spoils", "loaded", ""),
        ("ends_worker", "loaded", ""),
    ],
)
def test_each_broken_extension_is_named_with_its_reason(broken: Loader, name: str, state: str, reason: str) -> None:
    found = broken.extensions[name]
    assert (found.state, found.reason.partition(";")[0]) == (state, reason)
    assert bool(found.traceback) == (state == "broken")
    if state == "broken":
        assert f"{name}/__init__.py" in found.traceback
        assert "importlib" not in found.traceback


def test_only_what_was_let_in_is_in_the_host(broken: Loader) -> None:
    assert broken.host.modifiers.names() == ("each_hook", "ends_worker", "spoils")
    assert len(broken.host.samplers) == 0
    assert {owner.name for owner in broken.host.owners.values()} == {"each_hook", "ends_worker", "spoils"}
    assert not any(name.startswith(PRIVATE + "raises") for name in sys.modules)


@pytest.mark.parametrize(
    ("manifest", "sentence"),
    [
        (None, "it has no extension.toml"),
        ("name = [", "its extension.toml cannot be read"),
        ('name = "other"\nversion = "1"\napi = 1', "its manifest says name = 'other' and its folder is 'mine'"),
        ('name = "mine"\nversion = 1\napi = 1', "its version is 1"),
        ('name = "mine"\nversion = "1"\napi = 2', "it was written for version 2 of the programming interface"),
        ('name = "mine"\nversion = "1"\napi = 1\npermissions = ["root"]', "there is no permission 'root'"),
        ('name = "mine"\nversion = "1"\napi = 1\npermissions = "tab"', "its permissions must be a list of texts"),
        ('name = "mine"\nversion = "1"\napi = 1\n[[flags]]\nname = "A B"', "its flags must be tables"),
    ],
)
def test_manifest_that_will_not_do_is_refused_before_anything_is_imported(
    tmp_path: Path, manifest: str | None, sentence: str
) -> None:
    place = write(tmp_path / "ext", "mine", f"open({str(tmp_path / 'imported')!r}, 'w')")
    (place / "extension.toml").unlink()
    if manifest is not None:
        (place / "extension.toml").write_text(manifest)
    found = loader(tmp_path / "ext", tmp_path).extensions["mine"]
    assert found.state == "refused"
    assert found.reason.startswith(sentence)
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    ("wanted", "refused"),
    [
        ("numpy", False),
        ("Num_Py>=2,<3", True),
        ("num-py>=1.9.1", False),
        ("num.py>=1.10", True),
        ("num-py>1.9.2", True),
        ("num-py==1.9.*", False),
        ("num-py==1.9", True),
        ("num-py!=1.9.2", True),
        ("num-py~=1.9.1", False),
        ("num-py~=1.8.0", True),
        ("num-py<=1.9.2.0", False),
        ("other<2", False),
        ("other<1", True),
        ("absent", True),
        ("num-py @ https://example.org/x.whl", True),
    ],
)
def test_requirements_are_compared_with_the_pins(wanted: str, refused: bool) -> None:
    pinned, have = {"num-py": "1.9.2", "numpy": "1"}, {"other": "1.5+cpu", "num-py": "3"}
    if refused:
        with pytest.raises(Refused):
            check_requirements([wanted], pinned, have)
    else:
        check_requirements([wanted], pinned, have)


def test_a_name_that_is_taken_leaves_nothing_of_the_second_behind(tmp_path: Path) -> None:
    code = (
        "from modules import SamplerSpec\n"
        "def register(host):\n"
        "    host.add_sampler(SamplerSpec('{}', len))\n"
        "    host.add_sampler(SamplerSpec('Shared', len))\n"
    )
    for name in ("first", "second"):
        write(tmp_path / "ext", name, code.format(name), '"sampler"')
    made = loader(tmp_path / "ext", tmp_path)
    assert made.extensions["first"].added == ("sampler first", "sampler Shared")
    assert made.extensions["second"].reason == (
        "it adds the sampler 'Shared', which extension first has already; rename it"
    )
    assert made.host.samplers.names() == ("first", "Shared")


def test_switching_off_and_on_is_done_at_once_and_kept(tmp_path: Path) -> None:
    code = "from modules import SamplerSpec\ndef register(host): host.add_sampler(SamplerSpec('Mine', len, ('my',)))\n"
    write(tmp_path / "ext", "mine", code, '"sampler"')
    made = loader(tmp_path / "ext", tmp_path)
    assert made.enable("mine", False).state == "disabled"
    assert "my" not in made.host.samplers
    assert made.host.owners == {}
    assert loader(tmp_path / "ext", tmp_path, "worker").extensions["mine"].state == "disabled"
    assert made.enable("mine", True).state == "loaded"
    assert made.host.samplers.canonical("my") == "Mine"


def test_reloading_takes_what_the_file_says_now(tmp_path: Path) -> None:
    code = "from .words import NAME\nfrom modules import SamplerSpec\n"
    code += "def register(host): host.add_sampler(SamplerSpec(NAME, len))\n"
    place = write(tmp_path / "ext", "mine", code, '"sampler"')
    (place / "words.py").write_text("NAME = 'before'")
    made = loader(tmp_path / "ext", tmp_path)
    assert made.host.samplers.names() == ("before",)
    (place / "words.py").write_text("NAME = 'after, and longer'")
    assert made.reload("mine").state == "loaded"
    assert made.host.samplers.names() == ("after, and longer",)


def test_settings_and_flags_reach_register(tmp_path: Path) -> None:
    code = (
        "from dataclasses import dataclass\n"
        "from modules import SamplerSpec, option\n"
        "@dataclass(frozen=True)\n"
        "class Mine:\n"
        "    pace: int = option(3, 'Pace', lo=1, hi=9)\n"
        "    tone: str = option('low', 'Tone')\n"
        "def register(host):\n"
        "    mine = host.add_settings(Mine)\n"
        "    host.add_sampler(SamplerSpec(f'{mine.pace} {mine.tone} {host.flag(\"folder\")}', len))\n"
    )
    write(tmp_path / "ext", "mine", code, '"sampler", "setting"', '[[flags]]\nname = "folder"\ndefault = "here"\n')
    (tmp_path / "settings.json").write_text(json.dumps({"mine": {"pace": 5, "tone": 7}}))
    assert loader(tmp_path / "ext", tmp_path).host.samplers.names() == ("5 low here",)
    said = loader(tmp_path / "ext", tmp_path, flags={"mine": {"folder": "there"}})
    assert said.host.samplers.names() == ("5 low there",)
    assert flags_in(tmp_path / "ext")["mine"]["folder"].default == "here"


def test_two_starts_that_end_early_are_followed_by_one_without_extensions(tmp_path: Path) -> None:
    write(tmp_path / "ext", "deadly", "import os\nos._exit(3)\n")
    script = (
        "import sys\nfrom pathlib import Path\nfrom modules.extension.host import Host\n"
        "from modules.extension.loader import Loader\n"
        f"made = Loader(Path({str(tmp_path / 'ext')!r}), Path({str(tmp_path)!r}), Path('.'), process='server')\n"
        "made.load_all(Host())\nmade.started()\nprint(made.safe_mode, made.extensions['deadly'].reason)\n"
    )
    runs = [subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True) for _ in range(3)]
    assert [run.returncode for run in runs] == [3, 3, 0]
    assert runs[2].stdout.strip() == "True the last 2 starts did not come to an end, within deadly"
    (tmp_path / "ext" / "deadly" / "__init__.py").write_text("def register(host): pass\n")
    assert loader(tmp_path / "ext", tmp_path).extensions["deadly"].state == "loaded"


def test_torch_cannot_be_imported_by_an_extension_in_the_server(tmp_path: Path) -> None:
    write(tmp_path / "ext", "heavy", "import torch\ndef register(host): pass\n")
    script = (
        "import sys\nfrom pathlib import Path\nfrom modules.extension.host import Host\n"
        "from modules.extension.loader import Loader\n"
        f"made = Loader(Path({str(tmp_path / 'ext')!r}), Path({str(tmp_path)!r}), Path('.'), process='server')\n"
        "made.load_all(Host())\nprint(made.extensions['heavy'].reason, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    reason = "ImportError: torch is not for the server process: import it within the hooks that need it"
    assert done.stdout.strip() == f"{reason} False", done.stderr


def test_assets_and_routes_keep_to_their_folder(tmp_path: Path) -> None:
    write(tmp_path / "ext", "mine", "def register(host): host.add_asset('../secret.js')\n", '"asset"')
    (tmp_path / "ext" / "secret.js").write_text("")
    found: Extension = loader(tmp_path / "ext", tmp_path).extensions["mine"]
    assert found.reason.startswith("the asset '../secret.js' is no .js or .css file of its folder")
    route = "from modules import RouteSpec\ndef register(host): host.add_route(RouteSpec('../x', print))\n"
    write(tmp_path / "ext", "mine", route, '"route"')
    assert loader(tmp_path / "ext", tmp_path).extensions["mine"].reason.startswith("the route '../x' is not")


def test_manifest_of_every_shipped_extension_is_read() -> None:
    for place in sorted((ROOT / "extensions").iterdir()):
        if place.is_dir() and place.name[0] not in "._":
            assert read_manifest(place).name == place.name


def test_three_workers_start_at_once_without_safe_mode(tmp_path: Path) -> None:
    write(tmp_path / "ext", "fine", "def register(host): pass")
    at_once = [loader(tmp_path / "ext", tmp_path, "worker", name=f"worker{n}") for n in range(3)]
    assert [one.safe_mode for one in at_once] == [False] * 3
    for one in at_once[:2]:
        one.started()
    again = loader(tmp_path / "ext", tmp_path, "worker", name="worker2")  # the third ended within its first start
    assert not again.safe_mode
    assert loader(tmp_path / "ext", tmp_path, "worker", name="worker2").safe_mode
    assert not loader(tmp_path / "ext", tmp_path, "worker", name="worker0").safe_mode


def test_what_may_be_switched_off_stays_out_while_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "ext", "fine", "def register(host): pass")
    write(tmp_path / "ext", "off", "def register(host): pass")
    choices = tmp_path / "extensions.json"
    loader(tmp_path / "ext", tmp_path).enable("off", False)
    kept, read = choices.read_bytes(), Path.read_bytes

    def full(path: Path) -> bytes:
        if path == choices:
            raise OSError(errno.EMFILE, "Too many open files", str(path))
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", full)
        made = loader(tmp_path / "ext", tmp_path)
        assert {one.state for one in made.extensions.values()} == {"left out"}
        assert made.extensions["off"].reason == (
            "extensions.json cannot be read (Too many open files), so that it may be switched off; "
            "try again in a moment"
        )
        with pytest.raises(OutputError, match="could not be saved"):
            made.enable("fine", False)
        made.started()
    assert choices.read_bytes() == kept
    assert loader(tmp_path / "ext", tmp_path).extensions["off"].state == "disabled"


def test_a_list_of_those_switched_off_that_is_not_understood_is_set_aside_and_not_lost(tmp_path: Path) -> None:
    write(tmp_path / "ext", "fine", "def register(host): pass")
    choices = tmp_path / "extensions.json"
    choices.write_text('{"disabled": ["off"')
    made = loader(tmp_path / "ext", tmp_path)
    assert made.extensions["fine"].state == "loaded"
    made.enable("fine", False)
    assert json.loads(choices.read_text()) == {"disabled": ["fine"]}
    assert (tmp_path / "extensions.json.bad").read_text() == '{"disabled": ["off"'


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "GeneratorExit", "SystemExit", "BaseException('mine')"])
@pytest.mark.parametrize("place", ["raise {}", "def register(host): raise {}"])
def test_no_error_of_an_extension_ends_the_start(tmp_path: Path, error: str, place: str) -> None:
    write(tmp_path / "ext", "rude", place.format(error))
    write(tmp_path / "ext", "zen", "def register(host): pass")
    made = loader(tmp_path / "ext", tmp_path)
    assert (made.extensions["rude"].state, made.extensions["zen"].state) == ("broken", "loaded")
    assert made.extensions["rude"].reason.startswith(error.partition("(")[0])


def test_ctrl_c_while_an_extension_loads_ends_the_start(tmp_path: Path) -> None:
    code = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)\ndef register(host): pass"
    write(tmp_path / "ext", "slow", code)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        loader(tmp_path / "ext", tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
