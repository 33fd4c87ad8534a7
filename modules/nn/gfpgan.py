"""GFPGAN: a U-Net sees the poor face, StyleGAN2 draws it anew, guided by what the U-Net found at each size.

Wang et al. (2021), arXiv:2101.04061; StyleGAN2: Karras et al. (2020), arXiv:1912.04958. Layers are named after the keys
of the "clean" files, versions 1.2 to 1.4. The noise that StyleGAN2 adds is the file's own, so that the same face comes
out again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class GFPGANConfig:
    channels: tuple[int, ...] = (512, 512, 512, 512, 512, 256, 128, 64)
    """The decoder's, at sides of 4, 8, 16, ... pixels; the U-Net has half as many."""
    style: int = 512

    @property
    def size(self) -> int:
        """Side in pixels."""
        return int(4 * 2 ** (len(self.channels) - 1))


class ModulatedConv(nn.Module):
    """A convolution whose input channels a style weighs, with outputs brought back to unit variance."""

    def __init__(self, inputs: int, outputs: int, kernel: int, style: int, demodulate: bool = True):
        super().__init__()
        self.demodulate = demodulate
        self.modulation = nn.Linear(style, inputs)
        self.weight = nn.Parameter(torch.zeros(1, outputs, inputs, kernel, kernel))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        gains = self.modulation(style)  # (n, inputs)
        kernel = self.weight[0]
        y = F.conv2d(x * gains[..., None, None], kernel, padding=kernel.shape[-1] // 2)
        if not self.demodulate:
            return y
        power = gains.square() @ kernel.square().sum((2, 3)).T  # (n, outputs)
        return y * torch.rsqrt(power + 1e-8)[..., None, None]


class StyleConv(nn.Module):
    """A modulated convolution, noise of a learned strength, a bias."""

    def __init__(self, inputs: int, outputs: int, style: int):
        super().__init__()
        self.modulated_conv = ModulatedConv(inputs, outputs, 3, style)
        self.weight = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.zeros(1, outputs, 1, 1))

    def forward(self, x: Tensor, style: Tensor, noise: Tensor) -> Tensor:
        y = self.modulated_conv(x, style) * 2**0.5 + self.weight * noise + self.bias
        return F.leaky_relu(y, 0.2)


class ToRGB(nn.Module):
    def __init__(self, inputs: int, style: int):
        super().__init__()
        self.modulated_conv = ModulatedConv(inputs, 3, 1, style, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        y: Tensor = self.modulated_conv(x, style) + self.bias
        return y


class ConstantInput(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, channels, 4, 4))


