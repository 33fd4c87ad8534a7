"""HTML of the panel of networks: its frame, its cards, its folders, and a card in full. Every value is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from modules.checkpoints.networks.cards import CHECKPOINT, EMBEDDING, SORTS, Card, FilePage
from modules.checkpoints.networks.library import Details, edited, has_preview
from modules.checkpoints.networks.metadata import FAMILIES, UNKNOWN
from modules.checkpoints.networks.shelf import HYPERNETWORK, LORA
from modules.checkpoints.vaes import AUTOMATIC, OWN
from webui.html.cards import size
from webui.i18n import t

KINDS = {
    LORA: t("LoRA"),
    HYPERNETWORK: t("Hypernetworks"),
    EMBEDDING: t("Embeddings"),
    CHECKPOINT: t("Checkpoints"),
}
EMPTY = {
    LORA: t("There is no LoRA in models/Lora or models/LyCORIS yet."),
    HYPERNETWORK: t("There is no hypernetwork in models/hypernetworks yet."),
    EMBEDDING: t("There are no embeddings in models/embeddings yet."),
    CHECKPOINT: t("There is no checkpoint in models/Stable-diffusion yet."),
}
LABELS = {
    "description": t("Description"),
    "notes": t("Notes"),
    "family": t("For models of"),
    "activation_text": t("Words behind the tag"),
    "negative_text": t("Words for the negative prompt"),
    "preferred_weight": t("Preferred weight"),
    "vae": t("VAE for this checkpoint"),
}
"""Fields that a person may change, in their order."""
ORDERS = {"Path": t("By folder"), "Name": t("By name"), "Newest": t("Newest first")}
SHOWN_WORDS = 24
MEANT = t("Two files have this name: rename one of them. In prompts it means")


def empty(kind: str, page: FilePage | None) -> str:
    """What is said where a kind has no files."""
    if page:
        return f"{t('There are no files here yet. Their folder:')} models/{page.name}"
    return EMPTY[kind]


def panel_html(pages: Sequence[FilePage] = ()) -> str:
    """The panel as it is before anything is listed. It stays hidden until a button beside a prompt opens it. ``pages``:
    tabs of extensions.
    """
    kinds = {**KINDS, **{page.kind: page.label for page in pages}}
    tabs = "".join(
        f'<button type="button" role="tab" data-kind="{kind}" id="rp_networks_{kind}" aria-controls="rp_networks_list" '
        f'aria-selected="{"true" if kind == LORA else "false"}" tabindex="{0 if kind == LORA else -1}">'
        f"{escape(label)}</button>"
        for kind, label in kinds.items()
    )
    sorts = "".join(f'<option value="{name}">{escape(ORDERS[name])}</option>' for name in SORTS)
    search = escape(t("Name, word or folder"))
    return (
        f'<section id="rp_networks" class="rp-drawer" role="dialog" aria-label="{_t("Networks")}" hidden>'
        f'<header><h2>{_t("Networks")}</h2><div role="tablist" aria-label="{_t("Kind")}">{tabs}</div>'
        f'<button type="button" class="rp-net-close" aria-label="{_t("Close")}" title="{_t("Close")}">✕</button>'
        "</header>"
        f'<div class="rp-net-find"><input type="search" placeholder="{search}" aria-label="{_t("Search networks")}">'
        f'<label><input type="checkbox" checked><span>{_t("Only what fits")}</span></label>'
        f'<select aria-label="{_t("Order")}">{sorts}</select></div>'
        f'<div class="rp-net-body" id="rp_networks_list" role="tabpanel" aria-labelledby="rp_networks_{LORA}">'
        f'<nav aria-label="{_t("Folders")}"></nav><div class="rp-net-scroll"><ul class="rp-net-cards"></ul></div></div>'
        '<div class="rp-net-details" hidden></div>'
        f'<footer><span role="status"></span><button type="button" class="rp-net-again">{_t("Read folders again")}'
        "</button></footer></section>"
    )


def opener_html(tab: str) -> str:
    """The button beside a tab's prompts that opens the panel."""
    return (
        f'<button type="button" class="rp-networks-open" id="{tab}_networks_open" aria-expanded="false" '
        f'aria-controls="rp_networks">{_t("Networks")}</button>'
    )


