"""Hires fix: how large the second pass is, and latents brought to that size. No torch at import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modules.imaging.resize import covering
from modules.params.generation import Hires

if TYPE_CHECKING:
    from torch import Tensor

LATENT_MODES: dict[str, dict[str, Any]] = {
    "Latent": {"mode": "bilinear"},
    "Latent (antialiased)": {"mode": "bilinear", "antialias": True},
    "Latent (bicubic)": {"mode": "bicubic"},
    "Latent (bicubic antialiased)": {"mode": "bicubic", "antialias": True},
    "Latent (nearest)": {"mode": "nearest"},
    "Latent (nearest-exact)": {"mode": "nearest-exact"},
}
"""Upscalers that work on latents, and what they are to ``torch.nn.functional.interpolate``."""


@dataclass(frozen=True)
class HiresSize:
    upscaled: tuple[int, int]
    """Width and height in pixels before the crop."""
    cropped: tuple[int, int]
    """Columns and rows of the latent that are cut away."""

    @property
    def latent(self) -> tuple[int, int]:
        """Width and height of the latent that is sampled."""
        return self.upscaled[0] // 8 - self.cropped[0], self.upscaled[1] // 8 - self.cropped[1]

    @property
    def final(self) -> tuple[int, int]:
        """Width and height of the finished picture."""
        return self.latent[0] * 8, self.latent[1] * 8


def hires_size(width: int, height: int, hires: Hires) -> HiresSize:
    """By the scale, by one side, or so that the picture covers both and what sticks out is cut."""
    match hires.width, hires.height:
        case 0, 0:
            return HiresSize((int(width * hires.scale), int(height * hires.scale)), (0, 0))
        case wanted, 0:
            return HiresSize((wanted, wanted * height // width), (0, 0))
        case 0, wanted:
            return HiresSize((wanted * width // height, wanted), (0, 0))
    wide, high = covering((width, height), hires.width, hires.height)
    return HiresSize((wide, high), ((wide - hires.width) // 8, (high - hires.height) // 8))


def resize_latents(latents: Tensor, name: str, width: int, height: int) -> Tensor:
    """Latents (n, c, h, w) -> (n, c, height, width) by one of `LATENT_MODES`."""
    from torch.nn.functional import interpolate

    return interpolate(latents, size=(height, width), **LATENT_MODES[name])


def crop_latents(latents: Tensor, columns: int, rows: int) -> Tensor:
    """So many columns and rows less; of an odd number the greater half goes at the end."""
    height, width = latents.shape[2:]
    return latents[:, :, rows // 2 : height - (rows + 1) // 2, columns // 2 : width - (columns + 1) // 2].contiguous()
