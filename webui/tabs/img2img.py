"""The img2img and Inpaint tabs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from modules.errors import RepriseError
from modules.imaging.files import frames, open_image
from modules.imaging.masks import outpainted
from modules.imaging.resize import request_size
from modules.jobs.protocol import InputImage
from modules.params.generation import GenerationParams, SoftInpainting, TiledUpscale
from modules.params.options import Shape, option, options_of
from webui.components.canvas import COLOURS, MASK, VIEW, Canvas, Painting, chosen
from webui.components.card_pages import place_cards
from webui.components.find import Find
from webui.components.send import shown
from webui.components.slots import place_slots
from webui.context import Page, Target
from webui.events import AT_ONCE, QUIET
from webui.forms import Form
from webui.html.status import JobProgress, status_html
from webui.i18n import t
from webui.tabs.extras import inputs_of, keep, kept_text
from webui.tabs.generation import View, actions, wire_run, wire_seed
from webui.tabs.prompts import PromptArea
from webui.tabs.txt2img import folds, parameters

MASK_OPTIONS = ("blur", "padding", "only_masked", "invert", "content")
"""Those of the mask that are in sight."""
FIRST_FRAME = "the picture moves; its first frame was taken"


def build(page: Page) -> None:
    """Build img2img: one image goes in."""
    _build(page, "img2img")


def build_inpaint(page: Page) -> None:
    """Build Inpaint: a mask painted on an image, or coloured strokes that are mask and init image at once."""
    _build(page, "inpaint")


def _build(page: Page, tab: str) -> None:
    inpaint = tab == "inpaint"
    fields = page.fields(tab)
    form = page.form(GenerationParams, fields)
    growth = Form(Shape(Outpaint), {}, fields=fields, prefix="outpaint.")
    with gr.Row(elem_id=f"{tab}_bench", elem_classes="rp-bench"):
        with gr.Column(min_width=280, elem_classes="rp-left"):
            with gr.Column(elem_classes="rp-scroll"):
                with gr.Column(elem_id=f"{tab}_prompts"):
                    prompts = PromptArea(page, form, tab, "What the picture should become")
                    place_slots(page, f"{tab}.prompt", form)
                    place_cards(page, tab)
                with gr.Column(elem_id=f"{tab}_parameters"):
                    search = Find(tab)
                    canvas = Canvas(tab, MASK, COLOURS) if inpaint else Canvas(tab, VIEW, COLOURS)
                    size = t("Size of the picture")
                    measure = gr.Button(size, elem_id=f"{tab}_measure", elem_classes="rp-tool", scale=0)
                    many = None if inpaint else _many(page, tab)
                    with fields.panel():
                        form.add("denoising_strength", elem_id=f"{tab}_denoising_strength")
                        form.add("image_cfg_scale", elem_id=f"{tab}_image_cfg_scale")
                        if inpaint:
                            _mask_controls(form)
                            _soft_controls(form, tab)
                            _growth(growth)
                        form.add("resize_mode", elem_id=f"{tab}_resize_mode")
                        parameters(page, form, tab)
                        if not inpaint:
                            _tile_controls(form, tab)
                        _start_controls(form, tab)
                    script = folds(page, form, tab)
                    place_slots(page, f"{tab}.parameters", form)
                    search.fill(form)
            with gr.Column(elem_id=f"{tab}_actions"):
                buttons = actions(tab)
                place_slots(page, f"{tab}.actions", form)
        with gr.Column(min_width=300, elem_id=f"{tab}_result"):
            prompts.inspector()
            view = View(page.services, tab, buttons)
            script.place_table()
            place_slots(page, f"{tab}.result", form)
    page.views[tab] = view
    page.targets[tab] = Target(form, canvas.field, shown)
    prompts.wire()
    others = [canvas.field, *growth.inputs, prompts.styles] if inpaint else [canvas.field, many, prompts.styles]

    def many_of(images: Sequence[Any]) -> tuple[InputImage, ...]:
        """Where there are many pictures, the single one does not count."""
        return () if inpaint else inputs_of(images[1])

    def asked(request: Any, values: Sequence[Any]) -> tuple[GenerationParams, tuple[str, ...]]:
        """The request, its pictures stored, and what was said about them."""
        own, (*images, styles) = values[: len(form.inputs)], values[len(form.inputs) :]
        named = form.named(own)
        if files := many_of(images):
            return prompts.styled(form.read_named(named | {"image": files[0].key}), styles), ()
        painting = Painting.read(images[0], page.uploads(request))
        put = page.services.inputs.put
        if inpaint and (sides := growth.read(images[1:])) != Outpaint():
            sheet, white = outpainted(painting.start(), sides.left, sides.top, sides.right, sides.bottom)
            named |= {"image": put(sheet), "mask_image": put(white), **_sizes(sheet.size)}
        elif inpaint:
            start, mask = painting.inpainted(_number(named["mask_blur"]))
            named |= {"image": put(start), "mask_image": put(mask)}
        else:
            named["image"] = put(painting.start())
        animated = (FIRST_FRAME,) if frames(painting.path) > 1 else ()
        return prompts.styled(form.read_named(named), styles), animated

    def on_measure(request: gr.Request, value: Any) -> Any:
        path = chosen(value, page.uploads(request))
        return gr.skip() if path is None else fields.patch(_sizes(open_image(path).size))

    def inputs(values: Sequence[Any]) -> tuple[InputImage, ...]:
        return tuple(replace(file, infotext="") for file in many_of(values[len(form.inputs) :]))

    wire_run(page, form, view, asked, others, script=script, inputs=inputs, canvas=canvas)
    wire_seed(page, fields, view)
    fields.wire()
    measure.click(on_measure, canvas.field, fields.given, js=canvas.settled([canvas.field]), **AT_ONCE)


def _mask_controls(form: Form[GenerationParams]) -> None:
    for name in MASK_OPTIONS:
        form.add(f"mask_{name}", elem_id=f"inpaint_mask_{name}", info=None)


def _start_controls(form: Form[GenerationParams], tab: str) -> None:
    """What else is done with the image that goes in, and with its mask."""
    names = ["exact_steps", "colour_correction", "noise_multiplier", "extra_noise", "background"]
    if tab == "inpaint":
        names += ["mask_conditioning", "mask_round", "mask_overlay"]
    assert form.fields
    with form.fields.fold(t("How the picture is taken in"), f"{tab}_start"):
        for name in names:
            form.add(name, elem_id=f"{tab}_{name}")


def _soft_controls(form: Form[GenerationParams], tab: str) -> None:
    """The soft inpainting options, in a fold with a switch."""
    label, info = t("Blend old and new by the mask's greys"), t("best with a mask blur of 16 and more")
    with form.switched("mask_soft", t("Soft inpainting"), f"{tab}_soft", label=label, on=f"{tab}_soft_on", info=info):
        for name in options_of(SoftInpainting):
            form.add(f"mask_soft_{name}", elem_id=f"{tab}_soft_{name}")


def _many(page: Page, tab: str) -> Any:
    """Upload of many files; a hidden field holds references to the stored images."""
    with gr.Accordion(t("Many pictures"), open=False, elem_id=f"{tab}_many"):
        files = gr.File(
            label=t("Each is made anew with the settings below, one after another"),
            file_count="multiple",
            file_types=["image"],
            type="filepath",
            height=180,
            elem_id=f"{tab}_files",
        )
        said = gr.HTML("", padding=False, elem_id=f"{tab}_files_status")
        kept = gr.Textbox(visible="hidden", elem_id=f"{tab}_files_kept")

    async def on_files(paths: list[str] | None) -> tuple[str, Any]:
        try:
            stored = await asyncio.to_thread(keep, page.services, paths or [])
            moving = any(frames(Path(path)) > 1 for path in paths or [])
            return kept_text(stored), status_html(JobProgress(notes=(FIRST_FRAME,))) if moving else ""
        except RepriseError as error:
            return "", status_html(JobProgress().failed(str(error), error.field))

    # Uploads alone are preprocessed: that is where Gradio makes sure that a path is an upload of its own.
    files.change(on_files, files, [kept, said], **{**QUIET, "queue": False})
    return kept


def _tile_controls(form: Form[GenerationParams], tab: str) -> None:
    """The SD upscale options, in a fold with a switch."""
    label, info = t("Enlarge, then paint over tile by tile"), t("width and height above are those of a tile")
    place = f"{tab}_sd_upscale"
    with form.switched("tiled", t("SD upscale"), place, label=label, on=f"{place}_on", info=info):
        for name in options_of(TiledUpscale):
            form.add(f"sd_upscale_{name}", elem_id=f"{tab}_sd_upscale_{name}")


@dataclass(frozen=True)
class Outpaint:
    """How far the image grows on each side, in pixels; then no mask is needed."""

    left: int = option(0, "Left", lo=0, hi=1024, step=8)
    top: int = option(0, "Top", lo=0, hi=1024, step=8)
    right: int = option(0, "Right", lo=0, hi=1024, step=8)
    bottom: int = option(0, "Bottom", lo=0, hi=1024, step=8)


def _growth(form: Form[Outpaint]) -> None:
    assert form.fields
    with form.fields.fold(t("Outpaint"), "inpaint_outpaint"):
        for name in form.options:
            form.add(name, elem_id=f"inpaint_{name}")


def _number(value: Any) -> float:
    """A field's value as a number, 0 if it is none, for handlers that need it before the form is checked."""
    return float(value) if isinstance(value, (int, float)) else 0.0


def _sizes(size: tuple[int, int]) -> dict[str, int]:
    width, height = request_size(size)
    return {"width": width, "height": height}
