"""Sizes of networks from the shapes of their tensors. What no shape tells (heads, norm groups) is the usual value."""

from __future__ import annotations

from collections.abc import Sequence

from modules.checkpoints.families.base import UNET, VAE, EncoderSpec, Shapes
from modules.nn.configs import NO_MIDDLE, ONE_BLOCK, OPEN_CLIP, TextConfig, UNetConfig, VAEConfig

HEAD = 64
"""Channels of an attention head in every text encoder, and in the UNets of SD2 and SDXL."""


def unet_config(shapes: Shapes) -> UNetConfig:
    """Raises `LookupError` where a layer is missing."""
    base, in_channels = shapes[f"{UNET}input_blocks.0.0.weight"][:2]
    mults, down = way_down(shapes, base)
    blocks = len(down) // max(len(mults), 1)
    up = _way_up(shapes)
    depths = tuple(max(down[i : i + blocks]) for i in range(0, len(down), blocks)) if blocks else ()
    even = UNetConfig(channel_mult=mults, num_res_blocks=blocks, transformer_depth=depths)
    middle = middle_depth(shapes)
    crossing = (key for key in shapes if key.startswith(UNET) and key.endswith(".attn2.to_k.weight"))
    first = next(crossing, f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight")
    linear = len(shapes[f"{first.partition('transformer_blocks.')[0]}proj_in.weight"]) == 2
    return UNetConfig(
        in_channels=in_channels,
        out_channels=shapes[f"{UNET}out.2.weight"][0],
        model_channels=base,
        channel_mult=mults,
        num_res_blocks=blocks,
        transformer_depth=depths,
        middle_depth=middle,
        context_dim=shapes[first][1],
        linear_proj=linear,
        head_channels=HEAD if linear else 0,
        vector_dim=shapes.get(f"{UNET}label_emb.0.0.weight", (0, 0))[1],
        input_depth=() if down == even.depths_down else down,
        output_depth=() if up == even.depths_up else up,
    )


def way_down(shapes: Shapes, base: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channel multipliers by level, and the transformer depth of each residual block."""
    mults: list[int] = []
    depths: list[int] = []
    new_level, i = True, 1
    while True:
        if (conv := f"{UNET}input_blocks.{i}.0.in_layers.2.weight") in shapes:
            if new_level:
                mults.append(shapes[conv][0] // base)
            depths.append(depth(shapes, f"input_blocks.{i}.1."))
            new_level = False
        elif f"{UNET}input_blocks.{i}.0.op.weight" in shapes:
            new_level = True
        else:
            return tuple(mults), tuple(depths)
        i += 1


def _way_up(shapes: Shapes) -> tuple[int, ...]:
    depths: list[int] = []
    while f"{UNET}output_blocks.{len(depths)}.0.in_layers.2.weight" in shapes:
        depths.append(depth(shapes, f"output_blocks.{len(depths)}.1."))
    return tuple(depths)


def middle_depth(shapes: Shapes) -> int:
    if f"{UNET}middle_block.0.in_layers.2.weight" not in shapes:
        return NO_MIDDLE
    found = depth(shapes, "middle_block.1.")
    whole = found or f"{UNET}middle_block.1.in_layers.2.weight" in shapes
    return found if whole else ONE_BLOCK


def depth(shapes: Shapes, prefix: str) -> int:
    """Transformer blocks at a place of the UNet."""
    found = 0
    while f"{UNET}{prefix}transformer_blocks.{found}.norm1.weight" in shapes:
        found += 1
    return found


def vae_config(shapes: Shapes) -> VAEConfig:
    """Raises `LookupError` where a layer is missing."""
    channels = shapes[f"{VAE}encoder.conv_in.weight"][0]
    mults: list[int] = []
    blocks = 0
    while (key := f"{VAE}encoder.down.{len(mults)}.block.0.conv1.weight") in shapes:
        mults.append(shapes[key][0] // channels)
    while f"{VAE}encoder.down.0.block.{blocks}.conv1.weight" in shapes:
        blocks += 1
    return VAEConfig(
        channels=channels,
        channel_mult=tuple(mults),
        num_res_blocks=blocks,
        z_channels=shapes[f"{VAE}post_quant_conv.weight"][0],
    )


def text_config(spec: EncoderSpec, shapes: Shapes) -> TextConfig:
    """Raises `LookupError` where a layer is missing."""
    prefix = spec.prefix(shapes)
    return _open_clip(shapes, prefix, pooled=spec.pooled) if spec.layout == OPEN_CLIP else _clip(shapes, prefix)


def _clip(shapes: Shapes, prefix: str) -> TextConfig:
    vocabulary, width = shapes[f"{prefix}embeddings.token_embedding.weight"]
    return TextConfig(
        width=width,
        layers=_count(shapes, (f"{prefix}encoder.layers.", ".layer_norm1.weight")),
        heads=max(width // HEAD, 1),
        inner=shapes[f"{prefix}encoder.layers.0.mlp.fc1.weight"][0],
        vocabulary=vocabulary,
        positions=shapes[f"{prefix}embeddings.position_embedding.weight"][0],
    )


def _open_clip(shapes: Shapes, prefix: str, *, pooled: bool) -> TextConfig:
    vocabulary, width = shapes[f"{prefix}token_embedding.weight"]
    return TextConfig(
        width=width,
        layers=_count(shapes, (f"{prefix}transformer.resblocks.", ".ln_1.weight")),
        heads=max(width // HEAD, 1),
        inner=shapes[f"{prefix}transformer.resblocks.0.mlp.c_fc.weight"][0],
        vocabulary=vocabulary,
        positions=shapes[f"{prefix}positional_embedding"][0],
        activation="gelu",
        layout=OPEN_CLIP,
        projection=shapes[f"{prefix}text_projection"][1] if pooled else 0,
    )


def _count(shapes: Shapes, around: Sequence[str]) -> int:
    before, behind = around
    found = 0
    while f"{before}{found}{behind}" in shapes:
        found += 1
    return found
