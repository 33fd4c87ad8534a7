"""Noise schedules: the ``n`` sigmas of a run from high to low, then 0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modules.diffusion.parameterization import NoiseTable
from modules.diffusion.types import SamplerSpec, SchedulerSpec
from modules.errors import UserError


@dataclass(frozen=True)
class ScheduleOptions:
    """User options of a schedule; 0 keeps the model's or the scheduler's own value."""

    sigma_min: float = 0.0
    sigma_max: float = 0.0
    rho: float = 0.0
    """Replaces the exponent of Karras and Polyexponential."""
    alpha: float = 0.6
    beta: float = 0.6
    """The Beta distribution of "Beta"."""
    old_sigmas: bool = False
    """From 10 to 0.1 instead of the model's range."""
    discard_next_to_last: bool = False
    """Leave out the last sigma before 0, for every sampler."""
    sdxl: bool = False
    """"Align Your Steps" has anchors of its own for SDXL."""
    skip_type: str = "time_uniform"
    """UniPC's spacing: time_uniform, time_quadratic or logSNR."""


def uniform(n: int, sigma_min: float, sigma_max: float, *, table: NoiseTable, **_: Any) -> list[float]:
    """Evenly spaced timesteps from the last to the first, as k-diffusion's wrapper spaces them."""
    return [*(table.t_to_sigma(t) for t in np.linspace(table.timesteps[-1], table.timesteps[0], n)), 0.0]


def karras(n: int, sigma_min: float, sigma_max: float, *, table: NoiseTable, rho: float = 0.0, **_: Any) -> list[float]:
    """Karras et al. (2022), arXiv:2206.00364, eq. 5. ``rho`` 0: their 7."""
    rho = rho or 7.0
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return [*((high + u * (low - high)) ** rho for u in _fractions(n)), 0.0]


def exponential(n: int, sigma_min: float, sigma_max: float, *, table: NoiseTable, **_: Any) -> list[float]:
    """Evenly spaced in ln sigma."""
    low, high = math.log(sigma_min), math.log(sigma_max)
    return [*(math.exp(high + u * (low - high)) for u in _fractions(n)), 0.0]


def polyexponential(
    n: int, sigma_min: float, sigma_max: float, *, table: NoiseTable, rho: float = 0.0, **_: Any
) -> list[float]:
    """A power of the way through ln sigma; ``rho`` 1 (or 0) is `exponential`."""
    low, high = math.log(sigma_min), math.log(sigma_max)
    return [*(math.exp(low + (1 - u) ** (rho or 1.0) * (high - low)) for u in _fractions(n)), 0.0]


def sgm_uniform(n: int, sigma_min: float, sigma_max: float, *, table: NoiseTable, **_: Any) -> list[float]:
    """Evenly spaced timesteps without the last, as Stability's generative-models space them."""
    start, end = table.sigma_to_t(sigma_max), table.sigma_to_t(sigma_min)
    return [*(table.t_to_sigma(start + i / n * (end - start)) for i in range(n)), 0.0]


def normal(n: int, sigma_min: float, sigma_max: float, *, table: NoiseTable, **_: Any) -> list[float]:
    """Evenly spaced timesteps between the two sigmas."""
    start, end = table.sigma_to_t(sigma_max), table.sigma_to_t(sigma_min)
    return [*(table.t_to_sigma(start + u * (end - start)) for u in _fractions(n)), 0.0]


def kl_optimal(n: int, sigma_min: float, sigma_max: float, *, table: NoiseTable, **_: Any) -> list[float]:
    """Sabour et al. (2024), arXiv:2404.14507, eq. 12. It ends at ``sigma_min`` rather than at 0."""
    low, high = math.atan(sigma_min), math.atan(sigma_max)
    return [math.tan(i / n * low + (1 - i / n) * high) for i in range(n + 1)]


SD_ANCHORS = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
SDXL_ANCHORS = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)


