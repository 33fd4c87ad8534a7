from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch

from modules.training import captions, loop
from modules.training.config import Config
from modules.training.render.captions import caption
from modules.training.render.concepts import CONCEPTS
from modules.training.render.scenes import Mix, Scene, Thing, draw_scene
from modules.training.words import token_ids, weighted_ids


def test_answers_tell_what_the_scene_shows() -> None:
    left = Thing(CONCEPTS[3], 0.3, 0.5, 0.4, 0.0, False, "blue")
    right = Thing(CONCEPTS[7], 0.7, 0.5, 0.4, 0.0, False)
    scene = Scene((left, right), "red", "sepia", relation="to the left of")
    said = {question: captions.QUESTIONS[question][i] for question, i in captions.answers(scene).items()}
    assert said == {
        "background": "red",
        "style": "sepia",
        "tint": "blue",
        "count": "2",
        "first": CONCEPTS[3].name,
        "relation": "to the left of",
        "place": "",
        "size": "",
    }
    assert captions.shown([scene])[0].nonzero().flatten().tolist() == [3, 7]


def test_every_scene_has_an_answer_to_every_question() -> None:
    for i in range(300):
        captions.answers(draw_scene(0, i, Mix(styled=0.5, plain=0.4)))


def test_token_ids_are_clips_and_end_tokens_fill_the_row() -> None:
    ids = token_ids(["a cat", "", "cat " * 100])
    assert ids.shape == (3, 77)
    assert ids[0, :5].tolist() == [49406, 320, 2368, 49407, 49407]
    assert ids[1, :2].tolist() == [49406, 49407]
    assert ids[2, -1] == 49407 and ids[2, -2] == 2368


def test_weights_are_read_as_prompts_have_them() -> None:
    ids, weights = weighted_ids(["a (blue:1.4) cat", "a blue cat"])
    assert ids.tolist()[0] == ids.tolist()[1] == token_ids(["a blue cat"]).tolist()[0]
    assert weights[0, :5].tolist() == pytest.approx([1.0, 1.0, 1.4, 1.0, 1.0]) and bool((weights[1] == 1).all())


def test_no_caption_is_longer_than_what_training_reads() -> None:
    texts = [caption(draw_scene(0, i, Mix(styled=0.5, tinted=0.5)), Random(i)) for i in range(500)]
    assert int((token_ids(texts)[:, captions.SHORT - 1] != 49407).sum()) == 0


def test_the_reader_learns(tiny: Config, tmp_path: Path) -> None:
    torch.manual_seed(0)
    reader = captions.Reader(tiny.text)
    loss = captions.CaptionLoss(reader, tiny.data.mix, 16, seed=0)
    before = float(loss(loop.source(9, 0), 0)["loss"].detach())
    loop.Trainer(reader, tiny.captions, tmp_path / "text.pt").train(loss)
    assert float(loss(loop.source(9, 0), 0)["loss"].detach()) < 0.7 * before
