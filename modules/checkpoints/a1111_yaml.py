"""A1111's configuration beside a checkpoint, ``STEM.yaml``: what is taken from it, and what cannot be.

Tensors tell sizes, so a file is asked only for what no tensor tells. What it says otherwise is named, for it is not
done. It is taken apart and never built: YAML's merge keys could make gigabytes of a few lines.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from modules.nn.configs import UNetConfig

log = logging.getLogger(__name__)

MAX_BYTES = 256 * 2**10
"""A1111's own files have 2 to 4 kB."""
MODELS = ("LatentDiffusion", "LatentInpaintDiffusion", "LatentFinetuneDiffusion", "DiffusionEngine", "DDPM")
SCHEDULE = {"linear_start": 0.00085, "linear_end": 0.012, "timesteps": 1000.0}
"""What every model here was trained with."""
_PARAMS = ("model", "params")
_UNETS = ((*_PARAMS, "unet_config", "params"), (*_PARAMS, "network_config", "params"))


@dataclass(frozen=True)
class Yaml:
    """What a configuration says, and its name for messages."""

    name: str
    root: Any

    def text(self, *keys: str) -> str:
        """The value at a path of keys; empty where the path does not exist."""
        node = self.root
        for key in keys:
            node = next((value for name, value in _entries(node) if getattr(name, "value", None) == key), None)
        return node.value if isinstance(node, yaml.ScalarNode) else ""

    def number(self, *keys: str) -> float | None:
        try:
            return float(self.text(*keys))
        except ValueError:
            return None

    @property
    def prediction(self) -> str:
        """As the file spells it: "v", "eps"; empty where it does not say it."""
        scaling = self.text(*_PARAMS, "denoiser_config", "params", "scaling_config", "target").rpartition(".")[2]
        return self.text(*_PARAMS, "parameterization") or {"VScaling": "v", "EpsScaling": "eps"}.get(scaling, "")

    @property
    def scale_factor(self) -> float | None:
        """Of the latents."""
        found = self.number(*_PARAMS, "scale_factor")
        return found if found and 0 < found < 100 else None

    def with_heads(self, config: UNetConfig) -> UNetConfig:
        """A UNet's configuration with the number or the width of the attention's heads, which no tensor tells."""

        def count(key: str, otherwise: int) -> int:
            value = self._unet(key)
            return int(value) if value and value.is_integer() and 0 < value <= config.model_channels else otherwise

        heads, channels = count("num_heads", config.num_heads), count("num_head_channels", config.head_channels)
        return replace(config, num_heads=heads, head_channels=channels)

    @property
    def last_layer(self) -> bool:
        """An OpenCLIP encoder's last layer is meant rather than the one before it."""
        return self.text(*_PARAMS, "cond_stage_config", "params", "layer") == "last"

    def remarks(self, config: UNetConfig, *, clip: bool) -> list[str]:
        """What it says that is not done, in sentences; ``clip``: the text encoder is OpenAI's."""
        found = []
        kind = self.text("model", "target").rpartition(".")[2]
        if kind and kind not in MODELS:
            found.append(f"{self.name} asks for {kind[:60]}, which is not known here")
        for key, own in (
            ("in_channels", config.in_channels),
            ("out_channels", config.out_channels),
            ("model_channels", config.model_channels),
            ("context_dim", config.context_dim),
        ):
            value = self._unet(key)
            if value is not None and value != own:
                found.append(f"{self.name} says {key} {value:g}, and the file has {own}, which counts")
        for key, usual in SCHEDULE.items():
            value = self.number(*_PARAMS, key)
            if value is not None and value != usual and not self._is_sdxl:
                found.append(f"{self.name} says {key} {value:g}, and {usual:g} is used")
        layer = self.text(*_PARAMS, "cond_stage_config", "params", "layer")
        if clip and layer not in ("", "last"):
            found.append(f"{self.name} asks for the text encoder's layer {layer[:20]}: choose it with Clip skip")
        if self.text(*_PARAMS, "use_ema").casefold() == "true":
            found.append(f"{self.name} asks for averaged weights, and the plain ones are used")
        return found

    @property
    def _is_sdxl(self) -> bool:
        return self.text("model", "target").endswith("DiffusionEngine")

    def _unet(self, key: str) -> float | None:
        return next((value for place in _UNETS if (value := self.number(*place, key)) is not None), None)


def read_yaml(path: Path) -> Yaml | None:
    """The configuration in a file; None where there is none that can be read."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return None
        return Yaml(path.name, yaml.compose(path.read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        log.warning("%s is left aside: it cannot be read (%s)", path.name, type(error).__name__)
        return None


def _entries(node: Any) -> Iterator[tuple[Any, Any]]:
    return iter(node.value if isinstance(node, yaml.MappingNode) else ())
