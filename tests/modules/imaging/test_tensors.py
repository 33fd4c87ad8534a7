"""Tensors to pictures and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from modules.errors import RepriseError
from modules.imaging.tensors import to_images, to_tensor

EVERY_LEVEL = Image.fromarray(np.arange(768, dtype=np.int64).astype(np.uint8).reshape(16, 16, 3))


def test_levels_are_floored_or_rounded_as_asked() -> None:
    values = torch.tensor([-2.0, -1.0, 0.0, 0.999, 1.0, 3.0]).reshape(1, 1, 1, 6).expand(1, 3, 1, 6)
    floored, rounded = (np.asarray(to_images(values, floor=floor)[0])[0, :, 0].tolist() for floor in (True, False))
    assert floored == [0, 0, 127, 254, 255, 255]
    assert rounded == [0, 0, 128, 255, 255, 255]


def test_a_picture_comes_back_from_its_tensor() -> None:
    assert to_images(to_tensor(EVERY_LEVEL)[None], floor=False)[0].tobytes() == EVERY_LEVEL.tobytes()


def test_rows_columns_and_colours_keep_their_places() -> None:
    image = Image.new("RGB", (3, 2))
    image.putpixel((2, 1), (255, 0, 0))
    tensor = to_tensor(image)
    assert tensor.shape == (3, 2, 3)
    assert tensor[:, 1, 2].tolist() == [1.0, -1.0, -1.0]
    assert to_images(torch.stack([tensor, -tensor]))[0].tobytes() == image.tobytes()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_an_error_not_a_black_picture(bad: float) -> None:
    decoded = torch.zeros(1, 3, 8, 8)
    decoded[0, 1, 2, 3] = bad
    with pytest.raises(RepriseError, match="no number"):
        to_images(decoded)
