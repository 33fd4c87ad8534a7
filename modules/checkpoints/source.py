"""A checkpoint on the disk under ldm's names, whoever wrote it: one file, or a folder as diffusers lays it out.

No torch: `Source.header` is what the server's card and the loader look at; the loader then fetches the tensors from
where they are. A folder is named by its ``model_index.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modules.checkpoints.families.base import UNET
from modules.checkpoints.families.sd1 import TEXT as SD1_TEXT
from modules.checkpoints.families.sd2 import TEXT as SD2_TEXT
from modules.checkpoints.families.sdxl import BIG_G, CLIP_L, REFINER_BIG_G
from modules.checkpoints.files import INDEX, Header, TensorInfo, read_header, weight_files
from modules.checkpoints.foreign_names import diffusers_vae_pieces, file_names, open_clip_pieces, unet_names
from modules.errors import CheckpointError

Place = tuple[Path, str]
"""A tensor in a file."""
SCALES = (".scale_weight", ".weight_scale")
"""Ends of the names of what weights in 8 bits are to be multiplied by, instead of ``.weight``."""


@dataclass(frozen=True)
class Origin:
    """What a tensor is made of: stored ones laid one below the other, turned round, times a scale."""

    pieces: tuple[Place, ...]
    transposed: bool = False
    scale: Place | None = None

    @property
    def files(self) -> set[Path]:
        return {path for path, _ in (*self.pieces, *([self.scale] if self.scale else []))}


@dataclass(frozen=True)
class Source:
    header: Header
    origins: Mapping[str, Origin]


def open_source(path: Path, *, field: str = "checkpoint") -> Source:
    """Raises `CheckpointError` with the file's name and the reason."""
    if path.name == INDEX:
        return _folder(path.parent)
    header = read_header(path, field=field)
    names = file_names(header.tensors)
    tensors = {names[key]: _shaped(names[key], info) for key, info in header.tensors.items()}
    scales = {key: _scale_of(key, header) for key in header.tensors}
    origins = {names[key]: Origin(((path, key),), scale=(path, s) if (s := scales[key]) else None) for key in names}
    return Source(replace(header, tensors=tensors), origins)


def _scale_of(key: str, header: Header) -> str:
    """The name of the tensor that one in 8 bits has to be multiplied by; empty where there is none."""
    if not key.endswith(".weight") or not header.tensors[key].dtype.startswith("F8"):
        return ""
    module = key.removesuffix(".weight")
    return next((module + end for end in SCALES if module + end in header.tensors), "")


# ------------------------------------------------------------------------------------------------- diffusers' folders


def _folder(folder: Path) -> Source:
    _known(folder)
    tensors: dict[str, TensorInfo] = {}
    origins: dict[str, Origin] = {}
    for name, places in _pieces(folder):
        turned = name.endswith(".text_projection")
        tensors[name] = joined([info for info, _ in places], turned=turned)
        origins[name] = Origin(tuple(place for _, place in places), transposed=turned)
    config = json.dumps(_stated(folder))
    return Source(Header(tensors, {"reprise.config": config}), origins)


def _known(folder: Path) -> None:
    kind = str(_json(folder / INDEX).get("_class_name"))
    if not kind.startswith(("StableDiffusionPipeline", "StableDiffusionXL", "StableDiffusionI")):
        raise CheckpointError(
            f"{folder.name} is a folder for diffusers' {kind[:60]}, which is not supported",
            hint="choose a model of SD 1.x, SD 2.x or SDXL",
            field="checkpoint",
        )


