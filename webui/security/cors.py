"""Requests of other sites' pages, which an administrator allowed (Fetch standard, CORS protocol)."""

from __future__ import annotations

import re

from starlette.types import Message, Scope, Send

from webui.policy import ApiPolicy

APIS = re.compile(r"/(api/v1|sdapi|internal|healthz)(/|$)")
"""What other sites may use; never the page itself."""
METHODS = "GET, POST"
ASKED = "authorization, content-type, idempotency-key, last-event-id"
TOLD = "location, retry-after, x-process-time, x-without-effect"
MAX_AGE_S = 600


def allowed_origin(policy: ApiPolicy, scope: Scope, path: str) -> str:
    """The origin of a request that may use the APIs from another site; else empty. Cookies are of no use to it: no
    answer allows credentials, and a token is sent as a header.
    """
    if not (policy.origins or policy.origins_pattern) or not APIS.match(path):
        return ""
    origins = [value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"origin"]
    cookies = any(name.lower() == b"cookie" for name, _ in scope["headers"])
    return origins[0] if len(origins) == 1 and not cookies and policy.allows_origin(origins[0]) else ""


def is_preflight(scope: Scope) -> bool:
    """Whether a browser asks what it may send."""
    asks = any(name.lower() == b"access-control-request-method" for name, _ in scope["headers"])
    return asks and scope.get("method") == "OPTIONS"


def shared_with(origin: str, send: Send) -> Send:
    """Let pages of an origin read the answer, and send what the APIs take."""
    ours = {
        "access-control-allow-origin": origin,
        "access-control-allow-methods": METHODS,
        "access-control-allow-headers": ASKED,
        "access-control-expose-headers": TOLD,
        "access-control-max-age": str(MAX_AGE_S),
        "vary": "origin",
    }
    added = [(name.encode(), value.encode("latin-1")) for name, value in ours.items()]

    async def send_shared(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *added]}
        await send(message)

    return send_shared