def cards_html(cards: Iterable[Card], family: str) -> str:
    """Cards as list items. ``family``: of the chosen checkpoint."""
    return "".join(_card(card, family) for card in cards)


def _card(card: Card, family: str) -> str:
    name, fitting = escape(card.name), fits(card, family)
    verb = t("Choose") if card.role == CHECKPOINT or card.option else t("Write")
    option = f' data-option="{escape(card.option)}"' if card.option else ""
    state = "" if fitting else " does-not-fit"
    if card.file.described.problem:
        state += " is-broken"
    return (
        f'<li class="rp-net{state}" data-kind="{card.role}" data-key="{card.key}" data-name="{name}"{option} '
        f'data-insert="{escape(card.insertion.text)}" data-negative="{escape(card.insertion.negative)}">'
        f'<button type="button" class="rp-net-use" aria-pressed="false" tabindex="-1">'
        f'<span class="rp-net-picture">{picture_html(card)}{_badge(card, fitting)}</span>'
        f'<span class="rp-out">{escape(verb)}</span> <b translate="no">{name}</b>{_words(card)}</button>'
        f'<button type="button" class="rp-net-about" tabindex="-1" aria-label="{_t("About")} {name}" '
        f'title="{_t("Details")}">i</button>{_weight(card)}</li>'
    )


def picture_html(card: Card) -> str:
    """A card's preview, or its first letter."""
    if not has_preview(card):
        letter = next((letter for letter in card.name if letter.isalnum()), "?").upper()
        return f'<span class="rp-net-letter" aria-hidden="true" translate="no">{escape(letter)}</span>'
    return f'<img alt="" loading="lazy" decoding="async" src="{preview_url(card)}">'


def preview_url(card: Card) -> str:
    """Where a card's preview is; another one has another address."""
    version = card.preview_ns or card.file.mtime_ns
    return f"api/v1/networks/{card.role}/{card.key}/preview?v={version:x}"


def _badge(card: Card, fitting: bool) -> str:
    if card.file.described.problem:
        return f'<span class="rp-net-badge is-bad">{_t("cannot be read")}</span>'
    if card.meant:
        return f'<span class="rp-net-badge is-bad" title="{escape(card.meant)}">{_t("another file is meant")}</span>'
    if not fitting:
        return (
            f'<span class="rp-net-badge is-bad"><i translate="no">{escape(card.family)}</i> {_t("does not fit")}</span>'
        )
    known = card.family not in ("", UNKNOWN)
    return f'<span class="rp-net-badge" translate="no">{escape(card.family)}</span>' if known else ""


def fits(card: Card, family: str) -> bool:
    """Whether a card can be used beside the chosen checkpoint; a checkpoint always can."""
    return card.role == CHECKPOINT or not family or card.family in ("", UNKNOWN, family)


def _words(card: Card) -> str:
    words = ", ".join(card.trigger_words) or card.description.partition("\n")[0]
    return f'<small translate="no">{escape(words[:120])}</small>'


def _weight(card: Card) -> str:
    if not card.weight:
        return ""
    label, value = f"{_t('Weight of')} {escape(card.name)}", f"{card.weight:g}"
    return (
        f'<span class="rp-net-weight"><input type="range" min="0" max="2" step="0.05" value="{value}" tabindex="-1" '
        f'aria-label="{label}"><input type="number" step="0.05" value="{value}" tabindex="-1" aria-label="{label}">'
        "</span>"
    )


# ----------------------------------------------------------------------------------------------------- the folders


