"""Prompts from file or textbox: a picture for every line.

A line is a prompt, or settings as A1111's script reads them:
``--prompt "a red fox" --negative_prompt "snow" --steps 20 --seed 7 --width 512 --sampler_name "Euler a"``.
Prompts need no quotes. Empty lines are passed over, and a line whose settings cannot be read is a prompt as a whole.
"""

from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass
from typing import Any

from modules import GenerationParams, Host, Round, ScriptContext, ScriptSpec, Steps, UserError, option

NAMES = {"sampler_name": "sampler", "n_iter": "batch_count", "cfg": "cfg_scale", "sd_model": "checkpoint"}
"""A1111's parameter names that differ from ours."""
IGNORED = (
    "outpath_samples",
    "outpath_grids",
    "prompt_for_display",
    "styles",
    "do_not_save_samples",
    "do_not_save_grid",
    "sampler_index",
    "tiling",
)
TEXTS = ("prompt", "negative_prompt")
"""They go on to the next setting."""
START, END = "before the prompt", "behind the prompt"


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Options: the lines, and how seeds continue."""

    lines: str = option("", "Prompts", multiline=True, help="one on each line")
    next_seed: bool = option(False, "Iterate seed every line")
    new_seeds: bool = option(False, "Use a different seed for each line")
    prompt: str = option(
        "instead of the prompt", "Lines stand", choices=("instead of the prompt", START, END), help="of the form above"
    )


def run(params: GenerationParams, options: Options, context: ScriptContext) -> Steps:
    """Generate all lines at once. There is no sheet: they need have nothing in common."""
    lines = [line.strip() for line in options.lines.splitlines() if line.strip()]
    if not lines:
        raise UserError("there are no prompts", hint="write one on each line", field="lines")
    requests = [_request(params, options, line, number) for number, line in enumerate(lines)]
    yield Round(requests, names=[f"line {number + 1}" for number in range(len(lines))])
    return []


def _request(params: GenerationParams, options: Options, line: str, number: int) -> GenerationParams:
    try:
        said = parsed(line) if line.startswith("--") else {"prompt": line}
    except ValueError as error:
        log.warning("line %d is taken as a prompt: %s", number + 1, error)
        said = {"prompt": line}
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


def parsed(line: str) -> dict[str, Any]:
    """Parse the settings of a line. Raises `ValueError` for unknown ones.

    >>> parsed('--prompt a red fox --steps 9 --sampler_name "Euler a"')
    {'prompt': 'a red fox', 'steps': '9', 'sampler': 'Euler a'}
    """
    words = shlex.split(line)
    said: dict[str, Any] = {}
    known = GenerationParams().to_json()
    while words:
        flag = words.pop(0)
        name = flag.removeprefix("--")
        ours = NAMES.get(name, name)
        if not flag.startswith("--") or not (ours in known or name in IGNORED):
            raise ValueError(f"there is no setting {flag!r}")
        if not words:
            raise ValueError(f"{flag} has no value")
        value = [words.pop(0)]
        while name in TEXTS and words and not words[0].startswith("--"):
            value.append(words.pop(0))
        said[ours] = " ".join(value)
    if "tiling" not in known and said.get("tiling", "").lower() == "true":
        raise UserError("pictures that tile are not there yet", hint="leave --tiling out", field="lines")
    return {name: value for name, value in said.items() if name in known}


def register(host: Host) -> None:
    """Register the script for all tabs that generate images."""
    host.add_script(
        ScriptSpec("prompts_from_file", "Prompts from file or textbox", Options, run, help="a picture for every line")
    )
