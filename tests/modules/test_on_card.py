"""What only a card can show: images with and without recorded steps, every sampler, batches, replays, short memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from modules.builtin import SAMPLERS, register
from modules.checkpoints.files import Hashes
from modules.checkpoints.store import ModelStore
from modules.devices import Device, choose
from modules.diffusion.types import SamplerSpec
from modules.engine import Engine, Result
from modules.errors import OutOfMemory
from modules.extension.host import Host
from modules.params.generation import GenerationParams, Hires
from modules.pipeline.results import RunCallbacks

pytestmark = pytest.mark.gpu
MODELS = Path(__file__).parents[2] / "models" / "Stable-diffusion"
PARAMS = GenerationParams(prompt="a red fox in the snow", width=128, height=128, steps=4, seed=7, subseed=0)


def engine_of(device: Device) -> Engine:
    host = Host()
    register(host)
    return Engine(ModelStore(MODELS, device, Hashes()), host, version="0.0")


@pytest.fixture(scope="module")
def card() -> Device:
    if not torch.cuda.is_available():
        pytest.skip("there is no card")
    return choose("cuda")


@pytest.fixture(scope="module")
def recorded(card: Device) -> Iterator[Engine]:
    """The default model with recorded steps, as a card has it by itself."""
    engine = engine_of(card)
    yield engine
    engine.store.load().graphs.clear()


@pytest.fixture(scope="module")
def launched(card: Device) -> Engine:
    """The same with every kernel launched by the processor."""
    return engine_of(replace(card, graphs=False))


def pixels(engine: Engine, **changes: Any) -> list[str]:
    results: list[Result] = []
    engine.run(PARAMS.changed(**changes), results.append)
    return [result.recipe.pixels for result in results]


@pytest.mark.parametrize("spec", SAMPLERS, ids=lambda spec: spec.name)
def test_recorded_steps_give_the_same_image_with_every_sampler(
    spec: SamplerSpec, recorded: Engine, launched: Engine
) -> None:
    assert pixels(recorded, sampler=spec.name) == pixels(launched, sampler=spec.name)


def test_steps_are_recorded_and_a_replay_is_identical(recorded: Engine) -> None:
    first = pixels(recorded, steps=6)
    assert len(recorded.store.load().graphs) > 0
    assert pixels(recorded, steps=6) == first


@pytest.mark.parametrize(
    "changes", [{"cfg_scale": 1.0}, {"prompt": "a fox AND a boat"}, {"hires": Hires(steps=2)}], ids=str
)
def test_other_ways_are_the_same_with_and_without_recorded_steps(
    changes: dict[str, Any], recorded: Engine, launched: Engine
) -> None:
    assert pixels(recorded, **changes) == pixels(launched, **changes)


@pytest.mark.parametrize("size", [2, 4])
def test_exact_batches_are_their_single_images(size: int, recorded: Engine) -> None:
    together = pixels(recorded, batch_size=size, kernels="exact")
    alone = [pixels(recorded, seed=7 + i, kernels="exact")[0] for i in range(size)]
    assert together == alone


def test_float16_is_the_default_and_near_float32(card: Device, recorded: Engine) -> None:
    assert card.dtype == torch.float16
    images: list[list[Any]] = []
    for engine in (recorded, engine_of(Device(torch.device("cpu"), torch.float32))):
        results: list[Result] = []
        engine.run(PARAMS, results.append)
        assert results[0].recipe.dtype == ("float16" if engine is recorded else "float32")
        images.append(list(results[0].image.tobytes()))
    apart = [abs(a - b) for a, b in zip(*images, strict=True)]
    assert sum(apart) / len(apart) < 1.0


def test_numbers_that_leave_float16_are_made_in_a_wider_format(card: Device) -> None:
    engine, notes, results = engine_of(card), list[str](), list[Result]()
    with torch.no_grad():
        # A thousandth of it would do: products of more than 65504 are infinite in float16, and fine in bfloat16.
        weight, bias = list(engine.store.load().unet.out.parameters())[-2:]
        bias.fill_(60000.0)
        weight.fill_(30000.0)
    engine.run(PARAMS, results.append, RunCallbacks(on_note=notes.append))
    assert any("overflows in float16" in note for note in notes)
    assert results[0].recipe.dtype == "bfloat16"


def test_previews_are_images_and_steps_come_in_order(recorded: Engine) -> None:
    steps: list[int] = []
    sizes = set[tuple[int, int]]()
    recorded.run(
        PARAMS,
        lambda _: None,
        RunCallbacks(on_progress=lambda p: (steps.append(p.step), sizes.add(p.preview().size))),  # type: ignore[func-returns-value]
    )
    assert steps == [1, 2, 3, 4]
    assert sizes == {(128, 128)}


def test_too_little_memory_is_said_and_given_back(recorded: Engine) -> None:
    expected = pixels(recorded)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 64 * 2**20) / total)
    try:
        with pytest.raises(OutOfMemory):
            pixels(recorded, width=2048, height=2048, batch_size=2, steps=1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert pixels(recorded) == expected
