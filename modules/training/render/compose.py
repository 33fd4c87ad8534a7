"""A scene's picture."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from modules.training.render.backgrounds import COLOURS, GROUND, background
from modules.training.render.scenes import Scene, Thing
from modules.training.render.sprites import foot, sprite, tinted
from modules.training.render.styles import UNLIT, apply, art_of

Pixels = npt.NDArray[np.uint8]

SHADE = (8, 8, 20)
"""The colour of shadows."""


def _placed(thing: Thing, side: int, art: str) -> Image.Image:
    """The drawing in its tint, mirrored, turned, and in the size it has in the picture."""
    tint = COLOURS[thing.tint] if thing.tint else None
    drawing = tinted(thing.concept, tint, thing.strength, art) if tint else sprite(thing.concept, art)
    if thing.flip:
        drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    margin = drawing.width // 16  # room for the corners that turn out
    wide = Image.new("RGBA", (drawing.width + 2 * margin, drawing.height + 2 * margin))
    wide.paste(drawing, (margin, margin))
    turned = wide.convert("RGBa").rotate(thing.angle, Image.Resampling.BICUBIC)
    scaled = round(thing.size * side * wide.width / drawing.width)
    return turned.resize((scaled, scaled), Image.Resampling.LANCZOS).convert("RGBA")


@cache
def _ellipse() -> Image.Image:
    """A soft ellipse, 128 x 128 in L mode, to be stretched under an object."""
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    return Image.fromarray((255 * np.clip(1 - (x**2 + y**2), 0, 1) ** 1.4).astype(np.uint8))


def _faded(mask: Image.Image, strength: float) -> Image.Image:
    return mask.point(lambda a: int(strength * a))


def _contact_shadow(canvas: Image.Image, thing: Thing, art: str) -> None:
    """The dark pool under what stands on the ground."""
    side = canvas.width
    low, width = foot(thing.concept, art)
    w, h = max(4, round(width * 0.95 * thing.size * side)), max(3, round(0.13 * thing.size * side))
    y = thing.y * side + (low - 0.5) * thing.size * side
    pool = _ellipse().resize((w, h), Image.Resampling.BILINEAR)
    canvas.paste(SHADE, (round(thing.x * side - w / 2), round(y - h * 0.55)), _faded(pool, 0.42))


def _soft_shadow(canvas: Image.Image, alpha: Image.Image, left: int, top: int) -> None:
    """What the whole drawing throws on what is behind it."""
    side = canvas.width
    soft = alpha.reduce(2).filter(ImageFilter.GaussianBlur(side / 80)).resize(alpha.size, Image.Resampling.BILINEAR)
    canvas.paste(SHADE, (left, top + side // 40), _faded(soft, 0.22))


def _white_edge(canvas: Image.Image, alpha: Image.Image, left: int, top: int) -> None:
    """The cut edge of a sticker, and the little shadow under it."""
    side = canvas.width
    edge = alpha.filter(ImageFilter.GaussianBlur(side / 64)).point(lambda a: min(255, max(0, (a - 14) * 8)))
    canvas.paste((0, 0, 0), (left + 2, top + 4), _faded(edge.filter(ImageFilter.GaussianBlur(side / 80)), 0.35))
    canvas.paste((255, 255, 255), (left, top), edge)


def _stand(canvas: Image.Image, thing: Thing, scene: Scene) -> None:
    """Put the thing and its shadows onto the canvas."""
    side, art = canvas.width, art_of(scene.style)
    drawing = _placed(thing, side, art)
    left, top = round(thing.x * side - drawing.width / 2), round(thing.y * side - drawing.height / 2)
    alpha = drawing.getchannel("A")
    if scene.style == "sticker":
        _white_edge(canvas, alpha, left, top)
    elif scene.style not in UNLIT:
        floats = thing.concept.flies and scene.background in GROUND
        if not floats and scene.background not in ("space", "underwater"):
            _contact_shadow(canvas, thing, art)
        _soft_shadow(canvas, alpha, left, top)
    canvas.paste(drawing, (left, top), drawing)


def picture(scene: Scene, side: int) -> Pixels:
    """The scene as uint8 RGB, (side, side, 3)."""
    canvas = background(scene.background, side, scene.noise, lit=scene.style not in UNLIT)
    for thing in scene.things:
        _stand(canvas, thing, scene)
    return np.asarray(apply(scene.style, canvas), np.uint8)
