"""Conversion between images and tensors."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from modules.errors import NoNumbers


def to_images(decoded: Tensor, *, floor: bool = True) -> list[Image.Image]:
    """The autoencoder's output (n, 3, h, w) in [-1, 1] -> n RGB images.

    Levels are floor(255 v), as A1111 has them, or else rounded. Values that are no numbers are an error: as bytes they
    would be a black picture.
    """
    values = decoded.detach().float().cpu()
    if not values.isfinite().all():
        raise NoNumbers(
            "the picture came out as something that is no number", hint="run the model in float32, or choose another"
        )
    levels = values.add(1).div(2).clamp(0, 1).mul(255)
    pixels = (levels.floor() if floor else levels.round()).byte().permute(0, 2, 3, 1)  # (n, h, w, 3)
    return [Image.fromarray(image) for image in pixels.contiguous().numpy()]


def to_tensor(image: Image.Image) -> Tensor:
    """An image -> (3, h, w) float32 in [-1, 1]."""
    pixels: NDArray[np.uint8] = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).float().div(255).mul(2).sub(1)
