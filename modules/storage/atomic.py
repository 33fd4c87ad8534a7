"""Atomic file writes: a file is there whole or not at all, even after a crash. Also locks between processes."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger(__name__)

PART = ".part"
"""The suffix of a file that is still being written."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
BUSY = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR)
MOST_ASIDE = 100


def write(path: Path, data: bytes) -> str:
    """Write ``data`` to ``path``, replacing the file atomically. Raises `OSError`, and then nothing has changed.

    What comes back is that of `confirmed`: the file is there in any case.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}{PART}")  # threads write side by side
    try:
        with part.open("wb") as file:
            commit(file, data)
        part.replace(path)
    except BaseException:
        discard(part)
        raise
    return confirmed(path.parent)


def commit(file: BinaryIO, data: bytes) -> None:
    """Write ``data`` and wait until it is on disk (fsync)."""
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the directory entries of ``folder`` are on disk."""
    if sys.platform == "win32":
        return  # folders cannot be opened there, and renames are written through
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def confirmed(folder: Path) -> str:
    """After a rename in ``folder``: "" once it is on disk, or why it might not survive a power failure."""
    try:
        sync_folder(folder)
    except OSError as error:
        log.warning("the disk did not confirm what was renamed in %s: %s", folder, error)
        return error.strerror or str(error)
    return ""


def discard(part: Path) -> None:
    """Delete an unfinished file after an error that is reported anyway; what remains is swept at the next start."""
    try:
        part.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s is left behind: %s", part, error)


def set_aside(path: Path) -> Path | None:
    """Rename a file with bad content to a free name ending in ``.bad``; None if that fails.

    A file that could not be read is not bad: leave it where it is.
    """
    bad = path.with_name(f"{path.name}.bad")
    numbered = (path.with_name(f"{path.name}.{n}.bad") for n in range(2, MOST_ASIDE))
    bad = next((aside for aside in (bad, *numbered) if not os.path.lexists(aside)), bad)
    try:
        return path.replace(bad)
    except OSError as error:
        log.warning("%s could not be renamed: %s", path, error)
        return None


def way_out(error: OSError, otherwise: str = "make its folder writable") -> str:
    """A hint on what a user can do about a disk error."""
    if error.errno in FULL:
        return "free some space and try again"
    if error.errno in BUSY:
        return "try again in a moment"
    if error.errno == errno.EIO:
        return "look whether the disk is in order, and try again"
    return otherwise


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock, across processes and threads, for reading ``path``, changing its content and writing it back.

    The lock is a file beside it, because ``path`` itself is replaced. Where a disk knows no locks, nobody waits.
    """
    if sys.platform == "win32":
        yield  # two who write at once there may lose one's entries
        return
    import fcntl

    with path.with_name(f".{path.name}.lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            log.warning("%s cannot be locked: %s", path, error)
        yield


def make_folder(folder: Path) -> None:
    """Create ``folder`` and its parents, with their names synced to disk."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        sync_folder(path.parent)


def claim(path: Path) -> BinaryIO | None:
    """Create a new file at ``path`` and keep it locked while it is open; None if another writer has it."""
    try:
        file = path.open("xb")
    except FileExistsError:
        return None
    try:
        if lock(file) and _still_at(path, file):
            return file
    except BaseException:  # a network's disk may know no locks
        file.close()
        discard(path)
        raise
    file.close()  # swept away between the two calls
    return None


def finish(file: BinaryIO, data: bytes, path: Path) -> str:
    """Fill a claimed file and give it its final name; returns what `confirmed` returns.

    If this raises, ``path`` is not there and the caller deletes the claimed file.
    """
    commit(file, data)
    if sys.platform == "win32":
        file.close()  # an open file cannot be renamed there
    Path(file.name).replace(path)
    return confirmed(path.parent)


def lock(file: BinaryIO) -> bool:
    """Lock the file; False if another process has the lock. It ends with the process."""
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
    """Delete the unfinished files below ``folder`` whose writers are dead, and return their number. Unreadable ones are
    left alone.
    """
    swept = 0
    for root, _, names in os.walk(folder):
        for part in (Path(root, name) for name in names if name.endswith(PART)):
            with contextlib.suppress(OSError):
                swept += _swept(part)
    return swept


def _swept(part: Path) -> bool:
    if part.is_symlink() or not part.is_file():  # a pipe would hold whoever opens it
        return False
    with part.open("rb") as file:
        if free := lock(file):
            part.unlink()
    return free
