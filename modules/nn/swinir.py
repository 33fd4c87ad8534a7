"""SwinIR: attention within windows, every second layer with the windows shifted by half.

Liang et al. (2021), arXiv:2108.10257; Swin transformer: Liu et al. (2021), arXiv:2103.14030. Layers are named after the
files' keys. The four ends are the paper's: "pixelshuffle" (classical), "pixelshuffledirect" (lightweight),
"nearest+conv" (real-world), and none (denoising).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MEAN = (0.4488, 0.4371, 0.4040)
"""DIV2K's mean colour, as the paper's code subtracts it."""


@dataclass(frozen=True)
class SwinIRConfig:
    width: int = 180
    depths: tuple[int, ...] = (6,) * 6
    heads: tuple[int, ...] = (6,) * 6
    window: int = 8
    mlp: int = 360
    scale: int = 4
    end: str = "nearest+conv"
    three_convs: bool = False
    """The large real-world network ends its groups with three convolutions."""
    channels: int = 3
    between: int = 64
    """Channels of the ends with more than one convolution."""

    @property
    def levels(self) -> float:
        """White: the networks against JPEG artefacts, alone with windows of 7, were trained on values up to 255."""
        return 255.0 if self.window == 7 else 1.0


class WindowAttention(nn.Module):
    """Attention among the pixels of one window, with a learned bias for each displacement."""

    def __init__(self, width: int, window: int, heads: int):
        super().__init__()
        self.heads, self.window = heads, window
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """``x`` (windows, pixels, width); ``mask`` (windows of one picture, pixels, pixels), added."""
        count, pixels, width = x.shape
        q, k, v = (
            self.qkv(x).view(count, pixels, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        )  # (windows, heads, pixels, dim)
        bias = self.relative_position_bias_table[displacements(self.window).to(x.device)].permute(2, 0, 1)[None]
        if mask is not None:
            bias = bias + mask.repeat(count // len(mask), 1, 1)[:, None]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(count, -1, -1, -1))
        out: Tensor = self.proj(y.transpose(1, 2).reshape(count, pixels, width))
        return out


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return y


class Block(nn.Module):
    """Windowed attention and a perceptron, each added to what came in. Pictures (n, h, w, width)."""

    def __init__(self, config: SwinIRConfig, heads: int, shift: int):
        super().__init__()
        self.window, self.shift = config.window, shift
        self.norm1 = nn.LayerNorm(config.width)
        self.attn = WindowAttention(config.width, config.window, heads)
        self.norm2 = nn.LayerNorm(config.width)
        self.mlp = Mlp(config.width, config.mlp)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        y = torch.roll(self.norm1(x), (-self.shift, -self.shift), (1, 2))
        y = self.attn(to_windows(y, self.window), mask if self.shift else None)
        y = torch.roll(from_windows(y, self.window, height, width), (self.shift, self.shift), (1, 2))
        x = x + y
        z: Tensor = self.mlp(self.norm2(x))
        return x + z


class Blocks(nn.Module):
    def __init__(self, config: SwinIRConfig, depth: int, heads: int):
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, heads, n % 2 * (config.window // 2)) for n in range(depth))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, mask)
        return x


class Group(nn.Module):
    """Residual Swin transformer block: layers of attention, then a convolution."""

    def __init__(self, config: SwinIRConfig, depth: int, heads: int):
        super().__init__()
        self.residual_group = Blocks(config, depth, heads)
        self.conv = closing(config.width, config.three_convs)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.residual_group(x, mask).permute(0, 3, 1, 2)
        z: Tensor = self.conv(y)
        return x + z.permute(0, 2, 3, 1)


class PatchEmbed(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)


class SwinIR(nn.Module):
    """(n, 3, h, w) in [0, 1] -> (n, 3, h * scale, w * scale)."""

    def __init__(self, config: SwinIRConfig):
        super().__init__()
        self.config = config
        self.scale = config.scale
        width = config.width
        self.conv_first = nn.Conv2d(config.channels, width, 3, padding=1)
        self.patch_embed = PatchEmbed(width)
        self.layers = nn.ModuleList(Group(config, *both) for both in zip(config.depths, config.heads, strict=True))
        self.norm = nn.LayerNorm(width)
        self.conv_after_body = closing(width, config.three_convs)
        if config.end in ("pixelshuffle", "nearest+conv"):
            self.conv_before_upsample = nn.Sequential(nn.Conv2d(width, config.between, 3, padding=1), nn.LeakyReLU())
        if config.end == "pixelshuffle":
            self.upsample = shuffles(config.between, config.scale)
        elif config.end == "pixelshuffledirect":
            self.upsample = nn.Sequential(
                nn.Conv2d(width, config.channels * config.scale**2, 3, padding=1), nn.PixelShuffle(config.scale)
            )
        elif config.end == "nearest+conv":
            for name in ("conv_up1", "conv_up2")[: int(math.log2(config.scale))]:
                self.add_module(name, nn.Conv2d(config.between, config.between, 3, padding=1))
            self.conv_hr = nn.Conv2d(config.between, config.between, 3, padding=1)
        if config.end != "pixelshuffledirect":
            last = config.between if config.end else width
            self.conv_last = nn.Conv2d(last, config.channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        mean = torch.tensor(MEAN if self.config.channels == 3 else (0.0,), dtype=x.dtype, device=x.device).view(
            -1, 1, 1
        )
        x = (mirrored(x, self.config.window) - mean) * self.config.levels
        y: Tensor
        if self.config.end == "":
            y = x + self.conv_last(self._features(self.conv_first(x)))
        else:
            y = self._enlarged(self._features(self.conv_first(x)))
        y = y / self.config.levels + mean
        return y[..., : height * self.scale, : width * self.scale]

    def _features(self, first: Tensor) -> Tensor:
        mask = shift_mask(first.shape[-2], first.shape[-1], self.config.window).to(first)
        y = self.patch_embed.norm(first.permute(0, 2, 3, 1))
        for layer in self.layers:
            y = layer(y, mask)
        z: Tensor = self.conv_after_body(self.norm(y).permute(0, 3, 1, 2))
        return first + z

    def _enlarged(self, x: Tensor) -> Tensor:
        y: Tensor
        if self.config.end == "pixelshuffledirect":
            y = self.upsample(x)
            return y
        x = self.conv_before_upsample(x)
        if self.config.end == "pixelshuffle":
            y = self.conv_last(self.upsample(x))
            return y
        for name in ("conv_up1", "conv_up2")[: int(math.log2(self.scale))]:
            up = self.get_submodule(name)
            x = F.leaky_relu(up(F.interpolate(x, scale_factor=2.0, mode="nearest")), 0.2)
        y = self.conv_last(F.leaky_relu(self.conv_hr(x), 0.2))
        return y


def closing(width: int, three_convs: bool) -> nn.Module:
    """The convolution at the end of a group, or three with a narrow waist."""
    waist = width // 4
    if not three_convs:
        return nn.Conv2d(width, width, 3, padding=1)
    return nn.Sequential(
        nn.Conv2d(width, waist, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(waist, waist, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(waist, width, 3, padding=1),
    )


def shuffles(width: int, scale: int) -> nn.Sequential:
    """Twice the size, as often as needed; 3 at once."""
    steps = [3] if scale == 3 else [2] * int(math.log2(scale))
    layers: list[nn.Module] = []
    for step in steps:
        layers += [nn.Conv2d(width, step**2 * width, 3, padding=1), nn.PixelShuffle(step)]
    return nn.Sequential(*layers)


def mirrored(x: Tensor, window: int) -> Tensor:
    """Continued to the right and below to whole windows, mirrored at the last pixel, which is not repeated."""
    height, width = x.shape[-2:]
    y: Tensor = x[..., _mirror(height, window), :][..., _mirror(width, window)]
    return y


def _mirror(length: int, window: int) -> list[int]:
    """
    >>> _mirror(5, 8), _mirror(2, 8)
    ([0, 1, 2, 3, 4, 3, 2, 1], [0, 1, 0, 1, 0, 1, 0, 1])
    """
    period = max(2 * length - 2, 1)
    return [min(n % period, period - n % period) for n in range(length + -length % window)]


def to_windows(x: Tensor, window: int) -> Tensor:
    """(n, h, w, c) -> (n * windows, window * window, c)."""
    n, height, width, channels = x.shape
    x = x.view(n, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).reshape(-1, window * window, channels)


def from_windows(x: Tensor, window: int, height: int, width: int) -> Tensor:
    x = x.view(-1, height // window, width // window, window, window, x.shape[-1])
    return x.transpose(2, 3).reshape(-1, height, width, x.shape[-1])


def displacements(window: int) -> Tensor:
    """(pixels, pixels): the row of the bias table for the way from one pixel of a window to another."""
    place = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
    down, right = (place[:, :, None] - place[:, None, :] + window - 1).unbind()
    return down * (2 * window - 1) + right


def shift_mask(height: int, width: int, window: int) -> Tensor:
    """(windows, pixels, pixels): -100 where rolling brought pixels together that are no neighbours."""
    region = torch.zeros(1, height, width, 1)
    for row, place in enumerate((slice(-window, -(window // 2)), slice(-(window // 2), None)), 1):
        region[:, place] += 3 * row
        region[:, :, place] += row
    found = to_windows(region, window)[..., 0]
    return (found[:, None] != found[:, :, None]).float() * -100.0


# --------------------------------------------------------------------------------------------------- from a file's keys


def is_swinir(state: Mapping[str, Tensor]) -> bool:
    block = "layers.0.residual_group.blocks.0."
    wanted = {"conv_first.weight", "patch_embed.norm.weight", f"{block}attn.relative_position_bias_table"}
    return wanted <= state.keys() and f"{block}attn.logit_scale" not in state  # which Swin2SR has


def without_buffers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks and indices follow from the window's size; they are not kept."""
    return {key: t for key, t in state.items() if not key.endswith(("attn_mask", "relative_position_index"))}


