"""A1111's resize modes: stretch, crop, fill."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

from modules.params.generation import RESIZE_MODES

JUST, CROP, FILL, LATENT = RESIZE_MODES
"""The last leaves the picture alone: its latent is resized."""
LANCZOS = Image.Resampling.LANCZOS


MIN_SIDE, MAX_SIDE = 64, 2048
"""Pixels: the limits of a request's width and height."""

Enlarge = Callable[[Image.Image, float], Image.Image]
"""An upscaler at work: ``(image, factor) -> image``, both sides rounded down to multiples of 8."""


def request_size(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of a request for an image of that size: multiples of 8 within the limits.

    >>> request_size((40, 517)), request_size((5000, 64))
    ((64, 512), (2048, 64))
    """
    width, height = (min(max(side // 8 * 8, MIN_SIDE), MAX_SIDE) for side in size)
    return width, height


def resized(image: Image.Image, mode: str, width: int, height: int, enlarge: Enlarge | None = None) -> Image.Image:
    """``image`` in the size asked for; unchanged, bit for bit, if it has that size already."""
    if mode == LATENT:
        return image
    if mode == JUST:
        return _scaled(image, width, height, enlarge)
    inner = covering(image.size, width, height) if mode == CROP else fitting(image.size, width, height)
    small = _scaled(image, *inner, enlarge)
    left, top = width // 2 - inner[0] // 2, height // 2 - inner[1] // 2
    sheet = Image.new(image.mode, (width, height))
    sheet.paste(small, (left, top))
    if mode == FILL:
        _stretch_edges(sheet, small, left, top)
    return sheet


def covering(size: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    """The smallest size of that aspect ratio that covers the target."""
    w, h = size
    return (width, h * width // w) if width / height > w / h else (w * height // h, height)


def fitting(size: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    """The largest size of that aspect ratio that fits into the target."""
    w, h = size
    inside = (width, h * width // w) if width / height < w / h else (w * height // h, height)
    return max(inside[0], 1), max(inside[1], 1)


def _scaled(image: Image.Image, width: int, height: int, enlarge: Enlarge | None) -> Image.Image:
    """Upscale if needed, then resize with Lanczos to the exact size."""
    factor = max(width / image.width, height / image.height)
    if enlarge is not None and factor > 1 and image.mode != "L":
        image = enlarge(image, factor)
    return image if image.size == (width, height) else image.resize((width, height), LANCZOS)


def _stretch_edges(sheet: Image.Image, inner: Image.Image, left: int, top: int) -> None:
    """Fill the bands beside the pasted image with its outermost rows or columns, by resizing boxes without extent."""
    width, height = inner.size
    if top > 0:
        below = sheet.height - top - height
        sheet.paste(inner.resize((width, top), box=(0, 0, width, 0)), (0, 0))
        sheet.paste(inner.resize((width, below), box=(0, height, width, height)), (0, top + height))
    elif left > 0:
        right = sheet.width - left - width
        sheet.paste(inner.resize((left, height), box=(0, 0, 0, height)), (0, 0))
        sheet.paste(inner.resize((right, height), box=(width, 0, width, height)), (left + width, 0))
