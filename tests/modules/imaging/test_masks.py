"""Coloured strokes over a picture, against the formulas in NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from modules.imaging.masks import inpaint_sketch, sketched


def pixels(seed: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def strokes(seed: int = 1) -> Image.Image:
    """Half of it empty, the rest of every opacity."""
    made = pixels(seed, 48, 64, 4)
    made[:, :32] = 0
    return Image.fromarray(made)


def test_strokes_are_laid_over_by_their_alpha() -> None:
    picture, over = pixels(2, 48, 64, 3), np.asarray(strokes()).astype(float)
    alpha = over[..., 3:] / 255
    wanted = over[..., :3] * alpha + picture * (1 - alpha)
    made = sketched(Image.fromarray(picture), strokes())
    assert made.mode == "RGB"
    assert abs(np.asarray(made) - wanted).max() <= 1
    assert (np.asarray(made)[:, :32] == picture[:, :32]).all()


def test_a_picture_that_lets_through_still_does_where_nothing_was_painted() -> None:
    picture = pixels(3, 48, 64, 4)
    made = np.asarray(sketched(Image.fromarray(picture), strokes()))
    assert made.shape == picture.shape
    seen = picture[:, :32, 3] > 0
    assert (made[:, :32][seen] == picture[:, :32][seen]).all()
    below, above = picture[:, 32:, 3] / 255, np.asarray(strokes())[:, 32:, 3] / 255
    assert abs(made[:, 32:, 3] - 255 * (above + below * (1 - above))).max() <= 1


def test_what_is_touched_is_the_mask_however_thin_the_colour() -> None:
    touched = np.asarray(strokes())[..., 3] > 0
    start, mask = inpaint_sketch(Image.fromarray(pixels(2, 48, 64, 3)), strokes(), 0)
    assert (np.asarray(mask) == 255 * touched).all()
    assert start.tobytes() == sketched(Image.fromarray(pixels(2, 48, 64, 3)), strokes()).tobytes()


def test_a_stroke_in_the_colour_of_its_ground_is_masked_too() -> None:
    ground = Image.new("RGB", (20, 10), "red")
    line = Image.new("RGBA", (20, 10))
    line.paste((255, 0, 0, 255), (5, 2, 9, 8))
    start, mask = inpaint_sketch(ground, line, 4)
    assert mask.getbbox() == (5, 2, 9, 8)
    assert start.tobytes() == ground.tobytes()


def test_strokes_run_into_the_picture_and_no_further_than_the_blur() -> None:
    ground = Image.new("RGB", (120, 40), "black")
    line = Image.new("RGBA", (120, 40))
    line.paste((255, 255, 255, 255), (0, 0, 60, 40))
    start, _ = inpaint_sketch(ground, line, 4)
    row = np.asarray(start)[20, :, 0].astype(int)
    assert (np.diff(row) <= 0).all()
    assert row[0] == 255
    assert row[110] == 0
    # Both the painted picture and the mask are blurred: at the edge a half of a half.
    assert abs(row[59:61].mean() - 255 / 4) < 6
