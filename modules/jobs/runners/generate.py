"""Runs "generate" jobs in the worker: calls the engine, saves each image, reports progress.

Loads torch, as does `replaying`: only the worker imports them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from modules.engine import Engine, Progress, Result, RunCallbacks
from modules.errors import Cancelled
from modules.gallery.outputs import Gallery
from modules.imaging.files import open_header, preview_jpeg
from modules.jobs.protocol import GenerateSpec, ImageEvent, JobOutcome, Json, NoteEvent, SavedImage, Step
from modules.jobs.worker import Emit, JobControl, Runner
from modules.metadata.image_text import read_metadata
from modules.params.generation import GenerationParams

PREVIEW_S = 0.1
"""The shortest time between two previews: more of them than a person sees would only slow the job down."""


@dataclass(frozen=True)
class _Turn:
    """One request of a job, and the name of its init image if there are several."""

    params: GenerationParams
    stem: str = ""


class GenerationRunner:
    """The `Runner` of "generate" jobs. A job interrupted by a crash continues after the images already saved."""

    def __init__(
        self,
        engine: Engine,
        gallery: Gallery,
        *,
        preview_every: int = 1,
        preview_type: str = "Approx cheap",
        embed_inputs: bool = False,
    ):
        self._engine = engine
        self._gallery = gallery
        self._preview_every = preview_every
        """Steps between previews; 0: none. A job may say otherwise, and what they are made with."""
        self._preview_type = preview_type
        self._embed_inputs = embed_inputs
        """Whether to embed the input images in the results."""

    def __call__(self, job_id: str, data: Json, emit: Emit, control: JobControl) -> Json:
        spec = GenerateSpec.from_json(data)
        turns = turns_of(spec)
        folder, each = folder_for(turns[0].params), turns[0].params.images
        seed_after = turns[0].params.seed_after
        images = [_saved(path, seed_after(n % each)) for n, path in enumerate(self._gallery.of_job(job_id, folder))]
        notes = list(spec.origin.notes)
        begin = time.monotonic()

        def on_result(result: Result, stem: str) -> None:
            saved = self._gallery.save(
                result.image,
                folder=folder,
                seed=result.recipe.seed,
                infotext=result.infotext,
                recipe=str(result.recipe),
                job=job_id,
                stem="-".join(filter(None, (stem, result.name))),
                carried=self._engine.inventory.carried(result.recipe) if self._embed_inputs else (),
            )
            size = result.image.size
            images.append(SavedImage(str(saved.path), result.infotext, *size, result.recipe.seed))
            emit(ImageEvent(images[-1]).to_json())
            if saved.note:
                on_note(saved.note)
            result.saved(saved.path)

        def on_note(text: str) -> None:
            if text not in notes:
                notes.append(text)
                emit(NoteEvent(text).to_json())

        for saved in images:
            emit(ImageEvent(saved).to_json())
        origin, before = spec.origin, len(images)
        every = self._preview_every if origin.preview_every is None else origin.preview_every
        steps, kind = Steps(emit, time.monotonic, every), origin.preview_type or self._preview_type
        for number, turn in enumerate(turns):
            made = before - number * each
            if made < each:
                tell = _among(steps, number, len(turns), each)
                watcher = RunCallbacks(tell, on_note, control.cancelled, control.skips, control.interrupted, kind)
                take = partial(on_result, stem=turn.stem)
                self._engine.run(turn.params, take, watcher, made=max(made, 0))
                if control.interrupted():
                    raise Cancelled
        infotext = images[0].infotext if images else ""
        return JobOutcome(tuple(images), tuple(notes), infotext, time.monotonic() - begin).to_json()


def noted(run: Runner, note: str) -> Runner:
    """Wrap a runner so that each job starts with ``note``."""

    def run_with_note(job_id: str, data: Json, emit: Emit, control: JobControl) -> Json:
        emit(NoteEvent(note).to_json())
        output = run(job_id, data, emit, control)
        return {**output, "notes": [note, *(output.get("notes") or ())]}

    return run_with_note


def turns_of(spec: GenerateSpec) -> list[_Turn]:
    """The requests of a job: one, or one for each input image."""
    params = spec.params
    if not spec.inputs or params.init is None:
        return [_Turn(params)]
    return [
        _Turn(params.changed(init=replace(params.init, image=image.key)), Path(image.name).stem)
        for image in spec.inputs
    ]


def _among(steps: Callable[[Progress], object], number: int, turns: int, each: int) -> Callable[[Progress], object]:
    """Progress of one request, expressed as that of the whole job."""

    def tell(progress: Progress) -> None:
        whole = (number + progress.fraction) / turns
        first = number * each + progress.first_image
        steps(replace(progress, first_image=first, images=turns * each, fraction=whole))

    return tell


def folder_for(params: GenerationParams) -> str:
    """A1111's output folder names."""
    return "img2img-images" if params.init else "txt2img-images"


class Steps:
    """Reports each step with the remaining time, and previews at a rate that people can see."""

    def __init__(self, emit: Emit, clock: Callable[[], float], preview_every: int):
        self._emit = emit
        self._every = preview_every
        self._clock = clock
        self._first: tuple[float, float] | None = None  # time and fraction of the first step told
        self._last_fraction = 0.0  # fraction of the last
        self._shown = float("-inf")

    def __call__(self, progress: Progress) -> None:
        now = self._clock()
        left, preview = self._left(now, progress.fraction), b""
        due = self._every > 0 and progress.step % self._every == 0
        if due and now - self._shown >= PREVIEW_S:
            self._shown = now
            preview = preview_jpeg(progress.preview())
        image = progress.first_image + 1
        self._emit(Step(progress.step, progress.steps, image, progress.images, left, preview).to_json())

    def _left(self, now: float, fraction: float) -> float | None:
        """Estimated seconds left, at the pace since the first step, so that model loading does not count.

        Where the work goes back, because it is done anew without an extension that failed, the clock begins anew too.
        """
        if self._first is None or fraction < self._last_fraction or fraction <= self._first[1]:
            self._first, self._last_fraction = (now, fraction), fraction
            return None
        then, before = self._first
        self._last_fraction = fraction
        return max(0.0, (now - then) / (fraction - before) * (1 - fraction))


def _saved(path: Path, seed: int) -> SavedImage:
    """The entry of an image saved by an earlier attempt of the job; ``seed`` in case a JPEG had no room for its
    metadata.
    """
    infotext = read_metadata(path)["infotext"] or ""
    seeds = re.findall(r"\bSeed: (\d+)", infotext)
    return SavedImage(str(path), infotext, *open_header(path).size, int(seeds[-1]) if seeds else seed)
