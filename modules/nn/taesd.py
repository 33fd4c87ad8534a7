"""The tiny autoencoder for previews and fast decoding, with the layer names of its author's files: Ollin Boer Bohan
(2023), TAESD. Latents are scaled as the diffusion model has them; one latent pixel stands for 8 x 8 pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH = 64


class Block(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Sequential(
            _conv(channels, channels), nn.ReLU(), _conv(channels, channels), nn.ReLU(), _conv(channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv(x) + x).relu()  # type: ignore[no-any-return]


class Clamp(nn.Module):
    """Latents far from zero are nothing that a picture is encoded to."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class TinyDecoder(nn.Sequential):
    """Scaled latents (b, channels, h, w) to pictures (b, 3, 8 h, 8 w), about [-1, 1]."""

    def __init__(self, channels: int = 4):
        layers: list[nn.Module] = [Clamp(), _conv(channels, WIDTH), nn.ReLU()]
        for _ in range(3):
            layers += [*_blocks(3), nn.Upsample(scale_factor=2), _conv(WIDTH, WIDTH, bias=False)]
        super().__init__(*layers, Block(WIDTH), _conv(WIDTH, 3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x * 2 - 1


class TinyEncoder(nn.Sequential):
    """Pictures (b, 3, h, w) in [-1, 1] to scaled latents (b, channels, h / 8, w / 8)."""

    def __init__(self, channels: int = 4):
        layers: list[nn.Module] = [_conv(3, WIDTH), Block(WIDTH)]
        for _ in range(3):
            layers += [_conv(WIDTH, WIDTH, stride=2, bias=False), *_blocks(3)]
        super().__init__(*layers, _conv(WIDTH, channels))

    def forward(self, x: Tensor) -> Tensor:
        x = (x + 1) / 2
        for layer in self:
            x = layer(x)
        return x


def _conv(inside: int, outside: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=bias)


def _blocks(count: int) -> list[nn.Module]:
    return [Block(WIDTH) for _ in range(count)]
