"""Lists files in the model folders, robust against broken links and odd names. No torch."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from modules.errors import printable

log = logging.getLogger(__name__)


def files_below(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """The regular files with one of these suffixes, ignoring case; none if the folder is missing.

    Links are followed, but no folder is looked into twice: a real folder is found by its own name, and after it what
    only a link leads to. Links to nothing, pipes, devices and unreadable folders are passed over, and so are names
    that are not UTF-8: `unlistable` tells them.
    """
    for path, whole in _walk(folder, suffixes):
        if whole:
            yield path


def unlistable(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    """The names, made printable, of files that are not listed because their names are not UTF-8."""
    return sorted(printable(str(path.relative_to(folder))) for path, whole in _walk(folder, suffixes) if not whole)


def _walk(folder: Path, suffixes: tuple[str, ...]) -> Iterator[tuple[Path, bool]]:
    """Yield each file, and whether its path below ``folder`` is valid text."""
    seen: set[tuple[int, int]] = set()
    real, linked = [folder], list[Path]()
    while real or linked:
        place = (real or linked).pop(0)
        try:
            stat = place.stat()
            if (stat.st_dev, stat.st_ino) in seen:
                continue
            seen.add((stat.st_dev, stat.st_ino))
            with os.scandir(place) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except FileNotFoundError:
            continue
        except OSError as error:
            log.info("%s is passed over: %s", printable(str(place)), error.strerror)
            continue
        for entry in found:
            path = place / entry.name
            if _is(entry, folder=True):
                (linked if entry.is_symlink() else real).append(path)
            elif entry.name.lower().endswith(suffixes) and _is(entry, folder=False):
                name = str(path.relative_to(folder))
                yield path, printable(name) == name


def folders_in(folder: Path) -> list[Path]:
    """The subfolders of a folder, and links to folders, by name; none if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(folder / entry.name for entry in entries if _is(entry, folder=True))
    except OSError:
        return []


def _is(entry: os.DirEntry[str], *, folder: bool) -> bool:
    """Whether an entry is, following links, a folder or a regular file; False if that cannot be determined."""
    try:
        return entry.is_dir() if folder else entry.is_file()
    except OSError:  # a link to itself, say
        return False
