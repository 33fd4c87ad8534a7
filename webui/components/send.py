"""Buttons that send an image to another tab, and the canvas value that shows it there."""

from __future__ import annotations

import json
import secrets
from html import escape

import gradio as gr

from webui.i18n import t

TARGETS = {"txt2img": "txt2img", "img2img": "img2img", "inpaint": "Inpaint", "extras": "Extras"}
"""Tabs that take something, and what they are called."""


class SendButtons:
    """A button for each target, rendered by the caller. ``wish`` is told which was clicked."""

    def __init__(self, prefix: str):
        self.home = gr.HTML(send_html(prefix), elem_classes="rp-send-home", padding=False, render=False)
        self.wish = gr.Textbox(visible="hidden", elem_id=f"{prefix}_send", render=False)

    def render(self) -> None:
        self.home.render()
        self.wish.render()


def send_html(prefix: str) -> str:
    """The buttons of a source."""
    buttons = "".join(
        f'<button type="button" class="rp-tool" id="{prefix}_to_{name}" data-send="{prefix} {name}">'
        f"{escape(f'→ {t(label)}')}</button>"
        for name, label in TARGETS.items()
    )
    return f'<div class="rp-send" role="group" aria-label="{escape(t("Send to"))}">{buttons}</div>'


def shown(path: str) -> str:
    """The canvas field's value that shows an image of the outputs folder; never the same twice."""
    return json.dumps({"shown": path, "number": secrets.token_hex(4)})
