"""Sampling: turns a planned batch and a loaded model into latents."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, zeros_like

from modules.checkpoints.families.base import PIX2PIX
from modules.checkpoints.model import LatentDiffusion
from modules.diffusion.guidance import Guided, Refined, Seeing, WeightedCond, keep, keep_input, keep_softly
from modules.diffusion.noise import ImageNoise
from modules.diffusion.parameterization import NoiseTable
from modules.diffusion.schedules import ImageStart, ScheduleOptions, image_start, sigmas_for
from modules.diffusion.types import Denoiser, Network, OnStep, StopSampling
from modules.errors import UserError
from modules.extension.contexts import PassRun
from modules.params.generation import GenerationParams, SoftInpainting
from modules.pipeline import sampling_options as choices
from modules.pipeline.batch_invariance import needs_single_image_batches
from modules.pipeline.cached_unet import CachedUNet
from modules.pipeline.hooks import Hooks
from modules.pipeline.init_image import InitImage
from modules.pipeline.plan import Batch


@dataclass(frozen=True)
class Start:
    """How an img2img run begins: latents, mask and schedule. txt2img has none and begins at full noise."""

    latents: Tensor
    """(n or 1, c, h, w), scaled."""
    strength: float
    exact_steps: bool = False
    noise_multiplier: float = 1.0
    extra_noise: float = 0.0
    mask: Tensor | None = None
    """(n or 1, 1, h, w), 1 = repaint. Where it is 0 the latents are kept."""
    soft: SoftInpainting | None = None
    """The options of soft inpainting; None: greys blend linearly."""


@dataclass(frozen=True)
class Refinement:
    """The refiner: a second model that finishes the run."""

    load: Callable[[], tuple[LatentDiffusion, Sequence[WeightedCond], WeightedCond]]
    """Loads the refiner and encodes the prompts with it, and what it sees beside them; called when it takes over."""
    switch_at: float
    """The share of the noise levels, from the highest down, that the first model samples."""


def generate(
    model: LatentDiffusion,
    batch: Batch,
    positive: Sequence[WeightedCond],
    negative: WeightedCond,
    *,
    on_step: OnStep,
    start: Start | None = None,
    image_cond: Tensor | None = None,
    refinement: Refinement | None = None,
    hooks: Hooks | None = None,
    init_images: Sequence[InitImage] = (),
) -> Tensor:
    """Sample one batch: scaled latents (n, c, h, w), float32, on the model's device.

    ``image_cond`` (1 or n, channels, h, w) is what an inpainting or pix2pix model sees beside the latents.
    """
    params, sampler, way = batch.params, batch.sampler, model.memory.way
    trained = model.config
    levels = choices.noise_table(
        params, trained.schedule, betas=trained.betas, zero_terminal_snr=trained.zero_terminal_snr
    )
    table = sampler.table_for(levels)
    options = choices.schedule_options(params, sdxl=model.config.family.sdxl_schedules)
    begin = _begin(batch, table, start, options)
    height, width = start.latents.shape[2:] if start else model.config.latent.size(params.width, params.height)
    size = (height, width)
    noise = batch_noise(model, batch, size, _full(batch, begin, table, options))
    scope = hooks.follow(batch, table.sigma_to_t) if hooks else None

    unseen = None
    if image_cond is not None:
        if is_guided_by_image(model, params):
            unseen = _unseen(positive, negative, image_cond)
        positive, negative = [Seeing(part, image_cond) for part in positive], Seeing(negative, image_cond)

    def guidance(
        model: LatentDiffusion,
        positive: Sequence[WeightedCond],
        negative: WeightedCond,
        calls: int = 0,
        unseen: WeightedCond | None = None,
    ) -> Guided:
        network: Network = CachedUNet(model, table, begin.sigmas)
        guide = choices.guidance(params)
        return Guided(
            hooks.network(network) if hooks else network,
            hooks.guidance(guide) if hooks else guide,
            positive,
            negative,
            params.cfg_scale * sampler.cfg_factor,
            skips=choices.skips(params, sampler, table, begin.t_enc + 1),
            alone=way.one_by_one
            or (
                params.kernels == "exact"
                and needs_single_image_batches(
                    model, size, len(batch.seeds), positive, negative, negatives=2 if unseen else 1
                )
            ),
            apart=way.sliced,
            always_negative=sampler.cfg_factor != 1,
            calls=calls,
            observer=scope,
            unseen=unseen,
            image_scale=params.init.image_cfg_scale if params.init else 1.0,
        )

    first = guidance(model, positive, negative, unseen=unseen)
    guided: Guided | Refined = first
    if refinement:
        second = refinement.load
        guided = Refined(first, lambda calls: guidance(*second(), calls), switch_test(refinement.switch_at, table))
    denoise: Denoiser = sampler.wrap(guided, table) if sampler.wrap else guided
    denoise = hooks.denoiser(denoise, guided) if hooks else denoise
    if start and start.mask is not None:
        denoise = _masked(denoise, start, start.mask, unit_start=sampler.unit_start)
    # A sampler that makes its own steps makes them between these; over a picture, between the sigmas that are left.
    whole = {"sigma_min": table.sigma_min, "sigma_max": table.sigma_max, "steps": params.steps}
    arguments = sampler.arguments(
        **choices.given(params, sampler),
        table=table,
        direction=guided.direction,
        prediction=model.config.prediction,
        **({} if start else whole),
    )
    x = noised(batch, begin, noise.initial(), start)
    run = pass_run(model, batch, begin.sigmas, init_images)
    x = hooks.before_pass(run, x) if hooks else x
    try:
        latents = sampler.sample(denoise, x, begin.sigmas, noise=noise, on_step=on_step, **arguments)
    except StopSampling:
        latents = guided.estimate()
    latents = hooks.after_sampling(run, latents) if hooks else latents
    if start and start.mask is not None and not start.soft:
        latents = latents * start.mask + start.latents * (1 - start.mask)
    return latents


def pass_run(
    model: LatentDiffusion, batch: Batch, sigmas: Sequence[float], init_images: Sequence[InitImage] = ()
) -> PassRun:
    """A pass as modifiers are told of it."""
    numbers = tuple(range(batch.first_image, batch.first_image + len(batch.seeds)))
    return PassRun(
        batch.sampling_pass,
        batch.params,
        model,
        tuple(sigmas),
        batch.seeds,
        numbers,
        tuple(image.image for image in init_images),
        tuple(image.mask for image in init_images if image.mask),
        batch.subseeds,
    )


def _masked(denoise: Denoiser, start: Start, mask: Tensor, *, unit_start: bool) -> Denoiser:
    """Wrap the denoiser so that it keeps what the mask protects."""
    if soft := start.soft:
        bias, preservation, boost = soft.schedule_bias, soft.preservation, soft.contrast_boost
        return keep_softly(denoise, start.latents, mask, bias=bias, preservation=preservation, boost=boost)
    return (keep_input if unit_start else keep)(denoise, start.latents, mask)


def switch_test(switch_at: float, table: NoiseTable) -> Callable[[float], bool]:
    """A test whether, at a sigma, the nearest noise level belongs to the refiner."""
    levels = table.log_sigmas

    def is_due(sigma: float) -> bool:
        nearest = int(np.abs(levels - math.log(max(sigma, 1e-9))).argmin())
        return 1 - (nearest + 1) / len(levels) >= switch_at

    return is_due


def is_guided_by_image(model: LatentDiffusion, params: GenerationParams) -> bool:
    """Whether a pix2pix model follows the init image with a strength of its own; at 1 it sees the image, no more."""
    return model.config.variant == PIX2PIX and params.init is not None and params.init.image_cfg_scale != 1


def _unseen(positive: Sequence[WeightedCond], negative: WeightedCond, image_cond: Tensor) -> WeightedCond:
    """The negative prompt before an empty picture."""
    if len(positive) > 1:
        raise UserError(
            "a prompt with AND cannot be combined with guidance by the picture",
            hint="leave out AND, or set Image CFG scale to 1",
            field="prompt",
        )
    return Seeing(negative, zeros_like(image_cond[:1]))


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
        resize_from=model.config.latent.size(max(params.seed_resize_from_w, 0), max(params.seed_resize_from_h, 0)),
        ensd=params.ensd,
        brownian=brownian,
        profile=batch.profile,
        device=model.device.device,
    )


def noised(batch: Batch, begin: ImageStart, noise: Tensor, start: Start | None) -> Tensor:
    """The sampler's initial x: full noise, or the init latents with the noise of the starting sigma."""
    first = begin.sigmas[0]
    if start is None:
        return noise * choices.start_scale(batch.params, batch.sampler, first)
    x = start.latents + noise * start.noise_multiplier * (begin.noised_to + start.extra_noise)
    if batch.sampler.unit_start:  # A1111 noises to one level and samples as if it were the next lower one
        x = x * math.sqrt((1 + first**2) / (1 + begin.noised_to**2))
    return x


def _begin(batch: Batch, table: NoiseTable, start: Start | None, options: ScheduleOptions) -> ImageStart:
    params = batch.params
    if start is None:
        sigmas = sigmas_for(batch.sampler, batch.scheduler, params.steps, table, options)
        return ImageStart(sigmas, sigmas[0], params.steps, params.steps - 1)
    return image_start(
        batch.sampler,
        batch.scheduler,
        params.steps,
        start.strength,
        table,
        options,
        fix_steps=start.exact_steps,
        short_ddim=batch.profile.short_ddim,
    )


def _full(batch: Batch, begin: ImageStart, table: NoiseTable, options: ScheduleOptions) -> Sequence[float]:
    """The schedule of the whole run, of which img2img runs the end: Brownian noise is drawn for the whole."""
    if not batch.sampler.brownian or begin.schedule_steps == 0:
        return ()
    return sigmas_for(batch.sampler, batch.scheduler, begin.schedule_steps, table, options)
