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

from modules import atomic
from modules.errors import OutputError
from modules.metadata import PNG, Encoding, Metadata, encode, read_metadata
from modules.names import Names, facts_of, today

__all__ = ["Gallery", "Metadata", "Saved", "read_metadata"]

log = logging.getLogger(__name__)

JOBS = ".jobs"
"""In each day's folder: one line "JOB<tab>FILE" for every picture, written before the picture has its name."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Saved:
    """A picture on the disk."""

    path: Path
    number: int
    job: str
    note: str = ""
    """A sentence on a text that the file could not take."""


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
        plain = today(), "" if seed is None else str(seed)
        failed: list[tuple[Path, OSError]] = []
        # A finished picture is not lost over its name: where the patterns' cannot be written, it gets the plain one.
        for place, label in dict.fromkeys((self._named(recipe, seed, image.size, infotext) or plain, plain)):
            day = self.root / folder / place
            try:
                atomic.make_folder(day)
                path, number = _save(day, data, _name(label, stem, self.encoding.format), job)
                return Saved(path, number, job, note)
            except OSError as error:
                log.warning("saving into %s failed: %s", day, error)
                failed.append((day, error))
                if error.errno in FULL:
                    break
        raise _sentence(*failed[0]) from failed[0][1]

    def _named(
        self, recipe: str | None, seed: int | None, size: tuple[int, int], infotext: str
    ) -> tuple[Path, str] | None:
        """The folder and what stands behind the number, by the patterns; None where they cannot be followed."""
        try:
            facts = facts_of(recipe, seed, size, infotext)
            return self.names.folder_for(facts), self.names.file_for(facts)
        except Exception:
            log.exception("the names %r and %r cannot be followed", self.names.folder, self.names.file)
            return None

    def of_job(self, job: str, folder: str = "txt2img-images") -> list[Path]:
        """The pictures that ``job`` has saved, oldest first: what need not be made again after a restart."""
        found = []
        for notes in (self.root / folder).rglob(JOBS):
            lines = notes.read_text(encoding="utf-8", errors="replace").splitlines()
            owners = {name: owner for owner, _, name in (line.partition("\t") for line in lines)}
            found += [notes.with_name(name) for name, owner in owners.items() if owner == job]
        return sorted((path for path in found if path.is_file()), key=lambda path: path.stat().st_mtime_ns)

    def job_of(self, path: Path) -> str:
        """The job that saved the picture at ``path``; "" for what no job saved, or what is no picture of ours."""
        notes = path.with_name(JOBS)
        if not path.is_relative_to(self.root) or not notes.is_file():
            return ""
        lines = notes.read_text(encoding="utf-8", errors="replace").splitlines()
        return {name: job for job, _, name in (line.partition("\t") for line in lines)}.get(path.name, "")


def _name(label: str, stem: str, suffix: str) -> str:
    """What follows the number. Of a stem only what every file system and command line takes is left."""
    plain = re.sub(r"[^\w.-]+", "_", stem).strip("._-").encode()[:64].decode(errors="ignore")
    return f"{''.join(f'-{part}' for part in (label, plain) if part)}.{suffix}"


def _save(day: Path, data: bytes, name: str, job: str) -> tuple[Path, int]:
    file, number = _claim_number(day)
    path = day / f"{number:05}{name}"
    try:
        if job:
            _note(day / JOBS, f"{job}\t{path.name}\n")
        atomic.finish(file, data, path)
    except BaseException:
        Path(file.name).unlink(missing_ok=True)
        raise
    finally:
        file.close()
    return path, number


def _claim_number(day: Path) -> tuple[BinaryIO, int]:
    """A part file that nobody else has, whose name holds a number that no picture has."""
    number = _highest(day) + 1
    while True:
        part = day / f".{number:05}{atomic.PART}"
        if file := atomic.claim(part):
            if _highest(day, pictures_only=True) < number:
                return file, number
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
    with path.open("a", encoding="utf-8") as file:
        file.write(line)


def _sentence(day: Path, error: OSError) -> OutputError:
    if error.errno in FULL:
        return OutputError(
            f"the picture could not be saved: there is no room left in {day}", hint="free some space and try again"
        )
    return OutputError(
        f"the picture could not be saved in {day}: {error.strerror or error}",
        hint="make the folder writable or choose another one with --data-dir",
    )
