"""What A1111's API answers to a request for images: the pictures, the request, and ``info``, JSON in a text."""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modules.errors import RepriseError
from modules.imaging.files import grid, grid_rows, open_image
from modules.jobs.protocol import JobOutcome, Json, SavedImage
from modules.metadata.image_text import PNG, encode
from modules.metadata.infotext import KEYS, pairs, read, unquote
from modules.params.generation import GenerationParams, wrapped
from webui.api.sdapi.asking import Asked, table_of
from webui.api.sdapi.fields import with_defaults
from webui.api.sdapi.options import encoding_of
from webui.api.sdapi.pictures import encoded
from webui.api.sdapi.route import Refusal
from webui.services import JobView, Services

log = logging.getLogger(__name__)


def answer(tab: str, asked: Asked, params: GenerationParams, job: JobView) -> Json:
    """The answer to a job that ended, for `PicturesJSON`. ``params``: as they were queued, with their seeds."""
    outcome = ended(job)
    sheets = len(outcome.sheets)
    images = outcome.images[:sheets] if asked.call.sheets_only and sheets else outcome.images
    pictures = [encoded(Path(image.path), encoding_of(asked.settings)) for image in images]
    infotexts, first = [image.infotext for image in images], sheets
    if not sheets and _wants_grid(asked, len(images)):
        pictures.insert(0, _grid(asked, params, images))
        infotexts.insert(0, images[0].infotext)
        first = 1
    parameters = with_defaults(table_of(tab), asked.given)
    if tab == "img2img" and not asked.given.get("include_init_images"):
        parameters |= {"init_images": None, "mask": None}
    info = _info(asked, params, images[first if sheets else 0 :] or images, job)
    info |= {
        "infotexts": infotexts,
        "index_of_first_image": first,
        "job": job.id,
        "notes": list(dict.fromkeys((*asked.notes, *outcome.notes))),
    }
    shown = pictures if asked.given.get("send_images", True) else []
    return {"images": shown, "parameters": parameters, "info": json.dumps(info)}


def ended(job: JobView) -> JobOutcome:
    """What a job made, one that was stopped too; `Refusal` for one that failed."""
    outcome = JobOutcome.from_json(job.output or {})
    if job.state == "failed":
        error = job.error or {}
        theirs = str(error.get("error", "")) in ("UserError", "UnknownName", "CheckpointError", "ImageError")
        raise Refusal(422 if theirs else 500, str(error.get("detail", "the job failed")))
    if job.state not in ("done", "cancelled"):
        raise Refusal(503, f"the server stops; job {job.id} goes on at the next start")
    return outcome


def _wants_grid(asked: Asked, count: int) -> bool:
    """As A1111: where pictures are saved, unless its settings say otherwise."""
    settings = asked.settings
    if not asked.given.get("save_images", False) or not settings.get("return_grid", True):
        return False
    return count > 1 or (count == 1 and not settings.get("grid_only_if_multiple", True))


def _grid(asked: Asked, params: GenerationParams, images: Sequence[SavedImage]) -> bytes:
    rows = asked.settings.get("n_rows", -1)
    rows = rows if isinstance(rows, int) and -1 <= rows <= 100 else -1
    pictures = [open_image(Path(image.path)) for image in images]
    sheet = grid(pictures, grid_rows(len(pictures), rows=rows, batch_size=params.batch_size))
    data, _ = encode(sheet, images[0].infotext, "", encoding_of(asked.settings) or PNG)
    return base64.b64encode(data)


def _info(asked: Asked, params: GenerationParams, images: Sequence[SavedImage], job: JobView) -> dict[str, Any]:
    """A1111's record of what was made, of the first picture where one value stands for all."""
    told = read(images[0].infotext) if images else {}
    last = images[0].infotext.rpartition("\n")[2] if images else ""
    start = params.init or params.hires
    count = len(images)
    return {
        "prompt": params.prompt,
        "all_prompts": [params.prompt] * count,
        "negative_prompt": params.negative_prompt,
        "all_negative_prompts": [params.negative_prompt] * count,
        "seed": images[0].seed if images else params.seed,
        "all_seeds": [image.seed for image in images],
        "subseed": params.subseed,
        "all_subseeds": [wrapped(params.subseed + number) for number in range(count)],
        "subseed_strength": params.subseed_strength,
        "width": params.width,
        "height": params.height,
        "sampler_name": params.sampler,
        "cfg_scale": params.cfg_scale,
        "steps": params.steps,
        "batch_size": params.batch_size,
        "restore_faces": params.restore_faces,
        "face_restoration_model": params.face_restorer if params.restore_faces else None,
        "sd_model_name": told.get("Model"),
        "sd_model_hash": told.get("Model hash"),
        "sd_vae_name": told.get("VAE"),
        "sd_vae_hash": told.get("VAE hash"),
        "seed_resize_from_w": params.seed_resize_from_w or -1,
        "seed_resize_from_h": params.seed_resize_from_h or -1,
        "denoising_strength": start.denoising_strength if start else None,
        "extra_generation_params": {
            key: unquote(value) for key, value in pairs(last) if key not in KEYS and key != "Version"
        },
        "styles": list(asked.styles),
        "job_timestamp": time.strftime("%Y%m%d%H%M%S", time.localtime(job.created)),
        "clip_skip": params.clip_skip,
        "is_using_inpainting_conditioning": False,
        "version": told.get("Version"),
    }


def forget(services: Services, owner: str, images: Sequence[SavedImage]) -> None:
    """Delete pictures that were delivered and that nobody wanted to keep."""
    paths = {image.path for image in images}
    before = 0
    while paths:
        page = services.history.page(owner, before=before, limit=200)
        if not page:
            break
        before = page[-1].number
        for picture in page:
            if picture.path in paths:
                paths.discard(picture.path)
                try:
                    services.history.delete(owner, picture.number)
                except RepriseError as error:
                    log.warning("a picture of A1111's API stays: %s", error)
