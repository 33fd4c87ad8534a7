"""Pictures as A1111's API carries them: base64, alone or as a data URL. What lies at an address is not fetched."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from modules.errors import ImageError
from modules.imaging.files import open_header, open_image
from modules.metadata.image_text import Encoding, encode, read_metadata
from webui.api.sdapi.route import Refusal


def decoded(text: str, field: str = "image") -> bytes:
    """The bytes of a picture; raises `Refusal` with A1111's statuses."""
    if text.lstrip()[:8].lower().startswith(("http://", "https://")):
        raise Refusal(422, "pictures at addresses are not fetched; send the picture itself, in base64", field=field)
    head, comma, rest = text.partition(",")
    data = rest if comma and head.startswith("data:") else text
    try:
        picture = base64.b64decode("".join(data.split()), validate=True)
        open_header(picture)
    except (binascii.Error, ValueError, ImageError) as error:
        raise Refusal(500, "Invalid encoded image", field=field) from error
    return picture


def encoded(path: Path, encoding: Encoding | None = None) -> str:
    """A saved picture in base64, in another format where ``encoding`` says so, its texts kept."""
    data = path.read_bytes()
    if encoding and f".{encoding.format}" != path.suffix.lower():
        texts = read_metadata(data)
        data, _ = encode(open_image(data), texts["infotext"] or "", texts["recipe"] or "", encoding)
    return base64.b64encode(data).decode("ascii")
