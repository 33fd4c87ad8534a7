"""Building blocks shared by several samplers' steps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from modules.diffusion.types import Noise

if TYPE_CHECKING:
    from torch import Tensor


def ancestral_split(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """(down, up): go down to ``down``, then add noise of deviation ``up``, to arrive at ``sigma_next``.

    Song et al. (2021), arXiv:2010.02502, eq. 16, in sigma space.
    """
    if not eta or not sigma_next:
        return sigma_next, 0.0
    up = min(sigma_next, eta * math.sqrt(sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2))
    return math.sqrt(sigma_next**2 - up**2), up


class Churn:
    """Stochastic churn (Karras et al. 2022, alg. 2): noise added before a step, which then starts at a higher sigma.

    Karras et al. (2022), arXiv:2206.00364, alg. 2, lines 4 to 6. ``s_tmax`` 0: no upper end. With ``s_churn`` 0 no
    noise is drawn; otherwise every step draws, used or not, because later draws depend on the count.
    """

    def __init__(self, noise: Noise, steps: int, s_churn: float, s_tmin: float, s_tmax: float, s_noise: float):
        self._noise = noise
        self._gamma = min(s_churn / max(steps, 1), math.sqrt(2) - 1)
        self._range = s_tmin, s_tmax or math.inf
        self._s_noise = s_noise

    def __call__(self, x: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, float]:
        if self._gamma == 0:
            return x, sigma
        noise = self._noise(sigma, sigma_next)
        if not self._range[0] <= sigma <= self._range[1]:
            return x, sigma
        churned = sigma * (1 + self._gamma)
        return x + noise * (self._s_noise * math.sqrt(churned**2 - sigma**2)), churned
