"""The worker's replay jobs, from spec to verdict."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from modules.builtin import register
from modules.checkpoints.files import Hashes
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.devices import Device
from modules.engine import Engine, Result
from modules.errors import Cancelled
from modules.extension.host import Host
from modules.gallery.outputs import Gallery
from modules.jobs.runners.replay import ReplayRunner
from modules.jobs.worker import JobControl
from modules.metadata.image_text import encode
from modules.metadata.recipe import pixel_hash
from modules.params.generation import GenerationParams

PARAMS = GenerationParams(prompt="a fox", width=64, height=64, steps=3, seed=5, subseed=1)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    write_tiny_checkpoint(tmp_path / "models" / "tiny.safetensors")
    host = Host()
    register(host)
    store = ModelStore(tmp_path / "models", Device(torch.device("cpu"), torch.float32), Hashes())
    return Engine(store, host, version="0.0")


@pytest.fixture
def made(engine: Engine) -> Result:
    results: list[Result] = []
    engine.run(PARAMS, results.append)
    return results[0]


@pytest.fixture
def runner(engine: Engine, tmp_path: Path) -> ReplayRunner:
    return ReplayRunner(engine, Gallery(tmp_path / "outputs"))


def save(path: Path, result: Result) -> dict[str, Any]:
    path.write_bytes(encode(result.image, result.infotext, str(result.recipe))[0])
    return {"kind": "replay", "path": str(path)}


def test_a_picture_is_made_again_step_by_step_and_judged(runner: ReplayRunner, made: Result, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    output = runner("job", save(tmp_path / "a.png", made), events.append, JobControl())
    assert [(event["type"], event["step"]) for event in events] == [("step", 1), ("step", 2), ("step", 3)]
    assert (output["verdict"]["kind"], output["verdict"]["text"]) == ("identical", "identical")
    assert output["images"] == []
    assert not (tmp_path / "outputs").exists()


def test_a_recipe_alone_is_made_again(runner: ReplayRunner, made: Result) -> None:
    output = runner("job", {"recipe": str(made.recipe)}, lambda _: None, JobControl())
    assert output["verdict"]["kind"] == "identical"


def test_a_picture_that_differs_is_kept_beside_the_others(runner: ReplayRunner, made: Result, tmp_path: Path) -> None:
    darker = made.image.point(lambda level: level // 2)
    forged = dataclasses.replace(made.recipe, pixels=pixel_hash(darker), device="tpu")
    spec = save(tmp_path / "a.png", Result(darker, made.infotext, forged))
    output = runner("job", spec, lambda _: None, JobControl())
    assert output["verdict"]["kind"] == "differs"
    assert output["verdict"]["reasons"] == ["device tpu became cpu"]
    assert output["verdict"]["difference"]["largest"] > 1
    (kept,) = output["images"]
    assert Path(kept["path"]).parts[-3] == "replays"
    assert kept["infotext"] == made.infotext


def test_a_replay_stops_when_asked(runner: ReplayRunner, made: Result, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        runner("job", save(tmp_path / "a.png", made), lambda _: None, JobControl(lambda: True))
