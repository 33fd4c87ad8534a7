"""Which pictures are accepted, and what becomes of them."""

from __future__ import annotations

import io
import os
import resource
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from modules.errors import ImageError, NotFound
from modules.imaging.files import MAX_PIXELS, frames, grid, grid_rows, open_image, png_bytes, preview_jpeg


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def corner() -> Image.Image:
    """Grey, 24 x 16, with a red upper left quarter."""
    image = Image.new("RGB", (24, 16), (90, 90, 90))
    image.paste((255, 0, 0), (0, 0, 12, 8))
    return image


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_size(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG whose pixels are missing."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


# The inverse of what a viewer does for each EXIF orientation.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", STORED)
def test_pictures_are_turned_upright(orientation: int) -> None:
    how = STORED[orientation]
    stored = corner().transpose(how) if how is not None else corner()
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert open_image(encoded(stored, exif=exif)).tobytes() == corner().tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_pictures_of_other_formats_are_turned_too(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # as most telephones write an upright picture
    upright = open_image(encoded(corner().transpose(Image.Transpose.ROTATE_90), kind, exif=exif, quality=95))
    assert upright.size == (24, 16)
    assert np.abs(np.asarray(upright, int) - np.asarray(corner(), int)).mean() < 8


def ramp(mode: str) -> Image.Image:
    return Image.fromarray(np.arange(0, 256, dtype=np.uint8).reshape(16, 16)).convert(mode)


MODES = {
    "1": (encoded(ramp("1")), "RGB"),
    "L": (encoded(ramp("L")), "RGB"),
    "LA": (encoded(ramp("LA")), "RGBA"),
    "P": (encoded(ramp("P")), "RGB"),
    "P with alpha": (encoded(ramp("P"), transparency=3), "RGBA"),
    "RGBA": (encoded(ramp("RGBA")), "RGBA"),
    "CMYK": (encoded(ramp("CMYK"), "JPEG"), "RGB"),
    "grey JPEG": (encoded(ramp("L"), "JPEG"), "RGB"),
    "WebP": (encoded(Image.new("RGBA", (8, 8), (9, 9, 9, 99)), "WEBP"), "RGBA"),
    "animated WebP": (encoded(ramp("RGB"), "WEBP", save_all=True, append_images=[ramp("RGB")]), "RGB"),
    "animated PNG": (encoded(ramp("RGB"), save_all=True, append_images=[ramp("RGB")]), "RGB"),
    "one pixel": (encoded(Image.new("RGB", (1, 1))), "RGB"),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_rgb_or_rgba(name: str) -> None:
    data, mode = MODES[name]
    assert open_image(data).mode == mode


def test_sixteen_bits_of_grey_keep_their_brightness() -> None:
    deep = Image.fromarray(np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16))
    assert deep.mode == "I;16"
    levels = np.asarray(open_image(encoded(deep)))[..., 0].ravel()
    assert np.abs(levels.astype(int) - np.arange(256)).max() <= 1


def test_sixteen_bits_of_colour_keep_their_brightness() -> None:
    """A PNG of 2 x 1 pixels, 16 bits a channel: what Pillow itself cannot write."""
    rows = b"\0" + struct.pack(">6H", 0xFFFF, 0x8000, 0, 0x1234, 0, 0xFF00)
    data = png_of_size(2, 1, 16)[:33] + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert np.asarray(open_image(data)).tolist() == [[[255, 128, 0], [18, 0, 255]]]


def test_transparency_keeps_its_levels_whatever_the_mode() -> None:
    grey = Image.merge("LA", (Image.new("L", (8, 8), 90), ramp("L").resize((8, 8))))
    assert open_image(encoded(grey)).tobytes() == grey.convert("RGBA").tobytes()
    palette = ramp("L").convert("P")
    clear = np.asarray(open_image(encoded(palette, transparency=3)).getchannel("A"))
    assert (clear == 0).sum() == (np.asarray(palette) == 3).sum() == 1


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_profile_that_is_not_of_its_mode_changes_nothing(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    plain, wrong = (open_image(encoded(ramp(mode), kind, **more)) for more in ({}, {"icc_profile": profile()}))
    assert wrong.tobytes() == plain.tobytes()


def test_the_first_frame_of_an_animation_is_taken() -> None:
    for kind in ("PNG", "WEBP"):
        moving = encoded(corner(), kind, save_all=True, append_images=[Image.new("RGB", (24, 16))], lossless=True)
        assert frames(moving) == 2
        assert open_image(moving).tobytes() == corner().tobytes()


def test_cmyk_has_its_colours() -> None:
    red = np.asarray(open_image(encoded(Image.new("RGB", (8, 8), (255, 0, 0)).convert("CMYK"), "JPEG")))[4, 4]
    assert red[0] > 240
    assert max(red[1:]) < 20


def profile(gamma: float = 1.0) -> bytes:
    """A small ICC profile: sRGB's primaries, light by a power."""
    curve = b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256)) + b"\0\0"

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    text = b"desc\0\0\0\0" + struct.pack(">I", 6) + b"light\0" + bytes(78)
    text += b"\0" * (-len(text) % 4)
    tags = {
        b"desc": text,
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.4361, 0.2225, 0.0139),
        b"gXYZ": xyz(0.3851, 0.7169, 0.0971),
        b"bXYZ": xyz(0.1431, 0.0606, 0.7141),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
        b"cprt": b"text\0\0\0\0none",
    }
    place, table, data = 132 + 12 * len(tags), b"", b""
    for name, body in tags.items():
        table += name + struct.pack(">II", place + len(data), len(body))
        data += body
    head = struct.pack(">I4sI4s4s4s", place + len(data), b"none", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">iii", 63190, 65536, 54061)
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + data


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_of_another_profile_become_srgb(mode: str) -> None:
    linear = Image.new(mode, (8, 8), (128, 128, 128, 77)[: len(mode)])
    shown = open_image(encoded(linear, icc_profile=profile()))
    assert shown.mode == mode
    *colours, last = shown.getpixel((4, 4))  # type: ignore[misc]
    assert abs(colours[0] - 188) <= 1  # half the light is 188 of 255 in sRGB
    assert last == 77 if mode == "RGBA" else abs(last - 188) <= 1


