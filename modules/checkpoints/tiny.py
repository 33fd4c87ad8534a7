"""Random checkpoints of under a megabyte in a supported layout, for tests and for trying things."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from modules.checkpoints.detect import TEXT, UNET
from modules.checkpoints.detect import VAE as AUTOENCODER
from modules.errors import OutputError, UserError
from modules.nn.clip import TextConfig, TextEncoder
from modules.nn.unet import UNet, UNetConfig
from modules.nn.vae import VAE, VAEConfig

State = dict[str, Tensor]


def write_tiny_checkpoint(path: Path, family: str = "sd15", seed: int = 0) -> Path:
    """Write random weights (fp16) with every layer of ``family``, only narrower. The same seed gives the same bytes."""
    if family not in FAMILIES:
        raise UserError(f"no family named {family!r}", hint=f"there is {', '.join(FAMILIES)}", field="family")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        state, config = FAMILIES[family]()
    weights = {name: tensor.to(torch.float16).contiguous() for name, tensor in state.items()}
    metadata = {"reprise.config": json.dumps(config)}  # one entry: safetensors writes several in random order
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, part, metadata=metadata)
        part.replace(path)
    except (OSError, SafetensorError) as error:
        if part.exists():
            part.unlink()
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise OutputError(f"{path} cannot be written: {reason}") from error
    return path


def _sd15(in_channels: int = 4) -> tuple[State, dict[str, object]]:
    """Stable Diffusion 1.x at 1/80 of its width; the vocabulary, which stays whole, makes most of the file."""
    unet = UNetConfig(in_channels=in_channels, model_channels=4, num_heads=2, context_dim=4, norm_groups=2)
    vae = VAEConfig(channels=2, norm_groups=2)
    text = TextConfig(width=4, heads=2, inner=8)
    config = {
        "unet": asdict(unet),
        "vae": asdict(vae),
        "text": asdict(text),
        "scale_factor": 0.18215,
        "native_size": 64,
        "schedule": "scaled_linear",
        "prediction": "eps",
    }
    encoder = TextEncoder(text).transformer
    encoder.embeddings.token_embedding.weight.mul_(5)  # so that the words weigh more than their places
    parts: tuple[tuple[str, nn.Module], ...] = ((UNET, UNet(unet)), (AUTOENCODER, VAE(vae)), (TEXT, encoder))
    return {prefix + key: tensor for prefix, part in parts for key, tensor in part.state_dict().items()}, config


FAMILIES: dict[str, Callable[[], tuple[State, dict[str, object]]]] = {
    "sd15": _sd15,
    "sd15-inpainting": lambda: _sd15(in_channels=9),
}
