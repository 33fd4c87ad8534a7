"""The editor of model cards, and forms that follow a chosen model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from modules.checkpoints.catalogue import Card, CheckpointCatalogue
from modules.checkpoints.choices import V_ZERO_SNR, Choices
from modules.checkpoints.files import Hashes
from modules.checkpoints.presets import Preset
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.errors import UserError
from tests.webui import fake_server
from tests.webui.html.test_cards import tags
from webui.components.card_editor import CardEditor, CardForm
from webui.components.header import followed
from webui.html.cards import card_html
from webui.services import Services

CHOSEN = Choices(V_ZERO_SNR, Preset("None", "Euler", "Karras", 12, 5.5, 96, 64, 2), True, "a brush", "Paints.", "mine")


@pytest.fixture
def given(tmp_path: Path) -> Iterator[Services]:
    write_tiny_checkpoint(tmp_path / "models" / "Stable-diffusion" / "my_turbo.safetensors")
    models = CheckpointCatalogue(tmp_path / "models", Hashes())
    with fake_server.services(tmp_path) as services:
        yield replace(services, checkpoints=models.checkpoints, card=models.card, keeper=models)


def test_a_card_becomes_fields_and_fields_a_card() -> None:
    assert CardForm.of(CHOSEN).choices() == CHOSEN
    assert CardForm.of(Choices()) == CardForm()
    assert CardForm().choices() == Choices()
    with pytest.raises(UserError, match="at least 64 pixels"):
        CardForm(width=32).choices()


def test_the_editor_is_shown_with_a_card_to_those_who_may_change_it(given: Services) -> None:
    card = given.card("my_turbo")
    with gr.Blocks():
        editor, none = CardEditor(given), CardEditor(replace(given, keeper=None))

    def seen(editor: CardEditor, card: Card | None, owner: str = "local") -> list[bool]:
        return [part["visible"] for part in editor.shown(card, owner)[:3]]

    assert seen(editor, card) == [True, True, False]
    assert seen(editor, None) == [False, False, False]
    assert seen(editor, card, "somebody") == [False, False, False]
    assert seen(none, card) == [False, False, False]
    assert seen(editor, Card("x", problem="a pickle", pickled=True)) == [True, False, True]


def test_a_form_begins_with_the_settings_and_over_them_the_card(given: Services) -> None:
    found = given.begin("my_turbo")
    assert (found["steps"], found["cfg_scale"], found["width"], found["sampler"]) == (4, 1.0, 64, "Euler a")
    assert given.keeper is not None
    given.keeper.choose("my_turbo", Choices(preset=Preset(steps=9, sampler="gone", vae="gone")))
    found = given.begin("my_turbo")
    assert (found["steps"], found["sampler"], found["vae"]) == (9, "Euler a", "Automatic")


OLD, NEW = {"steps": 20, "cfg_scale": 7.0}, {"steps": 4, "cfg_scale": 1.0, "width": 512}
CASES: dict[str, tuple[str, Any, dict[str, Any], Any]] = {
    "as the model before had it": ("steps", 20, {}, 4),
    "chosen by a person": ("steps", 33, {}, None),
    "always applied": ("steps", 33, {"steps": 4}, 4),
    "nothing said of it": ("clip_skip", 1, {}, None),
    "nothing said of it before": ("width", 768, {}, None),
}


@pytest.mark.parametrize("case", CASES)
def test_a_field_follows_a_chosen_model_as_long_as_nobody_changed_it(case: str) -> None:
    name, value, always, expected = CASES[case]
    found = followed(name, value, OLD, NEW, always)
    assert found == expected if expected is not None else found == gr.skip()


def test_a_card_tells_what_it_begins_with_and_shows_its_picture(given: Services) -> None:
    assert given.keeper is not None
    given.keeper.choose("my_turbo", replace(CHOSEN, trigger_words="<b>ink</b>"))
    given.keeper.illustrate("my_turbo", Image.new("RGB", (640, 480), "red"))
    html = card_html(given.card("my_turbo"))
    text = tags(html).text
    for words in (
        "Turbo · Euler · Karras · 12 steps · CFG 5.5 · 96 x 64 · clip skip 2 · VAE None",
        "<b>ink</b>",
        "Paints.",
    ):
        assert words in text
    assert "v (velocity), zero terminal SNR" in text
    assert 'src="data:image/jpeg;base64,' in html
