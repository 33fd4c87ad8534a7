"""``/txt2img`` and ``/img2img``: a job of the queue as every other, waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Body, Request
from starlette.background import BackgroundTask
from starlette.responses import Response

from modules.errors import UserError
from modules.jobs.protocol import GenerateSpec, Json, SavedImage, ScriptSpec, spec_from_json
from webui.api.sdapi.answers import answer, ended, forget
from webui.api.sdapi.asking import Asked, read_request
from webui.api.sdapi.options import KNOWN, Options
from webui.api.sdapi.pictures import PicturesJSON
from webui.api.sdapi.progress import Tasks
from webui.security.auth import owner_of
from webui.services import JobView, Services


async def ended_job(services: Services, job: JobView) -> None:
    """Wait until a job has ended. It goes on where whoever waits goes away."""
    async for _ in services.queue.follow(job.owner, job.id, end_only=True):
        pass


def add_images(routes: APIRouter, services: Services, options: Options, tasks: Tasks) -> None:
    """The two routes that make pictures. What takes a moment is done in two calls beside the event loop, one before the
    job and one behind it: each call costs two changes of threads."""

    def queued(owner: str, tab: str, body: Json) -> tuple[Asked, JobView]:
        asked = read_request(services, tab, body, options.chosen(owner))
        job = services.submit(owner, asked.spec(tab))
        if task := asked.given.get("force_task_id", ""):
            tasks.note(owner, task, job.id)
        return asked, job

    def answered(owner: str, tab: str, asked: Asked, job: JobView) -> tuple[PicturesJSON, Sequence[SavedImage]]:
        """The answer, and the pictures that are not kept once they are delivered."""
        job = services.queue.get(job.id, owner)
        spec = spec_from_json(job.spec)
        if not isinstance(spec, (GenerateSpec, ScriptSpec)):
            raise UserError("the job is another's", hint="send the request again")
        told = answer(tab, asked, spec.params, job)
        if not asked.given.get("override_settings_restore_afterwards", True):
            _lasting(options, owner, asked.given.get("override_settings", {}))
        return PicturesJSON(told), () if asked.given.get("save_images", False) else ended(job).images

    async def made(request: Request, tab: str, body: Json) -> Response:
        owner = owner_of(request)
        asked, job = await asyncio.to_thread(queued, owner, tab, body)
        await ended_job(services, job)
        response, images = await asyncio.to_thread(answered, owner, tab, asked, job)
        if images and not await request.is_disconnected():
            response.background = BackgroundTask(forget, services, owner, images)
        return response

    @routes.post("/txt2img")
    async def txt2img(request: Request, values: Json = Body()) -> Response:
        """Images from text, with A1111's fields."""
        return await made(request, "txt2img", values)

    @routes.post("/img2img")
    async def img2img(request: Request, values: Json = Body()) -> Response:
        """Images from images, with A1111's fields."""
        return await made(request, "img2img", values)


def _lasting(options: Options, owner: str, settings: Mapping[str, Any]) -> None:
    known = {name: value for name, value in settings.items() if name in KNOWN}
    if known:
        options.change(owner, known)
