"""Parses the prompts of a request once."""

from __future__ import annotations

from dataclasses import dataclass

from modules.params.generation import GenerationParams
from modules.prompt.parse import parse
from modules.prompt.tree import NetworkTag, Prompt


@dataclass(frozen=True)
class Prompts:
    """Both prompts of one sampling pass, parsed."""

    positive: Prompt
    negative: Prompt

    @property
    def networks(self) -> tuple[NetworkTag, ...]:
        """The network tags of the positive prompt; in a negative one they are text."""
        return self.positive.networks


class PromptParser:
    """Parses each text of a request once, however many images, batches and passes share it."""

    def __init__(self) -> None:
        self._parsed: dict[tuple[str, bool], Prompt] = {}

    def prompts(self, params: GenerationParams) -> Prompts:
        """The parsed prompts of a pass with ``params``."""
        return Prompts(self._tree(params.prompt), self._tree(params.negative_prompt, negative=True))

    def networks(self, prompt: str) -> tuple[NetworkTag, ...]:
        """The network tags of a positive prompt."""
        return self._tree(prompt).networks

    def _tree(self, text: str, *, negative: bool = False) -> Prompt:
        if (text, negative) not in self._parsed:
            self._parsed[text, negative] = parse(text, negative=negative).tree
        return self._parsed[text, negative]
