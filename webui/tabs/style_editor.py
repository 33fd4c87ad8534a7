"""The styles editor of a prompt area: view, change, rename, add and delete styles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from modules.errors import RepriseError, UserError
from modules.prompt.styles import Style, StyleBook
from webui.events import AT_ONCE
from webui.html.inspector import note_html
from webui.i18n import t

NEW = ""
"""ModifierOptions where no style is: what is saved then is a new one."""


class StyleEditor:
    """Hidden until its button is clicked. ``chooser`` is the list of styles beside the prompts."""

    def __init__(self, book: StyleBook, tab: str):
        self._book, self._tab = book, tab
        with gr.Column(visible=False, elem_classes="rp-editor", elem_id=f"{tab}_style_editor") as self.panel:
            with gr.Row():
                self._chosen = gr.Dropdown(
                    self._choices(), value=NEW, label=t("Style"), elem_id=f"{tab}_style_chosen", min_width=160
                )
                self._name = self._text("name", t("Name"), lines=1)
            self._prompt = self._text("prompt", t("Prompt"), t("{prompt} stands for your own words"), lines=2)
            self._negative = self._text("negative", t("Negative prompt"), lines=2)
            with gr.Row(elem_classes="rp-prompt-tools"):
                self._save, self._take, self._delete, self._close = (
                    self._button(name, label)
                    for name, label in (
                        ("save", t("Save")),
                        ("take", t("Take the prompts")),
                        ("delete", t("Delete")),
                        ("close", t("Close")),
                    )
                )
            with gr.Row(visible=False, elem_classes="rp-prompt-tools", elem_id=f"{tab}_style_sure") as self._sure:
                self._question = gr.HTML("", elem_id=f"{tab}_style_question", padding=False)
                self._really, self._keep = self._button("really", t("Delete it")), self._button("keep", t("Keep it"))
            self._note = gr.HTML(note_html(""), elem_id=f"{tab}_style_note", padding=False)

    def _text(self, name: str, label: str, placeholder: str | None = None, **size: Any) -> Any:
        elem_id = f"{self._tab}_style_{name}"
        return gr.Textbox(label=label, placeholder=placeholder, elem_id=elem_id, min_width=160, **size)

    def _button(self, name: str, label: str) -> Any:
        elem_id = f"{self._tab}_style_{name}"
        return gr.Button(label, elem_id=elem_id, elem_classes="rp-tool", min_width=60, scale=0)

    def wire(self, opener: Any, chooser: Any, prompts: Sequence[Any]) -> None:
        """Wire the editor: ``opener`` opens and closes it; ``prompts`` are the boxes from which a new style can be
        taken.
        """
        texts = [self._name, self._prompt, self._negative]
        after = [chooser, self._chosen, *texts, self._note, self._sure]
        opener.click(self._on_open, chooser, [self.panel, self._chosen, *texts, self._note, self._sure], **AT_ONCE)
        self._chosen.input(self._on_chosen, self._chosen, [*texts, self._note, self._sure], **AT_ONCE)
        self._take.click(lambda *given: given, list(prompts), [self._prompt, self._negative], **AT_ONCE)
        self._save.click(self._on_save, [self._chosen, *texts, chooser], after, **AT_ONCE)
        self._delete.click(self._on_delete, self._chosen, [self._sure, self._question, self._note], **AT_ONCE)
        self._really.click(self._on_really, [self._chosen, chooser], after, **AT_ONCE)
        self._keep.click(lambda: gr.update(visible=False), None, self._sure, **AT_ONCE)
        self._close.click(lambda: gr.update(visible=False), None, self.panel, **AT_ONCE)

    def _styles(self) -> dict[str, Style]:
        try:
            return {style.name: style for style in self._book.styles()}
        except UserError:
            return {}

    def _choices(self) -> list[tuple[str, str]]:
        return [(t("New style"), NEW), *((name, name) for name in self._styles())]

    def _shown(self, name: str) -> list[Any]:
        return list(self._styles().get(name, Style("")))

    def _on_open(self, chosen: Any) -> list[Any]:
        """Open with the first style that is chosen beside the prompts."""
        name = next((name for name in chosen or () if name in self._styles()), NEW)
        listed = gr.update(choices=self._choices(), value=name)
        return [
            gr.update(visible=True),
            listed,
            *self._shown(name),
            note_html(self._trouble()),
            gr.update(visible=False),
        ]

    def _trouble(self) -> str:
        """The error message if the file cannot be read."""
        try:
            self._book.styles()
        except UserError as error:
            return str(error)
        return ""

    def _on_chosen(self, name: Any) -> list[Any]:
        return [*self._shown(str(name or NEW)), note_html(""), gr.update(visible=False)]

    def _on_save(self, chosen: Any, name: Any, prompt: Any, negative: Any, used: Any) -> list[Any]:
        try:
            style = Style(str(name or ""), str(prompt or ""), str(negative or ""))
            saved = self._book.change(str(chosen), style) if chosen else self._book.add(style)
        except RepriseError as error:
            return [*[gr.skip()] * 5, note_html(str(error)), gr.skip()]
        names = [saved.name if one == chosen else one for one in used or ()]
        return self._after(saved.name, names, t("The style is saved."))

    def _on_delete(self, chosen: Any) -> list[Any]:
        if not chosen:
            return [gr.skip(), gr.skip(), note_html(t("Choose the style first."))]
        return [gr.update(visible=True), note_html(f"{t('Delete the style')} {chosen}?"), note_html("")]

    def _on_really(self, chosen: Any, used: Any) -> list[Any]:
        try:
            self._book.delete(str(chosen))
        except RepriseError as error:
            return [*[gr.skip()] * 5, note_html(str(error)), gr.update(visible=False)]
        names = [one for one in used or () if one != chosen]
        return self._after(NEW, names, t("The style is deleted."))

    def _after(self, name: str, used: list[Any], note: str) -> list[Any]:
        """Updates of the style list and the editor after a change."""
        chooser = gr.update(choices=list(self._styles()), value=used)
        listed = gr.update(choices=self._choices(), value=name)
        return [chooser, listed, *self._shown(name), note_html(note), gr.update(visible=False)]
