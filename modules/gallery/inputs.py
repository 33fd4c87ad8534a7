"""Store of init images, addressed by content, so that a recipe can name them and be replayed.

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
    """Images below ``folder``, named by SHA-256. Any number of processes may write at once: equal names are equal
    files.
    """

    folder: Path

    def put(self, source: bytes | Path | Image.Image) -> str:
        """Store an image, upright and without metadata, and return its name. Raises `ImageError`."""
        image = source if isinstance(source, Image.Image) else open_image(source)
        data = png_bytes(image)
        sha256 = hashlib.sha256(data).hexdigest()
        self._write(self._path(sha256), data)
        return sha256

    def adopt(self, data: bytes) -> str:
        """Store an image file that was embedded in another image, under the name of its content; raises
        `ImageError`.
        """
        open_image(data)
        sha256 = hashlib.sha256(data).hexdigest()
        self._write(self._path(sha256), data)
        return sha256

    def keep(self, data: bytes) -> Path:
        """Store an image file unchanged, metadata included, for a replay; raises `ImageError` if it is none."""
        open_header(data)
        path = self._path(hashlib.sha256(data).hexdigest()).with_suffix("")
        self._write(path, data)
        return path

    def _write(self, path: Path, data: bytes) -> None:
        """Write a file; also repairs one whose content no longer matches its name."""
        try:
            if path.is_file() and path.read_bytes() == data:
                return
            atomic.make_folder(path.parent)
            atomic.write(path, data)
        except OSError as error:
            raise OutputError(
                f"the picture could not be stored: {error.strerror or error}",
                hint=atomic.way_out(error, "make the folder writable"),
                place=self.folder,
            ) from error

    def open(self, sha256: str, *, field: str = "init.image") -> Image.Image:
        """Open the image of that name; raises `NotFound`, also if its content no longer matches its name."""
        return open_image(self.read(sha256, field=field))

    def size(self, sha256: str, *, field: str = "init.image") -> tuple[int, int]:
        """Width and height of the image of that name."""
        return open_header(self.read(sha256, field=field)).size

    def read(self, sha256: str, *, field: str = "init.image") -> bytes:
        """The bytes of the file of that name."""
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
        """The path of the file of that name; raises `NotFound`."""
        self.read(sha256, field=field)
        return self._path(sha256)

    def _path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / f"{sha256}.png"
