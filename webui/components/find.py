"""The search over the parameters of a tab."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import gradio as gr

from webui.fields import Field
from webui.forms import Form
from webui.html.workbench import find_html


class Find:
    """Rendered where it is created; call `fill` when the form is complete."""

    def __init__(self, tab: str):
        self._tab = tab
        self._place = gr.HTML("", elem_classes="rp-find-home", padding=False)

    def fill(self, form: Form[Any]) -> None:
        self._place.value = find_html(findable(form, self._tab), self._tab)


def findable(form: Form[Any], tab: str) -> Iterator[tuple[str, str, str, list[str]]]:
    """Each parameter: its element, its label, further words by which it is known, and the folds around it, from the
    outermost.
    """
    for name in form.names:
        component = form[name]
        if isinstance(component, Field):
            yield component.elem_id, component.label, _words(form, name), list(component.folds)
            continue
        place = str(getattr(component, "elem_id", "") or "")
        if name in form.shared or not place.startswith(f"{tab}_") or component.visible == "hidden":
            continue
        yield place, str(component.label), _words(form, name), list(_folds(component))


def _words(form: Form[Any], name: str) -> str:
    """What a parameter is also known by."""
    option = form.options.get(name)
    words = (name.replace("_", " "), option.key or "", option.help or "") if option else (name,)
    return " ".join(words).strip()


def _folds(component: Any) -> Iterable[str]:
    """The ids of the folds around a component, from the outermost."""
    found: list[str] = []
    parent = component.parent
    while parent is not None:
        if parent.get_block_name() == "accordion":
            found.insert(0, str(parent.elem_id or ""))
        parent = parent.parent
    return found
