"""The access log, ``DATA/logs/access.log``: no query, header or body, so no password, token or prompt."""

from __future__ import annotations

import logging
import re
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from webui.security.auth import IN_SCOPE, address_of

FILE_BYTES, FILES = 5 * 2**20, 5
SECRETS = re.compile(r"(/gradio_api/(?:file[=/]|proxy=|heartbeat/|call/|stream/)).+")
"""Paths whose rest names a session, an event or a file of someone's."""


class AccessLog:
    """ASGI middleware that logs each request: time, address, account, method, path, status, bytes sent,
    milliseconds.
    """

    def __init__(self, app: ASGIApp, *, folder: Path):
        self.app = app
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._log = open_log(folder / "access.log")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin, status, sent = time.monotonic(), 0, 0

        async def counted(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            sent += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, counted)
        finally:
            visitor = scope.get(IN_SCOPE)
            name, spent = visitor.name if visitor else "-", (time.monotonic() - begin) * 1000
            line = (address_of(scope), name, scope["method"], told_path(scope["path"]), status, sent, round(spent))
            self._log.info("%s %s %s %s %d %d %d", *line)


def told_path(path: str) -> str:
    """The path as logged: on one line, in ASCII, without private parts."""
    return quote(SECRETS.sub(r"\1...", path)[:500], safe="/=:@!$&'()*+,;~")


def open_log(path: Path) -> logging.Logger:
    """A logger with its own file, rotated at `FILE_BYTES`; the last few files are kept."""
    path.touch(mode=0o600)
    handler = RotatingFileHandler(path, maxBytes=FILE_BYTES, backupCount=FILES - 1, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.Logger("access", logging.INFO)
    logger.addHandler(handler)
    return logger
