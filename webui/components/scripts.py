"""Scripts on the page: choosing one, its options, and the table of its results."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from html import escape
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
from webui.fields import Fields
from webui.forms import Form
from webui.html.status import sheets_html
from webui.i18n import t

NONE = ""
CHOICE = "script"
"""The field that says which script runs, and the prefix of those of its options."""


class ScriptPanel:
    """Rendered where it is created; `place_table` renders ``table`` beside the results."""

    def __init__(self, page: Page, tab: str, fields: Fields):
        self._page, self._tab, self._fields = page, tab, fields
        specs = [spec for spec in page.services.host.scripts if tab in spec.tabs]
        self._forms: dict[str, Form[Any]] = {}
        self._specs: list[ScriptSpec] = []
        place = fields.place()
        with fields.panel():
            for spec in specs:
                if contained(spec.label, partial(self._shown, spec), fields):
                    self._specs.append(spec)
        choices = {NONE: t("None"), **{spec.name: t(spec.label) for spec in self._specs}}  # those that could be built
        fields.choice(place, CHOICE, t("Script"), choices, elem_id=f"{tab}_script")

    def _shown(self, spec: ScriptSpec) -> bool:
        services, fields = self._page.services, self._fields
        form: Form[Any] = Form(
            Shape(spec.options),
            services.tables(),
            services.inputs.put,
            services.inputs.open,
            fields,
            prefix=f"{CHOICE}.{spec.name}.",
        )
        place = f"{self._tab}_script_{spec.name}"
        fields.put(f"<style>html:not([data-script-{self._tab}='{spec.name}']) #{place} {{ display: none; }}</style>")
        fields.put(f'<div class="rp-script" id="{place}">')
        if spec.help:
            fields.put(f"<p>{escape(t(spec.help))}</p>")
        for name in sorted(form.options, key=lambda name: form.options[name].type is bool):
            form.add(name, elem_id=f"{self._tab}_{spec.name}_{name}")
        form.wire()
        fields.put("</div>")
        self._forms[spec.name] = form
        return True

    def place_table(self) -> None:
        """Render the table of a script's images here."""
        self.table = gr.HTML("", elem_id=f"{self._tab}_sheets", padding=False)

    @property
    def inputs(self) -> list[Any]:
        """The additional inputs of a handler, besides the tab's own form."""
        return [self._fields.state]

    def chosen(self, values: Sequence[Any]) -> tuple[ScriptSpec, Any] | None:
        """The script and its options from the values of ``inputs``; None if none is chosen."""
        name = self._fields.named(values[0]).get(CHOICE)
        spec = next((spec for spec in self._specs if spec.name == name), None)
        return (spec, self._forms[spec.name].read(values)) if spec else None

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
