"""The DDIM family, in sigma space.

The variance-preserving latent of the papers is ``x / sqrt(1 + sigma^2)``. Their schedules stop one level above 0 and
their answer is the variance-preserving latent there, hence the division at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from modules.diffusion.samplers.steps import ancestral_split
from modules.diffusion.types import Denoiser, Noise, OnStep

if TYPE_CHECKING:
    from torch import Tensor


def ddim(
    denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise, on_step: OnStep, eta: float = 0.0
) -> Tensor:
    """Song et al. (2021), "Denoising diffusion implicit models", arXiv:2010.02502, eq. 12 and 16 over sqrt(alpha)."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma, i)
        on_step(i, x, sigma, denoised)
        down, up = ancestral_split(sigma, sigma_next, eta)
        d = (x - denoised) / sigma
        x = denoised + d * down
        if up > 0:
            x = x + noise(sigma, sigma_next) * up
    return x / math.sqrt(1 + sigmas[-1] ** 2)


def ddim_cfgpp(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    on_step: OnStep,
    direction: Callable[[], Tensor],
    eta: float = 0.0,
) -> Tensor:
    """CFG++: Chung et al. (2024), arXiv:2406.08070, alg. 2. ``direction()`` is the last d without the prompt."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma, i)
        on_step(i, x, sigma, denoised)
        down, up = ancestral_split(sigma, sigma_next, eta)
        x = denoised + direction() * down
        if up > 0:
            x = x + noise(sigma, sigma_next) * up
    return x / math.sqrt(1 + sigmas[-1] ** 2)


def plms(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise, on_step: OnStep) -> Tensor:
    """Pseudo linear multistep: Liu et al. (2022), arXiv:2202.09778, eq. 11 and 12. The first step calls twice."""
    ds: list[Tensor] = []
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma, i)
        on_step(i, x, sigma, denoised)
        ds = [(x - denoised) / sigma, *ds][:4]
        match ds:
            case [d]:
                x_next = x + d * (sigma_next - sigma)
                mean = (d + (x_next - denoise(x_next, sigma_next, i)) / sigma_next) / 2 if sigma_next > 0 else d
            case [d, d1]:
                mean = (3 * d - d1) / 2
            case [d, d1, d2]:
                mean = (23 * d - 16 * d1 + 5 * d2) / 12
            case [d, d1, d2, d3]:
                mean = (55 * d - 59 * d1 + 37 * d2 - 9 * d3) / 24
        x = x + mean * (sigma_next - sigma)
    return x / math.sqrt(1 + sigmas[-1] ** 2)
