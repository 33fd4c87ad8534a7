"""Noise levels of a model, and how its prediction becomes x0. numpy only; tensors come in through their methods."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from modules.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class NoiseTable:
    """The noise levels a model was trained on: ``alphas_cumprod`` (steps,), Ho et al. (2020), arXiv:2006.11239.

    In sigma space level i has ``sigma_i = sqrt((1 - A_i) / A_i)``.
    """

    alphas_cumprod: Floats

    @classmethod
    def named(cls, schedule: str, steps: int = 1000) -> NoiseTable:
        """ "scaled_linear" (latent diffusion), "linear" (Ho et al.) or "cosine" (Nichol & Dhariwal 2021, eq. 17)."""
        if schedule == "scaled_linear":
            betas = np.linspace(math.sqrt(0.00085), math.sqrt(0.012), steps, dtype=np.float64) ** 2
        elif schedule == "linear":
            betas = np.linspace(1e-4, 0.02, steps, dtype=np.float64)
        elif schedule == "cosine":
            f = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
            betas = np.minimum(1 - f[1:] / f[:-1], 0.999)
        else:
            raise UserError(f"no noise schedule named {schedule!r}", hint="there are scaled_linear, linear and cosine")
        # Stored as float32 by every checkpoint and program: the last digits of sigma depend on it.
        return cls(np.cumprod(1 - betas).astype(np.float32).astype(np.float64))

    @cached_property
    def sigmas(self) -> Floats:
        return np.sqrt((1 - self.alphas_cumprod) / self.alphas_cumprod)

    @cached_property
    def log_sigmas(self) -> Floats:
        return np.log(self.sigmas)

    @property
    def sigma_min(self) -> float:
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        return float(self.sigmas[-1])

    def t_to_sigma(self, t: float) -> float:
        """Log-linear between the table's entries; ``t`` may be fractional."""
        low = math.floor(t)
        w = t - low
        high = min(low + 1, len(self.sigmas) - 1)
        return math.exp((1 - w) * float(self.log_sigmas[low]) + w * float(self.log_sigmas[high]))

    def sigma_to_t(self, sigma: float) -> float:
        """The inverse of `t_to_sigma`, clamped to the table."""
        logs = self.log_sigmas
        log_sigma = math.log(sigma)
        low = int(np.clip(np.searchsorted(logs, log_sigma, side="right") - 1, 0, len(logs) - 2))
        w = (float(logs[low]) - log_sigma) / float(logs[low] - logs[low + 1])
        return low + min(max(w, 0.0), 1.0)


def denoised(prediction: Tensor, x: Tensor, sigma: float, kind: str = "eps") -> Tensor:
    """The network's answer at ``x / sqrt(sigma^2 + 1)`` as x0.

    "eps": Ho et al. (2020), eq. 11 in sigma space. "v": Salimans & Ho (2022), arXiv:2202.00512, sec. 2.4.
    """
    if kind == "eps":
        return x - prediction * sigma
    if kind == "v":
        scale = sigma**2 + 1
        return x / scale - prediction * (sigma / math.sqrt(scale))
    raise UserError(f"no prediction type {kind!r}", hint="there are eps and v")
