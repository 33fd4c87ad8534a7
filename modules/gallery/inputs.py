"""The pictures that requests start from, stored by content, so that a recipe can name them and be followed again.

inputs/3f/3f2a….png, named by the SHA-256 of the file. A request carries the name alone.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from modules.errors import NotFound, OutputError
from modules.imaging.files import open_header, open_image, png_bytes
from modules.storage import atomic

_NAME = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class InputStore:
    """Pictures below ``folder``. Any number of processes may write at once: equal names are equal files."""

    folder: Path

    def put(self, source: bytes | Path | Image.Image) -> str:
        """Store a picture, upright and without its texts, and give its name. Raises `ImageError`."""
        image = source if isinstance(source, Image.Image) else open_image(source)
        data = png_bytes(image)
        sha256 = hashlib.sha256(data).hexdigest()
        self._write(self._path(sha256), data)
        return sha256

    def adopt(self, data: bytes) -> str:
        """Store a file that another picture carried under the name that its content gives; raises `ImageError`."""
        open_image(data)
        sha256 = hashlib.sha256(data).hexdigest()
        self._write(self._path(sha256), data)
        return sha256

    def keep(self, data: bytes) -> Path:
        """Store a picture file as it came, texts and all, for a replay; raises `ImageError` for what is no picture."""
        open_header(data)
        path = self._path(hashlib.sha256(data).hexdigest()).with_suffix("")
        self._write(path, data)
        return path

    def _write(self, path: Path, data: bytes) -> None:
        """A file that is no longer what its name says is mended by this."""
        try:
            if path.is_file() and path.read_bytes() == data:
                return
            atomic.make_folder(path.parent)
            atomic.write(path, data)
        except OSError as error:
            raise OutputError(
                f"the picture could not be stored in {self.folder}: {error.strerror or error}",
                hint=atomic.way_out(error, "make the folder writable"),
            ) from error

    def open(self, sha256: str, *, field: str = "init.image") -> Image.Image:
        """The picture of that name; raises `NotFound`, also where the file is no longer what its name says."""
        return open_image(self.read(sha256, field=field))

    def read(self, sha256: str, *, field: str = "init.image") -> bytes:
        """The file of that name."""
        try:
            data = self._path(sha256).read_bytes() if sha256 in self else b""
        except FileNotFoundError:  # it went between the two
            data = b""
        except OSError as error:
            raise OutputError(
                f"the stored picture {sha256[:12]} cannot be read: {error.strerror or error}",
                hint=atomic.way_out(error, "make the folder readable"),
            ) from error
        if not data or hashlib.sha256(data).hexdigest() != sha256:
            name = sha256[:12] or "(empty)"
            raise NotFound(f"there is no stored picture {name}", hint="choose the picture again", field=field)
        return data

    def __contains__(self, sha256: object) -> bool:
        return isinstance(sha256, str) and bool(_NAME.fullmatch(sha256)) and self._path(sha256).is_file()

    def path(self, sha256: str, *, field: str = "init.image") -> Path:
        """Where the file of that name lies; raises `NotFound`."""
        self.read(sha256, field=field)
        return self._path(sha256)

    def _path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / f"{sha256}.png"
