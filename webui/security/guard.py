"""The guard: ASGI middleware in front of everything the server answers, including Gradio and extensions.

Stock Gradio answers any Host (DNS rebinding), takes bodies of any size, sends no security headers, and asks for a
login on some of its routes only. This ASGI middleware stands outside of it and lets through what a page of ours would
ask, for those who are logged in.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import re
from collections.abc import Iterable
from urllib.parse import quote, urlsplit

from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modules.errors import NotLoggedIn, RepriseError
from webui.policy import ApiPolicy
from webui.security import cors
from webui.security.auth import IN_SCOPE, Visitor, Visitors
from webui.security.characters import WholeJSON

OPEN = frozenset({"/login", "/healthz", "/manifest.json", "/robots.txt"})
"""Paths that are answered without a login. Browsers request the manifest without cookies."""
MAX_BODY = 32 * 2**20
MAX_PICTURES = 128 * 2**20
"""Of a request to the HTTP APIs, which carry pictures in base64."""
APIS = re.compile(r"/(api/v1|sdapi/v1)/")
BODY_S = 30.0
"""How long a client may take to send a body."""
MAX_STRANGERS_BODY = 65536
"""Body limit without a login: enough for a name and a password."""
RECHECK_S = 1.0
"""How often a long stream checks whether its reader is still logged in."""
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
BODY_TYPES = frozenset({"application/json", "multipart/form-data"})
A1111 = re.compile(r"/(sdapi/v1|internal)/")
BODILESS = re.compile(
    r"/sdapi/v1/(interrupt|skip|refresh-[a-z]+|(un|re)load-checkpoint|server-(stop|kill|restart))/?"
    r"|/api/v1/jobs/[^/]+/(cancel|skip|finish)/?|/api/v1/queue/[^/]+/cancel/?"
)
"""Routes that take no body. One that comes all the same is read past, of any type: ``curl -d ''`` sends a form."""
STREAMS = re.compile(r".*/gradio_api/(queue/data|heartbeat/|upload_progress|call/|stream/)")

HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-frame-options": "SAMEORIGIN",
    # Gradio writes inline scripts and styles and compiles the js= of its events; nothing is loaded from elsewhere.
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
        "connect-src 'self' data: blob:; object-src 'none'; base-uri 'self'; form-action 'self'; "
        "frame-ancestors 'self'"
    ),
}

log = logging.getLogger(__name__)

CLOSED = re.compile(
    r".*/gradio_api/(proxy=|file=\s*https?:|deep_link|dev/|vibe-|undo-vibe|process_recording|component_server|runs|run-history|profiling)"
    r"|.*/monitoring(/|$)",
    re.IGNORECASE,
)
"""Routes of Gradio that nothing here uses; the first two would fetch addresses from the network for anyone. Nor is a
page ever asked for by a deep link, whose name is part of a path on the disk."""


class Guard:
    """Checks Host (421), Origin (403), login (401), closed routes (404), content type (415), body size and time
    (413, 408); adds headers.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Iterable[str] = (),
        visitors: Visitors | None = None,
        max_body: int = MAX_BODY,
        max_pictures: int = MAX_PICTURES,
        body_s: float = BODY_S,
        policy: ApiPolicy = ApiPolicy(),
    ):
        self.app = app
        self.hosts = LOCAL_HOSTS | {host.strip("[]").lower() for host in hosts}
        self.visitors = visitors or Visitors()
        self.max_body = max_body
        self.max_pictures = max_pictures
        self.body_s = body_s
        self.policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        origin = cors.allowed_origin(self.policy, scope, path_of(scope)) if scope["type"] == "http" else ""
        answer = await self._judge(scope, origin)
        if origin:
            send = cors.shared_with(origin, send)
        if answer is None and scope["type"] == "http":
            return await self._http(scope, receive, send)
        if answer is None:
            return await self.app(scope, receive, send)
        if scope["type"] == "websocket":
            await receive()
            return await send({"type": "websocket.close", "code": 1008})
        if answer.status_code == 413 and scope.get(IN_SCOPE):
            await self._read_past(scope, receive, 2)
        return await answer(scope, receive, with_headers(send))

    async def _read_past(self, scope: Scope, receive: Receive, times: int) -> None:
        """Read past a body that is too large, up to that many times what is allowed. Most programs send all of it
        before they listen, and where the connection closed meanwhile they would learn nothing but that.
        """
        if "100-continue" in _Headers(scope).all("expect").lower():
            return  # it listens first
        left = times * self._max_body(scope, scope.get(IN_SCOPE))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.body_s):
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if message["type"] != "http.request" or not message.get("more_body", False):
                        return

    async def _judge(self, scope: Scope, origin: str = "") -> Response | None:
        """The response to a rejected request, or None; stores the visitor in ``scope``. ``origin``: of another site
        that may use the APIs.
        """
        if stranger := self.foreign(scope, origin):
            return _answer(*stranger)
        if origin and cors.is_preflight(scope):
            return Response(status_code=204)  # browsers ask without a login
        path = path_of(scope)
        try:
            visitor = await self.visitors.of(scope)
        except RepriseError as error:
            if path not in OPEN:
                return refused(error)
            visitor = None
        scope[IN_SCOPE] = visitor
        if visitor is None and path not in OPEN:
            return _to_login(scope)
        refusal = self.unfit(scope, self._max_body(scope, visitor))
        return _answer(*refusal) if refusal else None

    def foreign(self, scope: Scope, origin: str = "") -> tuple[int, str] | None:
        """Status and sentence for a cross-site request, or one under a foreign host name."""
        headers = _Headers(scope)
        netloc = headers.only("host")
        if netloc is None or not self._is_ours(_hostname(netloc), scope):
            return 421, "this server is not known by that host name; add it with --allowed-host"
        path, method = scope["path"], scope.get("method", "GET")
        streams = scope["type"] == "websocket" or STREAMS.match(path) or "text/event-stream" in headers.all("accept")
        if (method != "GET" or streams) and not origin and not _same_origin(headers, netloc):
            return 403, "requests from other sites are not answered"
        return None

    def _is_ours(self, name: str | None, scope: Scope) -> bool:
        """Whether a Host is a name of this server, or the very address at which the connection arrived."""
        if name in self.hosts:
            return True
        try:
            return name is not None and ipaddress.ip_address(name) == ipaddress.ip_address(scope["server"][0])
        except (ValueError, KeyError, TypeError):
            return False

    def unfit(self, scope: Scope, max_body: int) -> tuple[int, str] | None:
        """Status and sentence for a request of a known visitor that is rejected all the same."""
        headers, method = _Headers(scope), scope.get("method", "GET")
        if CLOSED.match(scope["path"]) or b"deep_link=" in scope.get("query_string", b""):
            return 404, "there is nothing here"
        kind = headers.all("content-type").partition(";")[0].strip().lower()
        length, path = headers.all("content-length"), path_of(scope)
        takes_any = method == "GET" or not kind or length == "0" or BODILESS.fullmatch(path)
        if kind not in BODY_TYPES and not takes_any:
            return 422 if A1111.match(path) else 415, "send JSON or a multipart form"
        if length and not (length.isascii() and length.isdigit()):
            return 400, "Content-Length is not a number"
        if length and int(length) > max_body:
            return _too_large(max_body)
        return None

    def _max_body(self, scope: Scope, visitor: Visitor | None) -> int:
        if visitor is None:
            return MAX_STRANGERS_BODY
        return self.max_pictures if APIS.match(path_of(scope)) else self.max_body

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, limiting size and time of the body; beyond a limit it sees a disconnect."""
        deadline = asyncio.get_running_loop().time() + self.body_s
        size, started = 0, False
        headers = _Headers(scope)
        # Without a body there is nothing to wait for; an event stream may then last for hours.
        complete = not (headers.has("content-length") or headers.has("transfer-encoding"))
        refusal: tuple[int, str] | None = None
        visitor: Visitor | None = scope[IN_SCOPE]
        max_body = self._max_body(scope, visitor)
        send = with_headers(send)
        if visitor:
            send, receive = self._watched(visitor, send, receive)

        async def counted() -> Message:
            nonlocal size, complete, refusal
            if refusal is not None:
                return {"type": "http.disconnect"}
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                refusal = 408, "the request took too long to arrive"
                return {"type": "http.disconnect"}
            size += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if size > max_body:
                refusal = _too_large(max_body)
                return {"type": "http.disconnect"}
            return message

        async def unless_refused(message: Message) -> None:
            nonlocal started
            if refusal is None or started:
                started = True
                await send(message)

        try:
            await self.app(scope, counted, unless_refused)
        except Exception:
            if refusal is None or started:
                raise
        if refusal is not None and not started:
            if refusal[0] == 413 and visitor and not complete:
                await self._read_past(scope, receive, 1)
            await _answer(*refusal)(scope, receive, send)

    def _watched(self, visitor: Visitor, send: Send, receive: Receive) -> tuple[Send, Receive]:
        """End an event stream when its reader logs out, here or elsewhere."""
        streams, look_at, ended = False, 0.0, asyncio.Event()

        async def checked(message: Message) -> None:
            nonlocal streams, look_at
            if message["type"] == "http.response.start":
                kinds = [value for name, value in message.get("headers", []) if name.lower() == b"content-type"]
                streams = any(kind.startswith(b"text/event-stream") for kind in kinds)
            elif streams and not ended.is_set() and asyncio.get_running_loop().time() >= look_at:
                look_at = asyncio.get_running_loop().time() + RECHECK_S
                if not self.visitors.is_still_in(visitor):
                    ended.set()
                    await send({"type": "http.response.body", "body": b""})
            if not ended.is_set():
                await send(message)

        async def until_ended() -> Message:
            return {"type": "http.disconnect"} if ended.is_set() else await receive()

        return checked, until_ended


def path_of(scope: Scope) -> str:
    """The path below the prefix given by ``--subpath``."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def refused(error: RepriseError) -> Response:
    """The response for one of our errors."""
    if error.place:
        log.warning("%s", error.with_place)
    headers = {"retry-after": str(error.retry_s)} if error.retry_s else {}
    if isinstance(error, NotLoggedIn):
        headers["www-authenticate"] = "Bearer"  # not Basic: a browser would ask in a window of its own
    return WholeJSON(error.as_json(), error.status, headers)


