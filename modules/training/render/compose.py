"""A scene's picture."""

from __future__ import annotations

from random import Random

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from modules.training.render.backgrounds import COLOURS, background
from modules.training.render.scenes import Scene, Thing
from modules.training.render.sprites import sprite, tinted
from modules.training.render.styles import apply

Pixels = npt.NDArray[np.uint8]


def _placed(thing: Thing, side: int) -> Image.Image:
    glyph = tinted(thing.concept, COLOURS[thing.tint], thing.strength) if thing.tint else sprite(thing.concept)
    if thing.flip:
        glyph = glyph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    margin = glyph.width // 10  # room for the corners that turn out
    wide = Image.new("RGBA", (glyph.width + 2 * margin, glyph.height + 2 * margin))
    wide.paste(glyph, (margin, margin))
    turned = wide.rotate(thing.angle, Image.Resampling.BICUBIC)
    scaled = round(thing.size * side * wide.width / glyph.width)
    return turned.resize((scaled, scaled), Image.Resampling.LANCZOS)


def _stand(canvas: Image.Image, thing: Thing) -> None:
    """Put the thing and its drop shadow onto the canvas."""
    side = canvas.width
    glyph = _placed(thing, side)
    corner = round(thing.x * side - glyph.width / 2), round(thing.y * side - glyph.height / 2)
    shadow = glyph.getchannel("A").filter(ImageFilter.GaussianBlur(side / 64)).point(lambda a: int(0.40 * a))
    drop = max(1, side // 64)
    canvas.paste((0, 0, 0), (corner[0] + drop, corner[1] + drop), shadow)
    canvas.paste(glyph, corner, glyph)


def picture(scene: Scene, side: int) -> Pixels:
    """The scene as uint8 RGB, (side, side, 3)."""
    canvas = background(scene.background, side, Random(scene.noise))
    for thing in scene.things:
        _stand(canvas, thing)
    return np.asarray(apply(scene.style, canvas), np.uint8)
