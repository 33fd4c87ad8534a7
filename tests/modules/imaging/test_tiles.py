"""A picture cut into tiles and put together again."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from modules.imaging.tiles import Grid


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


@given(
    size=st.tuples(st.integers(8, 90), st.integers(8, 90)),
    tile=st.tuples(st.integers(8, 40), st.integers(8, 40)),
    overlap=st.integers(0, 7),
)
@settings(max_examples=60, deadline=None)
def test_tiles_that_nobody_changed_give_the_picture_back(
    size: tuple[int, int], tile: tuple[int, int], overlap: int
) -> None:
    image, tile = noise(*size), (min(tile[0], size[0]), min(tile[1], size[1]))
    grid = Grid(size, tile, overlap)
    assert grid.joined(image.crop(box) for box in grid.boxes).tobytes() == image.tobytes()


def test_seams_fade_over_in_a_straight_line() -> None:
    grid = Grid((112, 64), (64, 64), 16)
    assert grid.boxes == [(0, 0, 64, 64), (48, 0, 112, 64)]
    row = np.asarray(grid.joined([Image.new("RGB", (64, 64), v) for v in ("black", "white")]))[10, :, 0].astype(int)
    assert (row[:48] == 0).all()
    assert np.abs(row[48:64] - np.arange(16) * 255 / 16).max() <= 1
    assert (row[64:] == 255).all()
