"""What stands behind the objects: twelve colours, gradients of two of them, and scenery drawn by procedure."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

import numpy as np
from PIL import Image, ImageDraw

RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {
    "red": (214, 40, 40),
    "orange": (247, 137, 32),
    "yellow": (250, 216, 52),
    "green": (58, 158, 66),
    "blue": (42, 92, 214),
    "purple": (134, 62, 176),
    "pink": (248, 150, 190),
    "brown": (120, 76, 44),
    "gray": (136, 136, 136),
    "white": (248, 248, 248),
    "black": (18, 18, 18),
    "turquoise": (56, 198, 190),
}

Draw = ImageDraw.ImageDraw


def _jitter(colour: RGB, rng: Random, amount: int = 7) -> RGB:
    shift = rng.randint(-amount, amount)
    r, g, b = (min(255, max(0, c + shift + rng.randint(-3, 3))) for c in colour)
    return r, g, b


def plain(colour: str, side: int, rng: Random) -> Image.Image:
    return Image.new("RGB", (side, side), _jitter(COLOURS[colour], rng))


def _ramp(top: RGB, bottom: RGB, width: int, height: int) -> Image.Image:
    """A vertical gradient; both colours are RGB, 0..255."""
    t = np.linspace(0.0, 1.0, height)[:, None]
    rows = np.array(top) * (1 - t) + np.array(bottom) * t  # (height, 3)
    return Image.fromarray(np.repeat(rows[:, None], width, axis=1).round().astype(np.uint8))


def gradient(first: str, second: str, side: int, rng: Random) -> Image.Image:
    """From ``first`` at the top to ``second`` at the bottom."""
    return _ramp(_jitter(COLOURS[first], rng), _jitter(COLOURS[second], rng), side, side)


def _ridge(draw: Draw, side: int, base: float, height: float, colour: RGB, rng: Random) -> None:
    """Hills: a sum of three sines, filled down to the lower edge."""
    waves = [(rng.uniform(0.5, 3.0), rng.uniform(0, 6.3), rng.uniform(0.3, 1.0)) for _ in range(3)]
    total = sum(w for _, _, w in waves)
    points = []
    for x in range(0, side + 4, 4):
        y = sum(w * math.sin(f * 2 * math.pi * x / side + p) for f, p, w in waves) / total
        points.append((x, side * (base - height * y)))
    draw.polygon([(0, side), *points, (side, side)], fill=colour)


def _dots(
    draw: Draw,
    side: int,
    count: int,
    low: float,
    high: float,
    radius: tuple[float, float],
    colours: list[RGB],
    rng: Random,
) -> None:
    """Discs between the heights ``low`` and ``high`` (fractions of the side, from the top)."""
    for _ in range(count):
        x, y = rng.uniform(0, side), rng.uniform(low, high) * side
        r = rng.uniform(*radius) * side
        draw.ellipse((x - r, y - r, x + r, y + r), fill=rng.choice(colours))


def _meadow(side: int, rng: Random) -> Image.Image:
    image = _ramp((120, 190, 250), (205, 232, 255), side, side)
    draw = ImageDraw.Draw(image)
    _ridge(draw, side, 0.52, 0.05, (110, 190, 80), rng)
    _ridge(draw, side, 0.64, 0.04, (86, 170, 62), rng)
    _dots(draw, side, 26, 0.74, 1.0, (0.008, 0.016), [(255, 255, 255), (255, 220, 60), (250, 120, 160)], rng)
    return image


def _beach(side: int, rng: Random) -> Image.Image:
    image = _ramp((96, 190, 250), (190, 230, 255), side, side)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0.42 * side, side, 0.66 * side), fill=(30, 134, 190))
    _ridge(draw, side, 0.64, 0.02, (236, 210, 150), rng)
    return image


def _sunset(side: int, rng: Random) -> Image.Image:
    image = _ramp((84, 40, 120), (255, 150, 60), side, side)
    draw = ImageDraw.Draw(image)
    x, y, r = rng.uniform(0.25, 0.75) * side, 0.62 * side, 0.13 * side
    draw.ellipse((x - r, y - r, x + r, y + r), fill=(255, 226, 120))
    _ridge(draw, side, 0.76, 0.03, (60, 26, 60), rng)
    return image


def _night(side: int, rng: Random) -> Image.Image:
    image = _ramp((8, 10, 40), (30, 40, 96), side, side)
    draw = ImageDraw.Draw(image)
    _dots(draw, side, 34, 0.0, 0.7, (0.003, 0.008), [(255, 255, 240), (220, 225, 255)], rng)
    x, y, r = rng.choice((0.15, 0.85)) * side, 0.15 * side, 0.085 * side
    draw.ellipse((x - r, y - r, x + r, y + r), fill=(246, 240, 205))
    _ridge(draw, side, 0.82, 0.03, (12, 22, 36), rng)
    return image


def _snow(side: int, rng: Random) -> Image.Image:
    image = _ramp((150, 178, 206), (214, 226, 240), side, side)
    draw = ImageDraw.Draw(image)
    _ridge(draw, side, 0.60, 0.05, (230, 238, 248), rng)
    _ridge(draw, side, 0.72, 0.04, (250, 252, 255), rng)
    _dots(draw, side, 46, 0.0, 1.0, (0.006, 0.014), [(255, 255, 255)], rng)
    return image


def _mountains(side: int, rng: Random) -> Image.Image:
    image = _ramp((110, 170, 230), (226, 238, 250), side, side)
    draw = ImageDraw.Draw(image)
    for x in sorted((rng.uniform(0.0, 0.3), rng.uniform(0.4, 0.6), rng.uniform(0.7, 1.0)), key=lambda _: rng.random()):
        top, half = rng.uniform(0.14, 0.32), rng.uniform(0.30, 0.42)
        peak = (x * side, top * side)
        draw.polygon([peak, ((x - half) * side, 0.8 * side), ((x + half) * side, 0.8 * side)], fill=(104, 112, 134))
        k = 0.26
        snow = top + k * (0.8 - top)
        draw.polygon(
            [peak, ((x - half * k) * side, snow * side), ((x + half * k) * side, snow * side)], fill=(246, 248, 252)
        )
    _ridge(draw, side, 0.74, 0.03, (80, 134, 84), rng)
    return image


def _forest(side: int, rng: Random) -> Image.Image:
    image = _ramp((150, 200, 170), (90, 150, 100), side, side)
    draw = ImageDraw.Draw(image)
    for row, shade in ((0.62, (52, 112, 66)), (0.76, (30, 84, 46))):
        for _ in range(9):
            x, h, w = rng.uniform(0, side), rng.uniform(0.40, 0.56) * side, rng.uniform(0.07, 0.11) * side
            y = row * side
            draw.polygon([(x, y - h), (x - w, y), (x + w, y)], fill=_jitter(shade, rng))
    draw.rectangle((0, 0.76 * side, side, side), fill=(62, 90, 48))
    return image


def _desert(side: int, rng: Random) -> Image.Image:
    image = _ramp((250, 200, 120), (255, 232, 180), side, side)
    draw = ImageDraw.Draw(image)
    _ridge(draw, side, 0.58, 0.06, (222, 160, 88), rng)
    _ridge(draw, side, 0.72, 0.05, (204, 138, 66), rng)
    return image


def _city(side: int, rng: Random) -> Image.Image:
    image = _ramp((150, 186, 216), (224, 226, 226), side, side)
    draw = ImageDraw.Draw(image)
    x = -0.02
    while x < 1.0:
        w, top = rng.uniform(0.11, 0.19), rng.uniform(0.16, 0.5)
        shade = rng.choice([(92, 100, 122), (120, 112, 116), (76, 90, 112), (136, 120, 108)])
        draw.rectangle((x * side, top * side, (x + w) * side, side), fill=shade)
        for i in range(3):
            for j in range(8):
                left, up = x + w * (0.14 + 0.28 * i), top + 0.04 + 0.07 * j
                if up < 0.76 and rng.random() < 0.7:
                    draw.rectangle(
                        (left * side, up * side, (left + 0.16 * w) * side, (up + 0.03) * side), fill=(252, 230, 150)
                    )
        x += w
    draw.rectangle((0, 0.8 * side, side, side), fill=(84, 84, 88))
    return image


def _underwater(side: int, rng: Random) -> Image.Image:
    image = _ramp((70, 190, 220), (8, 56, 120), side, side)
    draw = ImageDraw.Draw(image)
    for _ in range(14):
        x, y, r = rng.uniform(0, side), rng.uniform(0, 0.8) * side, rng.uniform(0.01, 0.026) * side
        draw.ellipse((x - r, y - r, x + r, y + r), outline=(200, 240, 250), width=max(1, side // 128))
    _ridge(draw, side, 0.88, 0.02, (188, 170, 116), rng)
    return image


def _space(side: int, rng: Random) -> Image.Image:
    image = Image.new("RGB", (side, side), (8, 6, 20))
    draw = ImageDraw.Draw(image)
    _dots(draw, side, 60, 0.0, 1.0, (0.003, 0.008), [(255, 255, 255), (170, 190, 255), (255, 220, 180)], rng)
    x, y, r = rng.choice((0.16, 0.84)) * side, rng.choice((0.16, 0.84)) * side, rng.uniform(0.08, 0.13) * side
    draw.ellipse((x - r, y - r, x + r, y + r), fill=rng.choice([(200, 110, 70), (110, 130, 200), (190, 170, 120)]))
    return image


SCENERY: dict[str, Callable[[int, Random], Image.Image]] = {
    "meadow": _meadow,
    "beach": _beach,
    "sunset": _sunset,
    "night": _night,
    "snow": _snow,
    "mountains": _mountains,
    "forest": _forest,
    "desert": _desert,
    "city": _city,
    "underwater": _underwater,
    "space": _space,
}

BACKGROUNDS: tuple[str, ...] = (*COLOURS, *SCENERY)
"""What a judge tells apart; gradients (``red to blue``) are none of its classes."""


def background(name: str, side: int, rng: Random) -> Image.Image:
    """``name`` is a colour, a piece of scenery or ``COLOUR to COLOUR``; RGB, side x side."""
    if name in COLOURS:
        return plain(name, side, rng)
    if " to " in name:
        first, second = name.split(" to ")
        return gradient(first, second, side, rng)
    return SCENERY[name](2 * side, rng).reduce(2)  # drawn at twice the size: smooth edges
