"""The exception tree. Every message is one sentence for the person at the browser; `hint` is a way out."""

from __future__ import annotations

import re
from typing import Any


def printable(text: str) -> str:
    r"""``text`` with lone surrogates written out: names of files and JSON may hold them, and UTF-8 cannot.

    >>> print(printable("caf\udce9"), printable("café"))
    caf\udce9 café
    """
    return text.encode("utf-8", "backslashreplace").decode()


class RepriseError(Exception):
    """Something went wrong that we understand. ``str(error)`` is the whole sentence, way out included."""

    status = 500
    """The HTTP status that answers it."""
    retry_s = 0
    """When it is worth trying again, in seconds; 0: nothing is known of that."""

    def __init__(self, message: str, *, hint: str = "", field: str = ""):
        message, hint = printable(message), printable(hint)
        super().__init__(f"{message}; {hint}" if hint else message)
        self.message = message
        self.hint = hint
        self.field = field
        """The name of the parameter at fault, where there is one."""

    def as_json(self) -> dict[str, Any]:
        """What the HTTP API answers and what a failed job keeps."""
        return {
            "error": type(self).__name__,
            "detail": str(self),
            "field": self.field,
            "hint": self.hint,
        }


class UserError(RepriseError):
    """The request cannot be done as it stands: a value out of range, an unknown name."""

    status = 422


class NotFound(UserError):
    """No such job, file or name."""

    status = 404


class UnknownName(UserError):
    """A name that is in no table; the hint suggests the nearest."""


class NotLoggedIn(UserError):
    """Nobody is known by what was shown."""

    status = 401


class TooManyTries(UserError):
    """Too many failed logins."""

    status = 429

    def __init__(self, retry_s: int):
        super().__init__(f"too many failed logins; wait {max(1, round(retry_s / 60))} min and try again")
        self.retry_s = retry_s


class CheckpointError(UserError):
    """A model file that cannot be used, and why."""


class ImageError(UserError):
    """A picture that cannot be read or is not accepted."""


class OutputError(RepriseError):
    """A result could not be written."""

    status = 507


class QueueFull(RepriseError):
    """Too many jobs wait."""

    status = 503
    retry_s = 30


class WorkerDied(RepriseError):
    """The process that runs the model ended before the job did."""


class OutOfMemory(RepriseError):
    """The card or the machine has not the room that a request needs."""

    status = 507


_NO_ROOM = re.compile(r"out of memory|(?:can't|cannot) allocate memory|not enough memory|_ALLOC_FAILED", re.IGNORECASE)
"""How torch, the libraries under it, and the system say so."""


def out_of_memory(error: BaseException) -> OutOfMemory | None:
    """``error`` as a sentence where memory ran out, on a card or in the machine; else None. Needs no torch."""
    if isinstance(error, OutOfMemory):
        return error
    if not isinstance(error, MemoryError) and not (isinstance(error, RuntimeError) and _NO_ROOM.search(str(error))):
        return None
    ours = isinstance(error, MemoryError) or "CPUAllocator" in str(error)
    place = "this machine" if ours else "the card"
    return OutOfMemory(f"{place} has too little memory for this", hint="make the picture or the batch smaller")


class Cancelled(RepriseError):
    """The job's owner stopped it. Not a failure."""

    status = 409

    def __init__(self, message: str = "the job was stopped"):
        super().__init__(message)
