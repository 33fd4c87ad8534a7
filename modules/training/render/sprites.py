"""The drawings of three art sets as square pictures with transparency, each cropped to its ink and centred."""

from __future__ import annotations

from functools import cache
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

from PIL import Image, ImageFilter, ImageOps

from modules.training.render.concepts import Concept

ART = Path(__file__).with_name("art.zip")
"""``SET/concept.webp`` for every set and concept, and the licences of the sets."""
SETS = ("3d", "flat", "noto")
"""Microsoft's Fluent Emoji in 3D and flat (MIT), Google's Noto Emoji (Apache-2.0)."""
SIDE = 240

RGB = tuple[int, int, int]


@cache
def sprite(concept: Concept, art: str = "3d") -> Image.Image:
    """The concept's drawing: RGBA, `SIDE` x `SIDE`, as large as fits."""
    with ZipFile(ART) as file:
        image = Image.open(BytesIO(file.read(f"{art}/{concept.file}.webp"))).convert("RGBA")
    ink = image.crop(image.getchannel("A").point(lambda a: 255 * (a > 6)).getbbox())
    scale = SIDE / max(ink.size)
    size = max(1, round(ink.width * scale)), max(1, round(ink.height * scale))
    ink = ink.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")  # premultiplied: no dark rim
    square = Image.new("RGBA", (SIDE, SIDE))
    square.paste(ink, ((SIDE - ink.width) // 2, (SIDE - ink.height) // 2))
    return square


@cache
def foot(concept: Concept, art: str = "3d") -> tuple[float, float]:
    """Height of the ink's lower edge and width of the ink, as fractions of the square's side."""
    left, _, right, low = sprite(concept, art).getchannel("A").getbbox() or (0, 0, SIDE, SIDE)
    return low / SIDE, (right - left) / SIDE


def tinted(concept: Concept, colour: RGB, strength: float = 1.0, art: str = "3d") -> Image.Image:
    """The drawing in one colour. Below strength 1 its own colours show through, above it the shades give way."""
    plain = _tinted(concept, colour, art)
    if strength == 1:
        return plain
    other = sprite(concept, art) if strength < 1 else Image.new("RGB", plain.size, colour)
    share = 1 - strength if strength < 1 else 0.7 * (strength - 1)
    mixed = Image.blend(plain.convert("RGB"), other.convert("RGB"), min(share, 1.0))
    mixed.putalpha(plain.getchannel("A"))
    return mixed


@cache
def _tinted(concept: Concept, colour: RGB, art: str) -> Image.Image:
    """Its luminance runs from a deep shade over the colour to near white."""
    drawing = sprite(concept, art)
    solid = drawing.getchannel("A").point(lambda a: 255 * (a > 240))
    soft = drawing.convert("RGBa").filter(ImageFilter.GaussianBlur(1.3)).convert("RGBA")
    grey = ImageOps.autocontrast(soft.convert("RGB").convert("L"), cutoff=0.5, mask=solid)
    dark = tuple(int(0.22 * c) for c in colour)
    light = tuple(int(255 - 0.12 * (255 - c)) for c in colour)
    painted = ImageOps.colorize(grey, black=dark, mid=colour, white=light, midpoint=140)
    painted.putalpha(drawing.getchannel("A"))
    return painted
