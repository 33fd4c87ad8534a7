"""The editor of model cards, and forms that follow a chosen model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from starlette.testclient import TestClient

from modules.checkpoints.catalogue import Card, CheckpointCatalogue
from modules.checkpoints.choices import V_ZERO_SNR, Choices
from modules.checkpoints.files import Hashes
from modules.checkpoints.presets import Preset
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.errors import UserError
from tests.webui import fake_server
from tests.webui.conftest import ORIGIN
from tests.webui.html.test_cards import tags
from webui.components.card_editor import CardEditor, CardForm
from webui.components.header import followed
from webui.fields import Fields
from webui.html.cards import card_html
from webui.server import create_app
from webui.services import Services

CHOSEN = Choices(V_ZERO_SNR, Preset("None", "Euler", "Karras", 12, 5.5, 96, 64, 2), True, "a brush", "Paints.", "mine")


@pytest.fixture
def given(tmp_path: Path) -> Iterator[Services]:
    write_tiny_checkpoint(tmp_path / "models" / "Stable-diffusion" / "my_turbo.safetensors")
    models = CheckpointCatalogue(tmp_path / "models", Hashes())
    with fake_server.services(tmp_path) as services:
        yield replace(services, checkpoints=models.checkpoints, card=models.card, keeper=models)


def editor_of(services: Services) -> CardEditor:
    """In a page of its own."""
    with gr.Column() as home:
        pass
    return CardEditor(services, Fields("model_card", home))


def test_a_card_becomes_fields_and_fields_a_card() -> None:
    assert CardForm.of(CHOSEN).choices() == CHOSEN
    assert CardForm.of(Choices()) == CardForm()
    assert CardForm().choices() == Choices()
    with pytest.raises(UserError, match="at least 64 pixels"):
        CardForm(width=32).choices()


def test_the_editor_is_shown_with_a_card_to_those_who_may_change_it(given: Services) -> None:
    card = given.card("my_turbo")
    with gr.Blocks():
        editor, none = editor_of(given), editor_of(replace(given, keeper=None))

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


def made_with(given: Services, checkpoint: str, name: str, owner: str = "local") -> tuple[str, int]:
    """A job of one picture that names the checkpoint in its text, and the picture's number in the history."""
    store: Any = given.queue.store  # type: ignore[attr-defined]
    path = given.outputs_dir / name
    text = PngInfo()
    text.add_text("parameters", f"a fox\nSteps: 4, Seed: 1, Size: 64x64, Model: {checkpoint}")
    Image.new("RGB", (2048, 1024), "teal").save(path, pnginfo=text)
    job = store.submit(owner, {"kind": "txt2img"}, "script")
    store.claim("test", script=True)
    image = {"path": str(path), "infotext": "", "seed": 1, "width": 2048, "height": 1024}
    store.finish(job.id, {"images": [image]})
    number: int = store.images(owner)[0].number
    return job.id, number


def said(answer: list[Any]) -> str:
    return tags(answer[1]).text.casefold()


def test_the_picture_in_view_becomes_the_preview_of_the_open_card(given: Services, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "Stable-diffusion"
    write_tiny_checkpoint(folder / "other.safetensors")
    job, number = made_with(given, "my_turbo", "made.png")
    with gr.Blocks():
        editor = editor_of(given)
    for seen, name in (({"job": job, "index": 0}, "my_turbo"), ({"picture": number}, "other")):
        answer = editor.keep_in_view("local", json.dumps(seen), name)
        assert 'src="data:image/jpeg;base64,' in answer[0] and "the card is saved" in said(answer)
        assert ("made with my_turbo" in said(answer)) is (name == "other")
        with Image.open(folder / f"{name}.png") as kept:
            assert kept.size == (1024, 512) and kept.info["parameters"].startswith("a fox\n")


def test_a_picture_in_view_is_ones_own_and_cards_are_for_administrators(given: Services, tmp_path: Path) -> None:
    job, number = made_with(given, "my_turbo", "theirs.png", "somebody")
    with gr.Blocks():
        editor = editor_of(given)
    refused = {
        json.dumps({"job": job, "index": 0}): "no such job",
        json.dumps({"picture": number}): "no such picture",
        json.dumps({"picture": 2**70}): "no such picture",
        "{}": "no picture in view",
        "[[": "no picture in view",
    }
    for seen, sentence in refused.items():
        assert sentence in said(editor.keep_in_view("local", seen, "my_turbo")), seen
    own = json.dumps({"picture": number})
    assert "for administrators" in said(editor.keep_in_view("somebody", own, "my_turbo"))
    assert not (tmp_path / "models" / "Stable-diffusion" / "my_turbo.png").exists()


def test_a_program_gives_a_picture_to_the_checkpoint_that_made_it(given: Services, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "Stable-diffusion"
    write_tiny_checkpoint(folder / "other.safetensors")
    _, number = made_with(given, "other", "made.png")
    _, unknown = made_with(given, "gone", "gone.png")
    with TestClient(create_app(given), base_url=ORIGIN) as web:
        answer = web.post("/api/v1/models/preview", json={"picture": number})
        assert answer.json() == {"checkpoint": "other", "made_with": "other"}
        assert (folder / "other.png").is_file() and not (folder / "my_turbo.png").exists()
        answer = web.post("/api/v1/models/preview", json={"picture": unknown})
        assert answer.status_code == 422 and "names no checkpoint that is here" in answer.json()["detail"]
        answer = web.post("/api/v1/models/preview", json={"picture": unknown, "checkpoint": "my_turbo"})
        assert answer.json() == {"checkpoint": "my_turbo", "made_with": None} and (folder / "my_turbo.png").is_file()
        answer = web.post("/api/v1/models/preview", json={"picture": unknown, "checkpoint": "../x"})
        assert answer.status_code == 422 and "there is no checkpoint" in answer.json()["detail"]
