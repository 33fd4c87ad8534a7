from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor
from torch.nn.functional import one_hot

from modules import builtin
from modules.checkpoints.detect import detect
from modules.checkpoints.files import Hashes, read_header
from modules.checkpoints.store import ModelStore
from modules.devices import Device
from modules.engine import Engine
from modules.extension.host import Host
from modules.gallery.inputs import InputStore
from modules.pipeline.plan import make_plan
from modules.training import autoencoder, evaluate, export, judge, sheet, unet
from modules.training.captions import QUESTIONS
from modules.training.config import Config
from modules.training.evaluate import SETS, Subject, captions_of, frechet, score, table
from modules.training.render.compose import picture
from modules.training.render.concepts import CONCEPTS
from modules.training.render.scenes import Mix, Scene, Thing
from modules.training.render.styles import FILTERS, STYLES
from modules.training.sampling import Painter
from modules.training.words import UNKNOWN, token_ids

CPU = Device(torch.device("cpu"), torch.float32)


@pytest.fixture
def made(tiny: Config) -> export.Trained:
    return export.Trained(unet.new(tiny), autoencoder.new(tiny), 0.7, 3)


def oracle(scenes: list[Scene], wrong: int = 0) -> dict[str, Tensor]:
    """The scores of a judge that is right about all but the first ``wrong`` pictures."""
    sizes = {q: len(answers) for q, answers in QUESTIONS.items()} | judge.PLACED
    said = {}
    for question, target in judge.Targets(scenes).answers.items():
        scores = one_hot(target.clamp(min=0), sizes[question]).float()
        scores[:wrong] = -scores[:wrong] - torch.linspace(0, 0.1, sizes[question])
        said[question] = scores
    return said


@pytest.mark.parametrize("name", sorted(SETS))
def test_scores_count_right_answers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = captions_of(SETS[name], 40)
    monkeypatch.setattr(evaluate, "look", lambda judge, pixels: oracle(scenes))
    assert all(value == 1.0 for value in score(judge.Judge(2), torch.zeros(0), scenes).values())
    monkeypatch.setattr(evaluate, "look", lambda judge, pixels: oracle(scenes, wrong=40))
    chance = 0.15  # the wrong name for one object may be the right one for the other
    assert all(value <= chance for value in score(judge.Judge(2), torch.zeros(0), scenes).values())


