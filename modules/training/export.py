"""The shipped file: one safetensors checkpoint in the layout of Stable Diffusion 1.x, in float16.

What no tensor's shape tells (heads, norm groups, the latents' scale) goes into the metadata, under ``reprise.config``;
what a model library shows goes under the ModelSpec's keys (https://github.com/Stability-AI/ModelSpec, version 1.0.0).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from modules.nn.vae import VAE
from modules.training import autoencoder, latents, loop, unet
from modules.training.config import Config
from modules.training.render.captions import EXAMPLES, vocabulary
from modules.training.start import AUTOENCODER, TEXT, UNET
from modules.training.unet import TextToLatent
from modules.training.words import UNKNOWN, known

TOKENS = TEXT + "embeddings.token_embedding.weight"
ART_SETS = "Fluent Emoji (MIT) and Noto Emoji (Apache-2.0)"
LARGEST = 48_000_000
"""Bytes that the file may have."""


@dataclass(frozen=True)
class Trained:
    """Everything the stages made: averaged weights, and the scale of the latents."""

    model: TextToLatent
    vae: VAE
    scale_factor: float
    steps: int


def trained(config: Config, folder: Path) -> Trained:
    """From the checkpoints of the stages; the sharpened decoder where there is one."""
    vae = autoencoder.new(config)
    loop.load_average(vae, folder / "vae.pt")
    if (folder / "sharpen.pt").is_file():
        autoencoder.load_sharpened(vae, folder / "sharpen.pt")
    model = unet.new(config)
    steps = loop.load_average(model, folder / "unet.pt")
    return Trained(model.eval(), vae.eval(), latents.read(folder).scale_factor, steps)


def tensors(made: Trained) -> dict[str, Tensor]:
    """Every weight under its checkpoint name, float16 and contiguous; every token that no caption uses is `UNKNOWN`."""
    named = {UNET + key: value for key, value in made.model.unet.state_dict().items()}
    named |= {AUTOENCODER + key: value for key, value in made.vae.state_dict().items()}
    named |= {TEXT + key: value for key, value in made.model.text.state_dict().items()}
    named[TOKENS] = with_unknown(named[TOKENS])
    halves = {key: value.detach().cpu().to(torch.float16).contiguous() for key, value in named.items()}
    if broken := [key for key, value in halves.items() if not bool(torch.isfinite(value).all())]:
        raise ValueError(f"{len(broken)} tensors are no numbers in float16, {broken[0]} first; nothing is exported")
    return halves


def with_unknown(table: Tensor) -> Tensor:
    """The token table (49408, width) in which all rows that training never saw are the one of `UNKNOWN`."""
    seen = torch.zeros(len(table), dtype=torch.bool, device=table.device)
    seen[torch.tensor(sorted(known()), device=table.device)] = True
    return torch.where(seen[:, None], table, table[UNKNOWN])


def metadata(config: Config, made: Trained, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """ModelSpec's keys and ours; all values are text."""
    side = config.data.side
    stated = {
        "unet": asdict(config.unet),
        "vae": asdict(config.vae),
        "text": asdict(config.text),
        "scale_factor": made.scale_factor,
        "native_size": side,
        "schedule": config.diffusion.schedule,
        "prediction": config.diffusion.prediction,
    }
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v1",
        "modelspec.implementation": "https://github.com/CompVis/stable-diffusion",
        "modelspec.title": "Reprise mini",
        "modelspec.description": "A small latent diffusion model of toy-like things before plain colours and scenery.",
        "modelspec.resolution": f"{side}x{side}",
        "modelspec.prediction_type": "epsilon" if config.diffusion.prediction == "eps" else "v",
        "modelspec.license": "Apache-2.0",
        "modelspec.tags": "emoji, small, default",
        "reprise.examples": json.dumps(EXAMPLES[:8]),
        "reprise.words": json.dumps(vocabulary()),
        "reprise.config": json.dumps(stated),
        "reprise.command": "python -m modules.training all",
        "reprise.data": f"seed {config.data.seed}, {config.data.pictures} renders of {ART_SETS}",
        "reprise.version": config.version,
        "reprise.code": "modules/training at the commit that brought this file",
        "reprise.start": config.start.sha256 or "fresh weights",
        "reprise.steps": str(made.steps),
        **(extra or {}),
    }


def save(config: Config, made: Trained, path: Path, extra: Mapping[str, str] | None = None) -> None:
    """The file appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    save_file(tensors(made), unfinished, metadata(config, made, extra))
    if (size := unfinished.stat().st_size) > LARGEST:
        unfinished.unlink()
        raise ValueError(f"the file would have {size} bytes, more than {LARGEST}; nothing is exported")
    unfinished.chmod(0o644)
    unfinished.replace(path)


def write(config: Config, folder: Path, path: Path) -> None:
    """Stage ``export``, with the scores of an earlier ``evaluate`` where there are any."""
    made, scores = trained(config, folder), folder / "scores.json"
    extra = {"reprise.scores": scores.read_text()} if scores.is_file() else {}
    save(config, made, path, extra)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {made.steps} steps, scale factor {made.scale_factor:.5f}")
