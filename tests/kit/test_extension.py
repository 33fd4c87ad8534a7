"""What every extension must do; ``python3 app.py test --extension PATH`` runs this over one of your own.

Without a path it runs over those that ship. Models are tiny and random, so this tells whether it works, not whether its
pictures are good.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, cast

import gradio as gr
import pytest
import torch

from modules.builtin import register
from modules.checkpoints.files import Hashes
from modules.checkpoints.fingerprint import digest
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.devices import Device
from modules.engine import Engine, Result, RunCallbacks
from modules.extension.host import Host
from modules.extension.loader import Extension, Loader
from modules.extension.modifier import ModifierSpec, with_modifiers
from modules.metadata import infotext
from modules.metadata import recipe as recipes
from modules.params.generation import GenerationParams, ModifierOptions
from modules.params.options import Option, options_of
from modules.replay import replay_recipe
from tests.webui.fake_server import services
from webui.extension_tabs import build_tab
from webui.forms import Form, control
from webui.page import build_page

ROOT = Path(__file__).parents[2]
PARAMS = GenerationParams(prompt="a red fox", width=64, height=64, steps=1, seed=7, subseed=1, sampler="Euler")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test of this file once an extension."""
    if "place" in metafunc.fixturenames:
        given = metafunc.config.getoption("--extension")
        shipped = [path.parent for path in sorted((ROOT / "extensions").glob("*/extension.toml"))]
        places = [Path(path).resolve() for path in given] if given else shipped
        metafunc.parametrize("place", places, ids=[place.name for place in places], scope="module")


@pytest.fixture(scope="module")
def host() -> Host:
    made = Host(reserved=infotext.RESERVED)
    register(made)
    return made


@pytest.fixture(scope="module")
def extension(place: Path, host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Extension]:
    assert place.is_dir(), f"there is no folder {place}"
    folder = tmp_path_factory.mktemp("extensions")
    (folder / place.name).symlink_to(place, target_is_directory=True)
    loader = Loader(folder, tmp_path_factory.mktemp("data"), ROOT, process="command")
    loader.load_all(host)
    found = loader.extensions[place.name]
    assert found.state == "loaded", f"{found.reason}\n{found.traceback}"
    yield found
    host.drop(place.name)


@pytest.fixture(scope="module")
def engine(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_checkpoint(folder / "tiny.safetensors")
    return Engine(ModelStore(folder, Device(torch.device("cpu"), torch.float32), Hashes()), host, version="0.0")


def modifiers_of(extension: Extension, host: Host) -> list[ModifierSpec]:
    owners = {name: owner.name for (kind, name), owner in host.owners.items() if kind == "modifier"}
    return [spec for spec in host.modifiers if owners.get(spec.name) == extension.name]


def another(option: Option) -> Any:
    """A value that is not the default."""
    if isinstance(option.choices, tuple):
        return next((value for value in option.choices if value != option.default), option.default)
    if option.choices or option.multiline:
        return option.default
    if option.type is bool:
        return not option.default
    if option.type is str:
        return "red, blue: 8x8"
    lo, hi = option.lo, option.hi
    between = lo if lo is not None and lo != option.default else hi
    return option.cast(between) if between is not None else option.cast((option.default or 0) + 1)


def changed(spec: ModifierSpec) -> dict[str, Any]:
    declared = options_of(cast(Hashable, spec.options))
    return spec.chosen({name: another(option) for name, option in declared.items()})


def test_it_loads_in_a_server_that_has_no_torch(place: Path, extension: Extension, tmp_path: Path) -> None:
    (tmp_path / "ext").mkdir()
    (tmp_path / "ext" / place.name).symlink_to(place, target_is_directory=True)
    script = (
        "import sys\nfrom pathlib import Path\nfrom modules.extension.host import Host\n"
        "from modules.extension.loader import Loader\n"
        f"made = Loader(Path({str(tmp_path / 'ext')!r}), Path({str(tmp_path)!r}), Path('.'), process='server')\n"
        f"made.load_all(Host())\nfound = made.extensions[{place.name!r}]\n"
        "print(found.state, found.reason, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip().endswith("loaded  False"), done.stdout + done.stderr


def test_it_adds_something_and_declares_no_more_than_it_adds(extension: Extension, host: Host) -> None:
    assert extension.manifest
    assert extension.added, "register() added nothing"
    kinds = {kind for (kind, _), owner in host.owners.items() if owner.name == extension.name}
    assert kinds == extension.manifest.permissions


def test_options_are_frozen_and_each_has_a_control(extension: Extension, host: Host) -> None:
    for spec in modifiers_of(extension, host):
        assert dataclasses.is_dataclass(spec.options)
        with pytest.raises(dataclasses.FrozenInstanceError):
            cast(Any, spec.options()).anything = 1
        for option in options_of(cast(Hashable, spec.options)).values():
            assert control(option, {str(option.choices): tuple}) is not None


def test_options_come_back_from_json_text_and_form(extension: Extension, host: Host) -> None:
    for spec in modifiers_of(extension, host):
        for options in (spec.chosen({}), changed(spec)):
            params = PARAMS.changed(extensions=ModifierOptions({spec.name: options}))
            assert GenerationParams.from_json(json.loads(json.dumps(params.to_json()))) == params
            sampler = host.samplers.get(params.sampler)
            text = infotext.write(params, seed=7, subseed=1, sampler=sampler, scheduler="Uniform", modifiers=[spec])
            paste = infotext.params_from(infotext.read(text), host.samplers, host.schedulers, modifiers=[spec])
            assert ModifierOptions(paste.changes["extensions"]) == params.extensions
            with gr.Blocks():
                form = Form(with_modifiers([spec]), {})
                for switch, group in form.shape.within["extensions"].items():
                    form.switch(switch)
                    for name in group.flat:
                        form.adopt(name, gr.Textbox())
            assert form.read(form.show(params.to_json())).extensions == params.extensions


def test_pictures_are_made_with_it_and_again_and_the_weights_are_as_before(
    extension: Extension, host: Host, engine: Engine
) -> None:
    for spec in modifiers_of(extension, host):
        before = digest(engine.store.load())
        for options in (spec.chosen({}), changed(spec)):
            results: list[Result] = []
            notes: list[str] = []
            params = PARAMS.changed(extensions=ModifierOptions({spec.name: options}))
            engine.run(params, results.append, RunCallbacks(on_note=notes.append))
            assert [note for note in notes if f"extension {spec.name}" in note] == []
            (used,) = [one for one in results[0].recipe.extensions if one.name == spec.name]
            assert (used.version, used.options, used.failed) == (extension.version, options, "")
            recorded = recipes.read(str(results[0].recipe))
            assert replay_recipe(engine, recorded).verdict.kind == "identical"
        assert digest(engine.store.load()) == before


def test_tabs_are_built(extension: Extension, host: Host, tmp_path: Path) -> None:
    with services(tmp_path) as made:
        for name, spec in host.tabs.items():
            made.host.owners["tab", name] = host.owners["tab", name]
            made.host.tabs.add(name, spec)
        blocks = build_page(made, {}, None, build_tab)
    html = [str(getattr(block, "value", "")) for block in blocks.blocks.values() if isinstance(block, gr.HTML)]
    assert [text for text in html if "This tab could not be built" in text] == []
