"""HTML of the Extensions tab. Everything that an extension says of itself is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from modules.extension.loader import Extension
from modules.extension.modifier import ModifierSpec
from modules.extension.page import Card
from webui.i18n import t

STATES = {
    "loaded": "at work",
    "disabled": "switched off",
    "refused": "refused",
    "broken": "broken",
    "left out": "left out",
}


def list_html(
    extensions: Iterable[Extension],
    failures: Mapping[str, Mapping[str, Any]],
    order: Iterable[ModifierSpec],
    *,
    safe_mode: bool = False,
) -> str:
    """All extensions with their states; ``failures``: the last failure of each in the worker, by modifier."""
    rows = "".join(_row(one, failures) for one in extensions)
    if not rows:
        return f'<p class="rp-ext-none">{escape(t("There is no extension in the folder."))}</p>'
    return f'{_banner() if safe_mode else ""}<ul class="rp-exts">{rows}</ul>{_order(order)}'


def failed_tab_html(label: str, reason: str, trace: str) -> str:
    """The placeholder of a tab that could not be built."""
    return _failed_html(t("This tab could not be built"), label, reason, trace)


def failed_part_html(label: str, reason: str, trace: str) -> str:
    """The placeholder of a modifier's or script's options that could not be built."""
    return _failed_html(t("This part of an extension could not be built"), label, reason, trace)


def _failed_html(words: str, label: str, reason: str, trace: str) -> str:
    return (
        f'<div class="rp-ext-failed" role="alert"><p>{escape(words)}: <b translate="no">{escape(label)}</b>, '
        f'<span translate="no">{escape(reason)}</span></p>{_trace(trace)}</div>'
    )


def cards_html(cards: Iterable[Card]) -> str:
    """A page of cards; extension_api.js filters it and takes clicks."""
    entries = "".join(
        f'<button type="button" data-name="{escape(f"{card.name} {card.description}".casefold())}" translate="no" '
        f'data-insert="{escape(card.insert)}" title="{escape(card.description)}">{escape(card.name)}</button>'
        for card in cards
    )
    if not entries:
        return f'<p class="rp-none">{escape(t("There are no cards."))}</p>'
    label = escape(t("Search"))
    return (
        f'<div class="rp-ext-cards"><input type="search" placeholder="{label}" aria-label="{label}">'
        f'<div class="rp-names">{entries}</div></div>'
    )


def _banner() -> str:
    text = t("Safe mode: two starts did not come to an end, so an extension was left out. Switch it off, or mend it.")
    return f'<p class="rp-ext-safe" role="alert">{escape(text)}</p>'


def _row(one: Extension, failures: Mapping[str, Mapping[str, Any]]) -> str:
    manifest = one.manifest
    facts = []
    if manifest and manifest.permissions:
        facts.append((t("May add"), ", ".join(sorted(manifest.permissions))))
    if one.added:
        facts.append((t("Added"), ", ".join(one.added)))
    if manifest and manifest.optional:
        facts.append((t("Can also use"), ", ".join(manifest.optional)))
    list_ = "".join(f'<dt>{escape(k)}</dt><dd translate="no">{escape(v)}</dd>' for k, v in facts)
    about = f'<p translate="no">{escape(manifest.description)}</p>' if manifest and manifest.description else ""
    reason = f'<p class="rp-ext-reason" translate="no">{escape(one.reason)}</p>' if one.reason else ""
    named = {name.partition(" ")[2] for name in one.added if name.startswith("modifier ")} | {one.name}
    failed = "".join(_failure(name, failures[name]) for name in sorted(named & failures.keys()))
    return (
        f'<li data-state="{escape(one.state)}" data-name="{escape(one.name)}"><h3 translate="no">{escape(one.name)} '
        f"<small>{escape(one.version)}</small></h3>"
        f'<span class="rp-ext-state">{escape(t(STATES[one.state]))}</span>{about}{reason}{_trace(one.traceback)}'
        f"{failed}<dl>{list_}</dl></li>"
    )


def _failure(name: str, one: Mapping[str, Any]) -> str:
    head = f"{t('Last failure')}: {name}, {one.get('hook')}: {one.get('reason')}"
    return f'<p class="rp-ext-reason" translate="no">{escape(head)}</p>{_trace(str(one.get("traceback") or ""))}'


def _trace(text: str) -> str:
    if not text:
        return ""
    return (
        f"<details><summary>{escape(t('Traceback'))}</summary>"
        f'<pre translate="no" tabindex="0">{escape(text)}</pre></details>'
    )


def _order(order: Iterable[ModifierSpec]) -> str:
    items = "".join(
        f'<li><span translate="no">{escape(spec.label)}</span> <small>{spec.order}</small></li>' for spec in order
    )
    if not items:
        return ""
    words = t("Those that take part in a picture work in this order, the first nearest to the network:")
    return f'<div class="rp-ext-order"><p>{escape(words)}</p><ol>{items}</ol></div>'
