"""The forward process and the loss, as the papers state them. Latents are (b, c, h, w), timesteps 0..999."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TIMESTEPS = 1000


def linear(n: int = TIMESTEPS) -> Tensor:
    """Ho et al. (2020), arXiv:2006.11239, sec. 4: betas from 1e-4 to 0.02."""
    return torch.linspace(1e-4, 0.02, n, dtype=torch.float64)


def scaled_linear(n: int = TIMESTEPS) -> Tensor:
    """Rombach et al. (2022), arXiv:2112.10752: linear in sqrt(beta), from 0.00085 to 0.012."""
    return torch.linspace(0.00085**0.5, 0.012**0.5, n, dtype=torch.float64) ** 2


def cosine(n: int = TIMESTEPS) -> Tensor:
    """Nichol & Dhariwal (2021), arXiv:2102.09672, eq. 17, with s = 0.008 and betas clipped at 0.999."""

    def f(t: Tensor) -> Tensor:
        return torch.cos((t / n + 0.008) / 1.008 * math.pi / 2) ** 2

    t = torch.arange(n + 1, dtype=torch.float64)
    return (1 - f(t[1:]) / f(t[:-1])).clamp(max=0.999)


SCHEDULES = {"linear": linear, "scaled_linear": scaled_linear, "cosine": cosine}
PREDICTIONS = ("eps", "v")


class Process:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise: Ho et al. (2020), eq. 4."""

    def __init__(self, schedule: str = "scaled_linear", prediction: str = "eps"):
        if schedule not in SCHEDULES or prediction not in PREDICTIONS:
            known = f"schedules {sorted(SCHEDULES)}, predictions {list(PREDICTIONS)}"
            raise ValueError(f"no schedule {schedule!r} with prediction {prediction!r}; there are {known}")
        self.prediction = prediction
        self.alphas_cumprod = torch.cumprod(1 - SCHEDULES[schedule](), dim=0).float()

    def _at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar_t) and sqrt(1 - abar_t), each (b, 1, 1, 1)."""
        alpha_bar = self.alphas_cumprod.to(t.device)[t].view(-1, 1, 1, 1)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def noised(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """A sample of q(x_t | x_0)."""
        signal, sigma = self._at(t)
        return signal * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network learns to say: the noise, or v (Salimans & Ho 2022, arXiv:2202.00512, app. D)."""
        if self.prediction == "eps":
            return noise
        signal, sigma = self._at(t)
        return signal * noise - sigma * x0

    def x0_and_noise(self, x: Tensor, said: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Both parts of ``x`` as the network's answer implies them."""
        signal, sigma = self._at(t)
        if self.prediction == "eps":
            return (x - sigma * said) / signal, said
        return signal * x - sigma * said, sigma * x + signal * said

    def weight(self, t: Tensor, gamma: float) -> Tensor:
        """Hang et al. (2023), arXiv:2303.09556, eq. 8: min(SNR, gamma) in units of x_0; gamma 0 is the simple loss."""
        if gamma == 0:
            return torch.ones(len(t), device=t.device)
        alpha_bar = self.alphas_cumprod.to(t.device)[t]
        snr = alpha_bar / (1 - alpha_bar)
        return snr.clamp(max=gamma) / (snr if self.prediction == "eps" else snr + 1)


def stratified(batch: int, generator: torch.Generator) -> Tensor:
    """``batch`` timesteps, one in each of as many equal parts of 0..999: the loss varies less from step to step."""
    u = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    return (u * TIMESTEPS).long().clamp(max=TIMESTEPS - 1)


def loss(process: Process, said: Tensor, x0: Tensor, noise: Tensor, t: Tensor, gamma: float) -> Tensor:
    """Ho et al. (2020), eq. 14, weighted by `Process.weight`."""
    error = (said - process.target(x0, noise, t)).square().mean(dim=(1, 2, 3))
    return (process.weight(t, gamma) * error).mean()
