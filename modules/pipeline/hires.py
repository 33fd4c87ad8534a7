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


PIXEL = 8
"""Pixels a side of a latent pixel of the usual autoencoders, to which A1111 rounds sizes."""


@dataclass(frozen=True)
class HiresSize:
    upscaled: tuple[int, int]
    """Width and height in pixels before the crop."""
    cropped: tuple[int, int]
    """Pixels to crop, columns and rows: whole latent pixels of them go."""

    @property
    def final(self) -> tuple[int, int]:
        """Width and height of the finished image, to whole latent pixels of the usual size."""
        wide, high = (
            (side // PIXEL - crop // PIXEL) * PIXEL for side, crop in zip(self.upscaled, self.cropped, strict=True)
        )
        return wide, high


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
    return HiresSize((wide, high), (wide - hires.width, high - hires.height))


def resize_latents(latents: Tensor, name: str, width: int, height: int) -> Tensor:
    """Latents (n, c, h, w) -> (n, c, height, width) by one of `LATENT_MODES`."""
    from torch.nn.functional import interpolate

    return interpolate(latents, size=(height, width), **LATENT_MODES[name])


def crop_latents(latents: Tensor, columns: int, rows: int) -> Tensor:
    """Crop latents by that many columns and rows; if odd, one more at the end."""
    height, width = latents.shape[2:]
    return latents[:, :, rows // 2 : height - (rows + 1) // 2, columns // 2 : width - (columns + 1) // 2].contiguous()
