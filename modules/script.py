"""Scripts: one request that becomes many, each a job of its own. X/Y/Z plots, prompt matrices and loopback are some.

A script is a generator. It yields requests, gets back what each of them made, and in the end returns sheets:

    def twice(params, options, context):
        first, second = yield Turn([params, params.changed(steps=options.steps)])
        return [Sheet(("as asked", "other steps"), ("",), ((first, second),))]

What it does must follow from its arguments alone: after a restart of the server it is run again from the start, and the
jobs that it had finished before are answered from the database.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.params import GenerationParams

MOST_REQUESTS = 1000
"""Of one script."""


@dataclass(frozen=True)
class Made:
    """A picture that a request of a script gave."""

    path: str
    infotext: str
    seed: int


@dataclass(frozen=True)
class Answer:
    """What one request gave: its pictures, or why there are none."""

    made: tuple[Made, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Turn:
    """Requests that need nothing of each other. The answers come in their order."""

    requests: Sequence[GenerationParams]
    of: int = 0
    """How many requests the script will make in all, as far as it knows; 0: no more than these."""
    names: Sequence[str] = ()
    """What a person calls each of them, for the remark on one that failed."""


@dataclass(frozen=True)
class Sheet:
    """Answers in a table: ``cells[row][column]``, with words above each column and before each row."""

    columns: Sequence[str]
    rows: Sequence[str]
    cells: Sequence[Sequence[Answer]]
    title: str = ""
    legend: bool = True
    margin: int = 0
    """Pixels between the pictures."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What its generation text says of it: ``{"X Type": "Steps", ...}``."""


@dataclass(frozen=True)
class ScriptContext:
    """What a script may ask for."""

    axes: Callable[[], Mapping[str, Any]]
    """Every declared option by its label, as `modules.options.Option`."""
    choices: Callable[[str], Sequence[str]]
    """The values in one of the host's tables: "samplers", "checkpoints"."""
    keep: Callable[[Path], str]
    """Puts a picture where requests can start from it, and gives its name there."""


Steps = Generator[Turn, Sequence[Answer], Sequence[Sheet]]
Run = Callable[[GenerationParams, Any, ScriptContext], Steps]
"""``(params, options, context)``. Raises `UserError` where the options make no sense, before it yields."""


@dataclass(frozen=True)
class ScriptSpec:
    """A script as the host lists it. ``options`` is a frozen dataclass of declared options: its controls."""

    name: str
    label: str
    options: type
    run: Run
    help: str = ""
    tabs: tuple[str, ...] = ("txt2img", "img2img", "inpaint")
    """Where it is offered."""