def config_of(state: Mapping[str, Tensor]) -> SwinIRConfig:
    """Sizes from the shapes."""
    table = "attn.relative_position_bias_table"
    groups = 1 + max(int(match[1]) for key in state if (match := re.match(r"layers\.(\d+)\.", key)))
    depths = tuple(
        sum(1 for key in state if re.fullmatch(rf"layers\.{n}\.residual_group\.blocks\.\d+\.{table}", key))
        for n in range(groups)
    )
    heads = tuple(state[f"layers.{n}.residual_group.blocks.0.{table}"].shape[1] for n in range(groups))
    width, channels = state["conv_first.weight"].shape[:2]
    end, scale = _end_of(state, channels)
    return SwinIRConfig(
        width=width,
        depths=depths,
        heads=heads,
        window=(math.isqrt(state[f"layers.0.residual_group.blocks.0.{table}"].shape[0]) + 1) // 2,
        mlp=state["layers.0.residual_group.blocks.0.mlp.fc1.weight"].shape[0],
        scale=scale,
        end=end,
        three_convs="conv_after_body.0.weight" in state,
        channels=channels,
        between=state["conv_last.weight"].shape[1] if end in ("pixelshuffle", "nearest+conv") else 64,
    )


def _end_of(state: Mapping[str, Tensor], channels: int) -> tuple[str, int]:
    if "conv_hr.weight" in state:
        return "nearest+conv", 2 ** sum(f"conv_up{n}.weight" in state for n in (1, 2))
    if "conv_before_upsample.0.weight" in state:
        steps = [t.shape[0] // t.shape[1] for key, t in state.items() if re.fullmatch(r"upsample\.\d+\.weight", key)]
        return "pixelshuffle", math.isqrt(math.prod(steps))
    if "upsample.0.weight" in state:
        return "pixelshuffledirect", math.isqrt(state["upsample.0.weight"].shape[0] // channels)
    return "", 1
