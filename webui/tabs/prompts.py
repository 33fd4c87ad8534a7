"""The prompt area of a tab: both boxes, warnings, styles and the inspector.

Whatever changes in the form, the page waits until the person pauses and then clicks a hidden button, whose event takes
the whole form. Gradio holds back a click while another is being answered and sends the last one afterwards
(``always_last``), so that no old answer can come after a new one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

import gradio as gr

from modules.errors import RepriseError, UserError
from modules.params.generation import GenerationParams
from modules.pipeline.explain import READ, explain_request
from modules.prompt.styles import Style, StyleBook, apply, find, uncommented
from webui.context import Page
from webui.events import AT_ONCE, QUIET
from webui.fields import Field
from webui.forms import Form
from webui.html.examples import examples_html
from webui.html.inspector import EMPTY, inspector_html, line_html, note_html, toggle_html, trouble_html
from webui.html.networks import opener_html
from webui.i18n import t
from webui.loading import Load
from webui.tabs.style_editor import StyleDoor

BOXES = {"prompt": "prompt", "negative_prompt": "negative"}
"""Fields, and what their elements are called behind the tab's name."""
NEEDED = ("prompt", "negative_prompt", "steps")
"""The fields that the inspector requires; other invalid fields count as their defaults."""
IS_OPEN = "(...args) => { args[0] = document.documentElement.dataset.inspect || ''; return args }"
TELL = "() => {{ document.dispatchEvent(new CustomEvent('reprise:{}', {{ detail: '{}' }})) }}"
"""Notifies script.js of something in a tab."""


