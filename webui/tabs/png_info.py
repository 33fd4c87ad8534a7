"""The PNG Info tab: an image's metadata, its recipe, its settings for the form, and its replay."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import gradio as gr

from modules.errors import RepriseError
from modules.metadata import verdict as verdicts
from modules.metadata.image_text import read_metadata
from webui.components.paste import settings_in_file
from webui.components.replay import ReplayPanel
from webui.components.send import SendButtons
from webui.components.slots import place_slots
from webui.context import Page, Sent, Source
from webui.events import AT_ONCE
from webui.html.status import JobProgress, recipe_html, status_html


def build(page: Page) -> None:
    """Build the tab and its events."""
    with gr.Row(elem_id="png_info_body"):
        with gr.Column(scale=5, min_width=300):
            image = gr.Image(
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
            send = SendButtons("png_info")
            panel = ReplayPanel("png_info", send)
            said = gr.HTML("", elem_id="png_info_said", padding=False)
            facts = gr.HTML("", elem_id="png_info_facts", padding=False)
            place_slots(page, "png_info.result")

    async def on_image(request: gr.Request, value: Any) -> list[Any]:
        path = page.uploads(request)(value)
        if path is None:
            return ["", "", ""]
        try:
            found = await asyncio.to_thread(read_metadata, path)
        except RepriseError as error:
            return ["", "", status_html(JobProgress().failed(str(error)))]
        shown = found["infotext"] or found["stealth_infotext"] or ""
        facts_html = recipe_html(verdicts.judge(found["recipe"], shown or None), found["items"])
        return [shown, facts_html, ""]

    async def on_dropped(request: gr.Request, value: Any) -> list[Any]:
        path = page.uploads(request)(value)
        return [gr.update(selected="png_info"), str(path) if path else gr.skip(), *await on_image(request, value)]

    async def find_sent(request: Any, value: Any) -> Sent | None:
        path = page.uploads(request)(value)
        if path is None:
            return None
        return Sent(path, settings_in_file(page.services, await asyncio.to_thread(read_metadata, path)))

    async def find(request: Any, value: Any) -> Path | None:
        return page.uploads(request)(value)

    image.change(on_image, image, [text, facts, said], **AT_ONCE)
    page.dropped.upload(on_dropped, page.dropped, [page.frame, image, text, facts, said], **AT_ONCE)
    page.sources.append(Source(send, find_sent, [image]))
    panel.wire(page, find, [image])
