"""What every extension must do; ``python3 app.py test --extension PATH`` runs this over one of your own.

Without a path it runs over those that ship and the worked ports. The model is the small one that ships: it is trained,
so that what an extension does is seen, and images of 64 x 64 with two steps take a moment.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib
import itertools
import json
import subprocess
import sys
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import gradio as gr
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from modules.builtin import register
from modules.checkpoints.files import Hashes
from modules.checkpoints.fingerprint import digest
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.devices import Device
from modules.diffusion.parameterization import NoiseTable
from modules.engine import Engine, Result, RunCallbacks
from modules.errors import UserError
from modules.extension.host import Host
from modules.extension.loader import PRIVATE, Extension, Loader
from modules.extension.modifier import ModifierSpec, overridden, with_modifiers
from modules.extension.script import GeneratedImage, Outcome, ScriptContext
from modules.gallery.inputs import InputStore
from modules.metadata import infotext
from modules.metadata import recipe as recipes
from modules.params.generation import GenerationParams, Hires, Init, Mask, ModifierOptions, Refiner
from modules.params.options import Option, options_of
from modules.pipeline.postprocess import step_options
from modules.replay import replay_recipe
from modules.restoration.upscale import upscale
from tests.webui.conftest import ORIGIN
from tests.webui.fake_server import services
from webui.extension_tabs import build_tab
from webui.forms import Form, control
from webui.page import build_page
from webui.server import create_app

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models" / "Stable-diffusion" / "reprise-mini.safetensors"
PARAMS = GenerationParams(prompt="a red fox", width=64, height=64, steps=2, seed=7, subseed=1, sampler="Euler")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test of this file once an extension."""
    if "place" in metafunc.fixturenames:
        given = metafunc.config.getoption("--extension")
        shipped = [path.parent for path in sorted((ROOT / "extensions").rglob("extension.toml"))]
        places = [Path(path).resolve() for path in given] if given else shipped
        metafunc.parametrize("place", places, ids=[place.name for place in places], scope="module")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model, and a tiny one as its refiner."""
    folder = tmp_path_factory.mktemp("models")
    (folder / MODEL.name).symlink_to(MODEL)
    write_tiny_checkpoint(folder / "tiny.safetensors")
    return folder


@pytest.fixture(scope="module")
def host(models: Path) -> Host:
    made = Host(reserved=infotext.RESERVED, models=models)
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
def engine(host: Host, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    store = ModelStore(models, Device(torch.device("cpu"), torch.float32), Hashes(), default=MODEL.stem)
    return Engine(store, host, version="0.0", inputs=InputStore(tmp_path_factory.mktemp("inputs")))


def made(engine: Engine, params: GenerationParams, notes: list[str] | None = None) -> list[Result]:
    results: list[Result] = []
    engine.run(params, results.append, RunCallbacks(on_note=(notes if notes is not None else []).append))
    return results


def pixels(results: Sequence[Result]) -> list[bytes]:
    return [result.image.tobytes() for result in results]


def requests(engine: Engine) -> dict[str, GenerationParams]:
    """Every way of a request through the engine."""
    assert engine.inputs
    start = engine.inputs.put(Image.linear_gradient("L").resize((64, 64)).convert("RGB"))
    white = Image.new("L", (64, 64))
    white.paste(255, (16, 16, 48, 48))
    mask = Mask(image=engine.inputs.put(white), blur=2)
    hires = Hires(scale=1.5, denoising_strength=0.6, upscaler="Latent")
    return {
        "txt2img": PARAMS,
        "a batch": PARAMS.changed(batch_size=2),
        "AND": PARAMS.changed(prompt="a red fox AND snow :0.5"),
        "CFG 1": PARAMS.changed(cfg_scale=1.0),
        "hires fix": PARAMS.changed(hires=hires),
        "img2img": PARAMS.changed(init=Init(image=start, denoising_strength=0.8)),
        "inpaint": PARAMS.changed(init=Init(image=start, mask=mask)),
        "refiner": PARAMS.changed(refiner=Refiner("tiny", 0.5)),
        "second order": PARAMS.changed(sampler="Heun"),
    }


def modifiers_of(extension: Extension, host: Host) -> list[ModifierSpec]:
    owners = {name: owner.name for (kind, name), owner in host.owners.items() if kind == "modifier"}
    return [spec for spec in host.modifiers if owners.get(spec.name) == extension.name]


def another(option: Option) -> Any:
    """A value that is not the default."""
    if isinstance(option.choices, tuple):
        return next((value for value in option.choices if value != option.default), option.default)
    if option.choices or option.multiline or option.kind:  # what a picture or a file is, the kit cannot know
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


def tried(spec: ModifierSpec, extension: Extension, engine: Engine) -> dict[str, Any]:
    """Options with which something is seen: those of its ``kit.py``, else other ones than usual."""
    assert engine.inputs and engine.host.models
    if not (extension.folder / "kit.py").is_file():
        return changed(spec)
    kit = importlib.import_module(f"{PRIVATE}{extension.name}.kit")
    picture = engine.inputs.put(Image.radial_gradient("L").resize((64, 64)).convert("RGB"))
    return spec.chosen(kit.options(engine.host.models, engine.store.load(), picture)[spec.name])


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
            assert control(option, {str(option.choices): tuple, option.kind: tuple}) is not None


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
    """In every kind of request: nothing fails, replay makes the same, and the model is what it was."""
    for spec in modifiers_of(extension, host):
        before, options = digest(engine.store.load()), tried(spec, extension, engine)
        for kind, asked in requests(engine).items():
            notes: list[str] = []
            params = asked.changed(extensions=ModifierOptions({spec.name: options}))
            results = made(engine, params, notes)
            assert [note for note in notes if f"extension {spec.name}" in note] == [], kind
            (used,) = [one for one in results[0].recipe.extensions if one.name == spec.name]
            assert (used.version, used.options, used.failed) == (extension.version, options, ""), kind
            if kind in ("txt2img", "hires fix", "inpaint"):
                recorded = recipes.read(str(results[0].recipe))
                assert replay_recipe(engine, recorded).verdict.kind == "identical", kind
        assert digest(engine.store.load()) == before


def test_an_image_of_a_batch_is_the_image_alone(extension: Extension, host: Host, engine: Engine) -> None:
    """With exact kernels, byte by byte; the second of a batch has the next seed."""
    for spec in modifiers_of(extension, host):
        options = ModifierOptions({spec.name: tried(spec, extension, engine)})
        params = PARAMS.changed(kernels="exact", extensions=options)
        both = pixels(made(engine, params.changed(batch_size=2)))
        assert pixels(made(engine, params.changed(seed=params.seed + 1))) == both[1:]


def test_it_changes_something_and_a_picture_without_it_is_as_before(
    extension: Extension, host: Host, engine: Engine
) -> None:
    """With some options, something of a picture is another: its pixels, or its text or file name if that is all that it
    is there for."""
    for spec in modifiers_of(extension, host):
        asked = PARAMS.changed(prompt="a {red|blue} fox, in snow", cfg_scale=20.0)
        plain = pixels(made(engine, asked))
        texts_only = set(overridden(spec.made({}))) <= {"before_save", "on_saved", "job_ended", "report"}
        options = [spec.chosen({}), tried(spec, extension, engine)]
        others = [pixels(made(engine, asked.changed(extensions=ModifierOptions({spec.name: o})))) for o in options]
        assert texts_only or any(other != plain for other in others), f"{spec.label} changes nothing"
        assert pixels(made(engine, asked)) == plain


def test_it_keeps_no_memory(extension: Extension, host: Host, engine: Engine) -> None:
    """Tensors that are alive after a picture do not grow from one to the next."""
    for spec in modifiers_of(extension, host):
        params = PARAMS.changed(extensions=ModifierOptions({spec.name: tried(spec, extension, engine)}))
        sizes = []
        for seed in range(4):
            made(engine, params.changed(seed=seed))
            gc.collect()
            tensors = [found for found in gc.get_objects() if isinstance(found, torch.Tensor)]
            sizes.append(sum(tensor.nbytes for tensor in tensors))
        assert sizes[-1] - sizes[1] < 64 * 1024, f"{spec.label} keeps {(sizes[-1] - sizes[1]) // 2} bytes a picture"


def entries(extension: Extension, host: Host, kind: str) -> list[Any]:
    table = host.tables()[kind]
    return [table.get(name) for (k, name), owner in host.owners.items() if k == kind and owner.name == extension.name]


def test_samplers_run_over_every_kind_of_schedule(extension: Extension, host: Host, engine: Engine) -> None:
    for spec in entries(extension, host, "sampler"):
        for scheduler in ("Automatic", "Karras", "SGM Uniform"):
            params = PARAMS.changed(sampler=spec.name, scheduler=scheduler, steps=3, kernels="exact")
            both = pixels(made(engine, params.changed(batch_size=2)))
            assert both[0] != both[1]
            if not spec.couples_batch:
                assert pixels(made(engine, params.changed(seed=params.seed + 1))) == both[1:]
        strength = requests(engine)["img2img"].changed(sampler=spec.name)
        assert len(made(engine, strength)) == 1


def test_schedulers_fall_to_zero_and_make_pictures(extension: Extension, host: Host, engine: Engine) -> None:
    for spec in entries(extension, host, "scheduler"):
        for steps in (1, 2, 20):
            sigmas = spec.schedule(steps, 0.03, 14.6, table=NoiseTable.named("scaled_linear"))
            assert len(sigmas) == steps + 1 and sigmas[-1] == 0.0
            assert all(high > low for high, low in itertools.pairwise(sigmas)), "sigmas must fall"
        assert len(made(engine, PARAMS.changed(scheduler=spec.label, steps=3))) == 1


def test_scripts_make_requests_that_can_be_done_and_tables_of_their_outcomes(extension: Extension, host: Host) -> None:
    """With their default options, if these make sense; what is asked is not computed."""
    for spec in entries(extension, host, "script"):
        context = ScriptContext(host.axes, lambda name: ("one", "two"), lambda path: "0" * 64)
        init = Init(image="0" * 64) if "txt2img" not in spec.tabs else None
        steps = spec.run(PARAMS.changed(init=init), spec.options(), context)
        outcomes, count = None, 0
        try:
            while True:
                turn = steps.send(outcomes)
                assert all(isinstance(request, GenerationParams) for request in turn.requests)
                count += len(turn.requests)
                image = GeneratedImage("one.png", "a fox\nSteps: 1", 7)
                outcomes = [Outcome((image,))] * len(turn.requests)
                assert count <= 1000, "a script makes at most 1000 requests"
        except StopIteration as end:
            for sheet in end.value or ():
                assert len(sheet.cells) == len(sheet.rows)
                assert all(len(row) == len(sheet.columns) for row in sheet.cells)
        except UserError as error:
            assert error.message and count == 0, "a script must refuse before it makes anything"


def test_upscalers_face_restorers_and_steps_of_extras_make_images(extension: Extension, host: Host) -> None:
    image = Image.linear_gradient("L").resize((64, 48)).convert("RGB")
    for spec in entries(extension, host, "upscaler"):
        assert upscale(spec, image, 2.0).size == (128, 96)
    for spec in entries(extension, host, "face_restorer"):
        assert spec.restore(image, 0.5).size == image.size
    for spec in entries(extension, host, "extras_step"):
        declared = options_of(cast(Hashable, spec.options))
        for options in ({}, {name: another(option) for name, option in declared.items()}):
            assert isinstance(spec.apply(image, step_options(spec, options)), Image.Image)


@pytest.fixture(scope="module")
def client(extension: Extension, host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A server with the extension alone."""
    with services(tmp_path_factory.mktemp("server")) as given:
        for kind, table in given.host.tables().items():
            for (own, name), owner in host.owners.items():
                if own == kind and owner.name == extension.name:
                    table.add(name, host.tables()[kind].get(name), ())
                    given.host.owners[kind, name] = owner
        with TestClient(create_app(given), base_url=ORIGIN, raise_server_exceptions=False) as made:
            yield made


