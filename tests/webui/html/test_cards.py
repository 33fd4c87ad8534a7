"""HTML on model files: the right words, and no markup but its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.checkpoints.catalogue import Card
from modules.checkpoints.embeddings import EmbeddingFile, Suited
from tests.webui.html.test_status import HOSTILE, Tags
from tests.webui.test_i18n import Texts, english
from webui.html.cards import card_html, embeddings_html

OURS = {"div", "h3", "dl", "dt", "dd", "p", "input", "button", "small", "details", "summary", "ul", "li", "span", "i"}


def tags(html: str) -> Tags:
    found = Tags()
    found.feed(html)
    return found


def embedding(name: str, trained_on: str = "") -> EmbeddingFile:
    return EmbeddingFile(name, Path("x.pt"), 3, 768, checkpoint_name=trained_on)


@pytest.mark.parametrize("text", HOSTILE)
def test_what_files_say_never_becomes_markup(text: str) -> None:
    card = Card(text, text, text, text, 512, 10, text, {text: text, "modelspec.title": text})
    for html in (
        card_html(card),
        card_html(Card(text, problem=text)),
        embeddings_html(Suited((embedding(text, text),), {text: text})),
    ):
        found = tags(html)
        assert {name for name, _ in found.found} <= OURS
        assert not any(key.startswith("on") for _, attributes in found.found for key in attributes)
        assert text in found.text


def test_a_card_tells_the_files_facts() -> None:
    card = Card(
        "anime/mine", "mine.safetensors", "SDXL", "v", 1024, 6_938_000_000, "ab" * 32, {"modelspec.author": "Z"}
    )
    text = tags(card_html(card)).text
    for fact in (
        "anime/mine",
        "mine.safetensors, 6.94 GB",
        "SDXL",
        "1024 x 1024",
        "v (velocity)",
        "ababababab",
        "authorZ",
    ):
        assert fact in text
    assert "known once the model was used" in tags(card_html(Card("mine"))).text


def test_names_are_buttons_where_the_model_takes_them_and_have_the_reason_where_not() -> None:
    html = embeddings_html(Suited((embedding("My Style", "toy"),), {"tall": "it is too wide"}))
    (button,) = (attributes for name, attributes in tags(html).found if name == "button")
    assert (button["data-insert"], button["data-name"], button["title"]) == (
        "My Style",
        "my style",
        "3 vectors, trained on toy",
    )
    assert "tall it is too wide" in tags(html).text
    assert "Not for this model: 1" in tags(html).text
    assert "no embeddings in models/embeddings" in embeddings_html(Suited())


def test_all_its_words_are_in_the_catalogue() -> None:
    skipped = {"tall": "it is for models of width 1024, and this one has 768"}
    card = Card("m", "f", "", "eps", 512, 10, "ab" * 32)
    for html in (
        card_html(card),
        embeddings_html(Suited((embedding("x", "toy"),), skipped)),
        embeddings_html(Suited()),
    ):
        assert english(Texts(html).found) <= {"f, 0 kB", f"{'ab' * 5} · SHA-256 {'ab' * 32}", "512 x 512"}


def test_a_card_says_that_a_checkpoint_needs_a_vae() -> None:
    told = "not in the file: choose one"
    assert told in card_html(Card("bare", own_vae=False))
    assert told not in card_html(Card("whole"))
