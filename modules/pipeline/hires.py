"""Hires fix: the size of the second pass, and resizing of latents. No torch at import."""

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
"""Latent upscalers, with their ``torch.nn.functional.interpolate`` arguments."""


@dataclass(frozen=True)
class HiresSize:
    upscaled: tuple[int, int]
    """Width and height in pixels before the crop."""
    cropped: tuple[int, int]
    """Columns and rows of the latents to crop."""

    @property
    def latent(self) -> tuple[int, int]:
        """Width and height of the latents of the second pass."""
        return self.upscaled[0] // 8 - self.cropped[0], self.upscaled[1] // 8 - self.cropped[1]

    @property
    def final(self) -> tuple[int, int]:
        """Width and height of the finished image."""
        return self.latent[0] * 8, self.latent[1] * 8


def hires_size(width: int, height: int, hires: Hires) -> HiresSize:
    """The size of the second pass: by a scale, by one side, or by covering both sides and cropping the excess."""
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
    """Crop latents by that many columns and rows; if odd, one more at the end."""
    height, width = latents.shape[2:]
    return latents[:, :, rows // 2 : height - (rows + 1) // 2, columns // 2 : width - (columns + 1) // 2].contiguous()
