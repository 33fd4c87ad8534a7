"""Texts in picture files, broken and hostile ones too. What A1111 and Forge wrote: tests/conformance/test_files.py."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from modules.errors import ImageError
from modules.infotext import MAX_LENGTH
from modules.metadata import read_metadata

GREY = Image.new("RGB", (40, 30), (90, 90, 90))


def jpeg(comment: bytes) -> bytes:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = comment
    buffer = io.BytesIO()
    GREY.save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def png(image: Image.Image = GREY, **texts: str) -> bytes:
    info = PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def hidden(stream: bytes, channels: str, size: tuple[int, int] = (60, 50)) -> Image.Image:
    """``stream`` in the lowest bits, written pixel by pixel as the format's definition has it."""
    image = Image.new("RGBA" if channels == "A" else "RGB", size, (8, 8, 8, 254) if channels == "A" else (8, 8, 8))
    pixels = np.array(image)
    bits = [byte >> (7 - i) & 1 for byte in stream for i in range(8)]
    places = [
        (y, x, c) for x in range(size[0]) for y in range(size[1]) for c in ((3,) if channels == "A" else (0, 1, 2))
    ]
    for (y, x, c), bit in zip(places, bits, strict=False):
        pixels[y, x, c] = pixels[y, x, c] & 0xFE | bit
    return Image.fromarray(pixels)


def stream(signature: bytes, payload: bytes, bits: int | None = None) -> bytes:
    return signature + (8 * len(payload) if bits is None else bits).to_bytes(4, "big") + payload


@pytest.mark.parametrize(
    ("comment", "text"),
    [
        (b"UNICODE\0" + "a 猫".encode("utf-16-be"), "a 猫"),
        (b"UNICODE\0" + "a cat".encode("utf-16-le"), "a cat"),
        (b"ASCII\0\0\0" + b"a cat\0", "a cat"),
        (b"\0" * 8 + "é".encode(), "é"),
        (b"no header here", "no header here"),
        (b"UNICODE\0" + b"\0a\xd8", "a"),
    ],
)
def test_user_comments_are_read_in_every_encoding(comment: bytes, text: str) -> None:
    assert read_metadata(jpeg(comment))["infotext"] == text


def test_recipe_and_other_texts_are_apart() -> None:
    found = read_metadata(png(parameters="p", recipe="{}", extras="e"))
    assert found == {"infotext": "p", "recipe": "{}", "items": {"extras": "e"}, "stealth_infotext": None}


@pytest.mark.parametrize("comment", ["", "{}", "[]", "[" * 50_000, '{"sampler": ["x"]}'])
def test_broken_novelai_data_is_no_text(comment: str) -> None:
    found = read_metadata(png(Software="NovelAI", Description="d", Comment=comment))
    assert found["infotext"] is None


@pytest.mark.parametrize("channels", ["A", "RGB"])
@pytest.mark.parametrize("packed", [False, True])
def test_hidden_text_is_found(channels: str, packed: bool) -> None:
    kind = {"A": b"stealth_png", "RGB": b"stealth_rgb"}[channels] + (b"comp" if packed else b"info")
    payload = "a 猫\nSteps: 20".encode()
    data = png(hidden(stream(kind, gzip.compress(payload) if packed else payload), channels))
    assert read_metadata(data)["stealth_infotext"] == payload.decode()


@pytest.mark.parametrize(
    "broken",
    [
        stream(b"stealth_rgbcomp", b"no gzip"),
        stream(b"stealth_rgbcomp", gzip.compress(b"x" * 99)[:-12], 2**32 - 1),
        stream(b"stealth_pnginfo", b"alpha's signature in the colours"),
        b"stealth_rgbinfo",
    ],
)
def test_broken_hidden_text_breaks_nothing(broken: bytes) -> None:
    read_metadata(png(hidden(broken, "RGB")))


def test_a_hidden_bomb_is_cut_off() -> None:
    bomb = gzip.compress(bytes(10_000_000))
    data = png(hidden(stream(b"stealth_rgbcomp", bomb), "RGB", (200, 150)))
    text = read_metadata(data)["stealth_infotext"]
    assert text is not None
    assert len(text) <= 4 * MAX_LENGTH


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (19, 8)])
def test_tiny_pictures_hide_nothing(size: tuple[int, int]) -> None:
    for mode in ("RGB", "RGBA"):
        assert read_metadata(png(Image.new(mode, size)))["stealth_infotext"] is None


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"text")
    with pytest.raises(ImageError):
        read_metadata(path)