def _pieces(folder: Path) -> Iterator[tuple[str, list[tuple[TensorInfo, Place]]]]:
    """ldm's names, and what each is made of."""
    unet = _part(folder / "unet")
    for key, name in unet_names(unet).items():
        yield UNET + name, [unet[key]]
    vae = _part(folder / "vae")
    for name, (key,) in diffusers_vae_pieces(vae).items():
        info, place = vae[key]
        yield name, [(_shaped(name, info), place)]
    for part, prefix in _text_parts(folder).items():
        text = _part(folder / part)
        if prefix in (SD1_TEXT, CLIP_L):
            for key, found in text.items():
                yield prefix + key.removeprefix("text_model."), [found]
        else:
            for name, keys in open_clip_pieces(text).items():
                yield prefix + name, [text[key] for key in keys if key in text]


def _shaped(name: str, info: TensorInfo) -> TensorInfo:
    """ldm has 1x1 convolutions in an autoencoder's attention, where diffusers has linear layers."""
    if ".mid.attn_1." in name and name.endswith(".weight") and len(info.shape) == 2:
        return replace(info, shape=(*info.shape, 1, 1))
    return info


def _text_parts(folder: Path) -> dict[str, str]:
    """Text encoders' folders, and ldm's prefix for each."""
    first, second = ((folder / part).is_dir() for part in ("text_encoder", "text_encoder_2"))
    if second:
        return {"text_encoder": CLIP_L, "text_encoder_2": BIG_G} if first else {"text_encoder_2": REFINER_BIG_G}
    quick = _json(folder / "text_encoder" / "config.json").get("hidden_act") == "quick_gelu"
    return {"text_encoder": SD1_TEXT if quick else SD2_TEXT}


def _part(folder: Path) -> dict[str, tuple[TensorInfo, Place]]:
    """The tensors of one part, of all its files."""
    files = weight_files(folder)
    if not files:
        raise CheckpointError(
            f"{folder.parent.name} has no safetensors in {folder.name}",
            hint="fetch the model's .safetensors files too",
            field="checkpoint",
        )
    return {key: (info, (path, key)) for path in files for key, info in read_header(path).tensors.items()}


def joined(infos: list[TensorInfo], *, turned: bool = False) -> TensorInfo:
    """What several tensors are that are laid one below the other; ``turned``: then turned round."""
    first = infos[0]
    shape = first.shape if len(infos) == 1 else (sum(sum(info.shape[:1]) for info in infos), *first.shape[1:])
    return TensorInfo(first.dtype, shape[::-1] if turned else shape, sum(info.nbytes for info in infos))


def _stated(folder: Path) -> dict[str, Any]:
    """What no tensor tells, from the parts' own configurations."""
    scheduler = _json(folder / "scheduler" / "scheduler_config.json")
    unet, vae = _json(folder / "unet" / "config.json"), _json(folder / "vae" / "config.json")
    found: dict[str, Any] = {
        "prediction": str(scheduler.get("prediction_type", "")),
        "zero_terminal_snr": scheduler.get("rescale_betas_zero_snr") is True,
        "unet": _only_counts(norm_groups=unet.get("norm_num_groups"), **_heads(unet)),
        "vae": _only_counts(norm_groups=vae.get("norm_num_groups")),
    }
    if isinstance(scale := vae.get("scaling_factor"), float):
        found["scale_factor"] = scale
    for name, part in zip(("text", "text_2"), _text_parts(folder), strict=False):
        found[name] = _only_counts(heads=_json(folder / part / "config.json").get("num_attention_heads"))
    return found


def _heads(unet: Mapping[str, Any]) -> dict[str, Any]:
    """diffusers gives the number of heads, of each level where they differ, under the name of their size."""
    heads, channels = unet.get("attention_head_dim"), unet.get("block_out_channels")
    if isinstance(heads, list) and isinstance(channels, list) and heads and isinstance(heads[0], int) and heads[0] > 0:
        return {"head_channels": channels[0] // heads[0] if isinstance(channels[0], int) else None}
    return {} if unet.get("use_linear_projection") else {"num_heads": heads}


def _only_counts(**values: Any) -> dict[str, int]:
    return {name: value for name, value in values.items() if isinstance(value, int) and value > 0}


def _json(path: Path) -> dict[str, Any]:
    """A table; empty where the file is missing or is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