def folders_html(cards: Sequence[Card], chosen: str, family: str = "") -> str:
    """The folders as a tree, open as far as the chosen one; empty where all cards lie in one. ``family``: of the models
    that the counted cards fit; empty: all count.
    """
    counts: dict[str, int] = {}
    for card in cards:
        parts = card.folder.split("/")
        if not card.is_hidden:
            for depth in range(1, len(parts) + 1):
                path = "/".join(parts[:depth])
                counts[path] = counts.get(path, 0) + fits(card, family)
    if len(counts) < 2:
        return ""
    every = _folder("", t("All"), sum(not card.is_hidden and fits(card, family) for card in cards), 0, chosen == "")
    shown = [path for path in sorted(counts, key=str.lower) if _is_open(path, chosen)]
    rows = (_folder(p, p.rpartition("/")[2], counts[p], 1 + p.count("/"), p == chosen) for p in shown)
    return every + "".join(rows)


def _is_open(path: str, chosen: str) -> bool:
    """Roots and what lies directly below them; deeper ones below the chosen folder and around it."""
    above = path.rpartition("/")[0]
    return above.count("/") == 0 or f"{chosen}/".startswith(f"{above}/")


def _folder(path: str, label: str, count: int, depth: int, current: bool) -> str:
    name = f"<span>{escape(label)}</span>" if not path else f'<span translate="no">{escape(label)}</span>'
    return (
        f'<button type="button" data-folder="{escape(path)}" style="--depth:{depth}"'
        f"{' aria-current=true' if current else ''}>{name} <small>{count}</small></button>"
    )


# ------------------------------------------------------------------------------------------------- a card in full


def details_html(card: Card, details: Details, *, may_edit: bool, vaes: Sequence[str] = ()) -> str:
    """All that is known of a card, and what may be changed. ``vaes``: the choices of a checkpoint."""
    facts = {
        t("File"): f"{card.folder}/{card.file.path.name}",
        t("Size"): size(card.file.size),
        t("For models of"): card.family,
        t("Hash"): card.hash,
        t("Version"): " · ".join(
            filter(None, (card.downloaded.name, card.downloaded.version, card.downloaded.base_model))
        ),
        t("Kind"): ", ".join(card.file.described.kinds),
        t("With embeddings"): ", ".join(card.file.described.embeddings),
    }
    rows = "".join(_fact(label, value) for label, value in facts.items() if value)
    rows += "".join(_fact(fact.label.rstrip(":"), str(fact.value), fact.whole) for fact in details.facts)
    others = "".join(_fact(key.removeprefix("modelspec."), text, key=True) for key, text in details.metadata.items())
    problem = card.file.described.problem
    other = f'<p class="rp-net-problem">{_t(MEANT)} <span translate="no">{escape(card.meant)}</span></p>'
    return (
        f'<div class="rp-net-top"><button type="button" class="rp-net-back">{_t("← Back")}</button>'
        f'<h3 translate="no">{escape(card.name)}</h3></div>'
        + (f'<p class="rp-net-problem" role="alert" translate="no">{escape(problem)}</p>' if problem else "")
        + (other if card.meant else "")
        + f'<div class="rp-net-about-it"><div class="rp-net-picture">{picture_html(card)}</div>'
        f'<dl class="rp-net-facts">{rows}</dl></div>'
        + (_preview_buttons() if may_edit else "")
        + _chips(t("Trigger words"), ((word, 0) for word in card.downloaded.trained_words))
        + _prompt(card)
        + _form(card, vaes, may_edit)
        + _chips(t("Words of the training set"), details.tags)
        + _long(t("Downloader's description"), card.downloaded.description)
        + (f"<details><summary>{_t('More from the file')}</summary><dl>{others}</dl></details>" if others else "")
    )


def _fact(label: str, value: str, whole: str = "", *, key: bool = False) -> str:
    title = f' title="{escape(whole)}"' if whole else ""
    kept = ' translate="no"' if key else ""
    return f'<dt{kept}>{escape(label)}</dt><dd translate="no"{title}>{escape(value)}</dd>'


