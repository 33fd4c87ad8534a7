"""The promise, checked: make a recorded picture again and say in one verdict what came of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from modules import recipe as recipes
from modules.engine import Engine, Result, Watcher
from modules.errors import Cancelled, UserError
from modules.images import open_image
from modules.metadata import read_metadata
from modules.recipe import Recipe, Verdict


@dataclass(frozen=True)
class Replay:
    """What came of it; ``result`` is the new picture, None where it could not be made."""

    verdict: Verdict
    result: Result | None


def replay(engine: Engine, path: Path, watcher: Watcher = Watcher()) -> Replay:
    """Run the recipe in the picture at ``path`` again, with the same company in its batch, and compare the pixels.

    Raises `UserError` for a picture that carries no recipe.
    """
    recorded = recorded_in(path)
    checkpoint = next(file for file in recorded.files if file.role == "checkpoint")
    name = engine.store.with_sha256(checkpoint.sha256)
    available = {checkpoint.sha256} if name is not None else set()
    available |= {file.sha256 for file in recorded.files if engine.has(file)}
    if (verdict := recipes.check(recorded, available)) is not None:
        return Replay(verdict, None)
    again = _one(engine, recorded, name or "", watcher)
    asked = replace(again.recipe, request=recorded.request)  # the checkpoint may have another name now
    verdict = recipes.compare(recorded, asked, recipes.difference(open_image(path), again.image))
    return Replay(verdict, again)


def recorded_in(path: Path) -> Recipe:
    """The recipe that a picture carries."""
    text = read_metadata(path)["recipe"]
    if not text:
        raise UserError(f"{path.name} carries no recipe", hint="only pictures saved by this program do", field="file")
    return recipes.read(text)


def _one(engine: Engine, recorded: Recipe, checkpoint: str, watcher: Watcher) -> Result:
    """The picture with the recipe's index, and none behind it."""
    results: list[Result] = []

    def take(result: Result) -> None:
        results.append(result)
        raise Cancelled  # the rest of the request was not asked for

    params = recorded.request.changed(checkpoint=checkpoint)
    try:
        engine.run(params, take, watcher, made=recorded.index)
    except Cancelled:
        if not results:
            raise
    (result,) = results
    return result
