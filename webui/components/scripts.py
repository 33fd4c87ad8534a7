"""Scripts on the page: choosing one, its options, and the table of its results."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import gradio as gr

from modules.errors import NotFound
from modules.extension.script import ScriptSpec
from modules.jobs.protocol import Origin
from modules.jobs.protocol import ScriptSpec as ScriptJob
from modules.params.generation import GenerationParams
from modules.params.options import Shape, values_of
from webui.components.contained import contained
from webui.context import Page
from webui.events import AT_ONCE
from webui.forms import Form
from webui.html.status import sheets_html
from webui.i18n import t

NONE = ""


class ScriptPanel:
    """Rendered where it is created; `place_table` renders ``table`` beside the results."""

    def __init__(self, page: Page, tab: str):
        self._page, self._tab = page, tab
        specs = [spec for spec in page.services.host.scripts if tab in spec.tabs]
        self._choice = gr.Dropdown([(t("None"), NONE)], value=NONE, label=t("Script"), elem_id=f"{tab}_script")
        self._forms: dict[str, Form[Any]] = {}
        built = {spec.name: contained(spec.label, partial(self._column, spec)) for spec in specs}
        columns = {name: column for name, column in built.items() if column is not None}
        self._specs = [spec for spec in specs if spec.name in columns]
        self._choice.choices = [(t("None"), NONE), *((t(spec.label), spec.name) for spec in self._specs)]
        self._choice.visible = bool(self._specs)

        def shown(chosen: str) -> Any:
            updates = [gr.update(visible=name == chosen) for name in columns]
            return updates if len(updates) != 1 else updates[0]  # Gradio takes the values of one output as they are

        self._choice.change(shown, self._choice, list(columns.values()), **AT_ONCE)

    def _column(self, spec: ScriptSpec) -> Any:
        services = self._page.services
        form: Form[Any] = Form(Shape(spec.options), services.tables(), services.inputs.put, services.inputs.open)
        with gr.Column(visible=False, elem_id=f"{self._tab}_script_{spec.name}", elem_classes="rp-script") as column:
            if spec.help:
                gr.Markdown(t(spec.help))
            ticks = [name for name, option in form.options.items() if option.type is bool]
            others = [name for name in form.options if name not in ticks]
            rows = [others[start : start + 2] for start in range(0, len(others), 2)]
            for row in (*rows, *([name] for name in ticks)):
                with gr.Row():
                    for name in row:
                        form.add(name, min_width=150, elem_id=f"{self._tab}_{spec.name}_{name}")
            form.wire()
        self._forms[spec.name] = form
        return column

    def place_table(self) -> None:
        """Render the table of a script's images here."""
        self.table = gr.HTML("", elem_id=f"{self._tab}_sheets", padding=False)

    @property
    def components(self) -> list[Any]:
        """The additional inputs of a handler, besides the tab's own form."""
        return [self._choice, *(component for form in self._forms.values() for component in form.components)]

    def chosen(self, values: Sequence[Any]) -> tuple[ScriptSpec, Any] | None:
        """The script and its options from the values of ``components``; None if none is chosen."""
        name, rest = values[0], list(values[1:])
        for spec in self._specs:
            form = self._forms[spec.name]
            own, rest = rest[: len(form.names)], rest[len(form.names) :]
            if spec.name == name:
                return spec, form.read(own)
        return None

    def job(self, chosen: tuple[ScriptSpec, Any], params: GenerationParams, origin: Origin) -> ScriptJob:
        """The job spec of the script."""
        spec, options = chosen
        return ScriptJob(spec.name, values_of(options), params, origin)

    async def shown(self, request: gr.Request, job_id: Any) -> Any:
        """The table of a finished job."""
        queue, owner = self._page.services.queue, self._page.owner(request)
        try:
            job = await asyncio.to_thread(queue.get, job_id=str(job_id or ""), owner=owner)
        except NotFound:
            return gr.skip()
        return sheets_html((job.output or {}).get("sheets") or ())
