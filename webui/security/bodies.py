"""Validates request bodies once for all routes behind: ours, those of extensions, Gradio's.

They read JSON with Python's parser, which lets through what is no JSON (NaN), numbers that no one can write down again
(1e999) and halves of characters ("\\ud800"), and then fail somewhere within: as they compute, or as they say what was
wrong. This ASGI middleware answers such bodies with one sentence.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from python_multipart.exceptions import FormParserError, MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modules.errors import NotFound, UserError
from webui.security.characters import whole
from webui.security.guard import BODILESS, path_of, refused

API = "/gradio_api"
APIS = re.compile(r"/(api/v1|sdapi/v1|internal)/.*")
"""Routes that take the object that was read here, and not the body."""
PICTURES = re.compile(r"/api/v1/inputs/?")
"""Takes JSON or a form."""
MANY_BYTES, MANY_VALUES = 2**20, 500_000
"""A body of more bytes than the first may hold about as many values as the second: each costs a hundred bytes or so."""
FORMS = re.compile(rf"/(login|logout)/?|{API}/upload/?")
"""Routes that take forms; all others take JSON."""
UPLOAD = re.compile(rf"{API}/upload/?")
EVENTS = re.compile(rf"{API}/(?:queue/join|(?:run|api|call|call/v2)/([^/]*))/?")
"""Routes that start an event of the page, by its number or name."""
IN_SCOPE = "reprise.json"
"""The key in the ASGI scope under which a body's JSON object is stored."""
NAME_BYTES = 255
"""The longest name that a file can have, on every file system that we meet."""

Events = Callable[[int | str], int | None]
"""How many values an event of the page takes, by its number or name; None: there is no such event."""


def no_events(which: int | str) -> int | None:
    """Where there is no page."""
    return None


class Bodies:
    """ASGI middleware: 404, 415 and 422 for requests that no route could handle."""

    def __init__(self, app: ASGIApp, *, events: Events = no_events):
        self.app = app
        self.events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = path_of(scope)
        form = FORMS.fullmatch(path)
        try:
            check_path(path)
            if form or (PICTURES.fullmatch(path) and _kind(scope) == "multipart/form-data"):
                check_form(scope)
            elif scope["method"] in ("POST", "PUT", "PATCH", "DELETE"):
                scope, receive = await self._judged(scope, path, receive)
        except UserError as error:
            return await refused(error)(scope, receive, send)
        except ConnectionError:
            return None  # the client went away before its body was here, or was sent away
        if scope["method"] == "POST" and UPLOAD.fullmatch(path):
            return await self._uploaded(scope, receive, send)
        return await self.app(scope, receive, send)

    async def _judged(self, scope: Scope, path: str, receive: Receive) -> tuple[Scope, Receive]:
        if BODILESS.fullmatch(path):
            await whole_body(receive)
            return scope, again(b"", receive)
        if _kind(scope) == "multipart/form-data":
            raise UserError("this route takes JSON and no form", hint="send an object, as application/json")
        body = await whole_body(receive)
        if not body:
            return scope, again(b"", receive)
        if APIS.fullmatch(path):
            return {**scope, IN_SCOPE: object_of(body)}, receive  # `webui.api.parsed` reads no body a second time
        values = object_in(bytes(body), mended=path.startswith(f"{API}/"))
        if path.startswith(f"{API}/"):
            self._check_event(values, path)
            data = json.dumps(values).encode()
            scope = {**scope, "headers": [*_without(scope, b"content-length"), (b"content-length", b"%d" % len(data))]}
            return {**scope, IN_SCOPE: values}, again(data, receive)
        return {**scope, IN_SCOPE: values}, again(bytes(body), receive)

    async def _uploaded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the parts of an upload as they pass, since Gradio takes each for a file; at an invalid part, the
        route sees a disconnect.
        """
        parts = Parts(_boundary(scope))

        async def judged() -> Message:
            message: Message = {"type": "http.disconnect"} if parts.fault else await receive()
            if message["type"] == "http.request":
                parts.read(message.get("body", b""), ended=not message.get("more_body", False))
            return {"type": "http.disconnect"} if parts.fault else message

        async def unless_refused(message: Message) -> None:
            if not parts.fault:
                await send(message)

        try:
            if not parts.fault:  # a boundary that is none
                await self.app(scope, judged, unless_refused)
        except ClientDisconnect:
            if not parts.fault:
                raise
        if parts.fault:
            await refused(UserError(parts.fault, hint="send files alone, as files", field="files"))(
                scope, receive, send
            )

    def _check_event(self, values: Mapping[str, Any], path: str) -> None:
        """Check what Gradio's event routes take for granted."""
        for name in ("session_hash", "event_id"):
            if not isinstance(values.get(name), (str, type(None))):
                raise UserError(f"{name} is no text", hint="load the page again", field=name)
        number: Any = values.get("fn_index")
        if not isinstance(number, (int, type(None))) or isinstance(number, bool):
            raise UserError("fn_index is no whole number", hint="load the page again", field="fn_index")
        begun = EVENTS.fullmatch(path)
        if begun is None:
            return
        if number is None or path.startswith(f"{API}/call/"):
            number = begun[1] or ""
        takes = self.events(number)
        if takes is None:
            raise NotFound("the page has no such event", hint="load the page again", field="fn_index")
        data = values.get("data")
        if not path.startswith(f"{API}/call/v2/") and not (isinstance(data, list) and len(data) >= takes):
            raise NotFound(f"the page has no such event of so few values; it takes {takes}", field="data")


