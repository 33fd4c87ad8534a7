"""What picture files carry beside their pixels, hostile files too. Memory is that of Python's own objects, in which
Pillow keeps the entries of EXIF."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from PIL import Image

from modules.errors import ImageError
from modules.imaging.containers import MAX_TEXT, read_exif, unpack
from modules.imaging.files import frames, open_image
from modules.metadata.image_text import read_metadata

GREY = Image.new("RGB", (64, 64), (90, 90, 90))
LARGE = 8_000_000


def encoded(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    GREY.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def directory(*entries: tuple[int, int, int, int], order: str = ">", then: int = 0) -> bytes:
    """Tag, type, count, value or place."""
    packed = b"".join(struct.pack(f"{order}HHII", *entry) for entry in entries)
    return struct.pack(f"{order}H", len(entries)) + packed + struct.pack(f"{order}I", then)


def shared(size: int, entries: int = 1000, kind: int = 7, below: bool = False) -> bytes:
    """EXIF whose entries all have the same bytes; ``below``: in a directory for EXIF."""
    begin = b"MM\0*" + (8).to_bytes(4) + (directory((0x8769, 4, 1, 26)) if below else b"")
    place = len(begin) + 2 + 12 * entries + 4
    count = (size - place) // {3: 2, 5: 8, 7: 1}[kind]
    return (begin + directory(*((0x9000 + i, kind, count, place) for i in range(entries)))).ljust(size, b"x")


def in_png(exif: bytes) -> bytes:
    data = encoded("PNG")
    return data[:33] + chunk(b"eXIf", exif) + data[33:]


def in_png_as_text(exif: bytes) -> bytes:
    data, text = encoded("PNG"), f"\nexif\n{len(exif)}\n{exif[: MAX_TEXT // 2 - 50].hex()}".encode()
    return data[:33] + chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)) + data[33:]


def in_jpeg(exif: bytes, junk: bytes = b"") -> bytes:
    data = encoded("JPEG")
    parts = [exif[i : i + 65_000] for i in range(0, len(exif), 65_000)]
    segments = b"".join(b"\xff\xe1" + (len(part) + 8).to_bytes(2) + b"Exif\0\0" + part for part in parts)
    return data[:20] + junk + segments + data[20:]  # behind JFIF's own


def in_webp(exif: bytes) -> bytes:
    data = encoded("WEBP", exif=b"Exif\0\0MM\0*" + bytes(100))
    place = data.index(b"EXIF")
    body = data[12:place] + b"EXIF" + len(exif).to_bytes(4, "little") + exif
    return b"RIFF" + (len(body) + 4).to_bytes(4, "little") + b"WEBP" + body


def in_avif(exif: bytes) -> bytes:
    blank = b"MM\0*" + (8).to_bytes(4) + bytes(len(exif) - 8)
    data = encoded("AVIF", exif=blank)
    place = data.index(blank[:1000])
    return data[:place] + exif + data[place + len(exif) :]


def further_pictures(entries: int) -> bytes:
    """A JPEG that says in a segment of 64 kB that it holds further ones."""
    data, index = encoded("JPEG"), shared(65_000, entries)
    return data[:2] + b"\xff\xe2" + (len(index) + 6).to_bytes(2) + b"MPF\0" + index + data[2:]


HOSTILE: dict[str, Callable[[], bytes]] = {
    "PNG": lambda: in_png(shared(LARGE)),
    "PNG, a directory below": lambda: in_png(shared(LARGE, below=True)),
    "PNG, text": lambda: in_png_as_text(shared(LARGE)),
    "JPEG": lambda: in_jpeg(shared(LARGE)),
    "JPEG, behind junk": lambda: in_jpeg(shared(LARGE), b"junk"),
    "JPEG, further pictures": lambda: further_pictures(5000),
    "WebP": lambda: in_webp(shared(LARGE)),
    "AVIF": lambda: in_avif(shared(LARGE)),
    "TIFF": lambda: shared(LARGE),
    "TIFF, a directory below": lambda: shared(LARGE, below=True),
    "TIFF, numbers": lambda: shared(LARGE, 1, 5),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_entries_that_share_their_bytes_cost_no_more_than_the_file(name: str) -> None:
    """Pillow alone takes 7.7 GB for the first."""
    data = HOSTILE[name]()
    for use in (open_image, read_metadata, frames):
        tracemalloc.start()
        try:
            use(data)
        except ImageError:
            assert name.startswith("TIFF")
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 5 * max(len(data), 2 * MAX_TEXT if "text" in name else 0, 200_000)


def test_a_gif_with_comments_without_end_is_read() -> None:
    data = encoded("GIF", comment=b"x")
    place = data.index(b"\x21\xfe")
    for comments in (b"\x21\xfe" + (b"\xff" + b"c" * 255) * 31_000 + b"\0", b"\x21\xfe\1c\0" * 50_000):
        assert open_image(data[:place] + comments + data[place:]).size == GREY.size
        # Where a stranger's bytes stand between, as Pillow allows.
        assert open_image(data[:place] + b"\7" + comments + data[place:]).size == GREY.size
    assert read_metadata(encoded("GIF", comment=b"a fox\nSteps: 1"))["infotext"] == "a fox\nSteps: 1"


@pytest.mark.parametrize("order", [">", "<"])
@pytest.mark.parametrize("place", ["EXIF", "description's directory"])
@pytest.mark.parametrize("wrap", [in_png, in_png_as_text, in_jpeg, in_webp, in_avif])
def test_the_comment_is_found_in_either_directory(wrap: Callable[[bytes], bytes], place: str, order: str) -> None:
    comment = b"UNICODE\0" + "a fox \u732b".encode("utf-16-be")
    head = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(f"{order}I", 8)
    if place == "EXIF":
        head += directory((0x8769, 4, 1, 26), order=order)
    start = len(head) + 18
    exif = head + directory((0x9286, 7, len(comment), start), order=order) + comment
    assert read_metadata(wrap(exif))["infotext"] == "a fox \u732b"
    assert open_image(wrap(exif)).size == GREY.size


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF"])
def test_exif_as_pillow_writes_it_is_read(kind: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = "recipe:{}"
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0a fox"
    found = read_metadata(encoded(kind, exif=exif))
    assert (found["infotext"], found["recipe"]) == ("a fox", "{}")


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"MM",
        b"MM\0*",
        b"MM\0*\xff\xff\xff\xff",
        b"MM\0*" + (8).to_bytes(4) + b"\xff\xff",
        b"MM\0*" + (8).to_bytes(4) + directory((0x9286, 7, 2**32 - 1, 4)),
        b"MM\0*" + (8).to_bytes(4) + directory((0x8769, 4, 1, 8)),
        b"MM\0*" + (8).to_bytes(4) + directory((0x0112, 3, 1, 99 << 16)),
    ],
)
def test_broken_exif_breaks_nothing(exif: bytes) -> None:
    read_exif(exif)
    for data in (in_png(exif), in_jpeg(exif), in_webp(exif)):
        assert open_image(data).size == GREY.size
        assert read_metadata(data)["infotext"] in (None, "")


def test_texts_are_read_in_the_three_kinds_of_chunks() -> None:
    words = "a \u732b"
    data = encoded("PNG")
    chunks = (
        chunk(b"tEXt", b"a\0" + "caf\xe9".encode("latin-1")),
        chunk(b"tEXt", b"b\0" + words.encode()),
        chunk(b"zTXt", b"c\0\0" + zlib.compress("caf\xe9".encode("latin-1"))),
        chunk(b"zTXt", b"d\0\0" + zlib.compress(words.encode())),
        chunk(b"iTXt", b"e\0\0\0en\0e\0" + words.encode()),
        chunk(b"iTXt", b"f\0\1\0\0\0" + zlib.compress(words.encode())),
        chunk(b"tEXt", b"a\0" + b"twice"),
    )
    expected = {"a": "twice", "b": words, "c": "caf\xe9", "d": words, "e": words, "f": words}
    for where in (33, len(data) - 12):  # before the pixels and behind them
        assert unpack(data[:where] + b"".join(chunks) + data[where:]).texts == expected


def test_a_text_of_a_few_megabytes_is_kept_and_a_longer_one_left_out() -> None:
    data = encoded("PNG")
    for size, kept in ((2_000_000, True), (MAX_TEXT + 1, False)):
        texts = chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(size))), chunk(b"tEXt", b"parameters\0a fox")
        found = read_metadata(data[:33] + b"".join(texts) + data[33:])
        assert found["infotext"] == "a fox"
        assert ("workflow" in found["items"]) == kept
