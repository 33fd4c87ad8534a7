"""The outputs folder: images are saved atomically, numbered, with their metadata inside.

outputs/txt2img-images/2026-11-20/00001-1234.png, or what the patterns of `Names` say of folder and name.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from modules.errors import OutputError
from modules.gallery.filenames import Names, facts_of, today
from modules.metadata.image_text import PNG, Encoding, Metadata, encode, read_metadata
from modules.storage import atomic

__all__ = ["Gallery", "Metadata", "Saved", "read_metadata"]

log = logging.getLogger(__name__)

JOBS = ".jobs"
"""In each day's folder: one line "JOB<tab>FILE" for every picture, written before the picture has its name."""
_SEPARATORS = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
"""Characters that some program treats as line ends."""


@dataclass(frozen=True)
class Saved:
    """A saved image file."""

    path: Path
    number: int
    job: str
    note: str = ""
    """Warnings: metadata that did not fit, a disk that has not confirmed the file."""


@dataclass(frozen=True)
class Gallery:
    """The images below ``root``. Any number of processes may save at once."""

    root: Path
    encoding: Encoding = PNG
    names: Names = field(default_factory=Names)

    def sweep(self) -> int:
        """Delete unfinished files of writers that died. Called once at startup."""
        return atomic.sweep(self.root)

    def save(
        self,
        image: Image.Image,
        *,
        folder: str = "txt2img-images",
        seed: int | None = None,
        infotext: str,
        recipe: str | None = None,
        job: str = "",
        texts: Mapping[str, str] | None = None,
        stem: str = "",
        carried: Sequence[bytes] = (),
    ) -> Saved:
        """Save ``image`` with its metadata; on failure raise `OutputError` and leave nothing behind.

        ``texts`` are further ones by their keys and ``carried`` are files to embed, which only a PNG takes. The file is
        named by number, then what `names` says, then ``stem``, the name of the picture that it came from.
        """
        data, note = encode(image, infotext, recipe or "", self.encoding, texts or {}, carried)
        below, notes = self.root / folder, [note]
        plain = today(), "" if seed is None else str(seed)
        try:
            facts = facts_of(recipe, seed, image.size, infotext)
            place, label = self.names.folder_for(facts), self.names.file_for(facts)
            path, number, doubt = self._placed(data, below / place, label, stem, job, blame_name=True)
        except OutputError:
            raise
        except Exception as error:
            log.exception("the names %r and %r cannot be followed", self.names.folder, self.names.file)
            path, number, doubt = self._placed(data, below / plain[0], plain[1], stem, job)
            reason = error.strerror if isinstance(error, OSError) else str(error)
            notes.append(f"{path.name} has a plain name, because the one in the settings cannot be used ({reason})")
        if doubt:
            notes.append(f"{path.name} is saved, but the disk did not confirm it ({doubt}): a power cut may undo it")
        return Saved(path, number, job, "; ".join(filter(None, notes)))

    def _placed(
        self, data: bytes, day: Path, label: str, stem: str, job: str, *, blame_name: bool = False
    ) -> tuple[Path, int, str]:
        """`_save`, with errors as `OutputError`. With ``blame_name``, errors that another name may avoid are passed
        through.
        """
        day = Path(_SEPARATORS.sub("_", str(day)))
        try:
            atomic.make_folder(day)
            return _save(day, data, _name(label, stem, self.encoding.format), job)
        except OSError as error:
            if blame_name and error.errno not in (*atomic.FULL, *atomic.BUSY, errno.EIO):
                raise
            log.warning("saving into %s failed: %s", day, error)
            raise _sentence(day, error) from error

    def of_job(self, job: str, folder: str = "txt2img-images") -> list[Path]:
        """The images that ``job`` has saved, oldest first, which need not be generated again after a restart."""
        found = []
        for notes in (self.root / folder).rglob(JOBS):
            found += [notes.with_name(name) for name, owner in _owners(notes).items() if owner == job]
        return sorted((path for path in found if path.is_file()), key=lambda path: path.stat().st_mtime_ns)

    def job_of(self, path: Path) -> str:
        """The job that saved the image at ``path``; "" if no job did, or if it is no image of ours."""
        notes = path.with_name(JOBS)
        if not path.is_relative_to(self.root) or not notes.is_file():
            return ""
        return _owners(notes).get(path.name, "")


def _owners(notes: Path) -> dict[str, str]:
    """The job of each image of one day, by file name."""
    lines = os.fsdecode(notes.read_bytes()).split("\n")  # splitlines would cut a name at U+2028
    return {name: job for job, _, name in (line.partition("\t") for line in lines)}


def _name(label: str, stem: str, suffix: str) -> str:
    """The file name after the number. A stem is reduced to what every file system and shell accepts."""
    plain = re.sub(r"[^\w.-]+", "_", stem).strip("._-").encode()[:64].decode(errors="ignore")
    label = _SEPARATORS.sub("_", label)
    return f"{''.join(f'-{part}' for part in (label, plain) if part)}.{suffix}"


def _save(day: Path, data: bytes, name: str, job: str) -> tuple[Path, int, str]:
    """Write the image; returns the file, its number, and the warning of `atomic.confirmed`."""
    file, number = _claim_number(day)
    path = day / f"{number:05}{name}"
    try:
        if job:
            _note(day / JOBS, f"{job}\t{path.name}\n")
        return path, number, atomic.finish(file, data, path)
    except BaseException:
        atomic.discard(Path(file.name))
        raise
    finally:
        file.close()


def _claim_number(day: Path) -> tuple[BinaryIO, int]:
    """Create a part file under the next free image number, exclusively."""
    number = _highest(day) + 1
    while True:
        part = day / f".{number:05}{atomic.PART}"
        if file := atomic.claim(part):
            try:
                if _highest(day, images_only=True) < number:
                    return file, number
            except BaseException:
                file.close()
                atomic.discard(part)
                raise
            # Somebody finished a picture of this number between our look and our claim.
            part.unlink()
            file.close()
        number = max(number, _highest(day)) + 1


_NUMBER = re.compile(r"(\d{1,9})[-.]|\.(\d{5,9})\.part$")


def _highest(day: Path, images_only: bool = False) -> int:
    """The highest number at the start of a file name in ``day``."""
    with os.scandir(day) as entries:
        found = [match for entry in entries if (match := _NUMBER.match(entry.name))]
    return max((int(m[1] or m[2]) for m in found if m[1] or not images_only), default=0)


def _note(path: Path, line: str) -> None:
    """Append a line to the index, on a fresh line in case a writer died, or the disk filled, in the middle of one."""
    with path.open("a+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        torn = file.read(1) not in (b"", b"\n")
        file.write(b"\n" * torn + os.fsencode(line))


def _sentence(day: Path, error: OSError) -> OutputError:
    if error.errno in atomic.FULL:
        return OutputError(
            "the picture could not be saved: there is no room left", hint="free some space and try again", place=day
        )
    return OutputError(
        f"the picture could not be saved: {error.strerror or error}",
        hint=atomic.way_out(error, "make the folder writable or choose another one with --data-dir"),
        place=day,
    )
