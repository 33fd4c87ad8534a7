"""Prompts to begin with, and words that a model has never seen."""

from __future__ import annotations

import json
import re
from pathlib import Path

from PIL import Image

from modules.checkpoints.catalogue import CheckpointCatalogue
from modules.checkpoints.files import Hashes, read_header
from webui.html.examples import PICTURES, examples_html
from webui.tabs.prompts import never_seen

ROOT = Path(__file__).parents[3]


def test_the_default_model_brings_eight_prompts_with_a_picture_each_and_knows_their_words() -> None:
    card = CheckpointCatalogue(ROOT / "models", Hashes()).card("reprise-mini")
    header = read_header(ROOT / "models" / "Stable-diffusion" / "reprise-mini.safetensors").metadata
    assert list(card.examples) == json.loads(header["reprise.examples"])
    assert len(card.examples) == 8
    with Image.open(PICTURES) as strip:
        assert strip.width == 8 * strip.height
    html = examples_html(card.name, "txt2img", card.examples)
    assert re.findall(r'data-prompt="([^"]+)"', html) == list(card.examples)
    assert html.count("<i ") == 8
    assert [never_seen(prompt, card.words) for prompt in card.examples].count([]) == 7
    assert never_seen("a red apple on a wooden table, by Greg", card.words) == ["wooden", "table", "greg"]


def test_other_models_have_their_own_prompts_without_pictures_and_every_value_is_escaped() -> None:
    html = examples_html('"><b>', "txt2img", ("<i>a fox</i>",))
    assert "<b>" not in html and "<i>" not in html and "background" not in html


def test_a_model_that_tells_no_words_has_seen_all() -> None:
    assert never_seen("anything at all", frozenset()) == []
