"""ControlNet and T2I-Adapter against diffusers' classes with the same random weights, alone and in the UNet."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, ControlNetUnionModel
from diffusers import T2IAdapter as DiffusersAdapter
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor

from modules.nn.configs import UNetConfig
from modules.nn.controlnet import HINT_CHANNELS, ControlNet, ControlNetUnion
from modules.nn.t2i_adapter import AdapterConfig, LightAdapter, T2IAdapter
from modules.nn.unet import UNet
from tests.modules.nn.test_against_diffusers import (
    SD1,
    SD2,
    SDXL,
    by_level,
    diffusers_unet,
    random_weights,
    relative_error,
)

CONFIGS = {"sd1": SD1, "sd2": SD2, "sdxl": SDXL}


def arguments(config: UNetConfig) -> dict[str, Any]:
    channels = tuple(config.model_channels * m for m in config.channel_mult)
    down = by_level(config.depths_down, config.num_res_blocks)
    vector = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": (config.vector_dim - 16) // 6,
        "projection_class_embeddings_input_dim": config.vector_dim,
    }
    return {
        "block_out_channels": channels,
        "layers_per_block": config.num_res_blocks,
        "down_block_types": tuple("CrossAttnDownBlock2D" if any(depths) else "DownBlock2D" for depths in down),
        "transformer_layers_per_block": [max(max(depths), 1) for depths in down],
        "cross_attention_dim": config.context_dim,
        "attention_head_dim": tuple(c // config.head_channels for c in channels) if config.head_channels else 4,
        "norm_num_groups": config.norm_groups,
        "use_linear_projection": config.linear_proj,
        "conditioning_embedding_out_channels": HINT_CHANNELS[::2],
        **(vector if config.vector_dim else {}),
    }


def converted(net: ControlNet, reference: Any) -> dict[str, Tensor]:
    """Under diffusers' names; those that diffusers does not convert are the same in both."""
    own = net.state_dict()
    union = r"task_embedding|transformer_layes|spatial_ch_projs|control_add_embedding"
    state = {f"control_model.{key}": value for key, value in own.items() if not re.match(union, key)}
    found = convert_controlnet_checkpoint(state, dict(reference.config))
    for i, name in ((0, "linear_1"), (2, "linear_2")):  # which it leaves out
        for kind in ("weight", "bias"):
            if (key := f"label_emb.0.{i}.{kind}") in own:
                found[f"add_embedding.{name}.{kind}"] = own[key]
    return {**found, **{key: value for key, value in own.items() if re.match(union, key)}}


def inputs(config: UNetConfig) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, dict[str, Tensor]]:
    g = torch.Generator().manual_seed(1)
    x, context = torch.randn(2, 4, 16, 8, generator=g), torch.randn(2, 77, 24, generator=g)
    picture = torch.rand(2, 3, 128, 64, generator=g)
    if not config.vector_dim:
        return x, torch.tensor([981.0, 3.5]), context, picture, None, {}
    pooled, sizes = torch.randn(2, 16, generator=g), torch.tensor([[16.0, 24, 0, 3, 16, 24], [8.0, 8, 1, 2, 8, 9]])
    angles = get_timestep_embedding(
        sizes.flatten(), (config.vector_dim - 16) // 6, flip_sin_to_cos=True, downscale_freq_shift=0
    )
    vector = torch.cat([pooled, angles.reshape(2, -1)], dim=1)
    return x, torch.tensor([981.0, 3.5]), context, picture, vector, {"text_embeds": pooled, "time_ids": sizes}


