"""HTML of model cards and the embeddings panel. Every value is escaped."""

from __future__ import annotations

from html import escape

from modules.checkpoints.catalogue import Card
from modules.checkpoints.embeddings import EmbeddingFile, Suited
from webui.i18n import t


def card_html(card: Card) -> str:
    """The model card below the header."""
    if card.problem:
        return f'<div class="rp-card" role="region" aria-label="{_t("Model card")}"><p>{escape(card.problem)}</p></div>'
    hashes = f"{card.sha256[:10]} · SHA-256 {card.sha256}" if card.sha256 else t("known once the model was used")
    predictions = {"eps": t("eps (the noise)"), "v": t("v (velocity)"), "": t("seen at first load")}
    facts = {
        t("File"): f"{card.file_name}, {size(card.nbytes)}",
        t("Family"): card.family,
        t("Native size"): f"{card.native_size} x {card.native_size}",
        t("Prediction"): predictions.get(card.prediction, card.prediction),
        t("Hash"): hashes,
    }
    if not card.own_vae:
        facts[t("VAE")] = t("not in the file: choose one")
    own = {key.removeprefix("modelspec."): text for key, text in card.metadata.items()}
    return (
        f'<div class="rp-card rp-facts" role="region" aria-label="{_t("Model card")}">'
        f'<h3 translate="no">{escape(card.name)}</h3>'
        f'<dl>{_rows(facts)}</dl><dl translate="no">{_rows(own)}</dl></div>'
    )


def _rows(facts: dict[str, str]) -> str:
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items())


def _t(text: str) -> str:
    return escape(t(text))


def size(nbytes: int) -> str:
    """A file size for people.

    >>> size(23_450_000), size(4_265_380_512), size(900)
    ('23.4 MB', '4.27 GB', '1 kB')
    """
    if nbytes >= 1e9:
        return f"{nbytes / 1e9:.2f} GB"
    return f"{nbytes / 1e6:.1f} MB" if nbytes >= 1e6 else f"{nbytes / 1e3:.0f} kB"


def embeddings_html(found: Suited) -> str:
    """The embeddings panel: a search box, a button for each usable one, and the others with the reason."""
    if not found.files and not found.skipped:
        return f'<div class="rp-embeddings"><p>{_t("There are no embeddings in models/embeddings yet.")}</p></div>'
    chips = "".join(map(_chip, found.files))
    others = "".join(
        f'<li data-name="{escape(name.casefold())}">'
        f'<span translate="no">{escape(name)}</span> <i>{escape(reason)}</i></li>'
        for name, reason in found.skipped.items()
    )
    rest = f"<details><summary>{_t('Not for this model')}: {len(found.skipped)}</summary><ul>{others}</ul></details>"
    return (
        '<div class="rp-embeddings">'
        f'<input type="search" placeholder="{_t("Search embeddings")}" aria-label="{_t("Search embeddings")}">'
        f'<div class="rp-names">{chips}</div>{rest if found.skipped else ""}</div>'
    )


def _chip(file: EmbeddingFile) -> str:
    facts = f"{file.count} vector" if file.count == 1 else f"{file.count} vectors"
    if file.checkpoint_name:
        facts += f", trained on {file.checkpoint_name}"
    return (
        f'<button type="button" data-name="{escape(file.name.casefold())}" data-insert="{escape(file.name)}"'
        f' title="{escape(facts)}" translate="no">{escape(file.name)}<small>{file.count}</small></button>'
    )
