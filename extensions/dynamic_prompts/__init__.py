"""Dynamic prompts: a different prompt for each image, from ``{red|blue}``, ``{2$$cat|dog|hen}`` and ``__animal__``.

What is chosen follows from the picture's seed alone, so the same seed gives the same words, alone or in a batch. The
words that were chosen stand in the picture's generation text and in its recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modules import GenerationParams, Host, Modifier, ModifierSpec, option

from .template import Wildcards, fill

FOLDER = Path(__file__).parent / "wildcards"


@dataclass(frozen=True)
class Options:
    """Options: how the choices are drawn."""

    shift: int = option(0, "Shift", lo=0, hi=1_000_000, step=1, help="other words for the same seeds")
    negative: bool = option(True, "Negative prompt too")


class DynamicPrompts(Modifier):
    def __init__(self, options: Options, wildcards: Wildcards):
        self.options = options
        self.wildcards = wildcards

    def revise(self, params: GenerationParams) -> GenerationParams:
        """Fill the templates by seed; images of one variation share the seed, so the variation seed is used there."""
        own = params.subseed if params.subseed_strength else params.seed
        seed = f"{own}/{self.options.shift}"
        prompt = fill(params.prompt, f"{seed}/prompt", self.wildcards)
        if not self.options.negative:
            return params.changed(prompt=prompt)
        negative = fill(params.negative_prompt, f"{seed}/negative", self.wildcards)
        return params.changed(prompt=prompt, negative_prompt=negative)


def register(host: Host) -> None:
    folder = Path(host.flag("wildcards") or FOLDER)
    wildcards = Wildcards(folder)
    host.add_modifier(
        ModifierSpec(
            "dynamic_prompts",
            "Dynamic prompts",
            Options,
            lambda options: DynamicPrompts(options, wildcards),
            order=10,
            help="Fill in {red|blue} and __animal__, anew for each picture",
        )
    )