def align_your_steps(
    n: int, sigma_min: float, sigma_max: float, *, table: NoiseTable, sdxl: bool = False, **_: Any
) -> list[float]:
    """Sabour et al. (2024), arXiv:2404.14507, app. C: levels optimized for 10 steps, log-linear between them."""
    logs = np.log((SDXL_ANCHORS if sdxl else SD_ANCHORS)[::-1])
    positions = np.linspace(0, len(logs) - 1, n)  # from the low end: one step starts at the lowest level
    return [*(math.exp(v) for v in np.interp(positions, np.arange(len(logs)), logs)[::-1]), 0.0]


def simple(n: int, sigma_min: float, sigma_max: float, *, table: NoiseTable, **_: Any) -> list[float]:
    """Every (levels / n)-th entry of the table, from its end."""
    stride = len(table.sigmas) / n
    return [*(float(table.sigmas[-1 - int(i * stride)]) for i in range(n)), 0.0]


def ddim_uniform(n: int, sigma_min: float, sigma_max: float, *, table: NoiseTable, **_: Any) -> list[float]:
    """Table entries 1, 1 + k, 1 + 2k, ... with k = floor(levels / n); they may be more than ``n``."""
    stride = max(len(table.sigmas) // n, 1)
    return [*(float(s) for s in table.sigmas[1::stride][::-1]), 0.0]


def beta(
    n: int,
    sigma_min: float,
    sigma_max: float,
    *,
    table: NoiseTable,
    alpha: float = 0.6,
    beta: float = 0.6,
    **_: Any,
) -> list[float]:
    """Quantiles of a Beta distribution: Lee et al. (2024), arXiv:2407.12173, "Beta sampling is all you need"."""
    quantiles = (beta_quantile(1 - u, alpha, beta) for u in _fractions(n))
    return [*(sigma_min + q * (sigma_max - sigma_min) for q in quantiles), 0.0]


def beta_quantile(p: float, a: float, b: float) -> float:
    """The inverse of `beta_cdf`, by bisection: x with ``beta_cdf(x, a, b) = p``."""
    if p in (0.0, 1.0):
        return p
    low, high = 0.0, 1.0
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if beta_cdf(middle, a, b) < p else (low, middle)
    return (low + high) / 2


def beta_cdf(x: float, a: float, b: float) -> float:
    """The regularized incomplete beta function I_x(a, b): DLMF 8.17.22, a continued fraction, from the inside out."""
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast below that point
        return 1 - beta_cdf(1 - x, b, a)
    if x <= 0:
        return 0.0
    tail = 1.0
    for m in range(60, 0, -1):
        odd = -(a + m - 1) * (a + b + m - 1) * x / ((a + 2 * m - 2) * (a + 2 * m - 1))
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        tail = 1 + odd / (1 + even / tail)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) / (a * tail)


def _fractions(n: int) -> list[float]:
    return [i / (n - 1) for i in range(n)] if n > 1 else [0.0]