def _chips(label: str, words: Iterable[tuple[str, int]]) -> str:
    """Words that a click writes behind the prompt, with their counts; what is rare is folded away."""
    chips = [
        f'<button type="button" class="rp-net-word" translate="no" data-word="{escape(word)}">{escape(word)}'
        f"{f'<small>{count:,}</small>' if count else ''}</button>"
        for word, count in words
        if word
    ]
    if not chips:
        return ""
    first, rest = "".join(chips[:SHOWN_WORDS]), "".join(chips[SHOWN_WORDS:])
    more = f"<details><summary>{_t('More words')}</summary><div>{rest}</div></details>" if rest else ""
    return f'<div class="rp-net-words"><h4>{escape(label)}</h4><div>{first}</div>{more}</div>'


def _prompt(card: Card) -> str:
    positive, negative = card.downloaded.prompts
    if not positive:
        return ""
    return (
        f'<div class="rp-net-words"><h4>{_t("Prompt of its first picture")}</h4>'
        f'<p translate="no">{escape(positive)}</p><button type="button" class="rp-net-prompt" '
        f'data-word="{escape(positive)}" data-negative="{escape(negative)}">'
        f"{_t('Take it')}</button></div>"
    )


def _long(label: str, text: str) -> str:
    return (
        f'<details><summary>{escape(label)}</summary><p class="rp-net-long" translate="no">{escape(text)}</p></details>'
        if text
        else ""
    )


def _preview_buttons() -> str:
    return (
        '<div class="rp-net-row"><button type="button" class="rp-net-keep">'
        f'{_t("Save the picture in view as preview")}</button><label class="rp-net-file">'
        f'{_t("Choose a file as preview")}<input type="file" accept="image/*"></label></div>'
    )


def _form(card: Card, vaes: Sequence[str], may_edit: bool) -> str:
    fields = "".join(_field(card, name, vaes, may_edit) for name in LABELS if name in edited(card.role))
    save = f'<button type="submit" class="rp-net-save">{_t("Save")}</button>' if may_edit else ""
    why = "" if may_edit else f"<p>{_t('Only an administrator can change what everybody sees.')}</p>"
    row = f'<div class="rp-net-row">{save}<span role="status"></span></div>'
    return f'<form class="rp-net-form" novalidate>{fields}{row}{why}</form>'


def _field(card: Card, name: str, vaes: Sequence[str], may_edit: bool) -> str:
    value = card.description if name == "description" else getattr(card.user, name)
    off = "" if may_edit else " disabled"
    if name == "preferred_weight":
        shown = f"{value:g}" if value else ""  # none: a click writes the default one
        box = f'<input name="{name}" type="number" step="0.05" value="{shown}" placeholder="{card.weight:g}"{off}>'
    elif name == "family":
        box = _select(name, {"": t("as the file says"), **{family: family for family in FAMILIES}}, value, off)
    elif name == "vae":
        choices = {"": t("nothing is said"), AUTOMATIC: t(AUTOMATIC), OWN: t("the checkpoint's own")}
        box = _select(name, {**choices, **{vae: vae for vae in (*vaes, value) if vae not in choices}}, value, off)
    else:
        rows = 3 if name in ("description", "notes") else 1
        box = f'<textarea name="{name}" rows="{rows}"{off}>{escape(value)}</textarea>'
    return f"<label>{escape(LABELS[name])}{box}</label>"


def _select(name: str, choices: dict[str, str], value: str, off: str) -> str:
    options = "".join(
        f'<option value="{escape(key)}"{" selected" if key == value else ""}>{escape(label)}</option>'
        for key, label in choices.items()
    )
    return f'<select name="{name}"{off}>{options}</select>'


def _t(text: str) -> str:
    return escape(t(text))
