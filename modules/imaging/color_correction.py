"""Colour correction: gives a result the colours of its init image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Values = NDArray[np.float64]
_TO_XYZ = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
"""Rec. 709 primaries and white point D65, as OpenCV states them."""
_WHITE = np.array([0.950456, 1.0, 1.088754])
_V = np.arange(256) / 255
_LINEAR = np.rint(255 * 8 * np.where(_V <= 0.04045, _V / 12.92, ((_V + 0.055) / 1.055) ** 2.4)).astype(np.int64)
"""sRGB levels to light, 2040 for white."""
_T = np.arange(256 * 3 // 2 * 8) / (255 * 8)
_ROOT = np.rint(32768 * np.where(_T < 0.008856, _T * 7.787 + 16 / 116, np.cbrt(_T))).astype(np.int64)
_LUMA = np.array([0.3, 0.59, 0.11])
"""W3C "Compositing and blending" level 1, 10.2: Lum."""


def corrected(image: Image.Image, like: Image.Image) -> Image.Image:
    """``image`` with the LAB histograms (8 bits) of ``like``, keeping its own luminosity."""
    ours, theirs = (to_lab(np.asarray(picture.convert("RGB"))) for picture in (image, like))
    matched = np.stack([match(ours[..., i], theirs[..., i]) for i in range(3)], axis=-1)
    colours = from_lab(matched)
    return Image.fromarray(with_luminosity(colours, np.asarray(image.convert("RGB"))))


def match(values: NDArray[np.uint8], like: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Histogram matching: each level becomes the one at the same quantile of ``like``."""
    counts, wanted = (np.bincount(levels.ravel(), minlength=256) for levels in (values, like))
    present = np.flatnonzero(wanted)
    table = np.interp(counts.cumsum() / values.size, wanted[present].cumsum() / like.size, present)
    found: NDArray[np.uint8] = table.astype(np.uint8)[values]
    return found


def to_lab(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB -> CIE 1976 L*a*b*: L in 0 to 255 for 0 to 100, a and b around 128.

    In OpenCV's whole numbers: a level more or less would move whole bars of a histogram.
    """
    weights = np.rint(_TO_XYZ / _WHITE[:, None] * 4096).astype(np.int64)
    levels = (_LINEAR[rgb] @ weights.T + 2048) >> 12
    x, y, z = np.moveaxis(_ROOT[levels], -1, 0)
    lightness = 296 * y - (16 * 255 * 32768 + 50) // 100
    lab = np.stack([lightness, 500 * (x - y) + 128 * 32768, 200 * (y - z) + 128 * 32768], axis=-1)
    return np.asarray(((lab + 16384) >> 15).clip(0, 255), np.uint8)


def from_lab(lab: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The inverse of `to_lab`."""
    level, a, b = np.moveaxis(lab.astype(np.float64), -1, 0)
    y = (level / 2.55 + 16) / 116
    f = np.stack([y + (a - 128) / 500, y, y - (b - 128) / 200], axis=-1)
    xyz = np.where(f > 6 / 29, f**3, (f - 16 / 116) / 7.787) * _WHITE
    linear = (xyz @ np.linalg.inv(_TO_XYZ).T).clip(0, 1)
    v = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.round(v * 255).clip(0, 255), np.uint8)


def with_luminosity(colours: NDArray[np.uint8], of: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Hue and saturation of one image, luminosity of the other; out-of-gamut colours are drawn towards grey."""
    base, top = colours / 255.0, of / 255.0
    c = base + ((top - base) @ _LUMA)[..., None]
    luma = (c @ _LUMA)[..., None]
    low, high = c.min(-1, keepdims=True), c.max(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        c = np.where(low < 0, luma + (c - luma) * luma / (luma - low), c)
        c = np.where(high > 1, luma + (c - luma) * (1 - luma) / (high - luma), c)
    return np.asarray((c * 255).clip(0, 255).astype(np.uint8))
