"""One-step methods for the probability-flow ODE."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from modules.diffusion.samplers.steps import Churn
from modules.diffusion.types import Denoiser, Noise, OnStep

if TYPE_CHECKING:
    from torch import Tensor


def euler(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    on_step: OnStep,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = 0.0,
    s_noise: float = 1.0,
) -> Tensor:
    """Euler's method: Karras et al. (2022), alg. 2 without the correction."""
    churn = Churn(noise, len(sigmas) - 1, s_churn, s_tmin, s_tmax, s_noise)
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x, sigma = churn(x, sigma, sigma_next)
        denoised = denoise(x, sigma, i)
        on_step(i, x, sigma, denoised)
        d = (x - denoised) / sigma
        x = x + d * (sigma_next - sigma)
    return x


def heun(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    on_step: OnStep,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = 0.0,
    s_noise: float = 1.0,
) -> Tensor:
    """Heun's method: Karras et al. (2022), alg. 2."""
    churn = Churn(noise, len(sigmas) - 1, s_churn, s_tmin, s_tmax, s_noise)
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x, sigma = churn(x, sigma, sigma_next)
        denoised = denoise(x, sigma, i)
        on_step(i, x, sigma, denoised)
        d = (x - denoised) / sigma
        x_next = x + d * (sigma_next - sigma)
        if sigma_next > 0:
            d_next = (x_next - denoise(x_next, sigma_next, i)) / sigma_next
            x_next = x + (d + d_next) / 2 * (sigma_next - sigma)
        x = x_next
    return x


def dpm_2(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    on_step: OnStep,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = 0.0,
    s_noise: float = 1.0,
) -> Tensor:
    """A midpoint method, its midpoint the geometric mean, after DPM-Solver-2: Lu et al. (2022), arXiv:2206.00927."""
    churn = Churn(noise, len(sigmas) - 1, s_churn, s_tmin, s_tmax, s_noise)
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x, sigma = churn(x, sigma, sigma_next)
        denoised = denoise(x, sigma, i)
        on_step(i, x, sigma, denoised)
        d = (x - denoised) / sigma
        if sigma_next > 0:
            middle = math.sqrt(sigma * sigma_next)
            x_middle = x + d * (middle - sigma)
            d = (x_middle - denoise(x_middle, middle, i)) / middle
        x = x + d * (sigma_next - sigma)
    return x


def heunpp2(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise, on_step: OnStep) -> Tensor:
    """Heun++: derivatives at this sigma and the next two, the later ones weighted by their share of the first sigma.

    Carzit's sd-webui-samplers-scheduler, where it was first published. Weights fall with sigma, so it ends as Euler.
    """
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma, i)
        on_step(i, x, sigma, denoised)
        d = (x - denoised) / sigma
        ahead = [s for s in sigmas[i + 1 : i + 3] if s != sigmas[-1]]
        guess, last, derivatives = x, sigma, [d]
        for s in ahead:
            guess = guess + derivatives[-1] * (s - last)
            derivatives.append((guess - denoise(guess, s, i)) / s)
            last = s
        weights = [s / (len(derivatives) * sigmas[0]) for s in ahead]
        mean = d * (1 - sum(weights))
        for weight, derivative in zip(weights, derivatives[1:], strict=True):
            mean = mean + derivative * weight
        x = x + mean * (sigma_next - sigma)
    return x


def restart(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    on_step: OnStep,
    s_noise: float = 1.0,
) -> Tensor:
    """Heun steps that now and then go back up by adding noise: Xu et al. (2023), arXiv:2306.14878, alg. 1."""
    last = sigmas[0]
    for i, (sigma, sigma_next) in enumerate(restart_steps(sigmas)):
        if sigma > last:
            x = x + noise(last, sigma) * (s_noise * math.sqrt(sigma**2 - last**2))
        denoised = denoise(x, sigma, i)
        on_step(i, x, sigma, denoised)
        d = (x - denoised) / sigma
        x_next = x + d * (sigma_next - sigma)
        if sigma_next > 0:
            d_next = (x_next - denoise(x_next, sigma_next, i)) / sigma_next
            x_next = x + (d + d_next) / 2 * (sigma_next - sigma)
        x, last = x_next, sigma_next
    return x


def restart_steps(sigmas: Sequence[float], low: float = 0.1, high: float = 2.0) -> list[tuple[float, float]]:
    """The steps of `restart`: about as many as there were, some of them spent going from ``high`` to ``low`` again.

    From 20 steps on 9 of them go once, from 36 on a quarter goes twice.
    """
    n = len(sigmas) - 1
    if n < 20:
        return list(pairwise(sigmas))
    excursion, times = (n // 4, 2) if n >= 36 else (9, 1)
    main = [*_karras(n - excursion * times, sigmas[-2], sigmas[0]), 0.0]
    bottom, top = (min(range(len(main)), key=lambda i: abs(main[i] - level)) for level in (low, high))
    steps = list(pairwise(main))
    if top >= bottom:
        return steps
    again = list(pairwise(_karras(excursion + 1, main[bottom], main[top])))
    return steps[:bottom] + again * times + steps[bottom:]


def _karras(n: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> list[float]:
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return [(high + i / max(n - 1, 1) * (low - high)) ** rho for i in range(n)]
