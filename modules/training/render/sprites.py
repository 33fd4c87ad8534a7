"""Glyphs of the Noto Color Emoji font (SIL Open Font License 1.1) as square pictures with transparency."""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from modules.training.render.concepts import Concept

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
STRIKE = 109
"""The font holds bitmaps of this one size."""
SIDE = 120

RGB = tuple[int, int, int]


class FontMissing(RuntimeError):
    """The emoji font is not installed."""


@lru_cache(maxsize=1)
def _font(path: Path) -> ImageFont.FreeTypeFont:
    if not path.is_file():
        raise FontMissing(
            f"no emoji font at {path}; install Debian's package fonts-noto-color-emoji to render pictures"
        )
    return ImageFont.truetype(str(path), STRIKE)


@cache
def sprite(concept: Concept, path: Path = FONT) -> Image.Image:
    """The concept's glyph, cropped to its ink and centred: RGBA, SIDE x SIDE."""
    canvas = Image.new("RGBA", (2 * STRIKE, 2 * STRIKE))
    ImageDraw.Draw(canvas).text((20, 20), concept.glyph, font=_font(path), embedded_color=True)
    box = canvas.getbbox()
    if box is None:
        raise FontMissing(f"the font at {path} has no glyph for {concept.name!r}; install fonts-noto-color-emoji")
    ink = canvas.crop(box)
    ink = ImageOps.contain(ink, (SIDE, SIDE), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (SIDE, SIDE))
    square.paste(ink, ((SIDE - ink.width) // 2, (SIDE - ink.height) // 2))
    return square


def tinted(concept: Concept, colour: RGB, strength: float = 1.0) -> Image.Image:
    """The glyph in one colour. Below strength 1 its own colours show through, above it the shades give way."""
    plain = _tinted(concept, colour)
    if strength == 1:
        return plain
    other = sprite(concept) if strength < 1 else Image.new("RGB", plain.size, colour)
    share = 1 - strength if strength < 1 else 0.7 * (strength - 1)
    mixed = Image.blend(plain.convert("RGB"), other.convert("RGB"), min(share, 1.0))
    mixed.putalpha(plain.getchannel("A"))
    return mixed


@cache
def _tinted(concept: Concept, colour: RGB) -> Image.Image:
    """Its luminance runs from black over the colour to white."""
    glyph = sprite(concept)
    grey = ImageOps.autocontrast(
        glyph.convert("L"), cutoff=1, mask=glyph.getchannel("A").point(lambda a: 255 * (a > 200))
    )
    painted = ImageOps.colorize(grey, black=(10, 10, 10), mid=colour, white=(255, 255, 255), midpoint=128)
    painted.putalpha(glyph.getchannel("A"))
    return painted
