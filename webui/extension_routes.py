"""The HTTP routes of extensions, below /api/ext/NAME/."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from modules.errors import NotFound, RepriseError, without_folders
from modules.extension.host import RouteSpec
from modules.extension.page import FileAnswer, JobState, StreamAnswer
from modules.jobs.protocol import GenerateSpec, Json, Origin
from modules.params.generation import GenerationParams
from webui.html.status import results_of
from webui.security.auth import owner_of
from webui.security.bodies import object_in
from webui.security.characters import WholeJSON, whole
from webui.services import Services

logger = logging.getLogger(__name__)


def router(services: Services) -> APIRouter:
    """All routes of extensions, looked up when they are asked for, so that reloading one changes them."""
    routes = APIRouter(prefix="/api/ext")

    @routes.get("/{extension}/{path}", response_model=None)
    async def get(request: Request, extension: str, path: str) -> Any:
        """An extension's own route."""
        spec = _found(services, extension, path, "GET")
        return await _answer(services, spec, extension, dict(request.query_params), owner_of(request))

    @routes.post("/{extension}/{path}", response_model=None)
    async def post(request: Request, extension: str, path: str) -> Any:
        """An extension's own route."""
        spec = _found(services, extension, path, "POST")
        values = object_in(await request.body() or b"{}")
        return await _answer(services, spec, extension, values, owner_of(request))

    @routes.get("/{extension}/{folder}/{file:path}", response_class=FileResponse)
    async def static(extension: str, folder: str, file: str) -> FileResponse:
        """A file of a folder that an extension serves."""
        name = f"{extension}/{folder}"
        place = services.host.assets.get(name) if name in services.host.assets else Path()
        path = (place / file).resolve()
        inside = place.is_dir() and place != Path() and path.is_relative_to(place.resolve())
        if not inside or any(part.startswith(".") for part in Path(file).parts) or not path.is_file():
            raise NotFound("no extension has such a file", hint="look at the Extensions tab")
        return FileResponse(path, headers={"cache-control": "no-cache"})

    return routes


class Rooted(BaseRoute):
    """The routes of extensions that are answered at ``/NAME/PATH`` too, looked up when they are asked for."""

    def __init__(self, services: Services):
        self._services = services

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http":
            return Match.NONE, {}
        parts = scope["path"].removeprefix(scope.get("root_path", "")).strip("/").split("/")
        if len(parts) != 2:
            return Match.NONE, {}
        name = f"{parts[0]}/{parts[1]} {scope['method']}"
        there = name in self._services.host.routes and self._services.host.routes.get(name).rooted
        return (Match.FULL, {"path_params": {"extension": parts[0], "path": parts[1]}}) if there else (Match.NONE, {})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        extension, path = request.path_params["extension"], request.path_params["path"]
        spec = _found(self._services, extension, path, request.method)
        is_get = request.method == "GET"
        values = dict(request.query_params) if is_get else object_in(await request.body() or b"{}")
        answer = await _answer(self._services, spec, extension, values, owner_of(request))
        response = answer if isinstance(answer, Response) else WholeJSON(answer)
        await response(scope, receive, send)


class Call:
    """A request to an extension's route, and what it may do for whoever asks (`modules.extension.page.RouteCall`)."""

    def __init__(self, services: Services, extension: str, values: Json, owner: str):
        self.values, self.owner = values, owner
        self._services, self._extension = services, extension

    @property
    def is_admin(self) -> bool:
        return self._services.is_admin(self.owner)

    def submit(self, params: GenerationParams) -> str:
        """Queue a generation as a job of whoever asks, and return its number. Raises `UserError`."""
        spec = GenerateSpec(params, origin=Origin(tab=self._extension))
        return self._services.submit(self.owner, spec).id

    def job(self, number: str) -> JobState:
        """How far a job is; another's is not found."""
        job = self._services.queue.get(number, self.owner)
        images = tuple(Path(result.path) for result in results_of(job))
        return JobState(job.id, job.state, images, str((job.error or {}).get("detail", "")))

    def store(self, image: bytes) -> str:
        """Keep an image file as one that jobs may start from, and return its name for ``Init.image``."""
        return self._services.inputs.put(image)


def _found(services: Services, extension: str, path: str, method: str) -> RouteSpec:
    name = f"{extension}/{path} {method}"
    if name not in services.host.routes:
        raise NotFound("no extension has such a route", hint="look at the Extensions tab")
    return services.host.routes.get(name)


async def _answer(services: Services, spec: RouteSpec, extension: str, values: Json, owner: str) -> Any:
    """What the route answers, in a thread: it may take its time. Its faults are its own, in one sentence."""
    given = (Call(services, extension, values, owner),) if spec.caller else (values, owner)
    try:
        answer = await asyncio.to_thread(spec.answer, *given)
        if isinstance(answer, FileAnswer):
            return _file(answer)
        if isinstance(answer, StreamAnswer):
            pieces = _guarded(answer, extension, spec.path)
            return StreamingResponse(pieces, media_type=answer.media_type, headers={"cache-control": "no-store"})
        return whole(json.loads(json.dumps(answer, allow_nan=False)))
    except RepriseError:
        raise
    except Exception as error:
        logger.warning("extension %s failed in its route %s", extension, spec.path, exc_info=True)
        raise RepriseError(
            f"extension {extension} failed ({type(error).__name__}: {without_folders(error)})"
        ) from error


def _file(answer: FileAnswer) -> FileResponse:
    if not answer.path.is_file():
        raise NotFound(f"there is no file {answer.path.name}", hint="it may have been deleted")
    return FileResponse(answer.path, media_type=answer.media_type or None, filename=answer.name or None)


def _guarded(answer: StreamAnswer, extension: str, path: str) -> Iterator[bytes | str]:
    """The pieces; an exception between them ends the answer and is logged."""
    try:
        yield from answer.pieces
    except Exception:
        logger.warning("extension %s failed in its route %s", extension, path, exc_info=True)