def test_two_objects_that_changed_places_are_both_there_but_out_of_order(monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = [scene for scene in captions_of(SETS["two"], 40) if scene.relation == "to the left of"]
    said = oracle(scenes)
    left, right = judge.REGIONS.index("left"), judge.REGIONS.index("right")
    said["concept"][:, [left, right]] = said["concept"][:, [right, left]]
    monkeypatch.setattr(evaluate, "look", lambda judge, pixels: said)
    found = score(judge.Judge(2), torch.zeros(0), scenes)
    assert (found["both of two"], found["order"]) == (1.0, 0.0)


def test_colours_are_not_asked_where_the_style_leaves_none() -> None:
    def asked(style: str) -> bool:
        thing = Thing(CONCEPTS[0], 0.5, 0.5, 0.6, 0.0, False, "blue")
        answers = judge.Targets([Scene((thing,), "red", style)]).answers
        return bool(answers["background"][0] != judge.UNASKED and answers["tint"][0, 0] != judge.UNASKED)

    assert {style for style in STYLES if asked(style)} == {
        "pixel art", "watercolor", "flat illustration", "cartoon", "sticker",
    }  # fmt: skip


def test_the_judge_looks_at_each_side(tiny: Config) -> None:
    torch.manual_seed(0)
    critic = judge.Judge(4).eval()
    x = torch.rand(2, 3, 128, 128)
    x[1, ..., :64] = x[0, ..., :64]  # the same left half
    with torch.inference_mode():
        seen = critic.seen(x)
        said = critic(x)["concept"]
    assert seen.shape[-2:] == (judge.GRID, judge.GRID)
    assert said.shape == (2, len(judge.REGIONS), len(CONCEPTS))
    far = torch.rand(1, 3, 128, 128)
    far[..., :96] = x[:1, ..., :96]
    with torch.inference_mode():
        moved = (critic.seen(far) - seen[:1]).abs().amax(dim=(0, 1, 2))
    assert moved[-1] > 0  # a change on the right is seen on the right


def test_an_older_version_is_asked_only_what_it_knows(tiny: Config, made: export.Trained, tmp_path: Path) -> None:
    """And its pictures are compared with those of its own art and size."""
    for version, side in (("2", 128), ("3", 256)):
        config = replace(tiny, version=version, data=replace(tiny.data, side=side))
        export.save(config, made, tmp_path / f"{version}.safetensors")
    older, newer = (Subject.of(tmp_path / f"{version}.safetensors") for version in "23")
    assert (older.side, newer.side) == (128, 256)
    asked = older.scenes(replace(SETS["single"], styled=0.9), 400)
    assert {scene.style for scene in asked} == {"", *FILTERS}
    assert {thing.concept for scene in asked for thing in scene.things} <= set(CONCEPTS[:64])
    assert {scene.style for scene in newer.scenes(replace(SETS["single"], styled=0.9), 400)} == {"", *STYLES}
    scene = Scene((Thing(CONCEPTS[0], 0.5, 0.5, 0.6, 0.0, False),), "red")
    assert np.array_equal(older.renders([scene])[0], picture(replace(scene, style="cartoon"), 128))
    assert np.array_equal(newer.renders([scene])[0], picture(scene, 256))


def test_a_judge_that_is_always_right_scores_everything(
    tiny: Config, made: export.Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole table from a tiny file, with an oracle in the judge's place."""
    export.save(replace(tiny, version="3"), made, tmp_path / "tiny.safetensors")
    subject, paint = Subject(32), Painter.of(tmp_path / "tiny.safetensors", CPU)
    asked: list[list[Scene]] = []
    monkeypatch.setattr(evaluate, "look", lambda judge, pixels: oracle(asked[-1][: len(pixels)]))
    scenes = Subject.scenes

    def remembered(self: Subject, mix: Mix, count: int, seed: int = evaluate.SEED) -> list[Scene]:
        asked.append(scenes(self, mix, count, seed))
        return asked[-1]

    monkeypatch.setattr(Subject, "scenes", remembered)
    monkeypatch.setattr(
        Painter, "paint", lambda self, texts, seeds, side, **how: torch.zeros(len(texts), side, side, 3)
    )
    rows, distance = evaluate.judged(judge.Judge(4).eval(), paint, subject, (5.0,), 12)
    rows |= evaluate.unknown_words(judge.Judge(4).eval(), paint, subject, 12)
    assert set(rows) >= {"single, CFG 5", "two, CFG 5", "count, renders", "a red apple"}
    assert all(value == 1 or math.isnan(value) for row in rows.values() for value in row.values())
    assert distance > 0


def test_frechet_distance_of_gaussians_in_closed_form() -> None:
    torch.manual_seed(0)
    x = torch.randn(4000, 3, dtype=torch.float64)
    assert frechet(x, x) == pytest.approx(0, abs=1e-6)
    assert frechet(x, x + 2) == pytest.approx(12, rel=1e-6)
    assert frechet(x, 3 * x) == pytest.approx(
        4 * float(torch.cov(x.T).trace()) + 4 * float(x.mean(0) @ x.mean(0)), rel=1e-6
    )


def test_the_table_has_a_line_for_each_set() -> None:
    lines = table({"single, CFG 5": {"style": 0.5}, "two": {"order": float("nan")}}).splitlines()
    assert lines[0] == "| captions | order | style |"
    assert lines[2:] == ["| single, CFG 5 |  | 50% |", "| two |  |  |"]


def test_the_exported_file_paints_what_the_program_makes_of_it(
    tiny: Config, made: export.Trained, tmp_path: Path
) -> None:
    path = tmp_path / "tiny.safetensors"
    export.save(tiny, made, path)
    pictures = Painter.of(path, CPU).paint(["a cat", "a dog"], [1, 2], side=64, steps=3)
    assert pictures.shape == (2, 64, 64, 3) and pictures.dtype == torch.uint8
    host = Host()
    builtin.register(host)
    engine = Engine(ModelStore(tmp_path, CPU, Hashes(), default="tiny"), host, version="test")
    request = sheet.base(64).changed(prompt="a dog", seed=2, steps=3)
    (alone,) = sheet.pictures(engine, sheet.Row("", ("",), (request,)))
    apart = np.abs(pictures[1].numpy().astype(int) - np.asarray(alone).astype(int))
    assert apart.max() <= 2  # kernels round differently for another batch size


def test_words_that_nobody_taught_are_all_the_same_word_in_the_file(made: export.Trained) -> None:
    """Two prompts that differ in unknown words alone lead to the same states; known words still differ."""
    table = export.tensors(made)[export.TOKENS]
    rows = [table[token_ids([word])[0, 1]] for word in ("majestic", "xylophone", "cat", "dog")]
    assert torch.equal(rows[0], rows[1]) and torch.equal(rows[0], table[UNKNOWN])
    assert not torch.equal(rows[2], rows[0]) and not torch.equal(rows[2], rows[3])


def test_what_is_no_number_in_half_precision_is_not_exported(
    tiny: Config, made: export.Trained, tmp_path: Path
) -> None:
    with torch.no_grad():
        next(made.vae.parameters()).fill_(1e6)  # larger than float16 holds
    with pytest.raises(ValueError, match="no numbers"):
        export.save(tiny, made, tmp_path / "tiny.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_too_large_is_not_exported(
    tiny: Config, made: export.Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "LARGEST", 1000)
    with pytest.raises(ValueError, match="1000"):
        export.save(tiny, made, tmp_path / "tiny.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_sheet_has_a_line_for_each_row_and_room_for_long_labels() -> None:
    picture = Image.new("RGB", (64, 64), "red")
    row = sheet.Row("seed 1", ("a cat", "a cat that needs several lines of text"), ())
    made = sheet.assemble([(row, [picture, picture]), (row, [picture, picture])])
    assert made.width == 2 * (64 + sheet.GAP)
    assert made.height % 2 == 0 and made.height // 2 >= 64 + 4 * sheet.CAPTION + sheet.GAP
    assert made.getpixel((0, sheet.CAPTION)) == made.getpixel((0, made.height // 2 + sheet.CAPTION)) == (255, 0, 0)


def test_every_sheet_asks_for_what_can_be_made(discs: None, tmp_path: Path) -> None:
    host = Host()
    builtin.register(host)
    started = sheet.from_pictures(128, InputStore(tmp_path))
    for rows in (sheet.examples(128), *sheet.features(128).values(), *started.values()):
        for row in rows:
            assert len(row.labels) == len(row.requests)
            assert all(make_plan(request, host).notes == () for request in row.requests)


def test_the_program_finds_the_same_configuration_in_the_file(
    tiny: Config, made: export.Trained, tmp_path: Path
) -> None:
    path = tmp_path / "tiny.safetensors"
    export.save(tiny, made, path)
    found = detect(path.name, read_header(path))
    assert (found.unet, found.vae, found.texts[0]) == (tiny.unet, tiny.vae, tiny.text)
    assert (found.latent.scale, found.native_size, found.prediction) == (0.7, 32, "v")


def test_metadata_follows_the_modelspec(tiny: Config, made: export.Trained, tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    export.save(tiny, made, path)
    with safe_open(path, framework="pt") as file:
        metadata, keys = file.metadata(), set(file.keys())
    assert metadata["modelspec.sai_model_spec"] == "1.0.0"
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1"
    assert metadata["modelspec.resolution"] == "32x32"
    assert json.loads(metadata["reprise.config"])["schedule"] == "scaled_linear"
    assert len(json.loads(metadata["reprise.examples"])) == 8
    assert {"fox", "snow", "sticker", "turquoise"} <= set(json.loads(metadata["reprise.words"]))
    assert "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight" in keys
    assert {key.split(".")[0] for key in keys} == {"model", "first_stage_model", "cond_stage_model"}
