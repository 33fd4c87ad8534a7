"""What A1111's configuration beside a checkpoint says is done or named."""

from __future__ import annotations

import hashlib
import math
import operator
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
import torch

from modules.builtin import register
from modules.checkpoints.a1111_yaml import read_yaml
from modules.checkpoints.catalogue import CheckpointCatalogue
from modules.checkpoints.detect import detect
from modules.checkpoints.families.base import ModelConfig
from modules.checkpoints.files import Hashes
from modules.checkpoints.model import load
from modules.checkpoints.source import open_source
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.devices import Device
from modules.engine import Engine, Result
from modules.extension.host import Host
from modules.params.generation import GenerationParams, Hires
from modules.pipeline.sampling_options import noise_table
from modules.replay import replay_recipe

CPU = Device(torch.device("cpu"), torch.float32)
FULL = """
model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    parameterization: "v"
    linear_start: 0.00085
    linear_end: 0.02
    timesteps: 1000
    scale_factor: 0.5
    use_ema: true
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params: {in_channels: 4, out_channels: 4, context_dim: 768, num_heads: 1}
    cond_stage_config:
      target: ldm.modules.encoders.modules.FrozenCLIPEmbedder
      params: {layer: LAYER}
"""


def test_what_no_tensor_tells_is_taken_and_the_rest_is_named(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path / "Stable-diffusion" / "x.safetensors")
    path.with_suffix(".yaml").write_text(FULL.replace("LAYER", "penultimate"))
    config = load(path, CPU).config
    assert (config.prediction, config.latent.scale, config.unet.num_heads) == ("v", 0.5, 1)
    assert list(CheckpointCatalogue(tmp_path, Hashes()).card("x").remarks) == [
        "x.yaml says context_dim 768, and the file has 4, which counts",
        "x.yaml asks for the text encoder's layer penultimate: choose it with Clip skip",
        "x.yaml asks for averaged weights, and the plain ones are used",
    ]


def test_open_clips_last_layer_is_taken_where_it_is_asked_for(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path / "x.safetensors", "sd2")
    assert load(path, CPU).config.family.encoders[0].skip == 2
    path.with_suffix(".yaml").write_text(FULL.replace("LAYER", "last"))
    found = load(path, CPU)
    assert found.config.family.encoders[0].skip == 1
    ids = torch.full((1, 77), 49407)
    with torch.inference_mode():
        last = found.text[0](ids, 1, norm=True).context
        assert torch.equal(found.encode_text(ids).context, last)
        assert not torch.equal(last, found.text[0](ids, 2, norm=True).context)


