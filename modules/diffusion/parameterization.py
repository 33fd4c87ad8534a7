"""Noise schedules of models (alphas_cumprod), and conversion of predictions to x0. numpy only; tensors are used
through their methods.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modules.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]

ZERO_SNR_ALPHA = 4.8973451890853435e-08
"""Replaces 0 at the last level of a zero-terminal-SNR table, so that its sigma stays finite."""


def scaled_linear(n: int = 1000, start: float = 0.00085, end: float = 0.012) -> Floats:
    """Betas (n,) of Rombach et al. (2022), arXiv:2112.10752: linear in sqrt(beta)."""
    return np.linspace(math.sqrt(start), math.sqrt(end), n) ** 2


def linear(n: int = 1000, start: float = 1e-4, end: float = 0.02) -> Floats:
    """Betas (n,) of Ho et al. (2020), arXiv:2006.11239, sec. 4."""
    return np.linspace(start, end, n)


def cosine(n: int = 1000) -> Floats:
    """Betas (n,) of Nichol & Dhariwal (2021), arXiv:2102.09672, eq. 17, with s = 0.008, clipped at 0.999."""
    f = np.cos((np.arange(n + 1) / n + 0.008) / 1.008 * math.pi / 2) ** 2
    betas: Floats = np.minimum(1 - f[1:] / f[:-1], 0.999)
    return betas


BETAS: Mapping[str, Callable[..., Floats]] = {"scaled_linear": scaled_linear, "linear": linear, "cosine": cosine}
ENDS = {"scaled_linear": (0.00085, 0.012), "linear": (1e-4, 0.02)}
"""The first and the last beta of those that have any to choose."""


@dataclass(frozen=True)
class Betas:
    """One of `BETAS` with its ends and the number of its levels."""

    schedule: str = "scaled_linear"
    start: float = 0.0
    end: float = 0.0
    steps: int = 1000

    @classmethod
    def named(cls, schedule: str) -> Betas:
        """As it is usual under that name."""
        start, end = ENDS.get(schedule, (0.0, 0.0))
        return cls(schedule, start, end)

    def is_usable(self) -> bool:
        """Whether its noise levels rise, as float32 too, and its last one leaves something of the picture."""
        alphas = NoiseTable.of(self).alphas_cumprod
        return bool(np.all(np.diff(alphas) < 0) and alphas[-1] >= ZERO_SNR_ALPHA)


@dataclass(frozen=True, eq=False)
class NoiseTable:
    """The noise levels of a model: ``alphas_cumprod`` (levels,), Ho et al. (2020), arXiv:2006.11239.

    In sigma space level i has ``sigma_i = sqrt((1 - A_i) / A_i)``; the network is told the timestep ``timesteps[i]``.
    """

    alphas_cumprod: Floats
    timesteps: Floats = field(default_factory=lambda: np.empty(0))
    """(levels,), rising; by default 0, 1, 2, ..."""
    quantized: bool = False
    """`sigma_to_t` gives the nearest level's timestep rather than one between two levels."""
    dtype: type[np.floating[Any]] = np.float64
    """The precision in which the table is computed."""

    def __post_init__(self) -> None:
        if not len(self.timesteps):
            object.__setattr__(self, "timesteps", np.arange(len(self.alphas_cumprod), dtype=np.float64))

    @classmethod
    def named(cls, schedule: str, steps: int = 1000) -> NoiseTable:
        """The table of one of `BETAS` by name."""
        if schedule not in BETAS:
            raise UserError(f"no noise schedule named {schedule!r}", hint=f"there are {', '.join(BETAS)}")
        return cls.from_betas(BETAS[schedule](steps))

    @classmethod
    def of(cls, betas: Betas) -> NoiseTable:
        ends = (betas.start, betas.end) if betas.schedule in ENDS else ()
        return cls.from_betas(BETAS[betas.schedule](betas.steps, *ends))

    @classmethod
    def from_betas(cls, betas: Floats) -> NoiseTable:
        """The table of given betas (levels,) of the forward process."""
        # Stored as float32 by every checkpoint and program: the last digits of sigma depend on it.
        return cls(np.cumprod(1 - betas).astype(np.float32).astype(np.float64))

    def zero_terminal_snr(self) -> NoiseTable:
        """Rescale to zero terminal SNR: Lin et al. (2024), arXiv:2305.08891, alg. 1. The last level is (almost) pure
        noise.
        """
        # float32: next to the end these are differences of nearly equal numbers, and the reference has them so.
        root = np.sqrt(self.alphas_cumprod.astype(np.float32))
        first, last = root[0], root[-1]
        root = (root - last) * (first / (first - last))
        alphas = (root**2).astype(np.float64)
        alphas[-1] = ZERO_SNR_ALPHA
        return replace(self, alphas_cumprod=alphas)

    def half(self) -> NoiseTable:
        """The table computed in float16, as old versions of A1111 did ("downcast alphas_cumprod")."""
        return replace(self, dtype=np.float16)

    def quantize(self) -> NoiseTable:
        return replace(self, quantized=True)

    def every(self, stride: int) -> NoiseTable:
        """Only levels ``stride - 1, 2 stride - 1, ...``: those on which a distilled model was trained."""
        picked = slice(stride - 1, None, stride)
        return replace(
            self, alphas_cumprod=self.alphas_cumprod[picked], timesteps=self.timesteps[picked], quantized=True
        )

    @cached_property
    def sigmas(self) -> Floats:
        """All sigmas (levels,), rising."""
        alphas = self.alphas_cumprod.astype(self.dtype)
        return np.sqrt((1 - alphas) / alphas)

    @cached_property
    def log_sigmas(self) -> Floats:
        return np.log(self.sigmas).astype(np.float64)

    @property
    def sigma_min(self) -> float:
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        return float(self.sigmas[-1])

    def t_to_sigma(self, t: float) -> float:
        """The sigma at timestep ``t``, which may be fractional: log-linear between the table's levels."""
        level = np.interp(t, self.timesteps, np.arange(len(self.timesteps)))
        low = min(math.floor(level), len(self.timesteps) - 2)
        w = float(level) - low
        return math.exp((1 - w) * float(self.log_sigmas[low]) + w * float(self.log_sigmas[low + 1]))

    def sigma_to_t(self, sigma: float) -> float:
        """The inverse of `t_to_sigma`, clamped to the table."""
        logs, log_sigma = self.log_sigmas, math.log(sigma)
        if self.quantized:
            return float(self.timesteps[np.abs(logs - log_sigma).argmin()])
        low = int(np.clip(np.searchsorted(logs, log_sigma, side="right") - 1, 0, len(logs) - 2))
        w = (float(logs[low]) - log_sigma) / float(logs[low] - logs[low + 1])
        return float(np.interp(low + min(max(w, 0.0), 1.0), np.arange(len(logs)), self.timesteps))


def denoised(prediction: Tensor, x: Tensor, sigma: float, kind: str = "eps") -> Tensor:
    """Convert the network's output at ``x / sqrt(sigma^2 + 1)`` to x0.

    "eps": Ho et al. (2020), eq. 11 in sigma space. "v": Salimans & Ho (2022), arXiv:2202.00512, sec. 2.4.
    """
    if kind == "eps":
        return x - prediction * sigma
    if kind == "v":
        scale = sigma**2 + 1
        return x / scale - prediction * (sigma / math.sqrt(scale))
    raise UserError(f"no prediction type {kind!r}", hint="there are eps and v")
