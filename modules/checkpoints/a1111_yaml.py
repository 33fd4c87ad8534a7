"""A1111's configuration beside a checkpoint, ``STEM.yaml``: what is taken from it, and what cannot be.

Tensors tell sizes, so a file is asked only for what no tensor tells. What it says otherwise is named, for it is not
done. It is taken apart and never built: YAML's merge keys could make gigabytes of a few lines.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG
from typing import Any

import yaml

from modules.diffusion.parameterization import ENDS, Betas
from modules.nn.configs import UNetConfig

log = logging.getLogger(__name__)

MAX_BYTES = 256 * 2**10
"""A1111's own files have 2 to 4 kB."""
MODELS = ("LatentDiffusion", "LatentInpaintDiffusion", "LatentFinetuneDiffusion", "DiffusionEngine", "DDPM")
SCHEDULES = {"linear": "scaled_linear", "sqrt_linear": "linear", "cosine": "cosine"}
"""ldm's names of noise schedules by ours: what it calls linear is linear in the root."""
STEPS = range(10, 10_001)
"""How many levels a noise schedule may have."""
_PARAMS = ("model", "params")
_DISCRETIZATION = (*_PARAMS, "denoiser_config", "params", "discretization_config", "params")
"""Where SDXL's configurations have the noise schedule, which is always linear in the root there."""
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

    def betas(self, schedule: str) -> tuple[Betas, list[str]]:
        """The noise schedule that it says, and in sentences what of it cannot be used. What it does not say is that of
        ``schedule``, the file's own.
        """
        place, levels = (_PARAMS, "timesteps") if not self._is_sdxl else (_DISCRETIZATION, "num_timesteps")
        kind, problems = self._schedule(schedule)

        def number(key: str, usual: float, *, whole: bool = False) -> float:
            text, value = self.text(*place, key), self.number(*place, key)
            fits = value is not None and (value in STEPS if whole else 0 < value < 1)
            if text and not fits:
                what = f"a whole number from {STEPS[0]} to {STEPS[-1]}" if whole else "between 0 and 1"
                problems.append(f"{self.name} says {key} {text[:20]}, which has to be {what}: {usual:g} is used")
            return value if fits and value is not None else usual

        usual = Betas.named(kind)
        steps = int(number(levels, usual.steps, whole=True))
        if kind not in ENDS:
            return Betas(kind, steps=steps), problems
        found = Betas(kind, number("linear_start", usual.start), number("linear_end", usual.end), steps)
        if found.is_usable():
            return found, problems
        ends = f"from {found.start:g} to {found.end:g} in {found.steps} steps"
        problems.append(f"{self.name} says betas {ends}, which are no rising noise: the usual ones are used")
        return usual, problems

    def _schedule(self, otherwise: str) -> tuple[str, list[str]]:
        if self._is_sdxl:
            return otherwise, []
        kind = self.text(*_PARAMS, "beta_schedule")
        if kind in SCHEDULES:
            return SCHEDULES[kind], []
        if kind:
            unknown = f"{self.name} says beta_schedule {kind[:20]}, which is not known here: {otherwise} is used"
            return otherwise, [unknown]
        has_ends = any(self.text(*_PARAMS, key) for key in ("linear_start", "linear_end"))
        return SCHEDULES["linear"] if has_ends else otherwise, []

    @property
    def last_layer(self) -> bool:
        """An OpenCLIP encoder's last layer is meant rather than the one before it."""
        return self.text(*_PARAMS, "cond_stage_config", "params", "layer") == "last"

    def remarks(self, config: UNetConfig, schedule: str, *, clip: bool) -> list[str]:
        """What it says that is not done, in sentences; ``schedule``: the file's own noise schedule; ``clip``: the text
        encoder is OpenAI's.
        """
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
        found += self.betas(schedule)[1]
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
    found = _found(path)
    return found if isinstance(found, Yaml) else None


def left_aside(path: Path) -> str:
    """Why a configuration that is there is not read, in a sentence; empty where it is read or there is none."""
    found = _found(path)
    return found if isinstance(found, str) else ""


def _found(path: Path) -> Yaml | str | None:
    try:
        stat = path.stat()
    except OSError:
        return f"{path.name} is left aside: it is a link that leads to nothing" if path.is_symlink() else None
    if not S_ISREG(stat.st_mode):
        return f"{path.name} is left aside: it is no regular file"
    if stat.st_size > MAX_BYTES:
        return f"{path.name} is left aside: it has more than {MAX_BYTES // 2**10} kB"
    return _read(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(256)
def _read(path: Path, mtime_ns: int, size: int) -> Yaml | str:
    """Read once as long as it stays as it is, so that the log tells once of one that cannot be read."""
    try:
        root = yaml.compose(path.read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)
        reason = "" if isinstance(root, yaml.MappingNode) else "it is no configuration of a model"
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = f"it cannot be read ({type(error).__name__})"
    if not reason:
        return Yaml(path.name, root)
    log.warning("%s is left aside: %s", path.name, reason)
    return f"{path.name} is left aside: {reason}"


def _entries(node: Any) -> Iterator[tuple[Any, Any]]:
    return iter(node.value if isinstance(node, yaml.MappingNode) else ())
