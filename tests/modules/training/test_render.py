from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from zipfile import ZipFile

import numpy as np
import pytest

from modules.training.render import pack, sprites
from modules.training.render.backgrounds import BACKGROUNDS, COLOURS, GROUND, background
from modules.training.render.captions import NUMBERS, SETTINGS, STYLE_WORDS, caption, spelled_out
from modules.training.render.compose import picture
from modules.training.render.concepts import CONCEPTS, INDEX, MANY_COLOURED, Concept
from modules.training.render.scenes import Mix, Scene, Thing, draw_scene, held_out
from modules.training.render.styles import FILTERS, apply, art_of

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
        flat = picture(Scene((), colour, "flat illustration"), 64).astype(int)
        assert np.abs(flat[0, 0] - np.array(rgb)).max() <= 10
        lit = picture(Scene((), colour), 64).astype(int)
        assert np.abs(lit[0, 0] - np.array(rgb)).max() <= 45
        assert lit[28, 32].sum() > lit[0, 0].sum()  # as in a studio: lighter behind the object


def test_every_background_and_style_draws_something_of_its_own() -> None:
    drawn = {name: np.asarray(background(name, 32, 0), float) for name in BACKGROUNDS}
    for a in BACKGROUNDS:
        assert all(np.abs(drawn[a] - drawn[b]).mean() > 5 for b in BACKGROUNDS if a < b)
    meadow = background("meadow", 64, 0)
    for style in FILTERS:
        assert np.abs(np.asarray(apply(style, meadow), float) - np.asarray(meadow, float)).mean() > 1


def test_a_gradient_runs_from_its_first_colour_to_its_second() -> None:
    pixels = np.asarray(background("red to blue", 32, 0), int)
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
    """By no name: plurals and other words for a thing count as well."""
    styles = {words: style for style, several in STYLE_WORDS.items() for words in several}
    for i in range(500):
        scene = draw_scene(4, i, MIX)
        text = caption(scene, Random(i))
        assert text
        there = " ".join(word for t in scene.things for word in names(t.concept))
        for concept in CONCEPTS:
            for name in names(concept):
                assert name in there or name in SCENERY_WORDS or f" {name} " not in f" {text.replace(',', ' ')} "
        assert all(
            style == scene.style
            for phrase, style in styles.items()
            if phrase in text and style not in ("black and white", "sticker")  # two colours; "cute sticker" says cute
        )


def names(concept: Concept) -> tuple[str, ...]:
    return concept.name, concept.plural, *concept.also


SCENERY_WORDS = {"stars"}
"""The plural of a concept that a piece of scenery has too: "under the stars"."""


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


def test_every_concept_has_a_drawing_in_every_set() -> None:
    for art in sprites.SETS:
        for concept in CONCEPTS[::9] if art != "3d" else CONCEPTS:
            drawing = sprites.sprite(concept, art)
            ink = drawing.getchannel("A").getbbox()
            assert drawing.size == (sprites.SIDE, sprites.SIDE) and ink is not None
            assert max(ink[2] - ink[0], ink[3] - ink[1]) >= sprites.SIDE - 2  # as large as fits
    with ZipFile(sprites.ART) as file:
        drawings = {name for name in file.namelist() if name.endswith(".webp")}
    assert drawings == {f"{art}/{concept.file}.webp" for art in sprites.SETS for concept in CONCEPTS}


def test_the_art_is_small_and_goes_with_its_licences() -> None:
    assert sprites.ART.stat().st_size <= 3_000_000
    with ZipFile(sprites.ART) as file:
        licences = [file.read(name).decode() for name in file.namelist() if name.startswith("licences/")]
    assert any("MIT License" in text and "Microsoft" in text for text in licences)
    assert any("Apache License" in text for text in licences)


def test_packing_the_same_drawings_gives_the_same_bytes(tmp_path: Path) -> None:
    with ZipFile(sprites.ART) as file:
        file.extractall(tmp_path / "art")
    assert pack.pack(tmp_path / "art", tmp_path / "art.zip") == sprites.ART.stat().st_size
    assert (tmp_path / "art.zip").read_bytes() == sprites.ART.read_bytes()


