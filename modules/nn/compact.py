"""Real-ESRGAN's small networks (realesr-general-x4v3, realesr-animevideov3): convolutions at low resolution.

Layers are named after the files' keys: ``body.0`` convolution, ``body.1`` PReLU, and so on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class CompactConfig:
    features: int = 64
    convolutions: int = 16
    """Between the first and the last."""
    scale: int = 4


class CompactNet(nn.Module):
    """(n, 3, h, w) in [0, 1] -> (n, 3, h * scale, w * scale): the enlarged input and what the chain adds to it."""

    def __init__(self, config: CompactConfig):
        super().__init__()
        self.config = config
        self.scale = config.scale
        width = config.features
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.PReLU(width)]
        for _ in range(config.convolutions):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width)]
        self.body = nn.Sequential(*layers, nn.Conv2d(width, 3 * self.scale**2, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        enlarged = F.interpolate(x, scale_factor=float(self.scale), mode="nearest")
        return F.pixel_shuffle(self.body(x), self.scale) + enlarged


def is_compact(state: Mapping[str, Tensor]) -> bool:
    """Nothing but a numbered chain that begins with a picture and a PReLU."""
    return (
        all(re.fullmatch(r"body\.\d+\.(weight|bias)", key) for key in state)
        and {"body.0.weight", "body.1.weight", "body.2.weight"} <= state.keys()
        and state["body.0.weight"].dim() == 4
        and state["body.1.weight"].dim() == 1
    )


def config_of(state: Mapping[str, Tensor]) -> CompactConfig:
    last = max(int(key.split(".")[1]) for key in state)
    return CompactConfig(
        features=state["body.0.weight"].shape[0],
        convolutions=last // 2 - 1,
        scale=math.isqrt(state[f"body.{last}.weight"].shape[0] // 3),
    )
