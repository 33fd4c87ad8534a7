"""Prompt matrix: ``a fox|in snow|at night`` makes a picture for every choice of the parts behind the first.

As A1111's script of that name: the first part always stands, n further parts make 2^n pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modules import GenerationParams, Host, Round, ScriptContext, ScriptSpec, Sheet, Steps, UserError, option

MOST_PARTS = 8


@dataclass(frozen=True)
class Options:
    """Options: where the parts are, and how the sheet is drawn."""

    at_start: bool = option(False, "Put variable parts at start of prompt")
    new_seeds: bool = option(False, "Use different seed for each picture")
    negative: bool = option(False, "Vary the negative prompt instead")
    joined_by: str = option(", ", "Join parts with", choices=(", ", " "))
    margin: int = option(0, "Grid margin", lo=0, hi=500, step=2, help="pixels between the pictures")


def run(params: GenerationParams, options: Options, context: ScriptContext) -> Steps:
    """Generate all combinations in one sheet: half of the parts along the columns, the others along the rows."""
    text = params.negative_prompt if options.negative else params.prompt
    always, *parts = (part.strip() for part in text.split("|"))
    field = "negative_prompt" if options.negative else "prompt"
    if not parts:
        raise UserError("there is no | in the prompt", hint="write parts as in: a fox|in snow|at night", field=field)
    if len(parts) > MOST_PARTS:
        raise UserError(
            f"{len(parts)} parts would make {2 ** len(parts):,} pictures",
            hint=f"give {MOST_PARTS} at most",
            field=field,
        )
    across = (len(parts) + 1) // 2
    requests, columns, rows = [], [], []
    for number in range(2 ** len(parts)):
        chosen = [part for i, part in enumerate(parts) if number >> i & 1]
        requests.append(_request(params, options, field, _joined(always, chosen, options), number))
        if number < 2**across:
            columns.append(_words(chosen, always))
        if number % 2**across == 0:
            rows.append(_words(chosen, ""))
    names = [request.negative_prompt if options.negative else request.prompt for request in requests]
    outcomes = yield Round(requests, names=names)
    width = 2**across
    cells = [outcomes[start : start + width] for start in range(0, len(outcomes), width)]
    return [Sheet(columns, rows, cells, margin=options.margin)]


def _joined(always: str, chosen: Sequence[str], options: Options) -> str:
    words = [*chosen, always] if options.at_start else [always, *chosen]
    return options.joined_by.join(words)


def _words(chosen: Sequence[str], otherwise: str) -> str:
    return " + ".join(chosen) if chosen else otherwise


def _request(params: GenerationParams, options: Options, field: str, text: str, number: int) -> GenerationParams:
    seed = params.seed_after(number * params.batch_size * params.batch_count) if options.new_seeds else params.seed
    return params.changed(**{field: text, "seed": seed})


def register(host: Host) -> None:
    """Register the script for all tabs that generate images."""
    host.add_script(ScriptSpec("prompt_matrix", "Prompt matrix", Options, run, help=(__doc__ or "").partition("\n")[0]))
