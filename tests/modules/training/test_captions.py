from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch

from modules.training import captions, loop
from modules.training.config import Config
from modules.training.render.captions import caption, split, vocabulary
from modules.training.render.concepts import CONCEPTS
from modules.training.render.scenes import Mix, Scene, Thing, draw_scene
from modules.training.words import SHORT, UNKNOWN, known, token_ids, tokenised, weighted_ids, with_unknown


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
    assert int((token_ids(texts)[:, SHORT - 1] != 49407).sum()) == 0


def test_captions_are_made_of_the_vocabulary_and_of_nothing_else() -> None:
    known_words, mix = set(vocabulary()), Mix(styled=0.5, tinted=0.5, sized=0.5, placed=0.5)
    said = {word for i in range(3000) for word in split(caption(draw_scene(1, i, mix), Random(i)))}
    assert said <= known_words
    assert len(said) > 0.95 * len(known_words)  # and nearly every word has its use


def test_the_unknown_word_is_no_token_of_any_caption() -> None:
    assert UNKNOWN not in known() and {49406, 49407} <= known()
    scenes = [draw_scene(1, i, Mix(weighted=0.5)) for i in range(400)]
    said = {i for n, scene in enumerate(scenes) for i in tokenised(scene, Random(n), 0.0)[0].tolist()}
    assert said <= known()


def test_a_caption_in_tokens_is_that_of_the_programs_own_parser() -> None:
    for i in range(200):
        scene = draw_scene(2, i, Mix(tinted=0.6, weighted=0.6))
        ids, tenths = tokenised(scene, Random(i), 0.0)
        expected, weights = weighted_ids([caption(scene, Random(i))])
        assert ids.tolist() == expected[0, :SHORT].tolist()
        assert (tenths / 10).tolist() == pytest.approx(weights[0, :SHORT].tolist())


def test_unknown_words_interrupt_a_caption_and_change_nothing_of_it() -> None:
    words, weights = [320, 1746, 2368], [1.0, 1.4, 1.0]
    for i in range(200):
        ids, said = with_unknown(words, weights, Random(i))
        assert 1 <= ids.count(UNKNOWN) <= 16
        assert [(x, w) for x, w in zip(ids, said, strict=True) if x != UNKNOWN] == list(
            zip(words, weights, strict=True)
        )


def test_as_many_captions_are_interrupted_as_configured() -> None:
    scenes = [draw_scene(3, i, Mix()) for i in range(1500)]
    interrupted = sum(UNKNOWN in tokenised(scene, Random(i), 0.15)[0] for i, scene in enumerate(scenes))
    assert abs(interrupted / 1500 - 0.15) < 0.03


def test_the_reader_learns(tiny: Config, tmp_path: Path) -> None:
    torch.manual_seed(0)
    reader = captions.Reader(tiny.text)
    loss = captions.CaptionLoss(reader, tiny.data.mix, 16, seed=0)
    before = float(loss(loop.source(9, 0), 0)["loss"].detach())
    loop.Trainer(reader, tiny.captions, tmp_path / "text.pt").train(loss)
    assert float(loss(loop.source(9, 0), 0)["loss"].detach()) < 0.7 * before
