"""HTML of model cards. Every value is escaped."""

from __future__ import annotations

from html import escape

from modules.checkpoints.catalogue import Card
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
