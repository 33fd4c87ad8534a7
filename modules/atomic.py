"""Files that are there whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import BinaryIO

PART = ".part"
"""The suffix of a file that is still being written."""


def write(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path``, in the place of what was there. Raises `OSError` and then leaves no part behind."""
    part = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        with part.open("wb") as file:
            commit(file, data)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def commit(file: BinaryIO, data: bytes) -> None:
    """Write ``data`` and wait until it is on the disk."""
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in ``folder`` are on the disk."""
    if sys.platform == "win32":
        return  # folders cannot be opened there, and renames are written through
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make ``folder`` and its parents, names on the disk."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        sync_folder(path.parent)


def claim(path: Path) -> BinaryIO | None:
    """A new file at ``path``, locked as long as it is open; None if somebody has it."""
    try:
        file = path.open("xb")
    except FileExistsError:
        return None
    if lock(file) and _still_at(path, file):
        return file
    file.close()  # swept away between the two calls
    return None


def finish(file: BinaryIO, data: bytes, path: Path) -> None:
    """Fill a claimed file and give it its name. The caller deletes it if this fails."""
    commit(file, data)
    if sys.platform == "win32":
        file.close()  # an open file cannot be renamed there
    Path(file.name).replace(path)
    sync_folder(path.parent)


def lock(file: BinaryIO) -> bool:
    """Take the file's lock; False if another process has it. The lock ends with the process."""
    if sys.platform == "win32":
        return True  # an open file cannot be deleted there, which protects it as well
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _still_at(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def sweep(folder: Path) -> int:
    """Delete the parts below ``folder`` whose writers are dead, and say how many."""
    swept = 0
    for part in folder.rglob(f"*{PART}"):
        with contextlib.suppress(FileNotFoundError, PermissionError), part.open("rb") as file:
            if lock(file):
                part.unlink()
                swept += 1
    return swept
