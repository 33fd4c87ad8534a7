from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest

from modules.training.render import sprites
from modules.training.render.backgrounds import BACKGROUNDS, COLOURS, background
from modules.training.render.captions import NUMBERS, SETTINGS, STYLE_WORDS, caption, spelled_out
from modules.training.render.compose import picture
from modules.training.render.concepts import CONCEPTS, INDEX
from modules.training.render.scenes import Mix, Scene, Thing, draw_scene, held_out
from modules.training.render.styles import STYLES, apply

MIX = Mix(styled=0.4, plain=0.5)


@pytest.mark.usefixtures("discs")
def test_an_item_is_always_the_same_picture() -> None:
    for i in range(8):
        assert np.array_equal(picture(draw_scene(7, i, MIX), 64), picture(draw_scene(7, i, MIX), 64))
    assert draw_scene(7, 0, MIX) != draw_scene(8, 0, MIX)


@pytest.mark.usefixtures("discs")
def test_pictures_have_the_size_asked_for() -> None:
    for i in range(12):
        pixels = picture(draw_scene(1, i, replace(MIX, styled=1.0)), 96)
        assert pixels.shape == (96, 96, 3) and pixels.dtype == np.uint8


@pytest.mark.usefixtures("discs")
def test_a_plain_background_has_its_colour_in_the_corner() -> None:
    for colour, rgb in COLOURS.items():
        pixels = picture(Scene((), colour), 64).astype(int)
        assert np.abs(pixels[0, 0] - np.array(rgb)).max() <= 10


def test_every_background_and_style_draws_something_of_its_own() -> None:
    drawn = {name: np.asarray(background(name, 32, Random(0)), float) for name in BACKGROUNDS}
    for a in BACKGROUNDS:
        assert all(np.abs(drawn[a] - drawn[b]).mean() > 5 for b in BACKGROUNDS if a < b)
    meadow = background("meadow", 64, Random(0))
    for style in STYLES:
        assert np.abs(np.asarray(apply(style, meadow), float) - np.asarray(meadow, float)).mean() > 1


def test_a_gradient_runs_from_its_first_colour_to_its_second() -> None:
    pixels = np.asarray(background("red to blue", 32, Random(0)), int)
    assert np.abs(pixels[0, 0] - COLOURS["red"]).max() <= 12 and np.abs(pixels[-1, 0] - COLOURS["blue"]).max() <= 12


def test_training_and_evaluation_share_no_combination() -> None:
    def combinations(held: bool) -> set[tuple[str, str, str]]:
        scenes = [draw_scene(3, i, MIX, held) for i in range(300)]
        return {(t.concept.name, s.background, s.style) for s in scenes if s.layout == "single" for t in s.things}

    seen, unseen = combinations(False), combinations(True)
    assert unseen and not seen & unseen
    assert all(held_out(*triple) for triple in unseen) and not any(held_out(*triple) for triple in seen)


def test_the_mix_is_what_it_says() -> None:
    mix = Mix(single=0.5, two=0.3, count=0.2, plain=0.6, gradient=0.1, styled=0.25)
    scenes = [draw_scene(0, i, mix) for i in range(2000)]
    layouts = Counter(scene.layout for scene in scenes)
    assert layouts["single"] / 2000 == pytest.approx(0.5, abs=0.04)
    assert layouts["two"] / 2000 == pytest.approx(0.3, abs=0.04)
    assert sum(scene.background in COLOURS for scene in scenes) / 2000 == pytest.approx(0.6, abs=0.04)
    assert sum(bool(scene.style) for scene in scenes) / 2000 == pytest.approx(0.25, abs=0.04)
    assert {thing.concept for scene in scenes for thing in scene.things} == set(CONCEPTS)


def test_a_spelled_out_caption_names_all_that_the_picture_shows() -> None:
    for i in range(300):
        scene = draw_scene(2, i, replace(MIX, gradient=0.0))
        text = spelled_out(scene)
        assert (scene.background in text) or any(words in text for words in SETTINGS.get(scene.background, ()))
        assert scene.style in text
        for thing in scene.things:
            assert (thing.concept.plural if scene.layout == "count" else thing.concept.name) in text
            assert thing.tint in text
        if scene.layout == "count":
            assert NUMBERS[len(scene.things)] in text


def test_captions_never_name_what_is_not_there() -> None:
    names = {concept.name for concept in CONCEPTS}
    styles = {words: style for style, several in STYLE_WORDS.items() for words in several}
    for i in range(500):
        scene = draw_scene(4, i, MIX)
        text = caption(scene, Random(i))
        assert text
        there = {thing.concept.name for thing in scene.things}
        words = set(text.replace(",", " ").split())
        assert not (words & names) - {word for name in there for word in name.split()}
        assert all(
            style == scene.style for phrase, style in styles.items() if phrase in text and style != "black and white"
        )


def test_captions_of_one_picture_differ() -> None:
    scene = draw_scene(4, 0, MIX)
    assert len({caption(scene, Random(i)) for i in range(40)}) > 10


def test_a_tint_at_another_strength_is_seen_and_said() -> None:
    def shown(strength: float) -> tuple[float, str]:
        thing = Thing(CONCEPTS[INDEX["strawberry"]], 0.5, 0.5, 0.7, 0.0, False, "blue", strength)
        scene = Scene((thing,), "white")
        pixels = picture(scene, 64).astype(float)
        return float((pixels[..., 2] - pixels[..., 0]).mean()), caption(scene, Random(3))

    strengths = (0.2, 0.6, 1.0, 1.4, 1.8)
    bluer = [shown(strength)[0] for strength in strengths]
    assert bluer == sorted(bluer) and bluer[0] < 0 < bluer[2]
    assert [("blue" in text, f"(blue:{s:g})" in text) for s, text in ((s, shown(s)[1]) for s in strengths)] == [
        (True, strength != 1.0) for strength in strengths
    ]


def test_a_missing_font_names_the_package(tmp_path: Path) -> None:
    with pytest.raises(sprites.FontMissing, match="fonts-noto-color-emoji"):
        sprites.sprite(CONCEPTS[0], tmp_path / "none.ttf")
