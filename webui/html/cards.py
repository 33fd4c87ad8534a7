"""HTML of model cards. Every value is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from html import escape

from PIL import Image

from modules.checkpoints.catalogue import Card
from modules.checkpoints.presets import Preset
from modules.errors import RepriseError
from modules.imaging.files import open_image
from modules.params.options import SHA256
from webui.i18n import t

MOST_TEXT = 2000
"""Letters of a description that a card shows."""
PREVIEW_SIDE, STORED_SIDE = 320, 96
"""Pixels of a preview, and of the picture that an option names."""


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
    if card.zero_terminal_snr:
        facts[t("Prediction")] += f", {t('zero terminal SNR')}"
    if not card.own_vae:
        facts[t("VAE")] = t("not in the file: choose one")
    if not card.own_text:
        facts[t("Text encoder")] = t("not in the file: one from models/text_encoder is used")
    if begins := begins_with(card.preset):
        facts[t("Begins with")] = f"{card.kind} · {begins}" if card.kind else begins
    facts |= {
        t(label): text
        for label, text in (
            ("Trigger words", ", ".join(card.trigger_words)),
            ("Configuration", "\n".join(card.remarks)),
            ("Description", card.description[:MOST_TEXT]),
            ("Notes", card.choices.notes[:MOST_TEXT]),
        )
        if text
    }
    own = {key.removeprefix("modelspec."): text for key, text in card.metadata.items()}
    return (
        f'<div class="rp-card rp-facts" role="region" aria-label="{_t("Model card")}">'
        f'<h3 translate="no">{escape(card.name)}</h3>{_picture(card)}'
        f'<dl>{_rows(facts)}</dl><dl translate="no">{_rows(own)}</dl></div>'
    )


def begins_with(preset: Preset) -> str:
    """What a form begins with, in a line.

    >>> begins_with(Preset(sampler="LCM", steps=4, cfg_scale=1.0, width=1024, height=768))
    'LCM · 4 steps · CFG 1 · 1024 x 768'
    """
    said = preset.values()
    size = f"{preset.width} x {preset.height}" if preset.width and preset.height else ""
    words = [
        said.get("sampler", ""),
        said.get("scheduler", ""),
        f"{preset.steps} steps" if preset.steps else "",
        f"CFG {preset.cfg_scale:g}" if preset.cfg_scale else "",
        size,
        f"clip skip {preset.clip_skip}" if preset.clip_skip else "",
        f"VAE {preset.vae}" if preset.vae else "",
    ]
    return " · ".join(filter(None, words))


def _picture(card: Card) -> str:
    """The preview in the page itself: model folders are not served."""
    if card.preview is None:
        return ""
    try:
        image = open_image(card.preview)
    except RepriseError:
        return ""
    return f'<img class="rp-card-preview" alt="{_t("Preview picture")}" src="{_small(image, PREVIEW_SIDE)}">'


def _small(image: Image.Image, side: int) -> str:
    """A small copy of a picture as a data URL."""
    image.thumbnail((side, side))
    data = io.BytesIO()
    image.convert("RGB").save(data, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def stored_html(sha256: str, look: Callable[[str], Image.Image]) -> str:
    """A small copy of the stored picture that an option names; empty where it names none. ``look`` opens it."""
    if not SHA256.fullmatch(sha256):
        return ""
    try:
        image = look(sha256)
    except RepriseError as error:
        return f'<p class="rp-none" role="alert" translate="no">{escape(error.message)}</p>'
    return f'<img class="rp-stored" alt="{_t("The chosen picture")}" src="{_small(image, STORED_SIDE)}">'


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
