"""Parts of sending a picture from anywhere to anywhere: the buttons, and how a canvas is told which one to show."""

from __future__ import annotations

import json
import secrets
from typing import Any

import gradio as gr

from webui.i18n import t

TARGETS = {"txt2img": "txt2img", "img2img": "img2img", "inpaint": "Inpaint", "extras": "Extras"}
"""Tabs that take something, and what they are called."""


def send_buttons(prefix: str) -> dict[str, Any]:
    """A button for each target, to be rendered where they belong."""
    return {
        name: gr.Button(
            f"→ {t(label)}", elem_id=f"{prefix}_to_{name}", elem_classes="rp-tool", min_width=60, scale=0, render=False
        )
        for name, label in TARGETS.items()
    }


def shown(path: str) -> str:
    """What the field of a canvas is given to show a picture of the outputs; never twice the same."""
    return json.dumps({"shown": path, "number": secrets.token_hex(4)})
