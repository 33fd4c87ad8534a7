"""Multistep samplers: they reuse earlier evaluations instead of making more."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from modules.diffusion.types import Denoiser, Noise, OnStep

if TYPE_CHECKING:
    from torch import Tensor

_NODES, _WEIGHTS = (tuple(map(float, values)) for values in np.polynomial.legendre.leggauss(12))


def lms(
    denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise, on_step: OnStep, order: int = 4
) -> Tensor:
    """Linear multistep: Adams-Bashforth in sigma, on uneven steps (Hairer et al., "Solving ODEs I", sec. III.5)."""
    derivatives: list[Tensor] = []
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma, i)
        on_step(i, x, sigma, denoised)
        derivatives = [(x - denoised) / sigma, *derivatives][:order]
        points = sigmas[i::-1][: len(derivatives)]
        x = x + _combined(derivatives, _lagrange_integrals(points, sigma, sigma_next))
    return x


def ipndm(
    denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise, on_step: OnStep, order: int = 4
) -> Tensor:
    """Improved PNDM: Adams-Bashforth with the weights of even steps.

    Zhang & Chen (2023), arXiv:2204.13902, app. H.2, after Liu et al. (2022), arXiv:2202.09778, eq. 12.
    """
    weights = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
    derivatives: list[Tensor] = []
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma, i)
        on_step(i, x, sigma, denoised)
        if sigma_next == 0:
            return denoised
        derivatives = [(x - denoised) / sigma, *derivatives][:order]
        x = x + _combined(derivatives, weights[len(derivatives) - 1]) * (sigma_next - sigma)
    return x


def deis(
    denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise, on_step: OnStep, order: int = 3
) -> Tensor:
    """tAB-DEIS: Zhang & Chen (2023), arXiv:2204.13902, eq. 14 and 15.

    The predicted noise is a polynomial in the time t of the variance-preserving process, integrated exactly over sigma.
    """
    derivatives: list[Tensor] = []
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma, i)
        on_step(i, x, sigma, denoised)
        if sigma_next == 0:
            return denoised
        derivatives = [(x - denoised) / sigma, *derivatives][:order]
        times = [_vp_time(s) for s in sigmas[i::-1][: len(derivatives)]]
        x = x + _combined(derivatives, _lagrange_integrals(times, times[0], _vp_time(sigma_next), _vp_speed))
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


def _combined(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    total = tensors[0] * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total = total + tensor * weight
    return total


def _lagrange_integrals(
    points: Sequence[float], start: float, end: float, speed: Callable[[float], float] = lambda _: 1.0
) -> list[float]:
    """Integrals over [start, end] of each Lagrange basis polynomial of ``points``, times ``speed``; Gauss-Legendre."""

    def basis(k: int, at: float) -> float:
        return math.prod((at - p) / (points[k] - p) for j, p in enumerate(points) if j != k)

    half, middle = (end - start) / 2, (end + start) / 2
    nodes = [(middle + half * node, half * weight) for node, weight in zip(_NODES, _WEIGHTS, strict=True)]
    return [sum(weight * basis(k, at) * speed(at) for at, weight in nodes) for k in range(len(points))]


BETA_MIN, BETA_RANGE = 0.1, 19.9
"""beta(t) = 0.1 + 19.9 t: Song et al. (2021), arXiv:2011.13456, app. C."""


def _vp_time(sigma: float) -> float:
    """t of the variance-preserving process with that sigma: sigma^2 + 1 = exp(integral of beta from 0 to t)."""
    return (math.sqrt(BETA_MIN**2 + 2 * BETA_RANGE * math.log1p(sigma**2)) - BETA_MIN) / BETA_RANGE


def _vp_speed(t: float) -> float:
    """dsigma/dt."""
    variance = math.expm1(BETA_MIN * t + BETA_RANGE * t**2 / 2)
    return (BETA_MIN + BETA_RANGE * t) * (variance + 1) / (2 * math.sqrt(variance))
