"""The tab that makes finished pictures larger.

Pictures are stored by content as soon as they are chosen, and the page holds their keys: a job names its inputs, it
does not carry them. Everything else is as in the tab for texts: a click submits a job and follows it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from modules.errors import NotFound, RepriseError, UserError
from modules.extras import check
from modules.metadata import read_metadata
from modules.params import BY, TO, ExtrasParams
from webui.controls import Form
from webui.events import AT_ONCE, LONG, QUIET
from webui.page import Page
from webui.services import Services
from webui.tabs.common import KEEP_JOB, KEPT_JOB, follow, picture, spoken
from webui.views import Run, gallery_items, preview_html, status_html

KIND = "extras"
MAX_FILES = 500
SINGLE, BATCH = "single", "batch"


def build(page: Page) -> None:
    """Lay out the tab and wire it."""
    form = Form(ExtrasParams, page.services.tables())
    with gr.Row(elem_id="extras_body"):
        with gr.Column(scale=5, min_width=300, elem_id="extras_parameters"):
            sources = _Sources()
            _parameters(form, faces=len(page.services.host.face_restorers) > 0)
        with gr.Column(scale=6, min_width=300, elem_id="extras_result"):
            with gr.Row():
                generate = gr.Button("Upscale", variant="primary", elem_id="extras_generate")
                interrupt = gr.Button("Interrupt", elem_id="extras_interrupt", interactive=False)
            view = _View(page.services, generate, interrupt)
    _wire(page, form, sources, view)


class _Sources:
    """Where pictures are chosen: one, or many files. Hidden fields hold what is stored of them."""

    def __init__(self) -> None:
        with gr.Tabs(elem_id="extras_sources"):
            with gr.Tab("Single image", id=SINGLE) as self.single_tab:
                self.single = gr.Image(
                    type="filepath",
                    image_mode=None,  # the file as it is, with its generation text
                    sources=["upload", "clipboard"],
                    height=260,
                    show_label=False,
                    buttons=[],
                    elem_id="extras_image",
                )
            with gr.Tab("Batch of files", id=BATCH) as self.batch_tab:
                self.batch = gr.File(
                    file_count="multiple",
                    file_types=["image"],
                    type="filepath",
                    height=260,
                    show_label=False,
                    elem_id="extras_files",
                )
        self.single_kept = gr.Textbox(visible="hidden", elem_id="extras_image_kept")
        self.batch_kept = gr.Textbox(visible="hidden", elem_id="extras_files_kept")
        self.which = gr.Textbox(SINGLE, visible="hidden", elem_id="extras_which")


def _parameters(form: Form[ExtrasParams], *, faces: bool) -> None:
    with gr.Row():
        form.add("upscaler", value="Lanczos", min_width=160, elem_id="extras_upscaler")
        form.add("resize", min_width=120, elem_id="extras_resize")
    form.add("by", elem_id="extras_by")
    with gr.Row(visible=False) as size:
        form.add("width", min_width=130, elem_id="extras_width")
        form.add("height", min_width=130, elem_id="extras_height")
        form.add("crop", min_width=200, elem_id="extras_crop")
    with gr.Row():
        form.add("upscaler_2", min_width=160, elem_id="extras_upscaler_2")
        form.add("upscaler_2_visibility", min_width=160, elem_id="extras_upscaler_2_visibility")
    if faces:
        with gr.Accordion("Faces", open=False), gr.Row():
            for name in ("gfpgan_visibility", "codeformer_visibility", "codeformer_weight"):
                form.add(name, min_width=160, elem_id=f"extras_{name}")
    with gr.Accordion("Tiles", open=False, elem_id="extras_tiles"), gr.Row():
        form.add("tile_size", min_width=160, elem_id="extras_tile_size")
        form.add("tile_overlap", min_width=160, elem_id="extras_tile_overlap")

    def chosen(resize: Any) -> tuple[Any, Any]:
        return gr.update(visible=resize == BY), gr.update(visible=resize == TO)

    form["resize"].change(chosen, form["resize"], [form["by"], size], **AT_ONCE)


class _View:
    """The right side, and how a `Run` is shown on it."""

    def __init__(self, services: Services, generate: Any, interrupt: Any):
        self.services = services
        self.generate = generate
        self.interrupt = interrupt
        self.status = gr.HTML(status_html(Run()), elem_id="extras_status", padding=False)
        with gr.Column(elem_id="extras_stage", elem_classes="rp-stage"):
            self.gallery = gr.Gallery(
                elem_id="extras_gallery",
                show_label=False,
                object_fit="contain",
                columns=4,
                preview=True,
                selected_index=0,
                interactive=False,
                buttons=["download", "fullscreen"],
            )
            self.preview = gr.HTML(preview_html(Run()), elem_id="extras_preview", padding=False)
        self.infotext = gr.Textbox(
            label="What was done",
            lines=3,
            max_lines=5,
            interactive=False,
            elem_id="extras_infotext",
            buttons=["copy"],
        )
        self.job = gr.Textbox(visible="hidden", elem_id="extras_job")
        self.resumed = gr.Textbox(visible="hidden", elem_id="extras_resumed")

    @property
    def outputs(self) -> list[Any]:
        return [self.status, self.preview, self.gallery, self.infotext, self.job, self.generate, self.interrupt]

    def show(self, run: Run, before: Run | None = None, job_id: str = "") -> list[Any]:
        """``run`` on the page; what is as it was ``before`` is left alone."""
        worker = self.services.queue.status()
        shown: list[Any] = [status_html(run, worker.state, worker.detail), preview_html(run)]
        ended = before is not None and before.is_running and not run.is_running
        if run.results and (before is None or ended or before.results != run.results):
            chosen = len(run.results) - 1 if run.is_running else 0
            gallery = gr.update(value=gallery_items(run.results), selected_index=chosen)
            shown += [gallery, run.results[chosen].infotext]
        else:
            shown += [gr.skip()] * 2
        shown.append(job_id if job_id and before is None else gr.skip())
        if run.is_running and (before is None or not before.is_running):
            return [*shown, gr.update(interactive=False), gr.update(interactive=True)]
        return [*shown, gr.skip(), gr.skip()]

    def idle(self) -> list[Any]:
        return [gr.update(interactive=True), gr.update(interactive=False)]


def keep(services: Services, paths: Sequence[str]) -> list[dict[str, str]]:
    """Store uploaded files; what a job's spec says of each. Raises `UserError`."""
    if len(paths) > MAX_FILES:
        raise UserError(f"{len(paths)} files are too many at once", hint=f"choose at most {MAX_FILES}")
    kept = []
    for path in map(Path, paths):
        key = services.inputs.put(path.read_bytes())
        kept.append({"key": key, "name": path.name, "infotext": read_metadata(path)["infotext"] or ""})
    return kept


