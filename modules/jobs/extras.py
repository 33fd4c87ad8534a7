"""What the worker does with an "extras" job: each picture through `modules.extras`, saved, told of.

``spec``: ``{"kind": "extras", "params": {...}, "inputs": [{"key", "name", "infotext"}, ...]}``; a key is one of the
`InputStore`'s, the text is the generation text that the picture came with.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from modules.errors import ImageError, NotFound
from modules.extension import Host
from modules.extras import check, process
from modules.gallery import Gallery
from modules.inputs import InputStore
from modules.jobs.worker import Emit, Wishes
from modules.metadata import read_metadata
from modules.params import ExtrasParams
from modules.upscale import Work

KIND = "extras"
FOLDER = "extras-images"


class ExtrasRunner:
    """A `Runner`. A picture of many that cannot be read is left out and said so; the only one fails the job."""

    def __init__(self, host: Host, gallery: Gallery, inputs: InputStore):
        self._host = host
        self._gallery = gallery
        self._inputs = inputs

    def __call__(self, job_id: str, spec: Mapping[str, Any], emit: Emit, wishes: Wishes) -> dict[str, Any]:
        params, sources = ExtrasParams.from_json(spec["params"]), spec["inputs"]
        check(params, self._host)
        begin = time.monotonic()
        images = [_saved(path) for path in self._gallery.of_job(job_id, FOLDER)]
        for entry in images:
            emit({"type": "image", **entry})
        made, notes, readable = len(images), list[str](), 0
        for number, source in enumerate(sources):
            try:
                image = self._inputs.open(source["key"])
            except (ImageError, NotFound) as error:
                if len(sources) == 1:
                    raise
                notes.append(f"{source.get('name') or 'a picture'} was left out: {error}")
                emit({"type": "note", "text": notes[-1]})
                continue
            readable += 1
            if readable <= made:  # by an earlier try of this job
                continue
            extra = process(image, params, self._host, _work(emit, wishes, number, len(sources)))
            for note in extra.notes:
                notes.append(f"{source.get('name') or 'a picture'}: {note}")
                emit({"type": "note", "text": notes[-1]})
            infotext = str(source.get("infotext") or "")
            saved = self._gallery.save(
                extra.image,
                folder=FOLDER,
                infotext=infotext,
                job=job_id,
                texts={"extras": extra.infotext, "postprocessing": extra.infotext} if extra.infotext else {},
            )
            if saved.note:
                notes.append(saved.note)
                emit({"type": "note", "text": saved.note})
            images.append(_entry(saved.path, infotext, extra.infotext, extra.image.size))
            emit({"type": "image", **images[-1]})
        return {"images": images, "notes": notes, "seconds": round(time.monotonic() - begin, 3)}


def _work(emit: Emit, wishes: Wishes, number: int, images: int) -> Work:
    """Each tile is a step of its picture."""

    def on_tile(done: int, tiles: int) -> None:
        if tiles:
            emit({"type": "step", "step": done, "steps": tiles, "image": number + 1, "images": images})

    return Work(on_tile=on_tile, cancelled=wishes.cancelled)


def _entry(path: Path, infotext: str, extras: str, size: tuple[int, int]) -> dict[str, Any]:
    """``infotext`` as the page shows it: where the picture came from, and what was done to it."""
    shown = "\n".join(filter(None, (infotext, extras)))
    return {"path": str(path), "infotext": shown, "width": size[0], "height": size[1]}


def _saved(path: Path) -> dict[str, Any]:
    texts = read_metadata(path)
    with Image.open(path, formats=("PNG",)) as image:
        size = image.size
    return _entry(path, texts["infotext"] or "", texts["items"].get("extras", ""), size)
