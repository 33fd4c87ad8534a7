"""Parts of sending a picture from anywhere to anywhere: the buttons, and which file a component's value means."""

from __future__ import annotations

import json
import logging
import os
import secrets
from pathlib import Path
from typing import Any

import gradio as gr

from webui.i18n import t

logger = logging.getLogger(__name__)

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


def uploaded(value: Any) -> Path | None:
    """The file behind a component's value: only one that was uploaded, in Gradio's own folder."""
    path = value.get("path") if isinstance(value, dict) else None
    if not isinstance(path, str) or "\0" in path or not os.environ.get("GRADIO_TEMP_DIR"):
        return None
    home, found = Path(os.environ["GRADIO_TEMP_DIR"]).resolve(), Path(path).resolve()
    if not found.is_relative_to(home) or not found.is_file():
        logger.warning("a page named a file that it had not uploaded")
        return None
    return found
