"""Compute after: a decided batch and a loaded model give latents."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from modules.checkpoints.model import LatentDiffusion
from modules.diffusion.guidance import Guided, Part, Refined, cfg, keep, keep_input
from modules.diffusion.parameterization import NoiseTable
from modules.diffusion.schedules import ImageStart, image_start, sigmas_for
from modules.diffusion.types import Denoiser, OnStep, SamplerSpec, SchedulerSpec
from modules.params import GenerationParams
from modules.pipeline.network import BatchNetwork
from modules.pipeline.plan import Batch
from modules.rng import ImageNoise


@dataclass(frozen=True)
class Start:
    """The picture that a run begins with; text to image has none, and begins with noise at full strength."""

    latents: Tensor
    """(n or 1, 4, h, w), scaled."""
    strength: float
    exact_steps: bool = False
    noise_multiplier: float = 1.0
    extra_noise: float = 0.0
    mask: Tensor | None = None
    """(1, 1, h, w), 1 = repaint. Where it is 0 the latents come out as they went in."""


@dataclass(frozen=True)
class Refinement:
    """Another model that finishes the run."""

    load: Callable[[], tuple[LatentDiffusion, Sequence[Part], Part]]
    """The model, with the prompts as it reads them; called when it takes over."""
    switch_at: float
    """The part of the noise levels, from the highest down, that is the first model's."""


def generate(
    model: LatentDiffusion,
    batch: Batch,
    positive: Sequence[Part],
    negative: Part,
    *,
    on_step: OnStep,
    start: Start | None = None,
    seen: Tensor | None = None,
    refinement: Refinement | None = None,
) -> Tensor:
    """Sample one batch: scaled latents (n, 4, height / 8, width / 8), float32, on the model's device.

    ``seen`` (1 or n, 5, h, w) is what an inpainting model sees beside the latents.
    """
    params, sampler = batch.params, batch.sampler
    table = sampler.table_for(NoiseTable.named(model.config.schedule))
    begin = _begin(sampler, batch.scheduler, params, table, start)
    size = tuple(start.latents.shape[2:]) if start else (params.height // 8, params.width // 8)
    noise = batch_noise(model, batch, size, _full(sampler, batch.scheduler, begin, table))

    def guidance(model: LatentDiffusion, positive: Sequence[Part], negative: Part, calls: int = 0) -> Guided:
        return Guided(
            BatchNetwork(model, table, begin.sigmas, seen if sees_picture(model) else None),
            cfg,
            positive,
            negative,
            params.cfg_scale * sampler.cfg_factor,
            always_negative=sampler.cfg_factor != 1,
            calls=calls,
        )

    first = guidance(model, positive, negative)
    guided: Guided | Refined = first
    if refinement:
        second = refinement.load
        guided = Refined(first, lambda calls: guidance(*second(), calls), due(refinement.switch_at, table))
    denoise: Denoiser = sampler.wrap(guided, table) if sampler.wrap else guided
    if start and start.mask is not None:
        denoise = (keep_input if sampler.unit_start else keep)(denoise, start.latents, start.mask)
    # A sampler that makes its own steps makes them between these; over a picture, between the sigmas that are left.
    whole = {"sigma_min": table.sigma_min, "sigma_max": table.sigma_max, "steps": params.steps}
    options = sampler.arguments(
        eta=sampler.eta if params.eta is None else params.eta,
        table=table,
        direction=guided.direction,
        **({} if start else whole),
    )
    x = noised(sampler, begin, noise.initial(), start)
    latents = sampler.sample(denoise, x, begin.sigmas, noise=noise, on_step=on_step, **options)
    if start and start.mask is not None:
        latents = latents * start.mask + start.latents * (1 - start.mask)
    return latents


def due(switch_at: float, table: NoiseTable) -> Callable[[float], bool]:
    """Whether, at a sigma, the nearest level of the table is in the refiner's part."""
    levels = table.log_sigmas

    def is_due(sigma: float) -> bool:
        nearest = int(np.abs(levels - math.log(max(sigma, 1e-9))).argmin())
        return 1 - (nearest + 1) / len(levels) >= switch_at

    return is_due


def sees_picture(model: LatentDiffusion) -> bool:
    """Whether the model was trained to see the picture that it paints into."""
    return model.config.unet.in_channels == 9


def batch_noise(
    model: LatentDiffusion,
    batch: Batch,
    size: tuple[int, ...],
    brownian: Sequence[float] = (),
    *,
    varied: bool = True,
) -> ImageNoise:
    """The noise of a batch over latents of ``size`` (h, w); not ``varied``: of the main seeds alone."""
    params = batch.params
    return ImageNoise(
        batch.seeds,
        (model.config.vae.z_channels, *size),
        source=params.rng,
        subseeds=batch.subseeds,
        subseed_strength=params.subseed_strength if varied else 0.0,
        ensd=params.ensd,
        brownian=brownian,
        profile=batch.profile,
        device=model.device.device,
    )


def noised(sampler: SamplerSpec, begin: ImageStart, noise: Tensor, start: Start | None) -> Tensor:
    """What the sampler starts from: noise at full strength, or the picture with as much of it as it may lose."""
    first = begin.sigmas[0]
    if start is None:
        return noise * ((1 + first**2) ** 0.5 if sampler.unit_start else first)
    x = start.latents + noise * start.noise_multiplier * (begin.noised_to + start.extra_noise)
    if sampler.unit_start:  # A1111 noises to one level and samples as if it were the next lower one
        x = x * math.sqrt((1 + first**2) / (1 + begin.noised_to**2))
    return x


def _begin(
    sampler: SamplerSpec, scheduler: SchedulerSpec, params: GenerationParams, table: NoiseTable, start: Start | None
) -> ImageStart:
    if start:
        return image_start(sampler, scheduler, params.steps, start.strength, table, fix_steps=start.exact_steps)
    sigmas = sigmas_for(sampler, scheduler, params.steps, table)
    return ImageStart(sigmas, sigmas[0], params.steps, params.steps - 1)


def _full(sampler: SamplerSpec, scheduler: SchedulerSpec, begin: ImageStart, table: NoiseTable) -> Sequence[float]:
    """The schedule of which a run is the end: Brownian noise is that of the whole, however little of it is run."""
    if not sampler.brownian or begin.schedule_steps == 0:
        return ()
    return sigmas_for(sampler, scheduler, begin.schedule_steps, table)
