"""Latent previews, in three ways of different cost.

"Approx cheap" is a linear map from latents to RGB, cheap enough for every step. That of the usual autoencoders is known
with their family; for any other one it is fitted to the checkpoint's own autoencoder by least squares. "TAESD" decodes
with a tiny network, "Full" with the autoencoder itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        """One image's latents (c, h, w) -> pixels (h * scale, w * scale, 3)."""
        flat = latents.detach().float().cpu().permute(1, 2, 0)  # (h, w, c)
        rgb = (flat @ self.weight + self.bias).permute(2, 0, 1)[None]
        rgb = F.interpolate(rgb, scale_factor=float(scale), mode="bilinear")[0]
        return _pixels(rgb)


def _pixels(rgb: Tensor) -> NDArray[np.uint8]:
    """(3, h, w) in [-1, 1] -> (h, w, 3)."""
    return rgb.float().cpu().add(1).mul(127.5).nan_to_num(0).clamp(0, 255).byte().permute(1, 2, 0).numpy()


def fit(decode: Callable[[Tensor], Tensor], channels: int = 4, size: int = 16, samples: int = 4) -> LinearPreview:
    """Fit the linear map on decoded smooth random latents: ``decode`` takes (n, c, h, w) to (n, 3, f h, f w)."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(samples, channels, size // 4, size // 4, generator=generator)
    latents = F.interpolate(coarse, size=(size, size), mode="bilinear")
    latents = latents / latents.std()
    decoded = decode(latents).float().cpu()
    colours = F.avg_pool2d(decoded, decoded.shape[-1] // size)  # (n, 3, h, w)
    inputs = latents.permute(0, 2, 3, 1).reshape(-1, channels)
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
    outputs = colours.permute(0, 2, 3, 1).reshape(-1, 3)
    solution = torch.linalg.lstsq(inputs, outputs).solution  # (channels + 1, 3)
    return LinearPreview(solution[:-1], solution[-1])


CHEAP, TAESD, FULL = "Approx cheap", "TAESD", "Full"
"""What a preview is made with, by A1111's names."""
Matrix = Sequence[Sequence[float]]
"""(channels, 3)."""


class Decoder(Protocol):
    """The part of a model that a preview approximates."""

    @property
    def sha256(self) -> str: ...
    @property
    def vae_sha256(self) -> str: ...
    def decode(self, latents: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Latents:
    """What previews are told of a model's latents."""

    channels: int = 4
    factor: int = 8
    rgb: Matrix | None = None
    """The linear map, where it is known; else it is fitted."""
    tiny: Callable[[Tensor], Tensor] | None = None
    """Decodes (n, c, h, w) to [-1, 1] with a tiny network; None: there is none."""


class Previews:
    """The preview maps of all autoencoders used so far, fitted on first use."""

    def __init__(self) -> None:
        self._maps: dict[str, LinearPreview] = {}

    def draw(self, model: Decoder, latent: Tensor, kind: str = CHEAP, of: Latents = Latents()) -> Image.Image:
        """The preview image of one image's latents (c, h, w). Where TAESD is wanted and not there, a cheap one."""
        if kind == FULL:
            return Image.fromarray(_pixels(model.decode(latent[None])[0]))
        if kind == TAESD and of.tiny:
            return Image.fromarray(_pixels(of.tiny(latent[None])[0]))
        key = model.sha256 + model.vae_sha256
        if key not in self._maps:
            known = of.rgb and LinearPreview(torch.tensor(of.rgb), torch.zeros(3))
            self._maps[key] = known or fit(model.decode, of.channels)
        return Image.fromarray(self._maps[key](latent, of.factor))
