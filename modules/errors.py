"""The exception tree. Every message is one sentence for the user; `hint` is a way out."""

from __future__ import annotations

import os
import re
from pathlib import PurePath
from typing import Any


def printable(text: str) -> str:
    r"""``text`` with lone surrogates escaped: file names and JSON may contain them, and UTF-8 cannot.

    >>> print(printable("caf\udce9"), printable("café"))
    caf\udce9 café
    """
    return text.encode("utf-8", "backslashreplace").decode()


def without_folders(error: BaseException) -> str:
    """What an unexpected error says of itself, in one line, files by their names alone: clients may read it.

    >>> without_folders(FileNotFoundError(2, "No such file or directory", "/home/ada/models/a.safetensors"))
    "No such file or directory: 'a.safetensors'"
    >>> without_folders(ValueError("cannot read /home/ada/a.png, nor 1/2, nor https://a.example/b/c"))
    'cannot read a.png, nor 1/2, nor https://a.example/b/c'
    """
    if isinstance(error, OSError) and error.strerror:
        named = [repr(PurePath(os.fsdecode(name)).name) for name in (error.filename, error.filename2) if _names(name)]
        return printable(": ".join([error.strerror, " -> ".join(named)] if named else [error.strerror]))
    first_line = next(iter(str(error).splitlines()), "")
    return printable(_FOLDERS.sub("", first_line))


def _names(name: object) -> bool:
    return isinstance(name, (str, bytes)) and bool(name)


_FOLDERS = re.compile(r"(?<![\w.:/\\])(?:[A-Za-z]:[\\/]|/(?!/))(?:[^\\/'\":,;\n]+[\\/])+")
"""Of an absolute path, all but its last name."""


class RepriseError(Exception):
    """An expected error. ``str(error)`` is the whole sentence, way out included, as clients may read it."""

    status = 500
    """The HTTP status that answers it."""
    retry_s = 0
    """Seconds after which a retry makes sense; 0: unknown."""

    def __init__(self, message: str, *, hint: str = "", field: str = "", place: object = ""):
        message, hint = printable(message), printable(hint)
        super().__init__(f"{message}; {hint}" if hint else message)
        self.message = message
        self.hint = hint
        self.field = field
        """The name of the parameter at fault, where there is one."""
        self.place = printable(str(place))
        """Where on the disk it happened: for the command line and the log, never for clients."""

    @property
    def with_place(self) -> str:
        """The whole sentence for whoever sits at the machine itself."""
        return f"{self} ({self.place})" if self.place else str(self)

    def as_json(self) -> dict[str, Any]:
        """The error as the HTTP API returns it and a failed job stores it."""
        return {
            "error": type(self).__name__,
            "detail": str(self),
            "field": self.field,
            "hint": self.hint,
        }


class UserError(RepriseError):
    """The request is invalid: a value out of range, an unknown name."""

    status = 422


class NotFound(UserError):
    """No such job, file or name."""

    status = 404


class NotAllowed(UserError):
    """Somebody else may do it, and this visitor may not."""

    status = 403


class UnknownName(UserError):
    """A name that is not in its table; the hint suggests the nearest."""


class NotLoggedIn(UserError):
    """The request carries no valid credentials."""

    status = 401


class TooManyTries(UserError):
    """Too many failed logins."""

    status = 429

    def __init__(self, retry_s: int):
        super().__init__(f"too many failed logins; wait {max(1, round(retry_s / 60))} min and try again")
        self.retry_s = retry_s


class CheckpointError(UserError):
    """A model file cannot be used, and why."""


class ImageError(UserError):
    """An image cannot be read or is not accepted."""


class OutputError(RepriseError):
    """A result could not be saved."""

    status = 507


class QueueFull(RepriseError):
    """Too many jobs are waiting."""

    status = 503
    retry_s = 30


class WorkerDied(RepriseError):
    """The worker process ended before the job did."""


class NoNumbers(RepriseError):
    """What was computed holds values that are no numbers: NaN or infinity."""


class DamagedCheckpoint(CheckpointError, NoNumbers):
    """Weights of a model file are no numbers."""


class OutOfMemory(RepriseError):
    """The GPU or the machine has too little memory for the request."""

    status = 507


_NO_ROOM = re.compile(r"out of memory|(?:can't|cannot) allocate memory|not enough memory|_ALLOC_FAILED", re.IGNORECASE)
"""Messages of torch, its libraries and the system when memory runs out."""


def out_of_memory(error: BaseException) -> OutOfMemory | None:
    """``error`` as an `OutOfMemory` if it means that GPU or main memory ran out; else None. Needs no torch."""
    if isinstance(error, OutOfMemory):
        return error
    if not isinstance(error, MemoryError) and not (isinstance(error, RuntimeError) and _NO_ROOM.search(str(error))):
        return None
    ours = isinstance(error, MemoryError) or "CPUAllocator" in str(error)
    place = "this machine" if ours else "the card"
    return OutOfMemory(f"{place} has too little memory for this", hint="make the picture or the batch smaller")


class Cancelled(RepriseError):
    """The job's owner cancelled it. Not a failure."""

    status = 409

    def __init__(self, message: str = "the job was stopped"):
        super().__init__(message)
