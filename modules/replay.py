"""Replay: make a recorded image again, compare the pixels, and return a verdict."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from modules.checkpoints.vaes import OWN
from modules.checkpoints.way import Way
from modules.devices import threads_of
from modules.engine import Engine, Progress, Result, RunCallbacks
from modules.errors import Cancelled
from modules.extension.modifier import UsedFile
from modules.extension.option_values import renamed
from modules.imaging.files import carried_in, open_header, open_image
from modules.metadata import verdict as verdicts
from modules.metadata.image_text import is_lossy, read_metadata
from modules.metadata.recipe import Recipe
from modules.metadata.verdict import Verdict
from modules.pipeline.provenance import VAE


@dataclass(frozen=True)
class Replay:
    """The outcome of a replay; ``result`` is the new image, None if it could not be made."""

    verdict: Verdict
    result: Result | None


def replay(engine: Engine, path: Path, callbacks: RunCallbacks = RunCallbacks()) -> Replay:
    """Run the recipe in the image at ``path`` again, with the same batch around it, and compare the pixels.

    Pictures that it was made from and carries itself are stored first.
    """
    recorded = recorded_in(path)
    if isinstance(recorded, Recipe):
        _unpack(engine, recorded, path)
    return replay_recipe(engine, recorded, path, callbacks)


def _unpack(engine: Engine, recorded: Recipe, path: Path) -> None:
    missing = {name for name in recorded.inputs if engine.inputs and name not in engine.inputs}
    for data in carried_in(path.read_bytes()) if missing else ():
        if engine.inputs and hashlib.sha256(data).hexdigest() in missing:
            engine.inputs.adopt(data)


def recorded_in(path: Path) -> Recipe | Verdict:
    """The recipe in an image file, or a verdict that says why it cannot be replayed."""
    texts = read_metadata(path)
    return verdicts.judge(texts["recipe"], texts["infotext"] or texts["stealth_infotext"])


def replay_recipe(
    engine: Engine, recorded: Recipe | Verdict, path: Path | None = None, callbacks: RunCallbacks = RunCallbacks()
) -> Replay:
    """Replay a recipe on its own; without an image at ``path``, its recorded pixel hash is compared."""
    if isinstance(recorded, Verdict):
        return Replay(recorded, None)
    names = {file: engine.store.with_sha256(file.sha256) for file in recorded.files if file.role == "checkpoint"}
    available = {file.sha256 for file in recorded.files if engine.inventory.has(file)}
    if (verdict := verdicts.check(recorded, available, engine.inventory.extensions())) is not None:
        return Replay(verdict, None)
    again = _one(engine, recorded, next(filter(None, names.values())), callbacks)
    asked = replace(again.recipe, request=recorded.request)  # the files may have other names now
    return Replay(_verdict(recorded, asked, path, again.image), again)


def _verdict(recorded: Recipe, again: Recipe, path: Path | None, new: Image.Image) -> Verdict:
    if path is None:
        return verdicts.compare(recorded, again)
    old = open_image(path)
    if is_lossy(path):
        worst = io.BytesIO()
        new.save(worst, open_header(path).format, quality=1)
        return verdicts.compare_lossy(recorded, again, old, new, open_image(worst.getvalue()))
    return verdicts.compare(recorded, again, old, new)


def _one(engine: Engine, recorded: Recipe, checkpoint: str, callbacks: RunCallbacks) -> Result:
    """Generate only the image with the recipe's index, and stop."""
    results: list[Result] = []

    def take(result: Result) -> None:
        results.append(result)
        raise Cancelled  # the rest of the request was not asked for

    vaes = [engine.store.vae_with_sha256(file.sha256) for file in recorded.files if file.role == VAE]
    params = recorded.request.changed(checkpoint=checkpoint, vae=next(filter(None, vaes), OWN))
    used = [UsedFile(file.role, file.name, file.sha256) for file in recorded.files]
    host, sha256 = engine.host, engine.store.sha256
    params = params.changed(extensions=renamed(host.modifiers, params.extensions, used, host.models, sha256))
    if recorded.skipped:
        callbacks = _cut_short(callbacks, recorded.skipped)
    absent = {one.name: one.failed for one in recorded.extensions if one.failed}
    try:
        embeddings = engine.inventory.recorded_embeddings(recorded.files)
        with threads_of(recorded.processor):
            engine.run(
                params,
                take,
                callbacks,
                made=recorded.index,
                embeddings=embeddings,
                recorded=recorded.files,
                without=absent,
                way=Way.from_json(recorded.memory),
            )
    except Cancelled:
        if not results:
            raise
    (result,) = results
    return result


def _cut_short(callbacks: RunCallbacks, step: int) -> RunCallbacks:
    """Callbacks that stop sampling after ``step``, as the user did when the image was made (skip or interrupt)."""
    reached = False

    def on_progress(progress: Progress) -> None:
        nonlocal reached
        reached = progress.step >= step
        callbacks.on_progress(progress)

    return replace(callbacks, on_progress=on_progress, skips=lambda: int(reached))
