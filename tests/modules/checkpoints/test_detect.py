"""What a checkpoint is: prediction by who says it first, for the card and the loader alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from modules.checkpoints.catalogue import Catalogue
from modules.checkpoints.detect import Prediction, prediction
from modules.checkpoints.files import Hashes, read_header
from modules.checkpoints.model import load
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.devices import Device
from modules.diffusion.parameterization import ZERO_SNR_ALPHA
from modules.params.generation import GenerationParams
from modules.pipeline.sampling_options import noise_table

V_YAML = """model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    parameterization: "v"
    linear_start: 0.00085
"""
SDXL_YAML = """model:
  target: sgm.models.diffusion.DiffusionEngine
  params:
    denoiser_config:
      target: sgm.modules.diffusionmodules.denoiser.DiscreteDenoiser
      params:
        scaling_config:
          target: sgm.modules.diffusionmodules.denoiser_scaling.{}
"""
PLAIN_YAML = "model: {params: {linear_start: 0.00085}}"


def written(path: Path, *, keys: tuple[str, ...] = (), yaml: str = "", **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"model.diffusion_model.out.2.bias": torch.zeros(4)} | {key: torch.zeros(0) for key in keys}
    save_file(tensors, path, metadata=metadata)
    if yaml:
        path.with_suffix(".yaml").write_text(yaml, encoding="utf-8-sig")
    return path


def ours(**stated: Any) -> dict[str, str]:
    return {"reprise.config": json.dumps(stated)}


SPEC = "modelspec.prediction_type"
SAID: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "eps"),
    "yaml": ({"yaml": V_YAML}, "v"),
    "yaml of SDXL": ({"yaml": SDXL_YAML.format("VScaling")}, "v"),
    "yaml of SDXL with eps": ({"yaml": SDXL_YAML.format("EpsScaling"), "keys": ("v_pred",)}, "eps"),
    "yaml before our own": ({"yaml": V_YAML, **ours(prediction="eps")}, "v"),
    "yaml that is silent": ({"yaml": PLAIN_YAML, **ours(prediction="v")}, "v"),
    "our own": (ours(prediction="v"), "v"),
    "our own before the key": ({"keys": ("v_pred",), **ours(prediction="eps")}, "eps"),
    "our own of another kind": ({"keys": ("v_pred",), **ours(prediction=3)}, "v"),
    "key": ({"keys": ("v_pred",)}, "v"),
    "key before ModelSpec": ({"keys": ("v_pred",), SPEC: "epsilon"}, "v"),
    "ModelSpec": ({SPEC: "v"}, "v"),
    "ModelSpec in other words": ({SPEC: "V_Prediction"}, "v"),
    "ModelSpec epsilon": ({SPEC: "epsilon"}, "eps"),
    "yaml that is none": ({"yaml": "{: [", "keys": ("v_pred",)}, "v"),
    "yaml too deep": ({"yaml": "[" * 100_000}, "eps"),
    "yaml too long": ({"yaml": V_YAML + "#" * 300_000}, "eps"),
    "yaml of a list": ({"yaml": "- model"}, "eps"),
    "yaml whose text is a table": ({"yaml": "model: {params: {parameterization: {v: v}}}"}, "eps"),
    "yaml that would build something": ({"yaml": "!!python/object/apply:os.system [exit]"}, "eps"),
}


@pytest.mark.parametrize("case", SAID)
def test_prediction_is_what_the_first_of_four_says(case: str, tmp_path: Path) -> None:
    said, kind = SAID[case]
    path = written(tmp_path / "Stable-diffusion" / "a.b.safetensors", **said)
    assert prediction(read_header(path), path).kind == kind
    assert Catalogue(tmp_path, Hashes()).card("a.b").prediction == kind


def test_merge_keys_of_a_yaml_never_multiply(tmp_path: Path) -> None:
    """Thirty lines that would make 9 ** 30 entries, were they built."""
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 30)]
    path = written(tmp_path / "a.safetensors", yaml="\n".join([*lines, V_YAML]))
    assert prediction(read_header(path), path).kind == "v"


def test_the_card_and_the_sampler_tell_the_same(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path / "Stable-diffusion" / "fluff.safetensors")
    config = json.loads(read_header(path).metadata["reprise.config"])
    del config["prediction"]
    save_file(load_file(path), path, metadata=ours(**config))
    for yaml, kind in ((V_YAML, "v"), (PLAIN_YAML, "eps")):
        path.with_suffix(".yaml").write_text(yaml)
        card = Catalogue(tmp_path, Hashes()).card("fluff")
        assert card.prediction == load(path, Device(torch.device("cpu"), torch.float32)).config.prediction == kind


def test_the_mark_ztsnr_ends_the_noise_levels_in_pure_noise(tmp_path: Path) -> None:
    marked = written(tmp_path / "marked.safetensors", keys=("v_pred", "ztsnr"))
    plain = written(tmp_path / "plain.safetensors", keys=("v_pred",))
    assert prediction(read_header(marked), marked) == Prediction("v", zero_terminal_snr=True)
    assert prediction(read_header(plain), plain) == Prediction("v")
    table = noise_table(GenerationParams(), "scaled_linear", zero_terminal_snr=True)
    assert table.alphas_cumprod[-1] == pytest.approx(ZERO_SNR_ALPHA)
    asked = noise_table(GenerationParams(sd_noise_schedule="Zero Terminal SNR"), "scaled_linear")
    assert (table.alphas_cumprod == asked.alphas_cumprod).all()
