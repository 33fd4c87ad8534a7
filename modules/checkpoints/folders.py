"""Lists files in the model folders, robust against broken links and odd names. No torch."""

from __future__ import annotations

import logging
import os
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from modules.errors import printable

log = logging.getLogger(__name__)

Folders = Path | Sequence[Path]
"""One folder or several, the first of which counts most; a file stands for a folder that holds it alone."""


def each(folders: Folders) -> tuple[Path, ...]:
    """The folders one by one."""
    return (folders,) if isinstance(folders, Path) else tuple(folders)


def root_of(path: Path, folders: Folders) -> Path:
    """The first of the folders that a file lies in; raises `ValueError` where none is.

    >>> root_of(Path("/b/sub/x.pt"), [Path("/a"), Path("/b")]).as_posix()
    '/b'
    """
    for folder in each(folders):
        if path.is_relative_to(folder):
            return folder
    raise ValueError(f"{path} is in none of {each(folders)}")


def below(path: Path, folders: Folders) -> Path:
    """A file's path below the folder that it lies in."""
    root = root_of(path, folders)
    return Path(path.name) if path == root else path.relative_to(root)


def told_apart(name: str, path: Path, folders: Folders, taken: Container[str]) -> str:
    """A name that is not taken: behind as many folders above the file's own as it needs.

    >>> told_apart("x", Path("/disk/other/models/x.pt"), [Path("/models"), Path("/disk/other/models")], ["x"])
    'models/x'
    """
    above = [part for part in root_of(path, folders).parts if part.strip("/")]
    names = ["/".join((*above[len(above) - n :], name)) for n in range(len(above) + 1)]
    return next((free for free in names if free not in taken), path.as_posix())


def files_below(folder: Folders, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """The regular files with one of these suffixes, ignoring case; none if the folder is missing.

    Links are followed, but no folder is looked into twice: a real folder is found by its own name, and after it what
    only a link leads to. Pipes, devices and unreadable folders are passed over, and so are links to nothing and names
    that are not UTF-8: `dead_links` and `unlistable` tell them.
    """
    for path, whole, there in _walk(folder, suffixes):
        if whole and there:
            yield path


def unlistable(folder: Folders, suffixes: tuple[str, ...]) -> list[str]:
    """The names, made printable, of files that are not listed because their names are not UTF-8."""
    walk = _walk(folder, suffixes)
    return sorted(printable(str(below(path, folder))) for path, whole, there in walk if there and not whole)


def dead_links(folder: Folders, suffixes: tuple[str, ...] = ("",)) -> list[Path]:
    """Links that lead to nothing: to a file that was moved, a disk that is not there, or to themselves."""
    return sorted(path for path, whole, there in _walk(folder, suffixes) if whole and not there)


def survey(folder: Path) -> tuple[int, list[str]]:
    """How many models are in a folder, and the names of links there that lead to nothing."""
    count = sum(1 for _ in files_below(folder, (".safetensors", ".pt", ".ckpt")))
    return count, [below(path, folder).as_posix() for path in dead_links(folder)]


def _walk(folders: Folders, suffixes: tuple[str, ...]) -> Iterator[tuple[Path, bool, bool]]:
    """Yield each file, whether its path below its folder is valid text, and whether it is there: a link to nothing is
    not. A file that is named itself and lies in one of the folders is there once, in that folder.
    """
    seen: set[tuple[int, int]] = set()
    roots = each(folders)
    alone = [file for file in roots if _is_file(file) and file.name.lower().endswith(suffixes)]
    for folder in roots:
        if not _is_file(folder):
            for path, whole, there in _walk_one(folder, suffixes, seen):
                alone = [file for file in alone if not (file.name == path.name and there and file.samefile(path))]
                yield path, whole, there
    for file in alone:
        yield file, printable(file.name) == file.name, True


def _walk_one(folder: Path, suffixes: tuple[str, ...], seen: set[tuple[int, int]]) -> Iterator[tuple[Path, bool, bool]]:
    real, linked, whole = [folder], list[Path](), {folder: True}
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
                whole[path] = whole[place] and printable(entry.name) == entry.name
                (linked if entry.is_symlink() else real).append(path)
            elif entry.name.lower().endswith(suffixes):
                there = _is(entry, folder=False)
                if there or (entry.is_symlink() and not path.exists()):  # else a pipe or a device
                    yield path, whole[place] and printable(entry.name) == entry.name, there


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


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
