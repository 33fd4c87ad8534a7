"""Reading and writing image files with Pillow: accepted formats, orientation, colour profiles, grids."""

from __future__ import annotations

import io
import logging
import math
import re
import stat
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from modules.errors import ImageError, NotFound
from modules.imaging.containers import PNG_SIGNATURE, Exif, chunks, read_exif, unpack

log = logging.getLogger(__name__)

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff")
ACCEPTED = "PNG, JPEG, WebP, AVIF, GIF, BMP and TIFF are accepted"
MAX_PIXELS = 32_000_000
MAX_BYTES = 512_000_000
"""Size limit of a file: the pixel limit, uncompressed, in the widest format."""
MODES = ("RGB", "RGBA", "L", "LA", "P", "1")
"""Of pictures that extensions give: those that every format of ours takes. Others (F, I) may hold what is no colour."""
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
"""Exceptions that Pillow raises on damaged files."""


def open_image(source: bytes | Path) -> Image.Image:
    """Open an image, upright, as RGB or, with transparency, RGBA; the first frame of an animation.

    The content decides what it is, never the name, and its size is known before anything is decoded.
    """
    image, orientation = _decoded(source)
    image = _upright(image, orientation)
    return _as_rgb(_to_srgb(image))


def _decoded(source: bytes | Path) -> tuple[Image.Image, int]:
    """The image as stored, and its EXIF orientation."""
    opened = unpacked(source)
    load(opened.image)
    return opened.image, opened.exif.orientation if opened.exif else _xmp_orientation(opened.image)


def load(image: Image.Image) -> None:
    """Decode the pixels, or raise an `ImageError`."""
    try:
        image.load()
    except BROKEN as error:
        raise ImageError("this picture is damaged or cut off", hint="send it again, or another copy") from error


def frames(source: bytes | Path) -> int:
    """The number of images in a file; `open_image` gives the first. GIF and TIFF are counted up to two."""
    opened = unpacked(source)
    if opened.image.format == "GIF":
        return 1 + int(getattr(opened.image, "is_animated", False))
    return 2 if opened.further else int(getattr(opened.image, "n_frames", 1))


def open_header(source: bytes | Path, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Open an image for its metadata and size, without decoding the pixels."""
    return unpacked(source, formats).image


@dataclass(frozen=True)
class Opened:
    """An image whose pixels are not decoded yet. PNG text is in ``image.info``, EXIF is not."""

    image: Image.Image
    exif: Exif | None
    further: bool


def unpacked(source: bytes | Path, formats: tuple[str, ...] = FORMATS) -> Opened:
    """`open_header`, together with the file's metadata."""
    try:
        file = unpack(source if isinstance(source, bytes) else _file(source))
        image = Image.open(io.BytesIO(file.pixels), formats=formats)
    except FileNotFoundError:
        raise NotFound(f"there is no file {source!s}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(error) from error
    except BROKEN as error:
        raise ImageError("this is not a picture that can be read", hint=ACCEPTED) from error
    _limit(image)
    raw = image.info.pop("exif", None)
    image.info.update(file.texts)
    return Opened(image, file.exif or (read_exif(raw) if isinstance(raw, bytes) else None), file.further)


def _file(path: Path) -> bytes:
    """The bytes of a regular file: a pipe or a device may have no end, or keep whoever reads it waiting."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ImageError(f"{path.name} is no regular file", hint="choose an image file")
    if path.stat().st_size > MAX_BYTES:
        raise ImageError(f"this file has more than {MAX_BYTES // 1_000_000} MB", hint="make the picture smaller first")
    return path.read_bytes()


def _limit(image: Image.Image) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError("this picture has no pixels", hint="send another one")
    if width * height > MAX_PIXELS:
        raise _too_large(f"{width} x {height}")


def _too_large(what: object) -> ImageError:
    log.info("picture refused: %s", what)
    return ImageError(f"this picture has more than {MAX_PIXELS // 1_000_000} megapixels", hint="make it smaller first")


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that undoes each EXIF orientation."""


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    if orientation not in _TURNS or image.format == "TIFF":  # Pillow turns TIFF itself
        return image
    return image.transpose(_TURNS[orientation])


_XMP = re.compile(r"""tiff:Orientation(?:="|>)([1-8])""")


def _xmp_orientation(image: Image.Image) -> int:
    """The orientation in XMP, used if a file has no EXIF."""
    raw = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or ""
    found = _XMP.search(raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw))
    return int(found[1]) if found else 1


def _to_srgb(image: Image.Image) -> Image.Image:
    """Convert an image with a colour profile to sRGB; an unusable profile is ignored."""
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
    if image.mode == "F":  # 0 to 1, or to 255
        grey = np.nan_to_num(np.asarray(image))
        image = Image.fromarray((grey * (255 if grey.max() <= 1 else 1)).clip(0, 255).astype(np.uint8))
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == mode else image.convert(mode)


CARRIED = b"rpIn"
"""Our private PNG chunk: a whole PNG file, embedded as an input of the image. Other programs may copy or ignore it."""


def png_bytes(image: Image.Image, texts: Mapping[str, str] | None = None, carried: Sequence[bytes] = ()) -> bytes:
    """Encode a PNG with text chunks (tEXt, or iTXt if the text is not Latin-1) and with embedded files."""
    info = PngInfo()
    for file in carried:
        info.add(CARRIED, file)
    for key, text in (texts or {}).items():
        name = key.encode("latin-1", "replace")[:79]  # what the standard allows
        info.add_text(name, text.encode("utf-8", "replace").decode())  # a lone surrogate has no bytes
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def carried_in(data: bytes) -> list[bytes]:
    """The files embedded in a PNG; none for other formats."""
    found = chunks(data) if data.startswith(PNG_SIGNATURE) else ()
    return [data[start:end] for name, start, end in found if name == CARRIED]


def check_given(image: object) -> Image.Image:
    """A picture that an extension gives, if it can be saved. Raises `TypeError`, `ValueError` and what Pillow does."""
    if not isinstance(image, Image.Image):
        raise TypeError(f"it must give a picture, not {type(image).__name__}")
    if image.mode not in MODES:
        raise TypeError(f"it must give a picture of mode {', '.join(MODES[:-1])} or {MODES[-1]}, not {image.mode}")
    if 0 in image.size:
        raise ValueError("it must give a picture with pixels")
    image.load()  # a file that is closed or damaged fails here
    return image


def preview_jpeg(image: Image.Image, quality: int = 80) -> bytes:
    """Encode a small JPEG for previews."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def grid_rows(count: int, *, rows: int = -1, batch_size: int = 1, no_gaps: bool = False) -> int:
    """The number of rows of a grid of ``count`` images. ``rows`` -1: roughly square; 0: the batch size."""
    if rows < 0:
        rows = round(math.sqrt(count))
        if no_gaps:
            rows = next(n for n in range(math.isqrt(count), 0, -1) if count % n == 0)
    return min(rows or batch_size, count)


def grid(images: Sequence[Image.Image], rows: int) -> Image.Image:
    """Paste images into a grid of ``rows`` rows, row by row, on white. Cells have the size of the largest image."""
    columns = math.ceil(len(images) / rows)
    width, height = (max(image.size[side] for image in images) for side in (0, 1))
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * width, i // columns * height))
    return sheet
