"""Soft inpainting: restores original pixels where the latents hardly changed (A1111 1.8, by CodeHatchling).

Pillow and numpy. The other half, during sampling, is `diffusion.guidance.keep_softly`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from modules.imaging import resize
from modules.params.generation import SoftInpainting

RADIUS = 2
"""Radius of the filters' window, in latent pixels."""
WIDTH = 1.5
"""Width of the window's bell-shaped weights: ``exp(-r^2 / WIDTH^2)``, brought to 0 at ``RADIUS + 1``."""
SMOOTHING = 4
"""Pixels of the blur that takes the steps of 8 pixels out of the mask."""


def changed(
    distance: NDArray[np.float32], mask: NDArray[np.float32], wanted: SoftInpainting, width: int, height: int
) -> Image.Image:
    """The blend mask ("L", ``width`` x ``height``): white where only new pixels are shown.

    ``distance`` (h, w) is how far the latents moved, as length over their channels; ``mask`` (h, w), 1 = repaint. First
    what changed most around a place counts, then what is usual around it, so that a single speck counts for nothing.
    """
    moved = between(between(distance, 0.9, 1.0), 0.25, 0.75)
    bias = wanted.mask_influence
    kept = 0.5 * (1 - bias) + bias * (1 - mask ** (wanted.preservation / 2))
    half = wanted.difference_threshold * kept / (1.00001 - kept)  # the distance at which both are seen alike
    shown = 1 / (1 + (moved / np.maximum(half, 1e-9)) ** wanted.difference_contrast)
    levels = (255 * (1 - smooth_step(shown))).astype(np.uint8)
    return resize.resized(Image.fromarray(levels), resize.FILL, width, height).filter(
        ImageFilter.GaussianBlur(SMOOTHING)
    )


def smooth_step(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Perlin (2002), "Improving Noise": 6 x^5 - 15 x^4 + 10 x^3."""
    return x**3 * (x * (6 * x - 15) + 10)


def between(values: NDArray[np.floating], low: float, high: float) -> NDArray[np.float64]:
    """A weighted local quantile mean: each value's neighbourhood, sorted and weighted by distance, averaged between
    two quantiles.

    0.9 to 1 is a soft maximum, 0.25 to 0.75 the interquartile mean. At least a weight of 1, the middle pixel's, counts.
    """
    around, weight = _windows(values)
    order = np.argsort(around, axis=-1, kind="stable")
    around, weight = (np.take_along_axis(array, order, -1) for array in (around, weight))
    ends = weight.cumsum(-1)
    total = ends[..., -1:]
    middle, width = total * (low + high) / 2, np.maximum(total * (high - low), 1.0)
    start = (middle - width / 2).clip(0, total - width)
    counted = (np.minimum(ends, start + width) - np.maximum(ends - weight, start)).clip(0)
    mean: NDArray[np.float64] = (around * counted).sum(-1) / counted.sum(-1)
    return mean


def _windows(values: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(h, w, window) twice: the neighbourhood of each place, and its weights, which are 0 beyond the edge."""
    side = np.arange(-RADIUS, RADIUS + 1)
    end = np.exp(-((RADIUS + 1) ** 2) / WIDTH**2)
    bell = (np.exp(-(side[:, None] ** 2 + side**2) / WIDTH**2) - end).clip(0) / (1 - end)
    shape = 2 * RADIUS + 1, 2 * RADIUS + 1

    def windows(array: NDArray[np.float64]) -> NDArray[np.float64]:
        padded = np.pad(array, RADIUS)
        return np.lib.stride_tricks.sliding_window_view(padded, shape).reshape(*array.shape, -1)

    return windows(values.astype(np.float64)), windows(np.ones(values.shape)) * bell.ravel()
