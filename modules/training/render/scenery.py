"""Eleven pieces of scenery, drawn by procedure: a sky, what stands far away, what is near."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import numpy as np

from modules.training.render.canvas import (
    RGB,
    Canvas,
    Draw,
    blend,
    cloud,
    disc,
    glow,
    grid,
    hills,
    jitter,
    land,
    ramp,
    shapes,
)  # fmt: skip


def _meadow(side: int, rng: Random) -> Canvas:
    c = ramp(side, (0.0, (84, 170, 246)), (0.55, (206, 236, 255)))
    for _ in range(rng.randint(1, 3)):
        cloud(c, rng.uniform(0.05, 0.95), rng.uniform(0.08, 0.26), rng.uniform(0.16, 0.26), rng)
    land(c, hills(side, 0.54, 0.05, rng), (150, 208, 130), (112, 182, 96), 0.2)
    land(c, hills(side, 0.63, 0.04, rng), (136, 206, 84), (84, 168, 60), 0.25)
    land(c, hills(side, 0.74, 0.03, rng), (112, 192, 66), (58, 140, 50), 0.3)
    for _ in range(rng.randint(8, 14)):
        y = rng.uniform(0.80, 0.97)
        blossom = rng.choice(((255, 255, 255), (255, 222, 80), (255, 150, 180)))
        disc(c, rng.random(), y, 0.006 + 0.012 * (y - 0.76), blossom)
    return c


def _beach(side: int, rng: Random) -> Canvas:
    c = ramp(side, (0.0, (74, 176, 246)), (0.42, (206, 240, 255)))
    for _ in range(rng.randint(1, 2)):
        cloud(c, rng.uniform(0.1, 0.9), rng.uniform(0.08, 0.24), rng.uniform(0.16, 0.24), rng)
    land(c, np.full(side, 0.42, np.float32), (24, 120, 196), (70, 206, 214), 0.24)
    shore = hills(side, 0.65, 0.018, rng)
    land(c, shore - np.float32(0.016), (236, 250, 252), (250, 250, 246), 0.02)
    land(c, shore, (252, 232, 184), (234, 200, 138), 0.32)
    return c


def _sunset(side: int, rng: Random) -> Canvas:
    c = ramp(side, (0.0, (70, 44, 124)), (0.3, (178, 74, 136)), (0.52, (250, 130, 92)), (0.68, (255, 204, 116)))
    x, y = rng.uniform(0.25, 0.75), 0.58
    glow(c, x, y, 0.32, (255, 226, 150), 0.75)
    disc(c, x, y, 0.10, (255, 246, 206), soft=1.5)
    land(c, hills(side, 0.68, 0.03, rng), (150, 62, 104), (110, 44, 90), 0.2)
    land(c, hills(side, 0.77, 0.025, rng), (96, 38, 84), (44, 20, 54), 0.25)
    return c


def _night(side: int, rng: Random) -> Canvas:
    c = ramp(side, (0.0, (10, 14, 52)), (0.55, (38, 52, 122)), (0.8, (84, 92, 164)))
    for _ in range(34):
        star = rng.random(), rng.uniform(0, 0.68), rng.uniform(0.0025, 0.006)
        disc(c, *star, (255, 252, 236), rng.uniform(0.5, 1))
    x, y = rng.choice((0.16, 0.84)), 0.16
    glow(c, x, y, 0.2, (200, 210, 255), 0.4)
    disc(c, x, y, 0.08, (252, 246, 218), soft=1.5)
    land(c, hills(side, 0.72, 0.03, rng), (44, 60, 112), (26, 38, 82), 0.2)
    land(c, hills(side, 0.81, 0.025, rng), (26, 40, 78), (12, 18, 44), 0.2)
    return c


def _pines(
    c: Canvas, rng: Random, count: int, foot: float, height: tuple[float, float], shade: RGB, snow: bool = False
) -> None:
    """``count`` firs of three tiers that stand at ``foot``, with white tops where ``snow`` lies on them."""
    trees = [
        (rng.random(), rng.uniform(*height), foot + rng.uniform(-0.01, 0.01), jitter(shade, rng, 10))
        for _ in range(count)
    ]

    def tier(d: Draw, s: int, x: float, top: float, low: float, half: float, colour: RGB) -> None:
        d.polygon([(x * s, top * s), ((x - half) * s, low * s), ((x + half) * s, low * s)], fill=colour)

    def draw(d: Draw, s: int) -> None:
        for x, h, y, colour in trees:
            d.rectangle(((x - h * 0.03) * s, (y - h * 0.15) * s, (x + h * 0.03) * s, y * s), fill=(92, 66, 48))
            for k in range(3):
                top, low, half = y - h * (1 - 0.24 * k), y - h * (0.60 - 0.24 * k), h * (0.15 + 0.06 * k)
                tier(d, s, x, top, low, half, colour)
                if snow:
                    tier(d, s, x, top, top + (low - top) * 0.4, half * 0.4, (248, 252, 255))

    shapes(c, draw)


def _snow(side: int, rng: Random) -> Canvas:
    c = ramp(side, (0.0, (130, 172, 220)), (0.6, (226, 238, 250)))
    land(c, hills(side, 0.58, 0.05, rng), (214, 228, 244), (236, 244, 252), 0.2)
    _pines(c, rng, 6, 0.66, (0.16, 0.26), (70, 120, 116), snow=True)
    land(c, hills(side, 0.68, 0.035, rng), (252, 254, 255), (214, 230, 248), 0.35)
    for _ in range(38):
        disc(c, rng.random(), rng.random(), rng.uniform(0.004, 0.010), (255, 255, 255), 0.9, soft=1.5)
    return c


def _peak(c: Canvas, x: float, number: int, rng: Random) -> None:
    """A mountain whose left side is in the light, with a zigzag of snow at its top."""
    side = len(c)
    rows, columns = grid(side)
    top, steep = rng.uniform(0.16, 0.32), rng.uniform(1.25, 1.7)
    ridge = x + 0.012 * np.sin(rows[:, :1] * 40 + rng.uniform(0, 6))
    dark = np.clip((columns - ridge) * side + 0.5, 0, 1)[..., None]
    rock = np.asarray((132, 146, 182), np.float32) * (1 - dark) + np.asarray((98, 110, 152), np.float32) * dark
    snow = np.asarray((252, 254, 255), np.float32) * (1 - dark) + np.asarray((212, 224, 244), np.float32) * dark
    zigzag = 0.025 * np.abs(((columns * 16 + number) % 2) - 1)
    white = np.clip((top + 0.15 + zigzag - rows) * side + 0.5, 0, 1)[..., None]
    haze = np.clip((rows - 0.4) / 0.5, 0, 0.6)[..., None]
    colour = (rock * (1 - white) + snow * white) * (1 - haze) + np.asarray((190, 210, 230), np.float32) * haze
    below = rows - (top + np.abs(columns - x) * steep)
    blend(c, colour, np.clip(below * side / 1.6 + 0.5, 0, 1))


def _mountains(side: int, rng: Random) -> Canvas:
    c = ramp(side, (0.0, (88, 160, 236)), (0.6, (232, 244, 255)))
    spots = [rng.uniform(-0.05, 0.2), rng.uniform(0.34, 0.62), rng.uniform(0.78, 1.05)]
    for number, x in sorted(enumerate(spots), key=lambda spot: rng.random()):
        _peak(c, x, number, rng)
    land(c, hills(side, 0.70, 0.025, rng), (126, 180, 116), (92, 152, 88), 0.2)
    land(c, hills(side, 0.79, 0.02, rng), (104, 170, 84), (62, 126, 62), 0.22)
    return c


def _forest(side: int, rng: Random) -> Canvas:
    c = ramp(side, (0.0, (174, 220, 196)), (0.7, (226, 242, 206)))
    glow(c, rng.uniform(0.3, 0.7), 0.2, 0.4, (255, 252, 214), 0.6)
    _pines(c, rng, 11, 0.66, (0.40, 0.52), (136, 186, 152))
    _pines(c, rng, 9, 0.72, (0.46, 0.60), (78, 146, 104))
    land(c, hills(side, 0.71, 0.015, rng), (126, 180, 96), (70, 128, 66), 0.3)
    return c


def _desert(side: int, rng: Random) -> Canvas:
    c = ramp(side, (0.0, (252, 176, 104)), (0.6, (255, 236, 190)))
    x = rng.uniform(0.2, 0.8)
    glow(c, x, 0.2, 0.25, (255, 250, 220), 0.8)
    disc(c, x, 0.2, 0.06, (255, 252, 236), soft=1.5)
    land(c, hills(side, 0.56, 0.05, rng), (240, 186, 118), (226, 160, 96), 0.2)
    land(c, hills(side, 0.66, 0.045, rng), (236, 172, 96), (208, 136, 72), 0.22)
    land(c, hills(side, 0.77, 0.03, rng), (226, 156, 82), (184, 112, 58), 0.25)
    return c


def _houses(c: Canvas, rng: Random, colours: tuple[RGB, ...], low: float, high: float, lights: bool) -> None:
    """A row of tall houses whose roofs are at heights from ``low`` to ``high``; three of four ``lights`` are on."""
    plan, x = [], -0.03
    while x < 1.0:
        width = rng.uniform(0.11, 0.17)
        house = x, width, rng.uniform(low, high), rng.choice(colours), [rng.random() < 0.75 for _ in range(24)]
        plan.append(house)
        x += width + (0 if lights else 0.01)

    def draw(d: Draw, s: int) -> None:
        for x, width, top, colour, lit in plan:
            d.rectangle((x * s, top * s, (x + width) * s, s), fill=colour)
            for n, on in enumerate(lit if lights else ()):
                left, up = x + width * (0.14 + 0.28 * (n % 3)), top + 0.035 + 0.06 * (n // 3)
                if on and up < 0.74:
                    box = left * s, up * s, (left + 0.16 * width) * s, (up + 0.028) * s
                    d.rectangle(box, fill=(255, 240, 176))

    shapes(c, draw)


def _city(side: int, rng: Random) -> Canvas:
    c = ramp(side, (0.0, (104, 168, 232)), (0.75, (238, 240, 240)))
    _houses(c, rng, ((176, 196, 220), (188, 204, 224)), 0.16, 0.42, lights=False)
    near = ((96, 116, 158), (120, 130, 166), (82, 102, 148), (140, 134, 160))
    _houses(c, rng, near, 0.30, 0.54, lights=True)
    land(c, np.full(side, 0.78, np.float32), (142, 148, 160), (98, 104, 118), 0.22)
    return c


def _underwater(side: int, rng: Random) -> Canvas:
    c = ramp(side, (0.0, (112, 222, 236)), (0.5, (34, 142, 204)), (1.0, (14, 72, 140)))
    rows, columns = grid(side)
    for _ in range(4):  # shafts of light
        x, lean, width = rng.uniform(0.0, 1.0), rng.uniform(-0.35, 0.35), rng.uniform(0.03, 0.07)
        across = np.clip(1 - np.abs(columns - x - lean * rows) / (width * (0.6 + rows)), 0, 1)
        blend(c, (226, 252, 255), 0.22 * across * np.clip(1 - rows / 0.85, 0, 1))
    land(c, hills(side, 0.86, 0.02, rng), (236, 216, 160), (190, 164, 112), 0.16)
    for _ in range(12):  # bubbles
        x, y, r = rng.random(), rng.uniform(0.05, 0.82), rng.uniform(0.008, 0.022)
        disc(c, x, y, r, (206, 244, 252), 0.5)
        disc(c, x, y, r * 0.72, (120, 200, 230), 0.45)
        disc(c, x - r * 0.3, y - r * 0.3, r * 0.26, (255, 255, 255), 0.9)
    return c


def _shade(colour: RGB, part: float) -> RGB:
    r, g, b = (int(c * part) for c in colour)
    return r, g, b


def _space(side: int, rng: Random) -> Canvas:
    c = ramp(side, (0.0, (14, 10, 40)), (1.0, (30, 16, 62)))
    glow(c, rng.random(), rng.random(), 0.42, (112, 44, 150), 0.55)
    glow(c, rng.random(), rng.random(), 0.36, (36, 76, 180), 0.5)
    for _ in range(56):
        star = rng.random(), rng.random(), rng.uniform(0.002, 0.006)
        light = rng.choice(((255, 255, 255), (190, 206, 255), (255, 226, 190)))
        disc(c, *star, light, rng.uniform(0.5, 1))
    x, y, r = rng.choice((0.15, 0.85)), rng.choice((0.15, 0.85)), rng.uniform(0.07, 0.10)
    colour = rng.choice(((226, 128, 92), (116, 148, 226), (214, 186, 128)))
    disc(c, x, y, r, _shade(colour, 0.45), soft=1.3)
    for k in range(6):  # towards the light: smaller, brighter
        near = 0.45 + 0.55 * (k / 5 + 0.1) / 1.1
        disc(
            c, x - r * 0.05 * (k + 1), y - r * 0.05 * (k + 1), r * (0.94 - 0.07 * k), _shade(colour, near), 0.8, soft=4
        )
    return c


SCENERY: dict[str, Callable[[int, Random], Canvas]] = {
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
