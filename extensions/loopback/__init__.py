"""Loopback: each picture is the start of the next, with a denoising strength that changes from turn to turn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from modules import GenerationParams, Host, Outcome, Round, ScriptContext, ScriptSpec, Sheet, Steps, UserError, option

CURVES: dict[str, Callable[[float], float]] = {
    "Linear": lambda part: part,
    "Aggressive": lambda part: math.sin(part * math.pi / 2),
    "Lazy": lambda part: 1 - math.cos(part * math.pi / 2),
}
"""Curves of the strength over the turns, with A1111's names."""


@dataclass(frozen=True)
class Options:
    """Options: the number of turns, and the final strength."""

    loops: int = option(4, "Loops", lo=1, hi=64, step=1)
    final_strength: float = option(0.5, "Final denoising strength", lo=0.0, hi=1.0, step=0.01)
    curve: str = option("Linear", "Denoising strength curve", choices=tuple(CURVES))


def strength(first: float, options: Options, turn: int) -> float:
    """
    >>> [strength(0.8, Options(loops=3, final_strength=0.4), turn) for turn in range(3)]
    [0.8, 0.6, 0.4]
    """
    part = turn / (options.loops - 1) if options.loops > 1 else 0.0
    return round(first + (options.final_strength - first) * CURVES[options.curve](part), 6)


def run(params: GenerationParams, options: Options, context: ScriptContext) -> Steps:
    """Run one turn after another, each with the next seed; the sheet shows them in a row."""
    if params.init is None:
        raise UserError("loopback starts from a picture", hint="use it in img2img", field="init")
    start, outcomes = params.init, list[Outcome]()
    for turn in range(options.loops):
        init = replace(start, denoising_strength=strength(params.init.denoising_strength, options, turn))
        request = params.changed(init=init, seed=params.seed_after(turn), batch_size=1, batch_count=1)
        (outcome,) = yield Round([request], of=options.loops, names=[f"turn {turn + 1}"])
        outcomes.append(outcome)
        if not outcome.images:
            raise UserError(f"turn {turn + 1} made no picture ({outcome.error})", hint="the turns before it are kept")
        start = replace(start, image=context.keep(Path(outcome.images[0].path)))
    names = [
        f"{turn + 1}: {strength(params.init.denoising_strength, options, turn):g}" for turn in range(len(outcomes))
    ]
    return [Sheet(names, ("",), (outcomes,))] if len(outcomes) > 1 else []


def register(host: Host) -> None:
    """Register the script for the tabs that have an init image."""
    spec = ScriptSpec("loopback", "Loopback", Options, run, help="each picture is the start of the next")
    host.add_script(replace(spec, tabs=("img2img", "inpaint")))
