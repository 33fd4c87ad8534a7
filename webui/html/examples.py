"""HTML of the prompts that a model's file offers for an empty prompt box, with small pictures."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import cache
from html import escape
from pathlib import Path

from webui.i18n import t

PICTURES = Path(__file__).parents[1] / "assets" / "examples.webp"
"""Those of the default model's prompts, side by side: squares cut from models/sheets/examples.webp."""
SIDE = 28
"""Pixels of a picture on the page."""
OURS = "reprise-mini"


def examples_html(model: str, tab: str, prompts: Sequence[str]) -> str:
    """Chips that are there while the box is empty and ``model`` is chosen; a click writes a prompt into the box."""
    chips, style = [], ""
    for number, prompt in enumerate(prompts):
        picture = f'<i style="background-position: {-SIDE * number}px 0"></i>' if Path(model).stem == OURS else ""
        chip = f'<button type="button" class="rp-chip-button" data-prompt="{escape(prompt)}">'
        chips.append(f"{chip}{picture}{escape(prompt)}</button>")
    if Path(model).stem == OURS:
        style = f'<style>.rp-first i {{ background: url("{_pictures()}"); background-size: auto {SIDE}px; }}</style>'
    return (
        f'<div class="rp-first" data-model="{escape(model)}" data-tab="{escape(tab)}" role="group" '
        f'aria-label="{escape(t("Prompts to begin with"))}" translate="no">{style}{"".join(chips)}</div>'
    )


@cache
def _pictures() -> str:
    return f"data:image/webp;base64,{base64.b64encode(PICTURES.read_bytes()).decode()}"
