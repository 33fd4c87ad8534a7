"""Finished pictures: ``/extra-single-image``, ``/extra-batch-images`` and ``/png-info``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Body, Request

from modules.errors import UserError
from modules.jobs.protocol import ExtrasSpec, InputImage, Json, Origin
from modules.metadata.image_text import read_metadata
from modules.metadata.infotext import read
from modules.params.generation import BY, TO, ExtrasParams
from webui.api.sdapi.answers import ended
from webui.api.sdapi.fields import READ, Field, read_fields, with_defaults
from webui.api.sdapi.images import ended_job
from webui.api.sdapi.pictures import PicturesJSON, decoded, encoded
from webui.api.sdapi.progress import Tasks
from webui.api.sdapi.route import Refusal
from webui.security.auth import owner_of
from webui.services import Services

EXTRAS: Mapping[str, Field] = {
    field.name: field
    for field in (
        Field("resize_mode", int, 0, READ),
        Field("show_extras_results", bool, True, without="the answer always has the pictures, in A1111 too"),
        Field("gfpgan_visibility", float, 0, "gfpgan_visibility"),
        Field("codeformer_visibility", float, 0, "codeformer_visibility"),
        Field("codeformer_weight", float, 0, "codeformer_weight"),
        Field("upscaling_resize", float, 2, "by"),
        Field("upscaling_resize_w", int, 512, "width"),
        Field("upscaling_resize_h", int, 512, "height"),
        Field("upscaling_crop", bool, True, "crop"),
        Field("upscaler_1", str, "None", "upscaler"),
        Field("upscaler_2", str, "None", "upscaler_2"),
        Field("extras_upscaler_2_visibility", float, 0, "upscaler_2_visibility"),
        Field("upscale_first", bool, False, without="faces are always restored in the enlarged picture"),
    )
}
"""What each field of A1111's is among our parameters of Extras."""


def extras_params(body: Mapping[str, Any]) -> ExtrasParams:
    """Raises `UserError`."""
    values = with_defaults(EXTRAS, read_fields(EXTRAS, body))
    if values["resize_mode"] not in (0, 1):
        raise UserError("resize_mode must be 0 or 1", hint="0: by a factor, 1: to a size", field="resize_mode")
    ours = {field.to: values[name] for name, field in EXTRAS.items() if field.to not in ("", READ)}
    if values["resize_mode"] == 0:  # the size plays no part, and may be out of our range
        ours = {name: value for name, value in ours.items() if name not in ("width", "height")}
    else:
        ours.pop("by")
    return ExtrasParams.from_json(ours | {"resize": TO if values["resize_mode"] else BY})


def add_extras(routes: APIRouter, services: Services, tasks: Tasks) -> None:
    """The routes for finished pictures."""

    def stored(text: str, name: str, field: str) -> InputImage:
        data = decoded(text, field, services.api.image_hosts)
        return InputImage(services.inputs.put(data), name, read_metadata(data)["infotext"] or "")

    async def worked_on(request: Request, values: Json, inputs: tuple[InputImage, ...]) -> tuple[list[bytes], str]:
        owner, spec = owner_of(request), ExtrasSpec(extras_params(values), inputs, Origin(tab="extras"))
        job = await asyncio.to_thread(services.submit, owner, spec)
        await ended_job(services, job)
        return await asyncio.to_thread(told, owner, job.id)

    def told(owner: str, job_id: str) -> tuple[list[bytes], str]:
        outcome = ended(services.queue.get(job_id, owner))
        texts = [read_metadata(Path(image.path))["items"].get("extras", "") for image in outcome.images]
        pictures = [encoded(Path(image.path)) for image in outcome.images]
        return pictures, "".join(f"<p>{escape(text)}</p>" for text in (*texts, *outcome.notes) if text)

    @routes.post("/extra-single-image")
    async def single(request: Request, values: Json = Body()) -> PicturesJSON:
        """One picture made larger, its faces restored."""
        one = await asyncio.to_thread(stored, _text(values, "image"), "", "image")
        pictures, html = await worked_on(request, values, (one,))
        return PicturesJSON({"html_info": html, "image": pictures[0] if pictures else b""})

    @routes.post("/extra-batch-images")
    async def batch(request: Request, values: Json = Body()) -> PicturesJSON:
        """Many pictures: ``imageList`` of ``{data, name}``."""
        entries = values.get("imageList")
        if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
            raise UserError("imageList must be a list of objects with data and name", field="imageList")
        inputs = [
            await asyncio.to_thread(stored, _text(entry, "data"), str(entry.get("name", "")), "imageList")
            for entry in entries
        ]
        pictures, html = await worked_on(request, values, tuple(inputs))
        return PicturesJSON({"html_info": html, "images": pictures})

    @routes.post("/png-info")
    def png_info(values: Json = Body()) -> Json:
        """The texts in a picture, and its generation text taken apart."""
        texts = read_metadata(decoded(_text(values, "image"), "image", services.api.image_hosts))
        infotext = texts["infotext"] or texts["stealth_infotext"] or ""
        items: dict[str, Any] = dict(texts["items"])
        items |= {"recipe": texts["recipe"]} if texts["recipe"] else {}
        return {"info": infotext, "items": items, "parameters": read(infotext) if infotext else {}}


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str) or not value:
        raise Refusal(404, "Image not found", field=name)
    return value
