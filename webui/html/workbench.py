"""HTML of the workbench around the tabs: what was made last, and the search over a tab's parameters."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from webui.i18n import t


def strip_html() -> str:
    """The strip of the last pictures of all tabs, which the page's script fills."""
    return (
        f'<aside id="rp_strip" aria-label="{escape(t("Recent"))}"><header><b>{escape(t("Recent"))}</b>'
        f'<button type="button" class="rp-strip-fold" aria-expanded="true" aria-label="{escape(t("Recent pictures"))}" '
        f'title="{escape(t("Recent pictures"))}">»</button></header><div class="rp-strip-list"></div></aside>'
    )


def find_html(index: Iterable[Sequence[Any]], tab: str) -> str:
    """The search over the parameters of a tab, with everything that it can find."""
    return (
        f'<div class="rp-find" data-index="{escape(json.dumps(list(index), ensure_ascii=False))}">'
        f'<input type="search" id="{tab}_find" role="combobox" aria-expanded="false" aria-controls="{tab}_found" '
        f'autocomplete="off" placeholder="{escape(t("Find a setting"))}" aria-label="{escape(t("Find a setting"))}">'
        f'<ul id="{tab}_found" role="listbox" aria-label="{escape(t("Settings"))}" hidden></ul></div>'
    )
