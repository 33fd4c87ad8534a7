"""A few lines of DDIM, so that training can look at what it has: the engine's samplers live elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modules.nn.vae import VAE
from modules.training import autoencoder
from modules.training.diffusion import TIMESTEPS, Process
from modules.training.unet import TextToLatent
from modules.training.words import token_ids


@torch.inference_mode()
def ddim(
    model: TextToLatent, process: Process, ids: Tensor, empty: Tensor, x: Tensor, steps: int, cfg_scale: float
) -> Tensor:
    """Song et al. (2021), arXiv:2010.02502, eq. 12 with eta 0, under classifier-free guidance.

    ``x`` is noise (b, c, h, w), ``ids`` the captions' tokens and ``empty`` those of the empty caption, each (b, 77).
    """
    times = torch.linspace(TIMESTEPS - 1, 0, steps).round().long()
    states = torch.cat([model.text(ids), model.text(empty)])
    keys = model.unet.text_keys(states)
    for i, t in enumerate(times):
        both = torch.full((2 * len(x),), int(t))
        said, unsaid = model.unet.run(torch.cat([x, x]), model.unet.embed(both), keys).float().chunk(2)
        guided = unsaid + cfg_scale * (said - unsaid)
        x0, noise = process.x0_and_noise(x, guided, both[: len(x)])
        if i + 1 == steps:
            return x0
        x = process.noised(x0, noise, times[i + 1].expand(len(x)))
    return x


class Painter:
    """Captions -> pictures, with everything a checkpoint holds."""

    def __init__(self, model: TextToLatent, vae: VAE, process: Process, scale_factor: float):
        self.model, self.vae, self.process = model.eval(), vae.eval(), process
        self.scale_factor = scale_factor

    def noise(self, seeds: Sequence[int], side: int) -> Tensor:
        shape = (self.vae.config.z_channels, side // 8, side // 8)
        return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

    @torch.inference_mode()
    def paint(
        self, texts: Sequence[str], seeds: Sequence[int], side: int = 128, steps: int = 20, cfg_scale: float = 5.0,
        negative: str = "", batch: int = 25,
    ) -> Tensor:  # fmt: skip
        """uint8 (n, side, side, 3), one picture for each text and seed."""
        pictures = []
        for start in range(0, len(texts), batch):
            part = texts[start : start + batch]
            x = self.noise(seeds[start : start + batch], side).contiguous(memory_format=torch.channels_last)
            ids, empty = token_ids(part), token_ids([negative] * len(part))
            device = next(self.model.parameters()).device
            with torch.autocast(device.type, torch.bfloat16):
                z = ddim(self.model, self.process, ids.to(device), empty.to(device), x.to(device), steps, cfg_scale)
                pictures.append(autoencoder.from_network(self.vae.decode(z / self.scale_factor)).cpu())
        return torch.cat(pictures)
