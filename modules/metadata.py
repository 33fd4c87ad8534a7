"""The texts that a picture file carries: PNG text chunks, EXIF, GIF comments, NovelAI's own, and hidden bits."""

from __future__ import annotations

import json
import logging
import zlib
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from modules.errors import ImageError
from modules.images import BROKEN, FORMATS, open_header
from modules.infotext import MAX_LENGTH

log = logging.getLogger(__name__)

EXIF_IFD = 0x8769
USER_COMMENT = 0x9286

NOVELAI_SAMPLERS = {
    "k_euler": "Euler",
    "k_lms": "LMS",
    "k_heun": "Heun",
    "k_dpm_2": "DPM2",
    "k_dpm_2_ancestral": "DPM2 a",
    "k_dpm_fast": "DPM fast",
    "k_dpm_adaptive": "DPM adaptive",
    "k_dpmpp_2m": "DPM++ 2M",
    "k_dpmpp_sde": "DPM++ SDE",
    "k_dpmpp_2s_ancestral": "DPM++ 2S a",
    "ddim": "DDIM",
    "plms": "PLMS",
}
"""The others are "Euler a"."""


class Metadata(TypedDict):
    infotext: str | None
    """A1111's generation text."""
    recipe: str | None
    """Our own record, see `modules.recipe`."""
    items: dict[str, str]
    """All other texts."""
    stealth_infotext: str | None
    """A generation text hidden in the lowest bits of the pixels."""


def read_metadata(source: bytes | Path) -> Metadata:
    """Every text in a PNG, JPEG, WebP or GIF file. An `ImageError` if it is none of these."""
    image = open_header(source, (*FORMATS, "GIF"))
    if image.format == "PNG":
        _load(image)  # texts may also stand behind the pixels
    texts = {str(key): value for key, value in image.info.items() if isinstance(value, str)}
    infotext, recipe = texts.pop("parameters", None), texts.pop("recipe", None)
    infotext = _comment(image) or infotext
    if texts.get("Software") == "NovelAI":
        infotext = _novelai(texts, image.size) or infotext
    stealth = stealth_text(image) if image.format == "PNG" and infotext is None else None
    return {"infotext": infotext, "recipe": recipe, "items": texts, "stealth_infotext": stealth}


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except BROKEN as error:
        raise ImageError("this picture is damaged or cut off", hint="send it again, or another copy") from error


def _comment(image: Image.Image) -> str:
    """EXIF's UserComment, or without EXIF the comment of a GIF or JPEG file."""
    if "exif" in image.info:
        try:
            raw = image.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT, b"")
        except BROKEN as error:
            log.info("EXIF data that cannot be read: %s", error)
            return ""
        return raw if isinstance(raw, str) else _user_comment(bytes(raw))
    comment = image.info.get("comment", b"")
    return comment.decode("utf-8", "ignore") if isinstance(comment, bytes) else ""


def _user_comment(raw: bytes) -> str:
    """Eight bytes that name the encoding, then the text."""
    code, text = raw[:8].rstrip(b"\0 "), raw[8:]
    if code == b"UNICODE":
        # UTF-16 whose byte order nobody wrote down: Latin letters have their zero byte first or second.
        little = text[1::2].count(0) > text[::2].count(0)
        return text.decode("utf-16-le" if little else "utf-16-be", "ignore").removeprefix("\ufeff")
    if code == b"JIS":
        return text.decode("iso2022_jp", "ignore")
    if code in (b"ASCII", b""):
        return text.decode("utf-8", "ignore").rstrip("\0")
    return raw.decode("utf-8", "ignore")


def _novelai(texts: dict[str, str], size: tuple[int, int]) -> str:
    try:
        facts = json.loads(texts["Comment"])
        sampler = NOVELAI_SAMPLERS.get(facts["sampler"], "Euler a")
        return (
            f"{texts['Description']}\nNegative prompt: {facts['uc']}\n"
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
    for channels in ("A", "RGB"):
        if image.mode == "RGBA" or (image.mode == "RGB" and channels == "RGB"):
            head = _bits(image, channels, 0, _HEAD)
            wanted, packed = SIGNATURES.get(head[:-4], ("", False))
            if wanted == channels:
                return _payload(_bits(image, channels, _HEAD, int.from_bytes(head[-4:], "big") // 8), packed)
    return None


def _bits(image: Image.Image, channels: str, start: int, count: int) -> bytes:
    """``count`` bytes (or as many as there are, within reason) from byte ``start`` of the stream of lowest bits."""
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