def ddim_timesteps(n: int, table: NoiseTable) -> list[int]:
    """The timesteps of the DDIM family, rising: every floor(levels / n)-th plus one. They may be more than ``n``."""
    levels = len(table.sigmas)
    return [min(t + 1, levels - 1) for t in range(0, levels, max(levels // n, 1))]


def sigmas_for(
    sampler: SamplerSpec,
    scheduler: SchedulerSpec,
    steps: int,
    table: NoiseTable,
    options: ScheduleOptions | None = None,
) -> list[float]:
    """The sigmas of a whole run, rounded to float32 as the reference programs keep them.

    ``table`` is the model's; a sampler that needs another one (LCM) has it made here.
    """
    options = options or ScheduleOptions()
    table = sampler.table_for(table)
    if sampler.own_schedule:
        sigmas = sampler.own_schedule(ddim_timesteps(steps, table), table, skip_type=options.skip_type)
    else:
        sigmas = _scheduled(sampler, scheduler, steps, table, options)
    return [float(np.float32(sigma)) for sigma in sigmas]


def _scheduled(
    sampler: SamplerSpec, scheduler: SchedulerSpec, steps: int, table: NoiseTable, options: ScheduleOptions
) -> list[float]:
    assert scheduler.schedule is not None, "Automatic is resolved by the plan"
    low, high = (0.1, 10.0) if options.old_sigmas else (table.sigma_min, table.sigma_max)
    low, high = options.sigma_min or low, options.sigma_max or high
    if low >= high:
        raise UserError(
            f"the schedule would go from sigma {high:.4g} up to {low:.4g}",
            hint="choose a smaller Schedule min sigma or a larger Schedule max sigma",
            field="sigma_min" if options.sigma_min else "sigma_max",
        )
    discard = sampler.discard_next_to_last or options.discard_next_to_last
    sigmas = scheduler.schedule(
        steps + discard,
        low,
        high,
        table=table,
        rho=options.rho,
        alpha=options.alpha,
        beta=options.beta,
        sdxl=options.sdxl,
    )
    return sigmas[:-2] + sigmas[-1:] if discard else sigmas


@dataclass(frozen=True)
class ImageStart:
    """Where an img2img run enters the schedule: the sigmas it visits, and the sigma to which the image is noised
    first.
    """

    sigmas: list[float]
    noised_to: float
    """``sigmas[0]``, but for the DDIM family in A1111, which noises the image one level higher than it then assumes."""
    schedule_steps: int
    """The steps of the schedule of which ``sigmas`` is the end."""
    t_enc: int
    """A1111's name for the steps done, less one."""


def image_start(
    sampler: SamplerSpec,
    scheduler: SchedulerSpec,
    steps: int,
    strength: float,
    table: NoiseTable,
    options: ScheduleOptions | None = None,
    *,
    fix_steps: bool = False,
    short_ddim: bool = True,
) -> ImageStart:
    """The tail of a schedule for img2img, entered at denoising ``strength`` (0 to 1).

    ``fix_steps``: as many steps as asked, of a longer schedule; otherwise about ``steps * strength`` of them.
    ``short_ddim``: the DDIM family makes two steps fewer than the others and starts a level below the noise, as A1111
    has it; otherwise it makes as many, as far as there are levels, from where the noise is.
    """
    options = options or ScheduleOptions()
    part = min(strength, 0.999)
    if fix_steps and strength <= 0:
        return ImageStart([0.0], 0.0, 0, steps - 1)  # nothing to do: a sampler gives back what it gets
    total, t_enc = (int(steps / part), steps - 1) if fix_steps else (steps, int(part * steps))
    if not sampler.own_schedule:
        sigmas = sigmas_for(sampler, scheduler, total, table, options)[max(total - t_enc - 1, 0) :]
        return ImageStart(sigmas, sigmas[0], total, t_enc)
    timesteps = ddim_timesteps(total, table)
    for count in (t_enc,) if short_ddim else (t_enc + 1, t_enc + 2):  # UniPC makes as many steps as it gets timesteps
        used = timesteps[: max(count, 1)]
        own = sampler.own_schedule(used, table, skip_type=options.skip_type, whole=False)
        if len(own) == t_enc + 2:
            break
    if not short_ddim:
        return ImageStart([float(np.float32(sigma)) for sigma in own], float(np.float32(own[0])), total, t_enc)
    noised_to = float(np.float32(table.sigmas[timesteps[min(t_enc, len(timesteps) - 1)]]))
    return ImageStart([float(np.float32(sigma)) for sigma in own], noised_to, total, t_enc)


def own_ddim(timesteps: Sequence[int], table: NoiseTable, **_: Any) -> list[float]:
    """The DDIM family's own sigmas for ``timesteps`` (rising), from high to low. The last is not 0."""
    return [float(table.sigmas[t]) for t in reversed(timesteps)]
