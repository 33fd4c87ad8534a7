"""The worker's generation jobs, from spec to files."""

from __future__ import annotations

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
from modules.engine import Engine
from modules.errors import Cancelled
from modules.extension import Host
from modules.gallery import Gallery
from modules.jobs.generation import GenerationRunner
from modules.jobs.worker import Wishes
from modules.metadata import read_metadata
from modules.params import GenerationParams
from modules.recipe import pixel_hash, read

SPEC = {
    "params": GenerationParams(prompt="a fox", width=64, height=64, steps=3, seed=5, subseed=1, batch_count=3).to_json()
}


@pytest.fixture
def runner(tmp_path: Path) -> GenerationRunner:
    write_tiny_checkpoint(tmp_path / "models" / "tiny.safetensors")
    host = Host()
    register(host)
    store = ModelStore(tmp_path / "models", Device(torch.device("cpu"), torch.float32), Hashes())
    return GenerationRunner(Engine(store, host, version="0.0"), Gallery(tmp_path / "outputs"))


def test_job_saves_every_image_with_its_texts_and_tells_of_it(runner: GenerationRunner) -> None:
    events: list[dict[str, Any]] = []
    output = runner("job1", SPEC, events.append, Wishes())
    assert [e["type"] for e in events] == ["step", "step", "step", "image"] * 3
    assert [e["image"] for e in events if e["type"] == "step"] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert "preview" in events[0]
    assert events[0]["preview"].startswith(b"\xff\xd8")
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
    monkeypatch.setattr("modules.jobs.generation.PREVIEW_S", 0.0)
    events: list[dict[str, Any]] = []
    GenerationRunner(runner._engine, runner._gallery, preview_every=every)(
        f"every{every}", {"params": {**SPEC["params"], "batch_count": 1}}, events.append, Wishes()
    )
    assert [event["step"] for event in events if "preview" in event] == shown


def test_job_tried_again_goes_on_behind_what_it_had_saved(runner: GenerationRunner) -> None:
    events: list[dict[str, Any]] = []

    def stop_after_first() -> bool:
        return any(e["type"] == "image" for e in events)

    with pytest.raises(Cancelled):
        runner("job2", SPEC, events.append, Wishes(stop_after_first))
    made = [e for e in events if e["type"] == "image"]
    assert len(made) == 1
    again: list[dict[str, Any]] = []
    output = runner("job2", SPEC, again.append, Wishes())
    assert again[0] == made[0]
    assert [i["seed"] for i in output["images"]] == [5, 6, 7]
    assert len({i["path"] for i in output["images"]}) == 3
    other = runner("job3", SPEC, lambda _: None, Wishes())
    assert [read(read_metadata(Path(i["path"]))["recipe"] or "").pixels for i in output["images"]] == [
        read(read_metadata(Path(i["path"]))["recipe"] or "").pixels for i in other["images"]
    ]
