"""The folder of finished pictures: saved whole or not at all, numbered, with everything known about them inside.

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
"""What some program takes for the end of a line, and no name needs."""


@dataclass(frozen=True)
class Saved:
    """A picture on the disk."""

    path: Path
    number: int
    job: str
    note: str = ""
    """Sentences on a text that the file could not take, and on a disk that has yet to confirm it."""


@dataclass(frozen=True)
class Gallery:
    """Pictures below ``root``. Any number of processes may save at once."""

    root: Path
    encoding: Encoding = PNG
    names: Names = field(default_factory=Names)

    def sweep(self) -> int:
        """Delete what writers left behind that died while they wrote. Called once at start."""
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
        """Save ``image`` with its texts, or raise an `OutputError` and leave nothing behind.

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
        """As `_save`, raising `OutputError`. With ``blame_name``, what another name may mend is raised as it is."""
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
        """The pictures that ``job`` has saved, oldest first: what need not be made again after a restart."""
        found = []
        for notes in (self.root / folder).rglob(JOBS):
            found += [notes.with_name(name) for name, owner in _owners(notes).items() if owner == job]
        return sorted((path for path in found if path.is_file()), key=lambda path: path.stat().st_mtime_ns)

    def job_of(self, path: Path) -> str:
        """The job that saved the picture at ``path``; "" for what no job saved, or what is no picture of ours."""
        notes = path.with_name(JOBS)
        if not path.is_relative_to(self.root) or not notes.is_file():
            return ""
        return _owners(notes).get(path.name, "")


def _owners(notes: Path) -> dict[str, str]:
    """The jobs of a day's pictures by the names of their files."""
    lines = os.fsdecode(notes.read_bytes()).split("\n")  # splitlines would cut a name at U+2028
    return {name: job for job, _, name in (line.partition("\t") for line in lines)}


def _name(label: str, stem: str, suffix: str) -> str:
    """What follows the number. Of a stem only what every file system and command line takes is left."""
    plain = re.sub(r"[^\w.-]+", "_", stem).strip("._-").encode()[:64].decode(errors="ignore")
    label = _SEPARATORS.sub("_", label)
    return f"{''.join(f'-{part}' for part in (label, plain) if part)}.{suffix}"


def _save(day: Path, data: bytes, name: str, job: str) -> tuple[Path, int, str]:
    """The picture, its number, and what `atomic.confirmed` says of it."""
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
    """A part file that nobody else has, whose name holds a number that no picture has."""
    number = _highest(day) + 1
    while True:
        part = day / f".{number:05}{atomic.PART}"
        if file := atomic.claim(part):
            try:
                if _highest(day, pictures_only=True) < number:
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


def _highest(day: Path, pictures_only: bool = False) -> int:
    """The highest number at the start of a name in ``day``."""
    with os.scandir(day) as entries:
        found = [match for entry in entries if (match := _NUMBER.match(entry.name))]
    return max((int(m[1] or m[2]) for m in found if m[1] or not pictures_only), default=0)


def _note(path: Path, line: str) -> None:
    """Add a line, on a fresh one where a writer died, or had no more room, in the middle of its own."""
    with path.open("a+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        torn = file.read(1) not in (b"", b"\n")
        file.write(b"\n" * torn + os.fsencode(line))


def _sentence(day: Path, error: OSError) -> OutputError:
    if error.errno in atomic.FULL:
        return OutputError(
            f"the picture could not be saved: there is no room left in {day}", hint="free some space and try again"
        )
    return OutputError(
        f"the picture could not be saved in {day}: {error.strerror or error}",
        hint=atomic.way_out(error, "make the folder writable or choose another one with --data-dir"),
    )
