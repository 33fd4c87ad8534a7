"""Scripts: one request becomes many, each a job of its own (X/Y/Z plots, prompt matrices, loopback).

A script is a generator. It yields rounds of requests, gets the outcome of each, and in the end returns sheets:

    def twice(params, options, context):
        first, second = yield Round([params, params.changed(steps=options.steps)])
        return [Sheet(("as asked", "other steps"), ("",), ((first, second),))]

What it does must follow from its arguments alone: after a restart of the server it is run again from the start, and the
jobs that it had finished before are answered from the database.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modules.params.generation import GenerationParams
from modules.params.lists import side_by_side
from modules.params.options import Option, flat_of, from_flat, nested_of

MOST_REQUESTS = 1000
"""Limit of requests per script."""
NO_AXIS, SEARCH_AXIS, ORDER_AXIS = "Nothing", "Prompt S/R", "Prompt order"
"""Axes that are not options; A1111's names."""


@dataclass(frozen=True)
class GeneratedImage:
    """An image that a request of a script gave."""

    path: str
    infotext: str
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What one request gave: its images, or why there are none."""

    images: tuple[GeneratedImage, ...] = ()
    error: str = ""

    @property
    def made(self) -> tuple[GeneratedImage, ...]:
        """What ``images`` was called before."""
        return self.images


@dataclass(frozen=True)
class Round:
    """Requests that need nothing of each other. The outcomes come in their order."""

    requests: Sequence[GenerationParams]
    of: int = 0
    """How many requests the script will make in all, as far as it knows; 0: no more than these."""
    names: Sequence[str] = ()
    """A label for each request, used in the note on one that failed."""


@dataclass(frozen=True)
class Sheet:
    """Outcomes in a table: ``cells[row][column]``, with words above each column and before each row."""

    columns: Sequence[str]
    rows: Sequence[str]
    cells: Sequence[Sequence[Outcome]]
    title: str = ""
    legend: bool = True
    margin: int = 0
    """Pixels between the images."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Further infotext keys of the grid: ``{"X Type": "Steps", ...}``."""


@dataclass(frozen=True)
class Axis:
    """A declared option that a grid can vary."""

    label: str
    option: Option
    set: Callable[[GenerationParams, Any], GenerationParams]
    """``(params, value) -> params``; casts and checks the value. Raises `UserError`."""


def axes_of_params() -> dict[str, Axis]:
    """The options of a request by label; those of a group are prefixed with its name where needed. Images are
    excluded.
    """
    found: dict[str, Axis] = {}
    groups = nested_of(GenerationParams)
    for name, option in flat_of(GenerationParams).items():
        if name in ("image", "mask_image"):
            continue
        label = option.label
        if label in found:  # "Denoising strength" of the start picture, and that of hires fix
            group = next((g.label for g in groups.values() if g.prefix and name.startswith(g.prefix)), "")
            label = f"{group}: {option.label[:1].lower()}{option.label[1:]}"
        found[label] = Axis(label, option, _setter(name))
    return found


def axis_names(axes: Mapping[str, Axis]) -> tuple[str, ...]:
    """All choices for an axis."""
    return (NO_AXIS, SEARCH_AXIS, ORDER_AXIS, *axes)


def _setter(name: str) -> Callable[[GenerationParams, Any], GenerationParams]:
    def changed(params: GenerationParams, value: Any) -> GenerationParams:
        option = flat_of(GenerationParams)[name]
        return GenerationParams.from_json(
            _merged(params.to_json(), from_flat(GenerationParams, {name: option.cast(value)}))
        )

    return changed


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """``old`` updated with ``new``, recursively."""
    inner = {
        key: _merged(old[key], value)
        for key, value in new.items()
        if isinstance(value, Mapping) and isinstance(old.get(key), Mapping)
    }
    return {**old, **new, **inner}


@dataclass(frozen=True)
class ScriptContext:
    """Services available to a running script."""

    axes: Callable[[], Mapping[str, Axis]]
    """Every declared option by its label."""
    choices: Callable[[str], Sequence[str]]
    """The values in one of the host's tables: "samplers", "checkpoints"."""
    keep: Callable[[Path], str]
    """Stores an image as an init image, and returns its name there."""


Steps = Generator[Round, Sequence[Outcome], Sequence[Sheet]]
ScriptFunction = Callable[[GenerationParams, Any, ScriptContext], Steps]
"""``(params, options, context)``. Raises `UserError` where the options make no sense, before it yields."""


@dataclass(frozen=True)
class ScriptSpec:
    """A script as registered. ``options`` is a frozen dataclass of declared options: its controls."""

    name: str
    label: str
    options: type
    run: ScriptFunction
    help: str = ""
    tabs: tuple[str, ...] = ("txt2img", "img2img", "inpaint")
    """The tabs that offer it."""

    def flat(self) -> ScriptSpec:
        """The same with lists of option groups written side by side (`modules.params.lists`)."""
        options, gathered = side_by_side(self.options)
        if options is self.options:
            return self
        run = self.run
        return replace(self, options=options, run=lambda params, own, context: run(params, gathered(own), context))
