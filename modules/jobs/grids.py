"""All pictures of a job on one sheet, saved beside them where the owner wishes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modules.errors import ImageError, OutputError
from modules.gallery import Gallery
from modules.images import grid, grid_rows, open_image
from modules.jobs.worker import Emit, Runner, Wishes


def with_grid(run: Runner, gallery: Gallery, rows: int) -> Runner:
    """``run``, and then the grid of what it made, where there is more than one. ``rows`` as in `grid_rows`."""

    def run_and_lay_out(job_id: str, spec: dict[str, Any], emit: Emit, wishes: Wishes) -> dict[str, Any]:
        output = run(job_id, spec, emit, wishes)
        paths = [Path(image["path"]) for image in output["images"]]
        if len(paths) > 1:
            params = spec["params"]
            folder = "img2img-grids" if params.get("init") else "txt2img-grids"
            try:
                sheet = grid(
                    [open_image(path) for path in paths],
                    grid_rows(len(paths), rows=rows, batch_size=int(params.get("batch_size") or 1)),
                )
                saved = gallery.save(sheet, folder=folder, infotext=output["infotext"])
            except (ImageError, OutputError) as error:  # the pictures themselves are saved
                output["notes"].append(f"the grid is missing: {error}")
            else:
                output["notes"].append(f"the grid is saved as {folder}/{saved.path.parent.name}/{saved.path.name}")
        return output

    return run_and_lay_out
