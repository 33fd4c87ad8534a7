"""Samplers, one function and one loop each, as the papers write them.

``x`` is a tensor of any float type, sigmas are floats. ``denoise(x, sigma, step)`` gives x0; ``d`` is the derivative
dx/dsigma of the probability-flow ODE, (x - x0) / sigma (Karras et al. 2022, arXiv:2206.00364, eq. 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from modules.diffusion.types import Denoiser, Noise, OnStep

if TYPE_CHECKING:
    from torch import Tensor

    from modules.diffusion.parameterization import NoiseTable


def ancestral_split(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """(down, up): go down to ``down``, then add noise of deviation ``up``, to arrive at ``sigma_next``.

    Song et al. (2021), arXiv:2010.02502, eq. 16, in sigma space.
    """
    if not eta or not sigma_next:
        return sigma_next, 0.0
    up = min(sigma_next, eta * math.sqrt(sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2))
    return math.sqrt(sigma_next**2 - up**2), up


def euler(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise, on_step: OnStep) -> Tensor:
    """Euler's method: Karras et al. (2022), alg. 2 without the correction."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        noise(sigma, sigma_next)  # unused without churn, but the reference draws it: later draws depend on the count
        denoised = denoise(x, sigma, i)
        on_step(i, x, sigma, denoised)
        d = (x - denoised) / sigma
        x = x + d * (sigma_next - sigma)
    return x


def euler_ancestral(
    denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise, on_step: OnStep, eta: float = 1.0
) -> Tensor:
    """Euler steps down, then fresh noise up; with eta 1 the ancestral sampling of Ho et al. (2020), alg. 2."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma, i)
        on_step(i, x, sigma, denoised)
        down, up = ancestral_split(sigma, sigma_next, eta)
        d = (x - denoised) / sigma
        x = x + d * (down - sigma)
        if sigma_next > 0:
            x = x + noise(sigma, sigma_next) * up
    return x


def heun(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise, on_step: OnStep) -> Tensor:
    """Heun's method: Karras et al. (2022), alg. 1."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        noise(sigma, sigma_next)
        denoised = denoise(x, sigma, i)
        on_step(i, x, sigma, denoised)
        d = (x - denoised) / sigma
        x_next = x + d * (sigma_next - sigma)
        if sigma_next > 0:
            d_next = (x_next - denoise(x_next, sigma_next, i)) / sigma_next
            x_next = x + (d + d_next) / 2 * (sigma_next - sigma)
        x = x_next
    return x


def dpmpp_2m(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise, on_step: OnStep) -> Tensor:
    """DPM-Solver++(2M): Lu et al. (2022), arXiv:2211.01095, alg. 2."""
    before: Tensor | None = None
    h_before = 0.0
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma, i)
        on_step(i, x, sigma, denoised)
        if sigma_next == 0:
            return denoised
        h = math.log(sigma / sigma_next)
        guess = denoised
        if before is not None:
            r = h_before / h
            guess = (1 + 1 / (2 * r)) * denoised - (1 / (2 * r)) * before
        x = (sigma_next / sigma) * x - math.expm1(-h) * guess
        before, h_before = denoised, h
    return x


def ddim_sigmas(steps: int, table: NoiseTable) -> list[float]:
    """DDIM's own levels: every floor(1000 / steps)-th timestep plus one, from the top, without a final 0."""
    total = len(table.sigmas)
    stride = max(total // steps, 1)
    timesteps = [min(t + 1, total - 1) for t in range(0, total, stride)]
    return [float(table.sigmas[t]) for t in reversed(timesteps)]


def ddim(
    denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise, on_step: OnStep, eta: float = 0.0
) -> Tensor:
    """Denoising diffusion implicit models: Song et al. (2021), arXiv:2010.02502, eq. 12, over sqrt(alpha_bar)."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma, i)
        on_step(i, x, sigma, denoised)
        d = (x - denoised) / sigma
        a, p = 1 / (1 + sigma**2), 1 / (1 + sigma_next**2)
        q = eta * math.sqrt((1 - p) / (1 - a) * (1 - a / p))
        x = denoised + d * math.sqrt((1 - p - q**2) / p) + noise(sigma, sigma_next) * (q / math.sqrt(p))
    return x
