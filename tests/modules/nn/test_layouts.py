"""Layer names and shapes against the key lists of real checkpoint layouts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from modules.nn.clip import TextConfig, TextEncoder
from modules.nn.unet import UNet, UNetConfig
from modules.nn.vae import VAE, VAEConfig

KEYS = json.loads((Path(__file__).parents[2] / "golden" / "checkpoint_keys.json").read_text())
SDXL = UNetConfig(
    channel_mult=(1, 2, 4),
    transformer_depth=(0, 2, 10),
    middle_depth=10,
    head_channels=64,
    context_dim=2048,
    linear_proj=True,
    vector_dim=2816,
)
REFINER = UNetConfig(
    model_channels=384,
    transformer_depth=(0, 4, 4, 0),
    middle_depth=4,
    head_channels=64,
    context_dim=1280,
    linear_proj=True,
    vector_dim=2560,
)
UNETS = {
    "sd15": UNetConfig(),
    "sd21": UNetConfig(head_channels=64, context_dim=1024, linear_proj=True),
    "sdxl_base": SDXL,
    "sdxl_refiner": REFINER,
}


def layout(module: nn.Module) -> dict[str, list[int]]:
    return {key: list(tensor.shape) for key, tensor in module.state_dict().items()}


def part(family: str, prefix: str) -> dict[str, list[int]]:
    return {
        key.removeprefix(prefix): shape
        for key, shape in KEYS[family].items()
        if key.startswith(prefix) and "position_ids" not in key
    }


@pytest.mark.parametrize("family", UNETS)
def test_unet_has_the_layers_of_the_checkpoint(family: str) -> None:
    with torch.device("meta"):
        assert layout(UNet(UNETS[family])) == part(family, "model.diffusion_model.")


def test_autoencoder_has_the_layers_of_the_checkpoint() -> None:
    with torch.device("meta"):
        assert layout(VAE(VAEConfig())) == part("sd15", "first_stage_model.")


def test_text_encoder_has_the_layers_of_the_checkpoint() -> None:
    with torch.device("meta"):
        ours = {k.removeprefix("transformer."): v for k, v in layout(TextEncoder(TextConfig())).items()}
    assert ours == part("sd15", "cond_stage_model.transformer.text_model.")
