"""Extensions on the page: their tabs, routes, scripts and style sheets.

A tab that fails to build leaves nothing on the page but a sentence, and the others as they are.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
from gradio.context import Context

from modules.errors import UserError
from modules.extension.host import TabSpec
from modules.jobs.protocol import GenerateSpec, Origin
from modules.params.generation import GenerationParams
from webui.components.contained import forget
from webui.context import Page
from webui.events import AT_ONCE
from webui.forms import Form
from webui.html.extensions import failed_tab_html
from webui.services import JobView, Services
from webui.tabs.generation import View, actions, result_at, wire_jobs

logger = logging.getLogger(__name__)

T = TypeVar("T")


class TabPage:
    """The page context that an extension's ``TabSpec.build`` receives (see `modules.extension.host.TabPage`)."""

    def __init__(self, page: Page, tab: str):
        self._page = page
        self._tab = tab
        self._made = 0

    def form(self, cls: type[T]) -> Form[T]:
        """Create a form for a frozen dataclass of options: ``form.add(name)`` renders a control here."""
        return self._page.form(cls)

    def params(self, **changes: Any) -> GenerationParams:
        """A request at the model's native size, with ``changes``."""
        size = self._page.services.native_size("")
        return GenerationParams(width=size, height=size).changed(**changes)

    def generate(self, form: Form[T], request: Callable[[T], GenerationParams], *, label: str = "Generate") -> None:
        """Add a button and a result area. A click generates what ``request`` returns for the form's values."""
        page, services = self._page, self._page.services
        self._made += 1
        tab = self._tab if self._made == 1 else f"{self._tab}{self._made}"
        view = View(services, tab, actions(tab, label), label=label)
        page.views[tab] = view

        async def submit(who: Any, name: str, values: Sequence[Any]) -> JobView:
            wanted = await asyncio.to_thread(lambda: request(form.read(values)))
            if not isinstance(wanted, GenerationParams):
                raise UserError(f"the tab {tab} gave no request", hint="tell its author")
            spec = GenerateSpec(wanted, origin=Origin(tab=tab, page=name))
            return await asyncio.to_thread(services.submit, page.owner(who), spec)

        async def shown_path(who: Any, job_id: Any, chosen: Any) -> Path | None:
            found = await result_at(page, who, job_id, chosen)
            return Path(found.path) if found else None

        wire_jobs(page, view, submit, form.inputs)
        if view.replay:
            view.replay.wire(page, shown_path, [view.shown, view.chosen])

    def load(self, fill: Callable[..., Any], outputs: Sequence[Any], inputs: Sequence[Any] = ()) -> None:
        """Whenever the page is opened, put what ``fill(*inputs)`` returns into ``outputs``."""
        self._page.blocks.load(fill, list(inputs), list(outputs), **{**AT_ONCE, "preprocess": True})


def build_tab(page: Page, spec: TabSpec) -> None:
    """Build the tab of ``spec``; errors in an extension's tab are contained."""
    if ("tab", spec.name) not in page.services.host.owners:
        spec.build(page)
        return
    config, parent = page.blocks.default_config, Context.block
    blocks, functions = set(config.blocks), set(config.fns)
    try:
        with gr.Column(elem_classes="rp-tab-page"):
            spec.build(TabPage(page, spec.name))
    except Exception as error:
        logger.warning("the tab %s of an extension cannot be built", spec.name, exc_info=True)
        forget(config, parent, blocks, functions)
        page.views.pop(spec.name, None)
        gr.HTML(failed_tab_html(spec.label, str(error) or type(error).__name__, traceback.format_exc()), padding=False)


def assets(services: Services, suffix: str) -> list[Path]:
    """The scripts or style sheets of all extensions."""
    return [path for path in services.host.assets if path.suffix == suffix]