def test_drawings_that_are_too_large_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ZipFile(sprites.ART) as file:
        file.extractall(tmp_path / "art")
    monkeypatch.setattr(pack, "LARGEST", 1000)
    with pytest.raises(ValueError, match="smaller"):
        pack.pack(tmp_path / "art", tmp_path / "art.zip")
    assert not (tmp_path / "art.zip").exists()


def alone(name: str, style: str = "", background: str = "white") -> Scene:
    return Scene((Thing(CONCEPTS[INDEX[name]], 0.5, 0.5, 0.6, 0.0, False),), background, style)


def test_styles_draw_from_the_set_that_is_theirs() -> None:
    cat = CONCEPTS[INDEX["cat"]]
    for style, art in (("", "3d"), ("flat illustration", "flat"), ("cartoon", "noto"), ("sticker", "3d")):
        assert art_of(style) == art
        pixels = picture(alone("cat", style), 240)
        middle = np.asarray(sprites.sprite(cat, art).resize((144, 144)).convert("RGB"), float)[64:80, 64:80].mean(
            (0, 1)
        )
        assert np.abs(pixels[112:128, 112:128].mean((0, 1)) - middle).max() < 12


def test_what_stands_has_a_shadow_at_its_foot_and_what_flies_over_a_meadow_has_none() -> None:
    def darkening(name: str, style: str, background: str) -> float:
        """How much darker it is just below the object, in levels, than without it."""
        scene = alone(name, style, background)
        low, _ = sprites.foot(scene.things[0].concept, art_of(style))
        row = int((0.5 + 0.6 * (low - 0.5)) * 128) + 2
        without, with_it = (picture(s, 128).astype(float) for s in (replace(scene, things=()), scene))
        return float((without - with_it)[row : row + 2, 54:74].mean())

    assert darkening("apple", "", "white") > 30
    assert darkening("apple", "", "meadow") > 1.7 * darkening("balloon", "", "meadow")
    assert abs(darkening("apple", "flat illustration", "white")) < 2


def test_in_scenery_things_stand_on_the_ground() -> None:
    mix = Mix(single=1.0, two=0.0, count=0.0, plain=0.0, gradient=0.0, sized=0.0, placed=0.0)
    for scene in (draw_scene(6, i, mix) for i in range(300)):
        (thing,) = scene.things
        if scene.background in GROUND and not thing.concept.flies:
            assert 0.84 <= thing.y + thing.size / 2 <= 0.96
        else:
            assert abs(thing.y - 0.5) <= 0.021


def test_things_of_many_colours_are_never_tinted() -> None:
    tinted = {t.concept.name for i in range(3000) for t in draw_scene(5, i, Mix(tinted=1.0)).things if t.tint}
    assert len(tinted) > 60 and not tinted & MANY_COLOURED


def test_scenery_has_soft_edges() -> None:
    """Between sky and hill there are pixels of a mixed colour: no step of more than two thirds of the height."""
    meadow = np.asarray(background("beach", 256, 0), float)
    steps = np.abs(np.diff(meadow[:, 128].sum(axis=1)))
    horizon = meadow[100, 128].sum() - meadow[112, 128].sum()
    assert steps[100:112].max() < 0.75 * abs(horizon)


def test_drawings_have_no_dark_rim_where_they_are_half_transparent() -> None:
    """A white-edged star on white stays as light as its own colour: nothing darker than what it is made of."""
    star = CONCEPTS[INDEX["star"]]
    drawing = np.asarray(sprites.sprite(star, "flat"))
    darkest = drawing[drawing[..., 3] > 250][:, :3].min(axis=0)
    pixels = picture(alone("star", "flat illustration"), 256)
    assert (pixels.reshape(-1, 3).min(axis=0) >= darkest.astype(int) - 12).all()
