"""Splits an image into overlapping tiles and joins them, with A1111's grid rules. Pillow and numpy."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

Box = tuple[int, int, int, int]
"""Left, top, right, bottom; the last two lie outside, as Pillow has it."""


@dataclass(frozen=True)
class Grid:
    """Tiles of size ``tile`` at even distances over an image of ``size``; they may overlap by more than asked."""

    size: tuple[int, int]
    tile: tuple[int, int]
    overlap: int

    @property
    def columns(self) -> list[int]:
        return starts(self.size[0], self.tile[0], self.overlap)

    @property
    def rows(self) -> list[int]:
        return starts(self.size[1], self.tile[1], self.overlap)

    @property
    def boxes(self) -> list[Box]:
        """The boxes of all tiles, row by row."""
        width, height = self.tile
        return [(x, y, x + width, y + height) for y in self.rows for x in self.columns]

    def joined(self, pieces: Iterable[Image.Image], scale: int = 1) -> Image.Image:
        """Join tiles into one image. Pieces are given row by row, each ``scale`` times its tile, and fade in over
        their first ``overlap`` pixels. Each row is joined first, then the rows are.
        """
        pieces = iter(pieces)
        width, overlap = self.size[0] * scale, self.overlap * scale
        whole = Image.new("RGB", (width, self.size[1] * scale))
        for y in self.rows:
            strip = Image.new("RGB", (width, self.tile[1] * scale))
            for x in self.columns:
                _lay(strip, next(pieces), (x * scale, 0), overlap)
            _lay(whole, strip, (0, y * scale), overlap)
        return whole


def starts(length: int, size: int, overlap: int) -> list[int]:
    """The offsets of tiles of ``size`` along ``length`` pixels.

    >>> starts(400, 192, 8)
    [0, 104, 208]
    """
    if length <= size:
        return [0]
    count = math.ceil((length - overlap) / (size - overlap))
    return [int(i * (length - size) / (count - 1)) for i in range(count)]


def _lay(canvas: Image.Image, piece: Image.Image, at: tuple[int, int], overlap: int) -> None:
    """Paste ``piece`` at ``at`` (one coordinate is 0), fading in along the other axis over ``overlap`` pixels."""
    if not any(at) or not overlap:
        canvas.paste(piece, at)
        return
    ramp = (np.arange(overlap, dtype=np.float32) * 255 / overlap).astype(np.uint8)
    mask = np.full((piece.height, piece.width), 255, np.uint8)
    if at[0]:
        mask[:, :overlap] = ramp
    else:
        mask[:overlap] = ramp[:, None]
    canvas.paste(piece, at, Image.fromarray(mask))
