"""What a file of ControlNet's kin is, told by the names and shapes of its tensors. No torch.

ControlNet and its relatives come in the layout of their authors, of ldm, of diffusers and of sd-webui-controlnet. The
rules and their order are those of the latter (v1.1.455), so that a file is taken for the same thing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modules.checkpoints.families.base import Shapes
from modules.checkpoints.foreign_names import controlnet_names
from modules.checkpoints.pickles import header_of
from modules.checkpoints.source import Origin, Source
from modules.errors import CheckpointError

CONTROLNET, UNION, LORA, INSTANT_ID = "ControlNet", "ControlNetUnion", "ControlLoRA", "InstantID"
SPARSE, ADAPTER, STYLE = "SparseCtrl", "T2I_Adapter", "T2I_StyleAdapter"
IP_ADAPTER, LLLITE = "IPAdapter", "Controlllite"
WORDS: Mapping[str, str] = {
    CONTROLNET: "a ControlNet",
    UNION: "a union ControlNet",
    LORA: "a Control-LoRA",
    INSTANT_ID: "the ControlNet of InstantID",
    SPARSE: "a SparseCtrl",
    ADAPTER: "a T2I-Adapter",
    STYLE: "a style adapter",
    IP_ADAPTER: "an IP-Adapter",
    LLLITE: "a ControlNet-LLLite",
}
_SD1_TEXT, _SD2_TEXT, _SDXL_TEXT = 768, 1024, 2048


@dataclass(frozen=True)
class ControlKind:
    """A kind of file, with what its tensors and its name tell of it."""

    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The file's names of tensors -> those of our network."""

    @property
    def words(self) -> str:
        return WORDS[self.name]


def control_kind(path: Path, shapes: Shapes) -> ControlKind | None:
    """None for a file that is nothing of the kind."""
    keys = _names(shapes)
    own: Shapes = {keys[key]: shape for key, shape in shapes.items()}
    found = _kind(path, shapes, own)
    return found and ControlKind(*found, keys)


def _kind(path: Path, stored: Shapes, own: Shapes) -> tuple[str, dict[str, Any]] | None:
    if "lora_controlnet" in stored:
        return LORA, {"context_dim": _SD1_TEXT if "input_blocks.11.0.in_layers.0.weight" in own else _SDXL_TEXT}
    if "down_blocks.0.motion_modules.0.temporal_transformer.norm.weight" in stored:
        channels = own.get("input_hint_block.0.weight", (0, 4))[1]
        return SPARSE, {"context_dim": _SD1_TEXT, "conditioning_channels": channels}
    if any(key.startswith("image_proj.") for key in own) and any(key.startswith("ip_adapter.") for key in own):
        return IP_ADAPTER, _of_ip_adapter(path, own)
    if "input_hint_block.0.weight" in own:
        return _of_controlnet(path, own)
    if "conv_in.weight" in own or "body.0.in_conv.weight" in own:
        return ADAPTER, _of_adapter(own)
    if "style_embedding" in own:
        return STYLE, {"context_dim": _SD1_TEXT}
    return (LLLITE, {}) if any("lllite" in key for key in own) else None


def _of_controlnet(path: Path, own: Shapes) -> tuple[str, dict[str, Any]]:
    facts: dict[str, Any] = {}
    if "label_emb.0.0.bias" not in own:
        crossing = own.get("input_blocks.5.1.transformer_blocks.0.attn2.to_k.weight", (0, _SD1_TEXT))
        facts["context_dim"] = crossing[1]
        if "shuffle" in path.stem.lower():
            facts["global_average_pooling"] = True
    else:
        attends = "input_blocks.8.1.transformer_blocks.0.norm3.weight" in own
        facts["context_dim"] = _SDXL_TEXT if attends else 1
    if "control_add_embedding.linear_1.bias" in own:
        return UNION, {**facts, "union_controlnet_num_control_type": own["task_embedding"][0]}
    return INSTANT_ID if "instant_id" in path.as_posix().lower() else CONTROLNET, facts


