"""The tab that reads a picture: its texts, what its recipe records, its settings for the form, and its replay."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import gradio as gr

from modules import recipe as recipes
from modules.errors import RepriseError
from modules.metadata import Metadata, read_metadata
from webui.events import AT_ONCE, QUIET
from webui.page import Page
from webui.paste import SHOW_TXT2IMG, parcel, settings_of
from webui.replay import ReplayPanel
from webui.send import uploaded
from webui.views import Run, recipe_html, status_html


def build(page: Page) -> None:
    """Lay out the tab and wire it."""
    with gr.Row(elem_id="png_info_body"):
        with gr.Column(scale=5, min_width=300):
            picture = gr.Image(
                label="Picture",
                type="filepath",
                sources=["upload"],
                image_mode=None,
                height=420,
                elem_id="png_info_picture",
                buttons=["fullscreen"],
            )
        with gr.Column(scale=6, min_width=300, elem_id="png_info_result"):
            text = gr.Textbox(
                label="Generation text",
                lines=6,
                max_lines=12,
                interactive=False,
                elem_id="png_info_text",
                buttons=["copy"],
            )
            use = gr.Button(
                "Use these settings",
                elem_id="png_info_use",
                elem_classes="rp-tool",
                scale=0,
                interactive=False,
                render=False,
            )
            panel = ReplayPanel("png_info", use)
            said = gr.HTML("", elem_id="png_info_said", padding=False)
            facts = gr.HTML("", elem_id="png_info_facts", padding=False)

    async def on_picture(value: Any) -> list[Any]:
        path = uploaded(value)
        if path is None:
            return ["", "", "", gr.update(interactive=False)]
        try:
            found = await asyncio.to_thread(read_metadata, path)
        except RepriseError as error:
            return ["", "", status_html(Run().failed(str(error))), gr.update(interactive=False)]
        shown = found["infotext"] or found["stealth_infotext"] or ""
        told = recipe_html(recipes.judge(found["recipe"], shown or None), found["items"])
        return [shown, told, "", gr.update(interactive=_has_settings(found))]

    async def on_use(value: Any) -> tuple[Any, Any]:
        path = uploaded(value)
        if path is None:
            return gr.skip(), gr.skip()
        try:
            paste = settings_of(page.services, await asyncio.to_thread(read_metadata, path))
        except RepriseError as error:
            return gr.skip(), status_html(Run().failed(str(error)))
        return parcel(paste.changes), status_html(Run(notes=paste.notes))

    async def find(request: Any, value: Any) -> Path | None:
        return uploaded(value)

    picture.change(on_picture, picture, [text, facts, said, use], **AT_ONCE)
    used = use.click(on_use, picture, [page.sent, said], **AT_ONCE)
    used.then(None, None, None, js=SHOW_TXT2IMG, **QUIET)
    panel.wire(page, find, [picture])


def _has_settings(found: Metadata) -> bool:
    return bool(found["infotext"] or found["recipe"] or found["stealth_infotext"])
