"""DPM-Solver++ for the reverse SDE. ``noise(sigma, sigma_next)`` should come from a Brownian path."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from modules.diffusion.samplers.steps import ancestral_split
from modules.diffusion.types import Denoiser, Noise, OnStep

if TYPE_CHECKING:
    from torch import Tensor


def dpmpp_sde(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    on_step: OnStep,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Tensor:
    """A single-step, second-order SDE-DPM-Solver++: k-diffusion, after Lu et al. (2022), arXiv:2211.01095, sec. 5."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma, i)
        on_step(i, x, sigma, denoised)
        if sigma_next == 0:
            return denoised
        middle = math.sqrt(sigma * sigma_next)
        down, up = ancestral_split(sigma, middle, eta)
        x_middle = (down / sigma) * x + (1 - down / sigma) * denoised
        if up > 0:
            x_middle = x_middle + noise(sigma, middle) * (s_noise * up)
        denoised_middle = denoise(x_middle, middle, i)
        down, up = ancestral_split(sigma, sigma_next, eta)
        x = (down / sigma) * x + (1 - down / sigma) * denoised_middle
        if up > 0:
            x = x + noise(sigma, sigma_next) * (s_noise * up)
    return x


def dpmpp_2m_sde(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    on_step: OnStep,
    eta: float = 1.0,
    s_noise: float = 1.0,
    solver_type: str = "midpoint",
) -> Tensor:
    """SDE-DPM-Solver++(2M): Lu et al. (2022), arXiv:2211.01095, eq. 19. ``solver_type``: "midpoint" or "heun"."""
    before: Tensor | None = None
    h_before = 0.0
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma, i)
        on_step(i, x, sigma, denoised)
        if sigma_next == 0:
            return denoised
        h = math.log(sigma / sigma_next)
        part = -math.expm1(-h * (1 + eta))
        x = (sigma_next / sigma * math.exp(-eta * h)) * x + part * denoised
        if before is not None:
            r = h_before / h
            weight = part / 2 if solver_type == "midpoint" else 1 - part / (h * (1 + eta))
            x = x + (weight / r) * (denoised - before)
        if eta:
            x = x + noise(sigma, sigma_next) * (s_noise * sigma_next * math.sqrt(-math.expm1(-2 * eta * h)))
        before, h_before = denoised, h
    return x


def dpmpp_3m_sde(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    on_step: OnStep,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Tensor:
    """The third-order multistep relative of `dpmpp_2m_sde`: k-diffusion, with the phi functions of arXiv:2211.01095."""
    earlier: list[Tensor] = []
    widths: list[float] = []
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma, i)
        on_step(i, x, sigma, denoised)
        if sigma_next == 0:
            return denoised
        h = math.log(sigma / sigma_next)
        H = h * (1 + eta)
        x = math.exp(-H) * x - math.expm1(-H) * denoised
        phi_2 = math.expm1(-H) / H + 1
        if len(earlier) == 2:
            r0, r1 = widths[0] / h, widths[1] / h
            u0, u1 = (denoised - earlier[0]) / r0, (earlier[0] - earlier[1]) / r1
            first, second = u0 + (u0 - u1) * (r0 / (r0 + r1)), (u0 - u1) / (r0 + r1)
            x = x + phi_2 * first - (phi_2 / H - 0.5) * second
        elif earlier:
            x = x + (phi_2 * h / widths[0]) * (denoised - earlier[0])
        if eta:
            x = x + noise(sigma, sigma_next) * (s_noise * sigma_next * math.sqrt(-math.expm1(-2 * eta * h)))
        earlier, widths = [denoised, *earlier][:2], [h, *widths][:2]
    return x
