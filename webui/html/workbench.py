"""HTML of the workbench around the tabs: what was made last, and the search over a tab's parameters."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

from webui.forms import Form
from webui.i18n import t


def strip_html() -> str:
    """The strip of the last pictures of all tabs, which the page's script fills."""
    return (
        f'<aside id="rp_strip" aria-label="{escape(t("Recent"))}"><header><b>{escape(t("Recent"))}</b>'
        f'<button type="button" class="rp-strip-fold" aria-expanded="true" aria-label="{escape(t("Recent pictures"))}" '
        f'title="{escape(t("Recent pictures"))}">»</button></header><div class="rp-strip-list"></div></aside>'
    )


def find_html(form: Form[Any], tab: str) -> str:
    """The search over the parameters of a tab, with everything that it can find."""
    index = [list(entry) for entry in findable(form, tab)]
    return (
        f'<div class="rp-find" data-index="{escape(json.dumps(index, ensure_ascii=False))}">'
        f'<input type="search" id="{tab}_find" role="combobox" aria-expanded="false" aria-controls="{tab}_found" '
        f'autocomplete="off" placeholder="{escape(t("Find a setting"))}" aria-label="{escape(t("Find a setting"))}">'
        f'<ul id="{tab}_found" role="listbox" aria-label="{escape(t("Settings"))}" hidden></ul></div>'
    )


def findable(form: Form[Any], tab: str) -> Iterator[tuple[str, str, str, list[str]]]:
    """Each parameter: its element, its label, further words by which it is known, and the folds around it, from the
    outermost.
    """
    for name in form.names:
        component = form[name]
        place = str(getattr(component, "elem_id", "") or "")
        if name in form.shared or not place.startswith(f"{tab}_") or component.visible == "hidden":
            continue
        option = form.options.get(name)
        words = (name.replace("_", " "), option.key or "", option.help or "") if option else (name,)
        yield place, str(component.label), " ".join(words).strip(), list(_folds(component))


def _folds(component: Any) -> Iterable[str]:
    """The ids of the folds around a component, from the outermost."""
    found: list[str] = []
    parent = component.parent
    while parent is not None:
        if parent.get_block_name() == "accordion":
            found.insert(0, str(parent.elem_id or ""))
        parent = parent.parent
    return found
