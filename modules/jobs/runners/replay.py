"""Runs "replay" jobs in the worker: generates a recorded image again and reports the verdict.

Loads torch, as does `generation`: only the worker imports them.
"""

from __future__ import annotations

import time
from pathlib import Path

from modules.engine import Engine, RunCallbacks
from modules.gallery.outputs import Gallery
from modules.jobs.protocol import JobOutcome, Json, ReplaySpec, SavedImage
from modules.jobs.runners.generate import Steps
from modules.jobs.worker import Emit, JobControl
from modules.metadata import verdict as verdicts
from modules.replay import recorded_in, replay_recipe

FOLDER = "replays"


class ReplayRunner:
    """The `Runner` of "replay" jobs.

    The output has the ``verdict`` as `Verdict.to_json` gives it. A picture that differs is saved, to be looked at.
    """

    def __init__(self, engine: Engine, gallery: Gallery, *, preview_every: int = 1):
        self._engine = engine
        self._gallery = gallery
        self._preview_every = preview_every

    def __call__(self, job_id: str, data: Json, emit: Emit, control: JobControl) -> Json:
        begin, spec = time.monotonic(), ReplaySpec.from_json(data)
        path = Path(spec.path) if spec.path else None
        recorded = recorded_in(path) if path else verdicts.judge(spec.recipe)
        watcher = RunCallbacks(Steps(emit, time.monotonic, self._preview_every), lambda _: None, control.cancelled)
        came = replay_recipe(self._engine, recorded, path, watcher)
        images: list[SavedImage] = []
        if came.result is not None and came.verdict.kind == "differs":
            result = came.result
            saved = self._gallery.save(
                result.image,
                folder=FOLDER,
                seed=result.recipe.seed,
                infotext=result.infotext,
                recipe=str(result.recipe),
            )
            images.append(SavedImage(str(saved.path), result.infotext, *result.image.size, result.recipe.seed))
        seconds = time.monotonic() - begin
        return JobOutcome(tuple(images), seconds=seconds, verdict=came.verdict.to_json()).to_json()
