"""The geometry of hints: sizes, and how a preprocessed picture is brought to the size of an image.

Arrays are RGB uint8 (h, w, 3), with a fourth channel where there is a mask.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modules import UserError

from .units import FILL, JUST

Pixels = NDArray[np.uint8]
INSTALL = "install it with: python3 app.py install-extension controlnet"
_SEVERAL, _MANY = 3, 200
"""A picture of so many colours, and fewer than the second, is a map: its colours are not mixed."""
_THIN_ROUNDS = 32


def has_opencv() -> bool:
    return importlib.util.find_spec("cv2") is not None


def pixel_perfect(height: int, width: int, target_height: int, target_width: int, mode: str) -> int:
    """The resolution of a preprocessor at which a pixel of its result is one of the image."""
    scales = target_height / height, target_width / width
    return round((min if mode == FILL else max)(scales) * min(height, width))


def placed(height: int, width: int, target_height: int, target_width: int, mode: str) -> tuple[int, int, int, int]:
    """Height and width to which a picture is resized, and from where it is cropped, or where it is pasted (y, x)."""
    scales = target_height / height, target_width / width
    if mode == FILL:
        k = min(scales)
        h, w = round(height * k), round(width * k)
        return h, w, max(0, (target_height - h) // 2), max(0, (target_width - w) // 2)
    k = max(scales)
    h, w = round(height * k), round(width * k)
    return h, w, max(0, (h - target_height) // 2), max(0, (w - target_width) // 2)


def fitted(x: Pixels, height: int, width: int, mode: str) -> Pixels:
    """A picture in the size of the image. Raises `UserError` where that takes OpenCV and there is none."""
    if x.shape[:2] != (height, width) and not has_opencv():
        raise UserError(f"its picture has another size than the image, which takes OpenCV; {INSTALL}")
    if mode == JUST:
        return resized(x, height, width)
    h, w, top, left = placed(x.shape[0], x.shape[1], height, width, mode)
    if mode != FILL:
        return resized(x, h, w)[top : top + height, left : left + width]
    border = np.concatenate([x[0], x[-1], x[:, 0], x[:, -1]])
    colour = np.median(border, axis=0).astype(np.uint8)
    if x.shape[2] == 4:
        colour[3] = 255
    canvas = np.tile(colour, (height, width, 1))
    canvas[top : top + h, left : left + w] = resized(x, h, w)[:height, :width]
    return canvas


def resized(x: Pixels, height: int, width: int) -> Pixels:
    """Resized as its content asks: maps keep their colours, drawings their thin lines."""
    if x.shape[:2] == (height, width):
        return _with_hard_mask(x, x[..., 3]) if x.shape[2] == 4 else x
    import cv2

    picture = np.ascontiguousarray(x[..., :3])
    area = picture.shape[0] * picture.shape[1]
    colours = len(np.unique(picture.reshape(-1, 3), axis=0))
    if _SEVERAL <= colours < _MANY:
        how = cv2.INTER_NEAREST
    else:
        how = cv2.INTER_AREA if height * width < area else cv2.INTER_CUBIC
    y: Any = cv2.resize(picture, (width, height), interpolation=how)
    if colours == 2 and picture.min() < 16 and picture.max() > 240:
        y = _binary(picture, y, height * width > area)
    if x.shape[2] == 4:
        y = _with_hard_mask(y, cv2.resize(np.ascontiguousarray(x[..., 3]), (width, height), interpolation=how))
    return np.asarray(y, np.uint8)


def _with_hard_mask(picture: Pixels, mask: Any) -> Pixels:
    return np.dstack([picture[..., :3], np.where(np.asarray(mask) > 127, 255, 0).astype(np.uint8)])


def _binary(before: Pixels, after: Pixels, larger: bool) -> Pixels:
    """``after``, which came of the drawing ``before``, in black and white; lines of one pixel stay such lines."""
    import cv2

    y = np.mean(after.astype(np.float32), axis=2).clip(0, 255).astype(np.uint8)
    opened = cv2.dilate(cv2.erode(before, np.ones((3, 3), np.uint8)), np.ones((3, 3), np.uint8))
    thin = 2 * np.count_nonzero(opened < before) > np.count_nonzero(before > 127)
    y = _ridges(y) if thin else y
    _, hard = cv2.threshold(y, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    lines = thinned(np.asarray(hard, np.uint8), prune=larger) if thin else np.asarray(hard, np.uint8)
    return np.dstack([lines] * 3)


def _ridges(x: Pixels) -> Pixels:
    """What is no less than its neighbours in one of four directions; all else is 0."""
    import cv2

    row, diagonal = np.zeros((3, 3), np.uint8), np.eye(3, dtype=np.uint8)
    row[1] = 1
    found = np.zeros_like(x)
    for kernel in (row, row.T, diagonal, diagonal[::-1]):
        peak = cv2.dilate(x, np.ascontiguousarray(kernel)) == x
        found[peak] = x[peak]
    return found


_EDGES = (((-1, -1, -1), (0, 1, 0), (1, 1, 1)), ((0, -1, -1), (1, 1, -1), (0, 1, 0)))
_SPURS = (((-1, -1, -1), (-1, 1, -1), (0, 0, -1)), ((-1, -1, -1), (-1, 1, -1), (-1, 0, 0)))
"""Neighbourhoods whose middle is taken away: 1 is white, -1 black, 0 either. Each in four directions."""


def thinned(x: Pixels, *, prune: bool) -> Pixels:
    """White lines (255) thinned to one pixel, and once their ends cut off."""
    for _ in range(_THIN_ROUNDS):
        before = x
        x = _without(x, _EDGES)
        if np.array_equal(x, before):
            break
    return _without(x, _SPURS) if prune else x


def _without(x: Pixels, patterns: Any) -> Pixels:
    import cv2

    x = x.copy()
    for turn in range(4):
        for pattern in patterns:
            kernel = np.ascontiguousarray(np.rot90(np.array(pattern, np.int32), turn))
            x[np.asarray(cv2.morphologyEx(x, cv2.MORPH_HITMISS, kernel)) > 127] = 0
    return x


def with_mask(image: Any, mask: Any = None) -> Pixels:
    """A picture on white, and the first channel of its mask as a fourth. Raises `UserError`."""
    from PIL import Image

    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        own = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", own.size, "white"), own)
    picture = np.asarray(image.convert("RGB"))
    if mask is None:
        return np.dstack([picture, np.zeros(picture.shape[:2], np.uint8)])
    if mask.size != image.size:
        raise UserError(
            f"the mask has {mask.width}x{mask.height} pixels and its image {image.width}x{image.height}",
            hint="give both the same size",
        )
    return np.dstack([picture, np.asarray(mask.convert("RGB"))[..., 0]])


def is_drawn(mask: Any) -> bool:
    """Whether there is something in a mask: it is neither black nor white all over."""
    values = np.asarray(mask.convert("RGB"))[..., 0]
    return not ((values <= 5).all() or (values >= 250).all())
