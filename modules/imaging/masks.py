"""Masks and what is done under them: blur, crop regions, filling. White, 255, is repainted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter, ImageOps

from modules.params.generation import CONTENTS

Box = tuple[int, int, int, int]
"""Left, top, right, bottom; the last two lie outside, as Pillow has it."""

FILL, ORIGINAL, LATENT_NOISE, LATENT_NOTHING = CONTENTS


def grey_mask(image: Image.Image, *, rounded: bool = True) -> Image.Image:
    """A painted layer or an uploaded mask as greys: where something shows through, its alpha channel is the mask."""
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
        if alpha.getextrema() != (255, 255):
            return alpha.point(lambda v: 255 if v > 128 else 0) if rounded else alpha
    return image.convert("L")


def blurred(mask: Image.Image, x: float, y: float | None = None) -> Image.Image:
    """A Gaussian of that deviation, first along the rows, then along the columns; 8 bits after each."""
    values = np.asarray(mask.convert("L"))
    for axis, sigma in ((1, x), (0, x if y is None else y)):
        if sigma > 0:
            values = _blur(values, gaussian(sigma), axis)
    return Image.fromarray(values)


def gaussian(sigma: float) -> NDArray[np.int64]:
    """A kernel in 256ths, its rounding errors carried inwards, so that it is the same everywhere and sums to one."""
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
    """What is around the white of a mask, with ``padding`` pixels more at each side; None where there is no white."""
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
    """``box`` grown, within a picture of ``size``, towards the shape of ``width`` x ``height``."""
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
"""Radius of each blur and how often it is laid on."""


def filled(image: Image.Image, mask: Image.Image) -> Image.Image:
    """``image`` with the masked part painted over with the colours around it."""
    kept = Image.new("RGBa", image.size)
    kept.paste(image.convert("RGBA").convert("RGBa"), mask=ImageOps.invert(mask.convert("L")))
    result = Image.new("RGBA", image.size)
    for radius, times in _LAYERS:
        layer = kept.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        for _ in range(times):
            result.alpha_composite(layer)
    return result.convert("RGB")


SEAM = 8
"""Pixels of the picture itself that outpainting paints anew, so that old and new grow together."""


def outpainted(image: Image.Image, left: int, top: int, right: int, bottom: int) -> tuple[Image.Image, Image.Image]:
    """``image`` on a larger sheet, its edge stretched over what is new, and the mask of that."""
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
    """``image`` with coloured ``strokes`` (RGBA, as large) laid over it by their alpha; RGB or RGBA as it was."""
    return Image.alpha_composite(image.convert("RGBA"), strokes.convert("RGBA")).convert(image.mode)


def inpaint_sketch(image: Image.Image, strokes: Image.Image, blur: float) -> tuple[Image.Image, Image.Image]:
    """Start picture and mask of coloured strokes, as A1111's inpaint sketch has them: what is touched is the mask, and
    the strokes run into the picture over ``blur`` pixels. A1111 finds what is touched by comparing pictures and misses
    strokes in the colour of their ground; here the strokes themselves are asked."""
    mask = strokes.convert("RGBA").getchannel("A").point(lambda v: 255 if v else 0)
    soft = ImageFilter.GaussianBlur(blur)
    return Image.composite(sketched(image, strokes).filter(soft), image, mask.filter(soft)), mask


def overlay(image: Image.Image, mask: Image.Image) -> Image.Image:
    """What is laid over the result: ``image``, opaque where ``mask`` is black."""
    layer = image.convert("RGB").convert("RGBA")
    layer.putalpha(ImageOps.invert(mask.convert("L").resize(image.size) if mask.size != image.size else mask))
    return layer


def doubled(mask: Image.Image) -> Image.Image:
    """Twice as white: half the blurred rim of a mask is taken from the result whole."""
    return ImageChops.add(mask, mask)


def widest(mask: Image.Image) -> Image.Image:
    """White but for the faintest greys, which lead to black: where soft inpainting may change pixels at all."""
    return mask.point(lambda v: min(16 * v, 255))


def latent_mask(mask: Image.Image, width: int, height: int, *, rounded: bool = True) -> NDArray[np.float32]:
    """The mask over latents of ``width`` x ``height``: (height, width), 1 = repaint."""
    small = mask.convert("L").resize((width, height), Image.Resampling.BICUBIC)
    values: NDArray[np.float32] = np.asarray(small).astype(np.float32) / np.float32(255)
    return np.rint(values) if rounded else values
