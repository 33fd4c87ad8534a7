"""The worker's generation jobs, from spec to files."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from modules.builtin import register
from modules.checkpoints.files import Hashes
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.devices import Device
from modules.engine import Engine, Progress
from modules.errors import Cancelled, OutputError
from modules.extension.host import Host
from modules.gallery.filenames import Names
from modules.gallery.inputs import InputStore
from modules.gallery.outputs import Gallery
from modules.imaging.files import carried_in
from modules.jobs.runners.generate import GenerationRunner, Steps
from modules.jobs.runners.grids import with_grid
from modules.jobs.worker import JobControl
from modules.metadata.image_text import read_metadata
from modules.metadata.recipe import pixel_hash, read
from modules.params.generation import GenerationParams, Init

SPEC = {
    "params": GenerationParams(prompt="a fox", width=64, height=64, steps=3, seed=5, subseed=1, batch_count=3).to_json()
}


@pytest.fixture
def runner(tmp_path: Path) -> GenerationRunner:
    write_tiny_checkpoint(tmp_path / "models" / "tiny.safetensors")
    host = Host()
    register(host)
    store = ModelStore(tmp_path / "models", Device(torch.device("cpu"), torch.float32), Hashes())
    engine = Engine(store, host, version="0.0", inputs=InputStore(tmp_path / "inputs"))
    return GenerationRunner(engine, Gallery(tmp_path / "outputs"))


def test_job_saves_every_image_with_its_texts_and_tells_of_it(runner: GenerationRunner) -> None:
    events: list[dict[str, Any]] = []
    output = runner("job1", SPEC, events.append, JobControl())
    assert [e["type"] for e in events] == ["step", "step", "step", "image"] * 3
    assert [e["image"] for e in events if e["type"] == "step"] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert "preview" in events[0]
    assert base64.b64decode(events[0]["preview"]).startswith(b"\xff\xd8")
    assert [i["seed"] for i in output["images"]] == [5, 6, 7]
    for item in output["images"]:
        path = Path(item["path"])
        assert path.name.endswith(f"-{item['seed']}.png")
        texts = read_metadata(path)
        assert texts["infotext"] == item["infotext"]
        assert read(texts["recipe"] or "").pixels == pixel_hash(Image.open(path))


@pytest.mark.parametrize(("every", "shown"), [(0, []), (1, [1, 2, 3]), (2, [2])])
def test_previews_come_as_often_as_the_owner_wishes(
    runner: GenerationRunner, monkeypatch: pytest.MonkeyPatch, every: int, shown: list[int]
) -> None:
    monkeypatch.setattr("modules.jobs.runners.generate.PREVIEW_S", 0.0)
    events: list[dict[str, Any]] = []
    GenerationRunner(runner._engine, runner._gallery, preview_every=every)(
        f"every{every}", {"params": {**SPEC["params"], "batch_count": 1}}, events.append, JobControl()
    )
    assert [event["step"] for event in events if "preview" in event] == shown


def test_a_job_may_say_how_it_is_previewed_itself(runner: GenerationRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.jobs.runners.generate.PREVIEW_S", 0.0)
    params = {**SPEC["params"], "batch_count": 1}

    def previews(name: str, **asked: Any) -> tuple[list[int], dict[str, Any], list[dict[str, Any]]]:
        events: list[dict[str, Any]] = []
        output = runner(name, {"params": params, **asked}, events.append, JobControl())
        return [event["step"] for event in events if "preview" in event], output, events

    cheap = previews("cheap")
    assert previews("none", preview_every=0)[0] == [] and previews("second", preview_every=2)[0] == [2]
    assert cheap[0] == [1, 2, 3] and cheap[1]["notes"] == []
    full = previews("full", preview_type="Full", preview_every=3)
    size = Image.open(full[1]["images"][0]["path"]).size
    drawn = Image.open(io.BytesIO(base64.b64decode(full[2][2]["preview"])))
    assert full[0] == [3] and drawn.size == size
    assert full[2][2]["preview"] != cheap[2][2]["preview"]
    absent = previews("absent", preview_type="TAESD")
    assert absent[0] == cheap[0] and absent[2][-2]["preview"] == cheap[2][-2]["preview"]
    assert [note.partition(":")[0] for note in absent[1]["notes"]] == ["previews are made as Approx cheap"]
    assert "VAE-approx" in absent[1]["notes"][0] or "none" in absent[1]["notes"][0]


def test_job_tried_again_goes_on_behind_what_it_had_saved(runner: GenerationRunner) -> None:
    events: list[dict[str, Any]] = []

    def stop_after_first() -> bool:
        return any(e["type"] == "image" for e in events)

    with pytest.raises(Cancelled):
        runner("job2", SPEC, events.append, JobControl(stop_after_first))
    made = [e for e in events if e["type"] == "image"]
    assert len(made) == 1
    again: list[dict[str, Any]] = []
    output = runner("job2", SPEC, again.append, JobControl())
    assert again[0] == made[0]
    assert [i["seed"] for i in output["images"]] == [5, 6, 7]
    assert len({i["path"] for i in output["images"]}) == 3
    other = runner("job3", SPEC, lambda _: None, JobControl())
    assert [read(read_metadata(Path(i["path"]))["recipe"] or "").pixels for i in output["images"]] == [
        read(read_metadata(Path(i["path"]))["recipe"] or "").pixels for i in other["images"]
    ]


def test_an_interrupted_job_saves_the_image_at_hand_and_says_at_which_step(runner: GenerationRunner) -> None:
    events: list[dict[str, Any]] = []
    with pytest.raises(Cancelled):
        runner("job4", SPEC, events.append, JobControl(interrupted=lambda: len(events) >= 2))
    (made,) = [event for event in events if event["type"] == "image"]
    assert read(read_metadata(Path(made["path"]))["recipe"] or "").skipped == 2


def over_many(inputs: InputStore) -> dict[str, Any]:
    """Two of each of three pictures."""
    names = ("one.png", "my two ☺.jpeg", "three.webp")
    keys = [inputs.put(Image.new("RGB", (64, 64), (40 * n, 90, 20))) for n in range(3)]
    params = GenerationParams.from_json(SPEC["params"]).changed(batch_count=2, init=Init(image=keys[0]))
    pictures = [{"key": key, "name": name} for key, name in zip(keys, names, strict=True)]
    return {"params": params.to_json(), "pictures": pictures}


def test_a_job_over_many_pictures_makes_each_in_turn_and_keeps_its_name(runner: GenerationRunner) -> None:
    inputs = runner._engine.inputs
    assert inputs
    spec, events = over_many(inputs), list[dict[str, Any]]()
    output = runner("many", spec, events.append, JobControl())
    assert [Path(item["path"]).stem.split("-", 1)[1] for item in output["images"]] == [
        f"{seed}-{name}" for name in ("one", "my_two", "three") for seed in (5, 6)
    ]
    steps = [event for event in events if event["type"] == "step"]
    assert {event["images"] for event in steps} == {6}
    assert list(dict.fromkeys(event["image"] for event in steps)) == [1, 2, 3, 4, 5, 6]
    for item, picture in zip(output["images"][::2], spec["pictures"], strict=True):
        assert read(read_metadata(Path(item["path"]))["recipe"] or "").inputs == (picture["key"],)


def test_a_job_over_many_pictures_that_is_tried_again_goes_on_where_it_was(runner: GenerationRunner) -> None:
    inputs = runner._engine.inputs
    assert inputs
    spec, events = over_many(inputs), list[dict[str, Any]]()
    with pytest.raises(Cancelled):
        runner("again", spec, events.append, JobControl(lambda: sum(e["type"] == "image" for e in events) == 3))
    output = runner("again", spec, list[dict[str, Any]]().append, JobControl())
    assert [item["seed"] for item in output["images"]] == [5, 6] * 3
    assert len({item["path"] for item in output["images"]}) == 6


def test_a_picture_carries_those_it_was_made_from_where_the_owner_wants_it(runner: GenerationRunner) -> None:
    inputs = runner._engine.inputs
    assert inputs
    for wanted in (False, True):
        carrying = GenerationRunner(runner._engine, runner._gallery, embed_inputs=wanted)
        spec = over_many(inputs)
        spec["pictures"] = spec["pictures"][:1]
        output = carrying(f"carry{wanted}", spec, list[dict[str, Any]]().append, JobControl())
        found = carried_in(Path(output["images"][0]["path"]).read_bytes())
        assert found == ([inputs.read(spec["pictures"][0]["key"])] if wanted else [])


def test_pictures_named_by_another_pattern_are_found_after_a_crash_and_laid_out_as_a_grid(
    runner: GenerationRunner,
) -> None:
    gallery = replace(runner._gallery, names=Names("[prompt_words]", "[width]"))
    named = GenerationRunner(runner._engine, gallery)
    events: list[dict[str, Any]] = []
    with pytest.raises(Cancelled):
        named("job4", SPEC, events.append, JobControl(lambda: any(e["type"] == "image" for e in events)))
    run = with_grid(named, runner._gallery, rows=1)
    output = run("job4", SPEC, lambda _: None, JobControl())
    paths = [Path(image["path"]) for image in output["images"]]
    assert [f"{path.parent.name}/{path.name}" for path in paths] == [f"64/0000{n}-a fox.png" for n in (1, 2, 3)]
    assert [image["seed"] for image in output["images"]] == [5, 6, 7]
    (sheet,) = runner._gallery.root.glob("txt2img-grids/*/*.png")
    assert output["notes"] == [f"the grid is saved as txt2img-grids/{sheet.parent.name}/{sheet.name}"]
    with Image.open(sheet) as image:
        assert image.size == (192, 64)
        for number, path in enumerate(paths):
            assert image.crop((64 * number, 0, 64 * number + 64, 64)).tobytes() == Image.open(path).tobytes()


def left_after(*told: tuple[float, float]) -> list[float | None]:
    """The time left that is told at each (time, fraction)."""
    events: list[dict[str, Any]] = []
    times = iter(time for time, _ in told)
    steps = Steps(events.append, lambda: next(times), 0)
    for number, (_, fraction) in enumerate(told):
        steps(Progress(0, 1, number, len(told), fraction, lambda: Image.new("RGB", (1, 1))))
    return [event.get("eta_s") for event in events]


def test_time_left_is_the_pace_since_the_first_step_times_what_remains() -> None:
    assert left_after((100.0, 0.25), (102.0, 0.5), (104.0, 0.75), (106.0, 1.0)) == [None, 4.0, 2.0, 0.0]


def test_clock_begins_anew_where_the_work_goes_back() -> None:
    """A hook that dies sends the request back to its first step, or to its second picture's."""
    assert left_after((0.0, 0.1), (1.0, 0.1), (2.0, 0.2)) == [None, None, 8.0]  # after the first step
    assert left_after((0.0, 0.1), (1.0, 0.2), (9.0, 0.1), (10.0, 0.2)) == [None, 8.0, None, 8.0]
    assert left_after((0.0, 0.1), (4.0, 0.9), (9.0, 0.5), (10.0, 0.6)) == [None, 0.5, None, 4.0]
    assert left_after((0.0, 0.1), (1.0, 0.2), (2.0, 0.05), (3.0, 0.1)) == [None, 8.0, None, 18.0]


def test_clock_that_stands_still_or_work_beyond_its_end_leaves_nothing() -> None:
    assert left_after((0.0, 0.5), (0.0, 0.75), (0.0, 1.0)) == [None, 0.0, 0.0]
    assert left_after((0.0, 0.5), (1.0, 1.5)) == [None, 0.0]


def test_pictures_are_kept_where_their_grid_cannot_be_saved(
    runner: GenerationRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Gallery.save

    def full(gallery: Gallery, image: Image.Image, *, folder: str = "", **more: Any) -> Any:
        if folder.endswith("-grids"):
            raise OutputError("the picture could not be saved: there is no room left", hint="free some space")
        return save(gallery, image, folder=folder, **more)

    monkeypatch.setattr(Gallery, "save", full)
    output = with_grid(runner, runner._gallery, rows=1)("job5", SPEC, lambda _: None, JobControl())
    assert len(output["images"]) == 3
    assert output["notes"] == [
        "the grid is missing: the picture could not be saved: there is no room left; free some space"
    ]
