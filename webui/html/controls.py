"""HTML of the controls that are the page's own: one for each kind of option, and the folds and rows around them.

What a control holds is kept by `assets/fields.js`, which knows it by ``data-name``. A thousand of Gradio's components,
each of which the page looks for at every change, would take seconds to load.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from modules.params.options import Option
from webui.i18n import t

BOOL, NUMBER, TEXT, CHOICE = "bool", "number", "text", "choice"
"""Kinds of values: true or false, a number or null, a text, one of several texts."""
PICTURES = ("image", "mask")
"""Kinds of texts that name a stored picture."""


def kind_of(option: Option, choices: Sequence[str] | None) -> str:
    """What the control of an option holds. An optional number is a text, which may be empty; so is one with more digits
    than the page's numbers have.

    >>> from modules.params.generation import GenerationParams
    >>> from modules.params.options import options_of
    >>> kind_of(options_of(GenerationParams)["seed"], None)
    'text'
    """
    if choices is not None:
        return CHOICE
    if option.type is bool:
        return BOOL
    if option.type is str or option.optional or option.has_long_numbers:
        return TEXT
    return NUMBER


def shown_value(option: Option, choices: Sequence[str] | None, value: Any) -> Any:
    """``value`` as the control holds it."""
    kind = kind_of(option, choices)
    if kind == CHOICE:
        return value if value in (choices or ()) else next(iter(choices or ()), None)
    if kind == TEXT:
        return "" if value is None else str(value)
    return value


def control_html(
    option: Option,
    name: str,
    place: str,
    value: Any,
    choices: Sequence[str] | None,
    *,
    label: str = "",
    info: str | None = None,
    lines: int = 0,
    placeholder: str = "",
    css: str = "",
    enabled: bool = True,
) -> str:
    """The control of an option. ``place``: the id of its element; ``info``: a sentence below it, ``None`` for the
    option's own; ``lines``: the height of a text."""
    kind = kind_of(option, choices)
    label, told = label or t(option.label), t(option.help) if info is None else info
    described = f' aria-describedby="{place}_info"' if told else ""
    common = (
        f'id="{place}_input" data-name="{escape(name)}" autocomplete="off"{described}{"" if enabled else " disabled"}'
    )
    below = f'<small id="{place}_info">{escape(told)}</small>' if told else ""
    named = f'<label for="{place}_input" id="{place}_label">{escape(label)}</label>'
    classes = f"rp-field rp-is-{kind} {css}".strip()
    if kind == BOOL:
        checked = " checked" if value else ""
        inner = f'<label><input type="checkbox" {common}{checked}><span>{escape(label)}</span></label>{below}'
    elif kind == CHOICE:
        words = "" if isinstance(option.choices, tuple) else " translate=no"
        inner = f"{named}<select {common}{words}>{choices_html(choices or (), value)}</select>{below}"
    elif option.kind in PICTURES:
        inner = f"{named}{_picture(option, name, place)}{below}"
        classes += " rp-is-picture"
    elif kind == TEXT and (option.multiline or lines > 1):
        hint = f' placeholder="{escape(placeholder)}"' if placeholder else ""
        rows = lines or 3
        inner = f'{named}<textarea {common} rows="{rows}"{hint}>\n{escape(str(value))}</textarea>{below}'
        classes += " rp-multiline"
    elif kind == TEXT:
        placeholder = placeholder or (t("automatic") if option.optional else "")
        hint = f' placeholder="{escape(placeholder)}"' if placeholder else ""
        mode = ' inputmode="decimal"' if option.type is not str else ""
        secret = "password" if option.secret else "text"
        inner = f'{named}<input type="{secret}" {common} value="{escape(str(value))}"{hint}{mode}>{below}'
    else:
        inner = f"{named}{_number(option, common, place, value)}{below}"
        classes += " rp-slider" if _is_slider(option) else ""
    return f'<div class="{classes}" id="{place}" data-kind="{kind}">{inner}</div>'


def _picture(option: Option, name: str, place: str) -> str:
    """A place for a picture, which is stored at once; the control holds its name."""
    words = t("Choose a mask") if option.kind == "mask" else t("Choose a picture")
    return (
        f'<input type="hidden" data-name="{escape(name)}" value="">'
        f'<div class="rp-picture" data-drops id="{place}_picture">'
        f'<input type="file" accept="image/*" id="{place}_input" aria-label="{escape(f"{option.label}: {words}")}">'
        f'<span class="rp-picture-stored" id="{place}_picture_stored"></span>'
        f'<span class="rp-picture-said">{words}</span>'
        f'<button type="button" class="rp-tool" data-act="forget" hidden>{escape(t("Take out"))}</button></div>'
    )


def _is_slider(option: Option) -> bool:
    return None not in (option.lo, option.hi, option.step)


def _number(option: Option, common: str, place: str, value: Any) -> str:
    step = f"{option.step:g}" if option.step is not None else "1" if option.type is int else "any"
    ends = "".join(f' {side}="{end:.15g}"' for side, end in (("min", option.lo), ("max", option.hi)) if end is not None)
    box = f'<input type="number" {common} step="{step}"{ends} value="{value}">'
    if not _is_slider(option):
        return box
    return (
        f'<input type="range" aria-labelledby="{place}_label" tabindex="-1" step="{step}"{ends} value="{value}">{box}'
    )


def choices_html(choices: Sequence[str], value: Any) -> str:
    return "".join(
        f'<option value="{escape(choice)}"{" selected" if choice == value else ""}>{escape(choice or "–")}</option>'
        for choice in choices
    )


def choice_html(name: str, place: str, label: str, choices: Mapping[str, str], value: str) -> str:
    """A choice among values with their words; hidden where there is but one."""
    hidden = "" if len(choices) > 1 else " hidden"
    options = "".join(
        f'<option value="{escape(one)}"{" selected" if one == value else ""}>{escape(word)}</option>'
        for one, word in choices.items()
    )
    return (
        f'<div class="rp-field rp-is-choice" id="{place}" data-kind="{CHOICE}"{hidden}><label for="{place}_input">'
        f'{escape(label)}</label><select id="{place}_input" data-name="{escape(name)}" autocomplete="off">{options}'
        "</select></div>"
    )


def switch_html(name: str, place: str, label: str, info: str = "", *, value: bool = False) -> str:
    """The switch of a group of options, which stands in the header of its fold."""
    told = f"{label}; {info}" if info else label
    return (
        f'<span class="rp-field rp-switch" id="{place}" data-kind="{BOOL}" title="{escape(told)}">'
        f'<input type="checkbox" role="switch" id="{place}_input" data-name="{escape(name)}" '
        f'aria-label="{escape(label)}"{" checked" if value else ""}></span>'
    )


def fold_open_html(label: str, place: str, switch: str = "", css: str = "") -> str:
    """The beginning of a fold: its header, with what in it differs from the defaults, and a switch. `FOLD_END` ends
    it."""
    return (
        f'<section class="rp-fold {css}" id="{place}"><button type="button" class="label-wrap" aria-expanded="false" '
        f'aria-controls="{place}_body"><span>{escape(label)}</span></button><span class="rp-changed"></span>{switch}'
        f'<div class="rp-fold-body" id="{place}_body" hidden>'
    )


FOLD_END = "</div></section>"


def do_button(word: str, label: str, place: str, css: str = "rp-tool", title: str = "") -> str:
    """A button of the page's own; ``word`` says what `assets/fields.js` does."""
    told = f' title="{escape(title)}"' if title else ""
    return f'<button type="button" class="{css}" id="{place}" data-act="{word}"{told}>{escape(label)}</button>'
