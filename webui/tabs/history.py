"""The History tab: thumbnails in pages, newest first, and the selected image with its actions.

A list holds numbers alone; the pictures come through `webui.api.v1.history`, which knows whose they are.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import gradio as gr

from modules.errors import NotFound, RepriseError
from modules.metadata.image_text import read_metadata
from webui.components.paste import settings_in_file
from webui.components.replay import ReplayPanel
from webui.components.send import SendButtons
from webui.components.slots import place_slots
from webui.context import Page, Sent, Source
from webui.events import AT_ONCE
from webui.html.history import chosen_html, tiles_html
from webui.html.status import JobProgress, status_html
from webui.i18n import t

TAB = "history"
UNMADE = 20
"""How many recent jobs without images are shown."""
CLICKED = "(...args) => [document.documentElement.dataset.picture || '', ...args.slice(1)]"


class HistoryView:
    """The selected image and its action buttons."""

    def __init__(self) -> None:
        self.image = gr.HTML(chosen_html(None), elem_id="history_picture", padding=False)
        self.text = gr.Textbox(
            label=t("Generation text"),
            lines=5,
            max_lines=5,
            interactive=False,
            elem_id="history_text",
            buttons=["copy"],
        )
        self.send = SendButtons(TAB)
        self.delete = gr.Button(t("Delete"), elem_id="history_delete", elem_classes="rp-tool", scale=0, render=False)
        self.replay = ReplayPanel(TAB, self.send, self.delete)
        with gr.Row(visible=False, elem_id="history_sure") as self.sure:
            gr.HTML(f'<p class="rp-none">{t("The file is deleted for good.")}</p>', padding=False)
            self.yes, self.no = (
                gr.Button(t(label), elem_id=f"history_{name}", elem_classes="rp-tool", scale=0)
                for label, name in (("Delete it", "yes"), ("Keep it", "no"))
            )


def build(page: Page) -> None:
    """Build the tab and its events."""
    history = page.services.history
    with gr.Row(elem_id="history_body"):
        with gr.Column(scale=6, min_width=300, elem_id="history_list"):
            with gr.Row(elem_id="history_tools"):
                newer, older, refresh = (
                    gr.Button(t(label), elem_id=f"history_{name}", elem_classes="rp-tool", scale=0)
                    for label, name in (("← Newer", "newer"), ("Older →", "older"), ("Refresh", "refresh"))
                )
                said = gr.HTML("", elem_id="history_said", padding=False)
                place_slots(page, "history.tools")
            tiles = gr.HTML("", elem_id="history_tiles", padding=False)
        with gr.Column(scale=5, min_width=300, elem_id="history_detail"):
            view = HistoryView()
    first, last = (gr.Number(visible="hidden", precision=0, elem_id=f"history_{name}") for name in ("first", "last"))
    number = gr.Textbox(visible="hidden", elem_id="history_number")
    choose = gr.Button("Choose", visible="hidden", elem_id="history_choose")

    def listed(owner: str, before: int = 0, after: int = 0) -> list[Any]:
        """A page of the list, and the numbers at its ends."""
        limit = page.services.settings.current().history_pictures
        found = history.page(owner, before=before, after=after, limit=limit)
        if not found and (before or after):
            return [gr.skip()] * 5
        newest = history.page(owner, limit=1)
        is_first = not found or found[0].number == newest[0].number
        unmade = page.services.queue.list(owner, UNMADE, ("failed", "cancelled")) if is_first else ()
        gone = {one.number for one in found if not Path(one.path).is_file()}
        html = tiles_html(found, history.count(owner), gone, unmade)
        ends = (found[0].number, found[-1].number) if found else (0, 0)
        return [html, *ends, gr.update(interactive=not is_first), gr.update(interactive=len(found) == limit)]

    async def on_refresh(request: gr.Request) -> list[Any]:
        return await asyncio.to_thread(listed, page.owner(request))

    async def on_older(request: gr.Request, edge: Any) -> list[Any]:
        return await asyncio.to_thread(listed, page.owner(request), int(edge or 0), 0)

    async def on_newer(request: gr.Request, edge: Any) -> list[Any]:
        return await asyncio.to_thread(listed, page.owner(request), 0, int(edge or 0))

    def listing_of(owner: str, text: Any) -> list[Any]:
        """The picture of that number: number, picture, text."""
        nothing = ["", chosen_html(None), "", gr.update(visible=False), ""]
        if not str(text or "").isdecimal():
            return nothing
        try:
            found = history.find(owner, int(text))
            texts = read_metadata(history.file(owner, found.number))
        except RepriseError as error:
            return [*nothing[:-1], status_html(JobProgress().failed(str(error)))]
        shown = texts["infotext"] or texts["items"].get("extras") or ""
        return [str(text), chosen_html(found), shown, gr.update(visible=False), ""]

    async def on_choose(request: gr.Request, text: Any) -> list[Any]:
        return await asyncio.to_thread(listing_of, page.owner(request), text)

    async def path_of(request: Any, text: Any) -> Path | None:
        try:
            return await asyncio.to_thread(history.file, page.owner(request), int(str(text or 0)))
        except (NotFound, ValueError):
            return None

    async def find_sent(request: Any, text: Any) -> Sent | None:
        path = await path_of(request, text)
        if path is None:
            return None
        return Sent(path, settings_in_file(page.services, await asyncio.to_thread(read_metadata, path)))

    def on_delete(text: Any) -> Any:
        return gr.update(visible=bool(text))

    async def on_yes(request: gr.Request, text: Any, first: Any) -> list[Any]:
        owner = page.owner(request)
        try:
            await asyncio.to_thread(history.delete, owner, int(str(text or 0)))
        except RepriseError as error:
            return [*[gr.skip()] * 9, status_html(JobProgress().failed(str(error)))]
        listing = await asyncio.to_thread(listed, owner, int(first or 0) + 1, 0)
        return [*listing, *await asyncio.to_thread(listing_of, owner, "")]

    listing = [tiles, first, last, newer, older]
    detail = [number, view.image, view.text, view.sure, said]
    for event in (page.tabs[TAB].select, refresh.click):
        event(on_refresh, None, listing, **AT_ONCE)
    older.click(on_older, last, listing, **AT_ONCE)
    newer.click(on_newer, first, listing, **AT_ONCE)
    choose.click(on_choose, number, detail, js=CLICKED, **AT_ONCE)
    page.sources.append(Source(view.send, find_sent, [number]))
    view.delete.click(on_delete, number, view.sure, **AT_ONCE)
    view.no.click(lambda: gr.update(visible=False), None, view.sure, **AT_ONCE)
    view.yes.click(on_yes, [number, first], [*listing, *detail], **AT_ONCE)
    view.replay.wire(page, path_of, [number])
