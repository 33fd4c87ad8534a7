"""The txt2img tab."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import gradio as gr

from modules.extension.modifier import PREFIX
from modules.params.generation import GenerationParams
from modules.params.options import Nested
from webui.components.card_pages import place_cards
from webui.components.contained import contained
from webui.components.find import Find
from webui.components.paste import wire_paste
from webui.components.scripts import ScriptPanel
from webui.components.sizes import size_tools
from webui.components.slots import place_slots
from webui.context import Page, Target
from webui.forms import Form
from webui.html.controls import do_button
from webui.i18n import t
from webui.tabs.generation import View, actions, wire_run, wire_seed
from webui.tabs.prompts import PromptArea

TAB = "txt2img"


def build(page: Page) -> None:
    """Build the tab and its events."""
    fields = page.fields(TAB)
    form = page.form(GenerationParams, fields)
    with gr.Row(elem_id="txt2img_bench", elem_classes="rp-bench"):
        with gr.Column(min_width=280, elem_classes="rp-left"):
            with gr.Column(elem_classes="rp-scroll"):
                with gr.Column(elem_id="txt2img_prompts"):
                    prompts = PromptArea(page, form, TAB)
                    paste = gr.Button("↙ Settings from text", elem_id="txt2img_paste", elem_classes="rp-tool")
                    place_slots(page, f"{TAB}.prompt", form)
                    place_cards(page, TAB)
                with gr.Column(elem_id="txt2img_parameters"):
                    search = Find(TAB)
                    with fields.panel():
                        parameters(page, form, TAB)
                        second_pass(form, TAB)
                    script = folds(page, form, TAB)
                    place_slots(page, f"{TAB}.parameters", form)
                    search.fill(form)
            with gr.Column(elem_id="txt2img_actions"):
                buttons = actions(TAB)
                place_slots(page, f"{TAB}.actions", form)
        with gr.Column(min_width=300, elem_id="txt2img_result"):
            prompts.inspector()
            view = View(page.services, TAB, buttons)
            script.place_table()
            place_slots(page, f"{TAB}.result", form)
    page.views[TAB] = view
    page.targets[TAB] = Target(form)
    prompts.wire()

    def asked(request: Any, values: Sequence[Any]) -> tuple[GenerationParams, tuple[str, ...]]:
        *given, styles = values
        return prompts.styled(form.read(given), styles), ()

    wire_run(page, form, view, asked, [prompts.styles], script=script)
    wire_seed(page, fields, view)
    fields.wire()
    wire_paste(page, form, paste, view.infotext, view.status)


def parameters(page: Page, form: Form[GenerationParams], tab: str) -> None:
    """The parameters in sight, in the open panel."""
    fields = form.fields
    assert fields
    with fields.row("rp-sampler"):
        form.add("sampler", elem_id=f"{tab}_sampler")
        form.add("scheduler", elem_id=f"{tab}_scheduler")
    form.add("steps", elem_id=f"{tab}_steps")
    size_tools(page, form, tab)
    place_slots(page, f"{tab}.size", form)
    form.add("cfg_scale", elem_id=f"{tab}_cfg_scale", info=None)
    with fields.row("rp-seed"):
        form.add("seed", elem_id=f"{tab}_seed", info=None)
        fields.put(do_button("seed", t("Random"), f"{tab}_random_seed", title=t("A new seed for every picture")))
        fields.put(do_button("reuse", t("Reuse"), f"{tab}_reuse_seed", title=t("The seed of the picture in view")))
    with fields.row("rp-batch"):
        form.add("batch_count", elem_id=f"{tab}_batch_count", info=None)
        form.add("batch_size", elem_id=f"{tab}_batch_size", info=None)


def folds(page: Page, form: Form[GenerationParams], tab: str) -> ScriptPanel:
    """What is seldom changed: variation, modifiers of extensions, a fold for each group of rare parameters, scripts."""
    fields = form.fields
    assert fields
    with fields.panel(), fields.fold(t("Seed and variation"), f"{tab}_variation"):
        form.add("subseed", elem_id=f"{tab}_subseed", info=None)
        form.add("subseed_strength", elem_id=f"{tab}_subseed_strength")
    modifiers(form, tab)
    with fields.panel():
        _sections(form, tab)
    return ScriptPanel(page, tab, fields)


def _sections(form: Form[GenerationParams], tab: str) -> None:
    """A fold for each group of rare parameters."""
    assert form.fields
    elsewhere = {*form.shared, *(name for name in form.options if name.startswith(PREFIX))}
    rare = {name: option.group for name, option in form.options.items() if option.group and name not in elsewhere}
    for group in dict.fromkeys(rare.values()):
        place = f"{tab}_section_{group.lower().replace(' ', '_')}"
        with form.fields.fold(t(group), place, css="rp-section"):
            for name in (name for name in rare if rare[name] == group):
                form.add(name, elem_id=f"{tab}_{name}")


def modifiers(form: Form[GenerationParams], tab: str) -> None:
    """One fold for each modifier of an extension, with a switch and its options, in the order in which they work."""
    assert form.fields
    with form.fields.panel():
        for switch, group in form.shape.within.get("extensions", {}).items():
            contained(group.label, partial(_fold, form, tab, switch, group), form)


def _fold(form: Form[GenerationParams], tab: str, switch: str, group: Nested) -> None:
    assert form.fields
    place, label = f"{tab}_ext_{group.name}", t("Let it take part")
    on = f"{place}_on"
    with form.switched(switch, t(group.label), place, label=f"{label}: {t(group.label)}", on=on, info=t(group.help)):
        options = group.flat
        for number, unit in enumerate(dict.fromkeys(option.group for option in options.values())):
            # The options of a unit stand in a fold of their own.
            with form.fields.fold(t(unit), f"{place}_unit{number}") if unit else contextlib.nullcontext():
                for name, option in options.items():
                    if option.group == unit:
                        form.add(name, elem_id=f"{place}_{option.name}")
        form.wire()


def second_pass(form: Form[GenerationParams], tab: str) -> None:
    """Folds for hires fix and the refiner, each with a switch."""
    assert form.fields
    label = t("Make the picture larger in a second pass")
    with form.switched("hires", "Hires fix", f"{tab}_hires", label=label, on=f"{tab}_hires_on"):
        for name in ("upscaler", "scale", "denoising_strength", "steps"):
            form.add(f"hires_{name}", elem_id=f"{tab}_hires_{name}", info=None)
        with form.fields.fold(t("More of the second pass"), f"{tab}_hires_more"):
            for name in ("width", "height", "sampler", "scheduler", "cfg_scale", "checkpoint", "extra_noise"):
                form.add(f"hires_{name}", elem_id=f"{tab}_hires_{name}")
            for name in ("prompt", "negative_prompt"):
                placeholder = t("empty: as in the first pass")
                form.add(f"hires_{name}", lines=2, elem_id=f"{tab}_hires_{name}", placeholder=placeholder)
    label = t("Another checkpoint finishes the picture")
    with form.switched("refiner", "Refiner", f"{tab}_refiner", label=label, on=f"{tab}_refiner_on"):
        form.add("refiner_checkpoint", elem_id=f"{tab}_refiner_checkpoint")
        form.add("refiner_switch_at", elem_id=f"{tab}_refiner_switch_at")
