"""What stands behind the objects: twelve colours, gradients of two of them, and the scenery of `scenery`."""

from __future__ import annotations

from functools import lru_cache
from random import Random

import numpy as np
from PIL import Image

from modules.training.render.canvas import RGB, Canvas, grid, jitter, ramp, to_image
from modules.training.render.scenery import SCENERY

COLOURS: dict[str, RGB] = {
    "red": (222, 52, 56),
    "orange": (250, 146, 48),
    "yellow": (252, 214, 66),
    "green": (72, 172, 92),
    "blue": (52, 112, 226),
    "purple": (142, 82, 200),
    "pink": (250, 160, 196),
    "brown": (134, 88, 56),
    "gray": (146, 150, 156),
    "white": (246, 246, 248),
    "black": (24, 24, 28),
    "turquoise": (64, 204, 198),
}
BACKGROUNDS: tuple[str, ...] = (*COLOURS, *SCENERY)
"""What a judge tells apart; gradients (``red to blue``) are none of its classes."""
GROUND = frozenset(SCENERY) - {"underwater", "space"}
"""Scenery with something to stand on."""
VARIANTS = 72
"""A piece of scenery has this many forms, each mirrored or not: cheap to keep, more than anybody counts."""


def plain(colour: str, side: int, rng: Random, lit: bool = True) -> Canvas:
    """One colour; ``lit`` as in a studio: a little lighter behind the object, darker in the corners."""
    canvas = np.empty((side, side, 3), np.float32)
    canvas[:] = jitter(COLOURS[colour], rng)
    if lit:
        rows, columns = grid(side)
        away = np.clip(((columns - 0.5) ** 2 + (rows - 0.44) ** 2) / 0.5, 0, 1)[..., None]
        canvas *= 1 - (0.05 if colour in ("white", "yellow") else 0.13) * away
        canvas += (255 - canvas) * (0.13 * (1 - away) ** 3) * (0.5 if colour == "black" else 1.0)
    return canvas


def gradient(first: str, second: str, side: int, rng: Random) -> Canvas:
    """From ``first`` at the top to ``second`` at the bottom."""
    return ramp(side, (0.08, jitter(COLOURS[first], rng)), (0.92, jitter(COLOURS[second], rng)))


@lru_cache(maxsize=VARIANTS * len(SCENERY))
def scenery(name: str, variant: int, side: int) -> Image.Image:
    """One of a piece of scenery's forms. It costs 20 to 80 ms at 256, so all are kept."""
    return to_image(SCENERY[name](side, Random(f"{name}/{variant}")))


def background(name: str, side: int, noise: int, lit: bool = True) -> Image.Image:
    """``name`` is a colour, a piece of scenery or ``COLOUR to COLOUR``; RGB, side x side, for the caller to draw on."""
    rng = Random(noise)
    if name in COLOURS:
        return to_image(plain(name, side, rng, lit))
    if " to " in name:
        first, second = name.split(" to ")
        return to_image(gradient(first, second, side, rng))
    image = scenery(name, noise % VARIANTS, side)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image.copy()
