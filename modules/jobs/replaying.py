"""What the worker does with a "replay" job: make a recorded picture again and tell the verdict.

Loads torch, as does `generation`: only the worker imports them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modules import recipe as recipes
from modules.engine import Engine, RunCallbacks
from modules.gallery import Gallery
from modules.jobs.generation import Steps, entry
from modules.jobs.worker import Emit, Wishes
from modules.replay import recorded_in, replay_recipe

FOLDER = "replays"


class ReplayRunner:
    """The worker's `Runner` for specs with ``path``, a picture, or ``recipe``, the text of one.

    The output has the ``verdict`` as `Verdict.to_json` gives it. A picture that differs is saved, to be looked at.
    """

    def __init__(self, engine: Engine, gallery: Gallery, *, preview_every: int = 1):
        self._engine = engine
        self._gallery = gallery
        self._preview_every = preview_every

    def __call__(self, job_id: str, spec: Mapping[str, Any], emit: Emit, wishes: Wishes) -> dict[str, Any]:
        begin = time.monotonic()
        path = Path(spec["path"]) if spec.get("path") else None
        recorded = recorded_in(path) if path else recipes.judge(spec["recipe"])
        watcher = RunCallbacks(Steps(emit, time.monotonic, self._preview_every), lambda _: None, wishes.cancelled)
        came = replay_recipe(self._engine, recorded, path, watcher)
        images = []
        if came.result is not None and came.verdict.kind == "differs":
            result = came.result
            saved = self._gallery.save(
                result.image,
                folder=FOLDER,
                seed=result.recipe.seed,
                infotext=result.infotext,
                recipe=str(result.recipe),
            )
            images.append(entry(saved.path, result.infotext, result.recipe.seed, result.image.size))
        seconds = round(time.monotonic() - begin, 3)
        return {"verdict": came.verdict.to_json(), "images": images, "notes": [], "seconds": seconds}
