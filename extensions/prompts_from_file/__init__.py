"""Prompts from file or textbox: a picture for every line.

A line is a prompt, or settings as A1111's script reads them:
``--prompt "a red fox" --negative_prompt "snow" --steps 20 --seed 7 --width 512 --sampler_name "Euler a"``.
Empty lines are passed over.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from modules import GenerationParams, Host, ScriptContext, ScriptSpec, Steps, Turn, UserError, option

NAMES = {"sampler_name": "sampler", "n_iter": "batch_count", "cfg": "cfg_scale", "sd_model": "checkpoint"}
"""A1111's names of parameters that have another one here."""
IGNORED = (
    "outpath_samples",
    "outpath_grids",
    "prompt_for_display",
    "styles",
    "do_not_save_samples",
    "do_not_save_grid",
)
START, END = "before the prompt", "behind the prompt"


@dataclass(frozen=True)
class Options:
    """The lines, and how seeds go on."""

    lines: str = option("", "Prompts", multiline=True, help="one on each line")
    next_seed: bool = option(False, "Iterate seed every line")
    new_seeds: bool = option(False, "Use a different seed for each line")
    prompt: str = option(
        "instead of the prompt", "Lines stand", choices=("instead of the prompt", START, END), help="of the form above"
    )


def run(params: GenerationParams, options: Options, context: ScriptContext) -> Steps:
    """All lines at once. There is no sheet: they need have nothing in common."""
    lines = [line.strip() for line in options.lines.splitlines() if line.strip()]
    if not lines:
        raise UserError("there are no prompts", hint="write one on each line", field="lines")
    requests = [_request(params, options, line, number) for number, line in enumerate(lines)]
    yield Turn(requests, names=[f"line {number + 1}" for number in range(len(lines))])
    return []


def _request(params: GenerationParams, options: Options, line: str, number: int) -> GenerationParams:
    said = parsed(line, number + 1) if line.startswith("--") else {"prompt": line}
    if "prompt" in said and options.prompt in (START, END):
        both = (said["prompt"], params.prompt) if options.prompt == START else (params.prompt, said["prompt"])
        said["prompt"] = ", ".join(filter(None, both))
    step = params.batch_size * params.batch_count if options.new_seeds else int(options.next_seed)
    known = {"seed": params.seed_after(number * step)} | said
    if known["seed"] in (-1, "-1"):
        known["seed"] = params.seed
    try:
        return GenerationParams.from_json({**params.to_json(), **known})
    except UserError as error:
        raise UserError(f"line {number + 1}: {error.message}", hint=error.hint, field="lines") from error


def parsed(line: str, number: int = 1) -> dict[str, Any]:
    """
    >>> parsed('--prompt "a fox" --steps 9 --sampler_name "Euler a"')
    {'prompt': 'a fox', 'steps': '9', 'sampler': 'Euler a'}
    """
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UserError(f"line {number} has a quotation mark too few", hint="close it", field="lines") from error
    for flag in words[::2]:
        if not flag.startswith("--"):
            raise UserError(f"line {number}: {flag!r} is no setting", hint='put texts in "quotes"', field="lines")
    if len(words) % 2:
        raise UserError(f"line {number}: {words[-1]} has no value", hint="give one", field="lines")
    said = {flag.removeprefix("--"): value for flag, value in zip(words[::2], words[1::2], strict=True)}
    found: dict[str, Any] = {NAMES.get(name, name): value for name, value in said.items() if name not in IGNORED}
    known = GenerationParams().to_json()
    for name in found:
        if name not in known:
            raise UserError(f"line {number}: there is no setting {name!r}", hint="as in --steps 20", field="lines")
    return found


def register(host: Host) -> None:
    """One script for all tabs that make pictures."""
    host.add_script(
        ScriptSpec("prompts_from_file", "Prompts from file or textbox", Options, run, help="a picture for every line")
    )
