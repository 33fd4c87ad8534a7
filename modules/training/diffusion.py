"""The forward process and the loss, as the papers state them. Latents are (b, c, h, w), timesteps 0..999."""

from __future__ import annotations

import torch
from torch import Tensor

from modules.diffusion.parameterization import BETAS, NoiseTable

TIMESTEPS = 1000
PREDICTIONS = ("eps", "v")


class Process:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise: Ho et al. (2020), eq. 4."""

    def __init__(self, schedule: str = "scaled_linear", prediction: str = "eps"):
        if schedule not in BETAS or prediction not in PREDICTIONS:
            known = f"schedules {sorted(BETAS)}, predictions {list(PREDICTIONS)}"
            raise ValueError(f"no schedule {schedule!r} with prediction {prediction!r}; there are {known}")
        self.prediction = prediction
        self.alphas_cumprod = torch.from_numpy(NoiseTable.named(schedule).alphas_cumprod).float()

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
