"""The Extras tab: upscales finished images and restores faces.

Pictures are stored by content as soon as they are chosen, and the page holds their keys: a job names its inputs, it
does not carry them. Everything else is as in the tab for texts: a click submits a job and follows it.
"""

from __future__ import annotations

import asyncio
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from modules.errors import RepriseError, UserError
from modules.extension.host import Host
from modules.jobs.protocol import ExtrasSpec, InputImage, Origin
from modules.metadata.image_text import read_metadata
from modules.params.generation import BY, TO, ExtrasParams
from modules.pipeline.postprocess import with_steps
from webui.components.slots import place_slots
from webui.context import Page, Target
from webui.events import AT_ONCE, QUIET
from webui.forms import Form
from webui.html.status import JobProgress, status_html
from webui.i18n import t
from webui.services import JobView, Services
from webui.tabs.generation import View, actions, wire_jobs

TAB = "extras"
LABEL = "Upscale"
MAX_FILES = 500
SINGLE, BATCH = "single", "batch"
FACES = {"GFPGAN": ("gfpgan_visibility",), "CodeFormer": ("codeformer_visibility", "codeformer_weight")}
"""The options of each face restorer."""


def build(page: Page) -> None:
    """Lay out the tab and wire it."""
    form = Form(with_steps(page.services.host), page.services.tables())
    with gr.Row(elem_id="extras_body"):
        with gr.Column(scale=5, min_width=300, elem_id="extras_parameters"):
            sources = _Sources()
            _parameters(form, page.services.host)
            _steps(form)
            place_slots(page, "extras.options", form)
        with gr.Column(scale=6, min_width=300, elem_id="extras_result"):
            with gr.Row():
                buttons = actions(TAB, LABEL, skips=False)
            view = View(page.services, TAB, buttons, label=LABEL, text="What was done", lines=4, replays=False)
            place_slots(page, "extras.result", form)
    page.views[TAB] = view
    page.targets[TAB] = Target(component=sources.single)
    _wire(page, form, sources, view)


class _Sources:
    """Chooses the input: one image, or many files. Hidden fields hold references to the stored images."""

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


def _parameters(form: Form[ExtrasParams], host: Host) -> None:
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
    _faces(form, host)
    with gr.Accordion("Tiles", open=False, elem_id="extras_tiles"), gr.Row():
        form.add("tile_size", min_width=160, elem_id="extras_tile_size")
        form.add("tile_overlap", min_width=160, elem_id="extras_tile_overlap")

    def chosen(resize: Any) -> tuple[Any, Any]:
        return gr.update(visible=resize == BY), gr.update(visible=resize == TO)

    form["resize"].change(chosen, form["resize"], [form["by"], size], **AT_ONCE)


def keep(services: Services, paths: Sequence[str]) -> list[InputImage]:
    """Store uploaded files. Raises `UserError`."""
    if len(paths) > MAX_FILES:
        raise UserError(f"{len(paths)} files are too many at once", hint=f"choose at most {MAX_FILES}")
    kept = []
    for path in map(Path, paths):
        key = services.inputs.put(path.read_bytes())
        kept.append(InputImage(key, path.name, read_metadata(path)["infotext"] or ""))
    return kept


def _faces(form: Form[ExtrasParams], host: Host) -> None:
    """Controls of the available face restorers, and a note on what is missing for others."""
    with gr.Accordion(t("Faces"), open=False, elem_id="extras_faces"):
        for restorer, names in FACES.items():
            if restorer in host.face_restorers:
                with gr.Row():
                    for name in names:
                        form.add(name, min_width=160, elem_id=f"extras_{name}")
            elif missing := host.absent_face_restorers.get(restorer):
                text = html.escape(t(f"{restorer} is not installed: {missing}"))
                gr.HTML(f'<p class="rp-keys">{text}</p>', padding=False)


def _steps(form: Form[ExtrasParams]) -> None:
    """One fold for each step of an extension, with a switch and its options, in their order."""
    for switch, group in form.shape.within["steps"].items():
        place = f"extras_step_{group.name}"
        with gr.Accordion(t(group.label), open=False, elem_id=place, elem_classes="rp-extension"):
            form.switch(switch, label=t(group.help) or t(group.label), elem_id=f"{place}_on")
            with gr.Row():
                for name, option in group.flat.items():
                    form.add(name, min_width=160, elem_id=f"{place}_{option.name}")


def _wire(page: Page, form: Form[ExtrasParams], sources: _Sources, view: View) -> None:
    services = page.services

    async def stored(paths: Sequence[str]) -> tuple[str, Any]:
        try:
            return kept_text(await asyncio.to_thread(keep, services, paths)), status_html(JobProgress())
        except RepriseError as error:
            return "", status_html(JobProgress().failed(str(error), error.field))

    async def on_single(path: str | None) -> tuple[str, Any]:
        return await stored([path] if path else [])

    async def on_batch(paths: list[str] | None) -> tuple[str, Any]:
        return await stored(paths or [])

    async def submit(request: Any, name: str, values: Sequence[Any]) -> JobView:
        which, single, batch, *fields = values
        params, inputs = form.read(fields), inputs_of(batch if which == BATCH else single)
        spec = ExtrasSpec(params, inputs, Origin(tab=TAB, page=name))
        return await asyncio.to_thread(services.submit, page.owner(request), spec)

    # Uploads alone are preprocessed: that is where Gradio makes sure that a path is an upload of its own.
    uploads: dict[str, Any] = {**QUIET, "queue": False}
    sources.single.change(on_single, sources.single, [sources.single_kept, view.status], **uploads)
    sources.batch.change(on_batch, sources.batch, [sources.batch_kept, view.status], **uploads)
    for tab, name in ((sources.single_tab, SINGLE), (sources.batch_tab, BATCH)):
        tab.select(None, None, sources.which, js=f"() => '{name}'", **QUIET)
    given = [sources.which, sources.single_kept, sources.batch_kept, *form.components]
    wire_jobs(page, view, submit, given)


def kept_text(images: Sequence[InputImage]) -> str:
    """The hidden field's value for stored images."""
    return json.dumps([image.to_json() for image in images])


def inputs_of(kept: Any) -> tuple[InputImage, ...]:
    """The stored images in a hidden field, ignoring anything that `kept_text` cannot have written."""
    try:
        return tuple(InputImage.from_json(entry) for entry in json.loads(str(kept or "[]")))
    except (ValueError, AttributeError, TypeError):
        return ()
