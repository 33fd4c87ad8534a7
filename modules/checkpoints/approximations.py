"""Loads tiny autoencoders (TAESD). In diffusers' file with both parts the decoder is numbered without the first layer,
which has no weights.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor, nn

from modules.checkpoints.approximation_files import DECODER, SUFFIXES, find_part
from modules.checkpoints.families.base import ModelConfig
from modules.checkpoints.upscalers import read_tensors
from modules.devices import Device
from modules.errors import CheckpointError
from modules.nn.taesd import TinyDecoder, TinyEncoder

_LAYER = re.compile(r"(?:.*?(encoder|decoder)\.)?(layers\.)?(\d+)\.(.+)$")


class Approximations:
    """The tiny autoencoders of a folder. Those that were used stay in memory: one has 2.5 MB."""

    def __init__(self, folder: Path, device: Device):
        self._folder = folder
        self._device = device
        self._loaded: dict[tuple[Path, int, str], nn.Module] = {}

    def files(self) -> list[Path]:
        """All files of the folder that may be tiny autoencoders."""
        return sorted(path for path in self._folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())

    def load(self, config: ModelConfig, part: str) -> tuple[nn.Module, Path]:
        """The network of a part, and its file. Raises `CheckpointError` where there is none, and says what to do."""
        path = find_part(self._folder, config, part)
        key = path, path.stat().st_mtime_ns, part
        if key not in self._loaded:
            self._loaded[key] = self._read(path, part)
        return self._loaded[key], path

    def _read(self, path: Path, part: str) -> nn.Module:
        state = part_of(read_tensors(path, "vae"), part)
        network = TinyDecoder() if part == DECODER else TinyEncoder()
        try:
            network.load_state_dict({key: tensor.float() for key, tensor in state.items()}, strict=True)
        except RuntimeError as error:
            raise CheckpointError(
                f"{path.name} is no {part} of TAESD for latents with 4 channels", hint="fetch it again", field="vae"
            ) from error
        return self._device.prepare(network.eval().requires_grad_(False))


def part_of(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of one part under its author's names, from either layout.

    >>> from torch import zeros
    >>> list(part_of({"encoder.layers.0.bias": zeros(1), "decoder.layers.0.bias": zeros(1)}, "decoder"))
    ['1.bias']
    """
    found = {}
    for key, tensor in tensors.items():
        place = _LAYER.match(key)
        if place is None or place[1] not in (None, part):
            continue
        found[f"{int(place[3]) + (part == DECODER and bool(place[2]))}.{place[4]}"] = tensor
    return found
