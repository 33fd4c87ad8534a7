"""``/txt2img`` and ``/img2img``: a job of the queue as every other, waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Body, Request
from starlette.background import BackgroundTask
from starlette.responses import Response

from modules.errors import UserError
from modules.jobs.protocol import GenerateSpec, JobSpec, Json, ScriptSpec, spec_from_json
from webui.api.sdapi.answers import answer, ended, forget
from webui.api.sdapi.asking import read_request
from webui.api.sdapi.options import KNOWN, Options
from webui.api.sdapi.pictures import PicturesJSON
from webui.api.sdapi.progress import Tasks
from webui.security.auth import owner_of
from webui.services import JobView, Services


async def finished(services: Services, owner: str, spec: JobSpec, tasks: Tasks, task: str = "") -> JobView:
    """The job of a spec once it has ended. It goes on where whoever waits goes away."""
    job = await asyncio.to_thread(services.submit, owner, spec)
    if task:
        tasks.note(owner, task, job.id)
    async for _ in services.queue.follow(owner, job.id):
        pass
    return await asyncio.to_thread(services.queue.get, job.id, owner)


def add_images(routes: APIRouter, services: Services, options: Options, tasks: Tasks) -> None:
    """The two routes that make pictures."""

    async def made(request: Request, tab: str, body: Json) -> Response:
        owner = owner_of(request)
        asked = await asyncio.to_thread(read_request, services, tab, body, options.chosen(owner))
        job = await finished(services, owner, asked.spec(tab), tasks, asked.given.get("force_task_id", ""))
        queued = spec_from_json(job.spec)
        if not isinstance(queued, (GenerateSpec, ScriptSpec)):
            raise UserError("the job is another's", hint="send the request again")
        told = await asyncio.to_thread(answer, tab, asked, queued.params, job)
        if not asked.given.get("override_settings_restore_afterwards", True):
            _lasting(options, owner, asked.given.get("override_settings", {}))
        images = () if asked.given.get("save_images", False) else ended(job).images
        after = (
            BackgroundTask(forget, services, owner, images) if images and not await request.is_disconnected() else None
        )
        return PicturesJSON(told, background=after)

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
