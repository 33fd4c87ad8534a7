"""Which model is it? Architecture and sizes from tensor names and shapes.

What no shape can tell (head counts, norm groups, the scale factor of the latents) comes from the family, or from the
file's own metadata under ``reprise.config``, where our training writes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from modules.checkpoints.files import Header
from modules.errors import CheckpointError
from modules.nn.configs import TextConfig, UNetConfig, VAEConfig

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."
OLD_TEXT = "cond_stage_model.transformer."
C = TypeVar("C", UNetConfig, VAEConfig, TextConfig)
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to build a checkpoint's networks and to sample with them."""

    family: str
    unet: UNetConfig
    vae: VAEConfig
    text: TextConfig
    scale_factor: float = 0.18215
    """Latents are the autoencoder's mean times this, so that their deviation is about 1."""
    native_size: int = 512
    prediction: str = "eps"
    schedule: str = "scaled_linear"


def detect(name: str, header: Header) -> ModelConfig:
    """The configuration of a whole checkpoint, or a `CheckpointError` that says what the file is instead."""
    shapes: Shapes = {key: info.shape for key, info in header.tensors.items()}
    _refuse_others(name, shapes)
    stated = _stated(name, header.metadata)
    try:
        unet = _merge(_unet_config(shapes), stated.get("unet"))
        vae = _merge(_vae_config(shapes), stated.get("vae"))
        text = _merge(_text_config(shapes), stated.get("text"))
    except (KeyError, IndexError) as error:
        raise CheckpointError(
            f"{name} is not a whole Stable Diffusion 1.x checkpoint: {_tail(error)} is missing or of another shape",
            hint="choose another one",
            field="checkpoint",
        ) from error
    rest = {key: stated[key] for key in ("scale_factor", "native_size", "prediction", "schedule") if key in stated}
    return ModelConfig("sd1", unet, vae, text, **rest)


def detect_vae(name: str, header: Header, own: VAEConfig) -> VAEConfig:
    """The configuration of an autoencoder in a file of its own, to stand in for a checkpoint's ``own``."""
    shapes: Shapes = {f"{VAE}{key.removeprefix(VAE)}": info.shape for key, info in header.tensors.items()}
    if any(key.startswith(f"{VAE}encoder.down_blocks.") for key in shapes):
        raise _no_vae(name, "it is laid out as diffusers does it, which is not read")
    try:
        found = _merge(_vae_config(shapes), _stated(name, header.metadata).get("vae"))
    except (KeyError, IndexError) as error:
        raise _no_vae(name, f"{_tail(error)} is missing or of another shape") from error
    if found.z_channels != own.z_channels:
        raise _no_vae(name, f"its latents have {found.z_channels} channels, and the checkpoint's {own.z_channels}")
    if len(found.channel_mult) != len(own.channel_mult):
        raise _no_vae(name, "it makes pictures of another size")
    return found


def _no_vae(name: str, reason: str) -> CheckpointError:
    return CheckpointError(f"{name} is no VAE for this checkpoint: {reason}", hint="choose another one", field="vae")


def _refuse_others(name: str, shapes: Shapes) -> None:
    """Say what a file is when it is not one we run."""
    signs: dict[str, Callable[[str], bool]] = {
        "a LoRA, which belongs in the Lora folder": lambda k: k.startswith(("lora_unet_", "lora_te")),
        "a Stable Diffusion 3 model, which is not supported": lambda k: ".x_embedder.proj.weight" in k,
        "an SDXL model, which is not supported yet": lambda k: k.startswith("conditioner.embedders."),
        "a Stable Diffusion 2 model, which is not supported yet": lambda k: k.startswith("cond_stage_model.model."),
        "an AltDiffusion model, which is not supported": lambda k: k.startswith("cond_stage_model.roberta."),
    }
    for what, sign in signs.items():
        if any(sign(key) for key in shapes):
            raise CheckpointError(f"{name} is {what}", hint="choose an SD 1.x checkpoint", field="checkpoint")
    if not any(key.startswith(UNET) for key in shapes):
        only_vae = any(key.startswith(("decoder.", "first_stage_model.decoder.")) for key in shapes)
        what = "only an autoencoder, which belongs in the VAE folder" if only_vae else "not a diffusion model"
        raise CheckpointError(f"{name} is {what}", hint="choose an SD 1.x checkpoint", field="checkpoint")
    channels = shapes.get(f"{UNET}input_blocks.0.0.weight", (0, 4))[1]
    if channels not in (4, 9):  # 9: an inpainting model
        kind = {8: "an instruct-pix2pix model"}.get(channels, f"a {channels}-channel model")
        raise CheckpointError(f"{name} is {kind}, which is not supported yet", field="checkpoint")


