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
from webui.events import QUIET
from webui.fields import Fields
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
    fields = page.fields(TAB)
    form = Form(with_steps(page.services.host), page.services.tables(), fields=fields)
    with gr.Row(elem_id="extras_body"):
        with gr.Column(scale=5, min_width=300, elem_id="extras_parameters"):
            sources = _Sources()
            with fields.panel():
                _parameters(form, fields, page.services.host)
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


def _parameters(form: Form[ExtrasParams], fields: Fields, host: Host) -> None:
    for name in ("upscaler", "resize", "by"):
        form.add(name, elem_id=f"extras_{name}", **({"value": "Lanczos"} if name == "upscaler" else {}))
    fields.put('<div id="extras_size">')
    for name in ("width", "height", "crop"):
        form.add(name, elem_id=f"extras_{name}")
    fields.put("</div>")
    for way, others in ((BY, "#extras_size"), (TO, "#extras_by")):
        chosen = f"#extras_parameters:has(#extras_resize option[value='{way}']:checked)"
        fields.put(f"<style>{chosen} {others} {{ display: none; }}</style>")
    for name in ("upscaler_2", "upscaler_2_visibility"):
        form.add(name, elem_id=f"extras_{name}")
    _faces(form, fields, host)
    with fields.fold(t("Tiles"), "extras_tiles"):
        form.add("tile_size", elem_id="extras_tile_size")
        form.add("tile_overlap", elem_id="extras_tile_overlap")


def keep(services: Services, paths: Sequence[str]) -> list[InputImage]:
    """Store uploaded files. Raises `UserError`."""
    if len(paths) > MAX_FILES:
        raise UserError(f"{len(paths)} files are too many at once", hint=f"choose at most {MAX_FILES}")
    kept = []
    for path in map(Path, paths):
        key = services.inputs.put(path.read_bytes())
        kept.append(InputImage(key, path.name, read_metadata(path)["infotext"] or ""))
    return kept


def _faces(form: Form[ExtrasParams], fields: Fields, host: Host) -> None:
    """Controls of the available face restorers, and a note on what is missing for others."""
    with fields.fold(t("Faces"), "extras_faces"):
        for restorer, names in FACES.items():
            if restorer in host.face_restorers:
                for name in names:
                    form.add(name, elem_id=f"extras_{name}")
            elif missing := host.absent_face_restorers.get(restorer):
                text = html.escape(t(f"{restorer} is not installed: {missing}"))
                fields.put(f'<p class="rp-keys">{text}</p>')


def _steps(form: Form[ExtrasParams]) -> None:
    """One fold for each step of an extension, with a switch and its options, in their order."""
    for switch, group in form.shape.within["steps"].items():
        place, label = f"extras_step_{group.name}", t(group.label)
        with form.switched(switch, label, place, label=t(group.help) or label, on=f"{place}_on"):
            for name, option in group.flat.items():
                form.add(name, elem_id=f"{place}_{option.name}")
    form.wire()


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
    if form.fields:
        form.fields.wire()
    given = [sources.which, sources.single_kept, sources.batch_kept, *form.inputs]
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
