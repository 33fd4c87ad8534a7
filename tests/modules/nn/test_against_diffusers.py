"""Our networks against the reference classes of diffusers and transformers, carrying the same random weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from modules.nn.clip import CLIPText
from modules.nn.configs import NO_MIDDLE, ONE_BLOCK, OPEN_CLIP, TextConfig, UNetConfig, VAEConfig
from modules.nn.openclip import OpenCLIPText
from modules.nn.text import Inserted, TextEncoder
from modules.nn.unet import UNet
from modules.nn.vae import VAE

SD1 = UNetConfig(model_channels=32, num_heads=4, context_dim=24, norm_groups=8)
SD2 = UNetConfig(model_channels=32, head_channels=16, context_dim=24, norm_groups=8, linear_proj=True)
SDXL = replace(SD2, channel_mult=(1, 2, 4), transformer_depth=(0, 2, 3), middle_depth=3, vector_dim=40)
REFINER = replace(SD2, transformer_depth=(0, 2, 2, 0), middle_depth=2, vector_dim=40)
SSD = replace(SDXL, input_depth=(0, 0, 2, 2, 3, 3), output_depth=(3, 3, 4, 2, 1, 1, 0, 0, 0), middle_depth=ONE_BLOCK)
KOALA = replace(SDXL, num_res_blocks=1, transformer_depth=(0, 1, 2), middle_depth=NO_MIDDLE)
UNETS = {
    "sd1": SD1,
    "sd1 inpainting": replace(SD1, in_channels=9),
    "pix2pix": replace(SD1, in_channels=8),
    "sd2": SD2,
    "sdxl": SDXL,
    "sdxl inpainting": replace(SDXL, in_channels=9),
    "refiner": REFINER,
    "ssd": SSD,
    "koala": KOALA,
}


def random_weights(module: nn.Module, seed: int = 0) -> None:
    """Weights large enough that every layer shows in the output."""
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        fan = p[0].numel() if p.dim() > 1 else 4
        p.data = torch.randn(p.shape, generator=generator) / fan**0.5 + (1.0 if p.dim() == 1 else 0.0) * 0.5


def relative_error(ours: Tensor, reference: Tensor) -> float:
    return ((ours - reference).abs().max() / reference.abs().max()).item()


def by_level(depths: Sequence[int], blocks: int) -> list[list[int]]:
    return [list(depths[i : i + blocks]) for i in range(0, len(depths), blocks)]


def diffusers_unet(config: UNetConfig, state: dict[str, Tensor], *, numbers: int = 4) -> UNet2DConditionModel:
    """``numbers``: sinusoids of each size in SDXL's vector."""
    channels = tuple(config.model_channels * m for m in config.channel_mult)
    heads: Any = tuple(c // config.head_channels for c in channels) if config.head_channels else config.num_heads
    down = by_level(config.depths_down, config.num_res_blocks)
    up = by_level(config.depths_up, config.num_res_blocks + 1)
    middle: dict[int, Any] = {ONE_BLOCK: "UNetMidBlock2D", NO_MIDDLE: None}
    vector: dict[str, Any] = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": numbers,
        "projection_class_embeddings_input_dim": config.vector_dim,
    }
    reference = UNet2DConditionModel(
        in_channels=config.in_channels,
        sample_size=64,
        block_out_channels=channels,
        layers_per_block=config.num_res_blocks,
        down_block_types=tuple("CrossAttnDownBlock2D" if any(depths) else "DownBlock2D" for depths in down),
        mid_block_type=middle.get(config.middle_depth, "UNetMidBlock2DCrossAttn"),
        up_block_types=tuple("CrossAttnUpBlock2D" if any(depths) else "UpBlock2D" for depths in up),
        transformer_layers_per_block=[[depth or max(config.middle_depth, 1) for depth in depths] for depths in down],
        reverse_transformer_layers_per_block=[[depth or 1 for depth in depths] for depths in up],
        cross_attention_dim=config.context_dim,
        attention_head_dim=heads,
        norm_num_groups=config.norm_groups,
        use_linear_projection=config.linear_proj,
        **(vector if config.vector_dim else {}),
    )
    keys = {f"model.diffusion_model.{k}": v for k, v in state.items()}
    converted = convert_ldm_unet_checkpoint(keys, dict(reference.config))
    reference.load_state_dict(converted, strict=True)
    return reference.eval()