def _wire(page: Page, form: Form[ExtrasParams], sources: _Sources, view: _View) -> None:
    services, queue = page.services, page.services.queue

    async def stored(paths: Sequence[str]) -> tuple[str, Any]:
        try:
            return json.dumps(await asyncio.to_thread(keep, services, paths)), status_html(Run())
        except RepriseError as error:
            return "", status_html(Run().failed(str(error), error.field))

    async def on_single(path: str | None) -> tuple[str, Any]:
        return await stored([path] if path else [])

    async def on_batch(paths: list[str] | None) -> tuple[str, Any]:
        return await stored(paths or [])

    async def submitted(request: Any, kept: Any, values: Sequence[Any]) -> AsyncIterator[list[Any]]:
        params = form.read(values)
        check(params, services.host)
        inputs = inputs_of(kept)
        if not inputs:
            raise UserError("there is no picture to work on", hint="choose one first", field="inputs")
        for entry in inputs:
            services.inputs.path(entry["key"])
        owner = page.owner(request)
        spec = {"kind": KIND, "params": params.to_json(), "inputs": inputs}
        job = await asyncio.to_thread(queue.submit, owner, spec, KIND)
        async for update in follow(view, owner, job.id, Run("waiting")):
            yield update

    async def on_generate(
        request: gr.Request, which: Any, single: Any, batch: Any, *values: Any
    ) -> AsyncIterator[list[Any]]:
        async for update in spoken(view, submitted(request, batch if which == BATCH else single, values)):
            yield update

    async def on_load(request: gr.Request, job_id: Any) -> Any:
        try:
            return (await asyncio.to_thread(queue.get, job_id=str(job_id or ""), owner=page.owner(request))).id
        except NotFound:
            return gr.skip()

    async def on_resumed(request: gr.Request, job_id: Any) -> AsyncIterator[list[Any]]:
        async for update in spoken(view, follow(view, page.owner(request), str(job_id or ""), Run("waiting"))):
            yield update

    def on_interrupt(request: gr.Request, job_id: Any) -> Any:
        try:
            queue.cancel(page.owner(request), str(job_id or ""))
        except RepriseError as error:
            return status_html(Run().failed(str(error)))
        return gr.skip()

    async def on_select(request: gr.Request, event: gr.SelectData, job_id: Any) -> Any:
        found = await picture(page, request, job_id, event.index)
        return found.infotext if found else gr.skip()

    # Uploads alone are preprocessed: that is where Gradio makes sure that a path is an upload of its own.
    uploads: dict[str, Any] = {**QUIET, "queue": False}
    sources.single.change(on_single, sources.single, [sources.single_kept, view.status], **uploads)
    sources.batch.change(on_batch, sources.batch, [sources.batch_kept, view.status], **uploads)
    for tab, name in ((sources.single_tab, SINGLE), (sources.batch_tab, BATCH)):
        tab.select(None, None, sources.which, js=f"() => '{name}'", **QUIET)
    given = [sources.which, sources.single_kept, sources.batch_kept, *form.components]
    clicked = view.generate.click(on_generate, given, view.outputs, **LONG)
    resumed = view.resumed.change(on_resumed, view.resumed, view.outputs, **LONG)
    for followed in (clicked, resumed):
        followed.then(view.idle, None, [view.generate, view.interrupt], **AT_ONCE)
    page.blocks.load(on_load, view.job, view.resumed, js=KEPT_JOB.format(tab=KIND), **AT_ONCE)
    view.interrupt.click(on_interrupt, view.job, view.status, **AT_ONCE)
    view.job.change(None, view.job, js=KEEP_JOB.format(tab=KIND), **QUIET)
    view.gallery.select(on_select, view.job, view.infotext, **AT_ONCE)


def inputs_of(kept: Any) -> list[dict[str, str]]:
    """What a hidden field holds, as far as it has the form that `keep` gave it."""
    try:
        entries = json.loads(str(kept or "[]"))
        return [{name: str(entry.get(name, "")) for name in ("key", "name", "infotext")} for entry in entries]
    except (ValueError, AttributeError, TypeError):
        return []
