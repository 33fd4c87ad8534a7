"""Whole runs against the diffusers pipeline: same weights, same text states, same starting noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, StableDiffusionPipeline
from torch import Tensor

from modules.builtin import register
from modules.checkpoints.model import LatentDiffusion, load
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.devices import Device
from modules.diffusion.noise import PhiloxGenerator
from modules.diffusion.types import Cond
from modules.extension.host import Host
from modules.params.generation import GenerationParams
from modules.pipeline.plan import Batch, make_plan
from modules.pipeline.sample import generate
from tests.diffusers_vae import diffusers_vae
from tests.modules.nn.test_against_diffusers import diffusers_unet, random_weights, relative_error

STEPS, SCALE, SEED = 10, 7.0, 5
BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
DDIM = DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1, timestep_spacing="leading")


class Text:
    """One text throughout."""

    weight = 1.0

    def __init__(self, context: Tensor):
        self._cond = Cond(context)

    def at(self, call: int, step: int | None = None) -> Cond:
        return self._cond


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LatentDiffusion:
    path = write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny.safetensors")
    model = load(path, Device(torch.device("cpu"), torch.float32, channels_last=False))
    random_weights(model.unet)
    random_weights(model.vae, seed=1)
    return model


@pytest.fixture(scope="module")
def pipeline(model: LatentDiffusion) -> StableDiffusionPipeline:
    vae = diffusers_vae(model)
    unet = diffusers_unet(model.config.unet, model.unet.state_dict())
    nothing = dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    pipe = StableDiffusionPipeline(vae=vae.eval(), unet=unet, scheduler=DDIM, requires_safety_checker=False, **nothing)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def texts(model: LatentDiffusion) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    a, b = torch.randn(2, 1, 77, model.config.unet.context_dim, generator=generator)
    return a, b


def batch_for(sampler: str, scheduler: str = "Automatic") -> Batch:
    host = Host()
    register(host)
    params = GenerationParams(
        sampler=sampler, scheduler=scheduler, steps=STEPS, cfg_scale=SCALE, width=64, height=72, seed=SEED
    )
    return make_plan(params, host).batches[0]


def ours(model: LatentDiffusion, batch: Batch) -> Tensor:
    positive, negative = texts(model)
    with torch.inference_mode():
        return generate(model, batch, (Text(positive),), Text(negative), on_step=lambda *_: None)


def theirs(model: LatentDiffusion, pipe: StableDiffusionPipeline) -> list[Tensor]:
    """The latents after each step."""
    positive, negative = texts(model)
    seen: list[Tensor] = []

    def keep(_pipe: Any, _step: int, _t: Any, values: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(values["latents"])
        return values

    pipe(
        prompt_embeds=positive,
        negative_prompt_embeds=negative,
        num_inference_steps=STEPS,
        guidance_scale=SCALE,
        width=64,
        height=72,
        latents=PhiloxGenerator(SEED).randn((1, 4, 9, 8)),
        output_type="latent",
        callback_on_step_end=keep,
    )
    assert len(seen) == STEPS
    return seen


def test_ten_steps_of_euler_agree(model: LatentDiffusion, pipeline: StableDiffusionPipeline) -> None:
    pipeline.scheduler = EulerDiscreteScheduler(**BETAS, use_karras_sigmas=True, timestep_spacing="linspace")
    expected = theirs(model, pipeline)[-1]
    latents = ours(model, batch_for("Euler", "Karras"))
    assert relative_error(latents, expected) < 1e-4
    with torch.inference_mode():
        image = pipeline.vae.decode(expected / model.config.latent.scale).sample.clamp(-1, 1)
        assert relative_error(model.decode(latents), image) < 1e-4


def test_ten_steps_of_ddim_agree(model: LatentDiffusion, pipeline: StableDiffusionPipeline) -> None:
    """A1111 stops one step short, at timestep 1: its result is what diffusers has before its last step."""
    pipeline.scheduler = DDIM
    expected = theirs(model, pipeline)[-2]
    assert relative_error(ours(model, batch_for("DDIM")), expected) < 1e-4
