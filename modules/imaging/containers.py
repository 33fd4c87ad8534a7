"""Parses image containers for metadata: text chunks and EXIF, within bounds, so that Pillow gets a file without
them.

Pillow unpacks and copies whatever a file names, so 8 MB whose EXIF entries share their bytes become gigabytes, and one
text that is too long makes a picture unreadable. So Pillow gets a file without these, and they are read here.
"""

from __future__ import annotations

import logging
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_TEXT = 8_000_000
"""Bytes of one text, unpacked. A longer one is left out; ComfyUI's workflows reach a few MB."""
MAX_TEXTS = 32_000_000
"""Bytes of all texts of a file."""
MAX_PROFILE = 1_000_000
"""Bytes of a colour profile, which Pillow takes at most."""


@dataclass(frozen=True)
class Exif:
    """The three EXIF entries that we use, as raw values."""

    orientation: int = 1
    description: bytes = b""
    comment: bytes = b""
    """From the EXIF directory or, as some programs write it, from the main one."""


@dataclass(frozen=True)
class Unpacked:
    pixels: bytes
    """The file for Pillow."""
    texts: dict[str, str] = field(default_factory=dict)
    """A PNG's text chunks."""
    exif: Exif | None = None
    """None if there is none, or if Pillow provides it."""
    further: bool = False
    """Whether the file held further images, which are hidden from Pillow."""


def unpack(data: bytes) -> Unpacked:
    """Split a file of any format into pixels and metadata. Raises `ValueError` for a TIFF file that would need more
    memory than its size.
    """
    if data.startswith(PNG_SIGNATURE):
        return _png(data)
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data)
    if data[4:8] == b"ftyp":
        return _avif(data)
    if data.startswith(b"GIF8"):
        return Unpacked(_gif(data))
    if data[:2] in (b"II", b"MM"):
        return _first_of_tiff(data)
    return Unpacked(data)


# -------------------------------------------------------------------------------------------------------------- PNG

_NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT")
"""PNG chunks that define the pixels; and iCCP, which defines their colours."""


def chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The chunks of a PNG: name, start and end of the content. A truncated chunk is left out."""
    place = len(PNG_SIGNATURE)
    while place + 12 <= len(data):
        start, end = place + 8, place + 8 + int.from_bytes(data[place : place + 4])
        if end + 4 > len(data):
            return
        yield data[place + 4 : place + 8], start, end
        place = end + 4  # behind the checksum


def _png(data: bytes) -> Unpacked:
    kept: list[bytes | memoryview] = [PNG_SIGNATURE]
    view, last = memoryview(data), len(PNG_SIGNATURE)
    texts: dict[str, str] = {}
    exif, room = None, MAX_TEXTS
    for name, start, end in chunks(data):
        last = end + 4
        if name in _NEEDED or (name == b"iCCP" and _profile_fits(data[start:end])):
            kept.append(view[start - 8 : last])
        elif name in _TEXTS and end - start <= MAX_TEXT:
            key, text = _text(name, data[start:end])
            if key and len(text) <= room:
                room -= len(text) - len(texts.get(key, ""))
                texts[key] = text
        elif name == b"eXIf" and exif is None:
            exif = read_exif(view[start:end])
        if name == b"IEND":
            break
    else:
        kept.append(view[last:])  # a chunk that is cut off: Pillow knows whether enough is there
    return Unpacked(b"".join(kept), texts, exif or _raw_profile(texts))


def _profile_fits(content: bytes) -> bool:
    place = content.find(b"\0") + 2
    return place > 1 and inflate(content[place:], MAX_PROFILE) is not None


def inflate(data: bytes, most: int) -> bytes | None:
    """Decompress zlib data; None if it is damaged or longer than ``most`` bytes."""
    unpacking = zlib.decompressobj()
    try:
        found = unpacking.decompress(data, most + 1)
    except zlib.error:
        return None
    return found if len(found) <= most else None


_TEXTS = (b"tEXt", b"zTXt", b"iTXt")


def _text(name: bytes, content: bytes) -> tuple[str, str]:
    """Key and text of a text chunk; an empty key if it is damaged or too long."""
    raw_key, _, body = content.partition(b"\0")
    text: bytes | None = body
    if name == b"zTXt":
        text = inflate(body[1:], MAX_TEXT) if body[:1] == b"\0" else None
    elif name == b"iTXt":
        packed, rest = body[:1], body[2:].split(b"\0", 2)  # then language, key in that language, text
        text = None if len(rest) < 3 else inflate(rest[2], MAX_TEXT) if packed == b"\1" else rest[2]
    key = raw_key.decode("latin-1")
    if text is None:
        log.info("text %r of a picture is too long or broken, and left out", key[:40])
        return "", ""
    return key, text.decode("utf-8", "replace") if name == b"iTXt" else _words(text)


def _words(text: bytes) -> str:
    """Decode a tEXt chunk: Latin-1 by the standard, but UTF-8 if valid, since many programs write that."""
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("latin-1")


def _raw_profile(texts: dict[str, str]) -> Exif | None:
    """EXIF in hexadecimal, as ImageMagick wrote it before PNG had an eXIf chunk."""
    lines = texts.get("Raw profile type exif", "").split("\n")[3:]  # behind name and length
    try:
        return read_exif(bytes.fromhex("".join(lines))) if lines else None
    except ValueError as error:
        log.info("EXIF data that cannot be read: %s", error)
        return None


# ------------------------------------------------------------------------------------------------------ JPEG and AVIF

_JPEG_EXIF = re.compile(rb"\xff\xe1..Exif\0", re.DOTALL)
_JPEG_HIDDEN = re.compile(rb"(\xff\xe1..Exif\0|\xff\xe2..MPF\0)", re.DOTALL)
"""Segments that Pillow would parse into directories; the second holds further images, which we do not use."""


def _jpeg(data: bytes) -> Unpacked:
    """Split a JPEG file. The marker cannot occur in compressed pixels, where 0 follows every 0xff."""
    parts, place = [], 0
    while found := _JPEG_EXIF.search(data, place):
        place = found.start() + 2 + max(int.from_bytes(data[found.start() + 2 : found.start() + 4]), 8)
        parts.append(data[found.start() + 10 : place])
    hidden = _JPEG_HIDDEN.sub(lambda match: match[0][:4] + b"-" * (len(match[0]) - 4), data)
    return Unpacked(hidden, exif=read_exif(b"".join(parts)) if parts else None)


_AVIF_EXIF = re.compile(rb"(infe(?:\x02.{3}.{2}|\x03.{3}.{4}).{2})Exif", re.DOTALL)
"""The entry that marks an item of an AVIF file as EXIF."""
_TIFF_HEAD = re.compile(rb"II\*\0|MM\0\*")


def _avif(data: bytes) -> Unpacked:
    """Split an AVIF file. Its orientation is stored elsewhere, and Pillow reports it as EXIF."""
    hidden, count = _AVIF_EXIF.subn(rb"\1exif", data)
    if not count:
        return Unpacked(data)
    view, found = memoryview(data), Exif()
    for match, _ in zip(_TIFF_HEAD.finditer(data), range(8), strict=False):
        found = read_exif(view[match.start() :]) or found
        if found.comment or found.description:
            break
    return Unpacked(hidden, exif=Exif(1, found.description, found.comment))


# --------------------------------------------------------------------------------------------------------------- GIF

MAX_COMMENT = 100_000
"""Bytes of all comments of a GIF: Pillow needs the square of their length in time."""


def _gif(data: bytes) -> bytes:
    """The GIF file without overlong comments: 8 MB of them would take 9 s to read."""
    kept: list[memoryview] = []
    view, begin, room = memoryview(data), 0, MAX_COMMENT
    place = 13 + _colours(data[10:11])
    while place < len(data) and data[place] != 0x3B:  # the end
        start, kind = place, data[place : place + 2]
        if kind[0] == 0x21:  # an extension: its label, then blocks
            place = _behind_blocks(data, place + 2)
        elif kind[0] == 0x2C:  # a picture: where it lies, its colours, how its pixels are packed, then blocks
            place = _behind_blocks(data, place + 11 + _colours(data[place + 9 : place + 10]))
        else:
            place += 1
        if kind == b"\x21\xfe":
            room -= place - start
            if room < 0:
                if start > begin:
                    kept.append(view[begin:start])
                begin = place
    return b"".join((*kept, view[begin:])) if kept else data


def _colours(flags: bytes) -> int:
    """Size in bytes of a colour table."""
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0


def _behind_blocks(data: bytes, place: int) -> int:
    """The offset after a series of length-prefixed blocks, the last of which is empty."""
    while place < len(data) and data[place]:
        place += data[place] + 1
    return place + 1


# -------------------------------------------------------------------------------------------------------------- EXIF

ORIENTATION, IMAGE_DESCRIPTION, USER_COMMENT, EXIF_IFD = 0x0112, 0x010E, 0x9286, 0x8769
_FURTHER = (EXIF_IFD, 0x8825, 0xA005)
"""Tags that point to further directories which Pillow reads: EXIF, GPS, interoperability."""
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value by its type: TIFF 6.0, page 15, and BigTIFF."""
_BYTES = (1, 2, 7)
MAX_ENTRIES = 4096
"""Entry limit of one directory; cameras write fewer than 100."""


