"""Runs "extras" jobs in the worker: postprocesses each image with `modules.pipeline.postprocess` and saves it."""

from __future__ import annotations

import time
from pathlib import Path

from PIL import Image

from modules.errors import ImageError, NotFound
from modules.extension.host import Host
from modules.gallery.inputs import InputStore
from modules.gallery.outputs import Gallery, Saved
from modules.jobs.protocol import ExtrasSpec, ImageEvent, InputImage, JobOutcome, Json, NoteEvent, SavedImage, Step
from modules.jobs.worker import Emit, JobControl
from modules.metadata.image_text import read_metadata
from modules.pipeline.postprocess import Extra, check, process
from modules.restoration.upscale import Work

FOLDER = "extras-images"


class ExtrasRunner:
    """The `Runner` of "extras" jobs. With several inputs an unreadable image is skipped with a note; a single one
    fails the job.
    """

    def __init__(self, host: Host, gallery: Gallery, inputs: InputStore):
        self._host = host
        self._gallery = gallery
        self._inputs = inputs

    def __call__(self, job_id: str, data: Json, emit: Emit, control: JobControl) -> Json:
        spec = ExtrasSpec.from_json(data)
        check(spec.params, self._host)
        begin = time.monotonic()
        images = [_saved(path) for path in self._gallery.of_job(job_id, FOLDER)]
        for image in images:
            emit(ImageEvent(image).to_json())
        made, notes, readable = len(images), list(spec.origin.notes), 0

        def note(text: str) -> None:
            notes.append(text)
            emit(NoteEvent(text).to_json())

        for number, source in enumerate(spec.inputs):
            try:
                picture = self._inputs.open(source.key)
            except (ImageError, NotFound) as error:
                if len(spec.inputs) == 1:
                    raise
                note(f"{source.name or 'a picture'} was left out: {error}")
                continue
            readable += 1
            if readable <= made:  # by an earlier try of this job
                continue
            extra = process(picture, spec.params, self._host, _work(emit, control, number, len(spec.inputs)))
            for text in extra.notes:
                note(f"{source.name or 'a picture'}: {text}")
            saved = self._save(extra, source, job_id)
            if saved.note:
                note(saved.note)
            images.append(_entry(saved.path, source.infotext, extra.infotext, extra.image.size))
            emit(ImageEvent(images[-1]).to_json())
        return JobOutcome(tuple(images), tuple(notes), seconds=time.monotonic() - begin).to_json()

    def _save(self, extra: Extra, source: InputImage, job_id: str) -> Saved:
        texts = {"extras": extra.infotext, "postprocessing": extra.infotext} if extra.infotext else {}
        return self._gallery.save(extra.image, folder=FOLDER, infotext=source.infotext, job=job_id, texts=texts)


def _work(emit: Emit, control: JobControl, number: int, images: int) -> Work:
    """Each tile is a step of its picture."""

    def on_tile(done: int, tiles: int) -> None:
        if tiles:
            emit(Step(done, tiles, number + 1, images).to_json())

    return Work(on_tile=on_tile, cancelled=control.cancelled)


def _entry(path: Path, infotext: str, extras: str, size: tuple[int, int]) -> SavedImage:
    """The job's entry for an image; its infotext is the input's, followed by what was done to it."""
    return SavedImage(str(path), "\n".join(filter(None, (infotext, extras))), *size)


def _saved(path: Path) -> SavedImage:
    texts = read_metadata(path)
    with Image.open(path, formats=("PNG",)) as image:
        size = image.size
    return _entry(path, texts["infotext"] or "", texts["items"].get("extras", ""), size)