def test_what_is_no_configuration_is_left_aside(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    assert read_yaml(path) is None
    path.write_text("{")
    assert read_yaml(path) is None
    path.write_text("just a word")
    assert read_yaml(path) is None
    path.write_text("model: a word")
    said = read_yaml(path)
    assert said is not None and (said.prediction, said.scale_factor) == ("", None)


def saying(tmp_path: Path, text: str, family: str = "sd1") -> ModelConfig:
    path = write_tiny_checkpoint(tmp_path / "Stable-diffusion" / "x.safetensors", family)
    path.with_suffix(".yaml").write_text(text)
    return detect("x", open_source(path).header, path)


def sigmas_of(config: ModelConfig) -> list[float]:
    return [float(s) for s in noise_table(GenerationParams(), config.schedule, betas=config.betas).sigmas]


def ldm_sigmas(kind: str, start: float, end: float, n: int) -> list[float]:
    """By the formulas of ldm's ``make_beta_schedule``, in plain numbers: sigma^2 = 1 / prod(1 - beta) - 1."""
    steps = [i / (n - 1) for i in range(n)]
    if kind == "linear":
        betas = [(math.sqrt(start) + q * (math.sqrt(end) - math.sqrt(start))) ** 2 for q in steps]
    elif kind == "sqrt_linear":
        betas = [start + q * (end - start) for q in steps]
    else:
        bars = [math.cos((i / n + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(n + 1)]
        betas = [min(1 - after / before, 0.999) for before, after in pairwise(bars)]
    products = accumulate((1 - beta for beta in betas), operator.mul)
    return [math.sqrt(1 / product - 1) for product in products]


SCHEDULES: dict[str, tuple[str, tuple[str, float, float, int]]] = {
    "its end alone": ("linear_end: 0.02", ("linear", 0.00085, 0.02, 1000)),
    "both ends": ("linear_start: 1.5e-3\n    linear_end: 0.0195", ("linear", 0.0015, 0.0195, 1000)),
    "levels": ("timesteps: 400", ("linear", 0.00085, 0.012, 400)),
    "linear": ("beta_schedule: sqrt_linear", ("sqrt_linear", 1e-4, 0.02, 1000)),
    "all of it": (
        "beta_schedule: sqrt_linear\n    linear_start: 0.001\n    linear_end: 0.01\n    timesteps: 500",
        ("sqrt_linear", 0.001, 0.01, 500),
    ),
    "cosine": ("beta_schedule: cosine", ("cosine", 0, 0, 1000)),
}
LDM = "model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n  params:\n    "


@pytest.mark.parametrize("case", SCHEDULES)
def test_the_noise_schedule_is_the_one_that_it_says(case: str, tmp_path: Path) -> None:
    text, expected = SCHEDULES[case]
    config = saying(tmp_path, LDM + text)
    assert sigmas_of(config) == pytest.approx(ldm_sigmas(*expected), rel=5e-4)  # products are kept in float32
    assert config.from_yaml and not CheckpointCatalogue(tmp_path, Hashes()).card("x").remarks


def test_sdxl_has_its_noise_schedule_elsewhere(tmp_path: Path) -> None:
    values = "linear_start: 0.001, linear_end: 0.015, num_timesteps: 800"
    target = "model:\n  target: sgm.models.diffusion.DiffusionEngine\n  params:\n    linear_end: 0.5\n"
    denoiser = f"    denoiser_config: {{params: {{discretization_config: {{params: {{{values}}}}}}}}}\n"
    config = saying(tmp_path, target + denoiser, "sdxl")
    assert sigmas_of(config) == pytest.approx(ldm_sigmas("linear", 0.001, 0.015, 800), rel=5e-4)


def test_one_that_cannot_be_read_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "x.yaml").write_text("model: [", encoding="utf-8")
    assert [read_yaml(tmp_path / "x.yaml") for _ in range(3)] == [None] * 3
    assert caplog.text.count("x.yaml is left aside") == 1
    (tmp_path / "x.yaml").write_text("model: {target: sgm}", encoding="utf-8")
    assert read_yaml(tmp_path / "x.yaml") is not None


LEFT_ASIDE = {
    "broken": ("model: [", "it cannot be read (ParserError)"),
    "a page": ("<html>404</html>", "it is no configuration of a model"),
    "empty": ("", "it is no configuration of a model"),
    "large": ("#" * 300_000, "it has more than 256 kB"),
}


@pytest.mark.parametrize("case", LEFT_ASIDE)
def test_one_that_is_left_aside_is_told_on_the_card(case: str, tmp_path: Path) -> None:
    text, reason = LEFT_ASIDE[case]
    saying(tmp_path, text)
    assert CheckpointCatalogue(tmp_path, Hashes()).card("x").remarks == (f"x.yaml is left aside: {reason}",)


def test_what_is_usual_changes_nothing(tmp_path: Path) -> None:
    text = "beta_schedule: linear\n    linear_start: 0.00085\n    linear_end: 0.0120\n    timesteps: 1000"
    config = saying(tmp_path, LDM + text)
    assert config.betas is None and not config.from_yaml


UNUSABLE = {
    "linear_end: much": "x.yaml says linear_end much, which has to be between 0 and 1: 0.012 is used",
    "linear_start: -0.1": "x.yaml says linear_start -0.1, which has to be between 0 and 1: 0.00085 is used",
    "linear_end: .nan": "x.yaml says linear_end .nan, which has to be between 0 and 1: 0.012 is used",
    "timesteps: 3.5": "x.yaml says timesteps 3.5, which has to be a whole number from 10 to 10000: 1000 is used",
    "timesteps: 1e12": "x.yaml says timesteps 1e12, which has to be a whole number from 10 to 10000: 1000 is used",
    "beta_schedule: quad": "x.yaml says beta_schedule quad, which is not known here: scaled_linear is used",
    "linear_end: 0.9": "x.yaml says betas from 0.00085 to 0.9 in 1000 steps, which are no rising noise: the usual ones"
    " are used",
}


@pytest.mark.parametrize("text", UNUSABLE)
def test_a_noise_schedule_that_cannot_be_is_told_in_a_sentence(text: str, tmp_path: Path) -> None:
    config = saying(tmp_path, LDM + text)
    assert config.betas is None
    assert list(CheckpointCatalogue(tmp_path, Hashes()).card("x").remarks) == [UNUSABLE[text]]


def test_a_picture_depends_on_it_and_its_recipe_names_it(tmp_path: Path) -> None:
    host, store = Host(), ModelStore(tmp_path, CPU, Hashes())
    register(host)
    path = write_tiny_checkpoint(tmp_path / "x.safetensors")
    engine = Engine(store, host, version="0.0")

    def made() -> Result:
        results: list[Result] = []
        engine.run(GenerationParams(width=64, height=64, steps=2, seed=7), results.append)
        return results[0]

    plain = made()
    yaml = path.with_suffix(".yaml")
    yaml.write_text(LDM + "linear_end: 0.03")
    changed = made()
    (named,) = [file for file in changed.recipe.files if file.role == "configuration"]
    assert (named.name, named.sha256) == ("x.yaml", hashlib.sha256(yaml.read_bytes()).hexdigest())
    assert engine.inventory.has(named) and changed.recipe.pixels != plain.recipe.pixels
    assert replay_recipe(engine, changed.recipe).verdict.kind == "identical"
    yaml.unlink()
    (reason,) = replay_recipe(engine, changed.recipe).verdict.reasons
    assert reason.startswith("configuration x.yaml") and reason.endswith("is missing")
    assert made().recipe == plain.recipe


def test_a_picture_depends_on_that_of_the_checkpoint_of_hires_fix(tmp_path: Path) -> None:
    host = Host()
    register(host)
    for name in ("x", "y"):
        write_tiny_checkpoint(tmp_path / f"{name}.safetensors")
    (tmp_path / "y.yaml").write_text(LDM + "linear_end: 0.03")
    hires = Hires(checkpoint="y", scale=1.0, steps=1)
    results: list[Result] = []
    params = GenerationParams(checkpoint="x", width=64, height=64, steps=2, seed=7, hires=hires)
    Engine(ModelStore(tmp_path, CPU, Hashes()), host, version="0.0").run(params, results.append)
    assert [file.name for file in results[0].recipe.files if file.role == "configuration"] == ["y.yaml"]
