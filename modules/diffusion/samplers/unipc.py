"""UniPC: Zhao et al. (2023), "UniPC: a unified predictor-corrector framework", arXiv:2302.04867."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from modules.diffusion.types import Denoiser, Noise, OnStep

if TYPE_CHECKING:
    from torch import Tensor

    from modules.diffusion.parameterization import NoiseTable


@dataclass(frozen=True)
class Level:
    """A noise level of the variance-preserving process, at time ``t`` from 0 to 1."""

    t: float
    log_alpha: float

    @property
    def alpha(self) -> float:
        return math.exp(self.log_alpha)

    @property
    def sigma(self) -> float:
        return math.sqrt(-math.expm1(2 * self.log_alpha))

    @property
    def lam(self) -> float:
        return self.log_alpha - math.log(self.sigma)


def level_at(t: float, table: NoiseTable) -> Level:
    """The level at time ``t``: ln alpha is interpolated linearly between the table's times, which are 1 / levels
    apart and end at 1.
    """
    n = len(table.alphas_cumprod)
    return Level(t, float(np.interp(t, (np.arange(n) + 1) / n, np.log(table.alphas_cumprod) / 2)))


def whole_timesteps(times: Sequence[float], n: int) -> list[int]:
    """Map ``times``, from 1 down, to timesteps of a table of ``n``, truncated to whole ones.

    In float32, whose rounding decides where a time lies on a timestep. Evenly spaced times are rounded once from both
    ends, as torch.linspace does.

    >>> whole_timesteps([1.0, 0.5005, 0.001], 1000)
    [999, 499, 0]
    """
    given, steps = np.array(times), np.arange(len(times))
    exact = given
    if np.allclose(given, np.linspace(given[0], given[-1], len(given)), rtol=0, atol=1e-7):
        first, last = (np.float32(round(t * n - 1)) / np.float32(n) + np.float32(1 / n) for t in given[[0, -1]])
        step = float((last - first) / np.float32(max(len(given) - 1, 1)))
        exact = np.where(steps < len(given) // 2, first + step * steps, last - step * steps[::-1])
    one = np.float32(1)
    cut = (exact.astype(np.float32) - one / np.float32(n)) * np.float32(n)
    return [int(t) for t in np.clip(cut, 0, n - 1)]


def own_unipc(
    timesteps: Sequence[int],
    table: NoiseTable,
    *,
    skip_type: str = "time_uniform",
    whole: bool = True,
    **_: Any,
) -> list[float]:
    """UniPC's own sigmas: as many steps as ``timesteps`` has. ``whole``: start at 1 rather than at the last
    timestep.

    The sigma of a time is that at which the network is called: log-linear between the table's.
    """
    n = len(table.alphas_cumprod)
    start, end, count = 1.0 if whole else (timesteps[-1] + 1) / n, 1 / n, len(timesteps) + 1
    if skip_type == "logSNR":
        lams = np.linspace(level_at(start, table).lam, level_at(end, table).lam, count)
        log_alphas = -np.logaddexp(0, -2 * lams) / 2
        known = np.log(table.alphas_cumprod)[::-1] / 2
        times = np.interp(log_alphas, known, (np.arange(n) + 1)[::-1] / n)
    elif skip_type == "time_quadratic":
        times = np.linspace(math.sqrt(start), math.sqrt(end), count) ** 2
    else:
        times = np.linspace(start, end, count)
    return [table.t_to_sigma(min(max((float(t) - 1 / n) * n, 0.0), n - 1.0)) for t in times]


def unipc(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    on_step: OnStep,
    table: NoiseTable,
    order: int = 3,
    variant: str = "bh1",
    lower_order_final: bool = True,
    prediction: str = "eps",
) -> Tensor:
    """Alg. 7 and 8 (UniP and UniC with data prediction), ``variant`` bh1, bh2 (sec. 3.3) or vary_coeff (app. C).

    The corrected point's answer is not asked for again: n calls in n steps. The last step is not corrected.
    ``prediction`` is what the model answers: A1111 turns a "v" into noise by the level of the whole timestep below.
    """
    n = len(sigmas) - 1
    order = min(order, n)
    table = replace(table, quantized=False)
    size = len(table.alphas_cumprod)
    times = [(table.sigma_to_t(s) + 1) / size for s in sigmas]
    levels, whole = [level_at(t, table) for t in times], whole_timesteps(times, size)

    def answer(i: int, x: Tensor) -> Tensor:
        scale, sigma = math.sqrt(1 + sigmas[i] ** 2), sigmas[i]
        denoised = denoise(x * scale, sigma, i)
        on_step(i, x * scale, sigma, denoised)
        if prediction == "v":
            level = table.alphas_cumprod[whole[i]]
            v = (x / scale - denoised) * (scale / sigma)
            eps = v * math.sqrt(level) + x * math.sqrt(1 - level)
        else:
            eps = (x * scale - denoised) / sigma
        return (x - eps * levels[i].sigma) / levels[i].alpha

    x = x / math.sqrt(1 + sigmas[0] ** 2)
    answers = [answer(0, x)] if n else []
    for i in range(1, n + 1):
        p = i if i < order else min(order, n + 1 - i) if lower_order_final else order
        now, then, last = levels[i], levels[i - 1], answers[-1]
        h = now.lam - then.lam
        ratios = [(levels[i - 1 - k].lam - then.lam) / h for k in range(1, p)]
        differences = [(answers[-1 - k] - last) / r for k, r in zip(range(1, p), ratios, strict=True)]
        predictor, corrector = coefficients(variant, -h, ratios)
        base = x * (now.sigma / then.sigma) - last * (now.alpha * math.expm1(-h))
        x = _minus(base, differences, [now.alpha * c for c in predictor])
        if i < n:
            ahead = answer(i, x)
            x = _minus(base, [*differences, ahead - last], [now.alpha * c for c in corrector])
            answers = [*answers, ahead][-order:]
    return x


def coefficients(variant: str, z: float, ratios: Sequence[float]) -> tuple[list[float], list[float]]:
    """Weights of the differences D_k in predictor and corrector, the last of the corrector's for the new answer's.

    ``z`` is -h; theorem 3.1: the weights solve ``R rho = phi / B(h)``.
    """
    p = len(ratios) + 1
    r = np.array([*ratios, 1.0])
    phis = [math.expm1(z)]
    for k in range(1, p + 2):
        phis.append(phis[-1] / z - 1 / math.factorial(k))
    if variant == "vary_coeff":
        return _varying(r, phis)
    b_h = z if variant == "bh1" else math.expm1(z)
    powers = np.stack([r**j for j in range(p)])
    targets = np.array([phis[k] * math.factorial(k) / b_h for k in range(1, p + 1)])
    predictor = [0.5] if p == 2 else np.linalg.solve(powers[:-1, :-1], targets[:-1]) if p > 2 else []
    corrector = [0.5] if p == 1 else np.linalg.solve(powers, targets)
    return [b_h * float(v) for v in predictor], [b_h * float(v) for v in corrector]


def _varying(r: np.ndarray[Any, Any], phis: Sequence[float]) -> tuple[list[float], list[float]]:
    """Coefficients that vary with h, app. C. The newest answer's weight is from the last row but one, as published."""
    p = len(r)
    c = np.stack([r**k / math.factorial(k + 1) for k in range(p)], axis=1)
    inverse = np.linalg.inv(c)
    predictor = np.array(phis[1:p]) @ np.linalg.inv(c[:-1, :-1]) if p > 1 else np.empty(0)
    corrector = np.array(phis[1:p]) @ inverse[:-1, :-1] if p > 1 else np.empty(0)
    newest = phis[p] * inverse[max(p - 2, 0), -1]
    return [float(v) for v in predictor], [*(float(v) for v in corrector), float(newest)]


def _minus(base: Tensor, tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    for tensor, weight in zip(tensors, weights, strict=True):
        base = base - tensor * weight
    return base
