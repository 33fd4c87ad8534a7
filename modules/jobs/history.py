"""The history: an owner's images, newest first, with thumbnails and deletion.

The database knows the pictures (`JobStore`), the files stay where they were saved. A small copy is made when it is
first asked for: a grid of full pictures would be hundreds of megabytes.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.errors import NotFound, OutputError
from modules.imaging.files import open_image
from modules.jobs.store import HistoryImage, JobStore
from modules.storage import atomic

log = logging.getLogger(__name__)

THUMBNAIL = 256
"""Longer side of a small copy, in pixels."""
QUALITY = 78


@dataclass(frozen=True)
class History:
    """The images of ``store`` below the folder ``outputs``; thumbnails are kept in ``thumbnails``."""

    store: JobStore
    outputs: Path
    thumbnails: Path

    def page(
        self, owner: str, *, before: int = 0, after: int = 0, limit: int = 60, words: Sequence[str] = ()
    ) -> list[HistoryImage]:
        """At most ``limit`` images, newest first: older than number ``before``, or the next newer than ``after``.
        ``words``: each is in a prompt or in the checkpoint's name.
        """
        return self.store.images(owner, before=before, after=after, limit=limit, words=words)

    def count(self, owner: str) -> int:
        return self.store.count_images(owner)

    def owns(self, owner: str, path: Path) -> bool:
        """Whether the image at ``path`` belongs to the owner."""
        return self.store.has_image(owner, str(path))

    def find(self, owner: str, number: int) -> HistoryImage:
        """Look up an image by number; `NotFound` alike for an unknown number, another owner's image and one outside
        the folder.
        """
        image = self.store.image(owner, number)
        if not Path(image.path).resolve().is_relative_to(self.outputs.resolve()):
            raise _none()
        return image

    def file(self, owner: str, number: int) -> Path:
        """The image's file; `NotFound` if it is gone."""
        path = Path(self.find(owner, number).path)
        if not path.is_file():
            raise _none()
        return path

    def thumbnail(self, owner: str, number: int) -> Path:
        """A thumbnail of the image, created on first use."""
        path = self.file(owner, number)
        small = self._small(number, path)
        if not small.is_file():
            image = open_image(path).convert("RGB")
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            data = io.BytesIO()
            image.save(data, "WEBP", quality=QUALITY, method=2)
            try:
                small.parent.mkdir(parents=True, exist_ok=True)
                atomic.write(small, data.getvalue())
            except OSError as error:
                raise OutputError(
                    f"the small copy could not be written: {error.strerror or error}", hint=atomic.way_out(error)
                ) from error
        return small

    def delete(self, owner: str, number: int) -> None:
        """Delete the image's file, its thumbnails and its entry."""
        path = Path(self.find(owner, number).path)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(
                f"{path.name} could not be deleted: {error.strerror or error}", hint=atomic.way_out(error)
            ) from error
        for small in self._folder(number).glob(f"{number}-*.webp"):
            atomic.discard(small)
        self.store.forget_image(owner, number)

    def _folder(self, number: int) -> Path:
        return self.thumbnails / f"{number // 1000:04}"

    def _small(self, number: int, path: Path) -> Path:
        """The thumbnail's path. It contains the file's time, so a replaced file gets a new thumbnail."""
        return self._folder(number) / f"{number}-{path.stat().st_mtime_ns:x}.webp"


def _none() -> NotFound:
    return NotFound("there is no such picture", hint="it may have been deleted", field="number")
