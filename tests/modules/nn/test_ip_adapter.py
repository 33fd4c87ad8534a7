"""IP-Adapter and CLIP's vision transformer against diffusers and transformers with the same random weights."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from modules.nn.clip_vision import CLIPVision, VisionConfig
from modules.nn.ip_adapter import FULL, PLAIN, PLUS, IPAdapter, IPAdapterConfig, beside
from modules.nn.unet import CrossAttention, TransformerBlock, UNet
from tests.modules.nn.test_against_diffusers import SD1, diffusers_unet, random_weights, relative_error


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_vision_transformer_agrees_with_transformers(activation: str) -> None:
    config = VisionConfig(32, 3, 2, 48, 4, 16, 24, activation)
    network = CLIPVision(config).eval()
    random_weights(network)
    reference = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            projection_dim=24,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=16,
            patch_size=4,
            hidden_act=activation,
        )
    ).eval()
    left = reference.load_state_dict(network.state_dict(), strict=False)
    assert left.unexpected_keys == [] and all("position_ids" in key for key in left.missing_keys)
    pictures = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        pooled, states = network(pictures)
        expected = reference(pictures, output_hidden_states=True)
    assert relative_error(pooled, expected.image_embeds) < 1e-4
    assert relative_error(states, expected.hidden_states[-2]) < 1e-4


def cross_attentions(unet: UNet) -> list[CrossAttention]:
    """In the order of an adapter's file: on the way down, on the way up, in the middle."""
    parts = (unet.input_blocks, unet.output_blocks, unet.middle_block)
    return [m.attn2 for part in parts for m in part.modules() if isinstance(m, TransformerBlock)]


@pytest.mark.parametrize("kind", [PLAIN, PLUS, FULL])
def test_ip_adapter_agrees_with_diffusers(kind: str) -> None:
    unet = UNet(SD1).eval()
    random_weights(unet)
    attentions = cross_attentions(unet)
    widths = tuple(layer.to_q.in_features for layer in attentions)
    image_width = 48
    config = IPAdapterConfig(kind, image_width, 24, widths, tokens=4, inner=32, depth=4, attention_width=128)
    adapter = IPAdapter(config).eval()
    random_weights(adapter, 1)
    reference: UNet2DConditionModel = diffusers_unet(SD1, unet.state_dict())
    state = adapter.state_dict()
    split = {
        part: {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
        for part in ("image_proj", "ip_adapter")
    }
    reference._load_ip_adapter_weights([split])
    g = torch.Generator().manual_seed(2)
    x, context, t = torch.randn(1, 4, 16, 8, generator=g), torch.randn(1, 77, 24, generator=g), torch.tensor([300.0])
    picture = torch.randn(1, image_width, generator=g) if kind == PLAIN else torch.randn(1, 7, image_width, generator=g)
    for processor in reference.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [0.7]
    with torch.inference_mode():
        expected = reference(x, t, context, added_cond_kwargs={"image_embeds": [picture[:, None]]}).sample
        pairs = adapter.key_values(adapter(picture), [layer.heads for layer in attentions])
        for layer, pair in zip(attentions, pairs, strict=True):
            inner = layer.attend
            layer.attend = lambda q, k, v, inner=inner, pair=pair: beside(inner(q, k, v), q, pair, 0.7)  # type: ignore
        assert relative_error(unet(x, t, context), expected) < 1e-4
    assert isinstance(adapter, nn.Module)
