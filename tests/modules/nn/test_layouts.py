"""Layer names and shapes against the key lists of real checkpoint layouts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from modules.nn.clip import CLIPText
from modules.nn.configs import NO_MIDDLE, ONE_BLOCK, OPEN_CLIP, TextConfig, UNetConfig, VAEConfig
from modules.nn.openclip import OpenCLIPText
from modules.nn.text import TextEncoder
from modules.nn.unet import UNet
from modules.nn.vae import VAE

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
VIT_H = TextConfig(1024, 24, 16, 4096, activation="gelu", layout=OPEN_CLIP, projection=1024)
BIG_G = TextConfig(1280, 32, 20, 5120, activation="gelu", layout=OPEN_CLIP, projection=1280)
TEXTS: dict[str, tuple[type[TextEncoder], TextConfig, str]] = {
    "sd15": (CLIPText, TextConfig(), "cond_stage_model.transformer.text_model."),
    "sd21": (OpenCLIPText, VIT_H, "cond_stage_model.model."),
    "sdxl_base": (CLIPText, TextConfig(), "conditioner.embedders.0.transformer.text_model."),
    "sdxl_base, second": (OpenCLIPText, BIG_G, "conditioner.embedders.1.model."),
    "sdxl_refiner": (OpenCLIPText, BIG_G, "conditioner.embedders.0.model."),
}
FOREIGN = ("position_ids", "logit_scale")
"""What files hold beside the weights."""


def layout(module: nn.Module) -> dict[str, list[int]]:
    return {key: list(tensor.shape) for key, tensor in module.state_dict().items()}


def part(family: str, prefix: str) -> dict[str, list[int]]:
    return {
        key.removeprefix(prefix): shape
        for key, shape in KEYS[family].items()
        if key.startswith(prefix) and not key.endswith(FOREIGN)
    }


@pytest.mark.parametrize("family", UNETS)
def test_unet_has_the_layers_of_the_checkpoint(family: str) -> None:
    with torch.device("meta"):
        assert layout(UNet(UNETS[family])) == part(family, "model.diffusion_model.")


@pytest.mark.parametrize("family", KEYS)
def test_autoencoder_has_the_layers_of_the_checkpoint(family: str) -> None:
    with torch.device("meta"):
        assert layout(VAE(VAEConfig())) == part(family, "first_stage_model.")


@pytest.mark.parametrize("name", TEXTS)
def test_text_encoder_has_the_layers_of_the_checkpoint(name: str) -> None:
    network, config, prefix = TEXTS[name]
    with torch.device("meta"):
        assert layout(network(config)) == part(name.split(",")[0], prefix)


def test_every_part_of_the_reference_layouts_is_known() -> None:
    known = {"model.diffusion_model.", "first_stage_model.", *(prefix for _, _, prefix in TEXTS.values())}
    for keys in KEYS.values():
        rest = {key for key in keys if not key.startswith(tuple(known)) and not key.endswith(FOREIGN)}
        assert {key for key in rest if key not in SCHEDULE and not key.startswith("denoiser.")} == set()


SCHEDULE = {
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
}


def test_pruned_unets_have_the_parameters_that_their_authors_count() -> None:
    """SDXL: 2.57 billion; SSD-1B and Vega, arXiv:2401.02677: 1.33 and 0.74; KOALA-700M, arXiv:2312.04005: 0.78."""
    one = replace(SDXL, middle_depth=ONE_BLOCK)
    ssd = replace(one, input_depth=(0, 0, 2, 2, 4, 4), output_depth=(4, 4, 10, 2, 1, 1, 0, 0, 0))
    vega = replace(one, input_depth=(0, 0, 1, 1, 2, 2), output_depth=(2, 2, 2, 1, 1, 1, 0, 0, 0))
    koala = replace(SDXL, num_res_blocks=1, transformer_depth=(0, 2, 5), middle_depth=NO_MIDDLE)
    with torch.device("meta"):
        counted = [sum(p.numel() for p in UNet(c).parameters()) / 1e9 for c in (SDXL, ssd, vega, koala)]
    assert counted == pytest.approx([2.57, 1.33, 0.74, 0.78], abs=0.01)
