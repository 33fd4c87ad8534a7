"""What the worker does with a "generate" job: run the engine, save each image, tell what happens.

The engine is handed in, so that this file, like all of `jobs`, needs no torch.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from modules.images import preview_jpeg
from modules.params import GenerationParams

if TYPE_CHECKING:
    from modules.engine import Engine, Progress, Result
    from modules.gallery import Gallery

Emit = Callable[[dict[str, Any]], None]


class GenerationRunner:
    """Runs one job at a time; an instance lives as long as the worker."""

    def __init__(self, engine: Engine, gallery: Gallery, *, preview_seconds: float = 0.1):
        self._engine = engine
        self._gallery = gallery
        self._preview_seconds = preview_seconds
        """The shortest time between two previews: more of them than a person sees would only cost the job time."""

    def __call__(
        self, job_id: str, spec: Mapping[str, Any], emit: Emit, cancelled: Callable[[], bool]
    ) -> dict[str, Any]:
        """Make the images that ``spec["params"]`` asks for; the output names the files written."""
        params = GenerationParams.from_json(spec["params"])
        saved: list[dict[str, Any]] = []
        notes: list[str] = []
        started = time.monotonic()
        shown = 0.0

        def on_progress(progress: Progress) -> None:
            nonlocal shown
            now = time.monotonic()
            event: dict[str, Any] = {
                "type": "step",
                "step": progress.step,
                "steps": progress.steps,
                "image": progress.first_image + 1,
                "images": progress.images,
                "eta_s": round((now - started) / progress.fraction * (1 - progress.fraction), 2),
            }
            if now - shown >= self._preview_seconds:
                shown = now
                event["preview"] = base64.b64encode(preview_jpeg(progress.preview())).decode()
            emit(event)

        def on_result(result: Result) -> None:
            kept = self._gallery.save(
                result.image, seed=result.seed, infotext=result.infotext, recipe=result.recipe, job=job_id
            )
            width, height = result.image.size
            item = {
                "path": str(kept.path),
                "infotext": result.infotext,
                "seed": result.seed,
                "width": width,
                "height": height,
            }
            saved.append(item)
            emit({"type": "image", **item})

        def on_note(note: str) -> None:
            notes.append(note)
            emit({"type": "note", "text": note})

        self._engine.run(params, on_result=on_result, on_progress=on_progress, on_note=on_note, cancelled=cancelled)
        return {
            "images": saved,
            "infotext": saved[0]["infotext"] if saved else "",
            "notes": notes,
            "seconds": round(time.monotonic() - started, 3),
        }
