"""Ownership on Gradio's routes: pages, events, uploads and files, by account.

Gradio gives anyone who is logged in what they can name. This ASGI middleware stands between the guard and Gradio: a
page's session, an event, an upload belong to who used its number first, a file to who sent it or was shown it. For
others none of it is there.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modules.accounts import LOCAL
from modules.errors import NotFound
from webui.security.auth import IN_SCOPE, Visitor
from webui.security.bodies import API
from webui.security.bodies import IN_SCOPE as JSON_IN_SCOPE
from webui.security.guard import path_of, refused

logger = logging.getLogger(__name__)

CLAIMS_KEPT = 50_000
FILE = re.compile(rf"{API}/file[=/](.*)", re.DOTALL)
NAMED = re.compile(rf"{API}/(?:heartbeat/([^/]*)|call/(?:v2/)?[^/]*/([^/]*)|stream/([^/]*)(?:/.*)?)")
"""Routes whose path names a page's session or an event."""
BODIES = re.compile(rf"{API}/(queue/join|cancel|reset|run/|api/|call/|component_server)")
"""Routes whose JSON names a page's session and an event."""
NAMES = ("session_hash", "event_id", "upload_id")


class Claims:
    """Random ids from browsers and Gradio, and the account that used each first."""

    def __init__(self, keep: int = CLAIMS_KEPT):
        self._keep = keep
        self._owners: OrderedDict[str, str] = OrderedDict()

    def claim(self, number: str, name: str) -> bool:
        """Whether ``number`` belongs to ``name``, claiming it if it is unclaimed."""
        owner = self._owners.setdefault(number, name)
        self._owners.move_to_end(number)
        if len(self._owners) > self._keep:
            self._owners.popitem(last=False)
        return owner == name

    def owner(self, number: str) -> str:
        """The account that used ``number`` first; "" if unknown."""
        return self._owners.get(number, "")


class Files:
    """Which files a visitor may read. In Gradio's temporary folder: those they uploaded, those named in an answer to
    them, and those of the page itself; in the outputs folder: the images of their own jobs.
    """

    def __init__(self, temp: Path, outputs: Path, is_picture_of: Callable[[str, Path], bool]):
        self.temp = temp.resolve()
        self.outputs = outputs.resolve()
        self._is_picture_of = is_picture_of
        self._lock = threading.Lock()
        self._readers: dict[Path, set[str]] = {}
        self._everybodys: set[Path] = set()

    def give(self, value: Any, name: str) -> None:
        """Let ``name`` read the temporary files named in ``value``, data on its way to them."""
        with self._lock:
            for path in _paths_in(value):
                found = Path(path).resolve()
                if found.is_relative_to(self.temp):
                    self._readers.setdefault(found, set()).add(name)
            if len(self._readers) > CLAIMS_KEPT:
                self._readers = {path: names for path, names in self._readers.items() if path.exists()}

    def publish(self, value: Any) -> None:
        """Let everybody read the files that the page consists of."""
        self._everybodys |= {Path(path).resolve() for path in _paths_in(value)}

    def may_read(self, name: str, path: Path) -> bool:
        """Whether a visitor may read a file. Files elsewhere are left to Gradio, which refuses them."""
        try:
            found = path.resolve()
        except (OSError, ValueError, RuntimeError):
            return False
        homes = (self.temp, self.outputs)
        if not any(found.is_relative_to(home) for home in homes):
            return not any(path.is_relative_to(home) for home in homes)  # a link that leads out of them
        if name == LOCAL or found in self._everybodys:
            return True
        if found.is_relative_to(self.temp):
            return name in self._readers.get(found, ())
        return self._is_picture_of(name, found)

    def are_readable(self, name: str, value: Any) -> bool:
        """Whether a client may read all files that its data names."""
        return all(self.may_read(name, Path(path)) for path in _paths_in(value))


class Ownership:
    """ASGI middleware: 404 for what belongs to another account."""

    def __init__(self, app: ASGIApp, *, files: Files, claims: Claims | None = None):
        self.app = app
        self.files = files
        self.claims = claims or Claims()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        visitor = scope.get(IN_SCOPE)
        path = path_of(scope) if scope["type"] == "http" else ""
        if not isinstance(visitor, Visitor) or not path.startswith(f"{API}/"):
            await self.app(scope, receive, send)
            return
        numbers = list(_named_in(scope, path))
        if scope["method"] == "POST" and BODIES.match(path):
            numbers += _numbers_in(scope.get(JSON_IN_SCOPE, {}))
        file = FILE.fullmatch(path)
        allowed = all(self.claims.claim(number, visitor.name) for number in numbers)
        if not allowed or (file and not self.files.may_read(visitor.name, Path(file[1]))):
            await refused(NotFound("there is nothing here"))(scope, receive, send)
            return
        if scope["method"] == "POST" and path.startswith((f"{API}/upload", f"{API}/queue/join", f"{API}/call/")):
            scope, send = _plain(scope), self._reading(visitor, send)
        await self.app(scope, receive, send)

    def _reading(self, visitor: Visitor, send: Send) -> Send:
        """Read an answer for the event id and the uploaded files that it names."""
        parts: list[bytes] = []

        async def read(message: Message) -> None:
            if message["type"] == "http.response.body":
                parts.append(message.get("body", b""))
                if not message.get("more_body", False):
                    self._learn(visitor, b"".join(parts))
            await send(message)

        return read

    def _learn(self, visitor: Visitor, body: bytes) -> None:
        try:
            answer = json.loads(body)
        except ValueError:
            return
        if isinstance(answer, list):
            self.files.give([{"path": path} for path in answer], visitor.name)
        elif isinstance(answer, dict) and isinstance(answer.get("event_id"), str):
            self.claims.claim(answer["event_id"], visitor.name)


def _named_in(scope: Scope, path: str) -> Iterator[str]:
    """The ids in a request's path and query."""
    if found := NAMED.fullmatch(path):
        yield from (number for number in found.groups() if number)
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
    for name in NAMES:
        yield from query.get(name, ())


def _numbers_in(given: Mapping[str, Any]) -> list[str]:
    """The ids in a request's body, which `Bodies` has read."""
    return [given[name] for name in NAMES if isinstance(given.get(name), str)]


def _paths_in(value: Any) -> Iterator[str]:
    """The paths of Gradio's ``FileData`` at any depth, including JSON in strings, such as a canvas's value."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return
    if isinstance(value, Mapping):
        if isinstance(value.get("path"), str) and value["path"]:
            yield value["path"]
        value = list(value.values())
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        for item in value:
            yield from _paths_in(item)


def _plain(scope: Scope) -> Scope:
    """The request without Accept-Encoding, so that the answer is uncompressed and can be read."""
    return {**scope, "headers": [pair for pair in scope["headers"] if pair[0].lower() != b"accept-encoding"]}


def uploaded(value: Any) -> Path | None:
    """The file behind a component's value, only if it is an upload in Gradio's own folder."""
    path = value.get("path") if isinstance(value, dict) else None
    if not isinstance(path, str) or "\0" in path or not os.environ.get("GRADIO_TEMP_DIR"):
        return None
    home, found = Path(os.environ["GRADIO_TEMP_DIR"]).resolve(), Path(path).resolve()
    if not found.is_relative_to(home) or not found.is_file():
        logger.warning("a page named a file that it had not uploaded")
        return None
    return found
