"""Exact kernels: SHA-256 of the pixels of an image does not depend on its company."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from modules.builtin import SAMPLERS, register
from modules.checkpoints.files import Hashes
from modules.checkpoints.model import LatentDiffusion
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.devices import Device, choose
from modules.diffusion.types import SamplerSpec
from modules.engine import Engine, Result
from modules.extension.host import Host
from modules.params.generation import GenerationParams
from modules.pipeline.batch_invariance import needs_single_image_batches
from tests.modules.diffusion.test_guidance import part

MODELS = Path(__file__).parents[3] / "models" / "Stable-diffusion"
PARAMS = GenerationParams(
    prompt="a (red:1.2) fox",
    width=64,
    height=64,
    steps=2,
    seed=7,
    subseed=0,
    kernels="exact",
    eta_ddim=0.5,
    s_churn=3.0,
)


def engine_of(folder: Path, device: Device) -> Engine:
    host = Host()
    register(host)
    return Engine(ModelStore(folder, device, Hashes()), host, version="0.0")


@pytest.fixture(scope="module")
def engine() -> Engine:
    """The default model as this machine runs it."""
    return engine_of(MODELS, choose("cpu"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """A tiny model in float32, whose matrix products look at the batch."""
    folder = tmp_path_factory.mktemp("models")
    write_tiny_checkpoint(folder / "tiny.safetensors")
    return engine_of(folder, Device(torch.device("cpu"), torch.float32))


def run(engine: Engine, **changes: Any) -> list[Result]:
    results: list[Result] = []
    engine.run(PARAMS.changed(**changes), results.append)
    return results


def hashes(engine: Engine, **changes: Any) -> list[str]:
    return [result.recipe.pixels for result in run(engine, **changes)]


@pytest.mark.parametrize("spec", SAMPLERS, ids=lambda spec: spec.name)
def test_image_does_not_depend_on_its_company(spec: SamplerSpec, engine: Engine) -> None:
    sizes = (1, 2) if spec.couples_batch else (1, 2, 4, 8)  # DPM adaptive takes many steps
    batches = {size: hashes(engine, sampler=spec.name, batch_size=size) for size in sizes}
    largest = batches[sizes[-1]]
    assert len(set(largest)) == len(largest)
    for size, found in batches.items():
        assert found == largest[:size]
    assert hashes(engine, sampler=spec.name, seed=PARAMS.seed + sizes[-1] - 1) == largest[-1:]


@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ SDE", "DPM adaptive"])
def test_nor_where_the_kernels_look_at_the_batch(sampler: str, plain: Engine) -> None:
    together = hashes(plain, sampler=sampler, batch_size=3)
    assert together == [hashes(plain, sampler=sampler, seed=7 + i)[0] for i in range(3)]
    assert together == hashes(plain, sampler=sampler, batch_count=3)


def test_prompts_of_two_lengths_and_and_and_skipped_negatives_keep_it_so(engine: Engine) -> None:
    changes = {"prompt": "a fox AND a dog:0.5", "negative_prompt": "snow, " * 60, "s_min_uncond": 15.0}
    assert hashes(engine, batch_size=3, **changes)[2] == hashes(engine, seed=9, **changes)[0]


def test_the_recipe_says_which_kernels_were_used(plain: Engine) -> None:
    for kernels, used in (("exact", "exact"), ("fast", "fast"), ("auto", "fast")):
        (result,) = run(plain, kernels=kernels)
        assert (result.recipe.kernels, result.recipe.request.kernels) == (used, used)


def test_one_image_needs_no_comparison_and_a_shape_needs_one(plain: Engine) -> None:
    model = plain.store.load()
    texts = [part(1.0, tokens=77)], part(0.0, tokens=77)
    model.invariant_shapes.clear()
    assert not needs_single_image_batches(model, (8, 8), 1, *texts)
    assert not model.invariant_shapes
    model.invariant_shapes.update({(8, 8, 2, torch.get_num_threads(), conds, 77): True for conds in (1, 2)})
    assert not needs_single_image_batches(model, (8, 8), 2, *texts)  # what is known is not asked again
    model.invariant_shapes[8, 8, 2, torch.get_num_threads(), 1, 77] = False
    assert needs_single_image_batches(model, (8, 8), 2, *texts)
    model.invariant_shapes.clear()


class RoundedAway:
    """A UNet whose sums have another order in a batch of four, which shows in one draw of ``every`` only."""

    def __init__(self, every: int):
        self.config, self.every, self.batches = SimpleNamespace(in_channels=4, context_dim=8, vector_dim=0), every, 0

    def embed(self, t: torch.Tensor) -> torch.Tensor:
        return t[:, None]

    def text_keys(self, context: torch.Tensor) -> torch.Tensor:
        return context

    def run(self, x: torch.Tensor, emb: torch.Tensor, text: torch.Tensor, copies: int = 1) -> torch.Tensor:
        self.batches += len(x) == 4
        return x + 2.0**-9 if len(x) == 4 and self.batches % self.every == 0 else x


@pytest.mark.parametrize(("side", "every", "alone"), [(8, 3, True), (8, 9, False), (32, 3, True), (32, 9, False)])
def test_a_difference_that_rounding_hides_nearly_always_is_found(side: int, every: int, alone: bool) -> None:
    """In one of the four draws for each of two groups."""
    device = Device(torch.device("cpu"), torch.float32)
    model = SimpleNamespace(
        bring_unet=lambda *_: None, unet=RoundedAway(every), device=device, name="rare", invariant_shapes={}
    )
    texts = [part(1.0, tokens=77)], part(0.0, tokens=60)  # of other lengths: two calls of one condition each
    assert needs_single_image_batches(cast(LatentDiffusion, model), (side, side), 4, *texts) is alone
