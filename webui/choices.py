"""The choices of dropdowns in the visitor's language, told by the server: the chosen one is shown as a value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from webui.i18n import Catalogue, language_of
from webui.loading import Load


def choices_of(blocks: Any, catalogues: Mapping[str, Catalogue]) -> list[Load]:
    """Dropdowns all of whose choices are words of a catalogue show them in the language of the visitor; names of models
    and styles stay as they are. The value that a handler receives is English in any language."""
    found = [
        component
        for component in blocks.blocks.values()
        if isinstance(component, (gr.Dropdown, gr.Radio, gr.CheckboxGroup))
        and any(_told(component, catalogue) for catalogue in catalogues.values())
    ]

    def on_load(request: gr.Request) -> list[Any]:
        language = language_of(request.headers.get("accept-language", ""), catalogues)
        if language is None:
            return [gr.skip()] * len(found)
        return [gr.update(choices=_told(component, catalogues[language])) for component in found]

    return [Load(on_load, (), found)] if found else []


def _told(component: Any, catalogue: Catalogue) -> list[tuple[str, Any]] | None:
    """The choices with their words in the catalogue's language; None where they are not all words."""
    told = [(catalogue.find(name) if name else "", value) for name, value in component.choices]
    if not told or any(name is None for name, _ in told):
        return None
    return [(str(name), value) for name, value in told]
