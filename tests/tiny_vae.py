"""A small random autoencoder in a file of its own, for the tiny checkpoint."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from modules.nn.configs import VAEConfig
from modules.nn.vae import VAE


def write_vae(path: Path, *, seed: int = 1, prefix: str = "", **sizes: Any) -> Path:
    """Every layer of a real one; ``prefix`` stands before its names, ``sizes`` are other ones than the checkpoint's."""
    config = replace(VAEConfig(channels=2, norm_groups=2), **sizes)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        state = VAE(config).state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {prefix + key: tensor.contiguous() for key, tensor in state.items()}
    save_file(tensors, path, metadata={"reprise.config": json.dumps({"vae": asdict(config)})})
    return path
