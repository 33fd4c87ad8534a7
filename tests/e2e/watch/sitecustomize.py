"""Every Python process that starts with this folder on its path tells whom it wants to speak to, and may speak to this
machine alone. The file REPRISE_WATCHED names gets a line for each process and for each attempt to go further."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

HERE = ("127.", "localhost", "::1", "::ffff:127.")
ASKED = {"socket.connect": 1, "socket.sendto": 1, "socket.sendmsg": 1}
"""Events with an address, and where it stands among their arguments."""
LOOKED_UP = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")


def host_of(event: str, arguments: tuple[Any, ...]) -> str | None:
    """Whom an event is about; None where it stays within this machine."""
    if event in LOOKED_UP:
        host = arguments[0]
    elif event in ASKED:
        address = arguments[ASKED[event]]
        host = address[0] if isinstance(address, tuple) else None  # else a socket of the file system
    else:
        return None
    host = host.decode() if isinstance(host, bytes) else host
    return None if not host or str(host).startswith(HERE) else str(host)


def watch(path: str) -> None:
    def tell(text: str) -> None:
        with Path(path).open("a", encoding="utf-8") as log:
            log.write(f"{os.getpid()} {text}\n")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith("socket.") and (host := host_of(event, arguments)) is not None:
            tell(f"left {event} {host}")
            raise OSError(f"{host} is not this machine")

    tell("watched")
    sys.addaudithook(hook)


if os.environ.get("REPRISE_WATCHED"):
    watch(os.environ["REPRISE_WATCHED"])
