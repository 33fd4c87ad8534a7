"""Compute after: a decided batch and a loaded model give latents."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from modules.checkpoints.model import LatentDiffusion
from modules.diffusion.guidance import Guided, Part, cfg
from modules.diffusion.parameterization import NoiseTable
from modules.diffusion.schedules import sigmas_for
from modules.diffusion.types import OnStep
from modules.pipeline.network import BatchNetwork
from modules.pipeline.plan import Batch
from modules.rng import ImageNoise


def generate(
    model: LatentDiffusion, batch: Batch, positive: Sequence[Part], negative: Part, *, on_step: OnStep
) -> Tensor:
    """Sample one batch: scaled latents (n, 4, height / 8, width / 8), float32, on the model's device."""
    params, sampler = batch.params, batch.sampler
    table = sampler.table_for(NoiseTable.named(model.config.schedule))
    sigmas = sigmas_for(sampler, batch.scheduler, params.steps, table)
    noise = ImageNoise(
        batch.seeds,
        (model.config.unet.in_channels, params.height // 8, params.width // 8),
        source=params.rng,
        subseeds=batch.subseeds,
        subseed_strength=params.subseed_strength,
        ensd=params.ensd,
        brownian=sigmas if sampler.brownian else (),
        profile=batch.profile,
        device=model.device.device,
    )
    guided = Guided(
        BatchNetwork(model, table, sigmas),
        cfg,
        positive,
        negative,
        params.cfg_scale * sampler.cfg_factor,
        always_negative=sampler.cfg_factor != 1,
    )
    denoise = sampler.wrap(guided, table) if sampler.wrap else guided
    start = (1 + sigmas[0] ** 2) ** 0.5 if sampler.unit_start else sigmas[0]
    options = sampler.arguments(
        eta=sampler.eta if params.eta is None else params.eta,
        table=table,
        direction=guided.direction,
        sigma_min=table.sigma_min,
        sigma_max=table.sigma_max,
        steps=params.steps,
    )
    return sampler.sample(denoise, noise.initial() * start, sigmas, noise=noise, on_step=on_step, **options)
