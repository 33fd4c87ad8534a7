"""Draws all images of a job into one grid and saves it beside them, if the owner wishes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from modules.errors import ImageError, OutputError
from modules.gallery.outputs import Gallery
from modules.imaging.files import grid, grid_rows, open_image
from modules.jobs.protocol import GenerateSpec, JobOutcome, Json
from modules.jobs.worker import Emit, JobControl, Runner


def with_grid(run: Runner, gallery: Gallery, rows: int) -> Runner:
    """Wrap ``run`` so that it adds a grid of its images, if there are several. ``rows`` as in `grid_rows`."""

    def run_and_lay_out(job_id: str, data: Json, emit: Emit, control: JobControl) -> Json:
        outcome = JobOutcome.from_json(run(job_id, data, emit, control))
        paths, note = [Path(image.path) for image in outcome.images], ""
        if len(paths) > 1:
            params = GenerateSpec.from_json(data).params
            folder = "img2img-grids" if params.init else "txt2img-grids"
            try:
                sheet = grid(
                    [open_image(path) for path in paths],
                    grid_rows(len(paths), rows=rows, batch_size=params.batch_size),
                )
                saved = gallery.save(sheet, folder=folder, infotext=outcome.infotext)
            except (ImageError, OutputError) as error:  # the pictures themselves are saved
                note = f"the grid is missing: {error}"
            else:
                note = f"the grid is saved as {folder}/{saved.path.parent.name}/{saved.path.name}"
        return replace(outcome, notes=(*outcome.notes, *([note] if note else []))).to_json()

    return run_and_lay_out
