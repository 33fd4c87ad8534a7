"""The header above the tabs: checkpoint, quick settings, refresh, model card."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

import gradio as gr

from modules.checkpoints.presets import Preset
from modules.params.generation import GenerationParams
from modules.params.options import Option, options_of
from webui.components.card_editor import CardEditor
from webui.components.networks import NetworkPanel
from webui.context import Page
from webui.events import AT_ONCE, QUIET
from webui.fields import Field, Fields
from webui.forms import Form, control
from webui.html.cards import card_html
from webui.i18n import t
from webui.loading import Load
from webui.services import Services

logger = logging.getLogger(__name__)

PRESET = tuple(field.name for field in fields(Preset))
"""The parameters of a request that a model's card may say."""
CARD_SAYS = "() => document.dispatchEvent(new CustomEvent('reprise:card'))"
"""The message that makes models.js check whether the card is open."""
CHOSEN_SAYS = "(name) => document.dispatchEvent(new CustomEvent('reprise:checkpoint', { detail: name }))"
"""The message that another checkpoint is chosen: networks.js then lists what fits that one."""


class Header:
    """Renders the controls where it is created; call `wire` when all forms exist."""

    def __init__(self, services: Services):
        self._services = services
        self.shared: dict[str, Any] = {"checkpoint": self._checkpoint()}
        """The components that all forms share, by the option's name."""
        self._refresh = gr.Button("⟳", elem_id="refresh_checkpoints", elem_classes="rp-tool", min_width=40, scale=0)
        self._about = gr.Button("i", elem_id="model_card_button", elem_classes="rp-tool", min_width=40, scale=0)
        if chosen := quick(services.settings.current().quick_settings):
            with gr.Row(elem_id="rp_quick"):
                self.shared |= {option.name: self._quick(option) for option in chosen}

    def _checkpoint(self) -> Any:
        return control(
            options_of(GenerationParams)["checkpoint"],
            self._services.tables(),
            elem_id="checkpoint",
            info=None,
            scale=1,
            min_width=120,
        )

    def _quick(self, option: Option) -> Any:
        """Make a compact control: a number is a text field rather than a slider."""
        facts: dict[str, Any] = {
            "elem_id": f"quick_{option.name}",
            "elem_classes": "rp-quick",
            "info": None,
            "scale": 0,
            "min_width": 110,
        }
        if option.type in (int, float) and not (option.optional or option.has_long_numbers):
            whole = {"precision": 0} if option.type is int else {}
            return gr.Number(
                label=t(option.label),
                value=option.default,
                minimum=option.lo,
                maximum=option.hi,
                step=option.step,
                **whole,
                **facts,
            )
        return control(option, self._services.tables(), **facts)

    def card(self, home: Any) -> None:
        """Render the model card below the header."""
        self._card = gr.HTML("", elem_id="model_card", padding=False)
        self._editor = CardEditor(self._services, Fields("model_card", home))
        self._before = gr.Textbox(self.shared["checkpoint"].value or "", visible="hidden", elem_id="checkpoint_before")

    def wire(self, page: Page, networks: NetworkPanel) -> None:
        forms = page.forms
        listed = {id(component): (component, table) for form in forms for component, table in form.listed(LISTS)}
        components, tables = zip(*listed.values(), strict=True)
        fields = list({id(form.fields): form.fields for form in forms if form.fields}.values())
        read = [*components, *(one.state for one in fields)]
        filled = [*components, *(one.given for one in fields)]
        checkpoint = self.shared["checkpoint"]

        def refreshed(*chosen: Any) -> list[Any]:
            """The folders as they are now; what is gone gives way to the first of its list."""
            now = {table: list(self._services.tables()[table]()) for table in LISTS}
            answers = []
            for value, table in zip(chosen[: len(tables)], tables, strict=True):
                names = now[table]
                changed = {} if value in names else {"value": next(iter(names), None)}
                answers.append(gr.update(choices=names, **changed))
            return [
                *answers,
                *(one.listed(state, now) for one, state in zip(fields, chosen[len(tables) :], strict=True)),
            ]

        def toggled(request: gr.Request, name: Any, shown: Any) -> list[Any]:
            card = None if shown else self._services.card(str(name or ""))
            return [card_html(card) if card else "", *self._editor.shown(card, page.owner(request))]

        def changed(request: gr.Request, name: Any, shown: Any) -> list[Any]:
            return toggled(request, name, "") if shown else [gr.skip()] * (1 + len(self._editor.outputs))

        self._refresh.click(refreshed, read, filled, **AT_ONCE)
        page.loads.append(Load(lambda request, *chosen: refreshed(*chosen), read, filled))
        about, card = [checkpoint, self._card], [self._card, *self._editor.outputs]
        opened = self._about.click(toggled, about, card, **AT_ONCE)
        opened.then(None, None, None, js=CARD_SAYS, **QUIET)
        checkpoint.change(changed, about, card, **AT_ONCE)
        self._refresh.click(changed, about, card, **AT_ONCE)
        converted = self._editor.wire(page, checkpoint, self._card)
        converted.then(refreshed, read, filled, **AT_ONCE)
        checkpoint.change(None, checkpoint, None, js=CHOSEN_SAYS, **QUIET)
        self._follow(checkpoint, forms, networks)

    def _follow(self, checkpoint: Any, forms: Iterable[Form[Any]], networks: NetworkPanel) -> None:
        """Let the forms follow a chosen model: what was as the model before had it, and what its card applies. One is
        chosen here, or by its card in the panel of networks.
        """
        forms = list(forms)
        found = {id(form[name]): (name, form[name]) for form in forms for name in PRESET if name in form.names}
        names, components = zip(*(entry for entry in found.values() if not isinstance(entry[1], Field)), strict=True)
        fields = [form.fields for form in forms if form.fields]
        read = [*components, *(one.state for one in fields)]
        filled = [*components, *(one.given for one in fields)]

        def chosen(name: Any, before: Any, *shown: Any) -> list[Any]:
            card = self._services.card(str(name or ""))
            old, new = self._services.begin(str(before or "")), self._services.begin(str(name or ""))
            always = card.choices.preset.values() if card.choices.applies else {}
            answers = [name]
            for one, value in zip(names, shown[: len(names)], strict=True):
                answers.append(followed(one, value, old, new, always))
            for own, state in zip(fields, shown[len(names) :], strict=True):
                values = own.named(state)
                follow = {one: followed(one, values[one], old, new, always) for one in PRESET if one in values}
                answers.append(own.patch({one: value for one, value in follow.items() if value != gr.skip()}))
            return answers

        def carded(name: Any, before: Any, *shown: Any) -> list[Any]:
            listed = list(self._services.checkpoints())
            if name not in listed:  # gone since it was listed
                return [gr.skip()] * (2 + len(filled))
            return [gr.update(choices=listed, value=name), *chosen(name, before, *shown)]

        networks.chosen(carded, [self._before, *read], [checkpoint, self._before, *filled])
        checkpoint.input(chosen, [checkpoint, self._before, *read], [self._before, *filled], **AT_ONCE)
        checkpoint.change(lambda name: name, checkpoint, self._before, **AT_ONCE)


def followed(name: str, value: Any, old: Mapping[str, Any], new: Mapping[str, Any], always: Mapping[str, Any]) -> Any:
    """The value of a form's field after another model was chosen: ``new``'s where the field was as ``old`` has it, or
    where the new model ``always`` gets it; else it stays.
    """
    untouched = name in old and value == old[name]
    return new[name] if name in new and (untouched or name in always) else gr.skip()


LISTS = ("checkpoints", "hires_checkpoints", "vaes", "text_encoders")
"""Tables of files, reread by the refresh button."""


def quick(names: str) -> list[Option]:
    """The options named by the owner, separated by commas, without those that cannot be shown above the tabs.

    >>> [option.name for option in quick("vae, clip_skip, vae, prompt, nonsense")]
    ['vae', 'clip_skip']
    """
    found: dict[str, Option] = {}
    options = options_of(GenerationParams)
    for name in (name.strip() for name in names.split(",") if name.strip()):
        if name in options and not options[name].multiline and name not in ("checkpoint", "seed"):
            found[name] = options[name]
        elif name != "checkpoint":
            logger.warning("quick_settings names %r, which cannot be a quick setting", name)
    return list(found.values())
