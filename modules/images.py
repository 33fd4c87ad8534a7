"""Pictures in and out, with Pillow alone: what we accept, what we write, grids."""

from __future__ import annotations

import io
import logging
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo

from modules.errors import ImageError, NotFound

log = logging.getLogger(__name__)

FORMATS = ("PNG", "JPEG", "WEBP")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_PIXELS = 32_000_000
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What Pillow raises on files that are not as they should be."""


def open_image(source: bytes | Path) -> Image.Image:
    """The picture in ``source``, upright, as RGB or, where something shows through, RGBA; the first of an animation.

    The content decides what it is, never the name, and its size is known before anything is decoded.
    """
    image = open_header(source)
    try:
        image.load()
    except BROKEN as error:
        raise ImageError("this picture is damaged or cut off", hint="send it again, or another copy") from error
    return _as_rgb(_to_srgb(_upright(image)))


def frames(source: bytes | Path) -> int:
    """How many pictures a file holds; `open_image` gives the first."""
    return int(getattr(open_header(source), "n_frames", 1))


def open_header(source: bytes | Path, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """The picture with its texts and size, its pixels not yet decoded."""
    try:
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats)
    except FileNotFoundError:
        raise NotFound(f"there is no file {source!s}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(error) from error
    except BROKEN as error:
        raise ImageError("this is not a picture that can be read", hint="PNG, JPEG and WebP are accepted") from error
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError("this picture has no pixels", hint="send another one")
    if width * height > MAX_PIXELS:
        raise _too_large(f"{width} x {height}")
    return image


def _too_large(what: object) -> ImageError:
    log.info("picture refused: %s", what)
    return ImageError(f"this picture has more than {MAX_PIXELS // 1_000_000} megapixels", hint="make it smaller first")


def _upright(image: Image.Image) -> Image.Image:
    try:
        ImageOps.exif_transpose(image, in_place=True)  # a copy of 32 megapixels would be 128 MB
    except BROKEN as error:
        log.info("EXIF data that cannot be read: %s", error)
    return image


def _to_srgb(image: Image.Image) -> Image.Image:
    """Colours of a picture with a profile of its own as sRGB has them; a profile that cannot be used is left aside."""
    data = image.info.get("icc_profile")
    if not data or image.mode not in ("RGB", "RGBA", "L", "CMYK"):
        return image
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        if "sRGB" in ImageCms.getProfileDescription(profile):
            return image  # a transform from sRGB to itself would still move some levels
        colours = image.convert("RGB") if image.mode == "RGBA" else image
        plain = ImageCms.profileToProfile(colours, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, *BROKEN) as error:
        log.info("colour profile that cannot be used: %s", error)
        return image
    assert plain is not None
    if image.mode == "RGBA":
        plain.putalpha(image.getchannel("A"))
    return plain


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey; Pillow's own conversion cuts off what is above 255
        grey = np.asarray(image).clip(0, 65535) // 256
        image = Image.fromarray(grey.astype(np.uint8))
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == mode else image.convert(mode)


CARRIED = b"rpIn"
"""A chunk of our own in a PNG, which others may copy and need not know: a whole PNG file that it was made from."""


def png_bytes(image: Image.Image, texts: Mapping[str, str] | None = None, carried: Sequence[bytes] = ()) -> bytes:
    """A PNG file with text chunks, tEXt, or iTXt where the text is not Latin-1, and with the files that it carries."""
    info = PngInfo()
    for file in carried:
        info.add(CARRIED, file)
    for key, text in (texts or {}).items():
        info.add_text(key, text.encode("utf-8", "replace").decode())  # a lone surrogate has no bytes
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def carried_in(data: bytes) -> list[bytes]:
    """The files that a PNG carries; none for anything else."""
    found, place = [], len(PNG_SIGNATURE)
    while data.startswith(PNG_SIGNATURE) and place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4])
        if data[place + 4 : place + 8] == CARRIED and place + 12 + length <= len(data):
            found.append(data[place + 8 : place + 8 + length])
        place += 12 + length  # length, name, content, checksum
    return found


def preview_jpeg(image: Image.Image, quality: int = 80) -> bytes:
    """A small file to look at."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def grid_rows(count: int, *, rows: int = -1, batch_size: int = 1, no_gaps: bool = False) -> int:
    """How many rows a grid of ``count`` pictures has. ``rows`` -1: about as many as columns; 0: the batch size."""
    if rows < 0:
        rows = round(math.sqrt(count))
        if no_gaps:
            rows = next(n for n in range(math.isqrt(count), 0, -1) if count % n == 0)
    return min(rows or batch_size, count)


def grid(images: Sequence[Image.Image], rows: int) -> Image.Image:
    """The pictures in ``rows`` rows, row by row, on white. Cells are as large as the largest picture."""
    columns = math.ceil(len(images) / rows)
    width, height = (max(image.size[side] for image in images) for side in (0, 1))
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * width, i // columns * height))
    return sheet
