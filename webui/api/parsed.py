"""Routes that take the JSON object which the bodies' check has read already, so that large bodies are parsed once."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from webui.security.bodies import IN_SCOPE
from webui.security.guard import path_of


class Known(Request):
    """A request whose body is known as an object."""

    async def body(self) -> bytes:
        return b"{}"

    async def json(self) -> Any:
        return self.scope[IN_SCOPE]


class Below(APIRouter):
    """Routes that all lie below ``prefix``. FastAPI would try each of them with every path, a request to another router
    included, and twice; a path that lies elsewhere is told at once."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if not path_of(scope).startswith(f"{self.prefix}/"):
            return Match.NONE, {}
        return super().matches(scope)


class ParsedRoute(APIRoute):
    """A route of the HTTP APIs."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()

        async def answered(request: Request) -> Response:
            if IN_SCOPE in request.scope:
                request = Known(request.scope, request.receive)
            return await inner(request)

        return answered
