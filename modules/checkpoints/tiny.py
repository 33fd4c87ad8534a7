"""Writes random checkpoints of a few megabytes in every supported layout, for tests and experiments."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor, nn

from modules.checkpoints.control_networks import cross_attentions
from modules.checkpoints.families.base import UNET, Family
from modules.checkpoints.families.base import VAE as AUTOENCODER
from modules.checkpoints.families.sd1 import SD1
from modules.checkpoints.families.sd2 import SD2
from modules.checkpoints.families.sdxl import SDXL, SDXL_REFINER
from modules.checkpoints.model import new_text
from modules.errors import OutputError, UserError
from modules.nn.clip_vision import CLIPVision, VisionConfig
from modules.nn.configs import CLIP, OPEN_CLIP, TextConfig, UNetConfig, VAEConfig
from modules.nn.controlnet import ControlNet, ControlNetUnion
from modules.nn.ip_adapter import PLAIN, IPAdapter, IPAdapterConfig
from modules.nn.t2i_adapter import AdapterConfig, T2IAdapter
from modules.nn.unet import UNet
from modules.nn.vae import VAE
from modules.params.generation import wrapped

SIZE_NUMBERS = 256
"""Sinusoids per number in SDXL's vector."""


@dataclass(frozen=True)
class Tiny:
    """The configuration of a tiny model: a family's layers, only narrower. The full vocabulary makes up most of the
    file.
    """

    family: Family
    unet: UNetConfig
    texts: tuple[TextConfig, ...]
    vae: VAEConfig = field(default_factory=lambda: VAEConfig(channels=2, norm_groups=2))


_WIDTH = 4
_CLIP = TextConfig(_WIDTH, heads=2, inner=8)
_VIT_H = TextConfig(_WIDTH, 24, 2, 8, activation="gelu", layout=OPEN_CLIP)
_BIG_G = TextConfig(_WIDTH, 32, 2, 8, activation="gelu", layout=OPEN_CLIP, projection=_WIDTH)
_UNET = UNetConfig(model_channels=4, num_heads=2, context_dim=_WIDTH, norm_groups=2)
_LINEAR = replace(_UNET, num_heads=8, head_channels=2, linear_proj=True)
_SDXL = replace(
    _LINEAR,
    channel_mult=(1, 2, 4),
    transformer_depth=(0, 2, 10),
    middle_depth=10,
    context_dim=2 * _WIDTH,
    vector_dim=_WIDTH + SIZE_NUMBERS * len(SDXL.vector),
)
_REFINER = replace(
    _LINEAR,
    transformer_depth=(0, 4, 4, 0),
    middle_depth=4,
    vector_dim=_WIDTH + SIZE_NUMBERS * len(SDXL_REFINER.vector),
)
FAMILIES: Mapping[str, Tiny] = {
    "sd1": Tiny(SD1, _UNET, (_CLIP,)),
    "sd2": Tiny(SD2, _LINEAR, (_VIT_H,)),
    "sdxl": Tiny(SDXL, _SDXL, (_CLIP, _BIG_G)),
    "sdxl-refiner": Tiny(SDXL_REFINER, _REFINER, (_BIG_G,)),
}
OLD_NAMES = {"sd15": ("sd1", False), "sd15-inpainting": ("sd1", True)}
"""Family names of the first version, and whether they are inpainting models."""


def write_tiny_checkpoint(
    path: Path,
    family: str = "sd1",
    seed: int = 0,
    *,
    inpainting: bool = False,
    pix2pix: bool = False,
    prediction: str = "eps",
) -> Path:
    """Write random weights (fp16) with every layer of ``family``, only narrower. The same seed gives the same bytes."""
    if path.suffix.lower() != ".safetensors":  # another program, and this one too, would take it for something else
        raise OutputError(
            f"{path} would be a safetensors file under another ending", hint=f"name it {path.stem}.safetensors"
        )
    name, painter = OLD_NAMES.get(family, (family, inpainting))
    if name not in FAMILIES:
        raise UserError(f"no family named {family!r}", hint=f"there is {', '.join(FAMILIES)}", field="family")
    tiny = FAMILIES[name]
    if painter or inpainting or pix2pix:
        channels = 2 * tiny.unet.out_channels + (not pix2pix)
        tiny = replace(tiny, unet=replace(tiny.unet, in_channels=channels))
    return write_tiny(path, tiny, seed, prediction=prediction)


