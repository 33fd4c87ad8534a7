"""Metadata in image files: PNG text chunks, EXIF, GIF comments, NovelAI's format, and stealth text. Reads and
writes.

Written by us, a PNG has the chunks `parameters` and `recipe`; JPEG and WebP have the first in EXIF's UserComment, where
A1111 and others look for it, and the second in ImageDescription, which A1111 does not read.
"""

from __future__ import annotations

import io
import json
import logging
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from modules.diffusion.names import Samplers, Schedulers
from modules.errors import UserError
from modules.extension.modifier import ModifierSpec
from modules.imaging.containers import EXIF_IFD, IMAGE_DESCRIPTION, USER_COMMENT, Exif
from modules.imaging.files import load, open_header, png_bytes, unpacked
from modules.metadata import recipe as recipes
from modules.metadata import verdict as verdicts
from modules.metadata.infotext import MAX_LENGTH, FindFile, Paste, find_none, params_from, read

log = logging.getLogger(__name__)

RECIPE = "recipe:"
"""Marks our recipe in ImageDescription, a field that holds ordinary captions as well."""

MAX_JPEG_EXIF = 65_533
"""Bytes of the one JPEG segment that holds EXIF: its length has 16 bits and counts itself."""

MAX_CARRIED = 16_000_000
"""Size limit of all embedded images; a file of twice that size could not be uploaded again."""

NOVELAI_SAMPLERS = {
    "k_euler": "Euler",
    "k_lms": "LMS",
    "k_heun": "Heun",
    "k_dpm_2": "DPM2",
    "k_dpm_2_ancestral": "DPM2 a",
    "k_dpm_fast": "DPM fast",
    "k_dpm_adaptive": "DPM adaptive",
    "k_dpmpp_2m": "DPM++ 2M",
    "k_dpmpp_2m_sde": "DPM++ 2M SDE",
    "k_dpmpp_3m_sde": "DPM++ 3M SDE",
    "k_dpmpp_sde": "DPM++ SDE",
    "k_dpmpp_2s_ancestral": "DPM++ 2S a",
    "ddim": "DDIM",
    "plms": "PLMS",
}
"""NovelAI's sampler names; unknown ones become "Euler a"."""


class Metadata(TypedDict):
    infotext: str | None
    """A1111's generation text."""
    recipe: str | None
    """Our own record, see `modules.metadata.recipe`."""
    items: dict[str, str]
    """All other texts."""
    stealth_infotext: str | None
    """A generation text hidden in the lowest bits of the pixels."""


def read_metadata(source: bytes | Path) -> Metadata:
    """All metadata texts in an image file of any supported format. Raises `ImageError` if it is no image."""
    opened = unpacked(source)
    image = opened.image
    texts = {str(key): value for key, value in image.info.items() if isinstance(value, str)}
    texts = texts if image.format == "PNG" else {}
    infotext, recipe = texts.pop("parameters", None), texts.pop("recipe", None)
    infotext = _comment(image, opened.exif) or infotext
    if texts.get("Software") == "NovelAI":
        infotext = _novelai(texts, image.size) or infotext
    stealth = stealth_text(image) if infotext is None and _keeps_bits(image, source) else None
    return {
        "infotext": _plain(infotext, image.size),
        "recipe": recipe or _description(opened.exif),
        "items": texts,
        "stealth_infotext": _plain(stealth, image.size),
    }


def _comment(image: Image.Image, exif: Exif | None) -> str:
    """EXIF's UserComment or, without EXIF, the comment of a GIF or JPEG file."""
    if exif:
        return _user_comment(exif.comment)
    comment = image.info.get("comment", b"")
    return comment.decode("utf-8", "ignore") if isinstance(comment, bytes) else ""


def _description(exif: Exif | None) -> str | None:
    """Our recipe in EXIF's ImageDescription; empty for a foreign caption."""
    text = exif.description.decode("utf-8", "replace").rstrip("\0") if exif else ""
    return text.removeprefix(RECIPE) if text.startswith(RECIPE) else None


def _keeps_bits(image: Image.Image, source: bytes | Path) -> bool:
    """Whether the format preserves the lowest bits of pixels."""
    return image.format in ("PNG", "BMP", "TIFF") or (image.format == "WEBP" and not is_lossy(source))


def _user_comment(raw: bytes) -> str:
    """Decode UserComment: eight bytes that name the encoding, then the text."""
    code, text = raw[:8].rstrip(b"\0 "), raw[8:]
    if code == b"UNICODE":
        # UTF-16 whose byte order nobody wrote down: Latin letters have their zero byte first or second.
        little = text[1::2].count(0) > text[::2].count(0)
        return text.decode("utf-16-le" if little else "utf-16-be", "ignore").removeprefix("\ufeff")
    if code == b"JIS":
        return text.decode("iso2022_jp", "ignore")
    if code in (b"ASCII", b""):
        return text.decode("utf-8", "ignore").rstrip("\0")
    return raw.decode("utf-8", "ignore").rstrip("\0")