class Noises(nn.Module):
    """One picture of noise for each convolution: one of side 4, then two of each side."""

    def __init__(self, levels: int):
        super().__init__()
        for n in range(2 * levels - 1):
            side = 2 ** ((n + 5) // 2)
            self.register_buffer(f"noise{n}", torch.zeros(1, 1, side, side))


class Decoder(nn.Module):
    """StyleGAN2 whose second half of channels is scaled and shifted by the U-Net after each doubling."""

    def __init__(self, config: GFPGANConfig):
        super().__init__()
        channels, style = config.channels, config.style
        self.constant_input = ConstantInput(channels[0])
        self.style_conv1 = StyleConv(channels[0], channels[0], style)
        self.to_rgb1 = ToRGB(channels[0], style)
        self.style_convs = nn.ModuleList()
        self.to_rgbs = nn.ModuleList()
        for before, after in pairwise(channels):
            self.style_convs += [StyleConv(before, after, style), StyleConv(after, after, style)]
            self.to_rgbs.append(ToRGB(after, style))
        self.noises = Noises(len(channels))

    def forward(self, styles: Tensor, scales: list[Tensor], shifts: list[Tensor]) -> Tensor:
        """``styles`` (n, one for each layer, style)."""
        noise = [self.noises.get_buffer(f"noise{n}") for n in range(len(self.style_convs) + 1)]
        x = self.constant_input.weight.expand(len(styles), -1, -1, -1)
        x = self.style_conv1(x, styles[:, 0], noise[0])
        image: Tensor = self.to_rgb1(x, styles[:, 1])
        for level, to_rgb in enumerate(self.to_rgbs):
            n = 2 * level
            x = self.style_convs[n](doubled(x), styles[:, n + 1], noise[n + 1])
            same, guided = x.chunk(2, 1)
            x = torch.cat((same, guided * scales[level] + shifts[level]), 1)
            x = self.style_convs[n + 1](x, styles[:, n + 2], noise[n + 2])
            image = doubled(image) + to_rgb(x, styles[:, n + 3])
        return image


class ResBlock(nn.Module):
    """Two convolutions with a change of size between them."""

    def __init__(self, inputs: int, outputs: int, factor: float):
        super().__init__()
        self.factor = factor
        self.conv1 = nn.Conv2d(inputs, inputs, 3, padding=1)
        self.conv2 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = resized(F.leaky_relu(self.conv1(x), 0.2), self.factor)
        z: Tensor = self.skip(resized(x, self.factor))
        return F.leaky_relu(self.conv2(y), 0.2) + z


class GFPGAN(nn.Module):
    """Faces (n, 3, size, size) in [-1, 1], aligned, -> the same restored."""

    def __init__(self, config: GFPGANConfig):
        super().__init__()
        self.config = config
        self.size = config.size
        widths = [channels // 2 for channels in config.channels]
        self.conv_body_first = nn.Conv2d(3, widths[-1], 1)
        falling = widths[::-1]
        self.conv_body_down = nn.ModuleList(ResBlock(a, b, 0.5) for a, b in pairwise(falling))
        self.final_conv = nn.Conv2d(widths[0], widths[0], 3, padding=1)
        self.conv_body_up = nn.ModuleList(ResBlock(a, b, 2.0) for a, b in pairwise(widths))
        self.final_linear = nn.Linear(widths[0] * 16, 2 * len(widths) * config.style)
        self.stylegan_decoder = Decoder(config)
        self.condition_scale = nn.ModuleList(_condition(width) for width in widths[1:])
        self.condition_shift = nn.ModuleList(_condition(width) for width in widths[1:])

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv_body_first(x), 0.2)
        seen: list[Tensor] = []
        for down in self.conv_body_down:
            x = down(x)
            seen.append(x)
        x = F.leaky_relu(self.final_conv(x), 0.2)
        styles = self.final_linear(x.flatten(1)).view(len(x), -1, self.config.style)
        scales, shifts = [], []
        for up, scale, shift in zip(self.conv_body_up, self.condition_scale, self.condition_shift, strict=True):
            x = up(x + seen.pop())
            scales.append(scale(x))
            shifts.append(shift(x))
        y: Tensor = self.stylegan_decoder(styles, scales, shifts)
        return y


def _condition(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(width, width, 3, padding=1)
    )


def resized(x: Tensor, factor: float) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def doubled(x: Tensor) -> Tensor:
    return resized(x, 2.0)


# --------------------------------------------------------------------------------------------------- from a file's keys


def is_gfpgan(state: Mapping[str, Tensor]) -> bool:
    wanted = {
        "conv_body_first.weight",
        "stylegan_decoder.style_conv1.modulated_conv.weight",
        "condition_scale.0.0.weight",
    }
    return wanted <= state.keys()


def needed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what only training asks: colours at each size, and the way from noise to styles."""
    unused = ("toRGB.", "stylegan_decoder.style_mlp.")
    return {key: tensor for key, tensor in state.items() if not key.startswith(unused)}


def config_of(state: Mapping[str, Tensor]) -> GFPGANConfig:
    """Sizes from the shapes."""
    first = state["stylegan_decoder.style_conv1.modulated_conv.weight"].shape[1]
    pattern = re.compile(r"stylegan_decoder\.to_rgbs\.(\d+)\.modulated_conv\.weight")
    others = {int(match[1]): state[key].shape[2] for key in state if (match := pattern.fullmatch(key))}
    return GFPGANConfig(
        channels=(first, *(others[level] for level in range(len(others)))),
        style=state["stylegan_decoder.style_conv1.modulated_conv.modulation.weight"].shape[1],
    )