def test_srgb_itself_and_profiles_that_are_broken_change_nothing() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for data in (srgb, b"no profile at all", profile()[:100]):
        assert open_image(encoded(ramp("RGB"), icc_profile=data)).tobytes() == ramp("RGB").tobytes()


def test_frames_are_counted() -> None:
    assert frames(encoded(ramp("RGB"))) == 1
    assert frames(encoded(ramp("RGB"), "WEBP", save_all=True, append_images=[corner().resize((16, 16))])) == 2


@pytest.mark.parametrize("kind", ["AVIF", "GIF", "BMP", "TIFF"])
def test_formats_that_people_have_are_read_whatever_their_name(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(corner(), kind, **({"quality": 100} if kind == "AVIF" else {})))
    apart = np.abs(np.asarray(open_image(path), int) - np.asarray(corner(), int))
    assert apart.mean() < 4 if kind == "AVIF" else apart.max() == 0
    assert frames(path) == 1


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "AVIF"])
def test_of_several_pictures_the_first_is_taken(kind: str) -> None:
    data = encoded(corner(), kind, save_all=True, append_images=[Image.new("RGB", (24, 16), (0, 0, 255))] * 3)
    assert np.asarray(open_image(data))[4, 4, 0] > 240
    assert frames(data) > 1


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"])
def test_tiff_is_read_however_it_is_packed(compression: str) -> None:
    read = open_image(encoded(corner(), "TIFF", compression=compression))
    assert np.abs(np.asarray(read, int) - np.asarray(corner(), int)).mean() < 4


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16", "F"])
def test_tiff_of_every_mode_is_a_picture(mode: str) -> None:
    levels = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    image = {
        "I;16": lambda: Image.fromarray(levels),
        "F": lambda: Image.fromarray((levels / 65535).astype(np.float32)),
    }.get(mode, lambda: ramp("RGB").convert(mode))()
    read = np.asarray(open_image(encoded(image, "TIFF")), int)[..., :3]
    assert np.abs(read - np.asarray(ramp("RGB").convert("1" if mode == "1" else "RGB").convert("RGB"), int)).mean() < 16


def test_tiff_and_avif_are_turned_upright_once() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("TIFF", "AVIF"):
        upright = open_image(encoded(corner().transpose(Image.Transpose.ROTATE_90), kind, exif=exif))
        assert upright.size == (24, 16)
        assert np.abs(np.asarray(upright, int) - np.asarray(corner(), int)).mean() < 8


def test_xmp_says_which_way_up_where_there_is_no_exif() -> None:
    xmp = b'<rdf:Description tiff:Orientation="3"/>'
    turned = corner().transpose(Image.Transpose.ROTATE_180)
    for data in (
        encoded(turned, "WEBP", lossless=True, xmp=xmp),
        with_chunk(encoded(turned), chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)),
    ):
        assert open_image(data).tobytes() == corner().tobytes()


def with_chunk(png: bytes, *chunks: bytes) -> bytes:
    return png[:33] + b"".join(chunks) + png[33:]


