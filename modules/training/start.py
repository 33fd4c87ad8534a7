"""Where training begins: fresh weights, or those of an earlier version's file, known by its hash."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from modules.training.config import Start

UNET, AUTOENCODER, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."
"""The prefixes that Stable Diffusion 1.x checkpoints give their three parts."""


def begin(start: Start, folder: Path, **parts: nn.Module) -> None:
    """Load the file that ``start`` names into ``parts`` (``unet``, ``vae``, ``text``); nothing where it names none."""
    if not start.file:
        return
    path = folder / start.file
    if not path.is_file():
        raise FileNotFoundError(f"training goes on from {path}; models/README.md says where to get that file")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != start.sha256:
        raise ValueError(f"{path} is not the version to go on from: its SHA-256 is {found}, expected {start.sha256}")
    named = load_file(path)
    prefixes = {"unet": UNET, "vae": AUTOENCODER, "text": TEXT}
    for name, module in parts.items():
        prefix = prefixes[name]
        state = {key.removeprefix(prefix): value.float() for key, value in named.items() if key.startswith(prefix)}
        module.load_state_dict(state, strict=True)
