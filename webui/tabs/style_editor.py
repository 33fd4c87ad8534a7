"""The styles editor: view, change, rename, add and delete styles. One serves all tabs, and lies over the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from modules.errors import RepriseError, UserError
from modules.prompt.styles import Style, StyleBook
from webui.events import AT_ONCE
from webui.html.inspector import note_html
from webui.i18n import t

NEW = ""
"""The choice where no style is: what is saved then is a new one."""
EDITOR = "rp_style"
"""The beginning of its elements' ids."""


@dataclass(frozen=True)
class StyleDoor:
    """Where a tab meets the editor: the button that opens it, the list of styles beside the prompts, and the two boxes
    from which a new style can be taken."""

    opener: Any
    chooser: Any
    prompts: Sequence[Any]


class StyleEditor:
    """Hidden until the button of a tab is clicked."""

    def __init__(self, book: StyleBook):
        self._book = book
        with gr.Column(visible=False, elem_classes="rp-editor rp-floating", elem_id=f"{EDITOR}_editor") as self.panel:
            with gr.Row():
                self._chosen = gr.Dropdown(
                    self._choices(), value=NEW, label=t("Style"), elem_id=f"{EDITOR}_chosen", min_width=160
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
            with gr.Row(visible=False, elem_classes="rp-prompt-tools", elem_id=f"{EDITOR}_sure") as self._sure:
                self._question = gr.HTML("", elem_id=f"{EDITOR}_question", padding=False)
                self._really, self._keep = self._button("really", t("Delete it")), self._button("keep", t("Keep it"))
            self._note = gr.HTML(note_html(""), elem_id=f"{EDITOR}_note", padding=False)
        self._door = gr.Textbox("0", visible="hidden")

    def _text(self, name: str, label: str, placeholder: str | None = None, **size: Any) -> Any:
        elem_id = f"{EDITOR}_{name}"
        return gr.Textbox(label=label, placeholder=placeholder, elem_id=elem_id, min_width=160, **size)

    def _button(self, name: str, label: str) -> Any:
        elem_id = f"{EDITOR}_{name}"
        return gr.Button(label, elem_id=elem_id, elem_classes="rp-tool", min_width=60, scale=0)

    def wire(self, doors: Sequence[StyleDoor]) -> None:
        """Wire the editor for the tabs with these doors."""
        texts = [self._name, self._prompt, self._negative]
        choosers = [door.chooser for door in doors]
        after = [*choosers, self._chosen, *texts, self._note, self._sure]
        opened = [self._door, self.panel, self._chosen, *texts, self._note, self._sure]
        for number, door in enumerate(doors):
            door.opener.click(self._opens(str(number)), door.chooser, opened, **AT_ONCE)
        self._chosen.input(self._on_chosen, self._chosen, [*texts, self._note, self._sure], **AT_ONCE)
        prompts = [box for door in doors for box in door.prompts]
        self._take.click(_taken, [self._door, *prompts], [self._prompt, self._negative], **AT_ONCE)
        self._save.click(self._on_save, [self._chosen, *texts, *choosers], after, **AT_ONCE)
        self._delete.click(self._on_delete, self._chosen, [self._sure, self._question, self._note], **AT_ONCE)
        self._really.click(self._on_really, [self._chosen, *choosers], after, **AT_ONCE)
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

    def _opens(self, door: str) -> Any:
        return lambda chosen: self._on_open(door, chosen)

    def _on_open(self, door: str, chosen: Any) -> list[Any]:
        """Open for that tab, with the first style that is chosen beside the prompts."""
        name = next((name for name in chosen or () if name in self._styles()), NEW)
        listed = gr.update(choices=self._choices(), value=name)
        return [
            door,
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

    def _on_save(self, chosen: Any, name: Any, prompt: Any, negative: Any, *used: Any) -> list[Any]:
        try:
            style = Style(str(name or ""), str(prompt or ""), str(negative or ""))
            saved = self._book.change(str(chosen), style) if chosen else self._book.add(style)
        except RepriseError as error:
            return [*[gr.skip()] * (4 + len(used)), note_html(str(error)), gr.skip()]
        names = [[saved.name if one == chosen else one for one in some or ()] for some in used]
        return self._after(saved.name, names, t("The style is saved."))

    def _on_delete(self, chosen: Any) -> list[Any]:
        if not chosen:
            return [gr.skip(), gr.skip(), note_html(t("Choose the style first."))]
        return [gr.update(visible=True), note_html(f"{t('Delete the style')} {chosen}?"), note_html("")]

    def _on_really(self, chosen: Any, *used: Any) -> list[Any]:
        try:
            self._book.delete(str(chosen))
        except RepriseError as error:
            return [*[gr.skip()] * (4 + len(used)), note_html(str(error)), gr.update(visible=False)]
        names = [[one for one in some or () if one != chosen] for some in used]
        return self._after(NEW, names, t("The style is deleted."))

    def _after(self, name: str, used: Sequence[list[Any]], note: str) -> list[Any]:
        """Updates of the lists of styles, ``used`` in each tab, and of the editor after a change."""
        choosers = [gr.update(choices=list(self._styles()), value=names) for names in used]
        listed = gr.update(choices=self._choices(), value=name)
        return [*choosers, listed, *self._shown(name), note_html(note), gr.update(visible=False)]


def _taken(door: Any, *prompts: Any) -> list[Any]:
    """The two prompts of the tab for which the editor was opened."""
    first = 2 * int(door) if str(door).isdigit() else 0
    return list(prompts[first : first + 2]) if first + 2 <= len(prompts) else [gr.skip()] * 2
