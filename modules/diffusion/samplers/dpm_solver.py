"""DPM-Solver: Lu et al. (2022), arXiv:2206.00927. Steps are taken in lambda = -ln sigma."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from modules.diffusion.samplers.steps import ancestral_split
from modules.diffusion.types import Denoiser, Noise, OnStep

if TYPE_CHECKING:
    from torch import Tensor

Eps = Callable[["Tensor", float], "Tensor"]
"""The predicted noise at (x, lambda)."""


def dpm_fast(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    on_step: OnStep,
    eta: float = 1.0,
    s_noise: float = 1.0,
    sigma_min: float = 0.0,
    sigma_max: float = 0.0,
    steps: int = 0,
) -> Tensor:
    """DPM-Solver-fast, sec. 3.4: third-order steps even in lambda, ``steps`` network calls, down to ``sigma_min``.

    Limits and count are those of ``sigmas`` where they are not given.
    """
    sigma_max, sigma_min, n = sigma_max or sigmas[0], sigma_min or sigmas[-2], steps or len(sigmas) - 1
    count = n // 3 + 1
    orders = [3] * (count - 2) + [2, 1] if n % 3 == 0 else [3] * (count - 1) + [n % 3]
    lambdas = [float(v) for v in np.linspace(-math.log(sigma_max), -math.log(sigma_min), count + 1)]
    for i, (order, (start, end)) in enumerate(zip(orders, pairwise(lambdas), strict=True)):
        eps = _eps(denoise, i)
        down, up = _split(start, end, lambdas[-1], eta)
        first = eps(x, start)
        on_step(i, x, math.exp(-start), x - first * math.exp(-start))
        if order == 1:
            x = _step_1(x, start, down, first)
        elif order == 2:
            x, _ = _step_2(eps, x, start, down, first, r=1 / 2)
        else:
            x, _ = _step_3(eps, x, start, down, first)
        if eta:
            x = x + noise(math.exp(-start), math.exp(-end)) * (s_noise * up)
    return x


def dpm_adaptive(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    on_step: OnStep,
    eta: float = 1.0,
    s_noise: float = 1.0,
    sigma_min: float = 0.0,
    sigma_max: float = 0.0,
    rtol: float = 0.05,
    atol: float = 0.0078,
    h: float = 0.05,
) -> Tensor:
    """DPM-Solver-12/23's idea at order 3, app. C: as large steps as the difference between two orders allows.

    The error is that of the whole batch. ``h`` is the first step in lambda.
    """
    start, end = -math.log(sigma_max or sigmas[0]), -math.log(sigma_min or sigmas[-2])
    exponent = 1 / (1.5 if eta else 3)
    before = x
    i = 0
    while start < end - 1e-5:
        eps = _eps(denoise, i)
        target = min(end, start + h)
        down, up = _split(start, target, end, eta)
        first = eps(x, start)
        on_step(i, x, math.exp(-start), x - first * math.exp(-start))
        low, second = _step_2(eps, x, start, down, first, r=1 / 3)
        high, _ = _step_3(eps, x, start, down, first, second)
        tolerance = (low.abs().maximum(before.abs()) * rtol).clamp(min=atol)
        error = float(((low - high) / tolerance).square().mean().sqrt())
        if not math.isfinite(error):  # no step is small enough for what is no number
            return low
        factor = 1 + math.atan((1 / (error + 1e-8)) ** exponent - 1)
        if factor >= 0.81:
            before, x = low, high
            if eta:
                x = x + noise(math.exp(-start), math.exp(-target)) * (s_noise * up)
            start = target
        h *= factor
        i += 1
    return x


def _eps(denoise: Denoiser, step: int) -> Eps:
    def eps(x: Tensor, lam: float) -> Tensor:
        sigma = math.exp(-lam)
        return (x - denoise(x, sigma, step)) / sigma

    return eps


def _split(start: float, end: float, last: float, eta: float) -> tuple[float, float]:
    """(lambda to step down to, deviation of the noise that leads back up to ``end``)."""
    if not eta:
        return end, 0.0
    down, _ = ancestral_split(math.exp(-start), math.exp(-end), eta)
    target = min(last, -math.log(down)) if down > 0 else last
    return target, math.sqrt(max(math.exp(-2 * end) - math.exp(-2 * target), 0.0))


def _step_1(x: Tensor, start: float, end: float, first: Tensor) -> Tensor:
    """Eq. 3.7."""
    return x - first * (math.exp(-end) * math.expm1(end - start))


def _step_2(eps: Eps, x: Tensor, start: float, end: float, first: Tensor, *, r: float) -> tuple[Tensor, Tensor]:
    """Alg. 4, and the noise predicted at its middle point."""
    h = end - start
    second = eps(x - first * (math.exp(-start - r * h) * math.expm1(r * h)), start + r * h)
    slope = (second - first) * (math.exp(-end) / (2 * r) * math.expm1(h))
    return _step_1(x, start, end, first) - slope, second


def _step_3(
    eps: Eps, x: Tensor, start: float, end: float, first: Tensor, second: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Alg. 5 with r1 = 1/3 and r2 = 2/3, and the noise predicted at its second middle point."""
    h, r1, r2 = end - start, 1 / 3, 2 / 3
    if second is None:
        second = eps(x - first * (math.exp(-start - r1 * h) * math.expm1(r1 * h)), start + r1 * h)
    at = math.exp(-start - r2 * h)
    slope = (second - first) * (at * (r2 / r1) * (math.expm1(r2 * h) / (r2 * h) - 1))
    third = eps(x - first * (at * math.expm1(r2 * h)) - slope, start + r2 * h)
    bend = (third - first) * (math.exp(-end) / r2 * (math.expm1(h) / h - 1))
    return _step_1(x, start, end, first) - bend, third
