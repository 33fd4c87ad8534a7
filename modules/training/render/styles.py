"""Styles as filters over the finished picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageChops, ImageFilter, ImageOps


def _pixel_art(image: Image.Image) -> Image.Image:
    small = image.resize((image.width // 4, image.height // 4), Image.Resampling.BOX)
    return small.resize(image.size, Image.Resampling.NEAREST)


def _edges(image: Image.Image, gain: float) -> Image.Image:
    """White where brightness or colour changes: the strongest channel of the Sobel magnitude, L mode."""
    x = np.asarray(image, np.float32)
    p = np.pad(x, ((1, 1), (1, 1), (0, 0)), mode="edge")
    column = p[:-2] + 2 * p[1:-1] + p[2:]
    row = p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]
    magnitude = np.hypot(column[:, 2:] - column[:, :-2], row[2:] - row[:-2]).max(axis=2)
    return Image.fromarray(np.clip(gain * magnitude, 0, 255).astype(np.uint8))


def _line_art(image: Image.Image) -> Image.Image:
    return ImageOps.invert(_edges(image, 0.9)).convert("RGB")


def _pencil_sketch(image: Image.Image) -> Image.Image:
    """Colour dodge of the grey picture with its blurred negative, toned down."""
    grey = np.asarray(image.convert("L"), np.float32)
    blurred = np.asarray(image.convert("L").filter(ImageFilter.GaussianBlur(4)), np.float32)
    dodge = np.clip(grey * 250.0 / (blurred + 1.0), 0, 255)
    tone = 0.72 * dodge + 0.28 * grey
    return Image.fromarray(tone.astype(np.uint8)).convert("RGB")


def _watercolor(image: Image.Image) -> Image.Image:
    soft = image.filter(ImageFilter.MedianFilter(5)).filter(ImageFilter.GaussianBlur(0.8))
    return Image.blend(soft, Image.new("RGB", image.size, (255, 252, 244)), 0.30)


def _black_and_white(image: Image.Image) -> Image.Image:
    return ImageOps.autocontrast(image.convert("L"), cutoff=1).convert("RGB")


def _neon(image: Image.Image) -> Image.Image:
    """Glowing outlines in the picture's own colours over the dark."""
    lines = _edges(image, 1.0)
    vivid = image.filter(ImageFilter.GaussianBlur(1.5)).point(lambda v: min(255, int(60 + 1.1 * v)))
    glow = Image.merge("RGB", [lines.filter(ImageFilter.GaussianBlur(1.6)).point(lambda v: min(255, int(v * 1.5)))] * 3)
    return ImageChops.add(ImageChops.multiply(vivid, glow), image.point(lambda v: v // 9))


def _sepia(image: Image.Image) -> Image.Image:
    return ImageOps.colorize(image.convert("L"), black=(36, 22, 10), mid=(162, 122, 80), white=(255, 240, 212))


STYLES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "pixel art": _pixel_art,
    "line art": _line_art,
    "pencil sketch": _pencil_sketch,
    "watercolor": _watercolor,
    "black and white": _black_and_white,
    "neon": _neon,
    "sepia": _sepia,
}
COLOURLESS = frozenset({"line art", "pencil sketch", "black and white", "sepia"})
"""Styles that leave no colour to name or to judge."""


def apply(style: str, image: Image.Image) -> Image.Image:
    """``style`` is a key of `STYLES`, or empty for the picture as it is."""
    return STYLES[style](image) if style else image