def _to_login(scope: Scope) -> Response:
    """Redirect pages to the login page; everything else gets 401."""
    headers = _Headers(scope)
    if scope.get("method") == "GET" and "text/html" in headers.all("accept") and not headers.has("authorization"):
        asked = path_of(scope)
        after = "" if asked == "/" else f"?next={quote(asked)}"
        return RedirectResponse(f"{scope.get('root_path', '')}/login{after}", 303, {"cache-control": "no-store"})
    return refused(NotLoggedIn("nobody is logged in", hint="send a token: Authorization: Bearer ..."))


def _too_large(max_body: int) -> tuple[int, str]:
    return 413, f"the request is larger than {max_body / 2**20:g} MB"


def with_headers(send: Send) -> Send:
    """Add the security headers, and remove any CORS header that an inner layer wrote."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [
                (name, value)
                for name, value in message.get("headers", [])
                if name.lower().decode("latin-1") not in HEADERS and not name.lower().startswith(b"access-control-")
            ]
            ours = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": kept + ours}
        await send(message)

    return send_with_headers


def _same_origin(headers: _Headers, netloc: str) -> bool:
    """Whether a request's origin is this server. Programs that send no origin pass: they are no browser on a foreign
    page.
    """
    if headers.all("sec-fetch-site") not in ("", "same-origin", "none"):
        return False
    if not headers.has("origin"):
        return True
    origin = headers.only("origin") or "null"
    return origin.lower() in (f"http://{netloc.lower()}", f"https://{netloc.lower()}")


def _hostname(netloc: str) -> str | None:
    """The name in a Host header, None where it is not one: ``[::1]:7860`` is ``::1``."""
    try:
        parts = urlsplit(f"//{netloc}")
        _ = parts.port
    except ValueError:
        return None
    return parts.hostname if parts.netloc == netloc and "@" not in netloc else None


def _answer(status: int, sentence: str) -> JSONResponse:
    body = {"error": "Refused", "detail": sentence, "field": "", "hint": ""}
    return JSONResponse(body, status, {"connection": "close"} if status in (408, 413) else None)


class _Headers:
    def __init__(self, scope: Scope):
        self._pairs = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]

    def has(self, name: str) -> bool:
        return any(key == name for key, _ in self._pairs)

    def all(self, name: str) -> str:
        return ", ".join(value for key, value in self._pairs if key == name)

    def only(self, name: str) -> str | None:
        """The value of a header that came exactly once."""
        values = [value for key, value in self._pairs if key == name]
        return values[0] if len(values) == 1 else None
