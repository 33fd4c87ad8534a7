"""Finished pictures on their way to another tab, with the settings that made them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from modules.errors import NotFound
from modules.images import open_header
from webui.events import AT_ONCE
from webui.views import results_of

if TYPE_CHECKING:
    from webui.page import Page

logger = logging.getLogger(__name__)

ALONG = (
    "prompt",
    "negative_prompt",
    "sampler",
    "scheduler",
    "steps",
    "cfg_scale",
    "clip_skip",
)
"""What goes along with a picture."""
SHOW_TAB = "() => {{ document.querySelector('#tab_{name}-button')?.click() }}"


def wire_sends(page: Page) -> None:
    """Each tab's buttons to each tab that takes a picture."""
    for view in page.views.values():
        for name, (form, component) in page.targets.items():
            inputs, outputs = [view.shown, view.chosen], [component, *form.components]
            sent = view.send[name].click(_sender(page, form, name), inputs, outputs, **AT_ONCE)
            sent.then(None, None, None, js=SHOW_TAB.format(name=name), api_visibility="private")


def _sender(page: Page, form: Any, name: str) -> Any:
    async def on_send(request: gr.Request, job_id: Any, chosen: Any) -> list[Any]:
        nothing = [gr.skip()] * (1 + len(form.components))
        try:
            job = await asyncio.to_thread(page.services.queue.get, job_id=str(job_id or ""), owner=page.owner(request))
        except NotFound:
            return nothing
        results = results_of(job)
        if not (isinstance(chosen, int) and 0 <= chosen < len(results)):
            return nothing
        path = results[chosen].path
        width, height = await asyncio.to_thread(lambda: open_header(Path(path)).size)
        params = {key: value for key, value in job.spec["params"].items() if key in ALONG}
        params |= {"width": min(width, 2048) // 8 * 8, "height": min(height, 2048) // 8 * 8}
        return [shown(path), *form.show(params)]

    return on_send


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
