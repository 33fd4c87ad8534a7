"""The txt2img tab."""

from __future__ import annotations

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
from webui.components.sizes import SizeTools
from webui.components.slots import place_slots
from webui.context import Page, Target
from webui.forms import Form
from webui.i18n import t
from webui.tabs.generation import View, actions, wire_run, wire_seed
from webui.tabs.prompts import PromptArea

TAB = "txt2img"


def build(page: Page) -> None:
    """Build the tab and its events."""
    form = page.form(GenerationParams)
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
                    tools = parameters(page, form, TAB)
                    second_pass(form, TAB)
                    folds(form, TAB)
                    script = ScriptPanel(page, TAB)
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
        *fields, styles = values
        return prompts.styled(form.read(fields), styles), ()

    wire_run(page, form, view, asked, [prompts.styles], script=script)
    wire_seed(page, form, view, tools)
    wire_paste(page, form, paste, view.infotext, view.status)


def parameters(page: Page, form: Form[GenerationParams], tab: str) -> tuple[Any, Any]:
    """The parameters column; returns the buttons for a random seed and the last one."""
    with gr.Row():
        form.add("sampler", min_width=130, elem_id=f"{tab}_sampler")
        form.add("scheduler", min_width=130, elem_id=f"{tab}_scheduler")
    form.add("steps", elem_id=f"{tab}_steps")
    SizeTools(page, form, tab)
    place_slots(page, f"{tab}.size", form)
    with gr.Row():
        form.add("batch_count", min_width=130, elem_id=f"{tab}_batch_count", info=None)
        form.add("batch_size", min_width=130, elem_id=f"{tab}_batch_size", info=None)
    form.add("cfg_scale", elem_id=f"{tab}_cfg_scale", info=None)
    with gr.Row(elem_classes="rp-seed"):
        form.add("seed", elem_id=f"{tab}_seed", info=None, min_width=100)
        any_seed = gr.Button("Random", elem_id=f"{tab}_random_seed", elem_classes="rp-tool", min_width=72, scale=0)
        same_seed = gr.Button("Reuse", elem_id=f"{tab}_reuse_seed", elem_classes="rp-tool", min_width=72, scale=0)
    return any_seed, same_seed


def folds(form: Form[GenerationParams], tab: str) -> None:
    """What is seldom changed: variation, modifiers of extensions, and a fold for each group of rare parameters."""
    with gr.Accordion(t("Seed and variation"), open=False, elem_id=f"{tab}_variation"), gr.Row():
        form.add("subseed", min_width=130, elem_id=f"{tab}_subseed", info=None)
        form.add("subseed_strength", min_width=130, elem_id=f"{tab}_subseed_strength")
    modifiers(form, tab)
    _sections(form, tab)


def _sections(form: Form[GenerationParams], tab: str) -> None:
    """A fold for each group of rare parameters."""
    elsewhere = {*form.shared, *(name for name in form.options if name.startswith(PREFIX))}
    rare = {name: option.group for name, option in form.options.items() if option.group and name not in elsewhere}
    for group in dict.fromkeys(rare.values()):
        place = f"{tab}_section_{group.lower().replace(' ', '_')}"
        with gr.Accordion(t(group), open=False, elem_id=place, elem_classes="rp-section"), gr.Row():
            for name in (name for name in rare if rare[name] == group):
                form.add(name, min_width=150, elem_id=f"{tab}_{name}")


def modifiers(form: Form[GenerationParams], tab: str) -> None:
    """One fold for each modifier of an extension, with a switch and its options, in the order in which they work."""
    for switch, group in form.shape.within.get("extensions", {}).items():
        contained(group.label, partial(_fold, form, tab, switch, group), form)


def _fold(form: Form[GenerationParams], tab: str, switch: str, group: Nested) -> None:
    place = f"{tab}_ext_{group.name}"
    with gr.Accordion(t(group.label), open=False, elem_id=place, elem_classes="rp-extension"):
        label = t(group.help) or f"{t('Let it take part')}: {t(group.label)}"
        form.switch(switch, label=label, elem_id=f"{place}_on")
        options = group.flat
        for unit in dict.fromkeys(option.group for option in options.values()):
            # The options of a unit stand in a fold of their own.
            with gr.Accordion(t(unit), open=False) if unit else gr.Row():
                for name, option in options.items():
                    if option.group == unit:
                        form.add(name, min_width=200, elem_id=f"{place}_{option.name}")
        form.wire()


def second_pass(form: Form[GenerationParams], tab: str) -> None:
    """Accordions for hires fix and the refiner, each with a switch."""
    with gr.Accordion("Hires fix", open=False, elem_id=f"{tab}_hires"):
        form.switch("hires", elem_id=f"{tab}_hires_on", label="Make the picture larger in a second pass")
        with gr.Row():
            for name in ("upscaler", "scale", "denoising_strength", "steps"):
                form.add(f"hires_{name}", min_width=200, elem_id=f"{tab}_hires_{name}", info=None)
        with gr.Accordion("More of the second pass", open=False), gr.Row():
            for name in ("width", "height", "sampler", "scheduler", "cfg_scale", "checkpoint", "extra_noise"):
                form.add(f"hires_{name}", min_width=200, elem_id=f"{tab}_hires_{name}")
            for name in ("prompt", "negative_prompt"):
                placeholder = "empty: as in the first pass"
                form.add(f"hires_{name}", lines=2, elem_id=f"{tab}_hires_{name}", placeholder=placeholder)
    with gr.Accordion("Refiner", open=False, elem_id=f"{tab}_refiner"):
        form.switch("refiner", elem_id=f"{tab}_refiner_on", label="Another checkpoint finishes the picture")
        with gr.Row():
            form.add("refiner_checkpoint", min_width=200, elem_id=f"{tab}_refiner_checkpoint")
            form.add("refiner_switch_at", min_width=200, elem_id=f"{tab}_refiner_switch_at")
