"""The HTTP routes of extensions, below /api/ext/NAME/."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

from fastapi import APIRouter, Request

from modules.errors import NotFound, RepriseError
from modules.extension.host import RouteSpec
from modules.jobs.protocol import Json
from webui.security.auth import owner_of
from webui.security.bodies import object_in
from webui.security.characters import whole
from webui.services import Services

logger = logging.getLogger(__name__)


def router(services: Services) -> APIRouter:
    """All routes of extensions, looked up when they are asked for, so that reloading one changes them."""
    routes = APIRouter(prefix="/api/ext")

    @routes.get("/{extension}/{path}")
    async def get(request: Request, extension: str, path: str) -> Any:
        """An extension's own route."""
        spec = _found(services, extension, path, "GET")
        return await _answer(spec, extension, dict(request.query_params), owner_of(request))

    @routes.post("/{extension}/{path}")
    async def post(request: Request, extension: str, path: str) -> Any:
        """An extension's own route."""
        spec = _found(services, extension, path, "POST")
        values = object_in(await request.body() or b"{}")
        return await _answer(spec, extension, values, owner_of(request))

    return routes


def _found(services: Services, extension: str, path: str, method: str) -> RouteSpec:
    name = f"{extension}/{path} {method}"
    if name not in services.host.routes:
        raise NotFound("no extension has such a route", hint="look at the Extensions tab")
    return services.host.routes.get(name)


async def _answer(spec: RouteSpec, extension: str, values: Json, owner: str) -> Any:
    """What the route answers, in a thread: it may take its time. Its faults are its own, in one sentence."""
    try:
        answer = await asyncio.to_thread(spec.answer, values, owner)
        return whole(json.loads(json.dumps(answer, allow_nan=False)))
    except RepriseError:
        raise
    except Exception as error:
        logger.warning("extension %s failed in its route %s", extension, spec.path, exc_info=True)
        raise RepriseError(f"extension {extension} failed ({type(error).__name__}: {error})") from error
