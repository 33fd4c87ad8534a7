"""Buttons that send an image to another tab, and the canvas value that shows it there."""

from __future__ import annotations

import json
import secrets
from typing import Any

import gradio as gr

from webui.i18n import t

TARGETS = {"txt2img": "txt2img", "img2img": "img2img", "inpaint": "Inpaint", "extras": "Extras"}
"""Tabs that take something, and what they are called."""


def send_buttons(prefix: str) -> dict[str, Any]:
    """Create a button for each target, to be rendered by the caller."""
    return {
        name: gr.Button(
            f"→ {t(label)}", elem_id=f"{prefix}_to_{name}", elem_classes="rp-tool", min_width=60, scale=0, render=False
        )
        for name, label in TARGETS.items()
    }


def shown(path: str) -> str:
    """The canvas field's value that shows an image of the outputs folder; never the same twice."""
    return json.dumps({"shown": path, "number": secrets.token_hex(4)})