def _plain(text: str | None, size: tuple[int, int]) -> str | None:
    """The infotext as it is; NovelAI's JSON is converted to A1111's form."""
    if text is None or not text.lstrip().startswith("{"):
        return text
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return text  # {a|b} begins a prompt as well
    if not isinstance(told, dict):
        return text
    return _novelai(told if "Comment" in told else {"Comment": told}, size) or text


def _novelai(texts: Mapping[str, Any], size: tuple[int, int]) -> str:
    try:
        comment = texts["Comment"]
        facts = json.loads(comment) if isinstance(comment, str) else comment
        sampler = NOVELAI_SAMPLERS.get(facts["sampler"], "Euler a")
        return (
            f"{texts.get('Description') or facts['prompt']}\nNegative prompt: {facts['uc']}\n"
            f"Steps: {facts['steps']}, Sampler: {sampler}, CFG scale: {facts['scale']}, Seed: {facts['seed']}, "
            f"Size: {size[0]}x{size[1]}, Clip skip: 2, ENSD: 31337"
        )
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        log.info("NovelAI data that cannot be read: %s", error)
        return ""


SIGNATURES = {
    b"stealth_pnginfo": ("A", False),
    b"stealth_pngcomp": ("A", True),
    b"stealth_rgbinfo": ("RGB", False),
    b"stealth_rgbcomp": ("RGB", True),
}
"""Signature -> channels whose lowest bits are read, and whether the text is gzipped. As Forge writes them."""

_HEAD = len(b"stealth_pnginfo") + 4