@pytest.mark.parametrize("name", UNETS)
def test_unet_agrees_with_diffusers(name: str) -> None:
    config, size = UNETS[name], (16, 8)
    unet = UNet(config).eval()
    random_weights(unet)
    reference = diffusers_unet(config, unet.state_dict())
    g = torch.Generator().manual_seed(1)
    x, context = torch.randn(2, config.in_channels, *size, generator=g), torch.randn(2, 77, 24, generator=g)
    t = torch.tensor([981.0, 3.5])
    pooled, sizes = torch.randn(2, 16, generator=g), torch.tensor([[16.0, 24, 0, 3, 16, 24], [8.0, 8, 1, 2, 8, 9]])
    vector, added = None, {}
    if config.vector_dim:
        angles = sizes[..., None] * torch.tensor([1.0, 1e-2])  # diffusers' own sinusoids, of two frequencies
        vector = torch.cat([pooled, torch.cat([angles.cos(), angles.sin()], dim=-1).flatten(1)], dim=1)
        added = {"text_embeds": pooled, "time_ids": sizes}
    with torch.inference_mode():
        expected = reference(x, t, encoder_hidden_states=context, added_cond_kwargs=added).sample
        assert relative_error(unet(x, t, context, vector), expected) < 1e-4


def test_parts_of_the_unet_kept_over_the_steps_give_what_the_plain_call_gives() -> None:
    unet = UNet(SD1).eval()
    random_weights(unet)
    x, context, t = torch.randn(2, 4, 8, 8), torch.randn(2, 77, 24), torch.tensor([500.0, 500.0])
    with torch.inference_mode():
        emb = unet.embed(torch.tensor([999.0, 500.0]))[1:]
        assert torch.allclose(unet.run(x, emb.expand(2, -1), unet.text_keys(context)), unet(x, t, context), atol=1e-5)


def test_unet_takes_latents_whose_sides_its_levels_do_not_divide() -> None:
    unet = UNet(SD1).eval()
    with torch.inference_mode():
        assert unet(torch.randn(1, 4, 9, 13), torch.tensor([1.0]), torch.randn(1, 77, 24)).shape == (1, 4, 9, 13)


def test_autoencoder_agrees_with_diffusers() -> None:
    config = VAEConfig(channels=32, channel_mult=(1, 2, 2, 3), num_res_blocks=1, norm_groups=8)
    vae = VAE(config).eval()
    random_weights(vae)
    reference = AutoencoderKL(
        block_out_channels=tuple(config.channels * m for m in config.channel_mult),
        layers_per_block=config.num_res_blocks,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=config.norm_groups,
    ).eval()
    state = {f"first_stage_model.{k}": v for k, v in vae.state_dict().items()}
    reference.load_state_dict(convert_ldm_vae_checkpoint(state, dict(reference.config)), strict=True)
    x, z = torch.randn(2, 3, 64, 48), torch.randn(2, 4, 8, 6)
    with torch.inference_mode():
        expected = reference.encode(x).latent_dist
        mean, logvar = vae.encode(x)
        assert relative_error(mean, expected.mean) < 1e-4
        assert relative_error(logvar, expected.logvar) < 1e-4
        assert relative_error(vae.decode(z), reference.decode(z).sample) < 1e-4


TEXT = TextConfig(width=32, layers=3, heads=4, inner=64, vocabulary=49408)
OPEN_TEXT = replace(TEXT, activation="gelu", layout=OPEN_CLIP, projection=24)
IDS = torch.tensor([[49406, 320, 2368, *[49407] * 74], [49406, 1125, 539, 320, 1929, *[49407] * 72]])
PADDED = torch.tensor([[49406, 320, 2368, 49407, *[0] * 73], [49406, 1125, 539, 320, 1929, 49407, *[0] * 71]])
"""As SD2 and SDXL's second encoder want them: 0 behind the first end token."""


def reference_config(config: TextConfig) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=config.width,
        intermediate_size=config.inner,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        hidden_act=config.activation,
        projection_dim=config.projection or 512,
        bos_token_id=49406,
        eos_token_id=49407,
        attn_implementation="eager",
    )


def text_pair() -> tuple[TextEncoder, CLIPTextModel]:
    encoder = CLIPText(TEXT).eval()
    random_weights(encoder)
    reference = CLIPTextModel(reference_config(TEXT)).eval()
    reference.load_state_dict(encoder.state_dict())
    return encoder, reference


