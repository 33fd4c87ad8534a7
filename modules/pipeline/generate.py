"""Compute after: a decided batch and a loaded model give latents."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from modules.checkpoints.model import LatentDiffusion
from modules.diffusion.guidance import Guided, Part
from modules.diffusion.schedules import sigmas_for
from modules.diffusion.types import OnStep
from modules.pipeline import choices
from modules.pipeline.company import must_go_alone
from modules.pipeline.network import BatchNetwork
from modules.pipeline.plan import Batch
from modules.rng import ImageNoise


def generate(
    model: LatentDiffusion, batch: Batch, positive: Sequence[Part], negative: Part, *, on_step: OnStep
) -> Tensor:
    """Sample one batch: scaled latents (n, 4, height / 8, width / 8), float32, on the model's device."""
    params, sampler = batch.params, batch.sampler
    table = sampler.table_for(choices.noise_table(params, model.config.schedule))
    sigmas = sigmas_for(sampler, batch.scheduler, params.steps, table, choices.schedule_options(params))
    size = params.height // 8, params.width // 8
    noise = ImageNoise(
        batch.seeds,
        (model.config.unet.in_channels, *size),
        source=params.rng,
        subseeds=batch.subseeds,
        subseed_strength=params.subseed_strength,
        resize_from=(params.seed_resize_from_h, params.seed_resize_from_w),
        ensd=params.ensd,
        brownian=sigmas if sampler.brownian else (),
        profile=batch.profile,
        device=model.device.device,
    )
    guided = Guided(
        BatchNetwork(model, table, sigmas),
        choices.guidance(params),
        positive,
        negative,
        params.cfg_scale * sampler.cfg_factor,
        skips=choices.skips(params, sampler, table, params.steps),
        alone=params.kernels == "exact" and must_go_alone(model, size, len(batch.seeds), positive, negative),
        always_negative=sampler.cfg_factor != 1,
    )
    denoise = sampler.wrap(guided, table) if sampler.wrap else guided
    start = choices.start_scale(params, sampler, sigmas[0])
    options = sampler.arguments(
        **choices.given(params, sampler),
        table=table,
        direction=guided.direction,
        sigma_min=table.sigma_min,
        sigma_max=table.sigma_max,
        steps=params.steps,
    )
    return sampler.sample(denoise, noise.initial() * start, sigmas, noise=noise, on_step=on_step, **options)