@dataclass(frozen=True)
class _Tiff:
    """A TIFF structure, which EXIF is in every format."""

    data: bytes | memoryview
    order: str
    big: bool

    def number(self, place: int, size: int) -> int:
        raw = bytes(self.data[place : place + size])
        return int.from_bytes(raw, "little" if self.order == "<" else "big") if len(raw) == size else -1

    @property
    def first(self) -> int:
        return self.number(8, 8) if self.big else self.number(4, 4)

    def entries(self, start: int) -> Iterator[tuple[int, int, int, int]]:
        """Tag, type, value offset and bytes of each entry; at most `MAX_ENTRIES`."""
        head, word, each = (8, 8, 20) if self.big else (2, 4, 12)
        count = self.number(start, head) if start > 0 else 0
        for i in range(min(count, MAX_ENTRIES)):
            place = start + head + each * i
            tag, kind, number = self.number(place, 2), self.number(place + 2, 2), self.number(place + 4, word)
            if number < 0:
                return
            size, place = number * _SIZES.get(kind, 1), place + 4 + word
            yield tag, kind, place if size <= word else self.number(place, word), size

    def behind(self, start: int) -> int:
        """The offset of the pointer to the next directory."""
        head, each = (8, 20) if self.big else (2, 12)
        return start + head + each * max(self.number(start, head), 0)


def _tiff(data: bytes | memoryview) -> _Tiff | None:
    heads = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}
    found = heads.get(bytes(data[:4]))
    return _Tiff(data, *found) if found else None


def read_exif(data: bytes | memoryview) -> Exif | None:
    """The EXIF entries that we know, ignoring all others; None if it is no EXIF."""
    data = data[6:] if bytes(data[:6]) == b"Exif\0\0" else data
    if (tiff := _tiff(data)) is None:
        log.info("EXIF data that cannot be read")
        return None
    outer = {tag: (kind, place, size) for tag, kind, place, size in tiff.entries(tiff.first)}
    inner = {}
    if EXIF_IFD in outer:
        start = tiff.number(outer[EXIF_IFD][1], 4)
        inner = {tag: (kind, place, size) for tag, kind, place, size in tiff.entries(start)}

    def value(tag: int, *directories: dict[int, tuple[int, int, int]]) -> bytes:
        for kind, place, size in (found[tag] for found in directories if tag in found):
            if kind in _BYTES and place >= 0 and size <= MAX_TEXT:
                return bytes(data[place : place + size])
        return b""

    _, place, _ = outer.get(ORIENTATION, (3, -1, 2))
    orientation = tiff.number(place, 2) if place >= 0 else 1
    comment = value(USER_COMMENT, inner, outer)
    return Exif(orientation, value(IMAGE_DESCRIPTION, outer), comment)


MAX_NUMBERS = 500_000
"""Of one TIFF file; 32 megapixels in tiles of 16 pixels a side have 125,000 of them, with two numbers each."""


def _first_of_tiff(data: bytes) -> Unpacked:
    if (tiff := _tiff(data)) is None:
        raise ValueError("this is no TIFF file")
    _check(tiff)
    place, size = tiff.behind(tiff.first), 8 if tiff.big else 4
    further = tiff.number(place, size) > 0
    return Unpacked(data[:place] + bytes(size) + data[place + size :] if further else data, further=further)


def _check(tiff: _Tiff) -> None:
    """Bound the size of all entries, since Pillow copies each value of the first directory and those below it, and
    makes Python objects of numbers.
    """
    waiting, seen, room, numbers = [tiff.first], 0, len(tiff.data), 0
    while waiting:
        start, seen = waiting.pop(), seen + 1
        if tiff.number(start, 8 if tiff.big else 2) > MAX_ENTRIES or seen > 16:
            raise ValueError("this TIFF file has too many entries")
        for tag, kind, place, size in tiff.entries(start):
            room -= size
            numbers += 0 if kind in _BYTES else size // _SIZES.get(kind, 1)
            if tag in _FURTHER:
                waiting.append(tiff.number(place, 8 if tiff.big and size == 8 else 4))
        if room < 0 or numbers > MAX_NUMBERS:
            raise ValueError("the entries of this TIFF file are larger than itself")
