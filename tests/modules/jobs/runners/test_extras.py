"""The worker's extras jobs, from spec to files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modules.builtin import register
from modules.errors import Cancelled, NotFound
from modules.extension.host import Host
from modules.gallery.inputs import InputStore
from modules.gallery.outputs import Gallery
from modules.imaging.files import png_bytes
from modules.jobs.runners.extras import ExtrasRunner
from modules.jobs.worker import JobControl, by_kind
from modules.metadata.image_text import read_metadata
from modules.params.generation import ExtrasParams
from modules.restoration.upscale import UpscalerSpec, Work, in_tiles

PARAMS = ExtrasParams(upscaler="Doubler", by=2.0, tile_size=32, tile_overlap=8).to_json()
TEXT = "a fox\nSteps: 3, Sampler: Euler a, Seed: 5"


class Place:
    """A runner with its folders."""

    def __init__(self, folder: Path):
        self.inputs = InputStore(folder / "inputs")
        self.outputs = folder / "outputs"
        host = Host()
        register(host)
        host.add_upscaler(UpscalerSpec("Doubler", doubled))
        self.runner = ExtrasRunner(host, Gallery(self.outputs), self.inputs)

    def spec(self, count: int) -> dict[str, Any]:
        return {"kind": "extras", "params": PARAMS, "inputs": [self.source(n) for n in range(count)]}

    def source(self, n: int) -> dict[str, str]:
        key = self.inputs.put(png_bytes(Image.new("RGB", (40, 16), (n * 40, 9, 9))))
        return {"key": key, "name": f"{n}.png", "infotext": TEXT if n == 0 else ""}


def doubled(image: Image.Image, scale: float, work: Work) -> Image.Image:
    return in_tiles(image, 2, lambda tile: tile.resize((tile.width * 2, tile.height * 2)), work)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_each_picture_is_saved_with_its_texts_and_told_tile_by_tile(place: Place) -> None:
    events: list[dict[str, Any]] = []
    output = place.runner("job1", place.spec(2), events.append, JobControl())
    assert [e["type"] for e in events] == ["step", "step", "image"] * 2
    assert events[1] == {"type": "step", "step": 2, "steps": 2, "image": 1, "images": 2}
    first, second = (Path(image["path"]) for image in output["images"])
    assert (first.name, second.name) == ("00001.png", "00002.png")
    assert first.parents[1] == place.outputs / "extras-images"
    texts = read_metadata(first)
    assert texts["infotext"] == TEXT
    assert texts["items"]["extras"] == "Postprocess upscale by: 2.0, Postprocess upscaler: Doubler"
    assert output["images"][0]["infotext"] == f"{TEXT}\n{texts['items']['extras']}"
    assert read_metadata(second)["infotext"] is None
    assert np.asarray(Image.open(second)).reshape(-1, 3).max(0).tolist() == [40, 9, 9]
    assert output["notes"] == []


def test_a_picture_that_is_gone_is_left_out_of_many_and_fails_alone(place: Place) -> None:
    spec = place.spec(2)
    spec["inputs"][0]["key"] = "0" * 64
    output = place.runner("job", spec, lambda _: None, JobControl())
    assert len(output["images"]) == 1
    assert output["notes"] == ["0.png was left out: there is no stored picture 000000000000; choose the picture again"]
    with pytest.raises(NotFound):
        place.runner("other", {**spec, "inputs": spec["inputs"][:1]}, lambda _: None, JobControl())


def test_a_job_that_is_stopped_keeps_what_it_made_and_goes_on_behind_it(place: Place) -> None:
    events: list[dict[str, Any]] = []
    with pytest.raises(Cancelled):
        place.runner("job", place.spec(3), events.append, JobControl(lambda: any(e["type"] == "image" for e in events)))
    made = [e for e in events if e["type"] == "image"]
    assert len(made) == 1
    again: list[dict[str, Any]] = []
    output = place.runner("job", place.spec(3), again.append, JobControl())
    assert again[0] == made[0]
    assert len(output["images"]) == 3
    assert len(list(place.outputs.rglob("*.png"))) == 3


def test_a_runner_is_chosen_by_the_kind_of_the_spec() -> None:
    run = by_kind({"extras": lambda *_: {"who": "extras"}}, lambda *_: {"who": "engine"})
    for spec, who in (({"kind": "extras"}, "extras"), ({"kind": "txt2img"}, "engine"), ({}, "engine")):
        assert run("job", spec, lambda _: None, JobControl()) == {"who": who}
