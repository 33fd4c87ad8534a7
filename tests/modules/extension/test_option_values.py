"""Options that stand for pictures and files, units, and choices that depend on others: everywhere a request goes."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageChops

import app
from modules.builtin import register
from modules.checkpoints.files import Hashes
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.devices import Device
from modules.engine import Engine, Result, RunCallbacks
from modules.errors import NotFound, UserError
from modules.extension.host import Host
from modules.extension.manifest import Refused
from modules.extension.modifier import Modifier, ModifierSpec
from modules.extension.option_values import ModelFile, StoredImage, bound, stored
from modules.extension.page import ExtrasStepSpec
from modules.extension.script import Outcome, Round, ScriptSpec, Sheet
from modules.gallery.inputs import InputStore
from modules.jobs.protocol import GenerateSpec, Json
from modules.jobs.protocol import ScriptSpec as ScriptJob
from modules.jobs.store import Job
from modules.jobs.submit import Submitter, canonical
from modules.metadata import infotext
from modules.metadata import recipe as recipes
from modules.params.generation import GenerationParams, Init, Mask, ModifierOptions
from modules.params.lists import options_list
from modules.params.options import Dependent, option, options_of
from modules.replay import replay_recipe
from webui.services import tables_of

PARAMS = GenerationParams(prompt="a red fox", width=64, height=64, steps=1, seed=7, subseed=1)
MODULES = {"canny": ("a", "b"), "depth": ("b", "c")}


@dataclass(frozen=True)
class Unit:
    picture: str = option("", "Picture", kind="image")
    weight: float = option(1.0, "Weight", lo=0.0, hi=2.0, step=0.05)
    module: str = option("canny", "Module", choices=tuple(MODULES))
    model: str = option("a", "Model", choices=Dependent(("module",), lambda module: MODULES[module]))


@dataclass(frozen=True)
class Options:
    area: str = option("", "Area", kind="mask")
    detector: str = option("", "Detector", kind="file:detectors")
    units: tuple[Unit, ...] = options_list(Unit, "Unit", most=2)


class Pastes(Modifier):
    """Blends the pictures of its units over the image, within the area."""

    def __init__(self, options: Options):
        self.options = options

    def finish(self, image: Image.Image) -> Image.Image:
        whole = image
        for unit in self.options.units:
            assert isinstance(unit.picture, StoredImage)
            whole = Image.blend(whole, unit.picture.open().resize(image.size), unit.weight / 2)
        assert isinstance(self.options.area, StoredImage)
        if self.options.area:
            whole = Image.composite(whole, image, self.options.area.open().convert("L").resize(image.size))
        assert isinstance(self.options.detector, ModelFile)
        if self.options.detector.path:
            level = self.options.detector.path.read_bytes()[0]
            whole = ImageChops.add(whole, Image.new("RGB", whole.size, (level, 0, 0)))
        return whole


SPEC = ModifierSpec("pastes", "Pastes", Options, Pastes)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    write_tiny_checkpoint(tmp_path / "models" / "tiny.safetensors")
    (tmp_path / "models" / "detectors" / "sub").mkdir(parents=True)
    (tmp_path / "models" / "detectors" / "sub" / "face.pt").write_bytes(b"\x20")
    host = Host(models=tmp_path / "models")
    register(host)
    host.add_modifier(SPEC)
    store = ModelStore(tmp_path / "models", Device(torch.device("cpu"), torch.float32), Hashes(), default="tiny")
    return Engine(store, host, version="0.0", inputs=InputStore(tmp_path / "inputs"))


def run(engine: Engine, options: dict[str, Any]) -> tuple[Result, list[str]]:
    results: list[Result] = []
    notes: list[str] = []
    params = GenerationParams.from_json({**PARAMS.to_json(), "extensions": {"pastes": options}})
    engine.run(params, results.append, RunCallbacks(on_note=notes.append))
    return results[0], notes


def test_pictures_files_and_units_go_from_json_to_recipe_and_replay(engine: Engine, tmp_path: Path) -> None:
    assert engine.inputs
    red, white = engine.inputs.put(Image.new("RGB", (8, 8), "red")), engine.inputs.put(Image.new("L", (8, 8), 255))
    plain, _ = run(engine, {})
    units = [{"picture": red, "weight": 2.0, "module": "depth", "model": "c"}]
    result, notes = run(engine, {"units": units, "area": white, "detector": "sub/face.pt"})
    assert notes == []
    assert result.image.tobytes() == Image.new("RGB", (64, 64), (255, 0, 0)).tobytes() != plain.image.tobytes()
    files = {(file.role, file.name) for file in result.recipe.files}
    assert {("image", f"{red[:12]}.png"), ("mask", f"{white[:12]}.png"), ("file:detectors", "sub/face.pt")} < files
    assert set(result.recipe.inputs) == {red, white}
    recorded = recipes.read(str(result.recipe))
    assert replay_recipe(engine, recorded).verdict.kind == "identical"
    (tmp_path / "models" / "detectors" / "sub" / "face.pt").rename(tmp_path / "models" / "detectors" / "other.pt")
    assert replay_recipe(engine, recorded).verdict.kind == "identical"
    (tmp_path / "models" / "detectors" / "other.pt").write_bytes(b"\x21")
    verdict = replay_recipe(engine, recorded).verdict
    assert str(verdict).startswith("cannot, because file:detectors sub/face.pt")


def test_units_are_written_side_by_side_and_read_back(engine: Engine) -> None:
    host = engine.host
    spec = host.modifiers.get("pastes")
    options = spec.chosen(ModifierOptions.from_json({"pastes": {"units": [{"weight": 0.5}, {}]}})["pastes"])
    assert options["units_1_on"] is True and options["units_2_on"] is True and options["units_1_weight"] == 0.5
    params = PARAMS.changed(extensions=ModifierOptions({"pastes": options}))
    assert GenerationParams.from_json(json.loads(json.dumps(params.to_json()))) == params
    sampler = host.samplers.get("Euler a")
    text = infotext.write(params, seed=7, subseed=1, sampler=sampler, scheduler="Automatic", modifiers=[spec])
    assert "Pastes unit 1: True" in text and "Pastes unit 1 weight: 0.5" in text
    paste = infotext.params_from(infotext.read(text), host.samplers, host.schedulers, modifiers=[spec])
    assert ModifierOptions(paste.changes["extensions"]) == params.extensions
    axis = host.axes()["Pastes: unit 1 weight"]
    assert axis.set(PARAMS, 0.25).extensions["pastes"]["units_1_weight"] == 0.25
    made = spec.made(options)
    assert isinstance(made, Pastes)
    assert made.options.units == (Unit(weight=0.5), Unit())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"area": "fox.png"}, "Area must be a stored picture by its SHA-256, not 'fox.png'"),
        ({"area": "0" * 64}, "there is no stored picture 000000000000"),
        ({"detector": "none.pt"}, "Detector: there is no file 'none.pt' in detectors"),
        ({"units": [{"module": "canny", "model": "c"}]}, "Unit 1 model must be one of a, b, not 'c'"),
        ({"units": [{}, {}, {}]}, "Pastes has room for 2 units, not for 3; leave some out"),
        ({"units": [[]]}, "must be an object of plain values"),
    ],
)
def test_what_cannot_be_is_said_with_its_option(engine: Engine, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as error:
        run(engine, options)
    assert words in str(error.value)


def test_pictures_that_are_given_as_such_are_stored(engine: Engine) -> None:
    sha256 = "a" * 64
    chosen = ModifierOptions({"pastes": {"area": "mine.png", "units_2_picture": sha256, "units_1_picture": ""}})
    asked: list[tuple[str, str]] = []

    def put(value: str, field: str) -> str:
        asked.append((value, field))
        return "b" * 64

    specs = tuple(engine.host.modifiers)
    assert stored(specs, chosen, put)["pastes"] == {
        "area": "b" * 64,
        "units_1_picture": "",
        "units_2_picture": sha256,
    }
    assert asked == [("mine.png", "extensions.pastes.area")]


def test_files_are_listed_for_the_page(engine: Engine) -> None:
    tables = tables_of(engine.host, tuple)
    assert tables["file:detectors"]() == ("", "sub/face.pt")
    assert tables["file:nowhere"]() == ("",)
    with pytest.raises(KeyError):
        tables["detectors"]


@dataclass(frozen=True)
class OfAScript:
    start: str = option("", "Start", kind="image")
    detector: str = option("", "Detector", kind="file:detectors")


def nothing(*given: Any) -> Generator[Round, Sequence[Outcome], Sequence[Sheet]]:
    return ()
    yield


class NoQueue:
    """Submits nothing, and lets all scripts be."""

    def submit(self, owner: str, spec: Json, kind: str = "", job_id: str = "") -> Job:
        raise AssertionError("it was queued")

    def prepare(self, name: str, options: Any, params: GenerationParams) -> int:
        return 1


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"area": "0" * 64}, "area"),
        ({"units": [{"picture": "0" * 64}]}, "units_1_picture"),
        ({"detector": "none.pt"}, "detector"),
        ({"detector": "sub/face"}, "detector"),
        ({"detector": "../tiny.safetensors"}, "detector"),
    ],
)
def test_a_picture_or_file_that_is_not_there_is_told_before_a_job_is_queued(
    engine: Engine, options: dict[str, Any], field: str
) -> None:
    assert engine.inputs
    host, queue = engine.host, NoQueue()
    host.add_script(ScriptSpec("walks", "Walks", OfAScript, nothing))
    submitter = Submitter(queue, host, engine.inputs, queue)
    params = PARAMS.changed(extensions=ModifierOptions.from_json({"pastes": options}))
    for spec in (GenerateSpec(params), ScriptJob("walks", {}, params)):
        with pytest.raises(UserError) as error:
            submitter.prepared(spec)
        assert error.value.field == f"extensions.pastes.{field}"
    with pytest.raises(UserError) as error:
        run(engine, options)  # what went since is told in the worker
    assert error.value.field in (f"extensions.pastes.{field}", field)
    for name, value in (("start", "0" * 64), ("detector", "none.pt")):
        with pytest.raises(UserError) as error:
            submitter.prepared(ScriptJob("walks", {name: value}, PARAMS))
        assert error.value.field == name
    there = {"area": engine.inputs.put(Image.new("L", (8, 8))), "detector": "sub/face.pt", "units_2_picture": "0" * 64}
    assert submitter.prepared(GenerateSpec(PARAMS.changed(extensions=ModifierOptions({"pastes": there}))))


def test_a_start_picture_that_is_not_there_is_told_before_a_job_is_queued(engine: Engine) -> None:
    assert engine.inputs
    queue, there = NoQueue(), engine.inputs.put(Image.new("RGB", (64, 64)))
    submitter = Submitter(queue, engine.host, engine.inputs, queue)
    for init, field in (
        (Init(image="0" * 64), "init.image"),
        (Init(image=there, mask=Mask(image="1" * 64)), "init.mask.image"),
    ):
        with pytest.raises(NotFound) as error:
            submitter.prepared(GenerateSpec(PARAMS.changed(init=init)))
        assert error.value.field == field
    assert submitter.prepared(GenerateSpec(PARAMS.changed(init=Init(image=there))))


def test_the_command_line_names_the_option_whose_file_is_not_there(engine: Engine, tmp_path: Path) -> None:
    assert engine.inputs
    for options, field in (({"area": str(tmp_path / "no.png")}, "area"), ({"detector": "none.pt"}, "detector")):
        params = PARAMS.changed(extensions=ModifierOptions({"pastes": options}))
        with pytest.raises(UserError) as error:
            app._with_option_images(params, engine.host, engine.inputs)
        assert error.value.field == f"extensions.pastes.{field}"


@pytest.mark.parametrize("count", [3, 12])
def test_too_many_units_are_told_with_how_many_there_are(engine: Engine, count: int) -> None:
    chosen = ModifierOptions.from_json({"pastes": {"units": [{"weight": 1.0}] * count}})
    with pytest.raises(UserError) as error:
        canonical(PARAMS.changed(extensions=chosen), engine.host)
    assert error.value.message == f"Pastes has room for 2 units, not for {count}"
    assert error.value.field == "extensions.pastes.units"
    for name in ("units_0_on", "units_1_wieght", "unit_3_on", "units_3"):
        with pytest.raises(UserError, match=f"Pastes has no option '{name}'"):
            engine.host.modifiers.get("pastes").chosen({name: 1})


def test_steps_of_extras_and_settings_have_plain_options() -> None:
    with pytest.raises(Refused, match="'start' of the step 'odd' is a 'image'; modifiers and scripts have those"):
        Host().add_extras_step(ExtrasStepSpec("odd", "Odd", OfAScript, lambda image, options: image))
    with pytest.raises(Refused, match="is a 'image'"):
        Host().add_settings(OfAScript)
    with pytest.raises(Refused, match="the options of the step 'odd' are"):
        Host().add_extras_step(ExtrasStepSpec("odd", "Odd", dict, lambda image, options: image))


@dataclass(frozen=True)
class NumberPicture:
    picture: int = option(0, "Picture", kind="image")


@dataclass(frozen=True)
class Elsewhere:
    model: str = option("", "Model", kind="file:../secret")


@dataclass(frozen=True)
class Lost:
    model: str = option("a", "Model", choices=Dependent(("module",), lambda module: ("a",)))


@dataclass(frozen=True)
class Fails:
    module: str = option("a", "Module")
    model: str = option("a", "Model", choices=Dependent(("module",), lambda module: module.nothing))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (NumberPicture, "is a 'image'; there are image, mask and file:FOLDER, of str"),
        (Elsewhere, "is a 'file:../secret'"),
        (Lost, "depends on 'module'"),
        (Fails, "the choices of the option 'model' of the modifier 'odd' fail"),
    ],
)
def test_declarations_that_cannot_work_are_refused(options: type, words: str) -> None:
    with pytest.raises(Refused) as error:
        Host().add_modifier(ModifierSpec("odd", "Odd", options, lambda _: Modifier()))
    assert words in str(error.value)


def test_a_file_that_is_no_model_is_told_which_endings_are_listed(tmp_path: Path) -> None:
    (tmp_path / "detectors").mkdir()
    (tmp_path / "detectors" / "words.txt").write_text("gold")
    detector = options_of(Options)["detector"]
    with pytest.raises(UserError) as error:
        bound(detector, "words.txt", lambda sha256: Image.new("L", (8, 8)), tmp_path)
    assert error.value.hint.startswith("name it with its ending; files listed there end in .safetensors, ")
