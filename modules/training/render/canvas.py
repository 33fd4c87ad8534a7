"""Drawing in floating point, with edges that fade over one pixel, so that nothing needs a larger canvas.

A canvas is (side, side, 3), 0..255; places and lengths are fractions of the side, from the upper left corner.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from random import Random

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

RGB = tuple[int, int, int]
Canvas = npt.NDArray[np.float32]
Draw = ImageDraw.ImageDraw


@cache
def grid(side: int) -> tuple[Canvas, Canvas]:
    """Row and column of every pixel's centre in 0..1, each (side, side)."""
    rows, columns = np.mgrid[0:side, 0:side].astype(np.float32)
    return (rows + 0.5) / side, (columns + 0.5) / side


def to_image(canvas: Canvas) -> Image.Image:
    return Image.fromarray(np.clip(canvas + 0.5, 0, 255).astype(np.uint8))


def jitter(colour: RGB, rng: Random, amount: int = 6) -> RGB:
    """A colour close to ``colour``."""
    shift = rng.randint(-amount, amount)
    r, g, b = (min(255, max(0, c + shift + rng.randint(-3, 3))) for c in colour)
    return r, g, b


def ramp(side: int, *stops: tuple[float, RGB]) -> Canvas:
    """A vertical gradient through ``stops`` (height, colour)."""
    t = (np.arange(side, dtype=np.float32) + 0.5) / side
    heights = [height for height, _ in stops]
    channels = [np.interp(t, heights, [colour[c] for _, colour in stops]) for c in range(3)]
    rows = np.stack(channels, axis=1).astype(np.float32)
    return np.repeat(rows[:, None], side, axis=1)


def blend(canvas: Canvas, colour: Canvas | RGB, alpha: npt.NDArray[np.floating] | float) -> None:
    """Lay ``colour`` over ``canvas``, as opaque as ``alpha`` (0..1) says."""
    a = alpha[..., None] if isinstance(alpha, np.ndarray) else alpha
    canvas += (np.asarray(colour, np.float32) - canvas) * a


def glow(canvas: Canvas, x: float, y: float, radius: float, colour: RGB, strength: float) -> None:
    """Light that fades from (x, y) as a Gaussian."""
    rows, columns = grid(len(canvas))
    away = ((columns - x) ** 2 + (rows - y) ** 2) / radius**2
    blend(canvas, colour, np.asarray(strength * np.exp(-away), np.float32))


def disc(canvas: Canvas, x: float, y: float, radius: float, colour: RGB, alpha: float = 1.0, soft: float = 1.0) -> None:
    """A disc with an edge ``soft`` pixels wide."""
    side = len(canvas)
    reach = radius * side + soft
    left, right = max(0, int(x * side - reach - 1)), min(side, int(x * side + reach + 2))
    top, low = max(0, int(y * side - reach - 1)), min(side, int(y * side + reach + 2))
    if left >= right or top >= low:
        return
    rows, columns = grid(side)
    part = slice(top, low), slice(left, right)
    away = np.hypot(columns[part] - x, rows[part] - y) * side
    blend(canvas[part], colour, alpha * np.clip((radius * side - away) / soft + 0.5, 0, 1))


def hills(side: int, base: float, height: float, rng: Random) -> Canvas:
    """The skyline of a range of hills: its height in each column (side,), a sum of three sines."""
    x = (np.arange(side, dtype=np.float32) + 0.5) / side
    waves = [(rng.uniform(0.5, 2.2), rng.uniform(0, 6.3), rng.uniform(0.3, 1.0)) for _ in range(3)]
    total = sum(weight for _, _, weight in waves)
    wave = np.sum([weight * np.sin(f * 2 * math.pi * x + phase) for f, phase, weight in waves], axis=0)
    return np.asarray(base - height * wave / total, np.float32)


def land(canvas: Canvas, skyline: Canvas, top: RGB, bottom: RGB, depth: float) -> None:
    """Fill below ``skyline`` (side,), from ``top``'s colour at the edge to ``bottom``'s at ``depth`` under it."""
    side = len(canvas)
    below = grid(side)[0] - skyline[None]
    t = np.clip(below / depth, 0, 1)[..., None]
    colour = np.asarray(top, np.float32) * (1 - t) + np.asarray(bottom, np.float32) * t
    blend(canvas, colour, np.clip(below * side + 0.5, 0, 1))


def cloud(canvas: Canvas, x: float, y: float, size: float, rng: Random) -> None:
    """Five soft white discs side by side."""
    soft = len(canvas) * size * 0.12
    for k, part in enumerate((0.28, 0.42, 0.5, 0.4, 0.26)):
        r = size * part * rng.uniform(0.85, 1.15)
        disc(canvas, x + size * (k - 2) * 0.42, y - r * 0.35, r * 0.62, (255, 255, 255), 0.85, soft)


def shapes(canvas: Canvas, draw: Callable[[Draw, int], None]) -> None:
    """What Pillow draws on a transparent sheet of twice the side, laid over the canvas."""
    side = len(canvas)
    sheet = Image.new("RGBA", (2 * side, 2 * side))
    draw(ImageDraw.Draw(sheet), 2 * side)
    small = np.asarray(sheet.convert("RGBa").reduce(2).convert("RGBA"), np.float32)
    blend(canvas, small[..., :3], small[..., 3] / np.float32(255))
