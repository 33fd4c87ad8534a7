from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from modules.checkpoints.families import detect
from modules.checkpoints.files import read_header
from modules.training import autoencoder, evaluate, export, judge, sheet, unet
from modules.training.captions import QUESTIONS
from modules.training.config import Config
from modules.training.evaluate import SETS, captions_of, frechet, score, table
from modules.training.render.scenes import Scene


def oracle(scenes: list[Scene], wrong: int = 0) -> dict[str, Tensor]:
    """The scores of a judge that is right about all but the first ``wrong`` pictures."""
    targets = judge.Targets(scenes)
    said = {q: torch.nn.functional.one_hot(t, len(QUESTIONS[q])).float() for q, t in targets.answers.items()}
    said["concepts"] = targets.shown.clone()
    for scores in said.values():
        scores[:wrong] = -scores[:wrong] - torch.linspace(0, 0.1, scores.shape[1])
    return said


@pytest.mark.parametrize("name", sorted(SETS))
def test_scores_count_right_answers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = captions_of(SETS[name], 40)
    monkeypatch.setattr(evaluate, "look", lambda judge, pixels: oracle(scenes))
    assert all(value == 1.0 for value in score(judge.Judge(2), torch.zeros(0), scenes).values())
    monkeypatch.setattr(evaluate, "look", lambda judge, pixels: oracle(scenes, wrong=40))
    assert all(value == 0.0 for value in score(judge.Judge(2), torch.zeros(0), scenes).values())


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


@pytest.fixture
def made(tiny: Config) -> export.Trained:
    return export.Trained(unet.new(tiny), autoencoder.new(tiny), 0.7, 3)


def test_the_exported_file_is_read_strictly_and_paints(tiny: Config, made: export.Trained, tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    export.save(tiny, made, path)
    paint = export.painter(tiny, path)
    assert paint.scale_factor == 0.7
    pictures = paint.paint(["a cat", "a dog"], [1, 2], side=32, steps=2)
    assert pictures.shape == (2, 32, 32, 3) and pictures.dtype == torch.uint8
    alone = paint.paint(["a dog"], [2], side=32, steps=2)
    assert (pictures[1:].int() - alone.int()).abs().max() <= 2  # kernels round differently for another batch size
    assert sheet.assemble(pictures, ["a cat", "a dog"], columns=1).size == (34, 2 * (32 + sheet.CAPTION + 2))


def test_the_program_finds_the_same_configuration_in_the_file(
    tiny: Config, made: export.Trained, tmp_path: Path
) -> None:
    path = tmp_path / "tiny.safetensors"
    export.save(tiny, made, path)
    found = detect(path.name, read_header(path))
    assert (found.unet, found.vae, found.text) == (tiny.unet, tiny.vae, tiny.text)
    assert (found.scale_factor, found.native_size, found.prediction) == (0.7, 32, "eps")


def test_metadata_follows_the_modelspec(tiny: Config, made: export.Trained, tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    export.save(tiny, made, path)
    with safe_open(path, framework="pt") as file:
        metadata, keys = file.metadata(), set(file.keys())
    assert metadata["modelspec.sai_model_spec"] == "1.0.0"
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1"
    assert metadata["modelspec.resolution"] == "32x32"
    assert json.loads(metadata["reprise.config"])["schedule"] == "scaled_linear"
    assert "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight" in keys
    assert {key.split(".")[0] for key in keys} == {"model", "first_stage_model", "cond_stage_model"}
