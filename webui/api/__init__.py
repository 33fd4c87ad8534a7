"""The HTTP API of our own, below /api/v1. JSON in and out; errors are ``{error, detail, field, hint}``."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Body, Request

from modules.errors import NotFound, UserError
from modules.jobs.protocol import REPLAY, Json, ReplaySpec
from modules.metadata import recipe as recipes
from modules.metadata import verdict as verdicts
from modules.metadata.image_text import read_metadata
from modules.params.generation import GenerationParams
from modules.pipeline.explain import explain_request
from webui.api.parsed import Below, ParsedRoute
from webui.api.sdapi.pictures import from_base64
from webui.api.v1.history import add_routes
from webui.api.v1.jobs import add_jobs, told_job
from webui.api.v1.lists import add_lists
from webui.api.v1.networks import add_networks
from webui.api.v1.openapi import TAGS, add_docs
from webui.api.v1.queue import add_queue_routes
from webui.api.v1.webhooks import Webhooks
from webui.security.auth import owner_of
from webui.security.characters import WholeJSON
from webui.services import Services


def router(services: Services) -> APIRouter:
    """The routes. What they are given in excess is ignored, as everywhere in A1111's world."""
    webhooks = Webhooks(services.data_dir, services.api.webhook_hosts)

    @contextlib.asynccontextmanager
    async def resumed(_: Any) -> AsyncIterator[None]:
        for job_id in list(webhooks.waiting):  # those of before the last stop
            webhooks.follow(services, job_id, told_job)
        yield

    routes = Below(prefix="/api/v1", default_response_class=WholeJSON, route_class=ParsedRoute, lifespan=resumed)

    @routes.post("/explain", tags=[TAGS.tools])
    def explain(values: Json = Body()) -> Json:
        """What the prompts of a request mean, step by step: texts, tokens with weights, networks, warnings."""
        params = GenerationParams.from_json(values)
        return explain_request(
            params, services.host, services.embeddings(params.checkpoint), services.network_family(params.checkpoint)
        )

    @routes.post("/replay", status_code=202, tags=[TAGS.tools])
    def replay(request: Request, values: Json = Body()) -> Json:
        """Make a picture again: ``{"image": base64}`` or ``{"recipe": ...}``; a job's number, or a verdict at once."""
        return submit_replay(services, owner_of(request), values)

    @routes.get("/replay/{job_id}", tags=[TAGS.tools])
    def verdict(request: Request, job_id: str) -> Json:
        """How far a replay is, and the verdict once there is one."""
        job = services.queue.get(job_id, owner_of(request))
        if job.kind != REPLAY:
            raise NotFound("no such replay", hint="POST a picture to /api/v1/replay first", field="job_id")
        return {"job": job.id, "state": job.state, "verdict": (job.output or {}).get("verdict"), "error": job.error}

    add_routes(routes, services)
    add_queue_routes(routes, services)
    add_jobs(routes, services, webhooks)
    add_lists(routes, services)
    add_networks(routes, services)
    both = APIRouter(default_response_class=WholeJSON)
    add_docs(both, routes, services.version)
    both.include_router(routes)
    return both


def submit_replay(services: Services, owner: str, values: Json) -> Json:
    """What ``/replay`` answers: where there is nothing to compute the verdict is there already."""
    if isinstance(values.get("image"), str):
        try:
            data = from_base64(values["image"])
        except ValueError as error:
            raise UserError("image is not base64", hint="send the file's bytes in base64", field="image") from error
        texts = read_metadata(data)
        judged = verdicts.judge(texts["recipe"], texts["infotext"] or texts["stealth_infotext"])
        spec = ReplaySpec(path=str(services.inputs.keep(data)))
    elif isinstance(values.get("recipe"), (str, dict)):
        given = values["recipe"]
        text = given if isinstance(given, str) else recipes.canonical(given)
        judged = verdicts.judge(text)
        spec = ReplaySpec(recipe=text)
    else:
        raise UserError("there is nothing to make again", hint="send image, in base64, or recipe", field="image")
    if isinstance(judged, verdicts.Verdict):
        return {"job": None, "verdict": judged.to_json()}
    services.api.limits.check(judged.request, services.inputs.size)
    return {"job": services.submit(owner, spec).id, "verdict": None}
