"""A picture that a visitor made, by what a page or a program calls it, and the checkpoint that made it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modules.errors import NotFound, UserError
from modules.imaging.files import open_image
from modules.metadata.image_text import Metadata, read_metadata
from webui.html.status import results_of
from webui.recorded import settings_of
from webui.services import CardKeeper, Services

PREVIEW_SIDE = 1024
"""Pixels; a checkpoint's preview has no longer side."""


def picture_of(services: Services, owner: str, values: Mapping[str, Any]) -> Path:
    """The file of ``picture``, a number of the history, or of ``job`` and ``index``. Raises `NotFound`, for those of
    others too.
    """
    number = values.get("picture")
    if isinstance(number, int):
        return services.history.file(owner, known(number))
    results = results_of(services.queue.get(str(values.get("job") or ""), owner))
    index = values.get("index", 0)
    if not isinstance(index, int) or not 0 <= index < len(results):
        raise NotFound("the job has no such image", hint="choose one that is there", field="index")
    return Path(results[index].path)


def known(number: int) -> int:
    """The database's numbers have 64 bits; no picture has another."""
    if not 0 <= number < 2**63:
        raise NotFound("there is no such picture", hint="it may have been deleted", field="number")
    return number


def checkpoint_of(services: Services, texts: Metadata) -> str:
    """The checkpoint that a picture says it was made with, by its name here; empty: it names none that is here."""
    if not (texts["infotext"] or texts["recipe"] or texts["stealth_infotext"]):
        return ""
    found = str(settings_of(services, texts).changes.get("checkpoint") or "")
    return found if found in services.checkpoints() else ""


def illustrate(
    services: Services, keeper: CardKeeper, source: Path | bytes, checkpoint: str | None = None
) -> tuple[str, str]:
    """Keep a picture as the preview of ``checkpoint``; None: of the one that made it.

    Gives the checkpoint that has it now, and the one that made it (empty: unknown). Raises `RepriseError`.
    """
    texts = read_metadata(source)
    maker = checkpoint_of(services, texts)
    chosen = maker if checkpoint is None else checkpoint
    if checkpoint is None and not maker:
        raise UserError(
            "the picture names no checkpoint that is here", hint="say which one it is for", field="checkpoint"
        )
    image = open_image(source)
    image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    keeper.illustrate(chosen, image, texts["infotext"] or texts["stealth_infotext"] or "")
    return chosen, maker
