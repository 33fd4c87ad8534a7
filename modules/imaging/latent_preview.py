"""Latent previews: a linear map from latents to a small RGB image, cheap enough for every step.

Each latent pixel becomes one pixel through a linear map from 4 channels to RGB. The map is fitted to the checkpoint's
own autoencoder by least squares, so it suits any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class LinearPreview:
    """``rgb = latent @ weight + bias``; ``weight`` (channels, 3), ``bias`` (3,), RGB in [-1, 1]."""

    weight: Tensor
    bias: Tensor

    def __call__(self, latents: Tensor, scale: int = 8) -> NDArray[np.uint8]:
        """One image's latents (4, h, w) -> pixels (h * scale, w * scale, 3)."""
        flat = latents.detach().float().cpu().permute(1, 2, 0)  # (h, w, 4)
        rgb = (flat @ self.weight + self.bias).permute(2, 0, 1)[None]
        rgb = F.interpolate(rgb, scale_factor=float(scale), mode="bilinear")[0]
        pixels = rgb.add(1).mul(127.5).nan_to_num(0).clamp(0, 255).byte()
        return pixels.permute(1, 2, 0).numpy()


def fit(decode: Callable[[Tensor], Tensor], channels: int = 4, size: int = 16, samples: int = 4) -> LinearPreview:
    """Fit the linear map on decoded smooth random latents: ``decode`` takes (n, 4, h, w) to (n, 3, 8 h, 8 w)."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(samples, channels, size // 4, size // 4, generator=generator)
    latents = F.interpolate(coarse, size=(size, size), mode="bilinear")
    latents = latents / latents.std()
    colours = F.avg_pool2d(decode(latents).float().cpu(), 8)  # (n, 3, h, w)
    inputs = latents.permute(0, 2, 3, 1).reshape(-1, channels)
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
    outputs = colours.permute(0, 2, 3, 1).reshape(-1, 3)
    solution = torch.linalg.lstsq(inputs, outputs).solution  # (channels + 1, 3)
    return LinearPreview(solution[:-1], solution[-1])


class Decoder(Protocol):
    """The part of a model that a preview approximates."""

    @property
    def sha256(self) -> str: ...
    @property
    def vae_sha256(self) -> str: ...
    def decode(self, latents: Tensor) -> Tensor: ...


class Previews:
    """The preview maps of all autoencoders used so far, fitted on first use."""

    def __init__(self) -> None:
        self._maps: dict[str, LinearPreview] = {}

    def draw(self, model: Decoder, latent: Tensor) -> Image.Image:
        """The preview image of one image's latents (4, h, w)."""
        key = model.sha256 + model.vae_sha256
        if key not in self._maps:
            self._maps[key] = fit(model.decode)
        return Image.fromarray(self._maps[key](latent))
