"""T2I-Adapter: feature maps of a picture that are added to those of a UNet on its way down.

Mou et al. (2023), arXiv:2302.08453. Layers have the names of its authors' files: `T2IAdapter` is the full one of SD1
and SDXL, `LightAdapter` the small one (CoAdapter). Both take the picture alone, so one evaluation serves all steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class AdapterConfig:
    """Sizes of an adapter, all of which its tensors tell."""

    in_channels: int
    """Channels of the picture times the square of ``unshuffle``."""
    channels: tuple[int, ...]
    """One for each level."""
    blocks: int = 2
    kernel: int = 1
    halves: tuple[bool, ...] = (False, True, True, True)
    """The levels that halve the sides first; in SDXL only the third does."""
    strided: bool = False
    """They are halved by a convolution, else by a mean."""
    unshuffle: int = 8


class _AdapterBlock(nn.Module):
    def __init__(self, channels: int, out: int, config: AdapterConfig, halves: bool):
        super().__init__()
        if channels != out:
            self.in_conv = nn.Conv2d(channels, out, config.kernel, padding=config.kernel // 2)
        self.block1 = nn.Conv2d(out, out, 3, padding=1)
        self.block2 = nn.Conv2d(out, out, config.kernel, padding=config.kernel // 2)
        self.halves = halves
        if halves and config.strided:
            down = nn.Module()
            down.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
            self.down_opt = down

    def forward(self, x: Tensor) -> Tensor:
        if self.halves:
            x = self.down_opt.op(x) if hasattr(self, "down_opt") else _halved(x)  # type: ignore[operator]
        x = self.in_conv(x) if hasattr(self, "in_conv") else x
        out: Tensor = self.block2(F.relu(self.block1(x))) + x
        return out


def _halved(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2, ceil_mode=True)


class T2IAdapter(nn.Module):
    """A picture (n, c, H, W) in [0, 1] -> a feature map for each level."""

    def __init__(self, config: AdapterConfig):
        super().__init__()
        self.config = config
        self.conv_in = nn.Conv2d(config.in_channels, config.channels[0], 3, padding=1)
        self.body = nn.ModuleList()
        ch = config.channels[0]
        for out, halves in zip(config.channels, config.halves, strict=True):
            for i in range(config.blocks):
                self.body.append(_AdapterBlock(ch, out, config, halves and i == 0))
                ch = out

    def forward(self, picture: Tensor) -> list[Tensor]:
        x = self.conv_in(F.pixel_unshuffle(picture, self.config.unshuffle))
        found = []
        for i, block in enumerate(self.body):
            x = block(x)
            if (i + 1) % self.config.blocks == 0:
                found.append(x)
        return found


class _LightBlock(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.block1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.block2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block2(F.relu(self.block1(x))) + x
        return out


class _LightLevel(nn.Module):
    def __init__(self, channels: int, out: int, blocks: int, halves: bool):
        super().__init__()
        self.halves = halves
        self.in_conv = nn.Conv2d(channels, out // 4, 1)
        self.body = nn.Sequential(*(_LightBlock(out // 4) for _ in range(blocks)))
        self.out_conv = nn.Conv2d(out // 4, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out_conv(self.body(self.in_conv(_halved(x) if self.halves else x)))
        return out


class LightAdapter(nn.Module):
    """A picture (n, c, H, W) in [0, 1] -> a feature map for each level."""

    def __init__(self, config: AdapterConfig):
        super().__init__()
        self.config = config
        inputs = (config.in_channels, *config.channels)
        levels = zip(inputs, config.channels, config.halves, strict=False)
        self.body = nn.ModuleList(_LightLevel(ch, out, config.blocks, halves) for ch, out, halves in levels)

    def forward(self, picture: Tensor) -> list[Tensor]:
        x = F.pixel_unshuffle(picture, self.config.unshuffle)
        found = []
        for level in self.body:
            x = level(x)
            found.append(x)
        return found
