"""What A1111's configuration beside a checkpoint says is done or named."""

from __future__ import annotations

from pathlib import Path

import torch

from modules.checkpoints.a1111_yaml import read_yaml
from modules.checkpoints.catalogue import CheckpointCatalogue
from modules.checkpoints.files import Hashes
from modules.checkpoints.model import load
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.devices import Device

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
        "x.yaml says linear_end 0.02, and 0.012 is used",
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
    said = read_yaml(path)
    assert said is not None and (said.prediction, said.scale_factor) == ("", None)
