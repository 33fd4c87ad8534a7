"""Styles: which art set draws the objects, and which filter goes over the finished picture."""

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
    return Image.fromarray(np.clip(gain * magnitude - 12, 0, 255).astype(np.uint8))


def _gained(image: Image.Image, gain: float, offset: float = 0) -> Image.Image:
    return image.point(lambda v: min(255, int(offset + gain * v)))


def _line_art(image: Image.Image) -> Image.Image:
    lines = _gained(_edges(image, 1.3).filter(ImageFilter.GaussianBlur(0.7)), 1.25)
    return ImageOps.invert(lines).convert("RGB")


def _pencil_sketch(image: Image.Image) -> Image.Image:
    """Colour dodge of the grey picture with its blurred negative, toned down."""
    grey = np.asarray(image.convert("L"), np.float32)
    blurred = np.asarray(image.convert("L").filter(ImageFilter.GaussianBlur(7)), np.float32)
    dodge = np.clip(grey * 250.0 / (blurred + 1.0), 0, 255)
    tone = 0.68 * dodge + 0.30 * grey
    return Image.fromarray(np.clip(tone, 0, 255).astype(np.uint8)).convert("RGB")


def _watercolor(image: Image.Image) -> Image.Image:
    soft = image.filter(ImageFilter.ModeFilter(5)).filter(ImageFilter.GaussianBlur(1.2))
    return Image.blend(soft, Image.new("RGB", image.size, (255, 252, 244)), 0.28)


def _black_and_white(image: Image.Image) -> Image.Image:
    return ImageOps.autocontrast(image.convert("L"), cutoff=1).convert("RGB")


def _neon(image: Image.Image) -> Image.Image:
    """Glowing outlines in the picture's own colours over the dark."""
    lines = _edges(image, 1.2).filter(ImageFilter.GaussianBlur(0.6))
    vivid = _gained(image.filter(ImageFilter.GaussianBlur(2)), 1.1, 70)
    halo = _gained(lines.filter(ImageFilter.GaussianBlur(5)), 1.1)
    glow = Image.merge("RGB", [ImageChops.add(_gained(lines, 1.6), halo)] * 3)
    return ImageChops.add(ImageChops.multiply(vivid, glow), image.point(lambda v: v // 12))


def _sepia(image: Image.Image) -> Image.Image:
    return ImageOps.colorize(image.convert("L"), black=(36, 22, 10), mid=(162, 122, 80), white=(255, 240, 212))


FILTERS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "pixel art": _pixel_art,
    "line art": _line_art,
    "pencil sketch": _pencil_sketch,
    "watercolor": _watercolor,
    "black and white": _black_and_white,
    "neon": _neon,
    "sepia": _sepia,
}
DRAWN_AS: dict[str, str] = {"flat illustration": "flat", "cartoon": "noto", "line art": "flat", "neon": "flat"}
"""The art set of a style; every other is drawn in 3d."""
SHARES: dict[str, float] = {"flat illustration": 3, "cartoon": 3, "sticker": 2, **dict.fromkeys(FILTERS, 1)}
"""How often each style is drawn, against the others."""
STYLES: tuple[str, ...] = tuple(SHARES)
UNLIT = frozenset({"flat illustration", "cartoon", "sticker", "line art", "neon"})
"""Styles of flat light: one plain colour behind, no soft shadow on the ground."""
COLOURLESS = frozenset({"line art", "pencil sketch", "black and white", "sepia"})
"""Styles that leave no colour to name or to judge."""


def art_of(style: str) -> str:
    """The art set in which ``style`` draws its objects."""
    return DRAWN_AS.get(style, "3d")


def apply(style: str, image: Image.Image) -> Image.Image:
    """``image`` under the style's filter, where it has one; ``style`` may be empty."""
    return FILTERS[style](image) if style in FILTERS else image
