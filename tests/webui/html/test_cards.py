"""HTML on model files: the right words, and no markup but its own."""

from __future__ import annotations

import pytest

from modules.checkpoints.catalogue import Card
from tests.webui.html.test_status import HOSTILE, Tags
from tests.webui.test_i18n import Texts, english
from webui.html.cards import card_html

OURS = {"div", "h3", "dl", "dt", "dd", "p"}


def tags(html: str) -> Tags:
    found = Tags()
    found.feed(html)
    return found


@pytest.mark.parametrize("text", HOSTILE)
def test_what_files_say_never_becomes_markup(text: str) -> None:
    card = Card(text, text, text, text, 512, 10, text, {text: text, "modelspec.title": text})
    for html in (card_html(card), card_html(Card(text, problem=text))):
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


def test_all_its_words_are_in_the_catalogue() -> None:
    card = Card("m", "f", "", "eps", 512, 10, "ab" * 32)
    assert english(Texts(card_html(card)).found) <= {"f, 0 kB", f"{'ab' * 5} · SHA-256 {'ab' * 32}", "512 x 512"}


def test_a_card_says_that_a_checkpoint_needs_a_vae() -> None:
    told = "not in the file: choose one"
    assert told in card_html(Card("bare", own_vae=False))
    assert told not in card_html(Card("whole"))
