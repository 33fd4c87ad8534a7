"""Derives sampling options from a request: noise levels, schedule options, guidance."""

from __future__ import annotations

from modules.checkpoints.families.base import ModelConfig
from modules.diffusion.guidance import Skip, cfg, rescaled, skip_early, skip_low
from modules.diffusion.parameterization import Betas, NoiseTable
from modules.diffusion.schedules import ScheduleOptions
from modules.diffusion.types import Guidance, SamplerSpec
from modules.params.generation import GenerationParams

ZERO_SNR = "Zero Terminal SNR"


def noise_table(
    params: GenerationParams, schedule: str, *, betas: Betas | None = None, zero_terminal_snr: bool = False
) -> NoiseTable:
    """The noise levels of a model trained on ``schedule``, or on ``betas``, with the request's changes."""
    table = NoiseTable.of(betas) if betas else NoiseTable.named(schedule)
    if zero_terminal_snr or params.sd_noise_schedule == ZERO_SNR:
        table = table.zero_terminal_snr()
    if params.use_downcasted_alpha_bar:
        table = table.half()
    return table.quantize() if params.enable_quantization else table


def said_beside(config: ModelConfig, params: GenerationParams) -> dict[str, str]:
    """Changes that make a request say what a model's card or yaml says of its predictions: text and recipe are read
    where those may not lie.
    """
    if not config.said_beside or params.prediction != "auto":
        return {}
    zero = {"sd_noise_schedule": ZERO_SNR} if config.zero_terminal_snr else {}
    return {"prediction": config.prediction, **zero}


def schedule_options(params: GenerationParams, *, sdxl: bool = False) -> ScheduleOptions:
    """The options of a schedule. ``sdxl``: schedules with special levels for SDXL use them."""
    return ScheduleOptions(
        sigma_min=params.sigma_min,
        sigma_max=params.sigma_max,
        rho=params.rho,
        alpha=params.beta_dist_alpha,
        beta=params.beta_dist_beta,
        old_sigmas=params.use_old_karras_scheduler_sigmas,
        discard_next_to_last=params.always_discard_next_to_last_sigma,
        sdxl=sdxl,
        skip_type=params.uni_pc_skip_type,
    )


def guidance(params: GenerationParams) -> Guidance:
    return rescaled(cfg, params.cfg_rescale) if params.cfg_rescale else cfg


def skips(params: GenerationParams, sampler: SamplerSpec, table: NoiseTable, steps: int) -> list[Skip]:
    """The rules for skipping the negative prompt, in a pass of ``steps`` steps."""

    def timestep(sigma: float) -> float:
        return round(table.sigma_to_t(sigma), 3)  # a sigma is a float32, its timestep a whole number

    return [
        skip_early(params.skip_early_cond, steps * (2 if sampler.second_order else 1)),
        skip_low(
            params.s_min_uncond,
            every=params.s_min_uncond_all,
            of=timestep if sampler.own_schedule else float,  # A1111's DDIM family knows no sigmas
        ),
    ]


def start_scale(params: GenerationParams, sampler: SamplerSpec, sigma: float) -> float:
    """The factor on the initial noise of a run from ``sigma``."""
    exact = sampler.unit_start or params.sgm_noise_multiplier
    return float((1 + sigma**2) ** 0.5) if exact else sigma


def given(params: GenerationParams, sampler: SamplerSpec) -> dict[str, object]:
    """The request's values for the sampler's parameters, under the sampler's names."""
    chosen = {own: getattr(params, name) for name, own in sampler.takes.items()}
    return {"eta": params.eta_for(sampler.eta), **chosen}