class Parts:
    """Checks a multipart body incrementally. ``fault`` says what is wrong so far."""

    def __init__(self, boundary: bytes):
        self.fault = ""
        self._files = 0
        self._name, self._value, self._headers = b"", b"", dict[bytes, bytes]()
        callbacks: Any = {
            "on_part_begin": self._headers.clear,
            "on_header_field": self._on_name,
            "on_header_value": self._on_value,
            "on_header_end": self._on_header,
            "on_headers_finished": self._on_headers,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError as error:
            self.fault = f"the form cannot be read: {error}"

    def read(self, data: bytes, *, ended: bool) -> None:
        if self.fault:
            return
        try:
            self._parser.write(data)
        except MultipartParseError as error:
            self.fault = f"the form cannot be read: {error}"
        if ended and not self._files:
            self.fault = self.fault or "there is no file in the form"

    def _on_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _on_headers(self) -> None:
        options = parse_options_header(self._headers.get(b"content-disposition", b""))[1]
        self._files += 1
        if options.get(b"name") != b"files" or not options.get(b"filename"):
            self.fault = "a part of the form is no file, or has no filename"


def check_form(scope: Scope) -> None:
    """Raise `UserError` for a form in another encoding than UTF-8: some of Python's encodings produce lone
    surrogates.
    """
    options = parse_options_header(_header(scope, b"content-type"))[1]
    charset = options.get(b"charset", b"utf-8").lower()
    if charset not in (b"utf-8", b"utf8"):
        raise UserError("a form is sent in UTF-8", hint="leave the charset out", field="body")


def check_path(path: str) -> None:
    """Raise `NotFound` for a path that cannot be a file's name: system calls would raise on it."""
    if "\0" in path or any(len(part.encode("utf-8", "replace")) > NAME_BYTES for part in path.split("/")):
        raise NotFound("there is nothing here")


def object_of(body: bytearray) -> dict[str, Any]:
    """`object_in` of a body that may be large, which is emptied before it is parsed: so it never lies in memory more
    than twice.
    """
    if len(body) > MANY_BYTES and sum(map(body.count, (b",", b"[", b"{"))) > MANY_VALUES:
        raise UserError(f"the body holds more than {MANY_VALUES:,} values", hint="send fewer", field="body")
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError("the body is not UTF-8", hint="send JSON in UTF-8", field="body") from None
    body.clear()
    return _object(text, mended=False)


def object_in(body: bytes, *, mended: bool = False) -> dict[str, Any]:
    """The JSON object in ``body``; raises `UserError` if it is none. ``mended``: lone surrogates, which browsers
    send when half of a character was deleted, become U+FFFD.
    """
    try:
        return _object(body.decode("utf-8-sig"), mended=mended)
    except UnicodeDecodeError:
        raise UserError("the body is not UTF-8", hint="send JSON in UTF-8", field="body") from None


def _object(text: str, *, mended: bool) -> dict[str, Any]:
    try:
        values = json.loads(text, parse_constant=_no_number, parse_float=_finite)
        if not isinstance(values, dict):
            raise UserError("the body is not an object", hint="send {...}", field="body")
        clean = whole(values)
        if not mended and clean != values:
            raise UserError(
                "a text holds half a character (a lone surrogate)", hint="send UTF-8 or both halves", field="body"
            )
    except RecursionError:
        raise UserError("the body is nested too deeply", hint="send fewer levels", field="body") from None
    except ValueError as error:
        raise UserError(f"the body is not JSON: {error}", hint="send an object", field="body") from None
    assert isinstance(clean, dict)
    return clean


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is out of range")
    return number


async def whole_body(receive: Receive) -> bytearray:
    """Read the whole body, which the guard has limited; raises `ConnectionError` if the client disconnected."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ConnectionError
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return body


def again(body: bytes, receive: Receive) -> Receive:
    """A receive function that replays a body already read."""
    unread = [body]

    async def replayed() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        return await receive()

    return replayed


def _kind(scope: Scope) -> str:
    return _header(scope, b"content-type").partition(b";")[0].strip().lower().decode("latin-1")


def _header(scope: Scope, wanted: bytes) -> bytes:
    return next((bytes(value) for name, value in scope["headers"] if name.lower() == wanted), b"")


def _boundary(scope: Scope) -> bytes:
    return parse_options_header(_header(scope, b"content-type"))[1].get(b"boundary", b"") or b"-"


def _without(scope: Scope, header: bytes) -> Sequence[tuple[bytes, bytes]]:
    return [pair for pair in scope["headers"] if pair[0].lower() not in (header, b"transfer-encoding")]
