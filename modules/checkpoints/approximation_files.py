"""Which file of ``VAE-approx`` is the tiny autoencoder (TAESD) of a model. No torch.

Their author's files have one part each, ``taesd_decoder`` and ``taesd_encoder`` (SDXL: ``taesdxl_``), as pickles or
safetensors. diffusers keeps both parts in one file.
"""

from __future__ import annotations

from pathlib import Path

from modules.checkpoints.families.base import ModelConfig
from modules.errors import CheckpointError
from modules.params.generation import GenerationParams

FULL, TAESD = "Full", "TAESD"
ENCODER, DECODER = "encoder", "decoder"
SUFFIXES = (".safetensors", ".pth", ".pt")
_DIFFUSERS = "diffusion_pytorch_model.safetensors"


def stem_of(config: ModelConfig) -> str:
    """The name of the tiny autoencoder for a model's latents; empty where there is none."""
    usual = config.latent.channels == 4 and config.latent.factor == 8
    return ("taesdxl" if config.family.sdxl_schedules else "taesd") if usual else ""


def parts_asked(params: GenerationParams) -> list[str]:
    """The parts that a request wants of a tiny autoencoder: an encoder only where an image is encoded."""
    methods = {ENCODER: params.sd_vae_encode_method, DECODER: params.sd_vae_decode_method}
    if params.init is None and params.hires is None:
        del methods[ENCODER]
    return [part for part, method in methods.items() if method == TAESD]


def find_part(folder: Path, config: ModelConfig, part: str) -> Path:
    """The file in ``folder`` with a part, ``encoder`` or ``decoder``, for a model. Raises `CheckpointError` where there
    is none, and says what to do.
    """
    stem = stem_of(config)
    names = [f"{stem}_{part}{suffix}" for suffix in SUFFIXES] + [f"{stem}{suffix}" for suffix in SUFFIXES]
    paths = [folder / name for name in (*names, f"{stem}/{_DIFFUSERS}")] if stem else []
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise CheckpointError(
            f"there is no tiny autoencoder for {config.family.label} here" if stem else "no tiny autoencoder fits",
            hint=f"put {stem}_{part}.pth into models/{folder.name}, or choose {FULL}" if stem else f"choose {FULL}",
            field=f"sd_vae_{part[:2]}code_method",
        )
    return found
