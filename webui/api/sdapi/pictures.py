"""Pictures as A1111's API carries them: base64, alone or as a data URL, or an address at a host that is listed."""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modules.errors import ImageError
from modules.imaging.files import open_header, open_image
from modules.metadata.image_text import Encoding, encode, read_metadata
from webui.api.sdapi.route import Refusal
from webui.outgoing import Outgoing
from webui.security.characters import WholeJSON

BLANK = re.compile(r"\s")
PIECE = 2**20


def decoded(text: str, field: str = "image", hosts: Sequence[str] = ()) -> bytes:
    """The bytes of a picture; raises `Refusal` with A1111's statuses. ``hosts``: whence pictures may be fetched."""
    if text[:20].lstrip().lower().startswith(("http://", "https://")):
        if not hosts:
            sentence = "pictures at addresses are not fetched; send the picture itself, in base64"
            raise Refusal(422, sentence, field=field)
        data = Outgoing(hosts, "--image-host", field).get(text.strip())
        open_header(data)
        return data
    try:
        picture = from_base64(text)
        open_header(picture)
    except (binascii.Error, ValueError, ImageError) as error:
        raise Refusal(500, "Invalid encoded image", field=field) from error
    return picture


def from_base64(text: str) -> bytes:
    """What a text or data URL holds; raises `ValueError`. Taken piece by piece, so that a large one is not copied."""
    start = text.find(",", 0, 200) + 1 if text.startswith("data:") else 0
    if BLANK.search(text, start):
        text, start = "".join(text[start:].split()), 0
    out = io.BytesIO()
    for begin in range(start, len(text), PIECE):
        out.write(binascii.a2b_base64(text[begin : begin + PIECE], strict_mode=True))
    return out.getvalue()


class PicturesJSON(WholeJSON):
    """An answer whose values may be pictures, or lists of them, as base64 in bytes. They are sent as they are:
    nothing in them has to be escaped, and looking through a megabyte for that would take 7 ms.
    """

    def render(self, content: Mapping[str, Any]) -> bytes:
        pieces: list[bytes] = []
        for name, value in content.items():
            pieces += [b"," if pieces else b"{", super().render(name), b":"]
            if isinstance(value, bytes):
                pieces += [b'"', value, b'"']
            elif isinstance(value, list) and all(isinstance(one, bytes) for one in value):
                pieces += [b'["' if value else b"[", *_between(b'","', value), b'"]' if value else b"]"]
            else:
                pieces.append(super().render(value))
        return b"".join((*pieces, b"}"))


def _between(comma: bytes, values: Sequence[bytes]) -> list[bytes]:
    return [piece for value in values for piece in (comma, value)][1:]


def encoded(path: Path, encoding: Encoding | None = None) -> bytes:
    """A saved picture in base64, in another format where ``encoding`` says so, its texts kept."""
    data = path.read_bytes()
    if encoding and f".{encoding.format}" != path.suffix.lower():
        texts = read_metadata(data)
        data, _ = encode(open_image(data), texts["infotext"] or "", texts["recipe"] or "", encoding)
    return base64.b64encode(data)
