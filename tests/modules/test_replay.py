"""Pictures made again: the verdict is true, and says why."""

from __future__ import annotations

import dataclasses
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
from modules.engine import Engine, Result
from modules.extension.host import Host
from modules.metadata.image_text import PNG, Encoding, encode
from modules.metadata.recipe import pixel_hash
from modules.params.generation import GenerationParams
from modules.replay import replay, replay_recipe

PARAMS = GenerationParams(prompt="a fox", width=64, height=64, steps=3, seed=5, batch_size=2, batch_count=2)


def engine_in(folder: Path) -> Engine:
    host = Host()
    register(host)
    return Engine(ModelStore(folder, Device(torch.device("cpu"), torch.float32), Hashes()), host, version="0.0")


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    write_tiny_checkpoint(tmp_path / "models" / "tiny.safetensors")
    return engine_in(tmp_path / "models")


def save(path: Path, result: Result, encoding: Encoding = PNG, **forged: Any) -> Path:
    recipe = dataclasses.replace(result.recipe, **forged)
    path.write_bytes(encode(result.image, result.infotext, str(recipe), encoding)[0])
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


def test_a_replay_computes_with_as_many_threads_as_then_and_says_where_it_cannot(
    engine: Engine, tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        (made,) = images(engine, PARAMS.changed(batch_size=1, batch_count=1))
        torch.set_num_threads(1)
        again = replay(engine, save(tmp_path / "a.png", made)).result
        assert again and again.recipe.processor == made.recipe.processor
        assert ", 2 threads" in again.recipe.processor and torch.get_num_threads() == 1
        many = made.recipe.processor.replace(", 2 threads", ", 9999 threads")
        recipe = dataclasses.replace(made.recipe, processor=many, pixels="0" * 64)
        differs = replay_recipe(engine, recipe).verdict
        assert any("9999 threads became" in reason for reason in differs.reasons)
    finally:
        torch.set_num_threads(before)


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
    path = save(tmp_path / "a.png", forged, pixels=pixel_hash(darker), torch="2.12.0")
    verdict = replay(engine, path).verdict
    assert verdict.kind == "differs"
    assert str(verdict).startswith(f"differs, because torch 2.12.0 became {torch.__version__} (")
    assert verdict.difference is not None
    assert verdict.difference.largest == 1


@pytest.mark.parametrize("encoding", [Encoding("jpg"), Encoding("jpg", 20), Encoding("webp"), Encoding("webp", 10)])
def test_a_compressed_file_is_identical_by_the_hash_from_before(
    engine: Engine, tmp_path: Path, encoding: Encoding
) -> None:
    result = images(engine)[0]
    verdict = replay(engine, save(tmp_path / "a", result, encoding)).verdict
    assert verdict.kind == "identical"
    assert verdict.difference is not None
    assert verdict.difference.largest > 0
    assert str(verdict) == "identical (before compression, which lost a little in the file)"


def test_a_lossless_webp_is_judged_by_its_own_pixels(engine: Engine, tmp_path: Path) -> None:
    result, other = images(engine)[:2]
    encoding = Encoding("webp", lossless=True)
    assert str(replay(engine, save(tmp_path / "a", result, encoding)).verdict) == "identical"
    swapped = dataclasses.replace(result, image=other.image)
    assert replay(engine, save(tmp_path / "b", swapped, encoding)).verdict.kind == "differs"


@pytest.mark.parametrize("encoding", [PNG, Encoding("jpg"), Encoding("webp")])
def test_another_picture_beside_a_true_recipe_is_seen(engine: Engine, tmp_path: Path, encoding: Encoding) -> None:
    result = images(engine)[0]
    other = dataclasses.replace(result, image=Image.linear_gradient("L").resize((64, 64)).convert("RGB"))
    verdict = replay(engine, save(tmp_path / "a", other, encoding)).verdict
    assert str(verdict).startswith(
        "differs, because the picture in the file is not the one that its recipe records, and what its recipe records"
        " is made again exactly ("
    )


def test_a_changed_hash_is_seen(engine: Engine, tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", images(engine)[0], pixels="0" * 64)
    assert str(replay(engine, path).verdict) == (
        "differs, because the recipe was changed: the picture is made again exactly, and not its hash"
    )


def test_a_changed_request_is_seen(engine: Engine, tmp_path: Path) -> None:
    result = images(engine)[0]
    path = save(tmp_path / "a.png", result, request=result.recipe.request.changed(seed=6))
    assert str(replay(engine, path).verdict).startswith("differs, because seed 5 became 6 (")


def test_a_recipe_alone_is_made_again(engine: Engine) -> None:
    result = images(engine)[3]
    came = replay_recipe(engine, result.recipe)
    assert str(came.verdict) == "identical"
    assert came.result is not None
    assert came.result.recipe.index == 3


def test_a_picture_without_recipe_cannot_be_verified(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "plain.png"
    Image.new("RGB", (8, 8)).save(path)
    assert str(replay(engine, path).verdict) == "cannot, because the picture carries no recipe"
    path.write_bytes(encode(Image.new("RGB", (8, 8)), "a fox\nSteps: 20", "", PNG)[0])
    assert str(replay(engine, path).verdict) == (
        "cannot, because the picture carries no recipe; its generation text can be used for a new picture"
    )


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('"schema":1', '"schema":7', "this recipe has schema 7 and this version reads schema 1"),
        ('"steps":3', '"steps":3,"tiling":true', "this recipe asks for tiling, which this version does not know"),
        ('"steps":3', '"steps":3000', "Steps must be between 1 and 150, not 3000"),
        ('"index":0', '"index":4', "this is not a recipe that can be read"),
        ('"index":0', '"index":-1', "this is not a recipe that can be read"),
        ('"role":"checkpoint"', '"role":"nothing"', "this is not a recipe that can be read"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_a_verdict(
    engine: Engine, tmp_path: Path, old: str, new: str, sentence: str
) -> None:
    result = images(engine, PARAMS.changed(batch_count=1))[0]
    text = str(result.recipe)
    assert old in text
    path = tmp_path / "a.png"
    path.write_bytes(encode(result.image, "", text.replace(old, new), PNG)[0])
    assert str(replay(engine, path).verdict).startswith(f"cannot, because {sentence}")