def _of_adapter(own: Shapes) -> dict[str, Any]:
    if "conv_in.weight" not in own:
        return {"nums_rb": 4, "cin": own["body.0.in_conv.weight"][1]}
    channels, kernel = own["conv_in.weight"][1], own.get("body.0.block2.weight", (1,))[-1]
    facts: dict[str, Any] = {"cin": channels, "nums_rb": 2, "ksize": kernel}
    if any(".down_opt.op." in key for key in own):
        facts["use_conv"] = True
    return {**facts, "is_sdxl": True} if channels in (256, 768) else facts


def _of_ip_adapter(path: Path, own: Shapes) -> dict[str, Any]:
    name = path.as_posix().lower()
    columns = own.get("ip_adapter.1.to_k_ip.weight", (0, 0))[1]
    full = "image_proj.proj.3.weight" in own
    faces = "image_proj.perceiver_resampler.proj_in.weight" in own
    plus = full or "image_proj.latents" in own or faces
    words = ("faceid", "portrait", "v2", "pulid")
    told = {f"is_{word}": word in name for word in words} | {"is_instantid": "instant_id" in name}
    is_sdxl = columns == _SDXL_TEXT
    width: int | None = None
    if not (told["is_instantid"] or told["is_pulid"]):
        if full:
            width = own["image_proj.proj.0.weight"][1]
        elif plus:
            width = own.get("image_proj.proj_in.weight", (0, 1280))[1]
        elif not told["is_faceid"]:
            width = own["image_proj.proj.weight"][1]
    facts = {"clip_embeddings_dim": width, "cross_attention_dim": columns, "is_plus": plus, "is_full": full}
    facts |= {"is_sdxl": is_sdxl, "sdxl_plus": is_sdxl and plus, **told}
    return {key: value for key, value in facts.items() if value}


def _names(keys: Collection[str]) -> dict[str, str]:
    """The file's names -> ours."""
    if "controlnet_cond_embedding.conv_in.weight" in keys:
        return controlnet_names(keys)
    if "adapter.body.0.resnets.0.block1.weight" in keys or "body.0.resnets.0.block1.weight" in keys:
        light = any(key.endswith("body.0.out_conv.weight") for key in keys)
        return {key: _adapter_name(key.removeprefix("adapter."), light) for key in keys}
    return {key: key.removeprefix("control_model.").removeprefix("adapter.") for key in keys}


def _adapter_name(key: str, light: bool) -> str:
    """diffusers' name of a tensor of a T2I-Adapter as its authors'."""
    found = re.match(r"body\.(\d+)\.(?:resnets\.(\d+)\.)?(.+)$", key)
    if light or not found:
        return re.sub(r"^(body\.\d+)\.resnets\.", r"\1.body.", key)
    return f"body.{2 * int(found[1]) + int(found[2] or 0)}.{found[3]}"


VISION = "vision_model."
"""Before the names of a vision transformer's tensors."""


@dataclass(frozen=True)
class VisionSizes:
    """What a file of CLIP's vision transformer gives: numbers for a whole picture, and for each of its patches."""

    projection: int
    width: int


def vision_sizes(path: Path) -> VisionSizes | None:
    """None for a file that is nothing of the kind, or cannot be read."""
    try:
        tensors = header_of(path, field="extensions").tensors
        projection, width = tensors["visual_projection.weight"].shape
    except (CheckpointError, KeyError, ValueError):
        return None
    return VisionSizes(projection, width) if f"{VISION}embeddings.class_embedding" in tensors else None


def open_control(path: Path) -> tuple[ControlKind, Source]:
    """What a file is, and its tensors under our names. Raises `CheckpointError`."""
    header = header_of(path, field="extensions")
    kind = control_kind(path, {key: info.shape for key, info in header.tensors.items()})
    if kind is None:
        raise CheckpointError(
            f"{path.name} is no ControlNet, and nothing of its kin", hint="choose another model", field="extensions"
        )
    tensors = {kind.keys[key]: info for key, info in header.tensors.items()}
    origins = {kind.keys[key]: Origin(((path, key),)) for key in header.tensors}
    return kind, Source(replace(header, tensors=tensors), origins)
