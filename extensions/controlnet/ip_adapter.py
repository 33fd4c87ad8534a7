"""IP-Adapter units: a picture seen through CLIP, whose tokens cross-attentions look at beside those of the text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modules import Layer, Step, UsedFile

if TYPE_CHECKING:
    from torch import Tensor

    from modules import Control, LatentDiffusion

VISION_FOLDER = "clip_vision"
ROLE = f"file:{VISION_FOLDER}"
"""Of a CLIP vision model in a recipe, by which replay finds it."""
MODULES = ("ip-adapter-auto", "ip-adapter_clip_sd15", "ip-adapter_clip_sdxl_plus_vith", "ip-adapter_clip_sdxl")
"""Preprocessors of IP-Adapters that need no other network than CLIP's; which one that is, the adapter tells."""
MEAN = np.array((0.48145466, 0.4578275, 0.40821073), np.float32)
DEVIATION = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)


def seen(image: Any, size: int) -> Any:
    """A picture as CLIP takes it: the middle of it, (3, size, size), normalised."""
    from PIL import Image

    k = size / min(image.size)
    wide = image.convert("RGB").resize((round(image.width * k), round(image.height * k)), Image.Resampling.BICUBIC)
    left, top = (wide.width - size) // 2, (wide.height - size) // 2
    pixels = np.asarray(wide.crop((left, top, left + size, top + size)), np.float32) / 255
    return ((pixels - MEAN) / DEVIATION).transpose(2, 0, 1).copy()


@lru_cache(maxsize=16)
def _sha256(path: Path, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256(path: Path) -> str:
    return _sha256(path, path.stat().st_mtime_ns)


class Sight:
    """What CLIP made of the pictures of the last requests, through the files of the folder models/clip_vision."""

    MOST = 16

    def __init__(self, files: Callable[[], Mapping[str, Path]]):
        self._files = files
        self._kept: dict[tuple[Any, ...], tuple[Tensor, Tensor, UsedFile]] = {}

    def of(
        self, picture: str, image: Any, control: Control, model: LatentDiffusion, recorded: Sequence[UsedFile]
    ) -> tuple[Tensor, Tensor, UsedFile]:
        """What an adapter is given for a picture, what for none, and the file of the CLIP vision model."""
        import torch

        from modules import clip_vision_for

        network: Any = control.network
        key = picture, network.config.image_width, network.config.takes_states, str(model.device.dtype)
        wanted = {file.sha256 for file in recorded if file.role == ROLE}
        if key not in self._kept or (wanted and self._kept[key][2].sha256 not in wanted):
            files = [path for path in self._files().values() if not wanted or sha256(path) in wanted]
            clip, path = clip_vision_for(network, files, model.device)
            size = clip.config.size
            pictures = torch.stack([torch.from_numpy(seen(image, size)), torch.zeros(3, size, size)])
            pooled, states = clip(model.device.place(pictures))
            given = states if network.config.takes_states else torch.cat([pooled[:1], torch.zeros_like(pooled[1:])])
            name = next(name for name, file in self._files().items() if file == path)
            self._kept[key] = given[:1], given[1:], UsedFile(ROLE, name, sha256(path))
            while len(self._kept) > self.MOST:
                del self._kept[next(iter(self._kept))]
        return self._kept[key]


def attentions(layers: Sequence[Layer]) -> dict[str, int]:
    """Cross-attentions by name -> their place in an adapter's file: on the way down, on the way up, in the middle."""
    order = {"input": 0, "output": 1, "middle": 2}
    crossing = [layer for layer in layers if layer.kind == "cross"]
    return {layer.name: i for i, layer in enumerate(sorted(crossing, key=lambda layer: order[layer.place]))}


def pairs_of(control: Control, given: Tensor, none: Tensor, model: LatentDiffusion) -> Any:
    """Keys and values for each cross-attention: the first row is the picture's, the second that of none."""
    import torch

    network: Any = control.network
    network.to(model.device.device)
    tokens = network(torch.cat([given, none]).to(model.device.device, model.device.dtype))
    unet = model.config.unet
    return network.key_values(tokens, [unet.heads(width) for width in network.config.widths])


def beside(
    step: Step, out: Tensor, q: Tensor, pair: tuple[Tensor, Tensor], weight: float, mask: Tensor | None
) -> Tensor:
    """An attention's answer with that to the picture's tokens."""
    from torch.nn import functional

    rows = [1 if row.kind == "negative" else 0 for row in step.rows]
    answer = functional.scaled_dot_product_attention(q, pair[0][rows], pair[1][rows]) * weight
    return out + (answer if mask is None else answer * mask.to(answer.dtype))