def write_tiny(path: Path, tiny: Tiny, seed: int = 0, *, prediction: str = "eps") -> Path:
    """Write random weights (fp16) for a model of any sizes. The file's permissions are those of any new file."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(wrapped(seed))
        weights = {key: tensor.to(torch.float16).contiguous() for key, tensor in _weights(tiny).items()}
    metadata = {"reprise.config": json.dumps(_stated(tiny, prediction))}
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Of one entry: safetensors writes several in random order. Written here: its own writer makes private files.
        part.write_bytes(save(weights, metadata=metadata))
        part.replace(path)
    except (OSError, SafetensorError) as error:
        if part.exists():
            part.unlink()
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise OutputError(f"{path} cannot be written: {reason}") from error
    return path


def write_tiny_control(path: Path, unet: UNetConfig, seed: int = 0, *, types: int = 0, adapter: bool = False) -> Path:
    """Write random weights for a ControlNet beside a UNet of such sizes: for ``types`` kinds of pictures if that is
    said, or a T2I-Adapter instead. What starts as zeros in training does not."""
    channels = tuple(unet.model_channels * mult for mult in unet.channel_mult)
    sdxl = bool(unet.vector_dim)
    unshuffle, halves = (16, (False, False, True, False)) if sdxl else (8, (False, True, True, True))
    sizes = AdapterConfig(3 * unshuffle**2, (*channels, channels[-1])[:4], halves=halves, unshuffle=unshuffle)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(wrapped(seed))
        alone = replace(unet, in_channels=4)
        network: nn.Module = T2IAdapter(sizes) if adapter else ControlNet(alone)
        network = ControlNetUnion(alone, types) if types else network
        weights = {key: tensor.to(torch.float16).contiguous() for key, tensor in network.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(save(weights))
    return path


def write_tiny_ip_adapter(path: Path, vision: Path, unet: UNet, seed: int = 0) -> Path:
    """Write random weights for an IP-Adapter beside a UNet, and for the CLIP vision model through which it sees."""
    widths = tuple(layer.to_q.in_features for layer in cross_attentions(unet))
    sees = VisionConfig(32, 2, 1, 16, 8, 32, 24)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(wrapped(seed))
        networks = {
            path: IPAdapter(IPAdapterConfig(PLAIN, sees.projection, unet.config.context_dim, widths)),
            vision: CLIPVision(sees),
        }
        for place, network in networks.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(save({key: tensor.contiguous() for key, tensor in network.state_dict().items()}))
    return path


def _weights(tiny: Tiny) -> dict[str, Tensor]:
    parts: dict[str, nn.Module] = {UNET: UNet(tiny.unet), AUTOENCODER: VAE(tiny.vae)}
    for spec, config in zip(tiny.family.encoders, tiny.texts, strict=True):
        parts[spec.prefixes[0]] = text = new_text(config)
        tokens = "embeddings.token_embedding.weight" if config.layout == CLIP else "token_embedding.weight"
        text.get_parameter(tokens).mul_(5)  # so that the words weigh more than their places
    return {prefix + key: tensor for prefix, part in parts.items() for key, tensor in part.state_dict().items()}


def _stated(tiny: Tiny, prediction: str) -> dict[str, object]:
    """The part of the configuration that tensor shapes do not tell."""
    texts = {spec.part: asdict(config) for spec, config in zip(tiny.family.encoders, tiny.texts, strict=True)}
    return {
        "unet": asdict(tiny.unet),
        "vae": asdict(tiny.vae),
        **texts,
        "scale_factor": tiny.family.latent.scale,
        "native_size": 64,
        "schedule": tiny.family.schedule,
        "prediction": prediction,
    }