def test_routes_answer_what_has_no_values_with_an_answer_or_a_sentence(
    extension: Extension, host: Host, request: pytest.FixtureRequest
) -> None:
    for spec in entries(extension, host, "route"):
        client: TestClient = request.getfixturevalue("client")
        answer = client.request(spec.method, f"/api/ext/{extension.name}/{spec.path}")
        assert answer.status_code < 500, f"{spec.path}: {answer.text[:300]}"


def test_assets_and_parts_are_on_the_page(extension: Extension, host: Host, request: pytest.FixtureRequest) -> None:
    kinds = {kind for (kind, _), owner in host.owners.items() if owner.name == extension.name}
    if not kinds & {"asset", "slot", "cards"}:
        return
    client: TestClient = request.getfixturevalue("client")
    page = client.get("/config").json()
    for path in entries(extension, host, "asset"):
        if path.is_file():
            assert path.read_text(encoding="utf-8").strip() in f"{page['head']}{page['css']}", path.name
    parts = page["components"]
    said = [str(part["props"].get("value")) for part in parts if part["type"] == "html"]
    assert [text for text in said if "could not be built" in text] == []
    for spec in entries(extension, host, "cards"):
        assert all(card.name and card.insert for card in (spec.cards() if spec.cards else ()))


def test_tabs_are_built(extension: Extension, host: Host, tmp_path: Path) -> None:
    if not entries(extension, host, "tab"):
        return
    with services(tmp_path) as given:
        for name, spec in host.tabs.items():
            given.host.owners["tab", name] = host.owners["tab", name]
            given.host.tabs.add(name, spec)
        blocks = build_page(given, {}, None, build_tab)
    html = [str(getattr(block, "value", "")) for block in blocks.blocks.values() if isinstance(block, gr.HTML)]
    assert [text for text in html if "This tab could not be built" in text] == []
