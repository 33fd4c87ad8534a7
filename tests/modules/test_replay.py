"""Pictures made again: the verdict is true, and says why."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image

from modules.builtin import register
from modules.checkpoints.files import Hashes
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.devices import Device
from modules.engine import Engine, Result
from modules.errors import UserError
from modules.extension import Host
from modules.images import png_bytes
from modules.params import GenerationParams
from modules.replay import replay

PARAMS = GenerationParams(prompt="a fox", width=64, height=64, steps=3, seed=5, batch_size=2, batch_count=2)


def engine_in(folder: Path) -> Engine:
    host = Host()
    register(host)
    return Engine(ModelStore(folder, Device(torch.device("cpu"), torch.float32), Hashes()), host, version="0.0")


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    write_tiny_checkpoint(tmp_path / "models" / "tiny.safetensors")
    return engine_in(tmp_path / "models")


def save(path: Path, result: Result, **forged: str) -> Path:
    recipe = dataclasses.replace(result.recipe, **forged)  # type: ignore[arg-type]
    path.write_bytes(png_bytes(result.image, {"parameters": result.infotext, "recipe": str(recipe)}))
    return path


def images(engine: Engine, params: GenerationParams = PARAMS) -> list[Result]:
    results: list[Result] = []
    engine.run(params, results.append)
    return results


def test_every_image_of_a_request_is_identical_when_made_again(engine: Engine, tmp_path: Path) -> None:
    for i, result in enumerate(images(engine)):
        came = replay(engine, save(tmp_path / f"{i}.png", result))
        assert str(came.verdict) == "identical"
        assert came.result is not None
        assert came.result.image.tobytes() == result.image.tobytes()


@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ SDE", "DPM++ 3M SDE", "Restart", "UniPC", "LCM", "DPM adaptive"])
def test_noise_of_every_kind_comes_back(engine: Engine, tmp_path: Path, sampler: str) -> None:
    (result,) = images(engine, PARAMS.changed(sampler=sampler, batch_size=1, batch_count=1))
    assert replay(engine, save(tmp_path / "a.png", result)).verdict.kind == "identical"


def test_renamed_checkpoint_is_found_by_its_hash(engine: Engine, tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", images(engine)[0])
    write_tiny_checkpoint(tmp_path / "models" / "another.safetensors", seed=1)
    (tmp_path / "models" / "tiny.safetensors").rename(tmp_path / "models" / "zzz.safetensors")
    assert replay(engine_in(tmp_path / "models"), path).verdict.kind == "identical"


def test_missing_checkpoint_is_named(engine: Engine, tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", images(engine)[0])
    write_tiny_checkpoint(tmp_path / "others" / "b.safetensors", seed=1)
    came = replay(engine_in(tmp_path / "others"), path)
    assert came.result is None
    assert str(came.verdict).startswith("cannot, because checkpoint tiny.safetensors (sha256 ")


def test_what_differs_is_named_with_the_amount(engine: Engine, tmp_path: Path) -> None:
    result = images(engine)[0]
    darker = Image.eval(result.image, lambda level: max(level - 1, 0))
    forged = Result(darker, result.infotext, result.recipe)
    path = save(tmp_path / "a.png", forged, pixels="0" * 64, torch="2.12.0")
    verdict = replay(engine, path).verdict
    assert verdict.kind == "differs"
    assert str(verdict).startswith(f"differs, because torch 2.12.0 became {torch.__version__} (")
    assert verdict.difference is not None
    assert verdict.difference.largest == 1


def test_picture_without_recipe_is_refused(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "plain.png"
    Image.new("RGB", (8, 8)).save(path)
    with pytest.raises(UserError, match=r"plain\.png carries no recipe"):
        replay(engine, path)
