"""Which noise levels a run visits: ``n`` sigmas from high to low, then 0."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from modules.diffusion.parameterization import NoiseTable
from modules.diffusion.types import SamplerSpec, SchedulerSpec


def uniform(n: int, sigma_min: float, sigma_max: float, *, table: NoiseTable, **_: Any) -> list[float]:
    """Evenly spaced timesteps from the last to 0, as k-diffusion's wrapper spaces them."""
    return [*(table.t_to_sigma(t) for t in np.linspace(len(table.sigmas) - 1, 0, n)), 0.0]


def karras(n: int, sigma_min: float, sigma_max: float, *, table: NoiseTable, rho: float = 7.0, **_: Any) -> list[float]:
    """Karras et al. (2022), arXiv:2206.00364, eq. 5."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return [*((high + u * (low - high)) ** rho for u in _fractions(n)), 0.0]


def exponential(n: int, sigma_min: float, sigma_max: float, *, table: NoiseTable, **_: Any) -> list[float]:
    """Evenly spaced in ln sigma."""
    low, high = math.log(sigma_min), math.log(sigma_max)
    return [*(math.exp(high + u * (low - high)) for u in _fractions(n)), 0.0]


def _fractions(n: int) -> list[float]:
    return [i / (n - 1) for i in range(n)] if n > 1 else [0.0]


def sigmas_for(sampler: SamplerSpec, scheduler: SchedulerSpec, steps: int, table: NoiseTable) -> list[float]:
    """The sigmas of a whole run, each a float32 value as the reference programs keep them."""
    if sampler.own_schedule:
        sigmas = sampler.own_schedule(steps, table)
    else:
        assert scheduler.schedule is not None, "Automatic is resolved by the plan"
        sigmas = scheduler.schedule(steps, table.sigma_min, table.sigma_max, table=table)
    return [float(np.float32(sigma)) for sigma in sigmas]
