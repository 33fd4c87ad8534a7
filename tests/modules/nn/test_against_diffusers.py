"""Our networks against the reference classes of diffusers and transformers, carrying the same random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from modules.nn.clip import Inserted, TextConfig, TextEncoder
from modules.nn.unet import UNet, UNetConfig
from modules.nn.vae import VAE, VAEConfig

SD1 = UNetConfig(model_channels=32, num_heads=4, context_dim=24, norm_groups=8)
SD2 = UNetConfig(model_channels=32, head_channels=16, context_dim=24, norm_groups=8, linear_proj=True)


def random_weights(module: nn.Module, seed: int = 0) -> None:
    """Weights large enough that every layer shows in the output."""
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        fan = p[0].numel() if p.dim() > 1 else 4
        p.data = torch.randn(p.shape, generator=generator) / fan**0.5 + (1.0 if p.dim() == 1 else 0.0) * 0.5


def relative_error(ours: Tensor, reference: Tensor) -> float:
    return ((ours - reference).abs().max() / reference.abs().max()).item()


def diffusers_unet(config: UNetConfig, state: dict[str, Tensor]) -> UNet2DConditionModel:
    channels = tuple(config.model_channels * m for m in config.channel_mult)
    heads: Any = tuple(c // config.head_channels for c in channels) if config.head_channels else config.num_heads
    reference = UNet2DConditionModel(
        block_out_channels=channels,
        layers_per_block=config.num_res_blocks,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=config.context_dim,
        attention_head_dim=heads,
        norm_num_groups=config.norm_groups,
        use_linear_projection=config.linear_proj,
    )
    keys = {f"model.diffusion_model.{k}": v for k, v in state.items()}
    reference.load_state_dict(convert_ldm_unet_checkpoint(keys, dict(reference.config)), strict=True)
    return reference.eval()


@pytest.mark.parametrize("config", [SD1, SD2], ids=["sd1", "sd2"])
@pytest.mark.parametrize("size", [(16, 16), (24, 16)], ids=str)
def test_unet_agrees_with_diffusers(config: UNetConfig, size: tuple[int, int]) -> None:
    unet = UNet(config).eval()
    random_weights(unet)
    reference = diffusers_unet(config, unet.state_dict())
    g = torch.Generator().manual_seed(1)
    x, context = torch.randn(2, 4, *size, generator=g), torch.randn(2, 77, 24, generator=g)
    t = torch.tensor([981.0, 3.5])
    with torch.inference_mode():
        expected = reference(x, t, encoder_hidden_states=context).sample
        assert relative_error(unet(x, t, context), expected) < 1e-4


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


def text_pair() -> tuple[TextEncoder, CLIPTextModel]:
    encoder = TextEncoder(TEXT).eval()
    random_weights(encoder)
    reference = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            attn_implementation="eager",
        )
    ).eval()
    reference.load_state_dict({k.removeprefix("transformer."): v for k, v in encoder.state_dict().items()})
    return encoder, reference


IDS = torch.tensor([[49406, 320, 2368, *[49407] * 74], [49406, 1125, 539, 320, 1929, *[49407] * 72]])


def test_text_encoder_agrees_with_transformers() -> None:
    encoder, reference = text_pair()
    with torch.inference_mode():
        expected = reference(input_ids=IDS, output_hidden_states=True)
        assert relative_error(encoder(IDS), expected.last_hidden_state) < 1e-4
        skipped = reference.final_layer_norm(expected.hidden_states[-2])
        assert relative_error(encoder(IDS, clip_skip=2), skipped) < 1e-4


def test_inserted_vectors_stand_where_tokens_stood_and_leave_no_trace() -> None:
    encoder, _ = text_pair()
    table = encoder.transformer.embeddings.token_embedding.weight
    with torch.inference_mode():
        before = encoder(IDS)
        other = IDS.clone()
        other[1, 2:4] = torch.tensor([1000, 2000])
        placed = encoder(IDS, inserted=[Inserted(1, 2, table[[1000, 2000]])])
        assert torch.equal(placed, encoder(other))
        assert torch.equal(encoder(IDS), before)