class Added:
    """Residuals in our UNet, as `modules.extension.patcher` puts functions there."""

    def __init__(self, skips: list[Tensor], middle: Tensor):
        self.skips, self.middle = list(skips), middle

    def after(self, place: str, number: int, h: Tensor) -> Tensor:
        return h + self.middle if place == "middle" else h

    def join(self, number: int, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        return h, skip + self.skips[len(self.skips) - 1 - number]


@pytest.mark.parametrize("name", CONFIGS)
def test_controlnet_agrees_with_diffusers_alone_and_in_the_unet(name: str) -> None:
    config = CONFIGS[name]
    net, unet = ControlNet(config).eval(), UNet(config).eval()
    random_weights(net)
    random_weights(unet, 1)
    reference = ControlNetModel(**arguments(config)).eval()
    reference.load_state_dict(converted(net, reference), strict=True)
    x, t, context, picture, vector, added = inputs(config)
    with torch.inference_mode():
        ours = net(x, t, context, picture, vector)
        down, middle = reference(x, t, context, picture, added_cond_kwargs=added, return_dict=False)
        assert len(ours) == len(down) + 1
        assert max(relative_error(a, b) for a, b in zip(ours, [*down, middle], strict=True)) < 1e-4
        whole = diffusers_unet(config, unet.state_dict())(
            x,
            t,
            context,
            added_cond_kwargs=added,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample
        plain = unet(x, t, context, vector)
        unet.taps = Added(ours[:-1], ours[-1])
        assert relative_error(unet(x, t, context, vector), whole) < 1e-4
        assert relative_error(plain, whole) > 1e-2


@pytest.mark.parametrize("kind", [0, 5])
def test_union_controlnet_agrees_with_diffusers(kind: int) -> None:
    config = replace(SDXL, vector_dim=16 + 6 * 256)  # the kinds have as many sinusoids as the sizes
    net = ControlNetUnion(config, types=6).eval()
    random_weights(net)
    reference = ControlNetUnionModel(
        **arguments(config), num_control_type=6, num_trans_channel=32, num_proj_channel=32
    ).eval()

    reference.load_state_dict(converted(net, reference), strict=True)
    x, t, context, picture, vector, added = inputs(config)
    chosen = torch.zeros(1, 6)
    chosen[:, kind] = 1
    # One image: the reference mixes those of a batch.
    x, t, context, picture, vector = x[:1], t[:1], context[:1], picture[:1], None if vector is None else vector[:1]
    added = {name: value[:1] for name, value in added.items()}
    with torch.inference_mode():
        emb, text = net.embed(t, vector), net.text_keys(context)
        ours = net.residuals(x, emb, text, net.hint(picture), kind)
        down, middle = reference(x, t, context, [picture], chosen, [kind], added_cond_kwargs=added, return_dict=False)
        assert max(relative_error(a, b) for a, b in zip(ours, [*down, middle], strict=True)) < 1e-4


ADAPTERS = {
    "full_adapter": (T2IAdapter, AdapterConfig(3 * 64, (8, 16, 32, 32))),
    "full_adapter_xl": (
        T2IAdapter,
        AdapterConfig(3 * 256, (8, 16, 32, 32), halves=(False, False, True, False), unshuffle=16),
    ),
    "light_adapter": (LightAdapter, AdapterConfig(3 * 64, (8, 16, 32, 32), blocks=4)),
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_t2i_adapter_agrees_with_diffusers(kind: str) -> None:
    cls, config = ADAPTERS[kind]
    adapter = cls(config).eval()
    random_weights(adapter)
    channels = list(config.channels)[: 3 if kind == "light_adapter" else 4]
    reference = DiffusersAdapter(3, channels, config.blocks, config.unshuffle, kind).eval()
    state = {}
    for key, value in adapter.state_dict().items():
        if kind == "light_adapter":
            key = re.sub(r"body\.(\d)\.body", r"body.\1.resnets", key)
        elif found := re.match(r"body\.(\d)\.(.+)", key):
            level, i = divmod(int(found[1]), 2)
            inner = "" if found[2].startswith("in_conv") else f"resnets.{i}."
            key = f"body.{level}.{inner}{found[2]}"
        state[f"adapter.{key}"] = value
    reference.load_state_dict(state, strict=True)
    picture = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        for ours, theirs in zip(adapter(picture), reference(picture), strict=True):
            assert relative_error(ours, theirs) < 1e-4
