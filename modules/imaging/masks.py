"""Masks: blur, crop region ("only masked"), fill modes, outpainting. White, 255, is repainted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter, ImageOps

from modules.params.generation import CONTENTS

Box = tuple[int, int, int, int]
"""Left, top, right, bottom; the last two lie outside, as Pillow has it."""

FILL, ORIGINAL, LATENT_NOISE, LATENT_NOTHING = CONTENTS


def grey_mask(image: Image.Image, *, rounded: bool = True) -> Image.Image:
    """A painted layer or an uploaded mask as greyscale; if it has transparency, its alpha channel is the mask."""
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
        if alpha.getextrema() != (255, 255):
            return alpha.point(lambda v: 255 if v > 128 else 0) if rounded else alpha
    return image.convert("L")


def blurred(mask: Image.Image, x: float, y: float | None = None) -> Image.Image:
    """Gaussian blur with that standard deviation, rows first, then columns, rounded to 8 bits after each."""
    values = np.asarray(mask.convert("L"))
    for axis, sigma in ((1, x), (0, x if y is None else y)):
        if sigma > 0:
            values = _blur(values, gaussian(sigma), axis)
    return Image.fromarray(values)


def gaussian(sigma: float) -> NDArray[np.int64]:
    """A Gaussian kernel in 256ths; rounding errors are carried inwards, so it is deterministic and sums to one."""
    half = int(2.5 * sigma + 0.5)
    exact = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
    exact *= 256 / exact.sum()
    kernel = np.zeros(2 * half + 1, np.int64)
    error = 0.0
    for i in range(half):
        wanted = exact[i] + error
        kernel[i] = kernel[-1 - i] = round(wanted)
        error = wanted - kernel[i]
    kernel[half] = 256 - kernel.sum()
    return kernel


def _blur(values: NDArray[np.uint8], kernel: NDArray[np.int64], axis: int) -> NDArray[np.uint8]:
    half = len(kernel) // 2
    lines = np.moveaxis(values, axis, 0).astype(np.int64)
    padded = np.pad(lines, [(half, half), (0, 0)], mode="reflect" if len(lines) > 1 else "edge")
    total = sum(weight * padded[i : i + len(lines)] for i, weight in enumerate(kernel) if weight)
    return np.moveaxis(((total + 128) >> 8).astype(np.uint8), 0, axis)


def region(mask: Image.Image, padding: int) -> Box | None:
    """The bounding box of the white of a mask, grown by ``padding`` pixels; None if there is no white."""
    box = mask.getbbox()
    if box is None:
        return None
    left, top, right, bottom = box
    return (
        max(left - padding, 0),
        max(top - padding, 0),
        min(right + padding, mask.width),
        min(bottom + padding, mask.height),
    )


def in_shape(box: Box, width: int, height: int, size: tuple[int, int]) -> Box:
    """Grow ``box``, within an image of ``size``, to the aspect ratio of ``width`` x ``height``."""
    left, top, right, bottom = box
    shape = width / height
    if (right - left) / (bottom - top) > shape:
        top, bottom = _grown(top, bottom, int((right - left) / shape), size[1])
    else:
        left, right = _grown(left, right, int((bottom - top) * shape), size[0])
    return left, top, right, bottom


def _grown(start: int, end: int, length: int, limit: int) -> tuple[int, int]:
    extra = length - (end - start)
    start -= extra // 2
    end += extra - extra // 2
    if end > limit:
        start, end = start - (end - limit), limit
    if start < 0:
        start, end = 0, end - start
    return start, min(end, limit)


_LAYERS = ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1))
"""Radius of each blur, and how many times it is applied."""


def filled(image: Image.Image, mask: Image.Image) -> Image.Image:
    """Fill the masked part of ``image`` with the surrounding colours."""
    kept = Image.new("RGBa", image.size)
    kept.paste(image.convert("RGBA").convert("RGBa"), mask=ImageOps.invert(mask.convert("L")))
    result = Image.new("RGBA", image.size)
    for radius, times in _LAYERS:
        layer = kept.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        for _ in range(times):
            result.alpha_composite(layer)
    return result.convert("RGB")


SEAM = 8
"""Pixels of the original that outpainting repaints, so that old and new blend."""


def outpainted(image: Image.Image, left: int, top: int, right: int, bottom: int) -> tuple[Image.Image, Image.Image]:
    """Enlarge the canvas of ``image``, stretching its edge pixels over the new area; returns the mask of that area
    too.
    """
    width, height = image.size
    size = (left + width + right, top + height + bottom)
    # Positions are clamped to the picture, so that the outermost pixels go on.
    rows, columns = (
        np.arange(n).clip(a, a + m - 1) - a for n, a, m in ((size[1], top, height), (size[0], left, width))
    )
    sheet = Image.fromarray(np.asarray(image.convert("RGB"))[rows][:, columns])
    mask = Image.new("L", size, 255)
    seams = (SEAM * bool(side) for side in (left, top, right, bottom))
    x1, y1, x2, y2 = (a + b for a, b in zip((0, 0, -width, -height), seams, strict=True))
    mask.paste(0, (left + x1, top + y1, left - x2, top - y2))
    return sheet, mask


def sketched(image: Image.Image, strokes: Image.Image) -> Image.Image:
    """``image`` with coloured ``strokes`` (RGBA, same size) composited over it; keeps its mode, RGB or RGBA."""
    return Image.alpha_composite(image.convert("RGBA"), strokes.convert("RGBA")).convert(image.mode)


def inpaint_sketch(image: Image.Image, strokes: Image.Image, blur: float) -> tuple[Image.Image, Image.Image]:
    """Init image and mask from coloured strokes, as A1111's inpaint sketch: the mask is where strokes are, and
    strokes blend into the image over ``blur`` pixels. A1111 finds strokes by comparing images and misses those in
    the background's colour; here the strokes themselves are used.
    """
    mask = strokes.convert("RGBA").getchannel("A").point(lambda v: 255 if v else 0)
    soft = ImageFilter.GaussianBlur(blur)
    return Image.composite(sketched(image, strokes).filter(soft), image, mask.filter(soft)), mask


def overlay(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The layer pasted over the result: ``image``, opaque where ``mask`` is black."""
    layer = image.convert("RGB").convert("RGBA")
    layer.putalpha(ImageOps.invert(mask.convert("L").resize(image.size) if mask.size != image.size else mask))
    return layer


def doubled(mask: Image.Image) -> Image.Image:
    """The mask twice as white: half of its blurred rim is then taken from the result entirely."""
    return ImageChops.add(mask, mask)


def widest(mask: Image.Image) -> Image.Image:
    """White except for the faintest greys, which fade to black: the area that soft inpainting may change."""
    return mask.point(lambda v: min(16 * v, 255))


def latent_mask(mask: Image.Image, width: int, height: int, *, rounded: bool = True) -> NDArray[np.float32]:
    """The mask scaled to latents of ``width`` x ``height``: (height, width), 1 = repaint."""
    small = mask.convert("L").resize((width, height), Image.Resampling.BICUBIC)
    values: NDArray[np.float32] = np.asarray(small).astype(np.float32) / np.float32(255)
    return np.rint(values) if rounded else values
