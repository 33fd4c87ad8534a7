"""The pictures that requests start from, kept by content: ``inputs/3f/3f2a...``, named by the file's SHA-256."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from PIL import Image

from modules import atomic
from modules.errors import NotFound, OutputError
from modules.images import open_header, open_image

_KEY = re.compile(r"[0-9a-f]{64}")


class InputStore:
    """Files below ``folder``. Any number of processes may write at once: equal names are equal files."""

    def __init__(self, folder: Path):
        self.folder = folder

    def put(self, data: bytes) -> str:
        """Keep a picture file and give its key. Raises `ImageError` for what is no picture."""
        open_header(data)
        key = hashlib.sha256(data).hexdigest()
        path = self._place(key)
        if not path.exists():
            try:
                atomic.make_folder(path.parent)
                atomic.write(path, data)
            except OSError as error:
                raise OutputError(
                    f"the picture could not be kept in {self.folder}: {error.strerror or error}",
                    hint="free some space or make the folder writable",
                ) from error
        return key

    def open(self, key: str) -> Image.Image:
        """The picture of that key, upright, RGB or RGBA."""
        return open_image(self.path(key))

    def path(self, key: str) -> Path:
        """The file of that key; raises `NotFound`."""
        if not (_KEY.fullmatch(key) and self._place(key).is_file()):
            raise NotFound("a picture of this request is not there any more", hint="choose it again", field="inputs")
        return self._place(key)

    def _place(self, key: str) -> Path:
        return self.folder / key[:2] / key
