"""Ancestral samplers: they add fresh noise at every step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from modules.diffusion.samplers.steps import ancestral_split
from modules.diffusion.types import Denoiser, Noise, OnStep

if TYPE_CHECKING:
    from torch import Tensor

    from modules.diffusion.parameterization import NoiseTable


def euler_ancestral(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    on_step: OnStep,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Tensor:
    """Euler steps down, then fresh noise up; with eta 1 the ancestral sampling of Ho et al. (2020), alg. 2."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma, i)
        on_step(i, x, sigma, denoised)
        down, up = ancestral_split(sigma, sigma_next, eta)
        d = (x - denoised) / sigma
        x = x + d * (down - sigma)
        if up > 0:
            x = x + noise(sigma, sigma_next) * (s_noise * up)
    return x


def dpm_2_ancestral(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    on_step: OnStep,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Tensor:
    """`dpm_2` down, then fresh noise up."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma, i)
        on_step(i, x, sigma, denoised)
        down, up = ancestral_split(sigma, sigma_next, eta)
        d = (x - denoised) / sigma
        if down > 0:
            middle = math.sqrt(sigma * down)
            x_middle = x + d * (middle - sigma)
            d = (x_middle - denoise(x_middle, middle, i)) / middle
        x = x + d * (down - sigma)
        if up > 0:
            x = x + noise(sigma, sigma_next) * (s_noise * up)
    return x


def dpmpp_2s_ancestral(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    on_step: OnStep,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Tensor:
    """DPM-Solver++(2S), Lu et al. (2022), arXiv:2211.01095, alg. 1 with r = 1/2, then fresh noise up."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma, i)
        on_step(i, x, sigma, denoised)
        down, up = ancestral_split(sigma, sigma_next, eta)
        if down == 0:
            x = denoised
        else:
            h = math.log(sigma / down)
            middle = math.sqrt(sigma * down)
            x_middle = (middle / sigma) * x - math.expm1(-h / 2) * denoised
            x = (down / sigma) * x - math.expm1(-h) * denoise(x_middle, middle, i)
        if up > 0:
            x = x + noise(sigma, sigma_next) * (s_noise * up)
    return x


def ddpm(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    on_step: OnStep,
    variance: str = "posterior",
) -> Tensor:
    """Ho et al. (2020), arXiv:2006.11239, alg. 2 with the posterior of eq. 6 and 7, in sigma space.

    ``variance``: "posterior" (their beta tilde) or "forward" (their beta), the two choices of sec. 3.2.
    """
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma, i)
        on_step(i, x, sigma, denoised)
        kept = sigma_next**2 / sigma**2
        x = denoised + (x - denoised) * kept
        if sigma_next > 0:
            removed = sigma**2 - sigma_next**2
            forward = removed * (1 + sigma_next**2) / (1 + sigma**2)
            x = x + noise(sigma, sigma_next) * math.sqrt(removed * kept if variance == "posterior" else forward)
    return x


def predictor_corrector(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    on_step: OnStep,
    snr: float = 0.16,
) -> Tensor:
    """Song et al. (2021), arXiv:2011.13456, alg. 2: an ancestral step (eq. 47), then Langevin dynamics (alg. 4).

    ``snr`` is r, the corrector's signal-to-noise ratio. Norms are taken per image, so that images stay independent.
    """
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma, i)
        on_step(i, x, sigma, denoised)
        down, up = ancestral_split(sigma, sigma_next, 1.0)
        x = denoised + (x - denoised) * (down / sigma)
        if sigma_next == 0:
            break
        x = x + noise(sigma, sigma_next) * up
        score = (denoise(x, sigma_next, i) - x) / sigma_next**2
        z = noise(sigma, sigma_next)
        sizes = [2 * (snr * float(a.norm()) / max(float(b.norm()), 1e-12)) ** 2 for a, b in zip(z, score, strict=True)]
        size = x.new_tensor(sizes).reshape(-1, *[1] * (x.dim() - 1))
        x = x + score * size + z * (2 * size).sqrt()
    return x


def lcm(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise, on_step: OnStep) -> Tensor:
    """Latent consistency models, Luo et al. (2023), arXiv:2310.04378, alg. 3: jump to x0, noise it again."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma, i)
        on_step(i, x, sigma, denoised)
        x = denoised
        if sigma_next > 0:
            x = x + noise(sigma, sigma_next) * sigma_next
    return x


def lcm_levels(table: NoiseTable) -> NoiseTable:
    """The 50 levels on which LCM models are distilled."""
    return table.every(len(table.sigmas) // 50)


def lcm_boundary(denoise: Denoiser, table: NoiseTable) -> Denoiser:
    """A consistency function is the identity at t = 0: Luo et al. (2023), eq. 9 with their scaling of t by 10."""

    def consistent(x: Tensor, sigma: float, step: int) -> Tensor:
        t = 10 * table.sigma_to_t(sigma)
        c_skip, c_out = 0.25 / (t**2 + 0.25), t / math.sqrt(t**2 + 0.25)
        return denoise(x, sigma, step) * c_out + x * c_skip

    return consistent
