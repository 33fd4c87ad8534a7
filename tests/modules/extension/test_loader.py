"""Folders of extensions: what is let in, what is not, and that neither leaves a trace where it should not."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from modules.errors import OutputError, UnknownName
from modules.extension.host import Host
from modules.extension.loader import PRIVATE, Extension, Loader
from modules.extension.manifest import flags_in, read_manifest
from modules.extension.modifier import Modifier, ModifierSpec
from modules.metadata import infotext

ROOT = Path(__file__).parents[3]
BROKEN = ROOT / "tests" / "broken"
MISSING = "it needs a-package-that-is-not-there>=1, which is not installed"
MANIFEST = 'name = "{}"\nversion = "1.0"\napi = 1\npermissions = [{}]\n'


@dataclass(frozen=True)
class Nothing:
    """No options."""


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
        ("missing_package", "refused", MISSING),
        ("half", "broken", "KeyError: 'the other half'"),
        ("undeclared", "refused", "it adds a sampler, which its manifest does not name"),
        ("each_hook", "loaded", ""),
        ("spoils", "loaded", ""),
        ("ends_worker", "loaded", ""),
        ("leaks", "loaded", ""),
        (
            "unknown_table",
            "refused",
            "the option 'which' of the modifier 'unknown_table' names the table 'controlnets'",
        ),
        (
            "no_dataclass",
            "refused",
            "the options of the modifier 'no_dataclass' are the class Options",
        ),
        ("bad_asset", "refused", "the asset 'bad.js' is not UTF-8"),
        (
            "closing_asset",
            "refused",
            "the asset 'closing.css' holds </style, which would end it in the page",
        ),
        ("first", "refused", "order of its modifier 'first' must be a whole number, not 'first'"),
        ("twice_route", "refused", "it adds the route 'twice_route/again GET' twice"),
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
    assert broken.host.modifiers.names() == ("each_hook", "ends_worker", "leaks", "spoils")
    assert len(broken.host.samplers) == 0
    assert {owner.name for owner in broken.host.owners.values()} == set(broken.host.modifiers.names())
    assert not broken.host.routes.names() and not broken.host.assets.names()
    assert not any(name.startswith(PRIVATE + "raises") for name in sys.modules)


@pytest.mark.parametrize(
    ("manifest", "sentence"),
    [
        (None, "it has no extension.toml"),
        ("name = [", "its extension.toml cannot be read"),
        ('name = "other"\nversion = "1"\napi = 1', "its manifest says name = 'other' and its folder is 'mine'"),
        ('name = "mine"\nversion = 1\napi = 1', "its version is 1"),
        ('name = "mine"\nversion = "1"\napi = 3', "it was written for version 3 of the programming interface"),
        ('name = "mine"\nversion = "1"\napi = 1\npermissions = ["root"]', "there is no permission 'root'"),
        ('name = "mine"\nversion = "1"\napi = 1\npermissions = "tab"', "its permissions must be a list of texts"),
        ('name = "mine"\nversion = "1"\napi = 1\n[[flags]]\nname = "A B"', "its flags must be tables"),
        ('name = "mine"\nversion = "1"\napi = 2\nrequirments = ["rich"]', "its manifest has no key 'requirments'"),
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


def test_safe_mode_leaves_out_the_one_to_blame_and_then_another(tmp_path: Path) -> None:
    """One ends the process from a thread, behind the loading of all: the newest is suspected first."""
    late = "import os, threading\nthreading.Timer(0.2, os._exit, (3,)).start()\ndef register(host): pass\n"
    write(tmp_path / "ext", "late", late)
    write(tmp_path / "ext", "newer", "def register(host): pass\n")
    for name, when in (("late", 1_000_000), ("newer", 2_000_000)):
        for path in (tmp_path / "ext" / name).rglob("*"):
            os.utime(path, (when, when))
        os.utime(tmp_path / "ext" / name, (when, when))
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom modules.extension.host import Host\n"
        "from modules.extension.loader import Loader\n"
        f"made = Loader(Path({str(tmp_path / 'ext')!r}), Path({str(tmp_path)!r}), Path('.'), process='server')\n"
        "made.load_all(Host())\nprint(*(f'{n} {e.state}' for n, e in made.extensions.items()), sep=', ', flush=True)\n"
        "time.sleep(1)\nmade.started()\n"
    )
    runs = [
        subprocess.run([sys.executable, "-B", "-c", script], cwd=ROOT, capture_output=True, text=True) for _ in range(5)
    ]
    both = "late loaded, newer loaded"
    assert [(run.returncode, run.stdout.strip()) for run in runs] == [
        (3, both),
        (3, both),
        (3, "late loaded, newer left out"),
        (0, "late left out, newer left out"),
        (3, both),  # a start that was completed: all are tried again
    ]


def test_torch_cannot_be_imported_by_an_extension_in_the_server(tmp_path: Path) -> None:
    (tmp_path / "ext").mkdir()
    (tmp_path / "ext" / "server_torch").symlink_to(BROKEN / "server_torch", target_is_directory=True)
    script = (
        "import sys\nfrom pathlib import Path\nfrom modules.extension.host import Host\n"
        "from modules.extension.loader import Loader\n"
        f"made = Loader(Path({str(tmp_path / 'ext')!r}), Path({str(tmp_path)!r}), Path('.'), process='server')\n"
        "made.load_all(Host())\nprint(made.extensions['server_torch'].reason, 'torch' in sys.modules)\n"
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
        if (place / "extension.toml").is_file():
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


def test_what_a_switched_off_extension_brings_is_told_with_the_way_to_have_it(tmp_path: Path) -> None:
    added = "host.add_scheduler(SchedulerSpec('steep', 'Steep', lambda *a: []))"
    code = f"from modules import SchedulerSpec\ndef register(host): {added}"
    write(tmp_path / "ext", "slopes", code, '"scheduler"')
    made = loader(tmp_path / "ext", tmp_path)
    assert made.extensions["slopes"].state == "loaded"
    with pytest.raises(UnknownName, match="there is 'Steep'"):
        made.host.schedulers.get("another")
    made.enable("slopes", False)
    off = loader(tmp_path / "ext", tmp_path)
    with pytest.raises(UnknownName) as told:
        off.host.schedulers.get("steep")
    assert told.value.hint == "the extension slopes brings it: switch that on in the Extensions tab"
    with pytest.raises(UnknownName, match="none is installed"):
        off.host.samplers.get("Steep")  # a schedule type, which is another kind of thing
    shutil.rmtree(tmp_path / "ext" / "slopes")
    with pytest.raises(UnknownName, match="slopes brought it, which is not installed any more"):
        loader(tmp_path / "ext", tmp_path).host.schedulers.get("Steep")


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


MODIFIER = (
    "from dataclasses import dataclass\nfrom modules import Modifier, ModifierSpec, option\n"
    "@dataclass(frozen=True)\nclass Options:\n    steps: int = option(1, {option!r})\n"
    "def register(host):\n    host.add_modifier(ModifierSpec({name!r}, {label!r}, Options, lambda o: Modifier()))\n"
)


@pytest.mark.parametrize(
    ("name", "label", "option", "reason"),
    [
        ("b", "Hires", "Steps", "its modifier 'Hires' would write the program's own key 'Hires steps'"),
        ("b", "do a", "Other", "its modifier has the label 'do a', as the modifier 'a' of extension a"),
        ("b", "Do", "A steps", "its modifier 'Do' has the key 'Do a steps', as the modifier 'a' of extension a"),
        ("a", "Do b", "Steps", "its modifier has the name of the extension 'a'"),
        ("c", "Do b", "Steps", "its modifier has the name of the extension 'c'"),
        ("built", "Do b", "Steps", "it adds the modifier 'built', which the program has already"),
    ],
)
def test_names_labels_and_keys_are_one_namespace_each(
    tmp_path: Path, name: str, label: str, option: str, reason: str
) -> None:
    folder = tmp_path / "ext"
    write(folder, "a", MODIFIER.format(name="a", label="Do a", option="Steps"), '"modifier"')
    write(folder, "b", MODIFIER.format(name=name, label=label, option=option), '"modifier"')
    write(folder, "c", "def register(host): pass\n")
    made = Loader(folder, tmp_path, ROOT, process="command")
    host = Host(reserved=infotext.RESERVED)
    host.add_modifier(ModifierSpec("built", "Built in", Nothing, lambda _: Modifier()))
    made.load_all(host)
    assert made.extensions["a"].state == "loaded"
    assert (made.extensions["b"].state, made.extensions["b"].reason.partition(";")[0]) == ("refused", reason)


def test_extension_with_the_name_of_a_modifier_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "ext", "built", "def register(host): pass\n")
    host = Host()
    host.add_modifier(ModifierSpec("built", "Built in", Nothing, lambda _: Modifier()))
    made = Loader(tmp_path / "ext", tmp_path, ROOT, process="command")
    made.load_all(host)
    assert made.extensions["built"].reason.startswith("a modifier of the program or of another extension is called")


def test_modifiers_of_an_extension_that_is_gone_are_known_with_the_reason(tmp_path: Path) -> None:
    folder = tmp_path / "ext"
    write(folder, "mine", MODIFIER.format(name="detail", label="Detail", option="Steps"), '"modifier"')
    made = loader(folder, tmp_path)
    assert made.absent() == {}
    made.enable("mine", False)
    assert made.absent() == {"mine": "it is switched off", "detail": "its extension mine: it is switched off"}
    assert loader(folder, tmp_path).absent() == made.absent()
    made.enable("mine", True)
    assert made.absent() == {}
    shutil.rmtree(folder / "mine")
    gone = "it is not installed any more"
    assert loader(folder, tmp_path).absent() == {"mine": gone, "detail": f"its extension mine: {gone}"}