ZEROS = zlib.compress(bytes(50_000_000))
LARGE = {
    "zTXt": chunk(b"zTXt", b"workflow\0\0" + ZEROS),
    "iTXt": chunk(b"iTXt", b"workflow\0\1\0\0\0" + ZEROS),
    "tEXt": chunk(b"tEXt", b"workflow\0" + bytes(70_000_000)),
    "iCCP": chunk(b"iCCP", b"profile\0\0" + ZEROS),
    "eXIf": chunk(b"eXIf", bytes(9_000_000)),
    "many texts": chunk(b"tEXt", b"a\0" + bytes(7_000_000)) * 12,
    "broken text": chunk(b"zTXt", b"workflow\0\0no zlib"),
    "text without an end": chunk(b"iTXt", b"workflow"),
    "short pHYs": chunk(b"pHYs", b"\0"),
    "short gAMA": chunk(b"gAMA", b""),
    "short cHRM": chunk(b"cHRM", b"\0" * 5),
    "wrong checksum": chunk(b"tEXt", b"a\0b")[:-4] + bytes(4),
}


@pytest.mark.parametrize("name", LARGE)
def test_no_chunk_beside_the_pixels_makes_a_picture_unreadable(name: str) -> None:
    data = with_chunk(encoded(corner()), LARGE[name])
    assert open_image(data).tobytes() == corner().tobytes()


@pytest.mark.parametrize("kind", ["PPM", "ICO", "PDF", "EPS"])
def test_other_formats_are_refused_whatever_their_name(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(corner(), kind))
    with pytest.raises(ImageError, match="PNG, JPEG, WebP, AVIF, GIF, BMP and TIFF are accepted"):
        open_image(path)


def test_the_name_of_a_file_means_nothing(tmp_path: Path) -> None:
    path = tmp_path / "picture.gif"
    path.write_bytes(encoded(corner()))
    assert open_image(path).tobytes() == corner().tobytes()


def test_the_limit_is_named() -> None:
    with pytest.raises(ImageError, match="more than 32 megapixels; make it smaller first"):
        open_image(BOMBS["a gigapixel"])


@pytest.mark.parametrize(
    "data", [b"just some words\n", b"", b"\0" * 100, b"GIF89a", b"<svg/>", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"]
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match="not a picture"):
        open_image(data)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        open_image(tmp_path / "none.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_that_is_cut_off_is_refused(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    for length in (len(data) // 2, len(data) - 40):
        with pytest.raises(ImageError):
            open_image(data[:length])


def test_a_picture_without_pixels_is_refused() -> None:
    for size in ((0, 0), (0, 5), (5, 0)):
        with pytest.raises(ImageError):
            open_image(png_of_size(*size))


TEXT_BOMB = png_of_size(8, 8)[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000)))
BOMBS = {
    "32 megapixels and a row": png_of_size(MAX_PIXELS // 8000, 8001),
    "a gigapixel": png_of_size(50_000, 50_000),
    "one bit deep": png_of_size(100_000, 100_000, 1, 0),
    "JPEG": encoded(Image.new("L", (16, 16)), "JPEG").replace(struct.pack(">HH", 16, 16), b"\xff\xff\xff\xff", 1),
    "text": TEXT_BOMB,
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_they_go_off(name: str) -> None:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ImageError):
        open_image(BOMBS[name])
    assert time.process_time() - start < 20.0  # far less on a free core; by the square it would be minutes
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_thirty_two_megapixels_are_a_picture() -> None:
    with pytest.raises(ImageError, match="damaged"):  # its pixels are missing, its size is no fault
        open_image(png_of_size(MAX_PIXELS // 8000, 8000))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_leaves_a_picture_as_it_is() -> None:
    data = encoded(corner(), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert open_image(data).tobytes() == corner().tobytes()


@pytest.mark.parametrize(
    ("text", "kind"), [("plain", b"tEXt"), ("é\nline", b"tEXt"), ("猫", b"iTXt"), ("\ud800 alone", b"tEXt")]
)
def test_png_texts_come_back(text: str, kind: bytes) -> None:
    data = png_bytes(corner(), {"parameters": text})
    image = Image.open(io.BytesIO(data))
    assert isinstance(image, PngImagePlugin.PngImageFile)
    assert image.text["parameters"] == text.replace("\ud800", "?")
    assert kind in data
    assert image.tobytes() == corner().tobytes()


def test_preview_is_a_small_jpeg() -> None:
    image = Image.open(io.BytesIO(preview_jpeg(corner().convert("RGBA"))))
    assert (image.format, image.size) == ("JPEG", (24, 16))


def test_grid_is_filled_row_by_row_on_white() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    sheet = grid([Image.new("RGB", (4, 2), colour) for colour in colours], 2)
    assert sheet.size == (8, 4)
    assert [sheet.getpixel(at) for at in ((0, 0), (4, 0), (0, 2), (4, 2))] == [*colours, (255, 255, 255)]


def test_a_grid_has_at_most_as_many_rows_as_pictures() -> None:
    assert grid_rows(3, rows=9) == 3
    assert grid_rows(7, rows=-1, no_gaps=True) == 1
    assert grid_rows(6, rows=0, batch_size=2) == 2


def test_a_pipe_is_no_picture_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for place in (tmp_path / "pipe.png", tmp_path, Path("/dev/zero")):
        with pytest.raises(ImageError, match="no regular file"):
            open_image(place)