class PromptArea:
    """Renders the prompts where it is created, the panel where `inspector` is called; call `wire` when the form is
    complete.
    """

    def __init__(
        self, page: Page, form: Form[GenerationParams], tab: str, wanted: str = "What should be in the picture"
    ):
        self._services, self._form, self._tab = page.services, form, tab
        self._book = StyleBook(page.services.styles_path)
        self._loads, self._doors = page.loads, page.style_doors
        self._boxes = {field: f"{tab}_{name}" for field, name in BOXES.items()}
        self._lines = [
            self._box("prompt", t(wanted), lines=3, max_lines=9),
            self._box("negative_prompt", t("What should not be in it"), lines=2, max_lines=6),
        ]
        with gr.Row(elem_classes="rp-prompt-tools"):
            gr.HTML(toggle_html(f"{tab}_inspector"), elem_classes="rp-toggle-home", padding=False)
            self.styles = gr.Dropdown(
                self._names(),
                multiselect=True,
                show_label=False,
                label="Styles",
                container=False,
                elem_id=f"{tab}_styles",
                elem_classes="rp-styles",
                min_width=120,
                scale=1,
            )
            self._apply, self._find, self._edit = (
                gr.Button(label, elem_id=f"{tab}_{name}", elem_classes="rp-tool", min_width=60, scale=0)
                for label, name in (
                    (t("Apply"), "styles_apply"),
                    (t("Find styles in the prompts"), "styles_find"),
                    (t("Edit styles"), "styles_edit"),
                )
            )
            gr.HTML(opener_html(tab), elem_classes="rp-toggle-home", padding=False)
        self._note = gr.HTML(note_html(""), elem_id=f"{tab}_styles_note", padding=False)

    def _box(self, field: str, placeholder: str, **size: Any) -> Any:
        self._form.add(field, elem_id=self._boxes[field], placeholder=placeholder, **size)
        begins = self._tab == "txt2img" and field == "prompt"
        if begins and (card := self._services.card(self._form["checkpoint"].value or "")).examples:
            gr.HTML(
                examples_html(card.name, self._tab, card.examples),
                elem_classes="rp-first-home",
                padding=False,
                apply_default_css=False,
            )
        return gr.HTML(line_html(EMPTY, self._boxes[field]), elem_id=f"{self._boxes[field]}_line", padding=False)

    def inspector(self) -> None:
        """Render the inspector panel here."""
        tab = self._tab
        self._panel = gr.HTML("", elem_id=f"{tab}_inspector", elem_classes="rp-inspector-home", padding=False)
        self._ask = gr.Button("Inspect", visible="hidden", elem_id=f"{tab}_inspect")
        self._open = gr.Textbox(visible="hidden")

    def wire(self) -> None:
        form, prompts = self._form, [self._form["prompt"], self._form["negative_prompt"]]
        read = [form[name] for name in form.names if name in READ]
        changes = [one.change for one in (*read, self.styles) if not isinstance(one, Field)]  # these tell it themselves
        gr.on(changes, None, js=TELL.format("form", self._tab), **QUIET)
        asked = self._ask.click(
            self._inspect,
            [self._open, *form.inputs, self.styles],
            [*self._lines, self._panel],
            js=IS_OPEN,
            trigger_mode="always_last",
            **AT_ONCE,
        )
        asked.then(None, js=TELL.format("inspected", self._tab), **QUIET)
        texts = [*prompts, self.styles]
        self._apply.click(self._on_apply, texts, [*texts, self._note], **AT_ONCE)
        self._find.click(self._on_find, texts, [*texts, self._note], **AT_ONCE)
        self._doors.append(StyleDoor(self._edit, self.styles, prompts))
        self._loads.append(Load(lambda request: gr.update(choices=self._names()), (), [self.styles]))

    def styled(self, params: GenerationParams, names: Any) -> GenerationParams:
        """``params`` with the chosen styles merged into the prompts."""
        prompt, negative = apply(self._chosen(names), params.prompt, params.negative_prompt)
        return params.changed(prompt=prompt, negative_prompt=negative)

    def _chosen(self, names: Any) -> list[Style]:
        return self._book.chosen(name for name in names or () if isinstance(name, str))

    def _names(self) -> list[str]:
        try:
            return [style.name for style in self._book.styles()]
        except UserError:
            return []

    # What the inspector shows

    def _inspect(self, is_open: Any, *values: Any) -> list[Any]:
        *given, names = values
        try:
            params = self._read(given)
            merged = self.styled(params, names)
            services, name = self._services, merged.checkpoint
            explained = explain_request(merged, services.host, services.embeddings(name), services.network_family(name))
        except RepriseError as error:
            at_fault = error.field if error.field in self._boxes else "prompt"
            lines = [trouble_html(str(error) if field == at_fault else "") for field in self._boxes]
            return [*lines, gr.skip()]
        unseen = never_seen(params.prompt, services.card(name).words)
        quiet = {"prompt": f"{t('The model has never seen')} {', '.join(unseen)}" if unseen else ""}
        places = {field: place(getattr(params, field), getattr(merged, field)) for field in self._boxes}
        lines = [
            line_html(explained[field], box, *places[field], quiet.get(field, "")) for field, box in self._boxes.items()
        ]
        return [*lines, inspector_html(explained, self._boxes, places) if is_open else gr.skip()]

    def _read(self, given: Sequence[Any]) -> GenerationParams:
        """The request, as far as it can be read while somebody is typing."""
        good: dict[str, Any] = {}
        for name, value in self._form.named(given).items():
            option = self._form.options.get(name)
            try:
                good[name] = option.cast(value) if option else value  # else a switch
            except UserError:
                if name in NEEDED:
                    raise
        return self._form.read_named(good).changed(init=None)  # a prompt means the same over any picture

    # Styles

    def _on_apply(self, prompt: Any, negative: Any, names: Any) -> list[Any]:
        try:
            merged = apply(self._chosen(names), str(prompt or ""), str(negative or ""))
        except UserError as error:
            return [gr.skip(), gr.skip(), gr.skip(), note_html(str(error))]
        return [*merged, [], note_html("" if names else "Choose a style first; they are used at Generate anyway.")]

    def _on_find(self, prompt: Any, negative: Any, names: Any) -> list[Any]:
        try:
            styles = [style for style in self._book.styles() if style.name not in (names or ())]
        except UserError as error:
            return [gr.skip(), gr.skip(), gr.skip(), note_html(str(error))]
        found, bare, bare_negative = find(styles, str(prompt or ""), str(negative or ""))
        if not found:
            return [gr.skip(), gr.skip(), gr.skip(), note_html("None of the styles stands in these prompts.")]
        # What is found now lies inside of what was chosen before, and so is applied before it.
        return [bare, bare_negative, [*found, *(names or ())], note_html("")]


def never_seen(prompt: str, known: Collection[str], most: int = 6) -> list[str]:
    """The words of a prompt that are not among those a model was trained with; none where these are not told.

    >>> never_seen("a (red apple:1.2) on a wooden table <lora:x:1>", {"a", "red", "apple", "on"})
    ['wooden', 'table']
    """
    text = re.sub(r"<[^>]*>", " ", uncommented(prompt)).lower()
    words = dict.fromkeys(re.findall(r"[^\W\d_]+(?:[-'][^\W_]+)*", text)) if known else {}
    return [word for word in words if word not in known and word not in ("and", "break")][:most]


def place(own: str, merged: str) -> tuple[int, int]:
    """Where the user's ``own`` text is in the ``merged`` prompt: offset of its first character, and length.

    >>> place("a cat", "photo of a cat, grainy")
    (9, 5)
    """
    if own == merged:
        return 0, len(own)
    text = uncommented(own).strip()
    return merged.find(text) - (len(own) - len(own.lstrip())), len(own)
