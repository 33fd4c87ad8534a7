"""Styles: named pieces of text that are merged into a prompt, and found again in one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Style(NamedTuple):
    """``{prompt}`` in either text stands for the person's own; without it the text is added behind a comma."""

    name: str
    prompt: str = ""
    negative_prompt: str = ""


def merge(style_text: str, prompt: str) -> str:
    """One style text and one prompt.

    >>> merge("cinematic, {prompt}, film grain", "a cat")
    'cinematic, a cat, film grain'
    >>> merge("anime style", "a cat")
    'a cat, anime style'
    """
    if "{prompt}" in style_text:
        return style_text.replace("{prompt}", prompt)
    return ", ".join(text for text in (prompt.strip(), style_text.strip()) if text)


def apply(styles: Iterable[Style], prompt: str, negative_prompt: str) -> tuple[str, str]:
    """Both prompts with ``styles`` merged in, one after another."""
    for style in styles:
        prompt, negative_prompt = merge(style.prompt, prompt), merge(style.negative_prompt, negative_prompt)
    return prompt, negative_prompt


def find(styles: Sequence[Style], prompt: str, negative_prompt: str) -> tuple[list[str], str, str]:
    """The names of the styles that were merged into these prompts, and the prompts without them.

    Styles are peeled off from the outside: the first of the list that fits, again and again.
    """
    found: list[str] = []
    left = [style for style in styles if style.prompt or style.negative_prompt]
    while True:
        for style in left:
            bare = _without(style.prompt, prompt)
            bare_negative = _without(style.negative_prompt, negative_prompt)
            if bare is not None and bare_negative is not None:
                break
        else:
            return found[::-1], prompt, negative_prompt
        prompt, negative_prompt = bare, bare_negative
        found.append(style.name)
        left.remove(style)


def _without(style_text: str, prompt: str) -> str | None:
    """``prompt`` before ``style_text`` was merged into it, or None where it was not."""
    text, prompt_text = style_text.strip(), prompt.strip()
    if "{prompt}" in text:
        before, _, after = text.partition("{prompt}")
        fits = prompt_text.startswith(before) and prompt_text.endswith(after)
        return prompt_text[len(before) : len(prompt_text) - len(after)] if fits else None
    if not prompt_text.endswith(text):
        return None
    return prompt_text[: len(prompt_text) - len(text)].removesuffix(", ")