def _stated(name: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    if "reprise.config" not in metadata:
        return {}
    try:
        stated = json.loads(metadata["reprise.config"])
    except ValueError as error:
        raise CheckpointError(f"{name} carries a configuration that is not JSON", field="checkpoint") from error
    return stated if isinstance(stated, dict) else {}


def _merge(found: C, stated: Mapping[str, Any] | None) -> C:
    """What the file states about itself wins over the family's habit; what its shapes say must agree on loading."""
    known = {field.name for field in fields(found)}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in (stated or {}).items() if k in known}
    return type(found)(**{**{field.name: getattr(found, field.name) for field in fields(found)}, **values})


def _unet_config(shapes: Shapes) -> UNetConfig:
    def shape(key: str) -> tuple[int, ...]:
        return shapes[UNET + key]

    base, in_channels = shape("input_blocks.0.0.weight")[:2]
    mults: list[int] = []
    depths: list[int] = []
    blocks, level_blocks, i = 0, 0, 1
    while True:
        if f"{UNET}input_blocks.{i}.0.in_layers.2.weight" in shapes:
            if level_blocks == 0:
                mults.append(shape(f"input_blocks.{i}.0.in_layers.2.weight")[0] // base)
                depths.append(_depth(shapes, f"input_blocks.{i}.1."))
            level_blocks += 1
            blocks = max(blocks, level_blocks)
        elif f"{UNET}input_blocks.{i}.0.op.weight" in shapes:
            level_blocks = 0
        else:
            break
        i += 1
    first = next(
        (f"input_blocks.{n}.1." for n in range(i) if _depth(shapes, f"input_blocks.{n}.1.")), "input_blocks.1.1."
    )
    linear = len(shape(f"{first}proj_in.weight")) == 2
    return UNetConfig(
        in_channels=in_channels,
        out_channels=shape("out.2.weight")[0],
        model_channels=base,
        channel_mult=tuple(mults),
        num_res_blocks=blocks,
        transformer_depth=tuple(depths),
        middle_depth=_depth(shapes, "middle_block.1."),
        context_dim=shape(f"{first}transformer_blocks.0.attn2.to_k.weight")[1],
        linear_proj=linear,
        head_channels=64 if linear else 0,
    )


def _depth(shapes: Shapes, prefix: str) -> int:
    depth = 0
    while f"{UNET}{prefix}transformer_blocks.{depth}.norm1.weight" in shapes:
        depth += 1
    return depth


def _vae_config(shapes: Shapes) -> VAEConfig:
    channels = shapes[f"{VAE}encoder.conv_in.weight"][0]
    mults: list[int] = []
    blocks = 0
    while f"{VAE}encoder.down.{len(mults)}.block.0.conv1.weight" in shapes:
        mults.append(shapes[f"{VAE}encoder.down.{len(mults)}.block.0.conv1.weight"][0] // channels)
    while f"{VAE}encoder.down.0.block.{blocks}.conv1.weight" in shapes:
        blocks += 1
    return VAEConfig(
        channels=channels,
        channel_mult=tuple(mults),
        num_res_blocks=blocks,
        z_channels=shapes[f"{VAE}post_quant_conv.weight"][0],
    )


def _text_config(shapes: Shapes) -> TextConfig:
    prefix = TEXT if f"{TEXT}embeddings.token_embedding.weight" in shapes else OLD_TEXT
    vocabulary, width = shapes[f"{prefix}embeddings.token_embedding.weight"]
    layers = 0
    while f"{prefix}encoder.layers.{layers}.layer_norm1.weight" in shapes:
        layers += 1
    return TextConfig(
        width=width,
        layers=layers,
        heads=max(width // 64, 1),
        inner=shapes[f"{prefix}encoder.layers.0.mlp.fc1.weight"][0],
        vocabulary=vocabulary,
        positions=shapes[f"{prefix}embeddings.position_embedding.weight"][0],
    )


def _tail(error: BaseException) -> str:
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else "a layer"
