"""What a checkpoint is, from its header and the files beside it: family, text width, native size, prediction. No torch.

The server's card and the worker's loader both ask here, so that they never tell two stories about one file.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from modules.checkpoints.files import Header

log = logging.getLogger(__name__)

UNET, VAE, OLD_TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
TEXT = f"{OLD_TEXT}text_model."
TOKENS = "embeddings.token_embedding.weight"
Shapes = Mapping[str, tuple[int, ...]]
_MAX_YAML = 256 * 2**10
"""Bytes; A1111's own have 2 to 4 kB."""


def shapes_of(header: Header) -> Shapes:
    return {key: info.shape for key, info in header.tensors.items()}


def stated(header: Header) -> dict[str, Any]:
    """What a file says of itself under ``reprise.config``; nothing where that cannot be read."""
    try:
        found = json.loads(header.metadata.get("reprise.config", "{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


# ----------------------------------------------------------------------------------------------------------- family


def _in_channels(shapes: Shapes) -> int:
    shape = shapes.get(f"{UNET}input_blocks.0.0.weight", ())
    return shape[1] if len(shape) > 1 else 0


def _has(*keys: str) -> Callable[[Shapes], bool]:
    return lambda shapes: any(key in shapes for key in keys)


FAMILIES: tuple[tuple[str, Callable[[Shapes], bool]], ...] = (
    ("Stable Diffusion 3", _has(f"{UNET}x_embedder.proj.weight")),
    ("SDXL", _has("conditioner.embedders.1.model.ln_final.weight")),
    ("SDXL refiner", lambda shapes: shapes.get("conditioner.embedders.0.model.ln_final.weight") == (1280,)),
    ("Stable Diffusion 2 depth", _has("depth_model.model.pretrained.act_postprocess3.0.project.0.bias")),
    ("Stable Diffusion 2 unCLIP", _has("embedder.model.ln_final.weight")),
    (
        "Stable Diffusion 2",
        _has(
            "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight",
            "conditioner.embedders.0.model.ln_final.weight",  # as SD 2.1 Turbo names the same encoder
        ),
    ),
    ("AltDiffusion", _has("cond_stage_model.roberta.embeddings.word_embeddings.weight")),
    ("Instruct-pix2pix", lambda shapes: _in_channels(shapes) == 8),
    ("Stable Diffusion 1.x", lambda shapes: _in_channels(shapes) > 0),
)
"""In A1111's order, each by the one tensor that decides: what mergers and trainers leave behind decides nothing."""


def family(shapes: Shapes) -> str:
    """
    >>> family({"model.diffusion_model.input_blocks.0.0.weight": (320, 9, 3, 3)})
    'Stable Diffusion 1.x, inpainting'
    """
    found = next((name for name, sign in FAMILIES if sign(shapes)), "")
    return f"{found}, inpainting" if found and _in_channels(shapes) == 9 else found or "not a diffusion model"


def has_vae(shapes: Shapes) -> bool:
    """Whether a checkpoint has an autoencoder of its own; "noVAE" files have none, or only leftovers of one."""
    return any(key.startswith((f"{VAE}encoder.", f"{VAE}decoder.")) for key in shapes)


def text_width(shapes: Shapes) -> int:
    """Width of a checkpoint's token embeddings; of SDXL's two encoders together. 0: it has none that is known."""
    if "conditioner.embedders.1.model.ln_final.weight" in shapes:
        return 768 + 1280
    names = (f"{TEXT}{TOKENS}", f"{OLD_TEXT}{TOKENS}", "cond_stage_model.model.token_embedding.weight")
    return next((shapes[name][1] for name in names if len(shapes.get(name, ())) == 2), 0)


def native_size(header: Header) -> int:
    """Side in pixels that a checkpoint was trained for, as the file itself says it, else SD 1.x's 512."""
    size = stated(header).get("native_size", 512)
    return size if isinstance(size, int) and 64 <= size <= 2048 else 512


# ------------------------------------------------------------------------------------------------------- prediction


@dataclass(frozen=True)
class Prediction:
    """What a UNet answers with."""

    kind: str = "eps"
    """ "eps", the noise, or "v" (Salimans and Ho 2022, arXiv:2202.00512)."""
    zero_terminal_snr: bool = False
    """Trained with a last step of pure noise (Lin et al. 2023, arXiv:2305.08891)."""


def prediction(header: Header, path: Path | None = None) -> Prediction:
    """Who says it first is believed: A1111's yaml beside the file, our own metadata, the marks ``v_pred`` and
    ``ztsnr`` among the tensors, ModelSpec."""
    own = stated(header)
    kind = (
        (_in_yaml(path.with_suffix(".yaml")) if path else "")
        or _kind(own.get("prediction"))
        or ("v" if "v_pred" in header.tensors else "")
        or _kind(header.metadata.get("modelspec.prediction_type"))
        or "eps"
    )
    return Prediction(kind, own.get("zero_terminal_snr") is True or "ztsnr" in header.tensors)


def _kind(told: object) -> str:
    """
    >>> _kind("v_prediction"), _kind("epsilon"), _kind(None)
    ('v', 'eps', '')
    """
    word = told.strip().casefold() if isinstance(told, str) else ""
    return "v" if word.startswith("v") else "eps" if word.startswith("eps") else ""


def _in_yaml(path: Path) -> str:
    """What A1111's configuration beside a checkpoint says; empty where there is none or it does not say it.

    The file is taken apart and never built: YAML's merge keys could make gigabytes of a few lines.
    """
    try:
        if not path.is_file() or path.stat().st_size > _MAX_YAML:
            return ""
        root = yaml.compose(path.read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        log.warning("%s is left aside: it cannot be read (%s)", path.name, type(error).__name__)
        return ""
    params = ("model", "params")
    said = _kind(_scalar(root, (*params, "parameterization")))
    scaling = _scalar(root, (*params, "denoiser_config", "params", "scaling_config", "target")).rpartition(".")[2]
    return said or {"VScaling": "v", "EpsScaling": "eps"}.get(scaling, "")


def _scalar(node: Any, keys: tuple[str, ...]) -> str:
    """The text at the end of a path of keys; empty where the path ends before."""
    for key in keys:
        node = next((value for name, value in _entries(node) if getattr(name, "value", None) == key), None)
    return node.value if isinstance(node, yaml.ScalarNode) else ""


def _entries(node: Any) -> Iterator[tuple[Any, Any]]:
    return iter(node.value if isinstance(node, yaml.MappingNode) else ())
