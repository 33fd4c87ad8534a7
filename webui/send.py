"""Pictures on their way from anywhere to anywhere: a `Source` has buttons and says which picture is meant, a `Target`
is a tab that takes one. Each source's buttons lead to every target."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from modules.errors import NotFound, RepriseError
from modules.images import open_header
from modules.resize import request_size
from webui.events import AT_ONCE
from webui.i18n import t
from webui.views import results_of

if TYPE_CHECKING:
    from modules.params import GenerationParams
    from webui.controls import Form
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
    "vae",
)
"""What goes along with a picture."""
TARGETS = {"txt2img": "txt2img", "img2img": "img2img", "inpaint": "Inpaint", "extras": "Extras"}
"""Tabs that take something, and what they are called."""


@dataclass(frozen=True)
class Sent:
    """A picture that is sent, and the settings that made it, as far as they are known."""

    path: Path
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """``find(request, *values) -> Sent`` for the values of ``inputs``; None where there is no picture."""

    buttons: Mapping[str, Any]
    find: Callable[..., Awaitable[Sent | None]]
    inputs: Sequence[Any]


@dataclass(frozen=True)
class Target:
    """A tab that takes a picture into ``component``, as ``value(path)``, or its settings alone."""

    form: Form[GenerationParams] | None = None
    component: Any = None
    value: Callable[[str], Any] = str

    @property
    def outputs(self) -> list[Any]:
        return [*([self.component] if self.component else []), *(self.form.components if self.form else [])]

    def shown(self, sent: Sent, size: tuple[int, int]) -> list[Any]:
        """What ``outputs`` become: all settings where the picture itself is not taken, else those that suit it."""
        taken = [self.value(str(sent.path))] if self.component else []
        if self.form is None:
            return taken
        if not self.component:
            return self.form.show({key: value for key, value in sent.params.items() if key != "init"})
        width, height = request_size(size)
        params = {key: value for key, value in sent.params.items() if key in ALONG}
        return [*taken, *self.form.show(params | {"width": width, "height": height})]


def send_buttons(prefix: str) -> dict[str, Any]:
    """A button for each target, to be rendered where they belong."""
    return {
        name: gr.Button(
            f"→ {t(label)}", elem_id=f"{prefix}_to_{name}", elem_classes="rp-tool", min_width=60, scale=0, render=False
        )
        for name, label in TARGETS.items()
    }


def wire_sends(page: Page) -> None:
    """Every source's buttons to every target."""
    views = [Source(view.send, _result(page), [view.shown, view.chosen]) for view in page.views.values()]
    for source in (*views, *page.sources):
        for name, button in source.buttons.items():
            target = page.targets[name]
            outputs = [page.frame, *target.outputs]
            button.click(_sender(source, target, name), list(source.inputs), outputs, **AT_ONCE)


def _sender(source: Source, target: Target, name: str) -> Any:
    async def on_send(request: gr.Request, *values: Any) -> list[Any]:
        try:
            sent = await source.find(request, *values)
            if sent is not None:
                size = await asyncio.to_thread(lambda: open_header(sent.path).size)
                return [gr.update(selected=name), *target.shown(sent, size)]
        except RepriseError:
            logger.warning("a picture that was to be sent cannot be read")
        return [gr.skip()] * (1 + len(target.outputs))

    return on_send


def _result(page: Page) -> Any:
    """The picture in view of a tab that makes them: a job and the number of one of its results."""

    async def find(request: Any, job_id: Any, chosen: Any) -> Sent | None:
        try:
            job = await asyncio.to_thread(page.services.queue.get, job_id=str(job_id or ""), owner=page.owner(request))
        except NotFound:
            return None
        results = results_of(job)
        if not (isinstance(chosen, int) and 0 <= chosen < len(results)):
            return None
        made, params = results[chosen], dict(job.spec.get("params") or {})
        if "prompt" not in params:  # what Extras did is no request
            return Sent(Path(made.path), {})
        return Sent(Path(made.path), params | ({"seed": made.seed} if made.seed is not None else {}))

    return find


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
