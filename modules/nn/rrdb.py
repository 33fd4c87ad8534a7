"""ESRGAN's generator, in all the layouts in which its files are about.

Wang et al. (2018), arXiv:1809.00219; Real-ESRGAN's unshuffling door: Wang et al. (2021), arXiv:2107.10833, sec. 3.4.
Layers are named after Real-ESRGAN's keys; `new_keys` renames those of older files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class RRDBConfig:
    """What a file's shapes say."""

    features: int = 64
    growth: int = 32
    blocks: int = 23
    doublings: int = 2
    unshuffle: int = 1
    """Real-ESRGAN makes its x2 and x1 networks from the x4 one, behind a door that folds 2x2 or 4x4 pixels into one."""
    inputs: int = 3
    outputs: int = 3

    @property
    def scale(self) -> int:
        return int(2**self.doublings // self.unshuffle)


class ResidualDenseBlock(nn.Module):
    """Five convolutions, each of which sees all before it."""

    def __init__(self, features: int, growth: int):
        super().__init__()
        self.conv1 = nn.Conv2d(features, growth, 3, padding=1)
        self.conv2 = nn.Conv2d(features + growth, growth, 3, padding=1)
        self.conv3 = nn.Conv2d(features + 2 * growth, growth, 3, padding=1)
        self.conv4 = nn.Conv2d(features + 3 * growth, growth, 3, padding=1)
        self.conv5 = nn.Conv2d(features + 4 * growth, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            seen = torch.cat((seen, _leaky(conv(seen))), 1)
        y: Tensor = self.conv5(seen)
        return x + 0.2 * y


class RRDB(nn.Module):
    """Residual in residual dense block."""

    def __init__(self, features: int, growth: int):
        super().__init__()
        self.rdb1 = ResidualDenseBlock(features, growth)
        self.rdb2 = ResidualDenseBlock(features, growth)
        self.rdb3 = ResidualDenseBlock(features, growth)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.rdb3(self.rdb2(self.rdb1(x)))
        return x + 0.2 * y


class RRDBNet(nn.Module):
    """(n, 3, h, w) in [0, 1] -> (n, 3, h * scale, w * scale)."""

    def __init__(self, config: RRDBConfig):
        super().__init__()
        self.config = config
        self.scale = config.scale
        width = config.features
        self.conv_first = nn.Conv2d(config.inputs * config.unshuffle**2, width, 3, padding=1)
        self.body = nn.Sequential(*(RRDB(width, config.growth) for _ in range(config.blocks)))
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        for n in range(1, config.doublings + 1):
            self.add_module(f"conv_up{n}", nn.Conv2d(width, width, 3, padding=1))
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, config.outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        fold = self.config.unshuffle
        how = "reflect" if min(height, width) >= fold else "replicate"  # a smaller one cannot be mirrored so far
        x = F.pad(x, (0, -width % fold, 0, -height % fold), how)
        x = self.conv_first(F.pixel_unshuffle(x, fold))
        x = x + self.conv_body(self.body(x))
        for n in range(1, self.config.doublings + 1):
            x = _leaky(self.get_submodule(f"conv_up{n}")(F.interpolate(x, scale_factor=2.0, mode="nearest")))
        x = self.conv_last(_leaky(self.conv_hr(x)))
        return x[..., : height * self.scale, : width * self.scale]


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


# --------------------------------------------------------------------------------------------------- from a file's keys

_TRUNK = (
    (r"RRDB_trunk\.(\d+)\.RDB([123])\.conv([1-5])\.", r"body.\1.rdb\2.conv\3."),
    (r"trunk_conv\.", "conv_body."),
    (r"upconv(\d)\.", r"conv_up\1."),
    (r"HRconv\.", "conv_hr."),
)
"""The names in the paper's own code -> Real-ESRGAN's."""


def new_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` with Real-ESRGAN's names, whichever of the three layouts it has."""
    state = _from_numbers(state) if "model.0.weight" in state else state
    renamed = {}
    for key, tensor in state.items():
        for old, new in _TRUNK:
            key = re.sub("^" + old, new, key)
        renamed[key] = tensor
    return renamed


def _from_numbers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The oldest layout numbers its layers: each doubling takes three places, the last two convolutions two each."""
    places = sorted({int(match[1]) for key in state if (match := re.match(r"model\.(\d+)\.(?:weight|bias)$", key))})
    doublings = max(len(places) - 3, 0)  # less the first and the last two
    names = {0: "conv_first", 3 * doublings + 2: "conv_hr", 3 * doublings + 4: "conv_last"}
    names |= {3 * n: f"conv_up{n}" for n in range(1, doublings + 1)}
    renamed = {}
    for key, tensor in state.items():
        key = re.sub(r"^model\.1\.sub\.(\d+)\.RDB([123])\.conv([1-5])\.0\.", r"body.\1.rdb\2.conv\3.", key)
        key = re.sub(r"^model\.1\.sub\.\d+\.(weight|bias)$", r"conv_body.\1", key)
        if (match := re.match(r"model\.(\d+)\.(weight|bias)$", key)) and int(match[1]) in names:
            key = f"{names[int(match[1])]}.{match[2]}"
        renamed[key] = tensor
    return renamed


def is_rrdb(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict with `new_keys` is of this family."""
    return {"conv_first.weight", "body.0.rdb1.conv1.weight", "conv_body.weight", "conv_last.weight"} <= state.keys()


def config_of(state: Mapping[str, Tensor]) -> RRDBConfig:
    """Sizes from the shapes of a state dict with `new_keys`."""
    features, doors = state["conv_first.weight"].shape[:2]
    outputs = state["conv_last.weight"].shape[0]
    doublings = sum(1 for key in state if re.fullmatch(r"conv_up\d\.weight", key))
    unshuffle = {4 * outputs: 2, 16 * outputs: 4}.get(doors, 1)
    return RRDBConfig(
        features=features,
        growth=state["body.0.rdb1.conv1.weight"].shape[0],
        blocks=1 + max(int(key.split(".")[1]) for key in state if re.match(r"body\.\d+\.", key)),
        doublings=doublings,
        unshuffle=unshuffle,
        inputs=doors // unshuffle**2,
        outputs=outputs,
    )
