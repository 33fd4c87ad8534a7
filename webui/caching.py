"""What browsers may keep: files whose names change with their content."""

from __future__ import annotations

import re
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HASHED = re.compile(r"/assets/[^/]+-[\w-]{8}\w*\.\w+")
"""Gradio's bundles, each with a hash of its content in its name."""
FOR_A_YEAR = "public, max-age=31536000, immutable"


class Keeping:
    """Middleware: a browser does not ask again for a file that cannot have changed. Without it, every visit asks for a
    hundred of them."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        if scope["type"] != "http" or not HASHED.fullmatch(scope["path"]):
            return await self._app(scope, receive, send)

        async def kept(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in (200, 206, 304):
                MutableHeaders(scope=message)["cache-control"] = FOR_A_YEAR
            await send(message)

        return await self._app(scope, receive, kept)
