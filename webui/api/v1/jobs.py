"""Jobs of our own API: submitted at once, followed, fetched, stopped."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from modules.errors import NotFound, UserError
from modules.extension.option_values import stored
from modules.jobs.protocol import (
    EXTRAS,
    GENERATE,
    SCRIPT,
    ExtrasSpec,
    GenerateSpec,
    JobSpec,
    Json,
    Origin,
    ScriptSpec,
    spec_from_json,
)
from modules.params.generation import ExtrasParams, GenerationParams
from modules.params.options import unknown
from webui.api.sdapi.pictures import decoded
from webui.api.sdapi.route import Refusal
from webui.api.v1.events import PATH, last_id, stream, told_output
from webui.api.v1.history import LASTING, SavedFile
from webui.api.v1.openapi import INPUT, REQUEST, TAGS
from webui.api.v1.webhooks import Webhooks
from webui.security.auth import owner_of
from webui.security.bodies import IN_SCOPE
from webui.services import JobView, Services

FIELDS: Mapping[str, tuple[str, ...]] = {
    GENERATE: ("params", "pictures"),
    EXTRAS: ("params", "inputs"),
    SCRIPT: ("script", "options", "params"),
}
"""What a request may say of a job, by its kind; whatever else a spec holds is ours to say."""
MOST = 1000
_KEY = re.compile(r"[\x20-\x7e]{1,200}")


def add_jobs(routes: APIRouter, services: Services, webhooks: Webhooks) -> None:
    """``/jobs`` and what lies below it, and ``/inputs``."""

    @routes.post("/inputs", status_code=201, tags=[TAGS.jobs], openapi_extra=INPUT)
    async def put_input(request: Request) -> Json:
        """Store a picture that jobs can start from; the answer's ``key`` is its name there, for ``params.init.image``,
        ``params.init.mask.image`` and the ``inputs`` of Extras. In JSON, or as a form with a file called ``image``."""
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            values: Mapping[str, Any] = request.scope.get(IN_SCOPE, {})
            return {"key": await asyncio.to_thread(_stored, services, values.get("image"), "image")}
        data = await _uploaded(request)
        return {"key": await asyncio.to_thread(services.inputs.put, data)}

    @routes.post("/jobs", status_code=202, tags=[TAGS.jobs], openapi_extra=REQUEST)
    async def submit(
        request: Request,
        response: Response,
        values: Json = Body(),
        idempotency_key: Annotated[str | None, Header(description="names the request: sent again, it is one")] = None,
    ) -> Json:
        """Queue a job and give its number at once. With an ``Idempotency-Key`` that was used before, the job of then is
        given, and 422 where that asked for something else."""
        owner = owner_of(request)
        url = webhooks.check(values["webhook"]) if values.get("webhook") is not None else ""
        job = await asyncio.to_thread(_submitted, services, owner, values, _name(owner, idempotency_key))
        if url and job.state in ("queued", "running"):
            await asyncio.to_thread(webhooks.note, owner, job.id, url)
            webhooks.follow(services, job.id, told_job)
        response.headers["location"] = f"{PATH}/{job.id}"
        return told_job(services, job)

    @routes.get("/jobs", tags=[TAGS.jobs])
    def jobs(request: Request, state: str = "", limit: int = 50) -> Json:
        """Your jobs, the newest first. ``state``: queued, running, done, failed or cancelled; several with commas."""
        states = tuple(filter(None, state.split(","))) or None
        found = services.queue.list(owner_of(request), max(1, min(limit, MOST)), states)
        return {"jobs": [told_job(services, job) for job in found]}

    @routes.get("/jobs/{job_id}", tags=[TAGS.jobs])
    def job(request: Request, job_id: str) -> Json:
        """How far a job is, and what came of it."""
        return told_job(services, services.queue.get(job_id, owner_of(request)))

    @routes.get("/jobs/{job_id}/request", tags=[TAGS.jobs])
    def asked(request: Request, job_id: str) -> Json:
        """What was asked, as it was queued: names canonical, seeds fixed. Sent again, it makes the same."""
        spec = services.queue.get(job_id, owner_of(request)).spec
        return {key: spec[key] for key in ("kind", *FIELDS.get(str(spec.get("kind")), ())) if key in spec}

    @routes.get("/jobs/{job_id}/events", tags=[TAGS.jobs], response_class=StreamingResponse)
    async def events(
        request: Request, job_id: str, previews: bool = True, last_event_id: Annotated[str | None, Header()] = None
    ) -> StreamingResponse:
        """Server-sent events until the job ends: ``queued`` with its place, ``started``, ``step`` with perhaps a
        ``preview`` (JPEG in base64), ``image``, ``note``, and last ``done``, ``failed`` or ``cancelled``. Whoever comes
        late is told where the job stands; ``Last-Event-ID`` goes on behind that event."""
        following = await asyncio.to_thread(
            services.queue.follow, owner_of(request), job_id, last_id(last_event_id)
        )  # NotFound comes before the stream begins
        return StreamingResponse(
            stream(following, previews=previews), media_type="text/event-stream", headers={"cache-control": "no-store"}
        )

    @routes.get("/jobs/{job_id}/images/{name}", tags=[TAGS.jobs], response_class=SavedFile)
    def image(request: Request, job_id: str, name: str) -> SavedFile:
        """The file of an image, as it was saved, also before the job has ended."""
        path = next((path for path in _paths(services.queue.get(job_id, owner_of(request))) if path.name == name), None)
        if path is None or not path.is_file():
            raise NotFound("the job has no such image", hint="it may have been deleted", field="name")
        return SavedFile(path, headers=LASTING)

    @routes.post("/jobs/{job_id}/cancel", tags=[TAGS.jobs])
    def cancel(request: Request, job_id: str, keep: bool = False) -> Json:
        """Stop a job: one that waits at once, one that runs at its next step. Its finished images stay, and with
        ``keep`` the image at hand is made from what there is."""
        owner = owner_of(request)
        services.queue.cancel(owner, job_id, keep=keep)
        return told_job(services, services.queue.get(job_id, owner))

    @routes.post("/jobs/{job_id}/skip", tags=[TAGS.jobs])
    def skip(request: Request, job_id: str) -> Json:
        """Make the image at hand from what there is, and go on with the next."""
        owner = owner_of(request)
        services.queue.skip(owner, job_id)
        return told_job(services, services.queue.get(job_id, owner))

    @routes.post("/jobs/{job_id}/finish", tags=[TAGS.jobs])
    def finish(request: Request, job_id: str) -> Json:
        """Stop a job behind the image at hand, or the batch that it is in. One that waits is stopped at once."""
        owner = owner_of(request)
        services.queue.finish(owner, job_id)
        return told_job(services, services.queue.get(job_id, owner))


def _submitted(services: Services, owner: str, values: Json, name: str) -> JobView:
    spec = read_spec(services, values)
    job = services.submit(owner, spec, name)
    if name and not _same(job.spec, services.prepared(spec).to_json(), values):
        raise UserError(
            "this Idempotency-Key was used for another request", hint="take a new one", field="Idempotency-Key"
        )
    return job


async def _uploaded(request: Request) -> bytes:
    """The one file of a form."""
    try:
        form = await request.form(max_files=1, max_fields=8)
    except (HTTPException, ValueError, LookupError) as error:  # names that are no UTF-8, say
        reason = error.detail if isinstance(error, HTTPException) else str(error)
        raise UserError(
            f"the form cannot be read: {reason}", hint="send one file, called image", field="image"
        ) from error
    try:
        file = form.get("image")
        if not isinstance(file, UploadFile):
            raise UserError("there is no picture in the form", hint="send one file, called image", field="image")
        return await file.read()
    finally:
        await form.close()


def read_spec(services: Services, values: Mapping[str, Any]) -> JobSpec:
    """The job that a request describes; pictures within it, as data URLs, are stored. Raises `UserError`."""
    kind = values.get("kind", GENERATE)
    if not isinstance(kind, str) or kind not in FIELDS:
        raise UserError(
            f"there is no kind of job {str(kind)[:40]!r}", hint=f"there are {', '.join(FIELDS)}", field="kind"
        )
    said: Json = {name: values[name] for name in FIELDS[kind] if name in values}
    said = {"options": {}, **said} if kind == SCRIPT else said
    params = said.get("params", {})
    if isinstance(params, Mapping) and isinstance(params.get("init"), Mapping):
        said["params"] = {**params, "init": _with_inputs(services, params["init"], "init")}
    if kind == EXTRAS:
        said["inputs"] = _inputs(services, said.get("inputs"))
    of = ExtrasParams if kind == EXTRAS else GenerationParams
    notes = _misspelt(of, params) if isinstance(params, Mapping) else ()
    spec = spec_from_json({"params": {}, **said, "kind": kind, **Origin(tab=_tab(kind, said), notes=notes).to_json()})
    if isinstance(spec, ExtrasSpec) and not spec.inputs:
        raise UserError("there is no picture to work on", hint="send some as inputs", field="inputs")
    if isinstance(spec, (GenerateSpec, ScriptSpec)):
        spec = replace(spec, params=_with_option_images(services, spec.params))
    return spec


def _misspelt(of: type[Any], params: Mapping[str, Any]) -> tuple[str, ...]:
    """A note for each name that no parameter has; what newer programs send is no reason to refuse the rest."""
    names = [str(name)[:60] for name in unknown(of, params)]
    return tuple(f"there is no parameter {name!r}, so it was left out" for name in names[:20])


def _with_option_images(services: Services, params: GenerationParams) -> GenerationParams:
    """The request with the pictures in options of modifiers stored."""
    chosen = stored(tuple(services.host.modifiers), params.extensions, partial(_stored, services))
    return params.changed(extensions=chosen)


def _tab(kind: str, said: Mapping[str, Any]) -> str:
    params = said.get("params")
    starts = isinstance(params, Mapping) and params.get("init")
    return "extras" if kind == EXTRAS else "img2img" if starts else "txt2img"


def _with_inputs(services: Services, init: Mapping[str, Any], field: str) -> Json:
    found = dict(init)
    if str(found.get("image", "")).lower().startswith(("data:", "http://", "https://")):
        found["image"] = _stored(services, found["image"], f"{field}.image")
    if isinstance(found.get("mask"), Mapping):
        found["mask"] = _with_inputs(services, found["mask"], f"{field}.mask")
    return found


def _inputs(services: Services, entries: Any) -> list[Json]:
    """Each with the key of a stored picture, or with the picture itself as ``image``."""
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise UserError(
            "inputs must be a list of objects", hint="each has a key, or an image in base64", field="inputs"
        )
    return [
        {**entry, "key": _stored(services, entry["image"], "inputs")} if "image" in entry else dict(entry)
        for entry in entries
    ]


def _stored(services: Services, picture: Any, field: str) -> str:
    if not isinstance(picture, str) or not picture:
        raise UserError("there is no picture", hint="send it in base64, or as a data URL", field=field)
    try:
        return services.inputs.put(decoded(picture, field, services.api.image_hosts))
    except Refusal as error:
        sentence = error.message if error.status == 422 else f"{field} is no picture that can be read"
        hint = "" if error.status == 422 else "send the file in base64"
        raise UserError(sentence, hint=hint, field=field) from error


def _name(owner: str, key: str | None) -> str:
    """The number of the job that a key stands for; "" without one. Another account's key is another job's."""
    if key is None:
        return ""
    if not _KEY.fullmatch(key):
        raise UserError("an Idempotency-Key has 1 to 200 plain characters", hint="send a UUID", field="Idempotency-Key")
    return hashlib.sha256(f"{len(owner)} {owner} {key}".encode()).hexdigest()[:32]


def _same(old: Mapping[str, Any], new: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Whether two specs ask for the same, but for seeds that were left to chance."""
    given = values.get("params") if isinstance(values.get("params"), Mapping) else {}
    assert isinstance(given, Mapping)
    free = [name for name in ("seed", "subseed") if given.get(name, -1) in (-1, "-1", None)]

    def asked(spec: Mapping[str, Any]) -> Json:
        params = {name: value for name, value in spec.get("params", {}).items() if name not in free}
        return {key: value for key, value in spec.items() if key not in ("notes", "page")} | {"params": params}

    return asked(old) == asked(new)


def _paths(job: JobView) -> list[Path]:
    """All images that a job has saved so far."""
    images = [*((job.output or {}).get("images") or ()), *((job.progress or {}).get("saved") or ())]
    return [Path(str(image["path"])) for image in images if isinstance(image, dict) and image.get("path")]


def told_job(services: Services, job: JobView) -> Json:
    """A job as clients get it, without any place on the disk."""
    progress = {key: value for key, value in (job.progress or {}).items() if key != "saved"}
    made = job.output or {"images": (job.progress or {}).get("saved") or ()}
    return {
        "id": job.id,
        "kind": job.kind,
        "state": job.state,
        "position": services.queue.position(job.id) if job.state == "queued" else 0,
        "created": job.created,
        "progress": progress or None,
        "output": told_output(job.id, made),
        "error": job.error,
        "url": f"{PATH}/{job.id}",
        "events": f"{PATH}/{job.id}/events",
    }
