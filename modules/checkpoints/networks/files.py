"""Network files read: the changes of each layer, as they lie in the file, and the embeddings that come with them."""

from __future__ import annotations

import json
import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modules.checkpoints.embeddings import BundledEmbedding, bundled
from modules.checkpoints.files import read_header
from modules.checkpoints.networks.keys import BUNDLED, TEXT, TEXT_2, split
from modules.checkpoints.networks.kinds import Change, change_of
from modules.checkpoints.networks.listing import Unusable, unknown_kinds
from modules.checkpoints.upscalers import read_tensors
from modules.devices import is_finite

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Network:
    """What a file says. ``changes`` by the layers' names as kohya writes them."""

    path: Path
    changes: Mapping[str, Change]
    unknown: tuple[str, ...] = ()
    """Layers whose parts are of no kind that is known."""
    embeddings: tuple[BundledEmbedding, ...] = ()
    """Textual inversions that come along."""

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for change in self.changes.values() for part in change.parts.values())

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of its changes, in order of first use."""
        return tuple(dict.fromkeys(change.kind.name for change in self.changes.values()))


def read(path: Path) -> Network:
    """The network in a safetensors file or a pickle; raises `CheckpointError` with the file's name and the reason."""
    metadata = read_header(path, field="prompt").metadata if path.suffix.lower() == ".safetensors" else {}
    tensors = read_tensors(path, field="prompt")
    if broken := sum(not is_finite(tensor) for tensor in tensors.values()):
        raise Unusable(
            f"{path.name} is damaged: {broken} of its {len(tensors)} tensors hold values that are no numbers",
            hint="use another copy of it",
            field="prompt",
        )
    layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
    embeddings: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in tensors.items():
        if key.startswith(BUNDLED):
            _, name, part = key.split(".", 2)
            embeddings[name][part] = tensor
        else:
            layer, part = split(key)
            layers[layer][part] = tensor
    _add_scales(layers, _adapter(path, metadata))
    changes = {layer: change_of(parts) for layer, parts in layers.items()}
    known = {layer: change for layer, change in changes.items() if change}
    if not known and not embeddings:
        raise Unusable(unknown_kinds(path), field="prompt")
    unknown = tuple(layer for layer, change in changes.items() if not change)
    return Network(path, known, unknown, tuple(_embeddings(path, embeddings)))


def _embeddings(path: Path, found: Mapping[str, Mapping[str, Tensor]]) -> Iterator[BundledEmbedding]:
    """Those that can be read; the others are logged."""
    for name, parts in found.items():
        try:
            yield bundled(name, path, {part: tensor.float().numpy() for part, tensor in parts.items()})
        except ValueError as error:
            log.warning("the embedding %s in %s was left out: %s", name, path.name, error)


# --------------------------------------------------------------------- what PEFT says beside its tensors


@dataclass(frozen=True)
class _Adapter:
    """PEFT's configuration of one part of a model: its alpha, that of some layers, and how it counts."""

    alpha: float
    patterns: Mapping[str, float]
    root: bool
    """Alpha is divided by the root of the rank (Kalajdzievski 2023, arXiv:2312.03732)."""
    rank: float = 0.0
    ranks: Mapping[str, float] = field(default_factory=dict)

    def scale(self, layer: str, parts: Mapping[str, Tensor]) -> float | None:
        """Alpha over the rank: that of a LoRA's factors, else the stated one, which LoHa and LoKr of whole matrices
        have too; None: it is not known."""
        rank = len(parts["lora_down.weight"]) if "lora_down.weight" in parts else _of(layer, self.ranks, self.rank)
        if rank <= 0:
            return None
        return _of(layer, self.patterns, self.alpha) / (math.sqrt(rank) if self.root else rank)


def _of(layer: str, patterns: Mapping[str, float], otherwise: float) -> float:
    """The value of the first pattern that a layer's name ends with."""
    fitting = (value for name, value in patterns.items() if f"_{layer}".endswith(f"_{name.replace('.', '_')}"))
    return next(fitting, otherwise)


def _adapter(path: Path, metadata: Mapping[str, str]) -> dict[str, _Adapter]:
    """By the beginnings of layers: from diffusers' metadata, or PEFT's file beside a file of its own."""
    found = {}
    stated = _json(metadata.get("lora_adapter_metadata", "{}"))
    for part, prefix in (("unet", "lora_unet_"), ("text_encoder", TEXT), ("text_encoder_2", TEXT_2)):
        own = {key.removeprefix(f"{part}."): value for key, value in stated.items() if key.startswith(f"{part}.")}
        if adapter := _read_adapter(own):
            found[prefix] = adapter
    beside = path.with_name("adapter_config.json")
    if found or not path.name.startswith("adapter_model") or not beside.is_file():
        return found
    adapter = _read_adapter(_json(beside.read_text(encoding="utf-8", errors="replace")))
    return {"": adapter} if adapter else {}


def _read_adapter(stated: Mapping[str, Any]) -> _Adapter | None:
    alpha = stated.get("lora_alpha", stated.get("alpha"))  # LoHa and LoKr call it so
    rank = stated.get("r", 0)
    if not isinstance(alpha, (int, float)) or not isinstance(rank, (int, float)):
        return None
    alphas, ranks = _numbers(stated.get("alpha_pattern")), _numbers(stated.get("rank_pattern"))
    return _Adapter(float(alpha), alphas, stated.get("use_rslora") is True, float(rank), ranks)


def _numbers(table: Any) -> dict[str, float]:
    found = table if isinstance(table, Mapping) else {}
    return {str(name): float(value) for name, value in found.items() if isinstance(value, (int, float))}


_SCALED = ("lora_down.weight", "hada_w1_a", "lokr_w1", "lokr_w1_a")
"""Parts of layers that alpha scales."""


def _add_scales(layers: Mapping[str, dict[str, Tensor]], adapters: Mapping[str, _Adapter]) -> None:
    for layer, parts in layers.items():
        adapter = next((one for prefix, one in adapters.items() if layer.startswith(prefix)), None)
        if adapter and "alpha" not in parts and any(name in parts for name in _SCALED):
            scale = adapter.scale(layer, parts)
            if scale is not None:
                parts["scale"] = torch.tensor(scale)


def _json(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, Mapping) else {}