def as_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's names and shapes as those of ``CLIPTextModelWithProjection``."""
    own = {
        "positional_embedding": "embeddings.position_embedding.weight",
        "token_embedding.weight": "embeddings.token_embedding.weight",
        "ln_final.weight": "final_layer_norm.weight",
        "ln_final.bias": "final_layer_norm.bias",
    }
    parts = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    parts["attn.out_proj"] = "self_attn.out_proj"
    found = {"text_projection.weight": state["text_projection"].T}
    for key, tensor in state.items():
        if key in own:
            found[f"text_model.{own[key]}"] = tensor
        elif key.startswith("transformer.resblocks."):
            _, _, number, part = key.split(".", 3)
            layer = f"text_model.encoder.layers.{number}."
            if part.startswith("attn.in_proj_"):
                for name, third in zip("qkv", tensor.chunk(3), strict=True):
                    found[f"{layer}self_attn.{name}_proj.{part.removeprefix('attn.in_proj_')}"] = third
            else:
                module, kind = part.rsplit(".", 1)
                found[f"{layer}{parts[module]}.{kind}"] = tensor
    return found


def open_pair() -> tuple[TextEncoder, CLIPTextModelWithProjection]:
    encoder = OpenCLIPText(OPEN_TEXT).eval()
    random_weights(encoder)
    reference = CLIPTextModelWithProjection(reference_config(OPEN_TEXT)).eval()
    reference.load_state_dict(as_transformers(encoder.state_dict()), strict=True)
    return encoder, reference


def test_clip_agrees_with_transformers() -> None:
    encoder, reference = text_pair()
    with torch.inference_mode():
        expected = reference(input_ids=IDS, output_hidden_states=True)
        assert relative_error(encoder(IDS).context, expected.last_hidden_state) < 1e-5
        for skip in (2, 3):
            states = expected.hidden_states[-skip]
            assert relative_error(encoder(IDS, skip).context, reference.final_layer_norm(states)) < 1e-5
            assert relative_error(encoder(IDS, skip, norm=False).context, states) < 1e-5
        assert encoder(IDS).pooled is None


def test_open_clip_agrees_with_transformers() -> None:
    encoder, reference = open_pair()
    with torch.inference_mode():
        expected = reference(input_ids=PADDED, output_hidden_states=True)
        plain, normed = encoder(PADDED, 2, norm=False), encoder(PADDED, 2)
        assert relative_error(plain.context, expected.hidden_states[-2]) < 1e-5
        norm = reference.text_model.final_layer_norm
        assert relative_error(normed.context, norm(expected.hidden_states[-2])) < 1e-5
        assert relative_error(plain.pooled, expected.text_embeds) < 1e-5
        assert relative_error(normed.pooled, expected.text_embeds) < 1e-5
        assert torch.equal(encoder(IDS).pooled, encoder(IDS[:, :60]).pooled)  # the first end token


@pytest.mark.parametrize("pair", [text_pair, open_pair], ids=["clip", "open_clip"])
def test_training_takes_the_same_path_with_gradients(pair: Callable[[], tuple[TextEncoder, Any]]) -> None:
    """With gradients attention is computed step by step; texts may be shorter than 77 tokens."""
    encoder, _ = pair()
    with torch.inference_mode():
        expected = encoder(PADDED).context[:, :12]
    found = encoder(PADDED[:, :12]).context
    assert relative_error(found, expected) < 1e-5
    found.sum().backward()
    assert all(p.grad is not None for name, p in encoder.named_parameters() if name != "text_projection")


@pytest.mark.parametrize("pair", [text_pair, open_pair], ids=["clip", "open_clip"])
def test_inserted_vectors_stand_where_tokens_stood_and_leave_no_trace(
    pair: Callable[[], tuple[TextEncoder, Any]],
) -> None:
    encoder, _ = pair()
    table = encoder.embed(torch.arange(2001))
    with torch.inference_mode():
        before = encoder(IDS).context
        other = IDS.clone()
        other[1, 2:4] = torch.tensor([1000, 2000])
        placed = encoder(IDS, inserted=[Inserted(1, 2, table[[1000, 2000]])]).context
        assert torch.equal(placed, encoder(other).context)
        assert torch.equal(encoder(IDS).context, before)
