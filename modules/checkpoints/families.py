"""Which model is it? Architecture and sizes from tensor names and shapes.

What no shape can tell (head counts, norm groups, the scale factor of the latents) comes from the family, or from the
file's own metadata under ``reprise.config``, where our training writes it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

from modules.checkpoints.detect import (
    OLD_TEXT,
    TEXT,
    TOKENS,
    UNET,
    VAE,
    Shapes,
    family,
    has_vae,
    prediction,
    shapes_of,
    stated,
)
from modules.checkpoints.detect import native_size as native_size_of
from modules.checkpoints.files import Header
from modules.errors import CheckpointError
from modules.nn.clip import TextConfig
from modules.nn.unet import UNetConfig
from modules.nn.vae import VAEConfig

C = TypeVar("C", UNetConfig, VAEConfig, TextConfig)
MOST = 1_000_000
"""Of anything that a configuration counts."""


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
    zero_terminal_snr: bool = False
    own_vae: bool = True
    """False for a "noVAE" file, which works with an autoencoder in a file of its own; ``vae`` is then its shape."""


def detect(name: str, header: Header, path: Path | None = None) -> ModelConfig:
    """The configuration of a whole checkpoint, or a `CheckpointError` that says what the file is instead.

    ``path``: where it lies, for what is said beside it.
    """
    shapes = shapes_of(header)
    _refuse_others(name, shapes)
    own, own_vae, predicts = stated(header), has_vae(shapes), prediction(header, path)
    try:
        unet = _merge(name, _unet_config(shapes), own.get("unet"))
        vae = _merge(name, _vae_config(shapes) if own_vae else VAEConfig(), own.get("vae"))
        text = _merge(name, _text_config(shapes), own.get("text"))
    except (LookupError, ValueError, ArithmeticError) as error:
        raise CheckpointError(
            f"{name} is not a whole Stable Diffusion 1.x checkpoint: {_tail(error)} is missing or of another shape",
            hint="choose another one",
            field="checkpoint",
        ) from error
    scale, schedule = own.get("scale_factor"), own.get("schedule")
    return ModelConfig(
        "sd1",
        unet,
        vae,
        text,
        scale_factor=float(scale) if isinstance(scale, (int, float)) else 0.18215,
        native_size=native_size_of(header),
        prediction=predicts.kind,
        schedule=schedule if isinstance(schedule, str) else "scaled_linear",
        zero_terminal_snr=predicts.zero_terminal_snr,
        own_vae=own_vae,
    )


def detect_vae(name: str, header: Header, own: VAEConfig) -> VAEConfig:
    """The configuration of an autoencoder in a file of its own, to stand in for a checkpoint's ``own``."""
    shapes: Shapes = {f"{VAE}{key.removeprefix(VAE)}": info.shape for key, info in header.tensors.items()}
    if any(key.startswith(f"{VAE}encoder.down_blocks.") for key in shapes):
        raise _no_vae(name, "it is laid out as diffusers does it, which is not read")
    try:
        found = _merge(name, _vae_config(shapes), stated(header).get("vae"))
    except (LookupError, ValueError, ArithmeticError) as error:
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
    kind = family(shapes).removesuffix(", inpainting")
    if kind == "Stable Diffusion 1.x":
        channels = shapes[f"{UNET}input_blocks.0.0.weight"][1]
        if channels in (4, 9):  # 9: an inpainting model
            return
        what = f"a {channels}-channel model, which is not supported"
    elif kind != "not a diffusion model":
        what = f"of the family {kind}, which is not supported yet"
    elif any(key.startswith(("lora_unet_", "lora_te")) for key in shapes):
        what = "a LoRA, which belongs in the Lora folder"
    elif any(key.startswith(("decoder.", f"{VAE}decoder.")) for key in shapes):
        what = "only an autoencoder, which belongs in the VAE folder"
    else:
        what = "not a diffusion model"
    raise CheckpointError(f"{name} is {what}", hint="choose an SD 1.x checkpoint", field="checkpoint")


def _merge(name: str, found: C, own: object) -> C:
    """What the file states about itself wins over the family's habit; what its shapes say must agree on loading."""
    if not isinstance(own, Mapping):
        return found
    values = {field.name: getattr(found, field.name) for field in fields(found)}
    for key, value in own.items():
        given = tuple(value) if isinstance(value, list) else value
        if key in values and not _fits(given, values[key]):
            raise CheckpointError(f"{name} carries a configuration whose {key} cannot be used", field="checkpoint")
        if key in values:
            values[key] = given
    return type(found)(**values)


def _fits(given: object, known: object) -> bool:
    """Whether a stated value is of the kind of the one it replaces."""
    if isinstance(known, tuple):
        return isinstance(given, tuple) and all(type(n) is int and 0 <= n <= MOST for n in given)
    return type(given) is type(known) and not (isinstance(given, int) and not 0 <= given <= MOST)


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


def text_prefix(shapes: Collection[str]) -> str:
    """Before the names of the text encoder's tensors; old files lack ``text_model.``"""
    return TEXT if f"{TEXT}{TOKENS}" in shapes else OLD_TEXT


def _text_config(shapes: Shapes) -> TextConfig:
    prefix = text_prefix(shapes)
    vocabulary, width = shapes[prefix + TOKENS]
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