def stealth_text(image: Image.Image) -> str | None:
    """The text hidden in the lowest bits of the pixels, column by column, or None."""
    if image.mode not in ("RGB", "RGBA"):
        return None
    load(image)
    for channels in ("A", "RGB"):
        if image.mode == "RGBA" or channels == "RGB":
            head = _bits(image, channels, 0, _HEAD)
            wanted, packed = SIGNATURES.get(head[:-4], ("", False))
            if wanted == channels:
                return _payload(_bits(image, channels, _HEAD, int.from_bytes(head[-4:], "big") // 8), packed)
    return None


def _bits(image: Image.Image, channels: str, start: int, count: int) -> bytes:
    """``count`` bytes (or as many as there are, within a limit) from byte ``start`` of the stream of lowest bits."""
    width, height = image.size
    column = height * len(channels)  # bits in one column of the picture
    first, last = start * 8, min((start + min(count, 4 * MAX_LENGTH)) * 8, width * column // 8 * 8)
    left, right = first // column, -(-last // column)
    pixels: NDArray[np.uint8] = np.asarray(image.crop((left, 0, right, height))).transpose(1, 0, 2)  # (w, h, channels)
    stream = (pixels[..., 3:] if channels == "A" else pixels[..., :3]).reshape(-1)
    return np.packbits(stream[first - left * column : last - left * column] & 1).tobytes()


def _payload(data: bytes, packed: bool) -> str | None:
    try:
        if packed:
            data = zlib.decompressobj(wbits=31).decompress(data, 4 * MAX_LENGTH)
        return data[: 4 * MAX_LENGTH].decode("utf-8", "ignore")
    except zlib.error as error:
        log.info("hidden text that cannot be unpacked: %s", error)
        return None


def settings_in(
    found: Metadata,
    samplers: Samplers,
    schedulers: Schedulers,
    find_checkpoint: FindFile = find_none,
    find_vae: FindFile = find_none,
    modifiers: Iterable[ModifierSpec] = (),
) -> Paste:
    """The request settings in an image's metadata: from the recipe if there is one, else from A1111's infotext.

    A picture of a batch is asked for by its own seed; how many are made at once stays as it is.
    """
    recorded = verdicts.judge(found["recipe"])
    if isinstance(recorded, recipes.Recipe):
        changes = {"extensions": {}, **recorded.request.to_json()} | {
            "seed": recorded.seed,
            "subseed": recorded.subseed,
        }
        if not recorded.request.subseed_strength:
            changes["subseed"] = -1
        for name in ("batch_size", "batch_count", "checkpoint"):
            del changes[name]
        file = next(file for file in recorded.files if file.role == "checkpoint")
        name = recorded.request.checkpoint or Path(file.name).stem
        if (checkpoint := find_checkpoint(name, file.sha256[:10])) is not None:
            changes["checkpoint"] = checkpoint
        for used in (file for file in recorded.files if file.role == "vae"):
            if (vae := find_vae(used.name, used.sha256[:10])) is None:
                del changes["vae"]
                return Paste(changes, (f"there is no VAE {used.name} here; it was left as it is",))
            changes["vae"] = vae
        return Paste(changes, ())
    text = found["infotext"] or found["stealth_infotext"]
    if not text:
        raise UserError("this picture carries no generation text", hint="choose another one", field="infotext")
    return params_from(read(text), samplers, schedulers, find_checkpoint, find_vae, modifiers)


# ---------------------------------------------------------------------------------------------------------- writing


@dataclass(frozen=True)
class Encoding:
    """How an image is encoded. ``format`` is the suffix: png, jpg or webp; ``quality`` is from 1 to 100."""

    format: str = "png"
    quality: int = 90
    lossless: bool = False
    """WebP alone: every pixel is kept, and ``quality`` is how hard it tries to be small."""


PNG = Encoding()


def encode(
    image: Image.Image,
    infotext: str,
    recipe: str,
    encoding: Encoding = PNG,
    further: Mapping[str, str] | None = None,
    carried: Sequence[bytes] = (),
) -> tuple[bytes, str]:
    """Encode an image with its metadata, and return a warning for texts that do not fit; the image is always
    written.

    ``further`` texts by their keys and ``carried`` files, of the pictures that this one was made from, are for PNG
    alone: EXIF has no place for them.
    """
    if encoding.format == "png":
        texts = {"parameters": infotext, "recipe": recipe, **(further or {})}
        carried, lost = _fitting(carried)
        return png_bytes(image, {key: text for key, text in texts.items() if text}, carried), lost
    if carried:
        data, lost = encode(image, infotext, recipe, encoding, further)
        return data, "; ".join(filter(None, (lost, "start pictures are embedded in PNG files alone")))
    jpeg = encoding.format == "jpg"
    exif, lost = _exif(infotext, recipe, MAX_JPEG_EXIF if jpeg else None)
    buffer = io.BytesIO()
    if jpeg:
        image.convert("RGB").save(buffer, "JPEG", quality=encoding.quality, exif=exif)
    else:
        image.save(buffer, "WEBP", quality=encoding.quality, lossless=encoding.lossless, exif=exif)
    return buffer.getvalue(), lost


def _fitting(carried: Sequence[bytes]) -> tuple[Sequence[bytes], str]:
    """All embedded files or, if they are too large together, none and a warning."""
    size = sum(map(len, carried))
    if size <= MAX_CARRIED:
        return carried, ""
    limit = f"{MAX_CARRIED // 1_000_000} MB that a file may carry"
    return (), f"the start pictures have {size / 1e6:.1f} MB, more than the {limit}, so they are not embedded"


def _exif(infotext: str, recipe: str, limit: int | None) -> tuple[bytes, str]:
    """EXIF with both texts or those that fit, the infotext first; and a warning for the others."""
    kept: dict[str, str] = {}
    lost: list[str] = []
    for name, text in (("generation text", infotext), ("recipe", recipe)):
        if limit is not None and len(_exif_bytes(kept | {name: text})) > limit:
            lost.append(name)
        elif text:
            kept[name] = text
    if not lost:
        return _exif_bytes(kept), ""
    verb = "does" if len(lost) == 1 else "do"
    return _exif_bytes(kept), f"the {' and the '.join(lost)} {verb} not fit into a JPEG file; save as PNG to keep them"


def _exif_bytes(texts: Mapping[str, str]) -> bytes:
    """Build EXIF, a TIFF file of two directories. Pillow writes bytes as type BYTE, which piexif, and so A1111,
    cannot read.
    """
    inner, outer = [], []
    if text := texts.get("generation text"):
        # As piexif writes it: the encoding's name, then UTF-16 with the high byte first.
        inner.append((USER_COMMENT, UNDEFINED, b"UNICODE\0" + text.encode("utf-16-be", "replace")))
    if text := texts.get("recipe"):
        outer.append((IMAGE_DESCRIPTION, ASCII, f"{RECIPE}{text}\0".encode("ascii", "replace")))
    first = _directory(8, inner)
    outer.append((EXIF_IFD, LONG, (8).to_bytes(4)))
    start = 8 + len(first)
    return b"Exif\0\0MM\0*" + start.to_bytes(4) + first + _directory(start, outer)


ASCII, LONG, UNDEFINED = 2, 4, 7


def _directory(start: int, entries: Sequence[tuple[int, int, bytes]]) -> bytes:
    """Encode a TIFF directory of (tag, type, value), sorted by tag, at byte ``start``; values over four bytes follow
    it.
    """
    head, data = len(entries).to_bytes(2), b""
    behind = start + 2 + 12 * len(entries) + 4
    for tag, kind, value in entries:
        count = len(value) // 4 if kind == LONG else len(value)
        place = value.ljust(4, b"\0") if len(value) <= 4 else (behind + len(data)).to_bytes(4)
        head += tag.to_bytes(2) + kind.to_bytes(2) + count.to_bytes(4) + place
        data += value + bytes(len(value) % 2) if len(value) > 4 else b""
    return head + bytes(4) + data


def is_lossy(source: bytes | Path) -> bool:
    """Whether the file's compression changes pixels: JPEG, AVIF, and WebP without a VP8L chunk."""
    if (kind := open_header(source).format) != "WEBP":
        return kind in ("JPEG", "AVIF")
    data = source if isinstance(source, bytes) else source.read_bytes()
    place = 12  # "RIFF", length, "WEBP", then chunks of name, length and content, padded to an even length
    while place + 8 <= len(data):
        if data[place : place + 4] == b"VP8L":
            return False
        length = int.from_bytes(data[place + 4 : place + 8], "little")
        place += 8 + length + length % 2
    return True
